"""Handshakes that go wrong on purpose, and such that look odd but are right."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import attrs
import pytest

from fuzz._forge import (
    ALERT,
    APPLICATION_DATA,
    CERTIFICATE,
    CHANGE_CIPHER_SPEC,
    CLIENT_HELLO,
    ENCRYPTED_EXTENSIONS,
    FINISHED,
    HANDSHAKE,
    HELLO_REQUEST,
    KEY_UPDATE,
    SERVER_HELLO,
    handshake,
    hello_retry_request,
    in_pieces,
    record,
    take_records,
    with_extension,
)
from tests.tables import Tables
from trio_tlsbio import TLSConnection, TruncationError
from trio_tlsbio.core import State

from .cases import (
    DAMAGED,
    NO_MESSAGE,
    NO_PLACE,
    NO_RECORD,
    TOO_LONG,
    Arenas,
    Ends,
    inside,
    told,
)
from .peer import Arena, HostilePeer, outcome_of, shake_hands

#: Says something instead of a peer's first flight, whose records are given.
Say: TypeAlias = Callable[[HostilePeer, Sequence[bytes]], bytes]

CCS = record(CHANGE_CIPHER_SPEC, b"\x01")
TOO_LARGE = Ends(
    "the peer sent a handshake message that is longer than OpenSSL allows"
    " (100 KiB for its certificates)",
    "illegal_parameter",
)
UNEXPECTED = Ends(NO_MESSAGE, "unexpected_message")
MALFORMED = Ends("the peer sent a malformed handshake message", "illegal_parameter")


@attrs.frozen
class Waits:
    """It is no error yet, and the victim waits for more."""


@attrs.frozen
class Case:
    """What a victim of one side makes of it."""

    name: str
    victim_side: str
    say: Say
    tls12: Ends | Waits | None
    tls13: Ends | Waits | None


def to_server(name: str, say: Callable[[bytes], bytes], *expected: Ends | Waits | None) -> Case:
    """Something instead of a ClientHello, whose record is given."""
    return Case(name, "server", lambda _, records: say(records[0]), expected[0], expected[-1])


def to_client(name: str, say: Say, *expected: Ends | Waits | None) -> Case:
    """Something instead of what follows a ClientHello."""
    return Case(name, "client", say, expected[0], expected[-1])


def after_hello(content_type: int, content: bytes) -> Say:
    """After the ServerHello: in TLS 1.3, under the keys of the handshake."""

    def say(peer: HostilePeer, records: Sequence[bytes]) -> bytes:
        if not peer.is_tls13:
            return records[0] + record(content_type, content)
        keys, _ = peer.handshake_keys()
        if content[0] == CERTIFICATE:  # what has to come first
            return records[0] + keys.seal(
                content_type, handshake(ENCRYPTED_EXTENSIONS, b"\0\0") + content
            )
        return records[0] + keys.seal(content_type, content)

    return say


def retry(times: int, group: int = 0x0017) -> Say:
    """HelloRetryRequests for secp256r1, or another group."""
    return lambda _, records: record(HANDSHAKE, hello_retry_request(records[0][5:], group)) * times


CASES = [
    to_server(
        "a ClientHello in records of 1 byte",
        lambda hello: in_pieces(HANDSHAKE, hello[5:], 1),
        Waits(),
    ),
    *(
        to_server(
            f"a ClientHello with an extension of {size} bytes",
            lambda hello, size=size: in_pieces(  # type: ignore[misc]
                HANDSHAKE, with_extension(hello[5:], 0xABCD, bytes(size)), 16384
            ),
            Waits(),
        )
        for size in (20_000, 64_000)
    ),
    to_server(
        "a ClientHello that says it has 16 MiB",
        lambda hello: record(HANDSHAKE, handshake(CLIENT_HELLO, hello[9:], 0xFFFFFF)),
        TOO_LARGE,
    ),
    to_server(
        "a ClientHello in a record of 2^14 + 1 bytes",
        lambda hello: record(HANDSHAKE, hello[5:].ljust(16385, b"\0")),
        Ends(TOO_LONG, "record_overflow"),
    ),
    to_server(
        "two ClientHellos",
        lambda hello: hello * 2,
        Ends(NO_RECORD, "protocol_version"),  # the version of a first record is an older one
        Ends(NO_RECORD, "unexpected_message"),
    ),
    *(
        to_server(f"{name} instead of a ClientHello", lambda _, said=said: said, UNEXPECTED)  # type: ignore[misc]
        for name, said in [
            ("data", record(APPLICATION_DATA, b"data")),
            ("change_cipher_spec", CCS),
            ("the content type 99", record(99, b"data")),
            ("an alert", record(ALERT, b"\x02\x28")),
            ("a ServerHello", record(HANDSHAKE, handshake(SERVER_HELLO, bytes(60)))),
            ("a Finished", record(HANDSHAKE, handshake(FINISHED, bytes(12)))),
            ("a KeyUpdate", record(HANDSHAKE, handshake(KEY_UPDATE, b"\x01"))),
            ("a HelloRequest", record(HANDSHAKE, handshake(HELLO_REQUEST, b""))),
        ]
    ),
    to_server(
        "33 empty records, then a ClientHello",
        lambda hello: record(HANDSHAKE, b"") * 33 + hello,
        Ends("the peer sent too many empty records in a row", "unexpected_message"),
    ),
    to_server(
        "a ClientHello, then data in plaintext",
        lambda hello: hello + record(APPLICATION_DATA, b"data" * 10),
        Ends(NO_PLACE, "unexpected_message"),
        Ends(DAMAGED, "bad_record_mac"),
    ),
    to_server(
        "a ClientHello, then 32 change_cipher_spec",
        lambda hello: hello + CCS * 32,
        UNEXPECTED,
        Waits(),
    ),
    to_server(
        "a ClientHello, then 33 change_cipher_spec",
        lambda hello: hello + CCS * 33,
        UNEXPECTED,
        inside(NO_PLACE, "unexpected_message"),
    ),
    to_server(
        "a ClientHello, then change_cipher_spec with another content",
        lambda hello: hello + record(CHANGE_CIPHER_SPEC, b"\x02"),
        Ends(NO_PLACE, "unexpected_message"),
        inside(NO_PLACE, "illegal_parameter", "unexpected_message"),
    ),
    to_client(
        "a ServerHello that says it has 16 MiB",
        lambda _, records: record(HANDSHAKE, handshake(SERVER_HELLO, records[0][9:], 0xFFFFFF)),
        TOO_LARGE,
    ),
    to_client(
        "two ServerHellos",
        lambda _, records: records[0] * 2,
        UNEXPECTED,
        Ends(NO_RECORD, "unexpected_message"),
    ),
    *(
        to_client(f"{name} instead of a ServerHello", lambda *_, said=said: said, UNEXPECTED)
        for name, said in [
            ("data", record(APPLICATION_DATA, b"data")),
            ("change_cipher_spec", CCS),
            ("a Finished", record(HANDSHAKE, handshake(FINISHED, bytes(12)))),
        ]
    ),
    to_client(
        "1000 HelloRequests",
        lambda *_: record(HANDSHAKE, handshake(HELLO_REQUEST, b"")) * 1000,
        Waits(),
    ),
    to_client(
        "a ServerHello, then a Finished",
        after_hello(HANDSHAKE, handshake(FINISHED, bytes(48))),
        UNEXPECTED,
    ),
    to_client(
        "a Certificate that says it has 16 MiB",
        after_hello(HANDSHAKE, handshake(CERTIFICATE, b"", 0xFFFFFF)),
        TOO_LARGE,
    ),
    to_client(
        "a Certificate that says it has 102401 bytes",
        after_hello(HANDSHAKE, handshake(CERTIFICATE, b"", 100 * 1024 + 1)),
        TOO_LARGE,
    ),
    to_client("a HelloRetryRequest", retry(1), None, Waits()),
    to_client("two HelloRetryRequests", retry(2), None, UNEXPECTED),
    to_client(
        "a HelloRetryRequest for the group that was offered", retry(1, 0x001D), None, MALFORMED
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case.name} to a {case.victim_side}")
def test_handshake(case: Case, arenas: Arenas, tables: Tables) -> None:
    for version, expected in (("tls12", case.tls12), ("tls13", case.tls13)):
        if expected is None:
            continue
        peer, victim = arenas[case.victim_side, version].meet()
        peer.hear(victim.data_to_send())
        records = list(take_records(bytearray(peer.next_flight())))
        victim.feed(case.say(peer, records))
        outcome = outcome_of(victim)
        if isinstance(expected, Waits):
            assert outcome.error is None
            assert victim.handshake is None
            continue
        peer.hear(victim.data_to_send())
        assert (outcome.words, peer.alerts[-1:]) == (expected.words, [expected.alert])
        assert victim.send_state is victim.receive_state is State.FAILED
    cells = [
        told(None if expected is None or isinstance(expected, Waits) else expected)
        if not isinstance(expected, Waits)
        else ("the handshake goes on", "")
        for expected in (case.tls12, case.tls13)
    ]
    tables.tell("hostile-handshakes", f"{case.name}, to a {case.victim_side}", *cells[0], *cells[1])


################################################################
# Messages that come in any pieces
################################################################


def test_a_client_hello_may_be_cut_anywhere(arenas: Arenas, version: str) -> None:
    size = len(arenas["server", version].new_peer().next_flight()) - 5
    for end in range(1, size):
        peer, victim = arenas["server", version].meet()
        hello = peer.next_flight()[5:]
        victim.feed(record(HANDSHAKE, hello[:end]) + record(HANDSHAKE, hello[end:]))
        assert outcome_of(victim).error is None
        peer.hear(victim.data_to_send())
        if end % 50 == 0:
            shake_hands(peer, victim)


@pytest.mark.parametrize("size", [1, 100, 16384])
def test_a_flight_of_a_server_may_be_cut_anew(arenas: Arenas, size: int) -> None:
    peer, victim = arenas["client", "tls13"].meet()
    peer.hear(victim.data_to_send())
    flight = list(take_records(bytearray(peer.next_flight())))
    opening, _ = peer.handshake_keys()
    sealing, _ = peer.handshake_keys()
    messages = b"".join(opening.open(each)[1] for each in flight if each[0] == APPLICATION_DATA)
    victim.feed(in_pieces(HANDSHAKE, flight[0][5:], size))
    for start in range(0, len(messages), size):
        victim.feed(sealing.seal(HANDSHAKE, messages[start : start + size], padding=start % 3))
    while not victim.do_handshake():
        assert victim.is_behind
    shake_hands(peer, victim)


################################################################
# Ends
################################################################


def test_the_transport_ends_at_every_byte_of_a_flight(arena: Arena) -> None:
    peer, victim = arena.meet()
    peer.hear(victim.data_to_send())
    flight = peer.next_flight()
    last = len(flight) - (not arena.is_server and arena.is_tls13)  # which completes it there
    for end in range(0, last, 3):
        peer, victim = arena.meet()
        peer.hear(victim.data_to_send())
        victim.feed(peer.next_flight()[:end])
        assert not victim.do_handshake()
        victim.feed_eof()
        outcome = outcome_of(victim)
        assert isinstance(outcome.error, TruncationError), f"after {end} bytes"
        assert outcome.words == "the peer closed the connection during the handshake"
        assert victim.send_state is State.TRUNCATED


def test_an_end_within_a_record_is_a_truncation(arena: Arena) -> None:
    size = len(arena.establish()[0].seal(APPLICATION_DATA, b"data"))
    for end in range(size):
        peer, victim = arena.establish()
        victim.feed(peer.seal(APPLICATION_DATA, b"data")[:end])
        assert outcome_of(victim).data == b""
        victim.feed_eof()
        assert isinstance(outcome_of(victim).error, TruncationError)


def closed(arena: Arena, *, said_after: bytes) -> tuple[HostilePeer, TLSConnection]:
    """A victim that was told the end, and more after it."""
    peer, victim = arena.establish()
    victim.feed(peer.seal(APPLICATION_DATA, b"data") + peer.seal(ALERT, b"\x01\x00"))
    victim.feed(said_after)
    outcome = outcome_of(victim)
    assert (outcome.data, outcome.is_end) == (b"data", True)
    return peer, victim


def test_what_comes_after_the_end_is_no_data(arena: Arena) -> None:
    peer, victim = closed(arena, said_after=b"")
    more = peer.seal(APPLICATION_DATA, b"more") + peer.seal(ALERT, b"\x01\x00")
    victim.feed(more)
    assert outcome_of(victim).is_end
    assert victim.trailing_data == more
    victim.feed_eof()
    assert outcome_of(victim).is_end  # a second end changes nothing
    victim.send(b"ours goes on")
    victim.send_close_notify()
    peer.hear(victim.data_to_send())
    assert peer.heard == [(APPLICATION_DATA, b"ours goes on"), (ALERT, b"\x01\x00")]


def test_an_end_along_with_garbage_stays_an_end(arena: Arena) -> None:
    _, victim = closed(arena, said_after=b"GET / HTTP/1.1\r\n\r\n")
    assert victim.trailing_data == b"GET / HTTP/1.1\r\n\r\n"
    assert victim.send_state is State.OPEN
