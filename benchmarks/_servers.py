"""The implementations, each with its server part: it echoes what it receives, until the end."""

from __future__ import annotations

import selectors
import socket
import ssl
from contextlib import suppress
from typing import Any

import trio
from _common import Implementation

import trio_tlsbio


async def echo(stream: trio.abc.Stream) -> None:
    """The handler of all servers on Trio."""
    async with stream:  # trio.serve_listeners() would close without a close_notify
        async for data in stream:
            await stream.send_all(data)


def listen_by_trio(listener: socket.socket) -> trio.SocketListener:
    """Make a listener of a socket that is bound."""
    return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


class Ours(Implementation):
    """TLSStream, served by serve_tls_listeners()."""

    name = "trio_tlsbio"

    @staticmethod
    def serve(context: ssl.SSLContext, listener: socket.socket) -> None:
        async def main() -> None:
            listeners = [trio_tlsbio.TLSListener(listen_by_trio(listener), context)]
            await trio_tlsbio.serve_tls_listeners(echo, listeners)

        trio.run(main)


class TrioSSL(Implementation):
    """trio.SSLStream, served by trio.serve_listeners()."""

    name = "trio.SSLStream"

    @staticmethod
    def serve(context: ssl.SSLContext, listener: socket.socket) -> None:
        async def main() -> None:
            listeners: Any = [trio.SSLListener(listen_by_trio(listener), context)]
            await trio.serve_listeners(echo, listeners)

        trio.run(main)


class TrioPlain(Implementation):
    """trio.SocketStream without TLS: what Trio's tasks and sockets take."""

    name = "trio.SocketStream"
    is_encrypted = False

    @staticmethod
    def serve(context: ssl.SSLContext, listener: socket.socket) -> None:
        async def main() -> None:
            await trio.serve_listeners(echo, [listen_by_trio(listener)])

        trio.run(main)


class Blocking(Implementation):
    """ssl.SSLSocket, blocking, one connection after the other."""

    name = "blocking ssl"

    @staticmethod
    def serve(context: ssl.SSLContext, listener: socket.socket) -> None:
        listener.setblocking(True)
        while True:
            raw, _ = listener.accept()
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(raw, server_side=True) as sock:
                while data := sock.recv(16 * 1024):
                    sock.sendall(data)
                sock.unwrap()


class BareSSL(Implementation):
    """ssl.SSLObject with two MemoryBIOs and a socket, and no event loop: what TLS itself takes."""

    name = "ssl.SSLObject"

    @staticmethod
    def serve(context: ssl.SSLContext, listener: socket.socket) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(listener, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        sock, _ = listener.accept()
                        connection = _BareConnection(context, sock)
                        selector.register(sock, selectors.EVENT_READ, connection)
                    elif not key.data.receive():
                        selector.unregister(key.fileobj)
                        key.data.sock.close()


class _BareConnection:
    __slots__ = ("incoming", "is_established", "outgoing", "sock", "tls")

    def __init__(self, context: ssl.SSLContext, sock: socket.socket) -> None:
        sock.settimeout(10)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sock = sock
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(self.incoming, self.outgoing, server_side=True)
        self.is_established = False

    def receive(self) -> bool:
        """Receive what is there and answer it. False at the end."""
        data = self.sock.recv(16 * 1024)
        self.incoming.write(data)
        is_open = bool(data)
        with suppress(ssl.SSLWantReadError):
            if not self.is_established:
                self.tls.do_handshake()
                self.is_established = True
            while chunk := self.tls.read(16 * 1024):
                self.tls.write(chunk)
                self.flush()
            is_open = False
            self.tls.unwrap()
        self.flush()
        return is_open

    def flush(self) -> None:
        self.sock.sendall(self.outgoing.read())
