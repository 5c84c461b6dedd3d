"""Targets of the core, ``TLSConnection``: before a handshake, in it, and after it."""

from __future__ import annotations

import attrs

from trio_tlsbio._core.records import RECORD_BYTES
from trio_tlsbio.core import State

from ._forge import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    HELLO_REQUEST,
    KEY_UPDATE,
    NEW_SESSION_TICKET,
    Keys,
    handshake,
    records_in,
)
from ._input import Input, edited
from ._setup import CLIENT, CLIENTS, SERVER, SERVERS, VERSIONS, Handshake, connection
from ._subject import Subject, pattern

__all__ = ["fuzz_handshake", "fuzz_open", "fuzz_pair"]

_VERSIONS = (*VERSIONS, None)
_CLOSE_NOTIFY = b"\x01\x00"


def _end(subject: Subject, sent: bytes) -> None:
    """Finish, and see that the peer is told of what OpenSSL has found. ``sent`` is what was."""
    subject.finish()
    sent += subject.data_to_send()
    if subject.alert_due is not None and not subject.aborted:
        last = list(records_in(sent))[-1:]
        # Where there are keys already it can't be told from data in TLS 1.3.
        assert last, f"no alert after {subject.alert_due!r}"
        assert last[0][0] in (ALERT, APPLICATION_DATA), f"no alert after {subject.alert_due!r}"


################################################################
# Before and in the handshake
################################################################


@attrs.define(eq=False)
class _Wire:
    """What is on its way to a connection."""

    data: bytes = b""

    def change(self, what: int, source: Input, flights: tuple[bytes, ...]) -> None:
        """Add something, or change what is there."""
        if what == 0:
            self.data += source.block()
        elif what == 1:
            self.data += source.choice(flights)
        else:
            self.data = edited(self.data, source)

    def deliver(self, subject: Subject, size: int | None, kind: int) -> None:
        piece = self.data[:size]
        self.data = self.data[len(piece) :]
        subject.feed(piece, kind)


def fuzz_handshake(data: bytes) -> None:
    """A client or a server gets anything: bytes, and what a real peer has sent, changed."""
    source = Input(data)
    name = source.choice((*CLIENTS, *SERVERS))
    version = source.choice(_VERSIONS)
    flights = Handshake.of(name, version or "TLSv1.3").flights
    subject = Subject(connection(name, version), SERVER if name in SERVERS else CLIENT)
    wire = _Wire()
    sent = b""
    while source:
        what = source.byte() % 12
        if what < 5:
            subject.operate(source)
        elif what < 8:
            wire.change(what - 5, source, flights)
        elif what == 8:
            wire.deliver(subject, source.word(), source.byte())
        elif what == 9:
            sent += subject.data_to_send()
        elif what == 10:
            wire.deliver(subject, None, source.byte())
        elif source.byte() == 0xE0:
            subject.feed_eof()
    if not subject.eof_fed:
        wire.deliver(subject, None, 0)
    _end(subject, sent)
    # Nobody has sent data in it, and nobody had the keys to send a close_notify.
    assert not subject.received
    assert not subject.has_ended


################################################################
# After it
################################################################


@attrs.define(eq=False)
class _Forger:
    """The peer of a connection whose handshake is done: it has the keys, and sends what it likes.

    It also reads all that the connection sends, and checks that it may be sent.
    """

    _send: Keys
    _receive: Keys
    is_tls13: bool
    wire: bytes = b""  # what is on its way
    #: The plaintext in what was put on the wire, and how much of it was before a close_notify.
    plaintext: bytearray = attrs.field(factory=bytearray, init=False)
    closed_at: int | None = attrs.field(default=None, init=False)
    #: Whether it has kept the rules so far.
    is_honest: bool = attrs.field(default=True, init=False)
    received: bytearray = attrs.field(factory=bytearray, init=False)
    _alert: bytes = attrs.field(default=b"", init=False)
    _renegotiates: bool = attrs.field(default=False, init=False)

    def put(self, content_type: int, data: bytes, padding: int = 0) -> None:
        self.wire += self._send.seal(content_type, data, padding if self.is_tls13 else 0)
        if content_type == APPLICATION_DATA:
            self.plaintext += data
        elif content_type == ALERT and data[1:] == b"\0" and self.closed_at is None:
            self.closed_at = len(self.plaintext)  # of any level, RFC 9846 section 6

    def forge(self, source: Input) -> None:
        """Put on the wire what the input says."""
        what = source.byte() % 13
        if what < 4:
            self._put_data(source.size(), source.byte() if what == 3 else 0)
        elif what == 4:
            self.put(ALERT, _CLOSE_NOTIFY)
        elif what == 5:
            self._put_ticket(source)
        elif what == 6:
            self._put_key_update(source.byte() % 4)
        else:
            self.is_honest = False
            self._break_rules(what, source)

    def _put_data(self, size: int, padding: int) -> None:
        if self.closed_at is not None:
            self.is_honest = False
        data = pattern(len(self.plaintext), size)
        for start in range(0, size, RECORD_BYTES) or (0,):
            self.put(APPLICATION_DATA, data[start : start + RECORD_BYTES], padding)
            if padding + 1 > RECORD_BYTES - len(data):
                self.is_honest = False  # it may be too long
            if not data:
                self.is_honest = False  # only so many empty records are accepted

    def _put_ticket(self, source: Input) -> None:
        """A NewSessionTicket, RFC 9846 section 4.7.1. To a server it is a breach."""
        self.is_honest = False
        lifetime, add = source.take(4).rjust(4, b"\0"), bytes(4)
        nonce, ticket = source.block()[:255], source.block()
        extensions = b"" if source.byte() % 2 else source.block()
        body = lifetime + add + bytes([len(nonce)]) + nonce
        body += len(ticket).to_bytes(2, "big") + ticket
        body += len(extensions).to_bytes(2, "big") + extensions
        self.put(HANDSHAKE, handshake(NEW_SESSION_TICKET, body))

    def _put_key_update(self, request: int) -> None:
        """A KeyUpdate, RFC 9846 section 4.7.3; a HelloRequest in TLS 1.2."""
        if not self.is_tls13:
            self.is_honest = False
            self._renegotiates = True
            self.put(HANDSHAKE, handshake(HELLO_REQUEST, b""))
            return
        if request > 1 or self.closed_at is not None:
            self.is_honest = False
        self.put(HANDSHAKE, handshake(KEY_UPDATE, bytes([request])))
        self._send.update()

    def _break_rules(self, what: int, source: Input) -> None:
        if what == 7:
            self.put(source.byte() or HANDSHAKE, source.block(), source.byte())
        elif what == 8:
            self.put(HANDSHAKE, handshake(source.byte(), source.block()))
        elif what == 9:
            self.put(ALERT, source.take(2))
        elif what == 10:
            self.wire += source.block()
        elif what == 11:
            self.wire = edited(self.wire, source)
        else:
            # The longest record there may be, and longer ones.
            data = pattern(len(self.plaintext), RECORD_BYTES + source.byte() % 3)
            self.put(APPLICATION_DATA, data, source.word() % 400)

    def read(self, data: bytes) -> None:
        """Read what the connection has sent."""
        for record in records_in(data):
            assert not self._alert, "something is sent after an alert"
            if record[0] == CHANGE_CIPHER_SPEC:
                continue
            content_type, content = self._receive.open(record)
            if content_type == APPLICATION_DATA:
                assert 0 < len(content) <= RECORD_BYTES
                self.received += content
            elif content_type == ALERT:
                assert len(content) == 2
                # A warning that it does not renegotiate ends nothing.
                self._alert = b"" if content == b"\x01\x64" else content
            else:
                assert content_type == HANDSHAKE
                if self.is_tls13 and content[0] == KEY_UPDATE:
                    self._receive.update()

    @property
    def got_close_notify(self) -> bool:
        return self._alert == _CLOSE_NOTIFY

    @property
    def got_fatal_alert(self) -> bool:
        return self._alert[:1] == b"\x02"


def fuzz_open(data: bytes) -> None:
    """After the handshake, with a peer that has the keys and keeps no rules."""
    source = Input(data)
    name = source.choice((*CLIENTS[1:2], SERVERS[0], *CLIENTS, *SERVERS))
    handshake = Handshake.of(name, source.choice(tuple(VERSIONS)))
    made, tickets = handshake.done()
    subject = Subject(made, handshake.randomness)
    forger = _Forger(*handshake.keys(), handshake.version == "TLSv1.3")
    forger.read(tickets)
    cut = False
    while source:
        what = source.byte() % 9
        if what < 3:
            subject.operate(source)
        elif what < 5:
            forger.forge(source)
        elif what == 5:
            size = source.word()
            subject.feed(forger.wire[:size], source.byte())
            forger.wire = forger.wire[size:]
        elif what < 8:
            subject.feed(forger.wire, source.byte())
            forger.wire = b""
        elif source.byte() == 0xE0:
            subject.feed_eof()
        cut = cut or (subject.eof_fed and bool(forger.wire))
    if not subject.eof_fed:
        subject.feed(forger.wire)
    subject.finish()
    forger.read(subject.data_to_send())
    _judge(subject, forger, cut=cut)


def _judge(subject: Subject, forger: _Forger, *, cut: bool) -> None:
    assert forger.plaintext.startswith(subject.received), "not what the peer has sent"
    assert subject.offered.startswith(forger.received), "not what was given to send"
    if subject.has_ended:
        assert forger.closed_at is not None, "a truncation was taken for an end"
        assert len(subject.received) == forger.closed_at
    if subject.alert_due is not None and not subject.aborted:
        assert forger.got_fatal_alert, f"no alert after {subject.alert_due!r}"
    if forger.got_close_notify:
        assert subject.has_sent_close
        assert forger.received == subject.offered[: subject.accepted]
    if forger.is_honest and not cut and not subject.aborted and not _asks(subject):
        assert subject.received == forger.plaintext, "something is lost"
        assert subject.has_ended is (forger.closed_at is not None)
        assert forger.received == subject.offered
        assert forger.got_close_notify is subject.has_sent_close


def _asks(subject: Subject) -> bool:
    """Whether it may have asked for a certificate, which this peer has not got."""
    return subject.connection.ssl_object.context.post_handshake_auth


################################################################
# Two of them
################################################################


@attrs.define(eq=False)
class _Line:
    """One direction between two connections."""

    sender: Subject
    receiver: Subject
    wire: bytes = b""
    is_damaged: bool = False
    all_sent: bytearray = attrs.field(factory=bytearray, init=False)

    def collect(self) -> None:
        data = self.sender.data_to_send()
        self.wire += data
        self.all_sent += data

    def change(self, source: Input) -> None:
        before = self.wire
        self.wire = edited(self.wire, source)
        self.is_damaged |= self.wire != before

    def deliver(self, size: int | None, kind: int = 0) -> None:
        piece = self.wire[:size]
        if not self.receiver.eof_fed:
            self.wire = self.wire[len(piece) :]
            self.receiver.feed(piece, kind)

    def cut(self) -> None:
        self.is_damaged = True
        self.receiver.feed_eof()


def fuzz_pair(data: bytes) -> None:
    """A client and a server, and a line between them on which the input changes what passes."""
    source = Input(data)
    names = source.choice(CLIENTS), source.choice(SERVERS)
    versions = source.choice(_VERSIONS), source.choice(_VERSIONS)
    client, server = (
        Subject(connection(name, version), randomness)
        for name, version, randomness in zip(names, versions, (CLIENT, SERVER), strict=True)
    )
    lines = _Line(client, server), _Line(server, client)
    may_refuse = set(versions) == set(VERSIONS) or (
        names[1] == "demanding server" and names[0] != "client with a certificate"
    )
    while source:
        what = source.byte()
        line = lines[what & 1]
        what = (what >> 1) % 12
        if what < 4:
            line.sender.operate(source)
        elif what < 7:
            line.collect()
            line.deliver(source.word() if what == 6 else None, source.byte())
        elif what == 7:
            line.collect()
            line.change(source)
        elif what < 11:
            _exchange(lines, source.byte() % 4)
        elif source.byte() == 0xE0:
            line.cut()
    _exchange(lines, 20)
    is_good = not any(
        line.is_damaged or line.sender.aborted or line.sender.eof_fed for line in lines
    )
    if is_good:
        assert may_refuse or State.FAILED not in (
            *(client.connection.send_state, client.connection.receive_state),
            *(server.connection.send_state, server.connection.receive_state),
        )
    for subject in (client, server):
        subject.finish()
    for line in lines:
        _judge_line(line, is_good=is_good and not may_refuse)


def _exchange(lines: tuple[_Line, _Line], rounds: int) -> None:
    for _ in range(rounds):
        moved = False
        for line in lines:
            line.sender.do_handshake()
            line.collect()
            moved = moved or bool(line.wire)
            line.deliver(None)
            line.receiver.receive_all()
        if not moved:
            break


def _judge_line(line: _Line, *, is_good: bool) -> None:
    sender, receiver = line.sender, line.receiver
    assert sender.offered.startswith(receiver.received), "not what the peer has sent"
    if receiver.has_ended:
        assert sender.has_sent_close, "a truncation was taken for an end"
        assert len(receiver.received) >= sender.accepted
    if is_good:
        assert receiver.received == sender.offered, "something is lost"
        assert receiver.has_ended is sender.has_sent_close
