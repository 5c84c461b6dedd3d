"""Handshake messages as they are on the wire."""

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
"""Type and length, which begin a handshake message (RFC 9846 section 4), in bytes."""


class MalformedError(Exception):
    """The message is not one that the RFC allows."""


def message_bytes(messages: Data) -> int:
    """Return how long the first of some handshake messages says that it is, header included."""
    return MESSAGE_HEADER_BYTES + int.from_bytes(messages[1:MESSAGE_HEADER_BYTES])


# Functions, since an object that reads would take twice the time: a server that chooses its context
# reads a dozen vectors in each handshake.


def vector(data: bytes, start: int, length_bytes: int) -> tuple[bytes, int]:
    """Read what begins with its length (RFC 9846 section 3.4), and return it and where it ends."""
    begin = start + length_bytes
    end = begin + int.from_bytes(data[start:begin])
    if end > len(data):
        raise MalformedError
    return data[begin:end], end


def only_vector(data: bytes, length_bytes: int) -> bytes:
    """Read what is nothing but a vector."""
    if length_bytes + int.from_bytes(data[:length_bytes]) != len(data):
        raise MalformedError
    return data[length_bytes:]


def numbers(data: bytes) -> tuple[int, ...]:
    """Read numbers of two bytes, one at least."""
    if len(data) % 2 or not data:
        raise MalformedError
    return struct.unpack(f">{len(data) // 2}H", data)
