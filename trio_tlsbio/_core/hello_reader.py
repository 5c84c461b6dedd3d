"""Reads a ClientHello from a byte stream, for code that makes decisions before TLS begins."""

from __future__ import annotations

from functools import partial

import attrs

from .client_hello import MAX_HELLO_BYTES, ClientHello
from .connection import TLSConnection
from .engine import placeholder_context
from .errors import TLSError
from .hello import HelloWatch
from .records import RECORD_BYTES, Data, Records, is_possible_in_plaintext, is_sslv2_hello

__all__ = ["HelloReader"]


@attrs.define(eq=False)
class HelloReader:
    """Assembles a ClientHello from a client's data.

    If it is something else, OpenSSL refuses it, with the error of a server's connection.
    """

    #: Everything that was fed.
    received: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _records: Records = attrs.field(
        factory=partial(Records, is_single=True), init=False, repr=False
    )
    _watch: HelloWatch = attrs.field(factory=HelloWatch, init=False)
    # Refuses messages that are not a ClientHello. Created on demand.
    _refusing: TLSConnection | None = None

    @property
    def most_bytes(self) -> int:
        """The most bytes to feed: one more than can be needed in total, in pieces that take no more
        than a few milliseconds.
        """
        return min(RECORD_BYTES, MAX_HELLO_BYTES + 1 - len(self.received))

    def feed(self, data: Data) -> ClientHello | None:
        """Add bytes, and return the ClientHello once it is complete.

        Raises:
          TLSError: if the bytes can't be the start of one.
        """
        self.received += data
        self._records.feed(data)
        while record := self._records.take(is_possible_in_plaintext):
            if is_sslv2_hello(record):
                raise TLSError(
                    "the peer sent a ClientHello in the format of SSL 2, which is not supported",
                    reason="UNSUPPORTED_PROTOCOL",
                )
            may_go_on = self._watch.add(record)
            self._check_refusal()
            if self._watch.hello is not None:
                return self._watch.hello
            if may_go_on:
                self._ask_openssl(self._watch.take())
        if len(self.received) > MAX_HELLO_BYTES:
            self._watch.refuse_too_long()
            self._check_refusal()
        return None

    def feed_eof(self) -> None:
        """Note that the client has ended the transport, without a complete ClientHello.

        Raises:
          TruncationError: always, unless OpenSSL finds another error.
        """
        self._ask_openssl(self._watch.take() + self._records.take_all(), is_all=True)

    def _check_refusal(self) -> None:
        if self._watch.refusal is not None:
            raise self._watch.refusal.error

    def _ask_openssl(self, data: bytes, *, is_all: bool = False) -> None:
        if self._refusing is None:
            self._refusing = TLSConnection(placeholder_context(), server_side=True)
        self._refusing.feed(data)
        if is_all:
            self._refusing.feed_eof()
        while not self._refusing.do_handshake() and self._refusing.is_behind:
            pass  # one call processes a part of the fed data
