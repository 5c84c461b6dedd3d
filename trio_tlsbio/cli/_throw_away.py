"""Throw-away CAs, for the demo and for a server without a certificate."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from ._options import usage_error
from ._status import Failure, Status

if TYPE_CHECKING:
    import trustme

__all__ = ["Equip", "throw_away_ca", "throw_away_certificates", "throw_away_names"]

# Loads the server's certificate into a context.
Equip: TypeAlias = Callable[[ssl.SSLContext], object]

# How long a throw-away certificate is valid, and how far its start is in the past, for slow clocks.
_CERTIFICATE_LASTS = timedelta(days=90)
_SLOW_CLOCKS = timedelta(days=1)


def throw_away_ca(owner: str, *, why: str) -> trustme.CA:
    """Create a CA, or fail if trustme is not installed. ``why`` begins the message then."""
    try:
        import trustme  # noqa: PLC0415  # an extra
    except ImportError as exc:
        raise Failure(
            Status.EXTRA_MISSING,
            f"{why} trustme: in a clone of trio-tlsbio, pip install '.[demo]'",
        ) from exc
    return trustme.CA(organization_name=owner, organization_unit_name="throw-away CA")


def throw_away_names(host: str) -> Sequence[str]:
    """Return the names in a throw-away certificate for ``host``."""
    return list(dict.fromkeys(["localhost", "127.0.0.1", "::1", host]))


@contextmanager
def throw_away_certificates(host: str) -> Generator[tuple[Equip, Path]]:
    """Create a CA that issues a certificate for each context. Its own certificate is in a file
    meanwhile.
    """
    owner = "trio-tlsbio serve"
    ca = throw_away_ca(owner, why="serving without --cert requires")

    def equip(context: ssl.SSLContext) -> None:
        now = datetime.now(UTC)
        try:
            ca.issue_cert(
                *throw_away_names(host),
                organization_name=owner,
                not_before=now - _SLOW_CLOCKS,
                not_after=now + _CERTIFICATE_LASTS,
            ).configure_cert(context)
        except ValueError:
            usage_error(f"--host {host}: no certificate can be made for this name: pass --cert")

    with tempfile.TemporaryDirectory(prefix="trio-tlsbio-") as folder:
        path = Path(folder, "ca.pem")
        ca.cert_pem.write_to_path(path)
        yield equip, path
