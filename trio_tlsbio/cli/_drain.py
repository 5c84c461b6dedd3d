"""How serving ends without cutting anybody off."""

from __future__ import annotations

import attrs
import trio

__all__ = ["Drain"]


@attrs.define(eq=False)
class Drain:
    """Ends the connections that wait for their client, and lets the others finish."""

    has_begun: bool = attrs.field(default=False, init=False)
    _waiting: set[trio.CancelScope] = attrs.field(factory=set[trio.CancelScope], init=False)

    def begin(self) -> None:
        """End those that are idle now, and the others when they become idle."""
        self.has_begun = True
        for scope in self._waiting:
            scope.cancel()

    async def receive_some(
        self, stream: trio.abc.ReceiveStream, max_bytes: int | None = None
    ) -> bytes:
        """Receive where a connection is idle: ``b""``, as if the client had ended, in a drain."""
        with trio.CancelScope() as scope:
            if self.has_begun:
                scope.cancel()
            self._waiting.add(scope)
            try:
                return bytes(await stream.receive_some(max_bytes))
            finally:
                self._waiting.remove(scope)
        return b""
