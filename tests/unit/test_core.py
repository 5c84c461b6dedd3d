"""The core takes nothing of Trio but its exceptions: it runs under any event loop, or none."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest
import trio

import trio_tlsbio

PACKAGE = Path(trio_tlsbio.__file__).parent
CORE = [
    "_connection",
    "_contexts",
    "_errors",
    "_hello",
    "_info",
    "_key_exchange",
    "_native_session",
    "_records",
    "_sessions",
    "_states",
    "_words",
]


@pytest.mark.parametrize("name", CORE)
def test_only_exceptions_of_trio(name: str) -> None:
    tree = ast.parse((PACKAGE / f"{name}.py").read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            assert (node.module or "").partition(".")[0] not in {"trio", "outcome", "sniffio"}
        elif isinstance(node, ast.Import):
            assert not any(alias.name.startswith("trio.") for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "trio":
            assert issubclass(getattr(trio, node.attr), Exception), node.attr
