"""How what becomes known of a connection is shown: as lines, or with colours where rich is."""

from __future__ import annotations

import sys
from itertools import groupby
from typing import Protocol, TypeAlias

import attrs

from trio_tlsbio.testing import Direction, Flight

from ._facts import (
    Closed,
    Connected,
    Ending,
    Fact,
    Handshake,
    Remark,
    Summary,
    Timeline,
    Upgraded,
    Visit,
)
from ._words import (
    aligned,
    count,
    ending_facts,
    handshake_facts,
    in_ms,
    say,
)

__all__ = [
    "HEADER",
    "View",
    "flight_words",
    "labelled",
    "padded",
    "row_of",
    "summary_words",
    "view_for",
]

Row: TypeAlias = tuple[str, ...]

HEADER: Row = ("#", "TCP", "handshake", "session", "version", "server's end")
"""The columns of :func:`row_of`."""

WIDTHS = (4, 10, 10, 8, 8, 12)
"""How wide they are."""


class View(Protocol):
    """Shows facts as they come."""

    def tell(self, fact: Fact) -> None:
        """Show a fact."""
        ...

    def tell_visit(self, number: int, visit: Visit) -> None:
        """Show one of several connections, counted from 1, in a row."""
        ...

    def tell_summary(self, summary: Summary) -> None:
        """Show what they have come to."""
        ...


def labelled(fact: Connected | Upgraded | Handshake | Ending | Closed) -> list[tuple[str, str]]:
    """Put a fact into labels and values."""
    match fact:
        case Connected():
            where = f"to {fact.address} port {fact.port}"
            return [("connected", f"{where}, in {in_ms(fact.seconds)}")]
        case Upgraded():
            return [("STARTTLS", f"agreed on by {fact.protocol}, in {in_ms(fact.seconds)}")]
        case Handshake():
            return [("handshake", f"in {in_ms(fact.seconds)}"), *handshake_facts(fact)]
        case Ending():
            return ending_facts(fact)
        case Closed():
            return [("closed", f"{in_ms(fact.seconds)} after the handshake")]


def flight_words(flight: Flight) -> list[str]:
    """Tell what is in a flight; records that look alike, one after the other, are counted."""
    lines: list[str] = []
    for words, group in groupby(flight.records, key=str):
        sizes = [record.size for record in group]
        several = f"{len(sizes)} x " if len(sizes) > 1 else ""
        lines.append(f"{several}{words}, {count(sum(sizes), 'byte')}")
    return lines


def row_of(number: int, visit: Visit) -> Row:
    """Put a connection whose handshake is done into the columns of :data:`HEADER`."""
    assert visit.handshake is not None
    info = visit.handshake.info
    return (
        str(number),
        in_ms(visit.connected.seconds),
        in_ms(visit.handshake.seconds),
        "resumed" if info.session_reused else "new",
        info.version,
        visit.ending.server_end if visit.ending else "",
    )


def padded(row: Row) -> Row:
    """Align the cells of a row: numbers to the right, words to the left."""
    return tuple(
        cell.rjust(width) if index < 3 else cell.ljust(width)
        for index, (cell, width) in enumerate(zip(row, WIDTHS, strict=True))
    )


def summary_words(summary: Summary) -> str:
    """Sum up several connections in a line."""
    return (
        f"{count(summary.connections, 'connection')}, {summary.resumed} resumed; median: "
        f"TCP {in_ms(summary.tcp_median)}, handshake {in_ms(summary.handshake_median)}"
    )


@attrs.frozen
class _Lines:
    """Plain lines on stderr."""

    def tell(self, fact: Fact) -> None:
        match fact:
            case Remark():
                say(f"{fact.kind}: {fact.words}")
            case Timeline():
                say("timeline:", *timeline_lines(fact))
            case _:
                say(*aligned(labelled(fact)))

    def tell_visit(self, number: int, visit: Visit) -> None:
        if number == 1:
            say("", "  ".join(padded(HEADER)).rstrip())
        say("  ".join(padded(row_of(number, visit))).rstrip())

    def tell_summary(self, summary: Summary) -> None:
        say(*aligned([("summary", summary_words(summary))]))


def timeline_lines(timeline: Timeline) -> list[str]:
    """Tell of each flight in a line, and of the records in it in lines below."""
    lines: list[str] = []
    for flight in timeline.flights:
        arrow = "client -> server" if flight.direction is Direction.SENT else "client <- server"
        lines.append(f"{in_ms(flight.time):>10}  {arrow}  {count(flight.size, 'byte')}")
        lines += (f"{'':14}{words}" for words in flight_words(flight))
    if timeline.bytes_not_kept:
        lines.append(f"{'':12}and {count(timeline.bytes_not_kept, 'byte')} more")
    return lines


def view_for() -> View:
    """Return the view for stderr as it is: with colours if that is a terminal, and rich is here."""
    if sys.stderr is not None and sys.stderr.isatty():
        try:
            from ._rich import RichView  # noqa: PLC0415  # an extra
        except ImportError:
            pass
        else:
            return RichView()
    return _Lines()
