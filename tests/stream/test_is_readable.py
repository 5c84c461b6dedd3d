"""Whether a stream is readable: what a pool asks before it uses an idle connection again."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from tests.helpers import (
    both_handshakes,
    client_context_for,
    reset,
    server_context_for,
    tcp_pair,
    wrap_pair,
)
from trio_tlsbio import TLSError, TLSStream, TruncationError


async def until_readable(stream: TLSStream[Any]) -> None:
    """Wait for the socket, as often as it takes."""
    transport = stream.transport_stream
    while isinstance(transport, TLSStream):
        transport = transport.transport_stream
    with trio.fail_after(10):
        while not stream.is_readable():
            await trio.lowlevel.wait_readable(transport.socket)


@pytest.mark.parametrize("layers", [1, 2])
async def test_data_and_end(
    layers: int, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(client, server)
        if layers == 2:
            client, server = wrap_pair(client, server, client_context, server_context)
            await both_handshakes(client, server)
        await server.send_all(b"hello")
        await until_readable(client)
        assert client.is_readable()  # it may be asked again
        assert await client.receive_some(2) == b"he"
        assert client.is_readable()
        assert await client.receive_some() == b"llo"
        assert not client.is_readable()
        await server.send_eof()
        await until_readable(client)
        assert await client.receive_some() == b""
        assert client.is_readable()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.aclose)  # or the client would wait for it
            await client.aclose()
            with pytest.raises(trio.ClosedResourceError):
                client.is_readable()


async def test_tickets_say_nothing(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    sessions: list[Any] = []
    async with tcp_pair() as (client_transport, server_transport):
        server = TLSStream(server_transport, server_context, server_side=True)
        client = TLSStream(
            client_transport,
            client_context,
            server_hostname="127.0.0.1",
            on_session=sessions.append,
        )
        await both_handshakes(client, server)
        if client_context.minimum_version is ssl.TLSVersion.TLSv1_3:
            assert sessions == []
            await trio.lowlevel.wait_readable(client_transport.socket)
        assert not client.is_readable()
        assert sessions  # it has taken them in
        await server.send_all(b"hello")
        assert await client.receive_some() == b"hello"


@pytest.mark.parametrize("https_compatible", [False, True])
async def test_truncation_and_failure(
    https_compatible: bool, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as transports:
        client, server = wrap_pair(
            *transports, client_context, server_context, https_compatible=https_compatible
        )
        await both_handshakes(client, server)
        await transports[1].aclose()
        await until_readable(client)
        if https_compatible:
            assert await client.receive_some() == b""
        else:
            with pytest.raises(TruncationError):
                await client.receive_some()
        assert client.is_readable()
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(client, server)
        await transports[1].send_all(b"\x17\x03\x03\x00\x20" + bytes(32))  # no such record
        await until_readable(client)
        with pytest.raises(TLSError, match="arrived damaged"):
            await client.receive_some()


async def test_before_the_handshake_and_while_receiving(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context)
        assert not client.is_readable()
        await both_handshakes(client, server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            await server.send_all(b"hello")
            assert not client.is_readable()  # the receiver gets it


async def test_transports_that_cannot_tell(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, server = wrap_pair(*trio.testing.memory_stream_pair(), client_context, server_context)
    await both_handshakes(client, server)
    await server.send_all(b"hello")
    assert not client.is_readable()
    assert await client.receive_some(1) == b"h"
    assert client.is_readable()
    assert await client.receive_some() == b"ello"


async def test_it_answers_what_the_peer_asks(ca: trustme.CA, server_cert: trustme.LeafCert) -> None:
    """An idle client need not be used again to answer a request for its certificate."""
    client_context = client_context_for(ca, ssl.TLSVersion.TLSv1_3)
    server_context = server_context_for(server_cert, ssl.TLSVersion.TLSv1_3)
    client_context.post_handshake_auth = server_context.post_handshake_auth = True
    server_context.verify_mode = ssl.CERT_OPTIONAL
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(client, server)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(server.verify_client_post_handshake)
                while nursery.child_tasks:
                    assert not client.is_readable()
                    await trio.lowlevel.checkpoint()


async def test_tickets_of_tls_in_tls_say_nothing_either(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as transports:
        outer = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(*outer)
        client, server = wrap_pair(*outer, client_context, server_context)
        await both_handshakes(client, server)
        for _ in range(3):
            assert not client.is_readable()
            await trio.testing.wait_all_tasks_blocked()
        assert client.session is not None
        await server.send_all(b"hello")
        assert await client.receive_some() == b"hello"


@pytest.mark.parametrize("asked", [0, 1, 3])
async def test_a_reset_is_no_end(
    asked: int, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """A socket that was reset looks as if it had ended when it is read once more."""
    async with tcp_pair() as transports:
        client, server = wrap_pair(
            *transports, client_context, server_context, https_compatible=True
        )
        await both_handshakes(client, server)
        reset(transports[1])
        await trio.lowlevel.wait_readable(transports[0].socket)
        for _ in range(asked):
            assert client.is_readable()
        for _ in range(2):
            with pytest.raises(TLSError, match="the transport broke while receiving"):
                await client.receive_some()


async def test_asking_often_takes_in_no_more(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(client, server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send_all, bytes(32 * 1024 * 1024))
            await until_readable(client)
            waiting = len(client.connection.inbox.plaintext)
            for _ in range(20):
                await trio.testing.wait_all_tasks_blocked()
                assert client.is_readable()
            assert len(client.connection.inbox.plaintext) == waiting
            nursery.cancel_scope.cancel()


async def test_nothing_is_taken_from_a_task_that_waits_for_the_wire(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """As a sender does while the peer renegotiates."""
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(client, server)
        await server.send_all(b"?")
        assert await client.receive_some() == b"?"  # and with it the tickets
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client._transport.receive)
                await trio.testing.wait_all_tasks_blocked()
                assert server.send_nowait(b"hello") == 5
                assert not client.is_readable()
                assert client.receive_nowait() is None
        assert client.is_readable()
        assert client.receive_nowait() == b"hello"


async def test_receive_nowait(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context)
        assert client.receive_nowait() is None
        await both_handshakes(client, server)
        assert client.receive_nowait() is None
        await server.send_all(b"hello")
        await until_readable(client)
        assert client.receive_nowait(2) == b"he"
        assert client.receive_nowait() == b"llo"
        assert client.receive_nowait() is None
        with pytest.raises(ValueError, match="max_bytes"):
            client.receive_nowait(0)
        await transports[1].aclose()
        await until_readable(client)
        for _ in range(2):
            with pytest.raises(TruncationError):
                client.receive_nowait()
        await client.aclose()
        with pytest.raises(trio.ClosedResourceError):
            client.receive_nowait()


async def test_receive_nowait_tells_of_a_reset(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(client, server)
        reset(transports[1])
        await until_readable(client)
        for _ in range(2):
            with pytest.raises(TLSError, match="the transport broke while receiving"):
                client.receive_nowait()


async def test_send_nowait_counts_what_it_commits(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(client, server)
        before = client.bytes_committed
        assert client.send_nowait(b"hello") == 5
        assert client.bytes_committed == before + 5
        assert await server.receive_some() == b"hello"
