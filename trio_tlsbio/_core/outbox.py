"""Data that is not sent yet."""

from __future__ import annotations

import ssl

import attrs

__all__ = ["Outbox"]


@attrs.define(eq=False)
class Outbox:
    """Ciphertext that OpenSSL has written, and plaintext that waits to be encrypted."""

    #: The BIO that OpenSSL writes to. It is empty between two calls.
    bio: ssl.MemoryBIO = attrs.field(factory=ssl.MemoryBIO, init=False, repr=False)
    #: The pending ciphertext. Report with :meth:`mark_sent` how much of it was sent. Encrypted data
    #: is appended directly, to save a call; all other records pass the check of :meth:`seal`.
    pieces: list[bytes | memoryview] = attrs.field(factory=list, init=False, repr=False)
    #: Plaintext, or None for a close_notify, that is held back until a handshake is done.
    held: list[bytes | None] = attrs.field(factory=list, init=False, repr=False)
    #: Ciphertext bytes produced in reply to the peer since the outbox was last empty.
    bytes_answered: int = 0
    #: True if the pending ciphertext may wait until something else is sent.
    may_wait: bool = False
    _is_sealed: bool = False

    @property
    def size(self) -> int:
        """How many bytes of ciphertext are pending."""
        return sum(map(len, self.pieces))

    @property
    def holds_close(self) -> bool:
        """True if a close_notify is held back until a handshake is done."""
        return bool(self.held) and self.held[-1] is None

    def put(self, record: bytes) -> None:
        """Queue a record that OpenSSL has not written, such as an alert in plaintext."""
        if not self._is_sealed:
            self.pieces.append(record)

    def collect(self) -> bytes:
        """Queue the bytes that OpenSSL has written, and return them."""
        data = self.bio.read()
        if data and not self._is_sealed:
            self.pieces.append(data)
        return data

    def collect_answers(self) -> bytes:
        """Queue the bytes that OpenSSL has written while decrypting, and return them."""
        answers = self.collect()
        if not self._is_sealed:
            self.bytes_answered += len(answers)
        return answers

    def seal(self) -> None:
        """Stop queueing: nothing may follow our close_notify (RFC 9846 section 6.1).

        OpenSSL would still answer a KeyUpdate, or a request for a certificate.
        """
        self._is_sealed = True

    def take(self) -> bytes:
        """Take all pending ciphertext."""
        data = b"".join(self.pieces)
        self.mark_sent(len(data))
        return data

    def mark_sent(self, count: int) -> None:
        """Remove the first ``count`` bytes of :attr:`pieces`, because they were sent.

        Raises:
          ValueError: if ``count`` is negative, or exceeds the number of pending bytes.
        """
        pieces = self.pieces
        if len(pieces) == 1 and len(pieces[0]) == count:  # the usual case
            pieces.clear()
            self.bytes_answered = 0
            return
        left, whole = count, 0
        for piece in pieces:
            size = len(piece)
            if size > left:
                break
            left -= size
            whole += 1
        if left < 0 or (left and whole == len(pieces)):
            raise ValueError(f"count must be from 0 to {self.size}, not {count}")
        if left:
            pieces[whole] = memoryview(pieces[whole])[left:]
        del pieces[:whole]
        if not pieces:
            self.bytes_answered = 0
