"""The contents of certificates."""

from __future__ import annotations

import hashlib
import ssl
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any

import attrs

from trio_tlsbio._core.certificates import (
    checked_chain,
    decoded_by_der,
    in_der,
    raw_chain,
)
from trio_tlsbio._core.distinguished_names import formatted_parts
from trio_tlsbio._core.peer_names import PeerName, names_in

__all__ = [
    "CertificateFacts",
    "KeyFacts",
    "facts_of",
    "path_of",
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
        """For how many more days the certificate is valid; negative if it has expired."""
        return None if self.not_after is None else (self.not_after - datetime.now(UTC)).days


################################################################
# Decoding
################################################################


def _distinguished_name(name: Sequence[Sequence[tuple[str, str]]]) -> str:
    """Format a name in the order of the certificate, as the command ``openssl`` does."""
    return ", ".join(formatted_parts(name)) or "(empty)"


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


def _facts_of_each(chain: Sequence[Any]) -> tuple[CertificateFacts, ...]:
    known = decoded_by_der(chain)
    return tuple(facts_of(der, known.get(der, {})) for der in map(in_der, chain))


def presented_by(ssl_object: ssl.SSLObject) -> tuple[CertificateFacts, ...]:
    """Return the certificates that the peer has presented, even if they made the handshake fail.

    They come from the same handshake: another connection might reach another server.
    """
    return _facts_of_each(raw_chain(ssl_object))


def path_of(ssl_object: ssl.SSLObject) -> tuple[CertificateFacts, ...]:
    """Return the chain that OpenSSL built and checked, starting with the peer's own certificate.

    It is available after a refusal too. It consists of certificates that the peer presented, and of
    trusted ones.
    """
    return _facts_of_each(checked_chain(ssl_object))


def when(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M} UTC"
