"""The life of a connection's two directions, as one transition table.

A TLS connection is two one-way streams that share a handshake: each direction opens when the
handshake is done and ends by itself, ours with the close_notify that we send, the peer's with the
one that it sends (RFC 9846 section 6.1). The diagrams in the documentation are drawn from the
table below.

Renegotiation, which TLS 1.2 has, is no state: OpenSSL reads and writes data during most of it, and
reports it only by refusing to write at some points. What it refuses is held by the outbox, and is
tried again after each record.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

import attrs

from .errors import Origin, TLSError

__all__ = ["Event", "Lifecycle", "Side", "State", "TRANSITIONS", "advance"]


class Side(enum.Enum):
    """One of the two directions."""

    SEND = "send"
    RECEIVE = "receive"


class State(enum.Enum):
    """What a direction can do now."""

    HANDSHAKE = "handshake"  #: no application data yet
    OPEN = "open"  #: application data flows
    CLOSED = "closed"  #: ended cleanly, by a close_notify
    TRUNCATED = "truncated"  #: the transport ended without a close_notify
    FAILED = "failed"  #: a fatal alert was sent or received


class Event(enum.Enum):
    """What happens to a connection."""

    HANDSHAKE_DONE = "handshake done"
    CLOSE_NOTIFY_SENT = "close_notify sent"
    CLOSE_NOTIFY_RECEIVED = "close_notify received"
    TRANSPORT_ENDED = "transport ended"
    FAILURE = "failure"


def _table(
    rows: Mapping[tuple[State, Event], State],
) -> Mapping[tuple[State, Event], State]:
    return MappingProxyType(dict(rows))


#: What follows, for each side. An event that has no row leaves the side as it is: the end of the
#: transport says nothing about our own direction, and a clean end stays one whatever comes later.
TRANSITIONS: Mapping[Side, Mapping[tuple[State, Event], State]] = MappingProxyType(
    {
        Side.SEND: _table(
            {
                (State.HANDSHAKE, Event.HANDSHAKE_DONE): State.OPEN,
                (State.HANDSHAKE, Event.TRANSPORT_ENDED): State.TRUNCATED,
                (State.HANDSHAKE, Event.FAILURE): State.FAILED,
                (State.OPEN, Event.CLOSE_NOTIFY_SENT): State.CLOSED,
                (State.OPEN, Event.FAILURE): State.FAILED,
            }
        ),
        Side.RECEIVE: _table(
            {
                (State.HANDSHAKE, Event.HANDSHAKE_DONE): State.OPEN,
                (State.HANDSHAKE, Event.TRANSPORT_ENDED): State.TRUNCATED,
                (State.HANDSHAKE, Event.FAILURE): State.FAILED,
                (State.OPEN, Event.CLOSE_NOTIFY_RECEIVED): State.CLOSED,
                (State.OPEN, Event.TRANSPORT_ENDED): State.TRUNCATED,
                (State.OPEN, Event.FAILURE): State.FAILED,
            }
        ),
    }
)


def advance(side: Side, state: State, event: Event) -> State:
    """Return the state that ``event`` leads ``side`` to."""
    return TRANSITIONS[side].get((state, event), state)


@attrs.define(eq=False)
class Lifecycle:
    """The states of both directions, and the errors that ended them. Nothing else changes them."""

    send: State = State.HANDSHAKE
    receive: State = State.HANDSHAKE
    send_error: TLSError | None = None
    receive_error: TLSError | None = None
    origin: Origin = attrs.field(factory=Origin)

    def happened(self, event: Event, error: TLSError | None = None) -> None:
        """Move both directions on, and keep the error for those that it ends."""
        if error is not None:
            self.origin.claim(error)
        state = advance(Side.SEND, self.send, event)
        if state is not self.send:
            self.send, self.send_error = state, error
        state = advance(Side.RECEIVE, self.receive, event)
        if state is not self.receive:
            self.receive, self.receive_error = state, error

    @property
    def error(self) -> TLSError | None:
        """The failure that ended either direction; None if there is none, or the end is clean."""
        return self.receive_error or self.send_error

    @property
    def has_failed(self) -> bool:
        """Whether either direction has."""
        return State.FAILED in (self.send, self.receive)

    def check_send(self) -> None:
        """Raise what keeps data from being sent: a failure, or an end before the handshake."""
        if self.send_error is not None:
            raise self.send_error.again()

    def check_receive(self) -> None:
        """Raise what keeps data from being received, if that is not the peer's close_notify."""
        if self.receive_error is not None:
            raise self.receive_error.again()
