"""The pure core: two connections joined by nothing but bytes."""

from __future__ import annotations

import random
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from typing import Any, Literal

import attrs
import pytest
import trustme
from OpenSSL import SSL

from tests.helpers import (
    NAME,
    client_context_for,
    failures,
    server_context_for,
    shake_hands,
)
from trio_tlsbio import CertificateError, PeerAlertError, TLSConnection, TLSError, TruncationError
from trio_tlsbio._core.client_certificate import CertificateRequest
from trio_tlsbio._core.engine import SEAL_BYTES
from trio_tlsbio._core.records import RECORD_BYTES
from trio_tlsbio._stream.transport import SLICE_BYTES
from trio_tlsbio.core import State
from trio_tlsbio.testing import transfer

CHUNKS = pytest.mark.parametrize("chunk", [1, 7, None], ids=["1", "7", "whole"])

BIG = random.Random(0).randbytes(150_000)


def make_pair(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> tuple[TLSConnection, TLSConnection]:
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    return client, server


@pytest.fixture
def pair(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> tuple[TLSConnection, TLSConnection]:
    """A client and a server that have not exchanged a byte."""
    return make_pair(client_context, server_context)


@pytest.fixture
def connected(pair: tuple[TLSConnection, TLSConnection]) -> tuple[TLSConnection, TLSConnection]:
    """A client and a server whose handshake is done."""
    shake_hands(*pair)
    return pair


Pair = tuple[TLSConnection, TLSConnection]


def receive_all(connection: TLSConnection) -> bytes:
    """Return all plaintext that is ready."""
    return b"".join(iter(lambda: connection.receive() or b"", b""))


################################################################
# Data
################################################################


def test_a_new_client_has_its_client_hello_ready(pair: Pair) -> None:
    client, server = pair
    hello = client.data_to_send()
    assert hello[:1] == b"\x16"  # a handshake record
    assert hello[5:6] == b"\x01"  # with a ClientHello
    assert client.data_to_send() == b""
    assert server.data_to_send() == b""


@CHUNKS
def test_data_flows_both_ways_in_any_chunks(pair: Pair, chunk: int | None) -> None:
    client, server = pair
    shake_hands(client, server, chunk)
    client.send(BIG)
    server.send(BIG[::-1])
    transfer(client, server, chunk)
    transfer(server, client, chunk)
    assert server.receive() == BIG
    assert client.receive() == BIG[::-1]
    assert client.receive() is None
    assert server.receive() is None


def test_what_is_sent_before_the_handshake_is_held_and_then_encrypted(pair: Pair) -> None:
    client, server = pair
    client.send(b"early ")
    client.send(b"bird")
    assert client.outbox.held == [b"early ", b"bird"]
    shake = client.data_to_send()
    assert b"early" not in shake
    server.feed(shake)
    server.send(b"me too")
    for _ in range(4):
        transfer(server, client)
        client.do_handshake()
        transfer(client, server)
        server.do_handshake()
    assert not client.outbox.held
    assert receive_all(server) == b"early bird"
    transfer(server, client)
    assert receive_all(client) == b"me too"


def test_a_close_before_the_handshake_follows_what_was_sent(pair: Pair) -> None:
    client, server = pair
    client.send(b"all I have")
    client.send_close_notify()
    assert client.send_state is State.HANDSHAKE
    with pytest.raises(Exception, match="after send_eof"):
        client.send(b"more")
    for _ in range(4):
        transfer(client, server)
        server.do_handshake()
        transfer(server, client)
        client.do_handshake()
    assert server.receive() == b"all I have"
    assert server.receive() == b""
    assert client.send_state is State.CLOSED


def test_receive_returns_up_to_max_bytes_across_records(connected: Pair) -> None:
    client, server = connected
    for part in (b"abc", b"def", b"ghi"):
        client.send(part)
    transfer(client, server)
    assert server.receive(4) == b"abcd"
    assert server.receive(1) == b"e"
    assert server.receive() == b"fghi"
    assert server.receive(1) is None


@pytest.mark.parametrize("bad", [0, -1])
def test_max_bytes_must_be_positive(connected: Pair, bad: int) -> None:
    with pytest.raises(ValueError, match="max_bytes"):
        connected[0].receive(bad)


def test_max_bytes_must_be_an_integer(connected: Pair) -> None:
    bad: Any = 1.5
    with pytest.raises(TypeError):
        connected[0].receive(bad)


def test_a_number_may_be_anything_that_is_an_index(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    class Three:
        def __index__(self) -> int:
            return 3

    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    client.send(b"abcdef")
    transfer(client, server)
    assert server.receive(Three()) == b"abc"  # type: ignore[arg-type]
    assert server.receive() == b"def"


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview], ids=lambda kind: kind.__name__)
def test_all_kinds_of_bytes_are_taken(connected: Pair, kind: Any) -> None:
    client, server = connected
    client.send(kind(b"some"))
    server.feed(kind(client.data_to_send()))
    assert server.receive() == b"some"


def test_a_wide_memoryview_is_sent_as_its_bytes(connected: Pair) -> None:
    client, server = connected
    client.send(memoryview(b"12345678").cast("I"))
    transfer(client, server)
    assert server.receive() == b"12345678"


def test_feeding_a_buffer_that_changes_afterwards_is_safe(connected: Pair) -> None:
    client, server = connected
    client.send(BIG)
    buffer = bytearray(client.data_to_send())
    server.feed(buffer)
    buffer[:] = bytes(len(buffer))
    assert server.receive() == BIG


@pytest.mark.parametrize("kind", ["c", "H"])
def test_ciphertext_may_come_in_a_view_of_any_kind(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, kind: Literal["c", "H"]
) -> None:
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    client.send(b"x")
    client.send(b"xx")  # one of both records has an even number of bytes
    records = list(client.unsent)
    for data in records:
        even = len(data) // 2 * 2
        server.feed(memoryview(bytes(data[:even])).cast(kind))  # type: ignore[arg-type]
        server.feed(data[even:])
    assert server.receive() == b"xxx"


def test_sending_nothing_sends_nothing(connected: Pair) -> None:
    client, server = connected
    client.send(b"")
    assert client.bytes_to_send == 0
    client.send(b"x")
    transfer(client, server)
    assert server.receive() == b"x"


################################################################
# Ciphertext to send
################################################################


def test_sending_can_be_acknowledged_in_parts(connected: Pair) -> None:
    client, server = connected
    client.send(BIG)
    total = client.bytes_to_send
    random_size = random.Random(1)
    sent = 0
    while waiting := b"".join(client.unsent[: random_size.randint(1, 4)]):
        count = random_size.randint(1, len(waiting))
        server.feed(waiting[:count])
        client.mark_sent(count)
        sent += count
        assert client.bytes_to_send == total - sent
    assert sent == total
    assert server.receive() == BIG


def test_what_is_left_of_a_part_goes_first(connected: Pair) -> None:
    client, server = connected
    client.send(b"first ")
    server.feed(client.unsent[0][:3])
    client.mark_sent(3)
    client.send(b"second")
    transfer(client, server)
    assert server.receive() == b"first second"


@pytest.mark.parametrize("count", [-1, 1])
def test_no_more_can_be_acknowledged_than_waits(connected: Pair, count: int) -> None:
    with pytest.raises(ValueError, match="count"):
        connected[0].mark_sent(count)


def test_the_bios_stay_small_whatever_goes_through(connected: Pair) -> None:
    client, server = connected
    client.send(bytes(10 * SLICE_BYTES))
    # Each record was moved out of the BIO before the next went in.
    assert max(map(len, client.unsent)) < 1.1 * RECORD_BYTES
    server.feed(client.data_to_send())
    assert server.receive() == bytes(10 * SLICE_BYTES)


################################################################
# Endings
################################################################


@CHUNKS
def test_each_direction_closes_by_itself(connected: Pair, chunk: int | None) -> None:
    client, server = connected
    client.send(b"that is all")
    client.send_close_notify()
    client.send_close_notify()  # does nothing more
    transfer(client, server, chunk)
    assert server.receive() == b"that is all"
    assert server.receive() == b""
    assert server.receive() == b""
    assert server.send_state is State.OPEN
    server.send(BIG)
    transfer(server, client, chunk)
    assert client.receive() == BIG
    server.send_close_notify()
    transfer(server, client, chunk)
    assert client.receive() == b""
    assert client.receive() == b""
    assert client.trailing_data == server.trailing_data == b""


def test_closing_keeps_what_has_arrived_unread(connected: Pair) -> None:
    client, server = connected
    server.send(BIG)
    transfer(server, client)
    assert client.receive(10) == BIG[:10]
    client.send_close_notify()
    assert client.receive(10) == BIG[10:20]
    assert client.receive() == BIG[20:]
    assert client.receive() is None
    server.send(b"more")
    transfer(server, client)
    assert client.receive() == b"more"
    transfer(client, server)
    assert server.receive() == b""


def test_data_that_was_decrypted_ahead_needs_no_ciphertext(connected: Pair) -> None:
    client, server = connected
    client.send(b"data")
    server.feed(client.data_to_send())
    assert server.look_ahead()
    assert not server.wants_data
    assert server.receive() == b"data"


def test_what_encryption_adds(ca: trustme.CA, server_cert: trustme.LeafCert) -> None:
    tls13 = ssl.TLSVersion.TLSv1_3
    pair = make_pair(client_context_for(ca, tls13), server_context_for(server_cert, tls13))
    shake_hands(*pair)
    pair[0].send(b"data")
    assert len(pair[0].data_to_send()) == 4 + SEAL_BYTES


def test_an_answer_to_a_key_update_is_no_certificate() -> None:
    request: Any = CertificateRequest(None, None)  # type: ignore[arg-type]
    length = 5 + SEAL_BYTES - 5  # the message, in a record
    request.check_answer(b"\x17\x03\x03" + length.to_bytes(2) + bytes(length))
    assert request.answered is None


def test_closing_keeps_data_that_comes_after_a_request_for_a_new_handshake(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)  # the last that renegotiates
    server_cert.configure_cert(context)
    server = SSL.Connection(context, None)
    server.set_accept_state()
    client_context = client_context_for(ca, ssl.TLSVersion.TLSv1_2)
    client = TLSConnection(client_context, server_hostname=NAME)
    while not client.do_handshake():
        server.bio_write(client.data_to_send())
        with suppress(SSL.WantReadError):
            server.do_handshake()
        client.feed(server.bio_read(65536))
    assert client.receive() is None

    assert server.renegotiate()
    server.do_handshake()  # writes a HelloRequest
    server.send(b"data")
    client.feed(server.bio_read(65536))
    client.send_close_notify()
    assert not client.wants_data
    assert client.receive() == b"data"


@CHUNKS
def test_data_after_the_end_is_trailing(connected: Pair, chunk: int | None) -> None:
    client, server = connected
    client.send(b"x")
    client.send_close_notify()
    data = client.data_to_send() + b"in the " + b"clear"
    step = chunk or len(data)
    for start in range(0, len(data), step):
        server.feed(data[start : start + step])
    assert server.trailing_data == b""  # nobody has read as far as the end
    assert server.receive() == b"x"
    assert server.receive() == b""
    assert server.trailing_data == b"in the clear"
    server.feed(b"!")
    server.feed_eof()
    assert server.trailing_data == b"in the clear!"
    assert server.receive() == b""


# Plaintext that looks like a record of a handshake, like the beginning of one, and like none.
@pytest.mark.parametrize("side", ["client", "server"])
@pytest.mark.parametrize(
    "plaintext",
    [b"in the clear", b"\x16\x03\x03\x00\x01x, more", b"\x17\x03\x03\x00\x01x\x16\x03", BIG],
    ids=["text", "a record", "the beginning of a record", "much"],
)
def test_trailing_data_of_a_peer_that_ended_first(
    connected: Pair, side: str, plaintext: bytes
) -> None:
    client, server = connected
    ours, theirs = (client, server) if side == "client" else (server, client)
    theirs.send_close_notify()
    ours.feed(theirs.data_to_send() + plaintext)
    ours.send_close_notify()  # before the peer's was read
    assert ours.receive() == b""
    assert ours.trailing_data == plaintext


def test_trailing_data_of_any_size(connected: Pair) -> None:
    client, server = connected
    client.send_close_notify()
    server.feed(client.data_to_send() + BIG)
    assert server.receive() == b""
    assert server.trailing_data == BIG


@pytest.mark.parametrize(
    "buffer",
    [bytearray(b"abcd"), memoryview(b"a_b_c_d_")[::2], memoryview(b"abcd").cast("H")],
    ids=["bytearray", "not contiguous", "in words"],
)
def test_data_in_any_buffer(connected: Pair, buffer: bytearray | memoryview) -> None:
    client, server = connected
    client.send(buffer)
    record = client.data_to_send()
    spread = bytearray(2 * len(record))
    spread[::2] = record
    server.feed(memoryview(spread)[::2])
    assert server.receive() == b"abcd"


def test_trailing_data_in_any_buffer(connected: Pair) -> None:
    client, server = connected
    client.send_close_notify()
    server.feed(client.data_to_send())
    assert server.receive() == b""
    server.feed(memoryview(b"i_n_ ")[::2])
    server.feed(memoryview(b"the clear!").cast("H"))
    server.feed(bytearray(b"!"))
    assert server.trailing_data == b"in the clear!!"


@pytest.mark.parametrize("ignore_unexpected_eof", [True, False])
def test_truncation_is_never_taken_for_an_end(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, ignore_unexpected_eof: bool
) -> None:
    # Under this option OpenSSL reports a truncation as an end.
    option = getattr(ssl, "OP_IGNORE_UNEXPECTED_EOF", 0x80)
    for context in (client_context, server_context):
        if ignore_unexpected_eof:
            context.options |= option
        else:
            context.options &= ~option
    client, server = make_pair(client_context, server_context)
    shake_hands(client, server)
    client.send(b"half a mess")
    transfer(client, server)
    server.feed_eof()
    assert server.receive() == b"half a mess"
    for _ in range(2):
        with pytest.raises(TruncationError, match="close_notify") as info:
            server.receive()
        assert isinstance(info.value.__cause__, ssl.SSLEOFError)
    assert server.receive_state is State.TRUNCATED


def test_sending_goes_on_after_truncation(connected: Pair) -> None:
    client, server = connected
    server.feed_eof()
    with pytest.raises(TruncationError):
        server.receive()
    server.send(b"still here")
    server.send_close_notify()
    transfer(server, client)
    assert client.receive() == b"still here"
    assert client.receive() == b""


def test_eof_inside_a_record_is_truncation(connected: Pair) -> None:
    client, server = connected
    client.send(b"0123456789")
    server.feed(client.data_to_send()[:-1])
    server.feed_eof()
    with pytest.raises(TruncationError):
        server.receive()


def test_eof_at_every_byte_of_the_handshake(pair: Pair) -> None:
    hello = pair[0].data_to_send()
    server_context = pair[1].ssl_object.context
    for end in range(0, len(hello), 11):
        server = TLSConnection(server_context, server_side=True)
        server.feed(hello[:end])
        server.feed_eof()
        for _ in range(2):
            with pytest.raises(TruncationError, match="during the handshake"):
                server.do_handshake()
        with pytest.raises(TruncationError):
            server.send(b"x")


def test_a_close_notify_in_the_handshake_is_no_clean_end(client_context: ssl.SSLContext) -> None:
    client = TLSConnection(client_context, server_hostname=NAME)
    client.feed(b"\x15\x03\x01\x00\x02\x01\x00")
    for _ in range(2):
        with pytest.raises(PeerAlertError, match="gave up") as info:
            client.receive()
        assert info.value.alert == "close_notify"


def test_feeding_after_eof_is_misuse(connected: Pair) -> None:
    connected[0].feed_eof()
    with pytest.raises(ValueError, match="feed_eof"):
        connected[0].feed(b"x")


################################################################
# Failures
################################################################


def test_wrong_name(ca: trustme.CA, pair: Pair) -> None:
    client = TLSConnection(pair[0].ssl_object.context, server_hostname="other.example")
    client_error, server_error = failures(client, pair[1])
    assert isinstance(client_error, CertificateError)
    assert str(client_error) == (
        f"the certificate is for {NAME}, localhost, 127.0.0.1, not other.example"
    )
    assert client_error.verify_code == 62
    assert isinstance(client_error.__cause__, ssl.SSLCertVerificationError)
    assert isinstance(server_error, PeerAlertError)
    assert server_error.alert == "bad_certificate"


@pytest.mark.parametrize(("count", "end"), [(5, ""), (6, ", ...")])
def test_a_wrong_name_is_told_with_five_at_most(
    count: int, end: str, ca: trustme.CA, client_context: ssl.SSLContext
) -> None:
    names = [f"{number}.example" for number in range(count)]
    context = server_context_for(ca.issue_cert(*names), client_context.minimum_version)
    error, _ = failures(*make_pair(client_context, context))
    assert str(error) == f"the certificate is for {', '.join(names[:5])}{end}, not {NAME}"


def test_unknown_ca(server_context: ssl.SSLContext, tls_version: ssl.TLSVersion) -> None:
    context = client_context_for(trustme.CA(), tls_version)
    client_error, server_error = failures(*make_pair(context, server_context))
    assert isinstance(client_error, CertificateError)
    assert "not trusted here" in str(client_error)
    assert isinstance(server_error, PeerAlertError)
    assert server_error.alert == "unknown_ca"
    assert "does not trust the authority" in str(server_error)


@pytest.mark.parametrize(("days", "words"), [(-1, "has expired"), (2, "not valid yet")])
def test_certificate_of_another_time(
    ca: trustme.CA,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    days: int,
    words: str,
) -> None:
    now = datetime.now(UTC)
    cert = ca.issue_cert(
        NAME,
        not_before=now + timedelta(days=days - 1),
        not_after=now + timedelta(days=days),
    )
    pair = make_pair(client_context, server_context_for(cert, tls_version))
    client_error, server_error = failures(*pair)
    assert isinstance(client_error, CertificateError)
    assert words in str(client_error)
    assert isinstance(server_error, PeerAlertError)


@pytest.mark.parametrize("newer", ["client", "server"])
def test_no_common_version(ca: trustme.CA, server_cert: trustme.LeafCert, newer: str) -> None:
    versions = [ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2]
    if newer == "server":
        versions.reverse()
    pair = make_pair(
        client_context_for(ca, versions[0]), server_context_for(server_cert, versions[1])
    )
    client_error, server_error = failures(*pair)
    assert isinstance(client_error, PeerAlertError)
    assert client_error.alert == "protocol_version"
    assert str(server_error).startswith("the peer offers no TLS version that is allowed here")


def test_missing_client_certificate(pair: Pair, server_context: ssl.SSLContext) -> None:
    server_context.verify_mode = ssl.CERT_REQUIRED
    client_error, server_error = failures(*make_pair(pair[0].ssl_object.context, server_context))
    assert str(server_error) == "the peer sent no client certificate, and one is required"
    assert isinstance(client_error, PeerAlertError)
    assert client_error.alert in ("certificate_required", "handshake_failure")


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "it sent an HTTP request"),
        (b"CONNECT a:1 HTTP/1.1\r\n\r\n", "it sent an HTTP request to a proxy"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the client did not speak TLS"),
        (bytes(64), "the client did not speak TLS"),
    ],
)
def test_a_client_that_does_not_speak_tls(
    server_context: ssl.SSLContext, data: bytes, words: str
) -> None:
    server = TLSConnection(server_context, server_side=True)
    server.feed(data)
    for _ in range(2):
        with pytest.raises(TLSError) as info:
            server.do_handshake()
        assert words in str(info.value)
        assert isinstance(info.value.__cause__, ssl.SSLError)


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"220 mail.example ESMTP\r\n", "text that begins with '220 m'"),
        (b"HTTP/1.1 400 Bad Request\r\n", "text that begins with 'HTTP/'"),
        (b"OK\r\nhello", "text that begins with 'OK\\r\\nh'"),
        (b"abc" + 20_000 * b"d", "text that begins with 'abcdd'"),
        (b"\x1b[2Jx" + bytes(40), None),
        (b"\xc3\xa9\xc3\xa9\xc3\xa9", None),
        (bytes(64), None),
    ],
)
@pytest.mark.parametrize("is_in_one_piece", [True, False])
def test_a_server_that_does_not_speak_tls(
    client_context: ssl.SSLContext, data: bytes, words: str | None, is_in_one_piece: bool
) -> None:
    client = TLSConnection(client_context, server_hostname=NAME)
    if is_in_one_piece:
        client.feed(data)
    else:
        for byte in data[:5]:
            assert client.receive() is None
            client.feed(bytes([byte]))
    for _ in range(2):
        with pytest.raises(TLSError) as info:
            client.receive()
        assert info.value.reason == "WRONG_VERSION_NUMBER"
        message = str(info.value)
        assert message.startswith("the peer does not speak TLS here")
        assert "a plaintext port, or one that requires STARTTLS first" in message
        assert message.isprintable()
        if words is None:
            assert "begins" not in message
        else:
            assert words in message
            assert "plaintext after STARTTLS" in message


def test_text_in_the_middle_of_a_connection_is_not_shown(pair: Pair) -> None:
    client, server = pair
    shake_hands(client, server)
    client.feed(b"220 mail.example ESMTP\r\n")
    with pytest.raises(TLSError) as info:
        client.receive()
    assert "220" not in str(info.value)


@pytest.mark.parametrize("ending", ["bad record", "not TLS", "alert"])
def test_a_failure_stays_in_its_connection(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, ending: str
) -> None:
    client, server = make_pair(client_context, server_context)
    shake_hands(client, server)
    other = TLSConnection(client_context, server_hostname=NAME)
    other.data_to_send()
    if ending == "alert":
        other.feed(b"\x15\x03\x03\x00\x02\x02\x28")
    elif ending == "not TLS":
        other.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    else:
        peer, other = make_pair(client_context, server_context)
        shake_hands(peer, other)
        peer.send(b"x")
        bad = bytearray(peer.data_to_send())
        bad[-1] ^= 1
        other.feed(bad)
    with pytest.raises(TLSError):
        other.receive()
    # The error queue of OpenSSL belongs to the thread.
    client.send(b"hello")
    record = client.data_to_send()
    server.feed(record[:-1])
    assert server.receive() is None
    server.feed(record[-1:])
    assert server.receive() == b"hello"
    server.send_close_notify()
    transfer(server, client)
    assert client.receive() == b""


def test_the_first_error_is_remembered_on_both_sides(connected: Pair) -> None:
    client, server = connected
    client.send(b"good")
    good = client.data_to_send()
    client.send(b"flipped")
    bad = bytearray(client.data_to_send())
    bad[-1] ^= 1
    server.feed(good + bad)
    assert server.receive() == b"good"  # what came before the error is genuine
    errors = []
    for action in (server.receive, server.receive, server.do_handshake, lambda: server.send(b"x")):
        with pytest.raises(TLSError, match="damaged") as info:
            action()
        errors.append(info.value)
    assert len(set(map(id, errors))) == len(errors), "each raise has an exception of its own"
    assert len({id(error.__cause__) for error in errors}) == 1
    assert server.session is None
    transfer(server, client)
    with pytest.raises(PeerAlertError) as alert:
        client.receive()
    assert alert.value.alert == "bad_record_mac"
    assert client.session is None
    server.feed(b"whatever")  # never raises for what the peer sent


def test_what_is_wanted_is_told_until_it_is_aborted(connected: Pair) -> None:
    client, _ = connected
    assert client.receive() is None
    assert client.wants_data
    client.abort(TLSError("it took too long"))
    for call in (client.receive, client.do_handshake, lambda: client.send(b"x")):
        with pytest.raises(TLSError, match="it took too long"):
            call()


def test_what_came_before_an_error_right_behind_the_handshake_is_received(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    version = ssl.TLSVersion.TLSv1_2
    client, server = make_pair(
        client_context_for(ca, version), server_context_for(server_cert, version)
    )
    client.send(b"held until the handshake is done")
    server.feed(client.data_to_send())
    server.do_handshake()
    client.feed(server.data_to_send())
    client.do_handshake()
    server.feed(client.data_to_send())
    server.do_handshake()
    server.send(b"good")
    flight = server.data_to_send()
    server.send(b"flipped")
    bad = bytearray(server.data_to_send())
    bad[-1] ^= 1
    client.feed(flight + bad)
    assert client.receive() == b"good"
    with pytest.raises(TLSError, match="damaged"):
        client.receive()


def test_a_fatal_alert_is_no_clean_end(connected: Pair) -> None:
    # OpenSSL marks the direction as shut down after a fatal alert, just as after a close_notify.
    client, server = connected
    server.feed(b"\x17\x03\x03\x00\x20" + bytes(32))
    with pytest.raises(TLSError):
        server.receive()
    transfer(server, client)
    for _ in range(3):
        with pytest.raises(PeerAlertError):
            client.receive()


################################################################
# Arguments
################################################################


def test_check_hostname_needs_a_name(client_context: ssl.SSLContext) -> None:
    with pytest.raises(ValueError, match="check_hostname"):
        TLSConnection(client_context)


NOT_NAMES = [
    "",
    ".",
    "..",
    ".example",
    "a..b",
    "a..b.ä",
    "a" * 64 + ".example",
    "ä" * 70,
    ".".join(["a" * 62] * 4) + ".ab",
    "a\0b",
    b"a\0b",
    "host:443",
    "https://host",
    "host/",
    "user@host",
    "[::1]",
    "[::1]:443",
    "192.0.2.1%eth0",
    "a%b",
    "\ud800",
    "xn--ä",
    b"\xff",
]


@pytest.mark.parametrize("name", NOT_NAMES)
def test_names_that_are_none(client_context: ssl.SSLContext, name: str | bytes) -> None:
    with pytest.raises(ValueError, match="server_hostname"):
        TLSConnection(client_context, server_hostname=name)


LONGEST_NAME = ".".join(["a" * 62] * 4) + ".a"  # 253 bytes


@pytest.mark.parametrize(
    ("name", "ascii_name"),
    [
        ("example.org", "example.org"),
        (b"example.org", "example.org"),
        ("example.org.", "example.org"),
        ("faß.example", "xn--fa-hia.example"),
        ("BÜCHER.example", "xn--bcher-kva.example"),
        ("under_score.example", "under_score.example"),
        ("a" * 63 + ".example", "a" * 63 + ".example"),
        (LONGEST_NAME, LONGEST_NAME),
        (LONGEST_NAME + ".", LONGEST_NAME),
        ("localhost", "localhost"),
        ("::1", "::1"),
        ("fe80::1%eth0", "fe80::1"),
        (b"fe80::1%eth0", "fe80::1"),
        ("FE80::1%25.x/y", "FE80::1"),
        ("192.0.2.1", "192.0.2.1"),
    ],
)
def test_names_in_their_ascii_form(
    client_context: ssl.SSLContext, name: str | bytes, ascii_name: str
) -> None:
    connection = TLSConnection(client_context, server_hostname=name)
    assert connection.ssl_object.server_hostname == ascii_name


@pytest.mark.parametrize("name", ["fe80::1%eth0", b"fe80::1%eth0", "fe80::1"])
def test_the_zone_of_an_address_stays_on_this_machine(
    ca: trustme.CA,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    name: str | bytes,
) -> None:
    """RFC 4007 section 11.2. The address is what the certificate has to have."""
    names: list[str | None] = []
    server_context = server_context_for(ca.issue_cert("fe80::1"), tls_version)
    client = TLSConnection(client_context, server_hostname=name)
    hello = client.data_to_send()
    assert b"eth0" not in hello
    assert b"fe80" not in hello  # RFC 6066 section 3: there are no addresses in SNI
    server_context.sni_callback = lambda ssl_object, name, context: names.append(name)
    server = TLSConnection(server_context, server_side=True)
    server.feed(hello)
    shake_hands(client, server)
    assert names == [None]
    other = TLSConnection(client_context, server_hostname="fe80::2%eth0")
    error, _ = failures(other, TLSConnection(server_context, server_side=True))
    assert isinstance(error, CertificateError)


def test_arguments_that_do_not_go_together(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    anything: Any = object()
    with pytest.raises(ValueError, match="server_hostname is for clients"):
        TLSConnection(server_context, server_side=True, server_hostname=NAME)
    with pytest.raises(ValueError, match="other side"):
        TLSConnection(client_context, server_side=True)
    with pytest.raises(ValueError, match="other side"):
        TLSConnection(server_context)
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    client_context.minimum_version = ssl.TLSVersion.TLSv1_3
    with pytest.raises(ValueError, match="no TLS version to use"):
        TLSConnection(client_context, server_hostname=NAME)
    with pytest.raises(TypeError, match="ssl_context"):
        TLSConnection(anything)
    with pytest.raises(TypeError, match="server_hostname"):
        TLSConnection(client_context, server_hostname=anything)
    with pytest.raises(TypeError, match="session must be a TLSSession"):
        TLSConnection(client_context, server_hostname=NAME, session=anything)


################################################################
# What it knows
################################################################


def test_handshake_info(pair: Pair, tls_version: ssl.TLSVersion) -> None:
    client, server = pair
    assert client.handshake is None
    assert server.handshake is None
    shake_hands(client, server)
    info = client.handshake
    assert info is not None
    assert info.version == {771: "TLSv1.2", 772: "TLSv1.3"}[tls_version]
    assert "AES" in info.cipher or "CHACHA" in info.cipher
    assert info.cipher_bits in (128, 256)
    assert info.alpn_protocol is None
    assert info.server_hostname == NAME
    assert not info.session_reused
    assert info.peer_certificate is not None
    assert ("DNS", NAME) in info.peer_certificate["subjectAltName"]
    assert info.peer_certificate_chain[0] == client.ssl_object.getpeercert(binary_form=True)
    assert info.matched_name == NAME
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        info.version = "SSLv3"
    info = server.handshake
    assert info is not None
    assert info.server_hostname == NAME
    assert info.peer_certificate is None
    assert info.peer_certificate_chain == ()
    assert info.matched_name is None


@pytest.mark.parametrize(
    ("name", "names", "matched"),
    [
        ("www.site.example", ["*.site.example"], "*.site.example"),
        ("a.b.example", ["*.b.example", "b.example"], "*.b.example"),
        ("WWW.Example", ["www.example"], "www.example"),
        ("127.0.0.1", ["localhost", "127.0.0.1"], "127.0.0.1"),
        ("0:0:0:0:0:0:0:1", ["::1"], "::1"),
    ],
)
def test_which_name_matched(ca: trustme.CA, name: str, names: list[str], matched: str) -> None:
    client = TLSConnection(client_context_for(ca), server_hostname=name)
    server = TLSConnection(server_context_for(ca.issue_cert(*names)), server_side=True)
    shake_hands(client, server)
    assert client.handshake is not None
    assert client.handshake.matched_name == matched


def test_the_certificates_of_a_client_and_its_chain(
    ca: trustme.CA, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    ca.issue_cert("client@example").configure_cert(client_context)
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    client, server = make_pair(client_context, server_context)
    shake_hands(client, server)
    assert server.handshake is not None
    chain = server.handshake.peer_certificate_chain
    assert chain[0] == server.ssl_object.getpeercert(binary_form=True)
    assert len(set(chain)) == len(chain)


def test_alpn(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    client_context.set_alpn_protocols(["h2", "http/1.1"])
    server_context.set_alpn_protocols(["http/1.1"])
    client, server = make_pair(client_context, server_context)
    shake_hands(client, server)
    assert client.handshake is not None
    assert server.handshake is not None
    assert client.handshake.alpn_protocol == server.handshake.alpn_protocol == "http/1.1"


def test_the_repr_tells_both_directions(connected: Pair) -> None:
    client, server = connected
    client.send_close_notify()
    assert repr(client) == "<TLSConnection client: sending closed, receiving open>"
    assert repr(server) == "<TLSConnection server: sending open, receiving open>"


def test_it_has_slots_and_identity(connected: Pair) -> None:
    client: Any = connected[0]
    assert not hasattr(client, "__dict__")
    assert len({*connected, client}) == 2
    with pytest.raises(AttributeError):
        client.no_such_attribute = 1


################################################################
# sslobject_class
################################################################


def test_sslobject_class_is_honoured(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    class Counting(ssl.SSLObject):
        handshakes = 0

        def do_handshake(self) -> None:
            type(self).handshakes += 1
            super().do_handshake()

    client_context.sslobject_class = Counting
    client, server = make_pair(client_context, server_context)
    shake_hands(client, server)
    assert isinstance(client.ssl_object, Counting)
    assert Counting.handshakes >= 2
    client.send(b"works")
    transfer(client, server)
    assert server.receive() == b"works"


def test_openssl_is_asked_only_when_something_came(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    calls = []

    class Counting(ssl.SSLObject):
        def do_handshake(self) -> None:
            calls.append("do_handshake")
            super().do_handshake()

        def read(self, *arguments: Any) -> Any:
            calls.append("read")
            return super().read(*arguments)

    client_context.sslobject_class = Counting
    client, server = make_pair(client_context, server_context)
    for _ in range(5):
        assert not client.do_handshake()
        assert client.receive() is None
    assert calls == ["do_handshake"]
    transfer(client, server)
    server.do_handshake()
    transfer(server, client)
    client.do_handshake()
    if client.handshake is None:  # TLS 1.2 has a flight more
        transfer(client, server)
        server.do_handshake()
        transfer(server, client)
        client.do_handshake()
    assert client.handshake is not None
    assert calls == ["do_handshake"] * (2 if client.handshake.version == "TLSv1.3" else 3)
    calls.clear()
    # In TLS 1.2 a message may follow the Finished in the same record, where nothing shows it; but
    # this one is as short as a Finished alone is.
    assert client.wants_data
    assert client.receive() is None
    assert not calls
    transfer(client, server)
    server.do_handshake()
    server.send(b"one record")
    transfer(server, client)
    client.receive()
    server.send(b"another")
    transfer(server, client)
    calls.clear()
    assert client.receive() == b"another"
    assert client.receive() is None
    assert client.wants_data
    assert calls == ["read"]
    client.feed_eof()
    assert not client.wants_data


@pytest.mark.parametrize("message", [(), ("not to my taste",)], ids=["silent", "with a message"])
def test_an_exception_in_the_handshake_is_described(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, message: tuple[str, ...]
) -> None:
    class Refusing(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            raise ValueError(*message)

    client_context.sslobject_class = Refusing
    error, _ = failures(*make_pair(client_context, server_context))
    assert str(error) == ": ".join(["the connection was refused", "ValueError", *message])


@pytest.mark.parametrize(
    "error",
    [ssl.SSLCertVerificationError("not to my taste"), ValueError("not to my taste")],
    ids=["SSLError", "any"],
)
def test_a_refusal_above_openssl_lets_nothing_more_out(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, error: Exception
) -> None:
    class Pinning(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            raise error

    client_context.sslobject_class = Pinning
    client, server = make_pair(client_context, server_context)
    client.send(b"secret")
    # OpenSSL is content when the client refuses, and has written what it sends last: the Finished
    # in TLS 1.3, which would complete the handshake on the server.
    client_error, server_error = failures(client, server)
    assert client_error is not None
    assert client_error.__cause__ is error
    assert "not to my taste" in str(client_error)
    assert client.handshake is None
    assert client.data_to_send() == b""
    assert server_error is None
    assert client.ssl_object.version() == "TLSv1.2" or server.handshake is None
    with pytest.raises(TLSError):
        client.receive()


def test_what_openssl_wrote_for_its_own_error_goes_out(
    ca: trustme.CA, server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    class Thin(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()

    context = client_context_for(trustme.CA(), tls_version)
    context.sslobject_class = Thin
    _, server_error = failures(*make_pair(context, server_context))
    assert isinstance(server_error, PeerAlertError)
    assert server_error.alert == "unknown_ca"


def test_an_alert_that_openssl_spells_in_another_way(client_context: ssl.SSLContext) -> None:
    client = TLSConnection(client_context, server_hostname=NAME)
    client.feed(b"\x15\x03\x03\x00\x02\x02\x5a")
    with pytest.raises(PeerAlertError) as caught:
        client.do_handshake()
    assert caught.value.alert == "user_canceled"


def test_an_alert_that_no_rfc_has(client_context: ssl.SSLContext) -> None:
    client = TLSConnection(client_context, server_hostname=NAME)
    client.feed(b"\x15\x03\x03\x00\x02\x02\x67")
    with pytest.raises(PeerAlertError, match="an alert of an unknown kind") as caught:
        client.do_handshake()
    assert caught.value.alert == "unknown"
    assert caught.value.error_type == "alert_unknown"


@pytest.mark.parametrize(
    ("number", "name"), [(111, "certificate_unobtainable"), (114, "bad_certificate_hash_value")]
)
def test_alerts_that_nobody_uses_any_more(
    client_context: ssl.SSLContext, number: int, name: str
) -> None:
    client = TLSConnection(client_context, server_hostname=NAME)
    client.feed(b"\x15\x03\x03\x00\x02\x02" + bytes([number]))
    with pytest.raises(PeerAlertError, match="the peer ended the connection: ") as caught:
        client.do_handshake()
    assert caught.value.alert == name
