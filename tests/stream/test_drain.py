"""Handlers that wait for idle clients end when a server does."""

from __future__ import annotations

import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import tcp_pair
from trio_tlsbio import Drain


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


async def test_it_is_not_the_only_one_to_cancel() -> None:
    _, server = memory_stream_pair()
    with trio.CancelScope() as scope:
        scope.cancel()
        await Drain().receive_some(server)
        raise AssertionError("not cancelled")
    assert scope.cancelled_caught
