"""TLSStream against the ssl module's own sockets, in a thread and in another process."""

from __future__ import annotations

import socket
import ssl
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from tests.helpers import NAME, client_context_for
from tests.peers import PIPE_SERVER, blocking_echo_server, running
from tests.stream.steps import expect, receive_all, receive_exactly, together
from trio_tlsbio import CertificateError, TLSStream


async def test_client_talks_to_blocking_ssl(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with (
        blocking_echo_server(server_context) as transport,
        TLSStream(transport, client_context, server_hostname=NAME) as stream,
    ):
        assert not stream.server_side
        await stream.send_all(b"hello")
        assert await receive_exactly(stream, 5) == b"hello"


async def test_client_refuses_an_authority_it_does_not_know(
    server_context: ssl.SSLContext,
) -> None:
    async with blocking_echo_server(server_context, error="UNKNOWN_CA") as transport:
        stream = TLSStream(transport, ssl.create_default_context(), server_hostname=NAME)
        with pytest.raises(CertificateError) as raised:
            await stream.send_all(b"hello")
        assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)


async def test_client_refuses_a_certificate_for_another_name(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with blocking_echo_server(server_context, error="BAD_CERTIFICATE") as transport:
        stream = TLSStream(transport, client_context, server_hostname="other.example")
        with pytest.raises(CertificateError, match=r"is for server\.example.*not other\.example"):
            await stream.send_all(b"hello")


async def test_server_talks_to_blocking_ssl(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)

    def client() -> None:
        with theirs, client_context.wrap_socket(theirs, server_hostname=NAME) as tls:
            tls.sendall(b"question")
            assert tls.recv(100) == b"answer"
            tls.sendall(b"thanks")
            tls.unwrap()

    transport = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    async with TLSStream(transport, server_context, server_side=True) as stream:
        assert stream.server_side
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, client)
            assert await receive_exactly(stream, 8) == b"question"
            await stream.send_all(b"answer")
            assert await receive_exactly(stream, 6) == b"thanks"
            assert await stream.receive_some() == b""
            await stream.aclose()


async def test_full_duplex_with_handshakes_at_once(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    sent = [bytes([number]) * 32768 for number in range(30)]
    received = bytearray()

    async def send() -> None:
        for chunk in sent:
            await stream.send_all(chunk)

    async def receive() -> None:
        while len(received) < 30 * 32768:
            received.extend(await stream.receive_some(10_000))

    async with blocking_echo_server(server_context) as transport:
        stream = TLSStream(transport, client_context, server_hostname=NAME)
        await together(send, receive, stream.do_handshake, stream.do_handshake)
        await stream.aclose()
    assert bytes(received) == b"".join(sent)


async def test_over_the_pipes_of_a_subprocess(
    ca: trustme.CA, server_cert: trustme.LeafCert, tmp_path: Path
) -> None:
    certificate = tmp_path / "server.pem"
    server_cert.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    async with running(
        sys.executable, "-c", PIPE_SERVER, certificate, stdin=-1, stdout=-1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        transport = trio.StapledStream(process.stdin, process.stdout)
        stream = TLSStream(transport, client_context_for(ca), server_hostname=NAME)
        with trio.fail_after(10):
            await stream.send_all(b"hello")
            await expect(stream, b"HELLO")
            await together(
                partial(stream.send_all, b"x" * 1_000_000), partial(receive_exactly, stream, 10**6)
            )
            await stream.send_eof()
            assert await receive_all(stream) == b"BYE"
            await stream.aclose()
            assert await process.wait() == 0
