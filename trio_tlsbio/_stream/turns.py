"""Tasks that take turns, and background tasks for a block of code."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType

import attrs
import trio

from trio_tlsbio._core.errors import TLSError

__all__ = ["ConflictDetector", "Turn", "background_task"]


@attrs.define(eq=False)
class ConflictDetector:
    """Makes it an error for two tasks to do the same thing at once.

    Where the cost of a call matters, set and reset :attr:`is_busy` instead of using a ``with``
    block.
    """

    _message: str
    is_busy: bool = False

    def error(self) -> trio.BusyResourceError:
        """Return the exception to raise if another task is busy."""
        return trio.BusyResourceError(self._message)

    def __enter__(self) -> None:
        if self.is_busy:
            raise self.error()
        self.is_busy = True

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.is_busy = False


@attrs.define(eq=False)
class Turn:
    """Something that one task does at a time, such as sending. One task has the turn; the others
    wait until it leaves.

    Then the others check again: it may have failed, or their condition may be met.
    """

    is_taken: bool = False
    #: An error that every later task gets in place of the turn.
    error: TLSError | None = None
    #: Where the other tasks wait. The first of them creates it.
    waiting: trio.lowlevel.ParkingLot | None = None

    def check(self) -> None:
        """Raise the error, if there is one."""
        if self.error is not None:
            raise self.error.again()

    def leave(self) -> None:
        """Give up the turn, and wake the other tasks."""
        self.is_taken = False
        if self.waiting is not None:
            self.waiting.unpark_all()

    async def wait(self) -> None:
        """Wait until the task that has the turn leaves."""
        if self.waiting is None:
            self.waiting = trio.lowlevel.ParkingLot()
        await self.waiting.park()


@asynccontextmanager
async def background_task(task: Callable[[], Awaitable[object]]) -> AsyncGenerator[None, None]:
    """Run a task concurrently with a block of code, and cancel it when the block ends.

    Exceptions from the block propagate as they are, and not in a group as from a nursery.
    """
    error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(task)
            try:
                yield
            except BaseException as exc:
                error = exc
            nursery.cancel_scope.cancel()
    except BaseExceptionGroup as group:  # Ctrl-C while the task was ending
        error = group.exceptions[0]
    if error is not None:
        try:
            raise error
        finally:
            del error  # otherwise its traceback would keep it alive in a cycle
