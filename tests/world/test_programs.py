"""Against programs that are not ours: OpenSSL's, curl, GnuTLS's and wrk.

What all stacks can show, they show in ``interop``; here is what is peculiar to one of them.
"""

from __future__ import annotations

import re
import ssl
import subprocess
from pathlib import Path
from typing import TypeAlias

import pytest
import trio
import trustme

from tests.helpers import NAME, server_context_for, serving
from tests.peers import running
from tests.programs import VERSION_OPTIONS, gnutls_priority, needs, s_server
from trio_tlsbio import CertificateError, TLSStream
from trio_tlsbio.monitoring import ServerMonitor

TCPTLSStream: TypeAlias = TLSStream[trio.SocketStream]


@pytest.fixture
def server_pem(server_cert: trustme.LeafCert, tmp_path: Path) -> Path:
    """A file with the server's key and certificate."""
    path = tmp_path / "server.pem"
    server_cert.private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@pytest.fixture
def ca_pem(ca: trustme.CA, tmp_path: Path) -> Path:
    """A file with the certificate of the authority."""
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return path


################################################################
# openssl s_server
################################################################


async def connect(port: int, context: ssl.SSLContext) -> TCPTLSStream:
    return TLSStream(await trio.open_tcp_stream("127.0.0.1", port), context, server_hostname=NAME)


async def receive_until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    data = b""
    while end not in data:
        part = await stream.receive_some()
        assert part, f"the stream ended after {data!r}"
        data += part
    return data


@needs("openssl")
async def test_client_reads_a_page_of_s_server(
    server_pem: Path, client_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    async with (
        s_server(server_pem, VERSION_OPTIONS[tls_version], "-www") as port,
        await connect(port, client_context) as stream,
    ):
        await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
        page = b"".join([part async for part in stream])
        assert page.startswith(b"HTTP/1.0 200 ok\r\n")
        assert stream.cipher() is not None

        assert page.rstrip().lower().endswith(b"</html>")


@needs("openssl")
async def test_client_refuses_s_server(server_pem: Path, tls_version: ssl.TLSVersion) -> None:
    async with s_server(server_pem, VERSION_OPTIONS[tls_version], "-rev") as port:
        stream = await connect(port, ssl.create_default_context())
        with pytest.raises(CertificateError):
            await stream.do_handshake()
        await stream.aclose()


################################################################
# Clients: openssl s_client, curl, gnutls-cli
################################################################


async def capitals(stream: TCPTLSStream) -> None:
    """Answer each line in capitals, until the client has said goodbye."""
    async for data in stream:
        await stream.send_all(data.upper())
        if b"goodbye" in data:
            break
    await stream.aclose()


async def http(stream: TCPTLSStream) -> None:
    """Answer one request, by as little HTTP/1.1 as a client accepts."""
    request = await receive_until(stream, b"\r\n\r\n")
    body = b"you asked: " + request.partition(b"\r\n")[0]
    await stream.send_all(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )
    await stream.aclose()


async def run(*argv: object, stdin: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end."""
    return await trio.run_process(
        [str(arg) for arg in argv],
        stdin=stdin,
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )


def s_client(port: int, ca_pem: Path, *options: object) -> list[object]:
    argv = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}"]
    verify = ["-CAfile", ca_pem, "-verify_return_error", "-verify_hostname", NAME]
    return [*argv, *verify, "-servername", NAME, *options]


def gnutls_cli(port: int, ca_pem: Path, *options: object) -> list[object]:
    argv = ["gnutls-cli", "--x509cafile", ca_pem, "--port", port, "127.0.0.1"]
    return [*argv, "--sni-hostname", NAME, "--verify-hostname", NAME, *options]


@needs("openssl")
async def test_s_client_talks_to_and_fro(
    ca_pem: Path, server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    async with serving(capitals, server_context) as port:
        command = s_client(port, ca_pem, VERSION_OPTIONS[tls_version], "-quiet")
        async with running(*command, stdin=-1, stdout=-1, stderr=subprocess.DEVNULL) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            for number in range(10):
                line = b"line %d\n" % number
                await process.stdin.send_all(line)
                assert await receive_until(process.stdout, b"\n") == line.upper()
            await process.stdin.send_all(b"goodbye\n")
            assert await receive_until(process.stdout, b"\n") == b"GOODBYE\n"
            assert await process.stdout.receive_some() == b""
            assert await process.wait() == 0


@needs("openssl")
async def test_s_client_changes_its_keys(
    ca: trustme.CA, ca_pem: Path, server_cert: trustme.LeafCert
) -> None:
    async with serving(capitals, server_context_for(server_cert)) as port:
        command = s_client(port, ca_pem, "-tls1_3", "-brief")
        async with running(*command, stdin=-1, stdout=-1, stderr=-1) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            for number in range(10):
                # A command to s_client: it sends a KeyUpdate that asks for one in return.
                await process.stdin.send_all(b"K\n")
                await receive_until(process.stderr, b"KEYUPDATE\n")
                line = b"line %d\n" % number
                await process.stdin.send_all(line)
                assert await receive_until(process.stdout, b"\n") == line.upper()


@needs("openssl")
async def test_s_client_that_refuses_the_server_ends_alone(
    ca_pem: Path,
    server_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(capitals, server_context) as port:
        nobody = trustme.CA().cert_pem.bytes()
        other = ca_pem.with_name("other.pem")
        other.write_bytes(nobody)
        result = await run(*s_client(port, other, VERSION_OPTIONS[tls_version], "-quiet"))
        assert result.returncode != 0
        result = await run(*s_client(port, ca_pem, "-quiet"), stdin=b"goodbye\n")
        assert result.stdout == b"GOODBYE\n", result.stderr
    (record,) = caplog.records
    assert "unknown_ca" in record.getMessage()


@needs("curl")
@pytest.mark.parametrize("https_compatible", [False, True])
async def test_curl_is_served(
    https_compatible: bool,
    ca_pem: Path,
    server_context: ssl.SSLContext,
) -> None:
    async with serving(http, server_context, https_compatible=https_compatible) as port:
        result = await run(
            *("curl", "--disable", "--noproxy", "*", "--silent", "--show-error"),
            *("--cacert", ca_pem, "--resolve", f"{NAME}:{port}:127.0.0.1"),
            f"https://{NAME}:{port}/a/path",
        )
        assert result.stdout == b"you asked: GET /a/path HTTP/1.1", result.stderr
        assert result.stderr == b""
        assert result.returncode == 0


@needs("curl")
async def test_curl_refuses_an_authority_it_does_not_know(
    server_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(http, server_context) as port:
        result = await run("curl", "--disable", "--noproxy", "*", f"https://127.0.0.1:{port}/")
        assert result.returncode == 60, result.stderr  # CURLE_PEER_FAILED_VERIFICATION
    (record,) = caplog.records
    assert "unknown_ca" in record.getMessage()


@needs("gnutls-cli")
async def test_gnutls_cli_is_served(
    ca_pem: Path, server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    async with serving(capitals, server_context) as port:
        command = gnutls_cli(port, ca_pem, "--priority", gnutls_priority(tls_version))
        async with running(*command, stdin=-1, stdout=-1, stderr=subprocess.STDOUT) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await receive_until(process.stdout, b"Simple Client Mode")
            await process.stdin.send_all(b"hello\n")
            await receive_until(process.stdout, b"HELLO\n")
            await process.stdin.send_all(b"goodbye\n")
            output = await receive_until(process.stdout, b"GOODBYE\n")
            output += b"".join([part async for part in process.stdout])
            assert b"Peer has closed the GnuTLS connection" in output
            assert await process.wait() == 0


################################################################
# Certificates on request, and a load
################################################################


async def asks_for_certificate(stream: TCPTLSStream) -> None:
    """Tell each client the names in its certificate, which it is asked for only now."""
    await receive_until(stream, b"\n")
    await stream.verify_client_post_handshake()
    certificate = stream.handshake.peer_certificate
    assert certificate is not None
    names = [name for _, name in certificate["subjectAltName"]]
    await stream.send_all(f"you are {' '.join(names)}\n".encode())
    await stream.aclose()


@pytest.fixture
def asking_context(ca: trustme.CA, server_cert: trustme.LeafCert) -> ssl.SSLContext:
    """A server's context for certificates on request, which are a matter of TLS 1.3."""
    context = server_context_for(server_cert)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    context.post_handshake_auth = True
    return context


@pytest.fixture
def client_pem(ca: trustme.CA, tmp_path: Path) -> Path:
    """A file with a client's key and certificate."""
    path = tmp_path / "client.pem"
    certificate = ca.issue_cert("client@client.example")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@needs("openssl")
async def test_s_client_shows_its_certificate_when_it_is_asked(
    ca_pem: Path, client_pem: Path, asking_context: ssl.SSLContext
) -> None:
    async with serving(asks_for_certificate, asking_context) as port:
        options = ("-enable_pha", "-cert", client_pem, "-key", client_pem, "-quiet")
        async with running(
            *s_client(port, ca_pem, *options), stdin=-1, stdout=-1, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.send_all(b"who am I?\n")
            answer = await receive_until(process.stdout, b"\n")
            assert answer == b"you are client@client.example\n"


@needs("gnutls-cli")
async def test_gnutls_cli_shows_its_certificate_when_it_is_asked(
    ca_pem: Path, client_pem: Path, asking_context: ssl.SSLContext
) -> None:
    async with serving(asks_for_certificate, asking_context) as port:
        keys = ("--x509certfile", client_pem, "--x509keyfile", client_pem)
        command = gnutls_cli(port, ca_pem, "--post-handshake-auth", *keys)
        async with running(*command, stdin=-1, stdout=-1, stderr=subprocess.STDOUT) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await receive_until(process.stdout, b"Simple Client Mode")
            await process.stdin.send_all(b"who am I?\n")
            await receive_until(process.stdout, b"you are client@client.example\n")


@needs("openssl")
async def test_s_client_without_a_certificate_hears_why_it_is_sent_away(
    ca_pem: Path, asking_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(asks_for_certificate, asking_context) as port:
        argv = s_client(port, ca_pem, "-enable_pha", "-quiet")
        async with running(*argv, stdin=-1, stdout=-1, stderr=subprocess.STDOUT) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            await process.stdin.send_all(b"who am I?\n")
            await receive_until(process.stdout, b"certificate required")
    (record,) = caplog.records
    assert "sent no client certificate" in record.getMessage()


async def keep_alive(stream: TCPTLSStream) -> None:
    """Answer any number of requests."""
    buffer = bytearray()
    async for data in stream:
        buffer += data
        while (end := buffer.find(b"\r\n\r\n")) >= 0:
            del buffer[: end + 4]
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")


@needs("wrk")
async def test_wrk_finds_no_error(server_context: ssl.SSLContext) -> None:
    monitor = ServerMonitor()
    async with serving(keep_alive, server_context, https_compatible=True, monitor=monitor) as port:
        result = await run("wrk", "-t1", "-c50", "-d2s", f"https://127.0.0.1:{port}/")
        output = result.stdout.decode()
        assert result.returncode == 0, result.stderr
        assert "Socket errors" not in output
        assert "Non-2xx" not in output
        found = re.search(r"(\d+) requests in", output)
        assert found is not None, output
        assert int(found[1]) > 50
        statistics = monitor.statistics()
        assert statistics.established >= 50
        assert statistics.failed == {"truncated": 1}  # it looks first whether anybody listens
