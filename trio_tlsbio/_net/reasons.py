"""Explains why certificates and keys can't be loaded."""

from __future__ import annotations

import os

__all__ = ["why_unusable"]


def why_unusable(exc: Exception) -> str:
    """Return an explanation of why files can't be used."""
    reason = getattr(exc, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "the private key belongs to another certificate: the two have to be renewed together"
    if reason in {"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL"}:
        return "the certificate's key, or that of an issuer, is too weak for this security level"
    if reason == "CA_MD_TOO_WEAK":
        return "the certificate, or that of an issuer, is signed with too weak a hash"
    if reason in {"NO_START_LINE", "NOT_ENOUGH_DATA"} or "PEM lib" in str(exc):
        return f"a file holds no certificate, or no private key, in PEM form ({exc})"
    if isinstance(exc, OSError) and exc.errno and exc.strerror == "Error":  # PyPy's own text
        return f"[Errno {exc.errno}] {os.strerror(exc.errno)}"
    return str(exc) or type(exc).__name__
