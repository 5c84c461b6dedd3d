"""The commands with programs that are not ours: OpenSSL, curl, and servers that speak STARTTLS."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from tests.commands import TIMEOUT, Files, Result, document, facts, refused, run, serve
from tests.helpers import LIMIT
from tests.peers import running
from tests.programs import free_port, needs, s_server, until_it_accepts

################################################################
# OpenSSL
################################################################


@needs("openssl")
@pytest.mark.parametrize(("option", "version"), [("--tls12", "TLSv1.2"), ("--tls13", "TLSv1.3")])
async def test_openssl_server(files: Files, option: str, version: str) -> None:
    async with s_server(Path(files.server), "-rev") as port:
        result = await run(
            "connect", f"127.0.0.1:{port}", "--cafile", files.ca, option, stdin=b"abc\ndef\n"
        )
    assert result.status == 0
    assert result.stdout == b"cba\nfed\n"
    assert result.fact("version") == version
    assert result.fact("cipher").endswith(" bits")
    assert result.fact("ALPN") == "none"
    assert result.fact("session") == "new"
    assert result.fact("certificate").startswith("O=trustme")
    assert result.fact("issued by").startswith("O=trustme")
    assert result.fact("valid").startswith("2000-01-01 00:00 to ")
    assert result.fact("name matched") == "127.0.0.1"
    assert result.fact("sent") == "8 bytes, then our close_notify"
    assert result.fact("received") == "8 bytes, then the server's close_notify"


@needs("openssl")
@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
async def test_takes_the_version_that_the_server_has(
    files: Files, option: str, version: str
) -> None:
    async with s_server(Path(files.server), "-rev", option) as port:
        result = await run("connect", f"localhost:{port}", "--cafile", files.ca)
    assert (result.status, result.stdout) == (0, b"")
    assert result.fact("version") == version
    assert result.fact("name matched") == "localhost"


@needs("openssl")
async def test_alpn(files: Files) -> None:
    async with s_server(Path(files.server), "-rev", "-alpn", "h2") as port:
        result = await run(
            "connect", f"localhost:{port}", "--cafile", files.ca, "--alpn", "http/1.1,h2"
        )
    assert result.status == 0
    assert result.fact("ALPN") == "h2"


@needs("openssl")
async def test_no_protocol_in_common(files: Files) -> None:
    async with s_server(Path(files.server), "-rev", "-alpn", "h2") as port:
        result = await run(
            "connect", f"localhost:{port}", "--cafile", files.ca, "--alpn", "http/1.1"
        )
    assert "alert no_application_protocol" in refused(result, 4)
    assert "--alpn" in result.fact("hint")


@needs("openssl")
@pytest.mark.parametrize("option", ["--tls12", "--tls13"])
async def test_client_certificate(files: Files, option: str) -> None:
    wanted = ("-Verify", "1", "-verify_return_error", "-CAfile", files.ca)
    async with s_server(Path(files.server), "-rev", *wanted) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", files.ca, option)
        result = await run(*connect, "--cert", files.client, stdin=b"abc\n")
        assert (result.status, result.stdout) == (0, b"cba\n")
        result = await run(*connect, "--cert", files.client, "--key", files.client, stdin=b"abc\n")
        assert (result.status, result.stdout) == (0, b"cba\n")
        result = await run(*connect)
    message = refused(result, 4)
    assert "client certificate" in message
    assert "alert " in message
    assert result.fact("hint") == "--cert FILE and --key FILE present a client certificate"


@needs("openssl")
@pytest.mark.parametrize(("option", "server"), [("--tls12", "-tls1_3"), ("--tls13", "-tls1_2")])
async def test_no_version_in_common(files: Files, option: str, server: str) -> None:
    async with s_server(Path(files.server), "-rev", server) as port:
        result = await run("connect", f"localhost:{port}", "--cafile", files.ca, option)
    assert "alert protocol_version" in refused(result, 4)


@needs("openssl")
@pytest.mark.parametrize("option", ["--tls12", "--tls13"])
async def test_reconnect_to_openssl(files: Files, option: str) -> None:
    async with s_server(Path(files.server), "-rev") as port:
        connect = ("connect", f"localhost:{port}", "--cafile", files.ca, option)
        result = await run(*connect, "--reconnect", "3")
    assert result.fact("summary").startswith("3 connections, 2 resumed")


@needs("openssl")
async def test_timeline_in_lines(files: Files) -> None:
    async with s_server(Path(files.server), "-rev") as port:
        connect = ("connect", f"localhost:{port}", "--cafile", files.ca, "--timeline")
        result = await run(*connect, stdin=b"abc\n")
    assert result.stdout == b"cba\n"
    lines = result.stderr.partition("timeline:\n")[2].splitlines()
    assert re.fullmatch(r" +\d+\.\d ms  client -> server  [\d,]+ bytes", lines[0])
    assert re.fullmatch(r" +handshake \(ClientHello\), [\d,]+ bytes", lines[1])
    assert re.fullmatch(r" +\d+\.\d ms  client <- server  [\d,]+ bytes", lines[2])
    assert re.fullmatch(r" +handshake \(ServerHello\), [\d,]+ bytes", lines[3])
    assert result.stderr.isascii()


################################################################
# curl
################################################################


async def curl(*args: object) -> Result:
    with trio.fail_after(TIMEOUT):
        done = await trio.run_process(
            ["curl", "--silent", "--show-error", *map(str, args)],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    return Result(done.returncode, done.stdout, done.stderr.decode())


@needs("curl")
async def test_curl_gets_the_page() -> None:
    async with serve("--www") as server:
        line = shlex.split(server.fact("try it with"))
        assert line[0] == "curl"
        *options, url = line[1:]

        got = await curl("--include", *options, url)
        assert got.status == 0, got.stderr
        head, _, body = got.stdout.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK\r\n")
        assert b"Content-Type: text/plain" in head
        assert facts(body.decode(), "version") == ["TLSv1.3"]
        assert facts(body.decode(), "ALPN") == ["http/1.1"]

        browser = ("--header", "Accept: text/html,*/*;q=0.8")
        got = await curl(*browser, *options, url + "any/path?query")
        assert got.stdout.startswith(b"<!DOCTYPE html>")
        assert (await curl("--head", *options, url)).stdout.startswith(b"HTTP/1.1 200 OK\r\n")
        assert (await curl("--data", "x" * 100_000, *options, url)).stdout.startswith(b"TLSv1.3")

        # Each request has a connection of its own.
        got = await curl("--write-out", "%{num_connects} ", *options, url, url)
        assert got.stdout.count(b"\n1 ") == 2
        result = await server.end()
    assert result.status == 0
    assert result.fact("failed") == "0"
    assert result.fact("broken") == "0"


################################################################
# STARTTLS: aiosmtpd, Dovecot, PostgreSQL
################################################################


async def check(protocol: str, port: int, ca: str, stdin: bytes) -> bytes:
    """Connect in each of the ways, and return what the server said inside TLS until its end."""
    connect = ("connect", f"localhost:{port}", "--cafile", ca, "--starttls", protocol)
    # Standard input stays open: aiosmtpd gives up its answer if our close_notify overtakes it.
    reader, writer = os.pipe()
    try:
        os.write(writer, stdin)
        result = await run(*connect, stdin=reader)
    finally:
        os.close(reader)
        os.close(writer)
    assert result.status == 0, result.stderr
    assert result.fact("STARTTLS").startswith(f"agreed on by {protocol}, in ")
    assert result.fact("name matched") == "localhost"
    value = document(await run(*connect, "--json", "--timeline", "--reconnect", "2"))
    assert value["error"] is None
    assert value["target"]["starttls"] == protocol
    assert all(item["starttls_seconds"] > 0 for item in value["connections"])
    # The record of the wire begins with TLS.
    first = value["connections"][0]["timeline"]["flights"][0]["records"][0]
    assert first["messages"] == ["ClientHello"]
    return result.stdout


AIOSMTPD = """
import asyncio, ssl, sys
from aiosmtpd.smtp import SMTP

class Handler:
    pass

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])

async def main():
    loop = asyncio.get_running_loop()
    make = lambda: SMTP(Handler(), tls_context=context, loop=loop)
    server = await loop.create_server(make, "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_aiosmtpd(files: Files) -> None:
    pytest.importorskip("aiosmtpd", reason="aiosmtpd is not installed")
    with trio.fail_after(3 * LIMIT):
        async with running(
            *(sys.executable, "-c", AIOSMTPD, files.server), stdout=-1, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            port = int(await process.stdout.receive_some())
            said = await check("smtp", port, files.ca, b"EHLO me.example\r\nQUIT\r\n")
    assert said.startswith(b"250-")
    assert b"STARTTLS" not in said
    assert said.endswith(b"221 Bye\r\n")


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder with a short path, as that of Unix sockets must be, which other users can enter."""
    path = Path(tempfile.mkdtemp(prefix="tls"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@asynccontextmanager
async def answering(port: int, log: Path, *argv: object, **options: Any) -> AsyncIterator[None]:
    """Run a server with processes of its own, from when it accepts until all of it has ended."""
    with trio.fail_after(3 * LIMIT), log.open("wb") as output:
        async with running(
            *argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, **options
        ) as process:
            try:
                await until_it_accepts(process, port, log.read_text)
                yield
            finally:
                process.send_signal(signal.SIGINT)  # both end their children by it, and then
                with trio.CancelScope(shield=True), trio.move_on_after(LIMIT):
                    await process.wait()


DOVECOT_CONFIG = """
protocols = imap pop3
listen = 127.0.0.1
base_dir = {folder}/run
state_dir = {folder}/state
log_path = /dev/stderr
ssl = yes
ssl_cert = <{pem}
ssl_key = <{pem}
service imap-login {{
  chroot =
  inet_listener imap {{
    port = {imap}
  }}
  inet_listener imaps {{
    port = 0
  }}
}}
service pop3-login {{
  chroot =
  inet_listener pop3 {{
    port = {pop3}
  }}
  inet_listener pop3s {{
    port = 0
  }}
}}
passdb {{
  driver = static
  args = nopassword=y
}}
"""


@needs("dovecot")
async def test_dovecot(files: Files, folder: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("dovecot wants to be started by root")
    if not all(shutil.which(f"/usr/lib/dovecot/{name}") for name in ("imap", "pop3")):
        pytest.skip("dovecot's programs imap and pop3 are not installed")
    imap, pop3 = free_port(), free_port()
    config = folder / "dovecot.conf"
    config.write_text(
        DOVECOT_CONFIG.format(folder=folder, pem=files.server, imap=imap, pop3=pop3),
        encoding="utf-8",
    )
    async with answering(imap, folder / "log", "dovecot", "-F", "-c", config):
        said = await check("imap", imap, files.ca, b"a CAPABILITY\r\nb LOGOUT\r\n")
        assert b"* CAPABILITY IMAP4rev1" in said
        assert b"STARTTLS" not in said
        assert b"b OK Logout" in said
        said = await check("pop3", pop3, files.ca, b"QUIT\r\n")
        assert said == b"+OK Logging out\r\n"


def postgres_program(name: str) -> str | None:
    """Find a program of PostgreSQL, which Debian has outside of the path."""
    beside = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))
    return shutil.which(name) or (str(beside[-1]) if beside else None)


async def test_postgresql(server_cert: trustme.LeafCert, files: Files, folder: Path) -> None:
    initdb, postgres = postgres_program("initdb"), postgres_program("postgres")
    if initdb is None or postgres is None:
        pytest.skip("the programs initdb and postgres are not installed")
    # It refuses to run as root, and its package makes a user for it.
    user: dict[str, Any] = {"user": "postgres"} if os.geteuid() == 0 else {}
    if user:
        shutil.chown(folder, "postgres")
    data, pem = folder / "data", folder / "server.pem"
    with trio.fail_after(3 * LIMIT):
        await trio.run_process(
            [initdb, "-D", str(data), "-A", "trust", "-U", "test", "--no-sync"],
            capture_stdout=True,
            cwd=folder,
            **user,
        )
    server_cert.private_key_and_cert_chain_pem.write_to_path(pem)
    pem.chmod(0o600)
    if user:
        shutil.chown(pem, "postgres")
    port = free_port()
    settings = {
        "listen_addresses": "127.0.0.1",
        "unix_socket_directories": folder,
        "ssl": "on",
        "ssl_cert_file": pem,
        "ssl_key_file": pem,
        "fsync": "off",
    }
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    argv = (postgres, "-D", data, "-p", port, *options)
    async with answering(port, folder / "log", *argv, **user):
        # A start-up message of version 3.0 for a user that is not there gets an error.
        startup = b"\x00\x03\x00\x00user\x00nobody\x00\x00"
        startup = (4 + len(startup)).to_bytes(4, "big") + startup
        said = await check("postgres", port, files.ca, startup)
    assert b'role "nobody" does not exist' in said
