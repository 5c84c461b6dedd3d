"""Checks that are made before a connection is established."""

from __future__ import annotations

import ssl

import trio

from trio_tlsbio._core.arguments import Arguments
from trio_tlsbio._net.default_context import make_default_context
from trio_tlsbio._net.reloading import ContextProvider, check_provider
from trio_tlsbio._net.session_cache import SessionCache, check_cache

__all__ = ["check_backend", "check_client", "check_session_cache", "context_or_default"]


def check_backend() -> None:
    """Raise an error if anyio does not run on Trio."""
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError("trio_tlsbio.anyio needs anyio's Trio backend: backend='trio'")


def check_session_cache(
    session_cache: SessionCache | None,
    ssl_context: ssl.SSLContext | ContextProvider | None,
    *,
    server_side: bool,
) -> None:
    """Raise an error if ``session_cache`` can't be used."""
    check_cache(session_cache)
    if session_cache is None:
        return
    if server_side:
        raise ValueError(
            "session_cache is for clients: a server resumes the sessions that clients offer"
        )
    if ssl_context is None:
        raise ValueError(
            "sessions can only be resumed with the ssl_context they were made with: pass it too"
        )


def context_or_default(
    ssl_context: ssl.SSLContext | ContextProvider | None,
) -> ssl.SSLContext | ContextProvider:
    """Return the context or the function, or a client's default context for None."""
    if ssl_context is None:
        return make_default_context()
    check_provider(ssl_context)
    return ssl_context


def check_client(ssl_context: ssl.SSLContext, hostname: str | None) -> None:
    """Raise the errors that ``TLSStream.wrap()`` would raise, before connecting."""
    check_backend()
    Arguments.parse(ssl_context, server_hostname=hostname)
