"""A peer that has the keys and keeps no rules: records of any content, properly encrypted.

AES-GCM alone, which is all that the contexts of the fuzzing agree on. RFC 8446 sections 5.2, 5.3,
7.1 and 7.2; RFC 5246 sections 5 and 6.3 with RFC 5288 section 3.
"""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Iterator
from typing import Protocol

import attrs
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

__all__ = [
    "ALERT",
    "APPLICATION_DATA",
    "CHANGE_CIPHER_SPEC",
    "HANDSHAKE",
    "Keys",
    "Keys12",
    "Keys13",
    "expand_label",
    "handshake_message",
    "records_in",
]

CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = range(20, 24)
_HASH = hashlib.sha384
_HASH_BYTES = 48
_KEY_BYTES = {"TLSv1.3": 32, "TLSv1.2": 16}


def records_in(data: bytes) -> Iterator[bytes]:
    """Cut data into records, by their headers."""
    at = 0
    while at < len(data):
        end = at + 5 + int.from_bytes(data[at + 3 : at + 5], "big")
        assert len(data) >= max(end, at + 5), "what we send ends in the middle of a record"
        yield data[at:end]
        at = end


def handshake_message(kind: int, body: bytes) -> bytes:
    """Put a header before a handshake message."""
    return bytes([kind]) + (len(body) % 2**24).to_bytes(3, "big") + body


def _header(content_type: int, size: int) -> bytes:
    return bytes([content_type, 3, 3]) + (size % 2**16).to_bytes(2, "big")


class Keys(Protocol):
    """The keys of one direction, and how many records they were used for."""

    def seal(self, content_type: int, data: bytes, padding: int = 0) -> bytes:
        """Make a record."""

    def open(self, record: bytes) -> tuple[int, bytes]:
        """Return what type of content is in a record, and the content."""

    def update(self) -> None:
        """Go on with the next keys, after a KeyUpdate."""


def expand_label(secret: bytes, label: bytes, size: int) -> bytes:
    """HKDF-Expand-Label without a context, RFC 8446 section 7.1."""
    label = b"tls13 " + label
    info = size.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
    return hmac.digest(secret, info + b"\1", "sha384")[:size]


@attrs.define(eq=False)
class Keys13:
    """TLS_AES_256_GCM_SHA384."""

    secret: bytes = attrs.field(repr=False)
    _aead: AESGCM = attrs.field(init=False, repr=False)
    _iv: int = attrs.field(init=False, repr=False)
    _count: int = attrs.field(default=0, init=False)

    def __attrs_post_init__(self) -> None:
        self._aead = AESGCM(expand_label(self.secret, b"key", 32))
        self._iv = int.from_bytes(expand_label(self.secret, b"iv", 12), "big")
        self._count = 0

    def update(self) -> None:
        self.secret = expand_label(self.secret, b"traffic upd", _HASH_BYTES)
        self.__attrs_post_init__()

    def _nonce(self) -> bytes:
        self._count += 1
        return (self._iv ^ (self._count - 1)).to_bytes(12, "big")

    def seal(self, content_type: int, data: bytes, padding: int = 0) -> bytes:
        inner = data + bytes([content_type]) + bytes(padding)
        header = _header(APPLICATION_DATA, len(inner) + 16)
        return header + self._aead.encrypt(self._nonce(), inner, header)

    def open(self, record: bytes) -> tuple[int, bytes]:
        inner = self._aead.decrypt(self._nonce(), record[5:], record[:5]).rstrip(b"\0")
        return inner[-1], inner[:-1]


@attrs.define(eq=False)
class Keys12:
    """AES-128-GCM."""

    key: bytes = attrs.field(repr=False)
    _salt: bytes = attrs.field(repr=False)
    _count: int
    _aead: AESGCM = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        self._aead = AESGCM(self.key)

    def update(self) -> None:
        """TLS 1.2 has no KeyUpdate."""

    def _next(self) -> bytes:
        self._count += 1
        return (self._count - 1).to_bytes(8, "big")

    def seal(self, content_type: int, data: bytes, padding: int = 0) -> bytes:
        count = self._next()
        body = self._aead.encrypt(
            self._salt + count, data, count + _header(content_type, len(data))
        )
        return _header(content_type, len(body) + 8) + count + body

    def open(self, record: bytes) -> tuple[int, bytes]:
        count, body = self._next(), record[5:]
        data = self._aead.decrypt(
            self._salt + body[:8], body[8:], count + _header(record[0], len(body) - 24)
        )
        return record[0], data

    @classmethod
    def both(cls, master: bytes, client_random: bytes, server_random: bytes) -> tuple[Keys12, ...]:
        """Return the client's and the server's, after the Finished of each (RFC 5246, 6.3)."""
        seed = b"key expansion" + server_random + client_random
        block, a = b"", seed
        while len(block) < 40:
            a = hmac.digest(master, a, "sha256")
            block += hmac.digest(master, a + seed, "sha256")
        return cls(block[:16], block[32:36], 1), cls(block[16:32], block[36:40], 1)
