"""Shows facts about connections: as lines, or with colours if rich is installed."""

from __future__ import annotations

import sys
from typing import Protocol

import attrs

from trio_tlsbio.testing import Direction

from ._facts import Fact, Remark, Summary, Timeline, Visit
from ._words import (
    HEADER,
    aligned,
    count,
    flight_words,
    in_ms,
    labelled,
    padded,
    row_of,
    say,
    summary_words,
)

__all__ = ["View", "view_for"]


class View(Protocol):
    """Shows facts as they become known."""

    def show(self, fact: Fact) -> None:
        """Show a fact."""
        ...

    def show_visit(self, number: int, visit: Visit) -> None:
        """Show one of several connections, counted from 1, as a row."""
        ...

    def show_summary(self, summary: Summary) -> None:
        """Show a summary of all connections."""
        ...


@attrs.frozen
class _Lines:
    """Plain lines on stderr."""

    def show(self, fact: Fact) -> None:
        match fact:
            case Remark():
                say(f"{fact.kind}: {fact.words}")
            case Timeline():
                say("timeline:", *timeline_lines(fact))
            case _:
                say(*aligned(labelled(fact)))

    def show_visit(self, number: int, visit: Visit) -> None:
        if number == 1:
            say("", "  ".join(padded(HEADER)).rstrip())
        say("  ".join(padded(row_of(number, visit))).rstrip())

    def show_summary(self, summary: Summary) -> None:
        say(*aligned([("summary", summary_words(summary))]))


def timeline_lines(timeline: Timeline) -> list[str]:
    """Format each flight as a line, followed by lines for its records."""
    lines: list[str] = []
    for flight in timeline.flights:
        arrow = "client -> server" if flight.direction is Direction.SENT else "client <- server"
        lines.append(f"{in_ms(flight.time):>10}  {arrow}  {count(flight.size, 'byte')}")
        lines += (f"{'':14}{words}" for words in flight_words(flight))
    if timeline.bytes_not_kept:
        lines.append(f"{'':12}and {count(timeline.bytes_not_kept, 'byte')} more")
    return lines


def view_for() -> View:
    """Return the view for stderr: with colours if it is a terminal and rich is installed."""
    if sys.stderr is not None and sys.stderr.isatty():
        try:
            from ._rich import RichView  # noqa: PLC0415  # an extra
        except ImportError:
            pass
        else:
            return RichView()
    return _Lines()
