"""Cancelling an operation at one event after the other."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

import attrs
import trio

Operation: TypeAlias = Callable[[], Awaitable[object]]

# No scenario has this many events; one that never ends would.
_MOST_EVENTS = 1000


################################################################
# Cancelling at one event after the other
################################################################


@attrs.define(eq=False)
class Canceller(trio.abc.Instrument):
    """Cancels an operation at one event: number 0 is its call, an odd one is that it has begun to
    wait, an even one that it is about to go on. Those of tasks that it starts count too.
    """

    number: int
    fired: bool = False
    caught: bool = False
    _count: int = 0
    _task: trio.lowlevel.Task | None = None
    _scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def run(self, operation: Operation) -> bool:
        """Run an operation, and return whether it was cancelled."""
        self._task = trio.lowlevel.current_task()
        with self._scope:
            if self.number == 0:
                self._fire()
            trio.lowlevel.add_instrument(self)
            try:
                await operation()
            finally:
                trio.lowlevel.remove_instrument(self)
        self.caught = self._scope.cancelled_caught
        return self.caught

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self._event(task)

    def after_task_step(self, task: trio.lowlevel.Task) -> None:
        self._event(task)

    def _event(self, task: trio.lowlevel.Task) -> None:
        ancestor: trio.lowlevel.Task | None = task
        while ancestor is not None and ancestor is not self._task:
            nursery = ancestor.parent_nursery
            ancestor = None if nursery is None else nursery.parent_task
        if ancestor is None:
            return
        self._count += 1
        if self._count == self.number:
            self._fire()

    def _fire(self) -> None:
        self.fired = True
        self._scope.cancel()


async def at_every_step(scenario: Callable[[Canceller], Awaitable[None]]) -> None:
    """Run a scenario, whose operation is cancelled at one event later each time."""
    caught = 0
    for number in range(_MOST_EVENTS):
        canceller = Canceller(number)
        try:
            with trio.fail_after(5):
                await scenario(canceller)
        except BaseException as exc:
            exc.add_note(f"cancelled at event {number}: {canceller}")
            raise
        if not canceller.fired:
            break
        caught += canceller.caught
    else:
        raise AssertionError("the operation never ends")
    assert caught, "there was nothing to cancel"
