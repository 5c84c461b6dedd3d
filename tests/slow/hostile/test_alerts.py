"""Each alert at every point of a connection, and alerts that break the rules."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs
import pytest

from fuzz._forge import ALERT, APPLICATION_DATA, FATAL, WARNING, record, take_records
from tests.tables import Tables
from trio_tlsbio import PeerAlertError, TLSConnection
from trio_tlsbio._core.iana import Alert
from trio_tlsbio._core.openssl_errors import IS_PYPY
from trio_tlsbio._core.words import NEWER_ALERTS
from trio_tlsbio.core import State

from .cases import NO_MESSAGE, Arenas, Case, Ends, Goes, both, sealed
from .peer import Arena, HostilePeer, outcome_of

# Descriptions without a name, too: RFC 9846 section 6.2 makes them errors.
NAMES = {
    **{int(alert): alert.description for alert in Alert if alert not in NEWER_ALERTS},
    **dict.fromkeys((1, 99, 255), "unknown"),
}

Moment: TypeAlias = Callable[[Arena], tuple[HostilePeer, TLSConnection, Callable[[bytes], bytes]]]


################################################################
# Points of a connection: a pair, and what makes a record of an alert there
################################################################


def plaintext(alert: bytes) -> bytes:
    return record(ALERT, alert)


def before_hello(
    arena: Arena,
) -> tuple[HostilePeer, TLSConnection, Callable[[bytes], bytes]]:
    peer, victim = arena.meet()
    victim.data_to_send()
    return peer, victim, plaintext


def in_handshake(
    arena: Arena,
) -> tuple[HostilePeer, TLSConnection, Callable[[bytes], bytes]]:
    """After the first flight of a server, or its ServerHello for a client."""
    peer, victim = arena.meet()
    peer.hear(victim.data_to_send())
    flight = bytearray(peer.next_flight())
    # All of the hello; a client gets the rest of the handshake never.
    victim.feed(next(take_records(flight)))
    assert not victim.do_handshake()
    peer.hear(victim.data_to_send())
    if arena.is_tls13 and not arena.is_server:
        keys, _ = peer.handshake_keys()
        return peer, victim, lambda alert: keys.seal(ALERT, alert)
    # A client of TLS 1.3 may have no keys yet to send an alert under.
    return peer, victim, plaintext


def established(
    arena: Arena,
) -> tuple[HostilePeer, TLSConnection, Callable[[bytes], bytes]]:
    peer, victim = arena.establish()
    return peer, victim, lambda alert: peer.seal(ALERT, alert)


def after_our_close(
    arena: Arena,
) -> tuple[HostilePeer, TLSConnection, Callable[[bytes], bytes]]:
    peer, victim = arena.establish()
    victim.send_close_notify()
    peer.hear(victim.data_to_send())
    peer.heard.clear()
    return peer, victim, lambda alert: peer.seal(ALERT, alert)


MOMENTS: list[Moment] = [before_hello, in_handshake, established, after_our_close]


################################################################
# What comes out
################################################################


@attrs.frozen
class Expected:
    """What an alert leads to. ``alert`` is the name of a PeerAlertError."""

    alert: str | None = None
    is_end: bool = False
    words: str | None = None
    answer: str | None = None


def expected_of(name: str, level: int, moment: Moment, arena: Arena) -> Expected:
    """Return what RFC 9846 section 6 and RFC 5246 section 7.2 make of an alert."""
    if moment is before_hello and arena.is_server:
        return Expected(words=NO_MESSAGE, answer="unexpected_message")
    # Before a client has heard from a server, nobody knows which version it will be.
    is_tls13 = arena.is_tls13 and moment is not before_hello
    is_open = moment in {established, after_our_close}
    if name == "close_notify" and (is_tls13 or level == WARNING):
        return Expected(is_end=True) if is_open else Expected(alert="close_notify")
    if is_tls13:
        # The level says nothing any more, and only user_canceled is followed by something.
        return Expected() if name == "user_canceled" else Expected(alert=name)
    if level == FATAL:
        # OpenSSL has no name for a close_notify that is fatal.
        return Expected(alert="unknown" if name == "close_notify" else name)
    if name == "no_renegotiation":
        answer = None if moment is after_our_close else "handshake_failure"
        return Expected(words="the peer refuses a renegotiation", answer=answer)
    return Expected()


def check(
    peer: HostilePeer, victim: TLSConnection, moment: Moment, number: int, expected: Expected
) -> None:
    outcome = outcome_of(victim)
    sent = victim.data_to_send()
    if expected.alert is not None:
        assert isinstance(outcome.error, PeerAlertError)
        assert outcome.error.alert == expected.alert
        # PyPy reports the number of an alert that has no name.
        shown = number if expected.alert == "unknown" and IS_PYPY else expected.alert
        assert f"(alert {shown})" in outcome.words
        assert outcome.error.error_type == f"alert_{expected.alert}"
        assert sent == b"", "an alert is not answered"
        assert victim.receive_state is State.FAILED
    elif expected.words is not None:
        assert outcome.words == expected.words
        peer.hear(sent)
        assert peer.alerts == ([] if expected.answer is None else [expected.answer])
    elif expected.is_end:
        assert outcome.is_end
        if moment is established:  # our direction is still ours
            victim.send(b"more")
            peer.hear(victim.data_to_send())
            assert peer.heard == [(APPLICATION_DATA, b"more")]
    else:
        assert outcome.error is None
        assert not outcome.is_end
        assert sent == b""
        if moment in {established, after_our_close}:
            victim.feed(peer.seal(APPLICATION_DATA, b"goes on"))
            assert outcome_of(victim).data == b"goes on"


@pytest.mark.parametrize("level", [WARNING, FATAL], ids=["warning", "fatal"])
@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_each_alert(arena: Arena, moment: Moment, level: int) -> None:
    for number, name in NAMES.items():
        peer, victim, seal = moment(arena)
        victim.feed(seal(bytes([level, number])))
        try:
            check(peer, victim, moment, number, expected_of(name, level, moment, arena))
        except BaseException as exc:
            exc.add_note(f"{name} ({number})")
            raise


################################################################
# Alerts that break the rules
################################################################

MALFORMED = Ends("the peer sent a malformed alert", "unexpected_message")
TOO_MANY = Ends("the peer sent too many warnings in a row", "unexpected_message")
FAILURE = Ends(
    "the peer ended the connection: it found no parameters that both sides support (ciphers, "
    "groups, signatures), or no client certificate or pre-shared key (PSK) where it needs one "
    "(alert handshake_failure)",
    None,
)

CASES = [
    both("an alert of 1 byte", sealed(ALERT, b"\x02"), MALFORMED),
    both("an alert of 3 bytes", sealed(ALERT, b"\x02\x28\x00"), MALFORMED),
    both("two alerts in one record", sealed(ALERT, b"\x01\x5a" * 2), MALFORMED),
    Case(
        "an alert of level 3",
        sealed(ALERT, b"\x03\x28"),
        Ends("the peer sent a malformed alert", "illegal_parameter"),
        FAILURE,
    ),
    Case("a warning", sealed(ALERT, b"\x01\x28"), Goes(), FAILURE),
    both("user_canceled", sealed(ALERT, b"\x01\x5a"), Goes()),
    both("user_canceled, 4 times", sealed(ALERT, b"\x01\x5a", times=4), Goes()),
    both("user_canceled, 5 times", sealed(ALERT, b"\x01\x5a", times=5), TOO_MANY),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_alert_that_breaks_the_rules(case: Case, arenas: Arenas, tables: Tables) -> None:
    case.run(arenas)
    case.tell(tables, "hostile-alerts")


def test_warnings_between_data_are_no_flood(arena: Arena) -> None:
    peer, victim = arena.establish()
    for _ in range(50):
        for _ in range(4):
            victim.feed(peer.seal(ALERT, b"\x01\x5a"))
        victim.feed(peer.seal(APPLICATION_DATA, b"x"))
    assert outcome_of(victim).data == b"x" * 50
