"""A listener in memory."""

from __future__ import annotations

import errno
import math
import os
from typing import Any, TypeAlias, cast

import attrs
import trio

__all__ = ["MemoryListener"]

_Stream: TypeAlias = trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]
_Queue: TypeAlias = tuple[trio.MemorySendChannel[_Stream], trio.MemoryReceiveChannel[_Stream]]


@attrs.define(eq=False, repr=False)
class MemoryListener(trio.abc.Listener[_Stream]):
    """A listener in memory, for testing servers without a port.

    For example::

        listener = MemoryListener()
        tls_listener = TLSListener(listener, authority.server_context())
        nursery.start_soon(serve_tls_listeners, handler, [tls_listener])
        transport_stream = await listener.connect()

    After the listener is closed, :meth:`accept` raises :exc:`trio.ClosedResourceError`, and
    :meth:`connect` is refused.

    Args:
      lockstep: Whether each send waits until the other side has received the data, as with
        :func:`trio.testing.lockstep_stream_pair`. So a client that does not read holds up the
        server. By default a connection accepts any amount of data at once, as with
        :func:`trio.testing.memory_stream_pair`.
    """

    _lockstep: bool = attrs.field(default=False, kw_only=True, alias="lockstep")
    # The server's ends of connections that are not accepted yet.
    _waiting: _Queue = attrs.field(
        factory=lambda: trio.open_memory_channel[_Stream](math.inf), init=False
    )

    def __repr__(self) -> str:
        return "<MemoryListener>"

    async def connect(self) -> _Stream:
        """Connect, and return the client's end. This doesn't wait until the connection is accepted.

        Raises:
          ConnectionRefusedError: if the listener was closed, as with a closed port.
        """
        # trio.testing imports pytest, which the command line doesn't need.
        from trio.testing import lockstep_stream_pair, memory_stream_pair  # noqa: PLC0415

        await trio.lowlevel.checkpoint()
        make_pair = lockstep_stream_pair if self._lockstep else memory_stream_pair
        client, server = cast("tuple[_Stream, _Stream]", make_pair())
        try:
            self._waiting[0].send_nowait(server)
        except trio.BrokenResourceError:
            raise OSError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED)) from None
        return client

    async def accept(self) -> _Stream:
        """Wait for the next connection, and return the server's end."""
        return await self._waiting[1].receive()

    async def aclose(self) -> None:
        """Close the listener, and the connections that were not accepted."""
        while True:
            try:
                # Any, because both kinds of streams have a synchronous close(), but no common type.
                refused: Any = self._waiting[1].receive_nowait()
            except (trio.WouldBlock, trio.ClosedResourceError):
                break
            refused.send_stream.close()
            refused.receive_stream.close()
        self._waiting[1].close()
        await trio.lowlevel.checkpoint()
