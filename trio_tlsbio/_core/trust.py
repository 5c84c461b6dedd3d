"""Determines whether the certificates that a context trusts can be read."""

from __future__ import annotations

import ssl

__all__ = ["is_trust_known"]


def is_trust_known(context: ssl.SSLContext) -> bool:
    """Return True if get_ca_certs() returns everything that a context trusts."""
    # get_ca_certs() omits certificates that are not a CA, such as pinned ones. Revocation lists
    # can't be read from a context, only counted. If there is nothing, there may be a capath, which
    # OpenSSL reads on demand.
    stats = context.cert_store_stats()
    return 0 < stats["x509"] == stats["x509_ca"] and not stats["crl"]
