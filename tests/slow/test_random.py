"""Random conversations with random cancellations, against a model of what must have arrived.

Each direction carries a numbered pattern, so that a byte that is lost, doubled or out of place is
seen. What was sent is what ``bytes_committed`` says, however often a send was cancelled.
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import Any, TypeAlias

import attrs
import pytest
import trio
import trustme
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.cancelling import Canceller
from tests.helpers import VERSIONS, client_context_for, server_context_for, tcp_pair, wrap_pair
from trio_tlsbio import TLSStream, open_pump

Operation: TypeAlias = Callable[[], Awaitable[object]]

PATTERN = b"".join(number.to_bytes(4, "big") for number in range(1_000_000))

################################################################
# What may happen
################################################################


@attrs.frozen
class Send:
    size: int


@attrs.frozen
class Receive:
    max_bytes: int | None


@attrs.frozen
class SendEOF:
    pass


@attrs.frozen
class Handshake:
    pass


@attrs.frozen
class WaitToSend:
    pass


Action: TypeAlias = Send | Receive | SendEOF | Handshake | WaitToSend


@attrs.frozen
class Move:
    """What one side does, and at which event it is cancelled, unless it is through before."""

    side: int
    action: Action
    cancelled_at: int | None


sizes = st.one_of(
    st.integers(0, 100),
    st.sampled_from([16383, 16384, 16385, 65535, 65536, 65537]),
    st.integers(0, 300_000),
)
actions = st.one_of(
    st.builds(Send, sizes),
    st.builds(Send, sizes),
    st.builds(Receive, st.none() | st.integers(1, 100_000)),
    st.builds(Receive, st.none() | st.integers(1, 100_000)),
    st.builds(Handshake),
    st.builds(WaitToSend),
    st.builds(SendEOF),
)
moves = st.builds(Move, st.integers(0, 1), actions, st.none() | st.integers(0, 30))

#: Steps: in each, some moves happen at once.
conversations = st.lists(st.lists(moves, min_size=1, max_size=4), min_size=2, max_size=15)


################################################################
# The streams, and what each must have received
################################################################


@attrs.define(eq=False)
class Side:
    """One side, with what its stream must be able to do by the model."""

    stream: TLSStream[Any]
    received: int = 0
    has_sent_eof: bool = False
    has_received_eof: bool = False
    is_sending: bool = False
    is_receiving: bool = False

    @property
    def sent(self) -> int:
        return self.stream.bytes_committed

    async def send(self, size: int) -> None:
        start = self.sent
        end = min(start + size, len(PATTERN))
        try:
            await self.stream.send_all(memoryview(PATTERN)[start:end])
        except trio.ClosedResourceError:
            assert self.has_sent_eof
        else:
            assert self.sent == end

    async def receive(self, max_bytes: int | None, other: Side) -> None:
        data = await self.stream.receive_some(max_bytes)
        assert max_bytes is None or len(data) <= max_bytes
        end = self.received + len(data)
        assert data == PATTERN[self.received : end], "bytes are lost, doubled or out of place"
        assert end <= other.sent, "more was received than was committed"
        self.received = end
        if not data:
            assert other.has_sent_eof
            assert self.received == other.sent
            self.has_received_eof = True
        else:
            assert not self.has_received_eof

    async def send_eof(self) -> None:
        self.has_sent_eof = True  # from its call on: it may be done also if it is cancelled
        await self.stream.send_eof()

    async def run(self, action: Action, other: Side) -> None:
        if isinstance(action, Receive):
            await self.receive(action.max_bytes, other)
        elif isinstance(action, Send):
            await self.send(action.size)
        elif isinstance(action, SendEOF):
            await self.send_eof()
        elif isinstance(action, Handshake):
            await self.stream.do_handshake()
        else:
            try:
                await self.stream.wait_send_all_might_not_block()
            except trio.ClosedResourceError:
                assert self.has_sent_eof

    async def move(self, move: Move, other: Side) -> None:
        """Make a move, unless another one in the same direction is under way."""
        direction = {Receive: "is_receiving", Handshake: ""}.get(type(move.action), "is_sending")
        if direction:
            if getattr(self, direction):
                return
            setattr(self, direction, True)
        try:
            operation = partial(self.run, move.action, other)
            if move.cancelled_at is None:
                await operation()
            else:
                await Canceller(move.cancelled_at).run(operation)
        finally:
            if direction:
                setattr(self, direction, False)


async def step(sides: tuple[Side, Side], moves: list[Move]) -> None:
    """Make moves at once, and cancel those that wait for what does not come."""
    async with trio.open_nursery() as nursery:
        for move in moves:
            nursery.start_soon(sides[move.side].move, move, sides[1 - move.side])
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()


async def finish(sides: tuple[Side, Side]) -> None:
    """Receive all that is on its way, and close. Now nothing may be missing."""

    async def end(side: Side, other: Side) -> None:
        await side.send_eof()

    async def receive(side: Side, other: Side) -> None:
        while not side.has_received_eof:
            await side.receive(None, other)

    both = (sides, sides[::-1])
    async with trio.open_nursery() as nursery:
        for side, other in both:
            nursery.start_soon(end, side, other)
            nursery.start_soon(receive, side, other)
    for side, other in both:
        assert side.received == other.sent
        assert await side.stream.receive_some() == b""
    async with trio.open_nursery() as nursery:
        for side in sides:
            nursery.start_soon(side.stream.aclose)


@asynccontextmanager
async def transports(kind: str) -> AsyncIterator[tuple[Any, Any]]:
    async with AsyncExitStack() as stack:
        if kind == "memory with a pump":
            ours, theirs = memory_stream_pair()
            yield (
                await stack.enter_async_context(open_pump(ours, max_buffer=10_000)),
                await stack.enter_async_context(open_pump(theirs, max_buffer=100_000)),
            )
        else:
            yield await stack.enter_async_context(tcp_pair())


async def converse(
    kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext], conversation: list[list[Move]]
) -> None:
    async with transports(kind) as pair:
        for _ in range(2 if kind == "tls in tls" else 1):
            pair = wrap_pair(*pair, *contexts)
        sides = (Side(pair[0]), Side(pair[1]))
        with trio.fail_after(20):
            for moves in conversation:
                await step(sides, moves)
            await finish(sides)


@pytest.fixture(scope="module")
def all_contexts(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> dict[str, tuple[ssl.SSLContext, ssl.SSLContext]]:
    return {
        name: (client_context_for(ca, version), server_context_for(server_cert, version))
        for name, version in VERSIONS.items()
    }


@pytest.mark.parametrize("version", list(VERSIONS))
@pytest.mark.parametrize("kind", ["tcp", "tls in tls", "memory with a pump"])
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
@given(conversation=conversations)
def test_random_conversation(
    kind: str,
    version: str,
    all_contexts: dict[str, tuple[ssl.SSLContext, ssl.SSLContext]],
    conversation: list[list[Move]],
) -> None:
    trio.run(converse, kind, all_contexts[version], conversation)
