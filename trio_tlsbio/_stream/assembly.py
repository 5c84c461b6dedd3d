"""Puts the parts of a stream together."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import trio

from trio_tlsbio._core.arguments import Arguments
from trio_tlsbio._core.connection import connection_of
from trio_tlsbio._core.records import Data
from trio_tlsbio._core.sessions import TLSSession

from .decisions import ChooseContext, Decisions, VerifyPeer
from .driver import Driver
from .options import StreamOptions
from .transport_kinds import transport_for

__all__ = ["assemble"]


UserFunctions: TypeAlias = tuple[
    ChooseContext | None, VerifyPeer | None, Callable[[TLSSession], object] | None
]
"""The functions of the user that one stream calls, validated: the parameters ``choose_context``,
``verify_peer`` and ``on_session``.
"""


def assemble(
    transport_stream: trio.abc.Stream,
    arguments: Arguments,
    options: StreamOptions,
    functions: UserFunctions,
    received: Data,
) -> Driver:
    """Create the connection and the transport of a :class:`TLSStream`, and return their driver."""
    choose_context, verify_peer, on_session = functions
    connection = connection_of(
        arguments, on_session is not None, verify_peer is not None, options.strict_alpn
    )
    transport = transport_for(
        transport_stream, connection.inbox, connection.outbox, connection.lifecycle.origin
    )
    if received:
        transport.received_since_send = True
        connection.feed(received)
    decisions = None  # most connections have no decisions to make
    if choose_context is not None or verify_peer is not None:
        decisions = Decisions(connection, choose_context, verify_peer)
    return Driver(connection, transport, decisions, on_session, options.handshake_timeout)
