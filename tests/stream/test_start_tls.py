"""From plaintext to TLS and back, on one connection."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from tests.helpers import NAME, client_context_for, tcp_pair
from trio_tlsbio import CertificateError, TLSError, TLSSession, start_tls


async def read_line(stream: trio.abc.ReceiveStream) -> tuple[bytes, bytes]:
    """Read to the end of a line, as a careless program does; return it and what else came."""
    data = b""
    while b"\n" not in data:
        part = await stream.receive_some()
        assert part
        data += part
    line, _, rest = data.partition(b"\n")
    return line, rest


async def test_there_and_back_and_there_again(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def client(plain: Any) -> None:
        for number in range(3):
            await plain.send_all(b"STARTTLS\n")
            answer, rest = await read_line(plain)
            assert answer == b"go ahead"
            stream = await start_tls(plain, client_context, buffered=rest, server_hostname=NAME)
            await stream.send_all(b"secret %d\n" % number)
            assert await read_line(stream) == (b"SECRET %d" % number, b"")
            plain, rest = await stream.unwrap()
            assert rest == b""

    async def server(plain: Any) -> None:
        for number in range(3):
            command, rest = await read_line(plain)
            assert command == b"STARTTLS"
            await plain.send_all(b"go ahead\n")
            stream = await start_tls(plain, server_context, buffered=rest, server_side=True)
            assert await read_line(stream) == (b"secret %d" % number, b"")
            await stream.send_all(b"SECRET %d\n" % number)
            assert await stream.receive_some() == b""
            plain, rest = await stream.unwrap()
            assert rest == b""

    with trio.fail_after(20):
        async with tcp_pair() as (ours, theirs), trio.open_nursery() as nursery:
            nursery.start_soon(client, ours)
            nursery.start_soon(server, theirs)


@pytest.mark.parametrize("server_side", [False, True])
async def test_plaintext_that_was_slipped_in_is_refused(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, server_side: bool
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with pytest.raises(TLSError, match="6 bytes in plaintext"):
        await start_tls(
            ours,
            server_context if server_side else client_context,
            buffered=b"RSET\r\n",
            server_side=server_side,
            server_hostname=None if server_side else NAME,
        )
    assert await theirs.receive_some() == b""  # not a byte was sent, and it is closed


async def test_a_handshake_that_fails_closes_the_stream(
    server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    ours, theirs = trio.testing.memory_stream_pair()

    async def server() -> None:
        with pytest.raises(TLSError):
            await start_tls(theirs, server_context, buffered=b"", server_side=True)

    context = client_context_for(trustme.CA(), tls_version)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        with pytest.raises(CertificateError):
            await start_tls(ours, context, buffered=b"", server_hostname=NAME)
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"in plaintext")


async def test_bad_arguments_close_the_stream(client_context: ssl.SSLContext) -> None:
    ours, theirs = trio.testing.memory_stream_pair()
    with pytest.raises(ValueError, match="server_hostname"):
        await start_tls(ours, client_context, buffered=b"")
    assert await theirs.receive_some() == b""


async def test_session_is_resumed(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    sessions: list[TLSSession] = []

    async def connect(session: TLSSession | None) -> bool:
        async with tcp_pair() as (ours, theirs):

            async def serve() -> None:
                stream = await start_tls(theirs, server_context, buffered=b"", server_side=True)
                assert await stream.receive_some() == b""
                await stream.aclose()

            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                stream = await start_tls(
                    ours,
                    client_context,
                    buffered=b"",
                    server_hostname=NAME,
                    session=session,
                    on_session=sessions.append,
                )
                await stream.aclose()
            return stream.session_reused

    with trio.fail_after(20):
        assert not await connect(None)
        assert await connect(sessions[-1])
