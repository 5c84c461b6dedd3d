"""Accepts connections from listeners, until they are closed."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from functools import partial
from typing import Generic, TypeAlias

import attrs
import trio
from trio.lowlevel import enable_ki_protection

from trio_tlsbio._stream.stream import T_Stream, TLSStream

from .listening import TLSListener, is_context_error, when_closed
from .monitor import AcceptFailed, ServerMonitor
from .places import Places

__all__ = ["Acceptor"]

# Starts the task of a connection.
Begin: TypeAlias = Callable[[TLSStream[T_Stream]], None]

_logger = logging.getLogger("trio_tlsbio.server")

# The errors of accept(2) if there are no descriptors, or no memory, for another connection.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# How long to wait after such an error, in seconds, unless a connection ends earlier.
_EXHAUSTED_DELAY = 0.1


@attrs.define(eq=False)
class Acceptor(Generic[T_Stream]):
    """Accepts connections from the listeners of a server, within the server's limits."""

    _listeners: list[TLSListener[T_Stream]]
    _places: Places
    _monitor: ServerMonitor | None
    _nursery: trio.Nursery
    # One scope for each listener that is open, or whose last connection is waiting for a place.
    _scopes: set[trio.CancelScope] = attrs.field(factory=set[trio.CancelScope], init=False)
    _is_stopping: bool = False
    #: True if connections that were just accepted have to be closed too.
    is_cancelled: bool = False

    def start(self, begin: Begin[T_Stream], on_end: Callable[[], object]) -> list[trio.Event]:
        """Start accepting, and call ``begin(stream)`` for each connection. Call ``on_end()`` when a
        listener accepts no more connections.

        Returns:
          An event for each listener, which is set when the listener is closed.
        """
        closed = [when_closed(listener) for listener in self._listeners]
        for listener, event in zip(self._listeners, closed, strict=True):
            scope = trio.CancelScope()
            self._scopes.add(scope)
            run = partial(self._run, listener, begin, on_end)
            self._nursery.start_soon(run, scope, event)
        return closed

    @property
    def is_running(self) -> bool:
        """True if a connection can still begin."""
        return bool(self._scopes)

    def stop(self) -> None:
        """Close the listeners, in another task."""
        if self._scopes and not self._is_stopping:
            self._is_stopping = True
            self._nursery.start_soon(self._close_listeners)

    def cancel(self) -> None:
        """Stop accepting at once."""
        self.is_cancelled = True
        for scope in self._scopes:
            scope.cancel()

    @enable_ki_protection
    async def _close_listeners(self) -> None:
        for listener in self._listeners:
            await listener.aclose()

    @enable_ki_protection
    async def _run(
        self,
        listener: TLSListener[T_Stream],
        begin: Begin[T_Stream],
        on_end: Callable[[], object],
        scope: trio.CancelScope,
        closed: trio.Event,
    ) -> None:
        try:
            with scope:
                await self._accept_from(listener, begin)
        finally:
            self._scopes.remove(scope)
            closed.set()
            on_end()

    async def _accept_from(self, listener: TLSListener[T_Stream], begin: Begin[T_Stream]) -> None:
        async with listener:
            is_exhausted = False
            while True:
                try:
                    stream = await listener.accept()
                except (trio.ClosedResourceError, OSError) as exc:
                    if is_context_error(listener, exc):
                        raise
                    if isinstance(exc, trio.ClosedResourceError):
                        return
                    if exc.errno not in _EXHAUSTED:
                        raise
                    if not is_exhausted:
                        is_exhausted = True
                        _logger.error("can't accept connections for now: %s", exc)  # noqa: TRY400
                        if self._monitor is not None:
                            self._monitor.happened(AcceptFailed(exc))
                    with trio.move_on_after(_EXHAUSTED_DELAY):
                        await self._places.wait_for_fewer()
                else:
                    is_exhausted = False
                    await self._admit(stream, begin)

    async def _admit(self, stream: TLSStream[T_Stream], begin: Begin[T_Stream]) -> None:
        # Wait after accepting: this limits each listener to one connection that waits.
        try:
            await self._places.wait_for_one()
            begin(stream)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
