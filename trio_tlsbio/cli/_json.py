"""Writes facts about connections as one JSON document. Its schema is in docs/cli.rst."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from trio_tlsbio.testing import Flight

from ._certificates import CertificateFacts
from ._facts import Handshake, Problem, Refused, Summary, Target, Timeline, Visit
from ._status import Status

__all__ = ["document"]

# Increased if the meaning of a value changes, or a value is removed, but not if one is added.
_FORMAT = 1


def document(
    target: Target, visits: Sequence[Visit], summary: Summary | None, problem: Problem | None
) -> str:
    """Return the document as text."""
    return json.dumps(
        {
            "format": _FORMAT,
            "exit_status": int(Status.OK if problem is None else problem.status),
            "target": {
                "host": target.host,
                "port": target.port,
                "server_name": target.server_name,
                "starttls": target.starttls,
            },
            "connections": [_connection(visit) for visit in visits],
            "summary": None if summary is None else _summary(summary),
            "error": None if problem is None else _error(problem),
        },
        indent=2,
    )


def _seconds(seconds: float) -> float:
    return round(seconds, 6)


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else moment.isoformat()


def _connection(visit: Visit) -> dict[str, Any]:
    return {
        "address": visit.connected.address,
        "port": visit.connected.port,
        "tcp_seconds": _seconds(visit.connected.seconds),
        "starttls_seconds": visit.upgraded and _seconds(visit.upgraded.seconds),
        "handshake": visit.handshake and _handshake(visit.handshake),
        "refused": visit.refused and _refused(visit.refused),
        "timeline": visit.timeline and _timeline(visit.timeline),
        "server_end": visit.ending and visit.ending.server_end,
    }


def _handshake(handshake: Handshake) -> dict[str, Any]:
    agreement, info = handshake.agreement, handshake.agreement.info
    return {
        "seconds": _seconds(handshake.seconds),
        "version": info.version,
        "cipher": info.cipher,
        "cipher_bits": info.cipher_bits,
        "group": info.group,
        "post_quantum": info.is_post_quantum,
        "alpn_protocol": info.alpn_protocol,
        "session_reused": info.session_reused,
        "verified": agreement.is_verified,
        "matched_name": info.matched_name,
        "spiffe_id": info.spiffe_id,
        "certificates": [_certificate(certificate) for certificate in agreement.chain],
    }


def _refused(refused: Refused) -> dict[str, Any]:
    return {
        "verify_code": refused.verify_code,
        "faults": [
            {"certificate": fault.index, "message": fault.words} for fault in refused.faults
        ],
        "certificates": [_certificate(certificate) for certificate in refused.chain],
    }


def _certificate(certificate: CertificateFacts) -> dict[str, Any]:
    key = certificate.key
    return {
        "subject": certificate.subject,
        "issuer": certificate.issuer,
        "not_before": _time(certificate.not_before),
        "not_after": _time(certificate.not_after),
        "days_left": certificate.days_left,
        "names": certificate.names_of("DNS", "IP"),
        "uris": certificate.names_of("URI"),
        "emails": certificate.names_of("email"),
        "serial_number": certificate.serial_number,
        "key": None if key is None else {"kind": key.kind, "bits": key.bits},
        "sha256": certificate.sha256,
    }


def _timeline(timeline: Timeline) -> dict[str, Any]:
    return {
        "flights": [_flight(flight) for flight in timeline.flights],
        "bytes_not_kept": timeline.bytes_not_kept,
    }


def _flight(flight: Flight) -> dict[str, Any]:
    return {
        "direction": flight.direction.value,
        "time": _seconds(flight.time),
        "duration": _seconds(flight.duration),
        "size": flight.size,
        "records": [
            {
                "time": _seconds(record.time),
                "content_type": record.content_type,
                "size": record.size,
                "encrypted": record.is_encrypted,
                "messages": list(record.messages),
            }
            for record in flight.records
        ],
    }


def _summary(summary: Summary) -> dict[str, Any]:
    return {
        "connections": summary.connections,
        "resumed": summary.resumed,
        "tcp_seconds_median": _seconds(summary.tcp_median),
        "handshake_seconds_median": _seconds(summary.handshake_median),
    }


def _error(problem: Problem) -> dict[str, Any]:
    return {
        "type": problem.error_type,
        "message": problem.words,
        "alert": problem.alert,
        "hint": problem.hint,
        "exit_status": int(problem.status),
    }
