"""Cancellation at every step: each row of the table in the documentation, cell by cell.

A scenario runs again and again, and its operation is cancelled one event later each time: as soon
as it is called, when it has just begun to wait, when it is just about to go on, and so forth,
until it is through before its turn to be cancelled comes. What must be true is checked after each.
"""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import attrs
import pytest
import trio
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.cancelling import Canceller, Operation, at_every_step
from tests.helpers import both_handshakes, tcp_pair, wrap_pair
from trio_tlsbio import TLSError, TLSStream, TruncationError, open_pump
from trio_tlsbio._core.records import Data

Pair: TypeAlias = tuple[TLSStream[Any], TLSStream[Any]]

TRANSPORTS = ["memory", "pump", "tcp", "tls in tls"]
SAFE_TRANSPORTS = TRANSPORTS[1:]  # those that can tell how much a cancelled send has sent
SOCKETS = TRANSPORTS[2:]

pytestmark = pytest.mark.sample(6)

SMALL = b"a few bytes"
LARGE = random.Random(1).randbytes(200_000)
REPLY = random.Random(2).randbytes(50_000)


################################################################
# What is cancelled
################################################################


@attrs.frozen
class Setup:
    """Where a stream is tested: over which transport, and as which side."""

    kind: str
    side: str
    client_context: ssl.SSLContext
    server_context: ssl.SSLContext

    @property
    def is_safe(self) -> bool:
        return self.kind in SAFE_TRANSPORTS

    @asynccontextmanager
    async def pair(self) -> AsyncIterator[Pair]:
        """The stream under test and its peer, before the handshake."""
        if self.kind in SOCKETS:
            async with tcp_pair() as transports:
                for transport in transports:
                    # Little enough that a large send has to wait for the peer to read.
                    transport.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 32768)
                    transport.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
                yield self._wrap(*transports, layers=2 if self.kind == "tls in tls" else 1)
            return
        ours, theirs = memory_stream_pair()
        if self.kind == "memory":
            yield self._wrap(ours, theirs)
        else:
            async with open_pump(ours, max_buffer=20_000) as pumped:
                yield self._wrap(pumped, theirs)

    def _wrap(self, ours: Any, theirs: Any, layers: int = 1) -> Pair:
        for _ in range(layers):
            if self.side == "client":
                ours, theirs = wrap_pair(ours, theirs, self.client_context, self.server_context)
            else:
                theirs, ours = wrap_pair(theirs, ours, self.client_context, self.server_context)
            assert ours.server_side is (self.side == "server")
        assert ours.is_cancel_safe is self.is_safe
        return ours, theirs

    @asynccontextmanager
    async def established(self) -> AsyncIterator[Pair]:
        """The stream under test and its peer, after the handshake."""
        async with self.pair() as pair:
            await both_handshakes(*pair)
            yield pair


@pytest.fixture(params=["client", "server"])
def side(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=TRANSPORTS)
def setup(
    request: pytest.FixtureRequest,
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> Setup:
    return Setup(request.param, side, client_context, server_context)


over = partial(pytest.mark.parametrize, "setup", indirect=True)


@attrs.define(eq=False)
class Reader:
    """Reads all that the peer gets, from when everybody waits, and closes the peer at the end."""

    stream: TLSStream[Any]
    closes: bool = True
    received: bytearray = attrs.field(factory=bytearray)
    error: TLSError | None = None

    async def run(self) -> None:
        await wait_all_tasks_blocked()
        try:
            while part := await self.stream.receive_some():
                self.received += part
        except TLSError as exc:
            self.error = exc
        if self.closes:
            await self.stream.aclose()

    def assert_ended_after(self, committed: int) -> None:
        """What was committed of LARGE has arrived, and a clean end if that is all of it."""
        if committed == len(LARGE):
            self.assert_clean(LARGE)
        else:
            assert self.received == LARGE[:committed]
            assert isinstance(self.error, TruncationError)

    def assert_clean(self, data: bytes) -> None:
        assert self.error is None
        assert self.received == data

    def assert_start_of(self, data: bytes) -> None:
        """It got some of ``data``, and an error unless it got all, and the end."""
        assert data.startswith(self.received)
        assert self.error is not None or self.received == data


async def together(*operations: Operation) -> None:
    async with trio.open_nursery() as nursery:
        for operation in operations:
            nursery.start_soon(operation)


async def receive_exactly(stream: TLSStream[Any], data: bytes) -> None:
    received = bytearray()
    while len(received) < len(data):
        part = await stream.receive_some()
        assert part, "the stream ended too early"
        received += part
    assert received == data


async def works(stream: TLSStream[Any], operation: Operation) -> bool:
    """Run an operation that sends. False if an earlier one broke that, as it may over a transport
    that can't tell how much it sent, and only there.
    """
    if stream.is_cancel_safe:
        await operation()
        return True
    error: TLSError | None = None
    try:
        await operation()
    except TLSError as exc:
        error = exc
    assert error is None or "cancelled" in str(error)
    return error is None


async def receiving_works(ours: TLSStream[Any], theirs: TLSStream[Any]) -> None:
    await together(partial(theirs.send_all, REPLY), partial(receive_exactly, ours, REPLY))


async def still_good(ours: TLSStream[Any], theirs: TLSStream[Any]) -> None:
    """Check that both directions work, and that closing is a clean end for the peer."""
    reader = Reader(theirs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(reader.run)
        await receiving_works(ours, theirs)
        sent = ours.bytes_committed
        sending_works = await works(ours, partial(ours.send_all, SMALL))
        assert not sending_works or ours.bytes_committed - sent == len(SMALL)
        await ours.aclose()
    if sending_works:
        reader.assert_clean(SMALL)
    else:
        assert reader.received == b""


def is_closed(stream: trio.abc.Stream | None) -> bool:
    """Whether the transport at the bottom was closed."""
    while not isinstance(stream, trio.SocketStream | trio.StapledStream):
        stream = stream.transport_stream  # type: ignore[union-attr]
    if isinstance(stream, trio.SocketStream):
        return stream.socket.fileno() == -1
    try:
        stream.send_stream.get_data_nowait()
    except trio.WouldBlock:
        return False
    return True


################################################################
# do_handshake: call it, or anything else, again
################################################################


async def _handshake_then(setup: Setup, go_on: Callable[[Pair], Awaitable[None]]) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.pair() as (ours, theirs):
            peer_is_done = trio.Event()

            async def peer() -> None:
                await theirs.do_handshake()
                peer_is_done.set()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer)
                await canceller.run(ours.do_handshake)
                if not setup.is_safe and not await works(ours, ours.do_handshake):
                    nursery.cancel_scope.cancel()
                    return  # a handshake can't do without sending
                async with trio.open_nursery() as checks:
                    checks.start_soon(go_on, (ours, theirs))
                    await peer_is_done.wait()
            assert ours.connection.handshake is not None
            await still_good(ours, theirs)

    await at_every_step(scenario)


async def test_do_handshake_cancelled_goes_on_when_called_again(setup: Setup) -> None:
    async def go_on(pair: Pair) -> None:
        await pair[0].do_handshake()

    await _handshake_then(setup, go_on)


@over(SAFE_TRANSPORTS)
async def test_do_handshake_cancelled_goes_on_with_receive_some(setup: Setup) -> None:
    async def go_on(pair: Pair) -> None:
        await receiving_works(*pair)

    await _handshake_then(setup, go_on)


@over(SAFE_TRANSPORTS)
async def test_do_handshake_cancelled_goes_on_with_send_all(setup: Setup) -> None:
    async def go_on(pair: Pair) -> None:
        ours, theirs = pair
        await together(partial(ours.send_all, LARGE), partial(receive_exactly, theirs, LARGE))
        assert ours.bytes_committed == len(LARGE)

    await _handshake_then(setup, go_on)


@over(SAFE_TRANSPORTS)
async def test_do_handshake_cancelled_goes_on_in_aclose(setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.pair() as (ours, theirs):
            reader = Reader(theirs)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.run)
                await canceller.run(ours.do_handshake)
                await ours.aclose()
            reader.assert_clean(b"")

    await at_every_step(scenario)


@over(SAFE_TRANSPORTS)
@pytest.mark.parametrize("first", [True, False], ids=["began first", "began second"])
async def test_do_handshake_cancelled_leaves_it_to_a_second_task_that_waits(
    first: bool, setup: Setup
) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.pair() as (ours, theirs):
            async with trio.open_nursery() as nursery:
                if first:
                    nursery.start_soon(canceller.run, ours.do_handshake)
                else:
                    nursery.start_soon(ours.do_handshake)
                await wait_all_tasks_blocked()
                if first:
                    nursery.start_soon(ours.do_handshake)
                else:
                    nursery.start_soon(canceller.run, ours.do_handshake)
                await wait_all_tasks_blocked()
                nursery.start_soon(theirs.do_handshake)
            await still_good(ours, theirs)

    await at_every_step(scenario)


################################################################
# receive_some: nothing is lost; call it again
################################################################


@pytest.mark.parametrize("max_bytes", [None, 7000])
async def test_receive_some_cancelled_loses_nothing(max_bytes: int | None, setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):
            received = bytearray()

            async def receive() -> None:
                while len(received) < len(REPLY) + len(SMALL):
                    part = await ours.receive_some(max_bytes)
                    assert part
                    received.extend(part)

            async def send() -> None:
                for part in (SMALL, REPLY):
                    await wait_all_tasks_blocked()
                    await theirs.send_all(part)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(send)
                await canceller.run(receive)
                await receive()
            assert received == SMALL + REPLY
            await still_good(ours, theirs)

    await at_every_step(scenario)


async def test_receive_some_cancelled_finds_the_end_again(setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):

            async def end() -> None:
                await wait_all_tasks_blocked()
                await theirs.send_eof()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(end)
                await canceller.run(ours.receive_some)
                assert await ours.receive_some() == b""
            assert await ours.receive_some() == b""
            await together(partial(ours.send_all, SMALL), partial(receive_exactly, theirs, SMALL))
            await together(ours.aclose, theirs.aclose)

    await at_every_step(scenario)


async def test_receive_some_cancelled_in_the_handshake_goes_on(setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.pair() as (ours, theirs):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(theirs.send_all, SMALL)
                if await canceller.run(partial(receive_exactly, ours, SMALL)) and not (
                    await works(ours, partial(receive_exactly, ours, SMALL))
                ):
                    nursery.cancel_scope.cancel()
                    return
            await still_good(ours, theirs)

    await at_every_step(scenario)


################################################################
# send_all: what was encrypted is committed, and bytes_committed tells how much that is
################################################################

payloads = pytest.mark.parametrize("payload", [SMALL, LARGE], ids=["small", "large"])


@payloads
async def test_send_all_cancelled_goes_on_where_bytes_committed_says(
    payload: bytes, setup: Setup
) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):
            reader = Reader(theirs)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.run)
                cancelled = await canceller.run(partial(ours.send_all, payload))
                committed = ours.bytes_committed
                assert cancelled or committed == len(payload)
                rest = payload[committed:] + SMALL
                sending_works = await works(ours, partial(ours.send_all, rest))
                await receiving_works(ours, theirs)
                await ours.aclose()
            if sending_works:
                assert ours.bytes_committed == len(payload + SMALL)
                reader.assert_clean(payload + SMALL)
            else:
                reader.assert_start_of(payload[:committed])

    await at_every_step(scenario)


@payloads
async def test_send_all_cancelled_leaves_receiving_alive(payload: bytes, setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):
            # Nobody reads what is sent, so that what is committed stays stuck.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(theirs.send_all, REPLY)
                with trio.CancelScope() as blocked:
                    nursery.start_soon(_cancel_when_blocked, blocked)
                    await canceller.run(partial(ours.send_all, payload))
                canceller.caught |= blocked.cancelled_caught
                await receive_exactly(ours, REPLY)
            await receiving_works(ours, theirs)

    await at_every_step(scenario)


async def _cancel_when_blocked(scope: trio.CancelScope) -> None:
    await wait_all_tasks_blocked()
    scope.cancel()


@over(SAFE_TRANSPORTS)
async def test_send_all_cancelled_is_sent_while_receiving(setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):
            reader = Reader(theirs)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.run)
                await canceller.run(partial(ours.send_all, LARGE))
                committed = ours.bytes_committed

                async def reply() -> None:  # once all that was committed has arrived
                    while len(reader.received) < committed:
                        await wait_all_tasks_blocked()
                    await theirs.send_all(SMALL)

                await together(reply, partial(receive_exactly, ours, SMALL))
                assert ours.connection.bytes_to_send == 0
                assert ours.bytes_committed == committed
                await ours.aclose()
            reader.assert_ended_after(committed)

    await at_every_step(scenario)


@pytest.mark.parametrize("end", ["send_eof", "aclose"])
@over(SAFE_TRANSPORTS)
async def test_send_all_cancelled_is_sent_before_the_end(end: str, setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):
            reader = Reader(theirs, closes=end == "aclose")
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.run)
                await canceller.run(partial(ours.send_all, LARGE))
                committed = ours.bytes_committed
                await getattr(ours, end)()
            if end == "send_eof":  # which says that this is all
                reader.assert_clean(LARGE[:committed])
            else:
                reader.assert_ended_after(committed)
            await together(ours.aclose, theirs.aclose)

    await at_every_step(scenario)


@over(SAFE_TRANSPORTS)
async def test_send_all_cancelled_again_and_again_sends_everything_once(setup: Setup) -> None:
    chance = random.Random(3)
    async with setup.established() as (ours, theirs):
        reader = Reader(theirs)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reader.run)
            with trio.fail_after(5):
                while ours.bytes_committed < len(LARGE):
                    # A memoryview, so that it is seen that nothing holds on to it.
                    rest = bytearray(LARGE[ours.bytes_committed :])
                    canceller = Canceller(chance.randrange(1, 12))
                    await canceller.run(partial(ours.send_all, memoryview(rest)))
                    rest[:] = bytes(len(rest))  # what was committed is not looked at any more
                await ours.aclose()
        reader.assert_clean(LARGE)


async def test_send_all_cancelled_in_the_handshake_has_sent_nothing(setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.pair() as (ours, theirs):
            reader = Reader(theirs)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.run)
                await canceller.run(partial(ours.send_all, SMALL))
                committed = ours.bytes_committed
                assert committed == 0 or ours.connection.handshake is not None
                rest = SMALL[committed:] + SMALL
                sending_works = await works(ours, partial(ours.send_all, rest))
                await ours.aclose()
                assert is_closed(ours.transport_stream)
            if sending_works:
                reader.assert_clean(SMALL + SMALL)
            else:
                reader.assert_start_of(SMALL)

    await at_every_step(scenario)


@over(SAFE_TRANSPORTS)
async def test_wait_send_all_might_not_block_cancelled_changes_nothing(setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):
            await canceller.run(ours.wait_send_all_might_not_block)
            await ours.wait_send_all_might_not_block()
            await still_good(ours, theirs)

    await at_every_step(scenario)


################################################################
# send_eof, unwrap: call it again
################################################################


async def test_send_eof_cancelled_goes_on_when_called_again(setup: Setup) -> None:
    await send_eof_goes_on(setup, backlog=False)


@over(SAFE_TRANSPORTS)
async def test_send_eof_cancelled_behind_a_cancelled_send_goes_on(setup: Setup) -> None:
    await send_eof_goes_on(setup, backlog=True)


async def send_eof_goes_on(setup: Setup, *, backlog: bool) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):
            reader = Reader(theirs, closes=False)
            async with trio.open_nursery() as nursery:
                if backlog:
                    async with trio.open_nursery() as sending:
                        sending.start_soon(ours.send_all, LARGE)
                        await _cancel_when_blocked(sending.cancel_scope)
                committed = ours.bytes_committed
                nursery.start_soon(reader.run)
                await canceller.run(ours.send_eof)
                sending_works = await works(ours, ours.send_eof)
                if sending_works:
                    with pytest.raises(trio.ClosedResourceError):
                        await ours.send_all(SMALL)
                await receiving_works(ours, theirs)
                nursery.start_soon(theirs.send_eof)
                assert await ours.receive_some() == b""
                if not sending_works:
                    await ours.aclose()
            await together(ours.aclose, theirs.aclose)
            if sending_works:
                reader.assert_clean(LARGE[:committed])
            else:
                assert reader.received == b""

    await at_every_step(scenario)


async def test_unwrap_cancelled_goes_on_when_called_again(setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):
            transport, result = ours.transport_stream, None
            await ours.send_all(SMALL)

            async def unwrap() -> None:
                nonlocal result
                result = await ours.unwrap()

            async def peer() -> None:
                await wait_all_tasks_blocked()
                await receive_exactly(theirs, SMALL)
                assert await theirs.receive_some() == b""
                await wait_all_tasks_blocked()
                their_transport, trailing = await theirs.unwrap()
                assert trailing == b""
                await their_transport.send_all(b"in plain")
                received = bytearray()
                while len(received) < len(REPLY):
                    received += await their_transport.receive_some(len(REPLY) - len(received))
                assert received == REPLY

            async with trio.open_nursery() as nursery:
                nursery.start_soon(peer)
                if await canceller.run(unwrap):
                    assert ours.transport_stream is transport
                    if not await works(ours, unwrap):
                        nursery.cancel_scope.cancel()
                        await receiving_works(ours, theirs)
                        return
                assert result is not None
                unwrapped, data = result
                assert unwrapped is transport
                assert ours.transport_stream is None
                while len(data) < len(b"in plain"):
                    data += await unwrapped.receive_some()
                assert data == b"in plain"
                await unwrapped.send_all(REPLY)

    await at_every_step(scenario)


@over(SAFE_TRANSPORTS)
async def test_unwrap_cancelled_leaves_receiving_alive(setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):
            async with trio.open_nursery() as nursery:
                with trio.CancelScope() as blocked:
                    nursery.start_soon(_cancel_when_blocked, blocked)
                    await canceller.run(ours.unwrap)
                canceller.caught |= blocked.cancelled_caught
            reader = Reader(theirs, closes=False)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.run)
                await receiving_works(ours, theirs)
                await ours.send_eof()
            reader.assert_clean(b"")
            await together(ours.unwrap, theirs.unwrap)

    await at_every_step(scenario)


################################################################
# aclose: the transport is closed at once, after one attempt to say goodbye
################################################################


async def test_aclose_cancelled_has_closed_the_transport(setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):
            reader = Reader(theirs)
            async with trio.open_nursery() as nursery:
                await ours.send_all(SMALL)
                nursery.start_soon(reader.run)
                await canceller.run(ours.aclose)
                assert is_closed(ours.transport_stream)
                await ours.aclose()
                for operation in (ours.receive_some, ours.send_eof, ours.do_handshake):
                    with pytest.raises(trio.ClosedResourceError):
                        await operation()
            if setup.kind in SOCKETS or not canceller.caught:
                reader.assert_clean(SMALL)
            else:
                reader.assert_start_of(SMALL)

    await at_every_step(scenario)


@over(SAFE_TRANSPORTS)
async def test_aclose_cancelled_behind_a_cancelled_send(setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):
            reader = Reader(theirs)
            async with trio.open_nursery() as nursery:
                async with trio.open_nursery() as sending:
                    sending.start_soon(ours.send_all, LARGE)
                    await _cancel_when_blocked(sending.cancel_scope)
                committed = ours.bytes_committed
                nursery.start_soon(reader.run)
                await canceller.run(ours.aclose)
                assert is_closed(ours.transport_stream)
            if canceller.caught:
                reader.assert_start_of(LARGE[:committed])
            else:
                reader.assert_clean(LARGE[:committed])

    await at_every_step(scenario)


async def test_aclose_cancelled_before_the_handshake(setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.pair() as (ours, theirs):
            reader = Reader(theirs)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reader.run)
                await canceller.run(ours.aclose)
                assert is_closed(ours.transport_stream)
            if canceller.caught:
                reader.assert_start_of(b"")
            else:
                reader.assert_clean(b"")

    await at_every_step(scenario)


async def test_aclose_cancelled_sets_free_who_is_blocked(setup: Setup) -> None:
    async def scenario(canceller: Canceller) -> None:
        async with setup.established() as (ours, theirs):

            async def expect_closed(operation: Operation) -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await operation()

            reader = Reader(theirs)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(expect_closed, ours.receive_some)
                if setup.kind in SOCKETS:  # elsewhere it never blocks for long
                    nursery.start_soon(expect_closed, partial(ours.send_all, LARGE))
                await wait_all_tasks_blocked()
                nursery.start_soon(reader.run)
                await canceller.run(ours.aclose)
                assert is_closed(ours.transport_stream)
            reader.assert_start_of(LARGE[: ours.bytes_committed])

    await at_every_step(scenario)


class CancelsWhatReceives(trio.abc.Stream):
    """A transport that cancels a scope as soon as it has received something."""

    def __init__(self, stream: trio.abc.Stream, scope: trio.CancelScope) -> None:
        self._stream = stream
        self._scope = scope

    async def send_all(self, data: Data) -> None:
        await self._stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        raise NotImplementedError

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        data = await self._stream.receive_some(max_bytes)
        self._scope.cancel()
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()


async def test_a_cancelled_send_that_has_not_begun_breaks_nothing(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    near, far = memory_stream_pair()
    scope = trio.CancelScope()
    client, server = wrap_pair(
        near, CancelsWhatReceives(far, scope), client_context, server_context
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        with scope:
            await server.do_handshake()  # cancelled with the client's hello, before its answer
        assert scope.cancelled_caught
        await server.do_handshake()


class SendsInANursery(trio.abc.Stream):
    """A stream that counts, and whose exceptions come in groups."""

    is_cancel_safe = True

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self.bytes_committed = 0
        self.is_blocked = False

    def send_nowait(self, data: Data) -> int:
        return 0

    async def send_all(self, data: Data) -> None:
        async with trio.open_nursery() as nursery:
            if self.is_blocked:
                nursery.start_soon(trio.sleep_forever)
                await trio.sleep_forever()
            await self.stream.send_all(data)
            self.bytes_committed += len(data)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


async def test_a_cancellation_that_comes_in_a_group_breaks_nothing(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    with trio.fail_after(5):
        async with tcp_pair() as (client_transport, server_transport):
            transport = SendsInANursery(client_transport)
            client, server = wrap_pair(transport, server_transport, client_context, server_context)
            await both_handshakes(client, server)
            transport.is_blocked = True
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, b"cancelled")
                await wait_all_tasks_blocked()
                nursery.cancel_scope.cancel()
            transport.is_blocked = False
            await client.send_all(b", and on its way")
            assert await server.receive_some() == b"cancelled, and on its way"


async def test_an_exception_that_is_kept_does_not_lock_the_data(setup: Setup) -> None:
    """The traceback holds the frames that have sent, and a bytearray that is viewed can't grow."""
    async with setup.established() as (ours, theirs):
        data = bytearray(LARGE)
        await together(ours.send_eof, partial(theirs.receive_some, 1))
        with pytest.raises(trio.ClosedResourceError) as caught:
            await ours.send_all(data)
        data += b"!"
        assert caught.tb is not None  # it is still alive
