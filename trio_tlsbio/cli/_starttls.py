"""STARTTLS without I/O: the plaintext dialogue that precedes a handshake.

Each protocol is a generator. It yields the bytes to send and how much input it needs next, and
receives that input.

Servers may write their answers in upper or lower case, and end lines with CRLF or LF.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Generator, Mapping
from types import MappingProxyType
from typing import TypeAlias

import attrs

from ._status import Failure, Status

__all__ = ["PORTS", "Dialogue"]

PORTS: Mapping[str, int] = MappingProxyType(
    {
        "smtp": 25,
        "imap": 143,
        "pop3": 110,
        "postgres": 5432,
        "mysql": 3306,
        "ldap": 389,
        "xmpp": 5222,
    }
)
"""The protocols, with their default ports."""

# The most bytes that a server may send, in one line and in total. RFC 5321 section 4.5.3.1.5 allows
# lines of 512 bytes; more serves no purpose here.
_MOST_LINE = 8 * 1024
_MOST_BYTES = 64 * 1024


@attrs.frozen
class _Ask:
    """The bytes to send, and the input that is needed then: ``size`` bytes, or everything up to
    ``end``.
    """

    data: bytes = b""
    size: int | None = None
    end: bytes = b"\n"


_Steps: TypeAlias = Generator[_Ask, bytes, None]


@attrs.frozen
class _Sides:
    """The two sides: the address that we connect from, and the name of the server."""

    our_address: str
    server_name: str


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
    """Read a reply of one or more lines (RFC 5321 section 4.2.1)."""
    lines = [(yield from _line(data))]
    while lines[-1][:3] == code and lines[-1][3:4] == b"-":
        lines.append((yield from _line()))
    if lines[-1][:3] != code:
        raise _refused(what, lines[-1])
    return [line[4:].strip() for line in lines]


def _smtp(sides: _Sides) -> _Steps:
    """RFC 3207."""
    our_address, _, _ = sides.our_address.partition("%")  # a zone has no meaning for others
    literal = f"[IPv6:{our_address}]" if ":" in our_address else f"[{our_address}]"
    yield from _smtp_reply(b"", b"220", "the connection")
    greeting = f"EHLO {literal}\r\n".encode()
    extensions = yield from _smtp_reply(greeting, b"250", "EHLO")
    if [b"STARTTLS"] not in (_words(extension)[:1] for extension in extensions[1:]):
        raise _not_offered("STARTTLS")
    yield from _smtp_reply(b"STARTTLS\r\n", b"220", "STARTTLS")


def _imap_result(command: bytes) -> Generator[_Ask, bytes, list[bytes]]:
    """Send a command, and read until its result (RFC 9051 section 2.2.2)."""
    tag, name = _words(command)
    lines = [(yield from _line(command + b"\r\n"))]
    while (words := _words(lines[-1]))[:1] == [b"*"]:
        if words[1:2] == [b"BYE"]:  # the reason for closing the connection (section 7.1.5)
            raise _refused(name.decode(), lines[-1])
        lines.append((yield from _line()))
    if words[:2] != [tag, b"OK"]:
        raise _refused(name.decode(), lines[-1])
    return lines


def _imap(_sides: _Sides) -> _Steps:
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


def _pop3(_sides: _Sides) -> _Steps:
    """RFC 2595 section 4."""
    yield from _pop3_reply(b"", "the connection")
    line = yield from _line(b"CAPA\r\n")
    if _is_ok(line):  # a server may support STLS without CAPA (RFC 2449 section 5)
        capabilities: list[list[bytes]] = []
        while (words := _words((yield from _line()))) != [b"."]:
            capabilities.append(words[:1])
        if [b"STLS"] not in capabilities:
            raise _not_offered("STLS")
    yield from _pop3_reply(b"STLS\r\n", "STLS")


def _postgres(_sides: _Sides) -> _Steps:
    """An SSLRequest: section "Message Formats" in PostgreSQL's manual."""
    request = (8).to_bytes(4, "big") + (80877103).to_bytes(4, "big")
    answer = yield _Ask(request, size=1)
    if answer == b"N":
        raise _not_offered("TLS")
    if answer != b"S":
        raise _failed(f"the server answered {answer!r} to an SSLRequest: is it PostgreSQL?")


def _mysql(_sides: _Sides) -> _Steps:
    """Pages "Connection Phase" and "SSLRequest" in the documentation of MySQL's source code."""
    header = yield _Ask(size=4)
    size = int.from_bytes(header[:3], "little")
    if not 0 < size <= _MOST_LINE:
        raise _failed(f"the server sent a packet of {size} bytes: is it MySQL?")
    greeting = yield _Ask(size=size)
    if greeting[:1] == b"\xff":  # such as "Host is blocked"
        raise _refused("the connection", greeting[3:])
    version_end = greeting.find(b"\0", 1)
    # After the version: a number of 4 bytes, 8 bytes of a challenge, and a filler.
    capabilities = greeting[version_end + 14 : version_end + 16]
    if greeting[:1] != b"\x0a" or version_end < 0 or len(capabilities) < 2:
        raise _failed("the server did not greet in version 10 of MySQL's protocol: is it MySQL?")
    if not int.from_bytes(capabilities, "little") & _MYSQL_SSL:
        raise _not_offered("TLS")
    flags = _MYSQL_SSL | _MYSQL_PROTOCOL_41 | _MYSQL_SECURE_CONNECTION
    utf8 = b"\x21"
    request = flags.to_bytes(4, "little") + (1 << 24).to_bytes(4, "little") + utf8 + bytes(23)
    next_number = bytes([(header[3] + 1) % 256])
    yield _Ask(len(request).to_bytes(3, "little") + next_number + request, size=0)


_MYSQL_PROTOCOL_41, _MYSQL_SSL, _MYSQL_SECURE_CONNECTION = 0x200, 0x800, 0x8000


def _element(data: bytes) -> tuple[int, bytes, bytes]:
    """Split the first element off BER data (RFC 4511 section 5.1): return its tag, its content and
    the rest. If the data is truncated, so is the content.
    """
    tag, size = (data + bytes(2))[:2]
    start = 2
    if size & 0x80:
        start += size & 0x7F
        size = int.from_bytes(data[2:start], "big")
    return tag, data[start : start + size], data[start + size :]


def _ldap(_sides: _Sides) -> _Steps:
    """RFC 4511 section 4.14."""
    request = b"\x80\x16" + b"1.3.6.1.4.1.1466.20037"
    header = yield _Ask(b"\x30\x1d\x02\x01\x01\x77\x18" + request, size=2)
    if header[0] != 0x30 or header[1] in {0, 0x80} or header[1] > 0x84:
        raise _failed(f"the server answered {header!r} to a StartTLS request: is it LDAP?")
    size = header[1]
    if size & 0x80:
        size = int.from_bytes((yield _Ask(size=size & 0x7F)), "big")
    if not 0 < size <= _MOST_LINE:
        raise _failed(f"the server sent a message of {size} bytes: is it LDAP?")
    _, number, rest = _element((yield _Ask(size=size)))
    kind, answer, _ = _element(rest)
    _, result, rest = _element(answer)
    _, _, rest = _element(rest)  # the matched name
    _, diagnostic, _ = _element(rest)
    if kind != 0x78:
        raise _failed("the server did not answer a StartTLS request: is it LDAP?")
    if number != b"\x01":  # a notice that the server ends the connection (section 4.4.1)
        raise _refused("the connection", diagnostic)
    if result == b"\x02":  # protocolError: the server does not support it (section 4.14.1)
        raise _not_offered("StartTLS")
    if result != b"\x00":
        code = int.from_bytes(result, "big")
        raise _refused("StartTLS", b"result %d %s" % (code, diagnostic))


_XMPP_TAG = re.compile(rb"<(/?)(?:[^\s:<>/]+:)?([^\s:<>/]+)")
_XMPP_TEXT = re.compile(rb"<text\b[^<>]*>([^<]+)<")


def _xmpp_tag(data: bytes = b"") -> Generator[_Ask, bytes, tuple[bytes, bytes]]:
    """Read a tag of the stream. Return its name without a prefix, preceded by "/" for an end tag,
    and its text. The stream itself has no comments or declarations (RFC 6120 section 11.1).
    """
    text = yield _Ask(data, end=b">")
    match = _XMPP_TAG.search(text)
    if match is None:
        raise _failed(f"the server sent {text[:50]!r}: is it XMPP?")
    name = match[1] + match[2]
    if name in {b"error", b"failure", b"/stream"}:
        why = text
        is_whole = bool(match[1]) or text.endswith(b"/>")
        while not is_whole:
            text = yield _Ask(end=b">")
            why += text
            is_whole = _is_end_of(name, text)
        raise _xmpp_refusal(why)
    return name, text


def _is_end_of(name: bytes, text: bytes) -> bool:
    match = _XMPP_TAG.search(text)
    return match is not None and match[1] + match[2] == b"/" + name


def _xmpp_refusal(why: bytes) -> Failure:
    """Report the condition in an error, and its text, if there is one (RFC 6120 section 4.9)."""
    names = [name for slash, name in _XMPP_TAG.findall(why) if not slash]
    condition = names[1] if len(names) > 1 else why
    if text := _XMPP_TEXT.search(why):
        condition += b", " + html.unescape(text[1].decode("utf-8", "backslashreplace")).encode()
    failure = _refused("STARTTLS", condition)
    if b"host-unknown" not in names:
        return failure
    return attrs.evolve(failure, hint="--servername NAME asks for another domain, and checks it")


def _xmpp(sides: _Sides) -> _Steps:
    """RFC 6120 section 5.4."""
    greeting = (
        "<?xml version='1.0'?><stream:stream xmlns='jabber:client' "
        "xmlns:stream='http://etherx.jabber.org/streams' version='1.0' "
        f"to='{html.escape(sides.server_name)}'>"
    )
    name, text = yield from _xmpp_tag(greeting.encode())
    while name != b"features":
        if name not in {b"?xml", b"stream"}:
            raise _failed(f"the server sent {text[:50]!r}: is it XMPP?")
        name, text = yield from _xmpp_tag()
    is_offered = False
    while name != b"/features" and not (name == b"features" and text.endswith(b"/>")):
        name, text = yield from _xmpp_tag()
        is_offered |= name == b"starttls" and _XMPP_TLS in text
    if not is_offered:
        raise _not_offered("STARTTLS")
    name, text = yield from _xmpp_tag(b"<starttls xmlns='" + _XMPP_TLS + b"'/>")
    if name != b"proceed":
        raise _refused("STARTTLS", text)
    if not text.endswith(b"/>"):
        yield from _xmpp_tag()


_XMPP_TLS = b"urn:ietf:params:xml:ns:xmpp-tls"


_PROTOCOLS: Mapping[str, Callable[[_Sides], _Steps]] = MappingProxyType(
    {
        "smtp": _smtp,
        "imap": _imap,
        "pop3": _pop3,
        "postgres": _postgres,
        "mysql": _mysql,
        "ldap": _ldap,
        "xmpp": _xmpp,
    }
)


################################################################
# Running a dialogue
################################################################


@attrs.define(eq=False)
class Dialogue:
    """The client's side of a dialogue.

    Send :meth:`data_to_send`, and :meth:`feed` the answer, until it :attr:`is_done` and there is
    nothing to send. If there are :attr:`buffered` bytes then, they have arrived too early, and must
    not be used.
    """

    _steps: _Steps
    _ask: _Ask = attrs.field(factory=_Ask, init=False)
    _to_send: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _buffer: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _received: int = attrs.field(default=0, init=False)
    #: True if TLS may begin.
    is_done: bool = attrs.field(default=False, init=False)

    @classmethod
    def of(cls, protocol: str, our_address: str, server_name: str) -> Dialogue:
        """Start a dialogue. ``our_address`` is the IP address that we connect from."""
        dialogue = cls(_PROTOCOLS[protocol](_Sides(our_address, server_name)))
        dialogue._go_on(None)
        return dialogue

    @property
    def buffered(self) -> bytes:
        """The bytes that were fed and not used."""
        return bytes(self._buffer)

    def data_to_send(self) -> bytes:
        """Take the bytes to send."""
        data = bytes(self._to_send)
        self._to_send.clear()
        return data

    def feed(self, data: bytes | bytearray) -> None:
        """Continue with received data; ``b""`` is the end.

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
        """Return the size of the next line or other input, or 0 if it is not complete yet."""
        if self._ask.size is not None:
            return self._ask.size if len(self._buffer) >= self._ask.size else 0
        size = self._buffer.find(self._ask.end) + 1
        if size > _MOST_LINE or (not size and len(self._buffer) > _MOST_LINE):
            raise _failed(f"the server sent a line of more than {_MOST_LINE} bytes")
        return size

    def _go_on(self, piece: bytes | None) -> None:
        try:
            self._ask = next(self._steps) if piece is None else self._steps.send(piece)
            self._to_send += self._ask.data
            while self._ask.size == 0:  # no answer is needed
                self._ask = self._steps.send(b"")
                self._to_send += self._ask.data
        except StopIteration:
            self.is_done = True
