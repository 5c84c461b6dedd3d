"""The exit statuses of a command, and the meaning of errors."""

from __future__ import annotations

import enum
import os
import socket
from collections.abc import Iterator
from typing import cast

import attrs
import trio

from trio_tlsbio import (
    CertificateError,
    HandshakeTimeoutError,
    PeerAlertError,
    TLSError,
    TruncationError,
)

__all__ = [
    "MEANINGS",
    "Failure",
    "Status",
    "hint_for",
    "leaves",
    "reasons",
    "status_of",
    "what_counts",
]


class Status(enum.IntEnum):
    """The exit statuses."""

    OK = 0
    NO_CONNECTION = 1
    USAGE = 2
    CERTIFICATE_REFUSED = 3
    TLS_FAILED = 4
    HANDSHAKE_TIMEOUT = 5
    TRUNCATED = 6
    EXTRA_MISSING = 7
    FAILED_HERE = 8
    EXPIRES_SOON = 9
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141


MEANINGS = {
    Status.OK: "success",
    Status.NO_CONNECTION: "no TCP connection: refused, name not found, timeout",
    Status.USAGE: "the command line is invalid",
    Status.CERTIFICATE_REFUSED: "the server's certificate was refused",
    Status.TLS_FAILED: "TLS failed for another reason: an alert, no TLS at all, a protocol "
    "violation",
    Status.HANDSHAKE_TIMEOUT: "the handshake took too long",
    Status.TRUNCATED: "the connection ended without a close_notify",
    Status.EXTRA_MISSING: "trustme, which the command needs, is not installed",
    Status.FAILED_HERE: "failed on this side: standard input or output, a port, or the demo itself",
    Status.EXPIRES_SOON: "the server's certificate expires within the time of --expires-within",
    Status.INTERRUPTED: "interrupted by Ctrl-C, or by a second signal during a drain",
    Status.OUTPUT_CLOSED: "the reader of standard output has closed it",
}


@attrs.frozen
class Failure(Exception):  # noqa: N818  # it ends a command with a status
    """Ends a command, in addition to the library's exceptions."""

    status: Status
    message: str
    hint: str | None = None

    def __str__(self) -> str:
        return self.message


def status_of(exc: BaseException) -> Status | None:
    """Return the exit status for an exception, or None if it must be a bug."""
    status: Status | None = None
    match exc:
        case Failure():
            status = exc.status
        case CertificateError():
            status = Status.CERTIFICATE_REFUSED
        case HandshakeTimeoutError():
            status = Status.HANDSHAKE_TIMEOUT
        case TruncationError():
            status = Status.TRUNCATED
        case TLSError(__cause__=trio.BrokenResourceError()):  # reset: no close_notify either
            status = Status.TRUNCATED
        case TLSError():
            status = Status.TLS_FAILED
        case KeyboardInterrupt():
            status = Status.INTERRUPTED
        case BrokenPipeError():
            status = Status.OUTPUT_CLOSED
        case OSError():
            status = Status.FAILED_HERE
        case _:
            pass
    return status


def hint_for(exc: BaseException) -> str | None:
    """Return which option may help with an error."""
    match exc:
        case Failure():
            return exc.hint
        case CertificateError(verify_code=62 | 64):  # issued for another name or address
            return "--servername NAME asks for another name, and checks that one"
        case CertificateError(verify_code=2 | 18 | 19 | 20 | 21):  # the issuer is not trusted
            return "--cafile FILE trusts the issuers in FILE, --insecure checks nothing"
        case PeerAlertError(alert="certificate_required" | "handshake_failure"):
            return "--cert FILE and --key FILE present a client certificate"
        case PeerAlertError(alert="no_application_protocol"):
            return "--alpn PROTO offers another protocol"
        case _:
            return None


def leaves(exc: BaseException) -> Iterator[BaseException]:
    """Yield the exceptions in a group and its subgroups, or the exception itself if it is not a
    group.
    """
    if isinstance(exc, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
            yield from leaves(inner)
    else:
        yield exc


def what_counts(exc: BaseException) -> BaseException:
    """Return the most informative exception in the groups that nurseries create."""
    found = list(leaves(exc))
    for leaf in found:
        if isinstance(leaf, KeyboardInterrupt) or status_of(leaf) is None:
            return leaf
    return found[0]


def reasons(exc: OSError) -> str:
    """Describe why a host could not be reached, or a port not be opened, once for all its
    addresses.
    """
    words = [
        # Trio's message puts the address before the system's; the resolver has its own messages.
        os.strerror(leaf.errno)
        if leaf.errno is not None and not isinstance(leaf, socket.gaierror)
        else leaf.strerror or str(leaf)
        for leaf in leaves(exc.__cause__ or exc)
        if isinstance(leaf, OSError)
    ]
    return "; ".join(dict.fromkeys(words))
