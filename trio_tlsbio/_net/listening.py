"""Listeners whose connections speak TLS."""

from __future__ import annotations

import inspect
import ssl
from typing import Any, Generic, TypeAlias, cast

import attrs
import trio

from trio_tlsbio._core.arguments import check_arguments
from trio_tlsbio._stream.assembly import check_handshake_timeout
from trio_tlsbio._stream.closing import CLOSE_TIMEOUT, ClosePolicy
from trio_tlsbio._stream.decisions import ChooseContext, VerifyPeer, checked_function
from trio_tlsbio._stream.stream import T_Stream, TLSStream

from .plaintext import OnPlaintext, expect_prologue
from .proxy_protocol import TrustedProxies, check_trusted_proxies
from .reloading import ContextProvider

__all__ = [
    "HANDSHAKE_TIMEOUT",
    "ServerContext",
    "TLSListener",
    "current_context",
    "open_tls_over_tcp_listeners",
]

HANDSHAKE_TIMEOUT = 15.0


ServerContext: TypeAlias = ssl.SSLContext | ContextProvider | ChooseContext
"""What gives a server its settings: see :class:`TLSListener`."""


def current_context(ssl_context: ssl.SSLContext | ContextProvider) -> ssl.SSLContext:
    """Return the context for the next connection."""
    if isinstance(ssl_context, ssl.SSLContext):
        return ssl_context
    provider: object = ssl_context
    if isinstance(provider, type) or not callable(provider):
        raise TypeError(
            "ssl_context must be an ssl.SSLContext, or a function that returns one, "
            f"not {type(provider).__name__}"
        )
    return ssl_context()


def _takes_hello(ssl_context: ServerContext) -> bool:
    """Whether it is a function that takes the ClientHello. To find that out takes a while."""
    if callable(ssl_context) and not isinstance(ssl_context, type):
        try:
            inspect.signature(ssl_context).bind()
        except TypeError:
            return True
        except ValueError:  # of a built-in function, for which Python can't tell
            pass
    return False


@attrs.define(eq=False, init=False)
class TLSListener(trio.abc.Listener[TLSStream[T_Stream]], Generic[T_Stream]):
    """A listener whose connections speak TLS. A drop-in for :class:`trio.SSLListener`.

    :func:`serve_tls_listeners` serves it so that no client can end or block the server. With
    :func:`trio.serve_listeners` no client can block it either, but the handler has the handshake
    to do, by using the stream, and gets the :exc:`TLSError` of one that fails or takes longer than
    ``handshake_timeout``.

    Args:
      transport_listener: The listener whose connections are wrapped.
      ssl_context: The settings, with the server's certificate, or a function that returns them. One
        without parameters, such as a :class:`ReloadingContext`, is called for each connection;
        whatever it raises, :meth:`accept` raises, and that ends the server. One that takes the
        :class:`ClientHello`, async or not, is called in the connection's own task: see
        :class:`TLSStream`, and :func:`contexts_by_name`.
      https_compatible: See :class:`TLSStream`.
      handshake_timeout: How long a handshake may take, in seconds.
      close_timeout: How long closing waits for the client, in seconds. See :class:`TLSStream`.
      proxy_protocol: The proxies that connect for the clients, and send a header of the PROXY
        protocol, version 1 or 2, before TLS. It is read as a part of the handshake, and
        :attr:`TLSStream.client_address` is what it reports. Other peers are refused.
      verify_peer: Verifies each client. See :class:`TLSStream`.
      on_plaintext: An async function ``on_plaintext(transport_stream, received)`` that answers a
        client that does not speak TLS: a browser that asks for ``http://``, for example. It gets
        the underlying stream, and what was received on it, a byte at least. It is a part of the
        handshake, in the time for that and in the connection's own task. When it returns, the
        connection is closed, and the handshake has failed, with the same error as without it. An
        exception that it raises is the ``__cause__`` of that error.

    Raises:
      TypeError: if ``ssl_context`` is no :class:`ssl.SSLContext`, and does not return one, or
        ``proxy_protocol`` is no :class:`TrustedProxies`.
      ValueError: for a context that was made for clients, and timeouts that make no sense.
    """

    transport_listener: trio.abc.Listener[T_Stream]
    """The listener it was made with."""

    _ssl_context: ServerContext = attrs.field(repr=False)
    _takes_hello: bool
    _https_compatible: bool
    _handshake_timeout: float
    _close_timeout: float
    _proxy_protocol: TrustedProxies | None
    _verify_peer: VerifyPeer | None
    _on_plaintext: OnPlaintext[T_Stream] | None
    # What the function that gives the context has raised, which is no failure of accepting.
    _context_error: BaseException | None = attrs.field(repr=False)
    _closed: trio.Event = attrs.field(repr=False)

    def __init__(
        self,
        transport_listener: trio.abc.Listener[T_Stream],
        ssl_context: ServerContext,
        *,
        https_compatible: bool = False,
        handshake_timeout: float = HANDSHAKE_TIMEOUT,
        close_timeout: float = CLOSE_TIMEOUT,
        proxy_protocol: TrustedProxies | None = None,
        verify_peer: VerifyPeer | None = None,
        on_plaintext: OnPlaintext[T_Stream] | None = None,
    ) -> None:
        _check_options(ssl_context, handshake_timeout, close_timeout, proxy_protocol)
        _check_functions(verify_peer, on_plaintext)
        self.transport_listener = transport_listener
        self._ssl_context = ssl_context
        self._takes_hello = _takes_hello(ssl_context)
        self._https_compatible = https_compatible
        self._handshake_timeout = handshake_timeout
        self._close_timeout = close_timeout
        self._proxy_protocol = proxy_protocol
        self._verify_peer = verify_peer
        self._on_plaintext = on_plaintext
        self._context_error = None
        self._closed = trio.Event()

    async def accept(self) -> TLSStream[T_Stream]:
        """Wait for the next connection and wrap it. The handshake is the stream's, not done here,
        so that no client can hold up the others.
        """
        transport_stream = await self.transport_listener.accept()
        try:
            stream = TLSStream(
                transport_stream,
                cast("ChooseContext", self._ssl_context)
                if self._takes_hello
                else current_context(cast("ContextProvider", self._ssl_context)),
                server_side=True,
                https_compatible=self._https_compatible,
                handshake_timeout=self._handshake_timeout,
                close_timeout=self._close_timeout,
                verify_peer=self._verify_peer,
            )
        except BaseException as exc:  # of the function that gives the context
            self._context_error = exc
            await trio.aclose_forcefully(transport_stream)
            raise
        expect_prologue(stream, self._proxy_protocol, self._on_plaintext)
        return stream

    async def aclose(self) -> None:
        """Close the transport listener."""
        self._closed.set()
        await self.transport_listener.aclose()


def _check_options(
    ssl_context: ServerContext,
    handshake_timeout: float,
    close_timeout: float,
    proxy_protocol: TrustedProxies | None,
) -> None:
    if not _takes_hello(ssl_context):
        context = current_context(cast("ContextProvider", ssl_context))
        check_arguments(context, server_side=True, server_hostname=None, session=None)
    check_handshake_timeout(handshake_timeout)
    check_trusted_proxies(proxy_protocol)
    ClosePolicy(timeout=close_timeout)


def _check_functions(verify_peer: VerifyPeer | None, on_plaintext: OnPlaintext[Any] | None) -> None:
    if verify_peer is not None:
        checked_function(verify_peer, "verify_peer")
    if on_plaintext is not None:
        checked_function(on_plaintext, "on_plaintext")


async def open_tls_over_tcp_listeners(
    port: int,
    ssl_context: ServerContext,
    *,
    host: str | bytes | None = None,
    https_compatible: bool = False,
    backlog: int | None = None,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
    close_timeout: float = CLOSE_TIMEOUT,
    proxy_protocol: TrustedProxies | None = None,
    verify_peer: VerifyPeer | None = None,
    on_plaintext: OnPlaintext[trio.SocketStream] | None = None,
) -> list[TLSListener[trio.SocketStream]]:
    """Listen for TLS connections on a TCP port. A drop-in for
    :func:`trio.open_ssl_over_tcp_listeners`.

    Args:
      port: The port; 0 lets the kernel choose one.
      ssl_context: See :class:`TLSListener`, as for those that are not told of here.
      host: The address to bind to; all of the machine's by default.
      https_compatible: See :class:`TLSStream`.
      backlog: How many connections may wait to be accepted. See :func:`trio.open_tcp_listeners`.
      handshake_timeout: How long a handshake may take, in seconds.
      close_timeout: How long closing waits for the client, in seconds.
      proxy_protocol: The proxies that connect for the clients. See :class:`TLSListener`.
      verify_peer: Verifies each client. See :class:`TLSStream`.
      on_plaintext: Answers clients that don't speak TLS. See :class:`TLSListener`.

    Raises:
      OSError: if the port can't be had.
      TypeError: as :class:`TLSListener`, before listening.
      ValueError: as :class:`TLSListener`, before listening.
    """
    _check_options(ssl_context, handshake_timeout, close_timeout, proxy_protocol)
    _check_functions(verify_peer, on_plaintext)
    return [
        TLSListener(
            listener,
            ssl_context,
            https_compatible=https_compatible,
            handshake_timeout=handshake_timeout,
            close_timeout=close_timeout,
            proxy_protocol=proxy_protocol,
            verify_peer=verify_peer,
            on_plaintext=on_plaintext,
        )
        for listener in await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    ]
