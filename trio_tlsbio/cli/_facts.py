"""What is to be told of a connection, as values. How it is told is the views' business."""

from __future__ import annotations

import hashlib
import ssl
import statistics
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import attrs

from trio_tlsbio import HandshakeInfo, PeerAlertError, TLSConnection, TLSError, TLSStream
from trio_tlsbio._core.peer_names import PeerName, names_in
from trio_tlsbio.core import State
from trio_tlsbio.testing import Flight

from ._status import Status, hint_for

__all__ = [
    "Agreement",
    "CertificateFacts",
    "Closed",
    "Connected",
    "Ending",
    "Fact",
    "Handshake",
    "KeyFacts",
    "Problem",
    "Remark",
    "Summary",
    "Target",
    "Timeline",
    "Upgraded",
    "Visit",
]


@attrs.frozen
class Target:
    """What to connect to."""

    host: str
    port: int
    server_name: str
    starttls: str | None


@attrs.frozen
class Remark:
    """Something that the user should know, whatever else happens."""

    kind: Literal["warning", "note"]
    words: str


@attrs.frozen
class Connected:
    """The TCP connection stands. The time includes looking up the name."""

    address: str
    port: int
    seconds: float


@attrs.frozen
class Upgraded:
    """Both sides have agreed on TLS, in plaintext."""

    protocol: str
    seconds: float


@attrs.frozen
class KeyFacts:
    """A public key."""

    kind: str
    bits: int | None


@attrs.frozen
class CertificateFacts:
    """One certificate of a chain; what could not be decoded is missing."""

    subject: str | None
    issuer: str | None
    not_before: datetime | None
    not_after: datetime | None
    names: tuple[PeerName, ...]
    serial_number: str | None
    key: KeyFacts | None
    sha256: str

    def names_of(self, *kinds: str) -> list[str]:
        """The names of some kinds."""
        return [name.value for name in self.names if name.kind in kinds]

    @property
    def days_left(self) -> int | None:
        """For how many more days it is valid; negative once it has expired."""
        return None if self.not_after is None else (self.not_after - datetime.now(UTC)).days


@attrs.frozen
class Agreement:
    """What a handshake agreed on."""

    info: HandshakeInfo
    is_verified: bool
    chain: tuple[CertificateFacts, ...]

    @classmethod
    def of(cls, stream: TLSStream[Any]) -> Agreement:
        """Read it off a stream whose handshake is done."""
        info = stream.handshake
        assert info is not None
        return cls(
            info=info,
            is_verified=stream.context.verify_mode is not ssl.CERT_NONE,
            chain=tuple(map(_certificate, info.peer_certificate_chain, info.decoded_chain)),
        )


@attrs.frozen
class Handshake:
    """The handshake is done."""

    seconds: float
    agreement: Agreement


@attrs.frozen
class Timeline:
    """What passed on the wire until the handshake was done, or failed."""

    flights: tuple[Flight, ...]
    bytes_not_kept: int


@attrs.frozen
class Ending:
    """How much plaintext went each way, and how each direction ended."""

    bytes_sent: int
    our_end: str
    bytes_received: int
    their_end: str
    server_end: str  # in one word, for programs

    @classmethod
    def of(cls, stream: TLSStream[Any], received: int) -> Ending:
        """Read it off a stream that was closed."""
        connection = stream.connection
        return cls(
            bytes_sent=stream.bytes_committed,
            our_end=_our_end(connection),
            bytes_received=received,
            their_end=_THEIR_ENDS.get(connection.receive_state, "no close_notify"),
            server_end=_SERVER_ENDS.get(connection.receive_state, "open"),
        )


def _our_end(connection: TLSConnection) -> str:
    if connection.send_state is not State.CLOSED:
        return "no close_notify"
    return "a close_notify that did not get out" if connection.bytes_to_send else "our close_notify"


_THEIR_ENDS = {
    State.CLOSED: "the server's close_notify",
    State.TRUNCATED: "the end of the connection, without a close_notify",
    State.FAILED: "a fatal error",
}

_SERVER_ENDS = {
    State.CLOSED: "close_notify",
    State.TRUNCATED: "truncated",
    State.FAILED: "failed",
}


@attrs.frozen
class Closed:
    """The connection was closed, so long after the handshake."""

    seconds: float


@attrs.frozen
class Visit:
    """One of several connections, as far as it came."""

    connected: Connected
    upgraded: Upgraded | None = None
    handshake: Handshake | None = None
    timeline: Timeline | None = None
    ending: Ending | None = None


@attrs.frozen
class Summary:
    """Several connections in one line. The medians are in seconds."""

    connections: int
    resumed: int
    tcp_median: float
    handshake_median: float

    @classmethod
    def of(cls, visits: Sequence[Visit]) -> Summary:
        """Sum up connections whose handshakes are done."""
        handshakes = [visit.handshake for visit in visits if visit.handshake is not None]
        return cls(
            connections=len(visits),
            resumed=sum(handshake.agreement.info.session_reused for handshake in handshakes),
            tcp_median=statistics.median(visit.connected.seconds for visit in visits),
            handshake_median=statistics.median(handshake.seconds for handshake in handshakes),
        )


@attrs.frozen
class Problem:
    """Why a command failed."""

    error_type: str
    words: str
    alert: str | None
    hint: str | None
    status: Status

    @classmethod
    def of(cls, error: BaseException, status: Status) -> Problem:
        """Tell what is wrong; ``status`` is what the command ends with."""
        return cls(
            error_type=error.error_type if isinstance(error, TLSError) else status.name.lower(),
            words=str(error),
            alert=error.alert if isinstance(error, PeerAlertError) else None,
            hint=hint_for(error),
            status=status,
        )


Fact: TypeAlias = Remark | Connected | Upgraded | Handshake | Timeline | Ending | Closed
"""What becomes known of a connection, one after the other."""


################################################################
# Certificates
################################################################

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
    """Write a name as it is mostly written."""
    parts = (f"{_SHORT.get(kind, kind)}={value}" for rdn in name for kind, value in rdn)
    return ", ".join(parts) or "(empty)"


def _moment(text: str | None) -> datetime | None:
    """Read a time of a certificate; None if OpenSSL prints it in another way."""
    with suppress(ValueError):
        if text is not None:
            return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)
    return None


def _key_of(der: bytes) -> KeyFacts | None:
    """Tell what key is in a certificate, if the package cryptography is there to read it."""
    try:
        from cryptography import x509  # noqa: PLC0415  # trustme brings it
        from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa  # noqa: PLC0415
    except ImportError:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what it will not accept any more one day
            key = x509.load_der_x509_certificate(der).public_key()
    except Exception:  # it is stricter than OpenSSL, and has many errors
        return None
    match key:
        case rsa.RSAPublicKey():
            return KeyFacts("RSA", key.key_size)
        case ec.EllipticCurvePublicKey():
            return KeyFacts(f"EC {key.curve.name}", key.curve.key_size)
        case dsa.DSAPublicKey():
            return KeyFacts("DSA", key.key_size)
        case _:
            name = type(key).__name__.removesuffix("PublicKey").lstrip("_")
            return KeyFacts(name, {"Ed25519": 256, "Ed448": 456}.get(name))


def _certificate(der: bytes, decoded: Mapping[str, Any]) -> CertificateFacts:
    return CertificateFacts(
        subject=_distinguished_name(decoded["subject"]) if decoded else None,
        issuer=_distinguished_name(decoded["issuer"]) if decoded else None,
        not_before=_moment(decoded.get("notBefore")),
        not_after=_moment(decoded.get("notAfter")),
        names=names_in(decoded),
        serial_number=decoded.get("serialNumber"),
        key=_key_of(der),
        sha256=hashlib.sha256(der).hexdigest(),
    )
