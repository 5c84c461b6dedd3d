"""What the directives here share: reStructuredText made by a program."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from docutils import nodes  # type: ignore[import-untyped]
from docutils.statemachine import StringList  # type: ignore[import-untyped]
from sphinx.util.docutils import SphinxDirective


def escape(text: str) -> str:
    """Make text mean itself."""
    return re.sub(r"([\\*_`|])", r"\\\1", text)


def list_table(
    headings: Sequence[str], rows: Iterable[Sequence[str]], widths: Sequence[int]
) -> list[str]:
    """Return the lines of a table, whose cells are reStructuredText of one line each."""
    lines = [
        ".. list-table::",
        "   :header-rows: 1",
        f"   :widths: {' '.join(map(str, widths))}",
        "",
    ]
    for row in (headings, *rows):
        lines += [f"   {'* -' if not index else '  -'} {cell}" for index, cell in enumerate(row)]
    return lines


def parse(directive: SphinxDirective, lines: Iterable[str]) -> list[nodes.Node]:
    """Return the nodes that lines of reStructuredText stand for."""
    parent = nodes.Element()
    parent.document = directive.state.document
    source, _ = directive.get_source_info()
    directive.state.nested_parse(
        StringList(list(lines), source=source), directive.content_offset, parent
    )
    children: list[nodes.Node] = parent.children
    return children
