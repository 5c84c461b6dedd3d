"""Diagrams of the design, drawn from what the code itself says.

``.. stair::`` draws the rooms of the package, from the contract in pyproject.toml. There the layers
are what import-linter checks, so the picture can't be out of date. What each room is for is the
first line of its module's docstring. ``.. flow::`` draws how bytes go through a stream. The hosts
that HAProxy's configuration in examples/fleet has are drawn by figures.py, into a file.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterable
from html import escape as html_escape
from pathlib import Path
from typing import Any

from _rst import list_table, parse
from docutils import nodes  # type: ignore[import-untyped]
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from trio_tlsbio._stream import transport
from trio_tlsbio._stream.transport import SLICE_BYTES

_ROOT = Path(__file__).parents[2]
_PROJECT = _ROOT / "pyproject.toml"
_PACKAGE = _ROOT / "trio_tlsbio"
_HAPROXY = _ROOT / "examples" / "fleet" / "haproxy.cfg"

_WIDTH, _STEP, _BOX_HEIGHT, _INDENT, _GAP = 780, 46, 34, 24, 8

# What is called on the way of bytes to the socket, and from it, with what happens to them between
# one and the next.
FLOW = {
    "down": (
        ("TLSStream.send_all()", f"in slices of {SLICE_BYTES // 1024} KiB"),
        ("TLSConnection.send()", "OpenSSL encrypts"),
        ("TLSConnection.unsent", "writev(), which counts"),
    ),
    "up": (
        ("TLSStream.receive_some()", "all that has arrived"),
        ("TLSConnection.receive()", "OpenSSL decrypts"),
        ("TLSConnection.feed()", "read(), when readable"),
    ),
}


def stairs() -> dict[str, list[list[str]]]:
    """Return the modules of each package, by floors, the highest first."""
    contracts = tomllib.loads(_PROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"]
    return {
        container: [re.split(r" *[|:] *", layer) for layer in contract["layers"]]
        for contract in contracts["contracts"]
        if contract["type"] == "layers"
        for container in contract["containers"]
    }


def _path(container: str, room: str) -> Path:
    path = _PACKAGE.parent.joinpath(*container.split("."), room)
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


def purpose(container: str, room: str) -> str:
    """Return what a room says of itself, in one line."""
    tree = ast.parse(_path(container, room).read_text(encoding="utf-8"))
    line = " ".join((ast.get_docstring(tree) or "").partition("\n\n")[0].split())
    return re.sub(r":\w+:(`[^`]+`)", r"`\1`", line)  # a role refers to what has no page


def _box(name: str, x: float, y: float, width: float) -> str:
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{_BOX_HEIGHT}" rx="6" fill="none" '
        'stroke="currentColor" stroke-width="1.5"/>'
        f'<text x="{x + width / 2:g}" y="{y + 22:g}" text-anchor="middle" font-size="14" '
        f'fill="currentColor">{html_escape(name)}</text>'
    )


def _svg(name: str, title: str, height: float, parts: Iterable[str], width: float = _WIDTH) -> str:
    """Return an SVG element, in the colour of the text around it."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" role="img" '
        f'aria-labelledby="{name}-title" '
        f'style="width:100%;max-width:{width:g}px;height:auto;font-family:monospace">'
        f'<title id="{name}-title">{html_escape(title)}</title>{"".join(parts)}</svg>'
    )


def stair(container: str) -> str:
    """Draw the rooms: each floor reaches further out than the one above, as steps do."""
    floors = stairs()[container]
    parts = []
    for level, rooms in enumerate(floors):
        left = _INDENT * (len(floors) - 1 - level)
        width = (_WIDTH - 2 - left - _GAP * (len(rooms) - 1)) / len(rooms)
        for index, room in enumerate(rooms):
            parts.append(_box(room, left + 1 + index * (width + _GAP), level * _STEP + 5, width))
    names = "; ".join(", ".join(rooms) for rooms in floors)
    title = f"The modules of {container}, from the highest floor down: {names}"
    return _svg(container.replace(".", "-"), title, len(floors) * _STEP, parts)


def _arrow_head(name: str) -> str:
    """Return what the ends of lines refer to, as ``{name}-arrow``."""
    return (
        f'<defs><marker id="{name}-arrow" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" '
        'markerHeight="8" orient="auto-start-reverse">'
        '<path d="M0,0 L10,5 L0,10 z" fill="currentColor"/></marker></defs>'
    )


def flow() -> str:
    """Draw how plaintext becomes ciphertext, and the other way round."""
    step, width = 80, (_WIDTH - 2 - 40) / 2
    height = step * len(FLOW["down"]) + _BOX_HEIGHT + 10
    parts = [_arrow_head("flow")]
    for column, (direction, stages) in enumerate(FLOW.items()):
        left = 1 + column * (width + 40)
        for index, (name, then) in enumerate(stages):
            top = 5 + index * step
            ends = [top + _BOX_HEIGHT + 3, top + step - 3]
            begin, end = ends if direction == "down" else reversed(ends)
            middle = left + width / 2
            parts += [
                _box(name, left, top, width),
                f'<path d="M{middle:g},{begin} V{end}" stroke="currentColor" stroke-width="1.5" '
                'marker-end="url(#flow-arrow)"/>'
                f'<text x="{middle + 12:g}" y="{top + _BOX_HEIGHT + 27}" font-size="13" '
                f'fill="currentColor">{html_escape(then)}</text>',
            ]
    parts.append(_box("the socket", 1, 5 + step * len(FLOW["down"]), _WIDTH - 2))
    words = {
        direction: ", ".join(f"{name} ({then})" for name, then in stages)
        for direction, stages in FLOW.items()
    }
    title = f"Down to the socket: {words['down']}. Up from it, the last one first: {words['up']}."
    return _svg("flow", title, height, parts)


def fleet_hosts() -> list[str]:
    """Return the names of the hosts in HAProxy's configuration."""
    return re.findall(r"^ +server (\w+) ", _HAPROXY.read_text(encoding="utf-8"), re.MULTILINE)


def fleet() -> str:
    """Draw clients, HAProxy and the hosts, from the left to the right.

    It is narrow, so that it can be read on a phone.
    """
    hosts = fleet_hosts()
    step, full, width = 56, 460, (90, 90, 148)
    left = (1, 141, full - 1 - width[2])
    middle = (len(hosts) - 1) * step / 2 + 30
    parts = [
        _arrow_head("fleet"),
        _box("clients", left[0], middle, width[0]),
        _box("HAProxy", left[1], middle, width[1]),
    ]

    def arrow(begin: tuple[float, float], end: tuple[float, float]) -> None:
        parts.append(
            f'<path d="M{begin[0]:g},{begin[1] + 17:g} L{end[0]:g},{end[1] + 17:g}" fill="none" '
            'stroke="currentColor" stroke-width="1.5" marker-end="url(#fleet-arrow)"/>'
        )

    def words(text: str, x: float, y: float, anchor: str = "middle") -> None:
        parts.append(
            f'<text x="{x:g}" y="{y:g}" text-anchor="{anchor}" font-size="13" '
            f'fill="currentColor">{html_escape(text)}</text>'
        )

    arrow((left[0] + width[0] + 3, middle), (left[1] - 3, middle))
    words("TLS", (left[0] + width[0] + left[1]) / 2, middle + 8)
    for number, name in enumerate(hosts):
        top = 30 + number * step
        parts.append(_box(f"{name}: workers", left[2], top, width[2]))
        arrow((left[1] + width[1] + 3, middle), (left[2] - 3, top))
    words("PROXY header, then the same TLS", full - 1, 18, "end")
    bottom = 30 + len(hosts) * step
    words("with the same tickets.key", full - 1, bottom, "end")
    names = ", ".join(hosts)
    title = (
        f"Clients speak TLS with the hosts {names}, through HAProxy, which adds a PROXY header "
        "in front. Each host has several workers, and all share the same tickets.key."
    )
    return _svg("fleet", title, bottom + 10, parts, full)


class Stair(SphinxDirective):
    """Draw the stair inside of a package, and list its rooms."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        (container,) = self.arguments
        self.env.note_dependency(str(_PROJECT))
        rooms = [room for floor in stairs()[container] for room in floor]
        for room in rooms:
            self.env.note_dependency(str(_path(container, room)))
        figure = nodes.figure()
        figure += nodes.raw("", stair(container), format="html")
        figure += nodes.caption("", "Each module imports only from modules below it.")
        rows = [(f"``{room}``", purpose(container, room)) for room in rooms]
        return [figure, *parse(self, list_table(("Module", "Purpose"), rows, (20, 80)))]


class Flow(SphinxDirective):
    """Draw how bytes flow."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(transport.__file__)
        figure = nodes.figure()
        figure += nodes.raw("", flow(), format="html")
        figure += nodes.caption("", "Plaintext at the top, ciphertext at the bottom.")
        return [figure]


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("stair", Stair)
    app.add_directive("flow", Flow)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
