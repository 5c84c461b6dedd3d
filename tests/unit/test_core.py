"""The core takes nothing of Trio but its exceptions: it runs under any event loop, or none."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import trio

import trio_tlsbio

MODULES = sorted((Path(trio_tlsbio.__file__).parent / "_core").glob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.stem))
def test_only_exceptions_of_trio(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in {"trio", "outcome", "sniffio"}
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("trio.") for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "trio":
            assert issubclass(getattr(trio, node.attr), Exception), node.attr
