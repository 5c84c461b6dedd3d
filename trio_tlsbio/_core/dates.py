"""When certificates end, by the clock that OpenSSL verifies them by."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from itertools import islice

from .der import items_of

__all__ = ["expiry_of", "now"]

_CONTEXT_0 = 0xA0  # the tag of the version, which certificates of version 1 don't have
_UTC_TIME = 0x17


def now() -> float:
    """Return the time, in seconds since the epoch. OpenSSL asks the system for it too."""
    return time.time()


def expiry_of(certificate: bytes) -> float:
    """Return when a certificate in DER form ends (RFC 5280 section 4.1.2.5), in seconds since the
    epoch. 0, which is long past, for what is no certificate.
    """
    try:
        fields = items_of(next(items_of(certificate)))
        if (first := next(fields))[0] != _CONTEXT_0:
            fields = iter((first, *fields))
        # After the serial number, the algorithm and the issuer.
        validity = next(islice(fields, 3, None))
        _, end = items_of(validity)
        text = end[2:].decode("ascii")
        if end[0] == _UTC_TIME:
            text = ("19" if text >= "50" else "20") + text
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except (IndexError, StopIteration, ValueError):
        return 0.0
