"""Code that the adapters for HTTP clients share.

httpcore and httpx have successors with the same interfaces, httpcore2 and httpx2. So the code is
here, once, and each library has a module that adapts it.
"""

from __future__ import annotations

import math
import re
import ssl
from collections.abc import AsyncIterator, Callable, Generator, Iterable
from contextlib import aclosing, contextmanager, suppress
from types import ModuleType
from typing import Any, ClassVar, Generic, Self, TypeAlias, TypeVar

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from ._core.arguments import Arguments
from ._core.errors import TLSError, count
from ._core.misuse import kind_of
from ._http_pools import Lease, Pools
from ._net.connecting import SessionsOfServer, connect_over
from ._net.reloading import ContextProvider
from ._net.session_cache import SessionCache, check_cache
from ._stream.interfaces import stream_of
from ._stream.options import StreamOptions
from ._stream.stream import TLSStream

__all__ = ["HTTPBackend", "HTTPBody", "HTTPStream", "HTTPTransport", "SocketOption"]

SocketOption: TypeAlias = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)
"""The arguments of :meth:`socket.socket.setsockopt`."""

# RFC 9112 section 9.6 leaves it to the server to linger at the end of a connection. By then, a
# client has received its response, or has given up on it, and a pool closes connections where it
# can't be cancelled.
_CLOSE_TIMEOUT = 0.0

# A request for a tunnel (RFC 9110 section 9.3.6), which a pool sends to a proxy.
_CONNECT = re.compile(rb"CONNECT [^ ]*:([0-9]{1,5}) HTTP/1\.1\r\n")

# The exceptions of httpcore, the most specific first. Those of httpx have the same names.
_ERRORS = (
    "ConnectTimeout",
    "ReadTimeout",
    "WriteTimeout",
    "PoolTimeout",
    "TimeoutException",
    "ConnectError",
    "ReadError",
    "WriteError",
    "NetworkError",
    "ProxyError",
    "UnsupportedProtocol",
    "LocalProtocolError",
    "RemoteProtocolError",
    "ProtocolError",
)


################################################################
# httpcore: a network backend
################################################################


@attrs.frozen
class _Options:
    session_cache: SessionCache
    of_streams: StreamOptions


@attrs.define(eq=False, slots=False)
class HTTPStream:
    """A connection, with or without TLS, with the interface that httpcore requires."""

    #: The library whose exceptions are raised.
    library: ClassVar[ModuleType]

    _stream: TLSStream[Any] | trio.SocketStream
    _port: int  # of the server that a handshake would reach
    _options: _Options
    # The rest of a cancelled write. In HTTP/2, requests share a connection, so it may contain
    # frames of other requests.
    _unwritten: bytes = attrs.field(default=b"", init=False, repr=False)
    # True if a write was cut off at an unknown position.
    _is_cut: bool = attrs.field(default=False, init=False)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Receive up to ``max_bytes`` bytes, or ``b""`` at the end."""
        with _operation(self.library, "Read", timeout):
            return bytes(await self._stream.receive_some(max_bytes))

    @enable_ki_protection
    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send all of ``buffer``, after the rest of a cancelled call."""
        self._unwritten += buffer
        if (request := _CONNECT.match(buffer)) is not None:
            self._port = int(request[1])  # the pool doesn't report it when it calls start_tls()
        if self._unwritten:
            with _operation(self.library, "Write", timeout):
                await self._write()

    async def _write(self) -> None:
        if isinstance(self._stream, TLSStream):
            before = self._stream.bytes_committed
            try:
                await self._stream.send_all(self._unwritten)
            finally:
                self._unwritten = self._unwritten[self._stream.bytes_committed - before :]
        elif self._is_cut:
            raise trio.BrokenResourceError("an earlier write was cancelled half-way")
        else:
            self._is_cut = True
            await self._stream.send_all(self._unwritten)
            self._is_cut, self._unwritten = False, b""

    @enable_ki_protection
    async def aclose(self) -> None:
        """Close the connection, without waiting for the peer."""
        with suppress(TLSError):  # pools close connections that they don't need any more
            await self._stream.aclose()

    @enable_ki_protection
    async def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> Self:
        """Continue with TLS, resuming a session if there is one. TLS in TLS is possible: HTTPS
        proxies require it. The connection is closed if this fails.
        """
        with _operation(self.library, "Connect", timeout):
            if self._unwritten:
                await self._write()
            try:
                arguments = Arguments.parse(ssl_context, server_hostname=server_hostname)
            except (TypeError, ValueError):
                await trio.aclose_forcefully(self._stream)
                raise
            sessions = SessionsOfServer(self._options.session_cache, self._port)
            stream = await connect_over(self._stream, arguments, self._options.of_streams, sessions)
        return type(self)(stream, self._port, self._options)

    def get_extra_info(self, info: str) -> Any:
        """Return the information that httpcore requests, or for ``"tls_stream"`` the
        :class:`TLSStream`.
        """
        tls = self._stream if isinstance(self._stream, TLSStream) else None
        known: dict[str, Callable[[], Any]] = {
            "client_addr": lambda: self._socket().getsockname(),
            "is_readable": self._is_readable,
            "server_addr": lambda: self._socket().getpeername(),
            "socket": self._socket,
            "ssl_object": lambda: tls and tls.connection.ssl_object,
            "tls_stream": lambda: tls,
        }
        return known[info]() if info in known else None

    def _socket(self) -> trio.socket.SocketType:
        stream = stream_of(trio.SocketStream, self._stream)
        assert stream is not None  # the backend opens only sockets
        return stream.socket

    def _is_readable(self) -> bool:
        # An idle connection that has received something can't be used again: usually this is the
        # end.
        if isinstance(self._stream, TLSStream):
            try:
                return self._stream.is_readable()
            except trio.ClosedResourceError:
                return True
        socket = self._socket()
        return socket.fileno() < 0 or socket.is_readable()


@contextmanager
def _operation(
    library: ModuleType, doing: str, timeout: float | None
) -> Generator[None, None, None]:
    """Limit the time of a block, and raise its errors as those of ``library``: ``ReadError`` and
    ``ReadTimeout``, if ``doing`` is ``"Read"``.
    """
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError(
            f"trio_tlsbio.{library.__name__} only works in programs that run on Trio"
        )
    try:
        with trio.fail_after(math.inf if timeout is None else timeout):
            yield
    except trio.TooSlowError as exc:
        words = str(exc)
        if timeout is not None and doing == "Write":
            words = f"the peer did not take all data within {count(timeout, 'second')}"
        elif timeout is not None:
            words = f"no answer within {count(timeout, 'second')}"
        raise getattr(library, doing + "Timeout")(words) from exc
    except (OSError, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        raise getattr(library, doing + "Error")(str(exc) or type(exc).__name__) from exc


StreamT = TypeVar("StreamT", bound=HTTPStream)


@attrs.define(eq=False, slots=False, init=False)
class HTTPBackend(Generic[StreamT]):
    """Creates the connections of httpcore's pools. See the subclasses."""

    #: The class of the connections; set by each library's subclass.
    stream_class: ClassVar[type[Any]]

    _options: _Options

    def __init__(
        self, *, session_cache: SessionCache | None = None, https_compatible: bool = False
    ) -> None:
        check_cache(session_cache)
        self._options = _Options(
            SessionCache() if session_cache is None else session_cache,
            StreamOptions(https_compatible=https_compatible, close_timeout=_CLOSE_TIMEOUT),
        )

    @property
    def session_cache(self) -> SessionCache:
        """The cache for sessions."""
        return self._options.session_cache

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> StreamT:
        """Connect over TCP. For TLS, httpcore calls the stream's ``start_tls``."""
        with _operation(self.stream_class.library, "Connect", timeout):
            stream = await trio.open_tcp_stream(host, port, local_address=local_address)
            return await self._wrap(stream, port, socket_options)

    async def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> StreamT:
        """Connect to a Unix socket. Its sessions are stored under port 0."""
        with _operation(self.stream_class.library, "Connect", timeout):
            return await self._wrap(await trio.open_unix_socket(path), 0, socket_options)

    async def _wrap(
        self,
        stream: trio.SocketStream,
        port: int,
        socket_options: Iterable[SocketOption] | None,
    ) -> StreamT:
        try:
            for option in socket_options or ():
                stream.setsockopt(*option)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        wrapped: StreamT = self.stream_class(stream, port, self._options)
        return wrapped

    async def sleep(self, seconds: float) -> None:
        """Wait between two attempts to connect."""
        await trio.sleep(seconds)


################################################################
# httpx: a transport
################################################################


@attrs.define(eq=False, slots=False)
class HTTPBody:
    """The body of a response, with httpx's exceptions in place of httpcore's."""

    #: The library whose exceptions are raised, and the underlying one, whose exceptions are
    #: converted.
    library: ClassVar[ModuleType]
    core: ClassVar[ModuleType]

    _stream: Any
    _lease: Lease

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Receive the body in pieces."""
        with _translated(self.library, self.core):
            async with aclosing(aiter(self._stream)) as pieces:
                async for piece in pieces:
                    yield piece

    async def aclose(self) -> None:
        """Return the connection to the pool."""
        with _translated(self.library, self.core):
            try:
                await self._stream.aclose()
            finally:
                await self._lease.end()


@contextmanager
def _translated(library: ModuleType, core: ModuleType) -> Generator[None, None, None]:
    """Raise exceptions of ``core`` as those of ``library``."""
    try:
        yield
    except Exception as exc:
        for name in _ERRORS:
            if isinstance(exc, getattr(core, name)):
                exc.__cause__ = exc.__cause__ or exc.__context__  # the pools raise "from None"
                raise getattr(library, name)(str(exc)) from exc
        raise


@attrs.define(eq=False, slots=False, init=False)
class HTTPTransport:
    """A transport for ``AsyncClient``. See the subclasses."""

    #: Set by each library's subclass.
    library: ClassVar[ModuleType]
    core: ClassVar[ModuleType]
    body_class: ClassVar[type[HTTPBody]]
    backend_class: ClassVar[type[HTTPBackend[Any]]]

    session_cache: SessionCache
    """The cache for sessions."""

    _pools: Pools = attrs.field(repr=False)

    def __init__(
        self,
        *,
        verify: ssl.SSLContext | ContextProvider | bool = True,
        cert: None = None,
        trust_env: bool = True,
        http1: bool = True,
        http2: bool = False,
        limits: Any = None,
        proxy: Any = None,
        uds: str | None = None,
        local_address: str | None = None,
        retries: int = 0,
        socket_options: Iterable[SocketOption] | None = None,
        session_cache: SessionCache | None = None,
        https_compatible: bool = False,
    ) -> None:
        if cert is not None:
            raise TypeError(
                "cert is not supported: load the client certificate into the SSLContext that you "
                "pass as verify, with load_cert_chain()"
            )
        backend = self.backend_class(session_cache=session_cache, https_compatible=https_compatible)
        self.session_cache = backend.session_cache
        if limits is None:
            limits = self.library.Limits(max_connections=100, max_keepalive_connections=20)
        elif not isinstance(limits, self.library.Limits):
            maker = f"{self.library.__name__}.Limits"
            raise TypeError(
                f"limits must be an {maker}, not {kind_of(limits)}: {maker}(max_connections=10) "
                "makes one"
            )
        contexts: ssl.SSLContext | ContextProvider = (
            verify
            if callable(verify)
            else self.library.create_ssl_context(verify, trust_env=trust_env)
        )
        options: dict[str, Any] = {
            "max_connections": limits.max_connections,
            "max_keepalive_connections": limits.max_keepalive_connections,
            "keepalive_expiry": limits.keepalive_expiry,
            "http1": http1,
            "http2": http2,
            "retries": retries,
            "network_backend": backend,
        }
        of_sockets: dict[str, Any] = {
            "uds": uds,
            "local_address": local_address,
            "socket_options": socket_options,
        }
        make_pool = self._pool_maker(options, of_sockets, proxy, trust_env=trust_env)
        self._pools = Pools(contexts, make_pool, self.session_cache)

    def _pool_maker(
        self, options: dict[str, Any], of_sockets: dict[str, Any], proxy: Any, *, trust_env: bool
    ) -> Callable[[ssl.SSLContext], Any]:
        """Return a function that creates a pool for a context."""
        if proxy is None:
            return _maker_of(self.core.AsyncConnectionPool, **options, **of_sockets)
        if any(option is not None for option in of_sockets.values()):
            raise ValueError("uds, local_address and socket_options can't be used with a proxy")
        if not isinstance(proxy, self.library.Proxy):
            proxy = self.library.Proxy(proxy)
        options |= {"proxy_url": self._core_url(proxy.url), "proxy_auth": proxy.raw_auth}
        if proxy.url.scheme not in {"http", "https"}:
            return _maker_of(self.core.AsyncSOCKSProxy, **options)
        proxy_context = proxy.ssl_context
        if proxy.url.scheme == "https" and proxy_context is None:
            # httpcore would create one for each connection, so their sessions could not be resumed.
            proxy_context = self.library.create_ssl_context(trust_env=trust_env)
        options |= {"proxy_headers": proxy.headers.raw, "proxy_ssl_context": proxy_context}
        return _maker_of(self.core.AsyncHTTPProxy, **options)

    def _core_url(self, url: Any) -> Any:
        return self.core.URL(
            scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path
        )

    async def __aenter__(self) -> Self:
        """Return the transport itself."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the transport."""
        await self.aclose()

    async def handle_async_request(self, request: Any) -> Any:
        """Send a request, and return the response. Its body is still to be received."""
        core_request = self.core.Request(
            method=request.method,
            url=self._core_url(request.url),
            headers=request.headers.raw,
            content=request.stream,
            extensions=request.extensions,
        )
        lease = await self._pools.lease()
        with _translated(self.library, self.core):
            try:
                response = await lease.pool.handle_async_request(core_request)
            except BaseException:
                await lease.end()
                raise
        return self.library.Response(
            status_code=response.status,
            headers=response.headers,
            stream=self.body_class(response.stream, lease),
            extensions=response.extensions,
        )

    async def aclose(self) -> None:
        """Close all connections."""
        with _translated(self.library, self.core):
            await self._pools.aclose()


def _maker_of(pool_class: Any, **options: Any) -> Callable[[ssl.SSLContext], Any]:
    return lambda ssl_context: pool_class(ssl_context=ssl_context, **options)
