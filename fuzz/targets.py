"""The targets: functions that take any bytes, and fail where something does not hold."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs

from ._certificates import fuzz_certificates
from ._core import fuzz_handshake, fuzz_open, fuzz_pair
from ._hello import fuzz_hello
from ._parsers import fuzz_proxy_header, fuzz_recording, fuzz_records, fuzz_starttls

__all__ = ["TARGETS", "Target"]

HERE = Path(__file__).parent


@attrs.frozen
class Target:
    """One of them, with what a run needs to know of it."""

    name: str
    function: Callable[[bytes], None]
    #: How many of all executions it gets, in parts: the quick ones more.
    weight: int
    #: How long an input may be, in bytes.
    max_len: int

    @property
    def words(self) -> str:
        """What it is about."""
        return (self.function.__doc__ or "").splitlines()[0]

    @property
    def corpus(self) -> Path:
        """Where inputs are that reach all that is known to be reachable."""
        return HERE / "corpus" / self.name

    @property
    def regressions(self) -> Path:
        """Where inputs are that were findings."""
        return HERE / "regressions" / self.name

    def inputs(self) -> list[Path]:
        """Return the inputs that are kept."""
        folders = (self.corpus, self.regressions)
        return sorted(path for folder in folders if folder.is_dir() for path in folder.iterdir())

    def run(self, data: bytes) -> None:
        """Run it with one input.

        Raises:
          Exception: any one is a finding.
        """
        with _lost_exceptions() as lost:
            self.function(data)
        assert not lost, f"an exception was lost: {lost[0]!r}"


@contextmanager
def _lost_exceptions() -> Iterator[list[BaseException]]:
    """Collect what is raised where nobody can catch it, in a callback for example."""
    lost: list[BaseException] = []

    def collect(unraisable: Any) -> None:
        lost.append(unraisable.exc_value)

    before, sys.unraisablehook = sys.unraisablehook, collect
    try:
        yield lost
    finally:
        sys.unraisablehook = before


TARGETS: Mapping[str, Target] = {
    target.name: target
    for target in (
        Target("handshake", fuzz_handshake, 12, 400),
        Target("open", fuzz_open, 4, 300),
        Target("pair", fuzz_pair, 2, 200),
        Target("certificates", fuzz_certificates, 2, 600),
        Target("hello", fuzz_hello, 8, 400),
        Target("records", fuzz_records, 20, 100),
        Target("recording", fuzz_recording, 16, 200),
        Target("starttls", fuzz_starttls, 28, 200),
        Target("proxy_header", fuzz_proxy_header, 16, 300),
    )
}
