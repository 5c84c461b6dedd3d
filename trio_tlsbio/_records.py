"""Ciphertext that was received, cut where its records end."""

from __future__ import annotations

from collections import deque
from typing import TypeAlias

import attrs

__all__ = ["HEADER_BYTES", "RECORD_BYTES", "Data", "Records"]

Data: TypeAlias = bytes | bytearray | memoryview

RECORD_BYTES = 16 * 1024
"""How much plaintext a record carries at most (RFC 8446 section 5.1), in bytes."""

HEADER_BYTES = 5
"""Type, version and length, which begin a record (RFC 8446 section 5.1)."""

# What a record's length may be in TLS 1.2, which allows the most (RFC 5246 section 6.2.3).
# OpenSSL refuses a longer one by its header.
_MOST_BYTES = RECORD_BYTES + 2048


@attrs.define(eq=False)
class Records:
    """A queue of ciphertext, taken out in whole records, as far as they have arrived.

    A MemoryBIO never shrinks, so not much more than a record goes into it at a time. Where that
    ends with a record, OpenSSL need not be asked for more than it has, which costs an exception.
    """

    #: How many bytes are in it.
    waiting: int = 0
    #: How many bytes of the record that was taken out last are still to be.
    left: int = 0
    _data: bytes | memoryview = b""  # what is taken out of, from _start on
    _start: int = 0
    _later: deque[bytes] = attrs.field(factory=deque)  # what was fed meanwhile

    def feed(self, data: Data) -> None:
        """Put data at the end."""
        if not isinstance(data, bytes):
            data = bytes(data)
        if self.waiting:
            self._later.append(data)
        else:
            self._begin(data)
        self.waiting += len(data)

    def _begin(self, data: bytes) -> None:
        # A slice of a view is no copy.
        self._data = data if len(data) <= RECORD_BYTES else memoryview(data)
        self._start = 0

    def put_back(self, data: bytes) -> None:
        """Put data, which begins with a record, before all other."""
        data += self.take_all()
        self.left = 0
        self.feed(data)

    def take_all(self) -> bytes:
        """Take out everything as it is."""
        data = b"".join((self._data[self._start :], *self._later))
        self._data, self._start, self.waiting = b"", 0, 0
        self._later.clear()
        return data

    def take(self, *, single: bool = False) -> Data:
        """Take out some records, or a ``single`` one, or what there is of one; else ``b""``."""
        while self._later and 0 < len(self._data) - self._start - self.left < HEADER_BYTES:
            # A header that is split can't be read.
            self._begin(bytes(self._data[self._start :]) + self._later.popleft())
        data, start = self._data, self._start
        size = len(data)
        end = start + self.left
        limit = start if single else start + RECORD_BYTES
        while (end < limit or end == start) and end + HEADER_BYTES <= size:
            length = data[end + 3] << 8 | data[end + 4]
            following = end + HEADER_BYTES + min(length, _MOST_BYTES)
            if following > limit and end > start:
                break
            end = following
        if end < size:
            data = data[start:end]  # empty if not even a header is there
            self.left, self._start = 0, end
        else:
            data = data[start:] if start else data
            self.left, self._data, self._start = end - size, b"", 0
            if self._later:
                self._begin(self._later.popleft())
        self.waiting -= len(data)
        return data
