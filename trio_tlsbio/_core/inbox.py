"""Received ciphertext that is not decrypted yet."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import attrs

from .records import APPLICATION_DATA, HEADER_BYTES, Data, Records

__all__ = ["Inbox", "MOST_RECORDS"]

# The most records that one call decrypts. The records of a flood are tiny: thousands of them fit
# into one read, and each takes about three microseconds.
MOST_RECORDS = 1024


@attrs.define(eq=False)
class Inbox:
    """Received ciphertext on its way to OpenSSL: a queue, and the BIO that OpenSSL reads from. Also
    plaintext that was decrypted ahead.

    A MemoryBIO never shrinks, so it gets only a few records at a time.

    Other classes assign the flags directly, because a call for each record would take too long.
    They keep to these rules:

    * If ``wants_data`` is True, ``is_behind`` and ``has_ended`` are False: the data that was fed
      already comes first, and there is none after the end.
    * If ``has_ended`` is True, or ``trailing`` is not None, the inbox is closed: data that is fed
      later is not for OpenSSL. An end of the transport leaves OpenSSL the queue, while ``trailing``
      begins with its rest.
    """

    #: The BIO that OpenSSL reads from.
    bio: ssl.MemoryBIO = attrs.field(factory=ssl.MemoryBIO, init=False, repr=False)
    #: The queue of ciphertext for the BIO.
    records: Records = attrs.field(factory=Records, init=False, repr=False)
    #: Plaintext that was decrypted before the caller has asked for it.
    plaintext: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    #: The bytes after the peer's close_notify, or None before it was received.
    trailing: bytearray | None = attrs.field(default=None, repr=False)
    #: True if OpenSSL needs more ciphertext to make progress.
    wants_data: bool = False
    #: True if the last call has stopped at its limit: the next call continues with the rest.
    is_behind: bool = False
    #: True if the transport has ended.
    has_ended: bool = False
    #: True if any data was decrypted.
    has_decrypted: bool = False
    _is_closed: bool = False  # data that is fed now does not go to OpenSSL

    @property
    def is_empty(self) -> bool:
        """True if OpenSSL has read everything that was fed."""
        return not (self.records.waiting or self.bio.pending)

    def feed(self, data: Data) -> None:
        """Add ciphertext received from the peer.

        Raises:
          ValueError: after :meth:`feed_eof`.
        """
        if self._is_closed:
            self._feed_late(data)
            return
        self.wants_data = False
        records, size = self.records, len(data)
        if (
            type(data) is bytes
            and size > HEADER_BYTES
            and data[0] == APPLICATION_DATA
            and size == HEADER_BYTES + (data[3] << 8 | data[4])
            and not (records.waiting or records.missing or records.is_single or self.bio.pending)
        ):
            # A single data record, and nothing pending or unread before it. In this common case,
            # the queue would only cost time.
            self.bio.write(data)
        else:
            records.feed(data)

    def _feed_late(self, data: Data) -> None:
        if self.has_ended:
            raise ValueError("feed() was called after feed_eof(): the transport has already ended")
        if self.trailing is not None:
            self.trailing += bytes(data)

    def feed_eof(self) -> None:
        """Note that the transport has ended."""
        self.has_ended = self._is_closed = True
        self.wants_data = False

    def begin_share(self) -> None:
        """Reset the limits at the start of a call."""
        self.records.allowance, self.is_behind = MOST_RECORDS, False

    def refill(self, waits_for: Callable[[bytes], bool]) -> Data:
        """Pass fed data on to OpenSSL, which must have read all earlier data.

        Returns:
          The data. It is empty if there is none, or if this call has reached its limit.
        """
        data = self.records.take(waits_for)
        if data:
            self.bio.write(data)
        return data

    def ask_for_more(self) -> None:
        """Note that OpenSSL has read all of its data, and needs more to make progress."""
        self.is_behind = self.records.allowance < self.records.cost and not self.is_empty
        self.wants_data = not (self.is_behind or self.has_ended)

    def put_back(self) -> None:
        """Move the data that OpenSSL has not read from the BIO back into the queue."""
        self.records.put_back(self.bio.read())

    def give_back(self, data: bytes) -> None:
        """Put data that was taken from the end of the queue back there. If TLS has ended meanwhile,
        it comes after the end.
        """
        if self.trailing is not None:
            self.trailing += data
        else:
            self.records.feed(data)

    def take_all(self) -> bytes:
        """Take all data from the BIO and the queue."""
        return self.bio.read() + self.records.take_all()

    def discard(self) -> None:
        """Discard the data that is not decrypted yet, and all data that is fed later."""
        self._is_closed = True
        self.take_all()
        self.is_behind = False

    def close(self, *, keeps_trailing: bool) -> None:
        """Give OpenSSL no more data. The remaining data, and data that is fed later, comes after
        TLS.
        """
        self.wants_data = self.is_behind = False
        self._is_closed = True
        if keeps_trailing:
            self.trailing = bytearray(self.take_all())
