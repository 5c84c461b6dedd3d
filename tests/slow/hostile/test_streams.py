"""Hostile peers over TCP: of a server with other clients, and of a client."""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fuzz._forge import ALERT, APPLICATION_DATA, FINISHED, HANDSHAKE, handshake, take_records
from tests.helpers import echo, reset, tcp_pair
from trio_tlsbio import (
    PeerAlertError,
    TLSError,
    TLSStream,
    open_tls_over_tcp_stream,
    serve_tls_over_tcp,
)
from trio_tlsbio.monitoring import ServerMonitor

from .cases import DAMAGED, IS_SILENT, NO_MESSAGE, TOO_LONG, Arenas, inside
from .peer import Arena, HostileEnd, HostilePeer

Stream: TypeAlias = TLSStream[trio.SocketStream]
Say: TypeAlias = Callable[[HostilePeer], bytes]


def damaged(peer: HostilePeer) -> bytes:
    record = bytearray(peer.seal(APPLICATION_DATA, b"data"))
    record[-1] ^= 1
    return bytes(record)


# What is said after the handshake, what the victim says about it, and the alert that comes back.
ATTACKS: dict[str, tuple[Say, str, str | None]] = {
    "a damaged record": (damaged, DAMAGED, "bad_record_mac"),
    "a record twice": (
        lambda peer: peer.seal(APPLICATION_DATA, b"data") * 2, DAMAGED, "bad_record_mac",
    ),
    "a record that is too long": (
        lambda peer: peer.seal(APPLICATION_DATA, bytes(16385)),
        inside(TOO_LONG, "record_overflow").words, "record_overflow",
    ),
    "a Finished": (
        lambda peer: peer.seal(HANDSHAKE, handshake(FINISHED, bytes(48))),
        NO_MESSAGE, "unexpected_message",
    ),
    "empty records": (
        lambda peer: b"".join(peer.seal(APPLICATION_DATA, b"") for _ in range(33)),
        inside("the peer sent too many empty records in a row", "unexpected_message").words,
        "unexpected_message",
    ),
    "HTTP": (lambda _: b"GET / HTTP/1.1\r\n\r\n", "is not a TLS record", "protocol_version"),
    "a fatal alert": (lambda peer: peer.seal(ALERT, b"\x02\x50"), "internal error", None),
    "half a record": (
        lambda peer: peer.seal(APPLICATION_DATA, b"data")[:10], "without a close_notify", None,
    ),
}  # fmt: skip


@pytest.fixture(params=ATTACKS)
def attack(request: pytest.FixtureRequest, version: str) -> tuple[Say, str, str | None]:
    say, words, alert = ATTACKS[request.param]
    if request.param == "HTTP" and version == "tls13" and IS_SILENT:
        alert = "unexpected_message"  # in TLS 1.3, OpenSSL looks at the type first from 3.2 on
    return say, words, alert


async def assert_echoes(stream: Stream, words: bytes) -> None:
    with trio.fail_after(10):
        await stream.send_all(words)
        assert await stream.receive_some() == words


async def test_a_server_s_other_clients_notice_nothing(
    arenas: Arenas,
    version: str,
    attack: tuple[Say, str, str | None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    say, words, alert = attack
    caplog.set_level(logging.WARNING, "trio_tlsbio.server")
    arena, client_arena = arenas["server", version], arenas["client", version]
    monitor = ServerMonitor()
    serve = partial(
        serve_tls_over_tcp, echo, 0, arena.victim_context, host="127.0.0.1", monitor=monitor
    )
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(serve)
        port = listener.transport_listener.socket.getsockname()[1]
        connect = partial(
            open_tls_over_tcp_stream,
            "127.0.0.1",
            port,
            ssl_context=client_arena.victim_context,
        )
        async with await connect() as client:
            await assert_echoes(client, b"before")
            with trio.fail_after(10):
                peer = arena.new_peer()
                async with await trio.open_tcp_stream("127.0.0.1", port) as tcp:
                    end = HostileEnd(peer, tcp)
                    await end.shake_hands_alone()
                    await tcp.send_all(say(peer))
                    with suppress(trio.BrokenResourceError):  # the server has closed already
                        await tcp.send_eof()
                    await end.hear_all()
                while not caplog.records:
                    await trio.lowlevel.checkpoint()
            await assert_echoes(client, b"after")
        async with await connect() as client:
            await assert_echoes(client, b"a new one")
        nursery.cancel_scope.cancel()
    (logged,) = caplog.records
    assert words in logged.getMessage()
    said = [name for name in peer.alerts if name != "close_notify"]
    assert said == ([] if alert is None else [alert])
    assert monitor.statistics().established == 3
    assert sum(monitor.statistics().broken.values()) == 1


async def test_a_client_tells_what_its_server_does(
    arenas: Arenas, version: str, attack: tuple[Say, str, str | None]
) -> None:
    say, words, alert = attack
    arena = arenas["client", version]
    async with tcp_pair() as (ours, theirs):
        stream, end = arena.stream(ours), HostileEnd(arena.new_peer(), theirs)
        with trio.fail_after(10):
            await end.shake_hands(stream)
            await theirs.send_all(say(end.peer))
            await theirs.send_eof()
            for _ in range(2):
                with pytest.raises(TLSError, match=words):  # noqa: PT012
                    while True:
                        await stream.receive_some()
            await stream.aclose()
            await end.hear_all()
        said = [name for name in end.peer.alerts if name != "close_notify"]
        assert said == ([] if alert is None else [alert])


################################################################
# Ends
################################################################


async def test_an_end_that_is_followed_by_a_reset_is_an_end(arena: Arena) -> None:
    async with tcp_pair() as (ours, theirs):
        stream, end = arena.stream(ours), HostileEnd(arena.new_peer(), theirs)
        with trio.fail_after(10):
            await end.shake_hands(stream)
            await end.say(APPLICATION_DATA, b"all")
            await end.say(ALERT, b"\x01\x00")
            await wait_all_tasks_blocked()
            received = b""
            while part := await stream.receive_some():
                received += part
            assert received == b"all"
            reset(theirs)
            assert await stream.receive_some() == b""
            with pytest.raises(TLSError, match="the transport broke"):  # noqa: PT012
                while True:  # the first may go before the reset is known
                    await stream.send_all(b"more")
            await stream.aclose()


async def test_a_reset_without_an_end_is_none(arena: Arena) -> None:
    async with tcp_pair() as (ours, theirs):
        stream, end = arena.stream(ours), HostileEnd(arena.new_peer(), theirs)
        with trio.fail_after(10):
            await end.shake_hands(stream)
            reset(theirs)
            for _ in range(2):
                with pytest.raises(TLSError, match="the transport broke"):
                    await stream.receive_some()
            await stream.aclose()


async def test_an_alert_in_the_handshake_reaches_a_program(arenas: Arenas, version: str) -> None:
    arena = arenas["client", version]
    async with tcp_pair() as (ours, theirs):
        stream = arena.stream(ours)
        with trio.fail_after(10):
            await theirs.send_all(b"\x15\x03\x03\x00\x02\x02\x28")
            with pytest.raises(PeerAlertError) as raised:
                await stream.do_handshake()
            assert raised.value.alert == "handshake_failure"
            await theirs.aclose()
            await stream.aclose()


################################################################
# Peers that read slowly, or not at all
################################################################


async def test_a_peer_that_reads_a_byte_at_a_time_gets_all_and_the_end(arena: Arena) -> None:
    data = bytes(range(256)) * 8
    async with tcp_pair() as (ours, theirs):
        stream, end = arena.stream(ours), HostileEnd(arena.new_peer(), theirs)
        with trio.fail_after(10):
            await end.shake_hands(stream)

            async def hear() -> None:
                while byte := await theirs.receive_some(1):
                    end.peer.hear(bytes(byte))
                await theirs.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(hear)
                await stream.send_all(data)
                await stream.aclose()
        contents = [content for kind, content in end.peer.heard if kind == APPLICATION_DATA]
        assert b"".join(contents) == data
        assert end.peer.alerts == ["close_notify"]


@pytest.mark.parametrize("how", ["close", "cancelled close"])
async def test_a_peer_that_reads_nothing_costs_a_close_its_limit(
    arena: Arena, how: str, autojump_clock: MockClock
) -> None:
    async with tcp_pair() as (ours, theirs):
        stream, end = arena.stream(ours), HostileEnd(arena.new_peer(), theirs)
        await end.shake_hands(stream)
        with trio.move_on_after(100) as scope:
            await stream.send_all(bytes(50_000_000))
        assert scope.cancelled_caught
        committed = stream.bytes_committed
        assert committed < 50_000_000
        begin = trio.current_time()
        if how == "close":
            await stream.aclose()
            assert trio.current_time() - begin == pytest.approx(5)
        else:
            await trio.aclose_forcefully(stream)
            assert trio.current_time() == begin
        # What did arrive is whole records, in order, and no end: it is none.
        received = bytearray()
        with trio.move_on_after(100):
            while part := await theirs.receive_some():
                received += part
        for record in take_records(received):
            end.peer.hear(record)
        assert (
            sum(len(content) for kind, content in end.peer.heard if kind == APPLICATION_DATA)
            <= committed
        )
        assert end.peer.alerts == []
