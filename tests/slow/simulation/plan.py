"""Which cases there are, and which of them the tests run."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from zlib import crc32

import attrs

from tests.helpers import VERSIONS

from .cases import GONE, READS, SILENT, Case
from .operations import OPERATIONS
from .states import STATES
from .world import SIDES

CAPACITIES = (1, 100, 16 * 1024)
"""How many bytes a transport in memory holds."""

_SOCKETS = ("sockets", "nested sockets")
_OTHERS_IN_MEMORY = ("nested", "pump", "plain")

# The states in which the tests run an operation on both ends at once.
_PAIRED_STATES = ("idle", "leftover", "both leftover")

# The events at which the tests cancel operations.
_EVENTS = (0, 1, 2, 3, 4, 6, 9, 14)


def _possible(
    transports: Iterable[str],
    capacities: Iterable[int],
    states: Iterable[str],
    operations: Iterable[str],
    peers: Iterable[str],
) -> Iterator[list[Case]]:
    """Return a list for each combination: its cases for each capacity, version and side."""
    capacities = tuple(capacities)
    for transport, state, operation, peer in itertools.product(
        transports, states, operations, peers
    ):
        cases = [
            Case(transport, capacity, version, side, state, operation, peer)
            for version, capacity, side in itertools.product(VERSIONS, capacities, SIDES)
        ]
        if possible := [case for case in cases if case.is_possible]:
            yield possible


def _waits_for_real(case: Case) -> bool:
    """Whether a case would take seconds over sockets, where no clock jumps."""
    return not case.is_in_memory and (
        (case.peer == SILENT and not case.operation.is_forced)
        or (case.operation.needs_arrival and not case.state.has_arrived and case.peer != READS)
    )


def all_cases() -> Iterator[Case]:
    """All cases without a cancellation: see :func:`all_to_cancel`."""
    every = (tuple(STATES), tuple(OPERATIONS))
    for cases in itertools.chain(
        _possible(["memory"], CAPACITIES, *every, (READS, SILENT, GONE, *OPERATIONS)),
        _possible(_OTHERS_IN_MEMORY, CAPACITIES, *every, (READS, SILENT, GONE)),
        _possible(["nested"], CAPACITIES[-1:], *every, OPERATIONS),
        _possible(_SOCKETS, CAPACITIES[-1:], *every, (READS, SILENT, GONE)),
    ):
        yield from (case for case in cases if not _waits_for_real(case))


def all_to_cancel() -> Iterator[Case]:
    """The cases whose operation is to be cancelled, at each event in turn."""
    every = (tuple(STATES), tuple(OPERATIONS))
    for cases in itertools.chain(
        _possible(["memory"], CAPACITIES, *every, (READS, SILENT, GONE)),
        _possible(_OTHERS_IN_MEMORY, CAPACITIES[-1:], *every, (READS, GONE)),
    ):
        yield from (case for case in cases if not case.operation.is_nowait)


def usual_cases() -> Iterator[Case]:
    """The cases that the tests run. Capacity, version and side vary from case to case."""
    every = (tuple(STATES), tuple(OPERATIONS))
    alone = (READS, SILENT, GONE)
    for cases in _possible(["memory"], CAPACITIES, *every, alone):
        # Each version; one as the client, the other one as the server, where both are possible.
        for number, version in enumerate(VERSIONS, _hash(cases[0])):
            of_version = [case for case in cases if case.version == version]
            of_side = [case for case in of_version if case.side == SIDES[number % 2]]
            if some := of_side or of_version:
                yield _any_of(some)
    for cases in itertools.chain(
        _possible(["memory"], CAPACITIES, _PAIRED_STATES, OPERATIONS, OPERATIONS),
        _possible(_OTHERS_IN_MEMORY, CAPACITIES[1:], *every, alone),
        _possible(_SOCKETS, CAPACITIES[-1:], *every, alone),
    ):
        case = _any_of(cases)
        if not _waits_for_real(case) and not (case.transport == _SOCKETS[1] and _hash(case) % 2):
            yield case
    for cases in _possible(["memory"], CAPACITIES[1:], *every, (READS, GONE)):
        if not cases[0].operation.is_nowait:
            for number in _EVENTS[_hash(cases[0]) % 2 :: 2]:
                yield attrs.evolve(_any_of(cases, number), cancelled_at=number)


def _any_of(cases: list[Case], salt: object = "") -> Case:
    """Choose one case by its id, so that adding others changes nothing."""
    return cases[_hash(cases[0], salt) % len(cases)]


def _hash(*what: object) -> int:
    return crc32(repr(tuple(map(str, what))).encode())
