"""What is in the certificates that a peer presents."""

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
    "copies_of",
    "decoded",
    "peer_certificates",
    "presented_chain",
    "presented_names",
    "verified_chain",
]

# A certificate as SSLObject.getpeercert() decodes it.
Certificate = Mapping[str, Any]


def _raw_chain(ssl_object: ssl.SSLObject) -> tuple[Any, ...]:
    """Return OpenSSL's own objects for the certificates that the peer presented. They hold no
    reference to the connection.
    """
    # Public from Python 3.13 on, but there only as DER, which the standard library can't decode;
    # the object beneath has had this method since 3.10. Without it we know less, and say less.
    sslobj = getattr(ssl_object, "_sslobj", None)
    get_chain = getattr(sslobj, "get_unverified_chain", None)
    if get_chain is None:
        return ()
    # A client that was asked for a certificate after the handshake, and has none, leaves a None.
    return tuple(certificate for certificate in get_chain() or () if certificate is not None)


def verified_chain(ssl_object: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the chain that OpenSSL has verified, in DER form: only the leaf in a Python that can't
    tell more, and nothing in a resumed session of TLS 1.3.
    """
    get_chain = getattr(getattr(ssl_object, "_sslobj", None), "get_verified_chain", None)
    chain = tuple(map(_in_der, get_chain() or ())) if get_chain is not None else ()
    leaf = ssl_object.getpeercert(binary_form=True)
    return chain or (() if leaf is None else (leaf,))


def _in_der(certificate: Any) -> bytes:
    data: bytes = certificate.public_bytes(_ssl.ENCODING_DER)
    return data


def presented_names(ssl_object: ssl.SSLObject) -> tuple[str, ...]:
    """Return the names in the certificate that the peer presented, refused ones included.

    getpeercert() tells nothing of a handshake that failed, when one wants to know most.
    """
    chain = _raw_chain(ssl_object)
    with suppress(ValueError, ssl.SSLError), clean_error_queue():  # see _decoded_by()
        return certificate_names(chain[0].get_info()) if chain else ()
    return ()


def presented_chain(ssl_object: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the certificates that the peer presented, in DER form, refused ones included. Empty
    where Python can't tell.
    """
    return tuple(map(_in_der, _raw_chain(ssl_object)))


def decoded(certificates: Iterable[Any]) -> dict[bytes, Certificate]:
    """Decode what :func:`_raw_chain` returned, by its DER form, without what can't be decoded."""
    known: dict[bytes, Certificate] = {}
    for certificate in certificates:
        with suppress(ValueError, ssl.SSLError), clean_error_queue():  # see _decoded_by()
            known[_in_der(certificate)] = certificate.get_info()
    return known


@attrs.frozen
class CertificateCopy:
    """Takes the place of an object of OpenSSL's, which can't be copied or pickled."""

    _der: bytes = attrs.field(repr=False)
    _info: Certificate

    def get_info(self) -> Certificate:
        return self._info

    def public_bytes(self, encoding: int) -> bytes:
        assert encoding == _ssl.ENCODING_DER
        return self._der


def copies_of(certificates: Iterable[Any]) -> tuple[CertificateCopy, ...]:
    return tuple(CertificateCopy(der, info) for der, info in decoded(certificates).items())


@attrs.define(eq=False)
class UndecodedCertificate:
    """Decodes a certificate when somebody asks: it takes as long as 4 % of a handshake."""

    _certificate: Any  # one of OpenSSL's objects
    _decoded: Certificate | None = attrs.field(default=None, init=False, repr=False)

    def get_info(self) -> Certificate:
        """Return what :meth:`ssl.SSLSocket.getpeercert` would; empty if it can't be decoded."""
        if self._decoded is None:
            self._decoded = next(iter(decoded([self._certificate]).values()), {})
        return self._decoded


def _decoded_by(ssl_object: ssl.SSLObject) -> Certificate:
    try:
        with clean_error_queue():
            return ssl_object.getpeercert() or {}
    except (ValueError, ssl.SSLError):
        # CPython wants names in a certificate to be text, in UTF-8; OpenSSL, who verified it, does
        # not.
        return {}


def peer_certificates(
    ssl_object: ssl.SSLObject,
) -> tuple[Certificate | UndecodedCertificate | None, tuple[bytes, ...], tuple[Any, ...]]:
    """Return the peer's own certificate, the chain that it presented in DER form, and OpenSSL's
    objects for that, as far as there are any. See :class:`HandshakeInfo` for what they are.
    """
    leaf = ssl_object.getpeercert(binary_form=True)
    if leaf is None:
        return None, (), ()
    objects = _raw_chain(ssl_object)
    chain = tuple(map(_in_der, objects))
    if verify_mode(ssl_object.context) == ssl.CERT_NONE:
        own: Certificate | UndecodedCertificate = {}  # nothing vouches for what it says
    elif chain and chain[0] == leaf:
        own = UndecodedCertificate(objects[0])
    else:
        own = _decoded_by(ssl_object)
    # On the server's side, and in a resumed session, OpenSSL leaves the leaf out of the chain.
    return own, chain if leaf in chain else (leaf, *chain), objects
