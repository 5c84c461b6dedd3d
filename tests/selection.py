"""Which tests run: by default what needs nothing but Python, and a sample of what takes long.

``pytest`` alone runs ``unit``, ``stream``, ``cli`` and a sample of ``slow``; ``pytest PATH ...``
runs all of what it names, and ``pytest --all`` everything. The sample is the same each time.
"""

from __future__ import annotations

import math
import random
import shutil
from collections import defaultdict
from pathlib import Path

import pytest

HERE = Path(__file__).parent

# One in so many of the cases of each test in tests/slow is in the sample.
ONE_IN = 10


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--all", action="store_true", help="run all tests, and all cases of each")


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "world: talks to programs that are not ours")
    config.addinivalue_line("markers", "docs: what README and docs/ say holds")
    config.addinivalue_line("markers", "slow: a search; only a sample of it runs by default")
    config.addinivalue_line("markers", "needs(program): takes a program, so it is of the world")
    config.addinivalue_line(
        "markers", "where(condition, why): tests what not every Python has; elsewhere it is no test"
    )
    config.addinivalue_line("markers", "sample(one_in): by default one in so many cases is run")
    # Workers of pytest-xdist get the option, but not where the arguments came from.
    if config.args_source is pytest.Config.ArgsSource.ARGS:
        config.option.all = True


def pytest_itemcollected(item: pytest.Item) -> None:
    folder = item.path.relative_to(HERE).parts[0]
    if folder in {"world", "docs", "slow"}:
        item.add_marker(folder)
    for mark in item.iter_markers("needs"):
        (program,) = mark.args
        item.add_marker("world")
        if shutil.which(program) is None:
            item.add_marker(pytest.mark.skip(reason=f"the program {program} is not installed"))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    chosen = {item for item in items if all(mark.args[0] for mark in item.iter_markers("where"))}
    if not config.getoption("all"):
        tests: defaultdict[str, list[pytest.Item]] = defaultdict(list)
        for item in items:
            if not (item.get_closest_marker("world") or item.get_closest_marker("docs")):
                tests[item.nodeid.partition("[")[0]].append(item)
        chosen &= {item for name, cases in tests.items() for item in _sample(name, cases)}
    config.hook.pytest_deselected(items=[item for item in items if item not in chosen])
    items[:] = [item for item in items if item in chosen]


def _sample(name: str, cases: list[pytest.Item]) -> list[pytest.Item]:
    mark = cases[0].get_closest_marker("sample")
    one_in = mark.args[0] if mark else ONE_IN if cases[0].get_closest_marker("slow") else 1
    return random.Random(name).sample(cases, math.ceil(len(cases) / one_in))


@pytest.fixture(scope="session")
def stride(request: pytest.FixtureRequest) -> int:
    """Which step a test takes that goes from byte to byte, or from line to line: 1 with --all."""
    return 1 if request.config.getoption("all") else ONE_IN - 1


@pytest.fixture(scope="session")
def rounds(request: pytest.FixtureRequest) -> int:
    """How often what may go wrong by chance is tried."""
    return 50 if request.config.getoption("all") else 5
