"""What is to be told of a connection, as values. How it is told is the views' business."""

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

from ._certificates import CertificateFacts, Fault, facts_of, faults_in, presented_by
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
class Agreement:
    """What a handshake agreed on."""

    info: HandshakeInfo
    is_verified: bool
    chain: tuple[CertificateFacts, ...]
    expiry: datetime | None
    """When the first certificate of the verified chain expires: the server's, or an issuer's."""

    @classmethod
    def of(cls, stream: TLSStream[Any]) -> Agreement:
        """Read it off a stream whose handshake is done."""
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
    """The certificates that the server presented were refused. Nothing in them is trusted."""

    verify_code: int | None
    chain: tuple[CertificateFacts, ...]
    faults: tuple[Fault, ...]

    @classmethod
    def of(cls, stream: TLSStream[Any], error: CertificateError, server_name: str) -> Refused:
        """Read it off a stream whose handshake has failed."""
        chain = presented_by(stream.connection.ssl_object)
        return cls(error.verify_code, chain, faults_in(chain, error.verify_code, server_name))


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
    refused: Refused | None = None
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


Fact: TypeAlias = Remark | Connected | Upgraded | Refused | Handshake | Timeline | Ending | Closed
"""What becomes known of a connection, one after the other."""
