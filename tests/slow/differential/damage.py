"""What can happen to a peer's records on their way, or be wrong with them from the start."""

from __future__ import annotations

import random
import struct
from collections.abc import Callable, Mapping

import attrs

from fuzz._forge import record

from .transcripts import Item

__all__ = ["GARBAGE", "Wire", "damage", "sslv2_hello"]

HEADER_BYTES = 5

# What a record's length may be at most: plaintext, TLS 1.3, OpenSSL's own limits, TLS 1.2 with
# compression and without (RFC 9846 section 5.2, RFC 5246 section 6.2.3).
_LIMITS = (16384, 16384 + 256, 16384 + 320, 16384 + 1024, 16384 + 1024 + 320, 16384 + 2048)
_LENGTHS = (0, 1, 2, 0x7FFF, 0xFFFF, *(limit + by for limit in _LIMITS for by in (-1, 0, 1)))
_TYPES = (0, 19, 20, 21, 22, 23, 24, 25, 0x37, 0x47, 0x80, 0x97, 0xFF)
_VERSIONS = (b"\2\0", b"\3\0", b"\3\1", b"\3\2", b"\3\3", b"\3\4", b"\3\x7f", b"\4\3", b"\0\0")


def sslv2_hello(challenge: int = 16, version: bytes = b"\3\3", session_id: bytes = b"") -> bytes:
    """A ClientHello of SSL 2.0's format, that offers TLS (RFC 5246 appendix E.2)."""
    suites = (b"\xc0\x2b", b"\xc0\x2c", b"\xc0\x2f", b"\x13\x02", b"\0\xff")
    ciphers = b"".join(b"\0" + suite for suite in suites)
    body = b"\1" + version + struct.pack(">HHH", len(ciphers), len(session_id), challenge)
    body += ciphers + session_id + bytes(range(challenge))
    return struct.pack(">H", 0x8000 | len(body)) + body


GARBAGE: tuple[bytes, ...] = (
    b"GET / HTTP/1.1\r\nHost: server.example\r\n\r\n",
    b"POST /upload HTTP/1.0\r\n\r\n" + bytes(100),
    b"HEAD / HTTP/1.0\r\n\r\n",
    b"PUT /x",
    b"CONNECT server.example:443 HTTP/1.1\r\n\r\n",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"SSH-2.0-OpenSSH_9.2\r\n",
    b"EHLO server.example\r\n",
    b"220 mail.example ESMTP\r\n",
    b"\x16\3\1\0\x05hello",
    b"\x16\3\0\0\x04\1\0\0\0",
    b"\x15\3\1\0\2\2\x28",
    b"\x15\3\1\0\2\1\0",
    b"\x15\3\3\0\2\2\x50",
    b"\x14\3\3\0\1\1",
    b"\x14\3\3\0\1\2",
    b"\x14\3\3\0\0",
    b"\x16\3\3\0\0",
    b"\x17\3\3\0\0",
    b"\x17\3\3\0\1x",
    b"\x18\3\3\0\3\1\x40\0",
    bytes(5),
    bytes(64),
    b"\xff" * 9,
    b"\x80",
    b"\x80\0\1\2\3\4\5\6",
    sslv2_hello(),
    sslv2_hello(32, b"\3\1"),
    sslv2_hello(16, b"\0\2", bytes(16)),
    sslv2_hello(5),
)


@attrs.define(eq=False)
class Wire:
    """A peer's records, and what else happens between them."""

    items: list[Item]
    #: The places of damage: numbers of items.
    places: list[int] = attrs.field(factory=list, init=False)
    _random: random.Random

    def choose(self) -> int | None:
        """Choose a record, one of the handshake as often as not."""
        records = [n for n, item in enumerate(self.items) if isinstance(item, bytes) and item]
        if not records:
            return None
        # The handshake comes first, and is short.
        few = records[: 1 + len(records) // 4] if self._random.random() < 0.3 else records
        return self._random.choice(few)

    def change(self, number: int, data: bytes) -> None:
        """Put other bytes in the place of a record."""
        self.places.append(number)
        self.items[number] = data


Way = Callable[[Wire, int, bytes, random.Random], None]


def damage(wire: Wire, chance: random.Random) -> str:
    """Do some damage, and return what it is."""
    number = wire.choose()
    if number is None:
        return "nothing to damage"
    way = chance.choices(list(_WAYS), list(_WAYS.values()))[0]
    item = wire.items[number]
    assert isinstance(item, bytes)
    way(wire, number, item, chance)
    return f"{way.__name__.strip('_')} at record {number}"


def _flip_bit(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    # In headers, of records and of messages, as often as not.
    end = chance.choice([HEADER_BYTES, HEADER_BYTES + 4, len(data), len(data)])
    at = chance.randrange(min(end, len(data)))
    changed = bytearray(data)
    changed[at] ^= 1 << chance.randrange(8)
    wire.change(number, bytes(changed))


def _change_length(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    size = max(1, len(data) - HEADER_BYTES)
    length = chance.choice([*_LENGTHS, size - 1, size + 1, size + 255])
    wire.change(number, data[:3] + length.to_bytes(2, "big") + data[5:])


def _change_size(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    """As above, and the bytes are there."""
    length = chance.choice([*_LENGTHS, chance.randrange(300)])
    body = data[5:].ljust(length, b"\xa5")[:length]
    wire.change(number, data[:3] + length.to_bytes(2, "big") + body)


def _change_type(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    wire.change(number, bytes([chance.choice(_TYPES)]) + data[1:])


def _change_version(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    wire.change(number, data[:1] + chance.choice(_VERSIONS) + data[3:])


def _drop_bytes(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    wire.change(number, data[:start] + data[start + chance.choice([1, 1, 2, 5, 100]) :])


def _insert_bytes(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    at = chance.randrange(len(data) + 1)
    size = chance.choice([1, 1, 2, 5, 100])
    some = chance.choice([bytes(size), chance.randbytes(size)])
    wire.change(number, data[:at] + some + data[at:])


def _repeat_bytes(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    start = chance.randrange(len(data))
    end = start + chance.choice([1, 5, 50])
    wire.change(number, data[:end] + data[start:])


def _drop_record(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    wire.change(number, b"")


def _repeat_record(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    wire.change(number, data * chance.choice([2, 2, 3, 40]))


def _swap_records(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    other = wire.choose()
    assert other is not None
    item = wire.items[other]
    assert isinstance(item, bytes)
    wire.change(number, item)
    wire.change(other, data)


def _split_record(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    """The same content in several records. What is encrypted is not valid any more."""
    size = chance.choice([1, 1, 2, 50])
    body = data[5:1005]
    if data[:1]:
        parts = (body[start : start + size] for start in range(0, len(body), size))
        wire.change(number, b"".join(record(data[0], part, data[1:3]) for part in parts))


def _join_records(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    """The content of some records, of the same type, in one."""
    body = data[5:]
    following = number + 1
    while following < len(wire.items):
        other = wire.items[following]
        if not isinstance(other, bytes) or other[:1] != data[:1] or len(body) > 16000:
            break
        body += other[5:]
        wire.items[following] = b""
        following += 1
    wire.change(number, record(data[0], body, data[1:3]))


def _insert_garbage(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    if chance.random() < 0.3:  # at the very beginning
        number = next(n for n, item in enumerate(wire.items) if isinstance(item, bytes))
        item = wire.items[number]
        assert isinstance(item, bytes)
        data = item
    garbage = chance.choice([*GARBAGE, chance.randbytes(chance.randrange(1, 40))])
    at = 0 if chance.random() < 0.7 else chance.randrange(len(data) + 1)
    wire.change(number, data[:at] + garbage + data[at:])


def _become_garbage(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    wire.change(number, chance.choice([*GARBAGE, chance.randbytes(chance.randrange(1, 40))]))


def _end_early(wire: Wire, number: int, data: bytes, chance: random.Random) -> None:
    end = chance.choice([0, 1, 4, 5, 6, chance.randrange(len(data) + 1)])
    wire.change(number, data[:end])
    wire.items[number + 1 :] = [
        b"" if isinstance(item, bytes) else item for item in wire.items[number + 1 :]
    ]


_WAYS: Mapping[Way, int] = {
    _flip_bit: 6,
    _change_length: 4,
    _change_size: 2,
    _change_type: 2,
    _change_version: 2,
    _drop_bytes: 1,
    _insert_bytes: 1,
    _repeat_bytes: 1,
    _drop_record: 1,
    _repeat_record: 1,
    _swap_records: 1,
    _split_record: 1,
    _join_records: 1,
    _insert_garbage: 3,
    _become_garbage: 1,
    _end_early: 1,
}
