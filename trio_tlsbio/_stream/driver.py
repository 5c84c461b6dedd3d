"""Drives one connection over its transport: the handshake, unsent data, alerts."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from typing import Any, TypeVar

import attrs
import trio

from trio_tlsbio._core.connection import TLSConnection
from trio_tlsbio._core.errors import HandshakeTimeoutError, PeerAlertError, TLSError, count
from trio_tlsbio._core.inbox import Inbox
from trio_tlsbio._core.sessions import TLSSession
from trio_tlsbio._core.states import State

from .decisions import Decisions
from .prologue import Prologue
from .transport import Transport

__all__ = ["Driver"]

R = TypeVar("R")

# Seconds to wait for an alert to reach the wire before its error is raised. An alert is a few bytes
# long, so it has to wait only if the peer has stopped reading.
_ALERT_TIMEOUT = 1.0

_NO_SCOPE = nullcontext()


@attrs.define(eq=False)
class Driver:
    """The operations from which a stream's methods are built."""

    connection: TLSConnection
    transport: Transport[Any]
    _decisions: Decisions | None
    _on_session: Callable[[TLSSession], object] | None
    _handshake_timeout: float
    # set by the first handshake attempt, if there is a timeout
    _handshake_deadline: float | None = None
    #: True if the handshake is done, and our last flight has been sent.
    is_established: bool = False
    #: How many bytes of plaintext were encrypted so far, and how many they are once the last send
    #: is complete.
    committed: int = 0
    send_target: int = 0
    # until it has been read completely
    _prologue: Prologue | None = None

    ################################################################
    # Before TLS
    ################################################################

    def expect(self, prologue: Prologue) -> None:
        """Read a prologue before the handshake, as a part of it. Call this before
        the handshake.
        """
        self._prologue = prologue
        self.transport.inbox = Inbox()  # keep the prologue away from OpenSSL

    @property
    def has_received(self) -> bool:
        """True if the peer itself has sent anything; a proxy's header doesn't count."""
        is_from_peer = self._prologue is None or self._prologue.has_received
        return (is_from_peer and self.transport.received_since_send) or self.is_established

    async def _read_prologue(self) -> None:
        transport = self.transport
        while self._prologue is not None:  # another task may have read it in the meantime
            self.connection.lifecycle.check_send()
            try:
                rest = await self._prologue.feed(transport.inbox.take_all())
                if rest is None and transport.inbox.has_ended:
                    rest = self._prologue.feed_eof()
            except TLSError as exc:
                self.connection.lifecycle.origin.claim(exc)
                transport.inbox.discard()  # the bytes that follow don't matter
                if self._prologue.has_received:
                    transport.note_sent()  # the prologue may have been answered in plaintext
                raise
            if rest is None:
                await transport.receive()
            else:
                self._begin_tls(rest)

    def _begin_tls(self, received: bytes) -> None:
        """Switch to the connection's inbox, and feed it the bytes that followed the prologue."""
        self._prologue = None
        self.transport.inbox = self.connection.inbox  # an ended transport reports its end again
        self.transport.received_since_send = bool(received)
        if received:
            self.connection.feed(received)

    ################################################################
    # The handshake
    ################################################################

    async def complete_handshake(self) -> bool:
        """Complete the handshake. Return True if this had to wait, which executed a checkpoint."""
        if self.is_established:
            return False
        has_waited = False
        await trio.lowlevel.checkpoint_if_cancelled()
        with self._handshake_scope():
            try:
                if self._prologue is not None:
                    await self._read_prologue()
                has_waited = await self._shake_hands()
            except Exception as exc:
                await self.flush_alert()
                if isinstance(exc, TLSError):
                    # A transport failure doesn't fail the TLS connection, which could go on and
                    # fail in another way.
                    self.connection.abort(exc.again())
                raise
        if not self.is_established:
            seconds = self._handshake_timeout
            self.connection.abort(
                HandshakeTimeoutError(
                    f"no handshake within {count(seconds, 'second')}"
                    if self._prologue is None
                    else f"no {self._prologue.name} within {count(seconds, 'second')}"
                )
            )
            self.connection.lifecycle.check_send()
        return has_waited

    def _handshake_scope(self) -> AbstractContextManager[object]:
        """Return a scope that expires when the handshake takes too long, if there is a timeout."""
        if self._handshake_timeout == math.inf:
            return _NO_SCOPE  # avoid the cost of a scope that never expires
        if self._handshake_deadline is None:
            self._handshake_deadline = trio.current_time() + self._handshake_timeout
        return trio.CancelScope(deadline=self._handshake_deadline)

    def end_if_silent(self, error: TLSError) -> None:
        """Fail the handshake if the peer has sent nothing, and no received bytes are ready to be
        read.
        """
        if not (self.has_received or self.transport.receive_nowait(1)):
            self.connection.abort(error)
        self.transport.wake_receiver()  # let it notice the error

    async def _shake_hands(self) -> bool:
        has_waited = False
        while not self.is_established:  # another task may have completed it in the meantime
            if not self.connection.do_handshake():
                if (
                    self._decisions is None
                    or self.transport.inbox.wants_data  # it is the peer's turn
                    or not await self._decisions.make()
                ):
                    await self.exchange()
                has_waited = True
                continue
            if self.transport.outbox.may_wait:
                self.transport.flush_later()
            elif not self.transport.flush_nowait():
                await self.flush()
            self.is_established = True
        self.report_sessions()  # a TLS 1.2 handshake provides a session
        return has_waited

    def exchange(self) -> Awaitable[object]:
        """Move the handshake one step: send the pending ciphertext, or else wait for the peer's
        answer.
        """
        if self.transport.outbox.pieces and not self.transport.flush_nowait():
            return self.flush()
        return self.transport.receive()

    async def call(self, method: Callable[..., R], *args: object) -> R:
        """Call a method of the connection. If it fails, send the peer the alert, then raise the
        error.
        """
        try:
            return method(*args)
        except TLSError:
            await self.flush_alert()
            raise

    ################################################################
    # Sending
    ################################################################

    @property
    def has_incomplete_send(self) -> bool:
        """True if the last send ended before all of its data was encrypted."""
        return self.send_target > self.committed

    @property
    def has_pending(self) -> bool:
        """True if there is unsent ciphertext, or plaintext that is held back."""
        outbox = self.transport.outbox
        return bool(outbox.pieces or outbox.held)

    async def flush(self) -> None:
        """Send the pending ciphertext. If that fails, raise the peer's alert if one has arrived, or
        else the transport's error.
        """
        with suppress(TLSError):
            await self.transport.flush()
            return
        self.check_send()  # outside the block, so that the new error has no context

    async def flush_held(self) -> None:
        """Send all data, including the plaintext that the connection holds back in a
        renegotiation.
        """
        await self.flush()
        while self.transport.outbox.held and not await self.call(self.connection.do_handshake):
            await self.exchange()
        await self.flush()

    async def flush_leftover(self) -> None:
        """Send what an earlier operation left unsent, except session tickets, which may wait."""
        is_left = self.has_pending or self.transport.is_unfinished
        if is_left and self.is_established and not self.transport.outbox.may_wait:
            await self.flush_held()

    async def flush_alert(self) -> None:
        """Send the alert that OpenSSL wrote, if TLS has failed on this side. This waits for at most
        a second.
        """
        if self.connection.send_state is not State.FAILED:
            return
        self.transport.flush_nowait()
        if self.transport.outbox.pieces:
            with (
                trio.move_on_after(_ALERT_TIMEOUT),
                suppress(trio.BrokenResourceError, trio.ClosedResourceError),
            ):
                await self.transport.flush()

    def check_send(self) -> None:
        """Raise the error that keeps the transport from sending. If the peer has sent an alert that
        explains it, raise that instead.
        """
        if not self.transport.can_send:
            self.raise_alert()
            self.transport.check_send()

    def raise_alert(self) -> None:
        """Raise the fatal alert that the peer has sent, if it has arrived."""
        self.transport.receive_nowait()
        self.connection.look_ahead()
        if isinstance(self.connection.error, PeerAlertError):
            raise self.connection.error.again()

    async def send_close_notify(self) -> None:
        """End our direction, but first check the received data for a failure or an alert: a socket
        would accept a close_notify even then.
        """
        if not self.transport.is_receiving:
            self.transport.receive_nowait(1)
        await self.call(self.connection.send_close_notify)

    ################################################################
    # Receiving
    ################################################################

    @property
    def receiver(self) -> Callable[[int | None], bytes | None]:
        """The function to receive with: :meth:`receive`, or the connection's own method if no hook
        needs to be called.
        """
        return self.connection.receive if self._on_session is None else self.receive

    def receive(self, max_bytes: int | None = None) -> bytes | None:
        """Receive from the connection, and report new sessions to the hook."""
        try:
            return self.connection.receive(max_bytes)
        finally:
            self.report_sessions()

    def report_sessions(self) -> None:
        """Call the hook for each new session."""
        if self._on_session is not None:
            for session in self.connection.new_sessions():
                self._on_session(session)

    def report_last_session(self) -> None:
        """Look for a session one last time, before the connection is closed."""
        if self._on_session is not None:
            self.connection.look_for_session()
            self.report_sessions()
