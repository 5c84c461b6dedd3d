"""Our client with servers that are not ours."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias

import pytest
import trio
import trustme

from tests.helpers import LIMIT, NAME, client_context_for
from trio_tlsbio import PeerAlertError, TLSSession, TLSStream, TruncationError

from .harness import (
    ALPN_OFFERED,
    ALPN_TAKEN,
    OTHER_NAME,
    Aspect,
    Case,
    Files,
    Program,
    ServerTerms,
    Side,
    until_all_is_read,
)
from .stacks import with_each

TCPTLSStream: TypeAlias = TLSStream[trio.SocketStream]


@pytest.fixture
def context(ca: trustme.CA, case: Case) -> ssl.SSLContext:
    """Our client's context."""
    return client_context_for(ca, case.version)


@asynccontextmanager
async def serving(
    case: Case, files: Files, *, asks_certificate: bool = False
) -> AsyncIterator[Program]:
    """Their server, which has at last said itself what was shown."""
    terms = ServerTerms(version=case.version, files=files, asks_certificate=asks_certificate)
    with trio.fail_after(LIMIT):
        async with case.server.run(terms) as server:
            yield server
            await server.output.wait_for(case.word)


@asynccontextmanager
async def connected(
    server: Program, context: ssl.SSLContext, *, name: str = NAME, session: TLSSession | None = None
) -> AsyncIterator[TCPTLSStream]:
    """Our client, after the handshake."""
    transport = await trio.open_tcp_stream("127.0.0.1", server.port)
    async with TLSStream(transport, context, server_hostname=name, session=session) as stream:
        await stream.do_handshake()
        yield stream


async def hear(stream: TCPTLSStream, answer: bytes, server: Program) -> None:
    """Receive until an answer is there. It counts as what the server says."""
    heard = b""
    while answer not in heard:
        part = await stream.receive_some()
        assert part, f"the connection ended after {heard!r}; the server said: {server.output}"
        heard += part
        server.output.add(part)


async def ask(stream: TCPTLSStream, server: Program, case: Case) -> None:
    """Ask the question, and hear the answer."""
    await stream.send_all(case.server.speech.question)
    await hear(stream, case.server.speech.answer, server)


async def receive_to_the_end(stream: TCPTLSStream, server: Program) -> None:
    """Receive until the server's close_notify."""
    async for part in stream:
        server.output.add(part)


@with_each(Side.SERVER, Aspect.FULL)
async def test_full_handshake(case: Case, files: Files, context: ssl.SSLContext) -> None:
    async with serving(case, files) as server, connected(server, context) as stream:
        await ask(stream, server, case)
        assert stream.handshake.version == case.version.name.replace("_", ".")
        assert stream.handshake.matched_name == NAME
        assert not stream.handshake.session_reused


@with_each(Side.SERVER, Aspect.RESUMED)
async def test_resumed_handshake(case: Case, files: Files, context: ssl.SSLContext) -> None:
    async with serving(case, files) as server:
        async with connected(server, context) as stream:
            await ask(stream, server, case)
            session = stream.session
            assert session is not None
        async with connected(server, context, session=session) as stream:
            assert stream.handshake.session_reused
            await ask(stream, server, case)


@with_each(Side.SERVER, Aspect.CLIENT_CERTIFICATE)
async def test_client_certificate(
    ca: trustme.CA,
    client_cert: trustme.LeafCert,
    case: Case,
    files: Files,
    context: ssl.SSLContext,
) -> None:
    with_certificate = client_context_for(ca, case.version)
    client_cert.configure_cert(with_certificate)
    async with serving(case, files, asks_certificate=True) as server:
        refusal = case.server.refusals[case.version]
        if isinstance(refusal, bytes):
            async with connected(server, context) as stream:
                await stream.send_all(case.server.speech.question)
                await hear(stream, refusal, server)
        else:
            with pytest.raises(PeerAlertError) as raised:
                async with connected(server, context) as stream:
                    await stream.receive_some()  # in TLS 1.3 the handshake itself went well
            assert raised.value.alert in {refusal, case.server.former_refusal}
        async with connected(server, with_certificate) as stream:
            await ask(stream, server, case)


@with_each(Side.SERVER, Aspect.ALPN)
async def test_alpn(case: Case, files: Files, context: ssl.SSLContext) -> None:
    context.set_alpn_protocols(ALPN_OFFERED)
    async with serving(case, files) as server, connected(server, context) as stream:
        assert stream.handshake.alpn_protocol == ALPN_TAKEN
        await ask(stream, server, case)


@with_each(Side.SERVER, Aspect.SNI)
async def test_certificate_by_name(case: Case, files: Files, context: ssl.SSLContext) -> None:
    async with serving(case, files) as server:
        for name in (NAME, OTHER_NAME):
            async with connected(server, context, name=name) as stream:
                assert stream.handshake.matched_name == name
                await ask(stream, server, case)


@with_each(Side.SERVER, Aspect.HALF_CLOSE)
async def test_answer_after_our_close_notify(
    case: Case, files: Files, context: ssl.SSLContext
) -> None:
    async with serving(case, files) as server, connected(server, context) as stream:
        # Not yet sent, so that the server gets both at once: it has not answered before the end.
        stream.connection.send(case.server.speech.question)
        await stream.send_eof()
        await hear(stream, case.server.speech.answer, server)
        if case.server.cut_after_our_end:
            with pytest.raises(TruncationError):
                await receive_to_the_end(stream, server)
        else:
            await receive_to_the_end(stream, server)


@with_each(Side.SERVER, Aspect.TRUNCATION)
async def test_truncation_and_clean_close(
    case: Case, files: Files, context: ssl.SSLContext
) -> None:
    async with serving(case, files) as server:
        async with connected(server, context) as stream:
            await ask(stream, server, case)
            if not case.server.speech.server_ends:
                await stream.send_eof()
            await receive_to_the_end(stream, server)
        async with connected(server, context) as stream:
            await stream.send_all(case.server.speech.question[:1])
            await until_all_is_read(stream.transport_stream)
            server.kill()
            with pytest.raises(TruncationError):
                await receive_to_the_end(stream, server)
