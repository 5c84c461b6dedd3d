"""Formats facts as text."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from ipaddress import ip_address
from itertools import groupby
from typing import TypeAlias

import attrs
import trio

from trio_tlsbio import HandshakeInfo, __version__
from trio_tlsbio._core.errors import printable
from trio_tlsbio.testing import Flight

from ._certificates import CertificateFacts, when
from ._facts import (
    Agreement,
    Closed,
    Connected,
    Ending,
    Handshake,
    Refused,
    Summary,
    Upgraded,
    Visit,
)

__all__ = [
    "HEADER",
    "Stopwatch",
    "agreement_facts",
    "aligned",
    "certificate_facts",
    "client_words",
    "count",
    "ending_facts",
    "flight_words",
    "handshake_lines",
    "in_ms",
    "labelled",
    "padded",
    "row_of",
    "say",
    "show",
    "summary_words",
    "versions",
]


def say(*lines: str) -> None:
    """Write lines to stderr, which may be closed."""
    if sys.stderr is not None:
        for line in lines:
            print(printable(line), file=sys.stderr)


def show(*lines: str) -> None:
    """Write lines to stdout, for the demo."""
    for line in lines:
        print(printable(line))


def in_ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def count(number: float, what: str) -> str:
    """Return a number with its unit, for people: with commas between thousands."""
    amount = f"{number:g}" if isinstance(number, float) else f"{number:,}"
    return f"{amount} {what}" if number == 1 else f"{amount} {what}s"


def aligned(facts: Iterable[tuple[str, str]]) -> list[str]:
    """Format facts as lines. A fact without a label continues the one above."""
    return [f"{label + ':' if label else '':<14} {value}" for label, value in facts]


def _validity(certificate: CertificateFacts) -> str:
    start, end = certificate.not_before, certificate.not_after
    if start is None or end is None or certificate.days_left is None:
        return "unknown"
    left, past = certificate.days_left, (datetime.now(UTC) - end).days
    if start > datetime.now(UTC):
        words = "not valid yet"
    elif left >= 0:
        words = f"{count(left, 'day')} left"
    else:
        words = f"expired {count(past, 'day') if past else 'less than a day'} ago"
    return f"{start:%Y-%m-%d %H:%M} to {when(end)}, {words}"


def _key(certificate: CertificateFacts) -> str | None:
    key = certificate.key
    if key is None:
        return None
    return key.kind if key.bits is None else f"{key.kind}, {key.bits} bits"


def _matched(info: HandshakeInfo) -> str:
    name, wanted = info.matched_name, info.server_hostname
    if name is None:
        return "none"
    with suppress(ValueError):
        name = str(ip_address(name))  # OpenSSL writes all the zeros of ::1
    return name if name == wanted else f"{name}, for {wanted}"


def _names(certificate: CertificateFacts, matched: str | None) -> str:
    return ", ".join(
        f"{name} (matched)" if name.value == matched else f"{name}" for name in certificate.names
    )


def certificate_facts(agreement: Agreement) -> Iterator[tuple[str, str]]:
    """Describe the certificates, as labels and values."""
    info, chain = agreement.info, agreement.chain
    if not chain:
        yield "certificate", "none"
        return
    leaf, *issuers = chain
    if agreement.is_verified:
        yield "certificate", leaf.subject or "unknown"
    else:
        yield "certificate", "not verified"
        yield "SHA-256", leaf.sha256
        yield "presented", leaf.subject or "unknown"
    yield "issued by", leaf.issuer or "unknown"
    yield "valid", _validity(leaf)
    if key := _key(leaf):
        yield "key", key
    is_client = info.client_hello is None  # a client's certificate has no name to match
    if leaf.names and not (is_client and len(leaf.names) == 1):
        yield "names", _names(leaf, info.matched_name)
    if info.spiffe_id is not None:
        yield "SPIFFE ID", info.spiffe_id
    for number, issuer in enumerate(issuers, start=1):
        yield from _issuer_facts(number, issuer)
    if agreement.is_verified and is_client and info.server_hostname is not None:
        yield "name matched", _matched(info)


def _issuer_facts(number: int, issuer: CertificateFacts) -> Iterator[tuple[str, str]]:
    yield f"chain, {number} up", issuer.subject or "unknown"
    yield "", f"issued by {issuer.issuer or 'unknown'}"
    yield "", "; ".join(filter(None, (_validity(issuer), _key(issuer))))


def refused_facts(refused: Refused) -> Iterator[tuple[str, str]]:
    """Describe certificates that were refused, and what is wrong with each, as labels and
    values.
    """
    if not refused.chain:
        yield "refused", "the server's certificate, which this Python can't show"
        return
    yield "refused", "the certificates that the server presented; nothing in them is trusted"
    for number, certificate in enumerate(refused.chain):
        if number == 0:
            yield "presented", certificate.subject or "unknown"
            yield "issued by", certificate.issuer or "unknown"
            yield "valid", _validity(certificate)
            if key := _key(certificate):
                yield "key", key
            if certificate.names:
                yield "names", _names(certificate, None)
            yield "SHA-256", certificate.sha256
        else:
            yield from _issuer_facts(number, certificate)
        for fault in refused.faults:
            if fault.index == number:
                yield "FAILS", fault.words
    for fault in refused.faults:
        if fault.index is None:
            yield "FAILS", fault.words


def client_words(info: HandshakeInfo) -> str | None:
    """Return a client's names from its certificate, or None if it has presented none."""
    if not info.peer_certificate_chain:
        return None
    names = ", ".join(map(str, info.peer_names))
    return names or info.peer_common_name or "a client whose certificate has no name"


def agreement_facts(info: HandshakeInfo) -> list[tuple[str, str]]:
    """Describe the result of a handshake, without certificates, as labels and values."""
    return [
        ("version", info.version),
        ("cipher", f"{info.cipher}, {info.cipher_bits} bits"),
        ("key exchange", _key_exchange(info)),
        ("ALPN", info.alpn_protocol or "none"),
        ("session", "resumed" if info.session_reused else "new"),
    ]


def _key_exchange(info: HandshakeInfo) -> str:
    if info.group is None:  # harmless: a resumed TLS 1.2 session has none
        return "without a named group"
    return f"{info.group}, {'' if info.is_post_quantum else 'not '}post-quantum"


def handshake_facts(agreement: Agreement) -> list[tuple[str, str]]:
    """Describe the result of a handshake, with certificates, as labels and values."""
    return [*agreement_facts(agreement.info), *certificate_facts(agreement)]


def handshake_lines(agreement: Agreement) -> list[str]:
    """Format :func:`handshake_facts` as aligned ``label: value`` lines."""
    return aligned(handshake_facts(agreement))


def ending_facts(ending: Ending) -> list[tuple[str, str]]:
    """Describe how many bytes were sent and received, and how each direction ended."""
    return [
        ("sent", f"{count(ending.bytes_sent, 'byte')}, then {ending.our_end}"),
        ("received", f"{count(ending.bytes_received, 'byte')}, then {ending.their_end}"),
    ]


Row: TypeAlias = tuple[str, ...]

HEADER: Row = ("#", "TCP", "handshake", "session", "version", "server's end")
"""The columns of :func:`row_of`."""

WIDTHS = (4, 10, 10, 8, 8, 12)
"""The widths of the columns."""


def labelled(
    fact: Connected | Upgraded | Refused | Handshake | Ending | Closed,
) -> list[tuple[str, str]]:
    """Describe a fact, as labels and values."""
    match fact:
        case Connected():
            where = f"to {fact.address} port {fact.port}"
            return [("connected", f"{where}, in {in_ms(fact.seconds)}")]
        case Upgraded():
            return [("STARTTLS", f"agreed on by {fact.protocol}, in {in_ms(fact.seconds)}")]
        case Refused():
            return list(refused_facts(fact))
        case Handshake():
            return [("handshake", f"in {in_ms(fact.seconds)}"), *handshake_facts(fact.agreement)]
        case Ending():
            return ending_facts(fact)
        case Closed():
            return [("closed", f"{in_ms(fact.seconds)} after the handshake")]


def flight_words(flight: Flight) -> list[str]:
    """Describe the records in a flight. Consecutive records that look alike are counted."""
    lines: list[str] = []
    for words, group in groupby(flight.records, key=str):
        sizes = [record.size for record in group]
        several = f"{len(sizes)} x " if len(sizes) > 1 else ""
        lines.append(f"{several}{words}, {count(sum(sizes), 'byte')}")
    return lines


def row_of(number: int, visit: Visit) -> Row:
    """Format a connection whose handshake is done as a row, with the columns of :data:`HEADER`."""
    assert visit.handshake is not None
    info = visit.handshake.agreement.info
    return (
        str(number),
        in_ms(visit.connected.seconds),
        in_ms(visit.handshake.seconds),
        "resumed" if info.session_reused else "new",
        info.version,
        visit.ending.server_end if visit.ending else "",
    )


def padded(row: Row) -> Row:
    """Align the cells of a row: numbers to the right, words to the left."""
    return tuple(
        cell.rjust(width) if index < 3 else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(row, WIDTHS, strict=True))
    )


def summary_words(summary: Summary) -> str:
    """Summarise several connections in one line."""
    return (
        f"{count(summary.connections, 'connection')}, {summary.resumed} resumed; median: "
        f"TCP {in_ms(summary.tcp_median)}, handshake {in_ms(summary.handshake_median)}"
    )


@attrs.define
class Stopwatch:
    """Measures how long each step took."""

    _last: float = attrs.field(factory=trio.current_time)

    def seconds(self) -> float:
        """Return the time since the last lap, in seconds, and start a new lap."""
        before, self._last = self._last, trio.current_time()
        return self._last - before

    def lap(self) -> str:
        """Return the time since the last lap as text, and start a new lap."""
        return in_ms(self.seconds())


def versions() -> str:
    """Return the versions that a bug report should name."""
    openssl = " ".join(ssl.OPENSSL_VERSION.split()[:2])
    return f"trio-tlsbio {__version__}, Trio {trio.__version__}, {openssl}"
