"""The Trio stream: a TLS connection over any transport stream."""

from __future__ import annotations

import math
import operator
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress
from types import TracebackType
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar

import attrs
import trio
from trio.lowlevel import (
    cancel_shielded_checkpoint,
    checkpoint_if_cancelled,
    enable_ki_protection,
)

from trio_tlsbio._core.arguments import Arguments
from trio_tlsbio._core.connection import TLSConnection
from trio_tlsbio._core.errors import Origin, TLSError, TruncationError
from trio_tlsbio._core.records import RECORD_BYTES, Data, byte_view
from trio_tlsbio._core.sessions import TLSSession, refuse_copy
from trio_tlsbio._core.states import State

from .abstract import check_transport, stream_of
from .addresses import Addresses, AddressQueries
from .assembly import assemble
from .closing import Closing
from .decisions import ChooseContext, VerifyPeer, checked_function
from .driver import Driver
from .options import CLOSE_MAX_BYTES, CLOSE_TIMEOUT, StreamOptions
from .peer_watch import PeerWatch
from .queries import ConnectionQueries
from .transport import SLICE_BYTES, Transport, slices
from .turns import ConflictDetector

__all__ = ["TLSStream", "T_Stream", "stream_with"]

T_Stream = TypeVar("T_Stream", bound=trio.abc.Stream)


# Trio raises KeyboardInterrupt between any two lines of a task: between sending a record and taking
# note of it, for example. So the methods are protected, and it comes where the main task waits.
@attrs.define(eq=False, init=False, repr=False)
class TLSStream(ConnectionQueries, AddressQueries, trio.abc.HalfCloseableStream, Generic[T_Stream]):
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
      ssl_context: The settings, usually made by :func:`ssl.create_default_context`. On a server
        also a function, async or not, that gets the :class:`ClientHello` and returns the settings
        for this client, or raises :exc:`RefuseHandshake`. It runs in the task that needs the
        handshake, within ``handshake_timeout``. If that task is cancelled, it is called again when
        the handshake goes on. What else it raises is raised there, and the client is refused.
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
      received: Ciphertext that was read from the transport already, by :func:`read_client_hello`
        for example. It comes before what is read from now on.
      verify_peer: An async function that verifies the peer when OpenSSL has accepted it, also in a
        resumed session: for revocation, pinning, or a list of clients. It gets what
        :attr:`handshake` is going to be. Until it returns, no data passes, and our last message
        of the handshake is held back. What it raises refuses the peer, as the cause of a
        :exc:`TLSError`, or itself if it is one; no alert is sent. Cancelled or not returned within
        ``handshake_timeout``, it is as with the rest of the handshake.
      strict_alpn: Whether a server refuses a client that offers application protocols (ALPN), but
        none of those that the context has, by the alert ``no_application_protocol`` (RFC 7301
        section 3.2). By default the handshake goes on without a protocol, as Python's servers do. A
        client that offers no protocol is served in either case.

    Raises:
      ValueError: for arguments that don't go together, before a byte is sent.
      TypeError: for arguments of a wrong type.
    """

    _transport_stream: T_Stream | None
    _connection: TLSConnection
    _transport: Transport[Any]
    _driver: Driver
    _receive: Callable[[int | None], bytes | None]
    _closing: Closing
    _addresses: Addresses
    _peer_watch: PeerWatch
    _send_conflict: ConflictDetector
    _receive_conflict: ConflictDetector

    def __init__(
        self,
        transport_stream: T_Stream,
        ssl_context: ssl.SSLContext | ChooseContext,
        *,
        server_hostname: str | bytes | None = None,
        server_side: bool = False,
        https_compatible: bool = False,
        session: TLSSession | None = None,
        on_session: Callable[[TLSSession], object] | None = None,
        handshake_timeout: float = math.inf,
        close_timeout: float = CLOSE_TIMEOUT,
        close_max_bytes: int = CLOSE_MAX_BYTES,
        received: Data = b"",
        verify_peer: VerifyPeer | None = None,
        strict_alpn: bool = False,
    ) -> None:
        check_transport(transport_stream)
        options = StreamOptions.of(
            https_compatible, handshake_timeout, close_timeout, close_max_bytes, strict_alpn
        )
        is_chosen = server_side and not isinstance(ssl_context, ssl.SSLContext)
        if is_chosen or verify_peer is not None:
            choose = checked_function(ssl_context, "ssl_context") if is_chosen else None
            options = options.deciding(verify_peer=verify_peer, choose_context=choose)
        context: Any = None if is_chosen else ssl_context
        arguments = Arguments.parse(
            context, server_side=server_side, server_hostname=server_hostname, session=session
        )
        driver = assemble(transport_stream, arguments, options, on_session, received)
        self._make(transport_stream, options, driver)

    def _make(self, transport_stream: T_Stream, options: StreamOptions, driver: Driver) -> None:
        is_socket = isinstance(transport_stream, trio.SocketStream)  # which carries no TLS
        if not is_socket and (outer := stream_of(TLSStream, transport_stream)) is not None:
            outer._carry(driver.connection.lifecycle.origin)
        self._transport_stream, self._driver = transport_stream, driver
        self._connection, self._transport = driver.connection, driver.transport
        self._receive = driver.receiver
        self._closing = Closing(options, driver)
        self._addresses = Addresses(transport_stream)
        self._peer_watch = PeerWatch(driver)
        self._send_conflict = ConflictDetector(
            "another task is currently sending data on this TLSStream: let one task send at a time"
        )
        self._receive_conflict = ConflictDetector(
            "another task is currently receiving data on this TLSStream: let one task receive at a"
            " time"
        )

    def _carry(self, inner: Origin) -> None:
        """Begin to carry another TLS stream, whose errors are also errors of this one's peer."""
        inner.run_inside(self._connection.lifecycle.origin)
        self._peer_watch.end()  # the inner one looks, and knows whether all is received

    def __repr__(self) -> str:
        state = "closed " if self._closing.has_begun else ""
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
    def bytes_committed(self) -> int:
        """How many bytes of plaintext were encrypted so far.

        They go to the peer, whole and in order, whatever is cancelled, if the stream
        :attr:`is_cancel_safe`. So after a cancelled :meth:`send_all` this tells where to go on.
        """
        return self._driver.committed

    @property
    def is_cancel_safe(self) -> bool:
        """Whether a send may be cancelled at any point without breaking sending.

        That takes a transport that tells how much of a cancelled send it has sent.
        """
        return self._transport.counts

    @property
    def has_received(self) -> bool:
        """Whether the peer has sent anything at all. What comes before TLS does not count."""
        return self._driver.has_heard

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
        self._closing.check_open()
        if not await self._driver.complete_handshake():
            await trio.lowlevel.checkpoint()
            await self._driver.flush_leftover()
        self._closing.check_open()

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
                self._closing.check_open()
                await trio.lowlevel.checkpoint()
                await self._driver.complete_handshake()
                await self._driver.step(connection.verify_client_post_handshake)
                await self._driver.flush()
            while not await self._driver.step(connection.client_has_answered):
                await self._transport.receive()
                self._closing.check_open()

    ################################################################
    # Receiving
    ################################################################

    if TYPE_CHECKING:  # Trio's own may be a bytearray

        async def __anext__(self) -> bytes: ...

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
            raise ValueError(
                f"max_bytes must be >= 1, not {max_bytes}: leave it out to receive all"
            )
        if self._receive_conflict.is_busy:
            raise self._receive_conflict.error()
        self._receive_conflict.is_busy = True
        transport, closing, receive = self._transport, self._closing, self._receive
        try:
            if closing.has_begun or not self._driver.is_established:
                closing.check_open()
                await self._driver.complete_handshake()
            data = None if transport.inbox.wants_data else await self._receive_arrived(max_bytes)
            while data is None:
                await transport.receive()
                if closing.has_begun:
                    closing.check_open()
                data = receive(max_bytes)
            if not data:
                self._peer_watch.has_received_end = True
            if transport.outbox.pieces:
                # What receiving made us write (a certificate that the peer asked for, say) need
                # not wait for the next send.
                transport.flush_nowait()
            return data
        except TLSError as exc:
            if self._is_end(exc):
                await cancel_shielded_checkpoint()
                return b""
            await self._driver.flush_alert()
            raise
        finally:
            self._receive_conflict.is_busy = False

    async def _receive_arrived(self, max_bytes: int | None) -> bytes | None:
        """Return what there is without waiting for more."""
        await checkpoint_if_cancelled()
        data = self._receive(max_bytes)
        if data is not None:
            await cancel_shielded_checkpoint()
        return data

    def _is_end(self, exc: TLSError) -> bool:
        """Whether an error stands for the end of the data."""
        if not isinstance(exc, TruncationError):
            return False
        self._peer_watch.has_received_end = True
        return self._closing.options.https_compatible

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
            self._closing.check_open()
            if not self._driver.is_established:
                return None
            connection, transport = self._connection, self._transport
            try:
                data = self._driver.receive(max_bytes)
                # A sender may wait for the peer too, in a renegotiation: then it does the reading.
                is_busy = transport.is_receiving or transport.is_clogged or connection.is_behind
                if data is None and not is_busy:
                    transport.receive_nowait()
                    data = self._driver.receive(max_bytes)
                if data is None:
                    transport.check_receive()
                if data == b"":
                    self._peer_watch.has_received_end = True
                return data
            except TLSError as exc:
                if not self._is_end(exc):
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
        self._closing.check_open()
        connection, transport = self._connection, self._transport
        transport.flush_nowait()
        if (
            self._receive_conflict.is_busy
            or transport.is_receiving
            or not self._driver.is_established
        ):
            return False
        if not connection.bytes_to_receive and connection.receive_state is State.OPEN:
            if not (transport.is_clogged or connection.is_behind):
                transport.receive_nowait()
            connection.look_ahead()
            transport.flush_nowait()  # what the peer has asked for: see receive_some()
            self._driver.report_sessions()
        return (
            connection.bytes_to_receive > 0
            or connection.is_behind
            or connection.receive_state is not State.OPEN
            or transport.has_ended
        )

    ################################################################
    # Sending
    ################################################################

    # All in one: each message would pay for a call.
    @enable_ki_protection
    async def send_all(self, data: Data) -> None:  # noqa: C901, PLR0912
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
        connection, transport, driver = self._connection, self._transport, self._driver
        outbox, closing = transport.outbox, self._closing
        parts: Sequence[Data]
        part: Data
        try:
            if type(data) is bytes and len(data) <= SLICE_BYTES:
                parts, size = (data,), len(data)
            else:
                parts, size = slices(data)
            if closing.has_begun or not driver.is_established:
                self._check_send_open()
                await driver.complete_handshake()
            if not transport.has_heard and 0 < size <= RECORD_BYTES:
                self._peer_watch.look()
            transport.has_heard = False
            if size:  # an empty send says nothing
                driver.begun = driver.committed + size
            for part in parts:
                await checkpoint_if_cancelled()
                if outbox.pieces or outbox.held:
                    await driver.flush_held()  # what a cancelled send has left
                if closing.has_begun:
                    closing.check_open()
                try:
                    connection.send(part)
                except TLSError:
                    await driver.flush_alert()
                    raise
                driver.committed += len(part)
                if transport.flush_nowait() and not outbox.held:
                    await cancel_shielded_checkpoint()
                else:
                    await driver.flush_held()
                    closing.check_open()
        finally:
            self._send_conflict.is_busy = False
            parts, part = (), b""  # a traceback would keep the caller's buffer locked

    def peer_has_gone(self) -> bool:
        """Whether the peer has ended the transport, so that what is sent from now on may be lost.

        This shows without receiving what came before. It is False where the transport can't show
        it: over others than sockets, and streams of this class. macOS and Windows show it only
        once the socket has nothing left to read. A program that only sends need not ask:
        :meth:`send_all` and :meth:`send_nowait` do so now and then, and raise.
        """
        return self._transport.peer_has_gone()

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
            if not self._transport.has_heard and 0 < len(data) <= RECORD_BYTES:
                self._peer_watch.look()
            self._transport.flush_nowait()
            self._driver.check_send()
            if not self._driver.is_established or self._driver.has_pending:
                return 0
            if not self._transport.counts:
                return 0
            self._transport.has_heard = False
            with byte_view(data) as view:
                self._connection.send(view)
                self._driver.committed += view.nbytes
                if view.nbytes:
                    self._driver.begun = self._driver.committed
                self._transport.flush_nowait()
                return view.nbytes

    @enable_ki_protection
    async def wait_send_all_might_not_block(self) -> None:
        """Wait until :meth:`send_all` might not block. See :class:`trio.abc.SendStream`."""
        with self._send_conflict:
            self._check_send_open()
            self._connection.lifecycle.check_send()
            await self._driver.flush_leftover()
            with suppress(TLSError):
                await self._transport.wait_send_might_not_block()
            self._driver.check_send()

    @enable_ki_protection
    async def send_eof(self) -> None:
        """End our direction with a close_notify. Receiving goes on until the peer's own.

        See RFC 9846 section 6.1; it works in TLS 1.2 as well. The direction of the transport is
        not ended. Calling it again does nothing but finish what was cancelled.

        Raises:
          TLSError: if TLS or the transport failed.
        """
        with self._send_conflict:
            self._closing.check_open()
            await trio.lowlevel.checkpoint()
            await self._driver.complete_handshake()
            self._closing.check_open()
            await self._driver.send_close_notify()
            await self._driver.flush_held()

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
            self._closing.check_open()
            await trio.lowlevel.checkpoint()
            await self._driver.complete_handshake()
            trailing_data = await self._closing.unwrap()
            transport_stream = self.transport_stream
            self._transport_stream = None
            return transport_stream, trailing_data

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
        await self._closing.close(self._transport_stream)  # type: ignore[arg-type]  # as above

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

    def stop_lingering(self) -> None:
        """Have :meth:`aclose` wait for the peer's system alone, from now on.

        It closes as soon as that has acknowledged what was sent, whether the peer has closed or
        not, so a server that ends isn't held up by idle clients. What the peer sends after that is
        answered by a reset. It has no effect where the system can't report acknowledgements: they
        are known on Linux, for sockets.
        """
        self._closing.stop_lingering()

    def abort(self) -> bool:
        """Close at once, without a close_notify: the peer sees that what it got is not all.

        Tasks that are blocked on the stream get a :exc:`trio.ClosedResourceError`. Never raises,
        and does nothing on a stream that is closed.

        Returns:
          Whether the transport is closed. Sockets, Trio's memory streams and other streams of this
          class can be closed without waiting; others are left to :meth:`aclose`, which closes them
          at once then.
        """
        return self._closing.abort(self.transport_stream)

    def _check_send_open(self) -> None:
        self._closing.check_open()
        if self._connection.send_state is State.CLOSED:
            raise trio.ClosedResourceError(
                "can't send data after send_eof() or send_close_notify()"
            )


def stream_with(
    options: StreamOptions,
    arguments: Arguments,
    transport_stream: T_Stream,
    on_session: Callable[[TLSSession], object] | None = None,
) -> TLSStream[T_Stream]:
    """Make a stream of parameters that were checked before. See :class:`TLSStream`."""
    stream: TLSStream[T_Stream] = TLSStream.__new__(TLSStream)
    driver = assemble(transport_stream, arguments, options, on_session, received=b"")
    stream._make(transport_stream, options, driver)
    return stream
