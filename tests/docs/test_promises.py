"""The page of promises names tests that there are."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

from tests.helpers import DOCS, ROOT

TESTS = ROOT / "tests"
PAGE = DOCS / "promises.rst"

TEST_NAME = re.compile(r"``([\w/]+\.py)::(test_\w+)``")


def promises() -> dict[str, list[tuple[str, str]]]:
    """Each promise with the tests that hold it, as files and functions."""
    found: dict[str, list[tuple[str, str]]] = {}
    page = PAGE.read_text(encoding="utf-8")
    _, *sections = re.split(r"^[^\n]+\n-+\n\n", page, flags=re.MULTILINE)
    for section in sections:
        promise = ""
        for line in section.splitlines():
            if line and not line.startswith(" "):
                assert line not in found, f"promised twice: {line}"
                promise = line
                found[promise] = []
            elif line:
                name = TEST_NAME.fullmatch(line.strip())
                assert name, f"no name of a test: {line}"
                found[promise].append((name[1], name[2]))
    return found


@cache
def functions(path: Path) -> set[str]:
    """The names of all functions of a file, those of classes too."""
    return {
        node.name
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }


def test_every_promise_is_held_by_tests_that_there_are() -> None:
    assert len(promises()) > 50
    for promise, tests in promises().items():
        assert tests, f"nothing holds the promise: {promise}"
        for file, test in tests:
            assert test in functions(TESTS / file), f"{file} has no {test}: {promise}"
