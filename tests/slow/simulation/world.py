"""Where a case takes place: two ends of a TLS connection, and the transport between them."""

from __future__ import annotations

import functools
import random
import socket
import ssl
import weakref
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from typing import Any, TypeAlias

import attrs
import trio
import trustme
from OpenSSL import SSL
from trio.testing import wait_all_tasks_blocked

from tests.helpers import (
    NAME,
    VERSIONS,
    both_handshakes,
    client_context_for,
    reset,
    server_context_for,
)
from trio_tlsbio import PumpedStream, TLSError, TLSStream, open_pump

from .wires import MemoryStream, SocketLikeStream, Wire, memory_pair

TRANSPORTS = ("memory", "nested", "pump", "plain", "sockets", "nested sockets")
SIDES = ("client", "server")

CLOSE_TIMEOUT = 5.0

_BUFFER_BYTES = 8192  # of a socket; the system may take more
_LEAST_PUMPED = 4096  # in the buffer of a pump

# What is sent, by its position, so that a lost, repeated or exchanged byte shows.
_TEXT = random.Random(1).randbytes(8 * 1024 * 1024)

# SSL_OP_ALLOW_CLIENT_RENEGOTIATION, for which Python has no name: see SSL_CTX_set_options(3).
_ALLOW_CLIENT_RENEGOTIATION = 1 << 8

Contexts: TypeAlias = tuple[ssl.SSLContext, ssl.SSLContext]


@functools.cache
def certificate() -> tuple[trustme.CA, trustme.LeafCert]:
    """An authority and a server's certificate for all cases."""
    ca = trustme.CA()
    return ca, ca.issue_cert(NAME)


@functools.cache
def contexts(version: str) -> Contexts:
    """The contexts of all clients and servers that speak one version."""
    ca, cert = certificate()
    client = client_context_for(ca, VERSIONS[version])
    server = server_context_for(cert, VERSIONS[version])
    server.options |= _ALLOW_CLIENT_RENEGOTIATION
    if version == "tls13":
        client.post_handshake_auth = server.post_handshake_auth = True
        server.verify_mode = ssl.CERT_OPTIONAL
    return client, server


################################################################
# One end
################################################################


def name_of(exc: BaseException) -> str:
    """Name an exception for the report. The object itself would keep its frames alive."""
    return f"{type(exc).__name__}: {exc}"


@attrs.define(eq=False)
class Ledger:
    """What one end has committed and received, in plaintext, and how the peer's data ended."""

    sent: bytearray = attrs.field(factory=bytearray, repr=False)
    received: bytearray = attrs.field(factory=bytearray, repr=False)
    #: Whether the latest send was cut in its middle. None where it can be seen in two ways: nothing
    #: of the latest send was committed, or all of it, and then it was interrupted.
    is_cut: bool | None = False
    #: Whether the caller has ended the direction itself, by send_eof() or unwrap().
    said_end: bool = False
    #: How receiving ended: ``"clean"``, or the error by name.
    end: str | None = None
    #: How each call that received no more data ended, in order.
    ends: list[str] = attrs.field(factory=list)
    #: How many seconds closing took.
    close_seconds: float | None = None


class ClosingEnd:
    """What both kinds of ends have in common."""

    ledger: Ledger

    async def read_to_end(self) -> None:
        raise NotImplementedError

    async def aclose(self) -> None:
        raise NotImplementedError

    async def read_and_close(self) -> None:
        """Behave as a cooperative peer."""
        await self.read_to_end()
        await self.timed_close()

    async def timed_close(self) -> None:
        start = trio.current_time()
        with suppress(TLSError):
            await self.aclose()
        self.ledger.close_seconds = trio.current_time() - start


@attrs.define(eq=False)
class End(ClosingEnd):
    """A TLSStream under test, which accounts for what it sends and receives."""

    stream: TLSStream[Any]
    ledger: Ledger = attrs.field(factory=Ledger)

    def next_data(self, count: int) -> bytes:
        start = len(self.ledger.sent)
        return _TEXT[start : start + count]

    async def send_all(self, count: int) -> None:
        data, before = self.next_data(count), self.stream.bytes_committed
        try:
            await self.stream.send_all(data)
        except trio.BusyResourceError:
            raise  # it has not begun
        except BaseException:
            self._account(data, before)
            if self.ledger.is_cut is False:
                self.ledger.is_cut = None
            raise
        self._account(data, before)

    def send_nowait(self, count: int) -> int:
        data, before = self.next_data(count), self.stream.bytes_committed
        taken = self.stream.send_nowait(data)
        self._account(data[:taken], before)
        return taken

    def _account(self, data: bytes, before: int) -> None:
        ledger = self.ledger
        taken = self.stream.bytes_committed - before
        ledger.sent += data[:taken]
        if taken:
            ledger.is_cut = taken < len(data)
        elif not data:
            ledger.is_cut = ledger.is_cut and None

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        try:
            part = await self.stream.receive_some(max_bytes)
        except TLSError as exc:
            self._ended(name_of(exc))
            raise
        self._received(part)
        return part

    def receive_nowait(self) -> bytes | None:
        try:
            part = self.stream.receive_nowait()
        except TLSError as exc:
            self._ended(name_of(exc))
            raise
        if part is not None:
            self._received(part)
        return part

    def _received(self, part: bytes) -> None:
        self.ledger.received += part
        if not part:
            self._ended("clean")

    def _ended(self, how: str) -> None:
        self.ledger.end = self.ledger.end or how
        self.ledger.ends.append(how)

    async def send_eof(self) -> None:
        self.ledger.said_end = True
        await self.stream.send_eof()

    async def unwrap(self) -> None:
        self.ledger.said_end = True
        transport, _ = await self.stream.unwrap()
        await transport.aclose()

    async def read_to_end(self) -> None:
        with suppress(TLSError, trio.ClosedResourceError):
            while await self.receive_some():
                pass

    async def aclose(self) -> None:
        await self.stream.aclose()


@attrs.define(eq=False)
class ForeignEnd(ClosingEnd):
    """An end of pyOpenSSL, which renegotiates (TLS 1.2, RFC 5246 section 7.4.1.1)."""

    transport: trio.abc.Stream
    _ssl: SSL.Connection
    ledger: Ledger = attrs.field(factory=Ledger)

    @classmethod
    def of(cls, transport: trio.abc.Stream, side: str) -> ForeignEnd:
        is_server = side == "server"
        context = SSL.Context(SSL.TLS_SERVER_METHOD if is_server else SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)  # the last that renegotiates
        if is_server:
            certificate()[1].configure_cert(context)
        connection = SSL.Connection(context, None)
        if is_server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        return cls(transport, connection)

    async def do_handshake(self) -> None:
        while True:
            try:
                self._ssl.do_handshake()
            except SSL.WantReadError:
                await self._flush()
                self._ssl.bio_write(bytes(await self.transport.receive_some()))
            else:
                await self._flush()
                return

    async def renegotiate(self) -> None:
        """Begin a new handshake, and don't go on with it."""
        self._ssl.renegotiate()
        with suppress(SSL.WantReadError):
            self._ssl.do_handshake()
        await self._flush()

    async def _flush(self) -> None:
        data = b""
        with suppress(SSL.WantReadError):
            while True:
                data += self._ssl.bio_read(65536)
        await self.transport.send_all(data)

    async def read_to_end(self) -> None:
        try:
            while True:
                try:
                    self.ledger.received += self._ssl.recv(16384)
                except SSL.WantReadError:
                    with suppress(trio.BrokenResourceError):  # there may be more to read
                        await self._flush()
                    data = bytes(await self.transport.receive_some())
                    if not data:
                        self.ledger.end = "TruncationError"
                        return
                    self._ssl.bio_write(data)
        except SSL.ZeroReturnError:
            self.ledger.end = "clean"
        except (SSL.Error, trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self.ledger.end = name_of(exc)

    async def aclose(self) -> None:
        try:
            self._ssl.shutdown()
            await self._flush()
        except (SSL.Error, trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            await self.transport.aclose()


################################################################
# Both ends
################################################################


@attrs.define(eq=False)
class World:
    """Two ends, what is between them, and a nursery for what goes on in the background."""

    transport: str
    capacity: int
    ours: End
    theirs: End | ForeignEnd
    #: The streams at the bottom: ours, theirs.
    bottoms: tuple[Any, Any]
    nursery: trio.Nursery
    _wires: tuple[Wire, ...]
    #: The objects that must be gone after the run.
    watched: list[weakref.ref[Any]]
    peer_has_reset: bool = False

    def narrow(self) -> None:
        """Let the wires hold as few bytes as the case says. Sockets are narrow from the start."""
        for wire in self._wires:
            wire.narrow(self.capacity)

    @property
    def is_in_memory(self) -> bool:
        return "sockets" not in self.transport

    async def establish(self) -> None:
        """Complete both handshakes."""
        if isinstance(self.theirs, End):
            await both_handshakes(self.ours.stream, self.theirs.stream)
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.ours.stream.do_handshake)
                nursery.start_soon(self.theirs.do_handshake)

    async def arrival(self) -> None:
        """Wait until what the peer has sent, or its end, is there for ours."""
        if self.is_in_memory:
            await wait_all_tasks_blocked()  # a pump takes a turn
        else:
            with trio.fail_after(5):
                await trio.lowlevel.wait_readable(self.bottoms[0].socket)

    def reset_by_peer(self) -> None:
        """Let the peer's system reset the connection."""
        self.peer_has_reset = True
        if self.is_in_memory:
            self.bottoms[1].reset()
        else:
            reset(self.bottoms[1])

    def is_open(self, end: End | ForeignEnd) -> bool:
        """Whether the transport at the bottom of an end is still open."""
        bottom = self.bottoms[end is not self.ours]
        if isinstance(bottom, MemoryStream):
            return not bottom.is_closed
        return bool(bottom.socket.fileno() >= 0)


async def until_blocked(operation: Callable[[], Awaitable[object]]) -> None:
    """Run an operation until it has to wait for the peer, and cancel it there."""

    async def run() -> None:
        with suppress(TLSError, trio.BusyResourceError, trio.ClosedResourceError):
            await operation()
        scope.cancel()

    async with trio.open_nursery() as nursery:
        scope = nursery.cancel_scope
        nursery.start_soon(run)
        await wait_all_tasks_blocked()
        scope.cancel()


@asynccontextmanager
async def open_world(
    transport: str,
    capacity: int,
    version: str,
    side: str,
    *,
    options: dict[str, Any],
    foreign: bool,
) -> AsyncGenerator[World, None]:
    """Make two ends. Ours is on ``side`` and gets the options. On leaving, both are closed."""
    wires: tuple[Wire, ...] = ()
    pair: tuple[Any, Any]
    if transport.endswith("sockets"):
        pair = _socket_pair()
    else:
        kind = SocketLikeStream if transport in {"memory", "nested"} else MemoryStream
        one, other, wires = memory_pair(kind)
        pair = one, other
    bottoms = pair
    watched: list[weakref.ref[Any]] = [weakref.ref(each) for each in bottoms]
    peer_side = SIDES[side == "client"]
    async with AsyncExitStack() as stack:
        if transport == "pump":
            room = max(capacity, _LEAST_PUMPED)
            pair = (
                await stack.enter_async_context(open_pump(pair[0], max_buffer=room)),
                await stack.enter_async_context(open_pump(pair[1], max_buffer=room)),
            )
            watched += map(weakref.ref, pair)
        if transport.startswith("nested"):
            pair = tls(pair[0], version, side), tls(pair[1], version, peer_side)
            watched += map(weakref.ref, pair)
            await both_handshakes(*pair)
        ours = End(tls(pair[0], version, side, **options))
        theirs: End | ForeignEnd
        if foreign:
            theirs = ForeignEnd.of(pair[1], peer_side)
        else:
            theirs = End(tls(pair[1], version, peer_side))
            watched += [weakref.ref(theirs.stream), weakref.ref(theirs.stream.connection)]
        watched += [weakref.ref(ours.stream), weakref.ref(ours.stream.connection)]
        assert ours.stream.is_cancel_safe is (transport != "plain")
        nursery = await stack.enter_async_context(trio.open_nursery())
        try:
            yield World(transport, capacity, ours, theirs, bottoms, nursery, wires, watched)
        finally:
            nursery.cancel_scope.cancel()
            for each in (*layers_of(ours.stream), *pair, *bottoms):
                await trio.aclose_forcefully(each)


def tls(transport: Any, version: str, side: str, **options: Any) -> TLSStream[Any]:
    """Put TLS over a transport."""
    is_server = side == "server"
    return TLSStream(
        transport,
        contexts(version)[is_server],
        server_side=is_server,
        server_hostname=None if is_server else NAME,
        close_timeout=CLOSE_TIMEOUT,
        **options,
    )


def _socket_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """A pair of TCP sockets over loopback whose buffers are small, from before they connect."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        one = socket.socket()
        for each in (listener, one):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER_BYTES)
            each.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER_BYTES)
        one.connect(listener.getsockname())
        other, _ = listener.accept()
    streams = [trio.SocketStream(trio.socket.from_stdlib_socket(each)) for each in (one, other)]
    return streams[0], streams[1]


def layers_of(stream: Any) -> Iterator[Any]:
    """A stream, and each one below it."""
    while stream is not None:
        yield stream
        stream = stream.transport_stream if isinstance(stream, TLSStream | PumpedStream) else None
