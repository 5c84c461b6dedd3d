"""Odd circumstances, each of which has broken something once."""

from __future__ import annotations

import gc
import socket
import ssl
import weakref
from collections.abc import Iterator
from typing import Any, Literal, NoReturn

import pytest
import trio
import trio.testing
import trustme
from cryptography import x509

from tests.certificates import Certificate, Issued
from tests.helpers import (
    NAME,
    both_handshakes,
    client_context_for,
    counts_references,
    failures,
    server_context_for,
    shake_hands,
    tcp_pair,
    wrap_pair,
)
from trio_tlsbio import (
    CertificateError,
    PeerAlertError,
    SessionCache,
    TLSConnection,
    TLSError,
    TLSStream,
    TruncationError,
    open_pump,
)
from trio_tlsbio.testing import transfer


@pytest.fixture
def no_garbage_collector() -> Iterator[None]:
    """What is not in a cycle goes at once."""
    gc.disable()
    yield
    gc.enable()


def with_names(names: bytes, ca: trustme.CA) -> Issued:
    """Issue a certificate whose subjectAltName makes no sense."""
    extension = x509.UnrecognizedExtension(
        x509.SubjectAlternativeName.oid, b"\x30" + bytes([len(names)]) + names
    )
    return Certificate(extensions=[(extension, False)]).signed_by(Issued.of(ca))


@pytest.mark.parametrize(
    "subject_alt_name",
    [b"\x82\x03\xff\xfea", b"\x81\x03\xff@a", b"\x87\x03abc"],
    ids=["DNS", "email", "IP"],
)
def test_a_certificate_that_python_can_not_decode(
    ca: trustme.CA, server_cert: trustme.LeafCert, subject_alt_name: bytes
) -> None:
    odd = with_names(subject_alt_name, ca)
    # OpenSSL accepts it from a client.
    client_context = client_context_for(ca)
    odd.load_into(client_context)
    server_context = server_context_for(server_cert)
    server_context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(server_context)
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    assert server.handshake is not None
    assert server.handshake.peer_certificate_chain
    # It is not for any name, so a client refuses it.
    odd_server_context = server_context_for(server_cert)
    odd.load_into(odd_server_context)
    client_error, server_error = failures(
        TLSConnection(client_context_for(ca), server_hostname=NAME),
        TLSConnection(odd_server_context, server_side=True),
    )
    assert isinstance(client_error, CertificateError)
    assert isinstance(server_error, PeerAlertError)


def test_a_certificate_whose_subject_is_no_text(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    """OpenSSL verifies it, and getpeercert() raises an SSLError that has nothing to do with TLS."""
    text, no_text = b"\x0c\x03odd", b"\x30\x03\x0c\x01o"  # a SEQUENCE of one
    issuer = Issued.of(ca)
    odd = Certificate(common_name="odd").signed_by(issuer).changed(text, no_text, issuer)

    client_context = client_context_for(ca)
    odd.load_into(client_context)
    server_context = server_context_for(server_cert)
    server_context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(server_context)
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    assert server.handshake is not None
    assert server.handshake.peer_certificate == {}
    assert server.handshake.peer_certificate_chain[0] == odd.der


async def test_a_default_timeout_of_sockets_holds_up_nothing(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as pair:
        client, server = wrap_pair(*pair, client_context, server_context)
        await both_handshakes(client, server)
        socket.setdefaulttimeout(3600)
        try:
            await trio.aclose_forcefully(client)
            assert await server.receive_some() == b""
        finally:
            socket.setdefaulttimeout(None)


async def test_the_transport_is_closed_whatever_fails(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    def on_session(session: object) -> NoReturn:
        raise KeyError

    async with tcp_pair() as (ours, theirs):
        client = TLSStream(
            ours,
            client_context_for(ca),
            server_hostname=NAME,
            on_session=on_session,
            close_timeout=0,
        )
        server = TLSStream(theirs, server_context_for(server_cert), server_side=True)
        await both_handshakes(client, server)
        await server.send_all(b"x")
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(KeyError):
            await client.aclose()
        assert ours.socket.fileno() == -1


@counts_references
@pytest.mark.usefixtures("no_garbage_collector")
async def test_a_failed_connection_leaves_no_cycle(
    server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    refs = []

    async def fail() -> None:
        ours, theirs = trio.testing.memory_stream_pair()
        client, server = wrap_pair(
            ours, theirs, client_context_for(trustme.CA(), tls_version), server_context
        )
        refs.extend([weakref.ref(client.connection), weakref.ref(server.connection)])

        async def shake_hands(stream: TLSStream[Any]) -> None:
            with pytest.raises(TLSError):
                await stream.do_handshake()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(shake_hands, client)
            nursery.start_soon(shake_hands, server)

    await fail()
    await trio.lowlevel.checkpoint()
    assert [ref() for ref in refs] == [None, None]


################################################################
# Collecting tickets
################################################################


def collecting_pair(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> tuple[TLSConnection, TLSConnection]:
    client = TLSConnection(client_context, server_hostname=NAME, collect_sessions=True)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    return client, server


def test_garbage_is_not_waited_for_to_become_a_record(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    server_context = server_context_for(server_cert)
    server_context.num_tickets = 0
    client, _ = collecting_pair(client_context_for(ca), server_context)
    client.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(TLSError, match="does not speak TLS"):
        client.receive()


def test_a_ticket_that_comes_with_data_is_found_at_the_end(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    server_context = server_context_for(server_cert)
    server = TLSConnection(server_context, server_side=True)
    client = TLSConnection(client_context_for(ca), server_hostname=NAME, collect_sessions=True)
    transfer(client, server)
    server.do_handshake()
    transfer(server, client)
    client.do_handshake()
    transfer(client, server)
    server.do_handshake()
    tickets = server.data_to_send()
    client.receive()
    client._by_record = False  # as after data
    server.send(b"data")
    client.feed(tickets + server.data_to_send())
    assert client.receive() == b"data"
    assert client.new_sessions() == []
    client.look_for_session()
    assert len(client.new_sessions()) == 1


def test_tickets_without_end_are_not_all_looked_at(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    server_context = server_context_for(server_cert)
    server_context.num_tickets = 100
    client, _ = collecting_pair(client_context_for(ca), server_context)
    assert 8 <= len(client.new_sessions()) <= 16


async def test_a_cache_finds_the_ticket_of_a_server_that_greets_first(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    cache = SessionCache()
    async with tcp_pair() as (ours, theirs):
        client = TLSStream(
            ours,
            client_context,
            server_hostname=NAME,
            on_session=lambda session: cache.put(session, 1, now=0),
        )
        server = TLSStream(theirs, server_context, server_side=True)
        await both_handshakes(client, server)
        await server.send_all(b"welcome")
        assert await client.receive_some() == b"welcome"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose)
            nursery.start_soon(server.aclose)
    assert len(cache) >= 1


################################################################
# Refusals above OpenSSL
################################################################


def test_a_refusal_by_an_openssl_error_of_its_own_lets_nothing_out(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    class Verifier(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            ssl.create_default_context(cadata="no certificate")  # fails in OpenSSL

    client_context = client_context_for(ca)
    client_context.sslobject_class = Verifier
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context_for(server_cert), server_side=True)
    client_error, server_error = failures(client, server)
    assert client_error is not None
    assert server_error is None
    assert server.handshake is None


def test_an_interruption_in_a_refusal_lets_nothing_out(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    class Interrupted(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            raise KeyboardInterrupt

    client_context = client_context_for(ca)
    client_context.sslobject_class = Interrupted
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context_for(server_cert), server_side=True)
    transfer(client, server)
    server.do_handshake()
    transfer(server, client)
    with pytest.raises(KeyboardInterrupt):
        client.do_handshake()
    assert client.data_to_send() == b""


################################################################
# Renegotiation
################################################################


def test_a_connection_that_ends_in_a_renegotiation_holds_nothing_for_ever(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    version = ssl.TLSVersion.TLSv1_2
    client = TLSConnection(client_context_for(ca, version), server_hostname=NAME)
    server = TLSConnection(server_context_for(server_cert, version), server_side=True)
    shake_hands(client, server)
    client.held.append(b"as in a renegotiation")
    client._ssl_object = WantsRead(client._ssl_object)  # type: ignore[assignment]
    client.feed_eof()
    with pytest.raises(TruncationError, match="renegotiated"):
        client.do_handshake()
    assert not client.held


class WantsRead:
    """An SSLObject in the midst of a handshake."""

    def __init__(self, ssl_object: ssl.SSLObject) -> None:
        self._ssl_object = ssl_object

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ssl_object, name)

    def write(self, data: Any) -> NoReturn:
        raise ssl.SSLWantReadError


################################################################
# The pump
################################################################


async def test_closing_over_a_pump_is_bounded(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    async with open_pump(ours) as pumped:
        client = TLSStream(pumped, client_context, server_hostname=NAME, close_timeout=3)
        server = TLSStream(theirs, server_context, server_side=True)
        await both_handshakes(client, server)
        ours.send_stream.send_all_hook = trio.sleep_forever
        await client.send_all(b"stuck")
        start = trio.current_time()
        await client.aclose()
        assert trio.current_time() - start <= 3


async def test_the_stream_of_a_pump_that_has_ended_says_so() -> None:
    ours, _ = trio.testing.memory_stream_pair()
    ours.send_stream.send_all_hook = trio.sleep_forever
    with trio.CancelScope() as scope:
        async with open_pump(ours) as pumped:
            await pumped.send_all(b"stuck")
            scope.cancel()
    with pytest.raises(trio.ClosedResourceError, match="open_pump"):
        await pumped.send_all(b"x")
    await pumped.aclose()


async def test_a_truncation_below_tls_in_tls_is_a_truncation(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as (ours, theirs):
        inner = wrap_pair(ours, theirs, client_context, server_context)
        client, server = wrap_pair(*inner, client_context, server_context)
        await both_handshakes(client, server)
        ours.socket.shutdown(socket.SHUT_WR)
        for _ in range(2):
            with pytest.raises(TruncationError):
                await server.receive_some()


async def test_what_can_not_be_sent_any_more_keeps_nobody_busy(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    client_context, server_context = client_context_for(ca), server_context_for(server_cert)
    client_context.post_handshake_auth = server_context.post_handshake_auth = True
    server_context.verify_mode = ssl.CERT_OPTIONAL
    async with tcp_pair() as (ours, theirs):
        client, server = wrap_pair(ours, theirs, client_context, server_context)
        await both_handshakes(client, server)
        await server.send_all(b"tickets first")
        await client.receive_some()
        await ours.send_eof()
        server.connection.verify_client_post_handshake()
        await server.send_all(b"")

        async def receive() -> None:
            with pytest.raises(trio.ClosedResourceError):
                await client.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(receive)
            with trio.fail_after(5):  # a task that spins is never blocked
                await trio.testing.wait_all_tasks_blocked(0.05)
            assert client.connection.unsent  # the answer, which nobody can send any more
            await trio.aclose_forcefully(client)


@counts_references  # by the views of it
async def test_a_send_leaves_the_buffer_of_the_caller_alone(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as (ours, theirs):
        client, server = wrap_pair(ours, theirs, client_context, server_context)
        await both_handshakes(client, server)
        buffer = bytearray(50_000_000)
        before = client.bytes_committed
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, buffer)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        del buffer[: client.bytes_committed - before]
        await trio.aclose_forcefully(theirs)
        try:
            await client.send_all(buffer)
        except trio.BrokenResourceError:
            buffer.clear()
        assert not buffer


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


def test_reading_to_the_last_byte_is_not_taken_for_a_ticket(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    client = TLSConnection(client_context_for(ca), server_hostname=NAME, collect_sessions=True)
    server = TLSConnection(server_context_for(server_cert), server_side=True)
    shake_hands(client, server)
    client.receive()
    looks = client._looks_left
    for _ in range(20):
        server.send(b"three")
        transfer(server, client)
        client.feed(b"")
        assert client.receive(5) == b"three"
        assert client.receive(5) is None
    assert client._looks_left == looks
