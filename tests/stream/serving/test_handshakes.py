"""Handshakes of a server: how long they may take, and how they fail."""

from __future__ import annotations

import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial

import pytest
import trio
import trustme
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import HOST, echo, port_of, reset_when_closed, tcp_pair
from tests.stream.serving.servers import Server, Stream, serving
from trio_tlsbio import (
    HandshakeTimeoutError,
    PeerAlertError,
    TLSConnection,
    TLSConnector,
    TLSError,
    TLSListener,
    TLSStream,
    open_tls_over_tcp_listeners,
    serve_tls_listeners,
)
from trio_tlsbio.monitoring import ServerMonitor


async def test_a_busy_server_does_not_wait_for_client_hellos_that_have_arrived(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The first connection waits, as that of an idle server does, and the others only read."""
    count, done, waits = 5, 0, 0
    wait_readable = trio.lowlevel.wait_readable

    async def counting(descriptor: int) -> None:
        nonlocal waits
        waits += descriptor not in clients
        await wait_readable(descriptor)

    async def handler(_: Stream) -> None:
        nonlocal done
        done += 1
        if done == count:
            established.set()
        await trio.sleep_forever()

    established = trio.Event()
    (listener,) = await open_tls_over_tcp_listeners(0, server_context, host=HOST)
    async with trio.open_nursery() as nursery:
        streams = [
            TLSStream(
                await trio.open_tcp_stream(HOST, port_of(listener)),
                client_context,
                server_hostname=HOST,
            )
            for _ in range(count)
        ]
        clients = {stream.transport_stream.socket.fileno() for stream in streams}
        for stream in streams:
            nursery.start_soon(stream.do_handshake)
        await wait_all_tasks_blocked()  # all of them have sent it
        monkeypatch.setattr(trio.lowlevel, "wait_readable", counting)
        nursery.start_soon(serve_tls_listeners, handler, [listener])
        await established.wait()
        assert waits == 1 + count  # each waits for the client's Finished
        nursery.cancel_scope.cancel()
    for stream in streams:
        await trio.aclose_forcefully(stream)


async def test_slow_handshake_under_trios_serve_listeners(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    failures: list[TLSError] = []

    async def careful(stream: Stream) -> None:
        try:
            await echo(stream)
        except TLSError as exc:
            failures.append(exc)

    (tcp_listener,) = await trio.open_tcp_listeners(0, host=HOST)
    listener = TLSListener(tcp_listener, server_context, handshake_timeout=1000)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, careful, [listener])
        server = Server(
            client_context, ServerMonitor(), listener, nursery.cancel_scope, trio.Event()
        )
        slow = await server.tcp()
        await slow.send_all(b"\x16\x03\x01")
        await wait_all_tasks_blocked()
        async with await server.connect() as stream:  # nobody waits for the slow one
            await server.ask(stream)
        mock_clock.jump(1000)
        with trio.fail_after(10):
            assert await slow.receive_some() == b""
        await slow.aclose()
        async with await server.connect() as stream:
            await server.ask(stream)
        nursery.cancel_scope.cancel()
    (failure,) = failures
    assert isinstance(failure, HandshakeTimeoutError)
    assert str(failure) == "no handshake within 1000 seconds"
    assert failure.error_type == "handshake_timeout"


async def test_timeout_of_a_handshake_is_the_streams(
    server_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    _, transport = memory_stream_pair()
    stream = TLSStream(transport, server_context, server_side=True, handshake_timeout=5)
    await trio.sleep(10)  # it begins with the first call that waits
    with trio.move_on_after(3):
        await stream.do_handshake()
    begin = trio.current_time()
    results: list[TLSError] = []

    async def wait_for_it(operation: Callable[[], Awaitable[object]]) -> None:
        try:
            await operation()
        except TLSError as exc:
            results.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_it, stream.do_handshake)
        nursery.start_soon(wait_for_it, partial(stream.send_all, b"x"))
        nursery.start_soon(wait_for_it, stream.receive_some)
    assert trio.current_time() == begin + 2, "it goes on where it was cancelled"
    assert all(isinstance(result, HandshakeTimeoutError) for result in results)
    assert len(results) == 3
    for operation in (stream.do_handshake, stream.receive_some, partial(stream.send_all, b"x")):
        with pytest.raises(HandshakeTimeoutError):
            await operation()
    await stream.aclose()
    assert trio.current_time() == begin + 2, "nothing was sent, so nothing is waited for"


async def test_where_nothing_was_sent_closing_waits_for_nothing(
    server_context: ssl.SSLContext, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    async with tcp_pair() as (_, transport):
        stream = TLSStream(
            transport, server_context, server_side=True, handshake_timeout=1, close_timeout=1000
        )

        async def let_it_time_out() -> None:
            await wait_all_tasks_blocked()
            mock_clock.jump(1)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(let_it_time_out)
            with pytest.raises(HandshakeTimeoutError):
                await stream.do_handshake()
        with trio.fail_after(10):
            await stream.aclose()


async def test_failed_handshake_ends_without_a_reset(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context) as server:
        bad = await server.tcp()
        await bad.send_all(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")  # a malformed ClientHello
        with trio.fail_after(10):
            assert b"".join([part async for part in bad]), "there is an alert"
        for _ in range(10):  # a closed socket would answer with a reset
            await bad.send_all(b"and so on")
            await wait_all_tasks_blocked(0.001)
        await bad.aclose()


async def test_client_that_fails_twice_ends_alone(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """It sends a ClientHello; while the server answers, it sends garbage and resets."""
    sockets: list[socket.socket] = []

    def while_the_server_works(*_: object) -> None:
        (bad,) = sockets
        bad.sendall(b"\x17\x03\x03\x00\x05hello" + b"garbage")
        reset_when_closed(bad)
        bad.close()

    async with serving(echo, server_context, client_context) as server:
        server_context.sni_callback = while_the_server_works
        sockets.append(socket.create_connection((HOST, server.port)))
        hello = TLSConnection(client_context, server_hostname=HOST).data_to_send()
        sockets[0].sendall(hello)
        await server.until(lambda statistics: bool(statistics.failed))
        await server.until(lambda statistics: statistics.active == 0)
        server_context.sni_callback = None
        async with await server.connect() as stream:
            await server.ask(stream)


async def test_alpn_reaches_the_handler(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def tell(stream: Stream) -> None:
        await stream.send_all(str(stream.handshake.alpn_protocol).encode())

    server_context.set_alpn_protocols(["h2", "http/1.1"])
    connector = TLSConnector(ssl_context=client_context, alpn_protocols=["http/1.1"])
    async with (
        serving(tell, server_context, client_context) as server,
        await connector.connect(HOST, server.port) as stream,
    ):
        assert await stream.receive_some() == b"http/1.1"


async def test_alert_arrives_although_the_client_talks_on(
    ca: trustme.CA, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """A TLS 1.3 client sends data before it can know that its certificate was refused."""
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    async with serving(echo, server_context, client_context) as server:
        for _ in range(20):
            stream = await server.connect()
            with suppress(TLSError):
                await stream.send_all(bytes(500_000))
            with pytest.raises(PeerAlertError) as caught:
                await stream.receive_some()
            assert caught.value.alert == "certificate_required"
            await stream.aclose()
