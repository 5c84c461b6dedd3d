"""A transport in memory that holds few bytes, and ends as TCP does.

One :class:`Wire` carries one direction. A :class:`MemoryStream` is an end of a pair of them, in two
kinds: a :class:`SocketLikeStream`, which counts what it sends, receives without waiting and can be
reset, and a plain ``trio.abc.Stream`` with nothing but what Trio documents.
"""

from __future__ import annotations

import attrs
import trio

from trio_tlsbio._core.records import Data

WIDE = 64 * 1024
"""How many bytes a wire holds while a connection is brought into its state."""

# A narrow wire becomes this wide after so many writes, so that every run comes to an end.
_WIDER = 32 * 1024
_NARROW_WRITES = 50


@attrs.define(eq=False)
class Wire:
    """What one end has sent and the other one has not read yet."""

    capacity: int = WIDE
    buffer: bytearray = attrs.field(factory=bytearray, init=False)
    has_ended: bool = attrs.field(default=False, init=False)  # by FIN
    reader_has_gone: bool = attrs.field(default=False, init=False)
    # A reset by the writer: whoever uses the socket next gets ECONNRESET, once. Later a write gets
    # EPIPE, while a read looks like the end of the stream.
    is_reset: bool = attrs.field(default=False, init=False)
    reset_was_reported: bool = attrs.field(default=False, init=False)
    changed: trio.lowlevel.ParkingLot = attrs.field(
        factory=trio.lowlevel.ParkingLot, init=False, repr=False
    )
    _narrow_writes: int = attrs.field(default=0, init=False)
    _arrived: int = attrs.field(default=0, init=False)  # for sure, of what is in the buffer

    def narrow(self, capacity: int) -> None:
        """Hold less from now on, for a number of writes. What is there has reached the reader."""
        self.capacity = capacity
        self._arrived = len(self.buffer)
        self._narrow_writes = _NARROW_WRITES

    @property
    def room(self) -> int:
        return max(self.capacity - len(self.buffer), 0)

    def put(self, data: memoryview) -> int:
        """Take what there is room for, and return how many bytes that was."""
        count = min(len(data), self.room)
        if count:
            self.buffer += data[:count]
            if self._narrow_writes:
                self._narrow_writes -= 1
                if not self._narrow_writes:
                    self.capacity = max(self.capacity, _WIDER)
            self.changed.unpark_all()
        return count

    def take(self, max_bytes: int) -> bytes:
        data = bytes(self.buffer[:max_bytes])
        del self.buffer[:max_bytes]
        self._arrived = max(self._arrived - len(data), 0)
        self.changed.unpark_all()
        return data

    def end(self) -> None:
        self.has_ended = True
        self.changed.unpark_all()

    def reset(self) -> None:
        """End by RST. The receiver keeps what has reached it; what the sender still has is lost."""
        self.is_reset = True
        arrived = max(self._arrived, (self.capacity + 1) // 2)
        if len(self.buffer) > arrived:
            del self.buffer[arrived:]
            self.has_ended = False  # the FIN was to come after it
        self.changed.unpark_all()


@attrs.define(eq=False)
class MemoryStream(trio.abc.HalfCloseableStream):
    """One end of a connection in memory: a plain Trio stream. Closing it loses no sent data."""

    _incoming: Wire
    _outgoing: Wire
    is_closed: bool = attrs.field(default=False, init=False)
    _has_sent_eof: bool = attrs.field(default=False, init=False)
    _is_sending: bool = attrs.field(default=False, init=False)

    ################################################################
    # Without waiting
    ################################################################

    def _put(self, data: memoryview) -> int:
        if self.is_closed or self._has_sent_eof:
            raise trio.ClosedResourceError("this end is closed")
        self._raise_reset()
        if self._incoming.reset_was_reported:
            raise trio.BrokenResourceError("broken pipe")
        if self._outgoing.reader_has_gone:
            return self._put_after_the_end(data)
        return self._outgoing.put(data)

    def _put_after_the_end(self, data: memoryview) -> int:
        raise trio.BrokenResourceError("the other end is closed")

    def _raise_reset(self) -> None:
        incoming = self._incoming
        if incoming.is_reset and not incoming.reset_was_reported:
            incoming.reset_was_reported = True
            raise trio.BrokenResourceError("connection reset by peer")

    def _take(self, max_bytes: int | None = None) -> bytes | None:
        """Return what has arrived, None if nothing has."""
        incoming = self._incoming
        if self.is_closed:
            raise trio.ClosedResourceError("this end is closed")
        if incoming.buffer:
            return incoming.take(max_bytes or WIDE)
        if incoming.has_ended:
            return b""
        self._raise_reset()
        return b"" if incoming.reset_was_reported else None

    def reset(self) -> None:
        """Close with RST."""
        if not self.is_closed:
            self._close()
            self._outgoing.reset()

    def close(self) -> None:
        """Close with FIN."""
        if not self.is_closed:
            self._close()
            self._outgoing.end()

    def _close(self) -> None:
        self.is_closed = True
        self._incoming.reader_has_gone = True
        self._incoming.changed.unpark_all()
        self._outgoing.changed.unpark_all()

    ################################################################
    # trio.abc.HalfCloseableStream
    ################################################################

    async def send_all(self, data: Data) -> None:
        await self._send_all(data)

    async def _send_all(self, data: Data) -> None:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending")
        self._is_sending = True
        try:
            await trio.lowlevel.checkpoint()
            left = memoryview(data).cast("B")
            while True:
                left = left[self._put(left) :]
                if not left:
                    break
                await self._outgoing.changed.park()
        finally:
            self._is_sending = False

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()
        while not (self.is_closed or self._outgoing.room or self._is_broken):
            await self._outgoing.changed.park()
        if self.is_closed:
            raise trio.ClosedResourceError("this end is closed")

    @property
    def _is_broken(self) -> bool:
        return self._incoming.is_reset or self._outgoing.reader_has_gone

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        while (data := self._take(max_bytes)) is None:
            await self._incoming.changed.park()
        return data

    async def send_eof(self) -> None:
        await trio.lowlevel.checkpoint()
        self._has_sent_eof = True
        self._outgoing.end()

    async def aclose(self) -> None:
        self.close()
        await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class SocketLikeStream(MemoryStream):
    """One end with all that the library uses of a socket, and with TCP's ways of losing data."""

    is_cancel_safe = True
    bytes_committed: int = attrs.field(default=0, init=False)

    def _put(self, data: memoryview) -> int:
        count = super()._put(data)
        self.bytes_committed += count
        return count

    def _put_after_the_end(self, data: memoryview) -> int:
        # A system takes the data, gets RST as the answer, and discards what the closed end had not
        # delivered yet.
        if data:
            self._incoming.reset()
        return len(data)

    def send_nowait(self, data: Data) -> int:
        if self._is_sending:
            raise trio.BusyResourceError("another task is sending")
        with memoryview(data) as view, view.cast("B") as octets:
            return self._put(octets)

    def receive_nowait(self) -> bytes | None:
        return self._take()

    def end_direction(self) -> bool:
        if not (self.is_closed or self._has_sent_eof):
            self._has_sent_eof = True
            self._outgoing.end()
        return True

    def close(self) -> None:
        # RFC 2525 section 2.17: whoever closes with data unread sends RST.
        if self._incoming.buffer:
            self.reset()
        else:
            super().close()


def memory_pair(
    kind: type[MemoryStream] = SocketLikeStream,
) -> tuple[MemoryStream, MemoryStream, tuple[Wire, Wire]]:
    """Make two connected ends. The wires between them are returned as well."""
    wires = Wire(), Wire()
    return kind(*wires), kind(*wires[::-1]), wires
