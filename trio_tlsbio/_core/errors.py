"""The exceptions, and what they come from."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from typing import ClassVar

import attrs
import trio

from .iana import Alert
from .misuse import kind_of

__all__ = [
    "CertificateError",
    "HandshakeTimeoutError",
    "Origin",
    "PeerAlertError",
    "PostHandshakeAuthError",
    "RefuseHandshake",
    "TLSError",
    "TruncationError",
    "caused_by",
    "printable",
    "truncated",
]


class TLSError(trio.BrokenResourceError):
    """TLS failed on this connection, and it can't be used any further.

    The base class of every exception that TLS causes. It is a
    :exc:`trio.BrokenResourceError`, so code that was written for Trio streams handles it
    already. ``str()`` says in plain words what went wrong; ``__cause__`` is the original
    :exc:`ssl.SSLError` where OpenSSL reported one.
    """

    reason: str | None
    """OpenSSL's own name for the reason, such as ``"WRONG_VERSION_NUMBER"``, if there is one."""

    _error_type: ClassVar[str | None] = None  # of a kind that has one name
    _sources: frozenset[object] = frozenset()  # the connections that it is an error of

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def error_type(self) -> str:
        """A short name to count such failures by, one of not too many.

        It is what OpenTelemetry calls ``error.type``: ``"http_request"``, ``"alert_unknown_ca"``,
        ``"truncated"``, ``"connection_reset"``.
        """
        if self._error_type is not None:
            return self._error_type
        if self.reason is not None:
            return self.reason.lower()
        causes = list(_causes_of(self))
        if any(isinstance(cause, ConnectionError) for cause in causes):
            return "connection_reset"
        if any(isinstance(cause, OSError | trio.BrokenResourceError) for cause in causes):
            return "transport_broken"
        return "other"

    def again(self) -> TLSError:
        """Return a new exception that says the same, to raise it in another place.

        One exception object that is raised in two tasks would mix up their tracebacks.
        """
        copy = self.__class__.__new__(self.__class__)
        copy.args = self.args
        copy.__dict__.update(self.__dict__)
        copy.__cause__ = self.__cause__
        return copy


class CertificateError(TLSError):
    """This side refused the peer's certificate."""

    verify_code: int | None
    """The number of the verification error, ``X509_V_ERR_*`` in openssl-verification-options(1)."""

    def __init__(
        self, message: str, *, reason: str | None = None, verify_code: int | None = None
    ) -> None:
        super().__init__(message, reason=reason)
        self.verify_code = verify_code


class PeerAlertError(TLSError):
    """The peer ended the connection with a fatal alert (RFC 9846 section 6.2)."""

    alert: str
    """The alert's name in the RFC, such as ``"unknown_ca"``."""

    def __init__(self, message: str, *, alert: str = "unknown", reason: str | None = None) -> None:
        super().__init__(message, reason=reason)
        self.alert = alert

    @property
    def error_type(self) -> str:
        """``"alert_"`` and the alert's name."""
        return f"alert_{self.alert}"


class PostHandshakeAuthError(TLSError):
    """The client can't be asked for a certificate after the handshake, or has not answered.

    The exception among these errors: the connection goes on working.
    """

    _error_type = "post_handshake_auth"


class TruncationError(TLSError):
    """The transport ended without the peer's close_notify (RFC 9846 section 6.1).

    What was received so far is genuine, but there is no telling whether it is all:
    the peer may have crashed, or somebody on the way may have cut the connection.
    """

    _error_type = "truncated"


class HandshakeTimeoutError(TLSError):
    """The handshake was not done within the time that was allowed for it."""

    _error_type = "handshake_timeout"


_NOT_FATAL = {"close_notify", "no_renegotiation", "user_canceled"}


class RefuseHandshake(Exception):  # noqa: N818 - it is an instruction, as StopIteration is
    """Raised by a function that chooses a server's context: the client is refused.

    Args:
      alert: The alert to send, by its name in the RFC (RFC 9846 section 6), such as
        ``"unrecognized_name"``.
      why: What to say about it in the server's log and in the :exc:`TLSError`, in place of "the
        handshake was refused here". The client does not see it.

    Raises:
      ValueError: if there is no alert of this name.
      TypeError: if the name is no :class:`str`.
    """

    alert: str
    """The alert's name."""
    why: str | None
    """What to say about it."""

    def __init__(self, alert: str = "handshake_failure", why: str | None = None) -> None:
        if not isinstance(alert, str):
            raise TypeError(
                f"an alert is given by its name, such as 'unrecognized_name', not {kind_of(alert)}"
            )
        if alert.upper() not in Alert.__members__ or alert in _NOT_FATAL:
            raise ValueError(
                f"{alert!r} is no alert that ends a handshake: see section 6 of RFC 9846"
            )
        super().__init__(alert, *([] if why is None else [why]))
        self.alert = alert
        self.why = why

    def __str__(self) -> str:
        return self.alert if self.why is None else f"{self.why} (alert {self.alert})"

    def error(self) -> TLSError:
        """Return the error of the connection that is refused."""
        generic = f"the handshake was refused here (alert {self.alert})"
        message = generic if self.why is None else str(self)
        return caused_by(TLSError(message, reason=self.alert.upper()), self)


@attrs.define(eq=False)
class Origin:
    """What errors come from: a connection, and those whose errors it carries."""

    _sources: frozenset[object] = attrs.field(factory=lambda: frozenset({object()}), init=False)

    def claim(self, error: TLSError) -> TLSError:
        """Mark an error as one of this connection, and return it."""
        error._sources = self._sources
        return error

    def run_inside(self, outer: Origin) -> None:
        """Count errors from here as errors of ``outer`` too, whose peer causes them."""
        self._sources |= outer._sources

    def adopt(self, error: TLSError) -> None:
        """Count errors from here as errors of where ``error`` is from, too, which carries this."""
        self._sources |= error._sources

    def is_source_of(self, exc: BaseException) -> bool:
        """Whether an exception is an error from here, and not from another connection.

        An error of a connection that runs inside this one, TLS in TLS, counts too.
        """
        return isinstance(exc, TLSError) and not self._sources.isdisjoint(exc._sources)


def caused_by(error: TLSError, cause: BaseException) -> TLSError:
    """Give an error, which is going to be kept, its cause.

    The tracebacks of the cause and its own causes go, and contexts that explain nothing. Their
    frames hold what will keep the error: a cycle, which only the garbage collector would end.
    """
    error.__cause__ = cause
    for link in _causes_of(error):
        link.__traceback__ = None
        if link.__cause__ is not None or not isinstance(link.__context__, OSError):
            # It may be any error that is being handled now, and refer to what keeps this one.
            link.__context__ = None
    return error


def _causes_of(exc: BaseException) -> Iterator[BaseException]:
    while (cause := exc.__cause__ or exc.__context__) is not None:
        yield cause
        exc = cause


def printable(text: str) -> str:
    """Escape what is not for people to read: what strangers send must not steer a terminal, nor
    write lines of its own into a log.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def truncated(message: str) -> TruncationError:
    """Make the error of a transport that ended too early.

    Its cause is the exception that :class:`ssl.SSLSocket` raises then. OpenSSL itself is never
    told of the end: a context with SSL_OP_IGNORE_UNEXPECTED_EOF, as Python before 3.10 made them,
    would have it report a truncation as a clean end.
    """
    error = TruncationError(message)
    error.__cause__ = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")
    return error
