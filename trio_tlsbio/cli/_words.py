"""How facts are told."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from ipaddress import ip_address

import attrs
import trio

from trio_tlsbio import HandshakeInfo, __version__
from trio_tlsbio._core.errors import printable

from ._facts import CertificateFacts, Ending, Handshake

__all__ = [
    "Stopwatch",
    "aligned",
    "count",
    "ending_facts",
    "handshake_facts",
    "handshake_lines",
    "in_ms",
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


def in_ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def aligned(facts: Iterable[tuple[str, str]]) -> list[str]:
    """Write facts below each other. One without a label goes on with the one above."""
    return [f"{label + ':' if label else '':<14} {value}" for label, value in facts]


def _validity(certificate: CertificateFacts) -> str:
    start, end = certificate.not_before, certificate.not_after
    if start is None or end is None or certificate.days_left is None:
        return "unknown"
    left = certificate.days_left
    words = f"{count(left, 'day')} left" if left >= 0 else f"expired {count(-left, 'day')} ago"
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC, {words}"


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
    return ", ".join(f"{name} (matched)" if name == matched else name for name in certificate.names)


def certificate_facts(handshake: Handshake) -> Iterator[tuple[str, str]]:
    """Tell of the certificates, as labels and values."""
    info, chain = handshake.info, handshake.chain
    if not chain:
        yield "certificate", "none"
        return
    leaf, *issuers = chain
    if handshake.is_verified:
        yield "certificate", leaf.subject or "unknown"
    else:
        yield "certificate", "not verified"
        yield "SHA-256", leaf.sha256
        yield "presented", leaf.subject or "unknown"
    yield "issued by", leaf.issuer or "unknown"
    yield "valid", _validity(leaf)
    if key := _key(leaf):
        yield "key", key
    if len(leaf.names) > 1:
        yield "names", _names(leaf, info.matched_name)
    for number, issuer in enumerate(issuers, start=1):
        yield f"chain, {number} up", issuer.subject or "unknown"
        yield "", f"issued by {issuer.issuer or 'unknown'}"
        yield "", "; ".join(filter(None, (_validity(issuer), _key(issuer))))
    if handshake.is_verified:
        yield "name matched", _matched(info)


def handshake_facts(handshake: Handshake) -> list[tuple[str, str]]:
    """Tell what a handshake agreed on, as labels and values."""
    info = handshake.info
    return [
        ("version", info.version),
        ("cipher", f"{info.cipher}, {info.cipher_bits} bits"),
        ("key exchange", _key_exchange(info)),
        ("ALPN", info.alpn_protocol or "none"),
        ("session", "resumed" if info.session_reused else "new"),
        *certificate_facts(handshake),
    ]


def _key_exchange(info: HandshakeInfo) -> str:
    if info.group is None:  # which is no cause for alarm: a resumed session of TLS 1.2 has none
        return "without a named group"
    return f"{info.group}, {'' if info.is_post_quantum else 'not '}post-quantum"


def handshake_lines(handshake: Handshake) -> list[str]:
    """Tell what a handshake agreed on, as aligned ``label: value`` lines."""
    return aligned(handshake_facts(handshake))


def ending_facts(ending: Ending) -> list[tuple[str, str]]:
    """Tell how much went each way, and how each direction ended."""
    return [
        ("sent", f"{count(ending.bytes_sent, 'byte')}, then {ending.our_end}"),
        ("received", f"{count(ending.bytes_received, 'byte')}, then {ending.their_end}"),
    ]


@attrs.define
class Stopwatch:
    """Tells how long each step took."""

    _last: float = attrs.field(factory=trio.current_time)

    def seconds(self) -> float:
        """Return the time since the last lap, in seconds."""
        before, self._last = self._last, trio.current_time()
        return self._last - before

    def lap(self) -> str:
        """Return the time since the last lap, in words."""
        return in_ms(self.seconds())


def versions() -> str:
    """Return the versions that a report of a fault should name."""
    openssl = " ".join(ssl.OPENSSL_VERSION.split()[:2])
    return f"trio-tlsbio {__version__}, Trio {trio.__version__}, {openssl}"
