"""The ClientHellos of clients that are not ours, and what OpenSSL finds in them."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest
import trio
import trustme

from tests.hellos import fragments
from trio_tlsbio import ClientHello, read_client_hello
from trio_tlsbio._core.hello_reader import HelloReader
from trio_tlsbio._core.inbox import Inbox
from trio_tlsbio._core.records import Data

from .harness import ALPN_OFFERED


@contextmanager
def recorded() -> Iterator[list[bytes]]:
    """Record what each connection receives until its ClientHello is whole."""
    readers: dict[Inbox, HelloReader] = {}
    hellos: list[bytes] = []
    feed = Inbox.feed

    def record(inbox: Inbox, data: Data) -> None:
        reader = readers.setdefault(inbox, HelloReader())
        if inbox not in done and reader.feed(data) is not None:
            done.add(inbox)
            hellos.append(bytes(reader.received))
        feed(inbox, data)

    done: set[Inbox] = set()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Inbox, "feed", record)
        yield hellos


def check(flight: bytes, cert: trustme.LeafCert) -> ClientHello:
    """Check that we read a client's first flight as OpenSSL does, in whatever pieces it comes."""
    hello = _read(flight)
    size = _size(flight)
    flight, rest = flight[:size], flight[size:]
    assert hello.raw == b"".join(flight[start + 5 : end] for start, end in _records(flight))
    assert ClientHello.parse(hello.raw) == hello
    for cut in range(size):
        reader = HelloReader()
        assert reader.feed(flight[:cut]) is None, cut
        assert reader.feed(flight[cut:]) == hello, cut
    assert _read(fragments(b"\x16\x03\x01\0\0" + hello.raw, 1)) == hello

    names = _names_in(flight, cert)
    asked = hello.requested_name
    assert names == [None if asked is None else asked.decode()]
    assert hello.server_name == (names[0] and names[0].lower())
    offered = {protocol.decode() for protocol in hello.alpn_protocols}
    for protocol in {*offered, *ALPN_OFFERED, "of nobody"}:
        chosen = _chosen_protocol(flight, cert, protocol)
        assert chosen == (protocol if protocol in offered else None)
    assert not rest or rest[0] in (20, 22, 23)
    return hello


def _records(data: bytes) -> Iterator[tuple[int, int]]:
    start = 0
    while start < len(data):
        end = start + 5 + int.from_bytes(data[start + 3 : start + 5])
        yield start, end
        start = end


def _size(flight: bytes) -> int:
    """How many bytes the records with the ClientHello take up."""
    reader = HelloReader()
    for _, end in _records(flight):
        if reader.feed(flight[len(reader.received) : end]) is not None:
            return end
    raise AssertionError("there is no ClientHello in it")


class _ByteByByte(trio.abc.ReceiveStream):
    """A stream whose data comes in the smallest pieces."""

    def __init__(self, data: bytes) -> None:
        self._data = iter(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        return bytes([next(self._data)])

    async def aclose(self) -> None:
        pass


def _read(data: bytes) -> ClientHello:
    """Read the ClientHello off a stream, byte by byte."""

    async def read() -> ClientHello:
        hello, received = await read_client_hello(_ByteByByte(data))
        assert data.startswith(received)
        return hello

    return trio.run(read)


def _answer(flight: bytes, context: ssl.SSLContext) -> ssl.SSLObject:
    """Let OpenSSL answer a ClientHello."""
    incoming = ssl.MemoryBIO()
    incoming.write(flight)
    ssl_object = context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
    with suppress(ssl.SSLWantReadError):
        ssl_object.do_handshake()
    return ssl_object


def _context(cert: trustme.LeafCert) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    cert.configure_cert(context)
    return context


def _names_in(flight: bytes, cert: trustme.LeafCert) -> list[str | None]:
    """What OpenSSL tells an sni_callback."""
    names: list[str | None] = []
    context = _context(cert)
    context.sni_callback = lambda _object, name, _context: names.append(name)
    _answer(flight, context)
    return names


def _chosen_protocol(flight: bytes, cert: trustme.LeafCert, ours: str) -> str | None:
    """The protocol that OpenSSL chooses if it has one."""
    context = _context(cert)
    context.set_alpn_protocols([ours])
    return _answer(flight, context).selected_alpn_protocol()
