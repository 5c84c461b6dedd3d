"""Expiry dates of certificates, and the clock by which OpenSSL verifies them."""

from __future__ import annotations

import time
from datetime import UTC, datetime

from .certificate_der import fields_of

__all__ = ["expiry_of", "now"]

_UTC_TIME = 0x17


def now() -> float:
    """Return the time, in seconds since the epoch. OpenSSL uses the same system clock.

    The core asks for the time only here, to compare dates: it measures no durations.
    """
    return time.time()


def expiry_of(certificate: bytes) -> float:
    """Return when a certificate in DER form expires (RFC 5280 section 4.1.2.5), in seconds since
    the epoch. If it is not a certificate, return 0, which is long past.
    """
    try:
        _serial, _algorithm, _issuer, validity, *_ = fields_of(certificate)
        _, end = validity.elements()
        text = end.content.decode("ascii")
        if end.tag == _UTC_TIME:
            text = ("19" if text >= "50" else "20") + text
        return datetime.strptime(text, "%Y%m%d%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        return 0.0
