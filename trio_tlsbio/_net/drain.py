"""Ends servers gracefully, and connections that have become too old."""

from __future__ import annotations

import math
from typing import Any, Protocol
from weakref import WeakKeyDictionary

import attrs
import trio

from trio_tlsbio._core.misuse import check_not_negative, kind_of
from trio_tlsbio._stream.stream import TLSStream

__all__ = ["Drain", "drain_or_own", "limit_age"]

# When the handlers of some streams should end, according to a server's max_connection_age. This is
# shared by all drains, because a server may not know the drain that its handlers use.
_ENDS: WeakKeyDictionary[TLSStream[Any], float] = WeakKeyDictionary()


def limit_age(stream: TLSStream[Any], deadline: float) -> None:
    """Make a stream's handler end as soon as it waits for an idle client, from ``deadline`` on."""
    _ENDS[stream] = deadline


class Drainable(Protocol):
    """The interface of a server for its drain."""

    def stop_accepting(self) -> None:
        """Close the listeners."""

    def cut_off(self) -> int:
        """Cancel the remaining connections, and return how many they are."""


def drain_or_own(drain: object) -> Drain:
    """Return a server's drain, a new one for None. Raise :exc:`TypeError` if it is not a
    :class:`Drain`.
    """
    if drain is None:
        return Drain()
    if not isinstance(drain, Drain):
        raise TypeError(f"drain must be a Drain or None, not {kind_of(drain)}: Drain() makes one")
    return drain


@attrs.define(eq=False)
class Drain:
    """Ends servers gracefully: each handler ends where it waits for an idle client.

    Pass it to the server as ``drain``. A handler may wait for hours for its client's next request.
    To wait, it calls this object's :meth:`receive_some`::

        async def handler(stream):
            while request := await drain.receive_some(stream):
                await answer(stream, request)

        await serve_tls_over_tcp(handler, 443, context, drain=drain)

    Another task can then end all of these handlers with one call::

        await drain.end(30)

    A busy handler continues until it waits there again and no data has arrived. A client that never
    pauses is never idle. To end its handler too, call :meth:`should_end` between two requests.
    :attr:`has_begun` is True from the beginning of the drain on.

    Several servers can share a drain. A server without a drain can be ended by closing its
    listeners and calling :meth:`begin`.

    With a server's ``max_connection_age``, the handler of a connection that is too old ends in the
    same way.
    """

    has_begun: bool = attrs.field(default=False, init=False)
    """True if :meth:`begin` or :meth:`end` was called. Use it to inform clients, for example with
    ``Connection: close`` in HTTP. See also :meth:`should_end`.
    """

    _is_ending: bool = attrs.field(default=False, init=False, repr=False)
    _cut_off: int = attrs.field(default=0, init=False, repr=False)
    _waiting: set[trio.CancelScope] = attrs.field(factory=set[trio.CancelScope], init=False)
    _servers: set[Drainable] = attrs.field(factory=set[Drainable], init=False, repr=False)
    _gone: trio.lowlevel.ParkingLot = attrs.field(
        factory=trio.lowlevel.ParkingLot, init=False, repr=False
    )

    ################################################################
    # For users
    ################################################################

    async def end(self, timeout: float) -> int:
        """End the servers that have this drain, and wait until the last of their handlers is done.

        The servers accept no more connections. Handlers that wait for an idle client end, as with
        :meth:`begin`. A connection on which the client has not sent anything yet is closed. All
        other connections have ``timeout`` seconds to finish, and are cancelled after that. A
        cancelled connection still ends with a close_notify, unless a ``send_all`` was interrupted
        or the socket has no room.

        A server that has not started yet ends as soon as it starts. Without servers this returns at
        once. If this is called more than once, the earliest time limit applies. If it is cancelled,
        the time limit no longer applies, but the servers continue to end: call this again to wait
        for them.

        Don't call this in a handler of these servers: it would wait for itself.

        Args:
          timeout: How long this may take, in seconds; 0 to cancel at once, ``math.inf`` to never
            cancel. After the timeout, this call returns when the cancelled handlers have ended.

        Returns:
          How many connections had to be cancelled, by this call or another one: 0 if all of them
          finished in time.

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
        """End the handlers that wait for idle clients now, and the others as soon as they do.

        Unlike :meth:`end`, this neither stops accepting nor waits for anything.
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
        """Receive from a client that may be idle. This is like ``stream.receive_some()``, but
        returns ``b""``, as if the client had ended the stream, if the handler :meth:`should_end`
        and nothing has arrived.

        The stream stays usable if it allows its receiving to be cancelled, as a :class:`TLSStream`
        does.
        """
        # Cancel by deadline: Trio checks for received data before it checks for expired deadlines.
        with trio.CancelScope() as scope:
            scope.deadline = self._end_of(stream)
            self._waiting.add(scope)
            try:
                return await stream.receive_some(max_bytes)
            finally:
                self._waiting.remove(scope)
        return b""

    async def wait_should_end(self, stream: trio.abc.ReceiveStream) -> None:
        """Wait until the handler of ``stream`` should end. It should do so as soon as its client is
        idle.

        This is for protocols in which a receive doesn't show whether the client is idle: if several
        requests can be answered concurrently, for example.
        """
        with trio.CancelScope() as scope:
            scope.deadline = self._end_of(stream)
            self._waiting.add(scope)
            try:
                await trio.sleep_forever()
            finally:
                self._waiting.remove(scope)

    def should_end(self, stream: trio.abc.ReceiveStream) -> bool:
        """Return True if the handler of ``stream`` should end: draining has begun, or the
        connection is older than the server's ``max_connection_age``.
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
        """Register a server that starts."""
        self._servers.add(server)
        if self._is_ending:
            server.stop_accepting()

    def _discard(self, server: Drainable) -> None:
        """Unregister a server that has stopped serving, and whose last connection has ended."""
        self._servers.discard(server)
        self._gone.unpark_all()

    async def _wait_for_servers(self) -> None:
        await trio.lowlevel.checkpoint()
        while self._servers:
            await self._gone.park()
