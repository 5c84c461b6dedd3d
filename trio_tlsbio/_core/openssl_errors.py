"""How OpenSSL reports errors, and the queue that all connections of a thread share."""

from __future__ import annotations

import re
import ssl
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = [
    "IS_PYPY",
    "UNNAMED_ALERT",
    "clean_error_queue",
    "clean_up",
    "empty_error_queue",
    "is_openssl_error",
    "may_be_foreign",
    "reason_of",
    "unnamed_alert_in",
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


UNNAMED_ALERT = "UNKNOWN_ERROR"
"""Stands for an alert that OpenSSL has no name for: all of its own reasons have one."""

# OpenSSL's number for an alert that it received is this plus the alert's own. The number of an
# error has the library and more in the bits above its reason.
_ALERT_OFFSET = 1000
_REASON_MASK = 0xFFF


def reason_of(exc: ssl.SSLError) -> str | None:
    """Return OpenSSL's reason name, also for those that Python has no name for."""
    reason: str | None = getattr(exc, "reason", None)
    if reason is not None:
        return reason
    if unnamed_alert_in(exc) is not None:
        return UNNAMED_ALERT
    # CPython's text ends with a line of its source in brackets.
    text = re.match(r"\[SSL\] (.+?)(?: \(|$)", str(exc))
    return text[1].upper().replace(" ", "_") if text else None


def unnamed_alert_in(exc: ssl.SSLError) -> int | None:
    """Return the number of an alert that OpenSSL has no name for. Only PyPy reports it."""
    if match := re.search(r"unknown error for errcode (\d+)$", str(exc)):
        number = (int(match[1]) & _REASON_MASK) - _ALERT_OFFSET
        return number if 0 <= number <= 255 else None
    return None
