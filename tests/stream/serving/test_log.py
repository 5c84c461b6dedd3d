"""What a server logs, at which level, and about whom."""

from __future__ import annotations

import logging
import ssl

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.hellos import browser_hello
from tests.helpers import HOST, LIMIT, NAME, echo, reset_when_closed
from tests.helpers import serving as serving_port
from tests.stream.serving.servers import LOGGER, OneStream, serving
from trio_tlsbio import (
    TLSListener,
    TLSStream,
    contexts_by_name,
    open_tls_over_tcp_listeners,
    serve_tls_listeners,
)
from trio_tlsbio._core.iana import Alert


async def test_what_strangers_send_writes_no_lines_of_its_own(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    choose = contexts_by_name({NAME: server_context})
    async with serving(echo, choose, client_context) as server, await server.tcp() as stranger:
        await stranger.send_all(browser_hello(b"a\nconnection from\x1b[31m").record)
        assert (await stranger.receive_some())[-1:] == bytes([Alert.UNRECOGNIZED_NAME])
        await server.until(lambda statistics: statistics.active == 0)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.isprintable()
    assert r"a\nconnection from\x1b[31m" in message


async def test_a_client_that_has_reset_its_connection_is_named(
    server_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """A socket forgets its peer's address then, and no monitor has asked for it before."""
    async with serving_port(echo, server_context) as port:
        client = await trio.open_tcp_stream(HOST, port)
        address = client.socket.getsockname()
        await client.send_all(b"\x16\x03\x01")
        await wait_all_tasks_blocked()  # in the handshake
        reset_when_closed(client)
        await client.aclose()
        with trio.fail_after(LIMIT):
            while not caplog.records:
                await trio.lowlevel.checkpoint()
    assert caplog.records[0].getMessage().startswith(f"connection from {HOST}:{address[1]}: ")


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_health_check_is_logged_for_debugging_alone(
    how: str,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A load balancer connects every few seconds, and sends nothing."""
    caplog.set_level(logging.DEBUG, LOGGER)
    async with serving(echo, server_context, client_context) as server:
        check = await server.tcp()
        await server.until(lambda statistics: statistics.accepted == 1)
        if how == "reset":
            reset_when_closed(check)
        await check.aclose()
        await server.until(lambda statistics: statistics.active == 0)
        error_type = "truncated" if how == "end" else "connection_reset"
        assert server.statistics.failed == {error_type: 1}, "it is counted all the same"
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage().startswith("connection from 127.0.0.1:")
    assert vars(record)["error_type"] == error_type


@pytest.mark.parametrize(
    ("data", "error_type"),
    [
        (b"\x16", "truncated"),
        (b"\x16\x03\x01\x02", "truncated"),
        (b"GET / HTTP/1.1\r\n\r\n", "http_request"),
    ],
)
async def test_a_client_that_sends_anything_is_logged_as_a_warning(
    data: bytes,
    error_type: str,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(echo, server_context, client_context) as server:
        bad = await server.tcp()
        await bad.send_all(data)
        await bad.send_eof()
        await server.until(lambda statistics: statistics.failed == {error_type: 1})
        await bad.aclose()
        await server.until(lambda statistics: statistics.active == 0)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert vars(record)["error_type"] == error_type


async def test_a_connection_that_breaks_later_is_logged_as_a_warning(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(echo, server_context, client_context) as server:
        stream = await server.connect()
        await server.ask(stream)
        await stream.transport_stream.aclose()
        await server.until(lambda statistics: statistics.active == 0)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert vars(record)["error_type"] == "truncated"


async def test_a_client_that_keeps_silent_is_logged_as_a_warning(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mock_clock.rate = 1
    async with serving(echo, server_context, client_context, handshake_timeout=1000) as server:
        silent = await server.tcp()
        await server.until(lambda statistics: statistics.handshaking == 1)
        mock_clock.jump(1000)
        await server.until(lambda statistics: statistics.active == 0)
        await silent.aclose()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert vars(record)["error_type"] == "handshake_timeout"


async def test_ipv6_peers_are_named_in_brackets(
    server_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    try:
        listeners = await open_tls_over_tcp_listeners(0, server_context, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_tls_listeners, echo, listeners)
        transport_listener = listeners[0].transport_listener
        assert isinstance(transport_listener, trio.SocketListener)
        port = transport_listener.socket.getsockname()[1]
        await (await trio.open_tcp_stream("::1", port)).aclose()
        with trio.fail_after(10):
            while not caplog.records:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert caplog.records[0].getMessage().startswith("connection from [::1]:")


async def test_listeners_of_other_transports_are_served(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    client_end, server_end = memory_stream_pair()
    listener = TLSListener(OneStream(server_end), server_context)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_tls_listeners, echo, [listener])
        client = TLSStream(client_end, client_context, server_hostname=NAME)
        await client.send_all(b"x")
        assert await client.receive_some() == b"x"
        await client_end.aclose()
        with trio.fail_after(10):
            while not caplog.records:
                await trio.lowlevel.checkpoint()
        await listener.aclose()  # and serving returns
    assert caplog.records[0].getMessage().startswith("connection from a peer: ")
