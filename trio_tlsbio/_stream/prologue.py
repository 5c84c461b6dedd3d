"""Data that precedes TLS on a connection."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Prologue"]


class Prologue(Protocol):
    """Reads what the peer sends before TLS begins."""

    @property
    def name(self) -> str:
        """What the prologue is called in error messages."""

    @property
    def has_received(self) -> bool:
        """True if the client itself has sent something; a proxy's header doesn't count."""

    async def feed(self, data: bytes) -> bytes | None:
        """Take received bytes, possibly none. Return the bytes after the prologue, which belong to
        TLS, or None if the prologue is not complete yet.

        Another task may call this again while it is waiting. It must raise then.

        Raises:
          TLSError: if TLS must not begin.
        """

    def feed_eof(self) -> bytes:
        """Note that the transport has ended, and return the bytes that belong to TLS.

        Raises:
          TLSError: if TLS must not begin.
        """
