"""Servers behind a proxy that reports its clients' addresses by the PROXY protocol."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import Callable
from functools import partial
from ipaddress import ip_address
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.cancelling import Canceller, at_every_step
from tests.helpers import HOST, NAME, echo, reset_when_closed, tcp_pair, wrap_pair
from tests.stream.serving.servers import LOGGER, OneStream, Server, Stream, serving
from trio_tlsbio import (
    HandshakeTimeoutError,
    TLSConnection,
    TLSError,
    TLSListener,
    TLSStream,
    TruncationError,
    TrustedProxies,
    open_tls_over_tcp_listeners,
    serve_tls_listeners,
    serve_tls_over_tcp,
)
from trio_tlsbio._stream import system_calls
from trio_tlsbio.monitoring import (
    ConnectionAccepted,
    ConnectionClosed,
    HandshakeCompleted,
    HandshakeFailed,
    ServerEvent,
    ServerMonitor,
)
from trio_tlsbio.proxy_protocol import ProxyCommand, read_proxy_header

LOOPBACK = TrustedProxies(["127.0.0.0/8"])

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
BINARY = SIGNATURE + bytes([0x21, 0x11, 0, 12, 192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 1, 187])
IPV6 = b"PROXY TCP6 2001:db8::1 ::1 4660 443\r\n"
UNIX = SIGNATURE + bytes([0x21, 0x31, 0, 216]) + b"/run/a".ljust(216, b"\0")
UNKNOWN = b"PROXY UNKNOWN\r\n"
LOCAL = SIGNATURE + b"\x20\0\0\0"

CLIENT = ("192.0.2.1", 4660)


@attrs.define(eq=False)
class Prefixed(trio.abc.Stream):
    """Sends a header right before what is sent first."""

    stream: trio.abc.Stream
    prefix: bytes

    async def send_all(self, data: Any) -> None:
        prefix, self.prefix = self.prefix, b""
        await self.stream.send_all(prefix + bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


async def connect(server: Server, header: bytes, *, is_glued: bool = True) -> TLSStream[Any]:
    """Connect as a proxy, with the header and the ClientHello in one piece or one by one."""
    transport: Any = await server.tcp()
    if is_glued:
        transport = Prefixed(transport, header)
    else:
        await transport.send_all(header)
        await wait_all_tasks_blocked()
    stream = TLSStream(transport, server.client_context, server_hostname=HOST)
    with trio.fail_after(10):
        await stream.do_handshake()
    return stream


def listen_on(transport: Any, context: ssl.SSLContext, **options: Any) -> TLSListener[Any]:
    options = {"proxy_protocol": LOOPBACK} | options
    return TLSListener(OneStream(transport), context, **options)


################################################################
# What it reports
################################################################


@pytest.mark.parametrize("is_glued", [True, False], ids=["glued", "alone"])
@pytest.mark.parametrize(
    ("header", "address", "words"),
    [
        (LINE, CLIENT, "192.0.2.1:4660"),
        (BINARY, CLIENT, "192.0.2.1:4660"),
        (IPV6, ("2001:db8::1", 4660), "[2001:db8::1]:4660"),
        (
            IPV6.replace(b"2001:db8::1", b"::FFFF:192.0.2.1"),
            ("::ffff:192.0.2.1", 4660),
            "[::ffff:192.0.2.1]:4660",
        ),
        (UNIX, "/run/a", "a peer '/run/a'"),
        (UNKNOWN, None, None),
        (LOCAL, None, None),
    ],
    ids=["version 1", "version 2", "IPv6", "IPv4 in IPv6", "Unix", "UNKNOWN", "LOCAL"],
)
async def test_the_clients_address(
    header: bytes,
    address: Any,
    words: str | None,
    is_glued: bool,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    """The handler gets it, and the events from the handshake on."""
    events: list[ServerEvent] = []
    seen: list[Stream] = []

    async def handler(stream: Stream) -> None:
        seen.append(stream)
        await echo(stream)

    async with serving(
        handler, server_context, client_context, on_event=events.append, proxy_protocol=LOOPBACK
    ) as server:
        async with await connect(server, header, is_glued=is_glued) as stream:
            await server.ask(stream)
            transport: Any = stream.transport_stream
            name = getattr(transport, "stream", transport).socket.getsockname()
        await server.until(lambda statistics: statistics.active == 0)
    (of_server,) = seen
    assert of_server.peer_address == name
    assert of_server.client_address == (address or name)
    assert of_server.proxy_header is not None
    assert of_server.proxy_header.command is (
        ProxyCommand.LOCAL if header is LOCAL else ProxyCommand.PROXY
    )
    proxy = f"{name[0]}:{name[1]}"
    assert [(type(event), event.peer) for event in events] == [  # type: ignore[union-attr]
        (ConnectionAccepted, proxy),
        (HandshakeCompleted, words or proxy),
        (ConnectionClosed, words or proxy),
    ]
    assert server.statistics.failed == {}


async def test_a_header_in_single_bytes(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context, proxy_protocol=LOOPBACK) as server:
        tcp = await server.tcp()
        tcp.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(len(BINARY)):
            await tcp.send_all(BINARY[at : at + 1])
            await wait_all_tasks_blocked()
        async with TLSStream(tcp, client_context, server_hostname=HOST) as stream:
            await server.ask(stream)


async def test_the_clients_address_is_in_the_log(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[ServerEvent] = []
    async with serving(
        echo, server_context, client_context, on_event=events.append, proxy_protocol=LOOPBACK
    ) as server:
        tcp = await server.tcp()
        await tcp.send_all(LINE + b"GET / HTTP/1.1\r\n\r\n")
        await server.until(lambda statistics: statistics.active == 0)
        assert server.statistics.failed == {"http_request": 1}
        await tcp.aclose()
    (record,) = caplog.records
    assert record.getMessage().startswith("connection from 192.0.2.1:4660: ")
    (failed,) = [event for event in events if isinstance(event, HandshakeFailed)]
    assert failed.peer == "192.0.2.1:4660"


@pytest.mark.parametrize(("is_glued", "more"), [(True, 0), (False, 1)], ids=["glued", "alone"])
async def test_it_takes_a_single_read_more(
    is_glued: bool,
    more: int,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And none, if the header comes together with the ClientHello."""
    reads = 0

    class Calls(system_calls.PortableCalls):
        @staticmethod
        def read(descriptor: int, max_bytes: int, /) -> bytes:
            nonlocal reads
            data = system_calls.PortableCalls.read(descriptor, max_bytes)
            reads += 1  # not a read before anything has arrived, which is a matter of luck
            return data

    monkeypatch.setattr(system_calls, "calls", Calls)

    async def handshake(header: bytes, **options: Any) -> int:
        nonlocal reads
        reads = 0
        async with tcp_pair() as (ours, theirs):
            listener = TLSListener(OneStream(theirs), server_context, **options)
            server = await listener.accept()
            transport: Any = Prefixed(ours, header if is_glued else b"")
            client = TLSStream(transport, client_context, server_hostname=NAME)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.do_handshake)
                if not is_glued:
                    await ours.send_all(header)
                    await wait_all_tasks_blocked()
                await client.do_handshake()
        return reads

    usual = await handshake(b"")
    assert await handshake(LINE, proxy_protocol=LOOPBACK) == usual + more


################################################################
# Whom it is taken from
################################################################


async def test_others_than_the_trusted_are_refused(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At once, whatever they send, and without an answer."""
    proxies = TrustedProxies(["192.0.2.0/24", "::1"])
    async with serving(echo, server_context, client_context, proxy_protocol=proxies) as server:
        tcp = await server.tcp()
        with trio.fail_after(10):
            assert await tcp.receive_some() == b""
        await tcp.aclose()
        await server.until(lambda statistics: statistics.active == 0)
        assert server.statistics.failed == {"untrusted_proxy": 1}
        tcp = await server.tcp()
        with pytest.raises(trio.BrokenResourceError):
            await connect_with(tcp, LINE, client_context)
        await server.until(lambda statistics: statistics.active == 0)
        assert server.statistics.failed == {"untrusted_proxy": 2}
    assert [record.levelno for record in caplog.records] == [logging.WARNING] * 2
    message = caplog.records[1].getMessage()
    assert "the peer is not one of the trusted proxies" in message
    assert message.startswith("connection from 127.0.0.1:")
    assert "192.0.2.1" not in message


async def connect_with(tcp: trio.SocketStream, header: bytes, context: ssl.SSLContext) -> None:
    async with TLSStream(Prefixed(tcp, header), context, server_hostname=HOST) as stream:
        await stream.do_handshake()


@pytest.mark.parametrize("proxies", [TrustedProxies(unix=True), LOOPBACK])
async def test_unix_sockets(
    proxies: TrustedProxies, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    pair = [trio.SocketStream(trio.socket.from_stdlib_socket(s)) for s in socket.socketpair()]
    server = await listen_on(pair[1], server_context, proxy_protocol=proxies).accept()
    client = TLSStream(Prefixed(pair[0], UNIX), client_context, server_hostname=NAME)
    assert server.peer_address == ""
    if proxies.unix:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            await server.do_handshake()
        assert server.client_address == "/run/a"
    else:
        with pytest.raises(TLSError, match="not one of the trusted proxies"):
            await server.do_handshake()
    for stream in client, server:
        await trio.aclose_forcefully(stream)


async def test_a_transport_without_an_address_is_refused(server_context: ssl.SSLContext) -> None:
    ours, theirs = memory_stream_pair()
    server = await listen_on(theirs, server_context).accept()
    await ours.send_all(LINE)
    assert server.peer_address is None
    for _ in range(2):
        with pytest.raises(TLSError, match="not one of the trusted") as caught:
            await server.do_handshake()
        assert server.is_source_of(caught.value)
    assert server.client_address is None


################################################################
# What is no header
################################################################


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"\x16\x03\x01", "the proxy began with TLS"),
        (b"GET / HTTP/1.1\r\n\r\n", "the proxy began with something else"),
        (LINE.replace(b"443", b"65536"), "invalid port: '65536'"),
        (b"PROXY TCP4 \x1b[31m\n", "by itself"),
        (b"PROXY \x1b[31m\r\n", r"'\x1b[31m'"),
    ],
)
async def test_a_bad_header_ends_its_connection(
    data: bytes,
    words: str,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(echo, server_context, client_context, proxy_protocol=LOOPBACK) as server:
        tcp = await server.tcp()
        await tcp.send_all(data)
        with trio.fail_after(10):
            assert await tcp.receive_some() == b"", "no alert: no TLS has begun"
        await server.until(lambda statistics: statistics.active == 0)
        assert server.statistics.failed == {"bad_proxy_header": 1}
        await tcp.aclose()
        async with await connect(server, LINE) as stream:
            await server.ask(stream)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert record.error_type == "bad_proxy_header"  # type: ignore[attr-defined]
    assert words in record.getMessage()
    assert record.getMessage().isprintable()


@pytest.mark.parametrize(
    ("data", "level"),
    [
        (b"", logging.DEBUG),
        (LOCAL, logging.DEBUG),
        (LINE, logging.DEBUG),
        (LINE[:-1], logging.DEBUG),
        (LINE + b"\x16", logging.WARNING),
    ],
    ids=["nothing", "LOCAL", "PROXY", "cut", "and a byte"],
)
@pytest.mark.parametrize("how", ["end", "reset"])
async def test_health_checks_make_no_noise(
    data: bytes,
    level: int,
    how: str,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Those of a proxy, and of others before it: a header is not a word of the client."""
    caplog.set_level(logging.DEBUG, LOGGER)
    async with serving(echo, server_context, client_context, proxy_protocol=LOOPBACK) as server:
        tcp = await server.tcp()
        await tcp.send_all(data)
        await server.until(lambda statistics: statistics.accepted == 1)
        await wait_all_tasks_blocked()
        if how == "reset":
            reset_when_closed(tcp)
        await tcp.aclose()
        await server.until(lambda statistics: statistics.active == 0)
        error_type = "truncated" if how == "end" else "connection_reset"
        assert server.statistics.failed == {error_type: 1}
    (record,) = caplog.records
    assert record.levelno == level
    if data == LINE[:-1] and how == "end":
        assert "before its PROXY protocol header was complete" in record.getMessage()


@pytest.mark.parametrize(
    ("header", "level"), [(LOCAL, logging.DEBUG), (LINE, logging.WARNING)], ids=["LOCAL", "PROXY"]
)
async def test_health_checks_by_tls_make_no_noise(
    header: bytes,
    level: int,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A proxy that shakes hands on its own behalf, and resets the connection, has seen enough."""
    caplog.set_level(logging.DEBUG, LOGGER)
    async with serving(echo, server_context, client_context, proxy_protocol=LOOPBACK) as server:
        stream = await connect(server, header)
        await server.ask(stream)
        tcp = stream.transport_stream.stream
        reset_when_closed(tcp)
        await tcp.aclose()
        await server.until(lambda statistics: statistics.active == 0)
    (record,) = caplog.records
    assert record.levelno == level


async def test_a_health_check_that_has_gone_before_it_is_accepted(
    server_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """HAProxy's: the socket has forgotten the address, by which it would be trusted."""
    caplog.set_level(logging.DEBUG, LOGGER)
    (listener,) = await open_tls_over_tcp_listeners(
        0, server_context, host=HOST, proxy_protocol=LOOPBACK
    )
    server = Server(server_context, ServerMonitor(), listener, trio.CancelScope(), trio.Event())
    tcp = await server.tcp()
    await tcp.send_all(LOCAL)
    reset_when_closed(tcp)
    await tcp.aclose()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_tls_listeners, echo, [listener], monitor=server.monitor))
        await server.until(lambda statistics: sum(statistics.failed.values()) == 1)
        await server.until(lambda statistics: statistics.active == 0)
        nursery.cancel_scope.cancel()
    assert server.statistics.failed == {"truncated": 1}
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG


async def test_a_slow_header_takes_no_longer_than_a_handshake_may(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And the others don't wait for it."""
    mock_clock.rate = 1
    async with serving(
        echo, server_context, client_context, proxy_protocol=LOOPBACK, handshake_timeout=1000
    ) as server:
        tcp = await server.tcp()
        for at in range(10):
            await tcp.send_all(LINE[at : at + 1])
            await wait_all_tasks_blocked()
            mock_clock.jump(99)
        async with await connect(server, LINE) as stream:
            await server.ask(stream)
        mock_clock.jump(11)
        with trio.fail_after(10):
            assert await tcp.receive_some() == b""
        await server.until(lambda statistics: statistics.active == 0)
        assert server.statistics.failed == {"handshake_timeout": 1}
        await tcp.aclose()
    (record,) = caplog.records
    assert "no PROXY protocol header within 1000 seconds" in record.getMessage()


async def test_the_time_for_the_header_is_the_handshakes(
    server_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    """A proxy that has sent the header late leaves less for the client."""
    async with tcp_pair() as (ours, theirs):
        server = await listen_on(theirs, server_context, handshake_timeout=10).accept()
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def proxy() -> None:
                await trio.sleep(9)
                await ours.send_all(LINE)

            with pytest.raises(HandshakeTimeoutError, match="no handshake within 10 seconds"):
                await server.do_handshake()
        assert trio.current_time() - begin == pytest.approx(10)


################################################################
# As any part of a handshake
################################################################


async def test_cancelled_at_every_step(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The handshake goes on where it was, and no byte of the header is lost or gets to TLS."""

    async def scenario(canceller: Canceller) -> None:
        async with tcp_pair() as (ours, theirs):
            server = await listen_on(theirs, server_context).accept()
            client = TLSStream(ours, client_context, server_hostname=NAME)

            async def proxy() -> None:
                for at in range(0, len(LINE), 20):
                    await ours.send_all(LINE[at : at + 20])
                    await wait_all_tasks_blocked()
                await client.send_all(b"hello")

            async with trio.open_nursery() as nursery:
                nursery.start_soon(proxy)
                await canceller.run(server.do_handshake)
                assert await server.receive_some() == b"hello"
            assert server.client_address == CLIENT

    await at_every_step(scenario)


async def test_tasks_that_wait_for_the_same_header(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as (ours, theirs):
        server = await listen_on(theirs, server_context).accept()
        client = TLSStream(ours, client_context, server_hostname=NAME)
        received: list[bytes] = []

        async def receive() -> None:
            received.append(await server.receive_some())

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.do_handshake)
                nursery.start_soon(receive)
                nursery.start_soon(server.send_all, b"greeting")
                with trio.move_on_after(0):
                    await server.do_handshake()
                for part in LINE[:10], LINE[10:]:
                    await wait_all_tasks_blocked()
                    await ours.send_all(part)
                await client.send_all(b"hello")
                assert await client.receive_some() == b"greeting"
        assert received == [b"hello"]


@pytest.mark.parametrize("received", [b"", LINE[:10], b"GET / HTTP/1.1\r\n\r\n"])
@pytest.mark.parametrize("how", ["forcefully", "abort"])
async def test_closing_before_the_header_sends_nothing(
    how: str, received: bytes, server_context: ssl.SSLContext
) -> None:
    """What has arrived is not taken for TLS, which would be answered by an alert."""
    async with tcp_pair() as (ours, theirs):
        server = await listen_on(theirs, server_context).accept()
        await ours.send_all(received)
        with trio.move_on_after(0):
            await server.do_handshake()
        if how == "abort":
            assert server.abort()
        else:
            await trio.aclose_forcefully(server)
        with trio.fail_after(10):
            assert await ours.receive_some() == b""


async def test_nothing_is_sent_or_received_before_the_header(
    server_context: ssl.SSLContext,
) -> None:
    async with tcp_pair() as (ours, theirs):
        server = await listen_on(theirs, server_context).accept()
        await ours.send_all(LINE)
        await wait_all_tasks_blocked()
        assert server.receive_nowait() is None
        assert server.send_nowait(b"data") == 0
        assert not server.is_readable()
        assert server.proxy_header is None
        await ours.aclose()
        with pytest.raises(TruncationError, match="during the handshake"):
            await server.do_handshake()
        assert server.client_address == CLIENT
        assert not server.has_received


async def test_an_end_that_arrives_along_with_the_header(server_context: ssl.SSLContext) -> None:
    async with tcp_pair() as (ours, theirs):
        server = await listen_on(theirs, server_context).accept()
        await ours.send_all(LINE + b"\x16")
        await ours.send_eof()
        await wait_all_tasks_blocked()
        assert server._transport.receive_nowait() == len(LINE) + 1  # as a failed send does
        assert server._transport.has_ended
        with pytest.raises(TruncationError, match="during the handshake"):
            await server.do_handshake()
        assert server.has_received


async def test_draining_ends_a_connection_of_which_there_is_only_the_header(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, mock_clock: MockClock
) -> None:
    async with serving(
        echo, server_context, client_context, proxy_protocol=LOOPBACK, handshake_timeout=1000
    ) as server:
        silent = [await server.tcp() for _ in range(2)]
        await silent[0].send_all(LINE)
        await server.until(lambda statistics: statistics.accepted == 2)
        await wait_all_tasks_blocked()
        await server.listener.aclose()
        with trio.fail_after(10):
            await server.ended.wait()
        assert server.statistics.failed == {"truncated": 2}
        for tcp in silent:
            await tcp.aclose()


async def test_under_trios_serve_listeners(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    addresses: list[Any] = []

    async def handler(stream: Stream) -> None:
        async with stream:
            await stream.do_handshake()
            addresses.append(stream.client_address)

    (listener,) = await open_tls_over_tcp_listeners(
        0, server_context, host=HOST, proxy_protocol=LOOPBACK
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handler, [listener])
        server = Server(
            client_context, ServerMonitor(), listener, nursery.cancel_scope, trio.Event()
        )
        async with await connect(server, LINE) as stream:
            assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()
    assert addresses == [CLIENT]


################################################################
# Without a listener of ours
################################################################


@pytest.mark.parametrize("chunk", [1, 1000])
async def test_reading_a_header_from_any_stream(
    chunk: int, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    ours, theirs = memory_stream_pair()
    client = TLSConnection(client_context, server_hostname=NAME)
    sent = LINE + client.data_to_send()
    async with trio.open_nursery() as nursery:

        @nursery.start_soon
        async def proxy() -> None:
            for at in range(0, len(sent), chunk):
                await ours.send_all(sent[at : at + chunk])
                await wait_all_tasks_blocked()
                if at > len(LINE):
                    break

        header, rest = await read_proxy_header(theirs)
    assert header.source == (ip_address("192.0.2.1"), 4660)
    assert sent.startswith(LINE + rest)
    assert bool(rest) == (chunk > 1)


async def test_what_was_received_already_belongs_to_the_stream(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    ours, theirs = memory_stream_pair()
    client = TLSConnection(client_context, server_hostname=NAME)
    hello = client.data_to_send()
    server = TLSStream(theirs, server_context, server_side=True, received=hello)
    assert server.has_received
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            while not client.do_handshake():
                client.feed(await ours.receive_some())
            await ours.send_all(client.data_to_send())


async def test_reading_what_is_no_header() -> None:
    ours, theirs = memory_stream_pair()
    await ours.send_all(b"PROXY TCP9 \r\n")
    with pytest.raises(TLSError, match="unknown protocol: 'TCP9'") as caught:
        await read_proxy_header(theirs)
    assert caught.value.error_type == "bad_proxy_header"
    ours, theirs = memory_stream_pair()
    await ours.send_all(LINE[:-1])
    await ours.send_eof()
    with pytest.raises(TruncationError, match="before its PROXY protocol header was complete"):
        await read_proxy_header(theirs)


################################################################
# Addresses without a proxy
################################################################


async def test_addresses_of_sockets(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as (ours, theirs):
        client, server = wrap_pair(ours, theirs, client_context, server_context)
        name = ours.socket.getsockname()
        assert server.peer_address == server.client_address == name
        assert client.peer_address == theirs.socket.getsockname()
        inner = TLSStream(server, server_context, server_side=True)
        assert inner.peer_address == name
        assert server.proxy_header is None
        await trio.aclose_forcefully(server)
        assert server.peer_address == name, "it is remembered"


async def test_an_address_of_ipv6_has_two_parts(server_context: ssl.SSLContext) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host="::1")
    async with listener:
        port = listener.socket.getsockname()[1]
        client = await trio.open_tcp_stream("::1", port)
        server = TLSStream(await listener.accept(), server_context, server_side=True)
        assert server.peer_address == ("::1", client.socket.getsockname()[1])
        await trio.aclose_forcefully(server)
        await client.aclose()


class NamedSocket(trio.socket.SocketType):
    """A socket of another family, as a socket factory of the user can return one."""

    def __init__(self, name: object) -> None:
        self._name = name

    type = socket.SOCK_STREAM

    def getpeername(self) -> object:
        return self._name

    def setsockopt(self, *options: Any) -> None: ...


@pytest.mark.parametrize("name", [(), ("can0",), (3, 443), ("vm", "service"), ("vm", None)])
async def test_an_address_of_another_family_is_not_taken_for_one(
    name: tuple[Any, ...], client_context: ssl.SSLContext
) -> None:
    stream = TLSStream(trio.SocketStream(NamedSocket(name)), client_context, server_hostname=NAME)
    assert stream.peer_address is None


################################################################
# Misuse
################################################################


@pytest.mark.parametrize("proxies", [True, "127.0.0.1", ["127.0.0.1"], TrustedProxies])
async def test_what_are_no_trusted_proxies(proxies: Any, server_context: ssl.SSLContext) -> None:
    calls: list[Callable[[], Any]] = [
        lambda: open_tls_over_tcp_listeners(0, server_context, proxy_protocol=proxies),
        lambda: serve_tls_over_tcp(echo, 0, server_context, proxy_protocol=proxies),
    ]
    _, theirs = memory_stream_pair()
    with pytest.raises(TypeError, match="proxy_protocol must be TrustedProxies or None"):
        listen_on(theirs, server_context, proxy_protocol=proxies)
    for call in calls:
        with pytest.raises(TypeError, match="proxy_protocol must be TrustedProxies or None"):
            await call()
