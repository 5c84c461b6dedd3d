"""Single records that break the rules, under the right keys and under none."""

from __future__ import annotations

import pytest

from fuzz._forge import ALERT, APPLICATION_DATA, CHANGE_CIPHER_SPEC, HANDSHAKE, record
from tests.tables import Tables

from .cases import (
    DAMAGED,
    INTERNAL,
    IS_SILENT,
    NO_PLACE,
    NO_RECORD,
    TOO_LONG,
    Arenas,
    Case,
    Ends,
    Goes,
    Say,
    both,
    inside,
    plain,
    sealed,
)
from .peer import SIDES, Arena, HostilePeer, outcome_of

EMPTY = "the peer sent too many empty records in a row"


def relabelled(content_type: int, version: bytes) -> Say:
    """A good record with another type or version in its header."""
    return lambda peer: record(content_type, peer.seal(APPLICATION_DATA, b"data")[5:], version)


def out_of_order(peer: HostilePeer) -> bytes:
    first, second = (peer.seal(APPLICATION_DATA, data) for data in (b"first", b"second"))
    return second + first


def one_left_out(peer: HostilePeer) -> bytes:
    peer.seal(APPLICATION_DATA, b"this one")
    return peer.seal(APPLICATION_DATA, b"the next one")


CASES = [
    # Lengths: RFC 9846 sections 5.1 and 5.2, RFC 5246 sections 6.2.1 and 6.2.3.
    both("2^14 bytes of data", sealed(APPLICATION_DATA, bytes(16384)), Goes(bytes(16384))),
    both(
        "2^14 + 1 bytes of data",
        sealed(APPLICATION_DATA, bytes(16385)),
        inside(TOO_LONG, "record_overflow"),
    ),
    Case(
        "1 byte of data, and padding up to 2^14",
        sealed(APPLICATION_DATA, b"x", 16383),
        None,
        Goes(b"x"),
    ),
    Case(
        "as much data as makes 2^14 + 256 bytes of ciphertext",
        sealed(APPLICATION_DATA, bytes(16384 + 239)),
        None,
        inside(TOO_LONG, "record_overflow"),
    ),
    Case(
        "ciphertext of 2^14 + 257 bytes (TLS 1.2: + 2049)",
        lambda peer: record(APPLICATION_DATA, bytes(16384 + (257 if peer.is_tls13 else 2049))),
        Ends(TOO_LONG, "record_overflow"),
        Ends(TOO_LONG, "record_overflow"),
    ),
    both(
        "a length field of 65535, and nothing yet",
        lambda peer: b"\x17\x03\x03\xff\xff",
        Ends(TOO_LONG, "record_overflow"),
    ),
    Case(
        "a length field of 0",
        plain(APPLICATION_DATA, b""),
        inside(INTERNAL, "internal_error", "bad_record_mac"),
        Ends(DAMAGED, "bad_record_mac"),
    ),
    # Nothing in it: RFC 9846 sections 5.1 and 5.4.
    both("one empty record", sealed(APPLICATION_DATA, b""), Goes()),
    both("32 empty records", sealed(APPLICATION_DATA, b"", times=32), Goes()),
    both(
        "33 empty records",
        sealed(APPLICATION_DATA, b"", times=33),
        inside(EMPTY, "unexpected_message"),
    ),
    Case(
        "33 records of padding",
        sealed(APPLICATION_DATA, b"", 1000, times=33),
        None,
        inside(EMPTY, "unexpected_message"),
    ),
    Case(
        "an empty handshake record",
        sealed(HANDSHAKE, b""),
        Goes(),
        inside(
            "the peer sent a message that is empty, or has a wrong length",
            "unexpected_message",
        ),
    ),
    Case(
        "an empty alert",
        sealed(ALERT, b""),
        Ends("the peer sent a malformed alert", "unexpected_message"),
        inside(
            "the peer sent a message that is empty, or has a wrong length",
            "unexpected_message",
        ),
    ),
    Case(
        "padding without a content type",
        sealed(0, b"", 100),
        None,
        inside(NO_RECORD, "unexpected_message"),
    ),
    # Types and versions: RFC 9846 section 5.1.
    Case(
        "the content type 24 (heartbeat)",
        sealed(24, b"data"),
        Ends(NO_PLACE, "unexpected_message"),
        inside(NO_RECORD, "unexpected_message"),
    ),
    Case(
        "the content type 99",
        sealed(99, b"data"),
        Ends(NO_PLACE, "unexpected_message"),
        inside(NO_RECORD, "unexpected_message"),
    ),
    Case(
        "a record of data that is labelled a handshake",
        relabelled(HANDSHAKE, b"\x03\x03"),
        Ends(DAMAGED, "bad_record_mac"),
        Ends(NO_RECORD, "unexpected_message"),
    ),
    *(
        Case(
            f"the version {version.hex(' ')} in a record's header",
            relabelled(APPLICATION_DATA, version),
            Ends(NO_RECORD, "protocol_version"),
            Ends(NO_RECORD, alert),
        )
        for version, alert in [
            (b"\x00\x00", "decode_error" if IS_SILENT else "protocol_version"),
            (b"\x03\x01", "decode_error"),
            (b"\x03\x04", "decode_error"),
        ]
    ),
    Case(
        "an encrypted change_cipher_spec",
        sealed(CHANGE_CIPHER_SPEC, b"\x01"),
        Ends(NO_PLACE, "unexpected_message"),
        inside(NO_RECORD, "unexpected_message"),
    ),
    # Plaintext among ciphertext.
    *(
        Case(
            f"{name} in plaintext",
            plain(content_type, content),
            inside(INTERNAL, "internal_error", "bad_record_mac"),
            Ends(NO_RECORD, "unexpected_message"),
            # From 3.2 on, OpenSSL's client of TLS 1.3 still ignores one after the handshake.
            ("server",) if IS_SILENT and content_type == CHANGE_CIPHER_SPEC else SIDES,
        )
        for name, content_type, content in [
            ("change_cipher_spec", CHANGE_CIPHER_SPEC, b"\x01"),
            ("a fatal alert", ALERT, b"\x02\x28"),
            ("a close_notify", ALERT, b"\x01\x00"),
        ]
    ),
    both(
        "data in plaintext",
        plain(APPLICATION_DATA, b"all that is said here is readable"),
        Ends(DAMAGED, "bad_record_mac"),
    ),
    Case(
        "HTTP",
        lambda peer: b"GET / HTTP/1.1\r\n\r\n",
        Ends(NO_RECORD, "protocol_version"),
        Ends(NO_RECORD, "unexpected_message" if IS_SILENT else "protocol_version"),
    ),
    both(
        "half a record, then HTTP",
        lambda peer: (
            peer.seal(APPLICATION_DATA, b"data")[:12] + b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
        ),
        Ends(DAMAGED, "bad_record_mac"),
    ),
    # What somebody on the way could do.
    both(
        "a record twice",
        lambda peer: peer.seal(APPLICATION_DATA, b"data") * 2,
        Ends(DAMAGED, "bad_record_mac"),
    ),
    both("two records in the wrong order", out_of_order, Ends(DAMAGED, "bad_record_mac")),
    both("a record left out", one_left_out, Ends(DAMAGED, "bad_record_mac")),
]

if IS_SILENT:
    CASES.append(
        Case(
            "change_cipher_spec in plaintext",
            plain(CHANGE_CIPHER_SPEC, b"\x01"),
            inside(INTERNAL, "internal_error", "bad_record_mac"),
            Goes(),
            ("client",),
        )
    )


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_record(case: Case, arenas: Arenas, tables: Tables) -> None:
    case.run(arenas)
    case.tell(tables, "hostile-records")


def test_a_flipped_bit_anywhere_is_an_error(arena: Arena) -> None:
    size = len(arena.establish()[0].seal(APPLICATION_DATA, b"data"))
    for position in range(size):
        peer, victim = arena.establish()
        damaged = bytearray(peer.seal(APPLICATION_DATA, b"data"))
        damaged[position] ^= 1 << position % 8
        # The record that follows makes up for a length that was made larger.
        victim.feed(bytes(damaged) + bytes(256))
        outcome = outcome_of(victim)
        if outcome.error is None:
            assert damaged[3:5] > b"\x00\xff"  # it waits for a record that is longer
            victim.feed(bytes(16384))
            outcome = outcome_of(victim)
        assert outcome.data == b""
        assert outcome.error is not None, f"bit {position % 8} of byte {position}"
        peer.hear(victim.data_to_send())
        assert len(peer.alerts) == 1


@pytest.mark.parametrize("step", [1, 2, 7, 1000])
def test_records_come_in_any_pieces(arena: Arena, step: int) -> None:
    peer, victim = arena.establish()
    said = b"".join(
        peer.seal(APPLICATION_DATA, bytes([number])) + peer.seal(APPLICATION_DATA, b"")
        for number in range(100)
    )
    received = b""
    for start in range(0, len(said), step):
        victim.feed(said[start : start + step])
        received += victim.receive() or b""
    assert received == bytes(range(100))
