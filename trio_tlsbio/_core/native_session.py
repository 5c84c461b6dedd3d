"""What OpenSSL resumes with, taken from where that costs no memory.

``SSLObject.session`` of CPython 3.11, 3.12 before 3.12.8 and 3.13.0 copies the session each time,
takes a fifth of a millisecond for that, and never frees the copy: some 6 KiB (CPython issue
116810). A client that resumes looks once for each ticket, so there the session is taken from
libssl itself. Where that can't be done safely, or need not, ``SSLObject.session`` serves.
"""

from __future__ import annotations

import _ssl
import ctypes
import functools
import ssl
import sys
from typing import Any, Protocol, TypeAlias

import attrs

__all__ = [
    "AnySession",
    "LOOKS_ARE_CHEAP",
    "current_session",
    "peer_certificate",
    "resume",
    "session_id",
]


class AnySession(Protocol):
    """What this library reads of an :class:`ssl.SSLSession`."""

    @property
    def id(self) -> bytes: ...
    @property
    def has_ticket(self) -> bool: ...
    @property
    def timeout(self) -> int: ...
    @property
    def ticket_lifetime_hint(self) -> int: ...


# The versions that copy are not changed any more, so how they lay out their objects is known.
_COPIES = sys.implementation.name == "cpython" and (
    sys.version_info < (3, 12, 8) or (3, 13) <= sys.version_info < (3, 13, 1)
)

# Newer ones than those that were looked at may have other objects.
_IS_KNOWN = sys.implementation.name == "cpython" and sys.version_info < (3, 16)

_WORD = ctypes.sizeof(ctypes.c_void_p)
_POINTER = ctypes.c_void_p

_Prototype: TypeAlias = tuple[str, type | None, list[type]]

_FOR_SESSIONS: tuple[_Prototype, ...] = (
    ("SSL_get_session", _POINTER, [_POINTER]),
    ("SSL_set_session", ctypes.c_int, [_POINTER, _POINTER]),
    ("SSL_SESSION_dup", _POINTER, [_POINTER]),
    ("SSL_SESSION_free", None, [_POINTER]),
    ("SSL_SESSION_get_id", _POINTER, [_POINTER, _POINTER]),
    ("SSL_SESSION_has_ticket", ctypes.c_int, [_POINTER]),
    ("SSL_SESSION_get_timeout", ctypes.c_long, [_POINTER]),
    ("SSL_SESSION_get_ticket_lifetime_hint", ctypes.c_ulong, [_POINTER]),
)
_FOR_CERTIFICATES: tuple[_Prototype, ...] = (
    ("SSL_get0_peer_certificate", _POINTER, [_POINTER]),
    ("i2d_X509", ctypes.c_int, [_POINTER, _POINTER]),
)


def _load(prototypes: tuple[_Prototype, ...]) -> ctypes.PyDLL | None:
    try:
        # Not CDLL, which would let other threads run during each call.
        libssl = ctypes.PyDLL(_ssl.__file__)
        for name, result, arguments in prototypes:
            function = getattr(libssl, name)
            function.restype, function.argtypes = result, arguments
    except (AttributeError, OSError):  # the module is built in, or libssl is linked statically
        return None
    return libssl


@functools.cache
def _libssl() -> ctypes.PyDLL | None:
    """Return the libssl that the module ssl uses; None if it can't be reached."""
    return _load(_FOR_SESSIONS) if _COPIES else None


@functools.cache
def _libssl_for_certificates() -> ctypes.PyDLL | None:
    return _load(_FOR_CERTIFICATES) if _IS_KNOWN else None


LOOKS_ARE_CHEAP = not _COPIES or _libssl() is not None
"""Whether :func:`current_session` copies nothing that stays in memory."""


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
    """Return the address of the SSL structure of an SSLObject; None if it is not sure to be that.

    CPython's object has, after its head, the pointers ``Socket``, ``ssl`` and ``ctx``. The last is
    the context, which is known: where it stands, the one before it is what it should be.
    """
    inner: Any = getattr(ssl_object, "_sslobj", None)
    head = object.__basicsize__
    if type(inner).__name__ != "_SSLSocket" or type(inner).__basicsize__ < head + 3 * _WORD:
        return None
    _, pointer, context = (ctypes.c_void_p * 3).from_address(id(inner) + head)
    return pointer if context == id(inner.context) else None


def current_session(ssl_object: ssl.SSLObject) -> AnySession | None:
    """Return the session that the connection has now, as :attr:`ssl.SSLSocket.session`."""
    libssl = _libssl()
    if libssl is None or (ssl_pointer := _pointer_of(ssl_object)) is None:
        return ssl_object.session
    # A duplicate: OpenSSL marks the session of a connection that is not shut down as not to be
    # resumed.
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
    """Return the id of a session, which PyPy has as a list of numbers."""
    return bytes(session.id)


def resume(ssl_object: ssl.SSLObject, session: AnySession) -> None:
    """Have a client that has not begun its handshake offer a session of the same context."""
    if not isinstance(session, _NativeSession):
        ssl_object.session = session  # type: ignore[assignment]  # what it was taken from
        return
    ssl_pointer = _pointer_of(ssl_object)
    assert ssl_pointer is not None  # as for the connection that it comes from
    libssl = session._libssl
    duplicate = libssl.SSL_SESSION_dup(session._pointer)
    libssl.SSL_set_session(ssl_pointer, duplicate)  # which takes a reference of its own
    libssl.SSL_SESSION_free(duplicate)


def peer_certificate(ssl_object: ssl.SSLObject) -> bytes | None:
    """Return the peer's certificate in DER form in the middle of a handshake, when
    :meth:`ssl.SSLObject.getpeercert` refuses to. None if there is none, or it can't be reached.
    """
    libssl = _libssl_for_certificates()
    if libssl is None or (ssl_pointer := _pointer_of(ssl_object)) is None:
        return None
    if not (certificate := libssl.SSL_get0_peer_certificate(ssl_pointer)):
        return None
    buffer = ctypes.create_string_buffer(libssl.i2d_X509(certificate, None))
    libssl.i2d_X509(certificate, ctypes.byref(ctypes.c_void_p(ctypes.addressof(buffer))))
    return buffer.raw
