"""Clients that are not ours with our server."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import TypeAlias

import attrs
import pytest
import trio
import trustme

from tests.helpers import LIMIT, NAME, server_context_for
from trio_tlsbio import (
    ClientHello,
    HandshakeInfo,
    TLSError,
    TLSListener,
    TLSStream,
    TruncationError,
    contexts_by_name,
    serve_tls_over_tcp,
)
from trio_tlsbio.monitoring import HandshakeCompleted, HandshakeFailed, ServerEvent, ServerMonitor

from .harness import (
    ALPN_TAKEN,
    CLIENT,
    OTHER_NAME,
    Aspect,
    Case,
    Client,
    ClientTerms,
    Files,
    Program,
    Side,
    until_all_is_read,
)
from .hellos import check, recorded
from .stacks import with_each

TCPTLSStream: TypeAlias = TLSStream[trio.SocketStream]


@attrs.define(eq=False)
class Connection:
    """What our server saw of a connection."""

    handshake: HandshakeInfo
    transport: trio.SocketStream
    has_ended: trio.Event = attrs.field(factory=trio.Event)
    error: TLSError | None = None
    """Why it ended, unless that was the client's close_notify."""


@attrs.define(eq=False)
class OurServer:
    """Our server, and what it has seen."""

    client: Client
    is_silent: bool
    answers_at_the_end: bool
    port: int = 0
    connections: list[Connection] = attrs.field(factory=list)
    handshakes: list[HandshakeInfo] = attrs.field(factory=list)
    """What has been agreed on, also with clients that ended without a question."""

    refused: list[Exception] = attrs.field(factory=list)
    """Why handshakes have failed."""

    has_refused: trio.Event = attrs.field(factory=trio.Event)
    _more: trio.Condition = attrs.field(factory=trio.Condition)

    async def handle(self, stream: TCPTLSStream) -> None:
        """Answer the question, and see how the client ends."""
        connection = Connection(stream.handshake, stream.transport_stream)
        try:
            question = b""
            while self.client.speech.end not in question:
                part = await stream.receive_some()
                if not part:
                    return  # it only wanted a session
                question += part
            self.connections.append(connection)
            async with self._more:
                self._more.notify_all()
            if not self.is_silent and not self.answers_at_the_end:
                await stream.send_all(self.client.speech.answer)
                if self.client.waits_for_our_end:
                    await stream.send_eof()
            async for _ in stream:
                pass
            if self.answers_at_the_end:
                await stream.send_all(self.client.speech.answer)
            await stream.aclose()
        except TLSError as exc:
            connection.error = exc
        finally:
            connection.has_ended.set()

    async def connection(self, number: int) -> Connection:
        """Wait until a client has asked, and tell what there is to know of its connection."""
        async with self._more:
            while len(self.connections) <= number:
                await self._more.wait()
        return self.connections[number]

    def happened(self, event: ServerEvent) -> None:
        match event:
            case HandshakeCompleted():
                self.handshakes.append(event.handshake)
            case HandshakeFailed():
                self.refused.append(event.error)
                # A browser that is asked for a certificate hangs up first, to ask its user.
                if not isinstance(event.error, TruncationError):
                    self.has_refused.set()


@asynccontextmanager
async def serving(
    case: Case,
    context: ssl.SSLContext | Callable[[ClientHello], ssl.SSLContext | Awaitable[ssl.SSLContext]],
    *,
    is_silent: bool = False,
    answers_at_the_end: bool = False,
) -> AsyncIterator[OurServer]:
    server = OurServer(case.client, is_silent, answers_at_the_end)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            serve = partial(
                serve_tls_over_tcp,
                host="127.0.0.1",
                monitor=ServerMonitor(on_event=server.happened),
            )
            listeners: list[TLSListener[trio.SocketStream]] = await nursery.start(
                serve, server.handle, 0, context
            )
            transport_listener = listeners[0].transport_listener
            assert isinstance(transport_listener, trio.SocketListener)
            server.port = transport_listener.socket.getsockname()[1]
            yield server
            nursery.cancel_scope.cancel()


@pytest.fixture(autouse=True)
def hellos(case: Case, server_cert: trustme.LeafCert) -> Iterator[None]:
    """Every ClientHello that comes is read as OpenSSL reads it, in whatever pieces it comes."""
    with recorded() as flights:
        yield
    assert flights
    for flight in set(flights):
        check(flight, server_cert)


@pytest.fixture
def context(server_cert: trustme.LeafCert, case: Case) -> ssl.SSLContext:
    """Our server's context."""
    return server_context_for(server_cert, case.version)


@asynccontextmanager
async def asking(
    case: Case, files: Files, server: OurServer, **options: object
) -> AsyncIterator[Program]:
    """Their client, which asks, gets its answer and ends as it likes to."""
    terms = ClientTerms(version=case.version, files=files, port=server.port, **options)  # type: ignore[arg-type]
    async with case.client.run(terms) as client:
        yield client
        await client.output.wait_for(case.client.speech.word)
        await client.end()
        for connection in server.connections:
            await connection.has_ended.wait()
        await client.output.wait_for(case.word)


@with_each(Side.CLIENT, Aspect.FULL)
async def test_full_handshake(case: Case, files: Files, context: ssl.SSLContext) -> None:
    async with serving(case, context) as server, asking(case, files, server):
        handshake = (await server.connection(0)).handshake
        assert handshake.version == case.version.name.replace("_", ".")
        assert not handshake.session_reused
        assert not server.refused


@with_each(Side.CLIENT, Aspect.RESUMED)
async def test_resumed_handshake(case: Case, files: Files, context: ssl.SSLContext) -> None:
    async with serving(case, context) as server:
        async with asking(case, files, server, resumes=True):
            pass
        assert [handshake.session_reused for handshake in server.handshakes] == [False, True]


@with_each(Side.CLIENT, Aspect.CLIENT_CERTIFICATE)
async def test_client_certificate(
    ca: trustme.CA, case: Case, files: Files, context: ssl.SSLContext
) -> None:
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    async with serving(case, context) as server:
        terms = ClientTerms(version=case.version, files=files, port=server.port)
        async with case.client.run(terms):
            await server.has_refused.wait()
        assert "sent no client certificate" in str(server.refused[-1])
        async with asking(case, files, server, has_certificate=True):
            assert (await server.connection(0)).handshake.certificate_names == (CLIENT,)


@with_each(Side.CLIENT, Aspect.ALPN)
async def test_alpn(case: Case, files: Files, context: ssl.SSLContext) -> None:
    context.set_alpn_protocols([ALPN_TAKEN])
    async with serving(case, context) as server, asking(case, files, server):
        assert (await server.connection(0)).handshake.alpn_protocol == ALPN_TAKEN


@with_each(Side.CLIENT, Aspect.SNI)
async def test_certificate_by_name(
    other_cert: trustme.LeafCert, case: Case, files: Files, context: ssl.SSLContext
) -> None:
    other_context = server_context_for(other_cert, case.version)
    by_name = contexts_by_name({NAME: context, OTHER_NAME: other_context})
    async with serving(case, by_name) as server:
        for number, name in enumerate((NAME, OTHER_NAME)):
            async with asking(case, files, server, name=name):
                assert (await server.connection(number)).handshake.server_hostname == name


@with_each(Side.CLIENT, Aspect.HALF_CLOSE)
async def test_answer_after_their_close_notify(
    case: Case, files: Files, context: ssl.SSLContext
) -> None:
    async with serving(case, context, answers_at_the_end=True) as server:
        async with asking(case, files, server, ends_first=True):
            await (await server.connection(0)).has_ended.wait()
        assert server.connections[0].error is None


@with_each(Side.CLIENT, Aspect.TRUNCATION)
async def test_truncation_and_clean_close(
    case: Case, files: Files, context: ssl.SSLContext
) -> None:
    async with serving(case, context) as server:
        async with asking(case, files, server):
            pass
        assert server.connections[0].error is None
    async with serving(case, context, is_silent=True) as server:
        terms = ClientTerms(version=case.version, files=files, port=server.port)
        async with case.client.run(terms) as client:
            connection = await server.connection(0)
            await until_all_is_read(connection.transport)
            client.kill()
            await connection.has_ended.wait()
        assert isinstance(connection.error, TruncationError)
