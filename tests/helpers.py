"""What the tests build their connections from."""

from __future__ import annotations

import socket
import ssl
import struct
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from inspect import isawaitable
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from trio_tlsbio import (
    ClientHello,
    RefuseHandshake,
    TLSConnection,
    TLSError,
    TLSStream,
    serve_tls_over_tcp,
)
from trio_tlsbio.testing import do_handshakes, exchange, tls_stream_pair

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"

# Both names are in the server's certificate.
NAME = "server.example"
HOST = "127.0.0.1"

# No conversation on loopback takes longer than this, in seconds.
LIMIT = 30

# Of what a Python may lack: where it does, there is nothing to test. See tests/selection.py.
COUNTS_REFERENCES = hasattr(sys, "getrefcount")
counts_references = pytest.mark.where(
    COUNTS_REFERENCES, "PyPy frees objects some time after the last reference is gone"
)
reports_security_level = pytest.mark.where(
    hasattr(ssl.SSLContext, "security_level"), "PyPy does not report security levels"
)
has_psk = pytest.mark.where(
    getattr(ssl, "HAS_PSK", False), "ssl.HAS_PSK: Python 3.13 or newer, and OpenSSL's"
)

VERSIONS = {"tls12": ssl.TLSVersion.TLSv1_2, "tls13": ssl.TLSVersion.TLSv1_3}


def client_context_for(
    ca: trustme.CA, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3
) -> ssl.SSLContext:
    """Make a client's context that trusts ``ca`` and speaks one version."""
    # With authorities given it does not load the system's, which takes longer than a handshake.
    context = ssl.create_default_context(cadata=ca.cert_pem.bytes().decode())
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


async def _result_of(awaitable: Awaitable[Any]) -> Any:
    return await awaitable


class ChoosingServer(TLSConnection):
    """A server's connection that asks a function for its context, as a TLSStream does."""

    def __init__(self, choose: Callable[[ClientHello], Any]) -> None:
        super().__init__(None, server_side=True)
        self.choose = choose

    def do_handshake(self) -> bool:
        is_done = super().do_handshake()
        if not self.wants_context:
            return is_done
        assert self.client_hello is not None
        try:
            context = self.choose(self.client_hello)
            if isawaitable(context):  # of a ReloadingContext, which reads its files in a thread
                context = trio.run(_result_of, context)
            self.use_context(context)
        except RefuseHandshake as exc:
            self.refuse_handshake(exc)
        return super().do_handshake()


def server_of(context: ssl.SSLContext | Callable[[ClientHello], Any]) -> TLSConnection:
    """Make a server's connection with a context, or a function that chooses it."""
    if isinstance(context, ssl.SSLContext):
        return TLSConnection(context, server_side=True)
    return ChoosingServer(context)


def shake_hands(client: TLSConnection, server: TLSConnection, chunk: int | None = None) -> None:
    """Complete the handshake between two connections, tickets included."""
    exchange(client, server, chunk)
    assert client.do_handshake()
    assert server.do_handshake()
    assert client.receive() is None
    assert server.receive() is None


def failures(client: TLSConnection, server: TLSConnection) -> tuple[TLSError | None, ...]:
    """Run a handshake that fails, and return what the client and the server raise."""
    exchange(client, server)
    return failure(client), failure(server)


def failure(connection: TLSConnection) -> TLSError | None:
    """Return what a connection raises."""
    try:
        if connection.do_handshake():
            connection.receive()
    except TLSError as exc:
        return exc
    return None


async def echo(stream: TLSStream[Any]) -> None:
    """The handler that everybody writes first: it takes no care of anything."""
    async for data in stream:
        await stream.send_all(data)


@asynccontextmanager
async def serving(
    handler: Callable[[TLSStream[trio.SocketStream]], Awaitable[object]],
    ssl_context: Any,  # or what gives one
    **options: Any,
) -> AsyncIterator[int]:
    """Serve on loopback, for ``LIMIT`` seconds at most; the value is the port."""
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tls_over_tcp, handler, 0, ssl_context, host=HOST, **options)
            yield port_of(await nursery.start(serve))
            nursery.cancel_scope.cancel()


def port_of(listeners: Any) -> int:
    """The port of a listener, with or without TLS, or of the only one in a list."""
    (listener,) = listeners if isinstance(listeners, list) else [listeners]
    transport_listener: Any = getattr(listener, "transport_listener", listener)
    port: int = transport_listener.socket.getsockname()[1]
    return port


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


def reset_when_closed(sock: socket.socket | trio.SocketStream) -> None:
    """Let a socket end its connection with RST in place of FIN: see socket(7)."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def reset(stream: trio.SocketStream) -> None:
    """Close a socket so that it sends RST."""
    reset_when_closed(stream)
    stream.socket.close()


def unsent(stream: Any) -> int:
    """How much ciphertext waits to be sent in a stream and those that carry it, in bytes."""
    count = 0
    while isinstance(stream, TLSStream):
        count += stream.connection.bytes_to_send
        stream = stream.transport_stream
    return count


async def cancelled_send(stream: TLSStream[Any], payload: bytes) -> bytes:
    """Send until the transport takes no more, and cancel that. Return what was committed, of which
    some is unsent.
    """
    before = stream.bytes_committed
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.send_all, payload)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    committed = stream.bytes_committed - before
    assert 0 < committed < len(payload)
    assert unsent(stream)
    return payload[:committed]


def wrap_pair(
    client_transport: Any,
    server_transport: Any,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    **options: Any,
) -> tuple[TLSStream[Any], TLSStream[Any]]:
    """Put TLS over two transports. ``options`` go to both streams."""
    return tls_stream_pair(
        (client_transport, server_transport),
        client_context,
        server_context,
        server_hostname=NAME,
        **options,
    )


both_handshakes = do_handshakes
