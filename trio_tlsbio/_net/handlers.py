"""The handlers of servers: what a program gives by mistake in place of one."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Coroutine
from typing import Any

from trio.lowlevel import enable_ki_protection

__all__ = ["check_handler", "started"]


def check_handler(handler: object) -> None:
    """Check a handler as far as that can be done without calling it.

    Raises:
      TypeError: for what can't be one.
    """
    if isinstance(handler, Coroutine):
        handler.close()  # or Python would warn that it was never awaited
        name = getattr(handler, "__name__", "handler")
        raise TypeError(
            "the server was expecting an async function as its handler, but instead it got a "
            f"coroutine object: give it {name} itself, and not {name}(...)"
        )
    if not callable(handler):
        raise TypeError(
            "the server was expecting an async function as its handler, but instead it got "
            f"{handler!r}"
        )
    if inspect.isasyncgenfunction(handler):
        raise TypeError(
            "the server was expecting an async function as its handler, but instead it got an "
            f"async generator: {_name_of(handler)} must not yield"
        )


@enable_ki_protection  # a Ctrl-C here would leave a coroutine that is never awaited
def started(result: Any, handler: object) -> Awaitable[object]:
    """Return what a handler has returned when it was called, which is to be awaited.

    Raises:
      TypeError: if that is nothing of the kind. Whether a function is async only shows when it is
        called: it may be a lambda, or decorated.
    """
    if not inspect.isawaitable(result):
        raise TypeError(
            "the server was expecting an async function as its handler, but "
            f"{_name_of(handler)} appears to be synchronous: define it with async def"
        )
    return result


def _name_of(handler: object) -> object:
    return getattr(handler, "__qualname__", handler)
