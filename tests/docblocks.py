"""The code that stands in README and docs/, found and run."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import pytest

from .helpers import DOCS, ROOT

# Directives whose contents are shown as code. What a "::" at the end of a paragraph shows is
# Python, by highlight_language in conf.py.
_DIRECTIVE = re.compile(
    r"( *)\.\. (?P<name>code-block|code|sourcecode|parsed-literal|literalinclude):: ?(?P<rest>.*)"
)
_OPTION = re.compile(r" *:([\w-]+): ?(.*)")


@attrs.define(eq=False)
class Block:
    """A block of code in a page."""

    page: str
    line: int
    """Where its text begins, counted from 1."""
    language: str
    text: str
    options: dict[str, str] = attrs.field(factory=dict)
    include: str | None = None
    """The file that is shown, of a literalinclude."""
    ran: bool = attrs.field(default=False, init=False)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    async def run(self, **names: Any) -> dict[str, Any]:
        """Execute it, with names that it may use, and return all that it knows in the end."""
        self.ran = True
        code = compile(
            "\n" * (self.line - 1) + self.text,
            self.page,
            "exec",
            flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT,
            dont_inherit=True,
        )
        result = eval(code, names)
        if inspect.iscoroutine(result):
            await result
        return names


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def _body(lines: list[str], start: int, outer: int) -> list[str]:
    """Return the lines from ``start`` on that are indented further than ``outer``."""
    end = start
    while end < len(lines) and (not lines[end].strip() or _indent(lines[end]) > outer):
        end += 1
    while end > start and not lines[end - 1].strip():
        end -= 1
    return lines[start:end]


def rst_blocks(path: Path) -> Iterator[Block]:
    """Yield every block of a page, included programs too."""
    yield from _blocks(path.name, path.read_text(encoding="utf-8"))


def docstring_blocks(path: Path) -> Iterator[Block]:
    """Yield every block of a module's docstrings; the lines are counted from each one's own."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            name = getattr(node, "name", "module")
            yield from _blocks(f"{path.name}:{name}", ast.get_docstring(node) or "")


def _blocks(page: str, text: str) -> Iterator[Block]:
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        line = lines[number]
        number += 1
        directive = _DIRECTIVE.fullmatch(line)
        is_literal = line.rstrip().endswith("::") and not line.lstrip().startswith(".. ")
        if directive is None and not is_literal:
            continue
        body = _body(lines, number, _indent(line))
        first = number + 1
        number += len(body)
        options: dict[str, str] = {}
        while directive is not None and body and (option := _OPTION.fullmatch(body[0])):
            options[option[1]] = option[2]
            body, first = body[1:], first + 1
        while body and not body[0].strip():
            body, first = body[1:], first + 1
        text = textwrap.dedent("\n".join(body)) + "\n"
        if directive is None:
            yield Block(page, first, "python", text)
        elif directive["name"] == "literalinclude":
            yield Block(page, first, "python", "", options, directive["rest"])
        else:
            yield Block(page, first, directive["rest"] or "python", text, options)


def markdown_blocks(path: Path) -> Iterator[Block]:
    """Yield every fenced block of a Markdown file."""
    text = path.read_text(encoding="utf-8")
    for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
        line = text.count("\n", 0, match.start(2)) + 1
        yield Block(path.name, line, match[1] or "text", match[2])


def pages() -> list[Path]:
    """Return all pages of the documentation."""
    return sorted(DOCS.glob("**/*.rst"))


BLOCKS = [
    *markdown_blocks(ROOT / "README.md"),
    *(block for path in pages() for block in rst_blocks(path)),
]

#: The blocks that a test has taken on itself to run.
CLAIMED: set[Block] = set()


def runs(page: str, start: str) -> pytest.MarkDecorator:
    """Give a test the block of a page that begins so, as ``block``. It has to run it."""
    found = [block for block in BLOCKS if block.page == page and block.text.startswith(start)]
    assert len(found) == 1, f"{page} has {len(found)} blocks that begin with {start!r}"
    CLAIMED.update(found)
    return pytest.mark.parametrize("block", found, ids=str)


def example(name: str) -> ModuleType:
    """Import one of docs/examples."""
    path = DOCS / "examples" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(f"docs_example_{name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
