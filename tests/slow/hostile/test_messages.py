"""Handshake messages after the handshake: those that make no sense, and those that ask for much."""

from __future__ import annotations

import socket

import pytest
import trio

from fuzz._forge import (
    ALERT,
    APPLICATION_DATA,
    CERTIFICATE,
    CERTIFICATE_REQUEST,
    CLIENT_HELLO,
    END_OF_EARLY_DATA,
    FINISHED,
    HANDSHAKE,
    HELLO_REQUEST,
    KEY_UPDATE,
    NEW_SESSION_TICKET,
    SERVER_HELLO,
    TICKET,
    UPDATE_NOT_REQUESTED,
    UPDATE_REQUESTED,
    Keys13,
    handshake,
)
from tests.helpers import both_handshakes, tcp_pair, wrap_pair
from tests.tables import Tables
from trio_tlsbio import TLSStream

from .cases import NO_MESSAGE, Arenas, Case, Ends, Goes, Say, both, sealed
from .peer import Arena, HostileEnd, HostilePeer, outcome_of

UNEXPECTED = Ends(NO_MESSAGE, "unexpected_message")
TOO_LARGE = Ends(
    "the peer sent a handshake message that is longer than OpenSSL allows"
    " (100 KiB for its certificates)",
    "illegal_parameter",
)
REQUEST = handshake(CERTIFICATE_REQUEST, b"\0" + bytes.fromhex("0008 000d 0004 0002 0403"))


def byte_by_byte(message: bytes) -> Say:
    return lambda peer: b"".join(peer.seal(HANDSHAKE, bytes([byte])) for byte in message)


CASES = [
    *(
        both(name, sealed(HANDSHAKE, handshake(kind, body)), UNEXPECTED, victims=victims)
        for name, kind, body, victims in [
            ("a ClientHello", CLIENT_HELLO, bytes(50), ["client"]),
            ("a ServerHello", SERVER_HELLO, bytes(50), ["client", "server"]),
            ("a Certificate", CERTIFICATE, bytes(4), ["client", "server"]),
            ("a Finished", FINISHED, bytes(48), ["client", "server"]),
            ("an EndOfEarlyData", END_OF_EARLY_DATA, b"", ["client", "server"]),
            ("a message of type 99", 99, b"body", ["client", "server"]),
            ("a HelloRequest", HELLO_REQUEST, b"", ["server"]),
            ("a NewSessionTicket", NEW_SESSION_TICKET, bytes(20), ["server"]),
        ]
    ),
    Case(
        "a ClientHello",
        sealed(HANDSHAKE, handshake(CLIENT_HELLO, bytes(50))),
        None,
        UNEXPECTED,
        ["server"],
    ),
    Case(
        "a HelloRequest",
        sealed(HANDSHAKE, handshake(HELLO_REQUEST, b"")),
        None,
        UNEXPECTED,
        ["client"],
    ),
    both(
        "a CertificateRequest that the client did not offer to answer",
        sealed(HANDSHAKE, REQUEST),
        UNEXPECTED,
    ),
    Case("100 tickets", sealed(HANDSHAKE, TICKET, times=100), UNEXPECTED, Goes(), ["client"]),
    Case(
        "100 tickets in one record", sealed(HANDSHAKE, TICKET * 100), UNEXPECTED, Goes(), ["client"]
    ),
    Case("a ticket in records of 1 byte", byte_by_byte(TICKET), UNEXPECTED, Goes(), ["client"]),
    Case(
        "a ticket that is cut",
        sealed(HANDSHAKE, handshake(NEW_SESSION_TICKET, TICKET[4:8])),
        UNEXPECTED,
        Ends("the peer sent a malformed handshake message", "decode_error"),
        ["client"],
    ),
    Case(
        "a ticket that says it has 16 MiB",
        sealed(HANDSHAKE, handshake(NEW_SESSION_TICKET, b"", 0xFFFFFF)),
        UNEXPECTED,
        TOO_LARGE,
        ["client"],
    ),
    Case("a KeyUpdate", sealed(HANDSHAKE, UPDATE_NOT_REQUESTED), UNEXPECTED, None),
    Case(
        "a KeyUpdate of value 2",
        sealed(HANDSHAKE, handshake(KEY_UPDATE, b"\x02")),
        UNEXPECTED,
        Ends("the peer sent a malformed handshake message", "illegal_parameter"),
    ),
    Case(
        "a KeyUpdate of 2 bytes",
        sealed(HANDSHAKE, handshake(KEY_UPDATE, b"\0\0")),
        UNEXPECTED,
        TOO_LARGE,
    ),
    Case(
        "two KeyUpdates in one record",
        sealed(HANDSHAKE, UPDATE_NOT_REQUESTED * 2),
        UNEXPECTED,
        Ends("the peer changed its keys in the middle of a record", "unexpected_message"),
    ),
    Case(
        "the beginning of a message, then data",
        lambda peer: peer.seal(HANDSHAKE, b"\x04\0") + peer.seal(APPLICATION_DATA, b"data"),
        None,
        Ends("the peer sent a record in the middle of a handshake message", "unexpected_message"),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name}-{len(case.victims)}")
def test_message(case: Case, arenas: Arenas, tables: Tables) -> None:
    case.run(arenas)
    case.tell(tables, "hostile-messages")


################################################################
# KeyUpdate
################################################################


def update(peer: HostilePeer, *, requested: bool = True) -> bytes:
    """Say a KeyUpdate, and go on under the new keys."""
    said = peer.seal(HANDSHAKE, UPDATE_REQUESTED if requested else UPDATE_NOT_REQUESTED)
    assert isinstance(peer.ours, Keys13)
    peer.ours.update()
    return said


def hear_updates(peer: HostilePeer, data: bytes) -> int:
    """Hear answers, each under the keys that the one before has begun, and return how many."""
    peer.hear(data)
    count = len(peer.heard)
    assert peer.heard == [(HANDSHAKE, UPDATE_NOT_REQUESTED)] * count
    peer.heard.clear()
    return count


def test_each_key_update_is_answered(arena13: Arena) -> None:
    peer, victim = arena13.establish()
    victim.feed(b"".join(update(peer) for _ in range(1000)))
    assert outcome_of(victim).error is None
    # OpenSSL keeps the last one until it has data to send, as RFC 9846 section 4.7.3 allows.
    assert hear_updates(peer, victim.data_to_send()) == 999
    victim.feed(update(peer, requested=False) + peer.seal(APPLICATION_DATA, b"goes on"))
    assert outcome_of(victim).data == b"goes on"
    assert hear_updates(peer, victim.data_to_send()) == 1
    victim.send(b"both ways")
    peer.hear(victim.data_to_send())
    assert peer.heard == [(APPLICATION_DATA, b"both ways")]


def test_a_key_update_under_the_old_keys_is_followed_by_new_ones(arena13: Arena) -> None:
    peer, victim = arena13.establish()
    victim.feed(peer.seal(HANDSHAKE, UPDATE_REQUESTED) + peer.seal(APPLICATION_DATA, b"old keys"))
    assert "damaged" in outcome_of(victim).words


def test_after_our_end_no_key_update_is_answered(arena13: Arena) -> None:
    peer, victim = arena13.establish()
    victim.send_close_notify()
    peer.hear(victim.data_to_send())
    assert peer.heard == [(ALERT, b"\x01\x00")]
    updates = b"".join(update(peer) for _ in range(3))
    victim.feed(updates + peer.seal(APPLICATION_DATA, b"goes on"))
    assert outcome_of(victim).data == b"goes on"
    assert victim.bytes_answered == 0
    assert victim.data_to_send() == b""  # RFC 9846 section 6.1: the end is the end


def test_answers_are_counted_until_nothing_waits(arena13: Arena) -> None:
    peer, victim = arena13.establish()
    victim.send(b"not an answer")
    assert victim.bytes_answered == 0
    before = victim.bytes_to_send
    victim.feed(b"".join(update(peer) for _ in range(3)))
    victim.receive()
    answers = victim.bytes_to_send - before
    assert victim.bytes_answered == answers > 0
    victim.mark_sent(before)
    assert victim.bytes_answered == answers
    victim.mark_sent(answers - 1)
    assert victim.bytes_answered == answers
    victim.mark_sent(1)
    assert victim.bytes_answered == 0
    victim.feed(update(peer))
    victim.receive()
    assert victim.bytes_answered == victim.bytes_to_send > 0
    victim.data_to_send()
    assert victim.bytes_answered == 0


def test_answers_that_are_sent_in_several_pieces_count_no_more(arena13: Arena) -> None:
    peer, victim = arena13.establish()
    victim.send(b"not an answer")
    victim.feed(b"".join(update(peer) for _ in range(3)))
    victim.receive()
    assert len(victim.unsent) > 1
    assert victim.bytes_answered > 0
    victim.mark_sent(victim.bytes_to_send)
    assert victim.bytes_answered == 0


# What the sockets of this test hold, in bytes: systems double what they are told.
SOCKET_BYTES = 2 * 65536


@pytest.mark.parametrize("how", ["receive_some", "receive_nowait", "is_readable", "none"])
async def test_a_peer_that_reads_nothing_can_not_fill_the_memory(
    arenas: Arenas, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 65536  # the less, the sooner this is over
    monkeypatch.setattr("trio_tlsbio._stream.transport._MOST_ANSWERED", limit)
    arena13 = arenas["server", "tls13"]
    async with tcp_pair() as (theirs, ours):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SOCKET_BYTES // 2)
        for option in (socket.SO_SNDBUF, socket.SO_RCVBUF):
            ours.setsockopt(socket.SOL_SOCKET, option, SOCKET_BYTES // 2)
        peer = arena13.new_peer()
        end, stream = HostileEnd(peer, theirs), arena13.stream(ours)
        await end.shake_hands(stream)
        most = said = 0

        async def flood() -> None:
            nonlocal said
            while True:
                await theirs.send_all(b"".join(update(peer) for _ in range(100)))
                said += 1

        async def use() -> None:
            nonlocal most
            while True:
                if how == "receive_some":
                    await stream.receive_some()
                elif how != "none":
                    getattr(stream, how)()
                most = max(most, stream.connection.bytes_to_send)
                await trio.lowlevel.checkpoint()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            nursery.start_soon(use)
            idle, before = 0, -1
            while idle < 1000:  # until the flood has come to a stand
                await trio.lowlevel.checkpoint()
                idle, before = (idle + 1 if said == before else 0), said
            most = max(most, stream.connection.bytes_to_send)
            nursery.cancel_scope.cancel()
        assert most <= limit + SOCKET_BYTES
        if how == "none":
            assert most == 0  # what nobody reads stays in the socket
        else:
            assert most > 0, "the flood has not come to a stand by our doing"
            # Once the peer reads, all of it is sent, and the connection goes on.
            async with trio.open_nursery() as nursery:
                nursery.start_soon(read_on, theirs)
                with trio.fail_after(10):
                    await stream.send_all(b"")
                nursery.cancel_scope.cancel()
            assert stream.connection.bytes_to_send == 0
        await trio.aclose_forcefully(stream)


async def read_on(transport: trio.SocketStream) -> None:
    async for _ in transport:
        pass


async def test_both_may_send_a_lot_before_they_receive(arenas: Arenas, version: str) -> None:
    # What an end has said itself is no answer: were it held against receiving, both would wait.
    size = 20_000_000  # more than the sockets hold
    contexts = (arenas["client", version].victim_context, arenas["server", version].victim_context)
    async with tcp_pair() as pair:
        streams = wrap_pair(*pair, *contexts)
        await both_handshakes(*streams)
        for stream in streams:
            assert stream.send_nowait(bytes(size)) == size

        async def receive(stream: TLSStream[trio.SocketStream]) -> None:
            received = 0
            while received < size:
                received += len(await stream.receive_some())
            await stream.send_all(b"")  # nobody else here sends the rest

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                for stream in streams:
                    nursery.start_soon(receive, stream)
