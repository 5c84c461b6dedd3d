"""WebSockets: trio-websocket over our streams and listeners; the library websockets as a peer.

The peer runs on asyncio, in a thread. Its blocking version reads and writes an ``SSLSocket`` in two
threads at once, which Python 3.11 does not guard: in TLS 1.3, a message that one thread sends while
the other reads a session ticket can be lost.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import websockets.asyncio.client
import websockets.asyncio.server
from trio_websocket import WebSocketRequest, WebSocketServer

from tests.docblocks import example
from tests.helpers import HOST, LIMIT, port_of
from trio_tlsbio import TLSConnector, open_tls_over_tcp_listeners, serve_tls_over_tcp

MESSAGES = ["hello", "", "ünïcode", "x" * 300_000]


@asynccontextmanager
async def our_server(context: ssl.SSLContext) -> AsyncIterator[int]:
    """The server of the docs."""
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            serve = partial(
                serve_tls_over_tcp, example("websocket_server").handle, 0, context, host=HOST
            )
            yield port_of(await nursery.start(serve))
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def server_class_over_our_listener(context: ssl.SSLContext) -> AsyncIterator[int]:
    """trio-websocket's own server class, given our listeners."""

    async def handle(request: WebSocketRequest) -> None:
        async with await request.accept() as connection:
            await example("websocket_server").echo(connection)

    listeners: Any = await open_tls_over_tcp_listeners(0, context, host=HOST)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(WebSocketServer(handle, listeners).run)
            yield port_of(listeners)
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def foreign_server(context: ssl.SSLContext) -> AsyncIterator[int]:
    """An echo server of the library websockets."""

    async def echo(connection: websockets.asyncio.server.ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async def serve(task_status: trio.TaskStatus[Any]) -> None:
        async with websockets.asyncio.server.serve(echo, HOST, 0, ssl=context) as server:
            ((_, port),) = [sock.getsockname() for sock in server.sockets]
            end = asyncio.Event()
            stop = partial(asyncio.get_running_loop().call_soon_threadsafe, end.set)
            trio.from_thread.run_sync(task_status.started, (port, stop))
            await end.wait()

    async def in_thread(task_status: trio.TaskStatus[Any]) -> None:
        await trio.to_thread.run_sync(lambda: asyncio.run(serve(task_status)))

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            port, stop = await nursery.start(in_thread)
            try:
                yield port
            finally:
                stop()


@pytest.mark.parametrize("server", [our_server, server_class_over_our_listener, foreign_server])
async def test_our_client(
    server: Any, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    connector = TLSConnector(ssl_context=client_context)
    async with server(server_context) as port:
        for _ in range(3):
            answers = await example("websocket_client").ask(connector, HOST, port, MESSAGES)
            assert answers == MESSAGES
    assert connector.session_cache.statistics().hits == 2
    assert client_context.session_stats()["hits"] == 2


@pytest.mark.parametrize("server", [our_server, server_class_over_our_listener])
async def test_a_foreign_client(
    server: Any, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def ask(port: int) -> list[str | bytes]:
        answers = []
        uri = f"wss://{HOST}:{port}/"
        async with websockets.asyncio.client.connect(uri, ssl=client_context) as connection:
            for message in MESSAGES:
                await connection.send(message)
                answers.append(await connection.recv())
        return answers

    async with server(server_context) as port:
        answers = await trio.to_thread.run_sync(lambda: asyncio.run(ask(port)))
        assert answers == MESSAGES
