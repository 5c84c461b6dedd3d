"""The encrypted stream."""

from __future__ import annotations

import math
import operator
import ssl
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any

import anyio
import anyio.abc
import attrs
import trio
from anyio.streams.tls import TLSAttribute
from trio.lowlevel import enable_ki_protection

import trio_tlsbio
from trio_tlsbio._core.arguments import Arguments
from trio_tlsbio._net.connecting import SessionsOfServer, connect_over
from trio_tlsbio._net.default_context import make_default_context
from trio_tlsbio._net.serving import close_after
from trio_tlsbio._net.session_cache import SessionCache
from trio_tlsbio._stream.options import CLOSE_MAX_BYTES, CLOSE_TIMEOUT, StreamOptions
from trio_tlsbio._stream.stream import stream_with

from ._checks import check_backend, check_session_cache
from ._errors import TLSError, as_anyio_errors
from ._transport import AnyByteStream, Transport

__all__ = ["TLSStream", "options_of", "server_stream", "shake_hands", "trio_stream_for"]


@attrs.define(eq=False, slots=False)
class TLSStream(anyio.abc.ByteStream):
    """A :class:`trio_tlsbio.TLSStream` as an anyio byte stream. Created by :meth:`wrap`.

    It does everything that :class:`anyio.streams.tls.TLSStream` does, and more: :meth:`send_eof`
    works, a cancelled call leaves the stream usable (over sockets and other streams of this class;
    for other transports, see :func:`trio_tlsbio.open_pump`), and the peer gets an alert about a
    failure. Failures of TLS, the peer or the transport are reported as a :exc:`TLSError`.
    """

    transport_stream: AnyByteStream
    """The underlying stream."""

    trio_stream: trio_tlsbio.TLSStream[Any]
    """The stream that does the work. It provides sessions, ``bytes_committed`` and more."""

    standard_compatible: bool
    """Whether a close_notify is sent and expected."""

    @classmethod
    async def wrap(
        cls,
        transport_stream: AnyByteStream,
        *,
        server_side: bool | None = None,
        hostname: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        standard_compatible: bool = True,
        handshake_timeout: float = math.inf,
        session_cache: SessionCache | None = None,
    ) -> TLSStream:
        """Perform the handshake over a stream, and return the encrypted stream.

        Args:
          transport_stream: The stream. It is closed if this fails.
          server_side: Whether this end is the server; by default True if there is no ``hostname``.
          hostname: The name of the server. Servers ignore it.
          ssl_context: The settings; by default those of :func:`ssl.create_default_context`, with
            the cipher suites that RFC 9325 recommends.
          standard_compatible: Whether to send a close_notify at the end, and to expect one.
          handshake_timeout: How long the handshake may take, in seconds.
          session_cache: Where to take a session from, and to store the sessions that the server
            sends. Clients only; requires the same ``ssl_context`` for all connections.

        Raises:
          TLSError: if the handshake failed.
          ValueError: if the arguments are not valid together.
          RuntimeError: if anyio does not run on Trio.
        """
        try:
            check_backend()
            if server_side is None:
                server_side = not hostname
            check_session_cache(session_cache, ssl_context, server_side=server_side)
            options = options_of(standard_compatible, handshake_timeout)
            if server_side:
                if ssl_context is None:
                    ssl_context = make_default_context(ssl.Purpose.CLIENT_AUTH)
                trio_stream = server_stream(
                    transport_stream, Arguments.of_server(ssl_context), options
                )
                try:
                    await shake_hands(trio_stream)
                except TLSError as exc:
                    await close_after(exc.error, trio_stream)
                    raise
            else:
                port = transport_stream.extra(anyio.abc.SocketAttribute.remote_port, 0)
                with as_anyio_errors():
                    trio_stream = await connect_over(
                        trio_stream_for(transport_stream),
                        Arguments.parse(
                            ssl_context or make_default_context(), server_hostname=hostname
                        ),
                        options,
                        None if session_cache is None else SessionsOfServer(session_cache, port),
                    )
            return cls(transport_stream, trio_stream, standard_compatible)
        except BaseException:
            await anyio.aclose_forcefully(transport_stream)
            raise

    @enable_ki_protection
    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive up to ``max_bytes`` bytes. A cancellation loses no data.

        Raises:
          anyio.EndOfStream: once the peer has ended its direction.
          TLSError: if TLS or the transport failed, or the transport ended without a close_notify.
          ValueError: if ``max_bytes`` is not positive.
        """
        if operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be a positive integer")
        with as_anyio_errors():
            data = await self.trio_stream.receive_some(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    @enable_ki_protection
    async def send(self, item: bytes) -> None:
        """Send all of ``item``. For cancellation, see
        :attr:`trio_tlsbio.TLSStream.bytes_committed`.

        Raises:
          TLSError: if TLS or the transport failed.
        """
        with as_anyio_errors():
            await self.trio_stream.send_all(item)

    @enable_ki_protection
    async def send_eof(self) -> None:
        """End our direction with a close_notify. Receiving is still possible."""
        with as_anyio_errors():
            await self.trio_stream.send_eof()

    @enable_ki_protection
    async def unwrap(self) -> tuple[AnyByteStream, bytes]:
        """End TLS in both directions. See :meth:`trio_tlsbio.TLSStream.unwrap`.

        Returns:
          The underlying stream, and the bytes that were already received on it after the end of
          TLS.
        """
        with as_anyio_errors():
            _, trailing_data = await self.trio_stream.unwrap()
        return self.transport_stream, trailing_data

    @enable_ki_protection
    async def aclose(self) -> None:
        """End the connection, and close the underlying stream.

        This sends a close_notify if the stream is ``standard_compatible``. Over a socket it then
        waits until the peer has closed too, for at most 5 seconds: see
        :meth:`trio_tlsbio.TLSStream.aclose`. It is not an error if the peer doesn't answer, or has
        disconnected.

        anyio's own stream waits for the peer's close_notify without a limit, raises an exception if
        the peer closes without one, and doesn't wait at all if it is not ``standard_compatible``.
        Here a peer can neither block a close nor make it fail, and the data that was sent last
        isn't lost. To check that the peer has ended properly, receive until
        :exc:`anyio.EndOfStream`, or call :meth:`unwrap`.
        """
        try:
            with as_anyio_errors():
                await self.trio_stream.aclose()
        finally:
            if self.trio_stream.transport_stream is not None:  # it is None after unwrap()
                # this stream has to know that its socket is closed
                await self.transport_stream.aclose()

    # with anyio's own method, Ctrl-C could prevent aclose() from being called
    @enable_ki_protection
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the underlying stream, and those of anyio's TLSAttribute."""
        ssl_object = self.trio_stream.connection.ssl_object
        return {
            **self.transport_stream.extra_attributes,
            TLSAttribute.alpn_protocol: ssl_object.selected_alpn_protocol,
            TLSAttribute.channel_binding_tls_unique: ssl_object.get_channel_binding,
            TLSAttribute.cipher: ssl_object.cipher,
            TLSAttribute.peer_certificate: ssl_object.getpeercert,
            TLSAttribute.peer_certificate_binary: lambda: ssl_object.getpeercert(True),
            TLSAttribute.server_side: lambda: ssl_object.server_side,
            TLSAttribute.shared_ciphers: lambda: (
                ssl_object.shared_ciphers() if ssl_object.server_side else None
            ),
            TLSAttribute.ssl_object: lambda: ssl_object,
            TLSAttribute.standard_compatible: lambda: self.standard_compatible,
            TLSAttribute.tls_version: ssl_object.version,
        }


def trio_stream_for(stream: AnyByteStream) -> trio.abc.Stream:
    """Return the Trio stream to use as the transport of TLS."""
    if isinstance(stream, TLSStream):
        return stream.trio_stream
    if isinstance(stream, anyio.abc.SocketStream):
        # A second owner of the same socket, which reports how much a cancelled send has sent. This
        # bypasses any processing by a subclass.
        socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        return trio.SocketStream(trio.socket.from_stdlib_socket(socket))
    return Transport(stream)


def server_stream(
    transport_stream: AnyByteStream,
    arguments: Arguments,
    options: StreamOptions,
) -> trio_tlsbio.TLSStream[Any]:
    """Create the server's side of a connection, without performing the handshake."""
    return stream_with(options, arguments, trio_stream_for(transport_stream))


def options_of(standard_compatible: bool, handshake_timeout: float) -> StreamOptions:
    """Return the options of a stream, based on the parameters of anyio's classes."""
    return StreamOptions.of(
        not standard_compatible, handshake_timeout, CLOSE_TIMEOUT, CLOSE_MAX_BYTES
    )


async def shake_hands(trio_stream: trio_tlsbio.TLSStream[Any]) -> None:
    """Perform the handshake, raising anyio's exceptions."""
    with as_anyio_errors():
        await trio_stream.do_handshake()
