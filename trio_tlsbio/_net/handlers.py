"""Checks the handlers of servers, for common mistakes."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Coroutine
from typing import Any

from trio.lowlevel import enable_ki_protection

__all__ = ["check_handler", "started"]


def check_handler(handler: object) -> None:
    """Check a handler as far as possible without calling it.

    Raises:
      TypeError: if it can't be a handler.
    """
    if isinstance(handler, Coroutine):
        handler.close()  # otherwise Python would warn that it was never awaited
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


@enable_ki_protection  # Ctrl-C here would leave a coroutine that is never awaited
def started(result: Any, handler: object) -> Awaitable[object]:
    """Return the awaitable that calling a handler has returned.

    Raises:
      TypeError: if it is not awaitable. Whether a function is async can only be seen when it is
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
