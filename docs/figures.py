"""Draw the pictures of docs/images that come from something else in the repository.

Run ``python docs/figures.py [DIRECTORY]``, by default into docs/images, after changing a table of
performance.rst or the configuration of examples/fleet. A test compares the pictures with both.
They are light on a light page and dark on a dark one.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Callable, Sequence
from html import escape
from itertools import accumulate
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

from diagrams import fleet  # type: ignore[import-not-found]  # noqa: E402

_STYLE = """<style>
svg { color: #1f2328; font-family: system-ui, sans-serif; font-size: 14px }
text { fill: currentColor }
.ours, .first { fill: #2757dd }
.other { fill: #9aa1ab }
.second { fill: #e08a00 }
@media (prefers-color-scheme: dark) {
svg { color: #cfd0d0 }
.ours, .first { fill: #6a9bff }
.other { fill: #6b7280 }
.second { fill: #f0a93c }
}
</style>"""

_WIDTH, _LABELS, _VALUES = 440, 190, 50
_ROW, _BAR = 26, 16


def table(heading: str) -> dict[str, list[str]]:
    """Return the table of performance.rst that has a heading: the cells of each row by its first.

    The headings themselves are the row "".
    """
    page = (DOCS / "performance.rst").read_text(encoding="utf-8")
    for text in re.split(r"^\.\. list-table::.*\n", page, flags=re.MULTILINE)[1:]:
        text = re.split(r"^(?=\S)", text, maxsplit=1, flags=re.MULTILINE)[0]
        rows = [
            [cell.strip() for cell in re.split(r"^ {5}-", row, flags=re.MULTILINE)]
            for row in re.split(r"^ {3}\* -", text, flags=re.MULTILINE)[1:]
        ]
        if heading in rows[0]:
            return {"": rows[0]} | {row[0]: row[1:] for row in rows[1:]}
    raise ValueError(f"performance.rst has no table with the heading {heading!r}")


def _svg(height: int, title: str, parts: Sequence[str]) -> str:
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" '
        f'width="{_WIDTH}" height="{height}" role="img" aria-label="{escape(title)}">'
        f"{_STYLE}\n" + "\n".join(parts) + "\n</svg>\n"
    )


def bars(title: str, rows: dict[str, list[str]], legend: Sequence[str] = ()) -> str:
    """Draw a bar for each row, of several parts one after the other if there is a legend."""
    numbers = {name: [float(value) for value in values] for name, values in rows.items()}
    scale = (_WIDTH - _LABELS - _VALUES) / max(map(sum, numbers.values()))
    parts = []
    top = 4
    if legend:
        left = float(_LABELS)
        for name, kind in zip(legend, ("first", "second"), strict=True):
            parts.append(
                f'<rect class="{kind}" x="{left:g}" y="{top + 3}" width="12" height="12"/>'
                f'<text x="{left + 18:g}" y="{top + 14}">{escape(name)}</text>'
            )
            left += 30 + 8 * len(name)
        top += 28
    for name, values in numbers.items():
        ours = name.startswith("trio_tlsbio")
        weight = ' font-weight="600"' if ours else ""
        middle = top + _ROW / 2
        kinds = ("first", "second") if legend else ("ours" if ours else "other",)
        parts.append(
            f'<text x="{_LABELS - 10}" y="{middle + 5:g}" text-anchor="end"{weight}>'
            f"{escape(name)}</text>"
        )
        begins = [_LABELS + scale * before for before in accumulate(values, initial=0)]
        parts += [
            f'<rect class="{kind}" x="{begin:.1f}" y="{middle - _BAR / 2:g}" '
            f'width="{scale * value:.1f}" height="{_BAR}"/>'
            for kind, begin, value in zip(kinds, begins, values, strict=False)
        ]
        label = f"{sum(values):g}" if legend else rows[name][0]
        parts.append(f'<text x="{begins[-1] + 6:.1f}" y="{middle + 5:g}"{weight}>{label}</text>')
        top += _ROW
    return _svg(top + 4, title, parts)


def messages() -> str:
    """Draw what a short question and its answer cost."""
    rows = table("64 B round trip")
    column = rows.pop("").index("64 B round trip") - 1
    values = {name: [cells[column]] for name, cells in rows.items()}
    return bars("CPU time of the client for a round trip of 64 bytes, in microseconds", values)


def bulk() -> str:
    """Draw what a gigabyte costs."""
    rows = table("sent")
    column = rows.pop("").index("both sides") - 1
    values = {name: [cells[column]] for name, cells in rows.items()}
    return bars("CPU seconds of both sides for each gigabyte sent", values)


def handshakes() -> str:
    """Draw what a handshake costs each side."""
    rows = table("full, 1.3")
    column = rows.pop("").index("full, 1.3") - 1
    values = {name: cells[column].split("/") for name, cells in rows.items()}
    title = "CPU time for a full handshake of TLS 1.3, in microseconds"
    return bars(title, values, ("client", "server"))


def fleet_file() -> str:
    """Draw the fleet, in a file of its own."""
    svg: str = fleet()
    width, height = re.findall(r'viewBox="0 0 (\d+) (\d+)"', svg)[0]
    svg = re.sub(
        r'style="width:100%;max-width:\d+px;height:auto;',
        f'width="{width}" height="{height}" style="',
        svg,
        count=1,
    )
    return svg.replace("<title", f"{_STYLE}<title", 1) + "\n"


PICTURES: dict[str, Callable[[], str]] = {
    "fleet.svg": fleet_file,
    "performance-messages.svg": messages,
    "performance-bulk.svg": bulk,
    "performance-handshakes.svg": handshakes,
}


def main() -> None:
    """Read the command line, and draw."""
    parser = argparse.ArgumentParser(description="Draw pictures of docs/images.")
    parser.add_argument("directory", nargs="?", type=Path, default=DOCS / "images")
    directory = parser.parse_args().directory
    for name, draw in PICTURES.items():
        (directory / name).write_text(draw(), encoding="utf-8")


if __name__ == "__main__":
    main()
