"""Sending, and what a failure in it does to both directions."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Any

import pytest
import trio
import trustme
from trio.testing import assert_checkpoints, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import (
    NAME,
    both_handshakes,
    client_context_for,
    counts_references,
    server_context_for,
    tcp_pair,
    wrap_pair,
)
from tests.peers import Untouchable, blocking_echo_server
from tests.stream.steps import Pair, expect, fail
from trio_tlsbio import PeerAlertError, TLSError, TLSStream, open_pump


async def test_more_pieces_than_a_system_call_takes(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    for _ in range(3000):  # more than IOV_MAX
        client.connection.send(b"x")
    assert len(client.connection.unsent) == 3000
    await client.send_all(b"y")
    received = b""
    while not received.endswith(b"y"):
        received += await server.receive_some()
    assert received == b"x" * 3000 + b"y"


async def test_wait_send_all_might_not_block_asks_the_transport() -> None:
    asked = 0

    class Transport(Untouchable):
        async def wait_send_all_might_not_block(self) -> None:
            nonlocal asked
            asked += 1

    stream = TLSStream(Transport(), ssl.create_default_context(), server_hostname=NAME)
    await stream.wait_send_all_might_not_block()
    assert asked == 1


async def test_empty_sends_mean_nothing(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with (
        blocking_echo_server(server_context) as transport,
        TLSStream(transport, client_context, server_hostname=NAME) as stream,
    ):
        for empty in (b"", bytearray(), memoryview(b"")):
            with assert_checkpoints():
                await stream.send_all(empty)
        await stream.send_all(b"x")
        await expect(stream, b"x")


async def test_send_that_comes_upon_a_bad_record_tells_the_peer(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    # Only in TLS 1.2, where a send looks first whether the peer renegotiates.
    version = ssl.TLSVersion.TLSv1_2
    contexts = client_context_for(ca, version), server_context_for(server_cert, version)
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, *contexts)
        await both_handshakes(client, server)
        client.connection.feed(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(TLSError, match="arrived damaged"):
            await client.send_all(b"x")
        with trio.fail_after(10), pytest.raises(PeerAlertError) as raised:
            await server.receive_some()
        assert raised.value.alert == "bad_record_mac"


async def test_failure_in_the_middle_of_a_send_breaks_sending(established: Pair) -> None:
    client, _ = established
    client.transport_stream.send_stream.send_all_hook = fail
    with pytest.raises(KeyError):
        await client.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await client.wait_send_all_might_not_block()

    closed: list[str] = []
    client.transport_stream.send_stream.close_hook = partial(closed.append, "send")
    client.transport_stream.receive_stream.close_hook = partial(closed.append, "receive")
    await client.aclose()
    assert sorted(closed) == ["receive", "send"]


async def test_failure_of_a_receive_propagates(established: Pair) -> None:
    client, _ = established
    client.transport_stream.receive_stream.receive_some_hook = fail
    with pytest.raises(KeyError):
        await client.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()


async def test_what_can_not_be_sent_any_more_keeps_nobody_busy(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    client_context, server_context = client_context_for(ca), server_context_for(server_cert)
    client_context.post_handshake_auth = server_context.post_handshake_auth = True
    server_context.verify_mode = ssl.CERT_OPTIONAL
    async with tcp_pair() as (ours, theirs):
        client, server = wrap_pair(ours, theirs, client_context, server_context)
        await both_handshakes(client, server)
        await server.send_all(b"tickets first")
        await client.receive_some()
        await ours.send_eof()
        server.connection.verify_client_post_handshake()
        await server.send_all(b"")

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await client.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            with trio.fail_after(5):  # a task that spins is never blocked
                await wait_all_tasks_blocked(0.05)
            assert client.connection.unsent  # the answer, which nobody can send any more
            await trio.aclose_forcefully(client)


@counts_references  # by the views of it
async def test_a_send_leaves_the_buffer_of_the_caller_alone(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as (ours, theirs):
        client, server = wrap_pair(ours, theirs, client_context, server_context)
        await both_handshakes(client, server)
        buffer = bytearray(50_000_000)
        before = client.bytes_committed
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, buffer)
                await wait_all_tasks_blocked()
                scope.cancel()
        del buffer[: client.bytes_committed - before]
        await trio.aclose_forcefully(theirs)
        try:
            await client.send_all(buffer)
        except trio.BrokenResourceError:
            buffer.clear()
        assert not buffer


async def test_what_is_no_bytes_is_explained_and_nothing_is_sent(over_tcp: Pair) -> None:
    client, server = over_tcp
    transport, _ = memory_stream_pair()
    data: Any
    for handshake in (False, True):
        if handshake:
            await both_handshakes(client, server)
        for data in ("text", 5, None, ["list"]):
            words = f"TLS carries bytes, not {type(data).__name__}: encode text first"
            with pytest.raises(TypeError, match=words):
                await client.send_all(data)
            with pytest.raises(TypeError, match=words):
                client.connection.send(data)
            async with open_pump(transport) as pumped:
                with pytest.raises(TypeError, match=words):
                    await pumped.send_all(data)
    with pytest.raises(TypeError, match="TLS carries bytes, not str: encode text first"):
        client.send_nowait("text")  # type: ignore[arg-type]
    await client.send_all(b"bytes")
    assert await server.receive_some() == b"bytes"
