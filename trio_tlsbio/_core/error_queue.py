"""OpenSSL's error queue, which all connections of a thread share."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = [
    "IS_PYPY",
    "clean_error_queue",
    "clean_up",
    "empty_error_queue",
    "is_openssl_error",
    "may_be_foreign",
]

# Never used for a connection.
_scratch_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def clean_error_queue() -> Iterator[None]:
    """Empty OpenSSL's error queue after decoding a certificate.

    CPython leaves there what it could not decode, such as a malformed authorityInfoAccess. The
    queue belongs to the thread, and OpenSSL takes an entry for an error of whatever connection is
    used next.
    """
    try:
        yield
    finally:
        empty_error_queue()


def empty_error_queue() -> None:
    """Have Python report an error of OpenSSL, which empties the queue. It takes 2 microseconds."""
    with suppress(ssl.SSLError):
        _scratch_context.load_verify_locations(cadata=b"\0")


IS_PYPY = sys.implementation.name == "pypy"


def is_openssl_error(exc: BaseException) -> bool:
    # CPython gives every SSLError that it makes from OpenSSL's error queue a library attribute;
    # one that was raised by Python code has none.
    return isinstance(exc, ssl.SSLError) and hasattr(exc, "library")


def may_be_foreign(exc: BaseException) -> bool:
    """Whether an error may be one that other code has left in OpenSSL's error queue.

    The queue is the thread's, and SSL_get_error(3) takes what is in it for the verdict on the call
    before: decoding an odd certificate, anywhere in the thread, would break this connection. Then
    OpenSSL is asked again, with the queue empty, as CPython leaves it. An error that really comes
    from another part of OpenSSL while TLS is at work (a certificate that can't be parsed) is not
    lost: asked again, OpenSSL only knows that the connection has failed.

    PyPy leaves every error in the queue, those of other connections too, which look like our own.
    There the queue is emptied before OpenSSL is called, and after it has failed.
    """
    return (
        isinstance(exc, ssl.SSLError)
        and exc.errno == ssl.SSL_ERROR_SSL
        and getattr(exc, "library", "SSL") != "SSL"
    )


def clean_up() -> None:
    """Keep an error of this connection from becoming one of others: see may_be_foreign()."""
    if IS_PYPY:
        empty_error_queue()
