"""Compare more damaged conversations than the tests do.

    python -m tests.slow.differential [--conversations N] [--seed N] [--jobs N]
    python -m tests.slow.differential --only NUMBER ...

Each conversation has a number, and is the same each time. The tests use the seed 0.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import sys
from collections import Counter

from .conversation import compare, make
from .subjects import shape

PER_SEED = 10_000_000
_PER_TASK = 200


def look(first: int) -> tuple[list[tuple[int, str]], Counter[str]]:
    """Compare some. Return those that part, and how often each named difference occurred."""
    parted, counts = [], Counter[str]()
    for number in range(first, first + _PER_TASK):
        try:
            report = compare(make(number))
        except Exception as exc:
            parted.append((number, f"{type(exc).__name__}: {exc}"))
            continue
        counts.update(report.differences)
        if report.mismatch is not None:
            parted.append((number, str(report.mismatch)))
    return parted, counts


def show(number: int) -> bool:
    """Show one conversation, and what becomes of it. Return whether the sides part."""
    conversation = make(number)
    print(f"{number}: {conversation.scenario}, damage: {', '.join(conversation.damage) or 'none'}")
    options = ("ends", "collect_sessions", "max_bytes", "drives_handshake", "pieces", "is_lazy")
    print("  " + ", ".join(f"{name}={getattr(conversation, name)}" for name in options))
    for count, step in enumerate(conversation.steps, 1):
        print(f"  {count:>3}. {shape(step) if isinstance(step, bytes) else step}"[:200])
    report = compare(conversation)
    print(report.mismatch or f"both do the same: {report.last}")
    return report.mismatch is not None


def main(arguments: list[str] | None = None) -> int:
    """Do what is asked for. 1 if there is a difference that has no name."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.slow.differential",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--conversations", type=int, default=100_000, metavar="N")
    parser.add_argument("--seed", type=int, default=1, metavar="N")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, metavar="N")
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER")
    options = parser.parse_args(arguments)
    if options.only:
        parts = [show(number) for number in options.only]
        return int(any(parts))
    parted: list[tuple[int, str]] = []
    counts = Counter[str]()
    start = options.seed * PER_SEED
    tasks = range(start, start + options.conversations, _PER_TASK)
    with multiprocessing.Pool(options.jobs) as pool:
        for done, (more, some) in enumerate(pool.imap(look, tasks), 1):
            for number, mismatch in more:
                print(f"\r\x1b[K{number}: {mismatch}" if sys.stdout.isatty() else mismatch)
            parted += more
            counts += some
            if sys.stdout.isatty() or done % 50 == 0:
                end = "" if sys.stdout.isatty() else "\n"
                print(f"\r{done * _PER_TASK:,} compared, {len(parted)} part", end=end, flush=True)
    print(f"\n{len(tasks) * _PER_TASK:,} conversations, {len(parted)} part")
    for name, count in counts.most_common():
        print(f"  {count:>8,} {name}")
    return 1 if parted else 0


if __name__ == "__main__":
    sys.exit(main())
