"""Connecting and reconnecting over TCP, with sessions resumed by themselves."""

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
from trio_tlsbio._stream.abstract import check_transport
from trio_tlsbio._stream.decisions import VerifyPeer
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
    "resume_over",
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
    """Connect to a host by TCP, to speak TLS with it. A drop-in for
    :func:`trio.open_ssl_over_tcp_stream`.

    As there, the handshake happens when the stream is first used, or in
    :meth:`TLSStream.do_handshake`.

    Args:
      host: The host to connect to. It needs a certificate for this name, or IP address, unless
        there is a ``server_hostname``.
      port: The port.
      https_compatible: See :class:`TLSStream`.
      ssl_context: The settings; by default those of :func:`ssl.create_default_context`, with the
        cipher suites that RFC 9325 recommends. Loading the system's certificates takes a while,
        and sessions can't be resumed with another context, so programs that connect often make
        one, or a :class:`TLSConnector`. It can be a function that returns them, such as a
        :class:`ReloadingContext`: a session of an earlier context is not offered then.
      happy_eyeballs_delay: How long one address of the host is tried before the next one is
        tried as well, in seconds. See :func:`trio.open_tcp_stream`.
      session: The session of an earlier connection to resume. See :class:`TLSSession`.
      session_cache: Where to take a session from, without ``session``, and to put those that the
        server gives.
      alpn_protocols: The application protocols to offer (RFC 7301), best first: each a ``str`` of
        1 to 255 ASCII characters. An empty list offers none. Python has no other way than to set
        them on ``ssl_context``, where they stay for its next connections.
      verify_peer: Verifies the server. See :class:`TLSStream`, as for those that follow.
      server_hostname: The name in the server's certificate, by default ``host``.
      handshake_timeout: How long the handshake may take, in seconds; by default as long as it
        takes.
      close_timeout: How long closing waits for the server, in seconds.
      close_max_bytes: How many bytes closing throws away before it stops waiting.

    Raises:
      OSError: if no connection can be made.
      ValueError: for arguments that don't go together, before connecting.
      TypeError: for arguments of a wrong type.
    """
    check_cache(session_cache)
    if ssl_context is None:
        if session is not None or session_cache is not None:
            raise ValueError(
                "sessions can only be resumed with the ssl_context they were made with: give it too"
            )
        ssl_context = make_default_context()
    context = await next_context(ssl_context)
    if session is not None and context is not ssl_context and session.ssl_context is not context:
        session = None
    name = host if server_hostname is None else server_hostname
    arguments = Arguments.parse(context, server_hostname=name, session=session)
    if session is not None:
        arguments.native_session()  # an error now, and not after connecting
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
    """The part of a cache that belongs to one port of whatever server is connected to."""

    # Not by Trio's clock, which begins anew in each trio.run(): a cache may live longer.
    _session_cache: SessionCache
    _port: int

    def choose(self, arguments: Arguments) -> Arguments:
        """Return a client's arguments with a session, if there is one. The one that they have
        already counts as used.
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
        """Keep a session that the server has given."""
        self._session_cache.put(session, self._port, now=time.monotonic())

    def discard(self, arguments: Arguments) -> None:
        """Forget the sessions for a client's arguments."""
        assert arguments.ssl_context is not None
        self._session_cache.discard(arguments.ssl_context, arguments.server_hostname, self._port)


def _resuming_stream(
    transport_stream: T_Stream,
    arguments: Arguments,
    options: StreamOptions,
    sessions: SessionsOfServer | None,
    alpn_protocols: tuple[str, ...] | None,
) -> TLSStream[T_Stream]:
    """Make a stream that takes its session from a cache, and puts those that it gets there."""
    on_session: Callable[[TLSSession], object] | None = None
    if sessions is not None:
        # Not before connecting: that may take long, or fail, and a ticket is good for once.
        arguments, on_session = sessions.choose(arguments), sessions.put
    if alpn_protocols is not None:
        assert arguments.ssl_context is not None
        # OpenSSL copies them for each connection when that is made, which is now: another
        # task can't come between.
        arguments.ssl_context.set_alpn_protocols(alpn_protocols)
    return stream_with(options, arguments, transport_stream, on_session)


async def renewed_context(
    provider: ssl.SSLContext | ContextProvider,
    latest: ssl.SSLContext | None,
    session_cache: SessionCache,
) -> ssl.SSLContext:
    """Return the context for the next connection. Sessions of the ``latest`` one are forgotten if
    that has been renewed.
    """
    context = await next_context(provider)
    is_reloading = isinstance(provider, ReloadingContext)
    if latest is not None and latest is not context and is_reloading:
        session_cache.retire(latest)
    return context


async def resume_over(
    transport_stream: T_Stream,
    arguments: Arguments,
    options: StreamOptions,
    sessions: SessionsOfServer | None,
    alpn_protocols: tuple[str, ...] | None = None,
) -> TLSStream[T_Stream]:
    """Do the handshake over a transport, with a session from a cache. The transport is closed if
    that fails. ``alpn_protocols`` are names that were checked.
    """
    stream: trio.abc.Stream = transport_stream
    try:
        stream = tls_stream = _resuming_stream(
            transport_stream, arguments, options, sessions, alpn_protocols
        )
        await tls_stream.do_handshake()
    except BaseException as exc:
        if sessions is not None and isinstance(exc, TLSError):
            # Should it be the session that the server could not bear, then not again.
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

    Make one for the whole program: it holds the context, which takes a while to make, and the
    sessions, which belong to it.

    Args:
      ssl_context: The settings; by default those of :func:`ssl.create_default_context`, with the
        cipher suites that RFC 9325 recommends. It can be a function that returns them and is called
        for each connection. With a :class:`ReloadingContext`, a renewed client certificate is used
        by the next connection, and no session of the old one is resumed or kept.
      session_cache: Where sessions are kept; by default a :class:`SessionCache` of its own. One
        cache may serve several connectors: sessions of different contexts never mix.
      alpn_protocols: The application protocols to offer (RFC 7301), best first: each a ``str`` of
        1 to 255 ASCII characters. An empty list offers none. By default the context's own. Python
        sets them on a context only, so that one is changed.
      https_compatible: See :class:`TLSStream`.
      happy_eyeballs_delay: See :func:`trio.open_tcp_stream`.
      verify_peer: Verifies each server. See :class:`TLSStream`, as for those that follow.
      handshake_timeout: How long a handshake may take, in seconds; by default as long as it takes.
      close_timeout: How long closing waits for the server, in seconds.
      close_max_bytes: How many bytes closing throws away before it stops waiting.

    Raises:
      ValueError: for protocols that ALPN has no form for, and for limits that are invalid.
      TypeError: for protocols of a wrong type, and if ``ssl_context`` is no
        :class:`ssl.SSLContext`, and no function.
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
        self._options()  # which checks them

    def _options(self) -> StreamOptions:
        """Return the options of the next connection, since the attributes may be set."""
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
        """Connect to a host by TCP, and do the handshake. It takes as long as it takes.

        Args:
          host: The host to connect to.
          port: The port.
          alpn_protocols: What to offer this time instead of the connector's own, which has to be
            set too: what a context offered before can't be read from it and put back.
          server_hostname: The name in the server's certificate, by default ``host``.

        Raises:
          OSError: if no connection can be made.
          TLSError: if the handshake failed.
          ValueError: for arguments that don't go together, before connecting.
          TypeError: for arguments of a wrong type.
        """
        names = self._names(alpn_protocols)
        await self._renew()
        arguments = self._arguments(host, server_hostname)
        options = self._options()
        tcp_stream = await trio.open_tcp_stream(
            host, port, happy_eyeballs_delay=self.happy_eyeballs_delay
        )
        sessions = SessionsOfServer(self.session_cache, port)
        return await resume_over(tcp_stream, arguments, options, sessions, names)

    async def wrap(
        self,
        transport_stream: T_Stream,
        server_hostname: str | bytes | None,
        port: int = 0,
        *,
        alpn_protocols: Sequence[str] | None = None,
    ) -> TLSStream[T_Stream]:
        """Do the handshake over a transport of your own: a proxy's tunnel, or a Unix socket.

        Args:
          transport_stream: Carries the encrypted data. It is closed if this fails.
          server_hostname: The name of the server. See :class:`TLSStream`.
          port: What distinguishes servers of the same name: sessions are kept by name and port.
          alpn_protocols: As in :meth:`connect`.

        Raises:
          TLSError: if the handshake failed.
          ValueError: for arguments that don't go together.
          TypeError: for arguments of a wrong type.
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
        return await resume_over(transport_stream, arguments, options, sessions, names)

    async def _renew(self) -> None:
        """Have the context for a connection, which may be another one than for the last."""
        if not isinstance(self._provider, ssl.SSLContext):
            self.ssl_context = await renewed_context(
                self._provider, self.ssl_context, self.session_cache
            )

    def _arguments(self, host: str | bytes, server_hostname: str | bytes | None) -> Arguments:
        name = host if server_hostname is None else server_hostname
        return Arguments.parse(self.ssl_context, server_hostname=name)

    def _names(self, alpn_protocols: Sequence[str] | None) -> tuple[str, ...] | None:
        """Return what to offer in one call."""
        if alpn_protocols is None:
            return self.alpn_protocols
        names = alpn_names(alpn_protocols)
        if self.alpn_protocols is None:
            raise ValueError("alpn_protocols for one call need a TLSConnector that has some itself")
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
        """Give a fresh connection each time that the last one ended. See :func:`reconnect`."""
        self._arguments(host, server_hostname)  # an error now, and not in the loop
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
    """Give a fresh connection, with the session resumed, each time that the last one ended.

    For example::

        async for stream in reconnect("broker.example", 8883):
            async with stream:
                with suppress(trio.BrokenResourceError):
                    await talk(stream)

    The handshake of each is done. If attempts fail in a row, each is followed by a delay that
    doubles up to ``max_delay``, at random between half of it and all from the second one on. A
    connection that the server refuses after the handshake, as TLS 1.3 does with a client
    certificate, or that ends at once without any data from the server, is a failed attempt too. Any
    other resets the delay. Attempts are never closer than ``initial_delay``.

    Leaving the loop leaves the last stream as it is. Cancellation ends it at once, wherever it is;
    what is left of a delay then is waited for by the next attempt.

    Args:
      host: The host to connect to.
      port: The port.
      attempt_timeout: How long one attempt, with its handshake, may take, in seconds.
      initial_delay: The delay after a first failure, and the shortest of all, in seconds. Also the
        least time from a connection to the next attempt.
      max_delay: The longest delay of all, in seconds.
      should_retry: Says of an attempt's exception whether to try again. Otherwise it is raised, by
        the loop.
      on_retry: Called with a :class:`Retry` before each delay, to tell the user, say.
      server_hostname: The name in the server's certificate, by default ``host``.
      connector: The parameters of :class:`TLSConnector`: ``ssl_context``, ``verify_peer``, and so
        on.

    Raises:
      ValueError: for arguments that don't go together.
      TypeError: for arguments of a wrong type.
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
