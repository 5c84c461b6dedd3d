"""How ciphertext moves over one transport: counted to the byte, by one sender and one receiver.

Every task that needs the wire to move calls :meth:`Transport.flush` or :meth:`Transport.receive`.
The first to come does the work; the others wait until it is through or gives up, and look again
whether what they need is there. So no task depends on another one's life, and a cancelled one
leaves nothing behind but ciphertext that waits its turn.
"""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Sequence
from contextlib import suppress
from typing import ClassVar, Generic, TypeVar

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_tlsbio._core.errors import Origin, TLSError, TruncationError, caused_by
from trio_tlsbio._core.inbox import Inbox
from trio_tlsbio._core.outbox import Outbox
from trio_tlsbio._core.records import RECORD_BYTES, Data, byte_view

from .sockets import RECEIVE_BYTES
from .turns import Turn, beside

__all__ = ["SLICE_BYTES", "Transport", "slices"]

SLICE_BYTES = 16 * RECORD_BYTES
"""How much goes to a transport at a time, in bytes."""

# How often it is read again, as long as that much was there. To wait costs more than to read.
_MORE_READS = 3

# How much that the peer has made us write may wait to be sent while receiving goes on, in bytes.
_MOST_ANSWERED = 2 * SLICE_BYTES

StreamT = TypeVar("StreamT", bound=trio.abc.Stream)


def slices(data: Data) -> tuple[Sequence[bytes | memoryview], int]:
    """Cut data where other tasks get their turn, and return its size in bytes, too. There is always
    a first slice, if an empty one.
    """
    view = byte_view(data)
    size = len(view)
    return [view[start : start + SLICE_BYTES] for start in range(0, size or 1, SLICE_BYTES)], size


@attrs.define(eq=False)
class Transport(ABC, Generic[StreamT]):
    """Moves the ciphertext of one connection over one stream."""

    #: Whether a cancelled send says how much it has sent.
    counts: ClassVar[bool]

    _stream: StreamT
    inbox: Inbox
    outbox: Outbox
    _origin: Origin
    _sending: Turn = attrs.field(factory=lambda: Turn("sending"), init=False)
    _receiving: Turn = attrs.field(factory=lambda: Turn("receiving"), init=False)
    # What broke the transport, whichever direction met it.
    _broken: TLSError | None = attrs.field(default=None, init=False)
    _bytes_sent: int = attrs.field(default=0, init=False)
    _flushing: int = attrs.field(default=0, init=False)  # how many tasks
    #: Whether anything was received since this was last reset.
    has_heard: bool = attrs.field(default=False, init=False)
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
    def write_nowait(self, pieces: Sequence[Data]) -> int:
        """Send what the transport takes at once, and return how many bytes that was."""

    @abstractmethod
    def _receive_some(self) -> Awaitable[Data | None]:
        """Receive from the stream. None if :meth:`read_nowait` has what came, or nothing did."""

    def read_nowait(self) -> Data | None:
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
                data = self.read_nowait()
                if data is None:
                    break
                if not data:
                    self._note_end()
                    break
                self.has_heard = True
                self.inbox.feed(data)
                fed += len(data)
        except (trio.ClosedResourceError, trio.BusyResourceError):
            pass
        except TruncationError as exc:
            self._note_truncation(exc)
        except Exception as exc:
            self._break(self._receiving, exc)
        return fed

    def check_receive(self) -> None:
        """Raise :exc:`TLSError` if the transport can't receive any more."""
        self._receiving.check()

    @property
    def is_clogged(self) -> bool:
        """Whether nothing more is to be received for now: the peer makes us answer (requests for
        a certificate, say), and doesn't read that.
        """
        return self.outbox.bytes_answered > _MOST_ANSWERED

    @property
    def is_receiving(self) -> bool:
        """Whether a task waits for what comes next."""
        return self._receiving.is_taken

    @property
    def has_ended(self) -> bool:
        """Whether nothing more can be received."""
        return self.inbox.has_ended or self._receiving.error is not None

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

    def note_sent(self) -> None:
        """Note that something was sent past this: closing must not destroy it on its way."""
        self._bytes_sent += 1

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
        target = self._bytes_sent + self.outbox.size
        self._flushing += 1
        try:
            while (
                self._bytes_sent < target
                or (self._flushing == 1 and self.outbox.pieces)
                or (self.is_unfinished and not self._sending.is_taken)
            ):
                if self._sending.is_taken:
                    await self._sending.wait()
                else:
                    await self._send_alone()
        except BaseException as exc:
            if not isinstance(exc, Exception):  # interrupted, and somebody may have relied on it
                self._have_it_sent()
            raise
        finally:
            self._flushing -= 1

    async def _send_alone(self) -> None:
        self.check_send()
        if not self.counts:
            await trio.lowlevel.checkpoint_if_cancelled()
        self._sending.is_taken = True
        try:
            await self._send_some(self.outbox.pieces)
        except (trio.BusyResourceError, trio.ClosedResourceError):
            raise  # nothing was sent
        except trio.BrokenResourceError as exc:
            raise self._break(self._sending, exc) from exc
        except Exception as exc:
            self._break(self._sending, exc)
            raise
        except BaseException:  # cancelled, or Ctrl-C; in a group where the stream has a nursery
            if not self.counts:
                self._sending.error = self._origin.claim(
                    TLSError(
                        "an earlier send was cancelled half-way, and this transport can't tell "
                        "how much of it went out: nothing more can be sent, only received"
                    )
                )
            raise
        finally:
            self._sending.leave()

    def flush_nowait(self) -> bool:
        """Send what can be sent at once, unless another task is sending. Never raises: the next
        call that has to send does.

        Returns:
          Whether everything is sent.
        """
        sending, outbox = self._sending, self.outbox
        if sending.is_taken or sending.error is not None:
            return False
        pieces = outbox.pieces
        if pieces or self.is_unfinished:
            try:
                sent = self.write_nowait(pieces)
            except (trio.BusyResourceError, trio.ClosedResourceError):
                return False
            except Exception as exc:
                self._break(self._sending, exc)
                return False
            self._bytes_sent += sent
            outbox.mark_sent(sent)
            if pieces:
                self._have_it_sent()
                return False
        return not self.is_unfinished

    @property
    def _is_left_to_send(self) -> bool:
        """Whether something waits to be sent that nobody sends, and that can't wait."""
        return (
            not self._sending.is_taken
            and self._sending.error is None
            and bool(self.outbox.pieces)
            and (self.counts or not self.may_wait)
        )

    def flush_later(self) -> None:
        """Send what waits now if that is possible at once, else with whatever is sent next.

        Meant for what the peer can do without, and may not be ready to read.
        """
        self.flush_nowait()
        self.may_wait = bool(self.outbox.pieces)

    def _mark_sent(self, count: int) -> None:
        self.outbox.mark_sent(count)
        self._bytes_sent += count

    async def wait_send_might_not_block(self) -> None:
        """Wait until the transport might take more."""
        while self._sending.is_taken:
            await self._sending.wait()
        self.check_send()
        self._sending.is_taken = True
        try:
            await self._stream.wait_send_all_might_not_block()
        except (trio.BusyResourceError, trio.ClosedResourceError):
            raise
        except trio.BrokenResourceError as exc:
            raise self._break(self._sending, exc) from exc
        finally:
            self._sending.leave()
            self._have_it_sent()  # who could not send meanwhile

    def _break(self, turn: Turn, exc: Exception) -> TLSError:
        """Note that the transport broke in one direction. Both can't be used from now on; that the
        other one can't is found when it is. Return what to raise.
        """
        if isinstance(exc, TLSError):
            self._origin.adopt(exc)
        if not isinstance(exc, trio.BrokenResourceError):
            exc = _without_traceback(exc)  # the original is raised, and would hold this in a cycle
        words = str(exc) or type(exc).__name__
        error = TLSError(f"the transport broke while {turn.purpose}: {words}")
        self._broken = self._origin.claim(caused_by(error, exc))
        self._sending.error = self._sending.error or self._broken
        if turn is self._receiving:
            turn.error = self._broken
        return self._broken.again()

    def give_up_sending(self, error: TLSError) -> None:
        """Have every call that would send raise ``error`` from now on."""
        self._sending.error = self._sending.error or self._origin.claim(error)

    @property
    def can_send(self) -> bool:
        """Whether nothing is known that keeps the transport from sending."""
        return self._sending.error is None

    def check_send(self) -> None:
        """Raise :exc:`TLSError` if the transport can't send any more."""
        self._sending.check()

    ################################################################
    # Receiving
    ################################################################

    # All in one: another coroutine would cost each receive half a microsecond.
    async def receive(  # noqa: C901, PLR0911, PLR0912
        self, *, while_flushing: bool = False
    ) -> int:
        """Wait for something to happen that may have fed the connection. Look again afterwards.

        Only one task at a time receives from the stream. Others wait until it has, for nothing.
        Ciphertext that waits to be sent moves on meanwhile, unless somebody is flushing already.

        Returns:
          How many bytes were fed.

        Raises:
          TLSError: if the transport can't receive any more.
        """
        receiving = self._receiving
        if self.inbox.is_behind and not self.is_clogged:
            # There is more to decrypt before anything else. Other tasks have their turn.
            self.flush_nowait()
            await trio.lowlevel.checkpoint()
            return 0
        if self.outbox.pieces and not while_flushing:
            return await self._flush_and_receive()
        if receiving.is_taken:
            await receiving.wait()
            return 0
        if receiving.error is not None:
            raise receiving.error.again()
        receiving.is_taken = True
        data: Data | None = None
        try:
            data = await self._receive_some()
            if data is None and receiving.error is None:
                data = self.read_nowait()
        except TruncationError as exc:
            self._note_truncation(exc)
            return 0
        except trio.ClosedResourceError:
            if not self._is_interrupted():
                raise
        except trio.BusyResourceError:
            raise
        except trio.BrokenResourceError as exc:
            raise self._break(self._receiving, exc) from exc
        except Exception as exc:
            self._break(self._receiving, exc)
            raise
        finally:
            receiving.is_taken = False
            if receiving.waiting is not None:
                receiving.waiting.unpark_all()
        if data is None:
            self.check_receive()  # another task may have met an error meanwhile
            return 0
        if not data:
            self._note_end()
            return 0
        self.has_heard = True
        self.inbox.feed(data)
        more = self.receive_nowait(_MORE_READS) if len(data) == RECEIVE_BYTES else 0
        return len(data) + more

    def _note_end(self) -> None:
        if self._broken is not None:
            # A write has met the reset already, and after that a socket looks as if it had ended.
            self._receiving.error = self._broken
        else:
            self.inbox.feed_eof()

    def _note_truncation(self, exc: TruncationError) -> None:
        """Note that the outer TLS stream was truncated: here that is an end, to which the inner
        close_notify may be missing.
        """
        self._origin.adopt(exc)
        self._note_end()

    def wake_receiver(self) -> None:
        """Make a task that waits in :meth:`receive` look again."""
        if self._receiving.is_taken:
            self._interrupt_receive()

    def _have_it_sent(self) -> None:
        """Make a receiver that waits look again, if there is something left to send."""
        if self._is_left_to_send:
            self.wake_receiver()

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


def _without_traceback(exc: Exception) -> Exception:
    """Return a copy of an exception of other code, which is going to be raised itself."""
    try:
        return copy.copy(exc)
    except Exception:
        return RuntimeError(f"{type(exc).__name__}: {exc}")
