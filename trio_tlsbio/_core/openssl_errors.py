"""OpenSSL's errors, and the error queue that all connections of a thread share."""

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

# Not used for connections.
_scratch_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def clean_error_queue() -> Iterator[None]:
    """Empty OpenSSL's error queue after decoding a certificate.

    CPython leaves errors of parts that it could not decode there, such as a malformed
    authorityInfoAccess. The queue belongs to the thread, and OpenSSL would attribute the error to
    whichever connection is used next.
    """
    try:
        yield
    finally:
        empty_error_queue()


def empty_error_queue() -> None:
    """Empty the queue, by making Python report an OpenSSL error. This takes 2 microseconds."""
    with suppress(ssl.SSLError):
        _scratch_context.load_verify_locations(cadata=b"\0")


IS_PYPY = sys.implementation.name == "pypy"


def is_openssl_error(exc: BaseException) -> bool:
    # CPython adds a library attribute to every SSLError that it creates from OpenSSL's error queue.
    # An error that Python code has raised does not have it.
    return isinstance(exc, ssl.SSLError) and hasattr(exc, "library")


def may_be_foreign(exc: BaseException) -> bool:
    """Return True if other code may have left this error in OpenSSL's error queue.

    The queue belongs to the thread, and SSL_get_error(3) takes an error in it as the result of the
    last call: decoding a malformed certificate, anywhere in the thread, would break this
    connection. In that case the call is repeated, with the queue empty, as CPython leaves it. No
    error is lost if it was really caused by another part of OpenSSL during the call (by a
    certificate that can't be parsed, for example): OpenSSL then only reports that the connection
    has failed, and the first error is raised.

    PyPy leaves every error in the queue, including those of other connections, which look like our
    own. There the queue is emptied before OpenSSL is called, and after an error.
    """
    return (
        isinstance(exc, ssl.SSLError)
        and exc.errno == ssl.SSL_ERROR_SSL
        and getattr(exc, "library", "SSL") != "SSL"
    )


def clean_up() -> None:
    """Prevent an error of this connection from affecting others: see may_be_foreign()."""
    if IS_PYPY:
        empty_error_queue()


UNNAMED_ALERT = "UNKNOWN_ERROR"
"""The reason for an alert for which OpenSSL has no name: all of its own reasons have one."""

# OpenSSL's reason number for a received alert is this offset plus the number of the alert. In an
# error number, the bits above the reason contain the library and more.
_ALERT_OFFSET = 1000
_REASON_MASK = 0xFFF


def reason_of(exc: ssl.SSLError) -> str | None:
    """Return OpenSSL's reason name, even if Python has no name for it."""
    reason: str | None = getattr(exc, "reason", None)
    if reason is not None:
        return reason
    if unnamed_alert_in(exc) is not None:
        return UNNAMED_ALERT
    # CPython's message ends with its source file and line in parentheses.
    text = re.match(r"\[SSL\] (.+?)(?: \(|$)", str(exc))
    return text[1].upper().replace(" ", "_") if text else None


def unnamed_alert_in(exc: ssl.SSLError) -> int | None:
    """Return the number of an alert for which OpenSSL has no name. Only PyPy reports it."""
    if match := re.search(r"unknown error for errcode (\d+)$", str(exc)):
        number = (int(match[1]) & _REASON_MASK) - _ALERT_OFFSET
        return number if 0 <= number <= 255 else None
    return None
