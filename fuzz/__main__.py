"""Fuzzing of what reads bytes of a peer, with atheris.

    pip install -e '.[fuzz]'
    python -m fuzz run [TARGET ...] [--runs N] [--seed N] [--work FOLDER]
    python -m fuzz merge --work FOLDER
    python -m fuzz table --work FOLDER
    python -m fuzz replay [FILE ...]

A run keeps what it finds on its way in the folder of --work. "merge" puts of that into the corpus
what reaches something new, and "table" writes the table of the docs. "replay" needs no atheris.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import traceback
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from . import _runs
from .targets import TARGETS, Target


class Progress:
    """Tells how far a run has come: on a terminal in one line, elsewhere now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._next = 0

    def tell(self, figures: _runs.Figures) -> None:
        """Show them."""
        if self._is_terminal:
            print(f"\r\x1b[K{line(figures)}", end="", flush=True)
        elif figures.executions >= self._next:
            self._next = max(10_000, 2 * figures.executions)
            print(line(figures), flush=True)

    def end(self, figures: _runs.Figures) -> None:
        """Show the last ones."""
        print(f"\r\x1b[K{line(figures)}" if self._is_terminal else line(figures), flush=True)
        for finding in figures.findings:
            print(f"  finding: {finding}")


def line(figures: _runs.Figures) -> str:
    """Put them in one line."""
    return (
        f"{figures.target:<13} {figures.executions:>11,} executions, {figures.per_second:>7,}/s, "
        f"{figures.branches:>5,} branches, {figures.features:>6,} features"
    )


def shares(targets: Sequence[Target], runs: int) -> dict[Target, int]:
    """Divide the executions by the targets' weights."""
    total = sum(target.weight for target in targets)
    return {target: max(1, runs * target.weight // total) for target in targets}


def run(options: argparse.Namespace) -> int:
    """Run the targets, one after the other. 1 if something was found."""
    findings = executions = 0
    with ExitStack() as stack:
        work = options.work or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        work.mkdir(parents=True, exist_ok=True)
        for target, runs in shares(options.targets, options.runs).items():
            progress = Progress()
            figures = _runs.run(target, runs=runs, seed=options.seed, work=work, tell=progress.tell)
            progress.end(figures)
            findings += len(figures.findings)
            executions += figures.executions
    print(f"{executions:,} executions, findings: {findings}")
    return 1 if findings else 0


def merge(options: argparse.Namespace) -> int:
    """Merge what a run has found into the corpus."""
    for target in options.targets:
        print(f"{target.name:<13} {_runs.merge(target, options.work):>5} inputs", flush=True)
    return 0


def table(options: argparse.Namespace) -> int:
    """Write the table of the docs."""
    print(_runs.write_table(options.targets, options.work))
    return 0


def replay(options: argparse.Namespace) -> int:
    """Run inputs that are kept: the given ones, or all. 1 if one fails."""
    files = options.files or [path for target in TARGETS.values() for path in target.inputs()]
    failed = 0
    for path in files:
        name = path.resolve().parent.name
        if name not in TARGETS:
            raise SystemExit(f"{path} is not in a folder that is named after a target")
        try:
            TARGETS[name].run(path.read_bytes())
        except Exception:
            failed += 1
            print(f"{path}:\n{traceback.format_exc()}")
    print(f"{len(files)} inputs, {failed} failed")
    return 1 if failed else 0


def main() -> int:
    """Do what is asked for."""
    parser = argparse.ArgumentParser(
        prog="python -m fuzz",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog="targets:\n"
        + "".join(f"  {name:<13} {target.words}\n" for name, target in TARGETS.items()),
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    for function, needs_work in ((run, False), (merge, True), (table, True)):
        words = (function.__doc__ or "").split(".")[0]
        command = commands.add_parser(function.__name__, help=words, description=words)
        command.add_argument(
            "targets", nargs="*", metavar="TARGET", help=f"of: {', '.join(TARGETS)} (default: all)"
        )
        command.add_argument(
            "--work", type=Path, metavar="FOLDER", required=needs_work, help="what a run keeps"
        )
        command.set_defaults(command=function)
        if function is run:
            command.add_argument(
                "--runs", type=int, default=100_000, metavar="N", help="executions in all"
            )
            command.add_argument("--seed", type=int, default=1, metavar="N")
    command = commands.add_parser("replay", help="run inputs that are kept")
    command.add_argument("files", nargs="*", type=Path, metavar="FILE")
    command.set_defaults(command=replay)
    options = parser.parse_args()
    if "targets" in options:
        if unknown := [name for name in options.targets if name not in TARGETS]:
            parser.error(f"no such target: {', '.join(unknown)}")
        options.targets = [TARGETS[name] for name in options.targets or TARGETS]
    if options.command is not replay and options.work is not None:
        options.work = options.work.resolve()
    exit_code: int = options.command(options)
    return exit_code


if __name__ == "__main__":
    sys.exit(main())
