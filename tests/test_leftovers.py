"""Every operation puts out first what a cancelled send has left."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from trio_tlsbio import TLSStream

from .helpers import both_handshakes, tcp_pair, wrap_pair

Operation: TypeAlias = Callable[[TLSStream[Any]], Awaitable[object]]


def unsent(stream: Any) -> int:
    """How much ciphertext waits to be sent in a stream and those that carry it, in bytes."""
    count = 0
    while isinstance(stream, TLSStream):
        count += stream.connection.bytes_to_send
        stream = stream.transport_stream
    return count


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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, payload)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
        committed = ours.bytes_committed
        assert 0 < committed < len(payload)

        async def read() -> None:
            received = b""
            while len(received) < committed:
                received += await theirs.receive_some()
            assert received == payload[:committed]
            await theirs.send_all(b"answer")

        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read)
                await operation(ours)
        assert ours.bytes_committed == committed
        assert unsent(ours) == 0
