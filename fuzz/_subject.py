"""A connection under test: everything that can be done with it, and what must hold each time."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import attrs
import trio

from trio_tlsbio import PeerAlertError, PostHandshakeAuthError, TLSConnection, TLSError
from trio_tlsbio.core import State

from ._input import Input, as_buffer
from ._randomness import Randomness

__all__ = ["MARK", "PATTERN", "Subject", "pattern"]

MARK = "SECRET"
"""What must never be in a repr or in the text of an error."""

PATTERN = b"".join(b"%s%07d." % (MARK.encode(), number) for number in range(100_000))
"""What is sent: a byte that is lost, doubled or out of place is seen."""

_ENDED = (State.CLOSED, State.TRUNCATED, State.FAILED)
_RANK = {State.HANDSHAKE: 0, State.OPEN: 1, **dict.fromkeys(_ENDED, 2)}

# An input is too short for more.
_MOST_CALLS = 10_000

# What OpenSSL sends no alert for: what came is no TLS at all, or is not for the peer to know.
_WITHOUT_ALERT = {
    "HTTP_REQUEST",
    "HTTPS_PROXY_REQUEST",
    "WRONG_VERSION_NUMBER",
}


def pattern(start: int, size: int) -> bytes:
    """Return the part of the pattern from ``start`` on."""
    start %= len(PATTERN) // 2
    return PATTERN[start : start + size]


@attrs.define(eq=False)
class Subject:
    """One connection, watched.

    It raises an AssertionError where something does not hold, and lets pass what is not documented
    to be raised: both are findings.
    """

    connection: TLSConnection
    randomness: Randomness
    #: What was given to send, as far as that was not refused, and how much of it was accepted.
    offered: bytearray = attrs.field(factory=bytearray, init=False)
    accepted: int = attrs.field(default=0, init=False)
    received: bytearray = attrs.field(factory=bytearray, init=False)
    has_sent_close: bool = attrs.field(default=False, init=False)  # was told to
    has_ended: bool = attrs.field(default=False, init=False)  # the peer's direction, cleanly
    eof_fed: bool = attrs.field(default=False, init=False)
    aborted: bool = attrs.field(default=False, init=False)
    #: OpenSSL's error after which an alert must be on its way.
    alert_due: TLSError | None = attrs.field(default=None, init=False)
    _send_error: tuple[type[TLSError], str] | None = attrs.field(default=None, init=False)
    _receive_error: tuple[type[TLSError], str] | None = attrs.field(default=None, init=False)
    _states: tuple[State, State] = attrs.field(default=(State.HANDSHAKE,) * 2, init=False)

    ################################################################
    # Operations
    ################################################################

    def operate(self, source: Input) -> None:
        """Do what the input says."""
        operation = source.choice(_OPERATIONS)
        operation(self, source)
        self.check()

    def feed(self, data: bytes, kind: int = 0) -> None:
        """Feed what the peer is said to have sent. It may never raise."""
        if self.eof_fed:
            try:
                self.connection.feed(data)
            except ValueError:
                return
            raise AssertionError("feed() after feed_eof() was accepted")
        buffer = as_buffer(data, kind)
        self.connection.feed(buffer)
        if isinstance(buffer, bytearray):
            buffer[:] = bytes(len(buffer))  # a caller uses its buffer again
        self.check()

    def feed_eof(self) -> None:
        self.connection.feed_eof()
        self.eof_fed = True
        self.check()

    def receive(self, max_bytes: int | None = None) -> bytes | None:
        connection = self.connection
        wanted_data = connection.wants_data
        try:
            with self.randomness.used():
                data = connection.receive(max_bytes)
        except TLSError as exc:
            assert not wanted_data
            self._failed_to_receive(exc)
            return None
        assert self._receive_error is None, "what failed works again"
        if data is None:
            may_go_on = not connection.wants_data  # it has done its share
            assert may_go_on or not self.eof_fed, "more is wanted after the end of the transport"
            return None
        assert not wanted_data
        assert connection.handshake is not None, "plaintext before the handshake is done"
        assert max_bytes is None or len(data) <= max_bytes
        if data:
            assert not self.has_ended, "data after the end"
        else:
            assert connection.receive_state is State.CLOSED
            self.has_ended = True
        self.received += data
        return data

    def receive_all(self) -> None:
        """Receive until more is to be fed, or nothing more comes."""
        data: bytes | None = None
        for _ in range(_MOST_CALLS):
            data = self.receive()
            if data is None and (self.connection.wants_data or self._receive_error is not None):
                return
            if data == b"":
                return
        raise AssertionError("receiving goes on without end")

    def _receive_some(self, source: Input) -> None:
        self.receive(max(1, source.size()))

    def _receive_none(self, source: Input) -> None:
        try:
            self.connection.receive(-source.byte())
        except ValueError:
            return
        raise AssertionError("max_bytes must be positive")

    def _send(self, source: Input) -> None:
        self.send(source.size(), source.byte())

    def send(self, size: int, kind: int = 0) -> None:
        data = pattern(len(self.offered), size)
        self.offered += data
        buffer = as_buffer(data, kind % 5)  # a view that skips bytes can't be sent
        try:
            with self.randomness.used():
                self.connection.send(buffer)
        except trio.ClosedResourceError:
            assert self.has_sent_close
            del self.offered[len(self.offered) - len(data) :]
        except TLSError as exc:
            self._failed_to_send(exc)
        else:
            assert not self.has_sent_close or not data
            if self._send_error is None:
                self.accepted = len(self.offered)
        if isinstance(buffer, bytearray):
            buffer[:] = bytes(len(buffer))

    def do_handshake(self) -> bool:
        try:
            with self.randomness.used():
                done = self.connection.do_handshake()
        except TLSError as exc:
            self._failed_to_send(exc)
            return False
        assert self._send_error is None, "what failed works again"
        assert not done or self.connection.handshake is not None
        may_go_on = done or not self.connection.wants_data
        assert may_go_on or not self.eof_fed, "more is wanted after the end of the transport"
        return done

    def send_close_notify(self) -> None:
        self.has_sent_close = True
        try:
            with self.randomness.used():
                self.connection.send_close_notify()
        except TLSError as exc:
            self._failed_to_send(exc)

    def data_to_send(self) -> bytes:
        data = self.connection.data_to_send()
        assert not self.connection.bytes_to_send
        return data

    def look_ahead(self) -> None:
        if self.connection.handshake is not None:
            with self.randomness.used():
                self.connection.look_ahead()

    def _client_has_answered(self, _: Input) -> None:
        if self.connection.handshake is None:
            return
        try:
            with self.randomness.used():
                self.connection.client_has_answered()
        except PostHandshakeAuthError as exc:
            self._check_error(exc)
        except TLSError as exc:
            self._check_error(exc)
            if not self.connection.inbox.plaintext:  # else that is still to be received
                self._failed_to_receive(exc)

    def _ask_for_certificate(self, _: Input) -> None:
        connection = self.connection
        try:
            with self.randomness.used():
                connection.verify_client_post_handshake()
        except trio.NeedHandshakeError:
            assert connection.handshake is None
        except trio.ClosedResourceError:
            assert connection.send_state is State.CLOSED
        except PostHandshakeAuthError as exc:
            self._check_error(exc)
        except TLSError as exc:
            self._failed_to_send(exc)
        except ValueError:
            context = connection.ssl_object.context
            assert not connection.ssl_object.server_side or not context.post_handshake_auth

    def _look_for_session(self, _: Input) -> None:
        self.connection.look_for_session()
        for session in [*self.connection.new_sessions(), self.connection.session]:
            assert session is None or MARK not in repr(session)

    def _abort(self, source: Input) -> None:
        if source.byte() == 0xAB:  # a rare thing, which ends everything else
            self.connection.abort(TLSError("given up"))
            self.aborted = True

    def _mark_sent(self, source: Input) -> None:
        # Nobody takes what is marked: only what can't be marked is tried.
        count = source.word()
        if count > self.connection.bytes_to_send:
            try:
                self.connection.mark_sent(count)
            except ValueError:
                return
            raise AssertionError("more was marked as sent than there was")

    ################################################################
    # What must hold
    ################################################################

    def check(self) -> None:
        """See that what the connection tells of itself fits together."""
        connection = self.connection
        states = connection.send_state, connection.receive_state
        for before, now in zip(self._states, states, strict=True):
            if now is not before:
                assert _RANK[now] > _RANK[before], f"{before} became {now}"
                self._states = states
        send, receive = states
        assert (send is State.HANDSHAKE) is (receive is State.HANDSHAKE)
        if connection.handshake is None:
            assert send is receive
            assert send in (State.HANDSHAKE, State.TRUNCATED, State.FAILED)
        if send is State.FAILED:
            assert receive in _ENDED
        if receive is State.FAILED:
            assert send in _ENDED
        if connection.wants_data:
            assert receive in (State.HANDSHAKE, State.OPEN)
            assert not connection.inbox.plaintext
            assert not connection.is_behind
            assert not self.eof_fed
        if connection.trailing_data:
            assert receive is State.CLOSED
        assert not connection.ssl_object.context.keylog_filename
        assert connection.bytes_to_send == sum(map(len, connection.unsent))

    def check_reprs(self) -> None:
        for shown in (self.connection, self.connection.handshake):
            assert MARK not in repr(shown), "plaintext in a repr"

    def finish(self) -> None:
        """Come to an end: the transport's, if nothing else. What is said then must stay."""
        self.receive_all()
        self.do_handshake()
        if not self.eof_fed:
            self.feed_eof()
        self.receive_all()
        for _ in range(2):
            if self._receive_error is None:
                assert self.receive() == b""
            else:
                self.receive()
            self.do_handshake()
        self.check()
        self.check_reprs()

    def _check_error(self, exc: TLSError) -> None:
        text = str(exc)
        assert text.strip(), "an error without words"
        assert exc.error_type
        assert MARK not in text + repr(exc) + repr(exc.__cause__), "plaintext in an error"
        if self.alert_due is None and self._owes_alert(exc):
            self.alert_due = exc

    def _owes_alert(self, exc: TLSError) -> bool:
        cause = exc.__cause__
        return (
            isinstance(cause, ssl.SSLError)
            and hasattr(cause, "library")  # it comes from OpenSSL
            and not isinstance(exc, PeerAlertError)
            and exc.reason not in _WITHOUT_ALERT
            and self.connection.send_state is State.FAILED  # not after our close_notify
        )

    def _failed_to_receive(self, exc: TLSError) -> None:
        self._check_error(exc)
        error = (type(exc), str(exc))
        assert self._receive_error in (None, error), "another error than before"
        self._receive_error = error

    def _failed_to_send(self, exc: TLSError) -> None:
        self._check_error(exc)
        error = (type(exc), str(exc))
        assert self._send_error in (None, error), "another error than before"
        self._send_error = error


_OPERATIONS: tuple[Callable[[Subject, Input], Any], ...] = (
    lambda subject, _: subject.receive(),
    Subject._receive_some,
    Subject._send,
    lambda subject, _: subject.do_handshake(),
    lambda subject, _: subject.send_close_notify(),
    lambda subject, _: subject.look_ahead(),
    Subject._client_has_answered,
    Subject._ask_for_certificate,
    Subject._look_for_session,
    Subject._mark_sent,
    Subject._receive_none,
    Subject._abort,
    lambda subject, _: subject.check_reprs(),
)
