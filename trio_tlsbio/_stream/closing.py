"""Ends a connection: with or without waiting, or back to plaintext."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_tlsbio._core.errors import HandshakeTimeoutError, PeerAlertError, TLSError, count
from trio_tlsbio._core.states import State

from .driver import Driver
from .options import StreamOptions
from .turns import background_task

__all__ = ["Closing", "close_nowait"]

# How long a peer has to be silent, in seconds, before unwrap() treats data in place of a
# close_notify as an error.
_PAUSE = 0.1

# Enum lookups cost three calls; the members are bound once.
_HANDSHAKE, _OPEN, _CLOSED = State.HANDSHAKE, State.OPEN, State.CLOSED


@attrs.define(eq=False)
class Closing:
    """The end of one connection.

    A close_notify asserts that the peer has got everything (RFC 9846 section 6.1). So none is sent
    if some of the data was not sent completely.
    """

    options: StreamOptions
    _driver: Driver
    #: True if the stream is closed, or about to be.
    has_begun: bool = False
    _closed: trio.Event | None = None  # see _begin()
    _is_aborted: bool = False
    _is_unwrapped: bool = False
    _lingers: bool = True  # until stop_lingering()
    _lingering: trio.CancelScope | None = None

    def check_open(self) -> None:
        """Raise :exc:`trio.ClosedResourceError` if the stream is closed, or about to be."""
        if not self.has_begun:
            return
        if self._is_unwrapped:
            raise trio.ClosedResourceError(
                "this TLSStream was ended by unwrap(): use the transport that unwrap() returned"
            )
        raise trio.ClosedResourceError("this TLSStream was closed: use another connection")

    def check_send_open(self) -> None:
        """Raise :exc:`trio.ClosedResourceError` if nothing more may be sent."""
        self.check_open()
        self._driver.connection.lifecycle.check_not_closed()

    @property
    def _sends_close_notify(self) -> bool:
        """True if a close may assert that the peer has got everything."""
        is_incomplete = self._is_aborted or self._driver.has_incomplete_send
        return not (self.options.https_compatible or is_incomplete)

    ################################################################
    # Closing the transport
    ################################################################

    def _begin(self) -> trio.Event:
        """Let nothing but closing happen from now on. Return an event that is set when the
        transport is closed, or was returned to the caller.
        """
        self.has_begun = True
        if self._closed is None:  # not before: idle connections need none
            self._closed = trio.Event()
        return self._closed

    async def close(self, transport_stream: trio.abc.AsyncResource) -> None:
        """End the connection and close its transport: see :meth:`TLSStream.aclose`."""
        is_first = not self.has_begun
        closed = self._begin()
        if closed.is_set():
            await trio.lowlevel.checkpoint()
            return
        error_before = self._driver.connection.error
        deadline = trio.current_time() + (0.0 if self._is_aborted else self.options.close_timeout)
        if isinstance(error_before, HandshakeTimeoutError):
            deadline = -math.inf  # the peer has already had enough time
        try:
            with trio.CancelScope(deadline=deadline):
                await (self._end() if is_first else closed.wait())
        except KeyboardInterrupt:
            deadline = -math.inf  # Ctrl-C comes only once, and the transport has to close at once
            raise
        finally:
            if not closed.is_set():
                try:
                    self._end_nowait()
                finally:
                    await self._close_transport(transport_stream, closed, deadline)
        if error_before is None:
            self._raise_what_was_found()

    def abort(self, transport_stream: trio.abc.AsyncResource) -> bool:
        """Close at once, without asserting anything: see :meth:`TLSStream.abort`."""
        closed = self._begin()
        if not closed.is_set():
            self._is_aborted = True
            self._end_nowait()
            if close_nowait(transport_stream):
                closed.set()
        return closed.is_set()

    async def _close_transport(
        self, transport_stream: trio.abc.AsyncResource, closed: trio.Event, deadline: float
    ) -> None:
        # Every task that gets here calls aclose(), not only the first: if another task waits in it,
        # a cancelled call makes the transport close at once.
        try:
            with trio.CancelScope(deadline=deadline):  # a cancelled aclose() closes at once
                await transport_stream.aclose()
        finally:
            closed.set()

    def _raise_what_was_found(self) -> None:
        """Raise an error that was found while closing, if no other call can have raised it."""
        connection = self._driver.connection
        match connection.error:
            case PeerAlertError(alert="decode_error") if not self._sends_close_notify:
                pass  # OpenSSL 3 answers an end without a close_notify by it
            case PeerAlertError() as error:
                raise error.again()
            case error if connection.handshake is None and connection.send_state is State.FAILED:
                assert error is not None
                raise error.again()
            case _:
                pass

    ################################################################
    # The end of both directions
    ################################################################

    async def _end(self) -> None:
        connection, transport = self._driver.connection, self._driver.transport
        if self.options.https_compatible and connection.send_state is _HANDSHAKE:
            return  # nothing was sent that could be lost
        # It is not an error if the peer has already gone, or if the stream was already broken.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if self._sends_close_notify:
                await self._driver.complete_handshake()
            transport.receive_nowait(1)  # an invalid record is answered with an alert
            if self._sends_close_notify:
                connection.send_close_notify()
            else:
                self._discard()
        if isinstance(connection.error, HandshakeTimeoutError):
            return  # the peer has already had enough time
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            # After any error, send the alert, or the data that was committed before.
            await self._flush_and_receive(self._discard)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._wait_for_the_peer()

    def _end_nowait(self) -> None:
        connection, transport = self._driver.connection, self._driver.transport
        if not connection.is_behind:
            transport.receive_nowait(1)
        if connection.handshake is not None and self._sends_close_notify:
            with suppress(TLSError):
                connection.send_close_notify()
        self._discard()
        transport.discard_received()
        self._driver.report_last_session()
        if connection.send_state is not _HANDSHAKE:  # an incomplete handshake is useless
            transport.flush_nowait()
        transport.end_direction()

    async def _flush_and_receive(self, take: Callable[[], object]) -> None:
        """Send the pending ciphertext, and receive at the same time: the peer may be sending too,
        and not read before its own data is gone.

        ``take`` is called to process the received data.
        """
        if self._driver.transport.flush_nowait() and not self._driver.has_pending:
            return
        async with background_task(partial(self._receive_meanwhile, take)):
            await self._driver.flush_held()

    @enable_ki_protection  # a new task does not inherit the protection
    async def _receive_meanwhile(self, take: Callable[[], object]) -> None:
        transport, left = self._driver.transport, self.options.close_max_bytes
        # the task that waits for the end gets the same error
        with suppress(trio.Cancelled, Exception):
            while left > 0 and not transport.has_ended:
                left -= await transport.receive(while_flushing=True)
                take()

    def _discard(self) -> None:
        """Check the received data for the end or an alert, and discard it. If that is more than one
        call processes, discard the rest without decrypting it.
        """
        connection = self._driver.connection
        if not connection.is_behind:
            with suppress(TLSError):
                self._driver.receive()
        if connection.is_behind:
            self._driver.transport.inbox.discard()

    ################################################################
    # Lingering
    ################################################################

    def stop_lingering(self) -> None:
        """See :meth:`TLSStream.stop_lingering`."""
        self._lingers = False
        if self._lingering is not None:
            self._lingering.cancel()

    async def _wait_for_the_peer(self) -> None:
        """Wait until the peer stops sending, if closing the transport now could destroy data."""
        transport = self._driver.transport
        if not transport.end_direction() or not transport.has_sent:
            return
        if self._lingers or transport.unacknowledged() is None:
            with trio.CancelScope() as self._lingering:
                await self._receive_until_the_end()
                return
        delay = 0.001
        while transport.unacknowledged():
            await trio.sleep(delay)  # acknowledgements don't wake tasks
            delay = min(2 * delay, 0.1)

    async def _receive_until_the_end(self) -> None:
        connection, transport = self._driver.connection, self._driver.transport
        left = self.options.close_max_bytes
        self._discard()
        while left > 0 and not (transport.inbox.has_ended or connection.receive_state is _CLOSED):
            left -= await transport.receive()
            self._discard()

    ################################################################
    # Back to plaintext
    ################################################################

    async def unwrap(self) -> bytes:
        """End TLS in both directions, and return the bytes that were received after it.

        See :meth:`TLSStream.unwrap`.
        """
        driver, connection = self._driver, self._driver.connection
        plaintext = connection.inbox.plaintext
        await driver.send_close_notify()
        await self._flush_and_receive(connection.look_ahead)
        connection.look_ahead()
        while connection.receive_state is _OPEN and len(plaintext) <= self.options.close_max_bytes:
            # Once there is data, receive until the peer pauses: it may have much left to send
            # before its close_notify, and wait for us to read.
            pause = _PAUSE if plaintext else math.inf
            with trio.move_on_after(pause) as scope:
                await driver.exchange()
            connection.look_ahead()
            if scope.cancelled_caught:
                break
        self.check_open()
        if plaintext:
            message = (
                f"the peer sent {count(len(plaintext), 'byte')} of data where "
                "unwrap() expected its close_notify: receive until b'' first"
            )
            raise connection.lifecycle.origin.claim(TLSError(message))
        await driver.call(driver.receive)
        self._is_unwrapped = True
        self._begin().set()
        return connection.trailing_data


def close_nowait(stream: trio.abc.AsyncResource) -> bool:
    """Close a stream without waiting. Return False if that is not possible."""
    if isinstance(stream, trio.SocketStream):
        stream.socket.close()
    elif isinstance(stream, trio.StapledStream):
        halves = stream.send_stream, stream.receive_stream
        return sum(map(close_nowait, halves)) == len(halves)  # both, even if the first one fails
    elif callable(close := getattr(stream, "abort", None) or getattr(stream, "close", None)):
        if inspect.iscoroutinefunction(close):
            return False
        return close() is not False  # a stream that carries another one may be unable to
    else:
        return False
    return True
