"""What the commands talk to: servers for ``connect``, and clients for ``serve``."""

from __future__ import annotations

import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
import trustme

from tests.commands import Server, Stream
from trio_tlsbio import open_tls_over_tcp_stream, serve_tls_over_tcp


@attrs.frozen
class Chain:
    """A certificate with a chain of two, and what trusts it."""

    ca: str
    pem: Path
    cert: trustme.LeafCert


async def drain(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


################################################################
# Servers
################################################################


@asynccontextmanager
async def tls_server(
    handler: Callable[[Stream], Awaitable[object]],
    context: ssl.SSLContext,
    host: str = "127.0.0.1",
) -> AsyncIterator[int]:
    """Run a server of this library."""
    async with trio.open_nursery() as nursery:
        serve = partial(serve_tls_over_tcp, handler, 0, context, host=host)
        (listener,) = await nursery.start(serve)
        yield listener.transport_listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def plain_server(
    handler: Callable[[trio.SocketStream], Awaitable[object]],
) -> AsyncIterator[int]:
    """Run a server that doesn't speak TLS."""
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, handler, 0, host="127.0.0.1"))
        yield listener.socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def echo(stream: Stream) -> None:
    """Send back what comes, and end when the client ends."""
    async for data in stream:
        await stream.send_all(data)
    await stream.send_eof()


async def say_and_truncate(stream: Stream) -> None:
    """Send something, and end the TCP connection without a close_notify."""
    await stream.send_all(b"not all of ")
    await stream.transport_stream.send_eof()
    await drain(stream.transport_stream)


async def say_and_reset(stream: Stream) -> None:
    """Send something, and reset the TCP connection."""
    await stream.send_all(b"not all of ")
    await stream.receive_some()  # so that the client had it
    sock = stream.transport_stream.socket
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


################################################################
# Clients
################################################################

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")


async def connect(server: Server, context: ssl.SSLContext, **options: object) -> Stream:
    return await open_tls_over_tcp_stream(
        "127.0.0.1",
        server.port,
        ssl_context=context,
        **options,  # type: ignore[arg-type]
    )


async def exchange(stream: trio.abc.Stream, data: bytes) -> bytes:
    """Send something to an echo, and return what comes back."""
    await stream.send_all(data)
    echo = b""
    while len(echo) < len(data):
        more = await stream.receive_some()
        assert more, echo
        echo += more
    return echo
