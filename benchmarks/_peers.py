"""The implementations, each with what the workloads need of it: connect, serve, send, receive."""

from __future__ import annotations

import asyncio
import gc
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import anyio
import anyio.abc
import anyio.streams.tls
import trio
from _processes import HOST

import trio_tlsbio

RECORD_BYTES = 16 * 1024
"""What OpenSSL returns at most at once."""


@dataclass(frozen=True, slots=True)
class Channel:
    """A connection. ``receive`` returns nothing at the end; ``tls`` knows the session."""

    receive: Callable[[], Awaitable[bytes | bytearray]]
    send: Callable[[bytes], Awaitable[object]]
    close: Callable[[], Awaitable[object]]
    tls: Any


Handler = Callable[[Channel], Awaitable[None]]


class Implementation(ABC):
    """What is set beside others."""

    name: ClassVar[str]
    backend: ClassVar[str] = "trio"
    backend_options: ClassVar[dict[str, object]] = {}
    is_encrypted: ClassVar[bool] = True
    #: Where its processes import from first, if that is not where this one does.
    path: ClassVar[Path | None] = None

    @classmethod
    def run(cls, main: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
        """Run an async function in a new event loop."""
        return anyio.run(main, *arguments, backend=cls.backend, backend_options=cls.backend_options)

    @classmethod
    @abstractmethod
    async def connect(cls, context: ssl.SSLContext, port: int, session: Any = None) -> Channel:
        """Open a connection and shake hands."""

    @classmethod
    @abstractmethod
    async def serve(
        cls, context: ssl.SSLContext, listener: socket.socket, handler: Handler
    ) -> None:
        """Serve until the process ends. ``listener`` does not block."""


################################################################
# On Trio
################################################################


class BareStream:
    """ssl.SSLObject with two MemoryBIOs over a stream: the shortest loop that works."""

    def __init__(
        self,
        tcp: trio.SocketStream,
        context: ssl.SSLContext,
        *,
        session: ssl.SSLSession | None = None,
        server_side: bool = False,
        server_hostname: str | None = None,
    ) -> None:
        self.tcp = tcp
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming, self.outgoing, server_side, server_hostname, session
        )

    @property
    def session(self) -> ssl.SSLSession | None:
        """What to resume with."""
        return self.tls.session

    @property
    def session_reused(self) -> bool | None:
        """Whether it is resumed."""
        return self.tls.session_reused

    async def do_handshake(self) -> None:
        """Shake hands."""
        is_done = False
        while not is_done:
            try:
                self.tls.do_handshake()
                is_done = True
            except ssl.SSLWantReadError:
                pass
            if self.outgoing.pending:
                await self.tcp.send_all(self.outgoing.read())
            if not is_done:
                data = await self.tcp.receive_some()
                assert data, "the peer has gone"
                self.incoming.write(data)

    async def send_all(self, data: bytes) -> None:
        """Encrypt and send."""
        self.tls.write(data)
        await self.tcp.send_all(self.outgoing.read())

    async def receive_some(self) -> bytes:
        """Receive and decrypt."""
        while True:
            try:
                return self.tls.read(RECORD_BYTES)
            except ssl.SSLWantReadError:
                if not (data := await self.tcp.receive_some()):
                    return b""
                self.incoming.write(data)

    async def aclose(self) -> None:
        """Say so and close."""
        with suppress(ssl.SSLWantReadError):
            self.tls.unwrap()
        with suppress(trio.BrokenResourceError):
            await self.tcp.send_all(self.outgoing.read())
        await self.tcp.aclose()


class OnTrio(Implementation):
    """Any stream of Trio's kind."""

    @classmethod
    def wrap(
        cls, tcp: trio.SocketStream, context: ssl.SSLContext, session: Any, **options: Any
    ) -> Any:
        """Return a stream over TCP."""
        raise NotImplementedError

    @classmethod
    async def _start(cls, tcp: trio.SocketStream, *arguments: Any, **options: Any) -> Channel:
        stream = cls.wrap(tcp, *arguments, **options)
        if cls.is_encrypted:
            await stream.do_handshake()
        return Channel(stream.receive_some, stream.send_all, stream.aclose, stream)

    @classmethod
    async def connect(cls, context: ssl.SSLContext, port: int, session: Any = None) -> Channel:
        tcp = await trio.open_tcp_stream(HOST, port)
        return await cls._start(tcp, context, session, server_hostname=HOST)

    @classmethod
    async def serve(
        cls, context: ssl.SSLContext, listener: socket.socket, handler: Handler
    ) -> None:
        async def handle(tcp: trio.SocketStream) -> None:
            await handler(await cls._start(tcp, context, None, server_side=True))

        await trio.serve_listeners(handle, [cls.listen(listener)])

    @staticmethod
    def listen(listener: socket.socket) -> trio.SocketListener:
        """Make a listener of a socket that is bound."""
        return trio.SocketListener(trio.socket.from_stdlib_socket(listener))


class Ours(OnTrio):
    """TLSStream, and for servers what the library offers."""

    name = "trio_tlsbio"

    @classmethod
    def wrap(
        cls, tcp: trio.SocketStream, context: ssl.SSLContext, session: Any, **options: Any
    ) -> Any:
        return trio_tlsbio.TLSStream(tcp, context, session=session, **options)

    @classmethod
    async def serve(
        cls, context: ssl.SSLContext, listener: socket.socket, handler: Handler
    ) -> None:
        listeners = [trio_tlsbio.TLSListener(cls.listen(listener), context)]
        await trio_tlsbio.serve_tls_listeners(partial(cls.handle, handler=handler), listeners)

    @classmethod
    async def handle(cls, stream: trio_tlsbio.TLSStream[Any], handler: Handler) -> None:
        """Serve one connection."""
        await handler(Channel(stream.receive_some, stream.send_all, stream.aclose, stream))


class OursBefore(Ours):
    """TLSStream as another checkout has it: see the option ``--against``."""

    name = "before"


class _Buffering(OnTrio):
    """Without the TCP_NOTSENT_LOWAT of a trio.SocketStream, as with all that don't use one: so the
    system buffers megabytes of what is sent.
    """

    @classmethod
    async def _start(cls, tcp: trio.SocketStream, *arguments: Any, **options: Any) -> Channel:
        lift_send_limit(tcp)
        return await super()._start(tcp, *arguments, **options)


def lift_send_limit(tcp: trio.SocketStream) -> None:
    """Set it to 0, which stands for the system's default: no limit."""
    with suppress(AttributeError, OSError):  # not every system has it
        tcp.setsockopt(socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT, 0)


class BufferingOurs(_Buffering, Ours):
    """trio_tlsbio.TLSStream, likewise."""

    name = "trio_tlsbio, buffering"

    @classmethod
    async def handle(cls, stream: trio_tlsbio.TLSStream[Any], handler: Handler) -> None:
        lift_send_limit(stream.transport_stream)
        await super().handle(stream, handler)


class _CollectingLess(OnTrio):
    """With a server that lets Python's garbage collector wait for more than 700 new objects: a
    thousand connections have more in each pass through Trio's loop.
    """

    @classmethod
    async def serve(
        cls, context: ssl.SSLContext, listener: socket.socket, handler: Handler
    ) -> None:
        gc.set_threshold(50_000, 20, 20)
        await super().serve(context, listener, handler)


class CollectingLessOurs(_CollectingLess, Ours):
    """trio_tlsbio.TLSStream, likewise."""

    name = "trio_tlsbio, less GC"


class TrioSSL(OnTrio):
    """trio.SSLStream."""

    name = "trio.SSLStream"

    @classmethod
    def wrap(
        cls, tcp: trio.SocketStream, context: ssl.SSLContext, session: Any, **options: Any
    ) -> Any:
        stream: Any = trio.SSLStream(tcp, context, **options)
        if session is not None:
            stream.session = session
        return stream


class BufferingTrioSSL(_Buffering, TrioSSL):
    """trio.SSLStream, likewise."""

    name = "trio.SSLStream, buffering"


class BareOnTrio(OnTrio):
    """The floor for TLS on Trio."""

    name = "bare SSLObject on Trio"

    @classmethod
    def wrap(
        cls, tcp: trio.SocketStream, context: ssl.SSLContext, session: Any, **options: Any
    ) -> Any:
        return BareStream(tcp, context, session=session, **options)


class TrioPlain(OnTrio):
    """trio.SocketStream without TLS: what Trio's tasks and sockets take."""

    name = "plaintext Trio"
    is_encrypted = False

    @classmethod
    def wrap(
        cls, tcp: trio.SocketStream, context: ssl.SSLContext, session: Any, **options: Any
    ) -> Any:
        return tcp


class CollectingLessTrioPlain(_CollectingLess, TrioPlain):
    """trio.SocketStream, likewise."""

    name = "plaintext Trio, less GC"


################################################################
# Others
################################################################


class AnyIO(Implementation):
    """anyio's TLSStream, on Trio."""

    name = "anyio on Trio"

    @classmethod
    async def connect(cls, context: ssl.SSLContext, port: int, session: Any = None) -> Channel:
        tls = await anyio.connect_tcp(HOST, port, ssl_context=context, tls_hostname=HOST)
        return Channel(tls.receive, tls.send, tls.aclose, None)

    @classmethod
    async def serve(
        cls, context: ssl.SSLContext, listener: socket.socket, handler: Handler
    ) -> None:
        async def handle(tcp: anyio.abc.SocketStream) -> None:
            tls = await anyio.streams.tls.TLSStream.wrap(tcp, server_side=True, ssl_context=context)
            with suppress(anyio.EndOfStream):
                await handler(Channel(tls.receive, tls.send, tls.aclose, None))
            await tls.aclose()

        await (await anyio.abc.SocketListener.from_socket(listener)).serve(handle)


class AnyIOAsyncio(AnyIO):
    """anyio's TLSStream, on asyncio."""

    name = "anyio on asyncio"
    backend = "asyncio"


class Asyncio(Implementation):
    """asyncio's streams."""

    name = "asyncio"
    backend = "asyncio"

    @staticmethod
    def _channel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Channel:
        async def send(data: bytes) -> None:
            writer.write(data)
            await writer.drain()

        async def close() -> None:
            writer.close()
            await writer.wait_closed()

        return Channel(partial(reader.read, 64 * 1024), send, close, None)

    @classmethod
    async def connect(cls, context: ssl.SSLContext, port: int, session: Any = None) -> Channel:
        return cls._channel(
            *await asyncio.open_connection(HOST, port, ssl=context, server_hostname=HOST)
        )

    @classmethod
    async def serve(
        cls, context: ssl.SSLContext, listener: socket.socket, handler: Handler
    ) -> None:
        async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await handler(cls._channel(reader, writer))

        server = await asyncio.start_server(handle, sock=listener, ssl=context)
        await server.serve_forever()


class UVLoop(Asyncio):
    """asyncio's streams on uvloop."""

    name = "uvloop"
    backend_options: ClassVar[dict[str, object]] = {"use_uvloop": True}


class Blocking(Implementation):
    """ssl.SSLSocket, blocking, with a thread for each connection. No coroutine ever waits."""

    name = "blocking ssl"

    @classmethod
    def run(cls, main: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
        try:
            main(*arguments).__await__().send(None)
        except StopIteration as stop:
            return stop.value
        raise AssertionError("it has waited, where nothing waits")

    @staticmethod
    def _channel(sock: socket.socket) -> Channel:
        async def receive() -> bytes:
            return sock.recv(RECORD_BYTES)

        async def send(data: bytes) -> None:
            sock.sendall(data)

        async def close() -> None:
            with suppress(OSError):  # the peer may have gone
                if isinstance(sock, ssl.SSLSocket):
                    sock.unwrap()
            sock.close()

        return Channel(receive, send, close, sock)

    @classmethod
    async def connect(
        cls, context: ssl.SSLContext | None, port: int, session: Any = None
    ) -> Channel:
        """Also without TLS, if there is no context."""
        sock = socket.create_connection((HOST, port))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if context is not None:
            sock = context.wrap_socket(sock, server_hostname=HOST, session=session)
        return cls._channel(sock)

    @classmethod
    async def serve(
        cls, context: ssl.SSLContext, listener: socket.socket, handler: Handler
    ) -> None:
        def handle(sock: socket.socket) -> None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            cls.run(handler, cls._channel(context.wrap_socket(sock, server_side=True)))

        listener.setblocking(True)
        while True:
            sock, _ = listener.accept()
            threading.Thread(target=handle, args=(sock,), daemon=True).start()


ON_TRIO: tuple[type[Implementation], ...] = (Ours, TrioSSL, BareOnTrio, TrioPlain)
RESUMING: tuple[type[Implementation], ...] = (Ours, TrioSSL, BareOnTrio, Blocking)
ASYNC: tuple[type[Implementation], ...] = (Ours, TrioSSL, AnyIO, AnyIOAsyncio, Asyncio, UVLoop)
ALL: tuple[type[Implementation], ...] = (*ASYNC, Blocking, BareOnTrio, TrioPlain)
MANY: tuple[type[Implementation], ...] = (*ON_TRIO, CollectingLessOurs, CollectingLessTrioPlain)
BULK: tuple[type[Implementation], ...] = (*ALL, BufferingOurs, BufferingTrioSSL)
