"""Limits: of connections, of handshakes, and of descriptors."""

from __future__ import annotations

import errno
import gc
import os
import resource
import ssl
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import HOST, echo
from tests.stream.serving.servers import serving
from trio_tlsbio import (
    TLSListener,
    TLSStream,
    open_tls_over_tcp_listeners,
    serve_tls_listeners,
    serve_tls_over_tcp,
)
from trio_tlsbio.monitoring import AcceptFailed, ServerEvent


async def test_options_that_make_no_sense(server_context: ssl.SSLContext) -> None:
    _, transport = memory_stream_pair()
    with pytest.raises(ValueError, match="handshake_timeout must be positive"):
        TLSStream(transport, server_context, server_side=True, handshake_timeout=0)
    for name in ("handshake_timeout", "close_timeout"):
        with pytest.raises(ValueError, match=f"{name} must"):
            await open_tls_over_tcp_listeners(0, server_context, **{name: -1})  # type: ignore[arg-type]
    for name in ("max_connections", "max_handshakes"):
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            await serve_tls_listeners(echo, [], **{name: 0})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"{name} must be positive"):  # before listening
            await serve_tls_over_tcp(echo, 0, server_context, **{name: 0})  # type: ignore[arg-type]


################################################################
# Connections and handshakes
################################################################


async def test_connections_at_once_are_limited(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context, max_connections=2) as server:
        first, second = await server.connect(), await server.connect()
        third = await server.tcp()
        await third.send_all(b"GET / HTTP/1.1\r\n\r\n")
        await wait_all_tasks_blocked(0.01)
        await server.ask(first)
        await server.ask(second)
        assert server.statistics.accepted == 2, "the third one waits"
        await second.aclose()
        await server.until(lambda statistics: statistics.failed == {"http_request": 1})
        await third.aclose()
        await first.aclose()


async def test_handshakes_at_once_are_limited(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    async with serving(
        echo, server_context, client_context, max_handshakes=1, handshake_timeout=1000
    ) as server:
        open_already = await server.connect()
        silent = await server.tcp()
        await server.until(lambda statistics: statistics.handshaking == 1)
        async with trio.open_nursery() as nursery:

            async def late() -> None:
                async with await server.connect() as stream:
                    await server.ask(stream)

            nursery.start_soon(late)
            await wait_all_tasks_blocked(0.01)
            await server.ask(open_already)
            assert server.statistics.accepted == 2, "the late one waits"
            mock_clock.jump(1000)
        assert server.statistics.timed_out == 1
        assert server.statistics.established == 2
        await silent.aclose()
        await open_already.aclose()


async def test_one_that_waits_for_the_limit_is_closed_with_the_server(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context, max_connections=1) as server:
        first = await server.connect()
        waiting = await server.tcp()
        await wait_all_tasks_blocked(0.01)
    assert await waiting.receive_some() == b""
    await trio.aclose_forcefully(waiting)
    await trio.aclose_forcefully(first)


################################################################
# No descriptors left
################################################################


@contextmanager
def few_descriptors(count: int) -> Any:
    """Leave only so many descriptors to this process."""
    gc.collect()  # what garbage holds would be given back later, and be one more
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    fill = []
    while (number := os.open(os.devnull, os.O_RDONLY)) < highest:
        fill.append(number)
    fill.append(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(highest, number) + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in fill:
            os.close(number)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc/self/fd is not there")
async def test_exhausted_descriptors_are_waited_out(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mock_clock.rate = 1
    events: list[ServerEvent] = []
    async with serving(echo, server_context, client_context, on_event=events.append) as server:
        address = (HOST, server.port)
        sockets = [trio.socket.socket() for _ in range(20)]
        with few_descriptors(8), trio.fail_after(30):
            for sock in sockets:
                await sock.connect(address)
            streams = [
                TLSStream(trio.SocketStream(sock), client_context, server_hostname=HOST)
                for sock in sockets
            ]
            await server.until(lambda statistics: statistics.accept_errors > 0)
            for _ in range(5):  # it tries again and again, and says so once
                mock_clock.jump(0.2)
                await wait_all_tasks_blocked(0.001)
            assert server.statistics.accept_errors == 1
            served = streams[:8]
            for stream in served:
                await server.ask(stream)
            assert server.statistics.accepted == 8
            # Each one that goes makes room for another one.
            for gone, coming in zip(streams, streams[8:], strict=False):
                await gone.aclose()
                await server.ask(coming)
        for stream in streams[12:]:
            await server.ask(stream)
            await stream.aclose()
        async with await server.connect() as stream:
            await server.ask(stream)
        assert server.statistics.failed == server.statistics.broken == {}
    errors = [event.error for event in events if isinstance(event, AcceptFailed)]
    assert {error.errno for error in errors} == {errno.EMFILE}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(errors), "a line for each time, not for each try"
    assert all("Too many open files" in line for line in lines)


async def test_other_errors_of_accepting_propagate(server_context: ssl.SSLContext) -> None:
    class Broken(trio.abc.Listener[Any]):
        async def accept(self) -> NoReturn:
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EINVAL, "no listener at all")

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    with pytest.raises(ExceptionGroup) as raised:
        await serve_tls_listeners(echo, [TLSListener(Broken(), server_context)])
    assert raised.group_contains(OSError, match="no listener")
