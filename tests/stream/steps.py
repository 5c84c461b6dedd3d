"""What tests of TLSStream do at once, cancel, and expect."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn, TypeAlias

import pytest
import trio
from trio.testing import assert_checkpoints, wait_all_tasks_blocked

from trio_tlsbio import TLSError, TLSStream

Pair: TypeAlias = tuple[TLSStream[Any], TLSStream[Any]]
Step: TypeAlias = Callable[[], Awaitable[object]]


async def together(*steps: Step) -> None:
    """Run the steps at once. What one of them raises comes in a group."""
    async with trio.open_nursery() as nursery:
        for step in steps:
            nursery.start_soon(step)


async def error_of(step: Step) -> TLSError | None:
    """Return the TLSError that a step raises, if it does."""
    try:
        await step()
    except TLSError as exc:
        return exc
    return None


async def errors_of(*steps: Step) -> list[TLSError | None]:
    """Run the steps at once, and return the TLSError that each raises."""
    errors: list[TLSError | None] = [None] * len(steps)

    async def run(index: int, step: Step) -> None:
        errors[index] = await error_of(step)

    await together(*(partial(run, index, step) for index, step in enumerate(steps)))
    return errors


async def cancelled_when_blocked(step: Step) -> None:
    """Start a step, and cancel it once nothing moves any more."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(step)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught


async def receive_exactly(stream: TLSStream[Any], count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await stream.receive_some()
        assert part, "the stream ended too early"
        data += part
    assert len(data) == count
    return bytes(data)


async def receive_all(stream: TLSStream[Any]) -> bytes:
    data = bytearray()
    while part := await stream.receive_some():
        data += part
    return bytes(data)


async def expect(stream: TLSStream[Any], data: bytes) -> None:
    with assert_checkpoints():
        assert await stream.receive_some(len(data) or 10) == data


async def fail() -> NoReturn:
    raise KeyError("from the transport")


both_modes = pytest.mark.parametrize("https_compatible", [False, True])
