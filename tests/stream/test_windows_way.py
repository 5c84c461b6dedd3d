"""Streams over TCP with the socket calls that Windows and macOS have, on any system."""

from __future__ import annotations

import os
import random
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import LIMIT, both_handshakes, cancelled_send, reset, tcp_pair, wrap_pair
from tests.systems import CALLS, calls_of
from trio_tlsbio import TLSError, TLSStream, TruncationError
from trio_tlsbio._stream import peer_watch, sockets, system_calls

# Our stream, the peer's, and the peer's socket.
Ends: TypeAlias = tuple[TLSStream[Any], TLSStream[Any], trio.SocketStream]

# This system's own calls.
OWN_CALLS = system_calls.calls

PAYLOAD = random.Random(0).randbytes(4_000_000)


@pytest.fixture(autouse=True, params=sorted(CALLS))
def system(request: pytest.FixtureRequest) -> Iterator[str]:
    """Whose calls are used."""
    with calls_of(request.param):
        yield request.param


@asynccontextmanager
async def established(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, layers: int = 1
) -> AsyncIterator[Ends]:
    with trio.fail_after(LIMIT):
        async with tcp_pair() as transports:
            for transport in transports:
                transport.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            pair: tuple[Any, Any] = transports
            for _ in range(layers):
                pair = wrap_pair(*pair, client_context, server_context)
            await both_handshakes(*pair)
            await pair[1].send_all(b"?")
            assert await pair[0].receive_some() == b"?"  # and with it the tickets
            yield *pair, transports[1]


@pytest.fixture
async def ends(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> AsyncIterator[Ends]:
    async with established(client_context, server_context) as ends:
        yield ends


async def receive_exactly(stream: TLSStream[Any], count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        part = await stream.receive_some()
        assert part, "the stream ended too early"
        received += part
    return bytes(received)


async def receive_all(stream: TLSStream[Any]) -> bytes:
    return b"".join([part async for part in stream])


async def until_readable(stream: TLSStream[Any]) -> None:
    while not stream.is_readable():
        await trio.lowlevel.checkpoint()


async def until_gone(stream: TLSStream[Any]) -> None:
    while not stream.peer_has_gone():
        await trio.lowlevel.checkpoint()


def test_the_calls_are_those_of_the_system(system: str) -> None:
    assert system_calls.calls is CALLS[system]
    assert system_calls.calls.unacknowledged(0) is None


################################################################
# Cancelled sends
################################################################


@pytest.mark.parametrize("layers", [1, 2], ids=["tls", "tls in tls"])
async def test_a_cancelled_send_goes_on_where_bytes_committed_says(
    layers: int, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(client_context, server_context, layers) as (ours, theirs, _):
        committed = len(await cancelled_send(ours, PAYLOAD))
        await theirs.send_all(b"still there?")
        assert await ours.receive_some() == b"still there?"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.send_all, PAYLOAD[committed:])
            assert await receive_exactly(theirs, len(PAYLOAD)) == PAYLOAD
        assert ours.bytes_committed == len(PAYLOAD)


async def test_what_a_cancelled_send_left_goes_out_while_receiving(ends: Ends) -> None:
    ours, theirs, _ = ends
    committed = await cancelled_send(ours, PAYLOAD)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.receive_some)
        assert await receive_exactly(theirs, len(committed)) == committed
        nursery.cancel_scope.cancel()


async def test_a_cancelled_receive_loses_nothing(ends: Ends) -> None:
    ours, theirs, _ = ends
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.receive_some)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    await theirs.send_all(b"hello")
    assert await ours.receive_some() == b"hello"


async def test_more_pieces_than_a_call_takes(ends: Ends) -> None:
    ours, theirs, _ = ends
    for _ in range(300):
        ours.connection.send(b"x")
    assert len(ours.connection.unsent) > sockets.MOST_PIECES
    await ours.send_all(b"y")
    assert await receive_exactly(theirs, 301) == b"x" * 300 + b"y"


################################################################
# The end
################################################################


async def test_closing_loses_nothing(ends: Ends) -> None:
    ours, theirs, _ = ends
    await theirs.send_all(b"never read")

    async def send_and_close() -> None:
        await ours.send_all(PAYLOAD)
        await ours.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_and_close)
        assert await receive_all(theirs) == PAYLOAD
        await theirs.aclose()


async def test_closing_in_a_cancelled_scope_sends_close_notify(ends: Ends) -> None:
    ours, theirs, _ = ends
    with trio.CancelScope() as scope:
        scope.cancel()
        await ours.aclose()
    assert await theirs.receive_some() == b""


async def test_a_half_closed_stream_still_receives(ends: Ends) -> None:
    ours, theirs, _ = ends
    await ours.send_eof()
    assert await theirs.receive_some() == b""
    await theirs.send_all(b"hello")
    assert await ours.receive_some() == b"hello"


async def test_a_socket_that_ends_early_is_a_truncation(ends: Ends) -> None:
    ours, _, their_socket = ends
    their_socket.socket.close()
    for _ in range(2):
        with pytest.raises(TruncationError):
            await ours.receive_some()


async def send_nowait_twice(stream: TLSStream[Any]) -> None:
    for _ in range(2):  # the first one may only note the error
        stream.send_nowait(b"x")


async def receive_nowait(stream: TLSStream[Any]) -> None:
    stream.receive_nowait()


async def send(stream: TLSStream[Any]) -> None:
    await stream.send_all(b"x")


@pytest.mark.parametrize(
    "meets_it", [send, send_nowait_twice, TLSStream.receive_some, receive_nowait]
)
async def test_a_reset_is_no_end(
    meets_it: Callable[[TLSStream[Any]], Awaitable[object]], ends: Ends
) -> None:
    ours, _, their_socket = ends
    await cancelled_send(ours, PAYLOAD)  # so that each send has to go to the socket
    reset(their_socket)
    await trio.lowlevel.wait_readable(ours.transport_stream.socket)
    with pytest.raises(TLSError) as raised:
        await meets_it(ours)
    assert raised.value.error_type == "connection_reset"
    for _ in range(2):
        with pytest.raises(TLSError) as raised:
            await ours.receive_some()
        assert not isinstance(raised.value, TruncationError)
        with pytest.raises(TLSError):
            await ours.send_all(b"x")


@pytest.mark.parametrize("default_timeout", [None, 3600])
async def test_a_closed_socket_is_reported_as_closed(
    default_timeout: float | None, ends: Ends
) -> None:
    calls = sockets.SocketCalls(ends[0].transport_stream)
    socket.setdefaulttimeout(default_timeout)
    try:
        assert calls.read_nowait() is None
        ends[0].transport_stream.socket.close()
        with pytest.raises(trio.ClosedResourceError):
            calls.read_nowait()
        with pytest.raises(trio.ClosedResourceError):
            calls.write_nowait([b"x"])
        assert not calls.peer_has_gone()
    finally:
        socket.setdefaulttimeout(None)


async def test_a_transport_that_was_closed_is_no_error_of_tls(ends: Ends) -> None:
    ours, _, _ = ends
    ours.transport_stream.socket.close()
    assert ours.receive_nowait() is None
    for operation in (ours.receive_some, partial(ours.send_all, b"x")):
        with pytest.raises(trio.ClosedResourceError):
            await operation()


################################################################
# Without waiting
################################################################


async def test_is_readable_and_receive_nowait(ends: Ends) -> None:
    ours, theirs, _ = ends
    assert not ours.is_readable()
    assert ours.receive_nowait() is None
    await theirs.send_all(b"hello")
    await until_readable(ours)
    assert ours.receive_nowait(2) == b"he"
    assert ours.receive_nowait() == b"llo"
    assert ours.receive_nowait() is None
    assert not ours.is_readable()
    await theirs.send_eof()
    await until_readable(ours)
    assert ours.receive_nowait() == b""


async def test_send_nowait_commits_and_never_waits(ends: Ends) -> None:
    ours, theirs, _ = ends
    assert ours.send_nowait(PAYLOAD) == len(PAYLOAD)
    assert ours.connection.unsent
    assert ours.send_nowait(b"x") == 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(ours.wait_send_all_might_not_block)
        nursery.start_soon(ours.do_handshake)  # sends what is left
        assert await receive_exactly(theirs, len(PAYLOAD)) == PAYLOAD


async def test_a_default_timeout_of_sockets_holds_up_nothing(ends: Ends) -> None:
    ours, _, _ = ends
    socket.setdefaulttimeout(3600)
    try:
        assert ours.receive_nowait() is None
        assert not ours.peer_has_gone()
        assert ours.send_nowait(PAYLOAD) == len(PAYLOAD)
        assert ours.connection.unsent
    finally:
        socket.setdefaulttimeout(None)


@pytest.mark.where(sys.platform != "win32", "Windows does not report the mode of a socket")
async def test_a_socket_stays_in_non_blocking_mode(ends: Ends) -> None:
    descriptor = ends[0].transport_stream.socket.fileno()
    for calls in (system_calls.calls, OWN_CALLS):
        calls.write(descriptor, [b""])
        calls.unacknowledged(descriptor)
        assert not os.get_blocking(descriptor)
        with suppress(BlockingIOError):
            calls.read(descriptor, 1)
        calls.peer_has_gone(descriptor)
        assert not os.get_blocking(descriptor)


################################################################
# A peer that has gone
################################################################


async def test_a_peer_that_has_gone_shows_once_all_is_received(ends: Ends) -> None:
    ours, theirs, their_socket = ends
    assert not ours.peer_has_gone()
    await theirs.send_all(b"last words")
    their_socket.socket.close()
    await trio.lowlevel.wait_readable(ours.transport_stream.socket)
    assert not ours.peer_has_gone()  # which Linux sees
    assert await ours.receive_some() == b"last words"
    await until_gone(ours)
    with pytest.raises(TruncationError):
        await ours.receive_some()


async def test_a_peer_that_has_reset_has_gone(ends: Ends) -> None:
    ours, _, their_socket = ends
    reset(their_socket)
    await trio.lowlevel.wait_readable(ours.transport_stream.socket)
    assert ours.peer_has_gone()


async def test_a_reset_that_shows_that_the_peer_has_gone_is_no_end(ends: Ends) -> None:
    """Linux reports it only to the first call, even if that only peeks."""
    ours, _, their_socket = ends
    reset(their_socket)
    await until_gone(ours)
    for _ in range(2):
        with pytest.raises(TLSError) as raised:
            await ours.receive_some()
        assert raised.value.error_type == "connection_reset"
        assert ours.peer_has_gone()


async def test_the_first_send_to_a_peer_that_has_gone_fails(
    ends: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peer_watch, "_LOOK_INTERVAL", 0.0)
    ours, theirs, their_socket = ends
    await ours.send_all(b"x")
    assert await theirs.receive_some() == b"x"
    their_socket.socket.close()
    await until_gone(ours)
    with pytest.raises(TLSError):
        await ours.send_all(b"x")
