"""Calls that are cancelled: what they began goes on, and nothing is lost."""

from __future__ import annotations

import random
import ssl
from functools import partial

import pytest
import trio
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

from tests.helpers import both_handshakes, tcp_pair, wrap_pair
from tests.stream.steps import (
    Pair,
    cancelled_when_blocked,
    expect,
    receive_all,
    receive_exactly,
    together,
)
from trio_tlsbio import TLSError


async def test_cancelled_handshake_goes_on(over_tcp: Pair) -> None:
    client, server = over_tcp
    await cancelled_when_blocked(client.do_handshake)  # its first message is out
    await cancelled_when_blocked(server.do_handshake)  # its answer is out
    await both_handshakes(client, server)
    await client.send_all(b"x")
    await expect(server, b"x")


async def test_cancelled_handshake_leaves_it_to_the_others(over_tcp: Pair) -> None:
    client, server = over_tcp
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancelled_when_blocked, client.do_handshake)
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(expect, client, b"hello")
        await wait_all_tasks_blocked(0.01)
        await server.send_all(b"hello")


async def test_cancelled_receive_loses_nothing(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    for number in range(5):
        await cancelled_when_blocked(server.receive_some)
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.receive_some()
        assert scope.cancelled_caught
        await client.send_all(bytes([number]))
        await expect(server, bytes([number]))


@pytest.mark.parametrize("layers", [1, 2])
async def test_cancelled_send_goes_on_where_it_stopped(
    layers: int, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    payload = random.Random(0).randbytes(8_000_000)
    received = b""

    async def receive() -> None:
        nonlocal received
        received = await receive_exactly(server, len(payload))

    async with tcp_pair() as pair:
        client, server = wrap_pair(*pair, client_context, server_context)
        if layers == 2:
            client, server = wrap_pair(client, server, client_context, server_context)
        await both_handshakes(client, server)
        await cancelled_when_blocked(partial(client.send_all, payload))
        assert 0 < client.bytes_committed < len(payload)

        await server.send_all(b"still there?")  # the other direction is as good as ever
        await expect(client, b"still there?")

        rest = payload[client.bytes_committed :]
        await together(receive, partial(client.send_all, rest))
        assert received == payload
        assert client.bytes_committed == len(payload)


async def test_what_a_cancelled_send_left_goes_out_while_receiving(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    await cancelled_when_blocked(partial(client.send_all, bytes(8_000_000)))
    committed = client.bytes_committed
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_some)
        with trio.fail_after(5):
            await receive_exactly(server, committed)
        nursery.cancel_scope.cancel()


async def test_cancelled_send_over_any_stream_leaves_receiving_alive(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    # Such a transport does not tell how much of the send went out.
    client, server = wrap_pair(*lockstep_stream_pair(), client_context, server_context)
    await both_handshakes(client, server)
    await cancelled_when_blocked(partial(client.send_all, b"x"))
    with pytest.raises(TLSError, match="cancelled half-way"):
        await client.send_all(b"y")
    await together(partial(server.send_all, b"z"), partial(expect, client, b"z"))


async def test_cancelled_send_eof_goes_on(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    await cancelled_when_blocked(partial(client.send_all, bytes(8_000_000)))
    committed = client.bytes_committed
    await cancelled_when_blocked(client.send_eof)

    async def receive() -> None:
        assert await receive_all(server) == bytes(committed)

    await together(client.send_eof, receive)


async def test_cancelled_unwrap_goes_on(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    await cancelled_when_blocked(client.unwrap)
    await together(client.unwrap, server.unwrap)


async def test_a_receiver_that_waits_already_sends_what_a_cancelled_send_has_left(
    over_tcp: Pair,
) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_some)
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(client.send_all, bytes(50_000_000))
                await wait_all_tasks_blocked()
                scope.cancel()
        assert client.connection.bytes_to_send
        # Nobody calls a method of the client any more.
        received = 0
        while received < client.bytes_committed:
            received += len(await server.receive_some())
        nursery.cancel_scope.cancel()
