"""Limits the number of connections, and of handshakes, that a server has at once."""

from __future__ import annotations

import attrs
import trio

__all__ = ["Places"]


@attrs.define(eq=False)
class Places:
    """The limits of a server, and how many places are taken."""

    _max_connections: float
    _max_handshakes: float
    connections: int = 0
    _handshakes: int = 0
    _fewer: trio.lowlevel.ParkingLot = attrs.field(factory=trio.lowlevel.ParkingLot, init=False)

    async def wait_for_one(self) -> None:
        """Wait until there is a place for another connection."""
        while self.connections >= self._max_connections or self._handshakes >= self._max_handshakes:
            await self._fewer.park()

    async def wait_for_fewer(self) -> None:
        """Wait until a handshake or a connection has ended."""
        await self._fewer.park()

    async def wait_until_empty(self) -> None:
        """Wait until there are no connections."""
        while self.connections:
            await self._fewer.park()

    def take(self) -> None:
        """Count a new connection, whose handshake begins."""
        self.connections += 1
        self._handshakes += 1

    def end_handshake(self) -> None:
        """Count a handshake as ended."""
        self._handshakes -= 1
        if self._fewer:
            self._fewer.unpark_all()

    def leave(self) -> None:
        """Count a connection as ended."""
        self.connections -= 1
        if self._fewer:
            self._fewer.unpark_all()
