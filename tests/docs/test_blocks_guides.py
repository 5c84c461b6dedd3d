"""The code of the guides about sending, broadcasting, idle connections and ways to close."""

from __future__ import annotations

import collections
import socket
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.lowlevel
import trio.testing
import trustme

from tests.docblocks import BLOCKS, Block, runs
from tests.helpers import (
    HOST,
    client_context_for,
    echo,
    serving,
    tcp_pair,
)
from trio_tlsbio import (
    Drain,
    PeerAlertError,
    TLSError,
    TLSStream,
    TruncationError,
    open_tls_over_tcp_stream,
)
from trio_tlsbio.testing import do_handshakes

from .peers import NAME, Stream, bounded_nursery, check_echo, connect, connector_to


async def receive_all(stream: TLSStream[Any]) -> bytes:
    return b"".join([chunk async for chunk in stream])


def opener(port: int, expected: tuple[str, int]) -> Any:
    """Connect to loopback in place of a host's port."""

    async def open_here(host: str, asked: int, **options: Any) -> Stream:
        assert (host, asked) == expected
        return await open_tls_over_tcp_stream(HOST, port, server_hostname=NAME, **options)

    return open_here


def wrap_pair(
    transports: tuple[Any, Any], client_context: ssl.SSLContext, context: ssl.SSLContext
) -> tuple[TLSStream[Any], TLSStream[Any]]:
    client, server = transports
    return (
        TLSStream(client, client_context, server_hostname=NAME),
        TLSStream(server, context, server_side=True),
    )


@asynccontextmanager
async def pair(
    client_context: ssl.SSLContext, context: ssl.SSLContext
) -> AsyncIterator[tuple[Stream, Stream]]:
    """A client and a server over TCP, whose handshakes are done."""
    with trio.fail_after(10):
        async with tcp_pair() as transports:
            streams = wrap_pair(transports, client_context, context)
            await do_handshakes(*streams)
            yield streams


@asynccontextmanager
async def memory_pair(
    client_context: ssl.SSLContext, context: ssl.SSLContext
) -> AsyncIterator[tuple[TLSStream[Any], TLSStream[Any]]]:
    """The same over memory, whose waits a clock may jump over."""
    streams = wrap_pair(trio.testing.memory_stream_pair(), client_context, context)
    await do_handshakes(*streams)
    yield streams


################################################################
# Programs that only send
################################################################


@runs("only_sending.rst", 'stream = await open_tls_over_tcp_stream("logs.example", 6514')
async def test_sending(block: Block, ca: trustme.CA, context: ssl.SSLContext) -> None:
    received, receipts = trio.open_memory_channel[bytes](1)

    async def store(stream: Stream) -> None:
        await received.send(await receive_all(stream))

    lines = [b"one\n", b"two\n"]
    async with serving(store, context) as port:
        names = {
            "open_tls_over_tcp_stream": opener(port, ("logs.example", 6514)),
            "lines": lines,
            "context": client_context_for(ca, context.minimum_version),
        }
        await block.run(**names)
        assert await receipts.receive() == b"".join(lines)


@runs("only_sending.rst", 'stream = await open_tls_over_tcp_stream("logs.example", 6514')
async def test_sending_to_a_server_that_refuses(
    block: Block, ca: trustme.CA, context: ssl.SSLContext
) -> None:
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with serving(echo, context) as port:
        names = {
            "open_tls_over_tcp_stream": opener(port, ("logs.example", 6514)),
            "lines": [b"one\n"],
            "context": client_context_for(ca, context.minimum_version),
        }
        with pytest.raises(PeerAlertError):
            await block.run(**names)


@runs("only_sending.rst", "await stream.send_all(report)")
@pytest.mark.parametrize("is_stored", [True, False])
async def test_receipt(
    block: Block, is_stored: bool, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async def store(stream: Stream) -> None:
        assert await receive_all(stream) == b"the report"
        if is_stored:
            await stream.send_all(b"stored\n")

    async with serving(store, context) as port, await connect(port, client_context) as stream:
        run = partial(block.run, stream=stream, report=b"the report")
        if is_stored:
            await run()
        else:
            with pytest.raises(RuntimeError, match="has not stored"):
                await run()


def ship_block(name: str = "ship") -> Block:
    """The block that defines a function which another block calls."""
    (found,) = (
        block
        for block in BLOCKS
        if block.page == "only_sending.rst" and block.text.startswith(f"async def {name}(")
    )
    return found


async def forever(block: Block) -> Any:
    """Return `ship_forever` from its block."""
    names = await ship_block().run(trio=trio, suppress=suppress)
    return (await block.run(TLSError=TLSError, **names))["ship_forever"]


async def at_least_once(block: Block) -> Any:
    """Return `ship_at_least_once` from its block."""
    names = {"TLSError": TLSError, "trio": trio, "suppress": suppress, "collections": collections}
    return (await block.run(**names))["ship_at_least_once"]


@runs("only_sending.rst", "async def ship(stream, lines, unsent):")
@pytest.mark.parametrize("end", ["server", "cut", "lines"])
async def test_watching(
    block: Block, end: str, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    ship = (await block.run(trio=trio, suppress=suppress))["ship"]
    to_send, lines = trio.open_memory_channel[bytes](1)
    unsent = [b"zero\n"]
    async with pair(client_context, context) as (client, server), bounded_nursery() as nursery:

        async def talk() -> None:
            await to_send.send(b"one\n")
            text = b""
            while len(text) < 9:
                text += await server.receive_some()
            assert text == b"zero\none\n"
            match end:
                case "server":
                    await server.send_eof()
                case "cut":
                    server.abort()
                case _:
                    to_send.close()

        nursery.start_soon(talk)
        if end == "cut":
            with pytest.raises(ExceptionGroup) as caught:
                await ship(client, lines, unsent)
            assert caught.group_contains(TLSError)
        else:
            assert await ship(client, lines, unsent) is (True if end == "lines" else None)
    assert unsent == []


# How a server breaks off while a line is on its way: cleanly, by an end of TCP, by a reset.
BREAKS = ["close_notify", "end", "reset"]
LONG = b"x" * 20_000_000 + b"\n"  # more than any socket takes


async def break_off(stream: Stream, how: str) -> None:
    match how:
        case "close_notify":
            await stream.send_eof()  # reads no more, until it closes
            await trio.testing.wait_all_tasks_blocked(0.05)
        case "end":
            await stream.transport_stream.aclose()
        case _:
            stream.abort()


def logs_example(
    port: int, ca: trustme.CA, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> SimpleNamespace:
    """A connector whose logs.example is the server at this port, and which waits little."""
    connector = connector_to(port, monkeypatch, client_context_for(ca, context.minimum_version))

    def reconnect(host: str, asked: int) -> AsyncIterator[Stream]:
        assert (host, asked) == ("logs.example", 6514)
        return connector.reconnect(NAME, 4433, initial_delay=0.01)

    return SimpleNamespace(reconnect=reconnect)


@runs("only_sending.rst", "async def ship_forever(connector, lines):")
@pytest.mark.parametrize("how", BREAKS)
async def test_ship_forever(
    block: Block,
    how: str,
    ca: trustme.CA,
    context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The line that was being sent arrives whole on the next connection, and none after it is
    lost.
    """
    ship_forever = await forever(block)
    texts: list[bytes] = []

    async def store(stream: Stream) -> None:
        if not texts:
            text = b""
            while len(text) < 1000:
                text += await stream.receive_some(1000)
            texts.append(text)
            await break_off(stream, how)
        else:
            texts.append(await receive_all(stream))

    async with serving(store, context) as port, bounded_nursery() as nursery:
        connector = logs_example(port, ca, context, monkeypatch)
        to_send, lines = trio.open_memory_channel[bytes](0)
        nursery.start_soon(ship_forever, connector, lines)
        async with to_send:
            for line in b"first\n", LONG, b"last\n":
                await to_send.send(line)
    assert len(texts) == 2
    assert texts[0].startswith(b"first\nx")
    assert texts[1] == LONG + b"last\n"


@runs("only_sending.rst", "async def ship_at_least_once(connector, lines):")
@pytest.mark.parametrize("how", BREAKS)
async def test_ship_at_least_once(
    block: Block,
    how: str,
    ca: trustme.CA,
    context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What the server has not confirmed arrives again, however much of it has arrived."""
    ship = await at_least_once(block)
    stored: list[list[bytes]] = []

    async def store(stream: Stream) -> None:
        seen: list[bytes] = []
        stored.append(seen)
        rest = b""
        async for chunk in stream:
            *whole, rest = (rest + chunk).split(b"\n")
            for line in whole:
                seen.append(line)
                if len(stored) <= 3 and len(seen) == 4:
                    await break_off(stream, how)  # this line was not confirmed
                    return
                await stream.send_all(b"stored\n")

    async with serving(store, context) as port, bounded_nursery() as nursery:
        connector = logs_example(port, ca, context, monkeypatch)
        to_send, lines = trio.open_memory_channel[bytes](0)
        nursery.start_soon(ship, connector, lines)
        numbers = [b"%d" % number for number in range(20)]
        async with to_send:
            for number in numbers:
                await to_send.send(number + b"\n")
    assert len(stored) >= 4
    for seen in stored:
        assert seen == numbers[numbers.index(seen[0]) :][: len(seen)], "in order"
    assert {line for seen in stored for line in seen} == set(numbers)


@runs("only_sending.rst", "async def feed(channel, source):")
@pytest.mark.parametrize("name", ["ship_forever", "ship_at_least_once"])
async def test_feed(
    block: Block,
    name: str,
    ca: trustme.CA,
    context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """No line of a generator is lost, although each connection ends while the next line is awaited.
    A generator itself is refused.
    """
    ship = await (forever if name == "ship_forever" else at_least_once)(ship_block(name))
    stored: list[bytes] = []
    connected = trio.Semaphore(0)

    async def store(stream: Stream) -> None:
        connected.release()
        async for chunk in stream:
            stored.append(bytes(chunk))
            await stream.send_all(b"stored\n")
            return

    async def measurements() -> AsyncIterator[bytes]:
        for number in range(4):
            await connected.acquire()
            yield b"%d\n" % number

    async with serving(store, context) as port, bounded_nursery():
        connector = logs_example(port, ca, context, monkeypatch)
        names = {"connector": connector, "ship_forever": ship}
        await block.run(trio=trio, measurements=measurements, **names)
        assert stored == [b"%d\n" % number for number in range(4)]
        with pytest.raises(ExceptionGroup) as caught:
            await ship(connector, measurements())
        assert caught.group_contains(AttributeError, match="receive")


@runs("only_sending.rst", "await stream.do_handshake()\ndropped = 0")
async def test_never_wait(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    lines = [b"x" * 100_000] * 200  # more than any socket takes
    async with pair(client_context, context) as (client, server):
        names = await block.run(stream=client, lines=lines, trio=trio)
        dropped = names["dropped"]
        assert 0 < dropped < 200
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose)
            assert len(await receive_all(server)) == (200 - dropped) * 100_000
            await server.aclose()


################################################################
# Broadcasting
################################################################


@runs("broadcast.rst", "for stream in streams:\n    await stream.send_all(message)")
async def test_naive_broadcast(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with pair(client_context, context) as (client, server):
        await block.run(streams=[server], message=b"news")
        assert await client.receive_some() == b"news"

        # One that does not read holds up the others, as the page says.
        async with pair(client_context, context) as (other, other_server):
            with trio.move_on_after(0.3) as scope:
                await block.run(streams=[server, other_server], message=bytes(30_000_000))
            assert scope.cancelled_caught
            assert other.receive_nowait() is None


@runs("broadcast.rst", "mailboxes = {}")
async def test_mailboxes(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    started, ports = trio.open_memory_channel[int](1)
    names: dict[str, Any] = {"trio": trio, "context": context}

    async def serve(handler: Any, port: int, context: Any) -> None:
        assert port == 4433
        names.update(handler.__globals__)
        async with serving(handler, context) as chosen:
            await started.send(chosen)
            await trio.sleep_forever()

    async with bounded_nursery() as nursery:
        nursery.start_soon(partial(block.run, **names, serve_tls_over_tcp=serve))
        port = await ports.receive()
        slow, good = [await connect(port, client_context) for _ in range(2)]
        await slow.do_handshake()
        await good.do_handshake()
        while len(names["mailboxes"]) < 2:
            await trio.lowlevel.checkpoint()
        message = bytes(1_000_000)
        slow.stop_lingering()
        good.stop_lingering()  # the handlers only send, so they don't notice
        async with slow, good:
            while len(names["mailboxes"]) == 2:
                names["broadcast"](message)
                rest = len(message)
                while rest:
                    rest -= len(await good.receive_some())
            with pytest.raises(TLSError):
                await receive_all(slow)  # it can see that it has missed something
            names["broadcast"](b"bye")
            assert await good.receive_some() == b"bye"
            assert len(names["mailboxes"]) == 1
        nursery.cancel_scope.cancel()


@runs("broadcast.rst", "class Latest:")
async def test_latest(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    names = await block.run(trio=trio)
    async with (
        serving(names["subscriber"], context) as port,
        await connect(port, client_context) as client,
    ):
        client.stop_lingering()  # the handler only sends, so it doesn't notice
        names["latest"].put(b"1")
        assert await client.receive_some() == b"1"
        for number in range(2, 10):
            names["latest"].put(b"%d" % number)
        assert await client.receive_some() == b"9"


@runs("broadcast.rst", "def broadcast(message):\n    for stream in list(streams):")
async def test_broadcast_at_once(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with (
        pair(client_context, context) as (client, server),
        pair(client_context, context) as (gone, gone_server),
    ):
        streams = [gone_server, server]
        broadcast = (await block.run(streams=streams, TLSError=TLSError))["broadcast"]
        gone.abort()
        while len(streams) == 2:
            broadcast(b"x")
            await trio.lowlevel.checkpoint()
        assert streams == [server]
        assert set(await client.receive_some()) == set(b"x")


@runs("broadcast.rst", "async def send_or_give_up(stream, message):")
async def test_send_or_give_up(
    block: Block,
    client_context: ssl.SSLContext,
    context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
) -> None:
    send_or_give_up = (await block.run(trio=trio))["send_or_give_up"]
    transports = trio.testing.lockstep_stream_pair()
    client, server = wrap_pair(transports, client_context, context)
    await do_handshakes(client, server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send_or_give_up, server, b"news")
        assert await client.receive_some() == b"news"
    start = trio.current_time()
    assert not await send_or_give_up(server, b"more")
    assert trio.current_time() - start == pytest.approx(30)


################################################################
# Heartbeats
################################################################


@runs("heartbeats.rst", "async def handler(stream):")
async def test_idle_limit(
    block: Block,
    client_context: ssl.SSLContext,
    context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
) -> None:
    handler = (await block.run(trio=trio))["handler"]
    async with memory_pair(client_context, context) as (client, server):

        async def serve() -> None:
            async with server:
                await handler(server)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            await client.send_all(b"hello")
            assert await client.receive_some() == b"hello"
            start = trio.current_time()
            assert await client.receive_some() == b""  # a clean end
            assert trio.current_time() - start == pytest.approx(300)
            await client.aclose()


@runs("heartbeats.rst", "async def talk(stream, requests, on_answer):")
async def test_heartbeats(
    block: Block,
    client_context: ssl.SSLContext,
    context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
) -> None:
    talk = (await block.run(trio=trio))["talk"]
    to_send, requests = trio.open_memory_channel[bytes](1)
    answers: list[bytes] = []

    async def on_answer(chunk: bytes) -> None:
        answers.append(chunk)

    async with memory_pair(client_context, context) as (client, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talk, client, requests, on_answer)
            start = trio.current_time()
            assert await server.receive_some() == b"ping\n"
            assert trio.current_time() - start == pytest.approx(20)
            await server.send_all(b"pong\n")
            await to_send.send(b"request\n")
            assert await server.receive_some() == b"request\n"
            await server.send_eof()
        assert answers == [b"pong\n"]


@runs("heartbeats.rst", "async for stream in connector.reconnect(")
async def test_dead_peer(
    block: Block,
    client_context: ssl.SSLContext,
    context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (talk_block,) = (
        found
        for found in BLOCKS
        if found.page == "heartbeats.rst" and found.text.startswith("async def talk(")
    )
    talk = (await talk_block.run(trio=trio))["talk"]
    _, requests = trio.open_memory_channel[bytes](1)

    async with memory_pair(client_context, context) as (client, server):

        async def connections(host: str, port: int) -> AsyncIterator[TLSStream[Any]]:
            assert (host, port) == ("echo.example", 4433)
            yield client

        names = {
            "connector": SimpleNamespace(reconnect=connections),
            "talk": talk,
            "requests": requests,
            "on_answer": None,
            "trio": trio,
            "TLSError": TLSError,
        }
        start = trio.current_time()
        await block.run(**names)
        assert trio.current_time() - start == pytest.approx(60)  # and no time for the close
        assert "TooSlowError" in capsys.readouterr().out
        with pytest.raises(TruncationError):
            await receive_all(server)


@runs("heartbeats.rst", "sock = stream.transport_stream")
@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="Linux has these options")
async def test_keepalive(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with pair(client_context, context) as (client, _):
        names = await block.run(stream=client, socket=socket)
        sock = names["sock"]
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 60
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 90_000


@runs("heartbeats.rst", "def take(pool):")
async def test_pool(block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext) -> None:
    take = (await block.run())["take"]
    async with serving(echo, context) as port:
        good, ended = [await connect(port, client_context) for _ in range(2)]
        for stream in good, ended:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        await ended.send_eof()
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert take([good, ended]) is good
        assert take([]) is None
        await check_echo(good)


################################################################
# Ways to close
################################################################


@runs("choosing_close.rst", 'async with stream:\n    await stream.send_all(b"hello\\n")')
async def test_close(block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext) -> None:
    async with pair(client_context, context) as (client, server), bounded_nursery() as nursery:
        nursery.start_soon(partial(block.run, stream=client))
        assert await receive_all(server) == b"hello\n"
        await server.aclose()


@runs("choosing_close.rst", "async with stream:\n    await stream.send_all(question)")
async def test_close_by_send_eof(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async def answer(stream: Stream) -> None:
        await stream.send_all(b"answer to " + await receive_all(stream))

    async with serving(answer, context) as port:
        stream = await connect(port, client_context)
        names = await block.run(stream=stream, question=b"it")
    assert names["answer"] == b"answer to it"


@runs("choosing_close.rst", "async with stream:\n    try:")
async def test_close_by_abort(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    def read_chunks() -> Any:
        yield b"first half"
        raise OSError("the disk is broken")

    async with pair(client_context, context) as (client, server):
        with pytest.raises(OSError, match="disk"):
            await block.run(stream=client, read_chunks=read_chunks)
        assert await server.receive_some() == b"first half"
        with pytest.raises(TruncationError):
            await server.receive_some()

    # Without abort() the peer would take the half for the whole, as the page says.
    async def upload(stream: Stream) -> None:
        async with stream:
            for chunk in read_chunks():
                await stream.send_all(chunk)

    async with pair(client_context, context) as (client, server):
        server.stop_lingering()
        client.stop_lingering()
        with pytest.raises(OSError, match="disk"):
            await upload(client)
        assert await receive_all(server) == b"first half"


@runs("choosing_close.rst", "kicks = set()")
async def test_kick(block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext) -> None:
    names = await block.run(trio=trio, talk=echo)
    async with serving(names["handler"], context) as port:
        clients = [await connect(port, client_context) for _ in range(2)]
        for client in clients:
            await client.send_all(b"hello")
            assert await client.receive_some() == b"hello"
        names["kick_all"]()
        for client in clients:
            with pytest.raises(TruncationError):
                await client.receive_some()
            await client.aclose()
        assert not names["kicks"]
        await check_echo(await connect(port, client_context))


@pytest.mark.parametrize("how", ["abort", "aclose_forcefully"])
async def test_abort_in_another_task(
    how: str, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    """It raises Trio's error in the task that is blocked, as the page says."""
    async with pair(client_context, context) as (_, server), trio.open_nursery() as nursery:

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError, match="another task closed this fd"):
                await server.receive_some()
            with pytest.raises(trio.ClosedResourceError, match="this TLSStream was closed"):
                await server.receive_some()

        nursery.start_soon(receive)
        await trio.testing.wait_all_tasks_blocked()
        if how == "abort":
            server.abort()
        else:
            await trio.aclose_forcefully(server)


@runs("choosing_close.rst", "transport = stream.transport_stream")
async def test_close_by_a_reset(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with pair(client_context, context) as (client, server):
        await block.run(stream=server, socket=socket, struct=struct, trio=trio)
        with pytest.raises(TLSError) as caught:
            await client.receive_some()
        assert caught.value.error_type == "connection_reset"


@runs("choosing_close.rst", "transport, received = await stream.unwrap()")
async def test_close_by_unwrap(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with pair(client_context, context) as (client, server):

        async def other_side() -> None:
            transport, rest = await server.unwrap()
            assert not rest
            await transport.send_all(b"plain")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other_side)
            names = await block.run(stream=client)
        assert names["received"] == b"plain"


@runs("choosing_close.rst", "await trio.aclose_forcefully(stream)")
async def test_close_forcefully(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with pair(client_context, context) as (client, server):
        await client.send_all(b"all")
        await block.run(trio=trio, stream=client)
        assert await receive_all(server) == b"all"


@runs("choosing_close.rst", 'stream = await open_tls_over_tcp_stream("www.example", 443')
async def test_https_compatible(block: Block, ca: trustme.CA, context: ssl.SSLContext) -> None:
    async def end_rudely(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"page")
        await stream.transport_stream.send_eof()
        await trio.sleep_forever()

    async with serving(end_rudely, context) as port:
        open_here = partial(
            opener(port, ("www.example", 443)),
            ssl_context=client_context_for(ca, context.minimum_version),
        )
        names = await block.run(open_tls_over_tcp_stream=open_here)
        async with names["stream"] as stream:
            await stream.send_all(b"GET")
            assert await receive_all(stream) == b"page"


@runs("choosing_close.rst", "cut_off = await drain.end(30)")
async def test_drain_end(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    drain = Drain()

    async def wait(stream: Stream) -> None:
        assert await drain.receive_some(stream) == b""

    async with (
        serving(wait, context, drain=drain) as port,
        await connect(port, client_context) as stream,
    ):
        await stream.do_handshake()
        names = await block.run(drain=drain)
        assert await receive_all(stream) == b""
    assert names["cut_off"] == 0
