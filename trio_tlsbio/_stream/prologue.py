"""What comes before TLS on a connection."""

from __future__ import annotations

from typing import Protocol

__all__ = ["Prologue"]


class Prologue(Protocol):
    """Reads what the peer sends before TLS begins."""

    @property
    def name(self) -> str:
        """What is being waited for, for error messages."""

    @property
    def has_heard(self) -> bool:
        """Whether the client has sent something, rather than a proxy in front of it."""

    async def feed(self, data: bytes) -> bytes | None:
        """Take what has arrived, possibly nothing, and return what follows the prologue, which
        belongs to TLS; None if the prologue is not whole yet.

        It may be called again in another task while it waits, and then must raise.

        Raises:
          TLSError: if TLS must not begin.
        """

    def feed_eof(self) -> bytes:
        """Take note that the transport has ended, and return what belongs to TLS.

        Raises:
          TLSError: if TLS must not begin.
        """
