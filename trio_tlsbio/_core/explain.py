"""Converts OpenSSL's errors to this library's exceptions, with an explanation."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Sequence
from functools import partial

from .certificate_words import words_for
from .certificates import presented_names, refused_chain
from .engine import Failure
from .errors import (
    CertificateError,
    PeerAlertError,
    TLSError,
    caused_by,
    described,
    printable,
    truncated,
)
from .openssl_errors import UNNAMED_ALERT, reason_of, unnamed_alert_in
from .plaintext import error_of_plaintext, words_for_text
from .words import ALERTS as _ALERTS
from .words import NEWER_ALERTS as _NEWER_ALERTS
from .words import REASONS as _REASONS

__all__ = ["error_of", "error_of_end", "explain"]

# Errors in TLS 1.2 if the two sides have different pre-shared keys: each derives different keys, so
# the first encrypted record can't be decrypted.
_UNREADABLE = {"DECRYPTION_FAILED_OR_BAD_RECORD_MAC", "RECORD_LAYER_FAILURE"}
_UNREADABLE_ALERTS = {"bad_record_mac", "decryption_failed", "decrypt_error"}

_HOSTNAME_MISMATCH = 62
_IP_ADDRESS_MISMATCH = 64

# Names that a message shows, which are enough to recognise a server. Some certificates have
# hundreds.
_MOST_NAMES = 5


def _alert_in(reason: str | None) -> str | None:
    """Return the RFC name of the alert that a reason stands for: OpenSSL reports *received* alerts
    as reasons whose names start with the version that introduced them.
    """
    if reason == UNNAMED_ALERT:
        return "unknown"
    if match := re.match(r"(?:SSLV3|TLSV1|TLSV13)_(?:ALERT_)?(.+)", reason or ""):
        alert = match[1].lower()
        if alert in _ALERTS:
            return "user_canceled" if alert == "user_cancelled" else alert
    return None


def certificate_mismatch(names: Sequence[str], expected: str | None) -> str:
    """Return a message that a certificate for ``names`` was presented instead of one for
    ``expected``.
    """
    if not names:
        return f"the certificate is not valid for {expected}"
    some = ", ".join(map(printable, names[:_MOST_NAMES]))
    some += ", ..." if len(names) > _MOST_NAMES else ""
    return f"the certificate is for {some}, not {expected}"


def explain(
    exc: ssl.SSLError,
    *,
    names: Callable[[], Sequence[str]],
    server_hostname: str | None,
    agrees_by_psk: bool,
    refusal: str | None,
    foreign: str | None,
    chain: Callable[[], Sequence[bytes]] = tuple,
    of_client: bool = False,
) -> TLSError:
    """Create the :exc:`TLSError` that explains an OpenSSL error, with that error as its cause.

    Args:
      exc: The error.
      names: Returns the names in the certificate that the peer presented, if they are known.
      server_hostname: The name that the server's certificate was checked for.
      agrees_by_psk: Whether this is a TLS 1.2 handshake with a pre-shared key.
      refusal: Why a record was refused, if that is known: newer versions of OpenSSL don't report
        it.
      foreign: The message for data that is not a TLS record. None for the one that suggests that
        the port is wrong.
      chain: Returns the refused chain, in DER form.
      of_client: Whether the peer is a client.
    """
    reason = reason_of(exc)
    if reason == "RECORD_LAYER_FAILURE":
        reason = refusal or reason
    error: TLSError
    if isinstance(exc, ssl.SSLCertVerificationError):
        code: int | None = getattr(exc, "verify_code", None)
        if code in (_HOSTNAME_MISMATCH, _IP_ADDRESS_MISMATCH):
            message = certificate_mismatch(names(), server_hostname)
        else:
            words = words_for(code, chain(), of_client=of_client)
            words = words or getattr(exc, "verify_message", None)
            message = f"the peer's certificate was refused: {words or exc}"
        error = CertificateError(message, reason=reason, verify_code=code)
    elif alert := _alert_in(reason):
        number = unnamed_alert_in(exc)
        alert = _NEWER_ALERTS.get(number, alert)
        words = _ALERTS.get(alert, _ALERTS["user_cancelled"])
        if agrees_by_psk and alert in _UNREADABLE_ALERTS:
            words = _ALERTS["bad_record_mac"]
            words = f"the pre-shared keys (PSK) of both sides differ, or {words}"
        shown = number if alert == "unknown" and number is not None else alert
        message = f"the peer ended the connection: {words} (alert {shown})"
        error = PeerAlertError(message, alert=alert, reason=reason)
    elif agrees_by_psk and reason in _UNREADABLE:
        words = _REASONS["DECRYPTION_FAILED_OR_BAD_RECORD_MAC"]
        message = f"the pre-shared keys (PSK) of both sides differ, or {words}"
        error = TLSError(message, reason=reason)
    elif reason == "WRONG_VERSION_NUMBER" and foreign is not None:
        error = TLSError(foreign, reason=reason)
    elif reason in _REASONS and getattr(exc, "library", None) in {"SSL", None}:
        # Other libraries of OpenSSL have reasons with the same names.
        error = TLSError(_REASONS[reason], reason=reason)
    else:
        error = TLSError(f"TLS failed: {exc}", reason=reason)
    return caused_by(error, exc)


def error_of(
    failure: Failure, ssl_object: ssl.SSLObject, *, speaks_tls: bool, is_open: bool
) -> TLSError:
    """Return the error for a failure of OpenSSL, or of Python code that it calls.

    Args:
      failure: The failure.
      ssl_object: The object that failed.
      speaks_tls: On a server, whether the peer is known to speak TLS.
      is_open: Whether the handshake was done.
    """
    exc = failure.exc
    if not isinstance(exc, ssl.SSLError):
        error = TLSError(f"the connection was refused: {described(exc)}")
        return caused_by(error, exc)
    cipher = None if is_open else ssl_object.cipher()
    return explain(
        exc,
        names=partial(presented_names, ssl_object),
        server_hostname=ssl_object.server_hostname,
        # The names of TLS 1.3 cipher suites don't show it.
        agrees_by_psk=cipher is not None and "PSK" in cipher[0],
        refusal=failure.refusal,
        foreign=_foreign(ssl_object, speaks_tls=speaks_tls, header=failure.header),
        chain=partial(refused_chain, ssl_object),
        of_client=ssl_object.server_side,
    )


def _foreign(ssl_object: ssl.SSLObject, *, speaks_tls: bool, header: bytes) -> str | None:
    """Return the message for data that is not a TLS record, or None for the one about a
    wrong port.
    """
    # A client has a cipher once it has read a ServerHello.
    if speaks_tls or ssl_object.cipher() is not None:
        return _REASONS["INVALID_RECORD"]
    return str(error_of_plaintext()) if ssl_object.server_side else words_for_text(header)


def error_of_end(*, is_open: bool) -> TLSError:
    """Return the error for an end of the transport without an earlier close_notify."""
    if not is_open:
        return truncated("the peer closed the connection during the handshake")
    return truncated(
        "the connection ended without a close_notify: the received data may be incomplete"
    )
