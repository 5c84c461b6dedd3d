"""How a server ends without cutting anybody off."""

from __future__ import annotations

import attrs
import trio

__all__ = ["Drain"]


@attrs.define(eq=False)
class Drain:
    """Lets handlers end where they wait for a client that is idle, once a server is to end.

    Closing the listeners of a server ends accepting, but a handler may wait for hours until its
    client says the next thing. Where it waits so, it receives by this::

        async def handler(stream):
            while request := await drain.receive_some(stream):
                await answer(stream, request)

        ...
        for listener in listeners:
            await listener.aclose()
        drain.begin()

    A handler that is at work goes on, until it comes to wait there.
    """

    has_begun: bool = attrs.field(default=False, init=False)
    """Whether :meth:`begin` was called. To tell clients: ``Connection: close`` in HTTP, say."""

    _waiting: set[trio.CancelScope] = attrs.field(factory=set[trio.CancelScope], init=False)

    def begin(self) -> None:
        """End those who wait now, and the others when they come to wait."""
        self.has_begun = True
        for scope in self._waiting:
            scope.deadline = trio.current_time()

    async def receive_some(
        self, stream: trio.abc.ReceiveStream, max_bytes: int | None = None
    ) -> bytes | bytearray:
        """Receive where the client may be idle: as ``stream.receive_some()``, but ``b""`` once
        draining has begun and nothing has arrived, as if the client had ended.

        The stream is still good then, if its receiving may be cancelled, as that of a
        :class:`TLSStream` may.
        """
        # Cancelled by its deadline: Trio looks for data first, when it looks for what is overdue.
        with trio.CancelScope() as scope:
            if self.has_begun:
                scope.deadline = trio.current_time()
            self._waiting.add(scope)
            try:
                return await stream.receive_some(max_bytes)
            finally:
                self._waiting.remove(scope)
        return b""
