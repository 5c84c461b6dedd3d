"""Public modules whose library is missing say how it is installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

import trio_tlsbio

TRY = """
import importlib, sys
sys.modules[{library!r}] = None  # as if it were not installed
try:
    {statement}
except ModuleNotFoundError as exc:
    print(exc.name, exc, sep="\\n")
"""


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("anyio", "anyio", "anyio"),
        ("httpcore", "httpcore", "httpcore"),
        ("httpcore2", "httpcore2", "httpx2"),
        ("httpx", "httpx", "httpx"),
        ("httpx2", "httpx2", "httpx2"),
        ("testing", "trustme", "testing"),
    ],
)
def test_the_extra_is_named(module: str, library: str, extra: str) -> None:
    statement = f"importlib.import_module('trio_tlsbio.{module}')"
    if module == "testing":
        statement += ".CertificateAuthority()"
    code = TRY.format(library=library, statement=statement)
    said = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True
    ).stdout
    assert said.splitlines() == [
        library,
        f"trio_tlsbio.{module} needs {library}, which is not installed: "
        f"in a clone of trio-tlsbio, pip install '.[{extra}]'",
    ]


def test_version() -> None:
    assert isinstance(trio_tlsbio.__version__, str)
    assert trio_tlsbio.__version__[0].isdigit()
