"""What is measured, written once for all implementations, and both processes that do it.

A server takes orders: a fixed head says what to do, and when it is done the server answers with one
number, which is the CPU time that its process has used so far. What lies between two answers is
what the server's side cost. Nothing but the workload runs in either process meanwhile.
"""

from __future__ import annotations

import gc
import resource
import socket
import ssl
import struct
import sys
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import pairwise
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, ClassVar, Self

import anyio.lowlevel
import psutil
from _peers import ALL, ASYNC, BULK, MANY, ON_TRIO, RESUMING, Blocking, Channel, Implementation
from _processes import HOST, Remote, answer, make_context
from _profile import Sampler

Measured = dict[tuple[str, str], float]
"""The value for each side and unit."""

# What to do, how many messages, and their size in bytes.
_ORDER = struct.Struct("!cQQ")
_ANSWER = struct.Struct("!d")

ROUND_TRIPS, TO_SERVER, FROM_SERVER, BOTH_WAYS, TELL_MEMORY = b"e", b"s", b"r", b"b", b"m"

WARM_UP = 100


################################################################
# The conversation
################################################################


@dataclass
class Conversation:
    """One end of a connection."""

    channel: Channel
    _rest: bytes = b""

    async def take(self, size: int) -> bytes:
        """Return ``size`` bytes, fewer only at the end; what came along is kept."""
        data = self._rest or bytes(await self.channel.receive())
        while len(data) < size:
            more = await self.channel.receive()
            if not more:
                break
            data += more
        self._rest = data[size:]
        return data[:size]

    async def skip(self, size: int) -> None:
        """Receive ``size`` bytes, and throw them away."""
        left = size - len(self._rest)
        data: bytes | bytearray = self._rest
        receive = self.channel.receive
        while left > 0:
            data = await receive()
            if not data:
                raise EOFError
            left -= len(data)
        self._rest = bytes(data[left:]) if left else b""

    async def send(self, count: int, size: int) -> None:
        """Send so many messages, one after the other."""
        message, send = bytes(size), self.channel.send
        for _ in range(count):
            await send(message)

    async def both(self, count: int, size: int) -> None:
        """Send messages and receive as many at the same time."""
        async with anyio.create_task_group() as group:
            group.start_soon(self.send, count, size)
            group.start_soon(self.skip, count * size)

    async def obey(self) -> None:
        """Do the server's part, until the client ends."""
        while order := await self.take(_ORDER.size):
            kind, count, size = _ORDER.unpack(order)
            if kind == ROUND_TRIPS:
                message, send = bytes(size), self.channel.send
                for _ in range(count):
                    await self.skip(size)
                    await send(message)
                del message  # memory is measured while this waits
            elif kind == TO_SERVER:
                await self.skip(count * size)
            elif kind == FROM_SERVER:
                await self.send(count, size)
            elif kind == BOTH_WAYS:
                await self.both(count, size)
            number = _private_memory() if kind == TELL_MEMORY else time.process_time()
            await self.channel.send(_ANSWER.pack(number))
        await self.channel.close()

    async def begin(self, kind: bytes, count: int = 0, size: int = 0) -> None:
        """Tell the server what to do."""
        await self.channel.send(_ORDER.pack(kind, count, size))

    async def end(self) -> float:
        """Wait until the server has done it, and return what it says."""
        (number,) = _ANSWER.unpack(await self.take(_ANSWER.size))
        return float(number)

    async def order(self, kind: bytes, count: int = 0, size: int = 0) -> float:
        """Tell the server what to do, do the client's part, and return what the server says."""
        await self.begin(kind, count, size)
        if kind == ROUND_TRIPS:
            message, send = bytes(size), self.channel.send
            for _ in range(count):
                await send(message)
                await self.skip(size)
        elif kind == TO_SERVER:
            await self.send(count, size)
        elif kind == FROM_SERVER:
            await self.skip(count * size)
        elif kind == BOTH_WAYS:
            await self.both(count, size)
        return await self.end()


def _private_memory() -> float:
    gc.collect()
    return float(psutil.Process().memory_full_info().uss)


################################################################
# Processes
################################################################


@dataclass
class Target:
    """What a workload works with, in the client's process."""

    implementation: type[Implementation]
    context: ssl.SSLContext
    port: int = 0
    held: list[Conversation] = field(default_factory=list)

    async def connect(self, session: Any = None) -> Conversation:
        """Connect by the implementation."""
        return Conversation(await self.implementation.connect(self.context, self.port, session))

    async def hold(self, count: int) -> list[Conversation]:
        """Have so many connections by blocking sockets: they load a server at the least cost.

        They stay for the next time.
        """
        context = self.context if self.implementation.is_encrypted else None
        for _ in range(len(self.held), count):
            conversation = Conversation(await Blocking.connect(context, self.port))
            await conversation.order(ROUND_TRIPS, 1, 64)
            self.held.append(conversation)
        return self.held[:count]


def _serve(
    pipe: Connection, implementation: type[Implementation], version: ssl.TLSVersion, folder: Path
) -> None:
    # asyncio sets TCP_NODELAY, as all others do, only on sockets that say that they are TCP.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.bind((HOST, 0))
    listener.listen(1024)
    listener.setblocking(False)
    port = listener.getsockname()[1]
    threading.Thread(target=answer, args=(pipe, {"port": lambda: port}), daemon=True).start()
    context = make_context(folder, version, server_side=True)
    implementation.run(implementation.serve, context, listener, _handle)


async def _handle(channel: Channel) -> None:
    await Conversation(channel).obey()


def _be_client(
    pipe: Connection, implementation: type[Implementation], version: ssl.TLSVersion, folder: Path
) -> None:
    target = Target(implementation, make_context(folder, version, server_side=False))

    def use(port: int) -> None:
        target.port = port

    def run(workload: Workload) -> Measured:
        return workload.run(target)

    answer(pipe, {"use": use, "run": run})


class Peer:
    """An implementation's server and client, in a process each."""

    def __init__(
        self,
        implementation: type[Implementation],
        version: ssl.TLSVersion,
        folder: Path,
        core: int | None,
    ) -> None:
        arguments = (implementation, version, folder)
        name, path = implementation.name, implementation.path
        self.server = Remote(f"the server of {name}", core, _serve, *arguments, path=path)
        self.client = Remote(f"the client of {name}", core, _be_client, *arguments, path=path)

    def wait_until_ready(self) -> None:
        """Wait until both do nothing any more, so as not to disturb others."""
        self.client.ask("use", self.server.ask("port"))

    def run(self, workload: Workload) -> Measured:
        """Run a workload once."""
        measured: Measured = self.client.ask("run", workload)
        return measured

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.server.begin_to_stop()  # so that it does not complain that the client has gone
        self.client.stop()
        self.server.stop()


################################################################
# Workloads
################################################################


@dataclass(frozen=True)
class Workload(ABC):
    """Something to measure.

    Args:
      group: What the command line calls it, with others.
      name: For people.
      implementations: To measure.
      version: Of TLS, if not the one that is asked for.
      most_rounds: For what takes long and varies little.
      turns: For what takes little: how often in each round, so that a slow moment of the machine
        meets all implementations alike.
    """

    group: str
    name: str
    _: KW_ONLY
    implementations: tuple[type[Implementation], ...]
    version: ssl.TLSVersion | None = None
    most_rounds: int = sys.maxsize
    turns: int = 1

    is_fresh: ClassVar[bool] = False
    """Whether it needs processes that have done nothing else."""

    is_pinned: ClassVar[bool] = True
    """Whether client and server share one core."""

    def run(self, target: Target) -> Measured:
        """Run once, in the client's process."""
        measured: Measured = target.implementation.run(self.measure, target)
        return measured

    @abstractmethod
    async def measure(self, target: Target) -> Measured:
        """Do it."""


@dataclass(frozen=True)
class Data(Workload):
    """Messages over one connection."""

    kind: bytes
    count: int
    size: int
    unit: str
    sides: tuple[str, str] = ("client CPU", "server CPU")

    async def measure(self, target: Target) -> Measured:
        conversation = await target.connect()
        server = await conversation.order(ROUND_TRIPS, WARM_UP, 64)
        client, wall = time.process_time(), time.perf_counter()
        server = await conversation.order(self.kind, self.count, self.size) - server
        client, wall = time.process_time() - client, time.perf_counter() - wall
        await conversation.channel.close()
        is_bulk = self.unit.startswith("s per GB")
        units = self.count * self.size / 1e9 if is_bulk else self.count / 1e6
        sides = dict(zip((*self.sides, "wall"), (client, server, wall), strict=True))
        if is_bulk:
            # What a sender has given to the kernel goes on its way when the receiver's
            # acknowledgements come in, and that is in the receiver's time.
            sides["CPU of both sides"] = client + server
        return {(side, self.unit): seconds / units for side, seconds in sides.items()}


@dataclass(frozen=True)
class Account(Workload):
    """Where the client's CPU time goes."""

    kind: bytes
    count: int
    size: int
    unit: str

    async def measure(self, target: Target) -> Measured:
        conversation = await target.connect()
        await conversation.order(ROUND_TRIPS, WARM_UP, 64)
        with Sampler() as sampler:
            await conversation.order(self.kind, self.count, self.size)
        await conversation.channel.close()
        scale = 1e6 / self.count if self.kind == ROUND_TRIPS else 1e9 / self.count / self.size
        return {(place, self.unit): it * scale for place, it in sampler.seconds().items()}


@dataclass(frozen=True)
class Handshakes(Workload):
    """Connect, shake hands, a small question and its answer. To close is not counted."""

    count: int
    resume: bool

    async def measure(self, target: Target) -> Measured:
        session, reused = None, 0
        client = server = told = wall = 0.0
        conversations = []
        for index in range(self.count + 1):  # the first one gives the session
            conversation = await target.connect(session)
            conversations.append(conversation)
            told = await conversation.order(b"t")
            tls = conversation.channel.tls
            reused += bool(tls.session_reused)
            if self.resume:
                session = tls.session
            if index == 0:
                client, server, wall = time.process_time(), told, time.perf_counter()
        client, wall = time.process_time() - client, time.perf_counter() - wall
        for conversation in conversations:
            await conversation.channel.close()
        assert reused == (self.count if self.resume else 0), f"{reused} were resumed"
        unit, scale = "µs per connection", 1e6 / self.count
        return {
            ("client CPU", unit): client * scale,
            ("server CPU", unit): (told - server) * scale,
            ("wall", unit): wall * scale,
        }


class _Load(Workload):
    """Many connections at once, by blocking sockets."""

    def run(self, target: Target) -> Measured:
        measured: Measured = Blocking.run(self.measure, target)
        return measured


@dataclass(frozen=True)
class Memory(_Load):
    """Private memory (USS) of a server for each connection."""

    count: int
    size: int
    is_fresh = True

    async def measure(self, target: Target) -> Measured:
        warm = await target.hold(50)
        for conversation in warm:
            await conversation.order(ROUND_TRIPS, 1, self.size)
        before = await self._settled(warm[0])
        cold = (await target.hold(50 + self.count))[50:]
        idle = await self._settled(warm[0]) - before
        for conversation in cold:
            await conversation.order(ROUND_TRIPS, 1, self.size)
        used = await self._settled(warm[0]) - before
        unit, scale = "KiB per connection", 1 / 1024 / self.count
        after = f"after {self.size // 1024} KiB each way"
        return {("idle", unit): idle * scale, (after, unit): used * scale}

    @staticmethod
    async def _settled(conversation: Conversation) -> float:
        size, before = await conversation.order(TELL_MEMORY), -1.0
        while size != before:
            time.sleep(0.2)  # noqa: ASYNC251 - nothing else is to happen here
            size, before = await conversation.order(TELL_MEMORY), size
        return size


@dataclass(frozen=True)
class Active(_Load):
    """Requests over many connections at once: all ask, then all get their answers."""

    levels: Sequence[int]
    requests: int
    size: int

    async def measure(self, target: Target) -> Measured:
        control, *held = await target.hold(1 + max(self.levels))
        measured = {}
        for level in self.levels:
            trips = max(self.requests // level, 2)
            active = held[:level]
            for conversation in active:
                await conversation.begin(ROUND_TRIPS, 1 + trips, self.size)
            await self._trip(active)
            before = await control.order(b"t")
            for _ in range(trips):
                await self._trip(active)
            cpu = await control.order(b"t") - before
            for conversation in active:
                await conversation.end()
            key = (f"server CPU, {level} active", "µs per request")
            measured[key] = cpu / trips / level * 1e6
        values = list(measured.values())
        if len(values) > 2:
            growth = f"server CPU, {self.levels[-1]} active against {self.levels[1]}"
            measured[growth, "ratio"] = values[-1] / values[1]
        return measured

    async def _trip(self, active: list[Conversation]) -> None:
        for conversation in active:
            await conversation.send(1, self.size)
        for conversation in active:
            await conversation.skip(self.size)


@dataclass(frozen=True)
class Stall(Workload):
    """How long other tasks wait while one sends much at once, and what memory that takes."""

    size: int
    is_fresh = True
    is_pinned = False  # the receiver is not to take the core away

    async def measure(self, target: Target) -> Measured:
        data = b"x" * self.size
        conversation = await target.connect()
        await conversation.order(ROUND_TRIPS, WARM_UP, 64)
        await conversation.begin(TO_SERVER, 1, self.size)
        is_sent = False
        turns = []

        async def send() -> None:
            nonlocal is_sent
            await conversation.channel.send(data)
            is_sent = True

        async def take_turns() -> None:
            while not is_sent:
                await anyio.lowlevel.checkpoint()
                turns.append((time.process_time(), time.perf_counter()))

        memory = _peak_memory()
        turns.append((time.process_time(), time.perf_counter()))
        async with anyio.create_task_group() as group:
            group.start_soon(take_turns)
            group.start_soon(send)
        turns.append((time.process_time(), time.perf_counter()))
        memory = _peak_memory() - memory
        cpu, wall = (
            max(after - before for before, after in pairwise(times))
            for times in zip(*turns, strict=True)
        )
        await conversation.end()
        await conversation.channel.close()
        return {
            ("longest time without a turn, CPU", "ms"): cpu * 1e3,
            ("longest time without a turn, wall", "ms"): wall * 1e3,
            ("growth of the peak memory", "MiB"): memory / 1024**2,
        }


def _peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def workloads(*, quick: bool, connections: int) -> list[Workload]:
    """Return all of them."""
    part = 10 if quick else 1
    few = 1 if quick else 3
    megabytes = 128 // (4 if quick else 1)
    megabytes_at_once = 20 if quick else 200
    kib = 1024
    many = min(connections, 1000) // (10 if quick else 1)
    every = partial(Data, implementations=ALL)
    data = partial(every, unit="µs per round trip", kind=ROUND_TRIPS)
    account = partial(Account, "account", implementations=ON_TRIO)
    bulk_account = partial(account, count=megabytes * 12, size=256 * kib, unit="s per GB")
    bulk = partial(
        Data,
        "bulk",
        implementations=BULK,
        count=megabytes,
        size=256 * kib,
        unit="s per GB",
        turns=4,
    )
    out, back = ("sending CPU", "receiving CPU"), ("receiving CPU", "sending CPU")
    return [
        data("roundtrips", "round trips of 64 B", count=300 // part, size=64, turns=10),
        data("messages", "round trips of 16 KiB", count=100 // part, size=16 * kib, turns=8),
        data("messages", "round trips of 256 KiB", count=50 // part, size=256 * kib, turns=4),
        bulk("bulk to the server", kind=TO_SERVER, sides=out),
        bulk("bulk from the server", kind=FROM_SERVER, sides=back),
        # OpenSSL forbids that two threads use one connection.
        bulk(
            "bulk both ways at once",
            unit="s per GB each way",
            kind=BOTH_WAYS,
            implementations=tuple(each for each in BULK if each is not Blocking),
        ),
        every("small-sends", "sends of 64 B", TO_SERVER, 10000 // part, 64, "µs per send", out),
        *(
            Handshakes(
                "handshakes",
                f"{kind} handshakes, {tls}",
                20 // part,
                resume,
                implementations=RESUMING,
                version=version,
                turns=5,
            )
            for tls, version in (
                ("TLS 1.3", ssl.TLSVersion.TLSv1_3),
                ("TLS 1.2", ssl.TLSVersion.TLSv1_2),
            )
            for kind, resume in (("full", False), ("resumed", True))
        ),
        Memory(
            "memory",
            f"memory, {many} connections",
            many,
            256 * kib,
            implementations=ON_TRIO,
            most_rounds=few,
        ),
        Active(
            "active",
            "requests of 64 B at once",
            [level for level in (1, 10, 100, 1000) if level <= many],
            2000 // part,
            64,
            implementations=MANY,
            turns=2,
        ),
        account(
            "a round trip of 64 B",
            kind=ROUND_TRIPS,
            count=20000 // part,
            size=64,
            unit="µs per round trip",
        ),
        bulk_account("bulk to the server", kind=TO_SERVER),
        bulk_account("bulk from the server", kind=FROM_SERVER),
        Stall(
            "stall",
            f"one send of {megabytes_at_once} MB",
            megabytes_at_once * 10**6,
            implementations=ASYNC,
            most_rounds=few,
        ),
    ]
