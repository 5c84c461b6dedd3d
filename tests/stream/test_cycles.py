"""Nothing of a stream outlives its last use, also without the garbage collector.

A cycle would keep a dead connection, and its buffers, until the collector comes. Errors make them:
an exception that is kept holds its traceback, whose frames hold the stream.
"""

from __future__ import annotations

import gc
import ssl
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any, TypeAlias

import attrs
import pytest
import trio
import trustme
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import (
    both_handshakes,
    client_context_for,
    counts_references,
    reset,
    server_context_for,
    tcp_pair,
    wrap_pair,
)
from trio_tlsbio import PeerAlertError, TLSError, TLSStream

CLOSE_TIMEOUT = 0.05

pytestmark = counts_references


async def quietly(operation: Callable[..., Awaitable[object]], *args: object) -> None:
    with suppress(TLSError, trio.ClosedResourceError):
        await operation(*args)


@attrs.define(eq=False)
class Ends:
    """A stream, its peer, and the socket or pipe of the peer."""

    ours: TLSStream[Any]
    theirs: TLSStream[Any]
    their_transport: Any


async def truncated(ends: Ends) -> None:
    ends.their_transport.socket.close()
    for _ in range(2):
        await quietly(ends.ours.receive_some)
        await quietly(ends.ours.send_all, b"x")


async def reset_in_receiving(ends: Ends) -> None:
    reset(ends.their_transport)
    await quietly(ends.ours.receive_some)
    await quietly(ends.ours.send_all, b"x")


async def reset_in_sending(ends: Ends) -> None:
    reset(ends.their_transport)
    for _ in range(3):
        await quietly(ends.ours.send_all, b"x")
    await quietly(ends.ours.receive_some)


async def gone(ends: Ends) -> None:
    await ends.ours.send_all(b"x")
    await ends.theirs.receive_some()
    ends.their_transport.socket.close()
    for _ in range(3):
        await trio.sleep(0.001)
        await quietly(ends.ours.send_all, b"x")


async def cancelled(ends: Ends) -> None:
    for operation in (
        partial(ends.ours.send_all, bytes(8_000_000)),
        ends.ours.receive_some,
        ends.ours.unwrap,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(operation)
            await wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()


async def damaged(ends: Ends) -> None:
    await ends.theirs.transport_stream.send_all(b"\x17\x03\x03\x00\x20" + bytes(32))
    await quietly(ends.ours.receive_some)
    await quietly(ends.ours.receive_some)
    await quietly(ends.ours.send_all, b"x")
    await quietly(ends.theirs.receive_some)


async def closed_while_blocked(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(quietly, ends.ours.receive_some)
        nursery.start_soon(quietly, ends.ours.send_all, bytes(8_000_000))
        await wait_all_tasks_blocked()
        await ends.ours.aclose()


async def aborted_while_blocked(ends: Ends) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(quietly, ends.ours.receive_some)
        nursery.start_soon(quietly, ends.ours.send_all, bytes(8_000_000))
        await wait_all_tasks_blocked()
        ends.ours.abort()
    await quietly(ends.theirs.receive_some)


async def unwrap_finds_data(ends: Ends) -> None:
    await ends.theirs.send_all(b"data")
    for _ in range(2):
        with pytest.raises(TLSError):
            await ends.ours.unwrap()


async def unwrap_is_truncated(ends: Ends) -> None:
    await ends.their_transport.send_eof()
    for _ in range(2):
        with pytest.raises(TLSError):
            await ends.ours.unwrap()


async def nothing(_: Ends) -> None:
    pass


Scenario: TypeAlias = Callable[[Ends], Awaitable[None]]


@pytest.mark.sample(4)
@pytest.mark.parametrize("layers", [1, 2], ids=["tls", "tls in tls"])
@pytest.mark.parametrize(
    "scenario",
    [
        nothing,
        truncated,
        reset_in_receiving,
        reset_in_sending,
        gone,
        cancelled,
        damaged,
        closed_while_blocked,
        aborted_while_blocked,
        unwrap_finds_data,
        unwrap_is_truncated,
    ],
)
async def test_nothing_is_alive_after(
    scenario: Scenario,
    layers: int,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async def run() -> list[weakref.ref[Any]]:
        async with tcp_pair() as transports:
            pair: tuple[Any, Any] = transports
            references: list[weakref.ref[Any]] = []
            for _ in range(layers):
                pair = wrap_pair(*pair, client_context, server_context, close_timeout=CLOSE_TIMEOUT)
                await both_handshakes(*pair)
                references += parts(*pair)
            await scenario(Ends(*pair, transports[1]))
            for stream in pair:
                await trio.aclose_forcefully(stream)
        return references

    await check(run)


def parts(*streams: TLSStream[Any]) -> list[weakref.ref[Any]]:
    """Return weak references to streams and what they are made of."""
    return [
        weakref.ref(part)
        for stream in streams
        for part in (stream, stream.connection, stream._transport)
    ]


async def check(run: Callable[[], Awaitable[list[weakref.ref[Any]]]]) -> None:
    """See that the references that ``run()`` returns are dead without a collection."""
    gc.collect()
    gc.disable()
    try:
        references = await run()
        await wait_all_tasks_blocked()
        alive = [reference() for reference in references if reference() is not None]
        names = [type(part).__name__ for part in alive]
        del alive
    finally:
        gc.enable()
    assert references
    assert not names


################################################################
# Handshakes that fail, and what closing raises
################################################################


@pytest.mark.parametrize("refused", ["server", "client", "nobody hears"])
async def test_nothing_is_alive_after_a_refusal(
    refused: str, ca: trustme.CA, server_cert: trustme.LeafCert, tls_version: ssl.TLSVersion
) -> None:
    client_context = (
        ssl.create_default_context() if refused == "server" else client_context_for(ca, tls_version)
    )
    server_context = server_context_for(server_cert, tls_version)
    if refused != "server":
        ca.configure_trust(server_context)
        server_context.verify_mode = ssl.CERT_REQUIRED

    async def run() -> list[weakref.ref[Any]]:
        async with tcp_pair() as transports:
            client, server = wrap_pair(
                *transports, client_context, server_context, close_timeout=CLOSE_TIMEOUT
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(quietly, client.do_handshake)
                nursery.start_soon(quietly, server.do_handshake)
            if refused != "nobody hears":
                for _ in range(2):
                    await quietly(client.receive_some)
                    await quietly(client.send_all, b"x")
                    await quietly(server.send_all, b"x")
                await client.aclose()
            else:
                await trio.aclose_forcefully(server)
                with suppress(PeerAlertError):
                    await client.aclose()
            await trio.aclose_forcefully(server)
            return parts(client, server)

    await check(run)


@pytest.fixture
def no_garbage_collector() -> Iterator[None]:
    """What is not in a cycle goes at once."""
    gc.disable()
    yield
    gc.enable()


@counts_references
@pytest.mark.usefixtures("no_garbage_collector")
async def test_a_failed_connection_leaves_no_cycle(
    server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    refs = []

    async def fail() -> None:
        ours, theirs = memory_stream_pair()
        client, server = wrap_pair(
            ours, theirs, client_context_for(trustme.CA(), tls_version), server_context
        )
        refs.extend([weakref.ref(client.connection), weakref.ref(server.connection)])

        async def shake_hands(stream: TLSStream[Any]) -> None:
            with pytest.raises(TLSError):
                await stream.do_handshake()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake_hands, client)
            nursery.start_soon(shake_hands, server)

    await fail()
    await trio.lowlevel.checkpoint()
    assert [ref() for ref in refs] == [None, None]


################################################################
# Exceptions of other code
################################################################


@attrs.define(eq=False)
class Failing(trio.abc.Stream):
    """A transport that raises what no transport should."""

    _stream: trio.abc.Stream
    fails: str | None = None

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        if self.fails == "send_all":
            raise ValueError("of other code")
        await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        if self.fails == "receive_some":
            raise ValueError("of other code")
        return await self._stream.receive_some(max_bytes)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize("when", ["in the handshake", "afterwards"])
@pytest.mark.parametrize("fails", ["send_all", "receive_some"])
async def test_nothing_is_alive_after_an_exception_of_other_code(
    fails: str, when: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def run() -> list[weakref.ref[Any]]:
        left, right = memory_stream_pair()
        transport = Failing(left)
        ours, theirs = wrap_pair(
            transport, right, client_context, server_context, close_timeout=CLOSE_TIMEOUT
        )
        if when == "afterwards":
            await both_handshakes(ours, theirs)
        transport.fails = fails
        with pytest.raises(ValueError, match="of other code"):
            await (ours.send_all(b"x") if fails == "send_all" else ours.receive_some())
        for _ in range(2):
            await quietly(ours.send_all, b"x")
            if fails == "receive_some":
                await quietly(ours.receive_some)
        for stream in (ours, theirs):
            await trio.aclose_forcefully(stream)
        return parts(ours, theirs)

    await check(run)
