"""Directives that draw and list what is in trio_tlsbio._core.states.TRANSITIONS.

``.. states-diagram:: send`` draws one direction as an SVG, ``.. states-table::`` lists the
transitions of both, and ``.. states-list::`` the states and their meaning.
"""

from __future__ import annotations

from html import escape as html_escape
from typing import Any, ClassVar

from _rst import list_table, parse
from docutils import nodes  # type: ignore[import-untyped]
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.docutils import SphinxDirective

from trio_tlsbio._core import states
from trio_tlsbio._core.states import TRANSITIONS, Event, Side, State

# The middle of each state's box. With the two ends of an unclean life above and below, no
# transition crosses another one.
_PLACES = {
    State.HANDSHAKE: (75, 155),
    State.OPEN: (395, 155),
    State.CLOSED: (705, 155),
    State.TRUNCATED: (235, 35),
    State.FAILED: (235, 275),
}
_WIDTH, _HEIGHT = 780, 310
_BOX_WIDTH, _BOX_HEIGHT = 118, 44
_TITLES = {
    Side.SEND: "Our direction: what send() can do",
    Side.RECEIVE: "The peer's direction: what receive() can do",
}


def _place(state: State) -> tuple[float, float]:
    if state not in _PLACES:
        raise ExtensionError(f"docs/_ext/states.py has no place for {state}")
    return _PLACES[state]


def _border(at: tuple[float, float], towards: tuple[float, float], gap: float = 0) -> str:
    """Return where a line from the middle of one box to that of another leaves the first box."""
    x, y = at
    dx, dy = towards[0] - x, towards[1] - y
    scale = min(
        (_BOX_WIDTH / 2 + gap) / abs(dx) if dx else float("inf"),
        (_BOX_HEIGHT / 2 + gap) / abs(dy) if dy else float("inf"),
    )
    return f"{x + dx * scale:.1f},{y + dy * scale:.1f}"


def _edge(source: State, event: Event, target: State, marker: str) -> str:
    start, end = _place(source), _place(target)
    x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
    if start[1] == end[1]:
        anchor, y = "middle", y - 13
    elif end[0] > start[0]:  # beside the line, on the outer side of the figure
        anchor, x = "end", x - 12
    else:
        anchor, x = "start", x + 12
    return (
        f'<path d="M{_border(start, end)} L{_border(end, start, 3)}" fill="none" '
        f'stroke="currentColor" stroke-width="1.5" marker-end="url(#{marker})"/>'
        f'<text x="{x:g}" y="{y + 4:g}" text-anchor="{anchor}" font-size="13" '
        f'fill="currentColor">{html_escape(event.value)}</text>'
    )


def _box(state: State, *, is_start: bool, is_end: bool) -> str:
    x, y = _place(state)
    left, top = x - _BOX_WIDTH / 2, y - _BOX_HEIGHT / 2
    stroke = 'fill="none" stroke="currentColor"'
    shapes = [
        f'<rect x="{left:g}" y="{top:g}" width="{_BOX_WIDTH}" height="{_BOX_HEIGHT}" rx="8" '
        f'{stroke} stroke-width="{3 if is_start else 1.5}"/>'
    ]
    if is_end:
        shapes.append(
            f'<rect x="{left + 4:g}" y="{top + 4:g}" width="{_BOX_WIDTH - 8}" '
            f'height="{_BOX_HEIGHT - 8}" rx="5" {stroke} stroke-width="1"/>'
        )
    shapes.append(
        f'<text x="{x}" y="{y + 5}" text-anchor="middle" font-size="15" font-weight="600" '
        f'fill="currentColor">{html_escape(state.name)}</text>'
    )
    return "".join(shapes)


def diagram(side: Side) -> str:
    """Return one direction's states and transitions as an SVG element.

    It has the colour of the text around it, so it fits light and dark pages.
    """
    table = TRANSITIONS[side]
    sources = {source for source, _ in table}
    targets = set(table.values())
    states = [state for state in State if state in sources | targets]
    marker = f"states-arrow-{side.value}"
    title = _TITLES[side]
    description = "; ".join(
        f"{source.name} goes to {target.name} on {event.value}"
        for (source, event), target in table.items()
    )
    return "".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
            f'role="img" aria-labelledby="{marker}-title {marker}-desc" '
            f'style="width:100%;max-width:{_WIDTH}px;height:auto;font-family:inherit">',
            f'<title id="{marker}-title">{html_escape(title)}</title>',
            f'<desc id="{marker}-desc">{html_escape(description)}</desc>',
            f'<defs><marker id="{marker}" viewBox="0 0 10 10" refX="8" refY="5" '
            'markerWidth="8" markerHeight="8" orient="auto-start-reverse">'
            '<path d="M0,0 L10,5 L0,10 z" fill="currentColor"/></marker></defs>',
            *(_edge(source, event, target, marker) for (source, event), target in table.items()),
            *(
                _box(state, is_start=state not in targets, is_end=state not in sources)
                for state in states
            ),
            "</svg>",
        ]
    )


class StatesDiagram(SphinxDirective):
    """Draw one direction."""

    required_arguments = 1
    option_spec: ClassVar[Any] = {}

    def run(self) -> list[nodes.Node]:
        side = Side(self.arguments[0])
        self.env.note_dependency(states.__file__)
        figure = nodes.figure()
        figure += nodes.raw("", diagram(side), format="html")
        figure += nodes.caption("", _TITLES[side])
        return [figure]


class StatesTable(SphinxDirective):
    """List the transitions of both directions."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(states.__file__)
        rows = [
            (side.value, f"``{source.name}``", event.value, f"``{target.name}``")
            for side, table in TRANSITIONS.items()
            for (source, event), target in table.items()
        ]
        titles = ("Direction", "State", "Event", "Next state")
        return parse(self, list_table(titles, rows, (15, 25, 35, 25)))


class StatesList(SphinxDirective):
    """List the states with the comments that they have in the code."""

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(states.__file__)
        comments = ModuleAnalyzer.for_module(states.__name__).find_attr_docs()
        rows = [
            (f"``{state.name}``", " ".join(comments["State", state.name]).strip())
            for state in State
        ]
        return parse(self, list_table(("State", "Meaning"), rows, (25, 75)))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("states-diagram", StatesDiagram)
    app.add_directive("states-table", StatesTable)
    app.add_directive("states-list", StatesList)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
