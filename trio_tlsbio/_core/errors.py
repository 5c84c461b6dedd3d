"""The exceptions, and the connections that they belong to."""

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
    "count",
    "described",
    "printable",
    "truncated",
]


class TLSError(trio.BrokenResourceError):
    """TLS failed on this connection, and it can't be used any further.

    This is the base class of every exception that TLS causes. It is a
    :exc:`trio.BrokenResourceError`, so code that was written for Trio streams already handles it.
    ``str()`` explains what went wrong; ``__cause__`` is the original :exc:`ssl.SSLError` if OpenSSL
    reported one.
    """

    reason: str | None
    """OpenSSL's name for the reason, such as ``"WRONG_VERSION_NUMBER"``, if there is one."""

    _error_type: ClassVar[str | None] = None  # set by subclasses with a fixed name
    _sources: tuple[object, ...] = ()  # the connections that it is an error of

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason

    @property
    def error_type(self) -> str:
        """A short name under which to count failures. The number of names is limited.

        It corresponds to ``error.type`` in OpenTelemetry: ``"http_request"``,
        ``"alert_unknown_ca"``, ``"truncated"``, ``"connection_reset"``.
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
        """Return a copy: raising one exception in two tasks mixes their tracebacks."""
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

    Unlike after other :exc:`TLSError` exceptions, the connection stays usable.
    """

    _error_type = "post_handshake_auth"


class TruncationError(TLSError):
    """The transport ended without the peer's close_notify (RFC 9846 section 6.1).

    The received data is genuine, but it may be incomplete: the peer may have crashed, or an
    attacker may have cut the connection.
    """

    _error_type = "truncated"


class HandshakeTimeoutError(TLSError):
    """The handshake was not done within the time allowed."""

    _error_type = "handshake_timeout"


_NOT_FATAL = {"close_notify", "no_renegotiation", "user_canceled"}


class RefuseHandshake(Exception):  # noqa: N818 - it is an instruction, like StopIteration
    """Raised by a function that chooses a server's context, to refuse the client.

    Args:
      alert: The alert to send, by its name in the RFC (RFC 9846 section 6), such as
        ``"unrecognized_name"``.
      why: An explanation for the server's log and the :exc:`TLSError`, which replaces "the
        handshake was refused here". The client does not see it.

    Raises:
      ValueError: if there is no alert of this name.
      TypeError: if the name is not a :class:`str`.
    """

    alert: str
    """The alert's name."""
    why: str | None
    """The explanation."""

    def __init__(self, alert: str = "handshake_failure", why: str | None = None) -> None:
        if not isinstance(alert, str):
            raise TypeError(
                f"an alert is given by its name, such as 'unrecognized_name', not {kind_of(alert)}"
            )
        if alert.upper() not in Alert.__members__ or alert in _NOT_FATAL:
            raise ValueError(
                f"{alert!r} is not the name of an alert that ends a handshake: see RFC 9846 "
                "section 6"
            )
        super().__init__(alert, *([] if why is None else [why]))
        self.alert = alert
        self.why = why

    def __str__(self) -> str:
        return self.alert if self.why is None else f"{self.why} (alert {self.alert})"

    def error(self) -> TLSError:
        """Return the error of the refused connection."""
        generic = f"the handshake was refused here (alert {self.alert})"
        message = generic if self.why is None else str(self)
        return caused_by(TLSError(message, reason=self.alert.upper()), self)


@attrs.define(eq=False)
class Origin:
    """Identifies a connection, and the connections whose errors it carries, as the source of
    errors.
    """

    # What identifies this connection. Errors must not refer to the connection itself, in a cycle.
    _own: object = attrs.field(factory=object, init=False)
    # The same of other connections whose errors count too.
    _others: tuple[object, ...] = ()

    @property
    def _sources(self) -> tuple[object, ...]:
        return self._own, *self._others

    def claim(self, error: TLSError) -> TLSError:
        """Mark an error as one of this connection, and return it."""
        error._sources = self._sources
        return error

    def run_inside(self, outer: Origin) -> None:
        """Count errors of this connection as errors of ``outer`` too, whose peer causes them."""
        self._add(outer._sources)

    def adopt(self, error: TLSError) -> None:
        """Count errors of this connection as errors of the connection that ``error`` is from, which
        carries it.
        """
        self._add(error._sources)

    def _add(self, sources: tuple[object, ...]) -> None:
        self._others += tuple(each for each in sources if each not in self._sources)

    def is_source_of(self, exc: BaseException) -> bool:
        """Return True if an exception is an error of this connection, rather than of another one.

        Errors of a connection that runs inside this one (TLS in TLS) count too.
        """
        return isinstance(exc, TLSError) and any(each in exc._sources for each in self._sources)


def caused_by(error: TLSError, cause: BaseException) -> TLSError:
    """Set the cause of an error that is going to be stored.

    This removes the tracebacks of the cause and of its own causes, and contexts that explain
    nothing. Their frames refer to the object that stores the error, which would be a reference
    cycle that only the garbage collector can free.
    """
    error.__cause__ = cause
    for link in _causes_of(error):
        link.__traceback__ = None
        if link.__cause__ is not None or not isinstance(link.__context__, OSError):
            # The context can be any error that is being handled now, and refer to that object.
            link.__context__ = None
    return error


def _causes_of(exc: BaseException) -> Iterator[BaseException]:
    while (cause := exc.__cause__ or exc.__context__) is not None:
        yield cause
        exc = cause


def count(number: float, what: str) -> str:
    """Return a number with its unit, which is given in the singular."""
    amount = f"{number:g}" if isinstance(number, float) else str(number)
    return f"{amount} {what}" if number == 1 else f"{amount} {what}s"


def described(exc: BaseException) -> str:
    """Describe an exception of other code, for a message: it may have no message of its own."""
    return f"{type(exc).__name__}: {exc}" if str(exc) else type(exc).__name__


def printable(text: str) -> str:
    """Escape unprintable characters: text from a peer must not control a terminal, or add lines to
    a log.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def truncated(message: str) -> TruncationError:
    """Return the error for a transport that ended too early.

    Its cause is the exception that :class:`ssl.SSLSocket` would raise. OpenSSL itself is never
    informed of the end: with SSL_OP_IGNORE_UNEXPECTED_EOF, which Python before 3.10 set on
    contexts, it would report a truncation as a clean end.
    """
    error = TruncationError(message)
    error.__cause__ = ssl.SSLEOFError(ssl.SSL_ERROR_EOF, "EOF occurred in violation of protocol")
    return error
