"""The contents of certificates, and why they were refused."""

from __future__ import annotations

import hashlib
import ssl
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import attrs

from trio_tlsbio._core.certificates import (
    _in_der,
    _raw_chain,
    decoded,
)
from trio_tlsbio._core.peer_names import PeerName, names_in

__all__ = [
    "CertificateFacts",
    "Fault",
    "KeyFacts",
    "facts_of",
    "faults_in",
    "presented_by",
    "when",
]


@attrs.frozen
class KeyFacts:
    """A public key."""

    kind: str
    bits: int | None


@attrs.frozen
class CertificateFacts:
    """One certificate of a chain. Values that could not be decoded are None or empty."""

    subject: str | None
    issuer: str | None
    not_before: datetime | None
    not_after: datetime | None
    names: tuple[PeerName, ...]
    serial_number: str | None
    key: KeyFacts | None
    sha256: str
    der: bytes = attrs.field(repr=False)

    def names_of(self, *kinds: str) -> list[str]:
        """Return the names of the given kinds."""
        return [name.value for name in self.names if name.kind in kinds]

    @property
    def days_left(self) -> int | None:
        """For how many more days the certificate is valid; negative once it has expired."""
        return None if self.not_after is None else (self.not_after - datetime.now(UTC)).days


################################################################
# Decoding
################################################################

_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
}


def _distinguished_name(name: Sequence[Sequence[tuple[str, str]]]) -> str:
    """Format a name in the common notation."""
    parts = (f"{_SHORT.get(kind, kind)}={value}" for rdn in name for kind, value in rdn)
    return ", ".join(parts) or "(empty)"


def _moment(text: str | None) -> datetime | None:
    """Parse a time in a certificate. Return None if OpenSSL prints it in another format."""
    with suppress(ValueError):
        if text is not None:
            return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)
    return None


def _key_of(der: bytes) -> KeyFacts | None:
    """Describe the key in a certificate, if the package cryptography is installed."""
    try:
        from cryptography import x509  # noqa: PLC0415  # a dependency of trustme
        from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa  # noqa: PLC0415
    except ImportError:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # deprecations of malformed certificates
            key = x509.load_der_x509_certificate(der).public_key()
    except Exception:  # it is stricter than OpenSSL, with many kinds of exceptions
        return None
    match key:
        case rsa.RSAPublicKey():
            return KeyFacts("RSA", key.key_size)
        case ec.EllipticCurvePublicKey():
            return KeyFacts(f"EC {key.curve.name}", key.curve.key_size)
        case dsa.DSAPublicKey():
            return KeyFacts("DSA", key.key_size)
        case _:
            name = type(key).__name__.removesuffix("PublicKey").lstrip("_")
            return KeyFacts(name, {"Ed25519": 256, "Ed448": 456}.get(name))


def facts_of(der: bytes, decoded: Mapping[str, Any]) -> CertificateFacts:
    """Extract the facts from a certificate. ``decoded`` is empty if it could not be decoded."""
    return CertificateFacts(
        subject=_distinguished_name(decoded["subject"]) if decoded else None,
        issuer=_distinguished_name(decoded["issuer"]) if decoded else None,
        not_before=_moment(decoded.get("notBefore")),
        not_after=_moment(decoded.get("notAfter")),
        names=names_in(decoded),
        serial_number=decoded.get("serialNumber"),
        key=_key_of(der),
        sha256=hashlib.sha256(der).hexdigest(),
        der=der,
    )


def presented_by(ssl_object: ssl.SSLObject) -> tuple[CertificateFacts, ...]:
    """Return the certificates that the peer has presented, even if they made the handshake fail.

    They come from the same handshake: another connection might reach another server.
    """
    chain = _raw_chain(ssl_object)
    known = decoded(chain)
    return tuple(facts_of(der, known.get(der, {})) for der in map(_in_der, chain))


################################################################
# Why they were refused
################################################################


@attrs.frozen
class Fault:
    """A problem with a certificate. ``index`` is its position in the presented chain. It is None if
    the certificate is not part of the chain, or if this is not known.
    """

    index: int | None
    words: str


# X509_V_ERR_* numbers, as listed in X509_STORE_CTX_get_error(3).
_NOT_YET_VALID, _EXPIRED = 9, 10
_SELF_SIGNED, _SELF_SIGNED_IN_CHAIN = 18, 19
_NO_ISSUER = {20, 21}
_WRONG_NAME = {62, 64}
_WEAK_KEY = 66


def when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"


def faults_in(
    chain: Sequence[CertificateFacts], verify_code: int | None, server_name: str
) -> tuple[Fault, ...]:
    """Find the certificates with a problem. OpenSSL reports the problem, but not the certificate,
    so this searches for one that matches.
    """
    if not chain:
        return ()
    return tuple(_faults_in(chain, verify_code, server_name)) or (
        Fault(None, "OpenSSL does not report which certificate it refused"),
    )


def _faults_in(
    chain: Sequence[CertificateFacts], verify_code: int | None, server_name: str
) -> Iterator[Fault]:
    if verify_code in {_NOT_YET_VALID, _EXPIRED}:
        found = list(_wrong_dates(chain, is_expired=verify_code == _EXPIRED))
        problem = "has expired" if verify_code == _EXPIRED else "is not valid yet"
        yield from found or [
            Fault(None, f"an issuer that the server did not present {problem}, none of the above")
        ]
    elif verify_code in _WRONG_NAME:
        yield Fault(0, f"not for {server_name}")
    elif verify_code in {_SELF_SIGNED, _SELF_SIGNED_IN_CHAIN}:
        yield Fault(_last_in_path(chain), "self-signed, and not among the trusted certificates")
    elif verify_code in _NO_ISSUER:
        last = _last_in_path(chain)
        issuer = chain[last].issuer or "its issuer"
        yield Fault(last, f"{issuer} is not trusted here, and the server did not present it")
    elif verify_code == _WEAK_KEY:
        yield Fault(0, "its key is too weak, or can't be read")


def _wrong_dates(chain: Sequence[CertificateFacts], *, is_expired: bool) -> Iterator[Fault]:
    now = datetime.now(UTC)
    for index, certificate in enumerate(chain):
        start, end = certificate.not_before, certificate.not_after
        if is_expired and end is not None and end <= now:
            yield Fault(index, f"expired since {when(end)}")
        elif not is_expired and start is not None and start > now:
            yield Fault(index, f"not valid until {when(start)}")


def _last_in_path(chain: Sequence[CertificateFacts]) -> int:
    """Return the index of the last certificate in the path of issuers that starts at the first one.

    Servers may present issuers in any order, and unrelated ones too (RFC 9846 section 4.4.2).
    """
    last, left = 0, list(range(1, len(chain)))
    while chain[last].subject != chain[last].issuer:
        above = next((each for each in left if chain[each].subject == chain[last].issuer), None)
        if above is None:
            break
        left.remove(above)
        last = above
    return last
