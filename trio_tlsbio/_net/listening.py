"""Listeners whose connections use TLS."""

from __future__ import annotations

import inspect
import ssl
from collections.abc import Iterable
from typing import Any, Generic, TypeAlias, cast

import attrs
import trio

from trio_tlsbio._core.arguments import Arguments
from trio_tlsbio._core.misuse import kind_of
from trio_tlsbio._stream.decisions import ChooseContext, VerifyPeer, checked_function, is_function
from trio_tlsbio._stream.options import CLOSE_MAX_BYTES, CLOSE_TIMEOUT, StreamOptions
from trio_tlsbio._stream.stream import T_Stream, TLSStream, stream_with

from .plaintext import OnPlaintext, expect_prologue
from .proxy_protocol import TrustedProxies, check_trusted_proxies
from .reloading import ContextProvider, current_context, next_context

__all__ = [
    "HANDSHAKE_TIMEOUT",
    "ServerContext",
    "ServerSettings",
    "TLSListener",
    "contexts_of",
    "is_context_error",
    "open_listeners",
    "open_tls_over_tcp_listeners",
    "when_closed",
]

HANDSHAKE_TIMEOUT = 15.0


ServerContext: TypeAlias = ssl.SSLContext | ContextProvider | ChooseContext
"""The settings of a server, or a function that returns them: see :class:`TLSListener`."""


def _takes_hello(ssl_context: ServerContext) -> bool:
    """Return True if it is a function that takes the ClientHello. This check is slow."""
    if is_function(ssl_context):
        try:
            inspect.signature(ssl_context).bind()
        except TypeError:
            return True
        except ValueError:  # a built-in function, whose signature is unknown
            pass
    return False


def _check_listener(listener: object) -> None:
    if isinstance(listener, type) or not (
        hasattr(listener, "accept") and hasattr(listener, "aclose")
    ):
        raise TypeError(
            f"transport_listener must be a trio.abc.Listener, not {kind_of(listener)}: "
            "trio.open_tcp_listeners() returns a list of them"
        )


@attrs.define(eq=False)
class ServerSettings:
    """The settings that all connections of a server share, validated. Created by :meth:`of`."""

    ssl_context: ServerContext
    options: StreamOptions
    proxy_protocol: TrustedProxies | None
    on_plaintext: OnPlaintext[Any] | None
    _provider: ContextProvider | None  # unless the context never changes
    _arguments: Arguments  # for the latest context; it is missing if it depends on the client

    @classmethod
    def of(
        cls,
        ssl_context: ServerContext,
        options: StreamOptions,
        proxy_protocol: TrustedProxies | None = None,
        on_plaintext: OnPlaintext[Any] | None = None,
    ) -> ServerSettings:
        """Validate the parameters of a :class:`TLSListener`."""
        provider: ContextProvider | None = None
        if _takes_hello(ssl_context):
            options = options.deciding(
                verify_peer=options.verify_peer, choose_context=cast("ChooseContext", ssl_context)
            )
            arguments = Arguments(None, server_side=True)
        else:
            context = current_context(cast("ContextProvider", ssl_context))
            arguments = Arguments.of_server(context)
            if context is not ssl_context:
                provider = cast("ContextProvider", ssl_context)
        check_trusted_proxies(proxy_protocol)
        if on_plaintext is not None:
            checked_function(on_plaintext, "on_plaintext")
        return cls(ssl_context, options, proxy_protocol, on_plaintext, provider, arguments)

    async def arguments(self) -> Arguments:
        """Return the arguments of the next connection. Raises any exception of the user's
        function.
        """
        if self._provider is not None:
            context = await next_context(self._provider)
            if context is not self._arguments.ssl_context:
                self._arguments = Arguments.of_server(context)
        return self._arguments


@attrs.define(eq=False, init=False)
class TLSListener(trio.abc.Listener[TLSStream[T_Stream]], Generic[T_Stream]):
    """A listener whose connections use TLS. A drop-in for :class:`trio.SSLListener`.

    With :func:`serve_tls_listeners`, no client can end or block the server. With
    :func:`trio.serve_listeners` no client can block it either, but the handler performs the
    handshake by using the stream, and gets a :exc:`TLSError` if the handshake fails or takes longer
    than ``handshake_timeout``.

    Args:
      transport_listener: The listener whose connections are wrapped.
      ssl_context: The settings, with the server's certificate, or a function that returns them. A
        function without parameters, such as a :class:`ReloadingContext`, is called for each
        connection; :meth:`accept` raises its exceptions, which ends the server. A function that
        takes the :class:`ClientHello`, async or not, is called in the connection's own task: see
        :class:`TLSStream` and :func:`contexts_by_name`.
      https_compatible: See :class:`TLSStream`.
      handshake_timeout: How long a handshake may take, in seconds.
      close_timeout: How long closing waits for the client, in seconds. See :class:`TLSStream`.
      close_max_bytes: How many bytes from a client are discarded while closing, before it stops
        waiting for the client's end.
      proxy_protocol: The proxies that connect on behalf of clients, and send a PROXY protocol
        header, version 1 or 2, before TLS. The header is read as a part of the handshake, and
        :attr:`TLSStream.client_address` is the address that it reports. Other peers are refused.
      verify_peer: Verifies each client. See :class:`TLSStream`.
      strict_alpn: Whether to refuse clients that offer application protocols, but none that the
        context supports. See :class:`TLSStream`.
      on_plaintext: An async function ``on_plaintext(transport_stream, received)`` that answers a
        client that doesn't speak TLS: a browser that requests ``http://``, for example. It takes
        the underlying stream, and the bytes received on it, at least one. It runs as a part of the
        handshake, within its timeout and in the connection's own task. When it returns, the
        connection is closed, and the handshake has failed, with the same error as without this
        function. An exception that it raises is the ``__cause__`` of that error.

    Raises:
      TypeError: if ``ssl_context`` is not an :class:`ssl.SSLContext` and does not return one, or
        ``proxy_protocol`` is not a :class:`TrustedProxies`.
      ValueError: if the context was created for clients, or a timeout is invalid.
    """

    transport_listener: trio.abc.Listener[T_Stream]
    """The listener passed to the constructor."""

    _settings: ServerSettings = attrs.field(repr=False)
    # An exception from the function that returns the context. It is not a failure to accept.
    _context_error: BaseException | None = attrs.field(default=None, init=False, repr=False)
    _closed: trio.Event = attrs.field(factory=trio.Event, init=False, repr=False)

    def __init__(
        self,
        transport_listener: trio.abc.Listener[T_Stream],
        ssl_context: ServerContext,
        *,
        https_compatible: bool = False,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        close_timeout: float = CLOSE_TIMEOUT,
        close_max_bytes: int = CLOSE_MAX_BYTES,
        proxy_protocol: TrustedProxies | None = None,
        verify_peer: VerifyPeer | None = None,
        strict_alpn: bool = False,
        on_plaintext: OnPlaintext[T_Stream] | None = None,
    ) -> None:
        _check_listener(transport_listener)
        options = StreamOptions(
            https_compatible=https_compatible,
            handshake_timeout=handshake_timeout,
            close_timeout=close_timeout,
            close_max_bytes=close_max_bytes,
            verify_peer=verify_peer,
            strict_alpn=strict_alpn,
        )
        settings = ServerSettings.of(ssl_context, options, proxy_protocol, on_plaintext)
        self.__attrs_init__(transport_listener, settings)

    async def accept(self) -> TLSStream[T_Stream]:
        """Wait for the next connection and wrap it. This doesn't perform the handshake, so that no
        client can delay the others.
        """
        settings = self._settings
        transport_stream = await self.transport_listener.accept()
        try:
            arguments = await settings.arguments()
            stream = stream_with(settings.options, arguments, transport_stream)
        except BaseException as exc:  # from the function that returns the context
            self._context_error = exc
            await trio.aclose_forcefully(transport_stream)
            raise
        expect_prologue(stream, settings.proxy_protocol, settings.on_plaintext)
        return stream

    async def aclose(self) -> None:
        """Close the transport listener."""
        self._closed.set()
        await self.transport_listener.aclose()


def when_closed(listener: trio.abc.Listener[Any]) -> trio.Event:
    """Return an event that is set once a listener is closed. For a listener of another class, the
    caller has to set it when accepting ends.
    """
    return listener._closed if isinstance(listener, TLSListener) else trio.Event()


def is_context_error(listener: trio.abc.Listener[Any], exc: BaseException) -> bool:
    """Return True if accepting raised this exception because there is no context, rather than no
    connection.
    """
    return isinstance(listener, TLSListener) and exc is listener._context_error


def contexts_of(listeners: Iterable[trio.abc.Listener[Any]]) -> list[ServerContext]:
    """Return the sources of the listeners' contexts, for listeners of our own class."""
    return [each._settings.ssl_context for each in listeners if isinstance(each, TLSListener)]


async def open_tls_over_tcp_listeners(
    port: int,
    ssl_context: ServerContext,
    *,
    host: str | bytes | None = None,
    https_compatible: bool = False,
    backlog: int | None = None,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
    close_timeout: float = CLOSE_TIMEOUT,
    close_max_bytes: int = CLOSE_MAX_BYTES,
    proxy_protocol: TrustedProxies | None = None,
    verify_peer: VerifyPeer | None = None,
    strict_alpn: bool = False,
    on_plaintext: OnPlaintext[trio.SocketStream] | None = None,
) -> list[TLSListener[trio.SocketStream]]:
    """Listen for TLS connections on a TCP port. A drop-in for
    :func:`trio.open_ssl_over_tcp_listeners`.

    Args:
      port: The port; 0 lets the kernel choose one.
      ssl_context: See :class:`TLSListener`, also for parameters not described here.
      host: The address to bind to; by default all addresses of the machine.
      https_compatible: See :class:`TLSStream`.
      backlog: How many connections may wait to be accepted. See :func:`trio.open_tcp_listeners`.
      handshake_timeout: How long a handshake may take, in seconds.
      close_timeout: How long closing waits for the client, in seconds.
      close_max_bytes: How many bytes closing discards before it stops waiting.
      proxy_protocol: The proxies that connect on behalf of clients. See :class:`TLSListener`.
      verify_peer: Verifies each client. See :class:`TLSStream`.
      strict_alpn: Whether to refuse clients that offer application protocols, but none that the
        context supports. See :class:`TLSStream`.
      on_plaintext: Answers clients that don't speak TLS. See :class:`TLSListener`.

    Raises:
      OSError: if the port can't be opened.
      TypeError: as in :class:`TLSListener`, before listening.
      ValueError: as in :class:`TLSListener`, before listening.
    """
    options = StreamOptions(
        https_compatible=https_compatible,
        handshake_timeout=handshake_timeout,
        close_timeout=close_timeout,
        close_max_bytes=close_max_bytes,
        verify_peer=verify_peer,
        strict_alpn=strict_alpn,
    )
    settings = ServerSettings.of(ssl_context, options, proxy_protocol, on_plaintext)
    return await open_listeners(settings, port, host=host, backlog=backlog)


async def open_listeners(
    settings: ServerSettings, port: int, *, host: str | bytes | None, backlog: int | None
) -> list[TLSListener[trio.SocketStream]]:
    """Listen with validated settings. See :func:`open_tls_over_tcp_listeners`."""
    listeners: list[TLSListener[trio.SocketStream]] = []
    for transport_listener in await trio.open_tcp_listeners(port, host=host, backlog=backlog):
        await settings.arguments()  # the function that returns the context may fail by now
        listener: TLSListener[trio.SocketStream] = TLSListener.__new__(TLSListener)
        listener.__attrs_init__(transport_listener, settings)
        listeners.append(listener)
    return listeners
