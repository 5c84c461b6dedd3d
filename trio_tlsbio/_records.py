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
_MOST_BYTES = RECORD_BYTES + 2048

# From change_cipher_spec to heartbeat: the registry "TLS ContentType" of IANA.
_TYPES = range(20, 25)


@attrs.define(eq=False)
class Records:
    """A queue of ciphertext, taken out in whole records.

    So OpenSSL need not be asked for more than it has, which costs an exception. A MemoryBIO never
    shrinks, so not much more than a record is taken out at a time.
    """

    #: How many bytes are in it.
    waiting: int = 0
    # What is taken out of, from _start on, and what was fed meanwhile.
    _data: bytes | memoryview = attrs.field(default=b"", repr=False)
    _start: int = 0
    _later: deque[bytes | memoryview] = attrs.field(factory=deque, repr=False)

    def feed(self, data: Data) -> None:
        """Put data at the end."""
        if not isinstance(data, bytes):
            data = bytes(data)
        if self.waiting:
            self._later.append(data)
        else:
            self._begin(data)
        self.waiting += len(data)

    def put_back(self, data: bytes) -> None:
        """Put data, which begins with a record, before all other."""
        self.feed(data + self.take_all())

    def take_all(self) -> bytes:
        """Take out everything as it is."""
        data = b"".join((self._data[self._start :], *self._later))
        self._data, self._start, self.waiting = b"", 0, 0
        self._later.clear()
        return data

    def take(self, *, single: bool = False) -> Data:
        """Take out some records, or a ``single`` one; ``b""`` if none is whole yet.

        What can't be a record is not waited for: OpenSSL refuses it by its header.
        """
        data, start, size = self._data, self._start, len(self._data)
        end, limit = start, start + RECORD_BYTES
        while end + HEADER_BYTES <= size:
            following = end + _record_bytes(data, end)
            if following > size or (following > limit and end > start):
                break
            end = following
            if single or end >= limit:
                break
        if end == start:
            return self._take_split()
        self.waiting -= end - start
        if end < size:
            self._start = end
        else:
            self._begin_next()
        return data[start:end]

    def _take_split(self) -> bytes:
        """Take out the first record, which goes on in what was fed later."""
        if not self._later:
            if self._start:  # what was taken out is not to be kept with the rest
                self._begin(bytes(self._data[self._start :]))
            return b""
        record = bytes(self._data[self._start :])
        while missing := _missing(record):
            if not self._later:
                self._data, self._start = record, 0
                return b""
            chunk = self._later.popleft()
            record += chunk[:missing]
            if missing < len(chunk):
                self._later.appendleft(memoryview(chunk)[missing:])
        self.waiting -= len(record)
        self._begin_next()
        return record

    def _begin_next(self) -> None:
        self._begin(self._later.popleft() if self._later else b"")

    def _begin(self, data: bytes | memoryview) -> None:
        # A slice of a view is no copy.
        self._data = data if len(data) <= RECORD_BYTES else memoryview(data)
        self._start = 0


def _record_bytes(data: bytes | memoryview, start: int) -> int:
    """Return how long the record is whose header is there, and what is no record as if it were."""
    length = data[start + 3] << 8 | data[start + 4]
    if data[start] in _TYPES and data[start + 1] == 3 and length <= _MOST_BYTES:
        return HEADER_BYTES + length
    return min(len(data) - start, RECORD_BYTES)


def _missing(record: bytes) -> int:
    """Return how many bytes it takes to make it whole, or to tell how long it is."""
    if len(record) < HEADER_BYTES:
        return HEADER_BYTES - len(record)
    return _record_bytes(record, 0) - len(record)
