"""Decodes the certificates that a peer presents."""

from __future__ import annotations

import _ssl
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import attrs

from .context_settings import verify_mode
from .openssl_errors import clean_error_queue
from .peer_names import certificate_names

__all__ = [
    "Certificate",
    "UndecodedCertificate",
    "checked_chain",
    "copies_of",
    "decoded_by_der",
    "in_der",
    "peer_certificates",
    "presented_names",
    "raw_chain",
    "refused_chain",
    "verified_chain",
]

# A certificate, as decoded by SSLObject.getpeercert().
Certificate = Mapping[str, Any]


def raw_chain(ssl_object: ssl.SSLObject) -> tuple[Any, ...]:
    """Return OpenSSL's objects for the certificates that the peer presented. They don't refer to
    the connection.
    """
    # Python 3.13 has a public method, but it returns DER, which the standard library can't decode.
    # The underlying object has had this method since 3.10. Without it, less is known and reported.
    sslobj = getattr(ssl_object, "_sslobj", None)
    get_chain = getattr(sslobj, "get_unverified_chain", None)
    if get_chain is None:
        return ()
    # If a client is asked for a certificate after the handshake and has none, this contains None.
    return tuple(filter(None, get_chain() or ()))


def checked_chain(ssl_object: ssl.SSLObject) -> tuple[Any, ...]:
    """Return OpenSSL's objects for the chain that it built and checked, starting with the peer's
    own certificate. It is available after a refusal too. Empty if Python doesn't expose it.
    """
    get_chain = getattr(getattr(ssl_object, "_sslobj", None), "get_verified_chain", None)
    return () if get_chain is None else tuple(get_chain() or ())


def verified_chain(ssl_object: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the chain that OpenSSL has verified, in DER form. If Python doesn't expose the chain,
    this is only the leaf, and in a resumed TLS 1.3 session it is empty.
    """
    chain = tuple(map(in_der, checked_chain(ssl_object)))
    leaf = ssl_object.getpeercert(binary_form=True)
    return chain or (() if leaf is None else (leaf,))


def in_der(certificate: Any) -> bytes:
    data: bytes = certificate.public_bytes(_ssl.ENCODING_DER)
    return data


def presented_names(ssl_object: ssl.SSLObject) -> tuple[str, ...]:
    """Return the names in the certificate that the peer presented, even if it was refused.

    After a failed handshake getpeercert() returns nothing, when it would be needed most.
    """
    chain = raw_chain(ssl_object)
    with suppress(ValueError, ssl.SSLError), clean_error_queue():  # see _decoded_by()
        return certificate_names(chain[0].get_info() or {}) if chain else ()
    return ()


def refused_chain(ssl_object: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the chain that OpenSSL has refused, in DER form. If Python doesn't expose that, return
    the certificates that the peer presented. Empty where Python can't tell.
    """
    return tuple(map(in_der, checked_chain(ssl_object) or raw_chain(ssl_object)))


def decoded_by_der(certificates: Iterable[Any]) -> dict[bytes, Certificate]:
    """Decode the objects from :func:`raw_chain`. Return a dict by DER form, without those that
    fail.
    """
    known: dict[bytes, Certificate] = {}
    for certificate in certificates:
        with suppress(ValueError, ssl.SSLError), clean_error_queue():  # see _decoded_by()
            # PyPy returns None where the subject or the issuer is empty.
            known[in_der(certificate)] = certificate.get_info() or {}
    return known


@attrs.frozen
class CertificateCopy:
    """Replaces an OpenSSL object, which can't be copied or pickled."""

    _der: bytes = attrs.field(repr=False)
    _info: Certificate

    def get_info(self) -> Certificate:
        return self._info

    def public_bytes(self, encoding: int) -> bytes:
        assert encoding == _ssl.ENCODING_DER
        return self._der


def copies_of(certificates: Iterable[Any]) -> tuple[CertificateCopy, ...]:
    return tuple(CertificateCopy(der, info) for der, info in decoded_by_der(certificates).items())


@attrs.define(eq=False)
class UndecodedCertificate:
    """Decodes a certificate on demand, because this takes 4% of the time of a handshake."""

    _certificate: Any  # an OpenSSL object
    _info: Certificate | None = attrs.field(default=None, repr=False)

    def get_info(self) -> Certificate:
        """Return what :meth:`ssl.SSLSocket.getpeercert` would, or an empty dict if it can't be
        decoded.
        """
        if self._info is None:
            self._info = next(iter(decoded_by_der([self._certificate]).values()), {})
        return self._info


def _decoded_by(ssl_object: ssl.SSLObject) -> Certificate:
    try:
        with clean_error_queue():
            return ssl_object.getpeercert() or {}
    except (ValueError, ssl.SSLError):
        # CPython requires names in a certificate to be UTF-8; OpenSSL, which has verified it, does
        # not.
        return {}


def peer_certificates(
    ssl_object: ssl.SSLObject,
) -> tuple[Certificate | UndecodedCertificate | None, tuple[bytes, ...], tuple[Any, ...]]:
    """Return the peer's own certificate, the chain that it presented in DER form, and OpenSSL's
    objects for that chain, if they are accessible. They are described in :class:`HandshakeInfo`.
    """
    leaf = ssl_object.getpeercert(binary_form=True)
    if leaf is None:
        return None, (), ()
    objects = raw_chain(ssl_object)
    chain = tuple(map(in_der, objects))
    if verify_mode(ssl_object.context) == ssl.CERT_NONE:
        own: Certificate | UndecodedCertificate = {}  # its contents were not verified
    elif chain and chain[0] == leaf:
        own = UndecodedCertificate(objects[0])
    else:
        own = _decoded_by(ssl_object)
    # On servers, and in a resumed session, OpenSSL omits the leaf from the chain.
    return own, chain if leaf in chain else (leaf, *chain), objects
