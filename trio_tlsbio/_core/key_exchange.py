"""Reads the key exchange's group and signature from the server's messages in plaintext."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator

from .hello import HELLO_RETRY_REQUEST
from .iana import GROUPS, SIGNATURE_SCHEMES, CurveType, ExtensionType, HandshakeType
from .messages import MESSAGE_HEADER_BYTES
from .records import HANDSHAKE, HEADER_BYTES, Data, record_bounds

__all__ = ["MOST_FLIGHT_BYTES", "group_in", "signature_scheme_in"]

# Plain integers, which compare faster.
_SERVER_HELLO = int(HandshakeType.SERVER_HELLO)
_SERVER_KEY_EXCHANGE = int(HandshakeType.SERVER_KEY_EXCHANGE)
_KEY_SHARE = int(ExtensionType.KEY_SHARE)

_EXTENSION_HEADER = struct.Struct(">HH").unpack_from
_NAMED_CURVE = bytes([CurveType.NAMED_CURVE])

# A server's certificates may take 100 KiB, which OpenSSL allows by default.
MOST_FLIGHT_BYTES = 128 * 1024


def group_in(records: Data, cipher: str) -> str | None:
    """Return the group in a server's records, by its name in IANA's registry, or by its number if
    the library has no name for it.

    It is in the ServerHello in TLS 1.3, and in the ServerKeyExchange in TLS 1.2, the last handshake
    messages that are in plaintext. OpenSSL has verified the messages, so they are not validated
    again; no contents make this raise.

    Args:
      records: The records that the server has sent in the handshake, from the beginning. In TLS 1.2
        the handshake must not have resumed a session, or encrypted records would be read as
        plaintext.
      cipher: OpenSSL's name of the negotiated cipher suite.

    Returns:
      None if no group was used: if the key was encrypted with RSA, if a session was resumed without
      a new key exchange, and with the Diffie-Hellman of TLS 1.2, which sends its parameters
      explicitly.
    """
    group_of: Callable[[bytes], int]
    if cipher.startswith("TLS_"):
        wanted, group_of = _SERVER_HELLO, _group_of_server_hello
    elif cipher.startswith(("ECDHE-", "AECDH-")):
        is_psk = cipher.startswith("ECDHE-PSK-")
        wanted, group_of = _SERVER_KEY_EXCHANGE, _group_after_hint if is_psk else _group_of_exchange
    else:
        return None
    for message in _messages(records, wanted):
        if number := group_of(message):
            return GROUPS.get(number, f"0x{number:04x}")
    return None


def signature_scheme_in(records: Data, cipher: str) -> str | None:
    """Return the scheme with which a TLS 1.2 server signed its key exchange: its name in IANA's
    registry, or its number if the library has no name for it.

    Args:
      records: As for :func:`group_in`.
      cipher: OpenSSL's name of the negotiated cipher suite.

    Returns:
      None if nothing was signed: with RSA key exchange, and with pre-shared keys.
    """
    if not cipher.startswith(("ECDHE-", "DHE-")) or "-PSK-" in cipher:
        return None
    for exchange in _messages(records, _SERVER_KEY_EXCHANGE):
        if cipher.startswith("ECDHE-"):
            at = 3 + 1 + int.from_bytes(exchange[3:4])  # type and curve, then a point
        else:
            at = 0
            for _ in range(3):  # p, g and the public value (RFC 5246 section 7.4.3)
                at += 2 + _number(exchange, at)
        if number := _number(exchange, at):
            return SIGNATURE_SCHEMES.get(number, f"0x{number:04x}")
    return None


def _messages(records: Data, wanted: int) -> Iterator[bytes]:
    """Yield the bodies of the plaintext handshake messages of one kind."""
    messages, at = b"", 0
    for start, end in record_bounds(records):
        if records[start] != HANDSHAKE:  # records encrypted by TLS 1.3 have another type
            continue
        messages += records[start + HEADER_BYTES : end]
        while (body := at + MESSAGE_HEADER_BYTES) <= len(messages):
            following = body + int.from_bytes(messages[at + 1 : body])
            if following > len(messages):
                break
            if messages[at] == wanted:
                yield messages[body:following]
            at = following


# Slices instead of a Reader, because every connection waits for this. A truncated number is 0.
def _number(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 2])


def _group_of_server_hello(hello: bytes) -> int:
    """Return the group of its key_share (RFC 9846 sections 4.2.3 and 4.3.8), or 0 if it
    has none.
    """
    if hello[2:34] == HELLO_RETRY_REQUEST:
        return 0  # another ServerHello follows, whose group counts
    # Version and random, then the session id, cipher suite, compression method.
    start = 34 + 1 + int.from_bytes(hello[34:35]) + 2 + 1
    start += 2  # the length of the extensions
    while start + 4 <= len(hello):
        kind, size = _EXTENSION_HEADER(hello, start)
        start += 4
        if kind == _KEY_SHARE:
            return _number(hello, start)
        start += size
    return 0


def _group_of_exchange(exchange: bytes) -> int:
    """Return the named curve of a ServerKeyExchange (RFC 8422 section 5.4), or 0 if it has none."""
    return _number(exchange, 1) if exchange[:1] == _NAMED_CURVE else 0


def _group_after_hint(exchange: bytes) -> int:
    """Return the named curve after a psk_identity_hint (RFC 5489 section 2), or 0 if
    there is none.
    """
    return _group_of_exchange(exchange[2 + _number(exchange, 0) :])
