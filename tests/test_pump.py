"""A transport whose writes belong to a task of their own."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
import trio.testing

from trio_tlsbio import PumpedStream, TLSError, TLSStream, open_pump

from .helpers import NAME, both_handshakes, wrap_pair


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


def test_the_buffer_needs_room() -> None:
    async def main() -> None:
        async with open_pump(make_pair()[0], max_buffer=0):
            pass

    with pytest.raises(ValueError, match="max_buffer"):
        trio.run(main)


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
