"""The reports of ``serve`` on standard error."""

from __future__ import annotations

import logging
import math
from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress

from trio_tlsbio import TLSError
from trio_tlsbio._core.errors import described
from trio_tlsbio.monitoring import (
    ConnectionClosed,
    HandshakeCompleted,
    ServerEvent,
    ServerStatistics,
)

from ._words import aligned, client_words, say

__all__ = ["shown_log", "report", "report_event", "report_reload", "report_statistics"]


def report(*facts: tuple[str, str]) -> None:
    """Write facts to standard error. The server continues even if no one reads them."""
    with suppress(OSError):
        say(*aligned(facts))


class _Lines(logging.Handler):
    """Prints the messages of log records."""

    def emit(self, record: logging.LogRecord) -> None:
        with suppress(OSError):
            say(record.getMessage())


@contextmanager
def shown_log() -> Generator[None]:
    """Print the library's own log messages about its servers."""
    logger, lines = logging.getLogger("trio_tlsbio.server"), _Lines()
    logger.addHandler(lines)
    try:
        yield
    finally:
        logger.removeHandler(lines)


def report_event(event: ServerEvent) -> None:
    """Report who a client is, and errors on this side that ended a connection. The library itself
    logs other errors.
    """
    match event:
        case HandshakeCompleted() if (client := client_words(event.handshake)) is not None:
            _report_of_peer(event.peer, f"the client is {client}")
        case ConnectionClosed(error=Exception() as error) if not isinstance(error, TLSError):
            _report_of_peer(event.peer, described(error))


def _report_of_peer(peer: str, words: str) -> None:
    with suppress(OSError):
        say(f"connection from {peer}: {words}")


def report_reload(error: Exception | None) -> None:
    """Report whether the certificates were reloaded."""
    report(
        ("reloaded", "new connections get the new certificate")
        if error is None
        else ("not reloaded", "the old certificate stays in use")
    )


def _by_kind(counts: Mapping[str, int]) -> str:
    kinds = ", ".join(f"{kind.replace('_', ' ')} {number}" for kind, number in counts.items())
    return f"{sum(counts.values())} ({kinds})" if kinds else "0"


def report_statistics(statistics: ServerStatistics) -> None:
    """Report how many connections there were, and how they ended."""
    established = statistics.established
    mean = statistics.handshake_seconds / established * 1000 if established else math.nan
    report(
        ("accepted", f"{statistics.accepted}"),
        ("established", f"{established}"),
        ("resumed", f"{statistics.resumed}"),
        ("failed", _by_kind(statistics.failed)),
        ("timed out", f"{statistics.timed_out}"),
        ("broken", _by_kind(statistics.broken)),
        ("cancelled", f"{statistics.cancelled}"),
        ("handshake", f"{mean:.1f} ms on average" if established else "none"),
    )
