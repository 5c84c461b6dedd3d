"""The states an end can be in, as functions that bring ours there."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import VERSIONS
from trio_tlsbio import TLSError

from .world import End, ForeignEnd, World, until_blocked

LEFTOVER = 100_000
"""The size of a send that is encrypted as a whole before it is cancelled, in bytes."""

CUT = 300_000
"""The size of a send that is cut in its middle: more than a slice, in bytes."""

# A record under no key that any of the two has.
FORGED = b"\x17\x03\x03\x00\x20" + bytes(32)

# In seconds. The peer is silent, so it only has to be short for sockets, where no clock jumps.
HANDSHAKE_TIMEOUT = 0.05


@attrs.frozen
class State:
    """How to reach a state, and what is known about an end in it."""

    name: str
    prepare: Callable[[World], Awaitable[None]]
    options: Mapping[str, Any] = attrs.field(factory=dict)
    versions: Collection[str] = tuple(VERSIONS)
    #: Whether the peer is pyOpenSSL.
    foreign: bool = False
    #: Whether the handshake is done.
    is_established: bool = True
    #: Whether a cancelled send of ours has left something, and whether it was cut in its middle.
    has_leftover: bool = False
    is_cut: bool = False
    #: Which direction another task of ours is blocked in.
    busy: str | None = None
    #: Whether ours has sent its close_notify.
    is_half_closed: bool = False
    #: Whether a bad record has arrived, or was found, so that an alert is due.
    is_bad: bool = False
    #: Whether ours has read it, so that not even a close may overlook it.
    must_see: bool = False
    #: For a peer that is not there any more: how receiving may end.
    gone: Collection[str] = ()
    #: Whether receiving has something to return.
    has_arrived: bool = False

    @property
    def is_healthy(self) -> bool:
        return not (self.is_bad or self.gone) and self.name != "handshake timed out"


def _their_end(world: World) -> End:
    assert isinstance(world.theirs, End)
    return world.theirs


async def _quietly(operation: Callable[[], Awaitable[object]]) -> None:
    with suppress(TLSError, trio.ClosedResourceError):
        await operation()


async def fresh(world: World) -> None:
    world.narrow()


async def in_the_handshake(world: World) -> None:
    ours, theirs = world.ours.stream, _their_end(world).stream
    ends = [theirs, ours] if ours.server_side else [ours, theirs]
    for end in ends:
        await until_blocked(end.do_handshake)
    world.narrow()


async def idle(world: World) -> None:
    await world.establish()
    world.narrow()


async def leftover(world: World) -> None:
    await idle(world)
    await until_blocked(partial(world.ours.send_all, LEFTOVER))


async def cut(world: World) -> None:
    await idle(world)
    await until_blocked(partial(world.ours.send_all, CUT))


async def leftovers_of_both(world: World) -> None:
    await leftover(world)
    await until_blocked(partial(_their_end(world).send_all, LEFTOVER))


async def blocked_send(world: World) -> None:
    await idle(world)
    world.nursery.start_soon(_quietly, partial(world.ours.send_all, CUT))
    await wait_all_tasks_blocked()


async def blocked_receive(world: World) -> None:
    await idle(world)
    world.nursery.start_soon(world.ours.read_to_end)
    await wait_all_tasks_blocked()


async def renegotiating(world: World) -> None:
    await world.establish()
    assert isinstance(world.theirs, ForeignEnd)
    await world.theirs.renegotiate()
    await world.arrival()
    await until_blocked(world.ours.receive_some)
    world.narrow()


async def half_closed(world: World) -> None:
    await world.establish()
    await world.ours.send_eof()
    world.narrow()


async def peer_half_closed(world: World) -> None:
    await world.establish()
    theirs = _their_end(world)
    await theirs.send_all(10)
    await theirs.send_eof()
    await world.arrival()
    world.narrow()


async def bad_record(world: World) -> None:
    """A bad record has arrived, and ours has not read it."""
    await world.establish()
    await _their_end(world).stream.transport_stream.send_all(FORGED)
    await world.arrival()
    world.narrow()


async def bad_record_behind_data(world: World) -> None:
    """Ours has read a bad record, but not decrypted it: there is data before it."""
    await world.establish()
    theirs = _their_end(world)
    await theirs.send_all(10)
    await theirs.stream.transport_stream.send_all(FORGED)
    await world.arrival()
    await world.ours.receive_some(5)
    world.narrow()


async def bad_record_behind_data_and_leftover(world: World) -> None:
    await bad_record_behind_data(world)
    await until_blocked(partial(world.ours.send_all, LEFTOVER))


async def failed(world: World) -> None:
    await bad_record(world)
    await _quietly(world.ours.receive_some)
    assert world.ours.ledger.end


async def _peer_says_some(world: World) -> End:
    """Let the peer read all there is (unread data would make its close a reset) and send some."""
    theirs = await _peer_reads(world)
    await theirs.send_all(10)
    await world.arrival()
    return theirs


async def _peer_reads(world: World) -> End:
    await world.establish()
    theirs = _their_end(world)
    await until_blocked(theirs.receive_some)
    return theirs


async def ended_by_fin(world: World) -> None:
    await _peer_says_some(world)
    await world.bottoms[1].aclose()
    await world.arrival()
    world.narrow()


async def ended_by_rst(world: World) -> None:
    await _peer_says_some(world)
    world.reset_by_peer()
    await world.arrival()
    world.narrow()


async def leftover_ended_by_rst(world: World) -> None:
    await _peer_says_some(world)
    world.narrow()
    await until_blocked(partial(world.ours.send_all, LEFTOVER))
    world.reset_by_peer()
    await world.arrival()


async def _refused(world: World) -> End:
    theirs = await _peer_reads(world)
    await world.ours.stream.transport_stream.send_all(FORGED)
    await _quietly(theirs.receive_some)
    assert theirs.ledger.end
    await world.arrival()
    return theirs


async def refused_by_rst(world: World) -> None:
    await _refused(world)
    world.reset_by_peer()
    await world.arrival()
    world.narrow()


async def refused_by_fin(world: World) -> None:
    theirs = await _refused(world)
    await trio.aclose_forcefully(theirs.stream)
    await world.arrival()
    world.narrow()


async def handshake_timed_out(world: World) -> None:
    await _quietly(world.ours.stream.do_handshake)


# How the end of a peer that has gone may be reported. Over TCP, a FIN comes before the RST that
# our own bytes provoke, and a reset before a FIN does not look like one.
_TRUNCATED = ("TruncationError", "TLSError")
_CLEAN = ("clean", "TLSError")
_RESET = ("TLSError", "TruncationError")
_ALERT = ("PeerAlertError",)
_HTTPS: Mapping[str, Any] = {"https_compatible": True}

STATES = {
    state.name: state
    for state in (
        State("fresh", fresh, is_established=False),
        State("handshake", in_the_handshake, is_established=False),
        State("idle", idle),
        State("leftover", leftover, has_leftover=True),
        State("cut", cut, has_leftover=True, is_cut=True),
        State("both leftover", leftovers_of_both, has_leftover=True, has_arrived=True),
        State("blocked send", blocked_send, busy="send"),
        State("blocked receive", blocked_receive, busy="receive"),
        State("renegotiating", renegotiating, versions=("tls12",), foreign=True),
        State("half-closed", half_closed, is_half_closed=True),
        State("peer half-closed", peer_half_closed, has_arrived=True),
        State("bad record", bad_record, is_bad=True, has_arrived=True),
        State(
            "bad record behind data",
            bad_record_behind_data,
            is_bad=True,
            must_see=True,
            has_arrived=True,
        ),
        State(
            "bad record behind data, and leftover",
            bad_record_behind_data_and_leftover,
            is_bad=True,
            must_see=True,
            has_leftover=True,
            has_arrived=True,
        ),
        State("failed", failed, is_bad=True, must_see=True, has_arrived=True),
        State("FIN", ended_by_fin, gone=_TRUNCATED, has_arrived=True),
        State("FIN https", ended_by_fin, _HTTPS, gone=_CLEAN, has_arrived=True),
        State("RST", ended_by_rst, gone=_RESET, has_arrived=True),
        State("RST https", ended_by_rst, _HTTPS, gone=_RESET, has_arrived=True),
        State(
            "leftover RST", leftover_ended_by_rst, gone=_RESET, has_leftover=True, has_arrived=True
        ),
        State("alert RST", refused_by_rst, gone=_ALERT, has_arrived=True),
        State("alert FIN", refused_by_fin, gone=_ALERT, has_arrived=True),
        State(
            "handshake timed out",
            handshake_timed_out,
            {"handshake_timeout": HANDSHAKE_TIMEOUT},
            is_established=False,
        ),
    )
}
