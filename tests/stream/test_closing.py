"""Closing: nothing that was written is lost, and no close lasts longer than its bound."""

from __future__ import annotations

import os
import random
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import pytest
import trio
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import NAME, both_handshakes, cancelled_send, reset, tcp_pair, wrap_pair
from tests.peers import blocking_echo_server, clog
from trio_tlsbio import (
    HandshakeTimeoutError,
    PeerAlertError,
    TLSError,
    TLSStream,
    TruncationError,
    open_pump,
)

Pair: TypeAlias = tuple[TLSStream[Any], TLSStream[Any]]
Operation: TypeAlias = Callable[[], Awaitable[object]]

SIZES = {"1 B": 1, "30 kB": 30_000, "200 kB": 200_000, "2 MB": 2_000_000}
GREETING = b"220 what has waited in the other's socket since the beginning\r\n" * 20

# Real time: what must be over after SHORT has LONG to be it, as machines are busy at times.
SHORT = 0.2
LONG = 4.0

# Longer than any test may take: what waits for it instead of the peer fails.
NEVER = 600

sides = pytest.mark.parametrize("side", ["client", "server"])
layer_counts = pytest.mark.parametrize("layers", [1, 2], ids=["tls", "tls in tls"])
sizes = pytest.mark.parametrize("size", list(SIZES.values()), ids=list(SIZES))


@asynccontextmanager
async def established(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    side: str = "client",
    *,
    layers: int = 1,
    receive_buffer: int | None = None,
    **options: Any,
) -> AsyncIterator[Pair]:
    """A stream over TCP and its peer, after the handshake. ``options`` go to both."""
    async with tcp_pair() as transports:
        pair: tuple[Any, Any] = transports
        if receive_buffer is not None:
            for transport in transports:
                transport.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        for _ in range(layers):
            pair = wrap_pair(*pair, client_context, server_context, **options)
        await both_handshakes(*pair)
        yield pair if side == "client" else pair[::-1]


async def receive_all(stream: TLSStream[Any], max_bytes: int | None = None) -> bytes:
    """Receive up to the end, slowly: other tasks have a turn after each bit."""
    data = bytearray()
    while part := await stream.receive_some(max_bytes):
        data += part
        await trio.lowlevel.checkpoint()
    return bytes(data)


async def together(*operations: Operation) -> None:
    async with trio.open_nursery() as nursery:
        for operation in operations:
            nursery.start_soon(operation)


async def expect_closed(operation: Operation) -> None:
    with pytest.raises(trio.ClosedResourceError):
        await operation()


def bottom(stream: Any) -> trio.SocketStream:
    """The socket stream below a stream that was not unwrapped."""
    while isinstance(stream, TLSStream):
        stream = stream.transport_stream
    assert isinstance(stream, trio.SocketStream)
    return stream


################################################################
# Nothing is lost
################################################################


@sides
@sizes
@pytest.mark.parametrize("layers", [1, 2], ids=["tls", "tls in tls"])
async def test_what_is_written_and_closed_at_once_arrives(
    layers: int,
    size: int,
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    rounds: int,
) -> None:
    # The peer greets late, into a socket that will never be read again, and reads slowly. A
    # server of TLS 1.3 has sent tickets too, which nobody has read.
    payload = random.Random(size).randbytes(size)
    for _ in range(rounds):
        async with established(
            client_context, server_context, side, layers=layers, receive_buffer=65536
        ) as (ours, theirs):

            async def write_and_close(ours: TLSStream[Any] = ours) -> None:
                await ours.send_all(payload)
                await ours.aclose()

            async def greet_and_read(theirs: TLSStream[Any] = theirs) -> None:
                await wait_all_tasks_blocked()
                await theirs.send_all(GREETING)
                await wait_all_tasks_blocked()
                received = await receive_all(theirs, max(1, size // 100))
                assert received == payload
                await theirs.send_all(GREETING)
                await theirs.aclose()

            with trio.fail_after(20):
                await together(write_and_close, greet_and_read)


@sizes
async def test_what_is_written_and_closed_at_once_arrives_at_a_pool_of_peers(
    size: int, client_context: ssl.SSLContext, server_context: ssl.SSLContext, rounds: int
) -> None:
    # Here the handshake belongs to it: the server has written before the client is through.
    payload = random.Random(size).randbytes(size)

    async def converse() -> None:
        async with tcp_pair() as transports:
            client, server = wrap_pair(*transports, client_context, server_context)

            async def write_and_close() -> None:
                await server.send_all(payload)
                await server.aclose()

            async def read() -> None:
                await client.send_all(GREETING)
                assert await receive_all(client) == payload
                await client.aclose()

            await together(write_and_close, read)

    with trio.fail_after(30):
        await together(*[converse] * rounds)


@sides
@pytest.mark.parametrize("size", [1, 30_000, 200_000], ids=["1 B", "30 kB", "200 kB"])
async def test_what_is_written_and_closed_at_once_arrives_at_blocking_ssl(
    size: int,
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    rounds: int,
) -> None:
    payload = random.Random(size).randbytes(size)
    for _ in range(rounds):
        has_written = threading.Event()
        received = bytearray()
        listener = socket.create_server(("127.0.0.1", 0))

        def peer(
            listener: socket.socket, has_written: threading.Event, received: bytearray
        ) -> None:
            with listener:
                sock, _ = listener.accept()
            sock.settimeout(10)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            is_server = side == "client"
            context = server_context if is_server else client_context
            name = None if is_server else NAME
            with (
                sock,
                context.wrap_socket(
                    sock, server_side=is_server, server_hostname=name, suppress_ragged_eofs=False
                ) as tls,
            ):
                tls.sendall(GREETING)
                assert has_written.wait(10)
                tls.sendall(GREETING)
                while part := tls.recv(1000):
                    received += part
                tls.unwrap()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.to_thread.run_sync, peer, listener, has_written, received)
                transport = await trio.open_tcp_stream(*listener.getsockname())
                if side == "client":
                    ours = TLSStream(transport, client_context, server_hostname=NAME)
                else:
                    ours = TLSStream(transport, server_context, server_side=True)
                await ours.do_handshake()
                if size <= 30_000:
                    await ours.send_all(payload)
                    has_written.set()
                else:  # it does not fit into the buffers
                    has_written.set()
                    await ours.send_all(payload)
                await ours.aclose()
        assert received == payload


@sides
async def test_what_a_cancelled_send_committed_arrives_after_closing(
    side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    payload = random.Random(0).randbytes(4_000_000)
    async with established(client_context, server_context, side) as (ours, theirs):
        committed = await cancelled_send(ours, payload)
        received = bytearray()

        async def read() -> None:
            try:
                while part := await theirs.receive_some():
                    received.extend(part)
            except TruncationError:  # half a payload must not look like a whole one
                await theirs.aclose()
            else:
                pytest.fail("the end was clean")

        with trio.fail_after(20):
            await together(ours.aclose, read)
        assert received == committed


################################################################
# No close lasts longer than its bound
################################################################


@sides
@pytest.mark.parametrize("layers", [1, 2], ids=["tls", "tls in tls"])
async def test_a_peer_that_never_closes_costs_the_bound_and_no_more(
    layers: int, side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(
        client_context, server_context, side, layers=layers, close_timeout=SHORT
    ) as (ours, theirs):
        await ours.send_all(b"all there is")
        start = trio.current_time()
        await ours.aclose()
        elapsed = trio.current_time() - start
        assert SHORT * 0.9 <= elapsed < LONG
        assert bottom(ours).socket.fileno() == -1
        assert await receive_all(theirs) == b"all there is"


@sides
async def test_a_peer_that_sends_for_ever_costs_no_more_than_either_bound(
    side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    for bound in ({"close_timeout": SHORT, "close_max_bytes": 1 << 60}, {"close_max_bytes": 99999}):
        async with established(client_context, server_context, side, **bound) as (ours, theirs):

            async def send_for_ever(theirs: TLSStream[Any] = theirs) -> None:
                with suppress(TLSError):
                    while True:
                        await theirs.send_all(bytes(30_000))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_for_ever)
                start = trio.current_time()
                await ours.aclose()
                assert trio.current_time() - start < LONG


@pytest.mark.timeout(30)
@sides
@pytest.mark.parametrize("layers", [1, 2], ids=["tls", "tls in tls"])
async def test_close_timeout_0_waits_for_nobody(
    layers: int,
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    mock_clock: MockClock,  # which stands still: what waits for a time waits for ever
) -> None:
    async with established(
        client_context, server_context, side, layers=layers, close_timeout=0
    ) as (ours, theirs):
        await ours.send_all(b"all there is")
        await ours.aclose()
        assert bottom(ours).socket.fileno() == -1
        assert await receive_all(theirs) == b"all there is"


@sides
async def test_a_silent_peer_before_the_handshake_over_tcp(
    side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context, close_timeout=SHORT)
        ours = client if side == "client" else server
        start = trio.current_time()
        await ours.aclose()
        assert trio.current_time() - start < LONG
        assert bottom(ours).socket.fileno() == -1


@pytest.mark.parametrize("layers", [1, 2], ids=["tls", "tls in tls"])
@pytest.mark.parametrize("kind", ["memory", "lockstep"])
@sides
async def test_a_silent_peer_before_the_handshake_over_memory(
    side: str,
    kind: str,
    layers: int,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    pair: tuple[Any, Any] = memory_stream_pair() if kind == "memory" else lockstep_stream_pair()
    for _ in range(layers):
        pair = wrap_pair(*pair, client_context, server_context, close_timeout=7)
    ours = pair[0] if side == "client" else pair[1]
    start = trio.current_time()
    with trio.fail_after(1000):
        await ours.aclose()
    assert trio.current_time() - start <= 7
    await expect_closed(ours.receive_some)


@pytest.mark.parametrize("done", ["client", "server"])
@sides
async def test_a_peer_that_falls_silent_in_the_handshake(
    side: str,
    done: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    client, server = wrap_pair(
        *memory_stream_pair(), client_context, server_context, close_timeout=7
    )
    streams = {"client": client, "server": server}
    async with trio.open_nursery() as nursery:  # one or two flights, then no more
        nursery.start_soon(streams[done].do_handshake)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    start = trio.current_time()
    with trio.fail_after(1000):
        await streams[side].aclose()
    assert trio.current_time() - start <= 7


@sides
@pytest.mark.parametrize("layers", [1, 2], ids=["tls", "tls in tls"])
async def test_a_full_socket(
    layers: int, side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(
        client_context,
        server_context,
        side,
        layers=layers,
        receive_buffer=65536,
        close_timeout=SHORT,
    ) as (ours, _):
        clog(ours)
        start = trio.current_time()
        await ours.aclose()
        assert trio.current_time() - start < LONG
        assert bottom(ours).socket.fileno() == -1


@sides
@pytest.mark.parametrize("forcefully", [False, True], ids=["", "forcefully"])
@pytest.mark.parametrize("layers", [1, 2], ids=["tls", "tls in tls"])
async def test_blocked_sender_and_receiver(
    layers: int,
    forcefully: bool,
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with established(
        client_context,
        server_context,
        side,
        layers=layers,
        receive_buffer=65536,
        close_timeout=SHORT,
    ) as (ours, _):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, partial(ours.send_all, bytes(8_000_000)))
            nursery.start_soon(expect_closed, ours.receive_some)
            await wait_all_tasks_blocked()
            start = trio.current_time()
            if forcefully:
                await trio.aclose_forcefully(ours)
            else:
                await ours.aclose()
        assert trio.current_time() - start < LONG
        assert bottom(ours).socket.fileno() == -1


@sides
async def test_blocked_sender_and_receiver_over_a_lockstep_stream(
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    client, server = wrap_pair(
        *lockstep_stream_pair(), client_context, server_context, close_timeout=7
    )
    await both_handshakes(client, server)
    ours = client if side == "client" else server
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, partial(ours.send_all, bytes(100_000)))
        nursery.start_soon(expect_closed, ours.receive_some)
        await wait_all_tasks_blocked()
        start = trio.current_time()
        with trio.fail_after(1000):
            await ours.aclose()
        assert trio.current_time() - start <= 7


@sides
async def test_somebody_else_is_in_the_handshake(
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    client, server = wrap_pair(
        *memory_stream_pair(), client_context, server_context, close_timeout=7
    )
    ours = client if side == "client" else server
    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, ours.do_handshake)
        nursery.start_soon(expect_closed, ours.receive_some)
        nursery.start_soon(expect_closed, partial(ours.send_all, b"x"))
        await wait_all_tasks_blocked()
        start = trio.current_time()
        with trio.fail_after(1000):
            await ours.aclose()
        assert trio.current_time() - start <= 7


@sides
@pytest.mark.parametrize("operation", ["do_handshake", "send_eof"])
async def test_a_handshake_that_a_close_completes_leaves_the_stream_closed(
    operation: str, side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as transports:
        pair = wrap_pair(*transports, client_context, server_context)
        ours, theirs = pair if side == "client" else pair[::-1]
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_closed, getattr(ours, operation))
                await wait_all_tasks_blocked()
                nursery.start_soon(ours.aclose)
                await wait_all_tasks_blocked()
                assert await theirs.receive_some() == b""
                await theirs.aclose()


@sides
async def test_a_close_throws_away_a_flood_and_then_waits_for_the_end(
    side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(client_context, server_context, side, close_timeout=NEVER) as (
        ours,
        theirs,
    ):
        await ours.send_all(b"all there is")
        for _ in range(3000):  # more records than one call decrypts
            theirs.connection.send(b"x")
        flood = theirs.connection.data_to_send()
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(theirs.transport_stream.send_all, flood)
                await wait_all_tasks_blocked()
                nursery.start_soon(ours.aclose)
                await wait_all_tasks_blocked()
                assert await receive_all(theirs) == b"all there is"
                await theirs.aclose()


@sides
async def test_a_send_that_a_close_completes_leaves_the_stream_closed(
    side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(
        client_context, server_context, side, receive_buffer=65536, close_timeout=NEVER
    ) as (ours, theirs):
        bottom(ours).setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        payload = bytes(250_000)  # all of it is encrypted at once, and does not fit
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_closed, partial(ours.send_all, payload))
                await wait_all_tasks_blocked()
                nursery.start_soon(ours.aclose)
                await wait_all_tasks_blocked()
                assert ours.connection.unsent
                assert await receive_all(theirs) == payload
                await theirs.aclose()


@sides
async def test_two_ends_that_were_said_before_need_not_be_waited_for(
    side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(client_context, server_context, side, close_timeout=NEVER) as (
        ours,
        theirs,
    ):
        await ours.send_eof()
        await theirs.send_eof()  # and leaves its socket open
        with trio.fail_after(20):
            await ours.aclose()
        assert await receive_all(theirs) == b""


@sides
async def test_unwrapping_takes_in_no_more_than_closing_throws_away(
    side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(
        client_context, server_context, side, receive_buffer=65536, close_max_bytes=99999
    ) as (ours, theirs):
        clog(ours)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(theirs.send_all, bytes(8_000_000))
                await wait_all_tasks_blocked()
                nursery.start_soon(ours.unwrap)
                await wait_all_tasks_blocked(0.1)
                assert 99999 / 2 < len(ours.connection.inbox.plaintext) < 1_000_000
                nursery.cancel_scope.cancel()


async def test_a_transport_that_an_abort_could_not_close_is_closed_without_waiting(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    near, far = memory_stream_pair()

    class Slow(trio.abc.Stream):
        """A stream that takes time to close, unless it has to be at once."""

        send_all = staticmethod(near.send_all)
        receive_some = staticmethod(near.receive_some)
        wait_send_all_might_not_block = staticmethod(near.wait_send_all_might_not_block)

        async def aclose(self) -> None:
            try:
                await trio.sleep(3)
            finally:
                await trio.aclose_forcefully(near)

    client, server = wrap_pair(Slow(), far, client_context, server_context)
    await both_handshakes(client, server)
    start = trio.current_time()
    assert not client.abort()
    await client.aclose()
    assert trio.current_time() == start
    with pytest.raises(TruncationError):
        await server.receive_some()


################################################################
# In a cancelled scope
################################################################


@sides
@pytest.mark.parametrize("how", ["aclose_forcefully", "cancelled", "async with"])
@pytest.mark.parametrize("layers", [1, 2, 3], ids=["tls", "tls in tls", "three layers"])
async def test_close_in_a_cancelled_scope_says_goodbye(
    layers: int,
    how: str,
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with established(client_context, server_context, side, layers=layers) as (ours, theirs):
        await ours.send_all(b"last words")
        start = trio.current_time()
        if how == "aclose_forcefully":
            await trio.aclose_forcefully(ours)
        elif how == "cancelled":
            with trio.CancelScope() as scope:
                scope.cancel()
                await ours.aclose()
        else:
            with trio.CancelScope() as scope:
                async with ours:
                    scope.cancel()
                    await trio.sleep_forever()
        assert trio.current_time() - start < LONG
        assert bottom(ours).socket.fileno() == -1
        assert await receive_all(theirs) == b"last words"
        assert await theirs.receive_some() == b""
        await theirs.aclose()


@sides
async def test_close_in_a_cancelled_scope_sends_what_a_cancelled_send_left(
    side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    payload = random.Random(0).randbytes(4_000_000)
    async with established(client_context, server_context, side) as (ours, theirs):
        committed = await cancelled_send(ours, payload)
        # The peer reads some of it, which makes room for the rest.
        received = bytearray()
        while len(received) < len(committed) - 300_000:
            received += await theirs.receive_some()
        await wait_all_tasks_blocked()
        await trio.aclose_forcefully(ours)
        try:
            received += await receive_all(theirs)
        except TLSError:
            # There was not enough room after all: the peer has to hear of that.
            assert payload.startswith(received)
        else:
            assert received == committed


@sides
async def test_close_in_a_cancelled_scope_with_a_greeting_unread(
    side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext, rounds: int
) -> None:
    # Closing a socket in which something is unread would be a reset.
    for _ in range(rounds):
        async with established(client_context, server_context, side) as (ours, theirs):
            await theirs.send_all(GREETING)
            await ours.send_all(bytes(30_000))
            await trio.aclose_forcefully(ours)
            assert await receive_all(theirs) == bytes(30_000)
            await theirs.aclose()


async def test_https_compatible_says_nothing_and_loses_nothing(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, rounds: int
) -> None:
    payload = random.Random(0).randbytes(200_000)
    for _ in range(rounds):
        async with established(client_context, server_context, "server", https_compatible=True) as (
            ours,
            theirs,
        ):

            async def write_and_close(ours: TLSStream[Any] = ours) -> None:
                await ours.send_all(payload)
                await ours.aclose()

            async def read(theirs: TLSStream[Any] = theirs) -> None:
                await wait_all_tasks_blocked()
                await theirs.send_all(GREETING)
                assert await receive_all(theirs, 10_000) == payload
                await theirs.aclose()

            with trio.fail_after(20):
                await together(write_and_close, read)


async def test_the_alert_that_answers_an_end_without_close_notify_is_no_error(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    # Python's own default makes OpenSSL ignore such an end.
    server_context.options &= ~ssl.OP_IGNORE_UNEXPECTED_EOF
    with trio.fail_after(10):
        async with blocking_echo_server(server_context, error="EOF") as transport:
            client = TLSStream(
                transport, client_context, server_hostname=NAME, https_compatible=True
            )
            await client.send_all(b"data")
            assert await client.receive_some() == b"data"
            await client.aclose()
        assert isinstance(client.connection.error, PeerAlertError)
        assert client.connection.error.alert == "decode_error"


async def test_a_peer_that_resets_while_it_is_waited_for_is_no_error(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(client, server)
        await client.send_all(b"all that there is")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose)
            assert await server.receive_some() == b"all that there is"
            await wait_all_tasks_blocked()
            reset(transports[1])


################################################################
# With something left from a cancelled send
################################################################


async def receive_up_to_the_end(stream: TLSStream[Any]) -> tuple[bytes, TLSError | None]:
    """Return what is received, and the error that it ends with, if any."""
    data = bytearray()
    try:
        while part := await stream.receive_some():
            data += part
    except TLSError as exc:
        return bytes(data), exc
    return bytes(data), None


def kind(exc: TLSError | None) -> str:
    """Name an end: "clean", "truncated", or the alert's name."""
    if isinstance(exc, PeerAlertError):
        return exc.alert
    return "clean" if exc is None else exc.error_type


@sides
@layer_counts
async def test_closing_delivers_to_a_peer_that_is_blocked_in_sending_itself(
    layers: int, side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    payload = random.Random(0).randbytes(8_000_000)
    async with established(
        client_context,
        server_context,
        side,
        layers=layers,
        receive_buffer=65536,
        close_timeout=NEVER,
        close_max_bytes=1 << 30,
    ) as (ours, theirs):
        committed = await cancelled_send(ours, payload)
        ends: list[tuple[bytes, TLSError | None]] = []

        async def send_and_read() -> None:
            await theirs.send_all(payload)
            ends.append(await receive_up_to_the_end(theirs))
            await theirs.aclose()

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(send_and_read)
                await wait_all_tasks_blocked()
                await ours.aclose()
        ((received, error),) = ends
        assert received == committed
        assert kind(error) == "truncated"


@layer_counts
@pytest.mark.parametrize("how", ["unwrap", "aclose"])
async def test_two_ends_with_something_left_on_both(
    how: str, layers: int, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    payload = bytes(8_000_000)
    async with established(
        client_context,
        server_context,
        layers=layers,
        receive_buffer=65536,
        close_timeout=NEVER,
        close_max_bytes=1 << 30,
    ) as pair:
        for stream in pair:
            await cancelled_send(stream, payload)

        async def end(stream: TLSStream[Any]) -> None:
            # The other one has sent data where unwrap() expects its end: that it says at once.
            with suppress(TLSError):
                await getattr(stream, how)()

        with trio.fail_after(20):
            await together(*(partial(end, stream) for stream in pair))


################################################################
# A close that finds a failure
################################################################


async def send_bad_record(stream: TLSStream[Any], good: bytes) -> None:
    """Send data, and then a record that is damaged on its way."""
    connection = stream.connection
    connection.send(good)
    data = connection.data_to_send()
    connection.send(b"damaged")
    damaged = bytearray(connection.data_to_send())
    damaged[-1] ^= 1
    await stream.transport_stream.send_all(data + bytes(damaged))
    await wait_all_tasks_blocked()


@sides
@layer_counts
@pytest.mark.parametrize("where", ["received", "in the socket"])
@pytest.mark.parametrize("how", ["aclose", "forcefully", "send_eof"])
async def test_the_peer_hears_of_a_bad_record_that_a_close_finds(
    how: str,
    where: str,
    layers: int,
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with established(client_context, server_context, side, layers=layers) as (ours, theirs):
        await send_bad_record(theirs, b"hello world")
        if where == "received":
            assert await ours.receive_some(5) == b"hello"
        ends: list[str] = []

        async def hear() -> None:
            _, error = await receive_up_to_the_end(theirs)
            ends.append(kind(error))
            await trio.aclose_forcefully(theirs)

        async def close() -> None:
            if how == "forcefully":
                await trio.aclose_forcefully(ours)
                return
            if how == "send_eof":
                with pytest.raises(TLSError, match="damaged"):
                    await ours.send_eof()
            await ours.aclose()

        with trio.fail_after(20):
            await together(hear, close)
        assert ends == ["bad_record_mac"]


@sides
@layer_counts
@pytest.mark.parametrize("where", ["received", "in the socket"])
async def test_what_was_committed_arrives_before_the_alert_of_a_close(
    where: str,
    layers: int,
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    payload = random.Random(0).randbytes(8_000_000)
    async with established(
        client_context,
        server_context,
        side,
        layers=layers,
        receive_buffer=65536,
        close_timeout=NEVER,
    ) as (ours, theirs):
        committed = await cancelled_send(ours, payload)
        await send_bad_record(theirs, b"hello world")
        if where == "received":
            assert await ours.receive_some(5) == b"hello"
        ends: list[tuple[bytes, TLSError | None]] = []

        async def hear() -> None:
            ends.append(await receive_up_to_the_end(theirs))
            await trio.aclose_forcefully(theirs)

        with trio.fail_after(20):
            await together(hear, ours.aclose)
        ((received, error),) = ends
        assert received == committed
        assert kind(error) == "bad_record_mac"


################################################################
# A close_notify vouches for everything
################################################################


@sides
@layer_counts
@pytest.mark.parametrize(
    "afterwards", ["nothing", "a short send", "an empty send", "send_eof", "unwrap", "another cut"]
)
async def test_a_close_notify_vouches_that_no_send_was_cut(
    afterwards: str,
    layers: int,
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    payload = random.Random(0).randbytes(8_000_000)
    async with established(
        client_context, server_context, side, layers=layers, receive_buffer=65536
    ) as (ours, theirs):
        expected = await cancelled_send(ours, payload)
        if afterwards == "another cut":
            with trio.CancelScope() as scope:
                scope.cancel()
                await ours.send_all(payload)
        ends: list[tuple[bytes, TLSError | None]] = []

        async def hear() -> None:
            ends.append(await receive_up_to_the_end(theirs))
            await theirs.aclose()

        async def close() -> None:
            nonlocal expected
            if afterwards == "a short send":
                await ours.send_all(b"that's all")
                expected += b"that's all"
            elif afterwards == "an empty send":
                await ours.send_all(b"")
            elif afterwards == "send_eof":
                await ours.send_eof()
            elif afterwards == "unwrap":
                transport, rest = await ours.unwrap()
                assert rest == b""
                await transport.aclose()
                return
            await ours.aclose()

        with trio.fail_after(20):
            await together(hear, close)
        ((received, error),) = ends
        assert received == expected
        is_cut = afterwards in {"nothing", "an empty send", "another cut"}
        assert kind(error) == ("truncated" if is_cut else "clean")


################################################################
# Abort
################################################################


@sides
@pytest.mark.parametrize("cut", [False, True], ids=["", "behind a cancelled send"])
async def test_a_blocked_sender_hears_of_a_close_that_sends_its_data(
    cut: bool, side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(client_context, server_context, side, receive_buffer=65536) as (
        ours,
        theirs,
    ):
        if cut:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ours.send_all, bytes(8_000_000))
                    await wait_all_tasks_blocked()
                    scope.cancel()
        sends = 0

        async def send() -> None:
            nonlocal sends
            while True:
                await ours.send_all(bytes(100_000))
                sends += 1

        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, send)
            await wait_all_tasks_blocked()
            blocked_in, committed = sends, ours.bytes_committed
            nursery.start_soon(ours.aclose)
            await wait_all_tasks_blocked()
            received, _ = await receive_up_to_the_end(theirs)
            await theirs.aclose()
        assert sends == blocked_in
        assert len(received) == ours.bytes_committed == committed


@sides
async def test_unwrap_gives_away_no_transport_that_another_task_closes(
    side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(client_context, server_context, side) as (ours, theirs):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, ours.unwrap)
            await wait_all_tasks_blocked()
            nursery.start_soon(ours.aclose)
            await wait_all_tasks_blocked()
            await theirs.aclose()
        assert bottom(ours).socket.fileno() == -1


@sides
async def test_abort_ends_a_connection_that_another_process_holds(
    side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(client_context, server_context, side) as (ours, theirs):
        held = os.dup(bottom(ours).socket.fileno())  # as a child process that was forked does
        try:
            ours.abort()
            with trio.fail_after(LONG), pytest.raises(TruncationError):
                await theirs.receive_some()
        finally:
            os.close(held)


@sides
async def test_a_close_notify_vouches_for_a_send_nowait_behind_one_that_was_cut(
    side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(client_context, server_context, side, receive_buffer=65536) as (
        ours,
        theirs,
    ):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.send_all, bytes(8_000_000))
                await wait_all_tasks_blocked()
                scope.cancel()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.do_handshake)  # sends what is left
            received = 0
            while received < ours.bytes_committed:
                received += len(await theirs.receive_some())
        assert ours.send_nowait(b"end") == 3
        async with trio.open_nursery() as nursery:
            nursery.start_soon(ours.aclose)
            assert await receive_up_to_the_end(theirs) == (b"end", None)
            await theirs.aclose()


@sides
@pytest.mark.parametrize("over", ["tcp", "memory", "tls in tls"])
async def test_abort_closes_at_once_and_vouches_for_nothing(
    over: str, side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as sockets:
        pair: tuple[Any, Any] = memory_stream_pair() if over == "memory" else sockets
        for _ in range(2 if over == "tls in tls" else 1):
            pair = wrap_pair(*pair, client_context, server_context, close_timeout=NEVER)
        await both_handshakes(*pair)
        ours, theirs = pair if side == "client" else pair[::-1]
        await ours.send_all(b"not all")
        async with trio.open_nursery() as nursery:
            nursery.start_soon(expect_closed, ours.receive_some)
            if over != "memory":  # which takes everything
                nursery.start_soon(expect_closed, partial(ours.send_all, bytes(8_000_000)))
            await wait_all_tasks_blocked()
            ours.abort()
            if over != "memory":
                assert bottom(ours).socket.fileno() == -1
            ours.abort()
        for operation in (ours.receive_some, partial(ours.send_all, b"x"), ours.send_eof):
            await expect_closed(operation)
        with trio.fail_after(20):
            await ours.aclose()
            received, error = await receive_up_to_the_end(theirs)
        assert received.startswith(b"not all")
        assert kind(error) == "truncated"
        ours.abort()


@sides
@layer_counts
async def test_abort_over_a_pump_closes_at_once_and_loses_its_buffer(
    layers: int, side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, server = memory_stream_pair()
    async with open_pump(client) as client_pump, open_pump(server) as server_pump:
        pair: tuple[Any, Any] = client_pump, server_pump
        for _ in range(layers):
            pair = wrap_pair(*pair, client_context, server_context, close_timeout=NEVER)
        await both_handshakes(*pair)
        ours, theirs = pair if side == "client" else pair[::-1]
        await ours.send_all(b"not all")
        assert ours.abort()
        await expect_closed((client if side == "client" else server).receive_some)
        await expect_closed(ours.receive_some)
        await expect_closed(partial(ours.send_all, b"x"))
        with trio.fail_after(10):
            await ours.aclose()
            received, error = await receive_up_to_the_end(theirs)
        assert b"not all".startswith(received)
        # Or its tickets, which it sends once it receives, find nobody.
        assert kind(error) in {"truncated", "transport_broken"}
        await trio.aclose_forcefully(theirs)


################################################################
# Two that close
################################################################


@sides
@layer_counts
@pytest.mark.parametrize("second", ["forcefully", "abort"])
async def test_a_second_one_that_closes_does_not_wait_for_the_peer(
    second: str,
    layers: int,
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with established(
        client_context, server_context, side, layers=layers, close_timeout=NEVER
    ) as (ours, theirs):
        await ours.send_all(b"all there is")
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.aclose)
                await wait_all_tasks_blocked()
                assert bottom(ours).socket.fileno() != -1
                if second == "abort":
                    ours.abort()
                else:
                    await trio.aclose_forcefully(ours)
                assert bottom(ours).socket.fileno() == -1
        assert await receive_all(theirs) == b"all there is"


@sides
@layer_counts
async def test_a_second_one_that_closes_returns_when_all_is_closed(
    layers: int, side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(
        client_context, server_context, side, layers=layers, close_timeout=NEVER
    ) as (ours, theirs):
        returned: list[int] = []

        async def close() -> None:
            await ours.aclose()
            returned.append(bottom(ours).socket.fileno())

        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(close)
                await wait_all_tasks_blocked()
                nursery.start_soon(close)
                await wait_all_tasks_blocked()
                assert not returned
                await theirs.aclose()
        assert returned == [-1, -1]


@sides
@pytest.mark.parametrize("over", ["tcp", "memory", "tls in tls"])
async def test_closing_after_a_handshake_timeout_waits_no_more(
    over: str,
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    async with tcp_pair() as sockets:
        pair: tuple[Any, Any] = memory_stream_pair() if over == "memory" else sockets
        if over == "tls in tls":
            pair = wrap_pair(*pair, client_context, server_context)
            await both_handshakes(*pair)
        pair = wrap_pair(*pair, client_context, server_context, handshake_timeout=7)
        ours = pair[0] if side == "client" else pair[1]
        with pytest.raises(HandshakeTimeoutError):
            await ours.do_handshake()
        start = trio.current_time()
        await ours.aclose()
        assert trio.current_time() == start


async def test_abort_sends_what_the_socket_takes(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(client, server)
        server.connection.send(b"last words")
        server.abort()
        assert await client.receive_some() == b"last words"
        await trio.aclose_forcefully(client)
