"""Transports with faults at known positions, for tests."""

from __future__ import annotations

import errno
import operator
import os
import socket as stdlib_socket
import struct
from collections.abc import Generator, Iterable
from contextlib import contextmanager, suppress
from typing import Generic, SupportsIndex, TypeAlias

import attrs
import trio

from trio_tlsbio._core.errors import count
from trio_tlsbio._core.misuse import kind_of, max_bytes_error
from trio_tlsbio._core.records import Data
from trio_tlsbio._stream.stream import T_Stream
from trio_tlsbio._stream.turns import ConflictDetector

__all__ = [
    "Corrupt",
    "Cut",
    "Fault",
    "FaultyLine",
    "FaultyStream",
    "Insert",
    "Reset",
    "Split",
    "Stall",
]


def _copied(data: Data) -> bytes:
    # not bytes(), which would convert an int to a number of zeros
    return memoryview(data).tobytes()


def _position(at: SupportsIndex) -> int:
    try:
        return operator.index(at)
    except TypeError:
        raise TypeError(
            f"a fault's position must be a whole number of bytes, as in Cut(3), not {kind_of(at)}"
        ) from None


@attrs.frozen
class _OneTimeFault:
    """A fault at one position."""

    at: int = attrs.field(converter=_position, validator=attrs.validators.ge(0))
    """How many bytes have passed when it happens."""


@attrs.frozen
class Stall(_OneTimeFault):
    """After ``at`` bytes no data moves, until :meth:`FaultyLine.resume` or for some seconds."""

    seconds: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.ge(0))
    )
    """How long the stall lasts, in seconds; None to wait for :meth:`FaultyLine.resume`."""


@attrs.frozen
class Cut(_OneTimeFault):
    """After ``at`` bytes this direction ends as if the sender had ended it. Later data is lost.

    Unless a close_notify came before, this is a truncation.
    """


@attrs.frozen
class Reset(_OneTimeFault):
    """After ``at`` bytes the transport breaks, in both directions."""


@attrs.frozen
class Corrupt(_OneTimeFault):
    """The byte after the first ``at`` bytes is changed in transit."""

    mask: int = attrs.field(
        default=1,
        converter=operator.index,
        validator=[attrs.validators.ge(1), attrs.validators.le(255)],
    )
    """Which of its bits are flipped, from 1 to 255."""


@attrs.frozen
class Insert(_OneTimeFault):
    """After ``at`` bytes, additional bytes are inserted that the sender has not sent."""

    data: bytes = attrs.field(converter=_copied)
    """The inserted bytes."""


def _sizes(sizes: int | Iterable[int]) -> tuple[int, ...]:
    some = sizes if isinstance(sizes, Iterable) else (sizes,)
    return tuple(operator.index(size) for size in some)


@attrs.frozen
class Split:
    """All data is split into chunks, as in ``Split(1)``, or ``Split([5, 1, 100])``, which repeats.

    The end of a chunk depends on how many bytes have passed, not on how they were sent. To make
    data arrive in chunks, split it on the receiving side: data that is sent in chunks can arrive in
    one piece.
    """

    sizes: tuple[int, ...] = attrs.field(
        converter=_sizes,
        validator=[
            attrs.validators.min_len(1),
            attrs.validators.deep_iterable(attrs.validators.ge(1)),
        ],
    )
    """The sizes of the chunks in bytes."""

    def _left(self, position: int) -> int:
        """Return how many bytes are left of the chunk at a position."""
        position %= sum(self.sizes)
        for size in self.sizes:
            if position < size:
                return size - position
            position -= size
        raise AssertionError("the position lies in one of the chunks")


Fault: TypeAlias = Stall | Cut | Reset | Corrupt | Insert | Split
"""What can happen to one direction."""


@attrs.define(eq=False, init=False)
class FaultyLine:
    """One direction of a connection, with its faults. Bytes go in, and come out as the faults
    change them.

    It does no I/O, so you can use it between two :class:`~trio_tlsbio.TLSConnection` objects as
    well as in a :class:`FaultyStream`.

    A fault happens as soon as the given number of bytes have passed, whether or not more follow;
    but :class:`Corrupt` requires another byte. Bytes are counted as they were sent: inserted bytes
    don't count. Faults at the same position happen in the given order, and those that require a
    byte happen last.
    """

    bytes_passed: int
    """How many bytes have passed so far, without inserted ones."""

    _waiting: bytearray  # fed, but not passed yet
    _splits: list[tuple[int, Split]]  # with the position of their first byte
    # The faults that have not happened, by position, and those that have.
    _faults: list[Stall | Cut | Reset | Corrupt | Insert]
    _happened: list[Stall | Cut | Reset | Corrupt | Insert]
    _end: Cut | Reset | None
    _stall: Stall | None
    # Both are replaced by each stall.
    _stalled: trio.Event
    _resumed: trio.Event

    def __init__(self, faults: Iterable[Fault] = ()) -> None:
        if not isinstance(faults, Iterable):
            raise TypeError(f"give the faults in a list, such as [Cut(3)], not {kind_of(faults)}")
        self.bytes_passed = 0
        self._waiting = bytearray()
        self._splits = []
        self._faults = []
        self._happened = []
        self._end = None
        self._stall = None
        self._stalled = trio.Event()
        self._resumed = trio.Event()
        self.add(*faults)

    def __repr__(self) -> str:
        state = " stalled" if self.is_stalled else ""
        passed = count(self.bytes_passed, "byte")
        return f"<FaultyLine{state} after {passed}, {self._end or self._faults}>"

    def add(self, *faults: Fault) -> None:
        """Add faults at positions counted from the bytes that have passed so far.

        So you can, for example, place a fault after a handshake without counting its bytes. A fault
        at the current position happens when the line is next used.
        """
        for fault in faults:
            if not isinstance(fault, Fault):
                raise TypeError(f"a fault is needed, such as Cut(3), not {kind_of(fault)}")
        for fault in faults:
            if isinstance(fault, Split):
                self._splits.append((self.bytes_passed, fault))
            else:
                self._faults.append(attrs.evolve(fault, at=fault.at + self.bytes_passed))
        self._faults.sort(key=lambda fault: (fault.at, isinstance(fault, Corrupt)))

    @property
    def faults_left(self) -> tuple[Stall | Cut | Reset | Corrupt | Insert, ...]:
        """The faults that have not happened yet. This excludes :class:`Split`, which applies all
        the time.
        """
        return tuple(self._faults)

    @property
    def faults_happened(self) -> tuple[Stall | Cut | Reset | Corrupt | Insert, ...]:
        """The faults that have happened, in this order."""
        return tuple(self._happened)

    @property
    def end(self) -> Cut | Reset | None:
        """The fault that has ended this line, or None. After that, no data passes."""
        return self._end

    @property
    def is_stalled(self) -> bool:
        """True if a :class:`Stall` has happened and is not over."""
        return self._stall is not None

    def carry(self, data: Data) -> Generator[bytes | Stall | Cut | Reset, None, None]:
        """Yield the results for some bytes, in order: bytes that arrive, and faults that the caller
        has to perform.

        A :class:`Cut` or :class:`Reset` is the last result of a line; there are no results after
        it.
        """
        self._waiting += data
        while (step := self._next_step()) is not None:
            yield step

    def _next_step(self) -> bytes | Stall | Cut | Reset | None:
        if self._end is not None:
            self._waiting.clear()
            return None
        fault = self._due()
        if fault is not None and not isinstance(fault, Corrupt):
            return self._happen(fault)
        if not self._waiting:
            return None
        if fault is not None:
            return self._corrupt()
        return self._take(self._count_to_pass())

    def _take(self, count: int) -> bytes:
        data = bytes(self._waiting[:count])
        del self._waiting[:count]
        self.bytes_passed += count
        return data

    def _due(self) -> Stall | Cut | Reset | Corrupt | Insert | None:
        if self._faults and self._faults[0].at == self.bytes_passed:
            return self._faults[0]
        return None

    def _corrupt(self) -> bytes:
        mask = 0
        while isinstance(fault := self._due(), Corrupt):
            mask ^= fault.mask
            self._happened.append(self._faults.pop(0))
        return bytes([self._take(1)[0] ^ mask])

    def _happen(self, fault: Stall | Cut | Reset | Insert) -> bytes | Stall | Cut | Reset:
        self._happened.append(self._faults.pop(0))
        if isinstance(fault, Insert):
            return fault.data
        if isinstance(fault, Stall):
            self._stall = fault
            self._resumed = trio.Event()
            self._stalled.set()
        else:
            self._end = fault
        return fault

    def _count_to_pass(self) -> int:
        counts = [len(self._waiting)]
        if self._faults:
            counts.append(self._faults[0].at - self.bytes_passed)
        counts += (split._left(self.bytes_passed - start) for start, split in self._splits)
        return min(counts)

    ################################################################
    # Stalls
    ################################################################

    def resume(self) -> None:
        """End the stall.

        Raises:
          RuntimeError: if there is no stall now: see :meth:`wait_stalled`.
        """
        if self._stall is None:
            raise RuntimeError("this line is not stalled")
        self._stall = None
        self._stalled = trio.Event()
        self._resumed.set()

    async def wait_stalled(self) -> None:
        """Wait until a :class:`Stall` has happened and is not over."""
        await self._stalled.wait()

    async def _wait_resumed(self) -> None:
        """Wait for the end of the stall, if there is one. A cancellation doesn't end it."""
        while self._stall is not None:
            stall, resumed = self._stall, self._resumed
            if stall.seconds is None:
                await resumed.wait()
                continue
            with trio.move_on_after(stall.seconds):
                await resumed.wait()
            if self._stall is stall:
                self.resume()


@attrs.define(eq=False, init=False, repr=False)
class FaultyStream(trio.abc.HalfCloseableStream, Generic[T_Stream]):
    """A transport with faults at known positions.

    Put it over one end of a transport, and TLS, or the code under test, over it::

        transport, other_end = trio.testing.memory_stream_pair()
        faulty = FaultyStream(transport, receiving=[Split(1), Cut(2000)])
        stream = TLSStream(faulty, client_context, server_hostname="localhost")

    The bytes of each direction are counted from 0. Without faults it is equivalent to the
    underlying stream, except that it can't report how much of a cancelled send was sent, not even
    over a socket: see :attr:`~trio_tlsbio.TLSStream.is_cancel_safe`. A cancelled receive loses no
    data.

    Args:
      stream: The underlying stream. This stream owns it from now on.
      sending: The faults for bytes that are sent. A :class:`Cut` requires a stream with
        ``send_eof``.
      receiving: The faults for bytes that are received.

    Raises:
      TypeError: if ``sending`` has a :class:`Cut` that the stream does not support.

    After a :class:`Reset`, every use raises a :exc:`trio.BrokenResourceError` whose cause is a
    :exc:`ConnectionResetError`, as for a real reset. The other end sees only that the underlying
    stream was closed, and TLS over it a truncation; over TCP it gets a reset (RST) too.
    """

    stream: T_Stream
    """The underlying stream."""

    sending: FaultyLine
    """The direction away from this end."""

    receiving: FaultyLine
    """The direction to this end."""

    _arrived: bytes  # the bytes to receive next
    _is_closed: bool
    _send_conflict: ConflictDetector
    _receive_conflict: ConflictDetector

    def __init__(
        self, stream: T_Stream, *, sending: Iterable[Fault] = (), receiving: Iterable[Fault] = ()
    ) -> None:
        self.stream = stream
        self.sending = FaultyLine(sending)
        self.receiving = FaultyLine(receiving)
        if any(isinstance(fault, Cut) for fault in self.sending.faults_left):
            self._half_closeable()
        self._arrived = b""
        self._is_closed = False
        self._send_conflict = ConflictDetector("another task is sending on this FaultyStream")
        self._receive_conflict = ConflictDetector("another task is receiving on this FaultyStream")

    def __repr__(self) -> str:
        return f"<FaultyStream over {self.stream!r}>"

    def _half_closeable(self) -> trio.abc.HalfCloseableStream:
        if not isinstance(self.stream, trio.abc.HalfCloseableStream):
            raise TypeError(f"one direction of a {type(self.stream).__name__} can't be ended alone")
        return self.stream

    async def send_all(self, data: Data) -> None:
        """Send data. See :class:`trio.abc.SendStream`.

        If this is cancelled during a stall, the data before the stall was sent, and none after it.
        """
        with self._send_conflict, self._as_reset_errors():
            await trio.lowlevel.checkpoint()
            await self.sending._wait_resumed()
            self._check_open()
            try:
                for step in self.sending.carry(data):
                    await self._send(step)
            finally:
                self.sending._waiting.clear()  # cancelled data is not sent later

    async def _send(self, step: bytes | Stall | Cut | Reset) -> None:
        if isinstance(step, Stall):
            await self.sending._wait_resumed()
            self._check_open()
        elif isinstance(step, Cut):
            with trio.CancelScope(shield=True):  # the fault has happened, and is not retried
                await self._half_closeable().send_eof()
        elif isinstance(step, Reset):
            await self._reset()
        else:
            await self.stream.send_all(step)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until :meth:`send_all` might not block. See :class:`trio.abc.SendStream`."""
        with self._send_conflict, self._as_reset_errors():
            await self.sending._wait_resumed()
            self._check_open()
            if self.sending.end is None:
                await self.stream.wait_send_all_might_not_block()
            else:
                await trio.lowlevel.checkpoint()

    async def send_eof(self) -> None:
        """End the direction away from this end. See :class:`trio.abc.HalfCloseableStream`.

        Raises:
          TypeError: if the underlying stream has no ``send_eof``.
        """
        with self._send_conflict, self._as_reset_errors():
            await self.sending._wait_resumed()
            self._check_open()
            await self._half_closeable().send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Receive data. See :class:`trio.abc.ReceiveStream`. A cancellation loses no data."""
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise max_bytes_error(max_bytes)
        with self._receive_conflict, self._as_reset_errors():
            await trio.lowlevel.checkpoint()
            while not self._arrived:
                await self.receiving._wait_resumed()
                self._check_open()
                step = self.receiving._next_step()
                if isinstance(step, bytes):
                    self._arrived = step
                elif isinstance(step, Reset):
                    await self._reset()
                elif step is None:
                    if self.receiving.end is not None:
                        return b""
                    received = await self.stream.receive_some(max_bytes)
                    if not received:
                        return b""
                    self.receiving._waiting += received
            self._check_open()
            data = self._arrived[:max_bytes]
            self._arrived = self._arrived[len(data) :]
            return data

    async def aclose(self) -> None:
        """Close the underlying stream. Tasks that are blocked here get a ClosedResourceError."""
        self._is_closed = True
        self._end_stalls()
        await self.stream.aclose()

    def _end_stalls(self) -> None:
        for line in (self.sending, self.receiving):
            if line.is_stalled:
                line.resume()

    @property
    def _reset_by(self) -> Reset | None:
        for line in (self.sending, self.receiving):
            if isinstance(line.end, Reset):
                return line.end
        return None

    def _check_open(self) -> None:
        if self._is_closed:
            raise trio.ClosedResourceError("this FaultyStream was closed")
        if (reset := self._reset_by) is not None:
            # With the same cause as a real reset, from which TLSError.error_type is derived.
            raise trio.BrokenResourceError(
                f"connection reset after {count(reset.at, 'byte')}, by a fault"
            ) from ConnectionResetError(errno.ECONNRESET, os.strerror(errno.ECONNRESET))

    async def _reset(self) -> None:
        if isinstance(self.stream, trio.SocketStream):
            # When it is closed with this option, a socket sends RST: see SO_LINGER in socket(7).
            linger = struct.pack("hh" if os.name == "nt" else "ii", 1, 0)
            with suppress(OSError):  # it has already gone
                self.stream.setsockopt(stdlib_socket.SOL_SOCKET, stdlib_socket.SO_LINGER, linger)
        self._end_stalls()
        await trio.aclose_forcefully(self.stream)
        self._check_open()

    @contextmanager
    def _as_reset_errors(self) -> Generator[None, None, None]:
        # A reset in one direction closes the underlying stream while a task uses the other
        # direction, and gets a ClosedResourceError from it.
        try:
            yield
        except trio.ClosedResourceError:
            if not self._is_closed:
                self._check_open()
            raise
