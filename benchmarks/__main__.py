"""All benchmarks: implementations of TLS side by side, interleaved round by round in one run.

    pip install -e '.[bench]'
    python benchmarks [NAME ...] [--quick] [--json FILE] [--compare OLD.json] [--svg FILE]

Each implementation has a server and a client, in a process each, over loopback. Both are held on
one core, so that neither wake-ups between cores nor what shares a core with them is measured. All
that are not at work wait for a pipe. Their turns are short where that can be, and shuffled.

CPU time is that of the process around the workload, after a warm-up of the connection. Needs POSIX,
and an idle machine.

A process keeps the speed that its layout in memory gives it, which differs by some percent from one
start to the next. So smaller differences only show over many starts: ``--starts 40 --rounds 2``.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import _figures
import _floor
from _figures import Figure
from _peers import Implementation, Ours, OursBefore
from _processes import Remote, end_tidily, progress, save_certificates
from _workloads import Measured, Peer, Workload, workloads

FLOOR = "floor"
GROUPS = (*dict.fromkeys(each.group for each in workloads(quick=True, connections=0)), FLOOR)

# Descriptors for all but connections.
RESERVED = 200


class Run:
    """Measures, with processes that are started when they are first needed."""

    def __init__(self, stack: ExitStack, options: argparse.Namespace, seed: int) -> None:
        self._stack = stack
        self._rounds: int = options.rounds
        self._core: int | None = options.core
        self._version = ssl.TLSVersion.TLSv1_2 if options.tls12 else ssl.TLSVersion.TLSv1_3
        self._folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        self._peers: dict[tuple[type[Implementation], ssl.TLSVersion], Peer] = {}
        self._random = random.Random(seed)
        self.figures: list[Figure] = []
        save_certificates(self._folder)

    def measure(self, workload: Workload) -> None:
        """Measure all implementations."""
        tls = workload.version or self._version
        measures: dict[str, Callable[[], Measured]] = {}
        for implementation in self._implementations(workload):
            if workload.is_fresh:
                measure = partial(self._measure_fresh, implementation, workload)
            else:
                if (implementation, tls) not in self._peers:
                    peer = Peer(implementation, tls, self._folder, self._core)
                    self._peers[implementation, tls] = self._stack.enter_context(peer)
                measure = partial(self._peers[implementation, tls].run, workload)
            measures[implementation.name] = measure
        for peer in self._peers.values():
            peer.wait_until_ready()
        turns = min(self._rounds, workload.most_rounds) * workload.turns
        self._collect(workload.group, workload.name, measures, turns)

    def _implementations(self, workload: Workload) -> tuple[type[Implementation], ...]:
        if OursBefore.path is None:
            return workload.implementations
        return (Ours, OursBefore) if Ours in workload.implementations else ()

    def _measure_fresh(self, implementation: type[Implementation], workload: Workload) -> Measured:
        core = self._core if workload.is_pinned else None
        with Peer(implementation, self._version, self._folder, core) as peer:
            peer.wait_until_ready()
            return peer.run(workload)

    def measure_floor(self, count: int) -> None:
        """Measure what encryption takes by itself."""
        arguments = (self._version, self._folder)
        with Remote("the floor", self._core, _floor.be_floor, *arguments) as remote:
            for label, size in _floor.SIZES.items():
                measures = {
                    name: partial(remote.ask, "run", name, count, size) for name in _floor.names()
                }
                self._collect(FLOOR, f"{label} in memory, one way", measures, self._rounds)

    def _collect(
        self,
        group: str,
        workload: str,
        measures: Mapping[str, Callable[[], Measured]],
        turns: int,
    ) -> None:
        values: dict[tuple[str, str], dict[str, list[float]]] = {}
        for _ in progress(workload, turns):
            for name in self._random.sample(list(measures), len(measures)):
                for key, value in measures[name]().items():
                    values.setdefault(key, {}).setdefault(name, []).append(value)
        self.figures += [
            Figure(group, workload, side, name, unit, by_name[name])
            for (side, unit), by_name in values.items()
            for name in measures
        ]


def descriptors() -> int:
    """Raise the limit of open files as far as it goes, and return it. Processes inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # a system may allow less than it says
        return soft
    return hard


def choose_core(*, pin: bool) -> int | None:
    """Return the core to measure on, or None for any."""
    if not pin or sys.platform != "linux":
        return None
    return max(os.sched_getaffinity(0))


def describe(options: argparse.Namespace) -> dict[str, Any]:
    """Tell what it ran with."""
    environment = {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": f"{platform.platform()}, {os.cpu_count()} CPUs",
        "Python": platform.python_version(),
        "OpenSSL": ssl.OPENSSL_VERSION,
    }
    environment |= {name: version(name) for name in ("trio-tlsbio", "trio", "anyio", "uvloop")}
    if FLOOR in options.names and len(_floor.names()) == len(_floor.NAMES):
        command = ["openssl", "version"]
        output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        environment["openssl program"] = output.strip()
    environment["TLS"] = "1.2" if options.tls12 else "1.3"
    environment["rounds"] = f"{options.rounds}{', quick' if options.quick else ''}"
    environment["starts"] = str(options.starts)
    environment["pinned to"] = "nothing" if options.core is None else f"core {options.core}"
    return environment


def measure_all(options: argparse.Namespace, seed: int) -> list[Figure]:
    """Measure what is asked for, with processes that are started for it."""
    with ExitStack() as stack:
        run = Run(stack, options, seed)
        for workload in workloads(quick=options.quick, connections=descriptors() - RESERVED):
            if workload.group in options.names:
                run.measure(workload)
        if FLOOR in options.names:
            run.measure_floor(200 if options.quick else 4000)
    return run.figures


def main() -> None:
    """Run what is asked for."""
    parser = argparse.ArgumentParser(prog="python benchmarks", description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of: {', '.join(GROUPS)}")
    parser.add_argument("--quick", action="store_true", help="small sizes, to see that it works")
    parser.add_argument("--rounds", type=int, help="by default 7, or 1 if quick")
    parser.add_argument(
        "--starts",
        type=int,
        default=1,
        help="how often to start all processes anew, with that many rounds each time",
    )
    parser.add_argument("--tls12", action="store_true", help="TLS 1.2 where nothing is said")
    parser.add_argument("--no-pin", action="store_true", help="let processes run on any core")
    parser.add_argument("--json", type=Path, metavar="FILE", help="save all figures")
    parser.add_argument("--compare", type=Path, metavar="OLD.json", help="with an earlier run")
    parser.add_argument(
        "--against",
        type=Path,
        metavar="FOLDER",
        help="measure this library alone, beside the one in another checkout",
    )
    parser.add_argument("--svg", type=Path, metavar="FILE", help="draw all but wall times")
    options = parser.parse_args()
    if unknown := set(options.names) - set(GROUPS):
        parser.error(f"no such benchmark: {', '.join(sorted(unknown))}")
    options.names = options.names or GROUPS
    options.rounds = options.rounds or (1 if options.quick else 7)
    options.core = choose_core(pin=not options.no_pin)
    earlier = _figures.read(options.compare) if options.compare else []
    if options.against:
        OursBefore.path = options.against.resolve()
    end_tidily()

    environment = describe(options)
    for key, value in environment.items():
        print(f"{key}: {value}")
    if "bulk" in options.names:
        print("left out both ways: blocking ssl, as two threads can't share one connection")
    if FLOOR in options.names and len(_floor.names()) < len(_floor.NAMES):
        print("left out: openssl speed, as there is no such program")
    sys.stdout.flush()
    figures: list[Figure] = []
    for start in range(options.starts):
        figures = _figures.joined(figures, measure_all(options, seed=start))
    _figures.print_tables(figures)
    if options.compare:
        _figures.print_comparison(earlier, figures)
    if options.against:
        _figures.print_ratios(figures, Ours.name, OursBefore.name)
    if options.json:
        _figures.write(options.json, environment, figures)
    if options.svg:
        _figures.plot(options.svg, figures)


if __name__ == "__main__":
    main()
