"""How a server ends without cutting anybody off, and how its connections do that get too old."""

from __future__ import annotations

import math
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import attrs
import trio

from trio_tlsbio._core.misuse import check_not_negative, kind_of
from trio_tlsbio._stream.stream import TLSStream

__all__ = ["Drain", "drain_or_own", "limit_age"]

# When the handlers of some streams are to end: a server's max_connection_age. It is for all drains,
# since a server need not know the one that its handlers use.
_ENDS: WeakKeyDictionary[TLSStream[Any], float] = WeakKeyDictionary()


def limit_age(stream: TLSStream[Any], deadline: float) -> None:
    """Have a stream's handler end from ``deadline`` on, as soon as it waits for an idle client."""
    _ENDS[stream] = deadline


class Drainable(Protocol):
    """A server, as a drain knows it."""

    def stop_accepting(self) -> None:
        """Close the listeners."""

    def cut_off(self) -> int:
        """Cancel the connections that are left, and return how many these are."""


def drain_or_own(drain: object) -> Drain:
    """Return a server's drain; :exc:`TypeError` for what is neither None nor a :class:`Drain`."""
    if drain is None:
        return Drain()
    if not isinstance(drain, Drain):
        raise TypeError(f"drain must be a Drain or None, not {kind_of(drain)}: Drain() makes one")
    return drain


@attrs.define(eq=False)
class Drain:
    """Ends servers gracefully: their handlers end where they wait for a client that is idle.

    Give it to the server as ``drain``. A handler may wait for hours until its client says the next
    thing. Where it waits so, it receives by this::

        async def handler(stream):
            while request := await drain.receive_some(stream):
                await answer(stream, request)

        await serve_tls_over_tcp(handler, 443, context, drain=drain)

    and another task ends all that by one call::

        await drain.end(30)

    A handler that is at work goes on, until it comes to wait there. Several servers may have the
    same drain. One that is without it can be ended by closing its listeners and :meth:`begin`.

    With a server's ``max_connection_age``, the handler of a connection that is too old ends in the
    same places.
    """

    has_begun: bool = attrs.field(default=False, init=False)
    """Whether :meth:`begin` or :meth:`end` was called. To tell clients: ``Connection: close`` in
    HTTP, say. See also :meth:`should_end`."""

    _is_ending: bool = attrs.field(default=False, init=False, repr=False)
    _cut_off: int = attrs.field(default=0, init=False, repr=False)
    _waiting: set[trio.CancelScope] = attrs.field(factory=set[trio.CancelScope], init=False)
    _servers: set[Drainable] = attrs.field(factory=set[Drainable], init=False, repr=False)
    _gone: trio.lowlevel.ParkingLot = attrs.field(
        factory=trio.lowlevel.ParkingLot, init=False, repr=False
    )

    ################################################################
    # For programs
    ################################################################

    async def end(self, timeout: float) -> int:
        """End the servers that have this drain, and wait until the last of their handlers is done.

        They accept nothing more, idle handlers end as by :meth:`begin`, and so do handshakes of
        which no byte has arrived. The others have ``timeout`` seconds to finish. What is left then
        is cancelled, each with a close_notify if it has said all, and if its socket has room.

        A server that has not begun yet ends as soon as it does. With none there is nothing to wait
        for. Where this is called more than once, the earliest time limit counts. Cancelled, it no
        longer limits the time, but the servers go on ending: call it again to wait for that.

        Don't call it in a handler of these servers, which would wait for itself.

        Args:
          timeout: How long it may take, in seconds; 0 to cancel at once, ``math.inf`` never to.
            After that it only takes as long as handlers need to react to being cancelled.

        Returns:
          How many connections had to be cancelled, by this call or another one: 0 if all went well.

        Raises:
          ValueError: if ``timeout`` is negative.
        """
        check_not_negative("timeout", timeout)
        self._is_ending = True
        for server in self._servers:
            server.stop_accepting()
        self.begin()
        with trio.move_on_after(timeout) as scope:
            await self._wait_for_servers()
        if scope.cancelled_caught:
            self._cut_off += sum([server.cut_off() for server in self._servers])
            await self._wait_for_servers()
        return self._cut_off

    def begin(self) -> None:
        """End those handlers that wait for idle clients now, and the others when they come to wait.

        This neither ends accepting nor waits for anything, as :meth:`end` does.
        """
        self.has_begun = True
        for scope in self._waiting:
            scope.deadline = trio.current_time()

    ################################################################
    # For handlers
    ################################################################

    async def receive_some(
        self, stream: trio.abc.ReceiveStream, max_bytes: int | None = None
    ) -> bytes | bytearray:
        """Receive where the client may be idle: as ``stream.receive_some()``, but ``b""`` once
        the handler :meth:`should_end` and nothing has arrived, as if the client had ended.

        The stream is still good then, if its receiving may be cancelled, as that of a
        :class:`TLSStream` may.
        """
        # Cancelled by its deadline: Trio looks for data first, when it looks for what is overdue.
        with trio.CancelScope() as scope:
            scope.deadline = self._end_of(stream)
            self._waiting.add(scope)
            try:
                return await stream.receive_some(max_bytes)
            finally:
                self._waiting.remove(scope)
        return b""

    async def wait_should_end(self, stream: trio.abc.ReceiveStream) -> None:
        """Wait until the handler of ``stream`` should end, as soon as its client is idle.

        For protocols where that is not known by a receive: where several requests may be answered
        at once, for example.
        """
        with trio.CancelScope() as scope:
            scope.deadline = self._end_of(stream)
            self._waiting.add(scope)
            try:
                await trio.sleep_forever()
            finally:
                self._waiting.remove(scope)

    def should_end(self, stream: trio.abc.ReceiveStream) -> bool:
        """Whether the handler of ``stream`` should end: draining has begun, or the connection is
        older than the server's ``max_connection_age``.
        """
        return self._end_of(stream) <= trio.current_time()

    def _end_of(self, stream: trio.abc.ReceiveStream) -> float:
        if self.has_begun:
            return trio.current_time()
        return _ENDS.get(stream, math.inf) if isinstance(stream, TLSStream) else math.inf

    ################################################################
    # For servers
    ################################################################

    def _add(self, server: Drainable) -> None:
        """Take note of a server that begins."""
        self._servers.add(server)
        if self._is_ending:
            server.stop_accepting()

    def _discard(self, server: Drainable) -> None:
        """Take note that the last connection of a server has ended, and serving too."""
        self._servers.discard(server)
        self._gone.unpark_all()

    async def _wait_for_servers(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._servers:
            await self._gone.park()
