"""What it costs if a peer says one thing without end: memory, and time that others don't get."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

from tests.helpers import ROOT
from tests.tables import Tables
from trio_tlsbio._core.openssl_errors import IS_PYPY

from .flood import FLOODS, KIB, Flood

# What is received before another task has its turn, at most: see RECEIVE_BYTES.
MOST_AT_ONCE = 4 * 96 * KIB
SMALLEST_RECORD = 22

# What one call, or the time between two turns of another task, is to take at most: in seconds of
# CPU, as measured on a quiet machine. It is told here, and not asserted: machines differ.
LONGEST = 0.010

# What two sockets hold, in bytes, with some to spare.
MOST_IN_SOCKETS = 16 * 1024 * KIB

# What PyPy's garbage collector and JIT take as the program goes on, in bytes.
GROWTH_OF_PYTHON = 256 * 1024 * KIB if IS_PYPY else 0

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it"
)


@attrs.frozen
class Figures:
    """What a flood has cost."""

    records: int
    bytes: int
    growth: int
    outcome: str
    calls: int
    turns: int
    most_calls_between_turns: int
    #: The most CPU time between two turns of another task, and of single calls, in seconds.
    longest_turn: float
    longest_calls: dict[str, float]


def run(flood: Flood, version: str) -> Figures:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.slow.hostile.flood", flood.name, version],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return Figures(**json.loads(done.stdout))


@pytest.mark.sample(20)
@pytest.mark.parametrize(
    ("flood", "version"),
    [(flood, version) for flood in FLOODS for version in flood.versions],
    ids=lambda each: each if isinstance(each, str) else each.name,
)
def test_flood(flood: Flood, version: str, tables: Tables) -> None:
    figures = run(flood, version)
    print(figures)
    assert figures.outcome == flood.ends
    assert figures.growth <= flood.most_growth + GROWTH_OF_PYTHON
    # The work is bounded by what came, and so is what others wait for at a time.
    assert figures.calls <= figures.records + 1000
    assert figures.turns >= figures.bytes / MOST_AT_ONCE
    assert figures.most_calls_between_turns <= MOST_AT_ONCE / SMALLEST_RECORD
    if not flood.reads:
        assert figures.bytes < MOST_IN_SOCKETS
    call, longest_call = max(figures.longest_calls.items(), key=lambda item: item[1])
    for what, seconds in (("a turn", figures.longest_turn), (call, longest_call)):
        if seconds > LONGEST:
            print(f"!!! {what} took {seconds * 1000:.1f} ms of CPU: {flood.name}, {version} !!!")
    tables.tell(
        "floods",
        f"{flood.name}, to a {flood.side}",
        {"tls12": "1.2", "tls13": "1.3"}[version],
        f"{figures.records:,} in {figures.bytes / KIB:,.0f} KiB",
        f"{figures.growth / KIB:,.0f} KiB",
        f"{figures.longest_turn * 1000:.1f} ms",
        f"{longest_call * 1000:.1f} ms",
        figures.outcome,
    )
