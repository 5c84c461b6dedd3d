"""STARTTLS: what is said in plaintext before a handshake may begin, without I/O.

Each protocol is a generator that yields what to send and what it needs next, and is given that.

Servers may write their answers in upper or lower case, and end lines by CRLF or LF.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from types import MappingProxyType
from typing import TypeAlias

import attrs

from ._status import Failure, Status

__all__ = ["PORTS", "Dialogue"]

PORTS: Mapping[str, int] = MappingProxyType(
    {"smtp": 25, "imap": 143, "pop3": 110, "postgres": 5432}
)
"""The protocols, and the port that each has by default."""

# How long a line, and how much in all, a server may send, in bytes. RFC 5321 section 4.5.3.1.5
# allows lines of 512; what is more serves no purpose here.
_MOST_LINE = 8 * 1024
_MOST_BYTES = 64 * 1024


@attrs.frozen
class _Ask:
    """What to send, and what is needed then: so many bytes, or a line."""

    data: bytes = b""
    size: int | None = None


_Steps: TypeAlias = Generator[_Ask, bytes, None]


def _failed(message: str) -> Failure:
    return Failure(Status.TLS_FAILED, message)


def _not_offered(command: str) -> Failure:
    return _failed(f"the server does not offer {command}")


def _refused(what: str, line: bytes) -> Failure:
    said = line.decode("utf-8", "backslashreplace").strip()
    return _failed(f"the server refused {what}: {said[:200] or '(nothing)'}")


def _words(line: bytes) -> list[bytes]:
    return line.upper().split()


def _line(data: bytes = b"") -> Generator[_Ask, bytes, bytes]:
    return (yield _Ask(data))


################################################################
# The protocols
################################################################


def _smtp_reply(data: bytes, code: bytes, what: str) -> Generator[_Ask, bytes, list[bytes]]:
    """Read a reply, of one line or more (RFC 5321 section 4.2.1)."""
    lines = [(yield from _line(data))]
    while lines[-1][:3] == code and lines[-1][3:4] == b"-":
        lines.append((yield from _line()))
    if lines[-1][:3] != code:
        raise _refused(what, lines[-1])
    return [line[4:].strip() for line in lines]


def _smtp(our_address: str) -> _Steps:
    """RFC 3207."""
    our_address, _, _ = our_address.partition("%")  # a zone means nothing to others
    literal = f"[IPv6:{our_address}]" if ":" in our_address else f"[{our_address}]"
    yield from _smtp_reply(b"", b"220", "the connection")
    greeting = f"EHLO {literal}\r\n".encode()
    extensions = yield from _smtp_reply(greeting, b"250", "EHLO")
    if [b"STARTTLS"] not in (_words(extension)[:1] for extension in extensions[1:]):
        raise _not_offered("STARTTLS")
    yield from _smtp_reply(b"STARTTLS\r\n", b"220", "STARTTLS")


def _imap_result(command: bytes) -> Generator[_Ask, bytes, list[bytes]]:
    """Send a command, and read until it is done (RFC 9051 section 2.2.2)."""
    tag, name = _words(command)
    lines = [(yield from _line(command + b"\r\n"))]
    while (words := _words(lines[-1]))[:1] == [b"*"]:
        if words[1:2] == [b"BYE"]:  # why the connection is about to end (section 7.1.5)
            raise _refused(name.decode(), lines[-1])
        lines.append((yield from _line()))
    if words[:2] != [tag, b"OK"]:
        raise _refused(name.decode(), lines[-1])
    return lines


def _imap(_our_address: str) -> _Steps:
    """RFC 9051 section 6.2.1."""
    greeting = yield from _line()
    match _words(greeting)[:2]:
        case [b"*", b"OK"]:
            pass
        case [b"*", b"PREAUTH"]:
            raise _failed("the server has logged us in already, where STARTTLS is not allowed")
        case _:
            raise _refused("the connection", greeting)
    answer = [_words(line) for line in (yield from _imap_result(b"a1 CAPABILITY"))]
    if not any(words[1:2] == [b"CAPABILITY"] and b"STARTTLS" in words[2:] for words in answer):
        raise _not_offered("STARTTLS")
    yield from _imap_result(b"a2 STARTTLS")


def _pop3_reply(data: bytes, what: str) -> Generator[_Ask, bytes, None]:
    line = yield from _line(data)
    if not _is_ok(line):
        raise _refused(what, line)


def _is_ok(line: bytes) -> bool:
    return _words(line)[:1] == [b"+OK"]


def _pop3(_our_address: str) -> _Steps:
    """RFC 2595 section 4."""
    yield from _pop3_reply(b"", "the connection")
    line = yield from _line(b"CAPA\r\n")
    if _is_ok(line):  # a server may know STLS without CAPA (RFC 2449 section 5)
        capabilities: list[list[bytes]] = []
        while (words := _words((yield from _line()))) != [b"."]:
            capabilities.append(words[:1])
        if [b"STLS"] not in capabilities:
            raise _not_offered("STLS")
    yield from _pop3_reply(b"STLS\r\n", "STLS")


def _postgres(_our_address: str) -> _Steps:
    """An SSLRequest: section "Message Formats" in PostgreSQL's manual."""
    request = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
    answer = yield _Ask(request, size=1)
    if answer == b"N":
        raise _not_offered("TLS")
    if answer != b"S":
        raise _failed(f"the server answered {answer!r} to an SSLRequest: is it PostgreSQL?")


_PROTOCOLS: Mapping[str, Callable[[str], _Steps]] = MappingProxyType(
    {"smtp": _smtp, "imap": _imap, "pop3": _pop3, "postgres": _postgres}
)


################################################################
# What drives them
################################################################


@attrs.define(eq=False)
class Dialogue:
    """The client's side of one such dialogue.

    Send :meth:`data_to_send`, :meth:`feed` what comes, and so on until it :attr:`is_done`. What is
    :attr:`buffered` then came too early, and must not be taken for anything.
    """

    _steps: _Steps
    _ask: _Ask = attrs.field(factory=_Ask, init=False)
    _to_send: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _buffer: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _received: int = attrs.field(default=0, init=False)
    #: Whether TLS may begin.
    is_done: bool = attrs.field(default=False, init=False)

    @classmethod
    def of(cls, protocol: str, our_address: str) -> Dialogue:
        """Begin one. ``our_address`` is the IP address that we connect from."""
        dialogue = cls(_PROTOCOLS[protocol](our_address))
        dialogue._go_on(None)
        return dialogue

    @property
    def buffered(self) -> bytes:
        """What was fed and not used."""
        return bytes(self._buffer)

    def data_to_send(self) -> bytes:
        """Take what is to be sent."""
        data = bytes(self._to_send)
        self._to_send.clear()
        return data

    def feed(self, data: bytes | bytearray) -> None:
        """Go on with what was received; ``b""`` for the end.

        Raises:
          Failure: if TLS can't begin.
        """
        if not data:
            raise Failure(
                Status.TRUNCATED, "the server ended the connection before TLS could begin"
            )
        self._buffer += data
        self._received += len(data)
        while not self.is_done and (size := self._size_of_next()):
            piece = bytes(self._buffer[:size])
            del self._buffer[:size]
            self._go_on(piece)
        if not self.is_done and self._received > _MOST_BYTES:
            raise _failed(f"the server sent more than {_MOST_BYTES} bytes before TLS could begin")

    def _size_of_next(self) -> int:
        """Return how long the line, or what else was asked for, is; 0 if it is not whole yet."""
        if self._ask.size is not None:
            return self._ask.size if len(self._buffer) >= self._ask.size else 0
        size = self._buffer.find(b"\n") + 1
        if size > _MOST_LINE or (not size and len(self._buffer) > _MOST_LINE):
            raise _failed(f"the server sent a line of more than {_MOST_LINE} bytes")
        return size

    def _go_on(self, piece: bytes | None) -> None:
        try:
            self._ask = next(self._steps) if piece is None else self._steps.send(piece)
        except StopIteration:
            self.is_done = True
        else:
            self._to_send += self._ask.data
