"""Tables of the docs that the tests write themselves, so that they tell what was seen.

``pytest --write-tables`` writes each table that a test has told something for, whole, as a file of
``docs/tables``. A run that failed writes nothing.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import attrs
import pytest

DIRECTORY = Path(__file__).parent.parent / "docs" / "tables"


@attrs.define(eq=False)
class Tables:
    """The rows that this run has told so far, in their order."""

    _rows: dict[str, list[tuple[str, ...]]] = attrs.field(factory=dict, init=False)

    def tell(self, table: str, *cells: object) -> None:
        """Add a row to a table. The page that shows the table has its header."""
        self._rows.setdefault(table, []).append(tuple(map(str, cells)))

    def write(self, directory: Path) -> None:
        """Write one file for each table."""
        directory.mkdir(exist_ok=True)
        for table, rows in self._rows.items():
            with (directory / f"{table}.csv").open("w", encoding="utf-8", newline="") as file:
                csv.writer(file, lineterminator="\n").writerows(rows)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--write-tables",
        action="store_true",
        help="write the tables of the docs that this run makes, if all of it passes",
    )


@pytest.fixture(scope="session")
def tables(request: pytest.FixtureRequest) -> Iterator[Tables]:
    """The tables for the docs."""
    tables = Tables()
    yield tables
    if request.config.getoption("write_tables") and not request.session.testsfailed:
        tables.write(DIRECTORY)
