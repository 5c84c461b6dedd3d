"""Connects and reconnects over TCP, resuming sessions automatically."""

from __future__ import annotations

import math
import ssl
import time
from collections.abc import (
    Callable,
    Iterable,  # noqa: F401  # attrs takes the annotations of a converter over
    Sequence,
)
from functools import partial
from typing import TypedDict, Unpack

import attrs
import trio

from trio_tlsbio._core.arguments import Arguments, alpn_names
from trio_tlsbio._core.errors import TLSError
from trio_tlsbio._core.sessions import TLSSession
from trio_tlsbio._stream.decisions import VerifyPeer
from trio_tlsbio._stream.interfaces import check_transport
from trio_tlsbio._stream.options import CLOSE_MAX_BYTES, CLOSE_TIMEOUT, StreamOptions
from trio_tlsbio._stream.stream import T_Stream, TLSStream, stream_with

from .default_context import make_default_context
from .reconnecting import Reconnecting, Retry, RetryPolicy, is_worth_retrying
from .reloading import ContextProvider, ReloadingContext, current_context, next_context
from .session_cache import SessionCache, check_cache

__all__ = [
    "SessionsOfServer",
    "TLSConnector",
    "open_tls_over_tcp_stream",
    "reconnect",
    "renewed_context",
    "connect_over",
]


async def open_tls_over_tcp_stream(
    host: str | bytes,
    port: int,
    *,
    https_compatible: bool = False,
    ssl_context: ssl.SSLContext | ContextProvider | None = None,
    happy_eyeballs_delay: float | None = 0.25,
    session: TLSSession | None = None,
    session_cache: SessionCache | None = None,
    alpn_protocols: Sequence[str] | None = None,
    verify_peer: VerifyPeer | None = None,
    server_hostname: str | bytes | None = None,
    handshake_timeout: float = math.inf,
    close_timeout: float = CLOSE_TIMEOUT,
    close_max_bytes: int = CLOSE_MAX_BYTES,
) -> TLSStream[trio.SocketStream]:
    """Connect to a host over TCP, for a TLS connection. A drop-in for
    :func:`trio.open_ssl_over_tcp_stream`.

    As in Trio, the handshake happens when the stream is first used, or in
    :meth:`TLSStream.do_handshake`.

    Args:
      host: The host to connect to. Its certificate must be valid for this name or IP address,
        unless ``server_hostname`` is given.
      port: The port.
      https_compatible: See :class:`TLSStream`.
      ssl_context: The settings; by default those of :func:`ssl.create_default_context`, with the
        cipher suites that RFC 9325 recommends. Loading the system's certificates takes a while, and
        sessions can't be resumed with another context. So code that connects often should create
        one context, or a :class:`TLSConnector`. This can also be a function that returns the
        context, such as a :class:`ReloadingContext`: a session of an earlier context is not offered
        then.
      happy_eyeballs_delay: How long to try one address of the host before trying the next one as
        well, in seconds. See :func:`trio.open_tcp_stream`.
      session: The session of an earlier connection to resume. See :class:`TLSSession`.
      session_cache: Where to store the sessions that the server sends, and where to take a session
        from if ``session`` is not given.
      alpn_protocols: The application protocols to offer (RFC 7301), in order of preference: each a
        ``str`` of 1 to 255 ASCII characters. An empty list offers none. Python can only set them on
        ``ssl_context``, where they remain for its next connections.
      verify_peer: Verifies the server. See :class:`TLSStream`, also for the parameters below.
      server_hostname: The name in the server's certificate, by default ``host``.
      handshake_timeout: How long the handshake may take, in seconds. By default there is no limit.
      close_timeout: How long closing waits for the server, in seconds.
      close_max_bytes: How many bytes closing discards before it stops waiting.

    Raises:
      OSError: if the connection can't be established.
      ValueError: if the arguments are not valid together, before connecting.
      TypeError: if an argument has the wrong type.
    """
    check_cache(session_cache)
    if ssl_context is None:
        if session is not None or session_cache is not None:
            raise ValueError(
                "sessions can only be resumed with the ssl_context they were made with: pass it too"
            )
        ssl_context = make_default_context()
    context = await next_context(ssl_context)
    if session is not None and context is not ssl_context and session.ssl_context is not context:
        session = None
    name = host if server_hostname is None else server_hostname
    arguments = Arguments.parse(context, server_hostname=name, session=session)
    if session is not None:
        arguments.native_session()  # raises an error now, rather than after connecting
    options = StreamOptions(
        https_compatible=https_compatible,
        handshake_timeout=handshake_timeout,
        close_timeout=close_timeout,
        close_max_bytes=close_max_bytes,
        verify_peer=verify_peer,
    )
    sessions = None if session_cache is None else SessionsOfServer(session_cache, port)
    names = alpn_names(alpn_protocols)
    tcp_stream = await trio.open_tcp_stream(host, port, happy_eyeballs_delay=happy_eyeballs_delay)
    try:
        return _resuming_stream(tcp_stream, arguments, options, sessions, names)
    except BaseException:
        await trio.aclose_forcefully(tcp_stream)
        raise


@attrs.frozen(eq=False)
class SessionsOfServer:
    """The sessions in a cache that belong to one port, on any server.

    Their age is not measured by Trio's clock, which restarts in each :func:`trio.run`: a cache can
    outlive that.
    """

    _session_cache: SessionCache
    _port: int

    def choose(self, arguments: Arguments) -> Arguments:
        """Add a session from the cache to a client's arguments, if there is one. A session that the
        arguments already have counts as used.
        """
        if arguments.session is not None:
            self._session_cache.mark_used(arguments.session)
            has_ended = self._session_cache.has_ended(arguments.session)
            return attrs.evolve(arguments, session=None) if has_ended else arguments
        assert arguments.ssl_context is not None
        session = self._session_cache.take(
            arguments.ssl_context, arguments.server_hostname, self._port, now=time.monotonic()
        )
        return arguments if session is None else attrs.evolve(arguments, session=session)

    def put(self, session: TLSSession) -> None:
        """Store a session that the server has sent."""
        self._session_cache.put(session, self._port, now=time.monotonic())

    def discard(self, arguments: Arguments) -> None:
        """Discard the sessions that match a client's arguments."""
        assert arguments.ssl_context is not None
        self._session_cache.discard(arguments.ssl_context, arguments.server_hostname, self._port)


def _resuming_stream(
    transport_stream: T_Stream,
    arguments: Arguments,
    options: StreamOptions,
    sessions: SessionsOfServer | None,
    alpn_protocols: tuple[str, ...] | None,
) -> TLSStream[T_Stream]:
    """Create a stream that takes its session from a cache, and stores new sessions there."""
    on_session: Callable[[TLSSession], object] | None = None
    if sessions is not None:
        # Choose the session only after connecting, which can take long or fail: a ticket can be
        # used only once.
        arguments, on_session = sessions.choose(arguments), sessions.put
    if alpn_protocols is not None:
        assert arguments.ssl_context is not None
        # OpenSSL copies the protocols when the connection is created. No other task can run between
        # these two lines.
        arguments.ssl_context.set_alpn_protocols(alpn_protocols)
    return stream_with(options, arguments, transport_stream, on_session)


async def renewed_context(
    provider: ssl.SSLContext | ContextProvider,
    latest: ssl.SSLContext | None,
    session_cache: SessionCache,
) -> ssl.SSLContext:
    """Return the context for the next connection. If that replaces the ``latest`` context, discard
    the sessions of the latter.
    """
    context = await next_context(provider)
    is_reloading = isinstance(provider, ReloadingContext)
    if latest is not None and latest is not context and is_reloading:
        session_cache.retire(latest)
    return context


async def connect_over(
    transport_stream: T_Stream,
    arguments: Arguments,
    options: StreamOptions,
    sessions: SessionsOfServer | None,
    alpn_protocols: tuple[str, ...] | None = None,
) -> TLSStream[T_Stream]:
    """Perform the handshake over a transport, with a session from a cache. If it fails, the
    transport is closed. ``alpn_protocols`` are validated names.
    """
    stream: trio.abc.Stream = transport_stream
    try:
        stream = tls_stream = _resuming_stream(
            transport_stream, arguments, options, sessions, alpn_protocols
        )
        await tls_stream.do_handshake()
    except BaseException as exc:
        if sessions is not None and isinstance(exc, TLSError):
            # If the session was what the server couldn't handle, don't try it again.
            sessions.discard(arguments)
        await trio.aclose_forcefully(stream)
        raise
    return tls_stream


def _context_or_default(
    ssl_context: ssl.SSLContext | ContextProvider | None,
) -> ssl.SSLContext | ContextProvider:
    return make_default_context() if ssl_context is None else ssl_context


def _cache_or_own(session_cache: SessionCache | None) -> SessionCache:
    check_cache(session_cache)
    return SessionCache() if session_cache is None else session_cache


@attrs.define(eq=False, kw_only=True)
class TLSConnector:
    """Connects to any number of servers, and resumes their sessions.

    Create one for the whole process: it holds the context, which is slow to create, and the
    sessions, which belong to that context.

    Args:
      ssl_context: The settings; by default those of :func:`ssl.create_default_context`, with the
        cipher suites that RFC 9325 recommends. This can also be a function that returns the
        context, and is called for each connection. With a :class:`ReloadingContext`, the next
        connection uses a renewed client certificate, and sessions of the old one are neither
        resumed nor kept.
      session_cache: Where to store sessions; by default a new :class:`SessionCache`. Several
        connectors can share one cache: sessions of different contexts never mix.
      alpn_protocols: The application protocols to offer (RFC 7301), in order of preference: each a
        ``str`` of 1 to 255 ASCII characters. An empty list offers none. By default those of the
        context. Python can only set them on a context, so ``ssl_context`` is modified.
      https_compatible: See :class:`TLSStream`.
      happy_eyeballs_delay: See :func:`trio.open_tcp_stream`.
      verify_peer: Verifies each server. See :class:`TLSStream`, also for the parameters below.
      handshake_timeout: How long a handshake may take, in seconds. By default there is no limit.
      close_timeout: How long closing waits for the server, in seconds.
      close_max_bytes: How many bytes closing discards before it stops waiting.

    Raises:
      ValueError: if a protocol can't be encoded for ALPN, or a limit is invalid.
      TypeError: if a protocol has the wrong type, or if ``ssl_context`` is neither an
        :class:`ssl.SSLContext` nor a function.
    """

    _provider: ssl.SSLContext | ContextProvider = attrs.field(
        default=None, alias="ssl_context", converter=_context_or_default, repr=False
    )
    ssl_context: ssl.SSLContext = attrs.field(init=False)
    """The settings of the latest connection."""

    session_cache: SessionCache = attrs.field(default=None, converter=_cache_or_own)
    alpn_protocols: tuple[str, ...] | None = attrs.field(default=None, converter=alpn_names)
    https_compatible: bool = False
    happy_eyeballs_delay: float | None = 0.25
    verify_peer: VerifyPeer | None = None
    handshake_timeout: float = math.inf
    close_timeout: float = CLOSE_TIMEOUT
    close_max_bytes: int = CLOSE_MAX_BYTES

    def __attrs_post_init__(self) -> None:
        self.ssl_context = current_context(self._provider)
        self._options()  # validates them

    def _options(self) -> StreamOptions:
        """Return the options of the next connection. The attributes may have been changed."""
        options = StreamOptions.of(
            self.https_compatible,
            self.handshake_timeout,
            self.close_timeout,
            self.close_max_bytes,
        )
        if self.verify_peer is not None:
            options = options.deciding(verify_peer=self.verify_peer)
        return options

    async def connect(
        self,
        host: str | bytes,
        port: int,
        *,
        alpn_protocols: Sequence[str] | None = None,
        server_hostname: str | bytes | None = None,
    ) -> TLSStream[trio.SocketStream]:
        """Connect to a host over TCP, and perform the handshake. There is no time limit by default.

        Args:
          host: The host to connect to.
          port: The port.
          alpn_protocols: The protocols to offer in this connection, in place of the connector's.
            The connector must have some too: the protocols of a context can't be read and restored.
          server_hostname: The name in the server's certificate, by default ``host``.

        Raises:
          OSError: if the connection can't be established.
          TLSError: if the handshake failed.
          ValueError: if the arguments are not valid together, before connecting.
          TypeError: if an argument has the wrong type.
        """
        names = self._names(alpn_protocols)
        await self._renew()
        arguments = self._arguments(host, server_hostname)
        options = self._options()
        tcp_stream = await trio.open_tcp_stream(
            host, port, happy_eyeballs_delay=self.happy_eyeballs_delay
        )
        sessions = SessionsOfServer(self.session_cache, port)
        return await connect_over(tcp_stream, arguments, options, sessions, names)

    async def wrap(
        self,
        transport_stream: T_Stream,
        server_hostname: str | bytes | None,
        port: int = 0,
        *,
        alpn_protocols: Sequence[str] | None = None,
    ) -> TLSStream[T_Stream]:
        """Perform the handshake over a transport of your own, such as a proxy's tunnel or a Unix
        socket.

        Args:
          transport_stream: Carries the encrypted data. It is closed if this fails.
          server_hostname: The name of the server. See :class:`TLSStream`.
          port: Distinguishes servers of the same name: sessions are stored by name and port.
          alpn_protocols: As in :meth:`connect`.

        Raises:
          TLSError: if the handshake failed.
          ValueError: if the arguments are not valid together.
          TypeError: if an argument has the wrong type.
        """
        check_transport(transport_stream)
        try:
            names = self._names(alpn_protocols)
            await self._renew()
            arguments = Arguments.parse(self.ssl_context, server_hostname=server_hostname)
            options = self._options()
        except BaseException:
            await trio.aclose_forcefully(transport_stream)
            raise
        sessions = SessionsOfServer(self.session_cache, port)
        return await connect_over(transport_stream, arguments, options, sessions, names)

    async def _renew(self) -> None:
        """Update the context for the next connection."""
        if not isinstance(self._provider, ssl.SSLContext):
            self.ssl_context = await renewed_context(
                self._provider, self.ssl_context, self.session_cache
            )

    def _arguments(self, host: str | bytes, server_hostname: str | bytes | None) -> Arguments:
        name = host if server_hostname is None else server_hostname
        return Arguments.parse(self.ssl_context, server_hostname=name)

    def _names(self, alpn_protocols: Sequence[str] | None) -> tuple[str, ...] | None:
        """Return the protocols to offer in one call."""
        if alpn_protocols is None:
            return self.alpn_protocols
        names = alpn_names(alpn_protocols)
        if self.alpn_protocols is None:
            raise ValueError(
                "alpn_protocols for a single call need a TLSConnector that has "
                "alpn_protocols itself"
            )
        return names

    def reconnect(
        self,
        host: str | bytes,
        port: int,
        *,
        attempt_timeout: float = 30.0,
        initial_delay: float = 0.25,
        max_delay: float = 60.0,
        should_retry: Callable[[Exception], bool] = is_worth_retrying,
        on_retry: Callable[[Retry], object] | None = None,
        server_hostname: str | bytes | None = None,
    ) -> Reconnecting:
        """Yield a new connection each time the last one has ended. See :func:`reconnect`."""
        self._arguments(host, server_hostname)  # raises an error now, rather than in the loop
        policy = RetryPolicy(attempt_timeout, initial_delay, max_delay, should_retry, on_retry)
        connect = partial(self.connect, host, port)
        if server_hostname is not None:
            connect = partial(connect, server_hostname=server_hostname)
        return Reconnecting(connect, policy)


class ConnectorOptions(TypedDict, total=False):
    """The parameters of a :class:`TLSConnector`."""

    ssl_context: ssl.SSLContext | ContextProvider | None
    session_cache: SessionCache | None
    alpn_protocols: Sequence[str] | None
    https_compatible: bool
    happy_eyeballs_delay: float | None
    verify_peer: VerifyPeer | None
    handshake_timeout: float
    close_timeout: float
    close_max_bytes: int


def reconnect(
    host: str | bytes,
    port: int,
    *,
    attempt_timeout: float = 30.0,
    initial_delay: float = 0.25,
    max_delay: float = 60.0,
    should_retry: Callable[[Exception], bool] = is_worth_retrying,
    on_retry: Callable[[Retry], object] | None = None,
    server_hostname: str | bytes | None = None,
    **connector: Unpack[ConnectorOptions],
) -> Reconnecting:
    """Yield a new connection, with its session resumed, each time the last one has ended.

    For example::

        async for stream in reconnect("broker.example", 8883):
            async with stream:
                with suppress(trio.BrokenResourceError):
                    await talk(stream)

    The handshake of each stream is done. After a failed attempt there is a delay, which doubles
    with each consecutive failure, up to ``max_delay``. From the second delay on, the actual delay
    is chosen at random between half of this value and the full value. A connection also counts as a
    failed attempt if the server refuses it after the handshake, as TLS 1.3 does with a client
    certificate, or if it ends too early without any data from the server: within ``initial_delay``
    if the server has sent close_notify, or otherwise within the delay that would follow. Any other
    connection resets the delay. Attempts are never closer together than ``initial_delay``.

    Leaving the loop does not close the last stream. A cancellation takes effect at once; the next
    attempt waits for the rest of an unfinished delay.

    Args:
      host: The host to connect to.
      port: The port.
      attempt_timeout: How long one attempt may take, including its handshake, in seconds.
      initial_delay: The delay after the first failure, and the minimum of all delays, in seconds.
        It is also the minimum time between a connection and the next attempt.
      max_delay: The maximum of all delays, in seconds.
      should_retry: Takes an attempt's exception and decides whether to try again. Otherwise the
        loop raises the exception.
      on_retry: Called with a :class:`Retry` before each delay, for example to inform the user.
      server_hostname: The name in the server's certificate, by default ``host``.
      connector: The parameters of :class:`TLSConnector`: ``ssl_context``, ``verify_peer``, and so
        on.

    Raises:
      ValueError: if the arguments are not valid together.
      TypeError: if an argument has the wrong type.
    """
    return TLSConnector(**connector).reconnect(
        host,
        port,
        attempt_timeout=attempt_timeout,
        initial_delay=initial_delay,
        max_delay=max_delay,
        should_retry=should_retry,
        on_retry=on_retry,
        server_hostname=server_hostname,
    )
