"""Targets of what reads bytes of a peer beside the core."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from functools import cache

from trio_tlsbio._core.proxy_header import MAX_HEADER_BYTES, MAX_LINE_BYTES, _crc32c
from trio_tlsbio._core.records import HEADER_BYTES, RECORD_BYTES, Records
from trio_tlsbio.cli._starttls import PORTS, Dialogue
from trio_tlsbio.cli._status import Failure
from trio_tlsbio.proxy_protocol import ProxyCommand, ProxyHeader, ProxyHeaderReader
from trio_tlsbio.testing import Conversation, Direction, Passage, flights_of, records_of

from ._input import Input, as_buffer, edited
from ._setup import CLIENTS, SERVERS, VERSIONS, Handshake

__all__ = ["fuzz_proxy_header", "fuzz_recording", "fuzz_records", "fuzz_starttls"]

################################################################
# Records
################################################################

_MOST_BYTES = HEADER_BYTES + RECORD_BYTES + 2048


def _record(source: Input) -> bytes:
    """A record, of a right length or not, or no record at all."""
    kind = source.byte()
    if kind >= 240:
        return source.block()
    size = source.size() if kind < 120 else source.word()
    header = bytes([20 + kind % 6, 3, kind % 5]) + size.to_bytes(2, "big")
    return header + bytes(size if kind % 16 else size // 2)


def fuzz_records(data: bytes) -> None:
    """The queue gives out what was put in, cut between records."""
    source = Input(data)
    queue = Records()
    model = b""  # what is in it
    rest = 0  # of a record whose beginning was given out
    while source:
        what = source.byte() % 8
        if what < 3:
            piece = _record(source)
            queue.feed(as_buffer(piece, what + source.byte()))
            model += piece
        elif what < 6:
            queue.is_single = what == 5
            piece = bytes(queue.take())
            assert model.startswith(piece)
            assert len(piece) <= RECORD_BYTES + HEADER_BYTES + 0xFFFF
            if rest:  # it comes alone, in the pieces in which it was fed
                assert len(piece) <= rest
                assert piece or not model, "what has arrived is kept back"
            else:
                _check_cut(model, piece, is_single=queue.is_single)
            rest = queue.missing
            model = model[len(piece) :]
        elif what == 6:
            piece = _record(source)
            queue.put_back(piece)
            model = piece + model
            rest = queue.missing
        else:
            assert queue.take_all() == model
            model = b""
            rest = queue.missing
        assert queue.waiting == len(model)
    assert queue.take_all() == model
    assert not queue.waiting
    assert not queue.take()


def _check_cut(model: bytes, piece: bytes, *, is_single: bool) -> None:
    """See that ``piece`` ends where a record ends, unless there is something that is none."""
    at = 0
    for number in range(len(model)):
        header = model[at : at + HEADER_BYTES]
        size = HEADER_BYTES + int.from_bytes(header[3:5], "big")
        if len(header) < HEADER_BYTES:
            break
        if header[0] not in range(20, 25) or header[1] != 3 or size > _MOST_BYTES:
            return  # OpenSSL is to see that it is none
        if at + size > len(model):
            break
        assert not (is_single and number), "more than a single record"
        at += size
        if at >= len(piece):
            break
    assert len(piece) == at, "a record that is whole is not given out, or one that is not"


################################################################
# Recordings
################################################################


@cache
def _flights() -> tuple[bytes, ...]:
    """What real handshakes consist of."""
    return tuple(
        flight
        for version in VERSIONS
        for name in (CLIENTS[0], SERVERS[0])
        for flight in Handshake.of(name, version).flights
    )


def fuzz_recording(data: bytes) -> None:
    """Any bytes in both directions are told of as records, to the last byte that is whole."""
    source = Input(data)
    conversation = Conversation(1 << source.byte() % 24, start=0.0)
    passages: list[Passage] = []
    while source:
        what = source.byte()
        direction = Direction.SENT if what % 2 else Direction.RECEIVED
        if what % 8 < 4:
            piece = source.block()
        elif what % 8 < 6:
            piece = source.choice(_flights())[source.word() :][: source.word()]
        else:
            piece = source.choice(_flights())
        passages.append(Passage(float(len(passages)), direction, piece))
    records = records_of(passages)
    for direction in Direction:
        passed = sum(len(each.data) for each in passages if each.direction is direction)
        told = sum(each.size for each in records if each.direction is direction)
        assert passed - _MOST_BYTES <= told <= passed
    for record in records:
        assert record.content_type in _CONTENT_TYPES
        assert not (record.messages and record.is_encrypted)
        assert str(record).isprintable()
    assert [each.time for each in records] == sorted(each.time for each in records)
    flights = flights_of(records)
    assert tuple(record for flight in flights for record in flight.records) == records
    for before, after in itertools.pairwise(flights):
        assert before.direction is not after.direction
        assert before.duration >= 0
    assert conversation.records == ()


_CONTENT_TYPES = {
    *("change_cipher_spec", "alert", "handshake", "application_data", "heartbeat"),
    "unknown",
}

################################################################
# STARTTLS
################################################################

_ANSWERS = (
    *(b"220 hello\r\n", b"220-hello\r\n", b"250 STARTTLS\r\n", b"250-STARTTLS\r\n", b"250 x\r\n"),
    *(b"* OK hello\r\n", b"* CAPABILITY IMAP4rev1 STARTTLS\r\n", b"a1 OK\r\n", b"a2 OK\r\n"),
    *(b"* PREAUTH\r\n", b"+OK\r\n", b"STLS\r\n", b".\r\n", b"-ERR\r\n", b"S", b"N", b"\r\n"),
    *(b"\x1f\0\0\0\x0a8\0", bytes(13), b"\xff\xff" + bytes(13)),  # MySQL's
    *(b"\x30\x0c", b"\x02\x01\x01\x78\x07", b"\x0a\x01\x00\x04\0\x04\0"),  # LDAP's
    *(b"<stream:stream>", b"<features>", b"<starttls xmlns='urn:ietf:params:xml:ns:xmpp-tls'/>"),
    *(b"</features>", b"<proceed/>", b"<failure>"),
)


def fuzz_starttls(data: bytes) -> None:
    """A dialogue ends, in TLS or in words, whatever the server says."""
    source = Input(data)
    protocol = source.choice(tuple(PORTS))
    dialogue = Dialogue.of(protocol, "::1" if source.byte() % 2 else "127.0.0.1", "server.example")
    sent = dialogue.data_to_send()
    fed = b""
    try:
        while source:
            kind = source.byte()
            if kind < 128:
                piece = _ANSWERS[kind % len(_ANSWERS)]
            elif kind < 250:
                piece = source.block()
            else:
                piece = source.block() * (source.byte() + 1)
            was_done = dialogue.is_done
            dialogue.feed(as_buffer(piece, source.byte() % 2))  # type: ignore[arg-type]
            fed += piece
            assert piece, "an end was not told of"
            answer = dialogue.data_to_send()
            sent += answer
            assert not (was_done and answer)
            assert fed.endswith(dialogue.buffered)
            assert dialogue.is_done or len(fed) <= 64 * 1024
    except Failure as exc:
        words = str(exc).strip()
        assert words, "a failure without words"
    assert len(sent) < 300
    if protocol in {"smtp", "imap", "pop3"}:
        assert all(len(line) < 100 for line in sent.split(b"\r\n"))
        assert not dialogue.is_done or b"STARTTLS" in sent or b"STLS" in sent
    elif dialogue.is_done:
        assert sent, "TLS was not asked for"


################################################################
# The PROXY protocol
################################################################

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_WORDS = (
    *(b"TCP4", b"TCP6", b"UNKNOWN", b"192.0.2.1", b"2001:db8::1", b"::ffff:192.0.2.1", b"::"),
    *(b"0", b"1", b"443", b"65535", b"65536", b"", b"\r", b"\n", b"%1", b"fe80::1%eth0", b"01"),
)
_FAMILIES = (0x00, 0x11, 0x12, 0x21, 0x22, 0x31, 0x32, 0x11)
_TYPES = (0x01, 0x02, 0x03, 0x04, 0x05, 0x20, 0x21, 0x22, 0x28, 0x30, 0xEA, 0xF0)


def _line(source: Input) -> bytes:
    """A line of words, mostly of those that belong there."""
    words = [b"PROXY"]
    for _ in range(source.byte() % 8):
        kind = source.byte()
        words.append(_WORDS[kind % len(_WORDS)] if kind < 240 else source.block())
    return b" ".join(words) + (b"\r\n" if source.byte() % 8 else source.block())


def _entries_of(source: Input, depth: int = 0) -> bytes:
    """Values with their types, of right lengths or not."""
    entries = b""
    for _ in range(source.byte() % 6):
        kind = source.choice(_TYPES)
        if kind == 0x20 and not depth:
            value = source.take(5) + _entries_of(source, 1)
        elif kind == 0x04:
            value = bytes(source.size() % MAX_HEADER_BYTES)
        else:
            value = source.block()
        size = len(value) if source.byte() % 16 else source.word()
        entries += bytes([kind]) + size.to_bytes(2) + value
    return entries


def _block(source: Input) -> bytes:
    """A header of version 2, with a right checksum or not."""
    command = 0x20 + source.byte() % 3 if source.byte() % 16 else source.byte()
    family = source.choice(_FAMILIES) if source.byte() % 16 else source.byte()
    addresses = {1: 12, 2: 36, 3: 216}.get(family >> 4, 0) - (source.byte() % 16 == 15)
    block = source.take(addresses).ljust(addresses, b"\0") if addresses > 0 else b""
    block += _entries_of(source)
    has_checksum = source.byte() % 2
    block += b"\x03\0\4\0\0\0\0" * has_checksum
    size = len(block) if source.byte() % 16 else source.word()
    header = _SIGNATURE + bytes([command, family]) + (size & 0xFFFF).to_bytes(2) + block
    return header[:-4] + _crc32c(header).to_bytes(4) if has_checksum else header


def _read_header(pieces: Iterable[bytes]) -> tuple[ProxyHeader | None, str, bytes, int]:
    """Read a header in pieces: what came out, or in words why not, and after how many bytes."""
    reader, fed = ProxyHeaderReader(), 0
    for piece in pieces:
        fed += len(piece)
        try:
            header = reader.feed(piece)
        except ValueError as exc:
            return None, str(exc), b"", fed
        if header is not None:
            return header, "", reader.rest, fed
        assert fed <= MAX_HEADER_BYTES, "it waits for more than a header may have"
    return None, "", b"", fed


def fuzz_proxy_header(data: bytes) -> None:
    """A header of the PROXY protocol is read the same however it is cut, and to its end."""
    source = Input(data)
    kind = source.byte() % 8
    sent = _line(source) if kind < 3 else _block(source) if kind < 7 else source.block()
    if source.byte() % 4 == 3:
        sent = edited(sent, source)
    sent += source.block()
    header, words, rest, _ = _read_header([sent])
    cut = source.word() % (len(sent) + 1)
    assert _read_header([sent[:cut], sent[cut:]])[:2] == (header, words)
    size = 1 if len(sent) < 1000 else 100  # of padding, which is read slowly in single bytes
    pieces = [sent[at : at + size] for at in range(0, len(sent), size)]
    single, single_words, last, fed = _read_header(pieces)
    assert (single, single_words) == (header, words)
    fed -= len(last)
    if header is None:
        assert words.startswith(("the PROXY protocol ", "the proxy began with ")) or not words
        assert words.isprintable()
        return
    assert sent[:fed] + rest == sent
    _check_header(header, sent[:fed])
    assert repr(header).isprintable()


def _check_header(header: ProxyHeader, data: bytes) -> None:
    """See that a header is what its bytes say, by writing it again."""
    assert (header.source is None) == (header.destination is None)
    if header.version == 1:
        assert len(data) <= MAX_LINE_BYTES
        assert header.command is ProxyCommand.PROXY
        if not (isinstance(header.source, tuple) and isinstance(header.destination, tuple)):
            assert header.source is None
            assert data.startswith(b"PROXY UNKNOWN")
            return
        (source, port), (destination, other_port) = header.source, header.destination
        words = data[:-2].decode("ascii").split(" ")
        assert words[4:] == [str(port), str(other_port)]
        assert words[1] == f"TCP{source.version}" == f"TCP{destination.version}"
        if source.version == 4:
            assert words[2:4] == [str(source), str(destination)]
        return
    assert data[12] == 0x20 + header.command.value
    assert len(data) == 16 + int.from_bytes(data[14:16]) <= MAX_HEADER_BYTES
    if isinstance(header.source, tuple) and isinstance(header.destination, tuple):
        (source, port), (destination, other_port) = header.source, header.destination
        packed = source.packed + destination.packed + port.to_bytes(2) + other_port.to_bytes(2)
        assert data[16:].startswith(packed)
    if header.command is ProxyCommand.LOCAL:
        assert header == ProxyHeader(version=2, command=ProxyCommand.LOCAL)
