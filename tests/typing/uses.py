"""Typical programs, as mypy and pyright see them in their strict modes."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar, assert_type

import trio
from trio.testing import memory_stream_pair

from trio_tlsbio import (
    ClientHello,
    Drain,
    HandshakeInfo,
    PeerName,
    PumpedStream,
    RefuseHandshake,
    ReloadingContext,
    Retry,
    SessionCache,
    TLSConnection,
    TLSConnector,
    TLSError,
    TLSListener,
    TLSSession,
    TLSStream,
    TrustedProxies,
    contexts_by_name,
    open_pump,
    open_tls_over_tcp_listeners,
    open_tls_over_tcp_stream,
    read_client_hello,
    reconnect,
    serve_tls_listeners,
    serve_tls_over_tcp,
    start_tls,
)
from trio_tlsbio.monitoring import (
    ConnectionClosed,
    HandshakeCompleted,
    HandshakeFailed,
    ServerEvent,
    ServerMonitor,
    ServerStatistics,
    SessionCacheStatistics,
    tls_attributes,
)
from trio_tlsbio.testing import MemoryListener

T_Stream = TypeVar("T_Stream", bound=trio.abc.Stream)

################################################################
# Streams
################################################################


async def uses_an_address(stream: TLSStream[trio.SocketStream]) -> None:
    assert isinstance(stream.client_address, tuple)
    host, port = stream.client_address
    assert_type(host, str)
    assert_type(port, int)


async def uses_a_client() -> None:
    stream = await open_tls_over_tcp_stream("www.example.org", 443, alpn_protocols=["h2"])
    assert_type(stream, TLSStream[trio.SocketStream])
    assert_type(stream.transport_stream, trio.SocketStream)
    assert_type(await stream.receive_some(), bytes)
    assert_type(await stream.receive_some(100), bytes)
    await stream.send_all(b"bytes")
    await stream.send_all(bytearray())
    await stream.send_all(memoryview(b""))
    assert_type(stream.send_nowait(b""), int)
    assert_type(stream.receive_nowait(), bytes | None)
    assert_type(stream.bytes_committed, int)
    assert_type(stream.session, TLSSession | None)
    assert_type(stream.connection, TLSConnection)
    assert_type(stream.version(), str | None)
    assert_type(await stream.unwrap(), tuple[trio.SocketStream, bytes])
    async with stream as entered:
        assert_type(entered, TLSStream[trio.SocketStream])
    async for data in stream:
        assert_type(data, bytes)


def is_a_stream_of_trio(stream: TLSStream[trio.SocketStream]) -> trio.abc.HalfCloseableStream:
    return stream


async def wraps_any_stream(
    transport_stream: T_Stream, context: ssl.SSLContext
) -> TLSStream[T_Stream]:
    stream = TLSStream(transport_stream, context, server_hostname="www.example.org")
    assert_type(stream, TLSStream[T_Stream])
    assert_type(await start_tls(transport_stream, context, buffered=b""), TLSStream[T_Stream])
    return stream


async def nests_streams(context: ssl.SSLContext) -> None:
    outer = await open_tls_over_tcp_stream("proxy.example.org", 443)
    inner = TLSStream(outer, context, server_hostname="www.example.org")
    assert_type(inner, TLSStream[TLSStream[trio.SocketStream]])
    assert_type(inner.transport_stream.transport_stream, trio.SocketStream)


async def pumps(transport_stream: trio.abc.Stream, context: ssl.SSLContext) -> None:
    async with open_pump(transport_stream) as pumped:
        assert_type(pumped, PumpedStream)
        assert_type(TLSStream(pumped, context, server_hostname="a"), TLSStream[PumpedStream])


async def routes(transport_stream: trio.SocketStream, context: ssl.SSLContext) -> None:
    hello, received = await read_client_hello(transport_stream)
    assert_type(hello, ClientHello)
    assert_type(received, bytes)
    TLSStream(transport_stream, context, server_side=True, received=received)


################################################################
# Clients that come back
################################################################


def on_retry(retry: Retry) -> None:
    assert_type(retry.delay, float)


async def reconnects() -> None:
    async for stream in reconnect(
        "www.example.org",
        443,
        on_retry=on_retry,
        should_retry=lambda exc: isinstance(exc, OSError),
        session_cache=SessionCache(),
        alpn_protocols=["h2"],
        verify_peer=verify_peer,
    ):
        assert_type(stream, TLSStream[trio.SocketStream])


async def connects(transport_stream: T_Stream) -> TLSStream[T_Stream]:
    cache = SessionCache(max_sessions=10)
    connector = TLSConnector(session_cache=cache, alpn_protocols=["h2"], verify_peer=verify_peer)
    assert_type(await connector.connect("www.example.org", 443), TLSStream[trio.SocketStream])
    assert_type(connector.session_cache, SessionCache)
    assert_type(connector.alpn_protocols, tuple[str, ...] | None)
    assert_type(cache.statistics(), SessionCacheStatistics)
    TLSConnector(ssl_context=ReloadingContext(ssl.create_default_context))
    return await connector.wrap(transport_stream, "www.example.org")


async def verify_peer(handshake: HandshakeInfo) -> None:
    assert_type(handshake.version, str)
    assert_type(handshake.session_reused, bool)
    assert_type(handshake.alpn_protocol, str | None)
    assert_type(handshake.group, str | None)
    assert_type(handshake.signature_scheme, str | None)
    assert_type(handshake.client_hello, ClientHello | None)
    assert_type(handshake.peer_names, tuple[PeerName, ...])
    if not handshake.peer_names:
        raise RefuseHandshake("bad_certificate", "it has no name")


class AllowList:
    """A verifier with a state of its own."""

    async def __call__(self, handshake: HandshakeInfo) -> bool:
        return handshake.peer_common_name in {"alice", "bob"}


################################################################
# Servers
################################################################


async def handler(stream: TLSStream[trio.SocketStream]) -> None:
    assert_type(stream.handshake, HandshakeInfo)
    assert_type(stream.server_hostname, str | None)


async def generic_handler(stream: TLSStream[T_Stream]) -> None:
    await stream.send_all(b"")


async def any_handler(stream: TLSStream[Any]) -> int:
    await stream.send_all(b"")
    return stream.bytes_committed


async def plain_handler(stream: trio.abc.Stream) -> None:
    """For a stream that may be of TCP or TLS."""


class Chat:
    """Handlers are often methods."""

    async def handle(self, stream: TLSStream[trio.SocketStream]) -> None:
        pass


async def choose(hello: ClientHello) -> ssl.SSLContext:
    assert_type(hello.server_name, str | None)
    assert_type(hello.alpn_protocols, tuple[bytes, ...])
    return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)


def choose_at_once(hello: ClientHello) -> ssl.SSLContext:
    raise RefuseHandshake("unrecognized_name")


def on_error(stream: TLSStream[trio.SocketStream], exc: Exception) -> None:
    pass


def on_reload(exc: Exception | None) -> None:
    pass


def on_event(event: ServerEvent) -> None:
    match event:
        case HandshakeCompleted():
            assert_type(event.handshake, HandshakeInfo)
        case HandshakeFailed():
            assert_type(event.error, Exception)
        case ConnectionClosed():
            assert_type(event.handshake, HandshakeInfo | None)
        case _:
            pass
    assert_type(tls_attributes(event), dict[str, str | bool])


async def on_plaintext(transport_stream: trio.SocketStream, received: bytes) -> None:
    await transport_stream.send_all(received)


async def serves(context: ssl.SSLContext) -> None:
    drain, monitor = Drain(), ServerMonitor(on_event)
    reloading = ReloadingContext(
        lambda: ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
        files=["cert.pem", Path("key.pem")],
        on_reload=on_reload,
    )
    by_name = contexts_by_name({"a.example": context, "b.example": reloading}, default=context)
    async with trio.open_nursery() as nursery:
        for ssl_context in (context, reloading, by_name, choose, choose_at_once):
            listeners = await nursery.start(serve_tls_over_tcp, handler, 443, ssl_context)
        await serve_tls_over_tcp(
            handler,
            443,
            by_name,
            drain=drain,
            monitor=monitor,
            on_error=on_error,
            on_plaintext=on_plaintext,
            verify_peer=AllowList(),
            proxy_protocol=TrustedProxies(["192.0.2.0/24"]),
            handler_nursery=nursery,
        )
    await serve_tls_over_tcp(generic_handler, 443, context)
    await serve_tls_over_tcp(any_handler, 443, context)
    await serve_tls_over_tcp(plain_handler, 443, context)
    await serve_tls_over_tcp(Chat().handle, 443, context)
    assert_type(await drain.end(10), int)
    assert_type(monitor.statistics(), ServerStatistics)
    listeners = await open_tls_over_tcp_listeners(443, context)
    assert_type(listeners, list[TLSListener[trio.SocketStream]])
    assert_type(await listeners[0].accept(), TLSStream[trio.SocketStream])
    await serve_tls_listeners(handler, listeners)


async def drains(stream: TLSStream[T_Stream], drain: Drain) -> None:
    assert_type(await drain.receive_some(stream), bytes | bytearray)
    assert_type(drain.should_end(stream), bool)


async def tests_a_server(context: ssl.SSLContext) -> None:
    listener = MemoryListener()
    stream = await listener.connect()
    assert_type(stream, trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream])
    MemoryListener(lockstep=True)
    tls_listener = TLSListener(listener, context)
    await serve_tls_listeners(generic_handler, [tls_listener])
    await serve_tls_listeners(any_handler, [tls_listener])
    client, _ = memory_stream_pair()
    TLSStream(client, context, server_hostname="localhost")


################################################################
# Without I/O
################################################################


def embeds(context: ssl.SSLContext) -> None:
    connection = TLSConnection(context, server_hostname="www.example.org")
    assert_type(connection.handshake, HandshakeInfo | None)
    assert_type(connection.receive(), bytes | None)
    assert_type(connection.data_to_send(), bytes)
    assert_type(connection.error, TLSError | None)


################################################################
# Functions that are kept, under the types that users give them
################################################################

HANDLER: Callable[[TLSStream[trio.SocketStream]], Awaitable[None]] = handler
CHOOSER: Callable[[ClientHello], Awaitable[ssl.SSLContext]] = choose
VERIFIER: Callable[[HandshakeInfo], Awaitable[object]] = AllowList()
