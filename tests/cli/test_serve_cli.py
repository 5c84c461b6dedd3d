"""The command ``serve`` as a user runs it, and its HTTP over streams in memory."""

from __future__ import annotations

import errno
import os
import shlex
import signal
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from email.utils import formatdate
from pathlib import Path

import attrs
import pytest
import trio
import trio.testing
import trustme

from tests.commands import TIMEOUT, Result, Server, refused, run, serve
from tests.helpers import client_context_for
from tests.programs import needs
from trio_tlsbio import (
    CertificateError,
    Drain,
    PeerAlertError,
    SessionCache,
    State,
    TLSStream,
    TruncationError,
    open_tls_over_tcp_stream,
)
from trio_tlsbio._contexts import IS_PYPY
from trio_tlsbio.cli._http import Part, Site, UnfinishedError

posix = pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")

Client = TLSStream[trio.SocketStream]

# More than what fits into the socket buffers between a server and a client that does not read.
BIG = 64 * 1024 * 1024


@pytest.fixture(scope="session")
def client_context(ca: trustme.CA) -> ssl.SSLContext:
    return client_context_for(ca)


@pytest.fixture
def pem(server_cert: trustme.LeafCert, tmp_path: Path) -> Path:
    """The server's certificate and key, in one file."""
    path = tmp_path / "server.pem"
    server_cert.private_key_and_cert_chain_pem.write_to_path(path)
    return path


@pytest.fixture
def ca_pem(ca: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(path)
    return path


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """A directory with some files, and a secret beside it."""
    folder = tmp_path / "site"
    (folder / "sub").mkdir(parents=True)
    (folder / "with index").mkdir()
    (folder / "hello.txt").write_bytes(b"0123456789")
    (folder / "empty.bin").touch()
    (folder / "with index" / "index.html").write_text("<p>an index\n")
    (folder / "sub" / "a&b.tar.gz").write_bytes(b"packed")
    (tmp_path / "secret.txt").write_text("secret")
    return folder


async def connect(server: Server, context: ssl.SSLContext, **options: object) -> Client:
    return await open_tls_over_tcp_stream(
        "127.0.0.1",
        server.port,
        ssl_context=context,
        **options,  # type: ignore[arg-type]
    )


async def slow_reader(server: Server, context: ssl.SSLContext) -> Client:
    """Connect with a receive buffer that stays small."""
    sock = trio.socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16 * 1024)
    await sock.connect(("127.0.0.1", server.port))
    return TLSStream(trio.SocketStream(sock), context, server_hostname="127.0.0.1")


async def exchange(stream: trio.abc.Stream, data: bytes) -> bytes:
    """Send something to an echo, and return what comes back."""
    await stream.send_all(data)
    echo = b""
    while len(echo) < len(data):
        more = await stream.receive_some()
        assert more, echo
        echo += more
    return echo


def request(target: str, *headers: str, method: str = "GET", host: str = "h") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/1.1", f"Host: {host}", *headers, "", ""]).encode()


async def curl(*args: object) -> Result:
    with trio.fail_after(TIMEOUT):
        done = await trio.run_process(
            ["curl", "--silent", "--show-error", *map(str, args)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return Result(done.returncode, done.stdout, done.stderr.decode())


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


async def test_throw_away_certificate_is_for_the_host_too() -> None:
    async with serve(host="127.0.0.2") as server:
        assert server.fact("listening").startswith("127.0.0.2 port ")
        result = await run(*shlex.split(server.fact("try it with"))[3:], stdin=b"hello")
        assert (result.status, result.stdout) == (0, b"hello")
        assert result.fact("name matched") == "127.0.0.2"


async def test_all_addresses_are_tried_by_a_name() -> None:
    async with serve(host="0.0.0.0") as server:
        line = shlex.split(server.fact("try it with"))
        assert line[4] == f"localhost:{server.port}"
        result = await run(*line[3:], stdin=b"hello")
        assert (result.status, result.stdout) == (0, b"hello")


async def test_echo_and_its_statistics(pem: Path, client_context: ssl.SSLContext) -> None:
    async with serve("--cert", pem) as server:
        cache = SessionCache()
        for number in range(3):
            async with await connect(server, client_context, session_cache=cache) as stream:
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
        stream = await connect(server, client_context)
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
    assert failures[1].endswith(": the peer spoke plain HTTP to a TLS port")


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


async def test_max_connections(pem: Path, client_context: ssl.SSLContext) -> None:
    async with serve("--cert", pem, "--max-connections", "1") as server:
        first = await connect(server, client_context)
        await exchange(first, b"first")
        second = await connect(server, client_context)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(second.do_handshake)
            for _ in range(20):
                await exchange(first, b"still")
            assert second.handshake is None
            await first.aclose()
        assert await exchange(second, b"second") == b"second"
        await second.aclose()


@pytest.mark.parametrize(("option", "version"), [("--tls12", "TLSv1.2"), ("--tls13", "TLSv1.3")])
async def test_version_and_alpn(
    option: str, version: str, pem: Path, ca: trustme.CA, ca_pem: Path
) -> None:
    async with serve("--cert", pem, option, "--alpn", "b,a") as server:
        result = await run(
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


async def test_line_to_try_tells_of_the_client_certificate(ca_pem: Path) -> None:
    async with serve("--client-ca", ca_pem) as server:
        assert server.fact("try it with").endswith("ca.pem --cert FILE")


async def test_separate_key(
    server_cert: trustme.LeafCert, tmp_path: Path, client_context: ssl.SSLContext
) -> None:
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    server_cert.cert_chain_pems[0].write_to_path(cert)
    server_cert.private_key_pem.write_to_path(key)
    async with (
        serve("--cert", cert, "--key", key) as server,
        await connect(server, client_context) as stream,
    ):
        assert await exchange(stream, b"hello") == b"hello"


@posix
async def test_goes_on_when_nobody_reads_what_it_says(
    pem: Path, client_context: ssl.SSLContext
) -> None:
    async with serve("--cert", pem) as server:
        assert server.process.stderr is not None
        await server.process.stderr.aclose()
        async with await trio.open_tcp_stream("127.0.0.1", server.port) as plain:
            await plain.send_all(b"GET / HTTP/1.0\r\n\r\n")
            assert [data async for data in plain] == []
        async with await connect(server, client_context) as stream:
            assert await exchange(stream, b"hello") == b"hello"
        server.process.send_signal(signal.SIGTERM)
        # PyPy itself says so if its stderr can't be written to at the end.
        assert await server.process.wait() == (120 if IS_PYPY else 0)


################################################################
# Signals
################################################################


async def _presented(server: Server, context: ssl.SSLContext) -> str:
    """Return the organization in the certificate that a new client sees."""
    async with await connect(server, context) as stream:
        await stream.do_handshake()
        assert stream.handshake is not None
        assert stream.handshake.peer_certificate is not None
        subject = stream.handshake.peer_certificate["subject"]
        names: dict[str, str] = dict(entry for rdn in subject for entry in rdn)
        return names["organizationName"]


@posix
async def test_sighup_reloads_the_certificate(
    ca: trustme.CA, tmp_path: Path, client_context: ssl.SSLContext
) -> None:
    pem = tmp_path / "\x07server.pem"  # what is told of it must not ring the bell

    def renew(name: str) -> None:
        cert = ca.issue_cert("127.0.0.1", organization_name=name)
        cert.private_key_and_cert_chain_pem.write_to_path(pem)

    renew("first")
    async with serve("--cert", pem) as server:
        assert await _presented(server, client_context) == "first"
        old = await connect(server, client_context)
        await exchange(old, b"before")

        renew("second")
        server.process.send_signal(signal.SIGHUP)
        await server.until("reloaded:")  # without any client
        assert await _presented(server, client_context) == "second"

        pem.write_text("nothing of use")
        server.process.send_signal(signal.SIGHUP)
        await server.until("not reloaded:")
        assert await _presented(server, client_context) == "second"

        assert await exchange(old, b"after") == b"after"
        await old.aclose()
        result = await server.end()
    assert result.status == 0
    assert result.fact("reloaded") == "new connections get the new certificate"
    assert result.fact("not reloaded") == "the old certificate stays in use"
    told = str(pem).replace("\x07", r"\x07")
    assert f"--cert {told}: no certificate with its private key in PEM form" in result.stderr
    assert "\x07" not in result.stderr
    assert result.fact("broken") == "0"


async def test_changed_file_is_noticed_without_a_signal(
    ca: trustme.CA, tmp_path: Path, client_context: ssl.SSLContext
) -> None:
    pem, renewed = tmp_path / "server.pem", tmp_path / "renewed.pem"
    for name, path in (("first", pem), ("second", renewed)):
        cert = ca.issue_cert("127.0.0.1", organization_name=name)
        cert.private_key_and_cert_chain_pem.write_to_path(path)
    async with serve("--cert", pem) as server:
        assert await _presented(server, client_context) == "first"
        renewed.replace(pem)
        assert await _presented(server, client_context) == "second"
        await server.until("reloaded:")


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_first_signal_drains(
    number: signal.Signals, pem: Path, site: Path, client_context: ssl.SSLContext
) -> None:
    content = os.urandom(1024) * (BIG // 1024)
    (site / "big.bin").write_bytes(content)
    async with serve("--cert", pem, "--directory", site) as server:
        idle = await connect(server, client_context)
        await idle.send_all(request("/hello.txt"))
        assert (await Reader(idle).reply()).body == b"0123456789"
        fresh = await connect(server, client_context)
        await fresh.do_handshake()

        busy = await slow_reader(server, client_context)
        await busy.send_all(request("/big.bin"))
        reader = Reader(busy)
        await reader.receive()
        server.process.send_signal(number)
        await server.until("draining:")

        # Both get a close_notify at once: anything else would raise a TruncationError.
        for stream in (idle, fresh):
            assert await stream.receive_some() == b""
            assert stream.connection.receive_state is State.CLOSED
            await stream.aclose()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", server.port)

        assert (await reader.reply()).body == content
        assert await busy.receive_some() == b""
        await busy.aclose()
        result = await server.end(None)
    assert result.status == 0
    assert result.fact("draining") == "3 connections open, for at most 10 seconds"
    assert result.fact("established") == "3"
    assert result.fact("broken") == "0"


@posix
async def test_drain_of_an_echo(pem: Path, client_context: ssl.SSLContext) -> None:
    async with serve("--cert", pem) as server:
        stream = await connect(server, client_context)
        assert await exchange(stream, b"hello") == b"hello"
        server.process.send_signal(signal.SIGTERM)
        assert await stream.receive_some() == b""
        await stream.aclose()
        assert (await server.end(None)).status == 0


@posix
async def test_drain_does_not_wait_for_clients_that_keep_silent(
    pem: Path, client_context: ssl.SSLContext
) -> None:
    async with serve("--cert", pem, "--drain-timeout", "3600") as server:
        silent = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with await connect(server, client_context) as stream:
            assert await exchange(stream, b"hello") == b"hello"
        result = await server.end()
        assert await silent.receive_some() == b""
        await silent.aclose()
    assert result.status == 0
    assert result.fact("failed") == "1 (truncated 1)"
    assert "connection from" not in result.stderr


async def _stuck(server: Server, context: ssl.SSLContext) -> Client:
    """Ask for more than what fits between here and there, and read no more than its begin."""
    stream = await slow_reader(server, context)
    await stream.send_all(request("/big.bin"))
    await stream.receive_some()
    return stream


@posix
async def test_drain_takes_no_longer_than_it_may(
    pem: Path, site: Path, client_context: ssl.SSLContext
) -> None:
    with (site / "big.bin").open("wb") as file:
        file.truncate(BIG)
    options = ("--cert", pem, "--directory", site, "--drain-timeout", "0.3")
    async with serve(*options) as server:
        stream = await _stuck(server, client_context)
        result = await server.end()
        assert result.status == 0
        assert result.fact("draining") == "1 connection open, for at most 0.3 seconds"
        assert result.fact("established") == "1"  # statistics are told all the same
        with pytest.raises(TruncationError):
            await Reader(stream).to_end()
        await trio.aclose_forcefully(stream)


@posix
async def test_second_signal_ends_at_once(
    pem: Path, site: Path, client_context: ssl.SSLContext
) -> None:
    with (site / "big.bin").open("wb") as file:
        file.truncate(BIG)
    options = ("--cert", pem, "--directory", site, "--drain-timeout", "3600")
    async with serve(*options) as server:
        stream = await _stuck(server, client_context)
        server.process.send_signal(signal.SIGTERM)
        await server.until("draining:")
        result = await server.end()
        assert result.status == 130
        assert result.fact("established") == "1"
        assert result.stderr.splitlines()[-1].startswith("handshake:")
        await trio.aclose_forcefully(stream)


################################################################
# Files, for curl
################################################################


@needs("curl")
async def test_curl_gets_files(site: Path) -> None:
    async with serve("--directory", site) as server:
        line = shlex.split(server.fact("try it with"))
        assert line[0] == "curl"
        *options, url = line[1:]

        got = await curl("--include", *options, url + "hello.txt")
        assert got.status == 0, got.stderr
        head, _, body = got.stdout.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Type: text/plain\r\n" in head
        assert body == b"0123456789"

        head = (await curl("--head", *options, url + "hello.txt")).stdout
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Length: 10\r\n" in head
        etag = head.partition(b"ETag: ")[2].partition(b"\r\n")[0].decode()

        got = await curl("--include", "--range", "2-4", *options, url + "hello.txt")
        assert got.stdout.startswith(b"HTTP/1.1 206 Partial Content\r\n")
        assert got.stdout.endswith(b"\r\n\r\n234")
        assert b"Content-Range: bytes 2-4/10\r\n" in got.stdout

        code = ("--write-out", "%{http_code}", "--output", os.devnull)
        header = ("--header", f"If-None-Match: {etag}")
        got = await curl(*code, *header, *options, url + "hello.txt")
        assert got.stdout == b"304"

        got = await curl("--time-cond", formatdate(usegmt=True), *code, *options, url + "hello.txt")
        assert got.stdout == b"304"

        assert (await curl(*code, *options, url + "nothing")).stdout == b"404"
        assert (await curl(*code, "--data", "x", *options, url)).stdout == b"405"
        for path in ("../secret.txt", "%2e%2e/secret.txt", "sub/..%2f..%2fsecret.txt"):
            got = await curl("--path-as-is", *code, *options, url + path)
            assert got.stdout == b"404", path

        got = await curl("--location", *options, url + "with%20index")
        assert got.stdout == b"<p>an index\n"

        # One connection for several requests.
        urls = [url + "hello.txt", url + "hello.txt"]
        got = await curl("--write-out", "%{num_connects} ", *options, *urls)
        assert got.stdout == b"01234567891 01234567890 "
        result = await server.end()
    assert result.status == 0
    assert result.fact("failed") == "0"
    assert result.fact("broken") == "0"


async def test_http_is_what_is_agreed_on(pem: Path, site: Path, ca_pem: Path) -> None:
    async with serve("--cert", pem, "--directory", site) as server:
        result = await run(
            *("connect", f"127.0.0.1:{server.port}", "--cafile", str(ca_pem)),
            *("--alpn", "h2,http/1.1"),
            stdin=request("/hello.txt"),
        )
    assert result.fact("ALPN") == "http/1.1"
    assert result.stdout.endswith(b"\r\n\r\n0123456789")
    assert result.fact("received").endswith("then the server's close_notify")


async def test_client_that_ends_without_a_close_notify_is_no_failure(
    pem: Path, site: Path, client_context: ssl.SSLContext
) -> None:
    async with serve("--cert", pem, "--directory", site) as server:
        stream = await connect(server, client_context)
        await stream.send_all(request("/hello.txt"))
        assert (await Reader(stream).reply()).status == 200
        await stream.transport_stream.send_eof()
        assert await stream.receive_some() == b""  # the server's close_notify
        await trio.aclose_forcefully(stream)
        result = await server.end()
    assert result.fact("broken") == "0"


@posix
async def test_file_that_shrinks_breaks_the_connection(
    pem: Path, site: Path, client_context: ssl.SSLContext
) -> None:
    path = site / "\x1b]0;owned\x07.bin"
    with path.open("wb") as file:
        file.truncate(BIG)
    async with serve("--cert", pem, "--directory", site) as server:
        stream = await slow_reader(server, client_context)
        await stream.send_all(request("/%1b%5d0;owned%07.bin"))
        reader = Reader(stream)
        await reader.receive()
        os.truncate(path, 0)
        with pytest.raises(TruncationError):
            await reader.reply()
        await trio.aclose_forcefully(stream)
        await server.until("has become shorter")

        async with await connect(server, client_context) as stream:  # the others are served on
            await stream.send_all(request("/hello.txt"))
            assert (await Reader(stream).reply()).status == 200
        result = await server.end()
    assert result.status == 0
    assert result.fact("broken") == "1 (UnfinishedError 1)"
    (line,) = (said for said in result.stderr.splitlines() if "has become shorter" in said)
    assert line.startswith("connection from 127.0.0.1:")
    assert r"\x1b]0;owned\x07.bin" in line
    assert "\x1b" not in result.stderr
    assert "\x07" not in result.stderr


################################################################
# What can't be served
################################################################


@pytest.mark.parametrize(
    ("module", "args"), [("trustme", ()), ("h11", ("--directory", "."))], ids=["trustme", "h11"]
)
async def test_missing_extras(module: str, args: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / f"{module}.py").write_text("raise ImportError('not here')\n")
    result = await run("serve", "--port", "0", *args, env={"PYTHONPATH": str(tmp_path)})
    message = refused(result, 7)
    assert f"takes {module}: pip install 'trio-tlsbio[serve]'" in message
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--port", "65536"), "the port must be"),
        (("--port", "https"), "the port must be"),
        (("--port", "-1"), "the port must be"),
        (("--host", ""), "not a host name"),
        (("--host", "no_such_name"), "no certificate can be made for this name"),
        (("--directory", "no/such/directory"), "there is no such directory"),
        (("--directory", __file__), "there is no such directory"),
        (("--cert", "no/such.pem"), os.strerror(errno.ENOENT)),
        (("--cert", __file__), "no certificate with its private key"),
        (("--key", __file__), "--key needs --cert"),
        (("--client-ca", __file__), "no certificate in PEM form"),
        (("--client-cert", "optional"), "--client-cert needs --client-ca"),
        (("--client-cert", "perhaps"), "invalid choice"),
        (("--alpn", "h2,,h3"), "not a list"),
        (("--tls12", "--tls13"), "not allowed with"),
        (("--handshake-timeout", "0"), "seconds above 0"),
        (("--drain-timeout", "soon"), "seconds above 0"),
        (("--max-connections", "0"), "not a number above 0"),
        (("more",), "unrecognized arguments"),
    ],
)
async def test_usage_errors(args: tuple[str, ...], words: str) -> None:
    result = await run("serve", *args)
    assert (result.status, result.stdout) == (2, b"")
    assert words in result.stderr.splitlines()[-1]


async def test_encrypted_key_is_not_asked_for(
    server_cert: trustme.LeafCert, tmp_path: Path
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(server_cert.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    pem = tmp_path / "encrypted.pem"
    pem.write_bytes(encrypted + server_cert.cert_chain_pems[0].bytes())
    result = await run("serve", "--port", "0", "--cert", str(pem))
    assert refused(result, 2) == f"--cert {pem}: the private key is encrypted"


async def test_port_in_use(pem: Path) -> None:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        result = await run("serve", "--cert", str(pem), "--port", str(port))
    assert refused(result, 8) == (
        f"can't listen on 127.0.0.1 port {port}: {os.strerror(errno.EADDRINUSE)}"
    )


async def test_host_that_is_not_found(pem: Path) -> None:
    result = await run("serve", "--cert", str(pem), "--host", "nowhere.invalid")  # RFC 6761
    assert refused(result, 8).startswith("can't listen on nowhere.invalid port 4433: ")


async def test_help_lists_the_exit_statuses() -> None:
    result = await run("serve", "--help", env={"COLUMNS": "80"})
    assert (result.status, result.stderr) == (0, "")
    text = result.stdout.decode()
    listed = text.partition("exit status:\n")[2].split("\n")
    assert [int(line.split()[0]) for line in listed if line] == [*range(9), 130, 141]
    assert max(map(len, text.splitlines())) <= 100


################################################################
# HTTP, in memory
################################################################


@attrs.frozen
class Reply:
    """An answer as it came over the wire."""

    status: int
    headers: Mapping[str, str]
    body: bytes


@attrs.define(eq=False)
class Reader:
    """Takes answers apart."""

    stream: trio.abc.ReceiveStream
    data: bytearray = attrs.field(factory=bytearray)

    async def receive(self) -> None:
        more = await self.stream.receive_some()
        assert more, bytes(self.data)
        self.data += more

    async def _until(self, is_there: Callable[[], bool]) -> None:
        while not is_there():
            await self.receive()

    async def reply(self, *, without_body: bool = False) -> Reply:
        await self._until(lambda: b"\r\n\r\n" in self.data)
        head, _, _ = bytes(self.data).partition(b"\r\n\r\n")
        del self.data[: len(head) + 4]
        first, *lines = head.decode().split("\r\n")
        version, status, _phrase = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        assert len(headers) == len(lines)
        length = 0 if without_body else int(headers.get("content-length", 0))
        await self._until(lambda: len(self.data) >= length)
        body = bytes(self.data[:length])
        del self.data[:length]
        return Reply(int(status), headers, body)

    async def to_end(self) -> None:
        """Read on until the server ends, with nothing left."""
        while await self.stream.receive_some():
            self.data.clear()

    async def has_ended(self) -> bool:
        return not self.data and await self.stream.receive_some() == b""


@asynccontextmanager
async def http(
    folder: Path, **options: object
) -> AsyncIterator[tuple[trio.abc.HalfCloseableStream, Reader]]:
    """A client's end of a connection to a site, which must end by itself."""
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Site(folder, **options).serve, server)  # type: ignore[arg-type]
        yield client, Reader(client)
        await client.send_eof()


async def ask(folder: Path, *requests: bytes, **options: object) -> Reply:
    """Return the answer to one request, given in pieces, after which the server must end."""
    with trio.fail_after(TIMEOUT):
        async with http(folder, **options) as (client, reader):
            for part in requests:
                await client.send_all(part)
            reply = await reader.reply()
            assert await reader.has_ended()
    return reply


async def test_keep_alive(site: Path) -> None:
    async with http(site) as (client, reader):
        for _ in range(2):
            await client.send_all(request("/hello.txt"))
            reply = await reader.reply()
            assert (reply.status, reply.body) == (200, b"0123456789")
            assert reply.headers["content-length"] == "10"
            assert reply.headers["content-type"] == "text/plain"
            assert reply.headers["accept-ranges"] == "bytes"
            assert "connection" not in reply.headers
            assert "date" in reply.headers
        await client.send_all(request("/hello.txt", method="HEAD"))
        head = await reader.reply(without_body=True)
        assert head == Reply(200, {**reply.headers, "date": head.headers["date"]}, b"")
        await client.send_all(request("/empty.bin"))
        assert (await reader.reply()).body == b""


async def test_pipelining_byte_by_byte(site: Path) -> None:
    async with http(site) as (client, reader):
        for byte in request("/hello.txt") + request("/nothing") + request("/hello.txt"):
            await client.send_all(bytes([byte]))
        assert [(await reader.reply()).status for _ in range(3)] == [200, 404, 200]


async def test_client_that_wants_no_more(site: Path) -> None:
    reply = await ask(site, request("/hello.txt", "Connection: close"))
    assert (reply.status, reply.headers["connection"]) == (200, "close")


async def test_http_1_0(site: Path) -> None:
    reply = await ask(site, b"GET /hello.txt HTTP/1.0\r\n\r\n")
    assert (reply.status, reply.body) == (200, b"0123456789")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "BREW"])
async def test_other_methods(method: str, site: Path) -> None:
    async with http(site) as (client, reader):
        await client.send_all(request("/hello.txt", method=method))
        reply = await reader.reply()
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
        await client.send_all(request("/hello.txt"))  # the connection is still good
        assert (await reader.reply()).status == 200


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (("Content-Length: 5",), b"hello"),
        (("Content-Length: 5", "Expect: 100-continue"), b""),
        (("Transfer-Encoding: chunked",), b"5\r\nhello\r\n0\r\n\r\n"),
        (("Transfer-Encoding: chunked",), b"this is no chunk\r\n"),
    ],
)
async def test_body_ends_the_connection_unread(
    head: tuple[str, ...], body: bytes, site: Path
) -> None:
    for method, status in (("POST", 405), ("GET", 200), ("HEAD", 200)):
        smuggled = request("/nothing")
        async with http(site) as (client, reader):
            await client.send_all(request("/hello.txt", *head, method=method) + body + smuggled)
            reply = await reader.reply(without_body=method == "HEAD")
            assert (reply.status, reply.headers["connection"]) == (status, "close")
            assert await reader.has_ended()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x00\xa5\x01", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000, 431),
    ],
)
async def test_bad_requests(data: bytes, status: int, site: Path) -> None:
    reply = await ask(site, data)
    assert (reply.status, reply.headers["connection"]) == (status, "close")


@pytest.mark.parametrize("target", ["*", "hello.txt", "ftp://h/hello.txt", "http:///x", "/a#b"])
async def test_bad_targets(target: str, site: Path) -> None:
    async with http(site) as (client, reader):
        await client.send_all(request(target))
        assert (await reader.reply()).status == 400


async def test_end_in_the_middle_of_a_request(site: Path) -> None:
    async with http(site) as (client, reader):
        await client.send_all(b"GET / HT")
        await client.send_eof()
        assert (await reader.reply()).status == 400
        assert await reader.has_ended()


async def test_idle_connection_ends(site: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with http(site, idle_timeout=60) as (client, reader):
        await trio.sleep(59)
        await client.send_all(request("/nothing"))
        await reader.reply()
        before = trio.current_time()
        assert await reader.has_ended()
        assert trio.current_time() - before == pytest.approx(60)


async def test_slow_head_ends(site: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with http(site, head_timeout=10) as (client, reader):
        await trio.sleep(20)
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                for byte in request("/nothing", "X: " + "x" * 100):
                    await client.send_all(bytes([byte]))
                    await trio.sleep(1)

            nursery.start_soon(trickle)
            before = trio.current_time()
            assert await reader.has_ended()
            assert trio.current_time() - before == pytest.approx(10)
            nursery.cancel_scope.cancel()


async def test_client_that_does_not_read(
    site: Path, autojump_clock: trio.testing.MockClock
) -> None:
    _client, server = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_client.send_all, request("/hello.txt"))
        with pytest.raises(UnfinishedError, match="too slowly"):
            await Site(site, send_timeout=30).serve(server)
    assert trio.current_time() >= 30


async def test_end_to_a_client_that_does_not_read(
    site: Path, autojump_clock: trio.testing.MockClock
) -> None:
    client, server = trio.testing.lockstep_stream_pair()

    async def stuck() -> None:
        await trio.sleep_forever()

    server.send_stream.send_eof = stuck  # type: ignore[attr-defined]
    server.send_stream.aclose = stuck  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_eof)
        await Site(site, send_timeout=30).serve(server)
    assert trio.current_time() >= 30


async def test_drain_between_requests(site: Path) -> None:
    drain = Drain()
    async with http(site, drain=drain) as (client, reader):
        await client.send_all(request("/hello.txt"))
        assert (await reader.reply()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        drain.begin()
        assert await reader.has_ended()


async def test_drain_in_the_head_of_a_request(site: Path) -> None:
    drain = Drain()
    async with http(site, drain=drain) as (client, reader):
        await client.send_all(request("/hello.txt")[:5])
        await trio.testing.wait_all_tasks_blocked()
        drain.begin()
        await client.send_all(request("/hello.txt")[5:])
        reply = await reader.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await reader.has_ended()


async def test_shrinking_file_is_not_ended_as_if_whole(site: Path) -> None:
    path = site / "big.bin"
    path.write_bytes(bytes(1_000_000))
    client, server = trio.testing.lockstep_stream_pair()
    reader = Reader(client)

    async def visit() -> None:
        await client.send_all(request("/big.bin"))
        await reader.receive()
        os.truncate(path, 0)
        with pytest.raises(trio.ClosedResourceError):
            await reader.reply()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(visit)
        with pytest.raises(UnfinishedError, match="has become shorter"):
            await Site(site).serve(server)
        await client.aclose()
    assert len(reader.data) < 1_000_000


async def test_growing_file_is_sent_as_promised(site: Path) -> None:
    path = site / "big.bin"
    path.write_bytes(bytes(1_000_000))
    client, server = trio.testing.lockstep_stream_pair()
    reader = Reader(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Site(site).serve, server)
        await client.send_all(request("/big.bin"))
        await reader.receive()
        with path.open("ab") as file:
            file.write(b"more")
        assert (await reader.reply()).body == bytes(1_000_000)
        await client.send_all(request("/hello.txt"))
        assert (await reader.reply()).body == b"0123456789"
        await client.aclose()


################################################################
# Answers
################################################################


def answer(
    folder: Path, target: str, asked: Mapping[str, str] | None = None, method: str = "GET"
) -> Reply:
    """Return the answer to a request, read from its file."""
    found = Site(folder).answer(method, target, asked or {})
    body = found.body
    if isinstance(body, Part):
        os.lseek(body.file.fileno(), body.span.start, os.SEEK_SET)
        body = os.read(body.file.fileno(), len(body.span))
    assert len(body) == found.length
    found.close()
    return Reply(found.status, {name.lower(): text for name, text in found.headers}, body)


@pytest.mark.parametrize(
    "target",
    [
        "/../secret.txt",
        "/sub/../../secret.txt",
        "/sub/../hello.txt",
        "/%2e%2e/secret.txt",
        "/%2E./secret.txt",
        "/..%2fsecret.txt",
        "/..%2Fsecret.txt",
        "/sub%2f..%2f..%2fsecret.txt",
        "/sub%2fa&b.tar.gz",
        "http://h/../secret.txt",
        "/hello.txt%00",
        "/%00",
        "/hello.txt%00/../../secret.txt",
        "/%252e%252e/secret.txt",
        "/\\..\\secret.txt",
        "/link/secret.txt",
        "/file-link",
        "/linked%20index/",
        "/loop",
        "/" + "x" * 300,
        "/hello.txt/",
        "/hello.txt/x",
        "/%ff",
    ],
)
def test_nothing_but_what_is_inside(target: str, site: Path) -> None:
    (site / "link").symlink_to("..")
    (site / "file-link").symlink_to(site.parent / "secret.txt")
    (site / "loop").symlink_to("loop")
    (site / "linked index").mkdir()
    (site / "linked index" / "index.html").symlink_to("../../secret.txt")
    reply = answer(site, target)
    assert reply.status == 404
    assert reply.body == b"404 Not Found\n"


def test_absolute_paths_stay_inside(site: Path) -> None:
    assert answer(site, f"/{site.parent}/secret.txt").status == 404
    assert answer(site, f"//{site.parent}/secret.txt").status == 404


def test_links_inside_are_followed(site: Path) -> None:
    (site / "link").symlink_to("hello.txt")
    (site / "folder").symlink_to("with index")
    assert answer(site, "/link").body == b"0123456789"
    assert answer(site, "/folder/").body == b"<p>an index\n"


def test_directory_that_is_a_link_itself(site: Path, tmp_path: Path) -> None:
    current, other = tmp_path / "current", tmp_path / "other"
    current.symlink_to(site)
    other.mkdir()
    (other / "hello.txt").write_text("other")
    assert answer(current, "/hello.txt").body == b"0123456789"
    current.unlink()
    current.symlink_to(other)
    assert answer(current, "/hello.txt").body == b"other"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes")
def test_what_is_no_file(site: Path) -> None:
    os.mkfifo(site / "pipe")
    assert answer(site, "/pipe").status == 404


@pytest.mark.parametrize(
    ("number", "status"), [(errno.EACCES, 404), (errno.EMFILE, 500), (errno.EIO, 500)]
)
def test_file_that_can_not_be_opened(
    number: int, status: int, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_path: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr("trio_tlsbio.cli._http.io.FileIO", fail)
    assert answer(site, "/hello.txt").status == status


@pytest.mark.parametrize(
    ("target", "location"),
    [
        ("/sub", "/sub/"),
        ("/sub?a=/b", "/sub/?a=/b"),
        ("/with%20index", "/with%20index/"),
        ("//sub", "/sub/"),
        ("/.//sub/.", "/sub/"),
        ("/.", "/"),
        ("http://h/sub", "/sub/"),
    ],
)
def test_redirects(target: str, location: str, site: Path) -> None:
    reply = answer(site, target)
    assert (reply.status, reply.headers["location"]) == (301, location)


def test_redirect_leads_to_no_other_host(site: Path) -> None:
    (site / "evil.example").mkdir()
    assert answer(site, "//evil.example").headers["location"] == "/evil.example/"


@pytest.mark.parametrize("target", ["/with%20index/", "/with%20index/?q", "/./with%20index//"])
def test_index(target: str, site: Path) -> None:
    reply = answer(site, target)
    assert (reply.status, reply.body) == (200, b"<p>an index\n")
    assert reply.headers["content-type"] == "text/html"


@pytest.mark.parametrize("target", ["/", "http://h", "http://h?q", "HTTPS://h/"])
def test_listing(target: str, site: Path) -> None:
    reply = answer(site, target)
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    text = reply.body.decode()
    assert [line for line in text.splitlines() if line.startswith("<li>")] == [
        '<li><a href="./empty.bin">empty.bin</a></li>',
        '<li><a href="./hello.txt">hello.txt</a></li>',
        '<li><a href="./sub/">sub/</a></li>',
        '<li><a href="./with%20index/">with index/</a></li>',
    ]


def test_listing_is_escaped(site: Path) -> None:
    folder = site / "<b>&"
    folder.mkdir()
    for name in ("<script>x", "javascript:x", 'quo"te', "50%", "caf\xe9", os.fsdecode(b"\xff")):
        (folder / name).touch()
    text = answer(site, "/%3Cb%3E&/").body.decode()
    assert "<h1>/&lt;b&gt;&amp;/</h1>" in text
    assert '<a href="../">../</a>' in text
    assert '<a href="./%3Cscript%3Ex">&lt;script&gt;x</a>' in text
    assert '<a href="./javascript%3Ax">javascript:x</a>' in text
    assert '<a href="./quo%22te">quo&quot;te</a>' in text
    assert '<a href="./50%25">50%</a>' in text
    assert '<a href="./caf%C3%A9">caf\xe9</a>' in text
    assert '<a href="./%FF">?</a>' in text
    assert answer(site, "/%3Cb%3E&/%ff").status == 200


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.html", "text/html"),
        ("a.png", "image/png"),
        ("a.tar.gz", "application/octet-stream"),
        ("a", "application/octet-stream"),
        ("data:text,x", "application/octet-stream"),
    ],
)
def test_content_types(name: str, kind: str, site: Path) -> None:
    (site / name).touch()
    assert answer(site, f"/{name}").headers["content-type"] == kind


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_unchanged(method: str, site: Path) -> None:
    os.utime(site / "hello.txt", (1_000_000_000, 1_000_000_000.75))
    whole = answer(site, "/hello.txt", method=method)
    etag = whole.headers["etag"]
    modified = whole.headers["last-modified"]
    assert modified == "Sun, 09 Sep 2001 01:46:40 GMT"

    def status(**asked: str) -> int:
        headers = {name.replace("_", "-"): value for name, value in asked.items()}
        reply = answer(site, "/hello.txt", headers, method)
        if reply.status == 304:
            assert reply.headers == {"etag": etag, "last-modified": modified}
            assert reply.body == b""
        return reply.status

    assert status(if_none_match=etag) == 304
    assert status(if_none_match=f'"other", W/{etag}') == 304
    assert status(if_none_match="*") == 304
    assert status(if_none_match='"other"') == 200
    assert status(if_modified_since=modified) == 304
    assert status(if_modified_since="Sun, 09 Sep 2001 01:46:39 GMT") == 200
    assert status(if_modified_since="Sun, 09 Sep 2001 03:46:40 +0200") == 304
    assert status(if_modified_since="yesterday") == 200
    assert status(if_modified_since="Sun, 09 Sep 99999 01:46:40 GMT") == 200
    assert status(if_modified_since="Sun, 09 Sep 2001 01:46:40 +9999999999999999999") == 200
    # The ETag counts alone if it is there.
    assert status(if_none_match='"other"', if_modified_since=modified) == 200

    (site / "hello.txt").write_bytes(b"other data")
    assert answer(site, "/hello.txt").headers["etag"] != etag


def test_file_from_the_future(site: Path) -> None:
    os.utime(site / "hello.txt", (4_000_000_000, 4_000_000_000))
    modified = answer(site, "/hello.txt").headers["last-modified"]
    assert modified.partition(":")[0] != formatdate(4_000_000_000, usegmt=True).partition(":")[0]


@pytest.mark.parametrize(
    ("asked", "where", "body"),
    [
        ("bytes=0-0", "0-0", b"0"),
        ("bytes=2-4", "2-4", b"234"),
        ("BYTES=2-4", "2-4", b"234"),
        ("bytes=7-", "7-9", b"789"),
        ("bytes=7-100", "7-9", b"789"),
        ("bytes=-3", "7-9", b"789"),
        ("bytes=-100", "0-9", b"0123456789"),
    ],
)
def test_range(asked: str, where: str, body: bytes, site: Path) -> None:
    reply = answer(site, "/hello.txt", {"range": asked})
    assert (reply.status, reply.body) == (206, body)
    assert reply.headers["content-range"] == f"bytes {where}/10"
    assert "etag" in reply.headers
    # Ranges are for GET alone.
    head = answer(site, "/hello.txt", {"range": asked}, method="HEAD")
    assert (head.status, "content-range" in head.headers) == (200, False)


@pytest.mark.parametrize(
    "asked",
    [
        *("bytes=", "bytes=-", "bytes=a-b", "bytes=4-2", "bytes=0-1,3-4", "lines=1-2", "bytes 1-2"),
        *("bytes=0-\u0663", "bytes=1-" + "9" * 5000),
    ],
)
def test_range_that_is_ignored(asked: str, site: Path) -> None:
    reply = answer(site, "/hello.txt", {"range": asked})
    assert (reply.status, reply.body) == (200, b"0123456789")
    assert "content-range" not in reply.headers


@pytest.mark.parametrize("asked", ["bytes=10-", "bytes=10-20", "bytes=-0"])
def test_range_past_the_end(asked: str, site: Path) -> None:
    reply = answer(site, "/hello.txt", {"range": asked})
    assert reply.status == 416
    assert reply.headers["content-range"] == "bytes */10"


def test_range_of_another_state(site: Path) -> None:
    etag = answer(site, "/hello.txt").headers["etag"]
    asked = {"range": "bytes=0-1", "if-range": etag}
    assert answer(site, "/hello.txt", asked).body == b"01"
    asked = {"range": "bytes=0-1", "if-range": '"other"'}
    assert answer(site, "/hello.txt", asked).body == b"0123456789"


async def test_no_file_stays_open(site: Path) -> None:
    async with http(site) as (client, reader):
        for target, asked in (
            ("/hello.txt", ()),
            ("/hello.txt", ("If-None-Match: *",)),
            ("/hello.txt", ("Range: bytes=10-",)),
            ("/empty.bin", ()),
        ):
            await client.send_all(request(target, *asked) + request(target, method="HEAD"))
            await reader.reply()
            await reader.reply(without_body=True)
    assert not _open_files_in(site)


def _open_files_in(folder: Path) -> list[Path]:
    """Return what this process has open there, where the system tells."""
    descriptors = Path("/proc/self/fd")
    opened = [path.resolve() for path in descriptors.iterdir()] if descriptors.exists() else []
    return [path for path in opened if path.is_relative_to(folder)]
