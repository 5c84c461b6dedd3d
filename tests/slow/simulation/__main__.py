"""Run cases of the simulation, and print what is wrong in them."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections import Counter
from collections.abc import Iterator

from .cases import Run, play, steps_of, without_collection
from .invariants import violations
from .plan import all_cases, all_to_cancel, usual_cases

_PROGRESS_SECONDS = 10.0
_CASES_BETWEEN_COLLECTIONS = 500


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.slow.simulation", description=__doc__)
    parser.add_argument(
        "--all", action="store_true", help="run all cases, not only those that the tests run"
    )
    parser.add_argument(
        "--only",
        metavar="TEXT",
        action="append",
        default=[],
        help="run only cases with TEXT in their id; can be repeated, then all must match",
    )
    parser.add_argument("--list", action="store_true", help="list the cases without running them")
    options = parser.parse_args()
    if options.list:
        cases = all_cases() if options.all else usual_cases()
        for case in cases:
            if all(text in str(case) for text in options.only):
                print(case)
        return 0
    found: Counter[str] = Counter()
    start = last = time.monotonic()
    count = 0
    for run in _runs(options.all, options.only):
        count += 1
        for violation in violations(run):
            found[violation.partition(":")[0]] += 1
            print(f"{run.case}\n    {violation}", flush=True)
        if time.monotonic() - last > _PROGRESS_SECONDS:
            last = time.monotonic()
            print(f"... {count} cases in {last - start:.0f} s: {run.case}", file=sys.stderr)
    print(f"{count} cases in {time.monotonic() - start:.1f} s")
    for name, number in found.most_common():
        print(f"{number:6} {name}")
    return bool(found)


def _runs(everything: bool, only: list[str]) -> Iterator[Run]:
    cases = all_cases() if everything else usual_cases()
    selected = (case for case in cases if all(text in str(case) for text in only))
    while batch := list(itertools.islice(selected, _CASES_BETWEEN_COLLECTIONS)):
        with without_collection():
            for case in batch:
                yield play(case)
    for case in all_to_cancel() if everything else ():
        if all(text in f"{case}/cancelled" for text in only):
            with without_collection():
                yield from steps_of(case)


if __name__ == "__main__":
    sys.exit(main())
