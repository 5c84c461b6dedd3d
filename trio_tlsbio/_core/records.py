"""Received ciphertext, split at record boundaries."""

from __future__ import annotations

import struct
import sys
from collections import deque
from collections.abc import Callable, Iterator
from typing import TypeAlias

import attrs

from .iana import ContentType, HandshakeType

__all__ = [
    "ALERT",
    "APPLICATION_DATA",
    "CHANGE_CIPHER_SPEC",
    "CONTENT_TYPES",
    "DATA_SHIFT",
    "Data",
    "HANDSHAKE",
    "HEADER_BYTES",
    "RECORD_BYTES",
    "Records",
    "byte_view",
    "is_acceptable",
    "is_possible",
    "is_possible_in_plaintext",
    "is_sslv2_hello",
    "record_bounds",
    "record_length",
    "type_and_length",
]

Data: TypeAlias = bytes | bytearray | memoryview

RECORD_BYTES = 16 * 1024
"""The most plaintext in one record (RFC 9846 section 5.1), in bytes."""

HEADER_BYTES = 5
"""The size of a record's header: type, version and length (RFC 9846 section 5.1), in bytes."""

#: Reads the type and the length in a record's header.
type_and_length = struct.Struct(">BxxH").unpack_from

# Plain integers, which compare faster.
CHANGE_CIPHER_SPEC = int(ContentType.CHANGE_CIPHER_SPEC)
ALERT = int(ContentType.ALERT)
HANDSHAKE = int(ContentType.HANDSHAKE)
APPLICATION_DATA = int(ContentType.APPLICATION_DATA)
CONTENT_TYPES = frozenset(map(int, ContentType))
_CLIENT_HELLO = int(HandshakeType.CLIENT_HELLO)

# The maximum length of a record in TLS 1.2, which allows the longest ones (RFC 5246 section 6.2.3).
_MOST_BYTES = RECORD_BYTES + 2048

DATA_SHIFT = 12
"""A record of maximum length takes as long to decrypt as five records of one byte: each ``1 <<
DATA_SHIFT`` bytes count as one more record.
"""

# A record of type handshake can contain thousands of messages.
_HANDSHAKE_SHIFT = 7

# The most bytes that an AEAD adds to a record: the explicit nonce of TLS 1.2 and the tag.
_AEAD_BYTES = 24


def byte_view(data: Data) -> memoryview:
    """Return a view of data whose items are bytes.

    Raises:
      TypeError: if the data is not bytes-like, such as text.
    """
    try:
        view = memoryview(data)
    except TypeError:
        raise TypeError(
            f"TLS carries bytes, not {type(data).__name__}: encode text first, as data.encode() "
            "does"
        ) from None
    if view.format == "B" and view.ndim == 1 and view.contiguous:
        return view  # PyPy copies 30 times slower out of a view that was cast
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def is_possible(record: bytes) -> bool:
    """Return True if a record with this header can exist in any phase."""
    return record[0] in CONTENT_TYPES and record[1] == 3 and record_length(record, 0) <= _MOST_BYTES


def is_possible_in_plaintext(record: bytes) -> bool:
    """Return True if a record with this header can exist before anything is encrypted."""
    return (
        record[0] in CONTENT_TYPES and record[1] == 3 and record_length(record, 0) <= RECORD_BYTES
    )


def is_acceptable(record: bytes) -> bool:
    """Return True if OpenSSL certainly waits for the rest of this record of an open connection.

    Some records for which this returns False (alerts, padding up to the limit) may be acceptable
    too: for those, OpenSSL itself waits.
    """
    return (
        record[0] == APPLICATION_DATA
        and record[1:3] == b"\x03\x03"
        and record_length(record, 0) <= RECORD_BYTES + _AEAD_BYTES
    )


def is_sslv2_hello(data: Data, start: int = 0) -> bool | None:
    """Return True for a ClientHello in the SSLv2 format, which some OpenSSL versions accept: RFC
    5246, E.2. Return None if more bytes are needed to recognise it.
    """
    if not data[start] & 0x80:  # it begins with the length, whose first bit is set
        return False
    return None if len(data) < start + 3 else data[start + 2] == _CLIENT_HELLO


def record_bounds(data: Data, start: int = 0) -> Iterator[tuple[int, int]]:
    """Yield the start and end of each complete record in ``data``, from ``start`` on."""
    size = len(data)
    while start + HEADER_BYTES <= size:
        end = start + HEADER_BYTES + (data[start + 3] << 8 | data[start + 4])
        if end > size:
            return
        yield start, end
        start = end


def record_length(data: Data, start: int) -> int:
    return data[start + 3] << 8 | data[start + 4]


@attrs.define(eq=False)
class Records:
    """A queue of ciphertext, from which complete records are taken where that is safe.

    So OpenSSL is not asked for more than it has, which would cost an exception. It answers some
    records by their header alone, for example if a length exceeds the limit. Those are handed over
    as they arrive, or the peer would wait for an answer forever. A MemoryBIO never shrinks, so not
    much more than one record is taken at a time.
    """

    #: How many bytes are in the queue.
    waiting: int = 0
    #: How many bytes are missing from a record of which the start was already taken.
    missing: int = 0
    #: The remaining budget for taking records. Each record uses up ``cost``, and one more for each
    #: ``1 << shift`` bytes.
    allowance: int = sys.maxsize
    cost: int = 1
    shift: int = DATA_SHIFT
    #: True to take one record at a time.
    is_single: bool = False
    #: The header of the last record that is not application data, or of which only the start was
    #: taken.
    last_header: bytes = b""
    _is_first: bool = True  # True until the first record is taken
    # The current piece, used from _start on, and the pieces that were fed after it.
    _data: bytes | memoryview = attrs.field(default=b"", repr=False)
    _start: int = 0
    _later: deque[bytes | memoryview] | None = attrs.field(default=None, repr=False)

    def feed(self, data: Data) -> None:
        """Append data."""
        if not isinstance(data, bytes):
            with byte_view(data) as view:
                data = bytes(view)
        if not data:
            return
        if len(data) > RECORD_BYTES:
            data = memoryview(data)  # slicing it doesn't copy
        if self.waiting:
            if self._later is None:
                self._later = deque()  # most connections need none, and it takes 760 bytes
            self._later.append(data)
        else:
            self._data, self._start = data, 0
        self.waiting += len(data)

    def put_back(self, data: bytes) -> None:
        """Prepend data, which must start at the beginning of a record."""
        if data:
            self.missing = 0
            self.feed(data + self.take_all())

    def take_all(self) -> bytes:
        """Take everything, unprocessed."""
        data = b"".join((self._data[self._start :], *(self._later or ())))
        self._data, self._start, self.waiting, self._later = b"", 0, 0, None
        return data

    def take_from_handshake(self) -> bytes:
        """Take everything from the first record of type handshake on. After the handshake, such
        records are only visible in TLS 1.2. A record of which the start was already taken counts
        too.
        """
        if self.missing and self.last_header[0] == HANDSHAKE:
            return self.take_all()
        data = self.take_all()
        end = self.missing
        for start, following in record_bounds(data, self.missing):
            if data[start] == HANDSHAKE:
                break
            end = following
        self.feed(data[:end])
        return data[end:]

    def take(self, waits_for: Callable[[bytes], bool] = is_possible) -> Data:
        """Take some records, or one if ``is_single``. Return ``b""`` if there is none, or no
        allowance.

        The start of an incomplete record, with its header, is taken too, unless ``waits_for``
        returns True for it, which means to wait for the rest.
        """
        left, cost = self.allowance, self.cost
        if not self.waiting or left < cost:
            return b""
        if self.missing:
            return self._take_rest()
        data, start, shift = self._data, self._start, self.shift
        size = len(data)
        limit = start if self.is_single else start + RECORD_BYTES
        end, odd = start, -1
        if self._is_first and data[start] not in CONTENT_TYPES and start + HEADER_BYTES <= size:
            # It may be a ClientHello in the SSLv2 format, whose length is elsewhere.
            end, odd = start + self._record_bytes(data, start), start
            left -= cost + ((end - start) >> shift)
        while left >= cost and end + HEADER_BYTES <= size:
            kind, length = type_and_length(data, end)
            length += HEADER_BYTES
            following = end + length
            if following > size or (following > limit and end > start):
                break
            if kind == APPLICATION_DATA:
                left -= cost + (length >> shift)
            else:
                odd = end
                left -= cost + (length >> (_HANDSHAKE_SHIFT if kind == HANDSHAKE else shift))
            end = following
        if end == start or end > size:
            return self._take_split(waits_for)
        if odd >= 0:
            self.last_header = bytes(data[odd : odd + HEADER_BYTES])
        self._is_first = False
        self.allowance = left
        self.waiting -= end - start
        if end < size:
            self._start = end
        else:
            self._use_next_piece()
        return data[start:end]

    def _take_rest(self) -> Data:
        """Take the received part of a record of which the start was already taken."""
        end = min(self._start + self.missing, len(self._data))
        rest = self._data[self._start : end]
        self.allowance -= self.cost + (len(rest) >> self.shift)
        self.missing -= len(rest)
        self.waiting -= len(rest)
        if end < len(self._data):
            self._start = end
        else:
            self._use_next_piece()
        return rest

    def _take_split(self, waits_for: Callable[[bytes], bool]) -> bytes:
        """Take the first record, which continues in pieces that were fed later, or its received
        part.
        """
        record = bytes(self._data[self._start :])
        while missing := self._missing(record):
            if not self._later:
                break
            chunk = self._later.popleft()
            record += chunk[:missing]
            if missing < len(chunk):
                self._later.appendleft(memoryview(chunk)[missing:])
        # OpenSSL never answers less than a header.
        if missing and (len(record) < HEADER_BYTES or waits_for(record)):
            self._data, self._start = record, 0
            return b""
        self._is_first = False
        self.allowance -= self.cost + (len(record) >> self.shift)
        self.missing, self.last_header = missing, record[:HEADER_BYTES]
        self.waiting -= len(record)
        self._use_next_piece()
        return record

    def _missing(self, record: bytes) -> int:
        """Return how many bytes are missing to complete the record, or to know its length."""
        if len(record) < HEADER_BYTES:
            return HEADER_BYTES - len(record)
        return self._record_bytes(record, 0) - len(record)

    def _record_bytes(self, data: bytes | memoryview, start: int) -> int:
        if self._is_first and data[start] not in CONTENT_TYPES and is_sslv2_hello(data, start):
            length = 2 + ((data[start] & 0x7F) << 8 | data[start + 1])
            # OpenSSL refuses shorter ones, but reads this much first
            return max(length, HEADER_BYTES)
        return HEADER_BYTES + (data[start + 3] << 8 | data[start + 4])

    def _use_next_piece(self) -> None:
        self._data, self._start = self._later.popleft() if self._later else b"", 0
