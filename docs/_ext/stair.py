"""``.. stair::`` draws the rooms of the package, from the contract in pyproject.toml.

There the layers are what import-linter checks, so the picture can't be out of date. What each room
is for is the first line of its module's docstring.
"""

from __future__ import annotations

import ast
import re
import tomllib
from html import escape as html_escape
from pathlib import Path
from typing import Any

from _rst import escape, list_table, parse
from docutils import nodes  # type: ignore[import-untyped]
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_ROOT = Path(__file__).parents[2]
_PROJECT = _ROOT / "pyproject.toml"
_PACKAGE = _ROOT / "trio_tlsbio"

_WIDTH, _STEP, _BOX_HEIGHT, _INDENT, _GAP = 780, 46, 34, 24, 8


def layers() -> list[list[str]]:
    """Return the rooms of each floor, the highest floor first."""
    contracts = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"]
    (stair,) = (each for each in contracts["contracts"] if each["type"] == "layers")
    return [re.split(r" *[|:] *", layer) for layer in stair["layers"]]


def purpose(room: str) -> str:
    """Return what a room says of itself, in one line."""
    path = _PACKAGE / f"{room}.py"
    if not path.exists():
        path = _PACKAGE / room / "__init__.py"
    text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return " ".join(text.partition("\n\n")[0].split())


def _box(name: str, x: float, y: float, width: float) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{_BOX_HEIGHT}" rx="6" fill="none" '
        'stroke="currentColor" stroke-width="1.5"/>'
        f'<text x="{x + width / 2:g}" y="{y + 22:g}" text-anchor="middle" font-size="14" '
        f'fill="currentColor">{html_escape(name)}</text>'
    )


def diagram() -> str:
    """Return the stair as an SVG element, in the colour of the text around it."""
    floors = layers()
    height = len(floors) * _STEP
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" role="img" '
        'aria-labelledby="stair-title" '
        f'style="width:100%;max-width:{_WIDTH}px;height:auto;font-family:monospace">',
        '<title id="stair-title">The rooms of the package, from the highest floor down: '
        + html_escape("; ".join(", ".join(rooms) for rooms in floors))
        + "</title>",
    ]
    for level, rooms in enumerate(floors):
        # Each floor reaches further out than the one above, as the steps of a stair do.
        left = _INDENT * (len(floors) - 1 - level)
        width = (_WIDTH - 2 - left - _GAP * (len(rooms) - 1)) / len(rooms)
        for index, room in enumerate(rooms):
            parts.append(_box(room, left + 1 + index * (width + _GAP), level * _STEP + 5, width))
    return "".join([*parts, "</svg>"])


class Stair(SphinxDirective):
    """Draw the stair, and list its rooms."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(str(_PROJECT))
        rooms = [room for floor in layers() for room in floor]
        for room in rooms:
            self.env.note_dependency(str(_PACKAGE / f"{room}.py"))
        figure = nodes.figure()
        figure += nodes.raw("", diagram(), format="html")
        figure += nodes.caption("", "Every import points down.")
        rows = [(f"``{room}``", escape(purpose(room))) for room in rooms]
        return [figure, *parse(self, list_table(("Room", "What lives there"), rows, (20, 80)))]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("stair", Stair)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
