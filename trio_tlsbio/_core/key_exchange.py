"""Reads the key exchange's group and signature from the server's messages in plaintext."""

from __future__ import annotations

import struct
from collections.abc import Mapping

from .hello import HELLO_RETRY_REQUEST
from .iana import GROUPS, SIGNATURE_SCHEMES, CurveType, ExtensionType, HandshakeType
from .messages import MESSAGE_HEADER_BYTES
from .records import HANDSHAKE, HEADER_BYTES, Data

__all__ = ["MOST_FLIGHT_BYTES", "key_exchange_in"]

# Plain integers, which compare faster.
_SERVER_HELLO = int(HandshakeType.SERVER_HELLO)
_SERVER_KEY_EXCHANGE = int(HandshakeType.SERVER_KEY_EXCHANGE)
_KEY_SHARE = int(ExtensionType.KEY_SHARE)

_RECORD_HEADER = struct.Struct(">BxxH").unpack_from
_MESSAGE_HEADER = struct.Struct(">I").unpack_from
_EXTENSION_HEADER = struct.Struct(">HH").unpack_from
_NAMED_CURVE = bytes([CurveType.NAMED_CURVE])

# In TLS 1.2 the key exchange follows the certificates, which may take 100 KiB: OpenSSL's default.
# The rest is for the other messages.
MOST_FLIGHT_BYTES = 128 * 1024


def key_exchange_in(records: Data, cipher: str) -> tuple[str | None, str | None]:
    """Return the group of the key exchange and the scheme of its signature, from a server's
    records. Each is its name in IANA's registry, or its number if the library has no name for it.

    The group is in the ServerHello in TLS 1.3. In TLS 1.2, both are in the ServerKeyExchange. These
    are the last handshake messages in plaintext. OpenSSL has verified them, so they are not
    validated again; no contents make this raise.

    Args:
      records: The records that the server has sent in the handshake, from the beginning. In TLS 1.2
        the handshake must not have resumed a session, or encrypted records would be read as
        plaintext.
      cipher: OpenSSL's name of the negotiated cipher suite.

    Returns:
      For the group, None if no group was used: if the key was encrypted with RSA, if a session was
      resumed without a new key exchange, and with the Diffie-Hellman of TLS 1.2, which sends its
      parameters explicitly. For the scheme, None in TLS 1.3, which encrypts it, and if nothing was
      signed: with RSA key exchange, and with pre-shared keys.
    """
    if cipher.startswith("TLS_"):
        group = _group_of_server_hello(_message(records, _SERVER_HELLO))
        return _name(GROUPS, group), None
    if not cipher.startswith(("ECDHE-", "AECDH-", "DHE-")):
        return None, None
    exchange = _message(records, _SERVER_KEY_EXCHANGE)
    is_signed = "-PSK-" not in cipher and not cipher.startswith("AECDH-")
    group, end = 0, 0
    if cipher.startswith("DHE-"):
        for _ in range(3):  # p, g and the public value (RFC 5246 section 7.4.3)
            end += 2 + _number(exchange, end)
    else:
        if cipher.startswith("ECDHE-PSK-"):
            exchange = exchange[2 + _number(exchange, 0) :]  # a hint first (RFC 5489 section 2)
        if exchange[:1] == _NAMED_CURVE:
            group = _number(exchange, 1)  # RFC 8422 section 5.4
        end = 3 + 1 + int.from_bytes(exchange[3:4])  # type and curve, then a point
    scheme = _number(exchange, end) if is_signed else 0
    return _name(GROUPS, group), _name(SIGNATURE_SCHEMES, scheme)


def _name(registry: Mapping[int, str], number: int) -> str | None:
    return registry.get(number, f"0x{number:04x}") if number else None


# No generators and objects, because every connection waits for this.
def _message(records: Data, kind: int) -> bytes:
    """Return the body of the first handshake message of a kind, or ``b""`` if there is none. A
    HelloRetryRequest is not the ServerHello: another one follows, whose group counts.
    """
    messages, at = bytearray(), 0
    start, last = 0, len(records) - HEADER_BYTES
    while start <= last:
        content_type, length = _RECORD_HEADER(records, start)
        start += HEADER_BYTES + length
        if content_type != HANDSHAKE:  # records encrypted by TLS 1.3 have another type
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
