"""Receivers of the facts about connections, in addition to the views."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeAlias

import attrs

from ._certificates import CertificateFacts, when
from ._facts import (
    Agreement,
    Closed,
    Connected,
    Ending,
    Fact,
    Handshake,
    Refused,
    Remark,
    Timeline,
    Upgraded,
    Visit,
)
from ._status import Failure, Status
from ._words import count

__all__ = ["ChainFile", "Lifetime", "Log", "Report", "report_to"]

Report: TypeAlias = Callable[[Fact], None]
"""Is called with each fact as it becomes known."""


def report_to(*receivers: Report) -> Report:
    """Return a function that passes each fact to several receivers."""

    def report(fact: Fact) -> None:
        for receiver in receivers:
            receiver(fact)

    return report


@attrs.define(eq=False)
class Log:
    """Collects the facts about connections."""

    visits: list[Visit] = attrs.field(factory=list[Visit])

    def add(self, fact: Fact) -> None:
        """Store a fact with the others of its connection."""
        match fact:
            case Connected():
                self.visits.append(Visit(fact))
            case Upgraded():
                self.visits[-1] = attrs.evolve(self.visits[-1], upgraded=fact)
            case Refused():
                self.visits[-1] = attrs.evolve(self.visits[-1], refused=fact)
            case Handshake():
                self.visits[-1] = attrs.evolve(self.visits[-1], handshake=fact)
            case Timeline():
                self.visits[-1] = attrs.evolve(self.visits[-1], timeline=fact)
            case Ending():
                self.visits[-1] = attrs.evolve(self.visits[-1], ending=fact)
            case Remark() | Closed():
                pass


@attrs.define(eq=False)
class ChainFile:
    """Writes the certificates that the server presents to a file, even if they are refused."""

    _path: str | None
    """None for no file."""

    def write(self, fact: Fact) -> None:
        """Write the certificates of the first connection: later ones may resume its session."""
        match fact:
            case Handshake(agreement=Agreement(chain=chain)) | Refused(chain=chain) if chain:
                if self._path is not None:
                    _write_pem(self._path, chain)
                    self._path = None
            case _:
                pass


def _write_pem(path: str, chain: tuple[CertificateFacts, ...]) -> None:
    pem = "".join(ssl.DER_cert_to_PEM_cert(each.der) for each in chain)
    try:
        Path(path).write_text(pem, encoding="ascii")
    except OSError as exc:
        words = f"--save-chain {path}: {exc.strerror}"
        raise Failure(Status.FAILED_HERE, words) from exc


@attrs.define(eq=False)
class Lifetime:
    """Checks that the verified certificates remain valid for long enough."""

    _least: timedelta | None
    """None to accept any remaining time."""
    _expiry: datetime | None = None

    def note(self, fact: Fact) -> None:
        """Note when the first certificate expires."""
        match fact:
            case Handshake(agreement=agreement):
                self._expiry = agreement.expiry
            case _:
                pass

    def check(self) -> None:
        """Fail if they expire too early. Call this at the end, because it doesn't prevent a
        connection.
        """
        if self._least is None or self._expiry is None:
            return
        left = self._expiry - datetime.now(UTC)
        if left < self._least:
            has_expired = left < timedelta(0)  # only --insecure accepts an expired one
            problem = "has expired" if has_expired else f"expires within {_in_days(self._least)}"
            raise Failure(
                Status.EXPIRES_SOON,
                f"the certificate, or one of its issuers, {problem}: at {when(self._expiry)}",
            )


def _in_days(duration: timedelta) -> str:
    """Format a duration in days, or in seconds if it is not a number of days."""
    days, rest = divmod(duration, timedelta(days=1))
    if days and not rest:
        return count(days, "day")
    return count(round(duration.total_seconds()), "second")
