"""The kinds of transports: sockets, streams that count the bytes they sent, and all other
streams.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from trio_tlsbio._core.errors import Origin
from trio_tlsbio._core.inbox import Inbox
from trio_tlsbio._core.outbox import Outbox
from trio_tlsbio._core.records import Data
from trio_tlsbio._stream import system_calls

from .interfaces import CountingStream, ImmediateStream, LingeringStream, WatchedStream
from .sockets import NonWaitingSocket, closed_error, fileno_of, stream_error
from .transport import Transport

__all__ = ["transport_for"]


@attrs.define(eq=False)
class _StreamTransport(Transport[trio.abc.Stream]):
    """Any other stream: after a cancelled send, the number of bytes sent is unknown."""

    is_cancel_safe = False

    _receive_scope: trio.CancelScope | None = None

    async def _receive_some(self) -> Data | None:
        with trio.CancelScope() as self._receive_scope:
            return await self._stream.receive_some()
        return None

    def _interrupt_receive(self) -> None:
        if self._receive_scope is not None:
            self._receive_scope.cancel()

    async def _send_some(self, pieces: Sequence[Data]) -> None:
        data = b"".join(pieces)
        await self._stream.send_all(data)
        self._mark_sent(len(data))

    def write_nowait(self, pieces: Sequence[Data]) -> int:
        return 0


@attrs.define(eq=False)
class _NestedTransport(_StreamTransport):
    """A stream that counts the bytes it sent, such as another TLSStream."""

    is_cancel_safe = True

    _counting: CountingStream = attrs.field(kw_only=True)  # the stream, by its other interface

    async def _send_some(self, pieces: Sequence[Data]) -> None:
        before = self._counting.bytes_committed
        self.is_unfinished = True  # until send_all() has returned
        try:
            await self._counting.send_all(b"".join(pieces))
            self.is_unfinished = False
        finally:
            self._mark_sent(self._counting.bytes_committed - before)

    def write_nowait(self, pieces: Sequence[Data]) -> int:
        sent = self._counting.send_nowait(b"".join(pieces))
        self.is_unfinished = self.is_unfinished or sent > 0  # the stream may have buffered them
        return sent

    def read_nowait(self) -> bytes | None:
        stream = self._stream
        return stream.receive_nowait() if isinstance(stream, ImmediateStream) else None

    def peer_has_gone(self) -> bool:
        stream = self._stream
        return isinstance(stream, WatchedStream) and stream.peer_has_gone()

    def end_direction(self) -> bool:
        stream = self._stream
        return isinstance(stream, LingeringStream) and stream.end_direction()


@attrs.define(eq=False)
class _SocketTransport(NonWaitingSocket, Transport[trio.SocketStream]):
    """A socket: each call returns how many bytes the socket took."""

    is_cancel_safe = True

    _was_woken: bool = False
    _fileno: Callable[[], int] = attrs.field(
        default=attrs.Factory(fileno_of, takes_self=True), init=False
    )

    async def _send_some(self, pieces: Sequence[Data]) -> None:
        self.check_socket()
        await trio.lowlevel.wait_writable(self._fileno())  # if this is cancelled, nothing was sent
        self._mark_sent(self.write_nowait(pieces))

    def _receive_some(self) -> Awaitable[None]:
        # Wait before reading: usually nothing has arrived yet, and a failed read is not free.
        self._was_woken = False
        descriptor = self._fileno()
        if descriptor < 0:
            raise closed_error()
        return trio.lowlevel.wait_readable(descriptor)  # noqa: ASYNC105 - the caller awaits it

    def discard_received(self) -> None:
        super().discard_received()
        # Unread data would turn closing into a reset: see end_direction(). No more than 1.5 MiB,
        # because a fast peer could keep us here.
        self.receive_nowait(16)

    def _interrupt_receive(self) -> None:
        # This wakes the tasks that wait for the socket, without the cost of a cancel scope for each
        # wait. No other task can be waiting for it, because no task is sending.
        self._was_woken = True
        trio.lowlevel.notify_closing(self._stream.socket.fileno())

    def _is_interrupted(self) -> bool:
        return self._was_woken and self._fileno() >= 0

    def peer_has_gone(self) -> bool:
        try:
            return system_calls.peer_has_gone(self._fileno())
        except OSError as exc:  # the system may report an error only once
            if self._receiving.error is None:
                broken = stream_error(exc)
                broken.__cause__ = exc
                self._note_broken(self._receiving, broken)
            return True


def transport_for(
    stream: trio.abc.Stream, inbox: Inbox, outbox: Outbox, origin: Origin
) -> Transport[trio.abc.Stream]:
    """Return the most efficient transport for ``stream``."""
    if isinstance(stream, trio.SocketStream):
        return _SocketTransport(stream, inbox, outbox, origin)  # type: ignore[return-value]
    if isinstance(stream, CountingStream) and stream.is_cancel_safe:
        return _NestedTransport(stream, inbox, outbox, origin, counting=stream)
    return _StreamTransport(stream, inbox, outbox, origin)
