"""Connections that wait until the server can take them."""

from __future__ import annotations

import errno
import os
import ssl
import sys
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import (
    HOST,
    LIMIT,
    NAME,
    echo,
    port_of,
    serving,
)
from trio_tlsbio import TLSListener, TLSStream, open_tls_over_tcp_listeners, serve_tls_listeners
from trio_tlsbio.monitoring import ServerMonitor


async def ask(stream: TLSStream[Any]) -> None:
    await stream.send_all(b"anybody home?")
    assert await stream.receive_some() == b"anybody home?"


async def test_a_handshake_that_is_done_makes_room_for_the_next(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, max_handshakes=1, handshake_timeout=2 * LIMIT) as port:
        first, second = [
            TLSStream(await trio.open_tcp_stream(HOST, port), client_context, server_hostname=HOST)
            for _ in range(2)
        ]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, second)
            await wait_all_tasks_blocked(0.01)
            assert second.connection.handshake is None, "it does not wait"
            await ask(first)
        await ask(first)
        for stream in (first, second):
            await stream.aclose()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux shows what is acknowledged")
async def test_one_that_waits_for_the_limit_while_the_server_drains_does_not_hold_it_up(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def greet(stream: TLSStream[Any]) -> None:
        await stream.send_all(b"hello")

    (listener,) = await open_tls_over_tcp_listeners(
        0, server_context, host=HOST, close_timeout=2 * LIMIT
    )
    first, second = [
        TLSStream(
            await trio.open_tcp_stream(HOST, port_of(listener)),
            client_context,
            server_hostname=HOST,
        )
        for _ in range(2)
    ]
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tls_listeners, greet, [listener], max_connections=1)
            nursery.start_soon(serve)
            assert await first.receive_some() == b"hello"
            nursery.start_soon(second.do_handshake)
            await wait_all_tasks_blocked(0.01)
            assert second.connection.handshake is None, "it does not wait"
            await listener.aclose()
            assert await first.receive_some() == b""
            assert await second.receive_some() == b"hello"
            assert await second.receive_some() == b""
            # Neither has closed, and the server ends all the same.
    for stream in (first, second):
        await stream.aclose()


class OutOfDescriptors(trio.abc.Listener[Any]):
    """Accepts each of some streams after it has failed to for a while."""

    def __init__(self, *streams: Any) -> None:
        self.streams = list(streams)
        self.failures = 0

    async def accept(self) -> Any:
        await trio.lowlevel.checkpoint()
        if self.failures < 3:
            self.failures += 1
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        self.failures = 0
        if not self.streams:
            raise trio.ClosedResourceError
        return self.streams.pop(0)

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


async def test_each_time_of_exhausted_descriptors_is_reported(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    autojump_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    pairs = [memory_stream_pair() for _ in range(2)]
    clients = [TLSStream(ours, client_context, server_hostname=NAME) for ours, _ in pairs]
    listener = TLSListener(OutOfDescriptors(*(theirs for _, theirs in pairs)), server_context)
    monitor = ServerMonitor()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve_tls_listeners, echo, [listener], monitor=monitor))
        for client in clients:
            await ask(client)
        for client in clients:
            await client.aclose()
    assert monitor.statistics().accepted == 2
    assert monitor.statistics().accept_errors == 3
    assert len(caplog.records) == 3
