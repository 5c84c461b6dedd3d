"""Listening, serving and connecting over TCP."""

from __future__ import annotations

import logging
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import pytest
import trio
import trustme
from trio.testing import MockClock, open_stream_to_socket_listener, wait_all_tasks_blocked

from tests.helpers import NAME, both_handshakes, echo, reset_when_closed
from trio_tlsbio import (
    CertificateError,
    ReloadingContext,
    TLSConnector,
    TLSError,
    TLSListener,
    TLSStream,
    TruncationError,
    open_tls_over_tcp_listeners,
    open_tls_over_tcp_stream,
    reconnect,
    serve_tls_over_tcp,
)

TCPListener: TypeAlias = TLSListener[trio.SocketStream]
TCPTLSStream: TypeAlias = TLSStream[trio.SocketStream]
Handler: TypeAlias = Callable[[TCPTLSStream], Awaitable[object]]


def address_of(listener: TCPListener) -> tuple[str, int]:
    transport_listener = listener.transport_listener
    assert isinstance(transport_listener, trio.SocketListener)
    host, port = transport_listener.socket.getsockname()
    return host, port


async def tcp_to(listener: TCPListener) -> trio.SocketStream:
    """Connect to a listener by TCP, without TLS."""
    transport_listener = listener.transport_listener
    assert isinstance(transport_listener, trio.SocketListener)
    return await open_stream_to_socket_listener(transport_listener)


@asynccontextmanager
async def serving(
    handler: Handler, context: ssl.SSLContext, **options: Any
) -> AsyncIterator[TCPListener]:
    async with trio.open_nursery() as nursery:
        listeners: list[TCPListener] = await nursery.start(
            partial(serve_tls_over_tcp, handler, 0, context, host="127.0.0.1", **options)
        )
        (listener,) = listeners
        yield listener
        nursery.cancel_scope.cancel()


async def assert_echoes(listener: TCPListener, context: ssl.SSLContext) -> None:
    with trio.fail_after(5):
        stream = await open_tls_over_tcp_stream(*address_of(listener), ssl_context=context)
        async with stream:
            await stream.send_all(b"anybody home?")
            assert await stream.receive_some() == b"anybody home?"


async def wait_for_log(caplog: pytest.LogCaptureFixture) -> logging.LogRecord:
    """Return the one line that the server logs."""
    with trio.fail_after(5):
        while not caplog.records:
            await trio.lowlevel.checkpoint()
    (record,) = caplog.records
    assert record.name == "trio_tlsbio.server"
    return record


################################################################
# Listeners
################################################################


@asynccontextmanager
async def listening(context: ssl.SSLContext, **options: Any) -> AsyncIterator[TCPListener]:
    (listener,) = await open_tls_over_tcp_listeners(0, context, host="127.0.0.1", **options)
    async with listener:
        yield listener


async def test_listener_wraps_what_it_accepts(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    (transport_listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener = TLSListener(transport_listener, server_context)
    assert listener.transport_listener is transport_listener
    async with (
        listener,
        TLSStream(await tcp_to(listener), client_context, server_hostname=NAME) as client,
    ):
        server = await listener.accept()
        async with server:
            assert isinstance(server, TLSStream)
            assert isinstance(server.transport_stream, trio.SocketStream)
            assert server.server_side
            assert server.context is server_context
            assert server.connection.handshake is None, "accept() must not wait for the handshake"
            await both_handshakes(client, server)
            await client.send_all(b"x")
            assert await server.receive_some() == b"x"
            await trio.aclose_forcefully(client)


async def test_listener_closes_its_transport(server_context: ssl.SSLContext) -> None:
    (transport_listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    listener = TLSListener(transport_listener, server_context)
    for _ in range(2):
        await listener.aclose()
        assert transport_listener.socket.fileno() == -1
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()


async def test_closing_the_listener_wakes_who_accepts(server_context: ssl.SSLContext) -> None:
    async with listening(server_context) as listener, trio.open_nursery() as nursery:

        async def accept() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await listener.accept()

        nursery.start_soon(accept)
        await wait_all_tasks_blocked()
        await listener.aclose()


@pytest.mark.parametrize("https_compatible", [False, True])
async def test_listener_passes_https_compatible_on(
    https_compatible: bool, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with listening(server_context, https_compatible=https_compatible) as listener:
        client = TLSStream(await tcp_to(listener), client_context, server_hostname=NAME)
        server = await listener.accept()
        await both_handshakes(client, server)
        await client.transport_stream.send_eof()
        if https_compatible:
            assert await server.receive_some() == b""
        else:
            with pytest.raises(TruncationError):
                await server.receive_some()
        await trio.aclose_forcefully(client)
        await server.aclose()


@pytest.mark.parametrize("context", [None, "context", ssl.SSLContext])
async def test_listener_wants_a_context(context: Any) -> None:
    async with (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0] as transport_listener:
        with pytest.raises(TypeError, match="SSLContext"):
            TLSListener(transport_listener, context)


async def test_context_is_checked_before_listening(monkeypatch: pytest.MonkeyPatch) -> None:
    async def open_tcp_listeners(*args: object, **options: object) -> None:
        raise AssertionError("it listened")

    monkeypatch.setattr(trio, "open_tcp_listeners", open_tcp_listeners)
    with pytest.raises(TypeError, match="SSLContext"):
        await open_tls_over_tcp_listeners(0, None)  # type: ignore[arg-type]
    for context in ssl.create_default_context(), ReloadingContext(ssl.create_default_context):
        with pytest.raises(ValueError, match="made for the other side, by PROTOCOL_TLS_CLIENT"):
            await open_tls_over_tcp_listeners(0, context)


async def test_options_for_listening_reach_trio(
    server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[object, ...]] = []

    async def open_tcp_listeners(
        port: int, *, host: str | None = None, backlog: int | None = None
    ) -> list[trio.SocketListener]:
        asked.append((port, host, backlog))
        return []

    monkeypatch.setattr(trio, "open_tcp_listeners", open_tcp_listeners)
    assert await open_tls_over_tcp_listeners(443, server_context) == []
    assert await open_tls_over_tcp_listeners(1, server_context, host="::", backlog=3) == []
    assert asked == [(443, None, None), (1, "::", 3)]


################################################################
# Connecting
################################################################


async def test_client_and_server(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context) as listener:
        await assert_echoes(listener, client_context)


async def test_connecting_leaves_the_handshake_for_later(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with listening(server_context) as listener:
        client = await open_tls_over_tcp_stream(*address_of(listener), ssl_context=client_context)
        assert isinstance(client, TLSStream)
        assert isinstance(client.transport_stream, trio.SocketStream)
        assert client.context is client_context
        assert client.server_hostname == "127.0.0.1"
        assert client.connection.handshake is None
        await trio.aclose_forcefully(client)


async def test_connecting_trusts_the_systems_authorities_by_default(
    server_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(echo, server_context) as listener:
        stream = await open_tls_over_tcp_stream(*address_of(listener))
        with pytest.raises(CertificateError):
            await stream.do_handshake()
        await stream.aclose()
        assert "it does not trust" in (await wait_for_log(caplog)).getMessage()


async def test_connecting_checks_the_name(
    ca: trustme.CA, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    ca.issue_cert("other.example").configure_cert(server_context)
    async with serving(echo, server_context) as listener:
        stream = await open_tls_over_tcp_stream(*address_of(listener), ssl_context=client_context)
        with pytest.raises(CertificateError, match=r"for other\.example, not 127\.0\.0\.1"):
            await stream.do_handshake()
        await stream.aclose()


@pytest.mark.parametrize("https_compatible", [False, True])
async def test_connecting_passes_https_compatible_on(
    https_compatible: bool, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with listening(server_context) as listener:
        client = await open_tls_over_tcp_stream(
            *address_of(listener), ssl_context=client_context, https_compatible=https_compatible
        )
        server = await listener.accept()
        await both_handshakes(client, server)
        await server.transport_stream.send_eof()
        if https_compatible:
            assert await client.receive_some() == b""
        else:
            with pytest.raises(TruncationError):
                await client.receive_some()
        await trio.aclose_forcefully(server)
        await client.aclose()


@pytest.fixture
def tcp_calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[object, ...]]:
    """With what trio.open_tcp_stream() was called. It can't connect anywhere."""
    calls: list[tuple[object, ...]] = []

    async def open_tcp_stream(
        host: str, port: int, *, happy_eyeballs_delay: float | None = 0.25
    ) -> None:
        calls.append((host, port, happy_eyeballs_delay))
        raise OSError("nobody is connected here")

    monkeypatch.setattr(trio, "open_tcp_stream", open_tcp_stream)
    return calls


async def test_options_for_connecting_reach_trio(
    client_context: ssl.SSLContext, tcp_calls: list[tuple[object, ...]]
) -> None:
    connect = partial(open_tls_over_tcp_stream, "a.example", 443, ssl_context=client_context)
    with pytest.raises(OSError, match="nobody"):
        await connect()
    with pytest.raises(OSError, match="nobody"):
        await connect(happy_eyeballs_delay=1.5)
    assert tcp_calls == [("a.example", 443, 0.25), ("a.example", 443, 1.5)]


async def test_options_of_a_connector_reach_trio(
    client_context: ssl.SSLContext, tcp_calls: list[tuple[object, ...]]
) -> None:
    connector = TLSConnector(ssl_context=client_context, happy_eyeballs_delay=1.5)
    with pytest.raises(OSError, match="nobody"):
        await connector.connect("a.example", 443)
    supply = reconnect(
        "a.example",
        443,
        ssl_context=client_context,
        happy_eyeballs_delay=2.5,
        should_retry=lambda _: False,
    )
    with pytest.raises(OSError, match="nobody"):
        await anext(supply)
    assert tcp_calls == [("a.example", 443, 1.5), ("a.example", 443, 2.5)]


@pytest.mark.parametrize(
    ("host", "options", "error"),
    [
        ("", {}, ValueError),
        (".", {}, ValueError),
        (1, {}, TypeError),
        ("a.example", {"ssl_context": "context"}, TypeError),
        ("a.example", {"session": b"session"}, TypeError),
    ],
    ids=repr,
)
async def test_arguments_are_checked_before_connecting(
    host: Any,
    options: dict[str, Any],
    error: type[Exception],
    tcp_calls: list[tuple[object, ...]],
) -> None:
    options = {"ssl_context": ssl.create_default_context(), **options}
    with pytest.raises(error):
        await open_tls_over_tcp_stream(host, 443, **options)
    assert not tcp_calls


async def test_connecting_resumes_a_session(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context) as listener:
        connect = partial(
            open_tls_over_tcp_stream, *address_of(listener), ssl_context=client_context
        )
        async with await connect() as stream:
            await stream.send_all(b"x")
            await stream.receive_some()
            assert stream.session_reused is False
            session = stream.session
        async with await connect(session=session) as stream:
            await stream.do_handshake()
            assert stream.session_reused is True


################################################################
# Serving
################################################################


async def test_handler_gets_an_established_stream(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    seen: list[TCPTLSStream] = []

    async def handler(stream: TCPTLSStream) -> None:
        seen.append(stream)
        await stream.send_all(b"welcome")

    async with serving(handler, server_context) as listener:
        stream = await open_tls_over_tcp_stream(*address_of(listener), ssl_context=client_context)
        async with stream:
            assert await stream.receive_some() == b"welcome"
            assert await stream.receive_some() == b"", "the server closes after the handler"
        await wait_all_tasks_blocked()
        with pytest.raises(trio.ClosedResourceError):
            await seen[0].send_all(b"more")


async def test_serving_many_at_once(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context) as listener, trio.open_nursery() as nursery:
        for _ in range(20):
            nursery.start_soon(assert_echoes, listener, client_context)


async def test_serving_is_https_compatible_if_asked(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    ended = trio.Event()

    async def handler(stream: TCPTLSStream) -> None:
        assert await stream.receive_some() == b""
        ended.set()

    async with serving(handler, server_context, https_compatible=True) as listener:
        stream = await open_tls_over_tcp_stream(*address_of(listener), ssl_context=client_context)
        await stream.do_handshake()
        await stream.transport_stream.send_eof()
        with trio.fail_after(5):
            await ended.wait()
        await trio.aclose_forcefully(stream)


async def test_handlers_run_in_the_nursery_that_is_given(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with trio.open_nursery() as handlers:
        async with serving(echo, server_context, handler_nursery=handlers) as listener:
            stream = await open_tls_over_tcp_stream(
                *address_of(listener), ssl_context=client_context
            )
            await stream.do_handshake()
        with trio.fail_after(5):  # nothing is accepted any more, but this goes on
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            await stream.aclose()


async def test_cancelled_server_stops_listening(server_context: ssl.SSLContext) -> None:
    async with serving(echo, server_context) as listener:
        transport_listener = listener.transport_listener
    assert isinstance(transport_listener, trio.SocketListener)
    assert transport_listener.socket.fileno() == -1


async def test_error_of_the_handler_propagates(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def handler(stream: TCPTLSStream) -> None:
        await stream.receive_some()
        raise KeyError("from the handler")

    async def run() -> None:
        async with serving(handler, server_context) as listener:
            stream = await open_tls_over_tcp_stream(
                *address_of(listener), ssl_context=client_context
            )
            async with stream:
                await stream.send_all(b"x")
                await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(KeyError, match="from the handler")


################################################################
# Bad clients: each costs its own connection
################################################################


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", "an HTTP request", id="HTTP"),
        pytest.param(
            b"CONNECT a:443 HTTP/1.1\r\n\r\n", "an HTTP request to a proxy", id="HTTP proxy"
        ),
        pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", "TLS", id="SSH"),
        pytest.param(bytes(range(256)), "TLS", id="garbage"),
        pytest.param(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "handshake", id="malformed"),
        pytest.param(b"\x16\x03\x01", "closed the connection", id="half a record"),
        pytest.param(b"", "closed the connection", id="port scan"),
    ],
)
async def test_naive_handler_survives_what_is_not_tls(
    data: bytes,
    reason: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "trio_tlsbio.server")
    async with serving(echo, server_context) as listener:
        bad = await tcp_to(listener)
        _, port = bad.socket.getsockname()
        await bad.send_all(data)
        await bad.send_eof()
        message = (await wait_for_log(caplog)).getMessage()
        assert f"127.0.0.1:{port}" in message
        assert reason in message
        await bad.aclose()
        await assert_echoes(listener, client_context)


async def test_naive_handler_survives_a_reset_in_the_handshake(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, "trio_tlsbio.server")
    async with serving(echo, server_context) as listener:
        bad = await tcp_to(listener)
        reset_when_closed(bad)
        await wait_all_tasks_blocked()
        await bad.aclose()
        assert (await wait_for_log(caplog)).getMessage()
        await assert_echoes(listener, client_context)


async def test_naive_handler_survives_a_refused_certificate(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(echo, server_context) as listener:
        bad = await open_tls_over_tcp_stream(
            *address_of(listener), ssl_context=ssl.create_default_context()
        )
        with pytest.raises(CertificateError):
            await bad.do_handshake()
        _, port = bad.transport_stream.socket.getsockname()
        await bad.aclose()
        message = (await wait_for_log(caplog)).getMessage()
        assert f"127.0.0.1:{port}" in message
        assert "unknown_ca" in message
        await assert_echoes(listener, client_context)


@pytest.mark.parametrize("how", ["truncated", "reset"])
async def test_naive_handler_survives_a_client_that_vanishes(
    how: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with serving(echo, server_context) as listener:
        stream = await open_tls_over_tcp_stream(*address_of(listener), ssl_context=client_context)
        await stream.send_all(b"x")
        await stream.receive_some()
        if how == "reset":
            reset_when_closed(stream.transport_stream)
        await stream.transport_stream.aclose()
        await wait_all_tasks_blocked(0.01)
        await assert_echoes(listener, client_context)


async def test_connection_ends_when_the_handshake_takes_too_long(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mock_clock.rate = 1  # so that what should not take long is bounded, too
    async with serving(echo, server_context, handshake_timeout=1000) as listener:
        bad = await tcp_to(listener)
        await bad.send_all(b"\x16")  # and no more
        await wait_all_tasks_blocked()
        await assert_echoes(listener, client_context)  # nobody waits for the slow one
        assert not caplog.records

        mock_clock.jump(1000)
        message = (await wait_for_log(caplog)).getMessage()
        assert "no handshake within 1000 seconds" in message
        assert f"127.0.0.1:{bad.socket.getsockname()[1]}" in message
        # The time is over: closing may not add a handshake's time of its own.
        with trio.fail_after(2):
            assert await bad.receive_some() == b""
        await bad.aclose()
        await assert_echoes(listener, client_context)


async def test_accepted_client_that_has_gone_already(
    server_context: ssl.SSLContext,
) -> None:
    async with listening(server_context) as listener:
        bad = await tcp_to(listener)
        await bad.aclose()
        stream = await listener.accept()
        with pytest.raises(TLSError):
            await stream.do_handshake()
        await stream.aclose()
