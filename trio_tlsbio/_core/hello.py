"""Inspects the ClientHello on the wire, before OpenSSL gets it."""

from __future__ import annotations

import hashlib

import attrs

from .client_hello import MAX_HELLO_BYTES, ClientHello
from .errors import TLSError, printable
from .iana import Alert, AlertLevel, HandshakeType
from .messages import message_bytes
from .records import ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, HEADER_BYTES, Data, record_bounds

__all__ = ["HELLO_RETRY_REQUEST", "HelloWatch", "hello_in", "plaintext_alert"]

# The position of a ServerHello's random in its record, and the value that makes it a
# HelloRetryRequest: RFC 9846 section 4.2.3.
_RANDOM = slice(11, 43)
HELLO_RETRY_REQUEST = hashlib.sha256(b"HelloRetryRequest").digest()

_CLIENT_HELLO = int(HandshakeType.CLIENT_HELLO)  # enum lookups cost three calls


def plaintext_alert(description: int) -> bytes:
    """Return the record of a fatal alert, in the form before anything is encrypted."""
    return bytes([ALERT, 3, 3, 0, 2, AlertLevel.FATAL, description])


def _is_warning(record: Data) -> bool:
    """Return True for an alert after which OpenSSL reads on: not fatal, and not a close_notify."""
    if len(record) != HEADER_BYTES + 2:
        return False
    return (
        record[0] == ALERT and record[5] == AlertLevel.WARNING and record[6] != Alert.CLOSE_NOTIFY
    )


@attrs.frozen
class Refusal:
    """Why a ClientHello must not reach OpenSSL."""

    error: TLSError
    alert: bytes
    """The record that informs the client."""


@attrs.define(eq=False)
class HelloWatch:
    """Holds back a client's data until its ClientHello is complete, and parses it.

    If the server requests another key share, a second ClientHello follows (RFC 9846 section 4.2.4).
    """

    #: The first ClientHello. It is also None if it is malformed, which OpenSSL reports.
    hello: ClientHello | None = attrs.field(default=None, repr=False)
    #: True if no further ClientHello is expected.
    is_over: bool = False
    refusal: Refusal | None = None
    #: True if OpenSSL may have all records that were added and not taken.
    is_ready: bool = False
    _hellos: int = 0  # number of ClientHellos so far
    _records: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _message: bytearray = attrs.field(factory=bytearray, init=False, repr=False)

    @property
    def has_hello(self) -> bool:
        """True if a ClientHello has arrived."""
        return self._hellos > 0

    def add(self, record: Data) -> bool:
        """Add a record, and return :attr:`is_ready`."""
        self._records += record
        kind, hellos = record[0], self._hellos
        is_whole = len(record) == HEADER_BYTES + int.from_bytes(record[3:HEADER_BYTES])
        if kind == HANDSHAKE and record[1:2] == b"\x03" and is_whole:
            self._read_messages(bytes(record[HEADER_BYTES:]))
        elif kind != CHANGE_CIPHER_SPEC and not _is_warning(record):
            self.is_over = True
        if len(self._records) > MAX_HELLO_BYTES and self._message and not self.is_over:
            self.refuse_too_long()
        self.is_ready = self.refusal is None and (
            self.is_over or self._hellos > hellos or not self._message
        )
        return self.is_ready

    def take(self) -> bytes:
        """Take the records that were held back."""
        records = bytes(self._records)
        self._records.clear()
        self.is_ready = False
        return records

    def answered(self, flight: Data) -> None:
        """Note the server's answer: only a second ClientHello can follow in plaintext."""
        if flight[_RANDOM] != HELLO_RETRY_REQUEST:
            self.is_over = True

    def _read_messages(self, data: bytes) -> None:
        if not self._message and message_bytes(data) == len(data) and data[0] == _CLIENT_HELLO:
            self._read_hello(data)  # the usual case, without copies
            return
        self._message += data
        message = self._message
        while message and not self.is_over:
            length = message_bytes(message)
            if message[0] != _CLIENT_HELLO:
                self.is_over = True
            elif length > MAX_HELLO_BYTES:
                self.refuse_too_long()
            elif len(message) < length:
                return
            else:
                self._read_hello(bytes(message[:length]))
                del message[:length]

    def _read_hello(self, message: bytes) -> None:
        self._hellos += 1
        try:
            hello = ClientHello.parse(message)
        except ValueError:
            return  # OpenSSL refuses it too, with its own message
        name, first = hello.requested_name, self.hello
        if self._hellos == 1:
            self.hello = first = hello
        if name is not None and not name.isascii():
            shown = printable(name.decode("ascii", "backslashreplace"))
            error = TLSError(
                f"the peer asked for {shown}, which is not a host name: it is not ASCII",
                reason="UNRECOGNIZED_NAME",
            )
            self._refuse(error, Alert.UNRECOGNIZED_NAME)
        elif name != (None if first is None else first.requested_name):
            error = TLSError(
                "the peer asked for another name in its second ClientHello",
                reason="ILLEGAL_PARAMETER",
            )
            self._refuse(error, Alert.ILLEGAL_PARAMETER)

    def refuse_too_long(self) -> None:
        """Refuse a ClientHello that exceeds the limit, which is far above that of real ones."""
        error = TLSError(
            f"the peer sent a ClientHello of more than {MAX_HELLO_BYTES // 1024} KiB",
            reason="EXCESSIVE_MESSAGE_SIZE",
        )
        self._refuse(error, Alert.ILLEGAL_PARAMETER)

    def _refuse(self, error: TLSError, alert: int) -> None:
        self.refusal = Refusal(error, plaintext_alert(alert))
        self.is_over = True


def hello_in(records: Data) -> ClientHello | None:
    """Return the ClientHello at the start of records, or None if it is incomplete or malformed."""
    watch = HelloWatch()
    for start, end in record_bounds(records):
        watch.add(bytes(records[start:end]))
        if watch.has_hello or watch.is_over:
            break
    return watch.hello
