"""The contract of a Stream: Trio's own checks, over transports of all kinds."""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import (
    MockClock,
    assert_checkpoints,
    check_half_closeable_stream,
    check_two_way_stream,
    lockstep_stream_pair,
    memory_stream_pair,
)

from tests.helpers import NAME, both_handshakes, tcp_pair, wrap_pair
from tests.peers import blocking_echo_server, clog
from tests.stream.steps import Pair, both_modes, expect, together
from trio_tlsbio import TLSConnection, TLSStream

################################################################
# Trio's own checks
################################################################


def transports(kind: str) -> tuple[trio.abc.Stream, trio.abc.Stream]:
    if kind == "memory":
        return memory_stream_pair()
    if kind == "lockstep":
        return lockstep_stream_pair()
    assert kind == "pipes"
    (read1, write1), (read2, write2) = os.pipe(), os.pipe()
    fd = trio.lowlevel.FdStream
    return trio.StapledStream(fd(write1), fd(read2)), trio.StapledStream(fd(write2), fd(read1))


def maker(
    kind: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    *,
    layers: int = 1,
    clogged: bool = False,
    **options: Any,
) -> Callable[[], Awaitable[Pair]]:
    """Return an async function that makes a pair as the checks want it.

    On a clogged one, which is for lockstep streams, each send waits for the peer to receive.
    """
    # The checks send hundreds of bytes at a time until a stream that closes takes no more.
    options["close_max_bytes"] = 16384

    async def make() -> Pair:
        pair: tuple[Any, Any] = transports(kind)
        for _ in range(layers):
            pair = wrap_pair(*pair, client_context, server_context, **options)
        if clogged:
            await both_handshakes(*pair)
        return pair

    return make


@both_modes
@pytest.mark.parametrize("kind", ["memory", "pipes"])
async def test_contract(
    kind: str,
    https_compatible: bool,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    contexts = client_context, server_context
    await check_half_closeable_stream(
        maker(kind, *contexts, https_compatible=https_compatible),
        maker("lockstep", *contexts, clogged=True, https_compatible=https_compatible),
    )


@both_modes
async def test_contract_without_half_closing(
    https_compatible: bool, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    contexts = client_context, server_context
    await check_two_way_stream(
        maker("memory", *contexts, https_compatible=https_compatible),
        maker("lockstep", *contexts, clogged=True, https_compatible=https_compatible),
    )


# Two ends of a lockstep stream that both only send, as when both close, wait for each other: here
# until the close_timeout has passed, which is why these need a clock that jumps.


@both_modes
async def test_contract_over_lockstep_streams(
    https_compatible: bool,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    contexts = client_context, server_context
    with trio.fail_after(3600):
        await check_half_closeable_stream(
            maker("lockstep", *contexts, https_compatible=https_compatible),
            maker("lockstep", *contexts, clogged=True, https_compatible=https_compatible),
        )


async def test_contract_of_tls_in_tls(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    contexts = client_context, server_context
    with trio.fail_after(3600):
        await check_half_closeable_stream(
            maker("memory", *contexts, layers=2),
            maker("lockstep", *contexts, layers=2, clogged=True),
        )


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["memory", "lockstep"])
async def test_tickets_that_nobody_reads_hold_up_no_receiver(
    kind: str,
    layers: int,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    # A TLS 1.3 server has its tickets to send when the handshake is done.
    client, server = await maker(
        kind, client_context, server_context, layers=layers, clogged=True
    )()
    with trio.fail_after(60):
        await together(partial(client.send_all, b"x"), partial(expect, server, b"x"))


@both_modes
@pytest.mark.parametrize("layers", [1, 2])
async def test_contract_over_tcp(
    layers: int,
    https_compatible: bool,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    # A close waits for a peer that closes only afterwards. The clock jumps once the sockets have
    # long been silent: a system may take a moment to deliver.
    autojump_clock.autojump_threshold = 0.05
    options: dict[str, Any] = {"https_compatible": https_compatible}
    async with AsyncExitStack() as stack:

        async def make() -> Pair:
            pair: tuple[Any, Any] = await stack.enter_async_context(tcp_pair())
            for _ in range(layers):
                pair = wrap_pair(*pair, client_context, server_context, **options)
            return pair

        async def make_clogged() -> Pair:
            pair: tuple[Any, Any] = await stack.enter_async_context(tcp_pair())
            for stream in pair:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            for _ in range(layers):
                pair = wrap_pair(*pair, client_context, server_context, **options)
            client, server = pair
            await both_handshakes(client, server)
            clog(client)
            clog(server)
            return client, server

        with trio.fail_after(3600):
            await check_half_closeable_stream(make, make_clogged)


################################################################
# Checkpoints, and one task for each direction
################################################################


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("send_all", "send_all"),
        ("send_all", "wait_send_all_might_not_block"),
        ("send_all", "send_eof"),
        ("send_all", "unwrap"),
        ("wait_send_all_might_not_block", "wait_send_all_might_not_block"),
        ("wait_send_all_might_not_block", "send_eof"),
        ("receive_some", "receive_some"),
        ("receive_some", "unwrap"),
    ],
)
async def test_two_tasks_for_one_direction_are_refused(
    first: str, second: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, _ = wrap_pair(*lockstep_stream_pair(), client_context, server_context)

    async def run(name: str) -> None:
        with assert_checkpoints():
            await (client.send_all(b"x") if name == "send_all" else getattr(client, name)())

    with pytest.raises(ExceptionGroup) as raised:
        await together(partial(run, first), partial(run, second))
    assert raised.group_contains(trio.BusyResourceError, match="another task")


async def test_every_method_is_a_checkpoint(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with blocking_echo_server(server_context) as transport:
        stream = TLSStream(transport, client_context, server_hostname=NAME)
        for step in (
            stream.do_handshake,
            stream.do_handshake,
            stream.wait_send_all_might_not_block,
            partial(stream.send_all, b"xyz"),
            partial(stream.receive_some, 1),
            partial(stream.receive_some, 1),  # these two are there already, decrypted
            partial(stream.receive_some, 1),
            stream.send_eof,
            stream.send_eof,
            stream.receive_some,
            stream.receive_some,
            stream.unwrap,
        ):
            with assert_checkpoints():
                await step()

    async with blocking_echo_server(server_context) as transport:
        stream = TLSStream(transport, client_context, server_hostname=NAME)
        for step in (stream.do_handshake, stream.aclose, stream.aclose):
            with assert_checkpoints():
                await step()


async def test_handshake_that_waits_for_nothing_is_a_checkpoint(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    server = TLSConnection(server_context, server_side=True)
    async with tcp_pair() as (transport, _):
        client = TLSStream(transport, client_context, server_hostname=NAME)
        while not client.connection.do_handshake():
            server.feed(client.connection.data_to_send())
            server.do_handshake()
            client.connection.feed(server.data_to_send())
        with assert_checkpoints():
            await client.do_handshake()
        assert client.connection.handshake is not None


async def test_tls_in_tls(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    contexts = client_context, server_context
    client, server = wrap_pair(*wrap_pair(*memory_stream_pair(), *contexts), *contexts)

    async def run_client() -> None:
        await client.send_all(b"question")
        await expect(client, b"answer")

    async def run_server() -> None:
        await expect(server, b"question")
        await server.send_all(b"answer")

    await together(run_client, run_server)
    await together(client.aclose, server.aclose)
