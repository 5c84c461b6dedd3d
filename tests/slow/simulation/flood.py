"""A peer that floods an end with KeyUpdates to answer, after that end's close_notify."""

from __future__ import annotations

from typing import Any

import attrs
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from fuzz._forge import APPLICATION_DATA, HANDSHAKE, handshake
from tests.slow.hostile.peer import Arena, HostileEnd

from .wires import memory_pair

# A KeyUpdate that requests one of ours (RFC 9846 section 4.7.3).
_KEY_UPDATE, _UPDATE_REQUESTED = 24, b"\x01"

# The answers, some 27 bytes each, add up to more than may wait to be sent while receiving goes on.
_BURSTS = 22
_IN_A_BURST = 1000


@attrs.define(eq=False)
class Flooded:
    """What the flooded end received without waiting."""

    sent: bytearray = attrs.field(factory=bytearray)
    received: bytearray = attrs.field(factory=bytearray)
    #: How often receive_nowait() returned data though is_readable() was False.
    blind: int = 0
    most_to_send: int = 0


def flood(arena: Arena) -> Flooded:
    """Let a hostile peer send data between its KeyUpdates, and return what arrived."""
    flooded = Flooded()
    trio.run(_flood, arena, flooded, clock=MockClock(autojump_threshold=0))
    return flooded


async def _flood(arena: Arena, flooded: Flooded) -> None:
    ours, theirs, _ = memory_pair()
    transport: Any = ours
    peer_transport: Any = theirs
    victim = arena.stream(transport)
    end = HostileEnd(arena.new_peer(), peer_transport)
    await end.shake_hands(victim)
    await victim.send_eof()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_talk, end, flooded)
        # Each turn takes in all there is. When nothing is left, all tasks are blocked twice.
        idle = 0
        while idle < 2:
            await wait_all_tasks_blocked()
            is_readable = victim.is_readable()
            part = victim.receive_nowait()
            flooded.received += part or b""
            flooded.blind += bool(part) and not is_readable
            flooded.most_to_send = max(flooded.most_to_send, victim.connection.bytes_to_send)
            idle = 0 if part or is_readable else idle + 1
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(victim)
    await trio.aclose_forcefully(theirs)


async def _talk(end: HostileEnd, flooded: Flooded) -> None:
    peer = end.peer
    for number in range(_BURSTS):
        burst = bytearray()
        for _ in range(_IN_A_BURST):
            burst += peer.seal(HANDSHAKE, handshake(_KEY_UPDATE, _UPDATE_REQUESTED))
            peer.ours.update()
        data = b"burst %d;" % number
        burst += peer.seal(APPLICATION_DATA, data)
        flooded.sent += data
        await end.tcp.send_all(burst)
