"""What a context trusts, as far as it can be read out of it."""

from __future__ import annotations

import ssl

__all__ = ["is_trust_known", "security_level"]


def security_level(context: ssl.SSLContext) -> int | None:
    """Return :attr:`ssl.SSLContext.security_level`; None on PyPy, which can't report it.

    There a session may outlive a level that was raised after it was made.
    """
    return getattr(context, "security_level", None)


def is_trust_known(context: ssl.SSLContext) -> bool:
    """Whether get_ca_certs() returns all that a context trusts."""
    # It leaves out certificates that are no CA, pinned ones for example. Revocation lists can't be
    # read out of a context, only counted. Where there is nothing, it may be in a capath, which
    # OpenSSL looks into when it needs to.
    stats = context.cert_store_stats()
    return 0 < stats["x509"] == stats["x509_ca"] and not stats["crl"]
