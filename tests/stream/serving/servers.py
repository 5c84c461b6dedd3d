"""Servers on loopback, and clients of odd habits."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import attrs
import trio

from tests.helpers import HOST
from trio_tlsbio import TLSConnection, TLSListener, TLSStream, serve_tls_over_tcp
from trio_tlsbio.monitoring import ServerEvent, ServerMonitor, ServerStatistics

LOGGER = "trio_tlsbio.server"

Stream: TypeAlias = TLSStream[trio.SocketStream]


@attrs.define(eq=False)
class Server:
    """A server that runs in a nursery, and its clients' way to it."""

    client_context: ssl.SSLContext
    monitor: ServerMonitor
    listener: TLSListener[trio.SocketStream]
    scope: trio.CancelScope
    ended: trio.Event

    @property
    def port(self) -> int:
        transport_listener = self.listener.transport_listener
        assert isinstance(transport_listener, trio.SocketListener)
        port: int = transport_listener.socket.getsockname()[1]
        return port

    @property
    def statistics(self) -> ServerStatistics:
        return self.monitor.statistics()

    async def tcp(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(HOST, self.port)

    async def connect(self) -> Stream:
        """Connect, and complete the handshake."""
        stream = TLSStream(await self.tcp(), self.client_context, server_hostname=HOST)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def ask(self, stream: Stream, question: bytes = b"anybody home?") -> None:
        with trio.fail_after(10):
            await stream.send_all(question)
            answer = b""
            while len(answer) < len(question):
                answer += await stream.receive_some()
            assert answer == question

    async def until(self, condition: Callable[[ServerStatistics], bool]) -> None:
        with trio.fail_after(60):
            while not condition(self.statistics):
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def serving(
    handler: Callable[[Stream], Awaitable[object]],
    server_context: Any,
    client_context: ssl.SSLContext,
    *,
    on_event: Callable[[ServerEvent], object] | None = None,
    **options: Any,
) -> AsyncIterator[Server]:
    monitor = ServerMonitor(on_event)
    scope = trio.CancelScope()
    ended = trio.Event()

    async def serve(task_status: trio.TaskStatus[list[TLSListener[trio.SocketStream]]]) -> None:
        with scope:
            await serve_tls_over_tcp(
                handler,
                0,
                server_context,
                host=HOST,
                monitor=monitor,
                task_status=task_status,
                **options,
            )
        ended.set()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(serve)
        yield Server(client_context, monitor, listener, scope, ended)
        nursery.cancel_scope.cancel()


class OneStream(trio.abc.Listener[Any]):
    """Accepts a single stream."""

    def __init__(self, stream: Any) -> None:
        self.streams = [stream]
        self.closed = trio.Event()

    async def accept(self) -> Any:
        await trio.lowlevel.checkpoint()
        if self.streams:
            return self.streams.pop()
        await self.closed.wait()
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        self.closed.set()
        await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class LateClient:
    """A client that takes its time in the middle of its first message."""

    _context: ssl.SSLContext
    tcp: trio.SocketStream
    _rest: bytes = b""
    _connection: TLSConnection = attrs.field(init=False)

    @_connection.default
    def _default_connection(self) -> TLSConnection:
        return TLSConnection(self._context, server_hostname=HOST)

    async def begin(self) -> None:
        hello = self._connection.data_to_send()
        await self.tcp.send_all(hello[:1])
        self._rest = hello[1:]

    async def ask(self) -> None:
        """Go on, get an answer, and end."""
        connection = self._connection
        await self.tcp.send_all(self._rest)
        connection.send(b"anybody home?")
        with trio.fail_after(10):
            while (answer := connection.receive()) is None:
                await self.tcp.send_all(connection.data_to_send())
                connection.feed(await self.tcp.receive_some())
        assert answer == b"anybody home?"
        connection.send_close_notify()
        await self.tcp.send_all(connection.data_to_send())
        await self.tcp.aclose()
