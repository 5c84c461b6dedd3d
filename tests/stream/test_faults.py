"""The wire is cut, broken, garbled or added to, at every byte of a conversation.

Whatever happens, each side ends cleanly with what the other has sent, or with a TLSError and the
beginning of it; nothing hangs, and what OpenSSL wrote to tell the peer about it reaches the peer.
"""

from __future__ import annotations

import ssl
from typing import Any

import attrs
import pytest
import trio
import trustme
from trio.testing import MockClock, memory_stream_pair

from tests.helpers import (
    NAME,
    VERSIONS,
    client_context_for,
    reset,
    server_context_for,
    tcp_pair,
    wrap_pair,
)
from trio_tlsbio import PeerAlertError, TLSConnection, TLSError, TLSStream, TruncationError
from trio_tlsbio.core import State
from trio_tlsbio.testing import Corrupt, Cut, Fault, FaultyLine, FaultyStream, Insert, Reset

QUESTION = b"what is in the first record, and " * 5
ANSWER = b"this is, and then there is " * 7

GARBAGE = bytes.fromhex("17030300b5feedface")  # looks like the start of a record, at some places
FAULTS = ["eof", "reset", "garbage", "flip"]
SIDES = ("client", "server")


@pytest.fixture(scope="module")
def all_contexts(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> dict[ssl.TLSVersion, tuple[ssl.SSLContext, ssl.SSLContext]]:
    """Contexts for both sides. They are shared, since there are thousands of connections here."""
    return {
        version: (client_context_for(ca, version), server_context_for(server_cert, version))
        for version in VERSIONS.values()
    }


@pytest.fixture
def contexts(
    all_contexts: dict[ssl.TLSVersion, tuple[ssl.SSLContext, ssl.SSLContext]],
    tls_version: ssl.TLSVersion,
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return all_contexts[tls_version]


def fault_at(name: str, offset: int) -> Cut | Reset | Insert | Corrupt:
    match name:
        case "eof":
            return Cut(offset)
        case "reset":
            return Reset(offset)
        case "garbage":
            return Insert(offset, GARBAGE)
        case _:
            return Corrupt(offset, mask=1 << offset * 5 % 8)


def test_what_is_no_fault_is_refused() -> None:
    wrong: Any
    for wrong in (5, "text", [1]):
        with pytest.raises(TypeError):
            Insert(0, wrong)
    assert Insert(0, bytearray(b"data")).data == b"data"
    line = FaultyLine([Cut(5)])
    for wrong in (5, "text", Cut):
        with pytest.raises(TypeError, match=r"a fault is needed, such as Cut\(3\), not"):
            line.add(Cut(1), wrong)
    assert line.faults_left == (Cut(5),)


@attrs.define(eq=False)
class Outcome:
    """How a conversation went for one side."""

    sent: bytes = b""
    received: bytearray = attrs.field(factory=bytearray)
    error: TLSError | None = None
    is_done: bool = False


def check(outcomes: dict[str, Outcome]) -> None:
    """Check that each side got what the other has sent, or the start of it and a TLSError."""
    for name, other in (SIDES, SIDES[::-1]):
        outcome, sent = outcomes[name], outcomes[other].sent
        assert sent.startswith(outcome.received), f"the {name} received wrong data"
        if outcome.error is None:
            assert outcome.received == sent, f"the {name} has not got all, and no error"
        else:
            assert str(outcome.error)


################################################################
# The pure core, at every offset
################################################################


@attrs.define(eq=False)
class Talker:
    """One side of a conversation without I/O."""

    connection: TLSConnection
    says: bytes
    waits: bool  # until it was spoken to
    outcome: Outcome = attrs.field(factory=Outcome)

    def step(self) -> None:
        """Go on as far as it goes. What the connection raises ends it."""
        try:
            self._step()
        except TLSError as exc:
            self.outcome.error = exc
            self.outcome.is_done = True

    def _step(self) -> None:
        if not self.connection.do_handshake():
            return
        if not self.waits:
            self._say()
        while data := self.connection.receive():
            self.outcome.received += data
        if self.outcome.received:
            self._say()
        if data == b"":
            self.outcome.is_done = True

    def _say(self) -> None:
        if self.says:
            self.outcome.sent, self.says = self.says, b""
            self.connection.send(self.outcome.sent)
            self.connection.send_close_notify()

    def fails_again(self) -> None:
        """Check that the error is remembered."""
        error = self.outcome.error
        assert error is not None
        with pytest.raises(TLSError) as raised:
            self._use()
        assert raised.value is not error

    def _use(self) -> None:
        while self.connection.receive():
            pass
        self.connection.do_handshake()
        self.connection.send(b"x")


@attrs.define(eq=False)
class Conversation:
    """Two talkers, and the lines from each of them to the other."""

    talkers: dict[str, Talker]
    lines: dict[str, FaultyLine]
    bytes_sent: dict[str, int] = attrs.field(factory=lambda: dict.fromkeys(SIDES, 0))
    eof_fed: set[str] = attrs.field(factory=set)
    #: What each left to be sent with its error.
    alerts: dict[str, bytes] = attrs.field(factory=dict)

    def feed_eof(self, name: str) -> bool:
        if name in self.eof_fed:
            return False
        self.eof_fed.add(name)
        self.talkers[name].connection.feed_eof()
        return True

    def move(self, name: str, other_name: str) -> bool:
        """Let one talk, and carry what it said. False if nothing moved."""
        talker, other, line = self.talkers[name], self.talkers[other_name], self.lines[name]
        if not talker.outcome.is_done:
            talker.step()
        count = talker.connection.bytes_to_send
        data = talker.connection.data_to_send()
        assert len(data) == count
        self.bytes_sent[name] += count
        if talker.connection.send_state is State.FAILED:
            self.alerts.setdefault(name, data)
        carried = b"".join(step for step in line.carry(data) if isinstance(step, bytes))
        if carried:
            other.connection.feed(carried)
        return (line.end is not None and self.feed_eof(other_name)) or bool(carried)

    def run(self) -> None:
        for _ in range(100):
            if self.move(*SIDES) | self.move(*SIDES[::-1]):
                continue
            if all(talker.outcome.is_done for talker in self.talkers.values()):
                return
            # One of them waits for the rest of what it takes for a record: it won't come.
            if not self.feed_eof("client") | self.feed_eof("server"):
                raise AssertionError(f"it hangs at the end: {self}")
        raise AssertionError(f"it never ends: {self}")

    def check_alerts(self) -> None:
        """Check that who left an alert was heard by the other, unless the wire is at fault."""
        for name, other_name in (SIDES, SIDES[::-1]):
            other = self.talkers[other_name].outcome
            if self.alerts.get(name) and not self.lines[name].faults_happened:
                # Who had got all that it wanted need not care.
                assert other.error is not None or other.received
                assert not isinstance(other.error, TruncationError) or other_name in self.eof_fed


def converse(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], lines: dict[str, FaultyLine]
) -> tuple[dict[str, Outcome], dict[str, int]]:
    """Hold a conversation; ``lines`` are those from the side of that name to the other.

    Return how it went, and how many bytes each side has sent.
    """
    client = Talker(TLSConnection(contexts[0], server_hostname=NAME), QUESTION, waits=False)
    server = Talker(TLSConnection(contexts[1], server_side=True), ANSWER, waits=True)
    conversation = Conversation({"client": client, "server": server}, lines)
    conversation.run()
    conversation.check_alerts()
    for talker in (client, server):
        if talker.outcome.error is not None:
            talker.fails_again()
    return {"client": client.outcome, "server": server.outcome}, conversation.bytes_sent


def run_all(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], side: str, fault: str, stride: int
) -> tuple[int, int]:
    """Try a fault at each byte that a side sends, or at some.

    Return how many conversations still worked, and in how many an alert told the side.
    """
    offset = clean = told = 0
    while True:
        lines = {name: FaultyLine() for name in SIDES}
        lines[side].add(fault_at(fault, offset))
        try:
            outcomes, bytes_sent = converse(contexts, lines)
            check(outcomes)
        except BaseException as exc:
            exc.add_note(f"{fault} at byte {offset} from the {side}")
            raise
        if offset >= bytes_sent[side]:
            break
        assert lines[side].faults_happened
        clean += all(outcome.error is None for outcome in outcomes.values())
        told += isinstance(outcomes[side].error, PeerAlertError)
        offset += stride
    assert offset > 500
    assert all(outcome.error is None for outcome in outcomes.values())
    print(f"{fault} from the {side}: {offset} bytes, {clean} clean, {told} told by an alert")
    return clean, told


@pytest.mark.parametrize("side", SIDES)
def test_the_wire_ends_at_every_byte(
    side: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext], stride: int
) -> None:
    clean, _ = run_all(contexts, side, "eof", stride)
    assert clean == 0


@pytest.mark.parametrize("side", SIDES)
def test_garbage_is_put_in_at_every_byte(
    side: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext], stride: int
) -> None:
    clean, told = run_all(contexts, side, "garbage", stride)
    # If the last byte of all is by chance the first one of the garbage, that comes after the
    # close_notify, where anything may come.
    assert clean <= 1
    assert told > 100 / stride


@pytest.mark.parametrize("side", SIDES)
def test_a_bit_is_flipped_in_every_byte(
    side: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext], stride: int
) -> None:
    # A few bytes mean nothing: the version in the header of the first record, for one.
    clean, told = run_all(contexts, side, "flip", stride)
    assert clean < 20
    assert told > 100 / stride


################################################################
# Streams
################################################################


class NotingStream(FaultyStream[Any]):
    """Keeps in mind whether a send failed, as the peer has gone."""

    is_broken: bool = False

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        try:
            await super().send_all(data)
        except trio.BrokenResourceError:
            self.is_broken = True
            raise


async def run_side(name: str, stream: TLSStream[Any], outcome: Outcome) -> None:
    """Hold up one end of a conversation."""
    connection = stream.connection
    try:
        if name == "client":
            await stream.do_handshake()
            outcome.sent = QUESTION
            await stream.send_all(QUESTION)
            await stream.send_eof()
        while part := await stream.receive_some():
            outcome.received += part
        if name == "server":
            outcome.sent = ANSWER
            await stream.send_all(ANSWER)
    except TLSError as exc:
        outcome.error = exc
        # What OpenSSL had to say about it is out, if there was anybody to tell.
        transport = stream.transport_stream
        if isinstance(transport, NotingStream) and connection.send_state is State.FAILED:
            assert transport.is_broken or connection.bytes_to_send == 0
    try:
        await stream.aclose()
    except TLSError as exc:
        assert connection.handshake is None
        outcome.error = outcome.error or exc
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


async def converse_over_streams(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], side: str, fault: Fault
) -> tuple[dict[str, Outcome], bool]:
    """Return how it went, and whether the fault has happened."""
    pair = memory_stream_pair()
    ends = {name: NotingStream(stream) for name, stream in zip(SIDES, pair, strict=True)}
    ends[side].sending.add(fault)
    if isinstance(fault, Reset):
        (other,) = set(SIDES) - {side}
        ends[other].receiving.add(fault)  # it hears of it too
    client, server = wrap_pair(ends["client"], ends["server"], *contexts)
    outcomes = {name: Outcome() for name in SIDES}

    async def cut_when_it_hangs() -> None:
        # It may wait for the rest of what it takes for a long record. This clock jumps.
        await trio.sleep(1000)
        for end in pair:
            end.send_stream.close()

    with trio.fail_after(2000):
        async with trio.open_nursery() as watch:
            watch.start_soon(cut_when_it_hangs)
            async with trio.open_nursery() as nursery:
                for name, stream in (("client", client), ("server", server)):
                    nursery.start_soon(run_side, name, stream, outcomes[name])
            watch.cancel_scope.cancel()
    check(outcomes)
    return outcomes, not ends[side].sending.faults_left


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("side", SIDES)
async def test_streams_with_a_fault(
    side: str,
    fault: str,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    autojump_clock: MockClock,
    stride: int,
) -> None:
    step = 4 * stride  # not at every byte, which the core is tested with: here it takes longer
    offset = FAULTS.index(fault)
    told = 0
    while True:
        try:
            outcomes, happened = await converse_over_streams(
                contexts, side, fault_at(fault, offset)
            )
        except BaseException as exc:
            exc.add_note(f"{fault} at byte {offset} from the {side}")
            raise
        if not happened:
            break
        told += isinstance(outcomes[side].error, PeerAlertError)
        offset += step
    assert offset > 500
    assert all(outcome.error is None for outcome in outcomes.values())
    if fault in {"garbage", "flip"}:
        assert told > 100 / step


################################################################
# TCP connections that are reset
################################################################


async def relay(source: trio.SocketStream, sink: FaultyStream[trio.SocketStream]) -> None:
    """Pass on what comes. A reset is one for both of them."""
    try:
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        if sink.sending.end is not None:
            reset(source)
        # Else the other direction was reset, or one end has gone.


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("offset", [0, 1, 100, 400, 700, 900, 1100, 1300, 1500])
async def test_tcp_connection_that_is_reset(
    side: str, offset: int, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    outcomes = {name: Outcome() for name in SIDES}
    async with tcp_pair() as (ours, middle1), tcp_pair() as (middle2, theirs):
        sinks = {"client": FaultyStream(middle2), "server": FaultyStream(middle1)}
        sinks[side].sending.add(Reset(offset))
        client, server = wrap_pair(ours, theirs, *contexts)
        with trio.fail_after(20):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(relay, middle1, sinks["client"])
                nursery.start_soon(relay, middle2, sinks["server"])
                for name, stream in (("client", client), ("server", server)):
                    nursery.start_soon(run_side, name, stream, outcomes[name])
    check(outcomes)
    if sinks[side].sending.faults_happened:
        # A reset may destroy what has arrived already, but is never taken for a clean end.
        assert any(outcome.error is not None for outcome in outcomes.values())
