"""The ciphertext that was received and is waiting to be decrypted."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import attrs

from .records import APPLICATION_DATA, HEADER_BYTES, Data, Records

__all__ = ["Inbox", "MOST_RECORDS"]

# How many records one call decrypts at most: those of a flood are tiny, thousands fit into what is
# read at once, and each takes some three microseconds.
MOST_RECORDS = 1536


@attrs.define(eq=False)
class Inbox:
    """What the peer has sent, on its way to OpenSSL: a queue, and the BIO that OpenSSL reads from.

    A MemoryBIO never shrinks, so it gets no more than a few records at a time.
    """

    #: What OpenSSL reads from.
    bio: ssl.MemoryBIO = attrs.field(factory=ssl.MemoryBIO, repr=False)
    #: The queue before it.
    records: Records = attrs.field(factory=Records, repr=False)
    #: What came after the peer's close_notify; None until that has come.
    trailing: bytearray | None = attrs.field(default=None, repr=False)
    #: True if OpenSSL needs more ciphertext to get on.
    wants_data: bool = False
    #: True if the last call has done its share of what was fed: the next one goes on with the rest.
    is_behind: bool = False
    #: Whether the transport has ended.
    has_ended: bool = False
    #: Whether OpenSSL gets one record at a time.
    is_single: bool = False
    _is_closed: bool = False  # nothing more is taken for OpenSSL

    @property
    def is_empty(self) -> bool:
        """Whether OpenSSL has read all that was fed."""
        return not (self.records.waiting or self.bio.pending)

    def feed(self, data: Data) -> None:
        """Take ciphertext that came from the peer.

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
            and not (records.waiting or records.missing or self.is_single or self.bio.pending)
        ):
            # A single record of data, with nothing before it that waits or has not been read: the
            # usual case, in which a queue would only take time.
            self.bio.write(data)
        else:
            records.feed(data)

    def _feed_late(self, data: Data) -> None:
        if self.has_ended:
            raise ValueError("feed() after feed_eof(): the transport ended already")
        if self.trailing is not None:
            self.trailing += bytes(data)

    def feed_eof(self) -> None:
        """Take note that the transport ended."""
        self.has_ended = self._is_closed = True
        self.wants_data = False

    def begin_share(self) -> None:
        """Begin a call's share of work."""
        self.records.allowance, self.is_behind = MOST_RECORDS, False

    def refill(self, waits_for: Callable[[bytes], bool]) -> Data:
        """Give OpenSSL, which has used up all it had, what it can decrypt of what was fed.

        Returns:
          What it got: nothing if there is nothing, or if this call has done its share.
        """
        data = self.records.take(single=self.is_single, waits_for=waits_for)
        if data:
            self.bio.write(data)
        return data

    def ask_for_more(self) -> None:
        """Note what OpenSSL, which has read all that it was given, needs to get on."""
        self.is_behind = self.records.is_spent and not self.is_empty
        self.wants_data = not (self.is_behind or self.has_ended)

    def put_back(self) -> None:
        """Take what OpenSSL has not read out of its BIO, back into the queue."""
        self.records.put_back(self.bio.read())

    def take_all(self) -> bytes:
        """Take out everything, decrypted or not."""
        return self.bio.read() + self.records.take_all()

    def discard(self) -> None:
        """Throw away what was fed and not decrypted, and what is going to be fed, for good."""
        self._is_closed = True
        self.take_all()
        self.is_behind = False

    def close(self, *, keeps_trailing: bool) -> None:
        """Give OpenSSL nothing more. What is left, and what is fed, comes after the end of TLS."""
        self.wants_data = self.is_behind = False
        self._is_closed = True
        if keeps_trailing:
            self.trailing = bytearray(self.take_all())
