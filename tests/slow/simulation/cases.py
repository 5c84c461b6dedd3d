"""One case: two ends, a state of ours, an operation on each, and when ours is cancelled."""

from __future__ import annotations

import gc
import traceback
import weakref
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import Any

import attrs
import trio
from hypothesis.internal.entropy import deterministic_PRNG
from trio.testing import MockClock, wait_all_tasks_blocked

from tests.cancelling import Canceller
from tests.helpers import COUNTS_REFERENCES
from trio_tlsbio import TLSError

from .operations import OPERATIONS, Operation
from .states import STATES, State
from .world import End, Ledger, World, name_of, open_world

READS = "reads"
"""A peer that reads to the end, then closes."""

SILENT = "silent"
"""A peer that does nothing until our operation has ended, then reads to the end and closes."""

GONE = "gone"
"""A peer that was closed in the state already."""

SIDES_OF = {"client": ("client", "server"), "server": ("server", "client")}
"""Our side and the peer's, by our side."""

# After how many seconds an operation counts as blocked: by the clock that jumps, by the real one.
_BLOCKED = 60.0
_REALLY_BLOCKED = 8.0

# How often an operation is called again, or the received data looked at, before giving up.
_ROUNDS = 400

# These may return before the leftover is sent, as operations that never wait do.
_ASKED_AGAIN = {"do_handshake", "receive_some", "wait_send"}


@attrs.frozen
class Case:
    """One case, by the names of its parts."""

    transport: str
    capacity: int
    version: str
    side: str
    state_name: str
    operation_name: str
    peer: str = READS
    #: At which event the operation is cancelled: see Canceller. 0 is from the start.
    cancelled_at: int | None = None

    @property
    def group(self) -> str:
        return f"{self.transport}/{self.version}/{self.state_name}"

    def __str__(self) -> str:
        where = f"{self.transport}-{self.capacity}/{self.version}/{self.side}"
        when = "" if self.cancelled_at is None else f"/cancelled at {self.cancelled_at}"
        return f"{where}/{self.state_name}/{self.operation_name}/peer: {self.peer}{when}"

    @property
    def state(self) -> State:
        return STATES[self.state_name]

    @property
    def operation(self) -> Operation:
        return OPERATIONS[self.operation_name]

    @property
    def peer_operation(self) -> Operation | None:
        return OPERATIONS.get(self.peer)

    @property
    def is_in_memory(self) -> bool:
        return "sockets" not in self.transport

    @property
    def puts_out_leftover(self) -> bool:
        """Whether the operation alone must send all that a cancelled send has left."""
        return (
            self.state.has_leftover
            and self.state.is_healthy
            and self.peer == READS
            and self.cancelled_at is None
            and not self.operation.is_forced
            # These may leave something themselves.
            and not self.operation.name.startswith(("fill", "wait and"))
        )

    @property
    def is_possible(self) -> bool:
        """Whether its parts fit together."""
        state, peer = self.state, self.peer_operation
        asking = [
            side
            for side, operation in zip(SIDES_OF[self.side], (self.operation, peer), strict=True)
            if operation is not None and operation.asks_client
        ]
        return (
            self.version in state.versions
            and (self.peer == GONE) is bool(state.gone)
            and not (state.foreign and (self.transport.startswith("nested") or peer))
            and not (asking and (self.version != "tls13" or state.foreign or "client" in asking))
        )


@attrs.define(eq=False)
class Outcome:
    """How an operation went."""

    #: ``"returned"``, ``"blocked"`` or ``"cancelled"``, or the exception by name.
    how: str = "blocked"
    seconds: float = 0.0
    #: What it found wrong itself, if anything.
    note: str | None = None

    @property
    def raised(self) -> str | None:
        """The class of what it raised."""
        return None if self.how in {"returned", "blocked", "cancelled"} else self.how.split(":")[0]


@attrs.define(eq=False)
class Run:
    """What a case did. Nothing in it keeps the streams alive."""

    case: Case
    outcome: Outcome = attrs.field(factory=Outcome)
    peer_outcome: Outcome = attrs.field(factory=Outcome)
    ours: Ledger = attrs.field(factory=Ledger)
    theirs: Ledger = attrs.field(factory=Ledger)
    #: In bytes: what was committed before and after the operation, and had arrived after it.
    committed_before: int = 0
    committed_after: int = 0
    arrived_after: int = 0
    #: Whether the peer has come to its end.
    peer_has_ended: bool = False
    still_open: list[str] = attrs.field(factory=list)
    still_alive: list[str] = attrs.field(factory=list)
    #: Whether the operation was cancelled before it had completed.
    was_cancelled: bool = False
    broke: str | None = None


def play(case: Case) -> Run:
    """Run a case. Garbage collection must be off: see :func:`without_collection`."""
    run = Run(case)
    clock = MockClock(autojump_threshold=0) if case.is_in_memory else None
    watched: list[weakref.ref[Any]] = []
    try:
        with deterministic_PRNG(0):
            trio.run(_play, run, watched, clock=clock)
    except Exception as exc:
        run.broke = "".join(traceback.format_exception(exc))
    else:
        alive = [type(each).__name__ for ref in watched if (each := ref()) is not None]
        run.still_alive = alive if COUNTS_REFERENCES else []
    return run


async def _play(run: Run, watched: list[weakref.ref[Any]]) -> None:
    case, state = run.case, run.case.state
    async with open_world(
        case.transport,
        case.capacity,
        case.version,
        case.side,
        options=dict(state.options),
        foreign=state.foreign,
    ) as world:
        watched += world.watched
        await state.prepare(world)
        run.ours, run.theirs = world.ours.ledger, world.theirs.ledger
        run.committed_before = world.ours.stream.bytes_committed
        turn, ended = trio.Event(), trio.Event()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_be_the_peer, world, run, turn, ended)
            await _operate(world, run)
            run.committed_after = world.ours.stream.bytes_committed
            await _see_what_arrives(world, run)
            turn.set()
            await _end_ours(world, run)
            with trio.move_on_after(_BLOCKED if world.is_in_memory else _REALLY_BLOCKED):
                await ended.wait()
                run.peer_has_ended = True
            nursery.cancel_scope.cancel()
        ends = {"ours": world.ours, "theirs": world.theirs}
        run.still_open = [name for name, end in ends.items() if world.is_open(end)]


async def _run(operation: Operation, world: World, end: End, outcome: Outcome) -> None:
    start = trio.current_time()
    try:
        outcome.note = await operation.run(world, end)
        outcome.how = "returned"
    except Exception as exc:
        outcome.how = name_of(exc)
    except BaseException:  # cancelled, perhaps in a group
        outcome.how = "cancelled"
        raise
    finally:
        outcome.seconds = trio.current_time() - start


async def _be_the_peer(world: World, run: Run, turn: trio.Event, ended: trio.Event) -> None:
    operation, end = run.case.peer_operation, world.theirs
    if operation is not None:
        assert isinstance(end, End)
        await _run(operation, world, end, run.peer_outcome)
    elif run.case.peer == SILENT:
        await turn.wait()
    elif run.case.peer == GONE:
        await trio.aclose_forcefully(world.bottoms[1])
        ended.set()
        return
    with suppress(trio.ClosedResourceError):
        await end.read_and_close()
    ended.set()


async def _operate(world: World, run: Run) -> None:
    case, operation = run.case, run.case.operation
    with trio.CancelScope() as limit:
        operate = partial(_run, operation, world, world.ours, run.outcome)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_give_up, world, run, limit)
            if case.cancelled_at is None:
                await operate()
                if operation.is_nowait or operation.name in _ASKED_AGAIN:
                    await _ask_again(world, run)
            else:
                canceller = Canceller(case.cancelled_at)
                run.was_cancelled = await canceller.run(operate)
            nursery.cancel_scope.cancel()
    if limit.cancelled_caught:
        run.outcome.how = "blocked"


async def _give_up(world: World, run: Run, limit: trio.CancelScope) -> None:
    """Cancel an operation that blocks."""
    if world.is_in_memory:
        await trio.sleep(_BLOCKED)
    elif run.case.operation.needs_arrival and not run.case.state.has_arrived:
        await _quiet(world)
        await _see_what_arrives(world, run)
    else:
        await trio.sleep(_REALLY_BLOCKED)
    limit.cancel()


async def _ask_again(world: World, run: Run) -> None:
    """Call an operation again until all committed data has arrived, if it must send that."""
    for _ in range(_ROUNDS if run.case.puts_out_leftover else 0):
        await _quiet(world)
        if run.outcome.raised or _all_has_arrived(world):
            break
        await _run(run.case.operation, world, world.ours, run.outcome)


async def _quiet(world: World) -> None:
    await wait_all_tasks_blocked(0 if world.is_in_memory else 0.002)


def _all_has_arrived(world: World) -> bool:
    return len(world.theirs.ledger.received) == world.ours.stream.bytes_committed


async def _see_what_arrives(world: World, run: Run) -> None:
    """Let the peer read what was sent. Over sockets that can take several turns."""
    for _ in range(_ROUNDS if run.case.puts_out_leftover and not world.is_in_memory else 1):
        await _quiet(world)
        if _all_has_arrived(world):
            break
    run.arrived_after = len(world.theirs.ledger.received)


async def _end_ours(world: World, run: Run) -> None:
    ours = world.ours
    if run.case.state.gone:
        with trio.move_on_after(_BLOCKED):
            await ours.read_to_end()
            await ours.read_to_end()
    with suppress(TLSError):
        await ours.timed_close()


@contextmanager
def without_collection() -> Generator[None, None, None]:
    """Turn garbage collection off, so that objects in a cycle stay alive."""
    if not COUNTS_REFERENCES:  # all objects stay alive for a while
        yield
        return
    gc.freeze()  # so that the collection at the end looks at new objects alone
    gc.disable()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        gc.enable()


def steps_of(case: Case) -> Iterator[Run]:
    """Run a case, cancelled at one event later each time, until it completes before that."""
    number = 0
    while True:
        run = play(attrs.evolve(case, cancelled_at=number))
        yield run
        if not run.was_cancelled:
            break
        number += 1
