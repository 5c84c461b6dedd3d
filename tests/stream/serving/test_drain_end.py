"""Drain.end(): one call that ends servers, and what the drain does to connections of some age."""

from __future__ import annotations

import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import HOST, NAME, echo
from tests.stream.serving.servers import LateClient, Stream, serving
from trio_tlsbio import (
    Drain,
    TLSListener,
    TLSStream,
    TruncationError,
    open_tls_over_tcp_listeners,
    serve_tls_listeners,
    serve_tls_over_tcp,
)
from trio_tlsbio.monitoring import ServerMonitor

Handler = Callable[[TLSStream[Any]], Awaitable[object]]


@attrs.define(eq=False)
class Streams(trio.abc.Listener[Any]):
    """Accepts what is put into it."""

    channels: Any = attrs.field(factory=partial(trio.open_memory_channel[Any], math.inf))

    async def accept(self) -> Any:
        try:
            return await self.channels[1].receive()
        except trio.EndOfChannel:
            raise trio.ClosedResourceError from None

    async def aclose(self) -> None:
        self.channels[0].close()
        await trio.lowlevel.checkpoint()


@attrs.define(eq=False)
class Server:
    """A server whose sockets are pairs, so that nothing is on its way when a clock jumps."""

    listener: Streams
    client_context: ssl.SSLContext
    monitor: ServerMonitor
    ended: trio.Event

    async def connect(self) -> TLSStream[Any]:
        ours, theirs = trio.socket.socketpair()
        self.listener.channels[0].send_nowait(trio.SocketStream(theirs))
        stream = TLSStream(trio.SocketStream(ours), self.client_context, server_hostname=NAME)
        await stream.do_handshake()
        return stream


@asynccontextmanager
async def on_pairs(
    handler: Handler,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    **options: Any,
) -> AsyncIterator[Server]:
    server = Server(Streams(), client_context, ServerMonitor(), trio.Event())
    tls_listener = TLSListener(server.listener, server_context, handshake_timeout=1000)

    async def serve() -> None:
        await serve_tls_listeners(handler, [tls_listener], monitor=server.monitor, **options)
        server.ended.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield server
        nursery.cancel_scope.cancel()


def answering(drain: Drain) -> Handler:
    """Answer each request; a client that keeps silent between two is idle."""

    async def handler(stream: TLSStream[Any]) -> None:
        while data := await drain.receive_some(stream):
            await stream.send_all(data)

    return handler


async def ask(stream: TLSStream[Any]) -> None:
    await stream.send_all(b"anybody home?")
    assert await stream.receive_some() == b"anybody home?"


################################################################
# The end of a server
################################################################


async def test_idle_handlers_end_and_the_others_have_some_time(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    drain = Drain()

    async def handler(stream: TLSStream[Any]) -> None:
        request = await drain.receive_some(stream)
        if request == b"slow":
            await trio.sleep(20)
            await stream.send_all(b"done")
            assert await drain.receive_some(stream) == b""

    async with on_pairs(handler, server_context, client_context, drain=drain) as server:
        idle, busy = await server.connect(), await server.connect()
        await busy.send_all(b"slow")
        await wait_all_tasks_blocked()
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain.end, 30)
            assert await idle.receive_some() == b""
            assert trio.current_time() == begin
            assert await busy.receive_some() == b"done"
            assert await busy.receive_some() == b""
            for stream in (idle, busy):
                await stream.aclose()
        assert round(trio.current_time() - begin) == 20
        assert server.ended.is_set()
        assert await drain.end(30) == 0
        assert server.monitor.statistics().broken == {}


async def test_what_is_left_is_cancelled_and_ends_with_a_close_notify(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    drain = Drain()
    async with on_pairs(echo, server_context, client_context, drain=drain) as server:
        streams = [await server.connect() for _ in range(3)]
        for stream in streams:
            await ask(stream)
        begin = trio.current_time()
        assert await drain.end(30) == 3
        assert trio.current_time() == begin + 30
        assert server.monitor.statistics().active == 0
        for stream in streams:
            assert await stream.receive_some() == b""  # a truncation would raise
            await stream.aclose()
        assert await drain.end(30) == 3, "by any call"
        await server.ended.wait()


async def test_a_send_that_is_cut_ends_without_a_close_notify(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    drain = Drain()

    async def handler(stream: Stream) -> None:
        await stream.send_all(bytes(20_000_000))

    async with serving(handler, server_context, client_context, drain=drain) as server:
        stream = await server.connect()
        assert await stream.receive_some()
        await wait_all_tasks_blocked(0.01)
        assert await drain.end(0) == 1
        await server.ended.wait()
        with pytest.raises(TruncationError):
            [part async for part in stream]
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("where", ["its own nursery", "another nursery"])
async def test_over_tcp(
    where: str, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    drain = Drain()
    async with (
        trio.open_nursery() as handlers,
        serving(
            answering(drain),
            server_context,
            client_context,
            drain=drain,
            handshake_timeout=1000,
            handler_nursery=handlers if where == "another nursery" else None,
        ) as server,
    ):
        idle = await server.connect()
        await server.ask(idle)
        silent = await server.tcp()
        late = LateClient(client_context, await server.tcp())
        await late.begin()
        await server.until(lambda statistics: statistics.accepted == 3)
        await wait_all_tasks_blocked(0.01)
        port = server.port
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain.end, 1000)
            with trio.fail_after(10):
                assert await idle.receive_some() == b""
                # Handshakes of which no byte has come end; one that has begun is completed.
                assert await silent.receive_some() == b""
                with pytest.raises(OSError, match="connect"):
                    await trio.open_tcp_stream(HOST, port)
                assert not server.ended.is_set()
                connection = late._connection
                await late.tcp.send_all(late._rest)
                while connection.receive() is None:
                    await late.tcp.send_all(connection.data_to_send())
                    connection.feed(await late.tcp.receive_some())
        with trio.fail_after(10):
            await server.ended.wait()
        assert server.statistics.failed == {"truncated": 1}
        assert server.statistics.established == 2
        for stream in (idle, silent, late.tcp):
            await trio.aclose_forcefully(stream)


async def test_connections_that_wait_for_a_place_are_cut_off_too(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    drain = Drain()
    async with serving(
        echo, server_context, client_context, drain=drain, max_connections=1
    ) as server:
        stream = await server.connect()
        waiting = await server.tcp()
        await wait_all_tasks_blocked(0.01)
        with trio.fail_after(10):
            assert await drain.end(0.01) == 1
            await server.ended.wait()
            assert await stream.receive_some() == b""
            with suppress(trio.BrokenResourceError):
                assert await waiting.receive_some() == b""
        assert server.statistics.active == 0
        await stream.aclose()
        await waiting.aclose()


async def test_handlers_in_another_nursery_outlive_a_server_that_is_cancelled(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The drain still knows them, and can end them."""
    drain = Drain()
    async with (
        trio.open_nursery() as handlers,
        serving(
            echo, server_context, client_context, drain=drain, handler_nursery=handlers
        ) as server,
    ):
        stream = await server.connect()
        await server.ask(stream)
        server.scope.cancel()
        await server.ended.wait()
        await server.ask(stream)
        with trio.fail_after(10):
            assert await drain.end(0) == 1
            assert await stream.receive_some() == b""
        await stream.aclose()


async def test_several_servers(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    drain = Drain()
    serve = partial(on_pairs, server_context=server_context, client_context=client_context)
    async with (
        serve(answering(drain), drain=drain) as first,
        serve(echo, drain=drain) as second,
        serve(echo) as other,
    ):
        streams = [await server.connect() for server in (first, second, other)]
        for stream in streams:
            await ask(stream)
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(drain.end, 10)
            assert await streams[0].receive_some() == b""
            assert trio.current_time() == begin
            await streams[0].aclose()
            assert await streams[1].receive_some() == b""
            assert trio.current_time() == begin + 10
            await streams[1].aclose()
        await first.ended.wait()
        await second.ended.wait()
        await ask(streams[2])
        await trio.aclose_forcefully(streams[2])


async def test_several_listeners(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    listeners = [
        *await open_tls_over_tcp_listeners(0, server_context, host=HOST),
        *await open_tls_over_tcp_listeners(0, server_context, host=HOST),
    ]
    drain = Drain()
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(partial(serve_tls_listeners, echo, listeners, drain=drain))
            await wait_all_tasks_blocked()
            assert await drain.end(math.inf) == 0


IN_BOTH_NURSERIES = pytest.mark.parametrize(
    "has_nursery", [False, True], ids=["its own nursery", "another nursery"]
)


@IN_BOTH_NURSERIES
async def test_a_listener_that_does_not_wake_who_accepts_is_cancelled(
    autojump_clock: MockClock, has_nursery: bool
) -> None:
    class Deaf(trio.abc.Listener[Any]):
        async def accept(self) -> Any:
            await trio.sleep_forever()

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    drain = Drain()
    listeners: list[Any] = [Deaf()]
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            handlers = nursery if has_nursery else None
            serve = partial(serve_tls_listeners, drain=drain, handler_nursery=handlers)
            nursery.start_soon(serve, echo, listeners)
            await wait_all_tasks_blocked()
            assert await drain.end(10) == 0
    assert round(trio.current_time()) == 10


@IN_BOTH_NURSERIES
async def test_a_connection_that_is_accepted_while_all_are_cut_off_is_too(
    server_context: ssl.SSLContext, has_nursery: bool
) -> None:
    go_on = trio.Event()
    ours, theirs = trio.socket.socketpair()

    @attrs.define(eq=False)
    class Late(trio.abc.Listener[Any]):
        streams: list[Any]

        async def accept(self) -> Any:
            with trio.CancelScope(shield=True):
                await go_on.wait()
            if not self.streams:
                raise trio.ClosedResourceError
            return self.streams.pop()

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    drain = Drain()
    listener = TLSListener(Late([trio.SocketStream(theirs)]), server_context)
    client = trio.SocketStream(ours)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            handlers = nursery if has_nursery else None
            serve = partial(serve_tls_listeners, drain=drain, handler_nursery=handlers)
            nursery.start_soon(serve, echo, [listener])
            await client.send_all(b"\x16")  # so that it is no silent client
            await wait_all_tasks_blocked()
            nursery.start_soon(drain.end, 0)
            await wait_all_tasks_blocked()
            go_on.set()
    await client.aclose()


################################################################
# Called at odd times
################################################################


async def test_without_a_server_there_is_nothing_to_wait_for(autojump_clock: MockClock) -> None:
    drain = Drain()
    begin = trio.current_time()
    assert await drain.end(100) == 0
    assert trio.current_time() == begin
    assert drain.has_begun
    with trio.CancelScope() as scope:
        scope.cancel()
        await drain.end(100)
    assert scope.cancelled_caught, "it is a checkpoint"


@pytest.mark.parametrize("timeout", [-1, math.nan])
async def test_the_time_can_not_be_negative(timeout: float) -> None:
    drain = Drain()
    with pytest.raises(ValueError, match="timeout must be 0 or more"):
        await drain.end(timeout)
    assert not drain.has_begun


async def test_a_server_that_begins_afterwards_ends_at_once(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    drain = Drain()
    await drain.end(0)
    with trio.fail_after(10):
        async with serving(echo, server_context, client_context, drain=drain) as server:
            await server.ended.wait()
            with pytest.raises(OSError, match=r"closed|descriptor"):
                _ = server.port


async def test_a_server_that_is_about_to_begin(server_context: ssl.SSLContext) -> None:
    drain = Drain()
    serve = partial(serve_tls_over_tcp, echo, 0, server_context, host=HOST, drain=drain)
    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            nursery.start_soon(drain.end, 0)


async def test_begin_alone_does_not_end_a_server(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    drain = Drain()
    drain.begin()
    async with on_pairs(echo, server_context, client_context, drain=drain) as server:
        stream = await server.connect()
        await ask(stream)
        assert not server.ended.is_set()
        await trio.aclose_forcefully(stream)


async def test_a_server_that_has_ended_is_forgotten(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    drain = Drain()
    async with on_pairs(echo, server_context, client_context, drain=drain) as server:
        async with await server.connect() as stream:
            await ask(stream)
        assert drain._servers
        await server.listener.aclose()
        await server.ended.wait()
        assert not drain._servers
        assert await drain.end(10) == 0


async def test_called_twice_the_earliest_limit_counts(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    drain = Drain()
    results: list[tuple[float, int]] = []
    async with on_pairs(echo, server_context, client_context, drain=drain) as server:
        stream = await server.connect()
        await ask(stream)
        begin = trio.current_time()

        async def end(timeout: float) -> None:
            results.append((await drain.end(timeout), round(trio.current_time() - begin)))

        async with trio.open_nursery() as nursery:
            for timeout in (100, 10, math.inf):
                nursery.start_soon(end, timeout)
        assert results == [(1, 10)] * 3
        await stream.aclose()


async def test_cancelled_it_leaves_the_servers_ending(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    drain = Drain()
    async with on_pairs(echo, server_context, client_context, drain=drain) as server:
        stream = await server.connect()
        await ask(stream)
        with trio.move_on_after(5) as scope:
            await drain.end(10)
        assert scope.cancelled_caught
        await trio.sleep(100)
        await ask(stream)
        assert not server.ended.is_set()
        begin = trio.current_time()
        assert await drain.end(10) == 1
        assert trio.current_time() == begin + 10
        assert await stream.receive_some() == b""
        await stream.aclose()


async def test_cancelled_before_it_waits_it_has_begun_all_the_same(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    drain = Drain()
    async with serving(answering(drain), server_context, client_context, drain=drain) as server:
        stream = await server.connect()
        await server.ask(stream)
        with trio.CancelScope() as scope:
            scope.cancel()
            await drain.end(10)
        with trio.fail_after(10):
            assert await stream.receive_some() == b""
            await stream.aclose()
            await server.ended.wait()


async def test_a_handler_that_shields_itself_is_waited_for(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    drain = Drain()

    async def handler(stream: TLSStream[Any]) -> None:
        with trio.CancelScope(shield=True):
            await trio.sleep(50)

    async with on_pairs(handler, server_context, client_context, drain=drain) as server:
        stream = await server.connect()
        await wait_all_tasks_blocked()
        begin = trio.current_time()
        assert await drain.end(10) == 1
        assert trio.current_time() > begin + 10
        await server.ended.wait()
        await trio.aclose_forcefully(stream)


async def test_it_has_to_be_a_drain(server_context: ssl.SSLContext) -> None:
    bad: Any = Drain
    with pytest.raises(TypeError, match="drain must be a Drain or None, not the class Drain"):
        await serve_tls_over_tcp(echo, 0, server_context, host=HOST, drain=bad)
    with pytest.raises(TypeError, match="drain must be a Drain or None, not the class Drain"):
        await serve_tls_listeners(echo, [], drain=bad)


################################################################
# The age of connections
################################################################


async def test_handlers_of_old_connections_end_where_they_are_idle(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    drain = Drain()
    async with on_pairs(
        answering(drain), server_context, client_context, max_connection_age=1000
    ) as server:
        ages = []
        for _ in range(20):
            stream = await server.connect()
            begin = trio.current_time()
            while trio.current_time() < begin + 850:
                await ask(stream)
                await trio.sleep(17)
            assert await stream.receive_some() == b""
            ages.append(trio.current_time() - begin)
            await stream.aclose()
        assert min(ages) >= 900
        assert max(ages) <= 1100
        assert len({round(age) for age in ages}) > 5, "not all at once"
        assert not drain.has_begun
        assert server.monitor.statistics().broken == {}


async def test_a_request_that_is_being_answered_is_no_idle_client(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    drain = Drain()
    should_end: list[bool] = []

    async def handler(stream: TLSStream[Any]) -> None:
        while data := await drain.receive_some(stream):
            should_end.append(drain.should_end(stream))
            await trio.sleep(200)
            should_end.append(drain.should_end(stream))
            await stream.send_all(data)

    async with on_pairs(
        handler, server_context, client_context, max_connection_age=100, drain=drain
    ) as server:
        stream = await server.connect()
        await ask(stream)
        begin = trio.current_time()
        assert await stream.receive_some() == b""
        assert trio.current_time() == begin
        assert should_end == [False, True]
        await stream.aclose()


async def test_what_arrives_in_time_is_answered_though_the_connection_is_old(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    drain = Drain()

    async def handler(stream: TLSStream[Any]) -> None:
        await trio.sleep(200)
        assert await drain.receive_some(stream) == b"in time"
        assert await drain.receive_some(stream) == b""

    async with on_pairs(handler, server_context, client_context, max_connection_age=100) as server:
        stream = await server.connect()
        await stream.send_all(b"in time")
        assert await stream.receive_some() == b""
        await stream.aclose()


@pytest.mark.parametrize("how", ["age", "drain"])
async def test_waiting_for_it_beside_requests(
    how: str,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    drain = Drain()

    async def handler(stream: TLSStream[Any]) -> None:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def end() -> None:
                await drain.wait_should_end(stream)
                assert drain.should_end(stream)
                await drain.wait_should_end(stream)
                nursery.cancel_scope.cancel()

            await echo(stream)

    async with on_pairs(
        handler,
        server_context,
        client_context,
        max_connection_age=100 if how == "age" else None,
        drain=drain,
    ) as server:
        stream = await server.connect()
        begin = trio.current_time()
        await ask(stream)
        if how == "drain":
            await trio.sleep(100)
            drain.begin()
        assert await stream.receive_some() == b""
        assert 90 <= trio.current_time() - begin <= 110
        await stream.aclose()
        assert not drain._waiting


async def test_connections_without_a_limit_and_other_streams_have_no_age(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    drain = Drain()
    async with on_pairs(answering(drain), server_context, client_context) as server:
        stream = await server.connect()
        await trio.sleep(10_000)
        await ask(stream)
        assert not drain.should_end(stream)
        ours, theirs = memory_stream_pair()
        assert not drain.should_end(ours)
        await theirs.send_all(b"x")
        assert await drain.receive_some(ours) == b"x"
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("age", [0, -1, math.nan])
async def test_an_age_is_positive(age: float, server_context: ssl.SSLContext) -> None:
    with pytest.raises(ValueError, match="max_connection_age must be positive"):
        await serve_tls_over_tcp(echo, 0, server_context, host=HOST, max_connection_age=age)
    with pytest.raises(ValueError, match="max_connection_age must be positive"):
        await serve_tls_listeners(echo, [], max_connection_age=age)
