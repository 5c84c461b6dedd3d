"""Parses handshake messages in their wire format."""

from __future__ import annotations

import struct

from .records import Data

__all__ = [
    "MESSAGE_HEADER_BYTES",
    "MalformedError",
    "message_bytes",
    "numbers",
    "only_vector",
    "vector",
]

MESSAGE_HEADER_BYTES = 4
"""The size of a handshake message's header: type and length (RFC 9846 section 4), in bytes."""


class MalformedError(Exception):
    """The message violates the RFC."""


def message_bytes(messages: Data) -> int:
    """Return the length that the first of some handshake messages states, including its header."""
    return MESSAGE_HEADER_BYTES + int.from_bytes(messages[1:MESSAGE_HEADER_BYTES])


# These are functions because a reader object would take twice the time. A server that chooses its
# context by the ClientHello parses a dozen vectors in each handshake.


def vector(data: bytes, start: int, length_bytes: int) -> tuple[bytes, int]:
    """Parse the vector at ``start``, which begins with its length (RFC 9846 section 3.4).

    Returns:
      Its content, and where it ends.
    """
    begin = start + length_bytes
    end = begin + int.from_bytes(data[start:begin])
    if end > len(data):
        raise MalformedError
    return data[begin:end], end


def only_vector(data: bytes, length_bytes: int) -> bytes:
    """Parse data that must be a single vector, and return its content."""
    if length_bytes + int.from_bytes(data[:length_bytes]) != len(data):
        raise MalformedError
    return data[length_bytes:]


def numbers(data: bytes) -> tuple[int, ...]:
    """Parse a list of numbers of two bytes, which must not be empty."""
    if len(data) % 2 or not data:
        raise MalformedError
    return struct.unpack(f">{len(data) // 2}H", data)
