"""What is in the certificates that a peer presents."""

from __future__ import annotations

import _ssl
import ipaddress
import ssl
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import attrs

from .openssl_errors import clean_error_queue, empty_error_queue

__all__ = [
    "Certificate",
    "certificate_names",
    "copies_of",
    "decoded",
    "decoded_certificate",
    "is_same_name",
    "peer_chain",
    "presented_names",
    "raw_chain",
    "verified_chain",
]

# A certificate as SSLObject.getpeercert() decodes it.
Certificate = Mapping[str, Any]


def certificate_names(certificate: Certificate) -> tuple[str, ...]:
    """Return the DNS names and IP addresses that a certificate is valid for.

    Only the subjectAltName counts; clients stopped looking at the common name (RFC 9525
    section 2).

    Args:
      certificate: As :meth:`ssl.SSLSocket.getpeercert` decodes it.
    """
    names = []
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "DNS":
            names.append(value)
        elif kind == "IP Address":
            with suppress(ValueError):  # one that is malformed stands for nobody
                # OpenSSL writes 0:0:0:0:0:0:0:1 for ::1.
                names.append(str(ipaddress.ip_address(value.strip())))
    return tuple(names)


def raw_chain(ssl_object: ssl.SSLObject) -> tuple[Any, ...]:
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
    chain = raw_chain(ssl_object)
    with suppress(ValueError, ssl.SSLError), clean_error_queue():  # see decoded_certificate()
        return certificate_names(chain[0].get_info()) if chain else ()
    return ()


def decoded(certificates: Iterable[Any]) -> dict[bytes, Certificate]:
    """Decode what :func:`raw_chain` returned, by its DER form, without what can't be decoded."""
    known: dict[bytes, Certificate] = {}
    for certificate in certificates:
        with suppress(ValueError, ssl.SSLError), clean_error_queue():  # see decoded_certificate()
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


def decoded_certificate(ssl_object: ssl.SSLObject) -> Certificate | None:
    try:
        if (certificate := ssl_object.getpeercert()) is not None:
            empty_error_queue()
        return certificate
    except (ValueError, ssl.SSLError):
        # CPython wants names in a certificate to be text, in UTF-8; OpenSSL, who verified it, does
        # not.
        return {}


def peer_chain(ssl_object: ssl.SSLObject, certificates: Iterable[Any]) -> tuple[bytes, ...]:
    """Return the chain in DER form. ``certificates`` is the :func:`raw_chain`."""
    leaf = ssl_object.getpeercert(binary_form=True)
    if leaf is None:
        return ()
    chain = tuple(map(_in_der, certificates))
    # On the server's side, and in a resumed session, OpenSSL leaves the leaf out of the chain.
    return chain if leaf in chain else (leaf, *chain)


def is_same_name(pattern: str, hostname: str) -> bool:
    """Whether a name in a certificate stands for a host, by RFC 9525 section 6.3."""
    try:
        return ipaddress.ip_address(pattern) == ipaddress.ip_address(hostname)
    except ValueError:
        pass
    pattern, hostname = pattern.lower(), hostname.lower()
    if pattern.startswith("*."):
        # A wildcard stands for exactly one label, the leftmost.
        return hostname.partition(".")[2] == pattern[2:]
    return pattern == hostname
