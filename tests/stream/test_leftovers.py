"""Every operation puts out first what a cancelled send has left."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
import trio
import trustme
from trio.testing import lockstep_stream_pair, wait_all_tasks_blocked

from tests.helpers import (
    both_handshakes,
    cancelled_send,
    client_context_for,
    server_context_for,
    tcp_pair,
    unsent,
    wrap_pair,
)
from trio_tlsbio import TLSStream, open_pump

Operation: TypeAlias = Callable[[TLSStream[Any]], Awaitable[object]]


async def do_handshake(stream: TLSStream[Any]) -> None:
    await stream.do_handshake()


async def wait_send_all_might_not_block(stream: TLSStream[Any]) -> None:
    await stream.wait_send_all_might_not_block()


async def send_nothing(stream: TLSStream[Any]) -> None:
    await stream.send_all(b"")


async def receive_some(stream: TLSStream[Any]) -> None:
    assert await stream.receive_some() == b"answer"


# These never wait, so each of their calls can put out only what the socket takes.


async def receive_nowait(stream: TLSStream[Any]) -> None:
    while stream.receive_nowait() != b"answer":
        await trio.lowlevel.checkpoint()


async def is_readable(stream: TLSStream[Any]) -> None:
    while not stream.is_readable():
        await trio.lowlevel.checkpoint()


async def send_nowait_nothing(stream: TLSStream[Any]) -> None:
    while unsent(stream):
        assert stream.send_nowait(b"") == 0
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize(
    "operation",
    [
        do_handshake,
        wait_send_all_might_not_block,
        send_nothing,
        receive_some,
        receive_nowait,
        is_readable,
        send_nowait_nothing,
    ],
)
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize("layers", [1, 2], ids=["tls", "tls in tls"])
async def test_what_a_cancelled_send_left_goes_out_with_the_next_operation(
    layers: int,
    side: str,
    operation: Operation,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    payload = random.Random(0).randbytes(8_000_000)
    async with tcp_pair() as transports:
        pair: tuple[Any, Any] = transports
        for transport in transports:
            transport.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        for _ in range(layers):
            pair = wrap_pair(*pair, client_context, server_context)
        await both_handshakes(*pair)
        ours, theirs = pair if side == "client" else pair[::-1]
        committed = await cancelled_send(ours, payload)

        async def read() -> None:
            received = b""
            while len(received) < len(committed):
                received += await theirs.receive_some()
            assert received == committed
            await theirs.send_all(b"answer")

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await operation(ours)
        assert ours.bytes_committed == len(committed)
        assert unsent(ours) == 0


async def test_a_task_that_receives_already_sends_what_a_send_nowait_left(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    payload = random.Random(0).randbytes(8_000_000)
    async with tcp_pair() as transports:
        for transport in transports:
            transport.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        ours, theirs = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(ours, theirs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive_some, ours)
            await wait_all_tasks_blocked()
            assert ours.send_nowait(payload) == len(payload)
            assert unsent(ours)
            received = b""
            with trio.fail_after(10):
                while len(received) < len(payload):
                    received += await theirs.receive_some()
            assert received == payload
            await theirs.send_all(b"answer")


async def test_what_a_cancelled_send_left_goes_out_after_tickets_that_waited(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    near, far = lockstep_stream_pair()
    async with open_pump(near, max_buffer=1) as pumped:
        client, server = wrap_pair(
            far, pumped, client_context_for(ca), server_context_for(server_cert)
        )
        await both_handshakes(client, server)
        assert unsent(server), "there are no tickets that wait"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send_all, b"data")
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        assert unsent(server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.receive_some)
            await server.wait_send_all_might_not_block()
            nursery.cancel_scope.cancel()
        assert unsent(server) == 0
