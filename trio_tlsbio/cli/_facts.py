"""Facts about a connection, as values. The views format them."""

from __future__ import annotations

import ssl
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Literal, TypeAlias

import attrs

from trio_tlsbio import (
    CertificateError,
    HandshakeInfo,
    PeerAlertError,
    TLSConnection,
    TLSError,
    TLSStream,
)
from trio_tlsbio._core import dates
from trio_tlsbio._core.certificates import verified_chain
from trio_tlsbio.core import State
from trio_tlsbio.testing import Flight

from ._certificates import CertificateFacts, facts_of, path_of, presented_by
from ._faults import Fault, faults_in
from ._status import Status, hint_for

__all__ = [
    "Agreement",
    "Closed",
    "Connected",
    "Ending",
    "Fact",
    "Handshake",
    "Problem",
    "Refused",
    "Remark",
    "Summary",
    "Target",
    "Timeline",
    "Upgraded",
    "Visit",
]


@attrs.frozen
class Target:
    """The server to connect to."""

    host: str
    port: int
    server_name: str
    starttls: str | None


@attrs.frozen
class Remark:
    """A message for the user, independent of the result."""

    kind: Literal["warning", "note"]
    words: str


@attrs.frozen
class Connected:
    """The TCP connection is established. The time includes the name lookup."""

    address: str
    port: int
    seconds: float


@attrs.frozen
class Upgraded:
    """Both sides have agreed on TLS, in plaintext."""

    protocol: str
    seconds: float


@attrs.frozen
class Agreement:
    """The result of a handshake."""

    info: HandshakeInfo
    is_verified: bool
    chain: tuple[CertificateFacts, ...]
    expiry: datetime | None
    """When the first certificate of the verified chain expires: the server's, or an issuer's."""

    @classmethod
    def of(cls, stream: TLSStream[Any]) -> Agreement:
        """Read the result from a stream whose handshake is done."""
        info = stream.handshake
        return cls(
            info=info,
            is_verified=stream.context.verify_mode is not ssl.CERT_NONE,
            chain=tuple(map(facts_of, info.peer_certificate_chain, info.decoded_chain)),
            expiry=_expiry_of(stream.connection.ssl_object),
        )


def _expiry_of(ssl_object: ssl.SSLObject) -> datetime | None:
    chain = verified_chain(ssl_object)
    return datetime.fromtimestamp(min(map(dates.expiry_of, chain)), UTC) if chain else None


@attrs.frozen
class Refused:
    """The server's certificates were refused. Nothing in them is trusted."""

    verify_code: int | None
    chain: tuple[CertificateFacts, ...]
    faults: tuple[Fault, ...]

    @classmethod
    def of(cls, stream: TLSStream[Any], error: CertificateError, server_name: str) -> Refused:
        """Read the certificates from a stream whose handshake has failed."""
        ssl_object = stream.connection.ssl_object
        chain, path = presented_by(ssl_object), path_of(ssl_object)
        faults = faults_in(chain, path, error.verify_code, server_name)
        return cls(error.verify_code, chain, faults)


@attrs.frozen
class Handshake:
    """The handshake is done."""

    seconds: float
    agreement: Agreement


@attrs.frozen
class Timeline:
    """The data on the wire until the handshake was done, or failed."""

    flights: tuple[Flight, ...]
    bytes_not_kept: int


@attrs.frozen
class Ending:
    """How many bytes of plaintext were sent and received, and how each direction ended."""

    bytes_sent: int
    our_end: str
    bytes_received: int
    their_end: str
    server_end: str  # in one word, for programs

    @classmethod
    def of(cls, stream: TLSStream[Any], received: int) -> Ending:
        """Read the ending from a stream that was closed."""
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
    """The connection was closed. The time is counted from the end of the handshake."""

    seconds: float


@attrs.frozen
class Visit:
    """One of several connections, as far as it got."""

    connected: Connected
    upgraded: Upgraded | None = None
    refused: Refused | None = None
    handshake: Handshake | None = None
    timeline: Timeline | None = None
    ending: Ending | None = None


@attrs.frozen
class Summary:
    """A summary of several connections. The medians are in seconds."""

    connections: int
    resumed: int
    tcp_median: float
    handshake_median: float

    @classmethod
    def of(cls, visits: Sequence[Visit]) -> Summary:
        """Summarise connections whose handshakes are done."""
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
        """Describe an error; ``status`` is the exit status of the command."""
        return cls(
            error_type=error.error_type if isinstance(error, TLSError) else status.name.lower(),
            words=str(error),
            alert=error.alert if isinstance(error, PeerAlertError) else None,
            hint=hint_for(error),
            status=status,
        )


Fact: TypeAlias = Remark | Connected | Upgraded | Refused | Handshake | Timeline | Ending | Closed
"""A fact about a connection. They become known one after another."""
