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
from trio_tlsbio._net.connecting import resume_over
from trio_tlsbio._net.default_context import make_default_context
from trio_tlsbio._net.serving import close_after
from trio_tlsbio._net.session_cache import SessionCache
from trio_tlsbio._stream.decisions import ChooseContext

from ._checks import check_backend, check_session_cache
from ._errors import TLSError, in_words_of_anyio
from ._transport import AnyByteStream, Transport

__all__ = ["TLSStream", "server_stream", "shake_hands", "trio_stream_for"]


@attrs.define(eq=False, slots=False)
class TLSStream(anyio.abc.ByteStream):
    """A :class:`trio_tlsbio.TLSStream` as a byte stream of anyio. Made by :meth:`wrap`.

    It does all that :class:`anyio.streams.tls.TLSStream` does, and what that one can't:
    :meth:`send_eof` works, a cancelled call leaves the stream usable (over sockets and over other
    streams of this class; else, see :func:`trio_tlsbio.open_pump`), and the peer is told why
    something failed. What goes wrong with TLS, the peer or the transport is a :exc:`TLSError`.
    """

    transport_stream: AnyByteStream
    """The stream it was made over."""

    trio_stream: trio_tlsbio.TLSStream[Any]
    """The stream that does the work: sessions, ``bytes_committed`` and more can be had there."""

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
        """Do the handshake over a stream, and return the encrypted one.

        Args:
          transport_stream: The stream, which is closed if this fails.
          server_side: Whether this end is the server; by default it is if there is no ``hostname``.
          hostname: The name of the server. Servers ignore it.
          ssl_context: The settings; by default those of :func:`ssl.create_default_context`, with
            the cipher suites that RFC 9325 recommends.
          standard_compatible: Whether to send a close_notify at the end, and to expect one.
          handshake_timeout: How long the handshake may take, in seconds.
          session_cache: Where to take a session from, and to put those that the server gives.
            Clients only, and only with the same ``ssl_context``.

        Raises:
          TLSError: if the handshake failed.
          ValueError: for arguments that don't go together.
          RuntimeError: if the program does not run on Trio.
        """
        try:
            check_backend()
            if server_side is None:
                server_side = not hostname
            check_session_cache(session_cache, ssl_context, server_side=server_side)
            if server_side:
                if ssl_context is None:
                    ssl_context = make_default_context(ssl.Purpose.CLIENT_AUTH)
                trio_stream = server_stream(
                    transport_stream, ssl_context, standard_compatible, handshake_timeout
                )
                try:
                    await shake_hands(trio_stream)
                except TLSError as exc:
                    await close_after(exc.error, trio_stream)
                    raise
            else:
                with in_words_of_anyio():
                    trio_stream = await resume_over(
                        trio_stream_for(transport_stream),
                        ssl_context or make_default_context(),
                        server_hostname=hostname,
                        port=transport_stream.extra(anyio.abc.SocketAttribute.remote_port, 0),
                        session_cache=session_cache,
                        https_compatible=not standard_compatible,
                        handshake_timeout=handshake_timeout,
                    )
            return cls(transport_stream, trio_stream, standard_compatible)
        except BaseException:
            await anyio.aclose_forcefully(transport_stream)
            raise

    @enable_ki_protection
    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive up to ``max_bytes``. Cancelled, nothing is lost.

        Raises:
          anyio.EndOfStream: once the peer has ended its direction.
          TLSError: if TLS or the transport failed, or ended without a close_notify.
          ValueError: if ``max_bytes`` is not positive.
        """
        if operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be a positive integer")
        with in_words_of_anyio():
            data = await self.trio_stream.receive_some(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    @enable_ki_protection
    async def send(self, item: bytes) -> None:
        """Send all of it. Cancelled, see :attr:`trio_tlsbio.TLSStream.bytes_committed`.

        Raises:
          TLSError: if TLS or the transport failed.
        """
        with in_words_of_anyio():
            await self.trio_stream.send_all(item)

    @enable_ki_protection
    async def send_eof(self) -> None:
        """End our direction by a close_notify. Receiving goes on."""
        with in_words_of_anyio():
            await self.trio_stream.send_eof()

    @enable_ki_protection
    async def unwrap(self) -> tuple[AnyByteStream, bytes]:
        """End TLS in both directions. See :meth:`trio_tlsbio.TLSStream.unwrap`.

        Returns:
          The underlying stream, and what was received on it already.
        """
        with in_words_of_anyio():
            _, trailing_data = await self.trio_stream.unwrap()
        return self.transport_stream, trailing_data

    @enable_ki_protection
    async def aclose(self) -> None:
        """End the connection, and close the underlying stream.

        This sends a close_notify if the stream is ``standard_compatible``. Over a socket it then
        waits until the peer has closed too, for 5 seconds at most: see
        :meth:`trio_tlsbio.TLSStream.aclose`. A peer that doesn't answer, or has gone, is no error.

        anyio's own stream waits for the peer's close_notify as long as it takes, raises an
        exception if the peer closes without one, and waits for nothing if it is not
        ``standard_compatible``. Here a peer can neither block a close nor make it fail, and the
        data that was sent last isn't lost. To check that the peer has ended properly, receive until
        :exc:`anyio.EndOfStream`, or call :meth:`unwrap`.
        """
        try:
            with in_words_of_anyio():
                await self.trio_stream.aclose()
        finally:
            if self.trio_stream.transport_stream is not None:  # as it is after unwrap()
                await self.transport_stream.aclose()  # it has to know that its socket is closed

    @enable_ki_protection  # anyio's own would leave it to Ctrl-C whether aclose() begins
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
    """Return the Trio stream to speak TLS over."""
    if isinstance(stream, TLSStream):
        return stream.trio_stream
    if isinstance(stream, anyio.abc.SocketStream):
        # A second owner of the same socket, which knows how much a cancelled send has sent.
        # Whatever a subclass does with the bytes is bypassed.
        socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        return trio.SocketStream(trio.socket.from_stdlib_socket(socket))
    return Transport(stream)


def server_stream(
    transport_stream: AnyByteStream,
    ssl_context: ssl.SSLContext | ChooseContext,
    standard_compatible: bool,
    handshake_timeout: float,
) -> trio_tlsbio.TLSStream[Any]:
    """Make a server's side of a connection, whose handshake is still to be done."""
    return trio_tlsbio.TLSStream(
        trio_stream_for(transport_stream),
        ssl_context,
        server_side=True,
        https_compatible=not standard_compatible,
        handshake_timeout=handshake_timeout,
    )


async def shake_hands(trio_stream: trio_tlsbio.TLSStream[Any]) -> None:
    """Do the handshake; it raises anyio's exceptions."""
    with in_words_of_anyio():
        await trio_stream.do_handshake()
