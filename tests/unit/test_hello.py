"""Servers whose context looks at names read the ClientHello before OpenSSL does."""

from __future__ import annotations

import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

import pytest
import trustme

from tests.hellos import Hello, fragments, hello_of
from tests.helpers import (
    NAME,
    client_context_for,
    failure,
    failures,
    server_context_for,
    server_of,
    shake_hands,
)
from trio_tlsbio import ClientHello, PeerAlertError, TLSConnection, TLSError, contexts_by_name
from trio_tlsbio._core.client_hello import MAX_HELLO_BYTES
from trio_tlsbio._core.hello import HelloWatch
from trio_tlsbio.testing import transfer

# As long as NAME, so that it can take its place.
NOT_ASCII = b"\xff\n\r\x1b[31m\xe4.com!"
assert len(NOT_ASCII) == len(NAME)

UNRECOGNIZED_NAME = b"\x15\x03\x03\x00\x02\x02\x70"
ILLEGAL_PARAMETER = b"\x15\x03\x03\x00\x02\x02\x2f"
WARNING = b"\x15\x03\x01\x00\x02\x01\x5a"  # user_canceled


Server = Callable[[], TLSConnection]


@pytest.fixture(params=["chosen by name", "callback"])
def new_server(request: pytest.FixtureRequest, server_context: ssl.SSLContext) -> Server:
    """Make servers that look at names, in one way or the other."""
    if request.param == "callback":
        server_context.sni_callback = lambda *_: None
        return partial(server_of, server_context)
    return partial(server_of, contexts_by_name({NAME: server_context}))


@pytest.fixture(autouse=True)
def unraisable(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[object]]:
    """Fail if something is raised where nobody can catch it, which goes to stderr."""
    seen: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", lambda args: seen.append(args.exc_value))
    yield seen
    assert not seen


def feed(server: TLSConnection, data: bytes, chunk: int | None = None) -> None:
    for start in range(0, len(data), chunk or len(data) or 1):
        server.feed(data[start : start + chunk if chunk else None])
        with suppress(TLSError):
            server.do_handshake()


################################################################
# Names that are not ASCII
################################################################


@pytest.mark.parametrize("chunk", [1, 7, None])
@pytest.mark.parametrize("size", [1, 100, 10000])
def test_name_that_is_not_ascii_is_refused_in_plain_words(
    size: int, chunk: int | None, client_context: ssl.SSLContext, new_server: Server
) -> None:
    """CPython would print a traceback, and send internal_error."""
    hello = hello_of(client_context, NAME).replace(NAME.encode(), NOT_ASCII)
    server = new_server()
    feed(server, fragments(hello, size) + b"and so on", chunk)
    for _ in range(2):
        with pytest.raises(TLSError) as caught:
            server.do_handshake()
        assert str(caught.value) == (
            r"the peer asked for \xff\n\r\x1b[31m\xe4.com!, which is not a host name: it is not "
            r"ASCII"
        )
        assert caught.value.error_type == "unrecognized_name"
        with pytest.raises(TLSError, match="not ASCII"):
            server.receive()
    assert server.data_to_send() == UNRECOGNIZED_NAME


@pytest.mark.parametrize("position", range(len(NAME)))
def test_a_single_letter_is_enough(
    position: int, client_context: ssl.SSLContext, new_server: Server
) -> None:
    name = bytearray(NAME, "ascii")
    name[position] |= 0x80
    server = new_server()
    server.feed(hello_of(client_context, NAME).replace(NAME.encode(), name))
    with pytest.raises(TLSError, match="not ASCII"):
        server.do_handshake()
    client = TLSConnection(client_context, server_hostname=NAME)
    transfer(server, client)
    with pytest.raises(PeerAlertError) as caught:
        client.do_handshake()
    assert caught.value.alert == "unrecognized_name"


def test_name_that_is_not_served_is_told_in_printable_characters(
    client_context: ssl.SSLContext, server_cert: trustme.LeafCert, tls_version: ssl.TLSVersion
) -> None:
    server = server_of(contexts_by_name({NAME: server_context_for(server_cert, tls_version)}))
    server.feed(hello_of(client_context, NAME).replace(NAME.encode(), b"\n\r\x1b[31mred.com"))
    with pytest.raises(TLSError) as caught:
        server.do_handshake()
    assert str(caught.value) == (
        r"the peer asked for \n\r\x1b[31mred.com, which is not served here "
        "(alert unrecognized_name)"
    )


def test_warnings_between_the_pieces_change_nothing(
    client_context: ssl.SSLContext, new_server: Server
) -> None:
    hello = hello_of(client_context, NAME).replace(NAME.encode(), NOT_ASCII)
    pieces = fragments(hello, 100)
    server = new_server()
    server.feed(pieces[:105] + WARNING + pieces[105:])
    with pytest.raises(TLSError, match="not ASCII"):
        server.do_handshake()
    assert server.data_to_send() == UNRECOGNIZED_NAME


@pytest.mark.parametrize(
    ("name", "message", "alert"),
    [
        (NOT_ASCII, "not ASCII", UNRECOGNIZED_NAME),
        (b"ghost." + NAME.encode()[6:], "another name in its second", ILLEGAL_PARAMETER),
    ],
    ids=["not ASCII", "another"],
)
@pytest.mark.parametrize("size", [1, 100, 10000])
def test_second_hello_is_looked_at_too(
    size: int,
    name: bytes,
    message: str,
    alert: bytes,
    ca: trustme.CA,
    server_cert: trustme.LeafCert,
) -> None:
    """TLS 1.3, where the server wants another key share. OpenSSL asks for the context again."""
    server_context = server_context_for(server_cert)
    server_context.set_ecdh_curve("secp384r1")
    client = TLSConnection(client_context_for(ca), server_hostname=NAME)
    server = server_of(contexts_by_name({NAME: server_context}))
    transfer(client, server)
    assert not server.do_handshake()
    transfer(server, client)
    assert not client.do_handshake()
    second = client.data_to_send()
    ccs, hello = second[:6], second[6:]
    assert (ccs[0], hello[0], hello[5]) == (20, 22, 1)
    feed(server, ccs + fragments(hello.replace(NAME.encode(), name), size))
    with pytest.raises(TLSError, match=message):
        server.do_handshake()
    assert server.data_to_send() == alert


def test_second_hello_in_the_same_record_is_looked_at_too(
    client_context: ssl.SSLContext, new_server: Server
) -> None:
    hello = hello_of(client_context, NAME)
    other = hello.replace(NAME.encode(), b"ghost." + NAME.encode()[6:])
    messages = hello[5:] + other[5:]
    server = new_server()
    feed(server, hello[:3] + len(messages).to_bytes(2) + messages)
    with pytest.raises(TLSError, match="another name in its second"):
        server.do_handshake()
    assert server.data_to_send() == ILLEGAL_PARAMETER


@pytest.mark.parametrize("chunk", [1, None])
def test_second_hello_that_is_malformed_is_judged_by_openssl(
    chunk: int | None, ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    server_context = server_context_for(server_cert)
    server_context.set_ecdh_curve("secp384r1")
    client = TLSConnection(client_context_for(ca), server_hostname=NAME)
    server = server_of(contexts_by_name({NAME: server_context}))
    transfer(client, server)
    assert not server.do_handshake()
    transfer(server, client)
    assert not client.do_handshake()
    flight = client.data_to_send()
    hello = Hello.of(flight[11:]).with_extension(10, b"\0\1x")  # supported_groups
    server.data_to_send()
    feed(server, flight[:6] + hello.record, chunk)
    with pytest.raises(TLSError, match="a malformed handshake message"):
        server.do_handshake()
    assert server.data_to_send()[-2:] == b"\x02\x32"  # decode_error


################################################################
# All the others
################################################################


@pytest.mark.parametrize("chunk", [1, 7, None])
@pytest.mark.parametrize("size", [1, 100, 10000])
@pytest.mark.parametrize("retries", [False, True])
def test_a_hello_in_pieces(
    retries: bool,
    size: int,
    chunk: int | None,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    new_server: Server,
) -> None:
    if retries:
        server_context.set_ecdh_curve("secp384r1")
    client = TLSConnection(client_context, server_hostname=NAME)
    server = new_server()
    feed(server, fragments(client.data_to_send(), size), chunk)
    shake_hands(client, server, chunk)
    assert server.handshake is not None
    assert server.handshake.server_hostname == NAME
    client.send(b"x" * 50_000)
    transfer(client, server, chunk)
    assert server.receive() == b"x" * 50_000


def test_sessions_are_resumed(client_context: ssl.SSLContext, new_server: Server) -> None:
    """In TLS 1.2 the client's Finished, which is encrypted, comes in a record of the same type."""
    session = None
    for number in range(50):
        client = TLSConnection(client_context, server_hostname=NAME, session=session)
        server = new_server()
        shake_hands(client, server)
        assert server.handshake is not None
        assert server.handshake.session_reused == (number > 0)
        session = client.session


def test_a_callback_of_ones_own_is_called_as_ever(
    ca: trustme.CA, client_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    """It may put another context in, or return an alert."""
    contexts = {
        name: server_context_for(ca.issue_cert(name), tls_version)
        for name in ("a.example", "b.example")
    }
    base = contexts["a.example"]
    asked: list[str | None] = []

    def choose(ssl_object: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> int | None:
        assert context is base
        asked.append(name)
        if name not in contexts:
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        ssl_object.context = contexts[name]
        return None

    base.sni_callback = choose
    for name in ("a.example", "b.example"):
        client = TLSConnection(client_context, server_hostname=name)
        server = server_of(base)
        shake_hands(client, server)  # the client verifies the name
        assert server.handshake is not None
        assert server.handshake.server_hostname == name
    client = TLSConnection(client_context, server_hostname="c.example")
    refusal, _ = failures(client, server_of(base))
    assert isinstance(refusal, PeerAlertError)
    assert refusal.alert == "unrecognized_name"
    assert asked == ["a.example", "b.example", "c.example"]


STRANGE = {
    "nothing": b"",
    "half a record": b"\x16\x03\x01\x02",
    "half a hello": b"\x16\x03\x01\x00\x05\x01\x00\x00\xff\x03",
    "HTTP": b"GET / HTTP/1.1\r\n\r\n",
    "SSH": b"SSH-2.0-OpenSSH_9.2\r\n",
    "a fatal alert": b"\x15\x03\x03\x00\x02\x02\x28",
    "a close_notify": b"\x15\x03\x03\x00\x02\x01\x00",
    "a fatal alert in the hello": b"\x16\x03\x01\x00\x05\x01\x00\x00\xff\x03"
    b"\x15\x03\x03\x00\x02\x02\x28",
    "a close_notify in the hello": b"\x16\x03\x01\x00\x05\x01\x00\x00\xff\x03"
    b"\x15\x03\x03\x00\x02\x01\x00",
    "data": b"\x17\x03\x03\x00\x05hello",
    "another message": b"\x16\x03\x03\x00\x04\x14\x00\x00\x00",
    "a malformed hello": b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00",
    "empty records": b"\x16\x03\x01\x00\x00" * 40,
    "warnings": WARNING * 10,
    "change_cipher_spec": b"\x14\x03\x03\x00\x01\x01" * 40,
    "another version": b"\x16\x02\x01\x00\x05\x01\x00\x00\x01\x00",
    "SSL 2": b"\x80\x2e\x01\x03\x01\x00\x15\x00\x00\x00\x10" + bytes(40),
}


@pytest.mark.parametrize("ends", [False, True])
@pytest.mark.parametrize("chunk", [1, None])
@pytest.mark.parametrize("name", STRANGE)
def test_what_is_no_hello_is_judged_by_openssl(
    name: str,
    chunk: int | None,
    ends: bool,
    server_cert: trustme.LeafCert,
    tls_version: ssl.TLSVersion,
) -> None:
    """At once, and in its words, as where no names count."""
    plain_context, context = (server_context_for(server_cert, tls_version) for _ in range(2))
    context.sni_callback = lambda *_: None
    seen = []
    for each in plain_context, context:
        server = TLSConnection(each, server_side=True)
        feed(server, STRANGE[name], chunk)
        if ends:
            server.feed_eof()
        seen.append((repr(failure(server)), server.wants_data, server.data_to_send()))
    assert seen[0] == seen[1]


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\x04\x01\x01\x00\x00",
        (b"\x16\x03\x01\x00\x04\x01\x00\xff\x00" + b"\x16\x03\x01\x00\x01x" * MAX_HELLO_BYTES),
        (b"\x16\x03\x01\x00\x04\x01\x00\xff\x00" + WARNING * MAX_HELLO_BYTES),
        (b"\x16\x03\x01\x00\x04\x01\x00\xff\x00" + b"\x16\x03\x01\x00\x00" * MAX_HELLO_BYTES),
    ],
    ids=["it says so", "it comes", "among warnings", "empty records"],
)
def test_hello_without_end_is_not_kept(data: bytes, new_server: Server) -> None:
    server = new_server()
    server.feed(data)
    with suppress(TLSError):
        while not server.do_handshake() and server.is_behind:
            pass  # one call does a share of it
    with pytest.raises(TLSError, match="a ClientHello of more than 64 KiB") as caught:
        server.do_handshake()
    assert caught.value.error_type == "excessive_message_size"
    assert server.data_to_send() == ILLEGAL_PARAMETER


@pytest.mark.parametrize("change", [0x01, 0x80, 0xFF])
def test_no_name_that_openssl_finds_is_overlooked(
    change: int,
    client_context: ssl.SSLContext,
    server_cert: trustme.LeafCert,
    tls_version: ssl.TLSVersion,
    unraisable: list[object],
) -> None:
    """Each byte of a hello is changed in turn."""
    told: list[str | None] = []
    context = server_context_for(server_cert, tls_version)
    context.sni_callback = lambda _object, name, _context: told.append(name)
    record = hello_of(client_context, NAME)
    for position in range(5, len(record)):
        changed = bytearray(record)
        changed[position] ^= change
        incoming = ssl.MemoryBIO()
        incoming.write(changed)
        with suppress(ssl.SSLError):
            context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
        name = None
        with suppress(ValueError):
            name = ClientHello.parse(bytes(changed[5:])).requested_name
        if unraisable:
            assert name is not None
            assert not name.isascii()
            unraisable.clear()
        elif told and told.pop() is not None:
            assert name is not None


def test_its_repr_has_nothing_of_the_client() -> None:
    watch = HelloWatch()
    watch.add(b"\x16\x03\x01\x00\x04\x01\x00\x00\xff")
    assert "01" not in repr(watch)


@pytest.mark.parametrize("more", [0, 1])
def test_hello_may_be_as_long_as_the_bound_and_no_longer(more: int) -> None:
    # With the header of its message, and apart from those of the records.
    watch = HelloWatch()
    length = MAX_HELLO_BYTES + more - 4
    watch.add(b"\x16\x03\x01\x00\x04\x01" + length.to_bytes(3))
    assert (watch.refusal is None) == (not more)

    # With the headers of its records.
    watch = HelloWatch()
    left = MAX_HELLO_BYTES + more
    watch.add(b"\x16\x03\x01\x00\x04\x01\x00\xff\xf0")
    left -= 9
    while left:
        size = min(left, 16384 + 5)
        watch.add(b"\x16\x03\x01" + (size - 5).to_bytes(2) + bytes(size - 5))
        left -= size
    assert (watch.refusal is None) == (not more)
