"""What comes before TLS on a connection."""

from __future__ import annotations

from typing import ClassVar, Protocol

__all__ = ["Prologue"]


class Prologue(Protocol):
    """Reads what the peer sends before TLS begins."""

    #: What the peer has to send, for error messages.
    name: ClassVar[str]

    def feed(self, data: bytes) -> bytes | None:
        """Take what has arrived, possibly nothing, and return what follows the prologue, which
        belongs to TLS; None if the prologue is not whole yet.

        Raises:
          TLSError: if TLS must not begin.
        """
