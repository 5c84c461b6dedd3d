"""Accesses a connection's session without leaking memory.

In CPython 3.11, 3.12 before 3.12.8 and 3.13.0, ``SSLObject.session`` copies the session each time,
which takes a fifth of a millisecond, and never frees the copy of about 6 KiB (CPython issue
116810). A client that resumes sessions checks once for each ticket, so on these versions the
session is taken from libssl directly. Where that is not possible safely, or not necessary,
``SSLObject.session`` is used.
"""

from __future__ import annotations

import ctypes
import functools
import ssl
import sys
from typing import Any, Protocol

import attrs

from .libssl import POINTER, Prototype, certificate_in_der, load

__all__ = [
    "AnySession",
    "LOOKS_ARE_CHEAP",
    "current_session",
    "peer_certificate",
    "resume",
    "session_id",
]


class AnySession(Protocol):
    """The part of :class:`ssl.SSLSession` that this library uses."""

    @property
    def id(self) -> bytes: ...
    @property
    def has_ticket(self) -> bool: ...
    @property
    def timeout(self) -> int: ...
    @property
    def ticket_lifetime_hint(self) -> int: ...


# These versions don't change any more, so the layout of their objects is known.
_COPIES = sys.implementation.name == "cpython" and (
    sys.version_info < (3, 12, 8) or (3, 13) <= sys.version_info < (3, 13, 1)
)

# Newer versions than those that were checked may have other objects.
_IS_KNOWN = sys.implementation.name == "cpython" and sys.version_info < (3, 16)

_WORD = ctypes.sizeof(POINTER)

_FOR_SESSIONS: tuple[Prototype, ...] = (
    ("SSL_get_session", POINTER, [POINTER]),
    ("SSL_set_session", ctypes.c_int, [POINTER, POINTER]),
    ("SSL_SESSION_dup", POINTER, [POINTER]),
    ("SSL_SESSION_free", None, [POINTER]),
    ("SSL_SESSION_get_id", POINTER, [POINTER, POINTER]),
    ("SSL_SESSION_has_ticket", ctypes.c_int, [POINTER]),
    ("SSL_SESSION_get_timeout", ctypes.c_long, [POINTER]),
    ("SSL_SESSION_get_ticket_lifetime_hint", ctypes.c_ulong, [POINTER]),
)
_FOR_CERTIFICATES: tuple[Prototype, ...] = (("SSL_get0_peer_certificate", POINTER, [POINTER]),)


@functools.cache
def _libssl() -> ctypes.PyDLL | None:
    """Return the libssl that the module ssl uses, or None if it is not accessible."""
    return load(_FOR_SESSIONS) if _COPIES else None


@functools.cache
def _libssl_for_certificates() -> ctypes.PyDLL | None:
    return load(_FOR_CERTIFICATES) if _IS_KNOWN else None


LOOKS_ARE_CHEAP = not _COPIES or _libssl() is not None
"""True if :func:`current_session` makes no copies that stay in memory."""


@attrs.frozen(eq=False)
class _NativeSession:
    """A reference to an SSL_SESSION: see SSL_SESSION_dup(3)."""

    _pointer: int = attrs.field(repr=False)
    _libssl: ctypes.PyDLL = attrs.field(repr=False)
    id: bytes
    has_ticket: bool
    timeout: int
    ticket_lifetime_hint: int

    def __del__(self) -> None:
        self._libssl.SSL_SESSION_free(self._pointer)


def _pointer_of(ssl_object: ssl.SSLObject) -> int | None:
    """Return the address of an SSLObject's SSL structure, or None if it can't be determined
    reliably.

    After its header, CPython's object has the pointers ``Socket``, ``ssl`` and ``ctx``. The last
    one is the context, which is known: if it is in the right place, so is the one before it.
    """
    inner: Any = getattr(ssl_object, "_sslobj", None)
    head = object.__basicsize__
    if type(inner).__name__ != "_SSLSocket" or type(inner).__basicsize__ < head + 3 * _WORD:
        return None
    _, pointer, context = (POINTER * 3).from_address(id(inner) + head)
    return pointer if context == id(inner.context) else None


def current_session(ssl_object: ssl.SSLObject) -> AnySession | None:
    """Return the current session of a connection, like :attr:`ssl.SSLSocket.session`."""
    libssl = _libssl()
    if libssl is None or (ssl_pointer := _pointer_of(ssl_object)) is None:
        return ssl_object.session
    # A duplicate: if a connection is not shut down, OpenSSL marks its session as not resumable.
    if not (shared := libssl.SSL_get_session(ssl_pointer)) or not (
        pointer := libssl.SSL_SESSION_dup(shared)
    ):
        return None
    length = ctypes.c_uint()
    address = libssl.SSL_SESSION_get_id(pointer, ctypes.byref(length))
    return _NativeSession(
        pointer,
        libssl,
        ctypes.string_at(address, length.value),
        bool(libssl.SSL_SESSION_has_ticket(pointer)),
        libssl.SSL_SESSION_get_timeout(pointer),
        libssl.SSL_SESSION_get_ticket_lifetime_hint(pointer),
    )


def session_id(session: AnySession) -> bytes:
    """Return the id of a session, which is a list of numbers on PyPy."""
    return bytes(session.id)


def resume(ssl_object: ssl.SSLObject, session: AnySession) -> None:
    """Make a client offer a session of the same context. The client's handshake must not have
    begun.
    """
    if not isinstance(session, _NativeSession):
        ssl_object.session = session  # type: ignore[assignment]  # the type that it was taken from
        return
    ssl_pointer = _pointer_of(ssl_object)
    assert ssl_pointer is not None  # as for the session's own connection
    libssl = session._libssl
    duplicate = libssl.SSL_SESSION_dup(session._pointer)
    libssl.SSL_set_session(ssl_pointer, duplicate)  # this takes its own reference
    libssl.SSL_SESSION_free(duplicate)


def peer_certificate(ssl_object: ssl.SSLObject) -> bytes | None:
    """Return the peer's certificate in DER form during a handshake, when
    :meth:`ssl.SSLObject.getpeercert` raises an exception. Return None if there is no certificate,
    or it is not accessible.
    """
    libssl = _libssl_for_certificates()
    if libssl is None or (ssl_pointer := _pointer_of(ssl_object)) is None:
        return None
    if not (certificate := libssl.SSL_get0_peer_certificate(ssl_pointer)):
        return None
    return certificate_in_der(libssl, certificate)
