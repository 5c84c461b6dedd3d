"""A target of what is read before TLS begins: the ClientHello."""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import cache

from trio_tlsbio import ClientHello, TLSError
from trio_tlsbio._core.client_hello import MAX_HELLO_BYTES
from trio_tlsbio._core.hello import HelloWatch
from trio_tlsbio._core.hello_reader import HelloReader

from ._input import Input, edited
from ._setup import SERVERS, VERSIONS, Handshake, contexts

__all__ = ["fuzz_hello"]

_HEADER = b"\x16\x03\x01"
_READ = (0, 10, 13, 16, 43)  # the extensions that are looked into
_KINDS = (*_READ, *_READ, 0x0A0A, 0xFE0D, 41, 51)


def _vector(content: bytes, size: int) -> bytes:
    length: bytes = (len(content) % 256**size).to_bytes(size, "big")
    return length + content


@cache
def _real_hellos() -> tuple[bytes, ...]:
    """The messages of real clients."""
    flights = [Handshake.of(SERVERS[0], version).flights[0] for version in VERSIONS]
    return tuple(flight[len(_HEADER) + 2 :] for flight in flights)


def _content(source: Input) -> bytes:
    """What an extension has, of a right form or not."""
    kind = source.byte() % 6
    if kind == 0:
        return source.block()
    if kind == 1:
        return _vector(b"\0" + _vector(source.block(), 2), 2)
    if kind == 2:
        return _vector(_vector(source.block(), 1) + _vector(source.block(), 1), 2)
    return _vector(source.block(), 1 + kind % 2)


def _built(source: Input) -> bytes:
    """A hello whose frame is good, with anything in its fields."""
    body = source.word().to_bytes(2, "big") + bytes(32)
    body += _vector(source.block(), 1) + _vector(source.block(), 2)
    body += _vector(b"\0" if source.byte() % 8 else source.block(), 1)
    extensions = b""
    for _ in range(source.byte() % 8):
        kind = source.choice(_KINDS).to_bytes(2, "big")
        extensions += kind + _vector(_content(source), 2) * (1 + source.byte() // 250)
    if extensions or source.byte() % 2:
        body += _vector(extensions, 2)
    return body


def _message(source: Input) -> bytes:
    kind = source.byte() % 4
    if kind == 0:
        return source.block()
    if kind == 1:
        return edited(source.choice(_real_hellos()), source)
    body = _built(source) if kind == 2 else edited(source.choice(_real_hellos())[4:], source)
    return b"\x01" + _vector(body, 3)


def fuzz_hello(data: bytes) -> None:
    """A ClientHello is read, or refused, the same by itself and from records, and by OpenSSL."""
    source = Input(data)
    message = _message(source)
    hello, words = None, ""
    try:
        hello = ClientHello.parse(message)
    except ValueError as exc:
        words = str(exc)
    if hello is not None:
        assert hello.raw == message
        _check_fields(hello)
    else:
        assert words, "a refusal without words"
    _check_reader(source, message, hello)
    if hello is None and _is_whole(message):
        assert not _is_answered(message), "OpenSSL answers what is refused"


def _is_whole(message: bytes) -> bool:
    return message[:1] == b"\x01" and 4 + int.from_bytes(message[1:4], "big") == len(message) > 4


def _check_fields(hello: ClientHello) -> None:
    """See that the fields are what they say they are, and the same if they are written again."""
    name, asked = hello.server_name, hello.requested_name
    if name is not None:
        assert asked is not None
        assert name == asked.decode("ascii").lower().removesuffix(".")
        assert 0 < len(name) <= 253
        assert all(each.isalnum() or each in "-._" for each in name)
    assert all(hello.alpn_protocols)
    numbers = (hello.cipher_suites, hello.groups, hello.signature_schemes)
    words = [b"".join(each.to_bytes(2, "big") for each in some) for some in numbers]
    versions = b"".join(each.to_bytes(2, "big") for each in hello.versions)
    extensions = {
        0: None if asked is None else _vector(b"\0" + _vector(asked, 2), 2),
        10: words[1] and _vector(words[1], 2),
        13: words[2] and _vector(words[2], 2),
        16: b"".join(_vector(each, 1) for each in hello.alpn_protocols),
        43: _vector(versions, 1),
    }
    extensions[16] = extensions[16] and _vector(extensions[16], 2)
    body = b"\x03\x03" + bytes(32) + b"\0" + _vector(words[0], 2) + b"\1\0"
    body += _vector(
        b"".join(
            kind.to_bytes(2, "big") + _vector(content, 2)
            for kind, content in extensions.items()
            if content
        ),
        2,
    )
    again = ClientHello.parse(b"\x01" + _vector(body, 3))
    for field in ("server_name", "requested_name", "alpn_protocols", "versions", "groups"):
        assert getattr(again, field) == getattr(hello, field), field
    assert again.cipher_suites == hello.cipher_suites
    assert again.signature_schemes == hello.signature_schemes


def _check_reader(source: Input, message: bytes, hello: ClientHello | None) -> None:
    """See that it is the same from records of any size, fed in pieces of any size."""
    reader, watch = HelloReader(), HelloWatch()
    records, at = b"", 0
    while at < len(message):
        size = source.size() or len(message)
        piece = message[at : at + min(size, 16384)]
        record = _HEADER + _vector(piece, 2)
        if not watch.is_over and not watch.has_hello:
            watch.add(record)
        records += record
        at += len(piece)
    found: ClientHello | None = None
    error: TLSError | None = None
    fed = 0
    try:
        while fed < len(records) and found is None:
            size = min(source.size() or len(records), reader.most_bytes)
            fed, piece = fed + size, records[fed : fed + size]
            found = reader.feed(piece)
    except TLSError as exc:
        error = exc
    assert reader.received == records[:fed]
    assert len(reader.received) <= MAX_HELLO_BYTES + 1
    if len(records) > MAX_HELLO_BYTES:
        return
    assert found == (None if watch.refusal is not None else watch.hello)
    if error is not None:
        assert str(error), "an error without words"
    if hello is not None and error is None:
        assert found == hello
    elif hello is not None:
        assert not (hello.requested_name or b"").isascii(), f"refused: {error}"
    elif _is_whole(message):
        assert error is not None, "a malformed hello is not refused"


def _is_answered(message: bytes) -> bool:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    for start in range(0, len(message), 16384):
        incoming.write(_HEADER + _vector(message[start : start + 16384], 2))
    server = contexts(SERVERS[0], None).wrap_bio(incoming, outgoing, server_side=True)
    with suppress(ssl.SSLError):
        server.do_handshake()
    return outgoing.read(1) == _HEADER[:1]
