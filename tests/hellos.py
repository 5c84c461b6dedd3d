"""ClientHellos of any kind: taken apart, built, and damaged."""

from __future__ import annotations

import random
import ssl

import attrs

from trio_tlsbio import TLSConnection

__all__ = ["GREASE", "Hello", "browser_hello", "damaged", "fragments", "hello_of", "vector"]

GREASE = tuple(0x0A0A + 0x1010 * number for number in range(16))
"""The values of RFC 8701 for extensions, suites, groups and versions."""


def vector(content: bytes, length_size: int = 2) -> bytes:
    """Put the length before it."""
    return len(content).to_bytes(length_size) + content


def numbers(*values: int) -> bytes:
    """Put them one after the other, two bytes each."""
    return b"".join(value.to_bytes(2) for value in values)


def hello_of(context: ssl.SSLContext, name: str | None) -> bytes:
    """The record with a client's first words."""
    context.check_hostname = False
    return TLSConnection(context, server_hostname=name).data_to_send()


def fragments(record: bytes, size: int) -> bytes:
    """Cut the message in a record into records of so many bytes."""
    message = record[5:]
    pieces = [message[start : start + size] for start in range(0, len(message), size)]
    return b"".join(record[:3] + len(piece).to_bytes(2) + piece for piece in pieces)


@attrs.define
class Hello:
    """A ClientHello in its parts."""

    version: bytes = b"\x03\x03"
    random: bytes = bytes(range(32))
    session_id: bytes = b""
    suites: bytes = b"\x13\x01\xc0\x2f"
    compressions: bytes = b"\0"
    extensions: list[tuple[int, bytes]] = attrs.field(factory=list)
    has_extensions: bool = True

    @classmethod
    def of(cls, message: bytes) -> Hello:
        """Take a well-formed message apart."""
        at = 4

        def take(size: int) -> bytes:
            nonlocal at
            at += size
            return message[at - size : at]

        def take_vector(length_size: int) -> bytes:
            return take(int.from_bytes(take(length_size)))

        hello = cls(take(2), take(32), take_vector(1), take_vector(2), take_vector(1))
        hello.has_extensions = at < len(message)
        at += 2
        while at < len(message):
            hello.extensions.append((int.from_bytes(take(2)), take_vector(2)))
        return hello

    def with_extension(self, kind: int, content: bytes) -> Hello:
        """Return one that has this extension too, or instead of one of the same type."""
        others = [each for each in self.extensions if each[0] != kind]
        return attrs.evolve(self, extensions=[*others, (kind, content)])

    def with_name(self, name: bytes) -> Hello:
        """Return one that asks for this name."""
        return self.with_extension(0, vector(b"\0" + vector(name)))

    @property
    def message(self) -> bytes:
        """The handshake message."""
        body = self.version + self.random + vector(self.session_id, 1)
        body += vector(self.suites) + vector(self.compressions, 1)
        if self.has_extensions:
            body += vector(b"".join(numbers(kind) + vector(data) for kind, data in self.extensions))
        return b"\x01" + vector(body, 3)

    @property
    def record(self) -> bytes:
        """The message in records, of which a long one takes several."""
        return fragments(b"\x16\x03\x01\0\0" + self.message, 16384)


def browser_hello(name: bytes) -> Hello:
    """What a browser sends: GREASE, a hybrid key share, Encrypted Client Hello and more."""
    share = numbers(GREASE[3]) + vector(b"\0") + numbers(0x11EC)
    share += vector(bytes(1184) + bytes(range(32)))
    share += numbers(29) + vector(bytes(range(32)))
    ech = b"\0" + numbers(1, 1) + b"\x42" + vector(bytes(32)) + vector(bytes(208))
    schemes = numbers(0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601)
    return Hello(
        session_id=bytes(32),
        suites=numbers(GREASE[0], 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030),
        extensions=[
            (GREASE[1], b""),
            (0, vector(b"\0" + vector(name))),
            (23, b""),
            (0xFF01, b"\0"),
            (10, vector(numbers(GREASE[3], 0x11EC, 29, 23, 24))),
            (11, b"\1\0"),
            (35, b""),
            (16, vector(b"\x02h2\x08http/1.1")),
            (5, b"\1\0\0\0\0"),
            (13, vector(schemes)),
            (18, b""),
            (51, vector(share)),
            (45, b"\1\1"),
            (43, vector(numbers(GREASE[2], 0x0304, 0x0303), 1)),
            (27, b"\2\0\2"),
            (17613, vector(b"\x02h2")),
            (0xFE0D, ech),
            (GREASE[4], b"\0"),
        ],
    )


def damaged(message: bytes, dice: random.Random) -> bytes:
    """Return a ClientHello with a few changes, in its bytes or in its parts."""
    if dice.random() < 0.3:
        return _with_other_bytes(message, dice)
    hello = Hello.of(message)
    for _ in range(dice.randint(1, 3)):
        _change_part(hello, dice)
    changed = hello.message
    return _with_other_bytes(changed, dice) if dice.random() < 0.1 else changed


def _with_other_bytes(message: bytes, dice: random.Random) -> bytes:
    buffer = bytearray(message)
    for _ in range(dice.randint(1, 3)):
        at = dice.randrange(4, len(buffer))
        if dice.random() < 0.7:
            buffer[at] = dice.choice((dice.randrange(256), buffer[at] ^ 1 << dice.randrange(8), 0))
        elif dice.random() < 0.5:
            del buffer[at : at + dice.randint(1, 4)]
        else:
            buffer[at:at] = dice.randbytes(dice.randint(1, 4))
        if len(buffer) < 6:
            break
    buffer[1:4] = (len(buffer) - 4).to_bytes(3)  # OpenSSL would wait for more
    return bytes(buffer)


def _change_part(hello: Hello, dice: random.Random) -> None:
    extensions = hello.extensions
    if not extensions or dice.random() < 0.15:
        part = dice.choice(("version", "session_id", "suites", "compressions"))
        value = _other_content(getattr(hello, part), dice)
        if part == "version":
            value = dice.choice((3, 3, 2, 254)).to_bytes(1) + dice.randrange(6).to_bytes(1)
        most = {"suites": 60_000}.get(part, 255)
        setattr(hello, part, value[:most])
        return
    at = dice.randrange(len(extensions))
    kind, content = extensions[at]
    what = dice.randrange(7)
    if what == 0:
        del extensions[at]
    elif what == 1:
        extensions.insert(dice.randrange(len(extensions) + 1), (kind, content))
    elif what == 2:
        extensions.insert(at, (dice.choice((*GREASE, 0xFE0D, 12345)), dice.randbytes(3)))
    elif what == 3:
        other = dice.randrange(len(extensions))
        extensions[at], extensions[other] = extensions[other], extensions[at]
    else:
        extensions[at] = (kind, _other_content(content, dice))


def _other_content(content: bytes, dice: random.Random) -> bytes:
    """Change a content, often together with the length that it begins with."""
    what = dice.randrange(6)
    if what == 0:
        return content[: dice.randrange(len(content) + 1)]
    if what == 1:
        return content + dice.randbytes(dice.randint(1, 3))
    if what == 2:
        return dice.randbytes(dice.randrange(8))
    if what == 3:
        return vector(dice.randbytes(dice.randrange(8)), dice.choice((1, 2)))
    size = dice.choice((1, 2))
    inner = bytearray(content[size:])
    if inner:
        at = dice.randrange(len(inner))
        if what == 4:
            inner[at] = dice.randrange(256)
        else:
            del inner[at]
    return vector(bytes(inner), size)[:60_000] if len(inner) < 256**size else content
