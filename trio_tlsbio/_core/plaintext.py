"""Recognises data from a peer that doesn't speak TLS."""

from __future__ import annotations

from .errors import TLSError
from .records import CONTENT_TYPES, is_sslv2_hello
from .words import REASONS

__all__ = ["begins_with_tls", "error_of_plaintext", "words_for_text"]

_METHODS = tuple(
    f"{method} ".encode() for method in ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH")
)
_HTTP2 = b"PRI * HTTP/2"
_PROXY_METHOD = b"CONNECT "


def begins_with_tls(received: bytes) -> bool | None:
    """Return True if a client's first bytes start a TLS record, of any type and contents, or None
    if more bytes are needed. OpenSSL refuses all other data without an alert.
    """
    if not received:
        return None
    if received[0] not in CONTENT_TYPES:
        return is_sslv2_hello(received)
    return None if len(received) < 2 else received[1] == 3


def error_of_plaintext(received: bytes = b"") -> TLSError:
    """Return the error for a client that doesn't speak TLS, with OpenSSL's reason."""
    if received.startswith((*_METHODS, _HTTP2)):
        reason = "HTTP_REQUEST"
    elif received.startswith(_PROXY_METHOD):
        reason = "HTTPS_PROXY_REQUEST"
    else:
        return TLSError("the client did not speak TLS", reason="WRONG_VERSION_NUMBER")
    return TLSError(REASONS[reason], reason=reason)


def words_for_text(beginning: bytes) -> str | None:
    """Return the message about a server that sends text instead of TLS, or None if it is not text.

    Args:
      beginning: Its first bytes, in place of a record's header. They are too few for a secret.
    """
    text = beginning.decode("ascii", "replace")
    if not text or not all(c in "\r\n\t" or (c.isascii() and c.isprintable()) for c in text):
        return None
    return (
        f"the peer does not speak TLS here, but sent text that begins with {text!r}: this may be a"
        " plaintext port, or one that requires STARTTLS first, or the peer goes on in plaintext"
        " after STARTTLS"
    )
