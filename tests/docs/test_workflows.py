"""The workflows for hosted machines run what .ci/run and the README do, on what is supported."""

from __future__ import annotations

import re
import tomllib

import pytest

from tests.helpers import ROOT

CHECKS = ROOT / ".github" / "workflows" / "checks.yml"

pytestmark = pytest.mark.skipif(not CHECKS.exists(), reason="an sdist has no workflows")


def commands() -> list[str]:
    return re.findall(r"^ +- run: (.+)$", CHECKS.read_text(encoding="utf-8"), re.MULTILINE)


def test_tests_run_on_each_python_that_is_supported() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    classifier = re.compile(r"Programming Language :: Python :: (3\.\d+)")
    supported = {found[1] for line in project["classifiers"] if (found := classifier.match(line))}
    (line,) = re.findall(r"^ +python: \[(.+)\]$", CHECKS.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(re.findall(r'"(3\.\d+)"', line)) == supported


def test_all_that_ci_lints_with_is_run() -> None:
    script = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    _, _, rest = script.partition('step "lint')
    section = rest.partition("\nstep ")[0]
    tools = set(
        re.findall(r"^(ruff \w+|mypy|pyright|lint-imports|yamllint)", section, re.MULTILINE)
    )
    assert len(tools) == 6
    assert {tool for tool in tools if not any(run.startswith(tool) for run in commands())} == set()


def test_the_docs_are_built_as_the_readme_says() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (build,) = [run for run in commands() if run.startswith("sphinx-build")]
    assert f"`.venv/bin/{build}`" in readme


def test_the_tests_are_run_as_the_readme_says() -> None:
    assert "python -m pytest" in commands()
    assert ".venv/bin/python -m pytest" in (ROOT / "README.md").read_text(encoding="utf-8")
