"""Decides when to reconnect, and how soon: the policy of :func:`reconnect`."""

from __future__ import annotations

import random
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from typing import TypeAlias

import attrs
import trio

from trio_tlsbio._core.errors import (
    CertificateError,
    HandshakeTimeoutError,
    PeerAlertError,
    TLSError,
    TruncationError,
)
from trio_tlsbio._core.misuse import check_not_negative, check_positive
from trio_tlsbio._core.states import State
from trio_tlsbio._stream.stream import TLSStream

__all__ = ["Connect", "Reconnecting", "Retry", "RetryPolicy", "is_worth_retrying"]

Connect: TypeAlias = Callable[[], Awaitable[TLSStream[trio.SocketStream]]]

# The alerts for temporary conditions. All other alerts are about our own configuration or what we
# offer: certificates, versions, ciphers, protocols, names. The next attempt would get the same
# alert.
_PASSING_ALERTS = frozenset(
    {
        # A server that shuts down or is overloaded ends a handshake with one of these.
        "close_notify",
        "user_canceled",
        "internal_error",
        # A record was damaged in flight. The next connection sends other records.
        "bad_record_mac",
        "decryption_failed",
    }
)

# The reason with which this side refuses a record that was damaged in flight.
_PASSING_REASONS = frozenset({"DECRYPTION_FAILED_OR_BAD_RECORD_MAC"})


@attrs.frozen
class Retry:
    """The report of :func:`reconnect` before each delay."""

    attempt: int
    """How many attempts in a row have failed: 0 if the last connection was established and has
    ended.
    """

    delay: float
    """How long the delay is going to be, in seconds."""

    error: Exception | None
    """Why the last attempt failed, or None if the last connection ended without an error."""


def is_worth_retrying(error: Exception) -> bool:
    """Return True if another attempt may succeed. This is the default of :func:`reconnect`.

    It may succeed if the network failed, the transport broke, a record was damaged, or the attempt
    took too long. It may also succeed if the server ended the handshake without an explanation: a
    server that is shutting down or overloaded sends close_notify, user_canceled or internal_error.

    It would fail again if one side refused what the other side presented or offered, if the peer
    doesn't speak TLS, or if your code that verifies the peer raised an exception.
    """
    match error:
        case CertificateError():
            return False
        case PeerAlertError():
            return error.alert in _PASSING_ALERTS
        case TruncationError() | HandshakeTimeoutError():
            return True
        case TLSError(reason=None):
            return error.__cause__ is None or _is_transports(error.__cause__)
        case TLSError():
            return error.reason in _PASSING_REASONS
    return isinstance(error, trio.TooSlowError) or _is_transports(error)


def _is_transports(error: BaseException) -> bool:
    """Return True if an exception came from the transport, and may be temporary."""
    if isinstance(error, TLSError):  # TLS in TLS
        return is_worth_retrying(error)
    if isinstance(error, ssl.SSLError):  # although it is an OSError
        return False
    return isinstance(error, OSError | trio.BrokenResourceError)


@attrs.frozen
class RetryPolicy:
    """When to reconnect: the parameters of :func:`reconnect`, which documents them."""

    attempt_timeout: float
    initial_delay: float
    max_delay: float
    should_retry: Callable[[Exception], bool]
    on_retry: Callable[[Retry], object] | None

    def __attrs_post_init__(self) -> None:
        check_positive("attempt_timeout", self.attempt_timeout)
        check_not_negative("initial_delay", self.initial_delay)
        check_not_negative("max_delay", self.max_delay)

    def delay(self, failures: int) -> float:
        """Return the delay for another failed attempt, after ``failures`` failed attempts
        in a row.
        """
        # Many clients that lost a server at the same time must not return at the same time. So the
        # delay is random, between half of the longest delay and all of it, but never shorter than
        # the initial delay. (The exponent is bounded for processes that run for years.)
        longest = min(self.max_delay, self.initial_delay * 2.0 ** min(failures, 60))
        shortest = max(longest / 2, min(self.max_delay, self.initial_delay))
        return random.uniform(shortest, longest)  # noqa: S311  # not security-relevant


@attrs.define(eq=False)
class Reconnecting(AsyncIterator[TLSStream[trio.SocketStream]]):
    """The endless iterator over connections that :func:`reconnect` returns."""

    _connect: Connect = attrs.field(repr=False)
    _policy: RetryPolicy
    _stream: TLSStream[trio.SocketStream] | None = attrs.field(default=None, init=False)
    _connected_at: float = attrs.field(default=float("-inf"), init=False)
    # How many attempts in a row have failed, and the earliest time of the next one.
    _failures: int = attrs.field(default=0, init=False)
    _not_before: float = attrs.field(default=float("-inf"), init=False)

    async def __anext__(self) -> TLSStream[trio.SocketStream]:
        """Return the next stream, after closing the last one if it was left open."""
        if self._stream is not None:
            stream, self._stream = self._stream, None
            try:
                self._note_outcome(stream)
            finally:
                await trio.aclose_forcefully(stream)
        while True:
            # If this was cancelled before, the rest of the delay is waited for now.
            if self._not_before > trio.current_time():
                await trio.sleep_until(self._not_before)
            try:
                with trio.fail_after(self._policy.attempt_timeout):
                    self._stream = await self._connect()
            except Exception as exc:
                if not self._policy.should_retry(exc):
                    raise
                self._note_failure(self._next_delay(), exc)
            else:
                self._connected_at = trio.current_time()
                return self._stream

    def _note_outcome(self, stream: TLSStream[trio.SocketStream]) -> None:
        """Decide whether the last connection counts as a success or a failure, by how it ended.

        In TLS 1.3 the client's handshake is done before the server has checked the client's
        certificate. A server that refuses it sends an alert in place of its first data.
        """
        with suppress(trio.ClosedResourceError):
            stream.is_readable()  # processes received data, which may be an alert
        connection = stream.connection
        error = connection.error
        lasted, delay = trio.current_time() - self._connected_at, self._next_delay()
        if connection.inbox.has_decrypted:
            has_failed = False
        elif connection.receive_state is State.CLOSED:
            # A server that only receives has ended cleanly. But one that does so at once can be a
            # proxy whose server is down.
            has_failed = lasted < min(delay, self._policy.initial_delay)
        elif error is None or isinstance(error, TruncationError):
            has_failed = lasted < delay
        elif self._policy.should_retry(error):
            has_failed = True
        else:
            raise error.again()
        if has_failed:
            self._note_failure(delay, error)
        else:
            self._failures = 0
            self._delay_attempt(self._next_delay() - lasted, None)

    def _next_delay(self) -> float:
        return self._policy.delay(self._failures)

    def _note_failure(self, delay: float, error: Exception | None) -> None:
        self._failures += 1
        self._delay_attempt(delay, error)

    def _delay_attempt(self, delay: float, error: Exception | None) -> None:
        if delay > 0:
            self._not_before = trio.current_time() + delay
            if self._policy.on_retry is not None:
                self._policy.on_retry(Retry(self._failures, delay, error))
