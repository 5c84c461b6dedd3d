"""The rules of the house that no linter knows: what is private stays in its folder."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import trio_tlsbio

ROOT = Path(trio_tlsbio.__file__).parent

# Private names of other packages, for which there is no public way.
FOREIGN = {
    "_SSLContext",  # ssl
    "_SSLMethod",  # ssl
    "_SubParsersAction",  # argparse
    "_create",  # ssl.SSLObject
    "_sslobj",  # ssl.SSLObject
}


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def folder_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0]


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted(ROOT.rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def defined_in(tree: ast.Module) -> Iterator[str]:
    """The names of functions, and of all that is assigned to, attributes included."""
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                yield name
            case ast.Name(id=name, ctx=ast.Store()):
                yield name
            case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name, ctx=ast.Store()):
                yield name
            case _:
                pass


def used_in(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """The private attributes of other objects than ``self``."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="self" | "cls")):
                pass
            case ast.Attribute(attr=name) if is_private(name):
                yield node.lineno, name
            case _:
                pass


def test_private_attributes_stay_in_their_folder() -> None:
    defined = defaultdict[str, set[str]](set)
    for path, tree in trees():
        defined[folder_of(path)].update(defined_in(tree))
    strangers = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path, tree in trees()
        for line, name in used_in(tree)
        if name not in FOREIGN | defined[folder_of(path)]
    ]
    assert strangers == []


def test_private_names_are_not_imported_from_another_folder() -> None:
    strangers = [
        f"{path.relative_to(ROOT)}:{node.lineno}: {alias.name}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        and node.level == 0
        and (node.module or "").startswith("trio_tlsbio.")
        and (node.module or "").split(".")[1] != folder_of(path)
        for alias in node.names
        if is_private(alias.name)
    ]
    assert strangers == []
