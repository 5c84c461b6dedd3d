"""What the tests build their connections from."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import trio
import trio.testing
import trustme

from trio_tlsbio import TLSConnection, TLSError, TLSStream

NAME = "server.example"
VERSIONS = {"tls12": ssl.TLSVersion.TLSv1_2, "tls13": ssl.TLSVersion.TLSv1_3}


def client_context_for(
    ca: trustme.CA, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    """Make a client's context that trusts ``ca`` and speaks one version."""
    context = ssl.create_default_context()
    ca.configure_trust(context)
    context.minimum_version = context.maximum_version = version
    return context


def server_context_for(
    cert: trustme.LeafCert, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    """Make a server's context with ``cert`` that speaks one version."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    cert.configure_cert(context)
    context.minimum_version = context.maximum_version = version
    return context


def transfer(source: TLSConnection, target: TLSConnection, chunk: int | None = None) -> int:
    """Move all ciphertext from one connection to another, in chunks of ``chunk`` bytes."""
    data = source.data_to_send()
    step = chunk or max(len(data), 1)
    for start in range(0, len(data), step):
        target.feed(data[start : start + step])
    return len(data)


def shake_hands(client: TLSConnection, server: TLSConnection, chunk: int | None = None) -> None:
    """Complete the handshake between two connections, tickets included."""
    for _ in range(10):
        if client.do_handshake() & server.do_handshake():
            break
        transfer(client, server, chunk)
        server.do_handshake()
        transfer(server, client, chunk)
    else:
        raise AssertionError("the handshake does not end")
    transfer(client, server, chunk)
    transfer(server, client, chunk)
    assert client.receive() is None
    assert server.receive() is None


def failures(client: TLSConnection, server: TLSConnection) -> tuple[TLSError | None, ...]:
    """Run a handshake that fails, and return what the client and the server raise."""
    errors: list[TLSError | None] = [None, None]
    for _ in range(6):
        for index, (side, other) in enumerate(((client, server), (server, client))):
            try:
                if side.do_handshake():
                    side.receive()
            except TLSError as exc:
                errors[index] = exc
            transfer(side, other)
    return tuple(errors)


@asynccontextmanager
async def tcp_pair() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """A connected pair of TCP streams over loopback; the client's first. Closed at the end."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        client = await trio.testing.open_stream_to_socket_listener(listener)
        server = await listener.accept()
    try:
        yield client, server
    finally:
        await trio.aclose_forcefully(client)
        await trio.aclose_forcefully(server)


def wrap_pair(
    client_transport: Any,
    server_transport: Any,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    **options: Any,
) -> tuple[TLSStream[Any], TLSStream[Any]]:
    """Put TLS over two transports. ``options`` go to both streams."""
    return (
        TLSStream(client_transport, client_context, server_hostname=NAME, **options),
        TLSStream(server_transport, server_context, server_side=True, **options),
    )


async def both_handshakes(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    """Complete the handshake of two streams."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(server.do_handshake)
