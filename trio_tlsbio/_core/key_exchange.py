"""The group of the key exchange, read off the server's messages, which pass in the clear."""

from __future__ import annotations

from contextlib import suppress

import attrs

from .hello import HELLO_RETRY_REQUEST
from .iana import GROUPS, CurveType, ExtensionType, HandshakeType
from .messages import MESSAGE_HEADER_BYTES, MalformedError, Reader, message_bytes
from .records import APPLICATION_DATA, HANDSHAKE, HEADER_BYTES, Data, record_bounds

__all__ = ["KeyExchangeWatch", "MOST_FLIGHT_BYTES", "group_in", "plaintext_messages"]

# What TLS 1.2 may send between ServerHello and ServerKeyExchange.
_BEFORE_KEY_EXCHANGE = (HandshakeType.CERTIFICATE, HandshakeType.CERTIFICATE_STATUS)

_TLS13_SUITES = 0x13  # what their numbers, and no others, begin with: RFC 9846 appendix B.4

# A server's certificates may take 100 KiB, which OpenSSL allows by default.
MOST_FLIGHT_BYTES = 128 * 1024


@attrs.define(eq=False)
class KeyExchangeWatch:
    """Reads a server's flight until it has told the group.

    TLS 1.3 names it in the ServerHello, TLS 1.2 in the ServerKeyExchange: the last things of a
    handshake that both show in plaintext. Nothing here is verified, and nothing is refused: what
    can't be read tells no group, and OpenSSL has its own verdict.
    """

    #: Whether nothing more is to be learnt.
    is_over: bool = attrs.field(default=False, init=False)
    _key_share: int | None = attrs.field(default=None, init=False)  # its group
    _server_key_exchange: bytes = attrs.field(default=b"", init=False, repr=False)
    _added: int = attrs.field(default=0, init=False)  # how many bytes
    _records: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _messages: bytearray = attrs.field(factory=bytearray, init=False, repr=False)

    def add(self, data: Data) -> None:
        """Add what the server sends, cut anywhere."""
        if self.is_over:
            return
        data = bytes(data)  # a view need not be contiguous, and bytearray adds no such
        self._added += len(data)
        self._records += data
        self._read_records()
        try:
            self._read_messages()
        except MalformedError:
            self._end()
        if self._added > MOST_FLIGHT_BYTES:
            self._end()

    def group(self, cipher: str) -> str | None:
        """Return the group's name in IANA's registry, or its number if it has none here.

        Args:
          cipher: The cipher suite that was agreed on, by OpenSSL's name.

        Returns:
          None if no group took part: where a session was resumed without a new key exchange, where
          the key was encrypted by RSA, and with the Diffie-Hellman of TLS 1.2, which sends its
          parameters as numbers.
        """
        number = self._key_share
        if number is None and cipher.startswith(("ECDHE-", "AECDH-")):
            exchange = Reader(self._server_key_exchange)
            with suppress(MalformedError):
                if cipher.startswith("ECDHE-PSK-"):
                    exchange.vector(2)  # psk_identity_hint: RFC 5489 section 2
                if exchange.number(1) == CurveType.NAMED_CURVE:
                    number = exchange.number(2)
        return None if number is None else GROUPS.get(number, f"0x{number:04x}")

    def _end(self) -> None:
        self.is_over = True
        self._records.clear()
        self._messages.clear()

    def _read_records(self) -> None:
        records, end = self._records, 0
        for start, end in record_bounds(records):
            if records[start] == HANDSHAKE:
                self._messages += records[start + HEADER_BYTES : end]
        del records[:end]

    def _read_messages(self) -> None:
        messages = self._messages
        while len(messages) >= MESSAGE_HEADER_BYTES and not self.is_over:
            end = message_bytes(messages)
            if len(messages) < end:
                return
            kind, body = messages[0], bytes(messages[MESSAGE_HEADER_BYTES:end])
            del messages[:end]
            if kind == HandshakeType.SERVER_HELLO:
                self._read_server_hello(Reader(body))
            elif kind == HandshakeType.SERVER_KEY_EXCHANGE:
                self._server_key_exchange = body
                self._end()
            elif kind not in _BEFORE_KEY_EXCHANGE:
                self._end()

    def _read_server_hello(self, hello: Reader) -> None:
        hello.take(2)  # legacy_version
        if hello.take(32) == HELLO_RETRY_REQUEST:
            return  # another ServerHello follows, whose group counts
        hello.vector(1)  # legacy_session_id_echo
        cipher_suite = hello.take(2)
        hello.take(1)  # legacy_compression_method
        extensions = hello.vector(2) if hello else hello
        while extensions:
            kind, content = extensions.number(2), extensions.vector(2)
            if kind == ExtensionType.KEY_SHARE:
                self._key_share = content.number(2)
        if cipher_suite[0] == _TLS13_SUITES:  # what follows is encrypted
            self._end()


def group_in(records: Data, cipher: str) -> str | None:
    """Return the group that a server's records tell: see :meth:`KeyExchangeWatch.group`."""
    watch = KeyExchangeWatch()
    watch.add(records)
    return watch.group(cipher)


def plaintext_messages(records: Data) -> bytes:
    """Return the records of a TLS 1.3 server's handshake that are not encrypted."""
    found = []
    for start, end in record_bounds(records):
        if records[start] == APPLICATION_DATA:
            break
        if records[start] == HANDSHAKE:
            found.append(bytes(records[start:end]))
    return b"".join(found)
