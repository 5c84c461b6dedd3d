"""Accesses parts of an SSL_CTX that Python's ``ssl`` doesn't expose, through ctypes.

Python has no API to set the keys of session tickets, and a context does not show its own
certificates. Both are available in libssl, with which the module ``_ssl`` is linked.
"""

from __future__ import annotations

import _ssl
import ctypes
import functools
import ssl
import sys
from collections.abc import Iterator

from .certificate_der import elements
from .libssl import POINTER, Prototype, certificate_in_der, load

__all__ = [
    "certificate_names_in_der",
    "certificates_in_der",
    "is_reachable",
    "set_ticket_keys",
]

# Commands of SSL_CTX_ctrl(3), from ssl.h.
_GET_TICKET_KEYS, _SET_TICKET_KEYS = 58, 59
_SELECT_CURRENT_CERT, _SET_CURRENT_CERT = 116, 117
_FIRST, _NEXT = 1, 2
_NID_SUBJECT_ALT_NAME = 85

_PROTOTYPES: tuple[Prototype, ...] = (
    ("SSL_CTX_get_options", ctypes.c_uint64, [POINTER]),
    ("SSL_CTX_ctrl", ctypes.c_long, [POINTER, ctypes.c_int, ctypes.c_long, POINTER]),
    ("SSL_CTX_get0_certificate", POINTER, [POINTER]),
    ("X509_get_ext_by_NID", ctypes.c_int, [POINTER, ctypes.c_int, ctypes.c_int]),
    ("X509_get_ext", POINTER, [POINTER, ctypes.c_int]),
    ("X509_EXTENSION_get_data", POINTER, [POINTER]),
    ("ASN1_STRING_get0_data", POINTER, [POINTER]),
    ("ASN1_STRING_length", ctypes.c_int, [POINTER]),
    ("X509_get_subject_name", POINTER, [POINTER]),
    ("X509_NAME_get0_der", ctypes.c_int, [POINTER, POINTER, POINTER]),
)


@functools.cache
def _libssl() -> ctypes.PyDLL | None:
    """Return the libssl that the module ssl uses, or None if it is not accessible."""
    if sys.implementation.name != "cpython":
        return None
    return load(_PROTOTYPES)


def _pointer_of(libssl: ctypes.PyDLL, ssl_context: ssl.SSLContext) -> int | None:
    """Return the address of a context's SSL_CTX, or None if it can't be determined reliably.

    CPython's object has the pointer right after its header. As a check, this compares the options.
    """
    head = object.__basicsize__
    # Not isinstance(): a wrapper, such as truststore's, may claim to be what it wraps.
    if _ssl._SSLContext not in type(ssl_context).__mro__:
        return None
    if _ssl._SSLContext.__basicsize__ < head + ctypes.sizeof(POINTER):
        return None
    pointer = POINTER.from_address(id(ssl_context) + head).value
    # This must be an address, and not a number or a flag: only an address may be dereferenced.
    if not pointer or pointer < 0x10000 or pointer % ctypes.alignment(POINTER):
        return None
    options = int(ssl_context.options) & 0xFFFFFFFFFFFFFFFF
    return pointer if libssl.SSL_CTX_get_options(pointer) == options else None


@functools.cache
def is_reachable() -> bool:
    """Return True if the SSL_CTX of this Python's contexts is accessible."""
    libssl = _libssl()
    return libssl is not None and all(
        _pointer_of(libssl, ssl.SSLContext(protocol)) is not None
        for protocol in (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT)
    )


def _reach(ssl_context: ssl.SSLContext) -> tuple[ctypes.PyDLL, int]:
    libssl = _libssl()
    if libssl is None or not is_reachable():
        raise NotImplementedError(
            "this Python gives no access to the OpenSSL library of its ssl module, so session "
            "ticket keys can't be set: see TicketKeys.is_available()"
        )
    pointer = _pointer_of(libssl, ssl_context)
    if pointer is None:
        raise NotImplementedError(
            f"a {type(ssl_context).__name__} gives no access to OpenSSL's context, so session "
            "ticket keys can't be set in it"
        )
    return libssl, pointer


def set_ticket_keys(ssl_context: ssl.SSLContext, keys: bytes) -> None:
    """Set the keys of a context's session tickets: 16 bytes of name, 32 for HMAC, 32 for AES.

    Raises:
      NotImplementedError: if this Python or its OpenSSL does not allow this.
    """
    libssl, pointer = _reach(ssl_context)
    length = len(keys)
    found = ctypes.create_string_buffer(length)
    libssl.SSL_CTX_ctrl(pointer, _SET_TICKET_KEYS, length, keys)
    libssl.SSL_CTX_ctrl(pointer, _GET_TICKET_KEYS, length, found)
    # Forks of OpenSSL have keys of other lengths, or none.
    if found.raw != keys:
        raise NotImplementedError(f"{ssl.OPENSSL_VERSION} does not accept session ticket keys")


def certificate_names_in_der(ssl_context: ssl.SSLContext) -> set[bytes]:
    """Return the names for which a context's own certificates are valid, as GeneralNames in DER
    form.

    For a certificate without a subjectAltName, this is its whole subject. The set is empty if there
    is no certificate.

    Raises:
      NotImplementedError: if this Python does not give access to them.
    """
    libssl, pointer = _reach(ssl_context)
    names: set[bytes] = set()
    for certificate in _certificates_of(libssl, pointer):
        names.update(_names_of(libssl, certificate))
    return names


def certificates_in_der(ssl_context: ssl.SSLContext) -> list[bytes]:
    """Return a context's own certificates in DER form, without their issuers.

    Raises:
      NotImplementedError: if this Python does not give access to them.
    """
    libssl, pointer = _reach(ssl_context)
    return [
        certificate_in_der(libssl, certificate) for certificate in _certificates_of(libssl, pointer)
    ]


def _certificates_of(libssl: ctypes.PyDLL, pointer: int) -> Iterator[int]:
    """Yield a context's own certificates: one for each type of key."""
    current = libssl.SSL_CTX_get0_certificate(pointer)
    more = libssl.SSL_CTX_ctrl(pointer, _SET_CURRENT_CERT, _FIRST, None)
    while more:
        yield libssl.SSL_CTX_get0_certificate(pointer)
        more = libssl.SSL_CTX_ctrl(pointer, _SET_CURRENT_CERT, _NEXT, None)
    if current:
        libssl.SSL_CTX_ctrl(pointer, _SELECT_CURRENT_CERT, 0, current)


def _names_of(libssl: ctypes.PyDLL, certificate: int) -> Iterator[bytes]:
    index = libssl.X509_get_ext_by_NID(certificate, _NID_SUBJECT_ALT_NAME, -1)
    if index >= 0:
        extension = libssl.X509_get_ext(certificate, index)
        value = libssl.X509_EXTENSION_get_data(extension)
        der = ctypes.string_at(
            libssl.ASN1_STRING_get0_data(value), libssl.ASN1_STRING_length(value)
        )
        (names,) = elements(der)
        yield from (name.encoded for name in names.elements())
    else:
        data, length = POINTER(), ctypes.c_size_t()
        subject = libssl.X509_get_subject_name(certificate)
        libssl.X509_NAME_get0_der(subject, ctypes.byref(data), ctypes.byref(length))
        yield ctypes.string_at(data, length.value)
