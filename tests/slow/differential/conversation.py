"""A damaged conversation: made from a number, and fed to both sides of the comparison."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import attrs

from .damage import Wire, damage
from .script import PAUSE, Speech, after_handshake, extra_message, framed
from .subjects import Act, Action, Ours, Plain, Status, Step
from .transcripts import SCENARIOS, Item, Transcript, records_in_part, within_a_second

__all__ = ["DIFFERENCES", "Conversation", "Difference", "Mismatch", "Report", "compare", "make"]

################################################################
# Where the library does something else than OpenSSL alone, and why
################################################################


@attrs.frozen
class Difference:
    """One that is meant to be."""

    name: str
    why: str
    applies: Callable[[Step], bool]
    #: Returns what the library does where OpenSSL alone does this.
    translate: Callable[[Step], Step]


DIFFERENCES: Sequence[Difference] = (
    Difference(
        "close_notify in the handshake",
        "OpenSSL reports a clean end of a connection that never was one. Nothing is verified yet, "
        "so anyone on the way can send it: it is a PeerAlertError.",
        lambda step: step.status is Status.ENDED and not step.is_established,
        lambda step: attrs.evolve(step, status=Status.FAILED, alert="close_notify"),
    ),
    Difference(
        "end of the transport",
        "OpenSSL is not shown the end: with SSL_OP_IGNORE_UNEXPECTED_EOF it would report a "
        "truncation as a clean end. So it writes no alert decode_error to a peer that has gone.",
        lambda step: step.error is not None and step.error[0] == "SSLEOFError",
        lambda step: attrs.evolve(
            step,
            status=Status.TRUNCATED,
            error=None,
            written=b"",
            written_after_close=b"",
        ),
    ),
    Difference(
        "nothing after our close_notify",
        "OpenSSL goes on to write alerts, KeyUpdates and answers to a CertificateRequest after its "
        "own close_notify. Nothing may follow that (RFC 9846 section 6.1).",
        lambda step: bool(step.written_after_close),
        lambda step: attrs.evolve(step, written_after_close=b""),
    ),
)


def expected(plain: Step) -> tuple[Step, list[str]]:
    """Return what the library is to do where OpenSSL does this, by which named differences."""
    names = []
    for difference in DIFFERENCES:
        if difference.applies(plain):
            plain = difference.translate(plain)
            names.append(difference.name)
    return plain, names


################################################################
# Conversations
################################################################


@attrs.frozen(eq=False)
class Conversation:
    """What both sides are given."""

    scenario: str
    #: Pieces of ciphertext, as they arrive, and what the application does between them.
    steps: Sequence[Item]
    ends: bool = False
    """Whether the transport ends after it."""
    #: How the library is used: see Ours.
    collect_sessions: bool = False
    max_bytes: int | None = None
    drives_handshake: bool = False
    pieces: int = 1
    is_lazy: bool = False
    """Whether the library is called once for each piece. Then what came counts at the end."""
    damage: Sequence[str] = ()
    cut: str = ""

    @property
    def acts(self) -> bool:
        """Whether the application sends, and so perhaps before the handshake is done."""
        return any(isinstance(step, Action) for step in self.steps)


@attrs.frozen
class Mismatch:
    """The first step at which the two sides part without a named reason."""

    number: int
    of: int
    step: Item | None
    ours: Any
    expected: Any
    before: bytes = b""
    """What was fed before, its end."""

    def __str__(self) -> str:
        step = self.step
        what = "the end" if step is None else str(step)
        if isinstance(step, bytes):
            what = f"{len(step)} bytes: {step[:40].hex(' ')}{' ...' * (len(step) > 40)}"
        before = f" (before: ... {self.before[-16:].hex(' ')})" if self.before else ""
        sides = (
            f"\n    {name}: " + ", ".join(f"{field}={value!r}" for field, value in _parted(*pair))
            for name, pair in (
                ("library ", (self.ours, self.expected)),
                ("expected", (self.expected, self.ours)),
            )
        )
        return f"step {self.number} of {self.of}: {what}{before}" + "".join(sides)


def _parted(one: Any, other: Any) -> list[tuple[str, Any]]:
    """Return of two steps that differ what is in the first."""
    if not isinstance(one, Step):
        return [("trailing data", bytes(one))]
    fields = attrs.fields(Step)
    return [
        (field.name, field.repr(value) if callable(field.repr) else value)
        for field in fields
        if (value := getattr(one, field.name)) != getattr(other, field.name)
    ]


@attrs.define
class Report:
    """What became of a conversation."""

    mismatch: Mismatch | None = None
    #: The last step of each side.
    last: Step | None = None
    plain: Step | None = None
    differences: set[str] = attrs.field(factory=set)


def compare(conversation: Conversation) -> Report:
    """Feed it to both sides, step by step, until one of them fails or it ends."""
    report = _compare_in_time(conversation)
    if report.mismatch and conversation.acts and "TLSv1.2" in conversation.scenario:
        # Programs of both kinds are right.
        other = _compare_in_time(conversation, writes_first=False)
        report = report if other.mismatch else other
    return report


def _compare_in_time(conversation: Conversation, **options: bool) -> Report:
    # Both sides write tickets, with the time in them.
    return within_a_second(
        lambda: _compare(conversation, **options), lambda report: report.mismatch is None
    )


def _compare(conversation: Conversation, *, writes_first: bool = True) -> Report:
    transcript = Transcript.of(conversation.scenario)
    plain = transcript.plain(writes_first=writes_first)
    ours = transcript.ours(collect_sessions=conversation.collect_sessions)
    ours.max_bytes = conversation.max_bytes
    ours.drives_handshake = conversation.drives_handshake
    ours.pieces = conversation.pieces
    if conversation.is_lazy:
        return _compare_at_the_end(conversation, ours, plain)
    report = Report()
    steps: list[Item | None] = [b"", *conversation.steps, *[None] * conversation.ends]
    has_closed = False
    before = b""
    for number, item in enumerate(steps):
        if isinstance(item, Action):
            if has_closed or not _is_possible(item, plain):
                continue
            has_closed = item.act is Act.CLOSE
            a, b = ours.act(item), plain.act(item)
        elif item is None:
            a, b = ours.feed_eof(), plain.feed_eof()
        else:
            a, b = ours.feed(item), plain.feed(item)
        report.last, report.plain = a, b
        if a != b:
            b, names = expected(b)
            report.differences.update(names)
            if a != b:
                report.mismatch = Mismatch(number, len(steps) - 1, item, a, b, before)
                return report
        if a.status in (Status.FAILED, Status.TRUNCATED):
            return report
        if isinstance(item, bytes):
            before = (before + item)[-64:]
    report.mismatch = _compare_trailing(ours, plain, len(steps) - 1)
    return report


def _compare_at_the_end(conversation: Conversation, ours: Ours, plain: Plain) -> Report:
    """Compare all that came of it, where nothing but ciphertext is fed."""
    report = Report()
    theirs = [plain.step()]
    mine = [ours.step()]
    for item in conversation.steps:
        assert isinstance(item, bytes)
        mine.append(ours.feed_lazily(item))
        if plain.status is not Status.FAILED:
            theirs.append(plain.feed(item))
    mine.append(ours.feed_eof() if conversation.ends else ours.feed(b""))
    if conversation.ends and plain.status is Status.WAITS:
        theirs.append(plain.feed_eof())
    all_expected = []
    for step in theirs:
        step, names = expected(step)
        report.differences.update(names)
        all_expected.append(step)
    report.last, report.plain = mine[-1], theirs[-1]
    a, b = _sum(mine), _sum(all_expected)
    if a != b:
        number = len(mine) - 1
        report.mismatch = Mismatch(number, number, None, a, b)
    else:
        report.mismatch = _compare_trailing(ours, plain, len(mine) - 1)
    return report


def _sum(steps: Sequence[Step]) -> Step:
    return attrs.evolve(
        steps[-1],
        plaintext=b"".join(step.plaintext for step in steps),
        written=b"".join(step.written for step in steps),
    )


def _compare_trailing(ours: Ours, plain: Plain, number: int) -> Mismatch | None:
    """Compare what followed the peer's close_notify."""
    is_end = plain.status is Status.ENDED and plain.is_established
    a, b = ours.connection.trailing_data, bytes(plain.trailing) if is_end else b""
    return None if a == b else Mismatch(number, number, None, a, b)


def _is_possible(action: Action, plain: Plain) -> bool:
    """Whether an application can do it now: a request takes a handshake that is done."""
    if action.act is Act.ASK:
        return plain.is_established and plain.status is Status.WAITS
    return action.act is not Act.PAUSE


################################################################
# Made from a number
################################################################

_NAMES = tuple(SCENARIOS)


def make(number: int) -> Conversation:
    """Make the conversation of a number: always the same."""
    chance = random.Random(number)
    transcript = Transcript.of(chance.choice(_NAMES))
    wire = Wire(_said(transcript, chance), chance)
    if chance.random() < 0.1:  # a sender that does not wait for the handshake
        wire.items.insert(0, Action(Act.SEND, b"early"))
    damages = [
        damage(wire, chance) for _ in range(chance.choices([0, 1, 2, 3], [10, 60, 20, 10])[0])
    ]
    cut, steps = _cut(wire, chance)
    return Conversation(
        transcript.scenario.name,
        steps,
        ends=chance.random() < 0.4,
        collect_sessions=chance.random() < 0.5,
        max_bytes=chance.choice([None, None, None, 5000, 16384, 16385]),
        drives_handshake=chance.random() < 0.5,
        pieces=chance.choice([1, 1, 1, 2, 3]),
        is_lazy=chance.random() < 0.2 and all(isinstance(step, bytes) for step in steps),
        damage=damages,
        cut=cut,
    )


def _said(transcript: Transcript, chance: random.Random) -> list[Item]:
    items: list[Item] = []
    keys = transcript.keys()
    rest = transcript.items
    if keys is not None and chance.random() < 0.2:
        extra = extra_message(transcript, chance) if chance.random() < 0.5 else b""
        size = chance.choice([16384, 16384, 16384, 1000, 50, 5, 1])
        items, encrypted = framed(transcript, size, extra)
        rest = transcript.items[transcript.handshake_items :]
        if not transcript.is_tls13:
            keys._sequence = encrypted  # type: ignore[attr-defined]
    for item in rest:
        if isinstance(item, bytes):
            items += [*records_in_part(item), PAUSE]
        else:
            items.append(item)
    if keys is not None:
        speech = Speech(transcript, keys)
        after_handshake(speech, chance)
        items += speech.items
    return items


def _cut(wire: Wire, chance: random.Random) -> tuple[str, list[Item]]:
    """Cut what is said into the pieces in which it arrives."""
    data, actions, starts = b"", [], []
    for item in wire.items:
        starts.append(len(data))
        if isinstance(item, bytes):
            data += item
        else:
            actions.append((len(data), item))
    size = len(data)
    pauses = {at for at, action in actions if action == PAUSE}
    near = {
        start + by
        for place in wire.places
        for start in (starts[place], starts[min(place + 1, len(starts) - 1)])
        for by in range(-3, 12)
    }
    how = chance.choice(["whole", "flights", "flights", "odd", "near", "near", "headers", "ones"])
    cuts = set() if how == "whole" else pauses
    if how == "odd":
        at, most = 0, chance.choice([20, 200, 2000, 20_000])
        while at < size and len(cuts) < 100:
            at += chance.randrange(1, most)
            cuts.add(at)
    elif how == "headers":
        cuts |= {start + chance.randrange(-1, 7) for start in chance.choices(starts or [0], k=30)}
    elif how == "ones" and size <= 800:
        cuts |= set(range(size))
    elif how in ("near", "ones"):
        cuts |= near
    steps: list[Item] = []
    at = 0
    others = [(place, action) for place, action in actions if action != PAUSE]
    for end in sorted({end for end in cuts if 0 < end < size} | {p for p, _ in others} | {size}):
        if end > at:
            steps.append(data[at:end])
            at = end
        steps += [action for place, action in others if place == end]
    return how, steps
