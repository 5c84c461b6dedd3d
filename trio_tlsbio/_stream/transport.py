"""Moves ciphertext over one transport, counted to the byte, with one sender and one receiver.

Every task that needs progress on the wire calls :meth:`Transport.flush` or
:meth:`Transport.receive`. The first task does the work. The others wait until it has finished or
was cancelled, and then check their condition again. So no task depends on another one staying
alive, and a cancelled task leaves nothing behind but pending ciphertext.
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
from .turns import Turn, background_task

__all__ = ["SLICE_BYTES", "Transport", "release", "slices"]

SLICE_BYTES = 16 * RECORD_BYTES
"""The most bytes that are given to a transport at a time."""

# The most reads in one call. Waiting costs more than reading on, but a fast peer could keep us here
# forever, and the first use of memory costs more than both.
_MOST_READS = 4

# How many bytes of answers to the peer may be unsent before receiving stops.
_MOST_ANSWERED = 2 * SLICE_BYTES

StreamT = TypeVar("StreamT", bound=trio.abc.Stream)


def slices(data: Data) -> tuple[list[bytes | memoryview], int]:
    """Split data into slices, between which other tasks can run. Return the slices and the size of
    the data in bytes. There is always at least one slice, which may be empty.
    """
    view = byte_view(data)
    size = len(view)
    return [view[start : start + SLICE_BYTES] for start in range(0, size or 1, SLICE_BYTES)], size


def release(parts: list[bytes | memoryview]) -> None:
    """Release slices after an exception, whose traceback would keep the caller's buffer locked."""
    for part in parts:
        if isinstance(part, memoryview):
            part.release()


@attrs.define(eq=False)
class Transport(ABC, Generic[StreamT]):
    """Moves the ciphertext of one connection over one stream."""

    #: True if the number of bytes that a cancelled send has sent is known, so that sending can
    #: continue.
    is_cancel_safe: ClassVar[bool]

    _stream: StreamT
    inbox: Inbox
    outbox: Outbox
    _origin: Origin
    _sending: Turn = attrs.field(factory=Turn, init=False)
    _receiving: Turn = attrs.field(factory=Turn, init=False)
    # The error that broke the transport, in either direction.
    _broken: TLSError | None = None
    _bytes_sent: int = 0
    _flushing: int = 0  # number of tasks in flush()
    #: True if anything was received since the last send of plaintext, which resets this.
    received_since_send: bool = False
    #: True if the underlying stream may have accepted bytes without sending them.
    is_unfinished: bool = False

    ################################################################
    # Implemented by each kind of transport
    ################################################################

    @abstractmethod
    async def _send_some(self, pieces: Sequence[Data]) -> None:
        """Send some of ``pieces``, and mark what was sent. Other tasks may append to ``pieces``
        while this waits.
        """

    @abstractmethod
    def write_nowait(self, pieces: Sequence[Data]) -> int:
        """Send as much as the transport takes at once, and return the number of bytes."""

    @abstractmethod
    def _receive_some(self) -> Awaitable[Data | None]:
        """Receive from the stream. Return None if the data has to be read with :meth:`read_nowait`,
        or if nothing was received.
        """

    def read_nowait(self) -> Data | None:
        """Return the received data, or None if nothing has arrived."""
        return None

    @abstractmethod
    def _interrupt_receive(self) -> None:
        """Make the task in :meth:`_receive_some` return, or raise a ClosedResourceError."""

    def _is_interrupted(self) -> bool:
        """Return True if :meth:`_interrupt_receive` caused a ClosedResourceError in
        :meth:`_receive_some`.
        """
        return False

    def peer_has_gone(self) -> bool:
        """Return True if the peer has ended its direction or the whole transport, as far as this
        can be seen without receiving the data that came before.
        """
        return False

    def receive_nowait(self, most_reads: int = _MOST_READS) -> int:
        """Feed the connection the data that has already arrived, as far as the transport can tell,
        and return the number of bytes. This never raises: the next call that has to receive does.
        """
        fed = 0
        if self.has_ended:
            return fed  # reading a socket again after a reset looks like the end of the data
        try:
            for _ in range(most_reads):
                data = self.read_nowait()
                if data is None:
                    break
                if not data:
                    self._note_end()
                    break
                self.received_since_send = True
                self.inbox.feed(data)
                fed += len(data)
        except (trio.ClosedResourceError, trio.BusyResourceError):
            pass
        except TruncationError as exc:
            self._note_truncation(exc)
        except Exception as exc:
            self._note_broken(self._receiving, exc)
        return fed

    def discard_received(self) -> None:
        """Discard the data that was received and not decrypted, and all data that comes later."""
        self.inbox.discard()

    def check_receive(self) -> None:
        """Raise :exc:`TLSError` if the transport can't receive any more."""
        self._receiving.check()

    @property
    def is_clogged(self) -> bool:
        """True if receiving has to pause: the peer makes us send answers (to requests for a
        certificate, say) and doesn't read them.
        """
        return self.outbox.bytes_answered > _MOST_ANSWERED

    @property
    def is_held_up(self) -> bool:
        """True if received data has to wait undecrypted until the peer reads our answers: more
        requests in it would only add to them.
        """
        return self.inbox.is_behind and self.is_clogged and self.can_send

    @property
    def is_receiving(self) -> bool:
        """True if a task is waiting to receive."""
        return self._receiving.is_taken

    @property
    def has_ended(self) -> bool:
        """True if nothing more can be received."""
        return self.inbox.has_ended or self._receiving.error is not None

    def unacknowledged(self) -> int | None:
        """Return how many bytes the peer's system has not acknowledged yet, or None if that is
        unknown.
        """
        return None

    def end_direction(self) -> bool:
        """End our direction of the transport, if it can be ended separately. This never raises.

        Returns:
          True if closing the transport before the peer has closed can destroy data in flight.
        """
        return False

    ################################################################
    # Sending
    ################################################################

    @property
    def has_sent(self) -> bool:
        """True if anything was sent so far, which could be lost in flight."""
        return self._bytes_sent > 0

    def note_sent(self) -> None:
        """Note that something was sent without this transport, so that closing takes care not to
        lose it.
        """
        self._bytes_sent += 1

    async def flush(self) -> None:
        """Send the ciphertext that is pending now.

        This doesn't wait for ciphertext that other tasks add in the meantime. Tasks that add
        ciphertext without waiting for it (a receiver, say) rely on the last flushing task, which
        sends that too before it returns.

        If this is cancelled and the transport counts bytes, the next task that sends or receives
        sends the rest.

        Raises:
          TLSError: if the transport can't send any more.
        """
        self.check_send()
        self.outbox.may_wait = False
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
            # This task was interrupted, and another one may have relied on it.
            if not isinstance(exc, Exception):
                self._let_receiver_flush()
            raise
        finally:
            self._flushing -= 1

    async def _send_alone(self) -> None:
        self.check_send()
        if not self.is_cancel_safe:
            await trio.lowlevel.checkpoint_if_cancelled()
        self._sending.is_taken = True
        try:
            await self._send_some(self.outbox.pieces)
        except (trio.BusyResourceError, trio.ClosedResourceError):
            raise  # nothing was sent
        except trio.BrokenResourceError as exc:
            raise self._note_broken(self._sending, exc) from exc
        except Exception as exc:
            self._note_broken(self._sending, exc)
            raise
        except BaseException:  # cancelled, or Ctrl-C; in a group if the stream uses a nursery
            if not self.is_cancel_safe:
                self._sending.error = self._origin.claim(
                    TLSError(
                        "an earlier send was cancelled half-way, and this transport can't "
                        "report how much of it was sent: nothing more can be sent, only received"
                    )
                )
            raise
        finally:
            self._sending.leave()

    def flush_nowait(self) -> bool:
        """Send what can be sent at once, unless another task is sending. This never raises: the
        next call that has to send does.

        Returns:
          True if everything was sent.
        """
        if self._sending.is_taken or self._sending.error is not None:
            return False
        pieces = self.outbox.pieces
        if pieces or self.is_unfinished:
            try:
                sent = self.write_nowait(pieces)
            except (trio.BusyResourceError, trio.ClosedResourceError):
                return False
            except Exception as exc:
                self._note_broken(self._sending, exc)
                return False
            self.outbox.mark_sent(sent)  # as in _mark_sent(), without the cost of a call
            self._bytes_sent += sent
            if pieces:
                self._let_receiver_flush()
                return False
        return not self.is_unfinished

    @property
    def _is_left_to_send(self) -> bool:
        """True if there is unsent ciphertext that should go out now, but no task is sending it."""
        return (
            not self._sending.is_taken
            and self._sending.error is None
            and bool(self.outbox.pieces)
            and (self.is_cancel_safe or not self.outbox.may_wait)
        )

    def flush_later(self) -> None:
        """Send what can be sent at once, and leave the rest to the next send.

        This is meant for data that the peer doesn't need, and may not be ready to read.
        """
        self.flush_nowait()
        self.outbox.may_wait = bool(self.outbox.pieces)

    def _mark_sent(self, count: int) -> None:
        self.outbox.mark_sent(count)
        self._bytes_sent += count

    async def wait_send_might_not_block(self) -> None:
        """Wait until the transport might accept more data."""
        while self._sending.is_taken:
            await self._sending.wait()
        self.check_send()
        self._sending.is_taken = True
        try:
            await self._stream.wait_send_all_might_not_block()
        except (trio.BusyResourceError, trio.ClosedResourceError):
            raise
        except trio.BrokenResourceError as exc:
            raise self._note_broken(self._sending, exc) from exc
        finally:
            self._sending.leave()
            self._let_receiver_flush()  # for a task that could not send in the meantime

    def _note_broken(self, turn: Turn, exc: Exception) -> TLSError:
        """Note that the transport broke in one direction, and return the error to raise. Both
        directions are unusable from now on; the other direction reports this when it is used next.
        """
        if isinstance(exc, TLSError):
            self._origin.adopt(exc)
        if not isinstance(exc, trio.BrokenResourceError):
            # a copy: the original is raised, and would hold this object in a cycle
            exc = _without_traceback(exc)
        words = str(exc) or type(exc).__name__
        doing = "receiving" if turn is self._receiving else "sending"
        error = TLSError(f"the transport broke while {doing}: {words}")
        self._broken = self._origin.claim(caused_by(error, exc))
        self._sending.error = self._sending.error or self._broken
        if turn is self._receiving:
            turn.error = self._broken
        return self._broken.again()

    def give_up_sending(self, error: TLSError) -> None:
        """Make every later call that sends raise ``error``."""
        self._sending.error = self._sending.error or self._origin.claim(error)

    @property
    def can_send(self) -> bool:
        """True if no error is known that keeps the transport from sending."""
        return self._sending.error is None

    def check_send(self) -> None:
        """Raise :exc:`TLSError` if the transport can't send any more."""
        self._sending.check()

    ################################################################
    # Receiving
    ################################################################

    # Everything is in one function: another coroutine would cost half a microsecond per receive.
    async def receive(  # noqa: C901, PLR0911, PLR0912
        self, *, while_flushing: bool = False
    ) -> int:
        """Wait for the wire to make progress; re-check your condition afterwards.

        Only one task at a time receives from the stream. Other tasks wait until that task has
        received something, and return 0. Pending ciphertext is sent meanwhile, unless a task is
        flushing already.

        Returns:
          How many bytes were fed to the connection.

        Raises:
          TLSError: if the transport can't receive any more.
        """
        receiving = self._receiving
        if self.inbox.is_behind and not self.is_clogged:
            # More received ciphertext has to be decrypted first. Let other tasks run in between.
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
        data: Data | None
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
            data = None
        except trio.BusyResourceError:
            raise
        except trio.BrokenResourceError as exc:
            raise self._note_broken(self._receiving, exc) from exc
        except Exception as exc:
            self._note_broken(self._receiving, exc)
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
        self.received_since_send = True
        self.inbox.feed(data)
        size = len(data)
        if size == RECEIVE_BYTES:
            size += self.receive_nowait(_MOST_READS - 1)
        return size

    def _note_end(self) -> None:
        if self._broken is not None:
            # Sending has already met a reset, after which a socket looks as if it had ended.
            self._receiving.error = self._broken
        else:
            self.inbox.feed_eof()

    def _note_truncation(self, exc: TruncationError) -> None:
        """Note that the outer TLS stream was truncated. To the inner stream this is an end of the
        transport, before which a close_notify may be missing.
        """
        self._origin.adopt(exc)
        self._note_end()

    def wake_receiver(self) -> None:
        """Make a task that waits in :meth:`receive` re-check its condition."""
        if self._receiving.is_taken:
            self._interrupt_receive()

    def _let_receiver_flush(self) -> None:
        """Wake a waiting receiver if there is unsent ciphertext that it has to send."""
        if self._is_left_to_send:
            self.wake_receiver()

    async def _flush_and_receive(self) -> int:
        """Wait for either direction, and move whichever is ready. If sending fails, receiving
        continues, and the next call that has to send raises the error.
        """
        if self.is_clogged:
            await self.flush()
            return 0
        if not self._is_left_to_send:
            return await self.receive(while_flushing=True)
        if not self.is_cancel_safe:
            with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                await self.flush()
            return 0

        async with background_task(self._flush_quietly):
            return await self.receive(while_flushing=True)

    @enable_ki_protection  # a new task does not inherit the protection
    async def _flush_quietly(self) -> None:
        with suppress(trio.Cancelled, Exception):
            await self.flush()


def _without_traceback(exc: Exception) -> Exception:
    """Return a copy, without its traceback, of an exception that the caller is about to raise."""
    try:
        return copy.copy(exc)
    except Exception:
        return RuntimeError(f"{type(exc).__name__}: {exc}")
