"""A task that owns a transport's writes, for transports that can't tell how much they sent."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from ._connection import Data
from ._transport import ConflictDetector, beside

__all__ = ["PumpedStream", "open_pump"]


@attrs.define(eq=False)
class PumpedStream(trio.abc.Stream):
    """A stream whose sends may be cancelled, over one whose sends may not. See :func:`open_pump`.

    What :meth:`send_all` was given goes into a buffer, from which a task of its own sends. So a
    cancelled :meth:`send_all` gives up nothing but waiting for room in the buffer, and
    :attr:`bytes_committed` says how much went in.
    """

    transport_stream: trio.abc.Stream
    """The stream beneath: it is the pump's to send on, and to close."""

    _max_buffer: int
    _buffer: deque[bytes] = attrs.field(factory=deque, init=False, repr=False)
    _buffered: int = attrs.field(default=0, init=False)  # with what is being sent just now
    _bytes_committed: int = attrs.field(default=0, init=False)
    _error: Exception | None = attrs.field(default=None, init=False)
    _is_closed: bool = attrs.field(default=False, init=False)
    _has_ended: bool = attrs.field(default=False, init=False)  # the pump
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
        """How many bytes it has taken on itself to deliver."""
        return self._bytes_committed

    @enable_ki_protection
    async def send_all(self, data: Data) -> None:
        """Put data into the buffer, and wait for room in it where that is needed.

        Raises:
          trio.BrokenResourceError: if the transport could not send what was given before.
        """
        with self._send_conflict:
            await trio.lowlevel.checkpoint()
            self._check()
            with memoryview(data) as whole, whole.cast("B") as view:
                start = 0
                while start < len(view):
                    await self._wait_for_room()
                    start += self._take(view[start:])

    @enable_ki_protection
    def send_nowait(self, data: Data) -> int:
        """Put into the buffer what there is room for, and return how many bytes that was."""
        self._check()
        with memoryview(data) as whole, whole.cast("B") as view:
            return self._take(view)

    @enable_ki_protection
    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room in the buffer."""
        with self._send_conflict:
            await trio.lowlevel.checkpoint()
            self._check()
            await self._wait_for_room()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive from the transport itself."""
        return await self.transport_stream.receive_some(max_bytes)

    @enable_ki_protection
    async def aclose(self) -> None:
        """Send what is in the buffer, and close the transport; cancelled, close it at once."""
        if self._is_closed:
            await trio.lowlevel.checkpoint()
            return
        try:
            await self._wait_until_sent()
        finally:
            self._is_closed = True
            self._changed.unpark_all()
            await self.transport_stream.aclose()

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

    async def _wait_until_sent(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._buffered and not (self._has_ended or self._is_closed):
            await self._changed.park()

    def _check(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this stream was closed")
        if self._error is None and self._has_ended:
            raise trio.ClosedResourceError("the block of open_pump() was left")
        if self._error is not None:
            raise trio.BrokenResourceError(
                f"the transport broke while sending: {self._error or type(self._error).__name__}"
            ) from self._error

    @enable_ki_protection
    async def _pump(self) -> None:
        try:
            while not self._is_closed:
                if not self._buffer:
                    await self._changed.park()
                    continue
                data = b"".join(self._buffer)
                self._buffer.clear()
                await self.transport_stream.send_all(data)
                self._buffered -= len(data)
                self._changed.unpark_all()
        except Exception as exc:
            self._error = exc  # for those who send: the pump has nobody to tell
        finally:
            self._has_ended = True
            self._changed.unpark_all()


@asynccontextmanager
async def open_pump(
    transport_stream: trio.abc.Stream, *, max_buffer: int = 64 * 1024
) -> AsyncGenerator[PumpedStream, None]:
    """Give a stream over ``transport_stream`` on which a cancelled send breaks nothing.

    A :class:`trio.SocketStream` tells how much of a cancelled send it took, and a
    :class:`TLSStream` does. Over any other stream (pipes, a WebSocket, a tunnel of one's own) a
    :class:`TLSStream` can't know, so a send that is cancelled in the midst breaks it, unless a
    task that is not cancelled along does the sending. This runs that task::

        async with open_pump(transport_stream) as pumped:
            stream = TLSStream(pumped, ssl_context, server_hostname="example.org")
            ...

    Leaving the block sends what is still in the buffer, and ends the task. The transport stays
    open, unless the stream was closed. Cancelled, it ends at once.

    Args:
      transport_stream: The stream to send on. Nobody else may send on it meanwhile.
      max_buffer: How many bytes may wait to be sent before :meth:`PumpedStream.send_all` blocks.

    Raises:
      ValueError: if ``max_buffer`` is not positive.
    """
    if max_buffer < 1:
        raise ValueError("max_buffer must be positive")
    stream = PumpedStream(transport_stream, max_buffer)
    async with beside(stream._pump):
        yield stream
        await stream._wait_until_sent()
