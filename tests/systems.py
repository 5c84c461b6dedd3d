"""The socket calls of other systems, where every system has them.

``pytest --as-on windows`` runs the tests with those of Windows. This does not imitate the other
system itself: what its sockets do, which errors they report, and when. Tests that wait until
``peer_has_gone()`` shows an end behind unread data fail with them, as they do on that system.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from trio_tlsbio._stream import system_calls

CALLS: dict[str, type[system_calls.PortableCalls]] = {"windows": system_calls.PortableCalls}
if sys.platform != "win32":
    CALLS["macos"] = system_calls.PosixCalls


@contextmanager
def calls_of(system: str) -> Iterator[None]:
    """Use the socket calls of a system."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(system_calls, "calls", CALLS[system])
        yield


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--as-on", choices=sorted(CALLS), help="use the socket calls of that system")


@pytest.fixture(scope="session", autouse=True)
def as_on(request: pytest.FixtureRequest) -> Iterator[None]:
    """Use them in all tests."""
    system = request.config.getoption("--as-on")
    if system is None:
        yield
    else:
        with calls_of(system):
            yield
