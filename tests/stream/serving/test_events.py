"""Events and statistics of a server."""

from __future__ import annotations

import gc
import ssl
import weakref
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
import trustme
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import (
    HOST,
    NAME,
    client_context_for,
    counts_references,
    echo,
    server_context_for,
)
from tests.stream.serving.servers import OneStream, Server, Stream, serving
from trio_tlsbio import TLSConnector, TLSError, TLSListener, TLSStream, serve_tls_listeners
from trio_tlsbio.monitoring import (
    ConnectionAccepted,
    ConnectionClosed,
    HandshakeCompleted,
    HandshakeFailed,
    ServerEvent,
    ServerMonitor,
    ServerStatistics,
)


@pytest.mark.parametrize("event_type", [ConnectionAccepted, HandshakeCompleted, ConnectionClosed])
async def test_hook_that_raises_leaves_nothing_behind(
    event_type: type[ServerEvent], server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    monitors: list[ServerMonitor] = []

    def hook(event: ServerEvent) -> None:
        if isinstance(event, event_type):
            raise KeyError("from the hook")

    async def run() -> None:
        async with (
            trio.open_nursery() as handlers,
            serving(
                echo, server_context, client_context, handler_nursery=handlers, on_event=hook
            ) as server,
        ):
            monitors.append(server.monitor)
            with suppress(TLSError):
                async with await server.connect() as stream:
                    await server.ask(stream)
            await trio.sleep_forever()

    with trio.fail_after(20), pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(KeyError, match="from the hook")
    (monitor,) = monitors
    statistics = monitor.statistics()
    assert (statistics.accepted, statistics.active, statistics.handshaking) == (1, 0, 0)


async def test_every_event_is_told_and_counted(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    events: list[ServerEvent] = []
    connector = TLSConnector(ssl_context=client_context)
    async with serving(echo, server_context, client_context, on_event=events.append) as server:
        for _ in range(2):
            async with await connector.connect(HOST, server.port) as stream:
                await server.ask(stream)
        bad = await server.tcp()
        await bad.send_all(b"GET / HTTP/1.1\r\n\r\n")
        _, bad_port = bad.socket.getsockname()
        await bad.send_eof()
        await server.until(lambda statistics: bool(statistics.failed))
        await bad.aclose()
        await server.until(lambda statistics: statistics.active == 0)
        statistics = server.statistics
    kinds = [type(event) for event in events]
    good = [ConnectionAccepted, HandshakeCompleted, ConnectionClosed]
    assert kinds == [*good, *good, ConnectionAccepted, HandshakeFailed, ConnectionClosed]
    completed, failed, closed = events[4], events[7], events[8]
    assert isinstance(completed, HandshakeCompleted)
    assert completed.handshake.session_reused
    assert 0 < completed.duration < 10
    assert isinstance(failed, HandshakeFailed)
    assert failed.peer == f"{HOST}:{bad_port}"
    assert isinstance(failed.error, TLSError)
    assert failed.error.reason == "HTTP_REQUEST"
    assert isinstance(closed, ConnectionClosed)
    assert (closed.peer, closed.handshake) == (failed.peer, None)
    assert closed.error is failed.error
    assert statistics == ServerStatistics(
        accepted=3,
        active=0,
        established=2,
        resumed=1,
        failed={"http_request": 1},
        handshake_seconds=statistics.handshake_seconds,
        connection_seconds=statistics.connection_seconds,
    )
    assert 0 < statistics.handshake_seconds < statistics.connection_seconds
    assert statistics.handshaking == statistics.timed_out == 0
    assert "accepted=3" in repr(server.monitor)


async def test_statistics_tell_what_goes_on_now(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context) as server:
        silent, stream = await server.tcp(), await server.connect()
        await server.until(lambda statistics: statistics.accepted == 2)
        await server.until(lambda statistics: statistics.established == 1)
        before = server.statistics
        assert (before.active, before.handshaking, before.established) == (2, 1, 1)
        with pytest.raises(AttributeError):
            before.active = 0  # type: ignore[misc]
        with pytest.raises(TypeError):
            before.failed["x"] = 1  # type: ignore[index]
        server.scope.cancel()
        await server.ended.wait()
        after = server.statistics
        assert (after.active, after.handshaking, after.cancelled) == (0, 0, 1)
        assert after.failed == after.broken == {}
        assert before.active == 2, "a snapshot"
        await trio.aclose_forcefully(silent)
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("how", ["reset", "timeout", "cancelled"])
async def test_handshake_that_fails_in_its_last_flight_is_counted_once(
    how: str, server_cert: trustme.LeafCert, ca: trustme.CA, mock_clock: MockClock
) -> None:
    """TLS 1.2, where the server has the last word: OpenSSL is through before that is sent."""
    mock_clock.rate = 1
    version = ssl.TLSVersion.TLSv1_2
    client_end, server_end = memory_stream_pair()
    sends = 0

    async def stall() -> None:
        nonlocal sends
        sends += 1
        if sends == 2:
            if how == "reset":
                raise trio.BrokenResourceError from ConnectionResetError()
            await trio.sleep_forever()
        await pump()

    pump: Any = server_end.send_stream.send_all_hook
    server_end.send_stream.send_all_hook = stall
    monitor = ServerMonitor()
    listener = TLSListener(
        OneStream(server_end), server_context_for(server_cert, version), handshake_timeout=1000
    )
    client = TLSStream(client_end, client_context_for(ca, version), server_hostname=NAME)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_tls_listeners, echo, [listener], monitor=monitor))
        nursery.start_soon(client.do_handshake)
        while sends < 2:
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        if how == "timeout":
            mock_clock.jump(1000)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    statistics = monitor.statistics()
    assert (statistics.accepted, statistics.established, statistics.active) == (1, 0, 0)
    assert statistics.handshaking == 0
    assert statistics.broken == {}
    reasons = {"reset": {"connection_reset": 1}, "timeout": {"handshake_timeout": 1}}
    assert statistics.failed == reasons.get(how, {})
    assert statistics.cancelled == (how == "cancelled")


async def test_failed_handshake_that_is_cut_off_is_counted_once(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(echo, server_context, client_context) as server:
        bad = await server.tcp()
        await bad.send_all(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
        await server.until(lambda statistics: bool(statistics.failed))
        await wait_all_tasks_blocked(0.01)  # its alert is out; it is awaited that the client ends
        assert server.statistics.active == 1
        server.scope.cancel()
        await server.ended.wait()
        await bad.aclose()
        statistics = server.statistics
        assert (statistics.handshaking, statistics.cancelled, statistics.active) == (0, 0, 0)
        assert sum(statistics.failed.values()) == 1
    assert len(caplog.records) == 1


@counts_references
async def test_failed_connections_leave_no_cycles(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    streams: list[weakref.ref[Stream]] = []

    class Remembering(TLSListener[trio.SocketStream]):
        async def accept(self) -> Stream:
            stream = await super().accept()
            streams.append(weakref.ref(stream))
            return stream

    (tcp_listener,) = await trio.open_tcp_listeners(0, host=HOST)
    listener = Remembering(tcp_listener, server_context)
    monitor = ServerMonitor()
    gc.collect()
    gc.disable()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_tls_listeners, echo, [listener], monitor=monitor))
            server = Server(client_context, monitor, listener, nursery.cancel_scope, trio.Event())
            for number in range(20):
                bad = await server.tcp()
                await bad.send_all(b"GET / HTTP/1.1\r\n\r\n" * (number % 2))
                await bad.aclose()
                good = await server.connect()
                await server.ask(good)
                await good.transport_stream.aclose()  # without a close_notify
                await server.until(lambda statistics: statistics.active == 0)
            await wait_all_tasks_blocked()
            alive = sum(stream() is not None for stream in streams)
            nursery.cancel_scope.cancel()
    finally:
        gc.enable()
    assert len(streams) == 40
    assert alive <= 2  # the last one may still be a variable somewhere
