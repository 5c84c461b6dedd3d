"""Reads the key exchange's group and signature from the server's messages in plaintext."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from .hello import HELLO_RETRY_REQUEST
from .iana import GROUPS, SIGNATURE_SCHEMES, CurveType, ExtensionType, HandshakeType
from .messages import MESSAGE_HEADER_BYTES
from .records import HANDSHAKE, HEADER_BYTES, Data, type_and_length

__all__ = ["MOST_FLIGHT_BYTES", "key_exchange_in", "key_exchange_message"]

# Plain integers, which compare faster.
_SERVER_HELLO = int(HandshakeType.SERVER_HELLO)
_SERVER_KEY_EXCHANGE = int(HandshakeType.SERVER_KEY_EXCHANGE)
_KEY_SHARE = int(ExtensionType.KEY_SHARE)

_BOTH_HEADERS = struct.Struct(">BxxHI").unpack_from  # of a record, and of the message in it
_MESSAGE_HEADER = struct.Struct(">I").unpack_from
_EXTENSION_HEADER = struct.Struct(">HH").unpack_from
_NAMED_CURVE = bytes([CurveType.NAMED_CURVE])

# In TLS 1.2 the key exchange follows the certificates, which may take 100 KiB: OpenSSL's default.
# The rest is for the other messages.
MOST_FLIGHT_BYTES = 128 * 1024


def key_exchange_message(records: Data, *, is_tls13: bool) -> bytes:
    """Return the body of the message with a server's part of the key exchange, or ``b""`` if there
    is none. It is the ServerHello in TLS 1.3, and the ServerKeyExchange in TLS 1.2. A
    HelloRetryRequest is not the ServerHello: another one follows, whose group counts.

    Args:
      records: The records that the server has sent in the handshake, from the beginning. In TLS 1.2
        the handshake must not have resumed a session, or encrypted records would be read as
        plaintext.
      is_tls13: Whether TLS 1.3 was negotiated.
    """
    kind = _SERVER_HELLO if is_tls13 else _SERVER_KEY_EXCHANGE
    # Every connection waits for this, and nearly all servers send each message in its own record.
    start, last = 0, len(records) - HEADER_BYTES - MESSAGE_HEADER_BYTES
    while start <= last:
        content_type, length, header = _BOTH_HEADERS(records, start)
        start += HEADER_BYTES + length
        if content_type == HANDSHAKE:  # records encrypted by TLS 1.3 have another type
            size = header & 0xFFFFFF
            if MESSAGE_HEADER_BYTES + size != length:
                return _message_in_split_records(records, kind)
            if header >> 24 == kind:
                body = bytes(records[start - size : start])
                if body[2:34] != HELLO_RETRY_REQUEST:
                    return body
    return b""


def key_exchange_in(message: bytes, cipher: str) -> tuple[str | None, str | None]:
    """Return the group of the key exchange and the scheme of its signature, from the message of
    :func:`key_exchange_message`. Each is its name in IANA's registry, or its number if the library
    has no name for it.

    OpenSSL has verified the message, so it is not validated again; no contents make this raise.

    Args:
      message: The body of the message.
      cipher: OpenSSL's name of the negotiated cipher suite.

    Returns:
      For the group, None if no group was used: if the key was encrypted with RSA, if a session was
      resumed without a new key exchange, and with the Diffie-Hellman of TLS 1.2, which sends its
      parameters explicitly. For the scheme, None in TLS 1.3, which encrypts it, and if nothing was
      signed: with RSA key exchange, and with pre-shared keys.
    """
    if cipher.startswith("TLS_"):
        return _name(GROUPS, _group_of_server_hello(message)), None
    if not cipher.startswith(("ECDHE-", "AECDH-", "DHE-")):
        return None, None
    is_signed = "-PSK-" not in cipher and not cipher.startswith("AECDH-")
    group, end = 0, 0
    if cipher.startswith("DHE-"):
        for _ in range(3):  # p, g and the public value (RFC 5246 section 7.4.3)
            end += 2 + _number(message, end)
    else:
        if cipher.startswith("ECDHE-PSK-"):
            message = message[2 + _number(message, 0) :]  # a hint first (RFC 5489 section 2)
        if message[:1] == _NAMED_CURVE:
            group = _number(message, 1)  # RFC 8422 section 5.4
        end = 3 + 1 + int.from_bytes(message[3:4])  # type and curve, then a point
    scheme = _number(message, end) if is_signed else 0
    return _name(GROUPS, group), _name(SIGNATURE_SCHEMES, scheme)


def _name(registry: Mapping[int, str], number: int) -> str | None:
    return registry.get(number, f"0x{number:04x}") if number else None


def _message_in_split_records(records: Data, kind: int) -> bytes:
    """Return the same for messages that share records, or continue in the next one."""
    messages, at = bytearray(), 0
    start, last = 0, len(records) - HEADER_BYTES
    while start <= last:
        content_type, length = type_and_length(records, start)
        start += HEADER_BYTES + length
        if content_type != HANDSHAKE:
            continue
        messages += records[start - length : start]
        while (body := at + MESSAGE_HEADER_BYTES) <= len(messages):
            (header,) = _MESSAGE_HEADER(messages, at)  # the kind, and three bytes of length
            end = body + (header & 0xFFFFFF)
            if end > len(messages):
                break  # it continues in the next record
            if header >> 24 == kind and messages[body + 2 : body + 34] != HELLO_RETRY_REQUEST:
                return bytes(messages[body:end])
            at = end
    return b""


def _number(data: bytes, start: int) -> int:
    """Return the number of two bytes at ``start``, or 0 if there is nothing."""
    return int.from_bytes(data[start : start + 2])


def _group_of_server_hello(hello: bytes) -> int:
    """Return the group of its key_share (RFC 9846 sections 4.2.3 and 4.3.8), or 0 if it
    has none.
    """
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
