"""Ends without a close_notify."""

from __future__ import annotations

import socket
import ssl
from functools import partial

import pytest
import trio
from trio.testing import assert_checkpoints, memory_stream_pair

from tests.helpers import NAME, both_handshakes, tcp_pair, wrap_pair
from tests.stream.steps import Pair, expect, together
from trio_tlsbio import TLSStream, TruncationError


async def test_truncation_is_an_error_each_time(established: Pair) -> None:
    client, server = established
    await client.send_all(b"half of")
    await client.transport_stream.aclose()
    await expect(server, b"half of")
    for _ in range(2):
        with pytest.raises(TruncationError) as raised, assert_checkpoints():
            await server.receive_some()
        assert isinstance(raised.value.__cause__, ssl.SSLEOFError)
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")
    await server.aclose()


async def test_truncation_is_an_end_to_https(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, server = wrap_pair(
        *memory_stream_pair(), client_context, server_context, https_compatible=True
    )
    await both_handshakes(client, server)
    await client.send_all(b"all")
    await client.transport_stream.aclose()
    await expect(server, b"all")
    for _ in range(2):
        await expect(server, b"")
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")
    await server.aclose()


async def test_forceful_close_over_memory_breaks_the_peer(established: Pair) -> None:
    # This transport can't send without waiting, so there was no close_notify.
    client, server = established
    await trio.aclose_forcefully(client)
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")
    await server.aclose()


async def test_https_compatible_against_one_that_is_not(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    ours, theirs = memory_stream_pair()
    client = TLSStream(ours, client_context, server_hostname=NAME, https_compatible=True)
    server = TLSStream(theirs, server_context, server_side=True)
    await both_handshakes(client, server)

    async def expect_truncation() -> None:
        with pytest.raises(TruncationError):
            await server.receive_some()

    await together(client.aclose, expect_truncation)


async def test_https_end_before_the_handshake(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, server = wrap_pair(
        *memory_stream_pair(), client_context, server_context, https_compatible=True
    )
    await together(client.aclose, partial(expect, server, b""))
    with pytest.raises(TruncationError):
        await server.do_handshake()


async def test_end_in_the_handshake(pair: Pair) -> None:
    client, server = pair
    await client.transport_stream.aclose()
    for step in (server.do_handshake, server.receive_some, partial(server.send_all, b"x")):
        with pytest.raises(TruncationError):
            await step()


async def test_a_truncation_below_tls_in_tls_is_a_truncation(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as (ours, theirs):
        inner = wrap_pair(ours, theirs, client_context, server_context)
        client, server = wrap_pair(*inner, client_context, server_context)
        await both_handshakes(client, server)
        ours.socket.shutdown(socket.SHUT_WR)
        for _ in range(2):
            with pytest.raises(TruncationError):
                await server.receive_some()
