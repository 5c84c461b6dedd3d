"""Clients that don't speak TLS: what they get by default, and from a function of the server's."""

from __future__ import annotations

import logging
import ssl
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import HOST, LIMIT, echo, reset
from tests.stream.serving.servers import LOGGER, OneStream, Server, Stream, serving
from trio_tlsbio import (
    ClientHello,
    HandshakeTimeoutError,
    TLSConnection,
    TLSError,
    TLSListener,
    TLSStream,
    TrustedProxies,
    open_tls_over_tcp_listeners,
    read_client_hello,
    serve_tls_listeners,
    serve_tls_over_tcp,
)
from trio_tlsbio.monitoring import (
    ConnectionAccepted,
    ConnectionClosed,
    HandshakeFailed,
    ServerEvent,
    ServerMonitor,
)

HTTP = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
ANSWER = b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n"
LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n"
LOOPBACK = TrustedProxies(["127.0.0.0/8"])


async def refuse(stream: trio.SocketStream, received: bytes) -> None:
    """Read a request to its end, and answer it."""
    while b"\r\n\r\n" not in received:
        more = await stream.receive_some()
        if not more:
            return
        received += bytes(more)
    await stream.send_all(ANSWER)


async def all_of(stream: trio.SocketStream) -> bytes:
    with trio.fail_after(10):
        return b"".join([bytes(part) async for part in stream])


async def check_echo(server: Server) -> None:
    async with await server.connect() as stream:
        await server.ask(stream)


################################################################
# By default
################################################################


@pytest.mark.parametrize(
    "data", [HTTP, b"CONNECT a:443 HTTP/1.1\r\n\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", bytes(range(99))]
)
async def test_clients_that_speak_something_else_get_no_alert(
    data: bytes, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context) as server:
        tcp = await server.tcp()
        await tcp.send_all(data)
        assert await all_of(tcp) == b""
        await tcp.aclose()
        await check_echo(server)
        assert sum(server.statistics.failed.values()) == 1


@pytest.mark.parametrize(
    "data", [b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", b"A\x03\x01\x00\x05hello"]
)
async def test_what_is_a_record_of_tls_is_answered_with_an_alert(
    data: bytes, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context) as server:
        tcp = await server.tcp()
        await tcp.send_all(data)
        assert (await all_of(tcp))[:2] == b"\x15\x03"
        await tcp.aclose()


################################################################
# Left to a function
################################################################


@pytest.mark.parametrize("chunk", [1, 10, 1000])
async def test_an_answer_arrives(
    chunk: int,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    calls: list[tuple[Any, bytes]] = []
    events: list[ServerEvent] = []

    async def answer(stream: trio.SocketStream, received: bytes) -> None:
        calls.append((stream, received))
        await refuse(stream, received)

    async with serving(
        echo, server_context, client_context, on_plaintext=answer, on_event=events.append
    ) as server:
        tcp = await server.tcp()
        for at in range(0, len(HTTP), chunk):
            await tcp.send_all(HTTP[at : at + chunk])
            await wait_all_tasks_blocked(0.001 if chunk == 1 else 0)
        assert await all_of(tcp) == ANSWER
        await tcp.aclose()
        await server.until(lambda statistics: statistics.active == 0)
        await check_echo(server)
        ((stream, received),) = calls
        assert isinstance(stream, trio.SocketStream)
        assert HTTP.startswith(received)
        assert len(received) >= min(chunk, 1)
        statistics = server.statistics
        assert (statistics.accepted, statistics.established) == (2, 1)
        assert sum(statistics.failed.values()) == 1
        if chunk > 4:
            assert statistics.failed == {"http_request": 1}
    accepted, failed, closed, *_ = events
    assert isinstance(accepted, ConnectionAccepted)
    assert isinstance(failed, HandshakeFailed)
    assert isinstance(closed, ConnectionClosed)
    assert closed.error is failed.error
    assert caplog.records[0].getMessage().startswith(f"connection from {accepted.peer}: the client")


async def test_what_the_client_still_sends_destroys_no_answer(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """A socket that is closed with bytes in it resets the connection."""
    async with serving(
        echo, server_context, client_context, on_plaintext=refuse, close_timeout=2 * LIMIT
    ) as server:
        tcp = await server.tcp()
        await tcp.send_all(HTTP)
        await server.until(lambda statistics: sum(statistics.failed.values()) == 1)
        for _ in range(10):
            await tcp.send_all(bytes(10_000))
            await wait_all_tasks_blocked(0.001)
        assert await all_of(tcp) == ANSWER
        await tcp.aclose()
        with trio.fail_after(10):
            await server.until(lambda statistics: statistics.active == 0)


async def test_what_follows_an_answer_is_not_kept(server_context: ssl.SSLContext) -> None:
    ours, theirs = memory_stream_pair()

    async def answer(stream: Any, _received: bytes) -> None:
        await stream.send_all(ANSWER)

    listener: Any = TLSListener(OneStream(theirs), server_context, on_plaintext=answer)
    stream = await listener.accept()
    await ours.send_all(HTTP)
    with pytest.raises(TLSError, match="it sent an HTTP request"):
        await stream.do_handshake()
    await ours.send_all(HTTP)
    assert await stream._transport.receive() == len(HTTP)
    assert stream._transport.inbox.take_all() == b""
    assert await ours.receive_some() == ANSWER


async def test_clients_that_speak_tls_are_none_of_its_business(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def answer(_stream: trio.SocketStream, _received: bytes) -> None:
        raise AssertionError

    async with serving(echo, server_context, client_context, on_plaintext=answer) as server:
        await check_echo(server)
        hello = TLSConnection(client_context, server_hostname=HOST).data_to_send()
        for data in (b"", hello[:1], hello[:100]):
            tcp = await server.tcp()
            await tcp.send_all(data)
            await tcp.send_eof()
            assert await all_of(tcp) == b""
            await tcp.aclose()
        for data in (b"\x15\x03\x01\x00\x02\x01\x00", b"\x80\x2e\x01\x03\x01" + bytes(60)):
            tcp = await server.tcp()
            await tcp.send_all(data)
            assert (await all_of(tcp))[:2] == b"\x15\x03", "an alert"
            await tcp.aclose()
        assert server.statistics.failed.get("truncated") == 3


@pytest.mark.parametrize(
    "error", [RuntimeError("broken"), trio.BrokenResourceError(), ExceptionGroup("", [KeyError()])]
)
async def test_errors_in_it_end_that_connection_alone(
    error: Exception,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    events: list[ServerEvent] = []

    async def answer(stream: trio.SocketStream, _received: bytes) -> None:
        raise error

    async with serving(
        echo, server_context, client_context, on_plaintext=answer, on_event=events.append
    ) as server:
        tcp = await server.tcp()
        await tcp.send_all(HTTP)
        assert await all_of(tcp) == b""
        await tcp.aclose()
        await check_echo(server)
        assert server.statistics.failed == {"http_request": 1}
    (failed,) = (event for event in events if isinstance(event, HandshakeFailed))
    assert failed.error.__cause__ is error
    assert f"; on_plaintext failed: {type(error).__name__}" in caplog.text


async def test_a_client_that_resets(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context, on_plaintext=refuse) as server:
        tcp = await server.tcp()
        await tcp.send_all(HTTP[:10])
        await wait_all_tasks_blocked(0.01)
        reset(tcp)
        await server.until(lambda statistics: statistics.failed == {"http_request": 1})
        await check_echo(server)


async def test_it_may_close_the_stream(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def answer(stream: trio.SocketStream, _received: bytes) -> None:
        await stream.aclose()

    async with serving(echo, server_context, client_context, on_plaintext=answer) as server:
        tcp = await server.tcp()
        await tcp.send_all(HTTP)
        assert await all_of(tcp) == b""
        await tcp.aclose()
        await check_echo(server)


async def test_it_is_in_the_time_of_the_handshake(
    server_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    ours, theirs = memory_stream_pair()

    async def answer(_stream: Any, _received: bytes) -> None:
        await trio.sleep_forever()

    failures: list[Exception] = []

    def on_event(event: ServerEvent) -> None:
        if isinstance(event, HandshakeFailed):
            failures.append(event.error)

    listener: Any = TLSListener(
        OneStream(theirs), server_context, handshake_timeout=100, on_plaintext=answer
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(serve_tls_listeners, echo, [listener], monitor=ServerMonitor(on_event))
        )
        await trio.sleep(40)
        await ours.send_all(HTTP)
        begin = trio.current_time()
        assert await ours.receive_some() == b""
        assert trio.current_time() == begin + 60
        nursery.cancel_scope.cancel()
    (failure,) = failures
    assert isinstance(failure, HandshakeTimeoutError)
    assert str(failure) == "no answer by on_plaintext within 100 seconds"


async def test_waiting_for_the_first_byte_is_a_handshake(
    server_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    _, theirs = memory_stream_pair()
    listener: Any = TLSListener(
        OneStream(theirs), server_context, handshake_timeout=100, on_plaintext=refuse
    )
    stream = await listener.accept()
    with pytest.raises(HandshakeTimeoutError, match="no handshake within 100 seconds"):
        await stream.do_handshake()
    assert not stream.has_received


async def test_a_call_that_is_cancelled_is_not_repeated(server_context: ssl.SSLContext) -> None:
    ours, theirs = memory_stream_pair()
    calls: list[bytes] = []

    async def answer(_stream: Any, received: bytes) -> None:
        calls.append(received)
        await trio.sleep_forever()

    listener: Any = TLSListener(OneStream(theirs), server_context, on_plaintext=answer)
    stream = await listener.accept()
    await ours.send_all(HTTP)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.do_handshake)
        await wait_all_tasks_blocked()
        with pytest.raises(TLSError, match="it sent an HTTP request"):  # meanwhile
            await stream.receive_some()
        nursery.cancel_scope.cancel()
    with pytest.raises(TLSError, match="it sent an HTTP request"):
        await stream.do_handshake()
    assert calls == [HTTP]
    await trio.aclose_forcefully(stream)


async def test_draining_lets_it_answer(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(
        echo, server_context, client_context, on_plaintext=refuse, handshake_timeout=1000
    ) as server:
        tcp = await server.tcp()
        await tcp.send_all(HTTP[:10])
        silent = await server.tcp()
        await server.until(lambda statistics: statistics.accepted == 2)
        await wait_all_tasks_blocked(0.01)
        await server.listener.aclose()
        assert await all_of(silent) == b""
        await tcp.send_all(HTTP[10:])
        assert await all_of(tcp) == ANSWER
        await tcp.aclose()
        await silent.aclose()
        with trio.fail_after(10):
            await server.ended.wait()
        assert server.statistics.failed == {"truncated": 1, "http_request": 1}


################################################################
# Together with others
################################################################


@pytest.mark.parametrize("chunk", [1, 20, 1000])
async def test_after_the_header_of_a_proxy(
    chunk: int,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(
        echo, server_context, client_context, on_plaintext=refuse, proxy_protocol=LOOPBACK
    ) as server:
        for sent, answer in ((LINE + HTTP, ANSWER), (HTTP, b"")):
            tcp = await server.tcp()
            with trio.move_on_after(10):
                for at in range(0, len(sent), chunk):
                    try:
                        await tcp.send_all(sent[at : at + chunk])
                    except trio.BrokenResourceError:
                        break  # without a header it is refused as soon as that shows
                    await wait_all_tasks_blocked()
            try:
                assert await all_of(tcp) == answer
            except trio.BrokenResourceError:
                assert answer == b""
            await tcp.aclose()
        await server.until(lambda statistics: statistics.active == 0)
        tcp = await server.tcp()
        await tcp.send_all(LINE)
        async with TLSStream(tcp, client_context, server_hostname=HOST) as stream:
            await server.ask(stream)
        assert server.statistics.established == 1
        assert server.statistics.failed["bad_proxy_header"] == 1
    assert "connection from 192.0.2.1:4660: the client did not speak TLS" in caplog.text


async def test_no_chooser_is_asked(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    hellos: list[ClientHello] = []

    async def choose(hello: ClientHello) -> ssl.SSLContext:
        hellos.append(hello)
        return server_context

    async with serving(echo, choose, client_context, on_plaintext=refuse) as server:
        tcp = await server.tcp()
        await tcp.send_all(HTTP)
        assert await all_of(tcp) == ANSWER
        await tcp.aclose()
        assert not hellos
        await check_echo(server)
        assert len(hellos) == 1


async def test_a_router_refuses_the_same(server_context: ssl.SSLContext) -> None:
    """What read_client_hello() makes of it, and in which words."""
    for data in (HTTP, b"SSH-2.0-OpenSSH_9.2\r\n"):
        ours, theirs = memory_stream_pair()
        listener: Any = TLSListener(OneStream(theirs), server_context, on_plaintext=refuse)
        await ours.send_all(data)
        await ours.send_eof()
        with pytest.raises(TLSError) as of_listener:
            await (await listener.accept()).do_handshake()
        ours, theirs = memory_stream_pair()
        await ours.send_all(data)
        with pytest.raises(TLSError) as of_router:
            await read_client_hello(theirs)
        assert str(of_listener.value) == str(of_router.value)
        assert of_listener.value.error_type == of_router.value.error_type


async def test_under_trios_serve_listeners(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def handler(stream: Stream) -> None:
        try:
            async with stream:
                await echo(stream)
        except TLSError:
            pass

    (listener,) = await open_tls_over_tcp_listeners(
        0, server_context, host=HOST, on_plaintext=refuse
    )
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, handler, [listener])
        server = Server(
            client_context, ServerMonitor(), listener, nursery.cancel_scope, trio.Event()
        )
        tcp = await server.tcp()
        await tcp.send_all(HTTP)
        assert await all_of(tcp) == ANSWER
        await tcp.aclose()
        await check_echo(server)
        nursery.cancel_scope.cancel()


async def test_it_has_to_be_a_function(server_context: ssl.SSLContext) -> None:
    bad: Any = "400 Bad Request"
    with pytest.raises(TypeError, match="on_plaintext must be a function, not str"):
        await serve_tls_over_tcp(echo, 0, server_context, host=HOST, on_plaintext=bad)
    with pytest.raises(TypeError, match="on_plaintext must be a function, not str"):
        TLSListener(OneStream(None), server_context, on_plaintext=bad)
