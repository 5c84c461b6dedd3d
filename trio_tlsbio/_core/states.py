"""The states of a connection's two directions, as one transition table.

A TLS connection is two one-way streams that share a handshake. Each direction opens when the
handshake is done, and ends separately: ours with the close_notify that we send, the peer's with the
one that it sends (RFC 9846 section 6.1). The diagrams in the documentation are generated from the
table below.

Renegotiation, which exists in TLS 1.2, is not a state: OpenSSL reads and writes data during most of
it, and only shows it by refusing to write at some points. The outbox holds back the refused data,
and writing is retried after each record.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

import attrs
import trio

from .errors import Origin, TLSError

__all__ = ["Event", "Lifecycle", "Side", "State", "TRANSITIONS"]


class _Unique(enum.Enum):
    """Hashes its members by identity, since Enum's own hash is a function in Python."""


# Not in the body, where type checkers would not know what it overrides.
_Unique.__hash__ = object.__hash__  # type: ignore[method-assign]


class Side(_Unique):
    """One of the two directions."""

    SEND = "send"
    RECEIVE = "receive"


class State(_Unique):
    """What a direction can do now."""

    HANDSHAKE = "handshake"  #: no application data yet
    OPEN = "open"  #: application data flows
    CLOSED = "closed"  #: ended cleanly, by a close_notify
    TRUNCATED = "truncated"  #: the transport ended without a close_notify
    FAILED = "failed"  #: a fatal alert was sent or received


class Event(_Unique):
    """What can happen to a connection."""

    HANDSHAKE_DONE = "handshake done"
    CLOSE_NOTIFY_SENT = "close_notify sent"
    CLOSE_NOTIFY_RECEIVED = "close_notify received"
    TRANSPORT_ENDED = "transport ended"
    FAILURE = "failure"


# Enum lookups cost three calls; the members are bound once.
_CLOSED, _FAILED = State.CLOSED, State.FAILED


def _table(
    rows: Mapping[tuple[State, Event], State],
) -> Mapping[tuple[State, Event], State]:
    return MappingProxyType(dict(rows))


#: The new state, for each side. An event without a row doesn't change the side: the end of the
#: transport doesn't affect our own direction, and a clean end remains one whatever happens later.
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

_SENDING, _RECEIVING = TRANSITIONS[Side.SEND], TRANSITIONS[Side.RECEIVE]


@attrs.define(eq=False)
class Lifecycle:
    """The states of both directions, and the errors that ended them. Nothing else changes them."""

    send: State = State.HANDSHAKE
    receive: State = State.HANDSHAKE
    send_error: TLSError | None = None
    receive_error: TLSError | None = None
    origin: Origin = attrs.field(factory=Origin, init=False)

    def happened(self, event: Event, error: TLSError | None = None) -> None:
        """Advance both directions, and store the error for those that it ends."""
        if error is not None:
            self.origin.claim(error)
        state = _SENDING.get((self.send, event), self.send)
        if state is not self.send:
            self.send, self.send_error = state, error
        state = _RECEIVING.get((self.receive, event), self.receive)
        if state is not self.receive:
            self.receive, self.receive_error = state, error

    @property
    def error(self) -> TLSError | None:
        """The failure that ended either direction, or None if there is none, or if the end is
        clean.
        """
        return self.receive_error or self.send_error

    @property
    def has_failed(self) -> bool:
        """True if either direction has failed."""
        return _FAILED in (self.send, self.receive)

    def check_send(self) -> None:
        """Raise the error that prevents sending: a failure, or an end before the handshake."""
        if self.send_error is not None:
            raise self.send_error.again()

    def check_not_closed(self, *, is_closing: bool = False) -> None:
        """Raise :exc:`trio.ClosedResourceError` if our close_notify was sent, or ``is_closing``
        because it is held back: no data may follow it.
        """
        if is_closing or self.send is _CLOSED:
            raise trio.ClosedResourceError(
                "can't send data after send_eof(), send_close_notify() or unwrap()"
            )

    def check_receive(self) -> None:
        """Raise the error that prevents receiving. The peer's close_notify is not an error."""
        if self.receive_error is not None:
            raise self.receive_error.again()
