"""How facts are told."""

from __future__ import annotations

import hashlib
import ssl
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from importlib import metadata
from ipaddress import ip_address
from typing import Any

import attrs
import trio

from trio_tlsbio import HandshakeInfo, State, TLSConnection, TLSStream
from trio_tlsbio._errors import printable

__all__ = [
    "Stopwatch",
    "aligned",
    "count",
    "ending_lines",
    "handshake_lines",
    "say",
    "show",
    "versions",
]


def say(*lines: str) -> None:
    """Write lines to stderr, which may be closed."""
    if sys.stderr is not None:
        for line in lines:
            print(printable(line), file=sys.stderr)


def show(*lines: str) -> None:
    """Write lines to stdout: the demo's story."""
    for line in lines:
        print(printable(line))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def aligned(facts: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{label + ':':<14} {value}" for label, value in facts]


_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
}


def _distinguished_name(name: Sequence[Sequence[tuple[str, str]]]) -> str:
    parts = (f"{_SHORT.get(kind, kind)}={value}" for rdn in name for kind, value in rdn)
    return ", ".join(parts) or "(empty)"


def _moment(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _validity(start: str, end: str) -> str:
    try:
        left = (_moment(end) - datetime.now(UTC)).days
        start, end = f"{_moment(start):%Y-%m-%d %H:%M}", f"{_moment(end):%Y-%m-%d %H:%M}"
    except ValueError:  # times that OpenSSL prints in another way
        return f"{start} to {end}"
    return f"{start} to {end} UTC, {count(left, 'day')} left"


def _matched(name: str | None, wanted: str | None) -> str:
    if name is None:
        return "none"
    with suppress(ValueError):
        name = str(ip_address(name))  # OpenSSL writes all the zeros of ::1
    return name if name == wanted else f"{name}, for {wanted}"


def _certificate_facts(info: HandshakeInfo) -> Iterator[tuple[str, str]]:
    certificate = info.peer_certificate
    if certificate:
        yield "certificate", _distinguished_name(certificate["subject"])
        yield "issued by", _distinguished_name(certificate["issuer"])
        yield "valid", _validity(certificate["notBefore"], certificate["notAfter"])
        yield "name matched", _matched(info.matched_name, info.server_hostname)
    elif info.peer_certificate_chain:
        # The ssl module decodes only what was verified.
        yield "certificate", "not verified"
        yield "SHA-256", hashlib.sha256(info.peer_certificate_chain[0]).hexdigest()
    else:
        yield "certificate", "none"


def handshake_lines(info: HandshakeInfo) -> list[str]:
    """Tell what a handshake agreed on, as aligned ``label: value`` lines."""
    return aligned(
        [
            ("version", info.version),
            ("cipher", f"{info.cipher}, {info.cipher_bits} bits"),
            ("ALPN", info.alpn_protocol or "none"),
            ("session", "resumed" if info.session_reused else "new"),
            *_certificate_facts(info),
        ]
    )


def _our_end(connection: TLSConnection) -> str:
    if connection.send_state is not State.CLOSED:
        return "no close_notify"
    return "a close_notify that did not get out" if connection.bytes_to_send else "our close_notify"


def _their_end(connection: TLSConnection) -> str:
    match connection.receive_state:
        case State.CLOSED:
            return "the server's close_notify"
        case State.TRUNCATED:
            return "the end of the connection, without a close_notify"
        case State.FAILED:
            return "a fatal error"
        case _:
            return "no close_notify"


def ending_lines(stream: TLSStream[Any], received: int) -> list[str]:
    """Tell how much went each way, and how each direction ended."""
    sent = count(stream.bytes_committed, "byte")
    return aligned(
        [
            ("sent", f"{sent}, then {_our_end(stream.connection)}"),
            ("received", f"{count(received, 'byte')}, then {_their_end(stream.connection)}"),
        ]
    )


@attrs.define
class Stopwatch:
    """Tells how long each step took."""

    _last: float = attrs.field(factory=trio.current_time)

    def lap(self) -> str:
        """Return the time since the last lap, in words."""
        before, self._last = self._last, trio.current_time()
        return _ms(self._last - before)


def _version() -> str:
    try:
        return metadata.version("trio-tlsbio")
    except metadata.PackageNotFoundError:  # run from a bare source tree
        return "(unknown version)"


def versions() -> str:
    """Return the versions that a report of a fault should name."""
    openssl = " ".join(ssl.OPENSSL_VERSION.split()[:2])
    return f"trio-tlsbio {_version()}, Trio {trio.__version__}, {openssl}"
