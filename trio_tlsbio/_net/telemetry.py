"""Describes connections for tracing, with the names of OpenTelemetry's semantic conventions."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, TypeAlias

from trio_tlsbio._core.cipher_names import iana_name_of
from trio_tlsbio._core.dates import expiry_of
from trio_tlsbio._core.distinguished_names import formatted_parts
from trio_tlsbio._core.handshake_info import HandshakeInfo

from .monitor import (
    AcceptFailed,
    ConnectionAccepted,
    ConnectionClosed,
    HandshakeCompleted,
    HandshakeFailed,
    ServerEvent,
    error_type_of,
)

__all__ = ["Attributes", "tls_attributes"]

Attributes: TypeAlias = dict[str, str | bool]
"""Attributes of a span, an event or a metric, by name."""


def tls_attributes(source: HandshakeInfo | ServerEvent) -> Attributes:
    """Return the attributes of a handshake, or of a server's event, with OpenTelemetry's names.

    The names are those of its registry: ``tls.cipher``, ``tls.client.*``, ``tls.curve``,
    ``tls.established``, ``tls.next_protocol``, ``tls.protocol.*``, ``tls.resumed``,
    ``tls.server.*``, and for events ``error.type``. The name that the client requested is
    ``server.address``, which has replaced ``tls.client.server_name`` there. Only known values are
    included: the subject, issuer and start date of a certificate require a context that verifies
    it. The values are intended for tracing, not for metrics: certificates and names vary, and each
    new value would create a new time series.
    """
    match source:
        case HandshakeInfo():
            return {"tls.established": True, **_of_handshake(source)}
        case HandshakeCompleted():
            return {"tls.established": True, **_of_handshake(source.handshake)}
        case HandshakeFailed():
            return {
                "tls.protocol.name": "tls",
                "tls.established": False,
                "error.type": error_type_of(source.error),
            }
        case ConnectionClosed():
            attributes: Attributes = {
                "tls.protocol.name": "tls",
                "tls.established": source.handshake is not None,
            }
            if source.handshake is not None:
                attributes |= _of_handshake(source.handshake)
            if source.error is not None:
                attributes["error.type"] = error_type_of(source.error)
            return attributes
        case AcceptFailed():
            return {"error.type": error_type_of(source.error)}
        case ConnectionAccepted():
            return {}


def _of_handshake(handshake: HandshakeInfo) -> Attributes:
    attributes: Attributes = {
        "tls.protocol.name": "tls",
        "tls.protocol.version": handshake.version.removeprefix("TLSv"),
        "tls.cipher": iana_name_of(handshake.cipher),
        "tls.resumed": handshake.session_reused,
    }
    known = {
        "tls.curve": handshake.group,
        "tls.next_protocol": handshake.alpn_protocol,
        "server.address": handshake.server_hostname,
    }
    attributes |= {name: value for name, value in known.items() if value is not None}
    if handshake.peer_certificate_chain:
        side = "server" if handshake.client_hello is None else "client"
        certificate = handshake.peer_certificate_chain[0]
        attributes |= _of_certificate(f"tls.{side}", certificate, handshake.peer_certificate or {})
    return attributes


def _of_certificate(prefix: str, der: bytes, decoded: Mapping[str, Any]) -> Attributes:
    attributes: Attributes = {
        f"{prefix}.hash.sha256": hashlib.sha256(der).hexdigest().upper(),
        f"{prefix}.not_after": _date(expiry_of(der)),
    }
    for key in ("subject", "issuer"):
        if name := _distinguished_name(decoded.get(key, ())):
            attributes[f"{prefix}.{key}"] = name
    if "notBefore" in decoded:
        attributes[f"{prefix}.not_before"] = _date(ssl.cert_time_to_seconds(decoded["notBefore"]))
    return attributes


def _date(seconds: float) -> str:
    date = datetime.fromtimestamp(seconds, UTC)
    return date.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _distinguished_name(name: Any) -> str:
    """Format a name as in RFC 4514, with the most specific part first."""
    return ", ".join(reversed(formatted_parts(name)))
