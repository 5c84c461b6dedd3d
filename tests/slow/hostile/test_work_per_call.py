"""One call decrypts a bounded number of records, however many have arrived, and the next goes on.

What is counted are the bytes that OpenSSL is given to decrypt, so nothing here depends on time.
"""

from __future__ import annotations

import inspect
import select
import socket
import ssl
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trustme

from fuzz._forge import (
    APPLICATION_DATA,
    FINISHED,
    HANDSHAKE,
    TICKET,
    UPDATE_NOT_REQUESTED,
    UPDATE_REQUESTED,
    Keys13,
    in_pieces,
    with_extension,
)
from tests.helpers import both_handshakes, tcp_pair, wrap_pair
from trio_tlsbio import TLSConnection, TLSStream
from trio_tlsbio._core.records import RECORD_BYTES, Records

from .cases import Arenas
from .flood import HELLO_REQUEST_MESSAGE, KIB, SMALL_TICKET, certificate_request
from .peer import Arena, HostileEnd, HostilePeer
from .test_renegotiation import ask, hello_again

# How many records a call decrypts at most: any, and those of TLS 1.3 that hold no data.
MOST_RECORDS = 1024
MOST_UPDATES = MOST_RECORDS // 16


def sealed(content_type: int, content: bytes) -> Callable[[HostilePeer], bytes]:
    return lambda peer: peer.seal(content_type, content)


def update(content: bytes) -> Callable[[HostilePeer], bytes]:
    def seal(peer: HostilePeer) -> bytes:
        record = peer.seal(HANDSHAKE, content)
        assert isinstance(peer.ours, Keys13)
        peer.ours.update()
        return record

    return seal


@attrs.frozen
class Kind:
    """A kind of record that a peer can send thousands of."""

    name: str
    side: str  # of the victim
    version: str
    seal: Callable[[HostilePeer], bytes] = attrs.field(repr=False)
    #: How many of them one call may decrypt.
    most: int
    count: int = 4_000

    def records(self, peer: HostilePeer) -> bytes:
        """Return all of them."""
        return b"".join(self.seal(peer) for _ in range(self.count))

    @property
    def size(self) -> int:
        """How much plaintext arrives by them, in bytes."""
        return self.count if self.name.startswith("byte") else 0


KINDS = [
    Kind("bytes", "server", "tls12", sealed(APPLICATION_DATA, b"x"), MOST_RECORDS),
    Kind("bytes", "client", "tls13", sealed(APPLICATION_DATA, b"x"), MOST_RECORDS),
    Kind("updates", "server", "tls13", update(UPDATE_NOT_REQUESTED), MOST_UPDATES),
    Kind("updates that ask", "client", "tls13", update(UPDATE_REQUESTED), MOST_UPDATES),
    Kind("tickets", "client", "tls13", sealed(HANDSHAKE, TICKET), MOST_UPDATES),
    Kind("900 tickets each", "client", "tls13", sealed(HANDSHAKE, SMALL_TICKET * 900), 1, 20),
    Kind(
        "HelloRequests", "client", "tls12", sealed(HANDSHAKE, HELLO_REQUEST_MESSAGE), MOST_RECORDS
    ),
    Kind(
        "4,000 HelloRequests each",
        "client",
        "tls12",
        sealed(HANDSHAKE, HELLO_REQUEST_MESSAGE * 4_000),
        13,
        40,
    ),
    Kind("ClientHellos", "server", "tls12", hello_again, MOST_RECORDS // 2),
]

each_kind = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: f"{kind.name}-{kind.version}")


@attrs.define(eq=False)
class Work:
    """How much OpenSSL was given to decrypt."""

    bytes: int = 0

    def done_by(self, call: Callable[[], object]) -> int:
        """Return how many bytes one call had decrypted."""
        before = self.bytes
        call()
        return self.bytes - before


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    """The work of all connections of a test."""
    work, take = Work(), Records.take

    def counting_take(self: Records, *args: Any) -> Any:
        data = take(self, *args)
        work.bytes += len(data)
        return data

    monkeypatch.setattr(Records, "take", counting_take)
    return work


################################################################
# Calls of a connection
################################################################


CALLS: dict[str, Callable[[TLSConnection], object]] = {
    "receive": TLSConnection.receive,
    "look_ahead": TLSConnection.look_ahead,
    "send_close_notify": TLSConnection.send_close_notify,
}


@pytest.mark.parametrize(
    ("kind", "call"),
    [
        pytest.param(kind, call, id=f"{kind.name}-{kind.version}-{name}")
        for kind in KINDS
        for name, call in CALLS.items()
        # Closing leaves handshake messages of TLS 1.2 for later.
        if not (name == "send_close_notify" and kind.version == "tls12" and not kind.size)
    ],
)
def test_a_call_does_its_share_and_the_next_one_goes_on(
    arenas: Arenas, work: Work, kind: Kind, call: Callable[[TLSConnection], object]
) -> None:
    peer, victim = arenas[kind.side, kind.version].establish()
    records = kind.records(peer)
    share = kind.most * (len(records) // kind.count + 1)
    victim.feed(records)
    assert not victim.is_behind  # no call has left it
    before, result = work.bytes, call(victim)
    assert 0 < work.bytes - before <= share
    assert victim.is_behind
    assert victim.do_handshake()  # which has nothing to do, and changes nothing
    assert victim.is_behind
    received, calls = len(result) if isinstance(result, bytes) else 0, 0
    while not victim.wants_data:
        before, data = work.bytes, victim.receive()
        received += len(data or b"")
        assert work.bytes - before <= share
        calls += 1
    assert calls >= kind.count // kind.most - 1
    # Nothing is lost, and the next data is received at once.
    assert received == kind.size
    assert not victim.is_behind
    victim.feed(peer.seal(APPLICATION_DATA, b"the end"))
    assert victim.receive() == b"the end"


@each_kind
def test_answers_are_complete(arenas: Arenas, kind: Kind) -> None:
    peer, victim = arenas[kind.side, kind.version].establish()
    victim.feed(kind.records(peer))
    while not victim.wants_data:
        victim.receive()
    peer.hear(victim.data_to_send())
    # OpenSSL answers the last KeyUpdate along with the next thing that it writes.
    answers = {"updates that ask": kind.count - 1, "ClientHellos": kind.count}
    assert len(peer.heard) == answers.get(kind.name, "HelloRequests" in kind.name)


def test_a_call_makes_few_signatures(
    ca: trustme.CA, server_cert: trustme.LeafCert, tmp_path: Path
) -> None:
    """A client that offers its certificate signs for each request."""
    arena = Arena.make(ca, server_cert, "client", "tls13", tmp_path)
    arena.victim_context.post_handshake_auth = True
    ca.issue_cert("client@example").configure_cert(arena.victim_context)
    peer, victim = arena.establish()
    count, request = 100, certificate_request()
    victim.feed(b"".join(request(peer) for _ in range(count)))
    answers = []
    while not victim.wants_data:
        victim.receive()
        peer.hear(victim.data_to_send())
        answers.append(sum(content[0] == FINISHED for _, content in peer.heard))
        peer.heard.clear()
    assert sum(answers) == count
    assert max(answers) <= 8


def test_all_of_a_share_may_be_data(arenas: Arenas, work: Work) -> None:
    """In TLS 1.3 the type of a record shows late, which must not slow down what is common."""
    peer, victim = arenas["client", "tls13"].establish()
    data = bytes(RECORD_BYTES)
    victim.feed(b"".join(peer.seal(APPLICATION_DATA, data) for _ in range(101)))
    assert victim.receive() == 101 * data
    assert not victim.is_behind


@pytest.mark.parametrize("version", ["tls12", "tls13"])
@pytest.mark.parametrize("looks_at_names", [False, True])
def test_a_hello_in_tiny_records_is_taken_in_by_several_calls(
    arenas: Arenas, work: Work, version: str, looks_at_names: bool
) -> None:
    arena = arenas["server", version]
    context = arena.victim_context
    peer = arena.new_peer()
    hello = bytes(peer.next_flight()[5:])
    hello = with_extension(hello, 0xABCD, bytes(9_000))
    if looks_at_names:
        context.sni_callback = lambda *_: None
    try:
        victim = TLSConnection(context, server_side=True)
    finally:
        context.sni_callback = None
    pieces = in_pieces(HANDSHAKE, hello, 1)
    victim.feed(pieces[:-6])
    calls = 1
    assert 0 < work.done_by(victim.do_handshake) <= MOST_RECORDS * 6
    while victim.is_behind:
        assert not victim.wants_data
        assert work.done_by(victim.do_handshake) <= MOST_RECORDS * 6
        calls += 1
    assert calls >= len(hello) // MOST_RECORDS
    assert not victim.do_handshake()
    assert victim.wants_data
    assert not victim.bytes_to_send
    victim.feed(pieces[-6:])
    assert not victim.do_handshake()
    assert victim.bytes_to_send


@pytest.mark.parametrize("call", ["do_handshake", "receive", "send"])
def test_calls_for_data_that_is_held_do_their_share(arenas: Arenas, work: Work, call: str) -> None:
    """While the peer renegotiates, these look at what has arrived before they encrypt."""
    peer, victim = arenas["client", "tls12"].establish()
    victim.feed(ask(peer))
    victim.send(b"held")
    count = 6_000
    records = b"".join(peer.seal(APPLICATION_DATA, b"x") for _ in range(count))
    victim.feed(records)
    share = MOST_RECORDS * len(records) // count
    calls: dict[str, Callable[[], object]] = {
        "do_handshake": victim.do_handshake,
        "receive": victim.receive,
        "send": lambda: victim.send(b"more"),
    }
    assert 0 < work.done_by(calls[call]) <= share
    assert victim.is_behind
    while victim.is_behind:
        assert not victim.do_handshake()
    assert len(victim.inbox.plaintext) == count - (MOST_RECORDS if call == "receive" else 0)
    assert victim.outbox.held == [b"held"] + [b"more"] * (call == "send")


def test_data_that_is_sent_while_much_is_unread_goes_out(arenas: Arenas, work: Work) -> None:
    """In TLS 1.2 what has arrived may begin a renegotiation: it is looked at first."""
    peer, victim = arenas["client", "tls12"].establish()
    count = 6_000
    victim.feed(b"".join(peer.seal(APPLICATION_DATA, b"x") for _ in range(count)))
    victim.send(b"first")
    victim.send(b"second")
    calls = 0
    while not victim.do_handshake():
        calls += 1
        assert calls < 10
    peer.hear(victim.data_to_send())
    assert peer.heard == [(APPLICATION_DATA, b"first"), (APPLICATION_DATA, b"second")]
    assert len(victim.inbox.plaintext) == count


################################################################
# Calls of a stream
################################################################

# Looking for an alert before a close_notify, and for what came behind it, are two shares. Trio runs
# the tasks of a batch in any order, so it may be four between two turns of another
# one.
MOST_SHARES = 2

STREAM_KINDS = [kind for kind in KINDS if kind.name in ("bytes", "updates", "updates that ask")]


@attrs.define(eq=False)
class Turns:
    """Another task, which sees how much is decrypted between two of its turns."""

    work: Work
    count: int = 0
    most: int = 0

    async def take(self) -> None:
        while True:
            before = self.work.bytes
            await trio.lowlevel.checkpoint()
            self.count += 1
            self.most = max(self.most, self.work.bytes - before)


@attrs.define(eq=False)
class Siege:
    """A stream in whose socket a flood has arrived."""

    end: HostileEnd
    victim: TLSStream[trio.SocketStream]
    size: int
    share: int


def widen(theirs: trio.SocketStream, ours: trio.SocketStream) -> None:
    """Let the two sockets hold a flood."""
    theirs.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 512 * KIB)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 512 * KIB)


async def besiege(
    arenas: Arenas, kind: Kind, theirs: trio.SocketStream, ours: trio.SocketStream
) -> Siege:
    arena = arenas[kind.side, kind.version]
    widen(theirs, ours)
    end = HostileEnd(arena.new_peer(), theirs)
    victim = arena.stream(ours)
    await end.shake_hands(victim)
    if not arena.is_server:  # the arrived data goes in alone
        assert not victim.is_readable()
    records = attrs.evolve(kind, count=16_000).records(end.peer)
    with trio.fail_after(10):
        await theirs.send_all(records + end.peer.seal(APPLICATION_DATA, b"the end"))
        await trio.lowlevel.wait_readable(ours.socket)
    return Siege(end, victim, len(records), MOST_SHARES * kind.most * (len(records) // 16_000 + 1))


each_stream_kind = pytest.mark.parametrize(
    "kind", STREAM_KINDS, ids=lambda kind: f"{kind.name}-{kind.version}"
)


@each_stream_kind
async def test_receiving_gives_others_their_turns(arenas: Arenas, work: Work, kind: Kind) -> None:
    async with tcp_pair() as transports:
        siege = await besiege(arenas, kind, *transports)
        turns, received = Turns(work), b""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(turns.take)
            while not received.endswith(b"the end"):
                received = await siege.victim.receive_some()
            nursery.cancel_scope.cancel()
        assert 0 < turns.most <= 2 * siege.share
        assert turns.count >= siege.size // siege.share // 2


@each_stream_kind
@pytest.mark.parametrize("call", ["is_readable", "receive_nowait"])
async def test_calls_that_do_not_wait_do_their_share(
    arenas: Arenas, work: Work, kind: Kind, call: str
) -> None:
    async with tcp_pair() as transports:
        siege = await besiege(arenas, kind, *transports)
        victim = siege.victim
        assert 0 < work.done_by(getattr(victim, call)) <= siege.share
        assert victim.connection.is_behind
        assert victim.is_readable()
        received, calls = b"", 0
        with trio.fail_after(10):
            while not received.endswith(b"the end"):
                before = work.bytes
                received = victim.receive_nowait() or b""
                assert work.bytes - before <= siege.share
                calls += 1
                if not victim.connection.is_behind:
                    await trio.lowlevel.checkpoint()  # the rest may still be on its way
        assert calls >= siege.size // siege.share // 2
        assert not victim.connection.is_behind
        assert not victim.is_readable()


@each_stream_kind
@pytest.mark.parametrize(
    "close", [TLSStream.aclose, trio.aclose_forcefully], ids=["aclose", "aclose_forcefully"]
)
async def test_closing_does_its_share(
    arenas: Arenas, work: Work, kind: Kind, close: Callable[[Any], Any]
) -> None:
    async with tcp_pair() as transports:
        siege = await besiege(arenas, kind, *transports)
        turns = Turns(work)
        before = work.bytes
        async with trio.open_nursery() as others:
            others.start_soon(turns.take)
            with trio.fail_after(10):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(siege.end.hear_all)
                    await close(siege.victim)
                    with suppress(trio.ClosedResourceError):
                        await siege.end.tcp.send_eof()
            others.cancel_scope.cancel()
        assert work.bytes > before
        assert turns.most <= 2 * siege.share
        assert "close_notify" in siege.end.peer.alerts
        assert siege.victim.transport_stream.socket.fileno() == -1


async def test_a_stream_is_readable_while_it_is_behind(arenas: Arenas) -> None:
    """Also when a call has decrypted all that it has read, while more waits in the socket."""
    kind = next(kind for kind in KINDS if kind.name == "updates")
    async with tcp_pair() as transports:
        siege = await besiege(arenas, kind, *transports)
        looks = 0
        while siege.victim.is_readable() and not siege.victim.connection.inbox.plaintext:
            waits = bool(select.select([siege.victim.transport_stream.socket], [], [], 0)[0])
            assert siege.victim.connection.is_behind or waits
            looks += 1
            assert looks < 1000
        assert looks > 10
        assert siege.victim.receive_nowait() == b"the end"


@pytest.mark.parametrize(
    "call",
    [TLSStream.is_readable, TLSStream.receive_nowait, TLSStream.abort, trio.aclose_forcefully],
    ids=lambda call: call.__name__,
)
async def test_a_stream_in_a_stream_does_its_share(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    work: Work,
    call: Callable[[TLSStream[Any]], object],
) -> None:
    """At each read of the inner stream, of up to four, the outer one decrypts a share."""
    count, most_shares = 16_000, 4 + MOST_SHARES
    async with tcp_pair() as transports:
        widen(*transports)
        outer = wrap_pair(*transports, client_context, server_context)
        await both_handshakes(*outer)
        client, server = wrap_pair(*outer, client_context, server_context)
        await both_handshakes(client, server)
        client.connection.send(bytes(count))
        for byte in client.connection.data_to_send()[:count]:
            outer[0].connection.send(bytes([byte]))
        records = outer[0].connection.data_to_send()
        with trio.fail_after(10):
            await transports[0].send_all(records)
        before = work.bytes
        result = call(server)
        if inspect.isawaitable(result):
            await result
        assert 0 < work.bytes - before <= most_shares * MOST_RECORDS * len(records) // count
