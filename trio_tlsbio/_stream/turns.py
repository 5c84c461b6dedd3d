"""Tasks that take turns, and those that run beside a block of code."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from types import TracebackType

import attrs
import trio

__all__ = ["ConflictDetector", "beside"]


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
