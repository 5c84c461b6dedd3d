"""Server programs that are not ours: OpenSSL's, nginx and GnuTLS's."""

from __future__ import annotations

import random
import re
import socket
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import cache
from pathlib import Path

import attrs
import pytest
import trio

from .helpers import LIMIT
from .peers import running

# The option of s_server and s_client, and what nginx and GnuTLS call it.
VERSION_OPTIONS = {ssl.TLSVersion.TLSv1_2: "-tls1_2", ssl.TLSVersion.TLSv1_3: "-tls1_3"}
NGINX_VERSIONS = {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}
GNUTLS_VERSIONS = {ssl.TLSVersion.TLSv1_2: "VERS-TLS1.2", ssl.TLSVersion.TLSv1_3: "VERS-TLS1.3"}


#: Marks a test that takes a program: it belongs to the world, and is skipped without it.
needs = pytest.mark.needs


def gnutls_priority(version: ssl.TLSVersion) -> str:
    """What restricts GnuTLS's programs to one version."""
    return f"NORMAL:-VERS-ALL:+{GNUTLS_VERSIONS[version]}"


################################################################
# Their ports and their output
################################################################


# Below the ports that kernels choose by themselves, so that no connection takes one meanwhile.
PORTS = range(20_000, 30_000)
_kept: list[socket.socket] = []


def free_port() -> int:
    """A port of loopback that nobody listens on, for programs that can't have one chosen.

    It is this process's until its end: a UDP socket of the same number, which no program wants,
    tells other processes of tests to look elsewhere.
    """
    while True:
        port = random.choice(PORTS)
        claim = socket.socket(type=socket.SOCK_DGRAM)
        try:
            claim.bind(("127.0.0.1", port))
            with socket.socket() as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                sock.bind(("127.0.0.1", port))
        except OSError:
            claim.close()
        else:
            _kept.append(claim)
            return port


async def port_of(stdout: trio.abc.ReceiveStream) -> int | None:
    """Read what ``s_server`` says until it listens, and tells where if the kernel chose that."""
    output = b""
    while (found := re.search(rb"ACCEPT(?: .*:(\d+))?\n", output)) is None:
        part = await stdout.receive_some()
        assert part, f"s_server does not listen: {output!r}"
        output += part
    return int(found[1]) if found[1] else None


@attrs.define(eq=False)
class Output:
    """What a program has said so far."""

    text: bytes = b""
    is_whole: bool = False
    _said_more: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def read(self, stream: trio.abc.ReceiveStream) -> None:
        """Read to the end, so that the program at the other end goes on."""
        async for part in stream:
            self.add(part)
        self.is_whole = True
        self._said_more.set()

    def add(self, part: bytes | bytearray) -> None:
        """Add what it has said in another way."""
        self.text += part
        self._said_more.set()

    async def wait_for(self, words: bytes) -> None:
        """Wait until the program has said something."""
        with trio.fail_after(LIMIT):
            while words not in self.text:
                assert not self.is_whole, f"{words!r} is not in {self.text!r}"
                self._said_more = trio.Event()
                await self._said_more.wait()

    def __str__(self) -> str:
        return self.text.decode(errors="replace")


async def connect_to(
    process: trio.Process, port: int, said: Callable[[], str]
) -> trio.SocketStream:
    """Connect to a program that has just been started. If it ends, show what it has said."""
    while True:
        try:
            return await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            assert process.poll() is None, said()
            await trio.sleep(0.01)


async def until_it_accepts(process: trio.Process, port: int, said: Callable[[], str]) -> None:
    """Wait until a program accepts connections; if it ends instead, show what it has said."""
    await trio.aclose_forcefully(await connect_to(process, port, said))


@asynccontextmanager
async def listening(port: int, log: Path, *argv: object) -> AsyncIterator[int]:
    """Run a program once it accepts connections; its output goes to a file."""
    with trio.fail_after(LIMIT), log.open("ab") as output:
        async with running(
            *argv,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            await until_it_accepts(process, port, log.read_text)
            yield port
            assert process.poll() is None, await trio.Path(log).read_text()


################################################################
# The servers, each with the key and certificate of a PEM file
################################################################


@asynccontextmanager
async def s_server(
    pem: Path, *options: object, port: int = 0, output: Output | None = None
) -> AsyncIterator[int]:
    """Run ``openssl s_server``, by default on a port that the kernel chooses, and give the port."""
    argv = ["openssl", "s_server", "-accept", f"127.0.0.1:{port}", "-cert", pem, "-key", pem]
    with trio.fail_after(LIMIT):
        async with running(
            *argv, *options, stdin=subprocess.DEVNULL, stdout=-1, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            port = await port_of(process.stdout) or port
            async with trio.open_nursery() as nursery:
                nursery.start_soon((output or Output()).read, process.stdout)
                yield port
                nursery.cancel_scope.cancel()


NGINX_CONFIG = """
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{}}
http {{
    access_log off;
    client_body_temp_path {directory}/body;
    proxy_temp_path {directory}/proxy;
    fastcgi_temp_path {directory}/fastcgi;
    uwsgi_temp_path {directory}/uwsgi;
    scgi_temp_path {directory}/scgi;
    ssl_session_cache shared:tests:1m;
    {servers}
}}
"""

NGINX_SERVER = """
    server {{
        listen 127.0.0.1:{port} ssl{listen_options};
        {http2}
        ssl_certificate {pem};
        ssl_certificate_key {pem};
        ssl_protocols {version};
        ssl_session_tickets {tickets};
        return 200 "you asked for $request_uri";
    }}
"""


@cache
def _nginx_http2() -> tuple[str, str]:
    """How to ask nginx for HTTP/2: with an option of the port, or from 1.25.1 on by a directive."""
    said = subprocess.run(("nginx", "-v"), capture_output=True, text=True, check=True).stderr
    version = tuple(map(int, re.findall(r"\d+", said)[:3]))
    return ("", "http2 on;") if version >= (1, 25, 1) else (" http2", "")


def nginx_argv(directory: Path, servers: str) -> tuple[object, ...]:
    """Write nginx's configuration, and tell how to run it."""
    config = directory / "nginx.conf"
    config.write_text(NGINX_CONFIG.format(directory=directory, servers=servers), encoding="utf-8")
    return ("nginx", "-p", directory, "-c", config, "-e", "stderr")


# Debian has it in a package of its own.
NGINX_STREAM_MODULE = next(Path("/usr/lib/nginx/modules").glob("ngx_stream_module.so"), None)

NGINX_STREAM_CONFIG = """
load_module {module};
daemon off;
master_process off;
pid {directory}/nginx.pid;
error_log stderr warn;
events {{}}
stream {{
    server {{
        listen 127.0.0.1:{port};
        proxy_pass 127.0.0.1:{their_port};
        proxy_protocol on;
    }}
}}
"""


def nginx_stream_argv(directory: Path, port: int, their_port: int) -> tuple[object, ...]:
    """Configure nginx as a proxy that sends the PROXY protocol, and tell how to run it."""
    config = directory / "nginx.conf"
    text = NGINX_STREAM_CONFIG.format(
        module=NGINX_STREAM_MODULE, directory=directory, port=port, their_port=their_port
    )
    config.write_text(text, encoding="utf-8")
    return ("nginx", "-p", directory, "-c", config, "-e", "stderr")


@asynccontextmanager
async def nginx(
    pem: Path,
    version: ssl.TLSVersion,
    *,
    port: int = 0,
    tickets: bool = True,
    http2: bool = False,
) -> AsyncIterator[int]:
    """Run nginx, which answers each request with its path, and give the port.

    Without ``tickets`` it keeps the sessions itself.
    """
    port = port or free_port()
    on_listen, directive = _nginx_http2() if http2 else ("", "")
    server = NGINX_SERVER.format(
        port=port,
        pem=pem,
        version=NGINX_VERSIONS[version],
        tickets="on" if tickets else "off",
        listen_options=on_listen,
        http2=directive,
    )
    log = pem.parent / "nginx.log"
    async with listening(port, log, *nginx_argv(pem.parent, server)):
        yield port
    assert await trio.Path(log).read_text() == ""


@asynccontextmanager
async def gnutls_serv(
    pem: Path, version: ssl.TLSVersion, *options: object, port: int = 0
) -> AsyncIterator[int]:
    """Run ``gnutls-serv``, which echoes lines, and give the port."""
    port = port or free_port()
    argv = (
        *("gnutls-serv", "--echo", "--port", port, "--disable-client-cert"),
        *("--x509certfile", pem, "--x509keyfile", pem),
        *("--priority", gnutls_priority(version)),
    )
    async with listening(port, pem.parent / "gnutls-serv.log", *argv, *options):
        yield port


@asynccontextmanager
async def https_proxy(pem: Path) -> AsyncIterator[int]:
    """Run proxy.py, to which CONNECT is said over TLS, and give the port."""
    port = free_port()
    argv = (
        *(sys.executable, "-m", "proxy", "--hostname", "127.0.0.1", "--port", port),
        *("--cert-file", pem, "--key-file", pem),
        *("--num-workers", 1, "--num-acceptors", 1, "--log-level", "ERROR"),
    )
    async with listening(port, pem.parent / "proxy.log", *argv):
        yield port
