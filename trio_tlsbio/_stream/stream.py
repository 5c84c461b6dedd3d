"""The Trio stream: a TLS connection over any transport stream."""

from __future__ import annotations

import errno
import math
import operator
import os
import ssl
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from types import TracebackType
from typing import Any, Generic, NoReturn, TypeVar

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_tlsbio._core.connection import SLICE_BYTES, TLSConnection
from trio_tlsbio._core.errors import (
    HandshakeTimeoutError,
    PeerAlertError,
    TLSError,
    TruncationError,
)
from trio_tlsbio._core.handshake_info import HandshakeInfo
from trio_tlsbio._core.records import RECORD_BYTES, Data, byte_view
from trio_tlsbio._core.sessions import TLSSession, refuse_copy
from trio_tlsbio._core.states import State

from .abstract import close_nowait
from .transports import Transport, transport_for
from .turns import ConflictDetector, beside

__all__ = ["CLOSE_TIMEOUT", "TLSStream", "T_Stream", "check_timeouts"]

T_Stream = TypeVar("T_Stream", bound=trio.abc.Stream)
R = TypeVar("R")

# How long an alert may take to get onto the wire before its error is raised, in seconds. It is
# a few bytes long: only a peer that has stopped reading makes it wait at all.
_ALERT_TIMEOUT = 1.0

# How long a peer that sends data where unwrap() expects its end has to be silent before that is an
# error, in seconds.
_PAUSE = 0.1

# How often a program that only sends looks whether the peer has gone, at most, in seconds.
_LOOK_INTERVAL = 0.00025

CLOSE_TIMEOUT = 5.0
"""How long :meth:`TLSStream.aclose` waits for the peer if nothing else is said, in seconds."""


def check_timeouts(handshake_timeout: float, close_timeout: float) -> None:
    """Raise :exc:`ValueError` for timeouts that make no sense."""
    if not handshake_timeout > 0:
        raise ValueError("handshake_timeout must be positive")
    if not close_timeout >= 0:
        raise ValueError("close_timeout must not be negative")


# Trio raises KeyboardInterrupt between any two lines of a task: between sending a record and taking
# note of it, for example. So the methods are protected, and it comes where the main task waits.
@attrs.define(eq=False, init=False, repr=False)
class TLSStream(trio.abc.HalfCloseableStream, Generic[T_Stream]):
    """Encrypted communication over a transport stream. A drop-in for :class:`trio.SSLStream`.

    The handshake happens by itself when the stream is first used, or in :meth:`do_handshake`.

    Every method may be cancelled, and the stream is still good afterwards: what was encrypted by
    then goes out before anything else, with the next operation of either direction. This needs a
    transport that tells how much a cancelled send has sent: a :class:`trio.SocketStream`, or
    another :class:`TLSStream`, or any in an :func:`open_pump`. Over others, a send that is
    cancelled while the transport works on it breaks sending, not receiving. Ctrl-C does not strike
    within a method: it waits until the main task waits, and is like a cancellation then.

    One task at a time may send, and one may receive; another one that tries gets a
    :exc:`trio.BusyResourceError`. Using the stream after :meth:`aclose` or :meth:`unwrap` is a
    :exc:`trio.ClosedResourceError`. What goes wrong with TLS, the peer or the transport is a
    :exc:`TLSError`; the peer is sent the alert that OpenSSL wrote about it, if any, before that
    is raised.

    Args:
      transport_stream: Carries the encrypted data. The stream owns it from now on.
      ssl_context: The settings, usually made by :func:`ssl.create_default_context`.
      server_hostname: The name of the server that is connected to, for SNI and for the check of
        its certificate. Needed if ``ssl_context.check_hostname`` is set.
      server_side: Whether this end is the server.
      https_compatible: Don't expect the close_notify that ends a TLS connection, nor send it in
        :meth:`aclose`, as is common in HTTP, which tells by itself where a message ends. The end
        of the transport is then taken for the end of the data.
      session: The session of an earlier connection to resume (clients only).
      on_session: Called with every session that the server gives, to resume with later (clients
        only). Also while closing, so that a program that never receives resumes too. It must not
        raise: data that comes along would be lost.
      handshake_timeout: How long the handshake may take, in seconds, from the first call that waits
        for it. By default as long as it takes.
      close_timeout: How long :meth:`aclose` waits for the peer, in seconds; 0 not to wait.
      close_max_bytes: How much of what the peer still sends :meth:`aclose` throws away before it
        stops waiting for the end, in bytes.

    Raises:
      ValueError: for arguments that don't go together, before a byte is sent.
      TypeError: for arguments of a wrong type.
    """

    _transport_stream: T_Stream | None
    _connection: TLSConnection
    _transport: Transport[Any]
    _https_compatible: bool
    _on_session: Callable[[TLSSession], object] | None
    _handshake_timeout: float
    _handshake_deadline: float | None  # once somebody has waited for it
    _close_timeout: float
    _close_max_bytes: int
    _bytes_committed: int
    # Whether a send ended before all of its data was encrypted: then a close_notify would vouch for
    # half a message.
    _is_cut: bool
    # Whether nothing was received since something was sent, when to look in spite of that whether
    # the peer has gone, and whether its end was received.
    _only_sends: bool
    _next_look: float
    _has_received_end: bool
    _is_established: bool  # the handshake is done, and our last flight of it is sent
    _is_closing: bool
    _lingers: bool  # until stop_lingering()
    _lingering: trio.CancelScope | None
    _closed: trio.Event  # the transport is
    _send_conflict: ConflictDetector
    _receive_conflict: ConflictDetector

    def __init__(
        self,
        transport_stream: T_Stream,
        ssl_context: ssl.SSLContext,
        *,
        server_hostname: str | bytes | None = None,
        server_side: bool = False,
        https_compatible: bool = False,
        session: TLSSession | None = None,
        on_session: Callable[[TLSSession], object] | None = None,
        handshake_timeout: float = math.inf,
        close_timeout: float = CLOSE_TIMEOUT,
        close_max_bytes: int = 1024 * 1024,
    ) -> None:
        check_timeouts(handshake_timeout, close_timeout)
        if close_max_bytes < 0:
            raise ValueError("close_max_bytes must not be negative")
        self._transport_stream = transport_stream
        self._connection = TLSConnection(
            ssl_context,
            server_side=server_side,
            server_hostname=server_hostname,
            session=session,
            collect_sessions=on_session is not None,
        )
        self._on_session = on_session
        if (outer := _tls_stream_under(transport_stream)) is not None:
            self._connection.run_inside(outer._connection)
            outer._next_look = math.inf  # this one looks, and knows whether all is received
        self._transport = transport_for(transport_stream, self._connection)
        self._https_compatible = https_compatible
        self._handshake_timeout = handshake_timeout
        self._handshake_deadline = None
        self._close_timeout = close_timeout
        self._close_max_bytes = close_max_bytes
        self._bytes_committed = 0
        self._is_cut = False
        self._only_sends = False
        self._next_look = 0.0
        self._has_received_end = False
        self._is_established = False
        self._is_closing = False
        self._lingers = True
        self._lingering = None
        self._closed = trio.Event()
        self._send_conflict = ConflictDetector(
            "another task is currently sending data on this TLSStream"
        )
        self._receive_conflict = ConflictDetector(
            "another task is currently receiving data on this TLSStream"
        )

    def __repr__(self) -> str:
        state = "closed " if self._is_closing else ""
        return f"<TLSStream {state}{self._connection!r} over {self._transport_stream!r}>"

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)

    ################################################################
    # What it is made of
    ################################################################

    @property
    def transport_stream(self) -> T_Stream:
        """The transport stream it was made with. None after :meth:`unwrap`, which gave it away."""
        return self._transport_stream  # type: ignore[return-value]  # as trio.SSLStream has it

    @property
    def connection(self) -> TLSConnection:
        """The pure core, to look at. It is the stream's to feed, and to take data from."""
        return self._connection

    @property
    def handshake(self) -> HandshakeInfo | None:
        """What the handshake agreed on; None until it is done."""
        return self._connection.handshake

    @property
    def session(self) -> TLSSession | None:
        """What a later connection to the same server can resume with, once there is one.

        A TLS 1.3 server sends it after the handshake, so it is there after something was received.
        """
        return self._connection.session

    @property
    def bytes_committed(self) -> int:
        """How many bytes of plaintext were encrypted so far.

        They go to the peer, whole and in order, whatever is cancelled, if the stream
        :attr:`is_cancel_safe`. So after a cancelled :meth:`send_all` this tells where to go on.
        """
        return self._bytes_committed

    @property
    def is_cancel_safe(self) -> bool:
        """Whether a send may be cancelled at any point without breaking sending.

        That takes a transport that tells how much of a cancelled send it has sent.
        """
        return self._transport.counts

    def is_source_of(self, exc: BaseException) -> bool:
        """Whether an exception tells of this stream, its peer or its transport, and not of another
        stream that the same code uses.
        """
        return self._connection.is_source_of(exc)

    @property
    def _has_received(self) -> bool:
        """Whether the peer has sent anything at all."""
        return self._transport.has_received

    ################################################################
    # Handshake
    ################################################################

    @enable_ki_protection
    async def do_handshake(self) -> None:
        """Complete the handshake, if it isn't done yet.

        Any number of tasks may call this, or send and receive, at once; all of them get its
        result, good or bad. Cancelled, the handshake stays where it is, and the next call of
        any kind goes on with it.

        Raises:
          TLSError: if the handshake failed, now or before.
          HandshakeTimeoutError: if it was not done within ``handshake_timeout``.
        """
        self._check_open()
        if not await self._complete_handshake():
            await trio.lowlevel.checkpoint()
            await self._flush_leftover()
        self._check_open()

    async def _complete_handshake(self) -> bool:
        """Complete the handshake, and return whether that took to wait, which is a checkpoint."""
        if self._is_established:
            return False
        has_waited = False
        await trio.lowlevel.checkpoint_if_cancelled()
        if self._handshake_deadline is None:
            self._handshake_deadline = trio.current_time() + self._handshake_timeout
        is_timed = self._handshake_deadline < math.inf  # else a scope would only take time
        with trio.CancelScope(deadline=self._handshake_deadline) if is_timed else nullcontext():
            try:
                has_waited = await self._shake_hands()
            except TLSError as exc:
                # If the transport broke, TLS could go on, only to fail in another way.
                self._connection.abort(exc.again())
                raise
        if not self._is_established:
            self._connection.abort(
                HandshakeTimeoutError(f"no handshake within {self._handshake_timeout:g} seconds")
            )
            self._connection.check_send()
        return has_waited

    async def _shake_hands(self) -> bool:
        has_waited = False
        while not self._is_established:
            if not await self._step(self._connection.do_handshake):
                await self._exchange()
                has_waited = True
                continue
            if self.server_side and self._connection.ssl_object.version() == "TLSv1.3":
                # What is left are session tickets. OpenSSL writes them now already, for a client
                # that may not read before it has written a lot.
                self._transport.flush_later()
            elif not self._transport.flush_nowait():
                await self._flush()
            self._is_established = True
        if self._on_session is not None:
            self._report_sessions()  # in TLS 1.2 the handshake brings one
        return has_waited

    async def _exchange(self) -> None:
        """Wait for the wire to move one step in a handshake: out first, what comes in answers."""
        if self._connection.unsent and not self._transport.flush_nowait():
            await self._flush()
        else:
            await self._transport.receive()

    async def _step(self, step: Callable[..., R], *args: object) -> R:
        """Call a method of the connection; if that fails, tell the peer why before it is raised."""
        try:
            return step(*args)
        except TLSError:
            await self._flush_alert()
            raise

    async def _flush(self) -> None:
        """Flush; if that fails, the alert that the peer has sent before is what is raised."""
        with suppress(TLSError):
            await self._transport.flush()
            return
        self._check_send()  # here, or what it finds would be kept with the error as its context

    def _check_send(self) -> None:
        """Raise what keeps the transport from sending, or rather the alert by which the peer has
        said why.
        """
        if not self._transport.can_send:
            self._raise_alert()
            self._transport.check_send()

    def _raise_alert(self) -> None:
        """Raise the fatal alert that has arrived, if one has."""
        self._transport.receive_nowait()
        self._connection.look_ahead()
        if isinstance(self._connection.error, PeerAlertError):
            raise self._connection.error.again()

    @property
    def _is_pending(self) -> bool:
        """Whether something is held or unsent here."""
        return bool(self._connection.unsent or self._connection.held)

    async def _flush_leftover(self) -> None:
        """Send what an earlier operation has left, unless that may wait (session tickets)."""
        is_left = self._is_pending or self._transport.is_unfinished
        if is_left and self._is_established and not self._transport.may_wait:
            await self._flush_held()

    async def _flush_alert(self) -> None:
        """Send the alert that OpenSSL has written, if TLS has failed here. Bounded in time."""
        if self._connection.send_state is not State.FAILED:
            return
        self._transport.flush_nowait()
        if self._connection.unsent:
            with (
                trio.move_on_after(_ALERT_TIMEOUT),
                suppress(trio.BrokenResourceError, trio.ClosedResourceError),
            ):
                await self._transport.flush()

    ################################################################
    # Receiving
    ################################################################

    @enable_ki_protection
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for data from the peer, and return it.

        Cancelled, nothing is lost.

        Args:
          max_bytes: How many bytes to return at most; by default all that has arrived.

        Returns:
          ``b""``, each time, once the peer has ended its direction.

        Raises:
          TruncationError: each time, if the transport ended without a close_notify. With
            ``https_compatible`` that is ``b""`` too.
          TLSError: if TLS or the transport failed.
          ValueError: if ``max_bytes`` is not positive.
        """
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._receive_conflict.is_busy:
            raise self._receive_conflict.error()
        self._receive_conflict.is_busy = True
        self._only_sends = False
        connection = self._connection
        try:
            if self._is_closing or not self._is_established:
                self._check_open()
                await self._complete_handshake()
            data = None if connection.wants_data else await self._receive_arrived(max_bytes)
            while data is None:
                await self._transport.receive()
                if self._is_closing:
                    self._check_open()
                data = self._receive(max_bytes)
            self._has_received_end = not data
            if connection.unsent:
                # What receiving made us write (a certificate that the peer asked for, say) need
                # not wait for the next send.
                self._transport.flush_nowait()
            return data
        except TLSError as exc:
            if await self._is_end(exc):
                return b""
            raise
        finally:
            self._receive_conflict.is_busy = False

    async def _is_end(self, exc: TLSError) -> bool:
        """Whether an error stands for the end of the data. Else the peer is sent the alert."""
        if not isinstance(exc, TruncationError):
            await self._flush_alert()
            return False
        self._has_received_end = True
        if self._https_compatible:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return self._https_compatible

    @enable_ki_protection
    def receive_nowait(self, max_bytes: int | None = None) -> bytes | None:
        """Return what has arrived, at most ``max_bytes`` of it. Never waits.

        Returns:
          None if nothing has arrived, or over a transport that can't receive without waiting, and
          before the handshake is done; ``b""``, each time, once the peer has ended its direction.

        Raises:
          TruncationError: as :meth:`receive_some`.
          TLSError: if TLS or the transport failed.
          ValueError: if ``max_bytes`` is not positive.
        """
        with self._receive_conflict:
            self._check_open()
            if not self._is_established:
                return None
            connection, transport = self._connection, self._transport
            self._only_sends = False
            try:
                data = self._receive(max_bytes)
                # A sender may wait for the peer too, in a renegotiation: then it does the reading.
                is_busy = transport.is_receiving or transport.is_clogged or connection.is_behind
                if data is None and not is_busy:
                    transport.receive_nowait()
                    data = self._receive(max_bytes)
                if data is None:
                    transport.check_receive()
                if data == b"":
                    self._has_received_end = True
                return data
            except TruncationError:
                self._has_received_end = True
                if not self._https_compatible:
                    raise
                return b""
            finally:
                transport.flush_nowait()  # what the peer has asked for, or our alert

    @enable_ki_protection
    def is_readable(self) -> bool:
        """Whether :meth:`receive_some` would return, or raise, without waiting.

        This takes in what has arrived, so session tickets, which come without being asked for,
        don't make the stream readable as they make its socket: a pool of connections can tell by
        this whether an idle one may be used again. Not every transport can say what has arrived:
        over others than sockets, and streams of this class, this may be False while something waits
        there. It is False before the handshake is done, and while a task is receiving. It is True
        while more has arrived than one call looks at: then the peer is not idle.

        Raises:
          trio.ClosedResourceError: after :meth:`aclose` or :meth:`unwrap`.
        """
        self._check_open()
        connection, transport = self._connection, self._transport
        transport.flush_nowait()
        if self._receive_conflict.is_busy or transport.is_receiving or not self._is_established:
            return False
        self._only_sends = False
        if not connection.bytes_to_receive and connection.receive_state is State.OPEN:
            if not (transport.is_clogged or connection.is_behind):
                transport.receive_nowait()
            connection.look_ahead()
            transport.flush_nowait()  # what the peer has asked for: see receive_some()
            if self._on_session is not None:
                self._report_sessions()
        return (
            connection.bytes_to_receive > 0
            or connection.is_behind
            or connection.receive_state is not State.OPEN
            or transport.has_ended
        )

    async def _receive_arrived(self, max_bytes: int | None) -> bytes | None:
        """Return what there is without waiting for more."""
        await trio.lowlevel.checkpoint_if_cancelled()
        data = self._receive(max_bytes)
        if data is not None:
            await trio.lowlevel.cancel_shielded_checkpoint()
        return data

    def _receive(self, max_bytes: int | None = None) -> bytes | None:
        try:
            return self._connection.receive(max_bytes)
        finally:
            if self._on_session is not None:
                self._report_sessions()

    def _report_sessions(self) -> None:
        assert self._on_session is not None
        for session in self._connection.new_sessions():
            self._on_session(session)

    ################################################################
    # Sending
    ################################################################

    @enable_ki_protection
    async def send_all(self, data: Data) -> None:
        """Encrypt data and send it.

        Cancelled, what was encrypted by then will be sent whole, before anything else, and the
        rest was not sent: see :attr:`bytes_committed`.

        Raises:
          TLSError: if TLS or the transport failed.
          trio.ClosedResourceError: after :meth:`send_eof`.
        """
        if self._send_conflict.is_busy:
            raise self._send_conflict.error()
        self._send_conflict.is_busy = True
        connection, transport = self._connection, self._transport
        part: bytes | memoryview
        try:
            parts = _slices(data)
            if self._is_closing or not self._is_established:
                self._check_send_open()
                await self._complete_handshake()
            if self._only_sends and 0 < len(data) <= RECORD_BYTES:
                self._notice_the_end()
            self._only_sends = True
            self._is_cut = self._is_cut or bool(data)  # an empty send says nothing
            for part in parts:
                await trio.lowlevel.checkpoint_if_cancelled()
                if connection.unsent or connection.held:
                    await self._flush_held()  # what a cancelled send has left
                if self._is_closing:
                    self._check_open()
                try:
                    connection.send(part)
                except TLSError:
                    await self._flush_alert()
                    raise
                self._bytes_committed += len(part)
                if part:
                    self._is_cut = part is not parts[-1]
                if transport.flush_nowait() and not connection.held:
                    await trio.lowlevel.cancel_shielded_checkpoint()
                else:
                    await self._flush_held()
                    self._check_open()
        finally:
            self._send_conflict.is_busy = False
            parts, part = (), b""  # a traceback would keep the caller's buffer locked

    async def _flush_held(self) -> None:
        """Flush what was given to the connection, also if it holds that for a renegotiation."""
        await self._flush()
        while self._connection.held and not await self._step(self._connection.do_handshake):
            await self._exchange()
        await self._flush()

    def peer_has_gone(self) -> bool:
        """Whether the peer has ended the transport, so that what is sent from now on may be lost.

        This shows without receiving what came before. It is False where the transport can't show
        it: over others than sockets, and streams of this class. macOS and Windows show it only
        once the socket has nothing left to read. A program that only sends need not ask:
        :meth:`send_all` and :meth:`send_nowait` do so now and then, and raise.
        """
        return self._transport.peer_has_gone()

    def _notice_the_end(self) -> None:
        """Look whether the peer has gone, for a program that only sends: it would never hear of
        that, and what it sends afterwards is lost.

        A program that sends in bulk hears of it by the reset that its data causes.
        """
        now = time.monotonic()  # a look takes a system call, so many sends share one
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_INTERVAL
        connection, transport = self._connection, self._transport
        if transport.is_receiving or not transport.peer_has_gone():
            return
        self._raise_alert()
        # After a close_notify alone the peer may still read. A program that has received the end,
        # or has something left to receive, does not only send, and may know what it does.
        is_heard = self._has_received_end or connection.bytes_to_receive
        if transport.eof_received and not is_heard:
            error = TLSError("the peer has closed the connection, and reads nothing any more")
            error.__cause__ = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            transport.give_up_sending(error)

    @enable_ki_protection
    def send_nowait(self, data: Data) -> int:
        """Encrypt data and send what can be sent at once. Never waits.

        Returns:
          How many bytes were taken, which is all, or none before the handshake is done, while
          another task sends, while earlier data waits to be sent, and over a transport that
          can't send without waiting.

        Raises:
          TLSError: if TLS or the transport failed.
          trio.ClosedResourceError: after :meth:`send_eof`.
        """
        with self._send_conflict:
            self._check_send_open()
            if self._only_sends and 0 < len(data) <= RECORD_BYTES:
                self._notice_the_end()
            self._only_sends = True
            self._transport.flush_nowait()
            self._check_send()
            if self._connection.handshake is None or self._is_pending:
                return 0
            if not self._transport.counts:
                return 0
            with memoryview(data) as view:
                self._connection.send(view)
                self._bytes_committed += view.nbytes
                self._is_cut = self._is_cut and not view.nbytes
                self._transport.flush_nowait()
                return view.nbytes

    @enable_ki_protection
    async def wait_send_all_might_not_block(self) -> None:
        """Wait until :meth:`send_all` might not block. See :class:`trio.abc.SendStream`."""
        with self._send_conflict:
            self._check_send_open()
            self._connection.check_send()
            await self._flush_leftover()
            with suppress(TLSError):
                await self._transport.wait_send_might_not_block()
            self._check_send()

    @enable_ki_protection
    async def send_eof(self) -> None:
        """End our direction with a close_notify. Receiving goes on until the peer's own.

        See RFC 9846 section 6.1; it works in TLS 1.2 as well. The direction of the transport is
        not ended. Calling it again does nothing but finish what was cancelled.

        Raises:
          TLSError: if TLS or the transport failed.
        """
        with self._send_conflict:
            self._check_open()
            await trio.lowlevel.checkpoint()
            await self._complete_handshake()
            self._check_open()
            await self._send_close_notify()
            await self._flush_held()

    async def _send_close_notify(self) -> None:
        """End our direction, unless what has arrived is a failure, or the peer's alert: a socket
        takes a close_notify even so.
        """
        if not self._transport.is_receiving:
            self._transport.receive_nowait(1)
        await self._step(self._connection.send_close_notify)

    ################################################################
    # Ending
    ################################################################

    @enable_ki_protection
    async def unwrap(self) -> tuple[T_Stream, bytes]:
        """End TLS in both directions, and give the transport back for what comes without it.

        Sends a close_notify and waits for the peer's. Cancelled, call it again.

        Returns:
          The transport stream, and what has been received on it after the end of TLS, which is
          the beginning of what follows. This stream is closed from now on.

        Raises:
          TLSError: if TLS or the transport failed. Also if the peer sent more data instead of its
            close_notify: then it is still there, to be received until ``b""`` before another try.
        """
        with self._receive_conflict, self._send_conflict:
            self._check_open()
            await trio.lowlevel.checkpoint()
            await self._complete_handshake()
            connection = self._connection
            await self._send_close_notify()
            await self._flush_and_receive(connection.look_ahead)
            connection.look_ahead()
            while (
                connection.receive_state is State.OPEN
                and connection.bytes_to_receive <= self._close_max_bytes
            ):
                # Once there is data, all of it is taken in until the peer pauses: it may have much
                # left to send before its close_notify, and wait for us to read.
                pause = _PAUSE if connection.bytes_to_receive else math.inf
                with trio.move_on_after(pause) as scope:
                    await self._exchange()
                connection.look_ahead()
                if scope.cancelled_caught:
                    break
            self._check_open()
            if connection.bytes_to_receive:
                message = (
                    f"the peer sent {connection.bytes_to_receive} bytes of data where unwrap() "
                    "expected its close_notify: receive until b'' first"
                )
                raise connection.claim(TLSError(message))
            await self._step(self._receive)
            transport_stream = self.transport_stream
            self._transport_stream = None
            self._is_closing = True
            self._closed.set()
            return transport_stream, connection.trailing_data

    async def _flush_and_receive(self, take: Callable[[], object]) -> None:
        """Flush what is pending, and receive meanwhile: the peer may have something to send too,
        and not read before that is gone.

        ``take`` is called for what was received.
        """
        if self._transport.flush_nowait() and not self._is_pending:
            return
        async with beside(partial(self._receive_meanwhile, take)):
            await self._flush_held()

    @enable_ki_protection  # a new task does not get it from the one that starts it
    async def _receive_meanwhile(self, take: Callable[[], object]) -> None:
        left = self._close_max_bytes
        with suppress(trio.Cancelled, Exception):  # who waits for the end hears of it
            while left > 0 and not self._transport.has_ended:
                left -= await self._transport.receive(while_flushing=True)
                take()

    @enable_ki_protection
    async def aclose(self) -> None:
        """End the connection and close the transport, so that all that was sent arrives.

        Sends a close_notify, after completing the handshake if that isn't done (neither with
        ``https_compatible``). Over a socket, it then ends the TCP direction and waits until the
        peer has closed too, since a socket that is closed while the peer still sends may destroy
        what the peer has not read yet. All of this takes ``close_timeout`` seconds at most.

        A close_notify vouches that the peer has got everything. So there is none if a
        :meth:`send_all` ended before all of its data was encrypted, and nothing was sent after it.

        Cancelled, it closes the transport at once, after putting on the wire what is pending, and
        the close_notify, as far as that works without waiting. Tasks that are blocked on the stream
        get a :exc:`trio.ClosedResourceError`. While another task closes the stream, this waits
        until that is done.

        Raises:
          TLSError: if it had to complete the handshake, and the handshake failed. The transport
            is closed all the same.
          PeerAlertError: if it has found a fatal alert of the peer that no other call has raised:
            for a client that only sends, the only way to learn that it was refused.
        """
        is_first, self._is_closing = not self._is_closing, True
        if self._closed.is_set():
            await trio.lowlevel.checkpoint()
            return
        error_before = self._connection.error
        deadline = trio.current_time() + self._close_timeout
        if isinstance(error_before, HandshakeTimeoutError):
            deadline = -math.inf  # the peer was waited for long enough
        try:
            with trio.CancelScope(deadline=deadline):
                await (self._end() if is_first else self._closed.wait())
        except KeyboardInterrupt:
            deadline = -math.inf  # it comes only once, and the transport has to close at once
            raise
        finally:
            if not self._closed.is_set():
                try:
                    self._end_nowait()
                finally:
                    await self._close_transport(deadline)
        if error_before is None:
            self._check_close()

    def _check_close(self) -> None:
        """Raise what a close has found, if no other call can have raised it."""
        connection = self._connection
        failed_in_handshake = connection.handshake is None and connection.send_state is State.FAILED
        if isinstance(connection.error, PeerAlertError) or failed_in_handshake:
            assert connection.error is not None
            raise connection.error.again()

    @enable_ki_protection  # Trio's own would leave it to Ctrl-C whether aclose() begins
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            await self.aclose()
        except TLSError:
            if exc_type is None:
                raise  # else what has ended the block matters more

    async def _close_transport(self, deadline: float) -> None:
        # Not only the first task that comes here: one that is cancelled makes the transport, if
        # another task waits for it, close at once.
        try:
            with trio.CancelScope(deadline=deadline):  # cancelled, it closes at once
                await self.transport_stream.aclose()
        finally:
            self._closed.set()

    def stop_lingering(self) -> None:
        """Have :meth:`aclose` wait for the peer's system alone, from now on.

        It closes as soon as that has acknowledged what was sent, whether the peer has closed or
        not, so a server that ends isn't held up by idle clients. What the peer sends after that is
        answered by a reset. It has no effect where the system can't report acknowledgements: they
        are known on Linux, for sockets.
        """
        self._lingers = False
        if self._lingering is not None:
            self._lingering.cancel()

    def abort(self) -> bool:
        """Close at once, without a close_notify: the peer sees that what it got is not all.

        Tasks that are blocked on the stream get a :exc:`trio.ClosedResourceError`. Never raises,
        and does nothing on a stream that is closed.

        Returns:
          Whether the transport is closed. Sockets, Trio's memory streams and other streams of this
          class can be closed without waiting; others are left to :meth:`aclose`, which closes them
          at once then.
        """
        if not self._closed.is_set():
            self._is_closing = self._is_cut = True
            self._close_timeout = 0.0  # aclose() has nothing left to wait for
            self._end_nowait()
            if close_nowait(self.transport_stream):
                self._closed.set()
        return self._closed.is_set()

    @property
    def _vouches(self) -> bool:
        """Whether a close may say that the peer has got everything."""
        return not (self._https_compatible or self._is_cut)

    async def _end(self) -> None:
        connection, transport = self._connection, self._transport
        if self._https_compatible and connection.send_state is State.HANDSHAKE:
            return  # there is nothing that could be lost
        # A peer that has gone already is no error here, nor a stream that broke before.
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            if self._vouches:
                await self._complete_handshake()
            transport.receive_nowait(1)  # a record that fails is answered by an alert
            if self._vouches:
                connection.send_close_notify()
            else:
                self._discard()
        if isinstance(connection.error, HandshakeTimeoutError):
            return  # the peer was waited for long enough
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            # Whatever was raised: the alert, or what was committed before.
            await self._flush_and_receive(self._discard)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            await self._wait_for_the_peer()

    async def _wait_for_the_peer(self) -> None:
        """Wait until the peer sends no more, if closing the transport now could do harm."""
        transport = self._transport
        if not transport.end_direction() or not transport.has_sent:
            return
        if self._lingers or transport.unacknowledged() is None:
            with trio.CancelScope() as self._lingering:
                await self._receive_until_the_end()
                return
        delay = 0.001
        while transport.unacknowledged():
            await trio.sleep(delay)  # nothing wakes a task for an acknowledgement
            delay = min(2 * delay, 0.1)

    async def _receive_until_the_end(self) -> None:
        connection, transport = self._connection, self._transport
        left = self._close_max_bytes
        self._discard()
        while left > 0 and not (transport.eof_received or connection.receive_state is State.CLOSED):
            left -= await transport.receive()
            self._discard()

    def _discard(self) -> None:
        """Look at what has arrived, for the end or an alert, and throw it away. What one call does
        not get to is thrown away unread.
        """
        if not self._connection.is_behind:
            with suppress(TLSError):
                self._receive()
        if self._connection.is_behind:
            self._transport.discards = True
            self._connection.drop_received()

    def _end_nowait(self) -> None:
        connection, transport = self._connection, self._transport
        if not connection.is_behind:
            transport.receive_nowait(1)
        if connection.handshake is not None and self._vouches:
            with suppress(TLSError):
                connection.send_close_notify()
        self._discard()
        transport.discards = True
        transport.receive_nowait()  # what is left unread would make closing a reset
        if self._on_session is not None:
            connection.look_for_session()
            self._report_sessions()
        if connection.send_state is not State.HANDSHAKE:  # half of one is of no use
            transport.flush_nowait()
        transport.end_direction()

    def _check_open(self) -> None:
        if self._is_closing:
            raise trio.ClosedResourceError("this TLSStream was closed")

    def _check_send_open(self) -> None:
        self._check_open()
        if self._connection.send_state is State.CLOSED:
            raise trio.ClosedResourceError(
                "can't send data after send_eof() or send_close_notify()"
            )

    ################################################################
    # What trio.SSLStream offers of ssl.SSLObject
    ################################################################

    @property
    def context(self) -> ssl.SSLContext:
        """The context in use. A server's ``sni_callback`` may have set another one.

        See :attr:`ssl.SSLSocket.context`.
        """
        return self._connection.ssl_object.context

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        self._connection.ssl_object.context = context

    @property
    def server_side(self) -> bool:
        """Whether this end is the server."""
        return self._connection.ssl_object.server_side

    @property
    def server_hostname(self) -> str | None:
        """The name of the server in its ASCII form. None on servers."""
        return self._connection.ssl_object.server_hostname

    @property
    def session_reused(self) -> bool:
        """Whether the handshake resumed an earlier session.

        Raises:
          trio.NeedHandshakeError: before the handshake is done, as all that follow.
        """
        return bool(self._after_handshake("session_reused").session_reused)

    def pending(self) -> int:
        """See :meth:`ssl.SSLSocket.pending`. Needs no handshake."""
        return self._connection.ssl_object.pending()

    @enable_ki_protection
    async def verify_client_post_handshake(self) -> None:
        """Ask the client for its certificate now, and wait for the answer. TLS 1.3 servers only.

        :attr:`handshake` and :meth:`getpeercert` tell the certificate afterwards; a client may have
        none if the context has ``CERT_OPTIONAL``. Data that comes meanwhile is kept for
        :meth:`receive_some`, 1 MiB at most. Cancelled, the answer comes with what is received
        later, and calling this again waits for it. See
        :meth:`TLSConnection.verify_client_post_handshake` for what it takes, and RFC 9846 section
        4.7.2.

        Raises:
          PostHandshakeAuthError: if the client can't be asked, ends its direction instead of
            answering, or sends too much data first. The stream goes on working.
          TLSError: if its certificate was refused, or TLS or the transport failed.
          TruncationError: if the transport ended first.
          ValueError: if this side can't ask.
          trio.ClosedResourceError: after :meth:`send_eof`.
        """
        connection = self._connection
        with self._receive_conflict:
            with self._send_conflict:
                self._check_open()
                await trio.lowlevel.checkpoint()
                await self._complete_handshake()
                await self._step(connection.verify_client_post_handshake)
                await self._flush()
            while not await self._step(connection.client_has_answered):
                await self._transport.receive()
                self._check_open()

    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """See :meth:`ssl.SSLSocket.getpeercert`."""
        return self._after_handshake("getpeercert").getpeercert(binary_form)

    def selected_alpn_protocol(self) -> str | None:
        """See :meth:`ssl.SSLSocket.selected_alpn_protocol`."""
        return self._after_handshake("selected_alpn_protocol").selected_alpn_protocol()

    def selected_npn_protocol(self) -> str | None:
        """See :meth:`ssl.SSLSocket.selected_npn_protocol`; ALPN replaced NPN."""
        ssl_object: Any = self._after_handshake("selected_npn_protocol")
        npn_protocol: str | None = ssl_object.selected_npn_protocol()
        return npn_protocol

    def cipher(self) -> tuple[str, str, int] | None:
        """See :meth:`ssl.SSLSocket.cipher`."""
        return self._after_handshake("cipher").cipher()

    def shared_ciphers(self) -> list[tuple[str, str, int]] | None:
        """See :meth:`ssl.SSLSocket.shared_ciphers`."""
        return self._after_handshake("shared_ciphers").shared_ciphers()

    def compression(self) -> str | None:
        """See :meth:`ssl.SSLSocket.compression`."""
        return self._after_handshake("compression").compression()

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """See :meth:`ssl.SSLSocket.get_channel_binding`."""
        return self._after_handshake("get_channel_binding").get_channel_binding(cb_type)

    def version(self) -> str | None:
        """See :meth:`ssl.SSLSocket.version`."""
        return self._after_handshake("version").version()

    if sys.version_info >= (3, 13):

        def get_verified_chain(self) -> list[bytes]:
            """See :meth:`ssl.SSLSocket.get_verified_chain`."""
            return self._after_handshake("get_verified_chain").get_verified_chain()

        def get_unverified_chain(self) -> list[bytes]:
            """See :meth:`ssl.SSLSocket.get_unverified_chain`."""
            return self._after_handshake("get_unverified_chain").get_unverified_chain()

    if sys.version_info >= (3, 15):

        def group(self) -> str:
            """See :meth:`ssl.SSLSocket.group`. :attr:`HandshakeInfo.group` has it everywhere."""
            return self._after_handshake("group").group()

        def client_sigalg(self) -> str | None:
            """See :meth:`ssl.SSLSocket.client_sigalg`."""
            return self._after_handshake("client_sigalg").client_sigalg()

        def server_sigalg(self) -> str | None:
            """See :meth:`ssl.SSLSocket.server_sigalg`."""
            return self._after_handshake("server_sigalg").server_sigalg()

    def _after_handshake(self, name: str) -> ssl.SSLObject:
        # OpenSSL would answer with nothing, which could be taken for an answer.
        if self._connection.handshake is None:
            raise trio.NeedHandshakeError(f"call do_handshake() before calling {name!r}")
        return self._connection.ssl_object


def _tls_stream_under(transport_stream: trio.abc.Stream) -> TLSStream[Any] | None:
    """Return the TLS stream that a transport is, or that carries it; None if there is none."""
    stream: object = transport_stream
    while stream is not None and not isinstance(stream, TLSStream):
        stream = getattr(stream, "transport_stream", None)
    return stream


def _slices(data: Data) -> Sequence[bytes | memoryview]:
    """Cut data where other tasks get their turn. There is always a first slice, if an empty one."""
    if isinstance(data, bytes) and len(data) <= SLICE_BYTES:
        return (data,)
    view = byte_view(data)
    return [view[start : start + SLICE_BYTES] for start in range(0, len(view) or 1, SLICE_BYTES)]
