"""The exceptions: one hierarchy, and plain words for what OpenSSL reports in code names."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import trio

from ._words import ALERTS as _ALERTS
from ._words import NEWER_ALERTS as _NEWER_ALERTS
from ._words import REASONS as _REASONS
from ._words import VERIFY_CODES as _VERIFY_CODES

__all__ = [
    "CertificateError",
    "HandshakeTimeoutError",
    "PeerAlertError",
    "PostHandshakeAuthError",
    "TLSError",
    "TruncationError",
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


# What happens in TLS 1.2 if the two sides have different pre-shared keys: each derives other keys
# from its own, and the first record that is encrypted can't be read.
_UNREADABLE = {"DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE"}
_UNREADABLE_ALERTS = {"bad_record_mac", "decryption_failed", "decrypt_error"}

_HOSTNAME_MISMATCH = 62
_IP_ADDRESS_MISMATCH = 64

# What stands for an alert that OpenSSL has no name for: all of its own reasons have one.
_UNNAMED = "UNKNOWN_ERROR"

# OpenSSL's number for an alert that it received is this plus the alert's own. The number of an
# error has the library and more in the bits above its reason.
_ALERT_OFFSET = 1000
_REASON_MASK = 0xFFF


def _reason_of(exc: ssl.SSLError) -> str | None:
    """Return OpenSSL's reason name, also for those that Python has no name for."""
    reason: str | None = getattr(exc, "reason", None)
    if reason is not None:
        return reason
    if _unnamed_alert_in(exc) is not None:
        return _UNNAMED
    # CPython's text ends with a line of its source in brackets.
    text = re.match(r"\[SSL\] (.+?)(?: \(|$)", str(exc))
    return text[1].upper().replace(" ", "_") if text else None


def _unnamed_alert_in(exc: ssl.SSLError) -> int | None:
    """Return the number of an alert that OpenSSL has no name for. Only PyPy reports it."""
    if match := re.search(r"unknown error for errcode (\d+)$", str(exc)):
        number = (int(match[1]) & _REASON_MASK) - _ALERT_OFFSET
        return number if 0 <= number <= 255 else None
    return None


def _alert_in(reason: str | None) -> str | None:
    """Return the RFC name of the alert that a reason stands for: OpenSSL reports the alerts it
    *received* as reasons that begin with the version that introduced them.
    """
    if reason == _UNNAMED:
        return "unknown"
    if match := re.match(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(.+)", reason or ""):
        alert = match[1].lower()
        if alert in _ALERTS:
            return "user_canceled" if alert == "user_cancelled" else alert
    return None


def certificate_mismatch(names: Sequence[str], expected: str | None) -> str:
    """Say that a certificate for ``names`` was presented where ``expected`` was wanted."""
    if not names:
        return f"the certificate is not valid for {expected}"
    some = ", ".join(map(printable, names[:5])) + (", ..." if len(names) > 5 else "")
    return f"the certificate is for {some}, not {expected}"


def explain(
    exc: ssl.SSLError,
    *,
    names: Callable[[], Sequence[str]],
    server_hostname: str | None,
    refused_hostname: str | None,
    agrees_by_psk: bool,
    refusal: Callable[[], str | None],
) -> TLSError:
    """Make the :exc:`TLSError` that explains an OpenSSL error, with that as its cause.

    ``names()`` are those in the certificate that the peer presented, as far as they are known.
    ``refused_hostname`` is what the peer asked for, if that was refused. ``agrees_by_psk`` is
    whether it happened in a handshake of TLS 1.2 with a pre-shared key. ``refusal()`` is the
    reason why a record was refused, as far as it is known: newer OpenSSLs don't report it.
    """
    reason = _reason_of(exc)
    if reason == "RECORD_LAYER_FAILURE":
        reason = refusal() or reason
    error: TLSError
    if isinstance(exc, ssl.SSLCertVerificationError):
        code: int | None = getattr(exc, "verify_code", None)
        if code in (_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH):
            message = certificate_mismatch(names(), server_hostname)
        else:
            words = _VERIFY_CODES.get(code or 0) or getattr(exc, "verify_message", None)
            message = f"the peer's certificate was refused: {words or exc}"
        error = CertificateError(message, reason=reason, verify_code=code)
    elif alert := _alert_in(reason):
        number = _unnamed_alert_in(exc)
        alert = _NEWER_ALERTS.get(number, alert)
        words = _ALERTS.get(alert, _ALERTS["user_cancelled"])
        if agrees_by_psk and alert in _UNREADABLE_ALERTS:
            words = _ALERTS["bad_record_mac"]
            words = f"the pre-shared keys (PSK) of both sides differ, or {words}"
        shown = number if alert == "unknown" and number is not None else alert
        message = f"the peer ended the connection: {words} (alert {shown})"
        error = PeerAlertError(message, alert=alert, reason=reason)
    elif refused_hostname is not None:
        # OpenSSL only knows that some callback has said no.
        message = f"the peer asked for {printable(refused_hostname)}, which is not served here"
        error = TLSError(message, reason="UNRECOGNIZED_NAME")
    elif agrees_by_psk and reason in _UNREADABLE:
        words = _REASONS["DECRYPTION_FAILED_OR_BAD_RECORD_MAC"]
        message = f"the pre-shared keys (PSK) of both sides differ, or {words}"
        error = TLSError(message, reason=reason)
    elif reason in _REASONS and getattr(exc, "library", None) in {"SSL", None}:
        # Other libraries of OpenSSL have reasons of the same names.
        error = TLSError(_REASONS[reason], reason=reason)
    else:
        error = TLSError(f"TLS failed: {exc}", reason=reason)
    return caused_by(error, exc)


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
