"""Servers for the commands to connect to."""

from __future__ import annotations

import shutil
import socket
import ssl
import struct
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

import pytest
import trio

from tests.commands import TIMEOUT, Files, Stream
from trio_tlsbio import serve_tls_over_tcp


@asynccontextmanager
async def openssl_server(files: Files, *options: str) -> AsyncIterator[int]:
    """Run an ``openssl s_server`` that sends lines back reversed, on a port of its choice."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl (the command) is not installed")
    command = [openssl, "s_server", "-accept", "127.0.0.1:0", "-rev", "-cert", files.server]
    process = await trio.lowlevel.open_process(
        [*command, *options],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    try:
        async with process.stdout:
            said = b""
            with trio.fail_after(TIMEOUT):
                while not (b"ACCEPT" in said and said.endswith(b"\n")):
                    more = await process.stdout.receive_some()
                    assert more, said
                    said += more
            async with trio.open_nursery() as nursery:
                nursery.start_soon(drain, process.stdout)
                yield int(said.split()[-1].rpartition(b":")[2])
                nursery.cancel_scope.cancel()
    finally:
        process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()


async def drain(stream: trio.abc.ReceiveStream) -> None:
    async for _ in stream:
        pass


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
