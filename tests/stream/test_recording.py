"""Recorded conversations: what passed, and what is told of it without keys."""

from __future__ import annotations

import select
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from tests.helpers import (
    NAME,
    both_handshakes,
    client_context_for,
    server_context_for,
    tcp_pair,
    wrap_pair,
)
from trio_tlsbio import TLSError, TLSStream, open_pump
from trio_tlsbio.testing import (
    Conversation,
    Direction,
    Passage,
    RecordedStream,
    flights_of,
    records_of,
)

SENT, RECEIVED = Direction.SENT, Direction.RECEIVED


@asynccontextmanager
async def recorded_pair(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, **options: Any
) -> AsyncIterator[tuple[TLSStream[RecordedStream], TLSStream[Any]]]:
    async with tcp_pair() as (client, server):
        yield wrap_pair(RecordedStream(client), server, client_context, server_context, **options)


def story(conversation: Conversation) -> list[tuple[str, list[str]]]:
    return [
        (flight.direction.value, [str(record) for record in flight.records])
        for flight in conversation.flights
    ]


################################################################
# A handshake on the wire
################################################################


async def test_tls13_handshake(ca: trustme.CA, server_cert: trustme.LeafCert) -> None:
    contexts = client_context_for(ca), server_context_for(server_cert)
    async with recorded_pair(*contexts) as (client, server):
        await both_handshakes(client, server)
        conversation = client.transport_stream.conversation
        encrypted = "application_data (encrypted)"
        flights = story(conversation)
        assert flights[0] == ("sent", ["handshake (ClientHello)"])
        assert flights[1][0] == "received"
        assert flights[1][1][:3] == ["handshake (ServerHello)", "change_cipher_spec", encrypted]
        assert flights[2] == ("sent", ["change_cipher_spec", encrypted])
        sizes = [flight.size for flight in conversation.flights]
        assert conversation.bytes_sent == sizes[0] + sizes[2]
        assert [flight.time for flight in conversation.flights] == sorted(
            flight.time for flight in conversation.flights
        )


async def test_tls12_handshake(ca: trustme.CA, server_cert: trustme.LeafCert) -> None:
    version = ssl.TLSVersion.TLSv1_2
    contexts = client_context_for(ca, version), server_context_for(server_cert, version)
    async with recorded_pair(*contexts) as (client, server):
        await both_handshakes(client, server)
        await client.send_all(b"x")
        assert await server.receive_some() == b"x"
        flights = story(client.transport_stream.conversation)
    assert flights == [
        ("sent", ["handshake (ClientHello)"]),
        (
            "received",
            [
                "handshake (ServerHello)",
                "handshake (Certificate)",
                "handshake (ServerKeyExchange)",
                "handshake (ServerHelloDone)",
            ],
        ),
        (
            "sent",
            ["handshake (ClientKeyExchange)", "change_cipher_spec", "handshake (encrypted)"],
        ),
        (
            "received",
            ["handshake (NewSessionTicket)", "change_cipher_spec", "handshake (encrypted)"],
        ),
        ("sent", ["application_data (encrypted)"]),
    ]


async def test_hello_retry_request(ca: trustme.CA, server_cert: trustme.LeafCert) -> None:
    # The client guesses X25519 first, and this server has P-384 alone. Its second ClientHello comes
    # after its change_cipher_spec, in plaintext all the same.
    client_context, server_context = client_context_for(ca), server_context_for(server_cert)
    server_context.set_ecdh_curve("secp384r1")
    async with recorded_pair(client_context, server_context) as (client, server):
        await both_handshakes(client, server)
        flights = story(client.transport_stream.conversation)
    assert [records[0] for _, records in flights[:2]] == [
        "handshake (ClientHello)",
        "handshake (HelloRetryRequest)",
    ]
    assert "handshake (ClientHello)" in flights[2][1]
    assert flights[3][1][0] == "handshake (ServerHello)"


async def fail_to_shake_hands(stream: TLSStream[Any]) -> None:
    with pytest.raises(TLSError):
        await stream.do_handshake()


async def test_alert_in_plaintext(ca: trustme.CA, server_cert: trustme.LeafCert) -> None:
    contexts = (
        client_context_for(ca, ssl.TLSVersion.TLSv1_2),
        server_context_for(server_cert, ssl.TLSVersion.TLSv1_3),
    )
    async with recorded_pair(*contexts) as (client, server):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fail_to_shake_hands, server)
            nursery.start_soon(fail_to_shake_hands, client)
        assert story(client.transport_stream.conversation)[-1] == (
            "received",
            ["alert (protocol_version)"],
        )


################################################################
# What is kept
################################################################


async def test_everything_is_kept_once() -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    stream = RecordedStream(ours)
    await stream.send_all(b"ab")
    await stream.send_all(b"")
    await theirs.send_all(b"xyz")
    assert await stream.receive_some() == b"xyz"
    await stream.send_eof()
    await theirs.aclose()
    assert await stream.receive_some() == b""
    passages = stream.conversation.passages
    assert [(item.direction, item.data) for item in passages] == [(SENT, b"ab"), (RECEIVED, b"xyz")]
    assert stream.conversation.data(SENT) == b"ab"
    # Letters that are in no address of an object, which the default repr has.
    assert "xyz" not in repr(passages) + repr(stream.conversation) + repr(stream)


async def test_times(autojump_clock: trio.testing.MockClock) -> None:
    conversation = Conversation(100)
    await trio.sleep(3)
    conversation.add(SENT, b"a")
    await trio.sleep(4)
    conversation.add(RECEIVED, b"b")
    assert [item.time for item in conversation.passages] == pytest.approx([3, 7])


async def test_the_beginning_is_kept() -> None:
    conversation = Conversation(5)
    for direction, data in [(SENT, b"abc"), (RECEIVED, b"defg"), (SENT, b"h")]:
        conversation.add(direction, data)
    assert [item.data for item in conversation.passages] == [b"abc", b"de"]
    assert (conversation.bytes_sent, conversation.bytes_received) == (4, 4)
    assert conversation.bytes_not_kept == 3
    wrong: Any
    for wrong, error in ((-1, ValueError), (1.5, TypeError)):
        with pytest.raises(error):
            RecordedStream(trio.testing.memory_stream_pair()[0], max_bytes=wrong)
        with pytest.raises(error):
            Conversation(wrong)


################################################################
# Cutting
################################################################


def handshake(kind: int, body: bytes) -> bytes:
    return bytes([kind]) + len(body).to_bytes(3, "big") + body


def record(content_type: int, body: bytes) -> bytes:
    return bytes([content_type, 3, 3]) + len(body).to_bytes(2, "big") + body


def test_records_and_messages_in_pieces() -> None:
    hello, certificate = handshake(2, b"\x03\x03" + bytes(36)), handshake(11, bytes(50))
    wire = (
        record(22, (hello + certificate)[:20])
        + record(22, (hello + certificate)[20:])
        + record(20, b"\x01")
        + record(22, bytes(40))
        + record(23, b"?")[:-1]
    )
    for step in (1, 7, len(wire)):
        passages = [
            Passage(float(start), RECEIVED, wire[start : start + step])
            for start in range(0, len(wire), step)
        ]
        records = records_of(passages)
        assert [str(item) for item in records] == [
            "handshake",
            "handshake (ServerHello, Certificate)",
            "change_cipher_spec",
            "handshake (encrypted)",
        ]
        assert sum(item.size for item in records) == len(wire) - 5
        if step == 1:
            assert records[0].time == 24.0


def test_what_is_no_tls() -> None:
    passages = [Passage(0, SENT, b"EHLO example\r\n"), Passage(1, RECEIVED, record(22, b"\xff"))]
    records = records_of(passages)
    assert [(item.content_type, item.size) for item in records] == [
        ("unknown", 14),
        ("handshake", 6),
    ]
    assert [flight.direction for flight in flights_of(records)] == [SENT, RECEIVED]
    assert records_of([Passage(0, RECEIVED, record(22, handshake(99, b"")))])[0].messages == (
        "message 99",
    )
    # A ServerHello that is cut short must not stop the reader.
    assert records_of([Passage(0, RECEIVED, record(22, handshake(2, b"\x03")))])[0].messages == (
        "ServerHello",
    )


################################################################
# As a stream, and under a TLSStream
################################################################


async def test_is_a_stream_over_memory() -> None:
    async def make() -> tuple[RecordedStream, RecordedStream]:
        ours, theirs = trio.testing.memory_stream_pair()
        return RecordedStream(ours), RecordedStream(theirs)

    async def make_clogged() -> tuple[RecordedStream, RecordedStream]:
        ours, theirs = trio.testing.lockstep_stream_pair()
        return RecordedStream(ours), RecordedStream(theirs)

    with trio.fail_after(60):
        await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_is_a_stream_over_tcp() -> None:
    async def make() -> tuple[RecordedStream, RecordedStream]:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        async with listener:
            client = await trio.testing.open_stream_to_socket_listener(listener)
            return RecordedStream(client), RecordedStream(await listener.accept())

    async def make_clogged() -> tuple[RecordedStream, RecordedStream]:
        ours, theirs = await make()
        for stream in (ours, theirs):
            tcp = stream.transport_stream
            assert isinstance(tcp, trio.SocketStream)
            # A socket may count as not writable while it still takes a little.
            while stream.send_nowait(bytes(16384)) or select.select([], [tcp.socket], [], 0)[1]:
                pass
        return ours, theirs

    with trio.fail_after(60):
        await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_no_half_close_where_there_is_none() -> None:
    async with tcp_pair() as (client, _server), open_pump(client) as pumped:
        with pytest.raises(TypeError, match="one direction"):
            await RecordedStream(pumped).send_eof()


async def test_cancelled_sends_are_counted(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    data = bytes(range(256)) * 40_000
    received = bytearray()
    async with recorded_pair(client_context, server_context) as (client, server):
        assert client.is_cancel_safe
        await both_handshakes(client, server)
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.send_all, data)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()  # nobody reads: it is stuck half-way
        sent = client.bytes_committed
        assert 0 < sent < len(data)

        async def rest() -> None:
            await client.send_all(data[sent:])
            await client.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(rest)
            async for chunk in server:
                received += chunk
        assert received == data
        assert client.transport_stream.conversation.bytes_sent > len(data)


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_close_leaves_nothing_unread(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, is_cancelled: bool
) -> None:
    # The client closes with the server's greeting unread, and more to come: a socket that is
    # closed so answers with a reset, which can destroy what it has sent.
    data = bytes(50_000)
    with trio.fail_after(20):
        async with recorded_pair(client_context, server_context) as (client, server):
            await both_handshakes(client, server)
            await server.send_all(b"welcome" * 1000)
            await client.send_all(data)
            received = client.transport_stream.conversation

            async def close() -> None:
                with trio.CancelScope() as scope:
                    if is_cancelled:
                        scope.cancel()
                    await client.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(close)
                await trio.testing.wait_all_tasks_blocked()
                assert received.bytes_received > 7000
                if not is_cancelled:
                    await server.send_all(b"more" * 1000)
                assert b"".join([chunk async for chunk in server]) == data
                await server.aclose()
            assert received.bytes_received > (7000 if is_cancelled else 11_000)


async def test_sessions_are_harvested_from_a_silent_server(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with recorded_pair(client_context, server_context) as (client, server):
        await both_handshakes(client, server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose)
            nursery.start_soon(server.aclose)
        assert client.session is not None


async def test_over_tls_over_a_pump_and_over_what_cannot_count(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as (tcp_client, tcp_server):
        outer = wrap_pair(tcp_client, tcp_server, client_context, server_context)
        recorded = RecordedStream(RecordedStream(outer[0]))
        assert recorded.is_cancel_safe
        inner = wrap_pair(recorded, outer[1], client_context, server_context)
        await both_handshakes(*inner)
        await inner[0].send_all(b"hello")
        assert await inner[1].receive_some() == b"hello"
        assert story(recorded.conversation)[0] == ("sent", ["handshake (ClientHello)"])
        await inner[1].send_all(b"!")
        assert await inner[0].receive_some() == b"!"  # and with it the tickets
        assert recorded.receive_nowait() is None
        assert recorded.send_nowait(b"not TLS") == 7
        assert recorded.conversation.bytes_sent == recorded.bytes_committed
        assert not recorded.end_direction()

    ours, theirs = trio.testing.memory_stream_pair()
    plain = RecordedStream(ours)
    assert not plain.is_cancel_safe
    assert plain.send_nowait(b"?") == 0
    client = TLSStream(plain, client_context, server_hostname=NAME)
    server = TLSStream(theirs, server_context, server_side=True)
    assert not client.is_cancel_safe
    await both_handshakes(client, server)
    async with open_pump(ours) as pumped:
        assert RecordedStream(pumped).is_cancel_safe
