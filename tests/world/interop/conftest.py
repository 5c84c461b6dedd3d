"""What the tests with other stacks share, and the table that they make."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import product
from pathlib import Path

import pytest
import trustme

from tests.tables import Tables

from .harness import CLIENT, OTHER_NAME, Case, Files, Side, row
from .stacks import STACKS

_SHOWN = pytest.StashKey[set[Case]]()


@pytest.fixture(scope="session")
def other_cert(ca: trustme.CA) -> trustme.LeafCert:
    """A certificate for OTHER_NAME."""
    return ca.issue_cert(OTHER_NAME)


@pytest.fixture(scope="session")
def client_cert(ca: trustme.CA) -> trustme.LeafCert:
    """A client's certificate. Its name is the subject's, too, which is what programs print."""
    return ca.issue_cert(CLIENT, common_name=CLIENT)


@pytest.fixture
def files(
    ca: trustme.CA,
    server_cert: trustme.LeafCert,
    other_cert: trustme.LeafCert,
    client_cert: trustme.LeafCert,
    tmp_path: Path,
) -> Files:
    """The files for one test."""
    files = Files(
        *(tmp_path / f"{name}.pem" for name in ("ca", "server", "other", "client")),
    )
    ca.cert_pem.write_to_path(str(files.ca))
    server_cert.private_key_and_cert_chain_pem.write_to_path(str(files.server))
    other_cert.private_key_and_cert_chain_pem.write_to_path(str(files.other))
    client_cert.private_key_and_cert_chain_pem.write_to_path(str(files.client))
    return files


@pytest.fixture
def case(request: pytest.FixtureRequest) -> Case:
    """What a test is to show."""
    case: Case = request.param
    if case.stack.version() is None:
        pytest.skip(f"{case.stack.name}: {case.stack.needs} is not installed")
    case.stack.prepare()
    return case


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Function,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Note what a test that has passed has shown."""
    report = yield
    case = item.callspec.params.get("case")
    if report.when == "call" and report.passed and isinstance(case, Case):
        item.config.stash.setdefault(_SHOWN, set()).add(case)
    return report


@pytest.fixture(scope="session", autouse=True)
def table(request: pytest.FixtureRequest, tables: Tables) -> Iterator[None]:
    """Tell the table what was shown in this run."""
    yield
    shown = request.config.stash.get(_SHOWN, set())
    for place, (stack, side) in enumerate(product(STACKS, Side)):
        if cells := row(stack, side, shown):
            tables.tell("interop", *cells, place=place)
