"""Tables of what is said and what comes out, for tests and docs."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import attrs
import pytest

from fuzz._forge import APPLICATION_DATA, record
from tests.tables import Tables
from trio_tlsbio import PeerAlertError, TLSError
from trio_tlsbio.core import State

from .peer import SIDES, Arena, HostilePeer, Outcome, outcome_of

Arenas: TypeAlias = Mapping[tuple[str, str], Arena]
Say: TypeAlias = Callable[[HostilePeer], bytes]

# From 3.2 on, OpenSSL does not report what is wrong with a record that it has read as a whole.
IS_SILENT = ssl.OPENSSL_VERSION_INFO >= (3, 2)

# The words that most of them end with.
DAMAGED = "a record arrived damaged: its bytes were changed or reordered on the way"
if IS_SILENT:
    DAMAGED += ", or the peer sent an invalid one"
TOO_LONG = "the peer sent a record that is longer than TLS allows"
NO_RECORD = "the peer sent something that is not a TLS record"
NO_PLACE = "the peer sent an unexpected record"
NO_MESSAGE = "the peer sent an unexpected message"
INTERNAL = (
    "OpenSSL can't continue (internal error); in TLS 1.2, a record that is too short to be "
    "encrypted causes this"
)


@attrs.frozen
class Ends:
    """The connection ends in an error, with these words, and the peer gets an alert, if any."""

    words: str
    alert: str | None


def inside(words: str, alert: str, silent_alert: str | None = None) -> Ends:
    """The end by what is wrong in a record, which OpenSSL reports before 3.2 only."""
    return Ends(DAMAGED, silent_alert or alert) if IS_SILENT else Ends(words, alert)


@attrs.frozen
class Goes:
    """The connection goes on. This was received."""

    data: bytes = b""


@attrs.frozen
class Case:
    """What a peer says once the handshake is done, and what comes out. None: it can't say that."""

    name: str
    say: Say
    tls12: Ends | Goes | None
    tls13: Ends | Goes | None
    #: Who it is said to.
    victims: Sequence[str] = SIDES

    def run(self, arenas: Arenas) -> None:
        """Try it on all victims."""
        for side in self.victims:
            for version, expected in (("tls12", self.tls12), ("tls13", self.tls13)):
                if expected is not None:
                    try:
                        run(arenas[side, version], self.say, expected)
                    except BaseException as exc:
                        exc.add_note(f"said to a {side} with {version}")
                        raise

    def tell(self, tables: Tables, table: str) -> None:
        """Write what comes out into a table of the docs."""
        name = self.name
        if len(self.victims) == 1:
            name += f", to a {self.victims[0]}"
        tables.tell(table, name, *told(self.tls12), *told(self.tls13))


def both(name: str, say: Say, expected: Ends | Goes, *, victims: Sequence[str] = SIDES) -> Case:
    """A case in which both versions have the same outcome."""
    return Case(name, say, expected, expected, victims)


def plain(content_type: int, content: bytes, version: bytes = b"\x03\x03") -> Say:
    """A record as it is before there are keys."""
    return lambda peer: record(content_type, content, version)


def sealed(content_type: int, content: bytes, padding: int = 0, times: int = 1) -> Say:
    """Records under the right keys."""

    def say(peer: HostilePeer) -> bytes:
        return b"".join(peer.seal(content_type, content, padding) for _ in range(times))

    return say


def run(arena: Arena, say: Say, expected: Ends | Goes) -> None:
    """Say it after a good record, and see that what comes out is what is expected."""
    peer, victim = arena.establish()
    victim.feed(peer.seal(APPLICATION_DATA, b"before"))
    victim.feed(say(peer))
    outcome = outcome_of(victim)
    peer.hear(victim.data_to_send())
    if isinstance(expected, Goes):
        assert outcome == Outcome(b"before" + expected.data, False, None)
        victim.feed(peer.seal(APPLICATION_DATA, b"after"))
        assert outcome_of(victim) == Outcome(b"after", False, None)
        victim.send(b"answer")
        peer.hear(victim.data_to_send())
        assert peer.heard == [(APPLICATION_DATA, b"answer")]
        return
    assert outcome.error is not None
    # A replayed record was good the first time.
    assert outcome.data in {b"before", b"beforedata"}
    alerts = [] if expected.alert is None else [expected.alert]
    assert (outcome.words, peer.alerts) == (expected.words, alerts)
    assert type(outcome.error) is (PeerAlertError if expected.alert is None else TLSError)
    assert victim.send_state is victim.receive_state is State.FAILED
    for use in (victim.receive, lambda: victim.send(b"x"), victim.send_close_notify):
        with pytest.raises(TLSError) as raised:
            use()
        assert str(raised.value) == expected.words
    assert victim.data_to_send() == b""
    was_empty = victim.inbox.is_empty
    victim.feed(b"whatever comes")  # is not kept
    assert victim.inbox.is_empty == was_empty


def told(expected: Ends | Goes | None) -> tuple[str, str]:
    """What the docs say about it, and the alert."""
    match expected:
        case None:
            return "not applicable", ""
        case Goes():
            return "the connection goes on", ""
        case Ends(words, alert):
            return words, alert or "none"
