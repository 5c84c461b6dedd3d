"""``.. changelog:: ../CHANGELOG.md``: the part of Markdown that a changelog needs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from docutils import nodes  # type: ignore[import-untyped]
from docutils.statemachine import StringList  # type: ignore[import-untyped]
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

_UNDERLINES = {"##": "-", "###": "~"}


def _inline(text: str) -> str:
    text = re.sub(r"`([^`]+)`", r"``\1``", text)
    return re.sub(r"\[([^]]+)\]\(([^)]+)\)", r"`\1 <\2>`__", text)


def to_rst(markdown: str) -> list[str]:
    """Return a changelog without its title as lines of reStructuredText."""
    lines: list[str] = []
    for line in markdown.splitlines():
        marks, _, rest = line.partition(" ")
        if marks == "#":
            continue
        if marks in _UNDERLINES:
            heading = rest.strip().replace("[", "").replace("]", "")
            lines += ["", heading, _UNDERLINES[marks] * len(heading), ""]
        else:
            lines.append(_inline(line))
    return lines


class Changelog(SphinxDirective):
    """Put a changelog here, its versions as sections."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        _, name = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(name)
        lines = to_rst(Path(name).read_text(encoding="utf-8"))
        self.state_machine.insert_input(StringList(lines, source=name), name)
        return []


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("changelog", Changelog)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
