"""What a peer says: an honest handshake in any framing, and anything after it."""

from __future__ import annotations

import random
from collections.abc import Callable

import attrs

from fuzz._forge import (
    ALERT,
    APPLICATION_DATA,
    CERTIFICATE_REQUEST,
    CHANGE_CIPHER_SPEC,
    FINISHED,
    HANDSHAKE,
    HELLO_REQUEST,
    TICKET,
    UPDATE_NOT_REQUESTED,
    UPDATE_REQUESTED,
    Keys,
    handshake,
    record,
    records_in,
)

from .subjects import Act, Action
from .transcripts import Item, Transcript

__all__ = ["PAUSE", "Speech", "after_handshake", "framed"]

PAUSE = Action(Act.PAUSE)

_HELLO_REQUEST = handshake(HELLO_REQUEST, b"")
# With a context of one byte, and ecdsa_secp256r1_sha256 (RFC 9846 section 4.4.2).
_REQUEST = handshake(CERTIFICATE_REQUEST, b"\1\7" + bytes.fromhex("0008 000d 0004 0002 0403"))
_SIZES = (0, 1, 100, 1000, 16384, 40_000)
_RECORD_BYTES = 16384


@attrs.define(eq=False)
class Speech:
    """Records under the keys that follow the handshake."""

    transcript: Transcript
    keys: Keys
    items: list[Item] = attrs.field(factory=list, init=False)

    def say(self, content_type: int, content: bytes, padding: int = 0) -> None:
        padding = padding if self.transcript.is_tls13 else 0
        self.items.append(self.keys.seal(content_type, content, padding))

    def send(self, data: bytes) -> None:
        """Say application data, in as many records as it takes."""
        for start in range(0, max(1, len(data)), _RECORD_BYTES):
            self.say(APPLICATION_DATA, data[start : start + _RECORD_BYTES])

    def update(self, message: bytes) -> None:
        """Say a KeyUpdate, and go on with the next keys."""
        self.say(HANDSHAKE, message)
        self.keys.update()


################################################################
# The handshake
################################################################


def framed(transcript: Transcript, size: int, extra: bytes = b"") -> tuple[list[Item], int]:
    """Put the messages of a handshake into records of some size, and more after the Finished.

    Returns:
      The flights, with pauses between them, and how many records are encrypted.
    """
    reading, writing = transcript.handshake_keys(), transcript.handshake_keys()
    assert reading is not None
    assert writing is not None
    framer = _Framer(transcript.is_tls13, reading, writing, size)
    flights = transcript.items[: transcript.handshake_items]
    items: list[Item] = []
    for number, flight in enumerate(flights, 1):
        assert isinstance(flight, bytes)
        items += [*framer.frame(flight, extra if number == len(flights) else b""), PAUSE]
    return items, framer.encrypted


@attrs.define(eq=False)
class _Framer:
    is_tls13: bool
    reading: Keys
    writing: Keys
    size: int
    encrypted: int = attrs.field(default=0, init=False)
    _is_encrypted: bool = attrs.field(default=False, init=False)  # from here on
    _content: bytes = attrs.field(default=b"", init=False)

    def frame(self, flight: bytes, extra: bytes) -> list[bytes]:
        records: list[bytes] = []
        for each in records_in(flight):
            encrypted = each[0] == APPLICATION_DATA if self.is_tls13 else self._is_encrypted
            if each[0] == CHANGE_CIPHER_SPEC or encrypted is not self._is_encrypted:
                records += self._flush()
                self._is_encrypted = encrypted
            if each[0] == CHANGE_CIPHER_SPEC:
                records.append(each)
                self._is_encrypted = not self.is_tls13
            else:
                self._content += self.reading.open(each)[1] if encrypted else each[5:]
        self._content += extra
        return records + self._flush()

    def _flush(self) -> list[bytes]:
        content, self._content = self._content, b""
        pieces = [content[n : n + self.size] for n in range(0, len(content), self.size)]
        if not self._is_encrypted:
            return [record(HANDSHAKE, piece) for piece in pieces]
        self.encrypted += len(pieces)
        return [self.writing.seal(HANDSHAKE, piece) for piece in pieces]


def extra_message(transcript: Transcript, chance: random.Random) -> bytes:
    """Choose what follows the Finished in the same record."""
    if transcript.is_tls13:
        return chance.choice([TICKET, UPDATE_REQUESTED, _REQUEST, b"\x18\0", bytes(4)])
    if transcript.scenario.is_server:
        return chance.choice([transcript.client_hello[5:], bytes(4), b"\0"])
    return chance.choice([_HELLO_REQUEST, _HELLO_REQUEST, 2 * _HELLO_REQUEST, b"\0\0", TICKET])


################################################################
# Afterwards
################################################################

Phrase = Callable[[Speech, random.Random], None]


def _data(speech: Speech, chance: random.Random) -> None:
    speech.send(chance.randbytes(chance.choice(_SIZES)))


def _many_small(speech: Speech, chance: random.Random) -> None:
    for _ in range(chance.choice([10, 130, 300])):
        speech.say(APPLICATION_DATA, b"." * chance.choice([0, 1, 1]))


def _updates(speech: Speech, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 1, 1, 3, 20])):
        speech.update(chance.choice([UPDATE_REQUESTED, UPDATE_NOT_REQUESTED]))


def _many_updates(speech: Speech, chance: random.Random) -> None:
    for _ in range(140):
        speech.update(UPDATE_NOT_REQUESTED)


def _ticket(speech: Speech, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 2])):
        speech.say(HANDSHAKE, TICKET)


def _alert(speech: Speech, chance: random.Random) -> None:
    level = chance.choice([1, 1, 2, 2, 0, 3])
    alerts = (0, 10, 20, 40, 42, 48, 80, 90, 90, 100, 100, 116, 255)
    speech.say(ALERT, bytes([level, chance.choice(alerts)]))


def _warnings(speech: Speech, chance: random.Random) -> None:
    for _ in range(chance.choice([1, 4, 5, 6])):
        speech.say(ALERT, b"\1" + chance.choice([b"\x5a", b"\x64"]))


def _hello_request(speech: Speech, chance: random.Random) -> None:
    message = _HELLO_REQUEST
    if speech.transcript.scenario.is_server:
        message = speech.transcript.client_hello[5:]
    if chance.random() < 0.7:
        speech.say(HANDSHAKE, message * chance.choice([1, 1, 2]))
    else:  # in two records, with or without something between
        at = chance.randrange(1, len(message))
        speech.say(HANDSHAKE, message[:at])
        if chance.random() < 0.5:
            speech.say(APPLICATION_DATA, b"between")
        speech.say(HANDSHAKE, message[at:])


def _request_certificate(speech: Speech, chance: random.Random) -> None:
    speech.say(HANDSHAKE, _REQUEST)


def _odd_message(speech: Speech, chance: random.Random) -> None:
    messages = (
        b"",
        b"\x18",
        b"\x18\0\0\1\2",
        TICKET[:9],
        TICKET + UPDATE_REQUESTED,
        UPDATE_REQUESTED + TICKET,
        handshake(FINISHED, bytes(32)),
        handshake(99, b"x"),
        handshake(1, bytes(40), 0xFFFFFF),
        _HELLO_REQUEST,
        _REQUEST,
    )
    speech.say(HANDSHAKE, chance.choice(messages))


def _odd_record(speech: Speech, chance: random.Random) -> None:
    contents = (
        (APPLICATION_DATA, bytes(_RECORD_BYTES + 1)),
        (APPLICATION_DATA, bytes(_RECORD_BYTES + 200)),
        (APPLICATION_DATA, bytes(_RECORD_BYTES + 3000)),
        (CHANGE_CIPHER_SPEC, b"\1"),
        (CHANGE_CIPHER_SPEC, b"\2"),
        (ALERT, b""),
        (ALERT, b"\1"),
        (ALERT, b"\1\0\1\0"),
        (24, b"\1\0\0"),
        (25, b""),
        (99, b"x"),
        (0, b""),
    )
    content_type, content = chance.choice(contents)
    speech.say(content_type, content, chance.choice([0, 0, 1, 500]))


def _padded(speech: Speech, chance: random.Random) -> None:
    speech.say(APPLICATION_DATA, b"padded", chance.choice([1, 1000, 16000]))


def _in_plaintext(speech: Speech, chance: random.Random) -> None:
    """Say something as if there were no keys, or with a header alone."""
    bad = (
        record(CHANGE_CIPHER_SPEC, b"\1"),
        record(CHANGE_CIPHER_SPEC, b"\1\1"),
        record(ALERT, b"\1\0"),
        record(ALERT, b"\2\x28"),
        record(HANDSHAKE, _HELLO_REQUEST),
        record(APPLICATION_DATA, b""),
        record(APPLICATION_DATA, b"short"),
        record(99, b"x"),
    )
    speech.items.append(chance.choice(bad))


def _ours(speech: Speech, chance: random.Random) -> None:
    speech.items.append(Action(Act.SEND, bytes(chance.choice([1, 100, 20_000]))))


def _our_close(speech: Speech, chance: random.Random) -> None:
    speech.items.append(Action(Act.CLOSE))


def _pause(speech: Speech, chance: random.Random) -> None:
    speech.items.append(PAUSE)


# Each with its weight in TLS 1.2 and in TLS 1.3.
_PHRASES: tuple[tuple[Phrase, int, int], ...] = (
    (_data, 30, 30),
    (_many_small, 1, 1),
    (_updates, 1, 8),
    (_many_updates, 0, 1),
    (_ticket, 1, 8),
    (_alert, 3, 3),
    (_warnings, 2, 1),
    (_hello_request, 8, 2),
    (_request_certificate, 0, 3),
    (_odd_message, 2, 4),
    (_odd_record, 3, 5),
    (_padded, 0, 3),
    (_in_plaintext, 2, 2),
    (_ours, 8, 8),
    (_our_close, 3, 3),
    (_pause, 10, 10),
)


def after_handshake(speech: Speech, chance: random.Random) -> None:
    """Say some things, and then perhaps close_notify."""
    phrases, *weights = zip(*_PHRASES, strict=True)
    count = chance.choice([0, 1, 2, 3, 5, 8])
    for phrase in chance.choices(phrases, weights[speech.transcript.is_tls13], k=count):
        phrase(speech, chance)
    if chance.random() < 0.6:
        speech.say(ALERT, b"\1\0")
    if chance.random() < 0.2:
        speech.items.append(chance.choice([b"plaintext", b"\x16\3\1", bytes(1)]))
