"""What is waiting to be sent."""

from __future__ import annotations

import ssl

import attrs

__all__ = ["Outbox"]


@attrs.define(eq=False)
class Outbox:
    """What OpenSSL has written, and behind it what is waiting to be encrypted."""

    #: What OpenSSL writes to. It is empty between two calls.
    bio: ssl.MemoryBIO = attrs.field(factory=ssl.MemoryBIO, repr=False)
    #: The pending ciphertext. Say with :meth:`mark_sent` how much of it was sent.
    pieces: list[bytes | memoryview] = attrs.field(factory=list, repr=False)
    #: Plaintext, and None for a close_notify, that is waiting for a handshake to be done.
    held: list[bytes | None] = attrs.field(factory=list, repr=False)
    #: Ciphertext bytes produced in reply to the peer since the outbox was last empty.
    bytes_answered: int = 0
    _is_sealed: bool = False

    @property
    def size(self) -> int:
        """How many bytes are waiting to be sent."""
        return sum(map(len, self.pieces))

    @property
    def holds_close(self) -> bool:
        """Whether a close_notify is waiting for a handshake to be done."""
        return bool(self.held) and self.held[-1] is None

    def collect(self) -> bytes:
        """Queue what OpenSSL has written, and return it."""
        data = self.bio.read()
        if data and not self._is_sealed:
            self.pieces.append(data)
        return data

    def collect_answers(self) -> bytes:
        """Queue what OpenSSL has written while it decrypted, and return it."""
        answers = self.collect()
        if not self._is_sealed:
            self.bytes_answered += len(answers)
        return answers

    def seal(self) -> None:
        """Queue nothing more: nothing follows our close_notify (RFC 9846 section 6.1).

        OpenSSL would still answer a KeyUpdate, or a request for a certificate.
        """
        self._is_sealed = True

    def take(self) -> bytes:
        """Take out all that is waiting to be sent."""
        data = b"".join(self.pieces)
        self.mark_sent(len(data))
        return data

    def mark_sent(self, count: int) -> None:
        """Drop the first ``count`` bytes of :attr:`pieces`: they are sent.

        Raises:
          ValueError: if ``count`` is negative or more than that.
        """
        pieces = self.pieces
        if len(pieces) == 1 and len(pieces[0]) == count:  # as it mostly is
            pieces.clear()
            self.bytes_answered = 0
            return
        left, whole = count, 0
        while whole < len(pieces) and len(pieces[whole]) <= left:
            left -= len(pieces[whole])
            whole += 1
        if left < 0 or (left and whole == len(pieces)):
            raise ValueError(f"count must be from 0 to {self.size}, not {count}")
        if left:
            pieces[whole] = memoryview(pieces[whole])[left:]
        del pieces[:whole]
        if not pieces:
            self.bytes_answered = 0
