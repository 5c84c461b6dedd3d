"""Pools of HTTP connections, one for each context that a client has used."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import Any

import attrs

from ._net.connecting import renewed_context
from ._net.reloading import ContextProvider, current_context
from ._net.session_cache import SessionCache

__all__ = ["Lease", "Pools"]


@attrs.define(eq=False)
class _Pool:
    pool: Any
    context: ssl.SSLContext
    requests: int = 0
    is_retired: bool = False

    async def close_if_unused(self) -> None:
        if self.is_retired and not self.requests:
            await self.pool.aclose()


@attrs.define(eq=False)
class Lease:
    """A request, which keeps a pool open."""

    _owner: _Pool
    _has_ended: bool = attrs.field(default=False, init=False)

    @property
    def pool(self) -> Any:
        """The pool."""
        return self._owner.pool

    async def end(self) -> None:
        """End the lease. Calling this again does nothing."""
        if not self._has_ended:
            self._has_ended = True
            self._owner.requests -= 1
            await self._owner.close_if_unused()


@attrs.define(eq=False)
class Pools:
    """The pool for the current context, and older ones that still have requests."""

    _contexts: ssl.SSLContext | ContextProvider
    _make_pool: Callable[[ssl.SSLContext], Any]
    _session_cache: SessionCache
    _current: _Pool = attrs.field(init=False)
    #: The pools whose context was renewed. Each is closed at the end of its last request.
    retired: set[_Pool] = attrs.field(factory=set, init=False)

    def __attrs_post_init__(self) -> None:
        context = current_context(self._contexts)
        self._current = _Pool(self._make_pool(context), context)

    async def lease(self) -> Lease:
        """Return the pool for a request. If the context has changed, this is a new pool."""
        if not isinstance(self._contexts, ssl.SSLContext):
            latest = self._current.context
            context = await renewed_context(self._contexts, latest, self._session_cache)
            if context is not self._current.context:
                await self._renew(context)
        self._current.requests += 1
        return Lease(self._current)

    async def _renew(self, context: ssl.SSLContext) -> None:
        old, self._current = self._current, _Pool(self._make_pool(context), context)
        old.is_retired = True
        self.retired = {pool for pool in self.retired if pool.requests} | {old}
        await old.close_if_unused()

    async def aclose(self) -> None:
        """Close all pools."""
        for pool in (self._current, *self.retired):
            await pool.pool.aclose()
