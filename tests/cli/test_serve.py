"""``serve`` as a user runs it: echoes, the page, and the statistics at the end."""

from __future__ import annotations

import shlex
import signal
import ssl
import sys
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme
from cryptography import x509

from tests.certificates import Certificate, Issued
from tests.commands import document, facts, refused, run, run_here, serve
from tests.helpers import client_context_for
from trio_tlsbio import CertificateError, PeerAlertError, SessionCache, TLSStream
from trio_tlsbio.cli._proxy import VERSIONS
from trio_tlsbio.core import State

from .peers import connect, exchange, posix

################################################################
# Echo
################################################################


async def test_throw_away_certificate_is_verified_by_its_file() -> None:
    async with serve() as server:
        ca_file = Path(server.fact("its issuer"))
        assert "PRIVATE" not in await trio.Path(ca_file).read_text()
        assert list(ca_file.parent.iterdir()) == [ca_file]
        assert server.fact("certificate") == "throw-away, for localhost, 127.0.0.1, ::1"
        prefix = ["python", "-m", "trio_tlsbio"]
        line = shlex.split(server.fact("try it with"))
        assert line[:3] == prefix
        result = await run(*line[3:], stdin=b"hello")
        assert (result.status, result.stdout) == (0, b"hello")
        assert result.fact("ALPN") == "none"
        assert result.fact("name matched") == "127.0.0.1"
        assert result.fact("received") == "5 bytes, then the server's close_notify"
        result = await run("connect", f"127.0.0.1:{server.port}")
        assert "issuer is not trusted" in refused(result, 3)
        assert (await server.end()).status == 0
        assert not ca_file.parent.exists()


async def test_throw_away_certificate_is_for_the_host_too(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    async with serve(host="127.0.0.2") as server:
        assert server.fact("listening").startswith("127.0.0.2 port ")
        result = await run_here(
            capfdbinary, *shlex.split(server.fact("try it with"))[3:], stdin=b"hello"
        )
        assert (result.status, result.stdout) == (0, b"hello")
        assert result.fact("name matched") == "127.0.0.2"


async def test_all_addresses_are_tried_by_a_name(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async with serve(host="0.0.0.0") as server:
        line = shlex.split(server.fact("try it with"))
        assert line[4] == f"localhost:{server.port}"
        result = await run_here(capfdbinary, *line[3:], stdin=b"hello")
        assert (result.status, result.stdout) == (0, b"hello")


async def test_echo_and_its_statistics(pem: Path, context: ssl.SSLContext) -> None:
    async with serve("--cert", pem) as server:
        cache = SessionCache()
        for number in range(3):
            async with await connect(server, context, session_cache=cache) as stream:
                data = bytes([number]) * 100_000
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send_all, data)
                    echo = b""
                    while len(echo) < len(data):
                        echo += await stream.receive_some()
                assert echo == data
                await stream.send_eof()
                assert await stream.receive_some() == b""
        with pytest.raises(CertificateError):
            async with await connect(server, ssl.create_default_context()) as stream:
                await stream.do_handshake()
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as plain:
            await plain.send_all(b"GET / HTTP/1.0\r\n\r\n")
            assert [data async for data in plain] == []
        stream = await connect(server, context)
        assert await exchange(stream, b"x") == b"x"
        await trio.aclose_forcefully(stream.transport_stream)
        await server.until("without a close_notify")
        result = await server.end()
    assert result.status == 0
    assert result.fact("accepted") == "6"
    assert result.fact("established") == "4"
    assert result.fact("resumed") == "2"
    assert result.fact("failed") == "2 (alert unknown ca 1, http request 1)"
    assert result.fact("timed out") == "0"
    assert result.fact("broken") == "1 (truncated 1)"
    assert result.fact("cancelled") == "0"
    assert 0 < float(result.fact("handshake").removesuffix(" ms on average")) < 20_000
    failures = [line for line in result.stderr.splitlines() if line.startswith("connection from")]
    assert len(failures) == 3
    assert all(line.startswith("connection from 127.0.0.1:") for line in failures)
    assert failures[1].endswith(": the client did not speak TLS: it sent an HTTP request")


async def test_handshake_timeout(pem: Path) -> None:
    async with serve("--cert", pem, "--handshake-timeout", "0.3") as server:
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as silent:
            assert [data async for data in silent] == []
        await server.until("connection from")
        result = await server.end()
    assert result.fact("timed out") == "1"
    assert result.fact("failed") == "1 (handshake timeout 1)"
    assert result.fact("handshake") == "none"
    assert "no handshake within 0.3 seconds" in result.stderr


async def test_behind_a_proxy(pem: Path, context: ssl.SSLContext) -> None:
    async with serve("--cert", pem, "--proxy-protocol", "::1,127.0.0.0/8") as server:
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        await tcp.send_all(b"PROXY TCP4 192.0.2.1 192.0.2.2 4660 443\r\n")
        async with TLSStream(tcp, context, server_hostname="localhost") as stream:
            assert await exchange(stream, b"x") == b"x"
            await trio.aclose_forcefully(tcp)
        await server.until("connection from 192.0.2.1:4660: ")
        result = await server.end()
    assert result.fact("broken") == "1 (truncated 1)"


@pytest.mark.parametrize("version", VERSIONS)
async def test_connects_as_a_proxy_does(
    version: str, pem: Path, ca_pem: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async with serve("--cert", pem, "--proxy-protocol", "127.0.0.1", "--www") as server:
        connect = ("connect", f"127.0.0.1:{server.port}", "--cafile", str(ca_pem))
        run = partial(run_here, capfdbinary, *connect)
        request = b"GET / HTTP/1.0\r\n\r\n"
        result = await run("--proxy-header", version, stdin=request)
        assert result.stdout.startswith(b"HTTP/1.1 200 OK\r\n")
        value = document(await run("--proxy-header", version, "--json", "--timeline"))
        assert value["exit_status"] == 0
        first = value["connections"][0]["timeline"]["flights"][0]["records"][0]
        assert first["messages"] == ["ClientHello"]
        refused(await run(), 6)
        await server.until("began with TLS instead of a PROXY protocol header")


async def test_line_to_try_behind_a_proxy() -> None:
    async with serve("--www", "--proxy-protocol", "127.0.0.1") as server:
        assert " --haproxy-protocol https://" in server.fact("try it with")
    async with serve("--proxy-protocol", "127.0.0.1") as server:
        line = shlex.split(server.fact("try it with"))[3:]
        assert line[-2:] == ["--proxy-header", "v2"]
        result = await run(*line, stdin=b"hello")
    assert (result.status, result.stdout) == (0, b"hello")


@pytest.mark.parametrize("option", ["--tls12", "--tls13"])
async def test_strict_alpn(
    pem: Path, ca_pem: Path, option: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async with serve("--cert", pem, "--alpn", "h2", "--strict-alpn") as server:
        connect = ("connect", f"127.0.0.1:{server.port}", "--cafile", str(ca_pem), option)
        run = partial(run_here, capfdbinary, *connect)
        message = refused(await run("--alpn", "http/1.1"), 4)
        assert "(alert no_application_protocol)" in message
        result = await run("--alpn", "http/1.1,h2")
        assert (result.status, result.fact("ALPN")) == (0, "h2")
        result = await run()
        assert (result.status, result.fact("ALPN")) == (0, "none")
        result = await server.end()
    assert result.fact("failed").startswith("1 (no application protocol")


async def test_max_connections(pem: Path, context: ssl.SSLContext) -> None:
    async with serve("--cert", pem, "--max-connections", "1") as server:
        first = await connect(server, context)
        await exchange(first, b"first")
        second = await connect(server, context)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.do_handshake)
            for _ in range(20):
                await exchange(first, b"still")
            assert second.connection.handshake is None
            await first.aclose()
        assert await exchange(second, b"second") == b"second"
        await second.aclose()


@pytest.mark.parametrize(("option", "version"), [("--tls12", "TLSv1.2"), ("--tls13", "TLSv1.3")])
async def test_version_and_alpn(
    option: str,
    version: str,
    pem: Path,
    ca: trustme.CA,
    ca_pem: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    async with serve("--cert", pem, option, "--alpn", "b,a") as server:
        result = await run_here(
            capfdbinary,
            *("connect", f"127.0.0.1:{server.port}", "--cafile", str(ca_pem), "--alpn", "a,b"),
        )
    assert (result.fact("version"), result.fact("ALPN")) == (version, "b")


@pytest.mark.parametrize("option", [None, "required", "optional"])
async def test_client_certificates(
    option: str | None, pem: Path, ca: trustme.CA, ca_pem: Path
) -> None:
    options = () if option is None else ("--client-cert", option)
    bare, equipped = client_context_for(ca), client_context_for(ca)
    ca.issue_cert("client@client.example").configure_cert(equipped)
    async with serve("--cert", pem, "--client-ca", ca_pem, *options) as server:
        async with await connect(server, equipped) as stream:
            assert await exchange(stream, b"hello") == b"hello"
        stream = await connect(server, bare)
        if option == "optional":
            assert await exchange(stream, b"hello") == b"hello"
        else:
            with pytest.raises(PeerAlertError, match="certificate_required"):
                await exchange(stream, b"hello")
        await trio.aclose_forcefully(stream)
        # One of an issuer that is not in the file never gets in.
        other = client_context_for(ca)
        trustme.CA().issue_cert("client@client.example").configure_cert(other)
        stream = await connect(server, other)
        with pytest.raises(PeerAlertError, match="unknown_ca"):
            await exchange(stream, b"hello")
        await trio.aclose_forcefully(stream)
        result = await server.end()
    clients = [line.partition(": the client is ")[2] for line in result.stderr.splitlines()]
    assert list(filter(None, clients)) == ["client@client.example"]


@pytest.mark.parametrize(
    ("names", "common_name", "words"),
    [
        (["a.example", "::1", x509.RFC822Name("a@b.example")], "x", "a.example, ::1, a@b.example"),
        ([x509.UniformResourceIdentifier("spiffe://a.example/b")], "x", "spiffe://a.example/b"),
        ([x509.DNSName("a\nb")], "x", "a\\nb"),
        ([], "alice", "alice"),
        pytest.param(
            [],
            None,
            "a client whose certificate has no name",
            marks=pytest.mark.where(
                sys.version_info < (3, 13), "this Python refuses certificates without a name"
            ),
        ),
    ],
    ids=["each kind", "SPIFFE", "line break", "common name", "nameless"],
)
async def test_who_the_client_is(
    names: list[str | x509.GeneralName],
    common_name: str | None,
    words: str,
    pem: Path,
    ca: trustme.CA,
    ca_pem: Path,
) -> None:
    context = client_context_for(ca)
    client = Certificate(names=names, common_name=common_name).signed_by(Issued.of(ca))
    client.load_into(context)
    async with serve("--cert", pem, "--client-ca", ca_pem, "--www") as server:
        async with await connect(server, context) as stream:
            await stream.send_all(b"GET / HTTP/1.0\r\n\r\n")
            page = b"".join([part async for part in stream]).decode()
        await server.until(f": the client is {words}")
    assert facts(page, "names") == ([words] if names else [])
    assert facts(page, "SPIFFE ID") == ([words] if words.startswith("spiffe:") else [])


async def test_line_to_try_tells_of_the_client_certificate(ca_pem: Path) -> None:
    async with serve("--client-ca", ca_pem) as server:
        assert server.fact("try it with").endswith("ca.pem --cert FILE")


async def test_separate_key(
    server_cert: trustme.LeafCert, tmp_path: Path, context: ssl.SSLContext
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    server_cert.cert_chain_pems[0].write_to_path(cert)
    server_cert.private_key_pem.write_to_path(key)
    async with (
        serve("--cert", cert, "--key", key) as server,
        await connect(server, context) as stream,
    ):
        assert await exchange(stream, b"hello") == b"hello"


@posix
async def test_goes_on_when_nobody_reads_what_it_says(pem: Path, context: ssl.SSLContext) -> None:
    async with serve("--cert", pem) as server:
        assert server.process.stderr is not None
        await server.process.stderr.aclose()
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as plain:
            await plain.send_all(b"GET / HTTP/1.0\r\n\r\n")
            assert [data async for data in plain] == []
        async with await connect(server, context) as stream:
            assert await exchange(stream, b"hello") == b"hello"
        server.process.send_signal(signal.SIGTERM)
        assert await server.process.wait() == 0


################################################################
# The page about the connection
################################################################

REQUEST = b"POST / HTTP/1.1\r\nHost: h\r\n\r\n"


async def test_http_is_what_is_agreed_on(
    pem: Path, ca_pem: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async with serve("--cert", pem, "--www") as server:
        result = await run_here(
            capfdbinary,
            *("connect", f"127.0.0.1:{server.port}", "--cafile", str(ca_pem)),
            *("--alpn", "h2,http/1.1"),
            stdin=REQUEST,
        )
    assert result.fact("ALPN") == "http/1.1"
    assert result.stdout.startswith(b"HTTP/1.1 200 OK\r\n")
    assert facts(result.stdout.decode(), "cipher") == [result.fact("cipher")]
    assert result.fact("received").endswith("then the server's close_notify")


async def test_answer_arrives_while_the_client_still_sends(
    pem: Path, context: ssl.SSLContext
) -> None:
    async with serve("--cert", pem, "--www") as server:
        async with await connect(server, context) as stream:
            await stream.send_all(REQUEST)
            for _ in range(10):
                await stream.send_all(bytes(20_000))
            answer = b"".join([data async for data in stream])
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert stream.connection.receive_state is State.CLOSED
        result = await server.end()
    assert (result.status, result.fact("broken")) == (0, "0")


async def test_client_that_ends_without_a_close_notify_is_no_failure(
    pem: Path, context: ssl.SSLContext
) -> None:
    async with serve("--cert", pem, "--www") as server:
        for data in (b"", REQUEST):
            stream = await connect(server, context)
            await stream.do_handshake()
            if data:
                await stream.send_all(data)
                await stream.receive_some()
            await stream.transport_stream.send_eof()
            assert await stream.receive_some() == b""  # the server's close_notify
            await trio.aclose_forcefully(stream)
        result = await server.end()
    assert result.fact("broken") == "0"
