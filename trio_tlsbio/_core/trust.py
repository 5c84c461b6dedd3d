"""Reads which certificates a context trusts, as far as this is possible."""

from __future__ import annotations

import ssl

__all__ = ["is_trust_known", "security_level"]


def security_level(context: ssl.SSLContext) -> int | None:
    """Return :attr:`ssl.SSLContext.security_level`, or None on PyPy, which can't report it.

    So on PyPy a session can remain valid although the level was raised after its creation.
    """
    return getattr(context, "security_level", None)


def is_trust_known(context: ssl.SSLContext) -> bool:
    """Return True if get_ca_certs() returns everything that a context trusts."""
    # get_ca_certs() omits certificates that are not a CA, such as pinned ones. Revocation lists
    # can't be read from a context, only counted. If there is nothing, there may be a capath, which
    # OpenSSL reads on demand.
    stats = context.cert_store_stats()
    return 0 < stats["x509"] == stats["x509_ca"] and not stats["crl"]
