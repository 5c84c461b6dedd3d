"""The options of a stream, wherever one is made."""

from __future__ import annotations

import inspect
import math
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import MockClock

from tests.helpers import HOST, LIMIT, NAME, port_of, serving
from trio_tlsbio import (
    HandshakeInfo,
    HandshakeTimeoutError,
    TLSConnector,
    TLSError,
    TLSListener,
    TLSStream,
    open_tls_over_tcp_listeners,
    open_tls_over_tcp_stream,
    reconnect,
    serve_tls_over_tcp,
    start_tls,
)
from trio_tlsbio._net.connecting import ConnectorOptions

Stream: TypeAlias = TLSStream[trio.SocketStream]

# None of these is the default of any function.
CLOSE_TIMEOUT = 7.0
CLOSE_MAX_BYTES = 16384

# More than that, and less than the default.
SIZE = 200_000
HANDSHAKE_TIMEOUT = 3.0


################################################################
# What makes a client's stream
################################################################


async def by_opening(port: int, context: ssl.SSLContext, **options: Any) -> Stream:
    stream = await open_tls_over_tcp_stream(
        HOST, port, ssl_context=context, server_hostname=NAME, **options
    )
    try:
        await stream.do_handshake()
    except TLSError:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def by_connector(port: int, context: ssl.SSLContext, **options: Any) -> Stream:
    connector = TLSConnector(ssl_context=context, **options)
    return await connector.connect(HOST, port, server_hostname=NAME)


async def by_wrapping(port: int, context: ssl.SSLContext, **options: Any) -> Stream:
    connector = TLSConnector(ssl_context=context, **options)
    return await connector.wrap(await trio.open_tcp_stream(HOST, port), NAME)


async def by_reconnecting(port: int, context: ssl.SSLContext, **options: Any) -> Stream:
    supply = reconnect(
        HOST,
        port,
        ssl_context=context,
        server_hostname=NAME,
        should_retry=lambda _: False,
        **options,
    )
    return await anext(supply)


async def by_upgrading(port: int, context: ssl.SSLContext, **options: Any) -> Stream:
    tcp = await trio.open_tcp_stream(HOST, port)
    return await start_tls(tcp, context, buffered=b"", server_hostname=NAME, **options)


CLIENTS = (by_opening, by_connector, by_wrapping, by_reconnecting, by_upgrading)


################################################################
# What makes a server's stream
################################################################

Accept: TypeAlias = Callable[[], Awaitable[Stream]]


@asynccontextmanager
async def with_listener(
    context: ssl.SSLContext, **options: Any
) -> AsyncIterator[tuple[int, Accept]]:
    (tcp_listener,) = await trio.open_tcp_listeners(0, host=HOST)
    async with tcp_listener:
        listener = TLSListener(tcp_listener, context, **options)
        yield port_of(listener), listener.accept


@asynccontextmanager
async def with_listeners(
    context: ssl.SSLContext, **options: Any
) -> AsyncIterator[tuple[int, Accept]]:
    (listener,) = await open_tls_over_tcp_listeners(0, context, host=HOST, **options)
    async with listener:
        yield port_of(listener), listener.accept


@asynccontextmanager
async def with_server(context: ssl.SSLContext, **options: Any) -> AsyncIterator[tuple[int, Accept]]:
    give, take = trio.open_memory_channel[Stream](0)

    async def handler(stream: Stream) -> None:
        await give.send(stream)
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        serve = partial(serve_tls_over_tcp, handler, 0, context, host=HOST, **options)
        yield port_of(await nursery.start(serve)), take.receive
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def with_upgrade(
    context: ssl.SSLContext, **options: Any
) -> AsyncIterator[tuple[int, Accept]]:
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)

    async def accept() -> Stream:
        tcp = await listener.accept()
        return await start_tls(tcp, context, buffered=b"", server_side=True, **options)

    async with listener:
        yield port_of(listener), accept


SERVERS = (with_listener, with_listeners, with_server, with_upgrade)


################################################################
# Closing
################################################################


async def seconds_to_close(stream: Stream) -> float:
    before = trio.current_time()
    await stream.aclose()
    return trio.current_time() - before


async def talks_on(stream: Stream) -> None:
    """Neither end nor read."""
    with suppress(TLSError):
        await stream.send_all(bytes(SIZE))
    await trio.sleep_forever()


@pytest.mark.parametrize("connect", CLIENTS)
async def test_a_client_closes_within_its_time(
    connect: Callable[..., Awaitable[Stream]],
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    async with serving(talks_on, server_context) as port:
        stream = await connect(port, client_context, close_timeout=CLOSE_TIMEOUT)
        assert await seconds_to_close(stream) == CLOSE_TIMEOUT


@pytest.mark.parametrize("connect", CLIENTS)
async def test_a_client_throws_away_no_more_than_it_is_told_to(
    connect: Callable[..., Awaitable[Stream]],
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    async with serving(talks_on, server_context) as port:
        stream = await connect(port, client_context, close_timeout=CLOSE_TIMEOUT, close_max_bytes=1)
        assert await seconds_to_close(stream) < CLOSE_TIMEOUT


async def seconds_a_server_takes_to_close(
    listen: Callable[..., Any],
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    **options: Any,
) -> float:
    """Return how long closing takes a server whose client sends something, and does not end."""
    seconds = math.nan
    is_closed = trio.Event()

    async with listen(server_context, **options) as (port, accept):

        async def serve() -> None:
            nonlocal seconds
            stream = await accept()
            await stream.do_handshake()
            seconds = await seconds_to_close(stream)
            is_closed.set()

        with trio.fail_after(LIMIT):
            async with (
                trio.open_nursery() as nursery,
                await trio.open_tcp_stream(HOST, port) as tcp,
            ):
                client = TLSStream(tcp, client_context, server_hostname=NAME)
                nursery.start_soon(serve)
                assert await client.receive_some() == b""  # the server closes
                with suppress(trio.BrokenResourceError):
                    await tcp.send_all(bytes(SIZE))
                await is_closed.wait()
    return seconds


@pytest.mark.parametrize("listen", SERVERS)
async def test_a_server_closes_within_its_time(
    listen: Callable[..., Any],
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    seconds = await seconds_a_server_takes_to_close(
        listen, client_context, server_context, close_timeout=CLOSE_TIMEOUT
    )
    assert seconds == CLOSE_TIMEOUT


@pytest.mark.parametrize("listen", SERVERS)
async def test_a_server_throws_away_no_more_than_it_is_told_to(
    listen: Callable[..., Any],
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    seconds = await seconds_a_server_takes_to_close(
        listen,
        client_context,
        server_context,
        close_timeout=CLOSE_TIMEOUT,
        close_max_bytes=CLOSE_MAX_BYTES,
    )
    assert seconds < CLOSE_TIMEOUT


################################################################
# The handshake
################################################################


@pytest.mark.parametrize("connect", CLIENTS)
async def test_a_client_gives_up_a_handshake_in_time(
    connect: Callable[..., Awaitable[Stream]],
    client_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    async with listener:
        with pytest.raises(HandshakeTimeoutError, match="within 3 seconds"):
            await connect(port_of(listener), client_context, handshake_timeout=HANDSHAKE_TIMEOUT)


@pytest.mark.parametrize("listen", SERVERS[:2] + SERVERS[3:])
async def test_a_server_gives_up_a_handshake_in_time(
    listen: Callable[..., Any], server_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    options = {"handshake_timeout": HANDSHAKE_TIMEOUT}
    async with (
        listen(server_context, **options) as (port, accept),
        await trio.open_tcp_stream(HOST, port),
    ):
        with pytest.raises(HandshakeTimeoutError, match="within 3 seconds"):
            async with await accept() as stream:
                await stream.do_handshake()


async def refuse(_handshake: HandshakeInfo) -> None:
    raise ValueError("on the list of the lost")


@pytest.mark.parametrize("connect", CLIENTS)
async def test_a_client_verifies_by_a_function(
    connect: Callable[..., Awaitable[Stream]],
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with serving(talks_on, server_context) as port:
        with pytest.raises(TLSError, match="on the list of the lost"):
            await connect(port, client_context, verify_peer=refuse)


@pytest.mark.parametrize("listen", SERVERS[:2] + SERVERS[3:])
async def test_a_server_verifies_by_a_function(
    listen: Callable[..., Any], client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with listen(server_context, verify_peer=refuse) as (port, accept):

        async def serve() -> None:
            with pytest.raises(TLSError, match="on the list of the lost"):
                async with await accept() as stream:
                    await stream.do_handshake()

        async with (
            trio.open_nursery() as nursery,
            await trio.open_tcp_stream(HOST, port) as tcp,
        ):
            nursery.start_soon(serve)
            client = TLSStream(tcp, client_context, server_hostname=NAME)
            with pytest.raises(TLSError):
                await client.receive_some()


################################################################
# Wrong ones
################################################################

WRONG = (
    ({"close_timeout": -1}, ValueError),
    ({"close_timeout": math.nan}, ValueError),
    ({"close_max_bytes": -1}, ValueError),
    ({"handshake_timeout": 0}, ValueError),
    ({"verify_peer": 3}, TypeError),
)


async def is_connected_to(listener: trio.SocketListener) -> bool:
    with trio.move_on_after(0.1):
        await trio.aclose_forcefully(await listener.accept())
        return True
    return False


@pytest.mark.parametrize(("options", "error"), WRONG)
@pytest.mark.parametrize("connect", [by_opening, by_connector, by_reconnecting])
async def test_a_client_refuses_wrong_options_before_it_connects(
    connect: Callable[..., Awaitable[Stream]],
    options: dict[str, Any],
    error: type[Exception],
    client_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    async with listener:
        with pytest.raises(error):
            await connect(port_of(listener), client_context, **options)
        assert not await is_connected_to(listener)


@pytest.mark.parametrize(("options", "error"), WRONG)
@pytest.mark.parametrize("listen", SERVERS[:3])
async def test_a_server_refuses_wrong_options_before_it_listens(
    listen: Callable[..., Any],
    options: dict[str, Any],
    error: type[Exception],
    server_context: ssl.SSLContext,
) -> None:
    with pytest.RaisesGroup(error, allow_unwrapped=True, flatten_subgroups=True):
        async with listen(server_context, **options):
            pass


@pytest.mark.parametrize("attribute", ["close_timeout", "close_max_bytes", "verify_peer"])
async def test_a_connector_refuses_wrong_options_that_were_set_later(
    attribute: str, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    connector = TLSConnector(ssl_context=client_context)
    setattr(connector, attribute, -1)
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    async with listener:
        with pytest.raises((TypeError, ValueError)):
            await connector.connect(HOST, port_of(listener))
        assert not await is_connected_to(listener)


def test_reconnect_takes_what_a_connector_takes() -> None:
    assert list(ConnectorOptions.__annotations__) == list(
        inspect.signature(TLSConnector).parameters
    )
