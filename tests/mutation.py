"""The mutation check: small changes of the library, each of which a test should notice.

``python -m tests.mutation _core/records --work FOLDER`` judges the mutants of a module with Cosmic
Ray, in a copy of the tree, and prints those that no test noticed. What is tried, and with which
tests, is in mutation.toml; see docs/mutation.rst. Run again with the same folder, it goes on where
it was.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import json
import math
import os
import re
import resource
import shutil
import signal
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import chdir
from pathlib import Path
from typing import Any, NoReturn

import attrs
import coverage
import hypothesis
import pytest
from cosmic_ray import plugins
from cosmic_ray.commands import init
from cosmic_ray.mutating import use_mutation
from cosmic_ray.operators.operator import Example, Operator
from cosmic_ray.work_db import WorkDB
from cosmic_ray.work_item import TestOutcome, WorkerOutcome, WorkResult
from parso.python.tree import Keyword

ROOT = Path(__file__).parent.parent

# Half of the time goes into reading the system's certificates, which no test of these looks at.
_NO_CERTIFICATES = {"SSL_CERT_FILE": os.devnull, "SSL_CERT_DIR": os.devnull}


# What a mutant may take at most, in bytes, lest one that never ends takes all.
_MOST_MEMORY = 2 * 1024**3

# What a mutant of an attrs class is not worth a test for.
_UNIMPORTANT = re.compile(r"\b(init|repr|eq)=$")

_PASSED = {pytest.ExitCode.OK, pytest.ExitCode.NO_TESTS_COLLECTED}

# How long any run of tests may take, in seconds.
_LONGEST = 600

_OPTIONS = [
    "--numprocesses=0",
    "--timeout=40",  # many a mutant waits forever
    "-p",
    "no:cacheprovider",
    "-p",
    "no:anyio",
    "-W",
    "ignore::pytest.PytestAssertRewriteWarning",
]

# What takes long to import, and knows nothing of the library.
_IMPORTS = [
    "anyio",
    "anyio._backends._asyncio",
    "h11",
    "cryptography.x509",
    "hypothesis.strategies",
    "pytest_trio.plugin",
    "trustme",
]


class RemoveStatement(Operator):  # type: ignore[misc]
    """Leaves out a call, a raise, a bare return, or an assignment to an attribute."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        if node.type == "simple_stmt" and _is_removable(node.children[0]):
            yield node.children[0].start_pos, node.children[0].end_pos

    def mutate(self, node: Any, index: int) -> Any:
        statement = node.children[0]
        node.children[0] = Keyword(
            "pass", statement.start_pos, prefix=statement.get_first_leaf().prefix
        )
        return node

    @classmethod
    def examples(cls) -> Iterable[Example]:
        return (
            Example("def f():\n    g()\n", "def f():\n    pass\n"),
            Example("def f(x):\n    x.y = 1\n", "def f(x):\n    pass\n"),
        )


def _is_removable(statement: Any) -> bool:
    function = statement
    while function is not None and function.type not in {"funcdef", "classdef"}:
        function = function.parent
    if function is None or function.type == "classdef":
        return False
    if statement.type in {"atom_expr", "power", "raise_stmt", "del_stmt"}:
        return True
    if statement.type in {"return_stmt", "keyword"}:
        return statement.get_code(include_prefix=False) in {"return", "raise"}
    if statement.type == "expr_stmt":
        target, operation = statement.children[:2]
        return "." in target.get_code() or operation.get_code().strip() in {"+=", "-="}
    return False


class StopSuppressing(Operator):  # type: ignore[misc]
    """Lets pass what ``suppress(...)`` would have kept."""

    def mutation_positions(self, node: Any) -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
        if (
            node.type in {"atom_expr", "power"}
            and node.children[0].get_code().strip() == "suppress"
        ):
            yield node.start_pos, node.end_pos

    def mutate(self, node: Any, index: int) -> Any:
        del node.children[1].children[1:-1]
        return node

    @classmethod
    def examples(cls) -> Iterable[Example]:
        return (Example("with suppress(E):\n    f()\n", "with suppress():\n    f()\n"),)


plugins.OPERATOR_PROVIDERS["statements"] = {
    operator.__name__: operator for operator in (RemoveStatement, StopSuppressing)
}


@attrs.define(eq=False)
class Survey:
    """A pytest plugin that tells which tests run which lines of a module, and how long each takes.

    A mutant need only be shown to the tests that run its lines, and the fastest of them first.
    """

    _coverage: coverage.Coverage
    _path: Path
    _seconds: dict[str, float] = attrs.field(factory=dict, init=False)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        self._coverage.switch_context(item.nodeid)
        began = time.process_time()
        result = yield
        self._seconds[item.nodeid] = time.process_time() - began
        return result

    @pytest.hookimpl(tryfirst=True)
    def pytest_load_initial_conftests(self) -> None:
        self._coverage.start()  # before anything imports the module

    def pytest_sessionfinish(self) -> None:
        self._coverage.stop()
        contexts = self._coverage.get_data().contexts_by_lineno(str(self._path.resolve()))
        lines = {
            # What runs when the module is imported has no context, and matters to all.
            line: sorted(self._seconds if "" in names else names, key=self._seconds.__getitem__)
            for line, names in contexts.items()
        }
        found = {"lines": lines, "seconds": self._seconds}
        Path("survey.json").write_text(json.dumps(found), encoding="utf-8")


@attrs.define(eq=False)
class Selection:
    """A pytest plugin that runs the tests of some lines alone, the fastest first."""

    _survey: dict[str, Any]
    _lines: range

    @property
    def _tests(self) -> dict[str, float]:
        lines, seconds = self._survey["lines"], self._survey["seconds"]
        names = {name for line in self._lines for name in lines.get(str(line), ())}
        return {name: seconds[name] for name in names}

    @property
    def limit(self) -> float:
        """How long they may take with a mutant, in seconds of processor time."""
        return 5 + 3 * sum(self._tests.values())

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        tests = self._tests
        items[:] = [item for item in items if item.nodeid in tests]
        items.sort(key=lambda item: tests[item.nodeid])


def judge(module: str, config: dict[str, Any], work: Path, sample: int | None) -> WorkDB:
    """Judge the mutants of a module, in a copy of the tree beneath ``work``."""
    tree = work / module.replace("/", "-")
    if not tree.exists():
        shutil.copytree(ROOT, tree, ignore=shutil.ignore_patterns(".*", "__pycache__", "_build"))
    path = Path("trio_tlsbio", f"{module}.py")  # such as _core/records
    files = config["tests"][module]
    with chdir(tree):
        database = WorkDB("session.sqlite", WorkDB.Mode.create)
        if not database.num_work_items:
            init([path], database, {})
            skip(database, path.read_text(encoding="utf-8"), config["operators"], sample)
        sys.dont_write_bytecode = False  # of the tests, and of the modules that stay as they are
        survey = Survey(
            coverage.Coverage(data_file=None, config_file=False, include=[str(path)]), path
        )
        if not tests_pass(files, survey, _LONGEST):
            sys.exit(f"{module}: its tests fail without a mutant, see {tree / 'output'}")
        found = json.loads(Path("survey.json").read_text(encoding="utf-8"))
        sys.dont_write_bytecode = True
        for item in database.pending_work_items:
            (mutation,) = item.mutations
            selection = Selection(found, range(mutation.start_pos[0] - 1, mutation.end_pos[0] + 2))
            operator = plugins.get_operator(mutation.operator_name)()
            with use_mutation(mutation.module_path, operator, mutation.occurrence) as (old, new):
                passed = tests_pass(files, selection, selection.limit)
            changes = difflib.unified_diff(old.splitlines(), new.splitlines(), lineterm="", n=2)
            database.set_result(
                item.job_id,
                WorkResult(
                    worker_outcome=WorkerOutcome.NORMAL,
                    test_outcome=TestOutcome.SURVIVED if passed else TestOutcome.KILLED,
                    diff="\n".join(changes),
                ),
            )
    return database


def tests_pass(files: Sequence[str], plugin: object, limit: float) -> bool:
    """Run tests in a fork of this process, which need not import again what they need.

    Returns:
      Whether they passed within the limit, which is in seconds of processor time.
    """
    began = time.monotonic()
    pid = os.fork()
    if not pid:
        _run_tests(files, plugin, limit)
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > began + _LONGEST:
            os.killpg(pid, signal.SIGKILL)
        time.sleep(0.02)
    return os.waitstatus_to_exitcode(ended[1]) in {
        pytest.ExitCode.OK,
        pytest.ExitCode.NO_TESTS_COLLECTED,
    }


def _run_tests(files: Sequence[str], plugin: object, limit: float) -> NoReturn:
    status = 1
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (math.ceil(limit),) * 2)
        resource.setrlimit(resource.RLIMIT_AS, (_MOST_MEMORY,) * 2)
        descriptor = os.open("output", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.path[0] = str(Path.cwd())
        del sys.modules["tests"]  # the tests run from the copy as well
        status = pytest.main(["-x", "-q", *_OPTIONS, *files], plugins=[plugin])
        sys.stdout.flush()
    finally:
        os._exit(status)


def skip(database: WorkDB, source: str, operators: list[str], sample: int | None) -> None:
    """Leave out what is not to be tried, and all but a sample where that is asked for."""
    wanted = re.compile("|".join(operators))
    skipped = WorkResult(worker_outcome=WorkerOutcome.SKIPPED)
    kept, lines = 0, source.splitlines()
    for item in database.pending_work_items:  # in random order
        (mutation,) = item.mutations
        line, column = mutation.start_pos
        is_wanted = wanted.fullmatch(mutation.operator_name) and not _UNIMPORTANT.search(
            lines[line - 1][:column]
        )
        if is_wanted and (sample is None or kept < sample):
            kept += 1
        else:
            database.set_result(item.job_id, skipped)


def report(module: str, database: WorkDB) -> None:
    """Print what no test noticed, and how many there were."""
    counts: Counter[str] = Counter()
    for item, result in sorted(
        database.completed_work_items, key=lambda both: both[0].mutations[0].start_pos
    ):
        if result.worker_outcome is WorkerOutcome.SKIPPED:
            continue
        counts["mutants"] += 1
        counts["killed" if result.is_killed else "survived"] += 1
        if not result.is_killed:
            (mutation,) = item.mutations
            print(f"\n{mutation.definition_name}, {mutation.operator_name}")
            print("\n".join(result.diff.splitlines()[2:]))
    print(f"\n{module}: {counts['mutants']} mutants, {counts['killed']} killed")


def main() -> None:
    """Judge the modules that are named."""
    config = tomllib.loads((ROOT / "mutation.toml").read_text(encoding="utf-8"))
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("modules", nargs="+", choices=config["tests"])
    parser.add_argument("--work", type=Path, required=True, help="directory for copies and results")
    parser.add_argument("--sample", type=int, help="how many mutants of each to try at most")
    arguments = parser.parse_args()
    os.environ.update(_NO_CERTIFICATES)
    for name in _IMPORTS:
        importlib.import_module(name)
    # One failure is enough, and need not be a small one.
    phases = (hypothesis.Phase.explicit, hypothesis.Phase.generate)
    hypothesis.settings.register_profile("mutation", phases=phases, database=None)
    hypothesis.settings.load_profile("mutation")
    arguments.work.mkdir(parents=True, exist_ok=True)
    for module in arguments.modules:
        report(module, judge(module, config, arguments.work.resolve(), arguments.sample))


if __name__ == "__main__":
    main()
