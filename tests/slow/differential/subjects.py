"""The two sides of the comparison: a ``TLSConnection``, and a plain program over OpenSSL."""

from __future__ import annotations

import enum
import re
import ssl
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import attrs

from fuzz._randomness import Randomness
from trio_tlsbio import PeerAlertError, TLSConnection, TLSError, TruncationError

__all__ = ["Act", "Action", "Ours", "Plain", "Status", "Step", "Subject"]

READ_BYTES = 16384

# Calls that return nothing and require nothing either. A connection that makes so many in a row
# spins: the longest conversation has some hundred records.
_MOST_EMPTY_CALLS = 1000


class Act(enum.Enum):
    """What the application does between two reads."""

    SEND = "send"
    CLOSE = "send_close_notify"
    ASK = "verify_client_post_handshake"
    PAUSE = "nothing: a flight ends here"


@attrs.frozen
class Action:
    """One thing that the application does."""

    act: Act
    data: bytes = attrs.field(default=b"", repr=lambda data: f"<{len(data)} bytes>")


class Status(enum.Enum):
    """How the peer's direction stands."""

    WAITS = "waits for more"
    ENDED = "ended by a close_notify"
    TRUNCATED = "ended without a close_notify"
    FAILED = "failed"


# The type of OpenSSL's exception, and what it says.
Error = tuple[str, str]

_LINE = re.compile(r" \(_ssl\.c:\d+\)$")  # of CPython's source, which depends on the call


def error_of(exc: BaseException | None) -> Error | None:
    """Return what is comparable in an exception of the ssl module."""
    if exc is None:
        return None
    return type(exc).__name__, _LINE.sub("", str(exc))


@attrs.frozen
class Step:
    """What came of one piece of ciphertext, or of one action."""

    plaintext: bytes = attrs.field(repr=lambda data: f"<{len(data)} bytes: {data[:20]!r}>")
    written: bytes = attrs.field(repr=lambda data: f"<{len(data)} bytes: {shape(data)}>")
    status: Status
    error: Error | None
    #: Of a PeerAlertError that has no cause.
    alert: str | None = None
    is_established: bool = False
    #: What OpenSSL has written since its close_notify.
    written_after_close: bytes = b""


def shape(written: bytes) -> list[tuple[int, int]]:
    """Return type and length of each record; what is cut short has the length that is there."""
    records, start = [], 0
    while start < len(written):
        length = int.from_bytes(written[start + 3 : start + 5], "big")
        records.append((written[start], min(length, len(written) - start - 5)))
        start += 5 + length
    return records


@attrs.define(eq=False)
class Subject:
    """One of the two: it is fed, it acts, and each time it says what came of it."""

    randomness: Randomness
    status: Status = attrs.field(default=Status.WAITS, init=False)
    error: Error | None = attrs.field(default=None, init=False)
    alert: str | None = attrs.field(default=None, init=False)
    is_established: bool = attrs.field(default=False, init=False)
    _plaintext: bytearray = attrs.field(factory=bytearray, init=False)

    def feed(self, data: bytes) -> Step:
        """Take ciphertext, and read until there is nothing more to read."""
        raise NotImplementedError

    def feed_eof(self) -> Step:
        """Take the end of the transport, and read."""
        raise NotImplementedError

    def act(self, action: Action) -> Step:
        """Do something as the application."""
        raise NotImplementedError

    def _take_written(self) -> tuple[bytes, bytes]:
        """Return what was written, and of that what follows a close_notify."""
        raise NotImplementedError

    def step(self) -> Step:
        """Return what came since the last step."""
        plaintext = bytes(self._plaintext)
        self._plaintext.clear()
        written, afterwards = self._take_written()
        return Step(
            plaintext,
            written,
            self.status,
            self.error,
            self.alert,
            self.is_established,
            afterwards,
        )


################################################################
# OpenSSL alone
################################################################


@attrs.define(eq=False)
class Plain(Subject):
    """A program that shakes hands, reads until it must wait, and writes.

    What it can't write yet it writes again after the next read.
    """

    ssl_object: ssl.SSLObject
    #: Whether data that was to be sent before the handshake was done is written as soon as it is,
    #: or after the first read. In TLS 1.2 a renegotiation may have begun by then.
    writes_first: bool
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO
    trailing: bytearray = attrs.field(factory=bytearray, init=False)
    has_closed: bool = attrs.field(default=False, init=False)
    _pending: list[Action] = attrs.field(factory=list, init=False)
    _written: bytes = attrs.field(default=b"", init=False)  # with the close_notify

    @classmethod
    def of(
        cls,
        context: ssl.SSLContext,
        randomness: Randomness,
        *,
        server_hostname: str | None,
        session: ssl.SSLSession | None = None,
        writes_first: bool = True,
    ) -> Plain:
        """Make one; without a name to ask for it is a server. A client writes its ClientHello."""
        randomness.restart()
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        with randomness.used():
            ssl_object = context.wrap_bio(
                incoming,
                outgoing,
                server_side=server_hostname is None,
                server_hostname=server_hostname,
                session=session,
            )
        made = cls(randomness, ssl_object, writes_first, incoming, outgoing)
        made._move()
        return made

    def feed(self, data: bytes) -> Step:
        if self.status is Status.ENDED:
            self.trailing += data
        else:
            self._incoming.write(data)
            self._move()
        return self.step()

    def feed_eof(self) -> Step:
        self._incoming.write_eof()
        self._move()
        return self.step()

    def act(self, action: Action) -> Step:
        with self.randomness.used():
            if action.act is Act.ASK:
                try:
                    self.ssl_object.verify_client_post_handshake()
                    self.ssl_object.do_handshake()
                except ssl.SSLError as exc:
                    self._fail(exc)
            else:
                self._pending.append(action)
                self._write()
        return self.step()

    def _take_written(self) -> tuple[bytes, bytes]:
        written, self._written = self._written, b""
        rest = self._outgoing.read()
        return (written, rest) if self.has_closed else (written + rest, b"")

    def _move(self) -> None:
        if self.status is not Status.WAITS:
            return
        with self.randomness.used():
            try:
                self._read()
            except ssl.SSLWantReadError:
                pass
            except ssl.SSLZeroReturnError:
                self._end()
            except ssl.SSLError as exc:
                self._fail(exc)
            else:
                self._end()
            self._write()

    def _read(self) -> None:
        if not self.is_established:
            self.ssl_object.do_handshake()
            self.is_established = True
            if self.writes_first:
                self._write()
        while data := self.ssl_object.read(READ_BYTES):
            self._plaintext += data

    def _write(self) -> None:
        if not self.is_established:
            return
        try:
            while self._pending and self.status in (Status.WAITS, Status.ENDED):
                action = self._pending[0]
                if action.act is Act.SEND:
                    self.ssl_object.write(action.data)
                else:
                    self._close()
                del self._pending[0]
        except ssl.SSLWantReadError:
            pass  # a renegotiation comes first
        except ssl.SSLError as exc:
            if exc.reason != "SHUTDOWN_WHILE_IN_INIT":
                self._fail(exc)

    def _close(self) -> None:
        with suppress(ssl.SSLWantReadError):  # close_notify is written; the peer's has not come
            self.ssl_object.unwrap()
        self.has_closed = True
        self._written += self._outgoing.read()

    def _end(self) -> None:
        self.status = Status.ENDED
        self.trailing += self._incoming.read()

    def _fail(self, exc: ssl.SSLError) -> None:
        self.status, self.error = Status.FAILED, error_of(exc)


################################################################
# The library
################################################################


@attrs.define(eq=False)
class Ours(Subject):
    """A ``TLSConnection``, driven as its documentation says, and by its public methods alone."""

    connection: TLSConnection
    #: How the application calls it.
    max_bytes: int | None = None
    drives_handshake: bool = False
    #: Into how many pieces each piece of ciphertext is cut again, without a call between them.
    pieces: int = 1

    @classmethod
    def of(
        cls,
        context: ssl.SSLContext,
        randomness: Randomness,
        *,
        server_hostname: str | None,
        **options: Any,
    ) -> Ours:
        """Make one; without a name to ask for it is a server."""
        randomness.restart()
        with randomness.used():
            connection = TLSConnection(
                context,
                server_side=server_hostname is None,
                server_hostname=server_hostname,
                **options,
            )
        return cls(randomness, connection)

    def feed(self, data: bytes) -> Step:
        size = max(1, -(-len(data) // self.pieces))
        for start in range(0, len(data), size):
            self.connection.feed(data[start : start + size])
        self._move()
        return self.step()

    def feed_lazily(self, data: bytes) -> Step:
        """Take ciphertext, and make one call, whatever is left after that."""
        self.connection.feed(data)
        self._move(calls=1)
        return self.step()

    def feed_eof(self) -> Step:
        self.connection.feed_eof()
        self._move()
        return self.step()

    def act(self, action: Action) -> Step:
        error = None
        with self.randomness.used():
            try:
                if action.act is Act.SEND:
                    self.connection.send(action.data)
                elif action.act is Act.CLOSE:
                    self.connection.send_close_notify()
                else:
                    self.connection.verify_client_post_handshake()
            except TLSError as exc:
                error = exc
        self._move()  # sending looks at what has arrived, and data that came before is returned
        if error is not None and self.status in (Status.WAITS, Status.ENDED):
            self._fail(error)
        return self.step()

    def _take_written(self) -> tuple[bytes, bytes]:
        return self.connection.data_to_send(), b""

    def _move(self, calls: int | None = None) -> None:
        if self.status is not Status.WAITS:
            return
        with self.randomness.used():
            try:
                for _ in range(calls) if calls else self._calls():
                    if self._read():
                        break
            except TLSError as exc:
                self._fail(exc)
        self.is_established = self.connection.handshake is not None

    def _calls(self) -> Iterator[int]:
        """One for each call, as long as they get on."""
        empty = 0
        while empty < _MOST_EMPTY_CALLS:
            before = len(self._plaintext)
            yield empty
            empty = empty + 1 if len(self._plaintext) == before else 0
        raise AssertionError("it spins: it returns nothing, and does not require more")

    def _read(self) -> bool:
        """Make one call. Return whether there is nothing more to read."""
        connection = self.connection
        if self.drives_handshake and connection.handshake is None:
            with suppress(TLSError):  # which receive() raises too, after the data before it
                if not connection.do_handshake() and connection.wants_data:
                    return True
        data = connection.receive(self.max_bytes)
        if data == b"":
            self.status = Status.ENDED
            return True
        if data is None:
            return connection.wants_data
        self._plaintext += data
        return False

    def _fail(self, exc: TLSError) -> None:
        is_truncated = isinstance(exc, TruncationError)
        self.status = Status.TRUNCATED if is_truncated else Status.FAILED
        self.error = None if is_truncated else error_of(exc.__cause__)
        self.alert = exc.alert if isinstance(exc, PeerAlertError) and not exc.__cause__ else None
