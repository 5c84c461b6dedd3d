"""The kinds of transports: sockets, streams that count what they have sent, and all others."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence

import attrs
import trio

from trio_tlsbio._core.errors import Origin
from trio_tlsbio._core.inbox import Inbox
from trio_tlsbio._core.outbox import Outbox
from trio_tlsbio._core.records import Data
from trio_tlsbio._stream import system_calls

from .abstract import CountingStream, ImmediateStream, LingeringStream, WatchedStream
from .sockets import NonWaitingSocket, closed_error, fileno_of, stream_error
from .transport import Transport

__all__ = ["transport_for"]


@attrs.define(eq=False)
class _StreamTransport(Transport[trio.abc.Stream]):
    """Any stream: a cancelled send does not say how much of it was sent."""

    counts = False

    _receive_scope: trio.CancelScope | None = attrs.field(default=None, init=False)

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
    """A stream that counts, such as another TLSStream."""

    counts = True

    _counting: CountingStream

    async def _send_some(self, pieces: Sequence[Data]) -> None:
        before = self._counting.bytes_committed
        self.is_unfinished = True  # until it says otherwise
        try:
            await self._counting.send_all(b"".join(pieces))
            self.is_unfinished = False
        finally:
            self._mark_sent(self._counting.bytes_committed - before)

    def write_nowait(self, pieces: Sequence[Data]) -> int:
        sent = self._counting.send_nowait(b"".join(pieces))
        self.is_unfinished = self.is_unfinished or sent > 0  # what it took may wait there
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
    """A socket, which says of every call how much it took."""

    counts = True

    _was_woken: bool = attrs.field(default=False, init=False)
    _fileno: Callable[[], int] = attrs.field(
        default=attrs.Factory(fileno_of, takes_self=True), init=False
    )

    async def _send_some(self, pieces: Sequence[Data]) -> None:
        self.check_socket()
        await trio.lowlevel.wait_writable(self._fileno())  # cancelled, it has sent nothing
        self._mark_sent(self.write_nowait(pieces))

    def _receive_some(self) -> Awaitable[None]:
        # Waiting first: mostly nothing has come yet, and finding that out is not free.
        self._was_woken = False
        descriptor = self._fileno()
        if descriptor < 0:
            raise closed_error()
        return trio.lowlevel.wait_readable(descriptor)  # noqa: ASYNC105 - the caller awaits it

    def _interrupt_receive(self) -> None:
        # This wakes those who wait for the socket, and a wait costs no cancel scope. No other task
        # waits for it now, as none is sending.
        self._was_woken = True
        trio.lowlevel.notify_closing(self._stream.socket.fileno())

    def _is_interrupted(self) -> bool:
        return self._was_woken and self._fileno() >= 0

    def peer_has_gone(self) -> bool:
        try:
            return system_calls.peer_has_gone(self._fileno())
        except OSError as exc:  # a system may report it once only
            if self._receiving.error is None:
                broken = stream_error(exc)
                broken.__cause__ = exc
                self._break(self._receiving, broken)
            return True


def transport_for(
    stream: trio.abc.Stream, inbox: Inbox, outbox: Outbox, origin: Origin
) -> Transport[trio.abc.Stream]:
    """Return the best way to move a connection's ciphertext over ``stream``."""
    if isinstance(stream, trio.SocketStream):
        return _SocketTransport(stream, inbox, outbox, origin)  # type: ignore[return-value]
    if isinstance(stream, CountingStream) and stream.is_cancel_safe:
        return _NestedTransport(stream, inbox, outbox, origin, stream)
    return _StreamTransport(stream, inbox, outbox, origin)
