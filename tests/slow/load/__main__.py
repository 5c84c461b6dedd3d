"""Run the load, and print what it has taken: ``python -m tests.slow.load --connections 100000``.

With ``--state FILE`` a run that has used up its ``--seconds`` is continued by the next one with the
same file.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import tempfile
from collections import Counter
from pathlib import Path

import trio

from .run import Load, Sample


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slow.load", description=__doc__)
    parser.add_argument("--connections", type=int, default=100_000, help="how many in all")
    parser.add_argument("--at-once", type=int, default=50, help="how many clients there are")
    parser.add_argument("--seconds", type=float, default=math.inf, help="stop after so many")
    parser.add_argument("--state", type=Path, help="the file to continue from, and to write")
    options = parser.parse_args()
    before = Counter[str]()
    if options.state is not None and options.state.exists():
        before.update(json.loads(options.state.read_text()))
    with tempfile.TemporaryDirectory() as directory:
        left = options.connections - before["connections"]
        load = Load(Path(directory), left, options.at_once, show=show)
        trio.run(load.run, options.seconds)
    totals = before + load.counts()
    if options.state is not None:
        options.state.write_text(json.dumps(totals))
    for name, count in sorted(totals.items()):
        print(f"{name:32}{count:>12}")
    for problem in load.problems():
        print(problem, file=sys.stderr)
    return 1 if load.problems() else 0


def show(sample: Sample) -> None:
    print(
        f"{sample.connections:>8} connections  {sample.seconds:7.1f} s  "
        f"{sample.memory / 1024**2:7.1f} MiB  {sample.descriptors:4} descriptors  "
        f"{sample.threads:3} threads  {sample.sessions:4} sessions",
        flush=True,
    )


if __name__ == "__main__":
    sys.exit(main())
