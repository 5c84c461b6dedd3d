"""The extension ``tls`` of ASGI, which describes a connection to applications."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from functools import cache
from typing import Any

from ._core.certificate_der import CertificateParts
from ._core.distinguished_names import rfc4514_string
from ._core.handshake_info import HandshakeInfo
from ._public import publish

__all__ = ["tls_extension"]

_VERSIONS: Mapping[str, int] = {
    "TLSv1": 0x0301,
    "TLSv1.1": 0x0302,
    "TLSv1.2": 0x0303,
    "TLSv1.3": 0x0304,
}

# The TLS 1.3 cipher suites that OpenSSL disables by default, and then does not list (RFC 9846
# appendix B.4).
_NOT_LISTED = {
    "TLS_AES_128_CCM_SHA256": 0x1304,
    "TLS_AES_128_CCM_8_SHA256": 0x1305,
}


def tls_extension(handshake: HandshakeInfo, server_cert: str | None = None) -> dict[str, Any]:
    """Return the value of ``scope["extensions"]["tls"]`` for requests of one connection.

    It has all keys of the `TLS extension of ASGI
    <https://asgi.readthedocs.io/en/latest/specs/tls.html>`__. This is for servers: it gives the
    application access to the client's certificate.

    * ``client_cert_chain`` contains the certificates that the client has sent, in PEM form, its own
      first.
    * ``client_cert_name`` is the subject of the client's own certificate, formatted as in RFC 4514.
    * ``client_cert_error`` is always None: a client whose certificate is refused can't send a
      request.
    * ``tls_version`` and ``cipher_suite`` are IANA's numbers; the latter is None if OpenSSL does
      not report the number.

    Args:
      handshake: :attr:`TLSStream.handshake <trio_tlsbio.TLSStream.handshake>`.
      server_cert: The server's certificate in PEM form. Python's ``ssl`` does not show which
        certificate a context has presented.
    """
    chain = handshake.peer_certificate_chain
    return {
        "server_cert": server_cert,
        "client_cert_chain": [ssl.DER_cert_to_PEM_cert(certificate) for certificate in chain],
        "client_cert_name": _subject_of(chain[0]) if chain else None,
        "client_cert_error": None,
        "tls_version": _VERSIONS.get(handshake.version),
        "cipher_suite": _cipher_suites().get(handshake.cipher),
    }


def _subject_of(certificate: bytes) -> str | None:
    try:
        return rfc4514_string(CertificateParts.of(certificate).subject)
    except ValueError:
        return None


@cache
def _cipher_suites() -> Mapping[str, int]:
    """Return the numbers of the cipher suites, by OpenSSL's names."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    listed = {cipher["name"]: cipher["id"] & 0xFFFF for cipher in context.get_ciphers()}
    return listed | _NOT_LISTED


publish(__name__)
