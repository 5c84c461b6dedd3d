"""New handshakes of TLS 1.2 at any time, beside data of both sides, and such that never end."""

from __future__ import annotations

import copy
import random
import ssl
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
import trustme
from OpenSSL import SSL

from fuzz._forge import (
    ALERT,
    APPLICATION_DATA,
    CLIENT_HELLO,
    HANDSHAKE,
    HELLO_REQUEST,
    Keys12,
    handshake,
    records_in,
)
from tests.helpers import NAME, client_context_for, server_context_for, tcp_pair
from trio_tlsbio import TLSConnection, TLSError, TLSStream, TruncationError
from trio_tlsbio._stream.transport import SLICE_BYTES
from trio_tlsbio.core import State

from .cases import Arenas
from .peer import SIDES, HostileEnd, HostilePeer, hostile_context, outcome_of

# SSL_OP_ALLOW_CLIENT_RENEGOTIATION, for which Python has no name: see SSL_CTX_set_options(3).
ALLOW_CLIENT_RENEGOTIATION = 1 << 8

SIZES = [1, 3_000, 16_384, 60_000]

################################################################
# Beside data
################################################################


@attrs.define(eq=False)
class Renegotiator:
    """A peer that begins new handshakes by OpenSSL's own means, without I/O."""

    _ssl: SSL.Connection
    #: Whether it reads what has arrived before it writes.
    _reads_first: bool
    received: int = 0
    sent: int = 0
    data: bytearray = attrs.field(factory=bytearray, init=False)
    _to_send: bytes = b""  # OpenSSL wants to be given the same data again

    @classmethod
    def of(
        cls, server_cert: trustme.LeafCert, *, server_side: bool, reads_first: bool
    ) -> Renegotiator:
        context = SSL.Context(SSL.TLS_SERVER_METHOD if server_side else SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)  # the last that renegotiates
        if server_side:
            server_cert.configure_cert(context)
        connection = SSL.Connection(context, None)
        if server_side:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        return cls(connection, reads_first)

    @property
    def renegotiations(self) -> int:
        """How many new handshakes it has been through."""
        return self._ssl.total_renegotiations()

    def renegotiate(self) -> None:
        if not self._ssl.renegotiate_pending():
            self._ssl.renegotiate()

    def do_handshake(self) -> None:
        with suppress(SSL.WantReadError):
            self._ssl.do_handshake()

    def feed(self, data: bytes) -> None:
        if data:
            self._ssl.bio_write(data)

    def data_to_send(self) -> bytes:
        data = b""
        with suppress(SSL.WantReadError):
            while True:
                data += self._ssl.bio_read(65536)
        return data

    def send(self, size: int) -> None:
        """Send so much, after what a renegotiation has kept back."""
        if self._reads_first:
            self.receive()
        self._to_send = self._to_send or bytes(size)
        if self._to_send:
            with suppress(SSL.WantReadError):
                self._ssl.send(self._to_send)
                self.sent += len(self._to_send)
                self._to_send = b""

    def receive(self) -> None:
        with suppress(SSL.WantReadError):
            while True:
                data = self._ssl.recv(16384)
                self.received += len(data)
                self.data += data


@attrs.define(eq=False)
class Conversation:
    """Both sides do what chance says, and the wires carry as much as it says."""

    peer: Renegotiator
    victim: TLSConnection
    _chance: random.Random
    sent: int = 0
    received: int = 0
    _to_peer: bytes = b""
    _to_victim: bytes = b""

    def shake_hands(self) -> None:
        for _ in range(4):
            self.victim.do_handshake()
            self.peer.do_handshake()
            self.carry_all()
        assert self.victim.do_handshake()

    def hold(self, steps: int) -> None:
        """Do some steps, and then all that is left."""
        size = self._chance.choice
        for _ in range(steps):
            match self._chance.randrange(6):
                case 0:
                    count = size(SIZES)
                    self.victim.send(bytes(count))
                    self.sent += count
                case 1:
                    self.received += len(self.victim.receive(size([None, 10, 5000])) or b"")
                case 2:
                    self.peer.send(size(SIZES[:3]))
                case 3:
                    self.peer.receive()
                    if self._chance.random() < 0.3:
                        self.peer.renegotiate()
                case _:
                    self._carry(size([1, 100, 5_000, 1_000_000]))
        for _ in range(50):
            self.peer.send(0)
            self.peer.receive()
            self.carry_all()
            self.victim.do_handshake()
            self.received += len(self.victim.receive() or b"")

    def _carry(self, most: int) -> None:
        """Let the wires carry some bytes of what has been said."""
        self._to_peer += self.victim.data_to_send()
        self._to_victim += self.peer.data_to_send()
        some, self._to_peer = self._to_peer[:most], self._to_peer[most:]
        self.peer.feed(some)
        some, self._to_victim = self._to_victim[:most], self._to_victim[most:]
        if some:
            self.victim.feed(some)

    def carry_all(self) -> None:
        self._carry(1_000_000_000)


def meet(
    ca: trustme.CA, cert: trustme.LeafCert, side: str, *, seed: int = 1, reads_first: bool = True
) -> Conversation:
    """Begin a conversation with a victim of one side."""
    version = ssl.TLSVersion.TLSv1_2
    if side == "client":
        victim = TLSConnection(client_context_for(ca, version), server_hostname=NAME)
    else:
        context = server_context_for(cert, version)
        context.options |= ALLOW_CLIENT_RENEGOTIATION
        victim = TLSConnection(context, server_side=True)
    peer = Renegotiator.of(cert, server_side=side == "client", reads_first=reads_first)
    conversation = Conversation(peer, victim, random.Random(seed))
    conversation.shake_hands()
    return conversation


@pytest.mark.parametrize(
    ("side", "reads_first"), [("client", True), ("client", False), ("server", True)]
)
def test_renegotiation_beside_large_writes_of_both_sides(
    ca: trustme.CA, server_cert: trustme.LeafCert, side: str, reads_first: bool
) -> None:
    renegotiations = 0
    for seed in range(15):
        try:
            conversation = meet(ca, server_cert, side, seed=seed, reads_first=reads_first)
            conversation.hold(300)
        except BaseException as exc:
            exc.add_note(f"seed {seed}")
            raise
        peer = conversation.peer
        assert (peer.received, conversation.received) == (conversation.sent, peer.sent)
        assert not conversation.victim.outbox.held
        renegotiations += peer.renegotiations
    assert renegotiations > 15


def test_a_client_that_writes_before_it_reads_fails_by_the_rule_of_its_own_openssl(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    # In a renegotiation OpenSSL takes data in SSL_read(3) alone: ossl_statem_app_data_allowed() of
    # ssl/statem/statem.c. Our side reads first, so it is never the one that fails.
    errors = []
    for seed in range(10):
        try:
            meet(ca, server_cert, "server", seed=seed, reads_first=False).hold(300)
        except SSL.Error as exc:
            errors.append(str(exc))
    assert len(errors) > 5
    assert all("unexpected record" in error for error in errors)


@pytest.mark.parametrize("data", [b"", b"held"])
def test_what_is_held_goes_out_when_receive_ends_it(
    ca: trustme.CA, server_cert: trustme.LeafCert, data: bytes
) -> None:
    conversation = meet(ca, server_cert, "client")
    peer, victim = conversation.peer, conversation.victim
    peer.renegotiate()
    peer.do_handshake()
    conversation.carry_all()
    victim.send(data)
    victim.send_close_notify()
    assert victim.outbox.held == ([data, None] if data else [None])
    conversation.carry_all()
    peer.receive()
    conversation.carry_all()
    assert victim.receive() is None
    assert not victim.outbox.held
    conversation.carry_all()
    with pytest.raises(SSL.ZeroReturnError):  # their close_notify
        peer.receive()
    assert peer.received == len(data)
    assert peer.renegotiations == 1


################################################################
# Without an end
################################################################


def ask(peer: HostilePeer, times: int = 1) -> bytes:
    """A server's requests for a new handshake (RFC 5246 section 7.4.1.1)."""
    return b"".join(peer.seal(HANDSHAKE, handshake(HELLO_REQUEST, b"")) for _ in range(times))


def hello_again(peer: HostilePeer) -> bytes:
    """A client's begin of a new handshake, which is its first ClientHello once more."""
    said = bytes(peer.said_in_handshake[5:])
    return peer.seal(HANDSHAKE, said[: 4 + int.from_bytes(said[1:4], "big")])


def test_a_request_is_answered_once_and_data_goes_on(arenas: Arenas) -> None:
    peer, victim = arenas["client", "tls12"].establish()
    victim.feed(ask(peer, 1000) + peer.seal(APPLICATION_DATA, b"data"))
    assert outcome_of(victim).data == b"data"
    peer.hear(victim.data_to_send())
    ((content_type, content),) = peer.heard
    assert (content_type, content[0]) == (HANDSHAKE, CLIENT_HELLO)


def test_what_is_sent_meanwhile_is_held(arenas: Arenas) -> None:
    peer, victim = arenas["client", "tls12"].establish()
    victim.feed(ask(peer))
    victim.send(b"secret")
    victim.send_close_notify()
    assert victim.outbox.held == [b"secret", None]
    assert not victim.do_handshake()
    victim.feed(ask(peer, 100))  # which does not go on with it
    assert not victim.do_handshake()
    victim.feed_eof()
    with pytest.raises(TruncationError, match="while it renegotiated"):
        victim.do_handshake()
    assert victim.send_state is State.FAILED
    peer.hear(victim.data_to_send())
    assert [content_type for content_type, _ in peer.heard] == [HANDSHAKE]


def test_data_without_end_for_a_handshake_is_an_error(arenas: Arenas) -> None:
    peer, victim = arenas["client", "tls12"].establish()
    victim.feed(ask(peer))
    victim.send(b"held")
    size = 16 * 1024
    for _ in range(1024 * 1024 // size):
        victim.feed(peer.seal(APPLICATION_DATA, bytes(size)))
        assert not victim.do_handshake()
    victim.feed(peer.seal(APPLICATION_DATA, b"x"))
    with pytest.raises(TLSError, match="keeps sending data instead of renegotiating"):
        victim.do_handshake()


@pytest.mark.parametrize("times", [1, 100])
def test_a_server_refuses_each_new_handshake_of_a_client(arenas: Arenas, times: int) -> None:
    peer, victim = arenas["server", "tls12"].establish()
    for _ in range(times):
        victim.feed(hello_again(peer))
    victim.feed(peer.seal(APPLICATION_DATA, b"goes on"))
    assert outcome_of(victim).data == b"goes on"
    peer.hear(victim.data_to_send())
    assert peer.heard == [(ALERT, b"\x01\x64")] * times
    assert peer.alerts == ["no_renegotiation"] * times


@pytest.mark.parametrize("side", SIDES)
def test_a_context_can_forbid_it(
    ca: trustme.CA, server_cert: trustme.LeafCert, arenas: Arenas, side: str
) -> None:
    arena = arenas[side, "tls12"]
    context = (
        client_context_for(ca, arena.version)
        if side == "client"
        else server_context_for(server_cert, arena.version)
    )
    context.options |= ssl.OP_NO_RENEGOTIATION
    peer, victim = attrs.evolve(arena, victim_context=context).establish()
    victim.feed(ask(peer) if side == "client" else hello_again(peer))
    assert outcome_of(victim).error is None
    peer.hear(victim.data_to_send())
    assert peer.alerts == ["no_renegotiation"]
    victim.send(b"goes on")
    peer.hear(victim.data_to_send())
    assert peer.heard[-1] == (APPLICATION_DATA, b"goes on")


################################################################
# As the client closes
################################################################


@pytest.mark.parametrize(
    ("arrived", "received", "rest"),
    [
        (["request"], None, b""),  # waits in the BIO
        (["two in one record"], None, b""),
        (["data", "request"], None, b"data"),  # in the queue
        (["data", "request"], 1, b"ata"),
        (["data", "request", "more"], 4, b"more"),
        (["request", "data", "request"], None, b"data"),
    ],
)
def test_a_request_that_waits_as_the_client_closes_is_not_answered(
    arenas: Arenas, arrived: list[str], received: int | None, rest: bytes
) -> None:
    peer, victim = arenas["client", "tls12"].establish()
    request = handshake(HELLO_REQUEST, b"")
    says = {
        "request": lambda: ask(peer),
        "two in one record": lambda: peer.seal(HANDSHAKE, 2 * request),
        "data": lambda: peer.seal(APPLICATION_DATA, b"data"),
        "more": lambda: peer.seal(APPLICATION_DATA, b"more"),
    }
    victim.feed(b"".join(says[each]() for each in arrived))
    if received is not None:
        assert len(victim.receive(received) or b"") == received
    victim.send_close_notify()
    assert victim.send_state is State.CLOSED
    victim.feed(peer.seal(ALERT, b"\x01\x00"))
    outcome = outcome_of(victim)
    assert (outcome.data, outcome.is_end) == (rest, True)
    peer.hear(victim.data_to_send())
    assert peer.heard == [(ALERT, b"\x01\x00")]


@pytest.mark.parametrize("size", [3, 10])
def test_a_request_that_arrives_in_parts_as_the_client_closes_is_not_answered(
    arenas: Arenas, size: int
) -> None:
    peer, victim = arenas["client", "tls12"].establish()
    request = ask(peer)
    victim.feed(request[:size])
    assert victim.receive() is None
    victim.feed(request[size:])
    victim.send_close_notify()
    peer.hear(victim.data_to_send())
    assert peer.heard == [(ALERT, b"\x01\x00")]


@pytest.mark.parametrize(
    ("call", "data"),
    [
        ("aclose", b""),
        ("aclose", b"data"),
        ("aclose_forcefully", b""),
        ("aclose_forcefully", b"data"),
        ("send_eof", b""),
        ("send_eof", b"data"),
        ("unwrap", b""),
    ],
)
async def test_a_stream_that_is_closed_answers_no_request(
    arenas: Arenas, call: str, data: bytes
) -> None:
    arena = arenas["client", "tls12"]
    async with tcp_pair() as (theirs, ours):
        end = HostileEnd(arena.new_peer(), theirs)
        victim = arena.stream(ours)
        await end.shake_hands(victim)
        peer = end.peer
        said = peer.seal(APPLICATION_DATA, data) if data else b""
        await theirs.send_all(said + ask(peer))
        await trio.lowlevel.wait_readable(ours.socket)

        async def answer() -> None:
            while not peer.heard:
                peer.hear(bytes(await theirs.receive_some()))
            assert peer.heard == [(ALERT, b"\x01\x00")]
            with suppress(trio.BrokenResourceError):  # it may be closed already
                await end.say(ALERT, b"\x01\x00")
                await theirs.send_eof()

        if data:
            assert await victim.receive_some(1) == data[:1]  # the request is with OpenSSL now
        with trio.fail_after(4):  # before a close gives up waiting
            async with trio.open_nursery() as nursery:
                nursery.start_soon(answer)
                if call == "aclose_forcefully":
                    await trio.aclose_forcefully(victim)
                else:
                    await getattr(victim, call)()


################################################################
# Along with the handshake
################################################################


@pytest.mark.parametrize("requests", [1, 2])
@pytest.mark.parametrize("call", ["receive", "do_handshake and receive", "look_ahead", "send"])
def test_a_request_in_the_record_of_the_finished_is_answered_at_once(
    server_cert: trustme.LeafCert,
    ca: trustme.CA,
    call: str,
    requests: int,
) -> None:
    victim = TLSConnection(client_context_for(ca, ssl.TLSVersion.TLSv1_2), server_hostname=NAME)
    server_context = server_context_for(server_cert, ssl.TLSVersion.TLSv1_2)
    with tempfile.TemporaryDirectory() as directory:
        hostile_context(server_context, Path(directory) / "keys")
        peer = HostilePeer.of(server_context, server_side=True)
        peer.hear(victim.data_to_send())
        victim.feed(peer.next_flight())
        assert not victim.do_handshake()
        peer.hear(victim.data_to_send())
        assert peer.is_established
        *others, finished = records_in(peer.next_flight())
        # Our record in its place: the keys have sealed nothing yet.
        keys = peer.ours
        assert isinstance(keys, Keys12)
        keys._sequence = 0
        opener = copy.copy(keys)
        content_type, message = opener.open(finished)
        assert content_type == HANDSHAKE
        victim.feed(b"".join(others))
        request = handshake(HELLO_REQUEST, b"")
        victim.feed(keys.seal(HANDSHAKE, message + requests * request))
        if call != "receive":
            victim.do_handshake()
        if call == "look_ahead":
            victim.look_ahead()
        elif call == "send":
            victim.send(b"held")
        else:
            assert victim.receive() is None
        peer.hear(victim.data_to_send())
        assert victim.handshake is not None
        ((content_type, answer),) = peer.heard
        assert (content_type, answer[0]) == (HANDSHAKE, CLIENT_HELLO)
        assert victim.outbox.held == ([b"held"] if call == "send" else [])


################################################################
# One that stands still
################################################################


async def test_what_is_held_while_it_stands_still_is_bounded(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    peer = Renegotiator.of(server_cert, server_side=True, reads_first=True)
    context = client_context_for(ca, ssl.TLSVersion.TLSv1_2)

    async def serve(theirs: trio.SocketStream) -> None:
        while True:
            await theirs.send_all(peer.data_to_send())
            peer.feed(bytes(await theirs.receive_some()))
            peer.do_handshake()
            peer.receive()

    async with tcp_pair() as (ours, theirs), trio.open_nursery() as nursery:
        victim = TLSStream(ours, context, server_hostname=NAME)
        scope = await nursery.start(in_scope, partial(serve, theirs))
        with trio.fail_after(20):
            await victim.do_handshake()
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
            # The server asks for a new handshake, and says nothing more.
            peer.renegotiate()
            peer.do_handshake()
            await theirs.send_all(peer.data_to_send())
            await trio.lowlevel.wait_readable(ours.socket)
            assert victim.receive_nowait() is None

            sent = bytearray()
            part = random.Random(1).randbytes(SLICE_BYTES)
            for _ in range(100):
                sent += part[: victim.send_nowait(part)]
            assert len(sent) == SLICE_BYTES
            for _ in range(10):
                with trio.CancelScope() as sending:
                    nursery.start_soon(cancel_once_blocked, sending)
                    await victim.send_all(part)
                assert sending.cancelled_caught
            assert victim.bytes_committed == len(sent)
            assert sum(len(each or b"") for each in victim.connection.outbox.held) == len(sent)

            scope = await nursery.start(in_scope, partial(serve, theirs))
            await victim.send_all(b"the end")
            while len(peer.data) < len(sent) + len(b"the end"):
                await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        assert peer.data == sent + b"the end"
        assert peer.renegotiations == 1


async def in_scope(
    task: Callable[[], Awaitable[None]], task_status: trio.TaskStatus[trio.CancelScope]
) -> None:
    """Run a task that can be cancelled by itself."""
    with trio.CancelScope() as scope:
        task_status.started(scope)
        await task()


async def cancel_once_blocked(scope: trio.CancelScope) -> None:
    await trio.testing.wait_all_tasks_blocked()
    scope.cancel()
