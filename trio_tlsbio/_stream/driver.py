"""A connection and its transport, moved together: the handshake, what is pending, alerts."""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import nullcontext, suppress
from typing import Any, TypeVar

import attrs
import trio

from trio_tlsbio._core.connection import TLSConnection
from trio_tlsbio._core.errors import HandshakeTimeoutError, PeerAlertError, TLSError
from trio_tlsbio._core.inbox import Inbox
from trio_tlsbio._core.sessions import TLSSession
from trio_tlsbio._core.states import State

from .decisions import Decisions
from .prologue import Prologue
from .transport import Transport

__all__ = ["Driver"]

R = TypeVar("R")

# How long an alert may take to get onto the wire before its error is raised, in seconds. It is
# a few bytes long: only a peer that has stopped reading makes it wait at all.
_ALERT_TIMEOUT = 1.0


@attrs.define(eq=False)
class Driver:
    """What every operation of a stream is made of."""

    connection: TLSConnection
    transport: Transport[Any]
    _decisions: Decisions | None
    _on_session: Callable[[TLSSession], object] | None
    _handshake_timeout: float
    _handshake_deadline: float | None = attrs.field(default=None, init=False)  # once it is awaited
    #: Whether the handshake is done, and our last flight of it is sent.
    is_established: bool = attrs.field(default=False, init=False)
    #: How many bytes of plaintext were going to be sent so far, and how many of them are encrypted.
    begun: int = attrs.field(default=0, init=False)
    committed: int = attrs.field(default=0, init=False)
    _prologue: Prologue | None = attrs.field(default=None, init=False)  # until it is whole

    ################################################################
    # Before TLS
    ################################################################

    def expect(self, prologue: Prologue) -> None:
        """Have a prologue read before the handshake, as a part of it. It must not have begun."""
        self._prologue = prologue
        self.transport.inbox = Inbox()  # so that none of it gets to OpenSSL

    @property
    def has_heard(self) -> bool:
        """Whether the peer has sent anything, rather than a proxy in front of it."""
        is_heard = self._prologue is None or self._prologue.has_heard
        return (is_heard and self.transport.has_heard) or self.is_established

    async def _read_prologue(self) -> None:
        transport = self.transport
        while self._prologue is not None:  # another task may have got there meanwhile
            self.connection.lifecycle.check_send()
            try:
                rest = await self._prologue.feed(transport.inbox.take_all())
                if rest is None and transport.inbox.has_ended:
                    rest = self._prologue.feed_eof()
            except TLSError as exc:
                self.connection.lifecycle.origin.claim(exc)
                transport.inbox.discard()  # what follows it doesn't matter
                if self._prologue.has_heard:
                    transport.note_sent()  # it may have been answered in plaintext
                raise
            if rest is None:
                await transport.receive()
            else:
                self._begin_tls(rest)

    def _begin_tls(self, received: bytes) -> None:
        """Give the connection what was received after the prologue, and what will be."""
        self._prologue = None
        self.transport.inbox = self.connection.inbox  # if the transport has ended, it says so again
        self.transport.has_heard = bool(received)
        if received:
            self.connection.feed(received)

    ################################################################
    # The handshake
    ################################################################

    async def complete_handshake(self) -> bool:
        """Complete the handshake, and return whether that took to wait, which is a checkpoint."""
        if self.is_established:
            return False
        has_waited = False
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._handshake_deadline is None:
            self._handshake_deadline = trio.current_time() + self._handshake_timeout
        is_timed = self._handshake_deadline < math.inf  # else a scope would only take time
        with trio.CancelScope(deadline=self._handshake_deadline) if is_timed else nullcontext():
            try:
                if self._prologue is not None:
                    await self._read_prologue()
                has_waited = await self._shake_hands()
            except TLSError as exc:
                # If the transport broke, TLS could go on, only to fail in another way.
                self.connection.abort(exc.again())
                raise
        if not self.is_established:
            seconds = self._handshake_timeout
            self.connection.abort(
                HandshakeTimeoutError(
                    f"no handshake within {seconds:g} seconds"
                    if self._prologue is None
                    else f"no {self._prologue.name} within {seconds:g} seconds"
                )
            )
            self.connection.lifecycle.check_send()
        return has_waited

    def end_if_silent(self, error: TLSError) -> None:
        """End the handshake if the peer has not sent anything, nor is anything there to be read."""
        if not (self.has_heard or self.transport.receive_nowait(1)):
            self.connection.abort(error)
        self.transport.wake_receiver()  # there is something to know now

    async def _shake_hands(self) -> bool:
        has_waited = False
        while not self.is_established:  # another task may have got there meanwhile
            if not await self.step(self.connection.do_handshake):
                if self._decisions is not None and self._decisions.is_wanted:
                    await self._decide(self._decisions)
                else:
                    await self.exchange()
                has_waited = True
                continue
            ssl_object = self.connection.ssl_object
            if ssl_object.server_side and ssl_object.version() == "TLSv1.3":
                # What is left are session tickets. OpenSSL writes them now already, for a client
                # that may not read before it has written a lot.
                self.transport.flush_later()
            elif not self.transport.flush_nowait():
                await self.flush()
            self.is_established = True
        self.report_sessions()  # in TLS 1.2 the handshake brings one
        return has_waited

    async def _decide(self, decisions: Decisions) -> None:
        """Have the program decide. What it raises is raised, after the peer got an alert."""
        try:
            await decisions.make()
        except Exception:
            await self.flush_alert()
            raise

    async def exchange(self) -> None:
        """Wait for the wire to move one step in a handshake: out first, what comes in answers."""
        if self.transport.outbox.pieces and not self.transport.flush_nowait():
            await self.flush()
        else:
            await self.transport.receive()

    async def step(self, step: Callable[..., R], *args: object) -> R:
        """Call a method of the connection; if that fails, send the peer the alert before raising
        the error.
        """
        try:
            return step(*args)
        except TLSError:
            await self.flush_alert()
            raise

    ################################################################
    # Sending
    ################################################################

    @property
    def is_cut(self) -> bool:
        """Whether a send has ended before all of its data was encrypted, and none followed."""
        return self.begun > self.committed

    @property
    def has_pending(self) -> bool:
        """Whether something is waiting to be sent here: ciphertext, or plaintext that is held."""
        outbox = self.transport.outbox
        return bool(outbox.pieces or outbox.held)

    async def flush(self) -> None:
        """Flush; if that fails, the alert that the peer has sent before is what is raised."""
        with suppress(TLSError):
            await self.transport.flush()
            return
        self.check_send()  # here, or what it finds would be kept with the error as its context

    async def flush_held(self) -> None:
        """Flush what was given to the connection, also if it holds that for a renegotiation."""
        await self.flush()
        while self.transport.outbox.held and not await self.step(self.connection.do_handshake):
            await self.exchange()
        await self.flush()

    async def flush_leftover(self) -> None:
        """Send what an earlier operation has left, unless that may wait (session tickets)."""
        is_left = self.has_pending or self.transport.is_unfinished
        if is_left and self.is_established and not self.transport.may_wait:
            await self.flush_held()

    async def flush_alert(self) -> None:
        """Send the alert that OpenSSL has written, if TLS has failed here. Bounded in time."""
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
        """Raise what keeps the transport from sending, or rather the alert by which the peer has
        said why.
        """
        if not self.transport.can_send:
            self.raise_alert()
            self.transport.check_send()

    def raise_alert(self) -> None:
        """Raise the fatal alert that has arrived, if one has."""
        self.transport.receive_nowait()
        self.connection.look_ahead()
        if isinstance(self.connection.error, PeerAlertError):
            raise self.connection.error.again()

    async def send_close_notify(self) -> None:
        """End our direction, unless what has arrived is a failure, or the peer's alert: a socket
        takes a close_notify even so.
        """
        if not self.transport.is_receiving:
            self.transport.receive_nowait(1)
        await self.step(self.connection.send_close_notify)

    ################################################################
    # Receiving
    ################################################################

    @property
    def receiver(self) -> Callable[[int | None], bytes | None]:
        """What receives: :meth:`receive`, or the connection itself where that comes to the same."""
        return self.connection.receive if self._on_session is None else self.receive

    def receive(self, max_bytes: int | None = None) -> bytes | None:
        """Receive from the connection, and report the sessions that have come."""
        try:
            return self.connection.receive(max_bytes)
        finally:
            self.report_sessions()

    def report_sessions(self) -> None:
        """Call the hook for the sessions that have come."""
        if self._on_session is not None:
            for session in self.connection.new_sessions():
                self._on_session(session)

    def report_last_session(self) -> None:
        """Look for a session once more, before the connection is closed."""
        if self._on_session is not None:
            self.connection.look_for_session()
            self.report_sessions()
