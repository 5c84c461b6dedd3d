"""The public modules, and what their names show of themselves."""

from __future__ import annotations

import importlib
import inspect
import pickle
import pkgutil
import subprocess
import sys
import typing
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from types import ModuleType
from typing import Any

import attrs
import pytest

import trio_tlsbio
from trio_tlsbio.core import State
from trio_tlsbio.monitoring import ConnectionAccepted


def public_modules() -> Iterator[ModuleType]:
    """Import each module that is not private, and whose extra is installed."""
    yield trio_tlsbio
    for found in pkgutil.iter_modules(trio_tlsbio.__path__):
        if found.name.startswith("_") or found.name == "cli":  # a command
            continue
        with suppress(ModuleNotFoundError):
            yield importlib.import_module(f"trio_tlsbio.{found.name}")


MODULES = list(public_modules())
EXPORTED = [
    pytest.param(module.__name__, getattr(module, name), id=f"{module.__name__}.{name}")
    for module in MODULES
    for name in module.__all__
]


def is_ours(value: Any) -> bool:
    """Whether it is a class or function of ours: aliases say nothing about themselves."""
    return str(getattr(value, "__module__", "")).startswith("trio_tlsbio")


@pytest.mark.parametrize(("module_name", "value"), EXPORTED)
def test_public_names_are_of_public_modules(module_name: str, value: Any) -> None:
    if is_ours(value):
        assert value.__module__ == module_name
    if is_ours(value) and inspect.isclass(value):
        members = [getattr(member, "__func__", member) for member in vars(value).values()]
        functions = [member for member in members if inspect.isfunction(member)]
        ours = [function for function in functions if is_ours(function)]
        # Not those that attrs shares between classes.
        written = [each for each in ours if each.__globals__.get("__name__") != "attr._make"]
        assert {each.__module__ for each in written} <= {module_name}


def test_the_modules_are_found() -> None:
    assert {trio_tlsbio, trio_tlsbio.core, trio_tlsbio.proxy_protocol} < set(MODULES)
    ours = [value for _, value in (param.values for param in EXPORTED) if is_ours(value)]
    assert trio_tlsbio.TLSStream in ours
    assert len(ours) > 60


def test_no_name_is_in_two_modules() -> None:
    modules = [
        trio_tlsbio,
        trio_tlsbio.asgi,
        trio_tlsbio.core,
        trio_tlsbio.monitoring,
        trio_tlsbio.proxy_protocol,
        trio_tlsbio.ticket_keys,
    ]
    names = Counter(name for module in modules for name in module.__all__)
    assert names.most_common(1)[0][1] == 1
    assert all(list(module.__all__) == sorted(module.__all__) for module in modules)


def test_a_traceback_has_the_public_name() -> None:
    code = "import trio_tlsbio; raise trio_tlsbio.TruncationError('gone')"
    command = [sys.executable, "-c", code]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.stderr.splitlines()[-1] == "trio_tlsbio.TruncationError: gone"


@pytest.mark.parametrize(("module_name", "value"), EXPORTED)
def test_annotations_can_be_resolved(module_name: str, value: Any) -> None:
    if module_name.startswith("trio_tlsbio.testing"):
        return  # which uses trustme's types, and does without trustme
    if inspect.isclass(value) or inspect.isfunction(value):
        typing.get_type_hints(value)
    if attrs.has(value):
        attrs.resolve_types(value)


@pytest.mark.parametrize(
    "value", [State.OPEN, ConnectionAccepted("1.2.3.4:5"), trio_tlsbio.TLSError]
)
def test_values_can_be_pickled(value: object) -> None:
    data = pickle.dumps(value)
    assert b"trio_tlsbio._" not in data
    assert pickle.loads(data) == value


def test_version() -> None:
    assert trio_tlsbio.__version__[0].isdigit()
