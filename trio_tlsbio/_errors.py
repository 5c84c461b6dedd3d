"""The exceptions: one hierarchy, and plain words for what OpenSSL reports in code names."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from typing import ClassVar

import trio

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
    """The peer ended the connection with a fatal alert (RFC 8446 section 6.2)."""

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
    """The transport ended without the peer's close_notify (RFC 8446 section 6.1).

    What was received so far is genuine, but there is no telling whether it is all:
    the peer may have crashed, or somebody on the way may have cut the connection.
    """

    _error_type = "truncated"


class HandshakeTimeoutError(TLSError):
    """The handshake was not done within the time that was allowed for it."""

    _error_type = "handshake_timeout"


# The alerts of RFC 8446 section 6 that a peer may send, as what they tell the one who gets
# them. OpenSSL names some after the protocol version that introduced them.
_ALERTS = {
    "unexpected_message": "a message that it did not expect arrived",
    "bad_record_mac": "a record that we sent arrived damaged",
    "decryption_failed": "a record that we sent arrived damaged",
    "record_overflow": "a record that we sent is too long",
    "decompression_failure": "it can't decompress our data",
    "handshake_failure": "it found no parameters that both sides support (ciphers, groups,"
    " signatures), or it wants a client certificate",
    "no_certificate": "we did not send a certificate",
    "bad_certificate": "it does not accept our certificate",
    "unsupported_certificate": "our certificate is of a kind that it does not support",
    "certificate_revoked": "our certificate was revoked",
    "certificate_expired": "our certificate has expired or is not valid yet",
    "certificate_unknown": "it does not accept our certificate",
    "illegal_parameter": "a handshake message that we sent does not make sense to it",
    "unknown_ca": "it does not trust the authority that issued our certificate",
    "access_denied": "our certificate is valid, but not allowed in",
    "decode_error": "it can't read a message that we sent",
    "decrypt_error": "it can't verify a signature or a Finished message that we sent",
    "export_restriction": "export restrictions are violated",
    "protocol_version": "it supports no TLS version that we offer",
    "insufficient_security": "what we offer is not secure enough for it",
    "internal_error": "it has an internal error",
    "inappropriate_fallback": "we fell back to an older TLS version without need",
    "user_cancelled": "it gave up the handshake",
    "no_renegotiation": "it does not renegotiate",
    "missing_extension": "a handshake message that we sent lacks an extension",
    "unsupported_extension": "we sent an extension that it did not ask for",
    "certificate_unobtainable": "it could not fetch our certificate",
    "unrecognized_name": "it serves no site of the name we asked for",
    "bad_certificate_status_response": "it can't accept our OCSP response",
    "bad_certificate_hash_value": "our certificate is not the one that it was told of",
    "unknown_psk_identity": "it does not know our pre-shared key",
    "certificate_required": "it wants a client certificate, and we sent none",
    "no_application_protocol": "it speaks no application protocol (ALPN) that we offer",
    "unknown": "it sent an alert that has no name here",
}

# OpenSSL's reason codes for what happens in practice; others fall back to OpenSSL's own words.
_REASONS = {
    "HTTP_REQUEST": "the peer spoke plain HTTP to a TLS port",
    "HTTPS_PROXY_REQUEST": "the peer spoke plain HTTP (a proxy request) to a TLS port",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS here: this may be a plaintext port, or"
    " one that wants STARTTLS first",
    "UNKNOWN_PROTOCOL": "the peer does not speak TLS here",
    "RECORD_LAYER_FAILURE": "the peer sent something that is not a TLS record",
    "UNSUPPORTED_PROTOCOL": "the peer offers no TLS version that is allowed here",
    "NO_PROTOCOLS_AVAILABLE": "the context's minimum_version and maximum_version leave no TLS"
    " version to use",
    "WRONG_SSL_VERSION": "the peer chose a TLS version that is not allowed here",
    "NO_SHARED_CIPHER": "the peer offers no cipher that is allowed here, or there is no"
    " certificate for the ciphers it offers (was load_cert_chain() called?)",
    "NO_CIPHERS_AVAILABLE": "the context's ciphers fit none of its TLS versions",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "the peer accepts no signature that our certificate's key"
    " can make",
    "NO_SUITABLE_KEY_SHARE": "the peer offers no key exchange group that is allowed here",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "the peer sent no client certificate, and one is required",
    "NO_APPLICATION_PROTOCOL": "the peer offers no application protocol (ALPN) that is served here",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": "a record arrived damaged: somebody on the way changed"
    " or mixed up bytes",
    "BAD_RECORD_TYPE": "the peer sent something that is not a TLS record",
    "RECORD_TOO_SMALL": "the peer sent one empty record after the other",
    "PACKET_LENGTH_TOO_LONG": "the peer sent a record that is longer than TLS allows",
    "DATA_LENGTH_TOO_LONG": "the peer sent a record that is longer than TLS allows",
    "ENCRYPTED_LENGTH_TOO_LONG": "the peer sent a record that is longer than TLS allows",
    "UNEXPECTED_MESSAGE": "the peer sent a message that has no place here",
    "UNEXPECTED_RECORD": "the peer sent a record that has no place here",
    "UNEXPECTED_CCS_MESSAGE": "the peer sent a record that has no place here",
    "CCS_RECEIVED_EARLY": "the peer sent a record that has no place here",
    "INVALID_CCS_MESSAGE": "the peer sent a record that has no place here",
    "BAD_CHANGE_CIPHER_SPEC": "the peer sent a record that has no place here",
    "MIXED_HANDSHAKE_AND_NON_HANDSHAKE_DATA": "the peer sent a record in the midst of a handshake"
    " message",
    "NOT_ON_RECORD_BOUNDARY": "the peer changed its keys in the midst of a record",
    "BAD_KEY_UPDATE": "the peer sent a malformed handshake message",
    "INVALID_ALERT": "the peer sent a malformed alert",
    "UNKNOWN_ALERT_TYPE": "the peer sent a malformed alert",
    "TOO_MANY_WARN_ALERTS": "the peer sent one warning after the other",
    "NO_RENEGOTIATION": "the peer refuses a renegotiation",
    "INTERNAL_ERROR": "OpenSSL can't go on (internal error); in TLS 1.2, a record that is too short"
    " to be encrypted does that",
    "LENGTH_MISMATCH": "the peer sent a malformed handshake message",
    "LENGTH_TOO_SHORT": "the peer sent a malformed handshake message",
    "BAD_LENGTH": "the peer sent a message that is empty, or not as long as it says",
    "BAD_PACKET": "the peer sent a malformed handshake message",
    "EXCESSIVE_MESSAGE_SIZE": "the peer sent a handshake message that is longer than OpenSSL allows"
    " (100 KiB for its certificates)",
    "ASN1_LIB": "the peer sent a certificate, or the name of an authority, that can't be read",
    "BAD_KEY_SHARE": "the peer sent a malformed handshake message",
    "BAD_EXTENSION": "the peer sent a malformed handshake message",
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": "the peer only knows insecure renegotiation (RFC 5746)",
    "DH_KEY_TOO_SMALL": "the peer's Diffie-Hellman key is too small to be secure",
    "INAPPROPRIATE_FALLBACK": "the peer fell back to an older TLS version without need",
    "BAD_SIGNATURE": "the peer's signature of the handshake is wrong",
    "DIGEST_CHECK_FAILED": "the peer's Finished message is wrong: the handshake was changed on"
    " the way",
    "CALLBACK_FAILED": "a callback of the SSLContext failed or refused the peer",
}

# X509_V_ERR_* numbers, as listed in X509_STORE_CTX_get_error(3). Which certificate of the chain an
# error is about is not told, so the words leave it open where it may be another one than the first.
_HOSTNAME_MISMATCH = 62
_IP_ADDRESS_MISMATCH = 64
_STRICT = "strict verification (VERIFY_X509_STRICT) finds that it, or one of its issuers, "
_VERIFY_CODES = {
    2: "one of its issuers is trusted here, but the root above that one is not",
    3: "a revocation list (CRL) is missing: that of its issuer, or of one further up",
    7: "it, or one of its issuers, is not signed by the authority that it names",
    8: "a revocation list (CRL) is not signed by the authority that it names",
    9: "it, or one of its issuers, is not valid yet: check this machine's clock too",
    10: "it, or one of its issuers, has expired",
    11: "a revocation list (CRL) is not valid yet: check this machine's clock too",
    12: "a revocation list (CRL) has expired",
    18: "it is self-signed, and not among the trusted certificates",
    19: "its chain ends at a certificate authority that is not trusted here",
    20: "its issuer is not trusted here, or the peer did not send the intermediate certificates",
    21: "its issuer is not trusted here, or the peer did not send the intermediate certificates",
    22: "its chain is longer than this side allows",
    23: "it, or one of its issuers, was revoked",
    24: "its chain contains a certificate that is not allowed to issue others",
    25: "its chain is longer than the issuers allow",
    26: "it, or one of its issuers, is not made for this purpose (key usage, extended key usage)",
    34: "it, or one of its issuers, has a critical extension that OpenSSL does not know",
    35: "a revocation list (CRL) is signed by an authority that may not do that (key usage)",
    41: "it, or one of its issuers, has an extension that makes no sense",
    47: "it has a name that its issuer is not allowed to certify (name constraints)",
    48: "it has a name that its issuer is not allowed to certify (name constraints)",
    66: "its key is too weak, or can't be read",
    67: "the key of one of its issuers is too weak, or can't be read",
    68: "it, or one of its issuers, is signed with too weak a hash",
    79: "its chain contains a certificate that is not allowed to issue others",
    80: _STRICT + "limits the length of a chain, but is no authority",
    81: _STRICT + "limits the length of a chain, but its key may not issue others (key usage)",
    82: _STRICT + "has a key that may issue others (key usage), but is no authority",
    83: _STRICT + "does not name its issuer",
    84: _STRICT + "is an authority without a name",
    85: _STRICT + "has no Authority Key Identifier",
    86: _STRICT + "has no Subject Key Identifier",
    87: _STRICT + "has a subjectAltName without a name",
    88: _STRICT + "has no subject, and a subjectAltName that is not critical",
    89: _STRICT + "is an authority whose Basic Constraints are not critical",
    90: _STRICT + "has an Authority Key Identifier that is critical",
    91: _STRICT + "has a Subject Key Identifier that is critical",
    92: _STRICT + "is an authority without a key usage",
    93: _STRICT + "has extensions, but is not of version 3",
}

# What stands for an alert that OpenSSL has no name for: all of its own reasons have one.
_UNNAMED = "UNKNOWN_ERROR"


def _reason_of(exc: ssl.SSLError) -> str | None:
    """Return OpenSSL's reason name, also for those that CPython has no name for."""
    reason: str | None = getattr(exc, "reason", None)
    if reason is None and (text := re.match(r"\[SSL\] (.+?) \(", str(exc))):
        reason = text[1].upper().replace(" ", "_")
    return reason


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
) -> TLSError:
    """Make the :exc:`TLSError` that explains an OpenSSL error, with that as its cause.

    ``names()`` are those in the certificate that the peer presented, as far as they are known.
    ``refused_hostname`` is what the peer asked for, if that was refused.
    """
    reason = _reason_of(exc)
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
        words = _ALERTS.get(alert, _ALERTS["user_cancelled"])
        message = f"the peer ended the connection: {words} (alert {alert})"
        error = PeerAlertError(message, alert=alert, reason=reason)
    elif refused_hostname is not None:
        # OpenSSL only knows that some callback has said no.
        message = f"the peer asked for {printable(refused_hostname)}, which is not served here"
        error = TLSError(message, reason="UNRECOGNIZED_NAME")
    elif reason in _REASONS:
        error = TLSError(_REASONS[reason], reason=reason)
    else:
        error = TLSError(f"TLS failed: {exc}", reason=reason)
    return caused_by(error, exc)


def caused_by(error: TLSError, cause: BaseException) -> TLSError:
    """Give an error, which is going to be kept, its cause.

    The tracebacks of the cause and its own causes go. Their frames hold what will keep the error:
    a cycle, which only the garbage collector would end.
    """
    error.__cause__ = cause
    for link in _causes_of(error):
        link.__traceback__ = None
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
