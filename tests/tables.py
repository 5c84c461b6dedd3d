"""Tables of the docs that the tests write themselves, so that they tell what was seen.

``pytest --write-tables`` writes each table that a test has told something for, whole, as a file of
``docs/tables``, and into the pages that show it. A run that failed writes nothing. With
pytest-xdist each worker hands its rows to the process that started it, and the order of the tests
is the order of the rows all the same.

``python -m tests.tables`` puts tables into the pages that other programs have written.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import attrs
import pytest

DOCS = Path(__file__).parent.parent / "docs"
DIRECTORY = DOCS / "tables"

# A table in a page: the comment that names its file, the directive with its options, and the rows.
# The rows stand in the page because hosts of code don't include files in the pages that they show.
_TABLE = re.compile(
    r"""
    (?P<head>^\.\.[ ]tables/(?P<file>[\w.-]+)\n
    \.\.[ ]csv-table::.*\n
    (?:[ ]{3}:.*\n)*)
    (?P<rows>(?:\n*[ ]{3}.*\n)*)
    """,
    re.MULTILINE | re.VERBOSE,
)

# Workers that share out single tests would tear rows apart that tests of one file tell together.
DISTRIBUTIONS = ("no", "loadfile")

# What rows are sorted by, their number in this process, and the cells.
Row = tuple[int, int, list[str]]


@attrs.define(eq=False)
class Tables:
    """The rows that this run has told so far."""

    rows: dict[str, list[Row]] = attrs.field(factory=dict, init=False)
    test: int = attrs.field(default=0, init=False)

    def tell(self, table: str, *cells: object, place: int | None = None) -> None:
        """Add a row to a table, by default at the place of the test that runs.

        The page that shows the table has its header.
        """
        rows = self.rows.setdefault(table, [])
        place = self.test if place is None else place
        rows.append((place, len(rows), [str(cell) for cell in cells]))

    def add(self, rows: dict[str, Iterable[Row]]) -> None:
        """Add what a worker has told."""
        for table, told in rows.items():
            self.rows.setdefault(table, []).extend(told)

    def write(self, directory: Path) -> None:
        """Write one file for each table."""
        directory.mkdir(exist_ok=True)
        for table, rows in self.rows.items():
            with (directory / f"{table}.csv").open("w", encoding="utf-8", newline="") as file:
                writer = csv.writer(file, lineterminator="\n")
                writer.writerows(cells for *_, cells in sorted(rows))


def filled_in(page: str, directory: Path = DIRECTORY) -> str:
    """Return the text of a page with its tables as they are in the files."""

    def fill(match: re.Match[str]) -> str:
        rows = (directory / match["file"]).read_text(encoding="utf-8").splitlines()
        return match["head"] + "\n" + "".join(f"   {row}\n" for row in rows)

    return _TABLE.sub(fill, page)


def fill_in_pages() -> None:
    """Put the tables into all pages."""
    for path in DOCS.glob("*.rst"):
        before = path.read_text(encoding="utf-8")
        after = filled_in(before)
        if after != before:
            path.write_text(after, encoding="utf-8")


@attrs.define(eq=False)
class TableWriter:
    """The plugin that numbers the tests, gathers what they tell, and writes it at the end."""

    config: pytest.Config
    tables: Tables = attrs.field(factory=Tables, init=False)
    _numbers: dict[str, int] = attrs.field(factory=dict, init=False)

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        # Every worker collects the same tests in the same order.
        self._numbers = {item.nodeid: number for number, item in enumerate(session.items)}

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.tables.test = self._numbers.get(nodeid, 0)

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        self.tables.add(getattr(node, "workeroutput", {}).get("tables", {}))

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        workeroutput = getattr(self.config, "workeroutput", None)
        if workeroutput is not None:
            workeroutput["tables"] = self.tables.rows
        elif self.config.getoption("write_tables") and not session.testsfailed:
            self.tables.write(DIRECTORY)
            fill_in_pages()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-tables",
        action="store_true",
        help="write the tables of the docs that this run makes, if all of it passes",
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("write_tables") and config.getoption("dist", "no") not in DISTRIBUTIONS:
        raise pytest.UsageError("--write-tables with workers takes --dist=loadfile")
    config.pluginmanager.register(TableWriter(config), "tables")


@pytest.fixture(scope="session")
def tables(request: pytest.FixtureRequest) -> Tables:
    """The tables for the docs."""
    writer = request.config.pluginmanager.get_plugin("tables")
    assert isinstance(writer, TableWriter)
    return writer.tables


if __name__ == "__main__":
    fill_in_pages()
