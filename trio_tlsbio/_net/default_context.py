"""Creates the context if the caller passes none."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from typing import Any

__all__ = ["make_default_context"]

# ssl.OP_LEGACY_SERVER_CONNECT, which Python has had since 3.12. OpenSSL before 3.0 sets it.
_OP_LEGACY_SERVER_CONNECT = 0x4


def make_default_context(
    purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH, *, cafile: str | None = None
) -> ssl.SSLContext:
    """Create a context as :func:`ssl.create_default_context` does, restricted to RFC 9325.

    The restrictions of Python, OpenSSL and the system's policy stay in force.

    Args:
      purpose: The side that the context authenticates.
      cafile: The authorities to trust, in place of the system's.

    Raises:
      OSError: if ``cafile`` can't be used.
    """
    context = ssl.create_default_context(purpose, cafile=cafile)
    # Section 3.1.1. Some builds of Python set no minimum.
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    _keep_recommended_ciphers(context)
    context.options &= ~_OP_LEGACY_SERVER_CONNECT  # section 3.5
    context.hostname_checks_common_name = False  # section 7.1; RFC 9525 section 2
    if purpose is ssl.Purpose.CLIENT_AUTH:
        # With renegotiation, a client could make the server work as long as the connection lasts.
        context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _keep_recommended_ciphers(context: ssl.SSLContext) -> None:
    """Keep only TLS 1.2 cipher suites with forward secrecy and AEAD: RFC 9325 sections
    4.1 and 4.2.
    """
    ciphers = context.get_ciphers()
    # All TLS 1.3 suites qualify; they don't name a key exchange.
    kept = [
        cipher
        for cipher in ciphers
        if cipher["aead"] and _key_exchange(cipher) in ("kx-ecdhe", "kx-any")
    ]
    if kept != ciphers:
        context.set_ciphers(":".join(cipher["name"] for cipher in kept))


def _key_exchange(cipher: Mapping[str, Any]) -> str:
    """Return OpenSSL's name for the key exchange of a cipher suite."""
    if isinstance(cipher["kea"], str):
        return cipher["kea"]
    # PyPy only has a pointer there.
    match = re.search(r" Kx=(\S+)", cipher["description"])
    short = match[1] if match else ""
    return {"ECDH": "kx-ecdhe", "any": "kx-any"}.get(short, short)
