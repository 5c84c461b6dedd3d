"""What is told apart from TLS by its first bytes, and what OpenSSL makes of it."""

from __future__ import annotations

import ssl

import pytest

from trio_tlsbio import TLSConnection, TLSError
from trio_tlsbio._core.plaintext import begins_with_tls, error_of_plaintext


def verdict(context: ssl.SSLContext, data: bytes) -> tuple[TLSError | None, bytes]:
    """Return why a server refuses ``data``, and its alert."""
    server = TLSConnection(context, server_side=True)
    server.feed(data)
    try:
        server.do_handshake()
    except TLSError as exc:
        return exc, server.data_to_send()
    return None, server.data_to_send()


@pytest.mark.parametrize("second", [0, 2, 3, 4, 0x47])
@pytest.mark.parametrize("third", [0, 1, 3])
def test_what_gets_no_alert_is_no_tls(
    server_context: ssl.SSLContext, second: int, third: int
) -> None:
    """An answer in plaintext never comes after an alert, and never takes the place of one."""
    for first in range(256):
        data = bytes([first, second, third, 0, 16]) + bytes(80)
        begins = begins_with_tls(data)
        assert begins is not None
        error, alert = verdict(server_context, data)
        assert alert == b"" or begins or second == 3, "a record of an unknown type"
        if begins:
            assert alert or error is None
        elif second != 3:
            assert error is not None
            assert not alert
            assert error.reason == error_of_plaintext(data).reason


@pytest.mark.parametrize(
    ("received", "begins"),
    [
        (b"", None),
        (b"G", False),
        (b"\n", False),
        (b"\x16", None),
        (b"\x16\x03", True),
        (b"\x16\x02", False),
        (b"\x15\x03", True),
        (b"\x13", False),
        (b"\x19", False),
        (b"\x80", None),
        (b"\x80\x2e", None),
        (b"\x80\x2e\x01", True),
        (b"\x80\x2e\x02", False),
        ("é".encode(), None),
        ("éa".encode(), False),
    ],
)
def test_the_fewest_bytes_decide(received: bytes, begins: bool | None) -> None:
    assert begins_with_tls(received) is begins


@pytest.mark.parametrize(
    ("received", "words"),
    [
        (b"GET / HTTP/1.1\r\n", "the client did not speak TLS: it sent an HTTP request"),
        (b"OPTIONS * HTTP/1.1\r\n", "the client did not speak TLS: it sent an HTTP request"),
        (b"PRI * HTTP/2.0\r\n", "the client did not speak TLS: it sent an HTTP request"),
        (
            b"CONNECT a.example:443 HTTP/1.1\r\n",
            "the client did not speak TLS: it sent an HTTP request to a proxy",
        ),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the client did not speak TLS"),
        (b"GETTER\r\n", "the client did not speak TLS"),
        (b"G", "the client did not speak TLS"),
    ],
)
def test_words(received: bytes, words: str) -> None:
    assert str(error_of_plaintext(received)) == words
