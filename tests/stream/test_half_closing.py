"""Half-closing, and taking TLS off."""

from __future__ import annotations

import socket
import ssl
from functools import partial

import pytest
import trio
from trio.testing import memory_stream_pump

from tests.helpers import both_handshakes, tcp_pair, wrap_pair
from tests.stream.steps import Pair, expect, receive_all, together
from trio_tlsbio import TLSError


async def test_send_eof_ends_one_direction(established: Pair) -> None:
    client, server = established
    await client.send_all(b"all")
    await client.send_eof()
    assert await receive_all(server) == b"all"
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"more")
    with pytest.raises(trio.ClosedResourceError):
        await client.wait_send_all_might_not_block()
    await client.send_eof()

    await server.send_all(b"the answer")
    await server.send_eof()
    assert await receive_all(client) == b"the answer"
    await together(client.aclose, server.aclose)


async def test_send_eof_checks_all_that_one_read_takes(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    damaged = b"\x17\x03\x03\x00\x20" + bytes(32)
    await server.send_all(bytes(60_000))
    await server.transport_stream.send_all(damaged)
    arrived = b""
    while not arrived.endswith(damaged):
        arrived = await client.transport_stream.socket.recv(100_000, socket.MSG_PEEK)
    with pytest.raises(TLSError, match="arrived damaged"):
        await client.send_eof()


async def test_send_eof_completes_the_handshake(pair: Pair) -> None:
    client, server = pair
    await together(client.send_eof, partial(expect, server, b""))


async def test_send_eof_leaves_the_transport_open(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    await client.send_eof()
    await expect(server, b"")
    await server.send_eof()
    client_transport, _ = await client.unwrap()
    server_transport, _ = await server.unwrap()
    await client_transport.send_all(b"plain")
    assert await server_transport.receive_some() == b"plain"


async def test_unwrap_returns_what_came_after(established: Pair) -> None:
    client, server = established
    client_transport, server_transport = client.transport_stream, server.transport_stream
    # Hold what the client sends, so that the server gets its close_notify and what comes after
    # in one piece.
    pump = client_transport.send_stream.send_all_hook
    client_transport.send_stream.send_all_hook = None

    async def run_client() -> None:
        await expect(client, b"")
        assert client.transport_stream is client_transport
        transport, trailing = await client.unwrap()
        assert transport is client_transport
        assert trailing == b""
        assert client.transport_stream is None
        await transport.send_all(b"in plain")
        client_transport.send_stream.send_all_hook = pump
        memory_stream_pump(client_transport.send_stream, server_transport.receive_stream)

    async def run_server() -> None:
        transport, trailing = await server.unwrap()
        assert transport is server_transport
        assert trailing == b"in plain"
        assert server.transport_stream is None

    await together(run_client, run_server)
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"x")
    with pytest.raises(trio.ClosedResourceError):
        await client.receive_some()
    await client.aclose()  # closes nothing: the transport is not its own any more
    await client_transport.send_all(b"still open")
    assert await server_transport.receive_some() == b"still open"


async def test_tls_can_be_taken_off_and_put_on_again(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as (client_transport, server_transport):
        for number in range(3):
            client, server = wrap_pair(
                client_transport, server_transport, client_context, server_context
            )
            await together(
                partial(client.send_all, bytes([number])),
                partial(expect, server, bytes([number])),
            )
            await together(client.unwrap, server.unwrap)


async def test_unwrap_with_data_to_receive_is_an_error_and_loses_nothing(
    established: Pair,
) -> None:
    client, server = established
    await server.send_all(b"not yet")
    with pytest.raises(TLSError, match="7 bytes of data"):
        await client.unwrap()
    await server.send_all(b", now")
    await server.send_eof()
    assert await receive_all(client) == b"not yet, now"
    transport, trailing = await client.unwrap()
    assert trailing == b""
    assert transport is not None
