"""Peers that are not built on the library, and awkward transports."""

from __future__ import annotations

import os
import re
import select
import signal
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import Any, NoReturn

import trio
import trustme
from OpenSSL import SSL

from trio_tlsbio import TLSStream


class Untouchable(trio.abc.Stream):
    """A transport that must not be used."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> NoReturn:
        raise AssertionError("the transport was sent to")

    async def wait_send_all_might_not_block(self) -> None:
        raise AssertionError("the transport was waited for")

    async def receive_some(self, max_bytes: int | None = None) -> NoReturn:
        raise AssertionError("the transport was received from")

    async def aclose(self) -> None:
        raise AssertionError("the transport was closed")


def clog(stream: TLSStream[Any]) -> None:
    """Send until the socket below takes no more. The handshake must be done."""
    transport = stream.transport_stream
    while isinstance(transport, TLSStream):
        transport = transport.transport_stream
    # A socket may count as not writable while it still takes a little.
    while stream.send_nowait(bytes(16384)) or select.select([], [transport.socket], [], 0)[1]:
        pass


################################################################
# Blocking ssl, in a thread
################################################################


def _echo(sock: ssl.SSLSocket) -> None:
    while data := sock.recv(4096):
        sock.sendall(data)
    # The client may have gone without waiting for our close_notify.
    with suppress(BrokenPipeError, ConnectionResetError):
        sock.unwrap()


@asynccontextmanager
async def blocking_echo_server(
    context: ssl.SSLContext, *, error: str | None = None
) -> AsyncIterator[trio.SocketStream]:
    """A transport to an echo server that uses blocking ``ssl``.

    ``error`` is a regular expression for the error that it ends with, if that is expected.
    """
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)
    errors: list[Exception] = []

    def serve() -> None:
        try:
            with (
                theirs,
                context.wrap_socket(theirs, server_side=True, suppress_ragged_eofs=False) as tls,
            ):
                _echo(tls)
        except Exception as exc:
            errors.append(exc)

    stream = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, serve)
        try:
            yield stream
        finally:
            await trio.aclose_forcefully(stream)  # which ends the thread
    if error is None:
        assert not errors, errors
    else:
        assert len(errors) == 1, "the server has not failed"
        assert re.search(error, str(errors[0])), errors


################################################################
# PyOpenSSL, which can renegotiate, in memory
################################################################


async def _no_delay(method: str) -> None:
    pass


class RenegotiatingEcho(trio.abc.Stream):
    """A transport that is a TLS 1.2 echo server itself: what goes in comes back.

    The server decrypts as it is sent to. It encrypts, a byte a record, only when it is received
    from; so a renegotiation spreads over many calls of both directions. ``delay`` is awaited with
    the name of the method, wherever a network could take its time.
    """

    def __init__(
        self,
        cert: trustme.LeafCert,
        delay: Callable[[str], Awaitable[None]] = _no_delay,
    ) -> None:
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)  # the last that renegotiates
        cert.configure_cert(context)
        self._server = SSL.Connection(context, None)
        self._server.set_accept_state()
        self._to_echo = bytearray()
        self._sent_to = trio.lowlevel.ParkingLot()
        self._busy: set[str] = set()
        self.delay = delay

    def renegotiate(self) -> None:
        """Ask the client for a new handshake."""
        assert self._server.renegotiate()

    @property
    def is_renegotiating(self) -> bool:
        return bool(self._server.renegotiate_pending())

    @property
    def renegotiations(self) -> int:
        return self._server.total_renegotiations()

    @contextmanager
    def _alone(self, direction: str) -> Iterator[None]:
        if direction in self._busy:
            raise trio.BusyResourceError(f"the transport is used by two tasks for {direction}")
        self._busy.add(direction)
        try:
            yield
        finally:
            self._busy.remove(direction)

    async def wait_send_all_might_not_block(self) -> None:
        with self._alone("sending"):
            await trio.lowlevel.checkpoint()
            await self.delay("wait_send_all_might_not_block")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._alone("sending"):
            await trio.lowlevel.checkpoint()
            await self.delay("send_all")
            self._server.bio_write(bytes(data))
            with suppress(SSL.WantReadError):
                try:
                    while True:
                        self._to_echo += self._server.recv(1)
                        await self.delay("send_all")
                except SSL.ZeroReturnError:
                    self._server.shutdown()
            self._sent_to.unpark_all()
            await self.delay("send_all")

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        with self._alone("receiving"):
            await trio.lowlevel.checkpoint()
            await self.delay("receive_some")
            while (data := self._encrypt(max_bytes or 65536)) is None:
                await self._sent_to.park()
            await self.delay("receive_some")
            return data

    def _encrypt(self, max_bytes: int) -> bytes | None:
        for _ in range(2):
            with suppress(SSL.WantReadError):
                return self._server.bio_read(max_bytes)
            if self._to_echo:
                with suppress(SSL.WantReadError):  # it renegotiates, and keeps the byte for later
                    self._server.send(bytes(self._to_echo[:1]))
                    del self._to_echo[:1]
        return None

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
        self._server.bio_shutdown()


################################################################
# A TLS server on a child process's standard input and output
################################################################

# It answers in capitals; after the client's close_notify it says b"BYE", and closes its own side.
# Arguments: a PEM file with key and certificate.
PIPE_SERVER = """
import os, ssl, sys

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
tls = context.wrap_bio(incoming, outgoing, server_side=True)

def flush():
    data = outgoing.read()
    while data:
        data = data[os.write(1, data):]

def run(step, *args):
    while True:
        try:
            return step(*args)
        except ssl.SSLWantReadError:
            flush()
            incoming.write(os.read(0, 65536) or sys.exit("truncated"))
        finally:
            flush()

run(tls.do_handshake)
while data := run(tls.read, 65536):
    run(tls.write, data.upper())
run(tls.write, b"BYE")
run(tls.unwrap)
"""


@asynccontextmanager
async def running(*argv: Any, **options: Any) -> AsyncIterator[trio.Process]:
    """A program that runs, and is killed at the end if it has not ended by itself.

    With ``start_new_session`` all processes that it has started itself go with it.
    """
    process = await trio.lowlevel.open_process([str(arg) for arg in argv], **options)
    try:
        yield process
    finally:
        with suppress(ProcessLookupError):
            if options.get("start_new_session"):
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        with trio.CancelScope(shield=True):
            await process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    await pipe.aclose()
