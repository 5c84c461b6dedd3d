"""How a target reads its input: bytes from the front, and never too few of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

import attrs

__all__ = ["Input", "as_buffer", "edited"]

T = TypeVar("T")

# A few sizes in one byte, those around the limits of records among them.
_SIZES = (0, 1, 2, 5, 100, 1000, 16383, 16384, 16385, 40_000)


@attrs.define(eq=False)
class Input:
    """Takes an input apart. Past its end there are zeros, so every input means something."""

    _data: bytes
    _at: int = attrs.field(default=0, init=False)

    def __bool__(self) -> bool:
        """Whether there is more."""
        return self._at < len(self._data)

    def byte(self) -> int:
        """Take a byte."""
        self._at += 1
        return self._data[self._at - 1] if self._at <= len(self._data) else 0

    def word(self) -> int:
        """Take two bytes as a number."""
        return self.byte() << 8 | self.byte()

    def choice(self, items: Sequence[T]) -> T:
        """Take a byte for one of some."""
        return items[self.byte() % len(items)]

    def take(self, size: int) -> bytes:
        """Take so many bytes, or all that is left."""
        start, self._at = self._at, self._at + size
        return self._data[start : self._at]

    def block(self) -> bytes:
        """Take some bytes, as many as the first one or three tell."""
        size = self.byte()
        return self.take(self.word() if size == 0xFF else size)

    def size(self) -> int:
        """Take a byte for a size: a small one, or one at the limits."""
        number = self.byte()
        return _SIZES[number % len(_SIZES)] if number & 0x80 else number

    def rest(self) -> bytes:
        """Take all that is left."""
        return self.take(len(self._data))


def edited(data: bytes, source: Input) -> bytes:
    """Return data with a few changes: bytes flipped, cut out, put in, doubled or moved."""
    buffer = bytearray(data)
    for _ in range(source.byte() % 8):
        kind = source.byte() % 5
        at = source.word() % (len(buffer) + 1)
        if kind == 0:
            value = source.byte() or 1
            if at < len(buffer):
                buffer[at] ^= value
        elif kind == 1:
            del buffer[at : at + source.word()]
        elif kind == 2:
            buffer[at:at] = source.block()
        elif kind == 3:
            size = source.word()
            buffer[at:at] = buffer[at : at + size]
        else:
            size, to = source.word(), source.word()
            piece = buffer[at : at + size]
            del buffer[at : at + size]
            to %= len(buffer) + 1
            buffer[to:to] = piece
    return bytes(buffer)


def as_buffer(data: bytes, kind: int) -> bytes | bytearray | memoryview:
    """Return data as one of the buffers that a caller may have it in."""
    kind %= 6
    if kind == 1:
        return bytearray(data)
    if kind == 2:
        return memoryview(data)
    if kind == 3:
        return memoryview(bytearray(data))
    if kind == 4 and len(data) % 2 == 0:
        return memoryview(data).cast("H")
    if kind == 5:
        every_other = bytearray(2 * len(data))
        every_other[::2] = data
        return memoryview(every_other)[::2]
    return data
