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
    r"( *)\.\. (?P<name>code-block|code|sourcecode|parsed-literal):: ?(?P<rest>.*)"
)
# A comment before a block that shows a program of docs/examples, or a function or class of it.
_SOURCE = re.compile(r" *\.\. (?P<path>(?:\.\./)?examples/[\w/.]+)(?:: (?P<name>\w+))?")
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
    source: str | None = None
    """The file that it shows, seen from docs, as a comment before the block names it."""
    part: str | None = None
    """The function or class of that file that it shows, if not all."""
    before: str = ""
    """The last line of text before it."""
    ran: bool = attrs.field(default=False, init=False)

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"

    def source_text(self) -> str:
        """Return what its file has, which the page has to show."""
        assert self.source is not None
        text = (DOCS / self.source).read_text(encoding="utf-8")
        if self.part is None:
            return text
        (found,) = (
            node
            for node in ast.parse(text).body
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
            and node.name == self.part
        )
        first = min([found.lineno, *(decorator.lineno for decorator in found.decorator_list)])
        return "\n".join(text.split("\n")[first - 1 : found.end_lineno]) + "\n"

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
    """Yield every block of a page."""
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
        head = lines[: number - 1]
        source = _SOURCE.fullmatch(head.pop()) if head and _SOURCE.fullmatch(head[-1]) else None
        before = next((text.strip() for text in reversed(head) if text.strip()), "")
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
        else:
            block = Block(page, first, directive["rest"] or "python", text, options, before=before)
            if source is not None:
                block.source, block.part = source["path"], source["name"]
            yield block


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
    """Give a test the block of a page that begins so, as ``block``. The test has to run it.

    Where lines are broken doesn't matter.
    """
    beginning = "".join(start.split())
    found = [
        block
        for block in BLOCKS
        if block.page == page and "".join(block.text.split()).startswith(beginning)
    ]
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
