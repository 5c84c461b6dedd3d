"""A task that owns a transport's writes, for transports that can't report how much they
have sent.
"""

from __future__ import annotations

import math
import operator
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from types import TracebackType
from typing import Literal, TypeVar

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_tlsbio._core.misuse import check_not_negative, check_positive
from trio_tlsbio._core.records import Data, byte_view

from .closing import close_nowait
from .interfaces import ImmediateStream
from .options import CLOSE_TIMEOUT
from .sockets import SocketCalls
from .turns import ConflictDetector, background_task

__all__ = ["PumpedStream", "open_pump"]

T_Data = TypeVar("T_Data", bytes, bytes | None, bytes | bytearray)

# How many scheduler turns the pump gets to send the rest when nothing may wait any more. There is
# no way to ask whether a send would wait; one that doesn't wait finishes in a few turns.
_LAST_TURNS = 16


@attrs.define(eq=False)
class PumpedStream(trio.abc.Stream):
    """A stream whose sends can be cancelled, over one whose sends can't. See :func:`open_pump`.

    :meth:`send_all` puts the data into a buffer, and a separate task sends from there. So a
    cancelled :meth:`send_all` only stops waiting for room in the buffer, and
    :attr:`bytes_committed` shows how many bytes went in.

    Committed data is sent completely and in order. If that fails, the transport is closed, so that
    the peer can see that it did not get everything.
    """

    transport_stream: trio.abc.Stream
    """The underlying stream. The pump sends on it, and closes it."""

    _max_buffer: int
    _buffer: deque[bytes] = attrs.field(factory=deque, init=False, repr=False)
    _buffered: int = attrs.field(default=0, init=False)  # includes the bytes being sent
    _bytes_committed: int = attrs.field(default=0, init=False)
    _error: Exception | None = attrs.field(default=None, init=False)
    _is_error_known: bool = attrs.field(default=False, init=False)  # a sending task has got it
    # Why nothing more can be sent: the stream was closed, or the block of open_pump() was left.
    _end: Literal["closed", "left"] | None = attrs.field(default=None, init=False)
    _has_ended: bool = attrs.field(default=False, init=False)  # the pump has ended
    # The pump is not cancelled together with the surrounding code, which decides when the pump
    # ends.
    _pump_scope: trio.CancelScope = attrs.field(
        factory=lambda: trio.CancelScope(shield=True), init=False, repr=False
    )
    _changed: trio.lowlevel.ParkingLot = attrs.field(
        factory=trio.lowlevel.ParkingLot, init=False, repr=False
    )
    _send_conflict: ConflictDetector = attrs.field(
        factory=lambda: ConflictDetector("another task is currently sending data on this stream"),
        init=False,
        repr=False,
    )

    @property
    def is_cancel_safe(self) -> bool:
        """True: see :attr:`TLSStream.is_cancel_safe`."""
        return True

    @property
    def bytes_committed(self) -> int:
        """How many bytes went into the buffer so far."""
        return self._bytes_committed

    @enable_ki_protection
    async def send_all(self, data: Data) -> None:
        """Put data into the buffer. Wait until there is room for it.

        Raises:
          trio.BrokenResourceError: if the transport failed to send earlier data.
        """
        with self._send_conflict:
            await trio.lowlevel.checkpoint()
            self._check()
            with byte_view(data) as view:
                start = 0
                while start < len(view):
                    await self._wait_for_room()
                    start += self._take(view[start:])

    @enable_ki_protection
    def send_nowait(self, data: Data) -> int:
        """Put as much data into the buffer as there is room for. Return the number of bytes."""
        with self._send_conflict:
            self._check()
            with byte_view(data) as view:
                return self._take(view)

    @enable_ki_protection
    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room in the buffer."""
        with self._send_conflict:
            await trio.lowlevel.checkpoint()
            self._check()
            await self._wait_for_room()

    @enable_ki_protection
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive from the transport directly.

        Raises:
          trio.BrokenResourceError: if the transport failed, now or earlier while the pump was
            sending. (After a reset was reported once, a socket looks as if it had ended.)
        """
        return self._received(await self.transport_stream.receive_some(max_bytes))

    @enable_ki_protection
    def receive_nowait(self) -> bytes | None:
        """Return the data that has already arrived, or ``b""`` at the end. Return None if nothing
        has arrived, or if the transport can't receive without waiting.
        """
        stream = self.transport_stream
        if isinstance(stream, trio.SocketStream):
            return self._received(SocketCalls(stream).read_nowait())
        if isinstance(stream, ImmediateStream):
            return self._received(stream.receive_nowait())
        return None

    def _received(self, data: T_Data) -> T_Data:
        if data is not None and not data:
            self._check_error()
        return data

    @enable_ki_protection
    async def aclose(self) -> None:
        """Send the contents of the buffer, and close the transport.

        If this is cancelled, it makes a last attempt to send without waiting, and closes the
        transport at once. Tasks that are blocked in a send get a :exc:`trio.ClosedResourceError`.
        """
        self._end = "closed"
        self._changed.unpark_all()  # wakes tasks that wait for room
        try:
            await self._wait_until_sent()
        except BaseException:
            await self._close_at_once()
            raise
        if self._buffered:
            await self._close_at_once()
        else:
            self._pump_scope.cancel()
            await self.transport_stream.aclose()

    def abort(self) -> bool:
        """Close the transport at once, and discard the contents of the buffer. Return True if the
        transport could be closed without waiting; otherwise :meth:`aclose` has to close it.
        """
        self._end = "closed"
        self._pump_scope.cancel()
        self._changed.unpark_all()
        return close_nowait(self.transport_stream)

    @enable_ki_protection  # with Trio's own method, Ctrl-C could prevent aclose() from being called
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _take(self, data: memoryview) -> int:
        count = min(len(data), self._max_buffer - self._buffered)
        if count > 0:
            self._buffer.append(bytes(data[:count]))
            self._buffered += count
            self._bytes_committed += count
            self._changed.unpark_all()
        return count

    async def _wait_for_room(self) -> None:
        while self._buffered >= self._max_buffer:
            await self._changed.park()
            self._check()

    def _check(self) -> None:
        if self._end == "closed":
            raise trio.ClosedResourceError("this stream was closed")
        if self._end == "left":
            raise trio.ClosedResourceError("the block of open_pump() was left")
        self._check_error()

    def _check_error(self) -> None:
        if self._error is not None:
            self._is_error_known = True
            raise trio.BrokenResourceError(
                f"the transport broke while sending: {self._error or type(self._error).__name__}"
            ) from self._error

    ################################################################
    # The pump and its end
    ################################################################

    @enable_ki_protection
    async def _pump(self) -> None:
        try:
            with self._pump_scope:
                while True:
                    if not self._buffer:
                        await self._changed.park()
                        continue
                    data = b"".join(self._buffer)
                    self._buffer.clear()
                    await self.transport_stream.send_all(data)
                    self._buffered -= len(data)
                    self._changed.unpark_all()
        except Exception as exc:
            # Keep the exception for the sending tasks, without its traceback: that refers to this
            # object, which would be a cycle.
            self._error = exc.with_traceback(None)
        finally:
            self._has_ended = True
            self._changed.unpark_all()

    @property
    def _is_sending(self) -> bool:
        return self._buffered > 0 and not self._has_ended

    async def _wait_until_sent(self) -> None:
        try:
            await trio.lowlevel.checkpoint()
            while self._is_sending:
                await self._changed.park()
        except BaseException:  # cancelled, or Ctrl-C
            for _ in range(_LAST_TURNS):
                if not self._is_sending:
                    break
                await trio.lowlevel.cancel_shielded_checkpoint()
            raise

    async def _close_at_once(self) -> None:
        self._pump_scope.cancel()
        close_nowait(self.transport_stream)  # a TLS stream must not confirm data that was lost
        with suppress(trio.BrokenResourceError):  # it may already be broken
            await trio.aclose_forcefully(self.transport_stream)

    async def _finish(self, timeout: float) -> None:
        """Send the contents of the buffer, and end the pump. If that fails or takes longer than
        ``timeout`` seconds, close the transport.
        """
        self._end = self._end or "left"
        self._changed.unpark_all()  # wakes tasks that wait for room
        try:
            with trio.CancelScope(deadline=trio.current_time() + timeout):
                await self._wait_until_sent()
        finally:
            self._pump_scope.cancel()
            if self._buffered:
                await self._close_at_once()


@asynccontextmanager
@enable_ki_protection  # the protection excludes the block itself
async def open_pump(
    transport_stream: trio.abc.Stream,
    *,
    max_buffer: int = 64 * 1024,
    close_timeout: float = CLOSE_TIMEOUT,
) -> AsyncGenerator[PumpedStream, None]:
    """Open a stream over ``transport_stream`` on which a cancelled send breaks nothing.

    A :class:`trio.SocketStream` and a :class:`TLSStream` report how much of the data a cancelled
    send has sent. Other streams (pipes, a WebSocket, a tunnel of your own) don't. Over those,
    cancelling a send midway breaks a :class:`TLSStream`, unless the sending is done by a task that
    isn't cancelled together with the caller. This function runs such a task::

        async with open_pump(transport_stream) as pumped:
            stream = TLSStream(pumped, ssl_context, server_hostname="example.org")
            ...

    Leaving the block sends the contents of the buffer, and ends the task. If the block raises an
    exception, this takes at most ``close_timeout`` seconds. If the block is cancelled or
    interrupted by Ctrl-C, this doesn't wait. If everything was sent, the transport stays open,
    unless the stream was closed. Otherwise the transport is closed: after an incomplete record it
    can't be used, and the peer has to notice that data is missing.

    Args:
      transport_stream: The stream to send on. Nothing else may send on it in the meantime.
      max_buffer: How many bytes may be unsent before :meth:`PumpedStream.send_all` blocks.
      close_timeout: If the block raises an exception, how long to wait for the buffer to be sent,
        in seconds.

    Raises:
      ValueError: if ``max_buffer`` is not positive, or ``close_timeout`` is negative.
      trio.BrokenResourceError: when the block is left, if the transport broke before it had sent
        everything, and no call on the stream has reported that yet.
    """
    check_positive("max_buffer", operator.index(max_buffer))
    check_not_negative("close_timeout", close_timeout)
    stream = PumpedStream(transport_stream, max_buffer)
    async with background_task(stream._pump):
        try:
            yield stream
        except BaseException as exc:
            with suppress(trio.Cancelled):  # the exception from the block takes precedence
                await stream._finish(close_timeout if isinstance(exc, Exception) else 0)
            raise
        await stream._finish(math.inf)
        if stream._buffered and stream._end == "left" and not stream._is_error_known:
            stream._check_error()  # no other call would report the lost data
