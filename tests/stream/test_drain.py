"""Handlers that wait for idle clients end when a server does."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import HOST, LIMIT, echo, port_of, tcp_pair
from trio_tlsbio import Drain, TLSStream, serve_tls_listeners


async def test_what_has_arrived_is_received_and_then_the_end() -> None:
    drain = Drain()
    client, server = memory_stream_pair()
    await client.send_all(b"data")
    assert await drain.receive_some(server, 2) == b"da"
    assert await drain.receive_some(server) == b"ta"
    got: list[bytes | bytearray] = []

    async def wait() -> None:
        got.append(await drain.receive_some(server))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await wait_all_tasks_blocked()
        assert got == []
        assert not drain.has_begun
        drain.begin()
        assert drain.has_begun
    assert got == [b""]
    assert await drain.receive_some(server) == b""


@pytest.mark.parametrize("how", ["before", "while it waits"])
async def test_what_arrives_with_the_drain_is_not_overlooked(how: str) -> None:
    drain = Drain()
    got: list[bytes | bytearray] = []
    async with tcp_pair() as (client, server):

        async def wait() -> None:
            got.append(await drain.receive_some(server))

        async with trio.open_nursery() as nursery:
            if how == "while it waits":
                nursery.start_soon(wait)
                await wait_all_tasks_blocked()
            await client.send_all(b"just in time")
            drain.begin()
            if how == "before":
                nursery.start_soon(wait)
        assert got == [b"just in time"]
        assert await drain.receive_some(server) == b""
        await client.send_all(b"later")
        assert await drain.receive_some(server) == b"later", "nothing is lost"


async def test_nothing_is_kept_of_what_was_received() -> None:
    drain = Drain()
    client, server = memory_stream_pair()
    await client.send_all(b"data")
    assert await drain.receive_some(server) == b"data"
    await client.aclose()
    assert await drain.receive_some(server) == b""
    assert repr(drain) == repr(Drain())


async def test_silent_clients_of_a_listener_of_another_class_hold_up_no_drain(
    server_context: ssl.SSLContext,
) -> None:
    class Other(trio.abc.Listener[TLSStream[trio.SocketStream]]):
        def __init__(self, listener: trio.SocketListener) -> None:
            self.transport_listener = listener

        async def accept(self) -> TLSStream[trio.SocketStream]:
            stream = await self.transport_listener.accept()
            return TLSStream(stream, server_context, server_side=True)

        async def aclose(self) -> None:
            await self.transport_listener.aclose()

    listener: Any = Other(*await trio.open_tcp_listeners(0, host=HOST))
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_tls_listeners, echo, [listener])
            client = await trio.open_tcp_stream(HOST, port_of(listener))
            await wait_all_tasks_blocked(0.01)
            await listener.aclose()
            assert await client.receive_some() == b""
            await client.aclose()


async def test_it_is_not_the_only_one_to_cancel() -> None:
    _, server = memory_stream_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await Drain().receive_some(server)
        raise AssertionError("not cancelled")
    assert scope.cancelled_caught
