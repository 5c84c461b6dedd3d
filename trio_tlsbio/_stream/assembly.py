"""What a stream is made of, put together."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import trio

from trio_tlsbio._core.connection import TLSConnection
from trio_tlsbio._core.records import Data
from trio_tlsbio._core.sessions import TLSSession

from .decisions import ChooseContext, Decisions, VerifyPeer, checked_function
from .driver import Driver
from .transport_kinds import transport_for

__all__ = ["assemble", "check_handshake_timeout"]


def check_handshake_timeout(handshake_timeout: float) -> None:
    """Raise :exc:`ValueError` for one that is invalid."""
    if not handshake_timeout > 0:
        raise ValueError("handshake_timeout must be positive")


def assemble(
    transport_stream: trio.abc.Stream,
    ssl_context: ssl.SSLContext | ChooseContext,
    *,
    server_side: bool,
    server_hostname: str | bytes | None,
    session: TLSSession | None,
    on_session: Callable[[TLSSession], object] | None,
    handshake_timeout: float,
    received: Data,
    verify_peer: VerifyPeer | None,
    strict_alpn: bool,
) -> Driver:
    """Check the parameters of a :class:`TLSStream`, and return its connection and transport."""
    check_handshake_timeout(handshake_timeout)
    is_chosen = server_side and not isinstance(ssl_context, ssl.SSLContext)
    choose_context = checked_function(ssl_context, "ssl_context") if is_chosen else None
    if verify_peer is not None:
        checked_function(verify_peer, "verify_peer")
    connection = TLSConnection(
        None if is_chosen else ssl_context,  # type: ignore[arg-type]  # which is checked there
        server_side=server_side,
        server_hostname=server_hostname,
        session=session,
        collect_sessions=on_session is not None,
        verifies_peer=verify_peer is not None,
        strict_alpn=strict_alpn,
    )
    transport = transport_for(
        transport_stream, connection.inbox, connection.outbox, connection.lifecycle.origin
    )
    if received:
        transport.has_heard = True
        connection.feed(received)
    decisions = None  # which most connections need not ask for
    if choose_context is not None or verify_peer is not None:
        decisions = Decisions(connection, choose_context, verify_peer)
    return Driver(connection, transport, decisions, on_session, handshake_timeout)
