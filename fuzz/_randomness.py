"""OpenSSL's random numbers, made the same each time.

With them a handshake is the same to the byte whenever it is made under the same conditions. So an
input means the same in every run, and a peer's flights need to be made only once.
"""

from __future__ import annotations

import _ssl
import ctypes
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs

__all__ = ["Randomness"]

_Bytes = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_ubyte), ctypes.c_int)
_Status = ctypes.CFUNCTYPE(ctypes.c_int)


class _Method(ctypes.Structure):
    """A RAND_METHOD, see RAND_set_rand_method(3)."""

    _fields_ = [
        ("seed", ctypes.c_void_p),
        ("bytes", _Bytes),
        ("cleanup", ctypes.c_void_p),
        ("add", ctypes.c_void_p),
        ("pseudorand", _Bytes),
        ("status", _Status),
    ]


# The library that the ssl module has loaded: no other one counts.
_openssl = ctypes.CDLL(_ssl.__file__)
_openssl.RAND_OpenSSL.restype = ctypes.c_void_p
_openssl.RAND_set_rand_method.argtypes = [ctypes.c_void_p]


@attrs.define(eq=False)
class Randomness:
    """A stream of numbers that looks random, and is the same for each of its seeds."""

    seed: bytes
    _count: int = attrs.field(default=0, init=False)

    def restart(self) -> None:
        """Begin anew."""
        self._count = 0

    def take(self, size: int) -> bytes:
        """Return the next bytes."""
        self._count += 1
        return hashlib.shake_128(self.seed + self._count.to_bytes(4, "big")).digest(size)

    @contextmanager
    def used(self) -> Iterator[None]:
        """OpenSSL takes its random numbers from here, in this process, as long as this lasts."""
        before = _source.current
        _source.use(self)
        try:
            yield
        finally:
            _source.use(before)


@attrs.define(eq=False)
class _Source:
    """What OpenSSL is given as its source while it is not to use its own."""

    current: Randomness | None = None
    _method: _Method = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        take = _Bytes(self._take)
        self._method = _Method(None, take, None, None, take, _Status(lambda: 1))

    def use(self, randomness: Randomness | None) -> None:
        if (self.current is None) is not (randomness is None):
            own = _openssl.RAND_OpenSSL()
            method = own if randomness is None else ctypes.addressof(self._method)
            _openssl.RAND_set_rand_method(method)
        self.current = randomness

    def _take(self, buffer: Any, size: int) -> int:
        assert self.current is not None
        ctypes.memmove(buffer, self.current.take(size), size)
        return 1


_source = _Source()
