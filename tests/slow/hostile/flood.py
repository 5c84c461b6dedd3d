"""A peer says one thing without end to a stream over TCP, and what that costs is counted.

``python -m tests.slow.hostile.flood NAME VERSION`` runs one flood in a process of its own and
prints figures as JSON.
"""

from __future__ import annotations

import gc
import itertools
import json
import os
import re
import socket
import ssl
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import trio
import trustme

from fuzz._forge import (
    ALERT,
    APPLICATION_DATA,
    CERTIFICATE_REQUEST,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    HELLO_REQUEST,
    NEW_SESSION_TICKET,
    TICKET,
    UPDATE_NOT_REQUESTED,
    UPDATE_REQUESTED,
    Keys13,
    handshake,
    in_pieces,
    record,
    with_extension,
)
from tests.helpers import NAME, tcp_pair
from trio_tlsbio import TLSError, TLSStream, TruncationError

from .cases import inside
from .peer import Arena, HostileEnd, HostilePeer

KIB = 1024
BOTH, TLS12, TLS13 = ("tls12", "tls13"), ("tls12",), ("tls13",)

USER_CANCELED = b"\x01\x5a"
HELLO_REQUEST_MESSAGE = handshake(HELLO_REQUEST, b"")
LARGE_TICKET = handshake(
    NEW_SESSION_TICKET, bytes(9) + (16_000).to_bytes(2, "big") + bytes(16_000) + b"\0\0"
)
SMALL_TICKET = handshake(
    NEW_SESSION_TICKET, bytes.fromhex("00000001 00000000 00") + b"\0\x01t" + b"\0\0"
)

#: Says the next part of a flood.
Say = Callable[[HostilePeer], bytes]


GOES_ON = "the connection goes on"
WAITS = "the handshake waits for more"
STANDS = "nothing more is received until the peer reads"
REMAINS = "nothing more is received"
EMPTY = "the peer sent too many empty records in a row"
EMPTY_SEALED = inside(EMPTY, "unexpected_message").words


@attrs.frozen
class Flood:
    """What is said to a victim of one side, and how often."""

    name: str
    side: str
    versions: tuple[str, ...]
    say: Say
    #: How many records one part has, and how many are said in all.
    part: int
    records: int
    #: How it ends: in the words of an error, or in those below.
    ends: str
    #: When: "established", "before the hello" (of the peer), or "closed" (after its end).
    moment: str = "established"
    #: Whether the peer reads what comes back.
    reads: bool = True
    #: Whether the victim offers a certificate after the handshake (post_handshake_auth).
    with_certificate: bool = False
    #: How much the memory of both sides may grow by, in bytes.
    most_growth: int = 2048 * KIB


def data(content: bytes, padding: int = 0) -> Say:
    return lambda peer: peer.seal(APPLICATION_DATA, content, padding)


def with_data(content_type: int, content: bytes, times: int) -> Say:
    """As many records as are let pass, and then a byte of data."""

    def say(peer: HostilePeer) -> bytes:
        some = (peer.seal(content_type, content) for _ in range(times))
        return b"".join(some) + peer.seal(APPLICATION_DATA, b"x")

    return say


def message(content: bytes) -> Say:
    return lambda peer: peer.seal(HANDSHAKE, content)


def key_update(content: bytes) -> Say:
    def say(peer: HostilePeer) -> bytes:
        said = peer.seal(HANDSHAKE, content)
        assert isinstance(peer.ours, Keys13)
        peer.ours.update()
        return said

    return say


def certificate_request() -> Say:
    numbers = itertools.count()

    def say(peer: HostilePeer) -> bytes:
        # Each with a context of its own (RFC 9846 section 4.4.2).
        context = next(numbers).to_bytes(4, "big")
        extensions = bytes.fromhex("0008 000d 0004 0002 0403")
        return peer.seal(HANDSHAKE, handshake(CERTIFICATE_REQUEST, b"\x04" + context + extensions))

    return say


def always(part: bytes) -> Say:
    return lambda peer: part


def new_handshake(peer: HostilePeer) -> bytes:
    """The ClientHello once more, as the begin of a renegotiation."""
    return peer.seal(HANDSHAKE, _hello_of(peer))


def large_hello(peer: HostilePeer) -> bytes:
    """All but the end of a ClientHello, in 65,000 records or so."""
    hello = _hello_of(peer)  # with a share of X25519MLKEM768, it is long by itself
    hello = with_extension(hello, 0xABCD, bytes(min(65_000, 0xFFFF - len(hello))))
    return in_pieces(HANDSHAKE, hello[:-1], 1)


def _hello_of(peer: HostilePeer) -> bytes:
    said = bytes(peer.said_in_handshake[5:])
    return said[: 4 + int.from_bytes(said[1:4], "big")]


FLOODS = [
    Flood("1 byte of data in each record", "server", BOTH, data(b"x"), 1, 100_000, GOES_ON),
    Flood("1 byte of data, padded to 2^14", "server", TLS13, data(b"x", 16383), 1, 5_000, GOES_ON),
    Flood("empty records", "server", BOTH, data(b""), 1, 1_000, EMPTY_SEALED),
    Flood(
        "32 empty records, then data",
        "server",
        BOTH,
        with_data(APPLICATION_DATA, b"", 32),
        33,
        100_000,
        GOES_ON,
    ),
    Flood(
        "warnings",
        "server",
        BOTH,
        lambda peer: peer.seal(ALERT, USER_CANCELED),
        1,
        1_000,
        "the peer sent too many warnings in a row",
    ),
    Flood(
        "4 warnings, then data",
        "server",
        BOTH,
        with_data(ALERT, USER_CANCELED, 4),
        5,
        100_000,
        GOES_ON,
    ),
    Flood("tickets", "client", TLS13, message(TICKET), 1, 20_000, GOES_ON),
    Flood("tickets of 16 KB", "client", TLS13, message(LARGE_TICKET), 1, 3_000, GOES_ON),
    Flood(
        "tickets, 900 in each record",
        "client",
        TLS13,
        message(SMALL_TICKET * 900),
        1,
        200,
        GOES_ON,
    ),
    Flood("KeyUpdates", "server", TLS13, key_update(UPDATE_NOT_REQUESTED), 1, 20_000, GOES_ON),
    Flood(
        "KeyUpdates that request an answer",
        "server",
        TLS13,
        key_update(UPDATE_REQUESTED),
        1,
        20_000,
        GOES_ON,
    ),
    Flood(
        "KeyUpdates that request an answer, from a peer that reads nothing",
        "server",
        TLS13,
        key_update(UPDATE_REQUESTED),
        1,
        300_000,
        STANDS,
        reads=False,
    ),
    Flood(
        "requests for a certificate, from a peer that reads nothing",
        "client",
        TLS13,
        certificate_request(),
        1,
        300_000,
        STANDS,
        reads=False,
        with_certificate=True,
        most_growth=24 * 1024 * KIB,
    ),
    Flood(
        "ClientHellos, from a peer that reads nothing",
        "server",
        TLS12,
        new_handshake,
        1,
        300_000,
        STANDS,
        reads=False,
    ),
    Flood("HelloRequests", "client", TLS12, message(HELLO_REQUEST_MESSAGE), 1, 100_000, GOES_ON),
    Flood(
        "HelloRequests, 4,000 in each record",
        "client",
        TLS12,
        message(HELLO_REQUEST_MESSAGE * 4000),
        1,
        1_000,
        GOES_ON,
    ),
    Flood(
        "HelloRequests instead of a ServerHello",
        "client",
        BOTH,
        always(record(HANDSHAKE, HELLO_REQUEST_MESSAGE) * 1000),
        1000,
        1_000_000,
        WAITS,
        moment="before the hello",
    ),
    Flood(
        "empty records instead of a ClientHello",
        "server",
        BOTH,
        always(record(HANDSHAKE, b"") * 1000),
        1000,
        100_000,
        EMPTY,
        moment="before the hello",
    ),
    Flood(
        "change_cipher_spec instead of a ClientHello",
        "server",
        BOTH,
        always(record(CHANGE_CIPHER_SPEC, b"\x01") * 1000),
        1000,
        100_000,
        "the peer sent an unexpected message",
        moment="before the hello",
    ),
    Flood(
        "a ClientHello of 64 KB in records of 1 byte, except the last",
        "server",
        BOTH,
        large_hello,
        65_000,
        1,
        WAITS,
        moment="before the hello",
    ),
    Flood(
        "data after the end",
        "server",
        BOTH,
        always(bytes(64 * KIB)),
        1,
        1_600,
        REMAINS,
        moment="closed",
        reads=False,
    ),
]


################################################################
# Counting
################################################################


@attrs.define(eq=False)
class Counts:
    """What the victim does."""

    calls: int = 0  # of OpenSSL
    turns: int = 0  # of another task
    most_calls_between_turns: int = 0
    #: The most CPU time that passed between two turns of that task, in seconds, without the peer's.
    longest_turn: float = 0.0
    _not_counted: float = 0.0

    def counting_class(self) -> type[ssl.SSLObject]:
        """An SSLObject that counts what it is asked."""
        counts = self

        class Counting(ssl.SSLObject):
            def read(self, *args: Any) -> Any:
                counts.calls += 1
                return super().read(*args)

            def do_handshake(self) -> None:
                counts.calls += 1
                super().do_handshake()

        return Counting

    async def take_turns(self) -> None:
        """Be another task in the same program."""
        while True:
            before, started = self.calls, self._time()
            await trio.lowlevel.checkpoint()
            self.longest_turn = max(self.longest_turn, self._time() - started)
            self.turns += 1
            done = self.calls - before
            self.most_calls_between_turns = max(self.most_calls_between_turns, done)

    def _time(self) -> float:
        return time.thread_time() - self._not_counted

    @contextmanager
    def not_counting(self) -> Iterator[None]:
        """Leave out the CPU time of a block: the peer runs in the same thread."""
        started = time.thread_time()
        try:
            yield
        finally:
            self._not_counted += time.thread_time() - started


def resident(name: str) -> int:
    """Memory as proc(5) tells it, in bytes."""
    gc.collect()
    found = re.search(name + r":\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return int(found[1]) * KIB


def forget_peak() -> None:
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")


################################################################
# One flood
################################################################


@attrs.define(eq=False)
class Run:
    """A flood under way."""

    flood: Flood
    end: HostileEnd
    victim: TLSStream[trio.SocketStream]
    counts: Counts
    records: int = 0
    bytes_said: int = 0
    received: int = 0
    outcome: str = STANDS

    def parts(self) -> Iterator[bytes]:
        """What is said, in parts of some size."""
        while self.records < self.flood.records:
            part = b""
            with self.counts.not_counting():
                while len(part) < 16 * KIB and self.records < self.flood.records:
                    part += self.flood.say(self.end.peer)
                    self.records += self.flood.part
            yield part

    async def say(self) -> None:
        tcp = self.end.tcp
        try:
            if self.flood.moment == "closed":
                await self.end.say(ALERT, b"\x01\x00")
            for part in self.parts():
                await tcp.send_all(part)
                self.bytes_said += len(part)
            if self.flood.moment == "before the hello":
                await tcp.send_eof()
            elif self.flood.moment == "established":
                await self.end.say(APPLICATION_DATA, b"the end")
        except trio.BrokenResourceError:
            pass  # the victim has had enough

    async def hear(self) -> None:
        try:
            async for _ in self.end.tcp:
                pass
        except trio.BrokenResourceError:
            pass

    async def hear_and_close(self) -> None:
        await self.hear()
        await trio.aclose_forcefully(self.end.tcp)

    async def suffer(self) -> None:
        """What a program does that takes no care."""
        try:
            while data := await self.victim.receive_some():
                self.received += len(data)
                if data.endswith(b"the end"):
                    self.outcome = GOES_ON
                    return
            self.outcome = REMAINS
            while True:  # as a pool of connections does, if it looks at those that have ended
                assert self.victim.is_readable()
                await trio.lowlevel.checkpoint()
        except TruncationError:
            self.outcome = WAITS
        except TLSError as exc:
            self.outcome = str(exc)
        finally:
            await trio.aclose_forcefully(self.victim)

    async def watch(self, done: trio.CancelScope) -> None:
        """Cancel it once nothing moves any more."""
        idle, before = 0, (-1, -1)
        while idle < 3000:
            await trio.lowlevel.checkpoint()
            now = (self.bytes_said, self.received)
            idle, before = (idle + 1 if now == before else 0), now
        done.cancel()

    async def run(self) -> None:
        async with trio.open_nursery() as watchers:
            watchers.start_soon(self.counts.take_turns)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.say)
                if self.flood.reads:
                    nursery.start_soon(self.hear)
                else:
                    nursery.start_soon(self.watch, nursery.cancel_scope)
                await self.suffer()
                nursery.cancel_scope.cancel()
            watchers.cancel_scope.cancel()


# Short, in seconds: some virtual machines map a process's memory anew after it has waited for a
# second. That takes 30 microseconds for each page, and longer than what is measured here.
CLOSE_TIMEOUT = 0.2


@asynccontextmanager
async def meeting(flood: Flood, version: str, counts: Counts) -> AsyncIterator[Run]:
    """Bring the two sides to the moment at which the flood begins."""
    ca = trustme.CA()
    with tempfile.TemporaryDirectory() as directory:
        arena = Arena.make(ca, ca.issue_cert(NAME), flood.side, version, Path(directory))
        arena.victim_context.sslobject_class = counts.counting_class()
        if flood.with_certificate:
            arena.victim_context.post_handshake_auth = True
            ca.issue_cert("client@example").configure_cert(arena.victim_context)
        async with tcp_pair() as (theirs, ours):
            end = HostileEnd(arena.new_peer(), theirs)
            victim = arena.stream(ours, close_timeout=CLOSE_TIMEOUT)
            if flood.moment == "before the hello":
                end.peer.next_flight()
                flood = attrs.evolve(flood, say=always(flood.say(end.peer)))
            else:
                await end.shake_hands(victim)
            counts.calls = 0
            yield Run(flood, end, victim, counts)


async def run(flood: Flood, version: str) -> dict[str, object]:
    counts = Counts()
    async with meeting(flood, version, counts) as under_way:
        forget_peak()
        before = resident("VmRSS")
        with trio.fail_after(60):
            await under_way.run()
        growth = resident("VmHWM") - before
    return {
        "records": under_way.records,
        "bytes": under_way.bytes_said,
        "growth": growth,
        "outcome": under_way.outcome,
        "calls": counts.calls,
        "turns": counts.turns,
        "most_calls_between_turns": counts.most_calls_between_turns,
        "longest_turn": counts.longest_turn,
        "longest_calls": {
            name: await longest_call(flood, version, name)
            for name in ("is_readable", "receive_nowait", "aclose", "aclose_forcefully")
        },
    }


################################################################
# One call, with all of a flood waiting for it
################################################################

# How much of a flood waits in the victim's socket, if that is large enough.
MOST_WAITING = 1536 * KIB


def fill(run: Run) -> None:
    """Say as much as the two sockets hold, without waiting."""
    theirs, ours = run.end.tcp, run.victim.transport_stream
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MOST_WAITING)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * MOST_WAITING)
    is_closed = run.flood.moment == "closed"
    beginning = [run.end.peer.seal(ALERT, b"\x01\x00")] if is_closed else []
    descriptor = theirs.socket.fileno()
    with socket.socket(fileno=os.dup(descriptor)) as borrowed, suppress(BlockingIOError):
        borrowed.setblocking(False)  # PyPy has made it wait
        for part in itertools.chain(beginning, run.parts()):
            left = part
            while left:
                left = left[borrowed.send(left) :]
            run.bytes_said += len(part)
            if run.bytes_said >= MOST_WAITING:
                break


async def longest_call(flood: Flood, version: str, name: str) -> float:
    """Return how much CPU time a call took at most, in seconds; between two turns of another
    task, if it is one that waits.
    """
    counts = Counts()
    async with meeting(flood, version, counts) as run:
        fill(run)
        victim = run.victim
        await trio.lowlevel.wait_readable(victim.transport_stream.socket)
        gc.collect()
        if name in ("is_readable", "receive_nowait"):
            longest = 0.0
            for _ in range(3):
                started = time.thread_time()
                with suppress(TLSError):
                    getattr(victim, name)()
                longest = max(longest, time.thread_time() - started)
            await trio.aclose_forcefully(victim)
            return longest
        async with trio.open_nursery() as nursery:
            nursery.start_soon(counts.take_turns)
            nursery.start_soon(run.hear_and_close)
            await trio.lowlevel.checkpoint()
            close = trio.aclose_forcefully if name == "aclose_forcefully" else type(victim).aclose
            with suppress(TLSError):
                await close(victim)
            await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    return counts.longest_turn


if __name__ == "__main__":
    (chosen,) = (flood for flood in FLOODS if flood.name == sys.argv[1])
    print(json.dumps(trio.run(run, chosen, sys.argv[2])))
