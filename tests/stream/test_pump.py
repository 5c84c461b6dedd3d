"""A transport whose writes belong to a task of their own."""

from __future__ import annotations

import gc
import math
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext, suppress
from typing import Any

import pytest
import trio
import trio.testing

from tests.helpers import NAME, both_handshakes, counts_references, tcp_pair, wrap_pair
from trio_tlsbio import PumpedStream, TLSError, TLSStream, TruncationError, open_pump


class Lockstep(trio.abc.Stream):
    """A memory stream that sends only when it is allowed to."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.gate = trio.Event()
        self.gate.set()
        self.sends: list[bytes] = []

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.gate.wait()
        self.sends.append(bytes(data))
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        raise AssertionError("the pump has a buffer of its own")

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()


def make_pair() -> tuple[Lockstep, trio.abc.Stream]:
    ours, theirs = trio.testing.memory_stream_pair()
    return Lockstep(ours), theirs


async def test_a_stream_is_a_stream() -> None:
    async with trio.open_nursery() as nursery:
        done = trio.Event()

        async def pumped(stream: trio.abc.Stream, task_status: Any) -> None:
            async with open_pump(stream, max_buffer=5000) as pumped_stream:
                task_status.started(pumped_stream)
                await done.wait()

        async def maker() -> tuple[PumpedStream, PumpedStream]:
            ours, theirs = trio.testing.memory_stream_pair()
            return await nursery.start(pumped, ours), await nursery.start(pumped, theirs)

        async def clogged_maker() -> tuple[PumpedStream, PumpedStream]:
            ours, theirs = trio.testing.lockstep_stream_pair()
            pair = await nursery.start(pumped, ours), await nursery.start(pumped, theirs)
            for stream in pair:
                await stream.send_all(bytes(5000))
            return pair

        await trio.testing.check_two_way_stream(maker, clogged_maker)
        nursery.cancel_scope.cancel()


async def test_a_cancelled_send_gives_up_only_the_wait() -> None:
    ours, theirs = make_pair()
    ours.gate = trio.Event()
    async with open_pump(ours, max_buffer=4) as stream:
        with trio.move_on_after(0.01) as scope:
            await stream.send_all(b"abcdefgh")
        assert scope.cancelled_caught
        assert stream.bytes_committed == 4
        assert stream.send_nowait(b"x") == 0
        ours.gate.set()
        await stream.send_all(b"EFGH")
        assert stream.bytes_committed == 8
    received = b""
    while len(received) < 8:
        received += await theirs.receive_some()
    assert received == b"abcdEFGH"


async def test_the_buffer_is_bounded_and_coalesces() -> None:
    ours, _ = make_pair()
    ours.gate = trio.Event()
    async with open_pump(ours, max_buffer=100) as stream:
        for _ in range(10):
            await stream.send_all(b"0123456789")
        with trio.move_on_after(0.01) as scope:
            await stream.wait_send_all_might_not_block()
        assert scope.cancelled_caught
        ours.gate.set()
        await stream.wait_send_all_might_not_block()
    assert len(ours.sends) <= 2
    assert b"".join(ours.sends) == b"0123456789" * 10


async def test_leaving_sends_the_rest_and_keeps_the_transport() -> None:
    ours, theirs = make_pair()
    async with open_pump(ours) as stream:
        await stream.send_all(b"pumped ")
    await ours.send_all(b"and direct")
    assert await theirs.receive_some() == b"pumped and direct"


async def test_errors_of_the_transport_reach_who_sends() -> None:
    ours, theirs = make_pair()
    async with open_pump(ours) as stream:
        await theirs.aclose()
        await stream.send_all(b"x")
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(2):
            with pytest.raises(trio.BrokenResourceError, match="broke while sending"):
                await stream.send_all(b"y")


async def test_what_the_block_raises_is_not_wrapped() -> None:
    ours, _ = make_pair()
    with pytest.raises(KeyError):
        async with open_pump(ours):
            raise KeyError
    with trio.CancelScope() as scope:
        async with open_pump(ours):
            scope.cancel()
            with pytest.raises(trio.Cancelled):
                await trio.sleep_forever()
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_closing_sends_the_rest_first() -> None:
    ours, theirs = make_pair()
    ours.gate = trio.Event()
    async with open_pump(ours) as stream, trio.open_nursery() as nursery:
        await stream.send_all(b"last words")
        nursery.start_soon(stream.aclose)
        await trio.testing.wait_all_tasks_blocked()
        ours.gate.set()
        assert await theirs.receive_some() == b"last words"
        assert await theirs.receive_some() == b""
    with pytest.raises(trio.ClosedResourceError):
        await stream.send_all(b"x")


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_buffer": 0}, ValueError),
        ({"max_buffer": 1.5}, TypeError),
        ({"close_timeout": -1}, ValueError),
        ({"close_timeout": float("nan")}, ValueError),
    ],
)
async def test_wrong_arguments(options: dict[str, Any], error: type[Exception]) -> None:
    with pytest.raises(error):
        async with open_pump(make_pair()[0], **options):
            pass


################################################################
# Leaving the block
################################################################


async def all_from(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([bytes(part) async for part in stream])


async def is_open(stream: Lockstep) -> bool:
    stream.gate.set()
    try:
        await stream.send_all(b"")
    except trio.ClosedResourceError:
        return False
    return True


WAYS = ["normally", "exception", "cancelled", "Ctrl-C"]


@asynccontextmanager
async def left(how: str) -> AsyncIterator[trio.CancelScope]:
    """Run code that is left in one of the ways."""
    errors = {"exception": KeyError, "Ctrl-C": KeyboardInterrupt}
    raised = pytest.raises(errors[how]) if how in errors else nullcontext()
    with trio.CancelScope() as scope, raised:
        yield scope
    assert scope.cancelled_caught is (how == "cancelled")


async def go(how: str, scope: trio.CancelScope) -> None:
    if how == "exception":
        raise KeyError
    if how == "Ctrl-C":
        raise KeyboardInterrupt
    if how == "cancelled":
        scope.cancel()
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("has_begun", [True, False])
async def test_leaving_sends_what_was_committed(
    how: str, has_begun: bool, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = make_pair()
    async with left(how) as scope, open_pump(ours) as stream:
        await stream.send_all(b"commit")
        if has_begun:
            await trio.testing.wait_all_tasks_blocked()
        assert stream.send_nowait(b"ted") == 3
        await go(how, scope)
    assert trio.current_time() == 0
    assert await is_open(ours)
    await ours.aclose()
    assert await all_from(theirs) == b"committed"


@pytest.mark.parametrize("how", WAYS)
async def test_leaving_with_nothing_to_send_leaves_the_transport_open(how: str) -> None:
    ours, _ = make_pair()
    async with left(how) as scope, open_pump(ours) as stream:
        await stream.send_all(b"all")
        await trio.testing.wait_all_tasks_blocked()
        await go(how, scope)
    assert await is_open(ours)


@pytest.mark.parametrize("how", ["exception", "cancelled", "Ctrl-C"])
@pytest.mark.parametrize("close_timeout", [5.0, 0.0, None])
async def test_leaving_closes_a_transport_that_is_stuck(
    how: str, close_timeout: float | None, autojump_clock: trio.testing.MockClock
) -> None:
    ours, theirs = make_pair()
    ours.gate = trio.Event()
    options: dict[str, Any] = {} if close_timeout is None else {"close_timeout": close_timeout}
    async with left(how) as scope, open_pump(ours, **options) as stream:
        await stream.send_all(b"committed")
        await trio.testing.wait_all_tasks_blocked()
        await go(how, scope)
    limit = 5 if close_timeout is None else close_timeout
    assert trio.current_time() == (limit if how == "exception" else 0)
    assert await all_from(theirs) == b""
    assert not await is_open(ours)
    with pytest.raises(trio.ClosedResourceError, match="block of open_pump"):
        await stream.send_all(b"x")


async def test_a_block_that_raises_waits_until_all_is_sent(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = make_pair()
    ours.gate = trio.Event()

    async def open_gate() -> None:
        await trio.sleep(4)
        ours.gate.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(open_gate)
        async with left("exception"), open_pump(ours) as stream:
            await stream.send_all(b"committed")
            raise KeyError
    assert await is_open(ours)
    await ours.aclose()
    assert await all_from(theirs) == b"committed"


@pytest.mark.parametrize("how", ["normally", "exception"])
async def test_leaving_that_is_cancelled_closes_the_transport(how: str) -> None:
    ours, theirs = make_pair()
    ours.gate = trio.Event()
    with trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def cancel() -> None:
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()

            with pytest.raises(KeyError) if how == "exception" else nullcontext():
                async with open_pump(ours, close_timeout=math.inf) as stream:
                    await stream.send_all(b"committed")
                    await go(how, scope)
            assert how == "exception"
    assert await all_from(theirs) == b""
    assert not await is_open(ours)


async def test_no_other_task_can_keep_a_block_from_ending() -> None:
    ours, theirs = make_pair()
    ours.gate = trio.Event()

    async def send_more(stream: PumpedStream) -> None:
        await stream.send_all(b"more")
        await stream.send_all(b"more")
        with pytest.raises(trio.ClosedResourceError, match="block of open_pump"):
            await stream.send_all(b"more")
        ours.gate.set()

    async with trio.open_nursery() as nursery, open_pump(ours, max_buffer=10) as stream:
        nursery.start_soon(send_more, stream)
        await trio.testing.wait_all_tasks_blocked()
    await ours.aclose()
    assert await all_from(theirs) == (b"more" * 3)[:10]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("is_known", [True, False])
async def test_leaving_over_a_broken_transport(how: str, is_known: bool) -> None:
    """It is closed, and the last to report the error is the end of the block."""
    ours, theirs = make_pair()
    is_raised = how == "normally" and not is_known
    with pytest.raises(trio.BrokenResourceError) if is_raised else nullcontext():
        async with left(how) as scope, open_pump(ours) as stream:
            await theirs.aclose()
            await stream.send_all(b"x")
            if is_known:
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BrokenResourceError, match="broke while sending"):
                    stream.send_nowait(b"y")
            await go(how, scope)
    assert not await is_open(ours)


@counts_references
async def test_an_error_of_the_transport_is_freed_with_the_stream() -> None:
    class Broken(trio.BrokenResourceError):
        pass

    references: list[weakref.ref[Broken]] = []

    class Breaks(Lockstep):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            error = Broken("it broke")
            references.append(weakref.ref(error))
            try:
                raise error
            finally:
                del error

    gc.disable()
    try:
        with suppress(trio.BrokenResourceError):
            async with open_pump(Breaks(make_pair()[0])) as stream:
                await stream.send_all(b"x")
                await trio.testing.wait_all_tasks_blocked()
                with pytest.raises(trio.BrokenResourceError, match="it broke"):
                    await stream.send_all(b"y")
        del stream
        await trio.lowlevel.checkpoint()
        assert [reference() for reference in references] == [None]
    finally:
        gc.enable()


################################################################
# Closing
################################################################


async def test_closing_in_a_cancelled_scope_sends_what_needs_no_waiting() -> None:
    ours, theirs = make_pair()
    async with open_pump(ours) as stream:
        await stream.send_all(b"last words")
        await trio.aclose_forcefully(stream)
        assert await all_from(theirs) == b"last words"


async def test_closing_in_a_cancelled_scope_does_not_wait(
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, _ = make_pair()
    ours.gate = trio.Event()
    async with open_pump(ours) as stream:
        await stream.send_all(b"last words")
        await trio.aclose_forcefully(stream)
        assert trio.current_time() == 0
        assert not await is_open(ours)


async def test_whoever_closes_at_once_need_not_wait_for_another_closer() -> None:
    ours, theirs = make_pair()
    ours.gate = trio.Event()
    async with open_pump(ours) as stream, trio.open_nursery() as nursery:
        await stream.send_all(b"stuck")
        nursery.start_soon(stream.aclose)
        await trio.testing.wait_all_tasks_blocked()
        await trio.aclose_forcefully(stream)
        assert await all_from(theirs) == b""


async def test_closing_wakes_a_task_that_waits_for_room() -> None:
    ours, theirs = make_pair()
    ours.gate = trio.Event()
    async with open_pump(ours, max_buffer=4) as stream, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError, match="this stream was closed"):
                await stream.send_all(b"abcdefgh")

        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(stream.aclose)
        await trio.testing.wait_all_tasks_blocked()
        ours.gate.set()
        assert await all_from(theirs) == b"abcd"


@pytest.mark.parametrize("how", ["aclose", "abort"])
async def test_closing_wakes_a_task_that_waits_for_room_while_the_transport_is_stuck(
    how: str,
) -> None:
    class Shielded(Lockstep):
        """Half of a send would break it, so it does not let itself be cancelled."""

        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            with trio.CancelScope(shield=True):
                await super().send_all(data)

    ours = Shielded(trio.testing.memory_stream_pair()[0])
    ours.gate = trio.Event()
    woken = trio.Event()
    async with open_pump(ours, max_buffer=4) as stream, trio.open_nursery() as nursery:

        @nursery.start_soon
        async def send() -> None:
            with pytest.raises(trio.ClosedResourceError, match="this stream was closed"):
                await stream.send_all(b"abcdefgh")
            woken.set()

        await trio.testing.wait_all_tasks_blocked()
        if how == "aclose":
            nursery.start_soon(stream.aclose)
        else:
            stream.abort()
        await trio.testing.wait_all_tasks_blocked()
        is_woken = woken.is_set()
        ours.gate.set()
    assert is_woken


async def test_a_closed_stream_need_not_report_that_the_transport_broke() -> None:
    ours, theirs = make_pair()
    async with open_pump(ours) as stream:
        await theirs.aclose()
        await stream.send_all(b"x")
        await stream.aclose()
    assert not await is_open(ours)


async def test_the_stream_of_a_pump_that_has_ended_says_so() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    ours.send_stream.send_all_hook = trio.sleep_forever
    with trio.CancelScope() as scope:
        async with open_pump(ours) as pumped:
            await pumped.send_all(b"stuck")
            scope.cancel()
    with pytest.raises(trio.ClosedResourceError, match="open_pump"):
        await pumped.send_all(b"x")
    await pumped.aclose()


async def test_ending_tls_at_once_says_so_if_that_needs_no_waiting(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    ours, theirs = make_pair()
    with trio.CancelScope() as scope:
        async with open_pump(ours) as pumped:
            client, server = wrap_pair(pumped, theirs, client_context, server_context)
            await both_handshakes(client, server)
            async with client:
                await client.send_all(b"last words")
                scope.cancel()
                await trio.sleep_forever()
    assert await all_from(server) == b"last words"


@pytest.mark.parametrize("how", WAYS)
async def test_tls_that_is_cut_in_a_record_is_cut_for_the_peer(
    how: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    limited = Limited(ours)
    with trio.move_on_after(10) if how == "normally" else nullcontext():
        async with left(how) as scope, open_pump(limited) as pumped:
            client, server = wrap_pair(pumped, theirs, client_context, server_context)
            await both_handshakes(client, server)
            limited.room = 100
            await client.send_all(bytes(1000))
            await trio.testing.wait_all_tasks_blocked()
            await go(how, scope)
    with pytest.raises(TruncationError):
        await server.receive_some()


class Limited(Lockstep):
    """A stream that sends some bytes, and is then stuck."""

    room = 1_000_000

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        part = bytes(data[: self.room])
        self.room -= len(part)
        await self.stream.send_all(part)
        if len(part) < len(data):
            await trio.sleep_forever()


################################################################
# Without waiting
################################################################


async def test_receiving_without_waiting() -> None:
    async with tcp_pair() as (ours, theirs), open_pump(ours) as pumped, open_pump(pumped) as outer:
        assert pumped.receive_nowait() is None
        await theirs.send_all(b"one")
        await trio.lowlevel.wait_readable(ours.socket)
        assert outer.receive_nowait() == b"one"
        await theirs.aclose()
        await trio.lowlevel.wait_readable(ours.socket)
        assert pumped.receive_nowait() == b""


async def test_receiving_without_waiting_from_a_stream_that_cannot() -> None:
    ours, theirs = make_pair()
    await theirs.send_all(b"one")
    async with open_pump(ours) as pumped:
        assert pumped.receive_nowait() is None
        assert await pumped.receive_some() == b"one"


async def test_a_stream_over_a_pump_knows_what_has_arrived(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as (ours, theirs), open_pump(ours) as pumped:
        client, server = wrap_pair(pumped, theirs, client_context, server_context)
        await both_handshakes(client, server)
        await server.send_all(b"one")
        with trio.fail_after(10):
            while not client.is_readable():
                await trio.lowlevel.wait_readable(ours.socket)
        assert client.receive_nowait() == b"one"


async def test_two_senders_are_refused() -> None:
    ours, _ = make_pair()
    ours.gate = trio.Event()
    async with open_pump(ours, max_buffer=4) as stream, trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, b"abcdefgh")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            stream.send_nowait(b"between")
        with pytest.raises(trio.BusyResourceError):
            await stream.send_all(b"between")
        ours.gate.set()


################################################################
# TLS over it
################################################################


async def test_a_send_that_is_cancelled_in_the_midst_breaks_a_stream_without_a_pump(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    ours, theirs = make_pair()
    client, server = wrap_pair(ours, theirs, client_context, server_context)
    await both_handshakes(client, server)
    ours.gate = trio.Event()
    with trio.move_on_after(0.01):
        await client.send_all(b"lost")
    ours.gate.set()
    with pytest.raises(TLSError, match="cancelled half-way"):
        await client.send_all(b"x")
    await server.send_all(b"receiving goes on")
    assert await client.receive_some() == b"receiving goes on"


async def test_with_a_pump_it_does_not(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    ours, theirs = make_pair()
    async with open_pump(ours, max_buffer=1000) as pumped:
        client: TLSStream[PumpedStream] = TLSStream(pumped, client_context, server_hostname=NAME)
        server = TLSStream(theirs, server_context, server_side=True)
        await both_handshakes(client, server)
        ours.gate = trio.Event()
        data = bytes(range(250)) * 2000  # more than is encrypted at once
        with trio.move_on_after(0.01):
            await client.send_all(data)
        sent = client.bytes_committed
        assert 0 < sent < len(data)
        ours.gate.set()
        await server.send_all(b"receiving goes on")
        assert await client.receive_some() == b"receiving goes on"

        async def go_on() -> None:
            await client.send_all(data[sent:])
            await client.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(go_on)
            received = b"".join([part async for part in server])
        assert received == data


async def test_closing_over_a_pump_is_bounded(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with open_pump(ours) as pumped:
        client = TLSStream(pumped, client_context, server_hostname=NAME, close_timeout=3)
        server = TLSStream(theirs, server_context, server_side=True)
        await both_handshakes(client, server)
        ours.send_stream.send_all_hook = trio.sleep_forever
        await client.send_all(b"stuck")
        start = trio.current_time()
        await client.aclose()
        assert trio.current_time() - start <= 3
