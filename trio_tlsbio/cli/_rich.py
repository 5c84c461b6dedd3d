"""The view with colours and columns, for terminals. It requires the extra ``rich``."""

from __future__ import annotations

import attrs
from rich.console import Console
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from trio_tlsbio._core.errors import printable
from trio_tlsbio.testing import Direction

from ._facts import (
    Closed,
    Connected,
    Ending,
    Fact,
    Handshake,
    Refused,
    Remark,
    Summary,
    Timeline,
    Upgraded,
    Visit,
)
from ._words import (
    HEADER,
    count,
    flight_words,
    in_ms,
    labelled,
    padded,
    row_of,
    summary_words,
)

__all__ = ["RichView"]

_GOOD, _WARNING, _BAD, _LABEL, _QUIET = "green", "yellow", "bold red", "bold cyan", "dim"
_CLIENT, _SERVER = "cyan", "magenta"

# The colours of values, by label and by the start of the value.
_STYLES = {
    ("session", "resumed"): _GOOD,
    ("certificate", "not verified"): _WARNING,
    ("certificate", "none"): _WARNING,
    ("refused", ""): _WARNING,
    ("FAILS", ""): _BAD,
    ("name matched", ""): _GOOD,
    ("version", ""): "bold",
}


def _text(words: str, style: str = "") -> Text:
    # A Text is never parsed as markup, and text from peers must not control the terminal.
    return Text(printable(words), style=style)


def _style_of(label: str, value: str) -> str:
    if label == "valid" or (not label and not value.startswith("issued by")):  # of an issuer
        return _WARNING if "expired" in value or "not valid yet" in value else ""
    for (of, beginning), style in _STYLES.items():
        if label == of and value.startswith(beginning):
            return style
    return ""


def _console() -> Console:
    return Console(stderr=True, highlight=False)


@attrs.frozen
class RichView:
    """Shows facts on a terminal. rich respects NO_COLOR."""

    _out: Console = attrs.field(factory=_console)

    def show(self, fact: Fact) -> None:
        """Show a fact."""
        match fact:
            case Remark():
                self._out.print(_text(f"{fact.kind}: {fact.words}", _WARNING))
            case Timeline():
                self._show_timeline(fact)
            case _:
                self._show_facts(fact)

    def _show_facts(
        self, fact: Connected | Upgraded | Refused | Handshake | Ending | Closed
    ) -> None:
        grid = Table.grid(padding=(0, 2))
        grid.add_column(style=_LABEL, min_width=14, no_wrap=True)
        grid.add_column(overflow="fold")
        for label, value in labelled(fact):
            grid.add_row(_text(label), _text(value, _style_of(label, value)))
        self._out.print(grid)

    def _show_timeline(self, timeline: Timeline) -> None:
        table = Table.grid(padding=(0, 1))
        table.add_column(justify="right", style=_QUIET, min_width=9, no_wrap=True)
        table.add_column(style=_CLIENT, justify="right", no_wrap=True, min_width=6)
        table.add_column(min_width=20, no_wrap=True)
        table.add_column(style=_SERVER, no_wrap=True)
        table.add_column(overflow="fold")
        for flight in timeline.flights:
            is_ours = flight.direction is Direction.SENT
            size = f" {count(flight.size, 'byte')} ".center(16, "─")
            first, *more = flight_words(flight)
            table.add_row(
                _text(in_ms(flight.time)),
                _text("client"),
                _text(f"──{size}─▶" if is_ours else f"◀─{size}──", _CLIENT if is_ours else _SERVER),
                _text("server"),
                _text(first, _QUIET),
            )
            for words in more:
                table.add_row("", "", "", "", _text(words, _QUIET))
        self._out.print(Rule(_text("on the wire", _LABEL), style=_QUIET, align="left"))
        self._out.print(table)
        if timeline.bytes_not_kept:
            self._out.print(_text(f"and {count(timeline.bytes_not_kept, 'byte')} more", _QUIET))
        self._out.print(Rule(style=_QUIET))

    def show_visit(self, number: int, visit: Visit) -> None:
        """Show one of several connections, as a row."""
        if number == 1:
            self._out.print()
            self._out.print(_text("  ".join(padded(HEADER)), _LABEL))
        row = row_of(number, visit)
        styles = ("", "", "bold", _GOOD if row[3] == "resumed" else "", "", _QUIET)
        cells = (_text(cell, style) for cell, style in zip(padded(row), styles, strict=True))
        self._out.print(Text("  ").join(cells))

    def show_summary(self, summary: Summary) -> None:
        """Show a summary of all connections."""
        self._out.print(_text(summary_words(summary), "bold"))
