"""What data costs: CPU time of round trips and of bulk data, side by side in one run.

Each implementation has a client and a server, in a process each, over loopback. The rounds are
interleaved, so that a machine that slows down slows down all of them. Run it on an idle machine:

    python benchmarks/streams.py [--rounds 7] [--round-trips 3000] [--megabytes 128] [--json FILE]

What is told of a side is the CPU time that its process used between the first and the last byte.
A ratio above 1 is in favour of trio_tlsbio.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import ssl
import statistics
import struct
import tempfile
import time
from abc import abstractmethod
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.abc
import anyio.streams.tls
import trio
import uvloop
from _common import (
    HOST,
    NAME,
    Case,
    Implementation,
    Remote,
    ServerProcess,
    answer,
    end_tidily,
    progress,
    spread,
    versions,
)
from _servers import listen_by_trio

import trio_tlsbio

Receive = Callable[[], Awaitable[bytes | bytearray]]
Send = Callable[[bytes], Awaitable[object]]

# Kind of workload, how many messages, and their size in bytes. The answer to all is the CPU time
# that the server has used, in seconds.
_ORDER = struct.Struct("!cQQ")
_SECONDS = struct.Struct("!d")

_WARM_UP = 100


@dataclass(frozen=True)
class Workload:
    """What a client and a server do with one connection."""

    name: str
    kind: bytes
    count: int
    size: int

    @property
    def total(self) -> int:
        """How many bytes go one way."""
        return self.count * self.size

    def per_unit(self, seconds: float) -> float:
        """Return µs for each round trip, or ms for each megabyte, which is seconds a gigabyte."""
        return seconds / self.count * 1e6 if self.kind == b"e" else seconds / self.total * 1e9


################################################################
# The conversation, the same for all
################################################################


@dataclass
class Inbox:
    """Receives so much and no more: what came along is kept for the next time."""

    receive: Receive
    _rest: bytes = b""

    async def take(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end."""
        data = self._rest or bytes(await self.receive())
        while len(data) < size:
            more = await self.receive()
            if not more:
                break
            data += more
        self._rest = data[size:]
        return data[:size]

    async def skip(self, size: int) -> None:
        """Receive ``size`` bytes, and throw them away."""
        left = size - len(self._rest)
        data: bytes | bytearray = self._rest
        while left > 0:
            data = await self.receive()
            left -= len(data)
        self._rest = bytes(data[left:]) if left else b""


async def respond(receive: Receive, send: Send) -> None:
    """Do the server's part, until the client ends."""
    inbox = Inbox(receive)
    while order := await inbox.take(_ORDER.size):
        kind, count, size = _ORDER.unpack(order)
        begin = time.process_time()
        if kind == b"e":
            for _ in range(count):
                await send(await inbox.take(size))
        elif kind == b"s":
            await inbox.skip(count * size)
        else:
            message = bytes(size)
            for _ in range(count):
                await send(message)
        await send(_SECONDS.pack(time.process_time() - begin))


async def ask(receive: Receive, send: Send, workload: Workload) -> tuple[float, float]:
    """Do the client's part, and return the CPU time of both sides in seconds."""
    inbox = Inbox(receive)
    await _ask(inbox, send, Workload("", b"e", _WARM_UP, 64))
    return await _ask(inbox, send, workload)


async def _ask(inbox: Inbox, send: Send, workload: Workload) -> tuple[float, float]:
    await send(_ORDER.pack(workload.kind, workload.count, workload.size))
    message = bytes(workload.size)
    begin = time.process_time()
    if workload.kind == b"e":
        for _ in range(workload.count):
            await send(message)
            await inbox.take(workload.size)
    elif workload.kind == b"s":
        for _ in range(workload.count):
            await send(message)
    else:
        await inbox.skip(workload.total)
    ours = time.process_time() - begin
    (theirs,) = _SECONDS.unpack(await inbox.take(_SECONDS.size))
    return ours, theirs


################################################################
# The implementations
################################################################


class Client(Implementation):
    """An implementation with both parts."""

    @staticmethod
    @abstractmethod
    def run(context: ssl.SSLContext, port: int, workload: Workload) -> tuple[float, float]:
        """Connect, and do the client's part."""


class _OnTrio(Client):
    """Any stream of Trio's kind."""

    wrap: ClassVar[Callable[..., Any]]

    @classmethod
    async def _talk(
        cls, tcp: trio.SocketStream, context: ssl.SSLContext, workload: Workload | None
    ) -> tuple[float, float] | None:
        is_server = workload is None
        names = {} if is_server else {"server_hostname": NAME}
        async with cls.wrap(tcp, context, server_side=is_server, **names) as stream:
            if workload is not None:
                return await ask(stream.receive_some, stream.send_all, workload)
            await respond(stream.receive_some, stream.send_all)
        return None

    @classmethod
    def serve(cls, context: ssl.SSLContext, listener: socket.socket) -> None:
        async def handler(tcp: trio.SocketStream) -> None:
            await cls._talk(tcp, context, None)

        trio.run(partial(trio.serve_listeners, handler, [listen_by_trio(listener)]))

    @classmethod
    def run(cls, context: ssl.SSLContext, port: int, workload: Workload) -> tuple[float, float]:
        async def main() -> tuple[float, float]:
            result = await cls._talk(await trio.open_tcp_stream(HOST, port), context, workload)
            assert result is not None
            return result

        return trio.run(main)


class Ours(_OnTrio):
    """TLSStream."""

    name = "trio_tlsbio"
    wrap = trio_tlsbio.TLSStream


class TrioSSL(_OnTrio):
    """trio.SSLStream."""

    name = "trio.SSLStream"
    wrap = trio.SSLStream


class TrioPlain(_OnTrio):
    """trio.SocketStream without TLS."""

    name = "plaintext Trio"
    is_encrypted = False

    @staticmethod
    def wrap(tcp: trio.SocketStream, _: ssl.SSLContext, **_options: object) -> trio.SocketStream:
        return tcp


class AnyIO(Client):
    """anyio's TLSStream, on Trio."""

    name = "anyio on Trio"

    @staticmethod
    def serve(context: ssl.SSLContext, listener: socket.socket) -> None:
        async def handler(stream: anyio.abc.SocketStream) -> None:
            tls = await anyio.streams.tls.TLSStream.wrap(
                stream, server_side=True, ssl_context=context
            )

            async def receive() -> bytes:
                try:
                    return await tls.receive()
                except anyio.EndOfStream:
                    return b""

            async with tls:
                await respond(receive, tls.send)

        async def main() -> None:
            server = await anyio.abc.SocketListener.from_socket(listener)
            await server.serve(handler)

        anyio.run(main, backend="trio")

    @staticmethod
    def run(context: ssl.SSLContext, port: int, workload: Workload) -> tuple[float, float]:
        async def main() -> tuple[float, float]:
            async with await anyio.connect_tcp(
                HOST, port, ssl_context=context, tls_hostname=NAME
            ) as stream:
                return await ask(stream.receive, stream.send, workload)

        return anyio.run(main, backend="trio")


class Asyncio(Client):
    """asyncio's streams."""

    name = "asyncio"
    runner: ClassVar[Callable[..., Any]] = asyncio.run

    @staticmethod
    def _calls(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> tuple[Receive, Send]:
        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        return partial(reader.read, 120 * 1024), send

    @classmethod
    def serve(cls, context: ssl.SSLContext, listener: socket.socket) -> None:
        async def handler(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await respond(*cls._calls(reader, writer))
            writer.close()

        async def main() -> None:
            server = await asyncio.start_server(handler, sock=listener, ssl=context)
            await server.serve_forever()

        cls.runner(main())

    @classmethod
    def run(cls, context: ssl.SSLContext, port: int, workload: Workload) -> tuple[float, float]:
        async def main() -> tuple[float, float]:
            reader, writer = await asyncio.open_connection(
                HOST, port, ssl=context, server_hostname=NAME
            )
            result = await ask(*cls._calls(reader, writer), workload)
            writer.close()
            return result

        result: tuple[float, float] = cls.runner(main())
        return result


class UVLoop(Asyncio):
    """asyncio's streams on uvloop."""

    name = "uvloop"
    runner = staticmethod(uvloop.run)


class Blocking(Client):
    """ssl.SSLSocket, blocking, one connection after the other."""

    name = "blocking ssl"

    @staticmethod
    def _calls(sock: ssl.SSLSocket) -> tuple[Receive, Send]:
        async def receive() -> bytes:
            return sock.recv(120 * 1024)

        async def send(data: bytes) -> None:
            sock.sendall(data)

        return receive, send

    @staticmethod
    def _finish(coroutine: Coroutine[Any, Any, Any]) -> Any:
        try:
            coroutine.send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it has waited, where nothing waits")

    @classmethod
    def serve(cls, context: ssl.SSLContext, listener: socket.socket) -> None:
        listener.setblocking(True)
        while True:
            raw, _ = listener.accept()
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(raw, server_side=True) as sock:
                cls._finish(respond(*cls._calls(sock)))

    @classmethod
    def run(cls, context: ssl.SSLContext, port: int, workload: Workload) -> tuple[float, float]:
        raw = socket.create_connection((HOST, port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with context.wrap_socket(raw, server_hostname=NAME) as sock:
            result: tuple[float, float] = cls._finish(ask(*cls._calls(sock), workload))
            return result


IMPLEMENTATIONS: tuple[type[Client], ...] = (
    Ours,
    TrioSSL,
    AnyIO,
    Asyncio,
    UVLoop,
    Blocking,
    TrioPlain,
)


################################################################
# Measuring
################################################################


def _client(
    pipe: Connection, implementation: type[Client], case: Case, folder: Path, port: int
) -> None:
    context = case.context(folder, server_side=False)
    answer(pipe, {"run": partial(implementation.run, context, port)})


@dataclass
class Peer:
    """One implementation's client and server, each in its process."""

    implementation: type[Client]
    client: Remote
    figures: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def measure(self, workload: Workload) -> None:
        """Run a workload once."""
        ours, theirs = self.client.ask("run", workload)
        sides = {b"e": ("client", "server"), b"s": ("sending", "receiving")}
        first, second = sides.get(workload.kind, ("receiving", "sending"))
        for side, seconds in ((first, ours), (second, theirs)):
            value = workload.per_unit(seconds)
            self.figures.setdefault((workload.name, side), []).append(value)


def _report(peers: list[Peer]) -> None:
    for workload, side in peers[0].figures:
        print(f"\n{workload}, {side}")
        reference = statistics.median(peers[0].figures[workload, side])
        for peer in peers:
            values = peer.figures[workload, side]
            ratio = statistics.median(values) / reference
            print(f"  {peer.implementation.name:16}{spread(values, 2):32}  x {ratio:.2f}")


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--round-trips", type=int, default=3000, help="in each round")
    parser.add_argument("--megabytes", type=int, default=128, help="each way in each round")
    parser.add_argument("--tls12", action="store_true", help="TLS 1.2 in place of 1.3")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()
    end_tidily()
    case = Case(ssl.TLSVersion.TLSv1_2 if options.tls12 else ssl.TLSVersion.TLSv1_3)
    pieces = options.megabytes * 4
    workloads = [
        Workload("round trips of 64 bytes, µs", b"e", options.round_trips, 64),
        Workload("round trips of 16 KiB, µs", b"e", max(options.round_trips // 4, 1), 16 * 1024),
        Workload("bulk to the server, s/GB", b"s", pieces, 256 * 1024),
        Workload("bulk from the server, s/GB", b"r", pieces, 256 * 1024),
    ]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        case.save_certificates(folder)
        peers = []
        for implementation in IMPLEMENTATIONS:
            server = stack.enter_context(ServerProcess(implementation, case, folder))
            label = f"the client of {implementation.name}"
            arguments = (implementation, case, folder, server.port)
            peers.append(
                Peer(implementation, stack.enter_context(Remote(label, _client, *arguments)))
            )
        for workload in workloads:
            for _ in progress(workload.name, options.rounds):
                for peer in peers:
                    peer.measure(workload)
    print(f"{case.protocol}, {versions()}")
    print("median of the rounds (lowest to highest), and the ratio to trio_tlsbio")
    _report(peers)
    if options.json is not None:
        figures = [
            {
                "implementation": peer.implementation.name,
                "workload": name,
                "side": side,
                "values": values,
            }
            for peer in peers
            for (name, side), values in peer.figures.items()
        ]
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
