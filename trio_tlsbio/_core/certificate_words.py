"""Explanations of why OpenSSL refuses a certificate."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

from . import dates

__all__ = ["VERIFY_CODES", "words_for"]

# X509_V_ERR_* numbers, as listed in X509_STORE_CTX_get_error(3). They don't show which certificate
# of the chain an error is about, so the messages leave that open where it may not be the first one.
_STRICT = (
    "strict verification (VERIFY_X509_STRICT, which Python 3.13 sets) finds that it, or one of its"
    " issuers, "
)
_EXPIRED, _UNFIT, _STRICT_CODES = 10, 26, range(80, 94)
VERIFY_CODES = {
    2: "one of its issuers is trusted here, but the root above that one is not",
    3: "a revocation list (CRL) is missing: that of its issuer, or of one further up",
    7: "it, or one of its issuers, is not signed by the authority that it names",
    8: "a revocation list (CRL) is not signed by the authority that it names",
    9: "it, or one of its issuers, is not valid yet: check this machine's clock too",
    10: "it, or one of its issuers, has expired",
    11: "a revocation list (CRL) is not valid yet: check this machine's clock too",
    12: "a revocation list (CRL) has expired",
    18: "it is self-signed, and not among the trusted certificates",
    19: "its chain ends at a certificate authority that is not trusted here",
    20: "its issuer is not trusted here, or the peer did not send the intermediate certificates",
    21: "its issuer is not trusted here, or the peer did not send the intermediate certificates",
    22: "its chain is longer than this side allows",
    23: "it, or one of its issuers, was revoked",
    24: "its chain contains a certificate that is not allowed to issue others",
    25: "its chain is longer than the issuers allow",
    26: "it, or one of its issuers, was not issued for this purpose (key usage, extended key "
    "usage)",
    34: "it, or one of its issuers, has a critical extension that OpenSSL does not know",
    35: "a revocation list (CRL) is signed by an authority that may not do that (key usage)",
    41: "it, or one of its issuers, has an invalid extension",
    47: "it has a name that its issuer is not allowed to certify (name constraints)",
    48: "it has a name that its issuer is not allowed to certify (name constraints)",
    66: "its key is too weak, or can't be read",
    67: "the key of one of its issuers is too weak, or can't be read",
    68: "it, or one of its issuers, is signed with too weak a hash",
    79: "its chain contains a certificate that is not allowed to issue others",
    80: _STRICT + "limits the length of a chain, but is not an authority",
    81: _STRICT + "limits the length of a chain, but its key may not issue others (key usage)",
    82: _STRICT + "has a key that may issue others (key usage), but is not an authority",
    83: _STRICT + "does not name its issuer",
    84: _STRICT + "is an authority without a name",
    85: _STRICT + "has no Authority Key Identifier",
    86: _STRICT + "has no Subject Key Identifier",
    87: _STRICT + "has a subjectAltName without a name",
    88: _STRICT + "has no subject, and a subjectAltName that is not critical",
    89: _STRICT + "is an authority whose Basic Constraints are not critical",
    90: _STRICT + "has an Authority Key Identifier that is critical",
    91: _STRICT + "has a Subject Key Identifier that is critical",
    92: _STRICT + "is an authority without a key usage",
    93: _STRICT + "has extensions, but is not of version 3",
}


def words_for(code: int | None, chain: Sequence[bytes], *, of_client: bool) -> str | None:
    """Return why a certificate was refused, and what to do about it, or None if that is not known.

    Args:
      code: The X509_V_ERR_* number.
      chain: The refused certificates, in DER form, as far as they are known.
      of_client: Whether the peer is a client.
    """
    words = VERIFY_CODES.get(code or 0)
    if words is None:
        return None
    if code == _EXPIRED:
        # A server that has not loaded what was renewed on its disk goes on presenting the old one.
        cure = "if it was renewed, the peer has not loaded the new one"
        return f"{_expired_since(chain) or words}; {cure}"
    if code == _UNFIT:
        # Public authorities had to stop by the rules of browsers, which trust them for servers.
        needs = (
            "a client's certificate needs clientAuth, which public authorities no longer issue"
            if of_client
            else "a server's certificate needs serverAuth"
        )
        return f"{words}; {needs}"
    if code in _STRICT_CODES:
        return words + "; have it reissued, or clear the flag in the context's verify_flags"
    return words


def _expired_since(chain: Sequence[bytes]) -> str | None:
    for number, certificate in enumerate(chain):
        if 0 < (end := dates.expiry_of(certificate)) < dates.now():
            which = "one of its issuers" if number else "it"
            date = datetime.fromtimestamp(end, UTC)
            return f"{which} has expired (valid until {date:%Y-%m-%d %H:%M} UTC)"
    return None
