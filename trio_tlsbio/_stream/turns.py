"""Tasks that take turns, and those that run beside a block of code."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType

import attrs
import trio

from trio_tlsbio._core.errors import TLSError

__all__ = ["ConflictDetector", "Turn", "beside"]


@attrs.define(eq=False)
class ConflictDetector:
    """Makes it an error that two tasks do the same thing at once.

    Where each call counts, set and reset :attr:`is_busy` in place of a ``with`` block.
    """

    _message: str
    is_busy: bool = attrs.field(default=False, init=False)

    def error(self) -> trio.BusyResourceError:
        """Return what to raise where it is busy."""
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
    """One direction of a transport. One task has the turn; others wait until it leaves.

    They look again then: the direction may have failed, and what they need may be there.
    """

    purpose: str
    is_taken: bool = attrs.field(default=False, init=False)
    #: What keeps every task from taking it.
    error: TLSError | None = attrs.field(default=None, init=False)
    #: Where the others wait; made by the first of them.
    waiting: trio.lowlevel.ParkingLot | None = attrs.field(default=None, init=False)

    def check(self) -> None:
        """Raise the error, if there is one."""
        if self.error is not None:
            raise self.error.again()

    def leave(self) -> None:
        """Let the others look."""
        self.is_taken = False
        if self.waiting is not None:
            self.waiting.unpark_all()

    async def wait(self) -> None:
        """Wait until the task that has the turn leaves."""
        if self.waiting is None:
            self.waiting = trio.lowlevel.ParkingLot()
        await self.waiting.park()


@asynccontextmanager
async def beside(task: Callable[[], Awaitable[object]]) -> AsyncGenerator[None, None]:
    """Run a task beside a block of code, and cancel it when the block ends.

    What the block raises comes out as it is, not in a group as from a nursery.
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
            del error  # or its traceback would keep it alive in a cycle
