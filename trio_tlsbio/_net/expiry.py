"""Determines when the certificate in use expires, even if its file has changed since."""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterable
from pathlib import Path

from trio_tlsbio._core.dates import expiry_of
from trio_tlsbio._core.native_context import certificates_in_der

__all__ = ["certificate_expiry", "expiry_by_files"]

_BEGIN, _END = "-----BEGIN CERTIFICATE-----", "-----END CERTIFICATE-----"


def certificate_expiry(ssl_context: object) -> float | None:
    """Return when the first of a context's own certificates expires, in seconds since the epoch.

    Return None for a context without a certificate, where this Python gives no access to it, and
    for functions that don't know.
    """
    if not isinstance(ssl_context, ssl.SSLContext):
        expires: float | None = getattr(ssl_context, "certificate_expires", None)
        return expires
    try:
        return min(map(expiry_of, certificates_in_der(ssl_context)), default=None)
    except NotImplementedError:
        return None


def expiry_by_files(paths: Iterable[str | os.PathLike[str]]) -> float | None:
    """Return when the first certificate expires, in the first file that has one."""
    for path in paths:
        try:
            text = Path(path).read_text(encoding="ascii", errors="replace")
            begin = text.index(_BEGIN)
            pem = text[begin : text.index(_END, begin) + len(_END)]
            return expiry_of(ssl.PEM_cert_to_DER_cert(pem))
        except (OSError, ValueError):
            continue
    return None
