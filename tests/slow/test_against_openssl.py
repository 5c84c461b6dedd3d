"""What the connection keeps back of a record, it keeps back only as long as OpenSSL would wait too.

Each case is fed to a bare ``ssl.SSLObject`` as well, in the same pieces.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from contextlib import suppress

import attrs
import pytest

from tests.helpers import NAME
from trio_tlsbio import TLSConnection, TLSError


@attrs.frozen
class Answer:
    """What came of the pieces so far."""

    pieces: int
    error: str | None
    answered: int  # bytes


@attrs.define(eq=False)
class Bare:
    """A server that is OpenSSL alone."""

    _context: ssl.SSLContext
    _incoming: ssl.MemoryBIO = attrs.field(factory=ssl.MemoryBIO, init=False)
    _outgoing: ssl.MemoryBIO = attrs.field(factory=ssl.MemoryBIO, init=False)
    _ssl_object: ssl.SSLObject = attrs.field(init=False)
    _is_done: bool = attrs.field(default=False, init=False)

    def __attrs_post_init__(self) -> None:
        self._ssl_object = self._context.wrap_bio(self._incoming, self._outgoing, server_side=True)

    def take(self, data: bytes) -> str | None:
        """Take what has arrived, and return the reason if that is an error."""
        self._incoming.write(data)
        try:
            if not self._is_done:
                self._ssl_object.do_handshake()
                self._is_done = True
            while True:
                self._ssl_object.read(65536)
        except ssl.SSLWantReadError:
            return None
        except ssl.SSLError as exc:
            return _reason_of(exc)

    def data_to_send(self) -> bytes:
        return self._outgoing.read()


def _reason_of(exc: ssl.SSLError) -> str:
    if exc.reason:
        return exc.reason
    # Python has no name for it. PyPy reports OpenSSL's own words.
    is_of_records = "record layer failure" in str(exc)
    return "RECORD_LAYER_FAILURE" if is_of_records else "INTERNAL_ERROR"


@attrs.define(eq=False)
class Ours:
    """A server of ours."""

    _context: ssl.SSLContext
    _connection: TLSConnection = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._connection = TLSConnection(self._context, server_side=True)

    def take(self, data: bytes) -> str | None:
        self._connection.feed(data)
        try:
            while not self._connection.wants_data:
                self._connection.receive()
        except TLSError as exc:
            return exc.reason
        return None

    def data_to_send(self) -> bytes:
        return self._connection.data_to_send()


SIDES = (Bare, Ours)

# What the record layer refuses things for. OpenSSL 3.2 and later keep that to themselves, and
# tests/unit/test_records.py has which one is told where.
REFUSALS = {
    "BAD_RECORD_TYPE",
    "DATA_LENGTH_TOO_LONG",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
    "ENCRYPTED_LENGTH_TOO_LONG",
    "HTTP_REQUEST",
    "LENGTH_TOO_SHORT",
    "PACKET_LENGTH_TOO_LONG",
    "RECORD_LAYER_FAILURE",
    "WRONG_VERSION_NUMBER",
}


def assert_alike(ours: Answer, expected: Answer) -> None:
    """Check that ours is OpenSSL's own answer, but for a reason that it has kept to itself."""
    if expected.error == "RECORD_LAYER_FAILURE":
        assert ours.error in REFUSALS
        expected = attrs.evolve(expected, error=ours.error)
    assert ours == expected


def answer(server: Bare | Ours, data: bytes, size: int) -> Answer:
    """Give a server data in pieces, until it answers."""
    pieces = 0
    error: str | None = None
    answered = 0
    for start in range(0, len(data), size):
        error = server.take(data[start : start + size])
        answered = len(server.data_to_send())
        pieces += 1
        if error or answered:
            break
    return Answer(pieces, error, answered)


def sslv2_hello() -> bytes:
    """A ClientHello in the format of SSLv2 that offers TLS 1.2 (RFC 5246 appendix E.2)."""
    suites = b"".join(b"\0" + suite for suite in (b"\xc0\x2f", b"\xc0\x30", b"\xc0\x2b", b"\0\xff"))
    challenge = bytes(range(16))
    body = b"\x01\x03\x03" + b"".join(
        len(each).to_bytes(2, "big") for each in (suites, b"", challenge)
    )
    body += suites + challenge
    return (0x8000 | len(body)).to_bytes(2, "big") + body


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 100])
@pytest.mark.parametrize(
    "beginning",
    [
        pytest.param(sslv2_hello(), id="SSLv2 hello"),
        pytest.param(b"\x80\x03\x01\x03\x03", id="short SSLv2 hello"),
        pytest.param(b"GET / HTTP/1.1\r\n\r\n", id="HTTP"),
        pytest.param(b"\x16\x03\x01\xff\xff" + bytes(20), id="too long"),
        pytest.param(b"\x16\x03\x01\0\0" * 8, id="empty"),
        pytest.param(b"\x37\x03\x03\0\x20" + bytes(32), id="no type"),
        pytest.param(b"\x17\x03\x03\0\x20" + bytes(32), id="data"),
        pytest.param(b"\x15\x03\x01\0\x02\x02\x28", id="alert"),
        pytest.param(b"\0" * 30, id="zeros"),
    ],
)
def test_before_the_handshake(server_context: ssl.SSLContext, beginning: bytes, size: int) -> None:
    expected, ours = (answer(side(server_context), beginning, size) for side in SIDES)
    assert_alike(ours, expected)


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "nothing": lambda record: record,
    "type 0x37": lambda record: b"\x37" + record[1:],
    "type 0x97": lambda record: b"\x97" + record[1:],
    "type 0": lambda record: b"\0" + record[1:],
    "type 24": lambda record: b"\x18" + record[1:],
    "type 25": lambda record: b"\x19" + record[1:],
    "alert": lambda record: b"\x15" + record[1:],
    "handshake": lambda record: b"\x16" + record[1:],
    "change_cipher_spec": lambda record: b"\x14" + record[1:],
    "version 3.1": lambda record: record[:2] + b"\x01" + record[3:],
    "version 4.3": lambda record: record[:1] + b"\x04" + record[2:],
    "too long": lambda record: record[:3] + b"\xff\xff" + record[5:],
    "a little too long": lambda record: record[:3] + b"\x48\x01" + record[5:],
    "too short": lambda record: record[:3] + b"\0\x01" + record[5:],
    "empty": lambda record: record[:3] + b"\0\0",
    "cut": lambda record: record[:-1],
}


@pytest.mark.parametrize("size", [1, 3, 4, 5, 1000])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_after_the_handshake(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    change: Callable[[bytes], bytes],
    size: int,
) -> None:
    answers = []
    for side in SIDES:
        client, server = TLSConnection(client_context, server_hostname=NAME), side(server_context)
        for _ in range(3):
            assert server.take(client.data_to_send()) is None
            client.feed(server.data_to_send())
            with suppress(TLSError):
                client.receive()
        client.send(b"hello world!!")
        answers.append(answer(server, change(client.data_to_send()), size))
    expected, ours = answers
    assert_alike(ours, expected)
