"""The Trio stream: a TLS connection over any transport stream."""

from __future__ import annotations

import math
import operator
import ssl
from collections.abc import Callable
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
from trio_tlsbio._core.misuse import max_bytes_error
from trio_tlsbio._core.records import RECORD_BYTES, Data, byte_view
from trio_tlsbio._core.sessions import TLSSession, refuse_copy
from trio_tlsbio._core.states import State

from .addresses import Addresses, AddressQueries
from .assembly import assemble
from .closing import Closing
from .decisions import ChooseContext, VerifyPeer, checked_function
from .driver import Driver
from .interfaces import check_transport, stream_of
from .options import CLOSE_MAX_BYTES, CLOSE_TIMEOUT, StreamOptions
from .peer_watch import PeerWatch
from .queries import ConnectionQueries
from .sockets import RECEIVE_BYTES
from .transport import SLICE_BYTES, Transport, release, slices
from .turns import ConflictDetector

__all__ = ["TLSStream", "T_Stream", "stream_with"]

T_Stream = TypeVar("T_Stream", bound=trio.abc.Stream)

_OPEN = State.OPEN  # enum lookups cost three calls


# Trio can raise KeyboardInterrupt between any two lines of a task: for example, after a record was
# sent and before that was noted. So the methods are protected, and Ctrl-C takes effect where the
# main task waits.
@attrs.define(eq=False, init=False, repr=False)
class TLSStream(ConnectionQueries, AddressQueries, trio.abc.HalfCloseableStream, Generic[T_Stream]):
    """Encrypted communication over a transport stream. A drop-in for :class:`trio.SSLStream`.

    The handshake happens automatically when the stream is first used, or in :meth:`do_handshake`.

    Every method can be cancelled, and the stream stays usable: the data that was encrypted before
    the cancellation is sent first by the next operation in either direction. This requires a
    transport that reports how much a cancelled send has sent: a :class:`trio.SocketStream`, another
    :class:`TLSStream`, or any stream in an :func:`open_pump`. Over other transports, cancelling a
    send while the transport works on it breaks sending, but not receiving. Ctrl-C doesn't interrupt
    a method midway: it takes effect when the main task waits, and then acts like a cancellation.

    One task at a time may send, and one may receive; another task that tries gets a
    :exc:`trio.BusyResourceError`. Using the stream after :meth:`aclose` or :meth:`unwrap` raises
    :exc:`trio.ClosedResourceError`. Failures of TLS, the peer or the transport are reported as a
    :exc:`TLSError`. Before it is raised, the peer is sent the alert that OpenSSL wrote about the
    failure, if any.

    Args:
      transport_stream: Carries the encrypted data. The stream owns it from now on.
      ssl_context: The settings, usually created by :func:`ssl.create_default_context`. On a server,
        this can also be a function, async or not, that takes the :class:`ClientHello` and returns
        the settings for this client, or raises :exc:`RefuseHandshake`. It runs in the task that
        needs the handshake, within ``handshake_timeout``. If that task is cancelled, the function
        is called again when the handshake continues. Any other exception is raised in that task,
        and the client is refused.
      server_hostname: The name of the server, for SNI and for the check of its certificate.
        Required if ``ssl_context.check_hostname`` is set.
      server_side: Whether this end is the server.
      https_compatible: Don't require the close_notify that ends a TLS connection, and don't send
        one in :meth:`aclose`. This is common in HTTP, where messages mark their own end. The end of
        the transport then counts as the end of the data.
      session: The session of an earlier connection to resume (clients only).
      on_session: Called with every session that the server sends, for later resumption (clients
        only). It is also called while closing, so that a client that never receives can resume too.
        It must not raise, or data that arrived together with the session would be lost.
      handshake_timeout: How long the handshake may take, in seconds, from the first call that waits
        for it. By default there is no limit.
      close_timeout: How long :meth:`aclose` waits for the peer, in seconds; 0 means not to wait.
      close_max_bytes: How many bytes from the peer :meth:`aclose` discards before it stops waiting
        for the end.
      received: Ciphertext that was already read from the transport, for example by
        :func:`read_client_hello`. It is processed before any data that is read from the transport.
      verify_peer: An async function that verifies the peer after OpenSSL has accepted it, also in a
        resumed session: for revocation, pinning, or a list of clients. It is called with the
        :class:`HandshakeInfo` that :attr:`handshake` will return. Until it returns, no data passes,
        and our last message of the handshake is held back. If it raises an exception, the peer is
        refused without an alert. A :exc:`TLSError` is raised as it is, and any other exception
        becomes the cause of a :exc:`TLSError`. It can be cancelled, and is limited by
        ``handshake_timeout``, like the rest of the handshake.
      strict_alpn: Whether a server refuses a client that offers application protocols (ALPN), but
        none that the context supports, with the alert ``no_application_protocol`` (RFC 7301 section
        3.2). By default the handshake continues without a protocol, as in Python's servers. A
        client that offers no protocol is served in either case.

    Raises:
      ValueError: if the arguments are not valid together, before a byte is sent.
      TypeError: if an argument has the wrong type.
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
        functions = (
            checked_function(ssl_context, "ssl_context") if is_chosen else None,
            None if verify_peer is None else checked_function(verify_peer, "verify_peer"),
            on_session,
        )
        context: Any = None if is_chosen else ssl_context
        arguments = Arguments.parse(
            context, server_side=server_side, server_hostname=server_hostname, session=session
        )
        driver = assemble(transport_stream, arguments, options, functions, received)
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
        """Start carrying another TLS stream. Its errors also count as errors of this
        stream's peer.
        """
        inner.run_inside(self._connection.lifecycle.origin)
        # the inner stream watches the peer, and knows whether all data was received
        self._peer_watch.end()

    def __repr__(self) -> str:
        state = "closed " if self._closing.has_begun else ""
        return f"<TLSStream {state}{self._connection!r} over {self._transport_stream!r}>"

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)

    ################################################################
    # Parts of the stream
    ################################################################

    @property
    def transport_stream(self) -> T_Stream:
        """The transport stream passed to the constructor, or None after :meth:`unwrap` has returned
        it.
        """
        return self._transport_stream  # type: ignore[return-value]  # as trio.SSLStream has it

    @property
    def bytes_committed(self) -> int:
        """How many bytes of plaintext were encrypted so far.

        If :attr:`is_cancel_safe`, these bytes are delivered completely and in order, whatever is
        cancelled. So after a cancelled :meth:`send_all`, this shows where to continue.
        """
        return self._driver.committed

    @property
    def is_cancel_safe(self) -> bool:
        """True if a send can be cancelled at any point without breaking the sending direction.

        This requires a transport that reports how much a cancelled send has sent.
        """
        return self._transport.is_cancel_safe

    @property
    def has_received(self) -> bool:
        """True if the peer has sent anything at all. Data that precedes TLS doesn't count."""
        return self._driver.has_received

    ################################################################
    # Handshake
    ################################################################

    @enable_ki_protection
    async def do_handshake(self) -> None:
        """Complete the handshake, if it isn't done yet.

        Any number of tasks may call this, or send and receive, at the same time; all of them get
        the result of the handshake, good or bad. After a cancellation, the next call of any kind
        continues the handshake where it stopped.

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
        """Request the client's certificate now, and wait for the answer. TLS 1.3 servers only.

        Afterwards, :attr:`handshake` and :meth:`getpeercert` show the certificate. The client may
        have sent none if the context has ``CERT_OPTIONAL``. Data that arrives in the meantime is
        kept for :meth:`receive_some`, up to 1 MiB. If this is cancelled, a later receive processes
        the answer, and calling this again waits for it. For the requirements, see
        :meth:`TLSConnection.verify_client_post_handshake`, and RFC 9846 section 4.7.2.

        Raises:
          PostHandshakeAuthError: if the client can't be asked, ends its direction instead of
            answering, or sends too much data first. The stream stays usable.
          TLSError: if the client's certificate was refused, or TLS or the transport failed.
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
                await self._driver.call(connection.verify_client_post_handshake)
                await self._driver.flush()
            while not await self._driver.call(connection.client_has_answered):
                await self._transport.receive()
                self._closing.check_open()

    ################################################################
    # Receiving
    ################################################################

    if TYPE_CHECKING:  # Trio's annotation allows a bytearray

        async def __anext__(self) -> bytes: ...

    @enable_ki_protection
    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Wait for data from the peer, and return it.

        A cancellation loses no data.

        Args:
          max_bytes: The most bytes to return; by default everything that has arrived.

        Returns:
          The data. Once the peer has ended its direction, every call returns ``b""``.

        Raises:
          TruncationError: on every call, if the transport ended without a close_notify. With
            ``https_compatible``, ``b""`` is returned instead.
          TLSError: if TLS or the transport failed.
          ValueError: if ``max_bytes`` is not positive.
        """
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise max_bytes_error(max_bytes)
        if self._receive_conflict.is_busy:
            raise self._receive_conflict.error()
        self._receive_conflict.is_busy = True
        transport, receive = self._transport, self._receive
        try:
            if self._closing.has_begun or not self._driver.is_established:
                self._closing.check_open()
                await self._driver.complete_handshake()
            data = None if transport.inbox.wants_data else await self._receive_arrived(max_bytes)
            while data is None:
                await transport.receive()
                if self._closing.has_begun:
                    self._closing.check_open()
                data = receive(max_bytes)
            if not data:
                self._peer_watch.has_received_end = True
            if transport.outbox.pieces:
                # Receiving may have produced an answer (a certificate that the peer requested,
                # say), which need not wait for the next send.
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
        """Return data that has already arrived, or None."""
        await checkpoint_if_cancelled()
        data = self._receive(max_bytes)
        if data is not None:
            await cancel_shielded_checkpoint()
        return data

    def _is_end(self, exc: TLSError) -> bool:
        """Return True if an error counts as the end of the data."""
        if not isinstance(exc, TruncationError):
            return False
        self._peer_watch.has_received_end = True
        return self._closing.options.https_compatible

    @enable_ki_protection
    def receive_nowait(self, max_bytes: int | None = None) -> bytes | None:
        """Return data that has already arrived, at most ``max_bytes`` bytes. Never waits.

        Returns:
          The data, or None if nothing has arrived, if the transport can't receive without waiting,
          or before the handshake is done. Once the peer has ended its direction, every call returns
          ``b""``.

        Raises:
          TruncationError: as in :meth:`receive_some`.
          TLSError: if TLS or the transport failed.
          ValueError: if ``max_bytes`` is not positive.
        """
        with self._receive_conflict:
            self._closing.check_open()
            if not self._driver.is_established:
                return None
            connection, transport = self._connection, self._transport
            try:
                if transport.is_held_up and not connection.inbox.plaintext:
                    return None
                data = self._driver.receive(max_bytes)
                # During a renegotiation, a sender may be waiting for the peer, and does the
                # reading.
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
                transport.flush_nowait()  # answers to the peer's requests, or our alert

    @enable_ki_protection
    def is_readable(self) -> bool:
        """Return True if :meth:`receive_some` would return, or raise, without waiting.

        This processes the data that has arrived. Unsolicited session tickets make a socket
        readable, but not the stream, so a connection pool can use this to decide whether an idle
        connection may be reused. It works over sockets and streams of this class; over other
        transports this may be False although data has arrived. It is False before the handshake is
        done, and while a task is receiving. It is True while more data has arrived than one call
        processes, because such a peer is not idle.

        Raises:
          trio.ClosedResourceError: after :meth:`aclose` or :meth:`unwrap`.
        """
        self._closing.check_open()
        connection, transport = self._connection, self._transport
        plaintext = connection.inbox.plaintext
        transport.flush_nowait()
        if (
            self._receive_conflict.is_busy
            or transport.is_receiving
            or not self._driver.is_established
        ):
            return False
        is_flooded = connection.is_behind
        if not plaintext and connection.receive_state is _OPEN and not transport.is_held_up:
            if not (transport.is_clogged or is_flooded):
                # The second read shows what waits behind the first: more data, the end or an error.
                is_flooded = transport.receive_nowait(2) > RECEIVE_BYTES
            connection.look_ahead()
            transport.flush_nowait()  # answers to the peer's requests: see receive_some()
            self._driver.report_sessions()
        return (
            len(plaintext) > 0
            or is_flooded
            or connection.is_behind
            or connection.receive_state is not _OPEN
            or transport.has_ended
        )

    ################################################################
    # Sending
    ################################################################

    # Everything is in one function: each message would pay for another call.
    @enable_ki_protection
    async def send_all(self, data: Data) -> None:  # noqa: C901, PLR0912
        """Encrypt data and send it.

        If this is cancelled, the data that was already encrypted is sent later, completely and
        before anything else. The rest is not sent: see :attr:`bytes_committed`.

        Raises:
          TLSError: if TLS or the transport failed.
          trio.ClosedResourceError: after :meth:`send_eof`.
        """
        if self._send_conflict.is_busy:
            raise self._send_conflict.error()
        parts: list[bytes | memoryview]
        if type(data) is bytes and (size := len(data)) <= SLICE_BYTES:
            parts = [data]
        else:
            parts, size = slices(data)
        self._send_conflict.is_busy = True
        transport, driver = self._transport, self._driver
        outbox = transport.outbox
        try:
            if self._closing.has_begun or not driver.is_established:
                self._closing.check_send_open()
                await driver.complete_handshake()
            if transport.received_since_send:
                transport.received_since_send = False
            elif 0 < size <= RECORD_BYTES:
                self._peer_watch.look()
            if size:  # an empty send doesn't complete a send that was cut short
                driver.send_target = driver.committed + size
            for part in parts:
                await checkpoint_if_cancelled()
                if outbox.pieces or outbox.held:
                    await driver.flush_held()  # left by a cancelled send
                if self._closing.has_begun:
                    self._closing.check_open()
                try:
                    self._connection.send(part)
                except TLSError:
                    await driver.flush_alert()
                    raise
                driver.committed += len(part)
                if transport.flush_nowait() and not outbox.held:
                    await cancel_shielded_checkpoint()
                else:
                    await driver.flush_held()
                    self._closing.check_open()
        except BaseException:
            release(parts)
            raise
        finally:
            self._send_conflict.is_busy = False

    def peer_has_gone(self) -> bool:
        """Return True if the peer has ended the transport, so that data sent from now on may be
        lost.

        For this, the data that came before doesn't have to be received first. Only sockets and
        streams of this class can detect it; over other transports this always returns False. macOS
        and Windows detect it only once the socket has nothing left to read. Code that only sends
        doesn't have to call this: :meth:`send_all` and :meth:`send_nowait` check from time to time,
        and raise an error.
        """
        return self._transport.peer_has_gone()

    @enable_ki_protection
    def send_nowait(self, data: Data) -> int:
        """Encrypt data and send what can be sent at once. Never waits.

        Returns:
          How many bytes were accepted: all of them, or 0 before the handshake is done, while
          another task sends, while earlier data is unsent, and over a transport that can't send
          without waiting.

        Raises:
          TLSError: if TLS or the transport failed.
          trio.ClosedResourceError: after :meth:`send_eof`.
        """
        with self._send_conflict:
            self._closing.check_send_open()
            if not self._transport.received_since_send and 0 < len(data) <= RECORD_BYTES:
                self._peer_watch.look()
            self._transport.flush_nowait()
            self._driver.check_send()
            if not self._driver.is_established or self._driver.has_pending:
                return 0
            if not self._transport.is_cancel_safe:
                return 0
            self._transport.received_since_send = False
            with byte_view(data) as view:
                self._connection.send(view)
                self._driver.committed += view.nbytes
                if view.nbytes:
                    self._driver.send_target = self._driver.committed
                self._transport.flush_nowait()
                return view.nbytes

    @enable_ki_protection
    async def wait_send_all_might_not_block(self) -> None:
        """Wait until :meth:`send_all` might not block. See :class:`trio.abc.SendStream`."""
        with self._send_conflict:
            self._closing.check_send_open()
            self._connection.lifecycle.check_send()
            await self._driver.flush_leftover()
            with suppress(TLSError):
                await self._transport.wait_send_might_not_block()
            self._driver.check_send()

    @enable_ki_protection
    async def send_eof(self) -> None:
        """End our direction with a close_notify. Receiving continues until the peer's close_notify.

        See RFC 9846 section 6.1; this works in TLS 1.2 as well. It doesn't end the direction of the
        transport. After a cancellation, call it again to finish. Otherwise, a second call does
        nothing.

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
        """End TLS in both directions, and return the transport for use without TLS.

        This sends a close_notify and waits for the peer's. Like :meth:`send_eof`, it declares that
        the data is complete, even if a send was cancelled. If it is cancelled, call it again.

        Returns:
          The transport stream, and the bytes that were received on it after the end of TLS. They
          belong to whatever follows TLS. The :class:`TLSStream` itself can't be used any more.

        Raises:
          TLSError: if TLS or the transport failed, or if the peer sent more data instead of its
            close_notify. In that case, receive the data until ``b""`` before you try again.
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
        """End the connection and close the transport, so that all data that was sent can arrive.

        This sends a close_notify, after completing the handshake if that isn't done. With
        ``https_compatible`` it does neither. Over a socket, it then ends the TCP direction and
        waits until the peer has closed too: closing a socket while the peer still sends can destroy
        data that the peer has not read yet. All of this takes at most ``close_timeout`` seconds.

        A close_notify asserts that the peer has received everything. So none is sent if the last
        :meth:`send_all` ended before all of its data was encrypted.

        If this is cancelled, it closes the transport at once. Before that, it sends the pending
        ciphertext and the close_notify, as far as that works without waiting. Tasks that are
        blocked on the stream get a :exc:`trio.ClosedResourceError`. If another task is already
        closing the stream, this waits until that is done.

        Raises:
          TLSError: if it had to complete the handshake, and the handshake failed. The transport is
            closed anyway.
          PeerAlertError: if it found a fatal alert from the peer that no other call has raised. A
            client that only sends has no other way to learn that it was refused. After an end
            without a close_notify, the alert ``decode_error`` is ignored: it is how OpenSSL answers
            such an end.
        """
        await self._closing.close(self._transport_stream)  # type: ignore[arg-type]  # as above

    @enable_ki_protection  # with Trio's own method, Ctrl-C could prevent aclose() from being called
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
                raise  # otherwise the exception that ended the block matters more

    def stop_lingering(self) -> None:
        """Make :meth:`aclose` wait only for the peer's system from now on.

        It then closes as soon as that system has acknowledged the data, whether or not the peer has
        closed, so that idle clients don't delay the end of a server. Data that the peer sends
        afterwards is answered with a reset. This has no effect where acknowledgements can't be
        queried: they can on Linux, for sockets.
        """
        self._closing.stop_lingering()

    def abort(self) -> bool:
        """Close at once, without a close_notify, so that the peer can see that data is missing.

        Tasks that are blocked on the stream get a :exc:`trio.ClosedResourceError`. This never
        raises, and does nothing on a closed stream.

        Returns:
          True if the transport is closed. Sockets, Trio's memory streams and other streams of this
          class can be closed without waiting. Other transports are left to :meth:`aclose`, which
          then closes them at once.
        """
        return self._closing.abort(self.transport_stream)


def stream_with(
    options: StreamOptions,
    arguments: Arguments,
    transport_stream: T_Stream,
    on_session: Callable[[TLSSession], object] | None = None,
) -> TLSStream[T_Stream]:
    """Create a stream from parameters that were already checked. See :class:`TLSStream`."""
    stream: TLSStream[T_Stream] = TLSStream.__new__(TLSStream)
    functions = options.choose_context, options.verify_peer, on_session
    driver = assemble(transport_stream, arguments, options, functions, received=b"")
    stream._make(transport_stream, options, driver)
    return stream
