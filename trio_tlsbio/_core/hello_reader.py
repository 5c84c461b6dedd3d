"""A ClientHello read from a stream of bytes, for code that decides before TLS begins."""

from __future__ import annotations

import ssl
from functools import cache

import attrs

from .client_hello import MAX_HELLO_BYTES, ClientHello
from .connection import TLSConnection
from .errors import TLSError
from .hello import HelloWatch
from .iana import HandshakeType
from .records import RECORD_BYTES, Data, Records, is_possible_in_plaintext

__all__ = ["HelloReader"]


def _keep_context(*_: object) -> None:
    """Take any name for the context as it is."""


@cache
def _judging_context() -> ssl.SSLContext:
    """Return a server's context for what is no ClientHello, which takes no certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Without one, OpenSSL would rule out TLS 1.3 at once if this could not bring some.
    context.sni_callback = _keep_context
    return context


@attrs.define(eq=False)
class HelloReader:
    """Puts a ClientHello together from what a client sends.

    OpenSSL refuses what is none, in the words that a server's connection has for it.
    """

    #: Everything that was fed.
    received: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    _records: Records = attrs.field(factory=Records, init=False, repr=False)
    _watch: HelloWatch = attrs.field(factory=HelloWatch, init=False)
    _judge: TLSConnection | None = attrs.field(default=None, init=False)  # once it is needed

    @property
    def most_bytes(self) -> int:
        """How many bytes to feed at most: one more than may be needed in all, in pieces that take
        no more than some milliseconds.
        """
        return min(RECORD_BYTES, MAX_HELLO_BYTES + 1 - len(self.received))

    def feed(self, data: Data) -> ClientHello | None:
        """Take bytes, and return the ClientHello once it is whole.

        Raises:
          TLSError: if there can't be one.
        """
        self.received += data
        self._records.feed(data)
        while record := self._records.take(single=True, waits_for=is_possible_in_plaintext):
            if record[0] & 0x80 and record[2] == HandshakeType.CLIENT_HELLO:  # RFC 5246, E.2
                raise TLSError(
                    "the peer sent a ClientHello in the format of SSL 2, which is not read here",
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
        """Take note that the client has ended the transport, without a whole ClientHello.

        Raises:
          TruncationError: always, unless OpenSSL finds something else.
        """
        self._ask_openssl(self._watch.take() + self._records.take_all(), is_all=True)

    def _check_refusal(self) -> None:
        if self._watch.refusal is not None:
            raise self._watch.refusal.error

    def _ask_openssl(self, data: bytes, *, is_all: bool = False) -> None:
        if self._judge is None:
            self._judge = TLSConnection(_judging_context(), server_side=True)
        self._judge.feed(data)
        if is_all:
            self._judge.feed_eof()
        while not self._judge.do_handshake() and self._judge.is_behind:
            pass  # one call does a share of what was fed
