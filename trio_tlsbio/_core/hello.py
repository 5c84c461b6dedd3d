"""The ClientHello as it is on the wire, read before OpenSSL sees it."""

from __future__ import annotations

import hashlib

import attrs

from .errors import TLSError, printable
from .iana import Alert, AlertLevel, ExtensionType, HandshakeType, NameType
from .records import ALERT, CHANGE_CIPHER_SPEC, HANDSHAKE, HEADER_BYTES, Data

__all__ = [
    "HELLO_RETRY_REQUEST",
    "HelloWatch",
    "MAX_HELLO_BYTES",
    "MESSAGE_HEADER_BYTES",
    "MalformedError",
    "Reader",
    "message_bytes",
    "plaintext_alert",
    "server_name_in",
]

MAX_HELLO_BYTES = 64 * 1024
"""How many bytes of records a ClientHello may take up. Real ones need a few KiB."""

MESSAGE_HEADER_BYTES = 4
"""Type and length, which begin a handshake message (RFC 9846 section 4), in bytes."""

# Where the random of a ServerHello is in a record, and what makes it a HelloRetryRequest: RFC 9846
# section 4.2.3.
_RANDOM = slice(11, 43)
HELLO_RETRY_REQUEST = hashlib.sha256(b"HelloRetryRequest").digest()


class MalformedError(Exception):
    """The message is not one that the RFC allows."""


def message_bytes(messages: Data) -> int:
    """Return how long the first of some handshake messages says that it is, header included."""
    return MESSAGE_HEADER_BYTES + int.from_bytes(messages[1:MESSAGE_HEADER_BYTES])


@attrs.define
class Reader:
    """Reads the presentation language of RFC 9846 section 3."""

    _data: bytes

    def take(self, count: int) -> bytes:
        if count > len(self._data):
            raise MalformedError
        taken, self._data = self._data[:count], self._data[count:]
        return taken

    def number(self, size: int) -> int:
        return int.from_bytes(self.take(size))

    def vector(self, length_size: int) -> Reader:
        """Read what is preceded by its length."""
        return Reader(self.take(self.number(length_size)))

    def rest(self) -> bytes:
        return self.take(len(self._data))

    def __bool__(self) -> bool:
        return bool(self._data)


def server_name_in(message: bytes) -> bytes | None:
    """Return the host name that a ClientHello asks for (SNI), as it is in the message.

    Args:
      message: The whole handshake message, with its header.

    Returns:
      None if it has no such extension, or is malformed.
    """
    try:
        return _server_name(Reader(message))
    except MalformedError:
        return None


def _server_name(message: Reader) -> bytes | None:
    if message.number(1) != HandshakeType.CLIENT_HELLO:
        raise MalformedError
    hello = message.vector(3)
    if message:
        raise MalformedError
    hello.take(2 + 32)  # legacy_version, random
    hello.vector(1)  # legacy_session_id
    hello.vector(2)  # cipher_suites
    hello.vector(1)  # legacy_compression_methods
    extensions = hello.vector(2) if hello else hello
    while extensions:
        kind, content = extensions.number(2), extensions.vector(2)
        if kind == ExtensionType.SERVER_NAME:
            return _host_name(content)
    return None


def _host_name(extension: Reader) -> bytes:
    # A list, of which RFC 6066 has one kind of entry, once; OpenSSL takes no other list.
    names = extension.vector(2)
    if names.number(1) != NameType.HOST_NAME:
        raise MalformedError
    name = names.vector(2)
    if names or extension:
        raise MalformedError
    return name.rest()


def plaintext_alert(description: int) -> bytes:
    """Return the record of a fatal alert, as it is before anything is encrypted."""
    return bytes([ALERT, 3, 3, 0, 2, AlertLevel.FATAL, description])


def _is_warning(record: Data) -> bool:
    """Whether it is an alert after which OpenSSL reads on: not fatal, and no close_notify."""
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
    """Holds back what a client sends until its ClientHello is whole, and reads the name in it.

    A server that asks for another key share gets a second ClientHello (RFC 9846 section 4.2.4).
    """

    #: The host name that the client asks for.
    server_name: str | None = attrs.field(default=None, init=False)
    #: Whether no further ClientHello is expected.
    is_over: bool = attrs.field(default=False, init=False)
    refusal: Refusal | None = attrs.field(default=None, init=False)
    _hellos: int = attrs.field(default=0, init=False)  # how many have come
    _records: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _message: bytearray = attrs.field(factory=bytearray, init=False, repr=False)

    @property
    def has_hello(self) -> bool:
        """Whether a ClientHello has come."""
        return self._hellos > 0

    def add(self, record: Data) -> bool:
        """Add a record, and return whether OpenSSL may have all that was added."""
        self._records += record
        kind, hellos = record[0], self._hellos
        is_whole = len(record) == HEADER_BYTES + int.from_bytes(record[3:HEADER_BYTES])
        if kind == HANDSHAKE and record[1:2] == b"\x03" and is_whole:
            self._message += record[HEADER_BYTES:]
            self._read_messages()
        elif kind != CHANGE_CIPHER_SPEC and not _is_warning(record):
            self.is_over = True
        if len(self._records) > MAX_HELLO_BYTES and self._message and not self.is_over:
            self._refuse_too_long()
        if self.refusal is not None:
            return False
        return self.is_over or self._hellos > hellos or not self._message

    def take(self) -> bytes:
        """Take out the records that were held back."""
        records = bytes(self._records)
        self._records.clear()
        return records

    def answered(self, flight: Data) -> None:
        """Take note of what the server wrote: nothing in plaintext follows but a second hello."""
        if flight[_RANDOM] != HELLO_RETRY_REQUEST:
            self.is_over = True

    def _read_messages(self) -> None:
        message = self._message
        while message and not self.is_over:
            length = message_bytes(message)
            if message[0] != HandshakeType.CLIENT_HELLO:
                self.is_over = True
            elif length > MAX_HELLO_BYTES:
                self._refuse_too_long()
            elif len(message) < length:
                return
            else:
                self._read_hello(bytes(message[:length]))
                del message[:length]

    def _read_hello(self, hello: bytes) -> None:
        raw_name = server_name_in(hello)
        name = None if raw_name is None else raw_name.decode("ascii", "backslashreplace")
        if name is not None and raw_name != name.encode():
            error = TLSError(
                f"the peer asked for {printable(name)}, which is no host name: it is not ASCII",
                reason="UNRECOGNIZED_NAME",
            )
            self._refuse(error, Alert.UNRECOGNIZED_NAME)
        elif self.has_hello and name != self.server_name:
            error = TLSError(
                "the peer asked for another name in its second ClientHello",
                reason="ILLEGAL_PARAMETER",
            )
            self._refuse(error, Alert.ILLEGAL_PARAMETER)
        self.server_name = name
        self._hellos += 1

    def _refuse_too_long(self) -> None:
        error = TLSError(
            f"the peer sent a ClientHello of more than {MAX_HELLO_BYTES // 1024} KiB",
            reason="EXCESSIVE_MESSAGE_SIZE",
        )
        self._refuse(error, Alert.ILLEGAL_PARAMETER)

    def _refuse(self, error: TLSError, alert: int) -> None:
        self.refusal = Refusal(error, plaintext_alert(alert))
        self.is_over = True
