"""A stream that records the data on the wire, and the analysis of recordings."""

from __future__ import annotations

import enum
import operator
from collections.abc import Iterable, Iterator
from functools import partial

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_tlsbio._core.hello import HELLO_RETRY_REQUEST
from trio_tlsbio._core.iana import Alert, ContentType, ExtensionType, HandshakeType
from trio_tlsbio._core.messages import MESSAGE_HEADER_BYTES, message_bytes
from trio_tlsbio._core.records import HEADER_BYTES, Data, Records
from trio_tlsbio._stream.interfaces import (
    CountingStream,
    ImmediateStream,
    LingeringStream,
    WatchedStream,
)
from trio_tlsbio._stream.sockets import SocketCalls
from trio_tlsbio._stream.turns import ConflictDetector

__all__ = [
    "Conversation",
    "Direction",
    "Flight",
    "Passage",
    "RecordedStream",
    "WireRecord",
    "flights_of",
    "records_of",
]


class Direction(enum.Enum):
    """The direction of data, from the view of the recorded side."""

    SENT = "sent"
    RECEIVED = "received"


@attrs.frozen
class Passage:
    """Some bytes that passed at one moment."""

    time: float
    """When they passed, in seconds of Trio's clock since the start of the recording."""

    direction: Direction
    """Whether they were sent or received."""

    data: bytes = attrs.field(repr=False)
    """The bytes themselves: with TLS, ciphertext."""


@attrs.frozen
class WireRecord:
    """The visible parts of a TLS record without its keys (RFC 9846 section 5.1)."""

    time: float
    """When its last byte passed, in seconds since the start of the recording."""

    direction: Direction
    """Whether it was sent or received."""

    content_type: str
    """``"handshake"``, ``"application_data"``, ``"alert"``, ``"change_cipher_spec"`` or
    ``"heartbeat"``, or ``"unknown"`` if it is not a TLS record. Records that TLS 1.3 encrypts are
    ``"application_data"``, whatever they contain (RFC 9846 section 5.2).
    """

    size: int
    """Its size, including the header, in bytes."""

    is_encrypted: bool
    """Whether its contents are encrypted."""

    messages: tuple[str, ...] = ()
    """The names of the handshake messages that end in it (RFC 9846 section 4, RFC 5246 section
    7.4), such as ``"ClientHello"``, or the name of its alert, such as ``"protocol_version"``.
    Encrypted ones are not included.
    """

    def __str__(self) -> str:
        if self.messages:
            return f"{self.content_type} ({', '.join(self.messages)})"
        return f"{self.content_type} (encrypted)" if self.is_encrypted else self.content_type


@attrs.frozen
class Flight:
    """Consecutive records in one direction."""

    records: tuple[WireRecord, ...]
    """The records, at least one, in order."""

    @property
    def direction(self) -> Direction:
        """Whether they were sent or received."""
        return self.records[0].direction

    @property
    def time(self) -> float:
        """When its first record had passed, in seconds since the start of the recording."""
        return self.records[0].time

    @property
    def duration(self) -> float:
        """The time from the end of the first record to the end of the last one, in seconds."""
        return self.records[-1].time - self.records[0].time

    @property
    def size(self) -> int:
        """The total size of its records, in bytes."""
        return sum(record.size for record in self.records)


@attrs.define(eq=False)
class Conversation:
    """The data that passed through a :class:`RecordedStream`, in order.

    Only the first ``max_bytes`` bytes of both directions together are kept; later bytes are only
    counted.
    """

    max_bytes: int = attrs.field(converter=operator.index, validator=attrs.validators.ge(0))
    """How many bytes are kept at most."""

    start: float = attrs.field(factory=trio.current_time)
    """When the recording began, by Trio's clock."""

    _passages: list[Passage] = attrs.field(factory=list[Passage], init=False, repr=False)
    _kept: int = attrs.field(default=0, init=False)
    _totals: dict[Direction, int] = attrs.field(
        factory=lambda: dict.fromkeys(Direction, 0), init=False
    )

    @property
    def passages(self) -> tuple[Passage, ...]:
        """The data that was kept."""
        return tuple(self._passages)

    @property
    def bytes_sent(self) -> int:
        """How many bytes were sent, kept or not."""
        return self._totals[Direction.SENT]

    @property
    def bytes_received(self) -> int:
        """How many bytes were received, kept or not."""
        return self._totals[Direction.RECEIVED]

    @property
    def bytes_not_kept(self) -> int:
        """How many bytes of both directions were not kept."""
        return self.bytes_sent + self.bytes_received - self._kept

    @property
    def records(self) -> tuple[WireRecord, ...]:
        """Its TLS records, computed on each access: see :func:`records_of`."""
        return records_of(self._passages)

    @property
    def flights(self) -> tuple[Flight, ...]:
        """Its records, grouped by direction: see :func:`flights_of`."""
        return flights_of(self.records)

    def data(self, direction: Direction) -> bytes:
        """Return all kept data of one direction as one bytes object."""
        return b"".join(item.data for item in self._passages if item.direction is direction)

    def add(self, direction: Direction, data: Data) -> None:
        """Record bytes that have passed now. You can use this in your own streams."""
        count = memoryview(data).nbytes
        if not count:
            return
        # once it is used up, nothing is kept any more, so there are no gaps
        room = self.max_bytes - self._kept
        self._totals[direction] += count
        if room > 0:
            kept = bytes(memoryview(data).cast("B")[:room])
            time = trio.current_time() - self.start
            self._passages.append(Passage(time, direction, kept))
            self._kept += len(kept)


@attrs.define(eq=False, init=False)
class RecordedStream(trio.abc.HalfCloseableStream):
    """A stream that passes all data on to another stream, and records it.

    Put a :class:`~trio_tlsbio.TLSStream` over it to see the handshake on the wire::

        recorded = RecordedStream(await trio.open_tcp_stream(host, 443))
        async with TLSStream(recorded, ssl_context, server_hostname=host) as stream:
            await stream.do_handshake()
        for flight in recorded.conversation.flights:
            print(flight.direction.value, *flight.records)

    Cancellation is as safe as with the underlying stream: over a :class:`trio.SocketStream`, a
    :class:`~trio_tlsbio.TLSStream` or a stream in :func:`~trio_tlsbio.open_pump`, it reports how
    much of a cancelled send was sent. So a :class:`~trio_tlsbio.TLSStream` over it gives the same
    guarantees as without it.

    Args:
      transport_stream: The stream to use. This stream owns it from now on.
      max_bytes: How many bytes to keep of both directions together.

    Raises:
      ValueError: if ``max_bytes`` is negative.
    """

    transport_stream: trio.abc.Stream
    """The underlying stream."""

    conversation: Conversation
    """The data that has passed so far."""

    _socket: SocketCalls | None
    _bytes_committed: int
    _send_conflict: ConflictDetector

    def __init__(self, transport_stream: trio.abc.Stream, *, max_bytes: int = 1024 * 1024) -> None:
        if operator.index(max_bytes) < 0:
            raise ValueError("max_bytes must not be negative")
        self.transport_stream = transport_stream
        self.conversation = Conversation(max_bytes)
        self._socket = (
            SocketCalls(transport_stream)
            if isinstance(transport_stream, trio.SocketStream)
            else None
        )
        self._bytes_committed = 0
        self._send_conflict = ConflictDetector(
            "another task is currently sending data on this stream"
        )

    def __repr__(self) -> str:
        return f"<RecordedStream over {self.transport_stream!r}>"

    @property
    def is_cancel_safe(self) -> bool:
        """True if :attr:`bytes_committed` shows how much a cancelled :meth:`send_all` has sent.
        This depends on the underlying stream.
        """
        return self._socket is not None or self._counting is not None

    @property
    def _counting(self) -> CountingStream | None:
        stream = self.transport_stream
        return stream if isinstance(stream, CountingStream) and stream.is_cancel_safe else None

    @property
    def bytes_committed(self) -> int:
        """How many bytes the underlying stream has accepted."""
        return self._bytes_committed

    def _sent(self, data: Data) -> None:
        self._bytes_committed += memoryview(data).nbytes
        self.conversation.add(Direction.SENT, data)

    @enable_ki_protection
    async def send_all(self, data: Data) -> None:
        """Send all of ``data``.

        If this is cancelled or fails, the data that was sent before is recorded, as far as the
        underlying stream reports it.

        Raises:
          trio.BrokenResourceError: and any other exception of the underlying stream.
        """
        with self._send_conflict, memoryview(data) as whole, whole.cast("B") as view:
            if self._socket is not None:
                await self._send_to(self._socket, view)
            elif (counting := self._counting) is not None:
                before = counting.bytes_committed
                try:
                    await counting.send_all(view)
                finally:
                    self._sent(view[: counting.bytes_committed - before])
            else:
                await self.transport_stream.send_all(view)
                self._sent(view)

    async def _send_to(self, socket: SocketCalls, view: memoryview) -> None:
        await trio.lowlevel.checkpoint()
        socket.check_socket()
        start = 0
        while start < len(view):
            count = socket.write_nowait([view[start:]])
            if not count:
                await socket.wait_writable()  # if this is cancelled, nothing was sent
                continue
            self._sent(view[start : start + count])
            start += count

    @enable_ki_protection
    def send_nowait(self, data: Data) -> int:
        """Send as much as possible without waiting, and return the number of bytes. If the
        underlying stream can't send without waiting, return 0.
        """
        with self._send_conflict, memoryview(data) as whole, whole.cast("B") as view:
            if self._socket is not None:
                self._socket.check_socket()
                count = self._socket.write_nowait([view])
            elif (counting := self._counting) is not None:
                count = counting.send_nowait(view)
            else:
                count = 0
            self._sent(view[:count])
            return count

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the underlying stream might accept more data."""
        with self._send_conflict:
            await self.transport_stream.wait_send_all_might_not_block()

    @enable_ki_protection
    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Receive from the underlying stream."""
        data = await self.transport_stream.receive_some(max_bytes)
        self.conversation.add(Direction.RECEIVED, data)
        return data

    @enable_ki_protection
    def receive_nowait(self) -> bytes | None:
        """Return the data that has already arrived, or ``b""`` at the end. Return None if nothing
        has arrived, or if the underlying stream can't receive without waiting.
        """
        data: bytes | None = None
        if self._socket is not None:
            data = self._socket.read_nowait()
        elif isinstance(self.transport_stream, ImmediateStream):
            data = self.transport_stream.receive_nowait()
        if data:
            self.conversation.add(Direction.RECEIVED, data)
        return data

    def end_direction(self) -> bool:
        """End our direction of the underlying socket, if there is one, as a
        :class:`~trio_tlsbio.TLSStream` does before it waits for the peer's end.

        Returns:
          True if there is a socket: closing it too early can destroy data in flight.
        """
        if self._socket is not None:
            return self._socket.end_direction()
        stream = self.transport_stream
        return isinstance(stream, LingeringStream) and stream.end_direction()

    def peer_has_gone(self) -> bool:
        """Return True if the peer has ended the transport: see
        :meth:`trio_tlsbio.TLSStream.peer_has_gone`.
        """
        if self._socket is not None:
            return self._socket.peer_has_gone()
        stream = self.transport_stream
        return isinstance(stream, WatchedStream) and stream.peer_has_gone()

    async def send_eof(self) -> None:
        """End our direction of the underlying stream.

        Raises:
          TypeError: if the underlying stream does not support this.
        """
        if not isinstance(self.transport_stream, trio.abc.HalfCloseableStream):
            raise TypeError(f"{self.transport_stream!r} can't be closed in one direction")
        with self._send_conflict:
            await self.transport_stream.send_eof()

    async def aclose(self) -> None:
        """Close the underlying stream. The recording is kept."""
        await self.transport_stream.aclose()


################################################################
# Records and flights
################################################################

_CONTENT_TYPES = {int(kind): kind.name.lower() for kind in ContentType}
_MESSAGES = {int(kind): kind.message for kind in HandshakeType}
_ALERTS = {int(alert): alert.description for alert in Alert}

_TLS13 = b"\x03\x04"


def records_of(passages: Iterable[Passage]) -> tuple[WireRecord, ...]:
    """Split the data into TLS records, in the order in which they were complete.

    An incomplete record at the end is omitted.
    """
    return tuple(_Reader().read(passages))


def flights_of(records: Iterable[WireRecord]) -> tuple[Flight, ...]:
    """Group records: a new :class:`Flight` begins each time the direction changes."""
    flights: list[list[WireRecord]] = []
    for record in records:
        if not flights or flights[-1][0].direction is not record.direction:
            flights.append([])
        flights[-1].append(record)
    return tuple(Flight(tuple(flight)) for flight in flights)


@attrs.define(eq=False)
class _Side:
    """The state of one direction between records."""

    records: Records = attrs.field(factory=partial(Records, is_single=True))
    # A message may span several records.
    handshake: bytearray = attrs.field(factory=bytearray, repr=False)
    has_changed_cipher: bool = False


@attrs.define(eq=False)
class _Reader:
    """Parses both directions of a conversation, as far as it is in plaintext."""

    _sides: dict[Direction, _Side] = attrs.field(
        factory=lambda: {direction: _Side() for direction in Direction}
    )
    _is_tls13: bool = False

    def read(self, passages: Iterable[Passage]) -> Iterator[WireRecord]:
        for passage in passages:
            side = self._sides[passage.direction]
            side.records.feed(passage.data)
            while record := bytes(side.records.take()):
                content_type = record[0] if record[1:2] == b"\x03" else 0
                # TLS 1.3 encrypts only records of type application_data; its change_cipher_spec has
                # no meaning (RFC 9846 sections 5.2 and E.4).
                is_encrypted = content_type in _CONTENT_TYPES and (
                    content_type == ContentType.APPLICATION_DATA
                    or (side.has_changed_cipher and not self._is_tls13)
                )
                if content_type == ContentType.CHANGE_CIPHER_SPEC:
                    side.has_changed_cipher = True
                yield WireRecord(
                    time=passage.time,
                    direction=passage.direction,
                    content_type=_CONTENT_TYPES.get(content_type, "unknown"),
                    size=len(record),
                    is_encrypted=is_encrypted,
                    messages=() if is_encrypted else self._messages(side, content_type, record),
                )

    def _messages(self, side: _Side, content_type: int, record: bytes) -> tuple[str, ...]:
        body = record[HEADER_BYTES:]
        if content_type == ContentType.ALERT and len(body) == 2:
            return (_ALERTS.get(body[1], f"alert {body[1]}"),)
        if content_type == ContentType.HANDSHAKE:
            side.handshake += body
            return tuple(self._handshake_messages(side.handshake))
        return ()

    def _handshake_messages(self, buffer: bytearray) -> Iterator[str]:
        """Take complete messages from the buffer, and yield their names."""
        while len(buffer) >= MESSAGE_HEADER_BYTES:
            kind, end = buffer[0], message_bytes(buffer)
            if len(buffer) < end:
                return
            body = bytes(buffer[MESSAGE_HEADER_BYTES:end])
            del buffer[:end]
            if kind == HandshakeType.SERVER_HELLO:
                self._is_tls13 = _chosen_version(body) == _TLS13
                if body[2:34] == HELLO_RETRY_REQUEST:
                    yield "HelloRetryRequest"
                    continue
            yield _MESSAGES.get(kind, f"message {kind}")


def _chosen_version(server_hello: bytes) -> bytes:
    """Return the version that a ServerHello chose (RFC 9846 sections 4.2.3 and 4.3.1)."""
    start = 2 + 32
    start += 1 + (server_hello[start] if start < len(server_hello) else 0)  # the session id
    start += 2 + 1 + 2  # cipher suite, compression method, length of the extensions
    while start + 4 <= len(server_hello):
        extension = int.from_bytes(server_hello[start : start + 2], "big")
        end = start + 4 + int.from_bytes(server_hello[start + 2 : start + 4], "big")
        if extension == ExtensionType.SUPPORTED_VERSIONS:
            return server_hello[start + 4 : end]
        start = end
    return server_hello[:2]
