"""What a server's messages tell in the clear: the group of the key exchange, and the signature."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from .hello import HELLO_RETRY_REQUEST
from .iana import GROUPS, SIGNATURE_SCHEMES, CurveType, ExtensionType, HandshakeType
from .messages import MESSAGE_HEADER_BYTES
from .records import HANDSHAKE, HEADER_BYTES, Data, record_bounds

__all__ = ["MOST_FLIGHT_BYTES", "group_in", "signature_scheme_in"]

# Plain integers, which compare faster.
_SERVER_HELLO = int(HandshakeType.SERVER_HELLO)
_SERVER_KEY_EXCHANGE = int(HandshakeType.SERVER_KEY_EXCHANGE)

_NAMED_CURVE = bytes([CurveType.NAMED_CURVE])

# A server's certificates may take 100 KiB, which OpenSSL allows by default.
MOST_FLIGHT_BYTES = 128 * 1024


def group_in(records: Data, cipher: str) -> str | None:
    """Return the group that a server's records tell, by its name in IANA's registry, or its number
    if it has none here.

    TLS 1.3 names it in the ServerHello, TLS 1.2 in the ServerKeyExchange: the last things of a
    handshake that both show in plaintext. OpenSSL has verified the messages, so what is odd about
    them is not looked for; whatever they are, nothing is raised.

    Args:
      records: What the server has sent in the handshake, from the beginning. In TLS 1.2 it must
        not have resumed a session, or what it has encrypted would be read as plaintext.
      cipher: The cipher suite that was agreed on, by OpenSSL's name.

    Returns:
      None if no group took part: where the key was encrypted by RSA, where a session was resumed
      without a new key exchange, and with the Diffie-Hellman of TLS 1.2, which sends its parameters
      as numbers.
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
    """Return the scheme by which a server of TLS 1.2 has signed its key exchange, by its name in
    IANA's registry, or its number if it has none here.

    Args:
      records: As for :func:`group_in`.
      cipher: The cipher suite that was agreed on, by OpenSSL's name.

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
    """Yield the bodies of the handshake messages of a kind, as far as they pass in the clear."""
    messages, at = b"", 0
    for start, end in record_bounds(records):
        if records[start] != HANDSHAKE:  # what TLS 1.3 encrypts is of another type
            continue
        messages += records[start + HEADER_BYTES : end]
        while (body := at + MESSAGE_HEADER_BYTES) <= len(messages):
            following = body + int.from_bytes(messages[at + 1 : body])
            if following > len(messages):
                break
            if messages[at] == wanted:
                yield messages[body:following]
            at = following


# Slices and no Reader, since every connection waits for this. A number that is cut short is 0.
def _number(data: bytes, start: int) -> int:
    return int.from_bytes(data[start : start + 2])


def _group_of_server_hello(hello: bytes) -> int:
    """Return the group of its key_share (RFC 9846 sections 4.2.3 and 4.3.8); 0 if it has none."""
    if hello[2:34] == HELLO_RETRY_REQUEST:
        return 0  # another ServerHello follows, whose group counts
    # Version and random, then the session id, cipher suite, compression method.
    start = 34 + 1 + int.from_bytes(hello[34:35]) + 2 + 1
    start += 2  # how long the extensions are
    while start < len(hello):
        if _number(hello, start) == ExtensionType.KEY_SHARE:
            return _number(hello, start + 4)
        start += 4 + _number(hello, start + 2)
    return 0


def _group_of_exchange(exchange: bytes) -> int:
    """Return the named curve of a ServerKeyExchange (RFC 8422 section 5.4); 0 if it has none."""
    return _number(exchange, 1) if exchange[:1] == _NAMED_CURVE else 0


def _group_after_hint(exchange: bytes) -> int:
    """Return it where a psk_identity_hint comes first (RFC 5489 section 2)."""
    return _group_of_exchange(exchange[2 + _number(exchange, 0) :])
