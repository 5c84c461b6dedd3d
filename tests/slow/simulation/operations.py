"""What a caller can do with an end: every method of TLSStream, in one table."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import attrs
import trio
from trio.testing import wait_all_tasks_blocked

from trio_tlsbio import TLSStream

from .states import CUT
from .world import End, World, until_blocked

SHORT = 10

# How much is sent at a time to find out how much is taken, in bytes, and how often.
FILLING = 64 * 1024
FILLINGS = 8

# How many rounds of wait_send_all_might_not_block() and send_nowait() a program makes.
_LOOPS = 40


@attrs.frozen
class Operation:
    """A method of TLSStream, or two at once, and what is known about it."""

    name: str
    #: Runs it on one of the two ends. Returns what is wrong, if the operation itself can see it.
    run: Callable[[World, End], Awaitable[str | None]]
    #: Which directions no other task may use while it runs.
    sends: bool = False
    receives: bool = False
    #: Whether it may wait for the peer to read, as a send does.
    needs_room: bool = False
    #: Whether it returns only when the peer has sent something, or ended.
    needs_arrival: bool = False
    #: Whether it takes in what the peer sends while it waits.
    reads: bool = False
    #: Whether it never waits, so that it is asked again and again.
    is_nowait: bool = False
    #: Whether the stream is closed by it, and at once.
    closes: bool = False
    is_forced: bool = False
    #: Whether it takes an established TLS 1.3 server.
    asks_client: bool = False
    #: Whether it runs other tasks, or other cancel scopes, itself.
    many: bool = False


async def _do_handshake(world: World, end: End) -> None:
    await end.stream.do_handshake()


async def _receive_some(world: World, end: End) -> None:
    await end.receive_some()


async def _receive_nowait(world: World, end: End) -> None:
    end.receive_nowait()


async def _is_readable(world: World, end: End) -> None:
    end.stream.is_readable()


async def _send_short(world: World, end: End) -> None:
    await end.send_all(SHORT)


async def _send_long(world: World, end: End) -> None:
    await end.send_all(CUT)


async def _send_empty(world: World, end: End) -> None:
    await end.send_all(0)


async def _send_nowait(world: World, end: End) -> None:
    end.send_nowait(SHORT)


async def _send_nowait_empty(world: World, end: End) -> None:
    end.send_nowait(0)


async def _wait_send(world: World, end: End) -> None:
    await end.stream.wait_send_all_might_not_block()


async def _send_loop(world: World, end: End) -> str | None:
    """Send as a program with its own event loop does. After a reset it must get an error."""
    for _ in range(_LOOPS):
        await end.stream.wait_send_all_might_not_block()
        end.send_nowait(SHORT)
    # A plain stream can't send without waiting, so there the loop is of no use to begin with.
    is_over = world.peer_has_reset and world.transport != "plain"
    return "the loop would go on forever" if is_over else None


async def _fill_nowait(world: World, end: End) -> None:
    for _ in range(FILLINGS):
        if not end.send_nowait(FILLING):
            break


async def _fill_by_cancelled_sends(world: World, end: End) -> None:
    for _ in range(FILLINGS):
        await until_blocked(partial(end.send_all, FILLING))


async def _send_eof(world: World, end: End) -> None:
    await end.send_eof()


async def _unwrap(world: World, end: End) -> None:
    await end.unwrap()


async def _aclose(world: World, end: End) -> None:
    await end.stream.aclose()


async def _aclose_forcefully(world: World, end: End) -> None:
    await trio.aclose_forcefully(end.stream)


async def _second_closer(world: World, end: End) -> str | None:
    """Close at once while another task closes gracefully."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(end.timed_close)
        await wait_all_tasks_blocked()
        start = trio.current_time()
        await trio.aclose_forcefully(end.stream)
        is_open = world.is_open(end)
        seconds = trio.current_time() - start
    if is_open:
        return "aclose_forcefully() returned with the transport still open"
    return f"aclose_forcefully() took {seconds:g} s" if seconds > 1 else None


async def _abort(world: World, end: End) -> str | None:
    end.stream.abort()  # type: ignore[attr-defined, unused-ignore]
    return "abort() left the transport open" if world.is_open(end) else None


async def _ask_client(world: World, end: End) -> None:
    await end.stream.verify_client_post_handshake()


_table = [
    Operation("do_handshake", _do_handshake, needs_room=True),
    Operation("receive_some", _receive_some, receives=True, needs_arrival=True, reads=True),
    Operation("receive_nowait", _receive_nowait, receives=True, is_nowait=True),
    Operation("is_readable", _is_readable, is_nowait=True),
    Operation("send_all short", _send_short, sends=True, needs_room=True),
    Operation("send_all long", _send_long, sends=True, needs_room=True),
    Operation("send_all empty", _send_empty, sends=True, needs_room=True),
    Operation("send_nowait", _send_nowait, sends=True, is_nowait=True),
    Operation("send_nowait empty", _send_nowait_empty, sends=True, is_nowait=True),
    Operation("wait_send", _wait_send, sends=True, needs_room=True),
    Operation("wait and send_nowait", _send_loop, sends=True, needs_room=True),
    Operation("fill by send_nowait", _fill_nowait, sends=True),
    Operation("fill by cancelled sends", _fill_by_cancelled_sends, sends=True, many=True),
    Operation("send_eof", _send_eof, sends=True, needs_room=True),
    Operation("unwrap", _unwrap, sends=True, receives=True, reads=True, closes=True),
    Operation("aclose", _aclose, reads=True, closes=True),
    Operation("aclose_forcefully", _aclose_forcefully, closes=True, is_forced=True),
    Operation("second closer", _second_closer, closes=True, is_forced=True, many=True),
    Operation(
        "verify_client", _ask_client, sends=True, receives=True, needs_room=True, asks_client=True
    ),
]
if hasattr(TLSStream, "abort"):
    _table.append(Operation("abort", _abort, closes=True, is_forced=True))

OPERATIONS = {operation.name: operation for operation in _table}
