"""Thousands of hostile connections in each stage that comes before a server's handshake is done."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trustme
from trio.testing import MockClock

from tests.helpers import HOST, NAME, client_context_for, echo, reset_when_closed
from tests.helpers import server_context_for as context_for
from trio_tlsbio import (
    ClientHello,
    HandshakeInfo,
    TLSConnection,
    TLSStream,
    TrustedProxies,
    serve_tls_over_tcp,
)
from trio_tlsbio.monitoring import ServerMonitor, ServerStatistics

TIMEOUT = 600  # of a handshake, in the seconds of a clock that the test moves on
GOOD = 50
BATCH = 300  # each connection takes two descriptors of this process

LINE = b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n"
SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
RECORD = b"\x17\x03\x03\x40\x00"  # the header of a long one
REQUEST = b"GET / HTTP/1.1\r\nHost: a.example\r\nX-Filler: "

# For these names the server's functions take as long as they may.
SLOW_TO_CHOOSE, SLOW_TO_VERIFY = "choose.example", "verify.example"

# What a flood sends, and how many of it at most.
PIECE = bytes(64 * 1024)
PIECES = 16

# Between two bytes of a slow client, in seconds.
PAUSE = 0.2


def all_are_there(begun: int, seen: ServerStatistics) -> bool:
    """Whether the server has accepted so many hostile connections, and all others are good."""
    return seen.accepted == begun + seen.established


async def choose(context: ssl.SSLContext, hello: ClientHello) -> ssl.SSLContext:
    await trio.lowlevel.checkpoint()
    if hello.server_name == SLOW_TO_CHOOSE:
        await trio.sleep_forever()
    return context


async def verify(handshake: HandshakeInfo) -> None:
    await trio.lowlevel.checkpoint()
    if handshake.server_hostname == SLOW_TO_VERIFY:
        await trio.sleep_forever()


async def answer(stream: trio.SocketStream, received: bytes) -> None:
    """Read a request to its end, or until it is too long."""
    while b"\r\n\r\n" not in received and len(received) < 10_000:
        more = await stream.receive_some()
        if not more:
            return
        received += bytes(more)
    await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")


@attrs.define(eq=False)
class Stage:
    """How to get to a stage, and what to say in it."""

    name: str
    #: What is sent before, and what by and by in the stage. Only the beginning of it is valid.
    before: bytes
    slowly: bytes
    #: What is sent in the stage at once, before what never ends.
    flood: bytes
    #: Whether the handshake is completed, by this name, before anything is sent in the stage.
    completes: str | None = None
    #: What a flood goes on with.
    piece: bytes = PIECE


def records_of_one_byte(message: bytes) -> bytes:
    return b"".join(b"\x16\x03\x01\x00\x01" + message[at : at + 1] for at in range(len(message)))


def stages(context: ssl.SSLContext) -> list[Stage]:
    def hello(name: str) -> bytes:
        return TLSConnection(context, server_hostname=name).data_to_send()

    whole = hello(NAME)
    long_header = SIGNATURE + b"\x21\x11\x1f\x00" + bytes(12)
    return [
        Stage("the PROXY header", b"", long_header + bytes(500), long_header),
        Stage(
            "a ClientHello that is held",
            LINE,
            whole[:-1],
            records_of_one_byte(b"\x01\x00\xff\xf0"),
            piece=records_of_one_byte(bytes(10_000)),
        ),
        Stage("choosing a context", LINE + hello(SLOW_TO_CHOOSE), bytes(500), b""),
        Stage("verifying the peer", LINE, RECORD + bytes(500), b"", SLOW_TO_VERIFY),
        Stage("on_plaintext", LINE, REQUEST + b"a" * 500, REQUEST),
    ]


@attrs.define(eq=False)
class Attackers:
    """Each method is one hostile connection in a stage, the ``number``-th of its kind."""

    port: int
    context: ssl.SSLContext

    async def _connect(self, stage: Stage) -> trio.SocketStream:
        """Connect, and get to the stage."""
        tcp = await trio.open_tcp_stream(HOST, self.port)
        await tcp.send_all(stage.before)
        if stage.completes is not None:
            await TLSStream(tcp, self.context, server_hostname=stage.completes).do_handshake()
        return tcp

    async def _send_until_it_ends(
        self, tcp: trio.SocketStream, pieces: Iterable[bytes], pause: float
    ) -> None:
        async def send() -> None:
            with suppress(trio.BrokenResourceError):
                for piece in pieces:
                    await tcp.send_all(piece)
                    await trio.sleep(pause)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send)
            with suppress(trio.BrokenResourceError):
                async for _ in tcp:
                    pass
            nursery.cancel_scope.cancel()

    async def slow_loris(self, stage: Stage, _number: int) -> None:
        """Send a byte now and then, and never all."""
        async with await self._connect(stage) as tcp:
            slowly = [stage.slowly[at : at + 1] for at in range(len(stage.slowly))]
            await self._send_until_it_ends(tcp, slowly, PAUSE)

    async def flood(self, stage: Stage, _number: int) -> None:
        """Send without end, whether it is read or not."""
        async with await self._connect(stage) as tcp:
            await self._send_until_it_ends(tcp, [stage.flood, *[stage.piece] * PIECES], 0)

    async def cut(self, stage: Stage, number: int) -> None:
        """Send a part, and be gone."""
        async with await self._connect(stage) as tcp:
            await tcp.send_all(stage.slowly[: number % len(stage.slowly)])
            if number % 2:
                reset_when_closed(tcp)


@attrs.define(eq=False)
class GoodClient:
    """One that connects, works, stays idle while time passes, and works again."""

    port: int
    context: ssl.SSLContext
    stream: TLSStream[trio.SocketStream] | None = None
    answered: int = 0

    async def work(self) -> None:
        with trio.fail_after(60):
            if self.stream is not None:
                await self._ask(self.stream)
                await self.stream.aclose()
            tcp = await trio.open_tcp_stream(HOST, self.port)
            await tcp.send_all(LINE)
            self.stream = TLSStream(tcp, self.context, server_hostname=NAME)
            for _ in range(5):
                await self._ask(self.stream)

    async def _ask(self, stream: TLSStream[trio.SocketStream]) -> None:
        request = b"request %d" % self.answered
        await stream.send_all(request)
        answer = b""
        while len(answer) < len(request):
            answer += await stream.receive_some()
        assert answer == request
        self.answered += 1


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def resident() -> int:
    """Return the memory of this process, in MiB."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // (1024 * 1024)


@attrs.define(eq=False)
class Figures:
    """What this process takes: memory in MiB and descriptors, before all batches and after each."""

    memory: list[int] = attrs.field(init=False, factory=lambda: [resident()])
    descriptors: list[int] = attrs.field(init=False, factory=lambda: [descriptors()])
    most_memory: int = 0
    most_descriptors: int = 0

    def look_meanwhile(self) -> None:
        self.most_memory = max(self.most_memory, resident())
        self.most_descriptors = max(self.most_descriptors, descriptors())

    def look_after(self) -> None:
        self.memory.append(resident())
        self.descriptors.append(descriptors())


@pytest.mark.timeout(900)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="this system has no /proc")
async def test_good_clients_are_not_harmed(
    ca: trustme.CA,
    server_cert: trustme.LeafCert,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    stride: int,
) -> None:
    total = 10_000 if stride == 1 else 300
    mock_clock.rate = 1
    caplog.set_level(logging.CRITICAL, "trio_tlsbio.server")  # pytest would keep each line
    monitor = ServerMonitor()
    serve = partial(
        serve_tls_over_tcp,
        echo,
        0,
        partial(choose, context_for(server_cert)),
        host=HOST,
        handshake_timeout=TIMEOUT,
        monitor=monitor,
        proxy_protocol=TrustedProxies([HOST]),
        verify_peer=verify,
        on_plaintext=answer,
    )
    context = client_context_for(ca)
    careless = client_context_for(ca)  # which takes the certificate for another name
    careless.check_hostname = False

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(serve)
        port = listener.transport_listener.socket.getsockname()[1]
        attackers = Attackers(port, careless)
        kinds = [
            partial(way, stage)
            for stage in stages(careless)
            for way in (attackers.slow_loris, attackers.flood, attackers.cut)
        ]
        attacks = [
            partial(kinds[number % len(kinds)], number // len(kinds)) for number in range(total)
        ]
        batches = [attacks[at : at + BATCH] for at in range(0, total, BATCH)]
        good = [GoodClient(port, context) for _ in range(GOOD)]

        async def work() -> None:
            async with trio.open_nursery() as clients:
                for client in good:
                    clients.start_soon(client.work)

        async def until(condition: Callable[[ServerStatistics], bool]) -> None:
            with trio.fail_after(60):
                while not condition(monitor.statistics()):
                    await trio.lowlevel.checkpoint()

        await work()
        figures = Figures()
        begun = 0
        for batch in batches:
            async with trio.open_nursery() as hostile:
                for attack in batch:
                    hostile.start_soon(attack)
                await work()
                begun += len(batch)
                await until(partial(all_are_there, begun))
                figures.look_meanwhile()
                # Good clients are idle, and connected, while the time of the others passes.
                mock_clock.jump(TIMEOUT)
            await until(lambda seen: seen.active == GOOD)
            figures.look_after()
        statistics = monitor.statistics()
        await work()
        for client in good:
            assert client.stream is not None
            await client.stream.aclose()
        nursery.cancel_scope.cancel()

    assert statistics.accepted == statistics.established + total
    assert sum(statistics.failed.values()) == total
    assert statistics.broken == {}
    assert statistics.cancelled == 0
    assert "other" not in statistics.failed
    # All that are slow, and the floods and cuts that a function of the server's does not notice.
    assert statistics.timed_out >= total // 3
    assert sum(client.answered for client in good) == GOOD * (6 * len(batches) + 11)
    print(f"{total} connections: {figures}, {dict(statistics.failed)}")
    # What is kept does not grow with their number.
    assert set(figures.descriptors) == {figures.descriptors[0]}
    assert figures.memory[-1] - figures.memory[1] < 30
