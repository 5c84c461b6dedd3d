"""Values in DER, taken apart (X.690 section 8.1)."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["items_of"]


def items_of(der: bytes) -> Iterator[bytes]:
    """Take a SEQUENCE apart, down to its items as they are."""
    position, end = _content_of(der, 0)
    while position < end:
        _, after = _content_of(der, position)
        yield der[position:after]
        position = after


def _content_of(der: bytes, start: int) -> tuple[int, int]:
    """Return where the content of a value begins and ends."""
    length, begin = der[start + 1], start + 2
    if length >= 0x80:
        size = length - 0x80
        length = int.from_bytes(der[begin : begin + size])
        begin += size
    return begin, begin + length
