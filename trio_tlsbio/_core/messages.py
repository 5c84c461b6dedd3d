"""Parses handshake messages in their wire format."""

from __future__ import annotations

import struct

import attrs

from .records import Data

__all__ = ["MESSAGE_HEADER_BYTES", "MalformedError", "Reader", "message_bytes"]

MESSAGE_HEADER_BYTES = 4
"""The size of a handshake message's header: type and length (RFC 9846 section 4), in bytes."""


class MalformedError(Exception):
    """The message violates the RFC."""


def message_bytes(messages: Data) -> int:
    """Return the length that the first of some handshake messages states, including its header."""
    return MESSAGE_HEADER_BYTES + int.from_bytes(messages[1:MESSAGE_HEADER_BYTES])


@attrs.define
class Reader:
    """Reads the presentation language of RFC 9846 section 3."""

    _data: bytes
    _at: int = 0

    def take(self, count: int) -> bytes:
        start, end = self._at, self._at + count
        if end > len(self._data):
            raise MalformedError
        self._at = end
        return self._data[start:end]

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, length_size: int) -> Reader:
        """Read a vector, which is preceded by its length."""
        return Reader(self.take(self.number(length_size)))

    def only_vector(self, length_size: int) -> Reader:
        """Read the rest, which must be a single vector."""
        vector = self.vector(length_size)
        if self:
            raise MalformedError
        return vector

    def numbers(self) -> tuple[int, ...]:
        """Read the rest as numbers of two bytes."""
        data = self.rest()
        if len(data) % 2:
            raise MalformedError
        return struct.unpack(f">{len(data) // 2}H", data)

    def rest(self) -> bytes:
        return self.take(len(self._data) - self._at)

    def __bool__(self) -> bool:
        return self._at < len(self._data)
