"""aclose(): what it does at both ends, and what it waits for."""

from __future__ import annotations

import socket
import ssl
from functools import partial
from typing import NoReturn

import pytest
import trio
import trustme
from trio.testing import (
    MockClock,
    assert_checkpoints,
    lockstep_stream_pair,
    memory_stream_pair,
    wait_all_tasks_blocked,
)

from tests.helpers import (
    NAME,
    both_handshakes,
    client_context_for,
    server_context_for,
    tcp_pair,
    wrap_pair,
)
from tests.peers import Untouchable, blocking_echo_server
from tests.stream.steps import Pair, Step, both_modes, expect, receive_all, together
from trio_tlsbio import CertificateError, SessionCache, TLSStream


async def test_closing_both_ends(established: Pair) -> None:
    client, server = established
    transport = client.transport_stream

    async def close_client() -> None:
        with assert_checkpoints():
            await client.aclose()

    async def close_server() -> None:
        await expect(server, b"")
        await expect(server, b"")
        with assert_checkpoints():
            await server.aclose()

    await together(close_client, close_server)
    with pytest.raises(trio.ClosedResourceError):
        await transport.send_all(b"x")
    for _ in range(2):
        with assert_checkpoints():
            await client.aclose()


async def test_everything_is_an_error_after_closing(established: Pair) -> None:
    client, _ = established
    await client.aclose()
    for step in (
        client.do_handshake,
        client.receive_some,
        client.wait_send_all_might_not_block,
        partial(client.send_all, b"x"),
        partial(client.send_all, b""),
        client.send_eof,
        client.unwrap,
    ):
        with pytest.raises(trio.ClosedResourceError):
            await step()
    with pytest.raises(trio.ClosedResourceError):
        client.send_nowait(b"x")


@pytest.mark.parametrize(
    "name", ["do_handshake", "receive_some", "send_eof", "unwrap", "wait_send_all_might_not_block"]
)
async def test_nothing_uses_a_transport_that_an_abort_could_not_close(
    name: str, client_context: ssl.SSLContext
) -> None:
    client = TLSStream(Untouchable(), client_context, server_hostname=NAME)
    assert not client.abort()
    with pytest.raises(trio.ClosedResourceError):
        await getattr(client, name)()


async def test_closing_before_the_handshake_is_a_clean_end(pair: Pair) -> None:
    client, server = pair

    async def end_server() -> None:
        await expect(server, b"")
        with assert_checkpoints():
            await server.aclose()

    await together(client.aclose, end_server)


async def test_transport_is_closed_only_once(established: Pair) -> None:
    client, _ = established
    closed = 0

    def close() -> NoReturn:
        nonlocal closed
        closed += 1
        raise KeyError("from the transport")

    client.transport_stream.send_stream.close_hook = close
    with pytest.raises(KeyError):
        await client.aclose()
    await client.aclose()
    assert closed == 1


async def test_two_tasks_may_close_at_once(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    with trio.fail_after(4):
        await together(client.aclose, client.aclose, server.aclose)


async def test_closing_reports_that_the_handshake_fails(server_context: ssl.SSLContext) -> None:
    # Else one could go through a whole connection without hearing that nobody verified the peer.
    async with blocking_echo_server(server_context, error="UNKNOWN_CA") as transport:
        stream = TLSStream(transport, ssl.create_default_context(), server_hostname=NAME)
        with pytest.raises(CertificateError):
            await stream.aclose()
        assert transport.socket.fileno() == -1


@both_modes
async def test_closing_does_not_wait_long_for_a_silent_peer(
    https_compatible: bool, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    ours, _ = memory_stream_pair()
    stream = TLSStream(
        ours, client_context, server_hostname=NAME, https_compatible=https_compatible
    )
    start = trio.current_time()
    with trio.fail_after(60):
        await stream.aclose()
    assert trio.current_time() - start <= 5
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"x")


async def test_closing_without_waiting_at_all(
    client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    ours, _ = memory_stream_pair()
    stream = TLSStream(ours, client_context, server_hostname=NAME, close_timeout=0)
    start = trio.current_time()
    await stream.aclose()
    assert trio.current_time() == start


async def test_closing_with_a_blocked_sender_and_receiver(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    client, server = wrap_pair(*lockstep_stream_pair(), client_context, server_context)
    await both_handshakes(client, server)

    async def expect_closed(step: Step) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await step()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, partial(client.send_all, bytes(100_000)))
        nursery.start_soon(expect_closed, client.receive_some)
        await wait_all_tasks_blocked()
        with trio.fail_after(60):
            await client.aclose()


async def test_closing_in_a_cancelled_scope_says_goodbye(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    await client.send_all(b"last words")
    await trio.aclose_forcefully(client)
    assert await receive_all(server) == b"last words"
    await server.aclose()


async def test_closing_loses_nothing_that_was_sent(over_tcp: Pair) -> None:
    # What the client says is never read, which makes a careless close reset the connection.
    client, server = over_tcp
    await both_handshakes(client, server)
    await client.send_all(b"a greeting")

    async def send_and_close() -> None:
        await server.send_all(bytes(30_000))
        await server.aclose()

    async def read_slowly() -> None:
        await wait_all_tasks_blocked(0.01)
        await client.send_all(b"and more")
        assert await receive_all(client) == bytes(30_000)
        await client.aclose()

    with trio.fail_after(4):
        await together(send_and_close, read_slowly)


async def test_a_default_timeout_of_sockets_holds_up_nothing(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as pair:
        client, server = wrap_pair(*pair, client_context, server_context)
        await both_handshakes(client, server)
        socket.setdefaulttimeout(3600)
        try:
            await trio.aclose_forcefully(client)
            assert await server.receive_some() == b""
        finally:
            socket.setdefaulttimeout(None)


async def test_the_transport_is_closed_whatever_fails(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    def on_session(session: object) -> NoReturn:
        raise KeyError

    async with tcp_pair() as (ours, theirs):
        client = TLSStream(
            ours,
            client_context_for(ca),
            server_hostname=NAME,
            on_session=on_session,
            close_timeout=0,
        )
        server = TLSStream(theirs, server_context_for(server_cert), server_side=True)
        await both_handshakes(client, server)
        await server.send_all(b"x")
        await wait_all_tasks_blocked()
        with pytest.raises(KeyError):
            await client.aclose()
        assert ours.socket.fileno() == -1


async def test_a_cache_finds_the_ticket_of_a_server_that_greets_first(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    cache = SessionCache()
    async with tcp_pair() as (ours, theirs):
        client = TLSStream(
            ours,
            client_context,
            server_hostname=NAME,
            on_session=lambda session: cache.put(session, 1, now=0),
        )
        server = TLSStream(theirs, server_context, server_side=True)
        await both_handshakes(client, server)
        await server.send_all(b"welcome")
        assert await client.receive_some() == b"welcome"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose)
            nursery.start_soon(server.aclose)
    assert len(cache) >= 1
