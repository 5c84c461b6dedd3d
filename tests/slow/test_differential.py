"""The library answers whenever OpenSSL alone would, with the same bytes, however they are cut.

Twenty thousand damaged conversations, the same each time, are fed to a ``TLSConnection`` and to a
plain program over an ``ssl.SSLObject``. ``python -m tests.slow.differential`` compares more of
them.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator

import attrs
import pytest

from fuzz._forge import ALERT, HELLO_REQUEST, UPDATE_REQUESTED, handshake, record
from tests.helpers import ROOT
from trio_tlsbio import TLSConnection

from .differential.__main__ import PER_SEED
from .differential.conversation import DIFFERENCES, Conversation, Report, compare, make
from .differential.damage import GARBAGE, sslv2_hello
from .differential.script import PAUSE, Speech, framed
from .differential.subjects import Act, Action, Status
from .differential.transcripts import SCENARIOS, Item, Transcript, records_in_part

PER_SHARD = 200
SHARDS = 100

VERSIONS = ("TLSv1.2", "TLSv1.3")
PLAIN = [f"{version} {side} plain" for version in VERSIONS for side in ("client", "server")]
SIZES = (1, 2, 3, 4, 5, 7, 40, 100_000)

each_plain = pytest.mark.parametrize("scenario", PLAIN)


def check(report: Report, what: object) -> Report:
    """See that both sides did the same."""
    assert report.mismatch is None, f"{what}: {report.mismatch}"
    return report


def check_all(conversations: Iterator[tuple[object, Conversation]]) -> list[Report]:
    """Compare some conversations, each of which has a name, and show a few that part."""
    reports, parted = [], []
    for what, conversation in conversations:
        report = compare(conversation)
        reports.append(report)
        if report.mismatch is not None:
            parted.append(f"{what}: {report.mismatch}")
    some = "\n".join(parted[:3])
    assert not parted, f"{len(parted)} of {len(reports)} part, such as\n{some}"
    return reports


def cut(data: bytes, size: int) -> list[Item]:
    return [data[start : start + size] for start in range(0, len(data), size)]


def handshake_of(scenario: str) -> list[bytes]:
    """The honest peer's records, up to the end of the handshake."""
    transcript = Transcript.of(scenario)
    flights = transcript.items[: transcript.handshake_items]
    return [r for flight in flights if isinstance(flight, bytes) for r in records_in_part(flight)]


def speech_of(scenario: str) -> Speech:
    transcript = Transcript.of(scenario)
    keys = transcript.keys()
    assert keys is not None
    return Speech(transcript, keys)


################################################################
# Any conversation
################################################################


@pytest.mark.sample(25)
@pytest.mark.parametrize("shard", range(SHARDS))
def test_a_damaged_conversation(shard: int) -> None:
    numbers = range(shard * PER_SHARD, (shard + 1) * PER_SHARD)
    check_all((f"python -m tests.slow.differential --only {n}", make(n)) for n in numbers)


def test_conversations_are_of_every_kind() -> None:
    conversations = [make(number) for number in range(2000)]
    assert {each.scenario for each in conversations} == set(SCENARIOS)
    damage = {words.split(" at ")[0] for each in conversations for words in each.damage}
    assert len(damage) >= 16
    acts = {step.act for each in conversations for step in each.steps if isinstance(step, Action)}
    assert acts == {Act.SEND, Act.CLOSE, Act.ASK}
    assert {each.cut for each in conversations} == {
        *("whole", "flights", "odd", "near", "headers", "ones")
    }
    for options in ("ends", "collect_sessions", "drives_handshake", "is_lazy"):
        assert {getattr(each, options) for each in conversations} == {False, True}


def test_conversations_end_in_every_way(stride: int) -> None:
    count = 1000 if stride == 1 else 300
    reports = [compare(make(number)) for number in range(count)]
    assert {report.last.status for report in reports if report.last is not None} == set(Status)
    assert len({report.plain.error for report in reports if report.plain is not None}) > 25


@pytest.mark.parametrize("name", list(SCENARIOS))
@pytest.mark.parametrize("size", [1, 1000, 100_000])
def test_an_honest_conversation(name: str, size: int) -> None:
    items = Transcript.of(name).items
    steps = [
        step
        for item in items
        for step in ([*cut(item[:1000], size), item[1000:]] if isinstance(item, bytes) else [item])
    ]
    report = check(compare(Conversation(name, steps)), name)
    assert report.last is not None
    assert report.last.is_established
    assert report.last.error is None


################################################################
# What OpenSSL refuses by a header, or without a whole record
################################################################

_LIMITS = (16384, 16384 + 256, 16384 + 320, 16384 + 2048)
HEADERS = [
    *(
        bytes([content_type]) + b"\3\3" + length.to_bytes(2, "big")
        for content_type in (20, 21, 22, 23)
        for length in (0, *(limit + 1 for limit in _LIMITS), 0x7FFF, 0xFFFF)
    ),
    *(bytes([content_type]) + b"\3\3\0\x20" for content_type in (0, 19, 24, 25, 0x37, 0x80, 0xFF)),
    *(b"\x16" + version + b"\0\x20" for version in (b"\2\0", b"\3\0", b"\3\4", b"\4\3", b"\0\0")),
    *(b"\x17" + version + b"\0\x20" for version in (b"\3\1", b"\3\4", b"\x7f\xff")),
]


@each_plain
@pytest.mark.parametrize("size", [1, 5])
def test_a_header_that_is_refused_at_any_point_of_the_handshake(scenario: str, size: int) -> None:
    records = handshake_of(scenario)

    def conversations() -> Iterator[tuple[str, Conversation]]:
        for count in range(len(records) + 1):
            for header in HEADERS:
                steps = [*records[:count], *cut(header, size)]
                yield f"{header.hex(' ')} after {count} records", Conversation(scenario, steps)

    reports = check_all(conversations())
    refused = sum(each.last is not None and each.last.status is Status.FAILED for each in reports)
    assert refused > len(reports) / 3


@each_plain
@pytest.mark.parametrize("size", SIZES)
def test_what_is_no_tls(scenario: str, size: int) -> None:
    records = handshake_of(scenario)

    def conversations() -> Iterator[tuple[str, Conversation]]:
        for before in ([], records[:1], records):
            for garbage in GARBAGE:
                steps = [*before, *cut(garbage, size)]
                name = f"{garbage[:20]!r} after {len(before)} records, by {size} bytes"
                yield name, Conversation(scenario, steps)

    reports = check_all(conversations())
    refused = sum(each.last is not None and each.last.status is Status.FAILED for each in reports)
    assert refused > len(reports) / 3


@pytest.mark.parametrize("size", SIZES)
def test_a_client_hello_of_ssl_2_is_answered(size: int) -> None:
    conversation = Conversation("TLSv1.2 server plain", cut(sslv2_hello(), size))
    report = check(compare(conversation), f"by {size} bytes")
    assert report.last is not None
    # It is read; without extensions there is nothing that both sides know.
    assert "NO_SHARED_CIPHER" in str(report.last.error)
    assert report.last.written[:1] == b"\x15", "no alert"


################################################################
# In one record with the Finished
################################################################

_HELLO_REQUEST = handshake(HELLO_REQUEST, b"")


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, scenario in SCENARIOS.items()
        if name.startswith("TLSv1.2 client") and scenario.follows is None  # else the keys change
    ],
)
@pytest.mark.parametrize("size", [16384, 16, 1])
@pytest.mark.parametrize("messages", [_HELLO_REQUEST, _HELLO_REQUEST * 2, _HELLO_REQUEST[:3]])
def test_a_hello_request_that_follows_the_finished(name: str, size: int, messages: bytes) -> None:
    transcript = Transcript.of(name)
    items, _ = framed(transcript, size, messages)
    whole = b"".join(item for item in items if isinstance(item, bytes))
    report = check(compare(Conversation(name, cut(whole, 100_000))), "whole")
    assert report.last is not None
    # Its answer is a record of the handshake, after change_cipher_spec and Finished.
    written = [r[0] for r in records_in_part(report.last.written)]
    before = 2 + ("with a certificate" in name) * 2 + (not transcript.scenario.resumes)
    assert written.count(22) + written.count(20) - before == (len(messages) >= 4)
    for each in (1, 100):
        check(compare(Conversation(name, cut(whole, each))), f"by {each} bytes")


def test_a_client_hello_that_follows_the_finished() -> None:
    name = "TLSv1.2 server plain"
    transcript = Transcript.of(name)
    items, _ = framed(transcript, 16384, transcript.client_hello[5:])
    steps = [item for item in items if item != PAUSE]
    report = check(compare(Conversation(name, steps)), name)
    assert report.last is not None
    last = list(records_in_part(report.last.written))[-1]
    assert last[0] == ALERT, "no_renegotiation"


################################################################
# The differences that have a name
################################################################


def _closed_in_the_handshake(scenario: str) -> Conversation:
    hello = handshake_of(scenario)[:1] if SCENARIOS[scenario].is_server else []
    return Conversation(scenario, [*hello, record(ALERT, b"\1\0")])


def _ended(scenario: str) -> Conversation:
    return Conversation(scenario, handshake_of(scenario)[:1], ends=True)


def _asked_after_our_close(scenario: str) -> Conversation:
    speech = speech_of(scenario)
    for _ in range(2):
        speech.update(UPDATE_REQUESTED)
    steps = [*handshake_of(scenario), Action(Act.CLOSE), *speech.items]
    return Conversation(scenario, steps)


_EXAMPLES: dict[str, Callable[[str], Conversation]] = {
    "close_notify in the handshake": _closed_in_the_handshake,
    "end of the transport": _ended,
    "nothing after our close_notify": _asked_after_our_close,
}


@pytest.mark.parametrize(
    ("scenario", "name"),
    [
        (scenario, name)
        for scenario in PLAIN
        for name in _EXAMPLES
        # OpenSSL itself writes nothing more in TLS 1.2.
        if ("TLSv1.2" not in scenario or name != "nothing after our close_notify")
    ],
)
def test_a_difference_that_has_a_name(scenario: str, name: str) -> None:
    report = check(compare(_EXAMPLES[name](scenario)), scenario)
    assert report.differences == {name}


def test_each_difference_that_has_a_name_is_tested_and_reasoned() -> None:
    assert set(_EXAMPLES) == {difference.name for difference in DIFFERENCES}
    assert all(len(difference.why) > 40 for difference in DIFFERENCES)


################################################################
# It can fail
################################################################


def _whole(scenario: str) -> Conversation:
    """With data, KeyUpdates, an alert at the end, and all of it in one piece."""
    speech = speech_of(scenario)
    speech.send(b"some data")
    speech.say(99, b"no record is of this type")
    return Conversation(scenario, [*handshake_of(scenario), *speech.items])


@each_plain
def test_data_that_is_lost_is_seen(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    conversation = _whole(scenario)
    check(compare(conversation), scenario)
    receive = TLSConnection.receive

    def lose(self: TLSConnection, max_bytes: int | None = None) -> bytes | None:
        data = receive(self, max_bytes)
        return data[:-1] if data else data

    monkeypatch.setattr(TLSConnection, "receive", lose)
    assert "some dat'" in str(compare(conversation).mismatch)


@each_plain
def test_an_answer_that_is_lost_is_seen(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data_to_send = TLSConnection.data_to_send

    def lose(self: TLSConnection) -> bytes:
        data = data_to_send(self)
        return b"" if len(data) in (24, 31) else data  # an alert that is encrypted

    monkeypatch.setattr(TLSConnection, "data_to_send", lose)
    mismatch = compare(_whole(scenario)).mismatch
    assert mismatch is not None
    assert not mismatch.ours.written
    assert mismatch.expected.written


@each_plain
def test_bytes_that_are_held_back_are_seen(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    feed = TLSConnection.feed

    def hold_back(self: TLSConnection, data: bytes) -> None:
        feed(self, data[:-1])

    monkeypatch.setattr(TLSConnection, "feed", hold_back)
    assert compare(_whole(scenario)).mismatch is not None


@each_plain
def test_a_connection_that_spins_is_seen(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def spin(self: TLSConnection, max_bytes: int | None = None) -> None:
        self.inbox.wants_data = False

    monkeypatch.setattr(TLSConnection, "receive", spin)
    with pytest.raises(AssertionError, match="it spins"):
        compare(_whole(scenario))


def test_a_failure_in_other_words_is_seen() -> None:
    scenario = PLAIN[0]
    reports = [check(compare(Conversation(scenario, [GARBAGE[n]])), n) for n in (0, 6)]
    errors = {report.last.error for report in reports if report.last is not None}
    assert len(errors) == 2, "an HTTP request, and anything"
    assert None not in errors


################################################################
# By hand
################################################################


def test_a_conversation_is_shown_by_its_number() -> None:
    number = next(n for n in range(PER_SEED, PER_SEED + 100) if make(n).damage)
    command = [sys.executable, "-m", "tests.slow.differential", "--only", str(number)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1), done.stderr
    assert make(number).scenario in done.stdout


def test_a_conversation_is_the_same_each_time() -> None:
    for number in range(50):
        one, other = make(number), make(number)
        assert attrs.asdict(one, recurse=False) == attrs.asdict(other, recurse=False)
