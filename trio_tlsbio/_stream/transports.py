"""How ciphertext moves over one transport: counted to the byte, by one sender and one receiver.

Every task that needs the wire to move calls :meth:`Transport.flush` or :meth:`Transport.receive`.
The first to come does the work; the others wait until it is through or gives up, and look again
whether what they need is there. So no task depends on another one's life, and a cancelled one
leaves nothing behind but ciphertext that waits its turn.
"""

from __future__ import annotations

import copy
import sys
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import ClassVar, Generic, TypeVar

if sys.platform == "linux":
    pass

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_tlsbio._core.connection import SLICE_BYTES, TLSConnection
from trio_tlsbio._core.errors import TLSError, TruncationError, caused_by
from trio_tlsbio._core.records import Data
from trio_tlsbio._stream import sockets

from .abstract import CountingStream, ImmediateStream, LingeringStream, WatchedStream
from .sockets import MOST_PIECES, RECEIVE_BYTES, SocketCalls, closed_error, stream_error
from .turns import beside

__all__ = ["Transport", "transport_for"]

# How often it is read again, as long as that much was there. To wait costs more than to read.
_MORE_READS = 3

# How much that the peer has made us write may wait to be sent while receiving goes on, in bytes.
_MOST_ANSWERED = 2 * SLICE_BYTES

StreamT = TypeVar("StreamT", bound=trio.abc.Stream)


@attrs.define(eq=False)
class Transport(ABC, Generic[StreamT]):
    """Moves the ciphertext of one connection over one stream."""

    #: Whether a cancelled send says how much it has sent.
    counts: ClassVar[bool]

    _stream: StreamT
    _connection: TLSConnection
    _bytes_sent: int = attrs.field(default=0, init=False)
    _flushing: int = attrs.field(default=0, init=False)
    _sending: bool = attrs.field(default=False, init=False)
    _receiving: bool = attrs.field(default=False, init=False)
    # Where tasks wait for the one that sends or receives; made by the first of them.
    _sender_left: trio.lowlevel.ParkingLot | None = attrs.field(default=None, init=False)
    _receiver_left: trio.lowlevel.ParkingLot | None = attrs.field(default=None, init=False)
    _send_error: TLSError | None = attrs.field(default=None, init=False)
    _receive_error: TLSError | None = attrs.field(default=None, init=False)
    # What broke the transport, whichever direction met it.
    _broken: TLSError | None = attrs.field(default=None, init=False)
    #: Whether a byte was received.
    has_received: bool = attrs.field(default=False, init=False)
    #: Whether the transport ended.
    eof_received: bool = attrs.field(default=False, init=False)
    #: Whether what is received from now on is thrown away.
    discards: bool = attrs.field(default=False, init=False)
    #: Whether what is unsent may wait until something else is sent.
    may_wait: bool = attrs.field(default=False, init=False)
    #: Whether the underlying stream may have left some of what it took on itself unsent.
    is_unfinished: bool = attrs.field(default=False, init=False)

    ################################################################
    # What each kind of transport does in its own way
    ################################################################

    @abstractmethod
    async def _send_some(self, pieces: Sequence[Data]) -> None:
        """Send some of what is in ``pieces``, and mark what was sent. More may be added to them
        while this waits.
        """

    @abstractmethod
    def _send_some_nowait(self, pieces: Sequence[Data]) -> int:
        """Send what the transport takes at once, and return how many bytes that was."""

    @abstractmethod
    def _receive_some(self) -> Awaitable[Data | None]:
        """Receive from the stream. None if :meth:`_read_nowait` has what came, or nothing did."""

    def _read_nowait(self) -> Data | None:
        """Return what has arrived; None if nothing has."""
        return None

    @abstractmethod
    def _interrupt_receive(self) -> None:
        """Make the task in :meth:`_receive_some` return, or raise a ClosedResourceError."""

    def _is_interrupted(self) -> bool:
        """Whether a ClosedResourceError in :meth:`_receive_some` is due to that."""
        return False

    def peer_has_gone(self) -> bool:
        """Whether the peer has ended its direction, or all of the transport, as far as that can be
        seen without receiving what came before.
        """
        return False

    def receive_nowait(self, most_reads: int = 16) -> int:
        """Feed the connection what has arrived already, as far as the transport can tell, and
        return how many bytes that was. Never raises: the next call that has to receive does.
        """
        fed = 0
        if self.has_ended:
            return fed  # after a reset, a socket that is read again looks as if it had ended
        try:
            for _ in range(most_reads):  # a fast peer could keep us here
                data = self._read_nowait()
                if data is None:
                    break
                self._feed(data)
                if not data:
                    break
                fed += len(data)
        except (trio.ClosedResourceError, trio.BusyResourceError):
            pass
        except TruncationError as exc:
            self._feed(self._truncated(exc))
        except Exception as exc:
            self._break("receiving", exc)
        return fed

    def check_receive(self) -> None:
        """Raise :exc:`TLSError` if the transport can't receive any more."""
        if self._receive_error is not None:
            raise self._receive_error.again()

    @property
    def is_clogged(self) -> bool:
        """Whether nothing more is to be received for now: the peer makes us answer (requests for
        a certificate, say), and doesn't read that.
        """
        return self._connection.bytes_answered > _MOST_ANSWERED

    @property
    def is_receiving(self) -> bool:
        """Whether a task waits for what comes next."""
        return self._receiving

    @property
    def has_ended(self) -> bool:
        """Whether nothing more can be received."""
        return self.eof_received or self._receive_error is not None

    def unacknowledged(self) -> int | None:
        """Return how many bytes the peer's system has not acknowledged yet; None if that can't be
        known.
        """
        return None

    def end_direction(self) -> bool:
        """End our direction of the transport, if it has one that ends by itself. Never raises.

        Returns:
          Whether closing the transport before the peer has closed may destroy what is on its way.
        """
        return False

    ################################################################
    # Sending
    ################################################################

    @property
    def has_sent(self) -> bool:
        """Whether anything was sent so far, that could be lost on its way."""
        return self._bytes_sent > 0

    async def flush(self) -> None:
        """Send the ciphertext that waits now.

        What other tasks add meanwhile is theirs to wait for. Those who add some without waiting
        (a receiver, say) rely on the last one here, who sends that too before it leaves.

        Cancelled, it leaves the rest to the next one who sends or receives, if the transport
        counts.

        Raises:
          TLSError: if the transport can't send any more.
        """
        self.check_send()
        self.may_wait = False
        target = self._bytes_sent + self._connection.bytes_to_send
        self._flushing += 1
        try:
            while (
                self._bytes_sent < target
                or (self._flushing == 1 and self._connection.unsent)
                or (self.is_unfinished and not self._sending)
            ):
                if self._sending:
                    await self._wait_for_sender()
                else:
                    await self._send_alone()
        except BaseException as exc:
            if not isinstance(exc, Exception):  # interrupted, and somebody may have relied on it
                self._wake_receiver()
            raise
        finally:
            self._flushing -= 1

    async def _send_alone(self) -> None:
        self.check_send()
        if not self.counts:
            await trio.lowlevel.checkpoint_if_cancelled()
        self._sending = True
        try:
            await self._send_some(self._connection.unsent)
        except (trio.BusyResourceError, trio.ClosedResourceError):
            raise  # nothing was sent
        except trio.BrokenResourceError as exc:
            raise self._break("sending", exc) from exc
        except Exception as exc:
            self._break("sending", exc)
            raise
        except BaseException:  # cancelled, or Ctrl-C; in a group where the stream has a nursery
            if not self.counts:
                self._send_error = self._connection.claim(
                    TLSError(
                        "an earlier send was cancelled half-way, and this transport can't tell "
                        "how much of it went out: nothing more can be sent, only received"
                    )
                )
            raise
        finally:
            self._stop_sending()

    async def _wait_for_sender(self) -> None:
        if self._sender_left is None:
            self._sender_left = trio.lowlevel.ParkingLot()
        await self._sender_left.park()

    def _stop_sending(self) -> None:
        self._sending = False
        if self._sender_left is not None:
            self._sender_left.unpark_all()

    def flush_nowait(self) -> bool:
        """Send what can be sent at once, unless another task is sending. Never raises: the next
        call that has to send does.

        Returns:
          Whether everything is sent.
        """
        if self._sending or self._send_error is not None:
            return False
        connection = self._connection
        if connection.unsent or self.is_unfinished:
            try:
                sent = self._send_some_nowait(connection.unsent)
            except (trio.BusyResourceError, trio.ClosedResourceError):
                return False
            except Exception as exc:
                self._break("sending", exc)
                return False
            self._bytes_sent += sent
            connection.mark_sent(sent)
            if connection.unsent:
                self._wake_receiver()
                return False
        return not self.is_unfinished

    @property
    def _is_left_to_send(self) -> bool:
        """Whether something waits to be sent that nobody sends, and that can't wait."""
        return (
            not self._sending
            and self._send_error is None
            and bool(self._connection.unsent)
            and (self.counts or not self.may_wait)
        )

    def flush_later(self) -> None:
        """Send what waits now if that is possible at once, else with whatever is sent next.

        Meant for what the peer can do without, and may not be ready to read.
        """
        self.flush_nowait()
        self.may_wait = bool(self._connection.unsent)

    def _mark_sent(self, count: int) -> None:
        self._connection.mark_sent(count)
        self._bytes_sent += count

    async def wait_send_might_not_block(self) -> None:
        """Wait until the transport might take more."""
        while self._sending:
            await self._wait_for_sender()
        self.check_send()
        self._sending = True
        try:
            await self._stream.wait_send_all_might_not_block()
        except (trio.BusyResourceError, trio.ClosedResourceError):
            raise
        except trio.BrokenResourceError as exc:
            raise self._break("sending", exc) from exc
        finally:
            self._stop_sending()
            self._wake_receiver()  # who could not send meanwhile

    def _break(self, doing: str, exc: Exception) -> TLSError:
        """Note that the transport broke: both directions hear of it, this one first. Return what
        to raise for that.
        """
        if isinstance(exc, TLSError):
            self._connection.adopt(exc)
        if not isinstance(exc, trio.BrokenResourceError):
            exc = _without_traceback(exc)  # the original is raised, and would hold this in a cycle
        words = str(exc) or type(exc).__name__
        error = TLSError(f"the transport broke while {doing}: {words}")
        self._broken = self._connection.claim(caused_by(error, exc))
        self._send_error = self._send_error or self._broken
        if doing == "receiving":
            self._receive_error = self._broken
        return self._broken.again()

    def give_up_sending(self, error: TLSError) -> None:
        """Have every call that would send raise ``error`` from now on."""
        self._send_error = self._send_error or self._connection.claim(error)

    @property
    def can_send(self) -> bool:
        """Whether nothing is known that keeps the transport from sending."""
        return self._send_error is None

    def check_send(self) -> None:
        """Raise :exc:`TLSError` if the transport can't send any more."""
        if self._send_error is not None:
            raise self._send_error.again()

    ################################################################
    # Receiving
    ################################################################

    # All in one: another coroutine would cost each receive half a microsecond.
    async def receive(self, *, while_flushing: bool = False) -> int:  # noqa: C901, PLR0912
        """Wait for something to happen that may have fed the connection. Look again afterwards.

        Only one task at a time receives from the stream. Others wait until it has, for nothing.
        Ciphertext that waits to be sent moves on meanwhile, unless somebody is flushing already.

        Returns:
          How many bytes were fed.

        Raises:
          TLSError: if the transport can't receive any more.
        """
        if self._connection.is_behind and not self.is_clogged:
            # There is more to decrypt before anything else. Other tasks have their turn.
            self.flush_nowait()
            await trio.lowlevel.checkpoint()
            return 0
        if self._connection.unsent and not while_flushing:
            return await self._flush_and_receive()
        if self._receiving:
            await self._wait_for_receiver()
            return 0
        if self._receive_error is not None:
            raise self._receive_error.again()
        self._receiving = True
        data: Data | None = None
        try:
            data = await self._receive_some()
            if data is None and self._receive_error is None:
                data = self._read_nowait()
        except TruncationError as exc:
            data = self._truncated(exc)
        except trio.ClosedResourceError:
            if not self._is_interrupted():
                raise
        except trio.BusyResourceError:
            raise
        except trio.BrokenResourceError as exc:
            raise self._break("receiving", exc) from exc
        except Exception as exc:
            self._break("receiving", exc)
            raise
        finally:
            self._receiving = False
            if self._receiver_left is not None:
                self._receiver_left.unpark_all()
        if data is None:
            self.check_receive()  # another task may have met an error meanwhile
            return 0
        self._feed(data)
        more = self.receive_nowait(_MORE_READS) if len(data) == RECEIVE_BYTES else 0
        return len(data) + more

    def _feed(self, data: Data) -> None:
        if data:
            self.has_received = True
            if not self.discards:
                self._connection.feed(data)
        elif self._broken is not None:
            # A write has met the reset already, and after that a socket looks as if it had ended.
            self._receive_error = self._broken
        else:
            self.eof_received = True
            self._connection.feed_eof()

    def _truncated(self, exc: TruncationError) -> bytes:
        """Return what the truncation of an outer TLS stream means here: an end, to which the inner
        close_notify may be missing.
        """
        self._connection.adopt(exc)
        return b""

    async def _wait_for_receiver(self) -> None:
        if self._receiver_left is None:
            self._receiver_left = trio.lowlevel.ParkingLot()
        await self._receiver_left.park()

    def _wake_receiver(self) -> None:
        """Make a receiver that waits look again: there is something left to send."""
        if self._receiving and self._is_left_to_send:
            self._interrupt_receive()

    async def _flush_and_receive(self) -> int:
        """Wait for either direction, and move whichever is ready. Receiving does without sending,
        if that fails; who has to send will hear of it.
        """
        if self.is_clogged:
            await self.flush()
            return 0
        if not self._is_left_to_send:
            return await self.receive(while_flushing=True)
        if not self.counts:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.flush()
            return 0

        async with beside(self._flush_quietly):
            return await self.receive(while_flushing=True)

    @enable_ki_protection  # a new task does not get it from the one that starts it
    async def _flush_quietly(self) -> None:
        with suppress(trio.Cancelled, Exception):
            await self.flush()


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

    def _send_some_nowait(self, pieces: Sequence[Data]) -> int:
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

    def _send_some_nowait(self, pieces: Sequence[Data]) -> int:
        sent = self._counting.send_nowait(b"".join(pieces))
        self.is_unfinished = self.is_unfinished or sent > 0  # what it took may wait there
        return sent

    def _read_nowait(self) -> bytes | None:
        stream = self._stream
        return stream.receive_nowait() if isinstance(stream, ImmediateStream) else None

    def peer_has_gone(self) -> bool:
        stream = self._stream
        return isinstance(stream, WatchedStream) and stream.peer_has_gone()

    def end_direction(self) -> bool:
        stream = self._stream
        return isinstance(stream, LingeringStream) and stream.end_direction()


@attrs.define(eq=False)
class _SocketTransport(Transport[trio.SocketStream]):
    """A socket, which says of every call how much it took."""

    counts = True

    _was_woken: bool = attrs.field(default=False, init=False)

    # The descriptor is asked for each time: that of a closed socket is -1, with which all calls
    # fail, while its old number may be another file's by now.
    _fileno: Callable[[], int] = attrs.field(init=False)

    @_fileno.default
    def _default_fileno(self) -> Callable[[], int]:
        fileno: Callable[[], int] = self._stream.socket.fileno
        return fileno

    async def _send_some(self, pieces: Sequence[Data]) -> None:
        if self._stream.socket.did_shutdown_SHUT_WR:
            raise trio.ClosedResourceError("can't send data after sending EOF")
        descriptor = self._fileno()
        if descriptor < 0:
            raise closed_error()
        try:
            await trio.lowlevel.wait_writable(descriptor)  # cancelled, it has sent nothing
            self._mark_sent(sockets.calls.write(self._fileno(), pieces[:MOST_PIECES]))
        except (BlockingIOError, InterruptedError):
            pass  # it was not that writable
        except OSError as exc:
            raise stream_error(exc) from exc

    def _send_some_nowait(self, pieces: Sequence[Data]) -> int:
        try:
            return sockets.calls.write(self._fileno(), pieces[:MOST_PIECES])
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            raise stream_error(exc) from exc

    def _receive_some(self) -> Awaitable[None]:
        # Waiting first: mostly nothing has come yet, and finding that out is not free.
        self._was_woken = False
        descriptor = self._fileno()
        if descriptor < 0:
            raise closed_error()
        return trio.lowlevel.wait_readable(descriptor)  # noqa: ASYNC105 - the caller awaits it

    def _read_nowait(self) -> bytes | None:
        try:
            return sockets.calls.read(self._fileno(), RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as exc:
            raise stream_error(exc) from exc

    def _interrupt_receive(self) -> None:
        # This wakes those who wait for the socket, and a wait costs no cancel scope. Nobody else
        # waits for it now, as nobody is sending.
        self._was_woken = True
        trio.lowlevel.notify_closing(self._stream.socket.fileno())

    def _is_interrupted(self) -> bool:
        return self._was_woken and self._fileno() >= 0

    def peer_has_gone(self) -> bool:
        try:
            return sockets.peer_has_gone(self._fileno())
        except OSError as exc:  # a system may report it once only
            if self._receive_error is None:
                broken = stream_error(exc)
                broken.__cause__ = exc
                self._break("receiving", broken)
            return True

    def unacknowledged(self) -> int | None:
        return sockets.calls.unacknowledged(self._fileno())

    def end_direction(self) -> bool:
        return SocketCalls(self._stream).end_direction()


def transport_for(stream: trio.abc.Stream, connection: TLSConnection) -> Transport[trio.abc.Stream]:
    """Return the best way to move a connection's ciphertext over ``stream``."""
    if isinstance(stream, trio.SocketStream):
        return _SocketTransport(stream, connection)  # type: ignore[return-value]
    if isinstance(stream, CountingStream) and stream.is_cancel_safe:
        return _NestedTransport(stream, connection, stream)
    return _StreamTransport(stream, connection)


def _without_traceback(exc: Exception) -> Exception:
    """Return a copy of an exception of other code, which is going to be raised itself."""
    try:
        return copy.copy(exc)
    except Exception:
        return RuntimeError(f"{type(exc).__name__}: {exc}")
