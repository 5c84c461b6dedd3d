"""Pairs of streams: a client and a server."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator

import pytest
from trio.testing import memory_stream_pair

from tests.helpers import both_handshakes, tcp_pair, wrap_pair
from tests.stream.steps import Pair


@pytest.fixture
def pair(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> Pair:
    """A client and a server over memory, before the handshake."""
    return wrap_pair(*memory_stream_pair(), client_context, server_context)


@pytest.fixture
async def established(pair: Pair) -> Pair:
    """A client and a server over memory, after the handshake."""
    await both_handshakes(*pair)
    return pair


@pytest.fixture
async def over_tcp(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> AsyncIterator[Pair]:
    """A client and a server over TCP, before the handshake."""
    async with tcp_pair() as transports:
        yield wrap_pair(*transports, client_context, server_context)
