"""The command line: a demonstration, a client for inspecting TLS servers, and a server.

All commands use the public API, so they are also examples.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, TextIO

import trio

from . import _connect, _demo, _serve
from ._options import STATUSES, Parser
from ._status import Status, hint_for, status_of, what_counts
from ._words import handshake_lines, say, versions

__all__ = ["Status", "handshake_lines", "main"]

_PROG = "trio-tlsbio"


def _parser() -> Parser:
    """Create the parser. ``run`` is set to the function of the command."""
    parser = Parser(
        prog=_PROG,
        description="TLS for Trio, from the command line.",
        epilog=STATUSES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=versions())
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for command in (_demo, _connect, _serve):
        command.add_parser(commands)
    return parser


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = _parser()
    options, extra = parser.parse_known_args(argv)
    if extra:
        message = f"unrecognized arguments: {' '.join(extra)}"
        if extra[0].isdecimal() and hasattr(options, "address"):
            message += " (HOST:PORT is a single argument)"
        parser.error(message)
    return options


def _run(command: Callable[[], Any]) -> Status:
    """Run a command. Convert its exceptions to a line on stderr and a status."""
    try:
        status: Status = trio.run(
            command,
            # Otherwise Ctrl-C can interrupt any code, including Trio's own functions.
            restrict_keyboard_interrupt_to_checkpoints=True,
        )
        if sys.stdout is not None:
            sys.stdout.flush()  # so that output errors are raised here
        return status
    except BaseException as exc:
        error = what_counts(exc)
        failure = status_of(error)
        if failure is None:
            raise
    if failure not in (Status.INTERRUPTED, Status.OUTPUT_CLOSED):
        with suppress(OSError):
            say(f"{_PROG}: {error}")
            if hint := hint_for(error):
                say(f"{'hint':>{len(_PROG)}}: {hint}")
    return failure


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default that of the process), and return its exit status.

    An invalid command line raises :exc:`SystemExit`, as usual with argparse.
    """
    options = _parse(argv)
    status = _run(partial(options.run, options))
    if status in (Status.OUTPUT_CLOSED, Status.FAILED_HERE):
        _write_no_more(sys.stdout)
    try:
        if sys.stderr is not None:
            sys.stderr.flush()
    except OSError:  # the reader has gone
        _write_no_more(sys.stderr)
    return int(status)


def _write_no_more(stream: TextIO | None) -> None:
    """Discard buffered output. Otherwise the interpreter would write it at exit and fail, which can
    change the exit status.
    """
    if stream is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
