"""Ciphertext that was received, cut where its records end."""

from __future__ import annotations

from typing import TypeAlias

import attrs

__all__ = ["RECORD_BYTES", "Data", "Records"]

Data: TypeAlias = bytes | bytearray | memoryview

RECORD_BYTES = 16 * 1024
"""How much plaintext a record carries at most (RFC 8446 section 5.1), in bytes."""

# Type, version and length: RFC 8446 section 5.1.
_HEADER_BYTES = 5

# What a record's length may be in TLS 1.2, which allows the most (RFC 5246 section 6.2.3).
# OpenSSL refuses a longer one by its header.
_MOST_BYTES = RECORD_BYTES + 2048


@attrs.define(eq=False)
class Records:
    """A queue of ciphertext, taken out in whole records, as far as they have arrived.

    A MemoryBIO never shrinks, so not much more than a record goes into it at a time. Where that
    ends with a record, OpenSSL need not be asked for more than it has, which costs an exception.
    """

    _data: bytes | memoryview = b""  # what is taken out of, from _start on
    _start: int = 0
    _later: list[bytes] = attrs.field(factory=list)  # what was fed meanwhile
    _left: int = 0  # of a record that was taken out in part

    def __bool__(self) -> bool:
        return self._start < len(self._data)

    @property
    def is_between(self) -> bool:
        """Whether what was taken out ends with a record."""
        return self._left == 0

    def feed(self, data: Data) -> None:
        """Put data at the end."""
        if not isinstance(data, bytes):
            data = bytes(data)
        if self:
            self._later.append(data)
        else:
            self._data = data if len(data) <= RECORD_BYTES else memoryview(data)
            self._start = 0

    def put_back(self, data: bytes) -> None:
        """Put data, which begins with a record, before all other."""
        self._data, self._left = data + self.take_all(), 0

    def take_all(self) -> bytes:
        """Take out everything as it is."""
        data = b"".join((self._data[self._start :], *self._later))
        self._data, self._start = b"", 0
        self._later.clear()
        return data

    def take(self, *, single: bool = False) -> Data:
        """Take out some records, or a ``single`` one, or what there is of one; else ``b""``."""
        if self._later and len(self._data) - self._start < self._left + _HEADER_BYTES:
            self._data = self.take_all()
        data, start = self._data, self._start
        size = len(data)
        end = start + self._left
        limit = start if single else start + RECORD_BYTES
        while end + _HEADER_BYTES <= size:
            length = data[end + 3] << 8 | data[end + 4]
            following = end + _HEADER_BYTES + min(length, _MOST_BYTES)
            if following > limit and end > start:
                break
            end = following
        if end < size:
            self._left, self._start = 0, end
            return data[start:end]  # empty if not even a header is there
        self._left, self._data, self._start = end - size, b"", 0
        if self._later:
            self._data = self.take_all()
        return data[start:] if start else data
