"""Every block of code in README and docs/ is run, and what it is said to print is what it prints.

A block is a program of docs/examples, which test_docs.py or a test here imports and runs; or Python
that a test here executes (see ``runs``); or commands, whose arguments the real parsers read. Where
the output is shown as well, as in the tutorial, the commands are run.
"""

from __future__ import annotations

import argparse
import ast
import doctest
import hashlib
import importlib
import importlib.util
import inspect
import itertools
import logging
import math
import re
import shlex
import signal
import socket
import ssl
import subprocess
import sys
import tomllib
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import trio_tlsbio
from tests.docblocks import BLOCKS, CLAIMED, Block, docstring_blocks, example, rst_blocks, runs
from tests.helpers import (
    DOCS,
    HOST,
    ROOT,
    client_context_for,
    echo,
    port_of,
    server_context_for,
    serving,
    tcp_pair,
)
from tests.programs import free_port, listening
from trio_tlsbio import (
    CertificateError,
    PeerAlertError,
    ReloadingContext,
    Retry,
    TLSConnector,
    TLSError,
    TLSListener,
    TLSStream,
    TruncationError,
    serve_tls_listeners,
    serve_tls_over_tcp,
    sni_context,
)
from trio_tlsbio.cli import _parser

NAME = "echo.example"

# Nothing here waits for longer than this, in seconds.
LIMIT = 30

Stream = TLSStream[trio.SocketStream]

################################################################
# What the blocks talk to
################################################################


@pytest.fixture
def context(ca: trustme.CA, tls_version: ssl.TLSVersion) -> ssl.SSLContext:
    """A server's context, for the name in the pages."""
    return server_context_for(ca.issue_cert(NAME, HOST), tls_version)


@asynccontextmanager
async def bounded_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery that does not wait for ever."""
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            yield nursery


async def connect(port: int, context: ssl.SSLContext, name: str = NAME) -> Stream:
    """Connect to loopback, and expect a name there."""
    return TLSStream(await trio.open_tcp_stream(HOST, port), context, server_hostname=name)


async def check_echo(stream: Stream) -> None:
    async with stream:
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"


class Logged(logging.Handler):
    """The lines of the server's log, to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.send_channel, self.receive_channel = trio.open_memory_channel[str](math.inf)

    def emit(self, record: logging.LogRecord) -> None:
        self.send_channel.send_nowait(record.getMessage())


@pytest.fixture
def logged() -> Iterator[Logged]:
    """What the server logs."""
    handler = Logged()
    logger = logging.getLogger("trio_tlsbio.server")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


################################################################
# Quick start
################################################################


@runs("quickstart.rst", "await stream.do_handshake()")
async def test_quickstart_handshake(
    block: Block,
    client_context: ssl.SSLContext,
    context: ssl.SSLContext,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(echo, context) as port, await connect(port, client_context) as stream:
        await block.run(stream=stream)
        assert stream.handshake is not None
        told = f"{stream.version()} {stream.handshake.cipher} {NAME}\n"
    assert capsys.readouterr().out == told


@runs("quickstart.rst", "listeners = await nursery.start(")
async def test_quickstart_port_0(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with bounded_nursery() as nursery:
        names = await block.run(
            nursery=nursery,
            partial=partial,
            serve_tls_over_tcp=serve_tls_over_tcp,
            echo=echo,
            context=context,
        )
        assert names["host"] == HOST
        await check_echo(await connect(names["port"], client_context))
        nursery.cancel_scope.cancel()


@runs("quickstart.rst", "client = TLSStream(transport")
async def test_quickstart_other_transports(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    transport, other_transport = trio.testing.memory_stream_pair()
    names = await block.run(
        TLSStream=TLSStream,
        transport=transport,
        other_transport=other_transport,
        client_context=client_context,
        server_context=context,
    )
    async with bounded_nursery() as nursery:
        nursery.start_soon(names["client"].do_handshake)
        nursery.start_soon(names["server"].do_handshake)
    assert names["client"].handshake.matched_name == NAME


################################################################
# Connecting
################################################################


@runs("connecting.rst", "with trio.fail_after(10):")
async def test_connecting_timeout(
    block: Block, ca: trustme.CA, context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(echo, context) as port:
        connector = connector_to(port, monkeypatch, client_context_for(ca, context.minimum_version))
        names = await block.run(trio=trio, connector=connector)
        assert names["stream"].handshake.matched_name == NAME
        await check_echo(names["stream"])


def connector_to(
    port: int, monkeypatch: pytest.MonkeyPatch, context: ssl.SSLContext, **options: Any
) -> TLSConnector:
    """A connector; what is meant for port 4433 of any host goes to a port of this machine."""
    open_tcp_stream = trio.open_tcp_stream

    async def open_here(host: str, asked: int, **_: Any) -> trio.SocketStream:
        assert (host, asked) == (NAME, 4433)
        return await open_tcp_stream(HOST, port)

    monkeypatch.setattr(trio, "open_tcp_stream", open_here)
    return TLSConnector(ssl_context=context, **options)


@runs("connecting.rst", "with trio.move_on_after(0.5):")
async def test_connecting_deadline(
    block: Block,
    client_context: ssl.SSLContext,
    context: ssl.SSLContext,
    capsys: pytest.CaptureFixture[str],
    autojump_clock: trio.testing.MockClock,
) -> None:
    # Over memory, whose waits the clock may jump over.
    ours, theirs = trio.testing.memory_stream_pair()
    stream = TLSStream(ours, client_context, server_hostname=NAME)
    server = TLSStream(theirs, context, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(stream.do_handshake)
        nursery.start_soon(server.do_handshake)
    await block.run(trio=trio, stream=stream)
    assert capsys.readouterr().out == ""
    assert await server.receive_some() == b"are you still there?"
    await server.send_all(b"yes")
    assert await stream.receive_some() == b"yes"


@runs("connecting.rst", 'await stream.send_all(b"all of my question")')
async def test_connecting_half_close(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async def answer(stream: Stream) -> None:
        question = b"".join([chunk async for chunk in stream])
        await stream.send_all(b"the answer to " + question)

    async with serving(answer, context) as port, await connect(port, client_context) as stream:
        names = await block.run(stream=stream)
    assert names["answer"] == b"the answer to all of my question"


@runs("connecting.rst", 'context.load_cert_chain("alice.pem")')
async def test_connecting_client_certificate(
    block: Block, ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    alice = ca.issue_cert("alice@example.org")
    alice.private_key_and_cert_chain_pem.write_to_path("alice.pem")
    context, server_context = client_context_for(ca), server_context_for(ca.issue_cert(NAME))
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED

    # Without it, TLS 1.3 tells with what is received, as the page says.
    async with serving(echo, server_context) as port:
        async with await connect(port, client_context_for(ca)) as stream:
            await stream.send_all(b"hello")
            with pytest.raises(PeerAlertError, match="certificate_required"):
                await stream.receive_some()

        await block.run(context=context)
        await check_echo(await connect(port, context))
    server_context.verify_mode = ssl.CERT_OPTIONAL
    server_context.post_handshake_auth = True

    async def ask(stream: Stream) -> None:
        await stream.verify_client_post_handshake()
        await stream.send_all(b"thanks" if stream.getpeercert() else b"no")

    async with serving(ask, server_context) as port, await connect(port, context) as stream:
        assert await stream.receive_some() == b"thanks"


@runs("connecting.rst", "connector = TLSConnector(ssl_context=context, alpn_protocols=")
@pytest.mark.parametrize(
    ("offered", "output"), [(["h2"], "it speaks HTTP/2\n"), (["imap"], ""), (None, "")]
)
async def test_connecting_alpn(
    block: Block,
    offered: list[str] | None,
    output: str,
    client_context: ssl.SSLContext,
    context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if offered is not None:
        context.set_alpn_protocols(offered)
    async with serving(echo, context) as port:
        make = partial(connector_to, port, monkeypatch)
        names = await block.run(
            context=client_context,
            TLSConnector=lambda ssl_context, **options: make(context=ssl_context, **options),
        )
        await names["stream"].aclose()
    assert capsys.readouterr().out == output
    expected = None if output == "" else "h2"
    assert names["stream"].selected_alpn_protocol() == expected


async def test_starttls(client_context: ssl.SSLContext, context: ssl.SSLContext) -> None:
    starttls = example("starttls")

    async def serve(transport: trio.SocketStream) -> None:
        async with await starttls.upgrade_server(transport, context) as stream:
            await echo(stream)

    with trio.fail_after(LIMIT):
        async with tcp_pair() as (ours, theirs), trio.open_nursery() as nursery:
            nursery.start_soon(serve, theirs)
            await check_echo(await starttls.upgrade_client(ours, NAME, client_context))


async def test_starttls_refuses(client_context: ssl.SSLContext, context: ssl.SSLContext) -> None:
    starttls = example("starttls")
    with trio.fail_after(LIMIT):
        # Whoever is on the way puts a command behind the real one.
        async with tcp_pair() as (ours, theirs):
            await ours.send_all(b"MAIL FROM:<me>\r\nSTARTTLS\r\nRSET\r\n")
            with pytest.raises(TLSError, match="6 bytes in plaintext"):
                await starttls.upgrade_server(theirs, context)
            refusal = b"530 Must issue a STARTTLS command first\r\n"
            said = b"".join([data async for data in ours])
            assert said == b"220 server.example\r\n" + refusal
        # Or an answer, behind that of the server.
        for said, error in (
            (b"220 hi\r\n250-\r\n250 STARTTLS\r\n220 now\r\n250 ok\r\n", "8 bytes in plaintext"),
            (b"554 not now\r\n", "554 not now"),
            (b"220 hello\r\n250 SIZE\r\n", "does not offer TLS"),
        ):
            async with tcp_pair() as (ours, theirs):
                await theirs.send_all(said)
                with pytest.raises(trio.BrokenResourceError, match=error):
                    await starttls.upgrade_client(ours, NAME, client_context)


async def test_mail_to_a_real_server(
    ca: trustme.CA, client_context: ssl.SSLContext, tmp_path: Path
) -> None:
    """aiosmtpd prints what it gets."""
    pytest.importorskip("aiosmtpd", reason="aiosmtpd is not installed")
    pem = tmp_path / "server.pem"
    ca.issue_cert(HOST).private_key_and_cert_chain_pem.write_to_path(str(pem))
    log = tmp_path / "aiosmtpd.log"
    port = free_port()
    argv = (
        *(sys.executable, "-u", "-m", "aiosmtpd", "-n", "-l", f"{HOST}:{port}"),
        *("--tlscert", pem, "--tlskey", pem, "-c", "aiosmtpd.handlers.Debugging", "stdout"),
    )
    async with listening(port, log, *argv):
        await example("starttls").send_mail(
            HOST,
            port,
            client_context,
            sender="me@client.example",
            recipient="you@server.example",
            text=b"Subject: hello\r\n\r\nTo whom it may concern.\r\n.\r\nMe",
        )
    printed = log.read_text(encoding="utf-8")
    assert "Subject: hello\n" in printed
    assert "To whom it may concern.\n.\nMe\n" in printed


@asynccontextmanager
async def proxying(proxy: Any, port: int) -> AsyncIterator[None]:
    """Serve one CONNECT on a stream, and copy bytes both ways."""

    async def copy(source: Any, target: Any) -> None:
        async for chunk in source:
            await target.send_all(chunk)
        await target.send_eof()

    async def serve() -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += await proxy.receive_some()
        target = f"{NAME}:4433".encode()
        if not request.startswith(b"CONNECT " + target + b" HTTP/1.1\r\nHost: " + target + b"\r\n"):
            await proxy.send_all(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n")
            return
        await proxy.send_all(b"HTTP/1.1 200 OK\r\n\r\n")
        async with (
            await trio.open_tcp_stream(HOST, port) as server,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(copy, proxy, server)
            nursery.start_soon(copy, server, proxy)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("tls_in_tls", [False, True])
async def test_proxy(
    tls_in_tls: bool, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    proxy = example("proxy")
    async with serving(echo, context) as port, AsyncExitStack() as stack:
        for allowed in (True, False):
            ours: Any
            theirs: Any
            ours, theirs = await stack.enter_async_context(tcp_pair())
            if tls_in_tls:
                ours = TLSStream(ours, client_context, server_hostname=NAME)
                theirs = TLSStream(theirs, context, server_side=True)
            await stack.enter_async_context(proxying(theirs, port))
            if allowed:
                stream = await proxy.open_tunnel(ours, NAME, 4433, client_context)
                assert stream.is_cancel_safe
                await check_echo(stream)
            else:
                with pytest.raises(proxy.ProxyError, match="403 Forbidden"):
                    await proxy.open_tunnel(ours, "elsewhere.example", 4433, client_context)


################################################################
# Trusting
################################################################


def pem_file(directory: Path, ca: trustme.CA) -> str:
    path = directory / "our-ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


@runs("trust.rst", 'context = ssl.create_default_context(cafile="our-ca.pem")')
async def test_trust_our_authority(
    block: Block,
    ca: trustme.CA,
    context: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pem_file(tmp_path, ca)
    names = await block.run(ssl=ssl)
    assert names["context"].cert_store_stats()["x509_ca"] == 1, "and nobody else"
    async with serving(echo, context) as port:
        await check_echo(await connect(port, names["context"]))


@runs("trust.rst", "context = ssl.create_default_context()\ncontext.load_verify_locations")
async def test_trust_our_authority_too(
    block: Block,
    ca: trustme.CA,
    context: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = trustme.CA()
    (tmp_path / "system").mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", pem_file(tmp_path / "system", other))
    monkeypatch.chdir(tmp_path)
    pem_file(tmp_path, ca)
    names = await block.run(ssl=ssl)
    for server_context in (context, server_context_for(other.issue_cert(NAME))):
        async with serving(echo, server_context) as port:
            await check_echo(await connect(port, names["context"]))


async def test_system_store(
    ca: trustme.CA,
    context: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: Logged,
) -> None:
    pytest.importorskip("truststore", reason="truststore is not installed")
    system_store = example("system_store")
    async with serving(echo, context) as port:
        # One that the system does not trust is refused, and the server told why.
        with pytest.raises(CertificateError, match="the peer's certificate was refused"):
            await system_store.ask(HOST, port, b"", system_store.make_context())
        assert "(alert unknown_ca)" in await logged.receive_channel.receive()

        # OpenSSL, and so truststore, takes these for the system's files.
        monkeypatch.setenv("SSL_CERT_FILE", pem_file(tmp_path, ca))
        client_context = system_store.make_context()
        assert await system_store.ask(HOST, port, b"hello", client_context) == b"hello"
        with pytest.raises(CertificateError, match=r"the certificate is for .*, not localhost"):
            await system_store.ask("localhost", port, b"", client_context)

        connector = TLSConnector(ssl_context=client_context)
        for _ in range(2):
            await check_echo(await connector.connect(HOST, port))
    assert connector.session_cache.statistics().stored == 0
    assert context.session_stats()["hits"] == 0


async def test_what_the_page_says_of_truststore() -> None:
    pytest.importorskip("truststore", reason="truststore is not installed")
    program = """
import ssl, truststore
from trio_tlsbio import TLSConnection
before = ssl.create_default_context()
truststore.inject_into_ssl()
TLSConnection(ssl.create_default_context(), server_hostname="a.example")
try:
    TLSConnection(before, server_hostname="a.example")
except TypeError as exc:
    print(exc)
server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server.num_tickets = 5
server.sni_callback = print
print(server._ctx.num_tickets, server._ctx.sni_callback)
"""
    with trio.fail_after(60):
        done = await trio.run_process([sys.executable, "-c", program], capture_stdout=True)
    assert done.stdout.decode().splitlines() == [
        "ssl_context must be an ssl.SSLContext, not SSLContext",
        "2 None",
    ]


@runs("trust.rst", "context = ssl.create_default_context(cafile=certifi.where())")
async def test_certifi(
    block: Block,
    ca: trustme.CA,
    context: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: Logged,
) -> None:
    certifi = pytest.importorskip("certifi", reason="certifi is not installed")
    names = await block.run(ssl=ssl, certifi=certifi)
    assert names["context"].cert_store_stats()["x509_ca"] > 50
    async with serving(echo, context) as port:
        with pytest.raises(CertificateError):
            await check_echo(await connect(port, names["context"]))
        assert "(alert unknown_ca)" in await logged.receive_channel.receive()
        # A list that has our authority.
        path = pem_file(tmp_path, ca)
        monkeypatch.setattr(certifi, "where", lambda: path)
        names = await block.run(ssl=ssl, certifi=certifi)
        await check_echo(await connect(port, names["context"]))


async def test_pinning(client_context: ssl.SSLContext, context: ssl.SSLContext) -> None:
    pinning = example("pinning")
    received: list[bytes] = []

    async def listen(stream: Stream) -> None:
        async for chunk in stream:
            received.append(bytes(chunk))
            await stream.send_all(chunk)

    async with serving(listen, context) as port:
        async with await connect(port, client_context) as stream:
            await stream.do_handshake()
            certificate = stream.getpeercert(binary_form=True)
            await stream.send_all(b"first")
            await stream.receive_some()
        assert isinstance(certificate, bytes)
        pin = hashlib.sha256(certificate).hexdigest()
        await check_echo(await pinning.connect(HOST, port, {"another", pin}, client_context))
        with pytest.raises(pinning.WrongCertificateError, match=pin):
            await pinning.connect(HOST, port, {"another"}, client_context)
    assert received == [b"first", b"hello"], "nothing was sent to the wrong one"


@runs("trust.rst", "tcp_stream = await trio.open_tcp_stream(")
async def test_trust_another_name(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with serving(echo, context) as port:
        names = await block.run(trio=trio, port=port, TLSStream=TLSStream, context=client_context)
        await check_echo(names["stream"])
        assert names["stream"].handshake.matched_name == NAME


################################################################
# Servers
################################################################


@runs("servers.rst", "sock = trio.socket.from_stdlib_socket")
async def test_servers_systemd(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    sock = socket.create_server((HOST, 0))
    port = sock.getsockname()[1]
    names = {
        "trio": trio,
        "socket": SimpleNamespace(socket=lambda fileno: sock),  # descriptor 3 is taken here
        "TLSListener": TLSListener,
        "context": context,
        "serve_tls_listeners": serve_tls_listeners,
        "echo": echo,
    }
    async with bounded_nursery() as nursery:
        nursery.start_soon(partial(block.run, **names))
        await check_echo(await connect(port, client_context))
        nursery.cancel_scope.cancel()


@runs("servers.rst", "async def handler(stream):\n    with trio.move_on_after(60)")
async def test_servers_time_limit(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    names = await block.run(trio=trio)
    async with serving(names["handler"], context) as port:
        await check_echo(await connect(port, client_context))


@runs("servers.rst", "def on_error(stream, exc):")
async def test_servers_on_error(
    block: Block,
    client_context: ssl.SSLContext,
    context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    started, listeners = trio.open_memory_channel[Any](1)

    async def serve(handler: Any, port: int, context: ssl.SSLContext, **options: Any) -> None:
        assert port == 4433
        async with serving(handler, context, **options) as chosen:
            await started.send(chosen)
            await trio.sleep_forever()

    async def fail_once(stream: Stream) -> None:
        if await stream.receive_some() == b"fail":
            raise ZeroDivisionError
        await stream.send_all(b"hello")

    names = {"logging": logging, "serve_tls_over_tcp": serve, "echo": fail_once}
    async with bounded_nursery() as nursery:
        nursery.start_soon(partial(block.run, **names, context=context))
        port = await listeners.receive()
        async with await connect(port, client_context) as stream:
            await stream.send_all(b"fail")
            with pytest.raises(TruncationError):
                await stream.receive_some()
        await check_echo(await connect(port, client_context))
        nursery.cancel_scope.cancel()
    assert "a handler has failed" in caplog.text
    assert "ZeroDivisionError" in caplog.text


@runs("servers.rst", "async def handler(stream):\n    try:")
async def test_servers_trio_serve_listeners(
    block: Block,
    client_context: ssl.SSLContext,
    context: ssl.SSLContext,
    capsys: pytest.CaptureFixture[str],
) -> None:
    names = await block.run(talk=echo, TLSError=TLSError)
    listener = TLSListener((await trio.open_tcp_listeners(0, host=HOST))[0], context)
    async with bounded_nursery() as nursery:
        await nursery.start(trio.serve_listeners, names["handler"], [listener])
        async with await trio.open_tcp_stream(HOST, port_of(listener)) as plain:
            await plain.send_all(b"GET / HTTP/1.1\r\n\r\n")
            async for _ in plain:  # the alert
                pass
        await check_echo(await connect(port_of(listener), client_context))
        nursery.cancel_scope.cancel()
    assert capsys.readouterr().out == "lost a client: the peer spoke plain HTTP to a TLS port\n"


async def certificate_at(port: int, context: ssl.SSLContext) -> object:
    async with await connect(port, context) as stream:
        await stream.do_handshake()
        return stream.getpeercert(binary_form=True)


@runs("servers.rst", "context = ReloadingContext(make_context, files=")
async def test_servers_reload_files(
    block: Block, ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def renew() -> bytes:
        cert = ca.issue_cert(NAME)
        cert.private_key_pem.write_to_path("server.key")
        cert.cert_chain_pems[0].write_to_path("server.pem")
        return ssl.PEM_cert_to_DER_cert(cert.cert_chain_pems[0].bytes().decode())

    first = renew()
    names = await block.run(
        ReloadingContext=ReloadingContext, make_context=example("reloading").make_context
    )
    async with serving(echo, names["context"]) as port:
        assert await certificate_at(port, client_context_for(ca)) == first
        second = renew()
        assert await certificate_at(port, client_context_for(ca)) == second


@runs("servers.rst", "def make_context():\n    contexts = {}")
async def test_servers_several_names(
    block: Block, ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.example", "b.example"):
        ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(f"{name}.pem")
    names = await block.run(ssl=ssl, sni_context=sni_context, ReloadingContext=ReloadingContext)
    async with serving(echo, names["context"]) as port:
        for name in ("a.example", "b.example"):
            await check_echo(await connect(port, client_context_for(ca), name))


@runs("servers.rst", "context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=")
async def test_servers_client_certificates(
    block: Block, ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cert = ca.issue_cert(NAME)
    cert.private_key_pem.write_to_path("server.key")
    cert.cert_chain_pems[0].write_to_path("server.pem")
    ca.cert_pem.write_to_path("clients-ca.pem")
    names = await block.run(ssl=ssl)
    async with serving(echo, names["context"]) as port:
        async with await connect(port, client_context_for(ca)) as stream:
            with pytest.raises(PeerAlertError, match="certificate_required"):
                await stream.receive_some()
        context = client_context_for(ca)
        ca.issue_cert("alice@example.org").configure_cert(context)
        await check_echo(await connect(port, context))


@runs("servers.rst", 'logger = logging.getLogger("trio_tlsbio.server")')
async def test_servers_logging(block: Block, context: ssl.SSLContext, logged: Logged) -> None:
    async def knock(port: int) -> None:
        async with await trio.open_tcp_stream(HOST, port) as stream:
            await stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
            async for _ in stream:
                pass

    logger = logging.getLogger("trio_tlsbio.server")
    try:
        async with serving(echo, context) as port:
            await knock(port)
            assert "plain HTTP" in await logged.receive_channel.receive()
            await block.run(logging=logging)
            await knock(port)
    finally:
        logger.setLevel(logging.NOTSET)
    assert logged.receive_channel.statistics().current_buffer_used == 0


################################################################
# The others
################################################################


@runs("sessions.rst", "def tell(retry: trio_tlsbio.Retry)")
async def test_sessions_on_retry(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    names = await block.run(trio_tlsbio=trio_tlsbio)
    names["tell"](Retry(1, 2.0, OSError("no way")))
    assert capsys.readouterr().out == "reconnecting in 2 s: no way\n"


@runs("performance.rst", "tcp.socket.setsockopt(")
async def test_performance_not_sent_low_water_mark(block: Block) -> None:
    if not hasattr(trio.socket, "TCP_NOTSENT_LOWAT"):
        pytest.skip("this system has no TCP_NOTSENT_LOWAT")
    async with tcp_pair() as (tcp, _):
        option = trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT
        assert tcp.getsockopt(*option) == 16 * 1024  # as the page says
        await block.run(tcp=tcp, trio=trio)
        assert tcp.getsockopt(*option) == 0


################################################################
# Text
################################################################


def text_blocks(page: str) -> list[Block]:
    return [block for block in BLOCKS if block.page == page and block.language == "text"]


def test_closing_quotes_the_code() -> None:
    (block,) = text_blocks("closing.rst")
    quoted = " ".join(block.text.split())
    assert f"\n``{quoted}``\n" in (DOCS / "errors.rst").read_text(encoding="utf-8")


################################################################
# Commands
################################################################


def commands(block: Block) -> list[str]:
    """Return the commands of a block for a shell."""
    lines = block.text.replace("\\\n", "").splitlines()
    if block.language == "console":
        return [line.removeprefix("$ ") for line in lines if line.startswith("$ ")]
    return [line for line in lines if line and not line.startswith("#")]


def benchmark_parser() -> argparse.ArgumentParser:
    """Build the parser of the benchmarks, which can't be imported without what they measure."""
    tree = ast.parse((ROOT / "benchmarks" / "__main__.py").read_text(encoding="utf-8"))
    (main,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == "main")
    lines = [ast.unparse(n) for n in main.body if re.match(r"parser( =|\.add)", ast.unparse(n))]
    names: dict[str, Any] = {"argparse": argparse, "Path": Path, "GROUPS": ["bulk"], "__doc__": ""}
    exec("\n".join(lines), names)
    parser = names["parser"]
    assert isinstance(parser, argparse.ArgumentParser)
    return parser


def check_pip(args: list[str]) -> None:
    assert args[0] == "install"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for arg in args[1:]:
        if arg.startswith("-"):
            assert arg in {"-q", "-e"}
            continue
        match = re.fullmatch(r"(?:\.|\.\./trio-tlsbio|trio-tlsbio)(?:\[([\w,]+)\])?", arg)
        assert match is not None, arg
        extras = match[1].split(",") if match[1] else []
        assert set(extras) <= project["optional-dependencies"].keys()


def check_command(words: list[str]) -> None:
    """Let the real parser read a command; raise if nobody here knows it."""
    program = words[0].removeprefix(".venv/bin/")
    match [program, *words[1:]]:
        case ["python" | "python3", "-m", "trio_tlsbio", *args] | ["trio-tlsbio", *args]:
            _parser().parse_args(args)
        case ["python", "benchmarks", *args]:
            benchmark_parser().parse_args(args)
        case ["python3", "-m", "venv", ".venv"] | [".", ".venv/bin/activate"]:
            pass
        case ["python", "-m", "pytest" | "trustme"] | ["mkdir" | "cd" | "echo", _]:
            pass
        case ["python", name] if name.endswith(".py"):
            assert f":caption: {name}\n" in (DOCS / "tutorial.rst").read_text(encoding="utf-8")
        case ["pip", *args]:
            check_pip(args)
        case _:
            pytest.fail(f"no test knows the command {shlex.join(words)}")


SHELL = [block for block in BLOCKS if block.language in {"sh", "console"}]


@pytest.mark.parametrize("block", SHELL, ids=str)
def test_commands(block: Block, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    block.ran = True
    for line in commands(block):
        for command in re.split(r" && | \| ", line):
            words = shlex.split(command)
            for word in words:  # what has to be there
                if word.endswith((".pem", ".key")):
                    Path(word).touch()
            if "--directory" in words:
                Path(words[words.index("--directory") + 1]).mkdir(exist_ok=True)
            check_command(words)


def test_wrong_commands_are_found() -> None:
    for command in (
        "python -m trio_tlsbio serve --colour",
        "python benchmarks --slowly",
        "pip install '.[everything]'",
        "rm -r /",
        "python unknown.py",
    ):
        with pytest.raises((SystemExit, AssertionError, pytest.fail.Exception)):
            check_command(shlex.split(command))


################################################################
# The tutorial, from its first line to its last
################################################################

TUTORIAL = list(rst_blocks(DOCS / "tutorial.rst"))


def normal(text: str) -> str:
    """Replace what is different each time: ports, and delays."""
    text = re.sub(r"(127\.0\.0\.1|\[::1\]):\d+", "HOST:PORT", text)
    text = re.sub(r"localhost:\d+", "localhost:PORT", text)
    return re.sub(r"\d\.\d s\b", "N s", text)


def check_output(shown: str, real: str) -> None:
    checker = doctest.OutputChecker()
    shown, real = normal(shown), normal(real)
    assert checker.check_output(shown, real, doctest.ELLIPSIS), f"{real}\n--- is not ---\n{shown}"


def shown_for(command: str, number: int = 0) -> str:
    """Return the output that the tutorial shows for a command."""
    found = [
        block.text.partition("\n")[2]
        for block in TUTORIAL
        if block.text.startswith(f"$ {command}\n")
    ]
    return found[number]


class Program:
    """One of the tutorial's programs while it runs."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = ""

    async def read_until(self, pattern: str) -> None:
        """Read what it says until a pattern is there."""
        assert self.process.stdout is not None
        while not re.search(pattern, self.output):
            chunk = await self.process.stdout.receive_some()
            assert chunk, self.output
            self.output += chunk.decode()

    async def interrupt(self) -> None:
        """Press Ctrl-C, and read the rest."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGINT)
        async for chunk in self.process.stdout:
            self.output += chunk.decode()
        await self.process.wait()


@pytest.fixture
def tutorial(tmp_path: Path) -> Path:
    """The directory of the tutorial, on a port of its own."""
    port = free_port()
    directory = tmp_path / "hello-tls"
    directory.mkdir()
    (directory / "port").write_text(str(port))
    return directory


def save(directory: Path, name: str, number: int = 0) -> None:
    """Save a program as the tutorial says: the first, or a later one of that name."""
    programs = [block for block in TUTORIAL if block.options.get("caption") == name]
    include = programs[number].include
    assert include is not None
    text = (DOCS / include).read_text(encoding="utf-8")
    port = (directory / "port").read_text()
    assert text.count("4433") == 1
    # A reader waits for a second each time; here it has to be more than reconnect()'s delay.
    text = text.replace("4433", port).replace("trio.sleep(1)", "trio.sleep(0.3)")
    (directory / name).write_text(text, encoding="utf-8")


@asynccontextmanager
async def program(directory: Path, name: str) -> AsyncIterator[Program]:
    """Run a program, both of its outputs in one."""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-u", name],
                cwd=directory,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        )
        yield Program(process)
        nursery.cancel_scope.cancel()


async def run(directory: Path, *args: str) -> str:
    """Run a program to its end, and return all that it says."""
    done = await trio.run_process(
        [sys.executable, *args],
        cwd=directory,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no SIGINT for processes")
async def test_tutorial(tutorial: Path) -> None:
    with trio.fail_after(90):
        check_output(shown_for("python -m trustme"), await run(tutorial, "-m", "trustme"))
        save(tutorial, "server.py")
        async with program(tutorial, "server.py") as server:
            await server.read_until("listening\n")
            check_output(shown_for("python server.py"), server.output)
            save(tutorial, "client.py")
            real = await run(tutorial, "client.py")
            # OpenSSL's own error, its cause, comes first in a traceback.
            _, _, real = real.rpartition("direct cause of the following exception:\n\n")
            check_output(shown_for("python client.py"), real)
            await server.read_until("unknown_ca\\)\n")
            (log,) = (block for block in TUTORIAL if block.text.startswith("connection from"))
            check_output("listening\n" + log.text, server.output)
            save(tutorial, "client.py", 1)
            check_output(shown_for("python client.py", 1), await run(tutorial, "client.py"))
            save(tutorial, "often.py")
            check_output(shown_for("python often.py"), await run(tutorial, "often.py"))

            save(tutorial, "forever.py")
            async with program(tutorial, "forever.py") as client:
                await client.read_until("(b'HELLO'\n){2}")
                await server.interrupt()
                await client.read_until("(trying again.*\n){2}")
                async with program(tutorial, "server.py") as server:
                    await server.read_until("listening\n")
                    await client.read_until("connected(.*\n)*connected.*\nb'HELLO'\n")
                    await client.interrupt()
                    await server.interrupt()
    # How often it says hello, and tries again, is a matter of time.
    real = client.output.partition("Traceback")[0].rpartition("\n")[0]
    assert without_repetitions(real) == without_repetitions(shown_for("python forever.py"))


def without_repetitions(text: str) -> list[str]:
    return [line for line, _ in itertools.groupby(normal(text).splitlines())]


################################################################
# No block is left out
################################################################


def test_every_block_is_run() -> None:
    for path in (ROOT / "tests").rglob("test_*.py"):  # tests of blocks may be anywhere
        if re.search(r"^@runs\(", path.read_text(encoding="utf-8"), re.MULTILINE):
            importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    examples = {path.name for path in (DOCS / "examples").glob("*.py")}
    readme = [block for block in BLOCKS if block.page == "README.md" and block.language == "python"]
    # See above, test_errors_page.py and test_connect_cli.py.
    texts = {"cli.rst", "closing.rst", "errors.rst"}
    for block in BLOCKS:
        if block.include is not None:
            # test_docs.py sees that each of them has a test.
            assert block.include.removeprefix("examples/") in examples, block
        elif block.language == "python" and block not in readme:
            assert block in CLAIMED, f"{block} is run by no test: see runs() in docblocks.py"
        elif block.language in {"json", "text"}:
            assert block.page in texts, f"{block} is compared with nothing"
        else:
            assert block in readme or block in SHELL, f"{block}: {block.language}?"


def test_examples_in_docstrings_name_what_there_is() -> None:
    """They are pieces, and not run; but they are Python, and their arguments have real names."""
    package = Path(trio_tlsbio.__file__).parent
    blocks = [block for path in package.glob("*.py") for block in docstring_blocks(path)]
    assert len(blocks) >= 5
    for block in blocks:
        compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
        for node in ast.walk(ast.parse(block.text)):
            if not isinstance(node, ast.Call):
                continue
            called = getattr(trio_tlsbio, ast.unparse(node.func), None)
            if called is not None:
                names = {keyword.arg: None for keyword in node.keywords if keyword.arg}
                inspect.signature(called).bind(*node.args, **names)


class Page(HTMLParser):
    """What a built page has: code, names to link to, and links."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.blocks = 0
        self.names: set[str] = set()
        self.links: list[str] = []
        self._lists: list[bool] = []  # the definition lists that are open: is it of autodoc's?
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "dl":
            self._lists.append(values.get("class", "").startswith("py "))
        if not any(self._lists):  # docstrings are looked at for themselves
            self.blocks += "highlight-" in values.get("class", "")
        self.names |= {values[name] for name in ("id", "name") if values.get(name)}
        self.links += [values[name] for name in ("href", "src") if values.get(name)]

    def handle_endtag(self, tag: str) -> None:
        if tag == "dl":
            self._lists.pop()


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as Sphinx builds it."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed")
    pytest.importorskip("furo", reason="furo, the theme of the docs, is not installed")
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-E"]
    command += ["-d", str(directory / "doctrees"), str(DOCS), str(directory / "html")]
    build = subprocess.run(command, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stdout + build.stderr
    return directory / "html"


def test_every_block_is_found(site: Path) -> None:
    """Sphinx shows as many blocks on each page as are found here."""
    for path in DOCS.glob("*.rst"):
        if path.stem != "changelog":  # which is made of Markdown
            blocks = [block for block in BLOCKS if block.page == path.name]
            assert Page(site / f"{path.stem}.html").blocks == len(blocks), path.name


def dead_links(site: Path) -> list[str]:
    """Return the links into the site itself that lead nowhere."""
    pages = {path.resolve(): Page(path) for path in site.glob("**/*.html")}
    dead = []
    for path, page in pages.items():
        for link in page.links:
            url = urllib.parse.urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / urllib.parse.unquote(url.path)).resolve() if url.path else path
            fragment = urllib.parse.unquote(url.fragment)
            if not target.exists() or (
                fragment and target in pages and fragment not in pages[target].names
            ):
                dead.append(f"{path.name}: {link}")
    return dead


def test_no_link_is_dead(site: Path) -> None:
    assert len(Page(site / "howto.html").links) > 50
    assert not dead_links(site)


def test_a_dead_link_would_be_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<p id="here"><a href="#here"><a href="#gone"><a href="b.html#x"><a href="c.html">'
        '<a href="https://elsewhere.example/#y"><img src="d.svg">'
    )
    (tmp_path / "b.html").write_text('<p id="other">')
    links = ["#gone", "b.html#x", "c.html", "d.svg"]
    assert dead_links(tmp_path) == [f"a.html: {link}" for link in links]


@pytest.fixture
def diagrams(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The extension that draws them."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed")
    monkeypatch.syspath_prepend(str(DOCS / "_ext"))
    return importlib.import_module("diagrams")


def test_the_stair_is_the_contract(site: Path, diagrams: Any) -> None:
    rooms = [room for floor in diagrams.layers() for room in floor]
    package = Path(trio_tlsbio.__file__).parent
    there = {path.stem for path in package.iterdir() if path.suffix == ".py" or path.is_dir()}
    assert set(rooms) == there - {"__init__", "__pycache__"}
    page = (site / "design.html").read_text(encoding="utf-8")
    for room in rooms:
        assert f">{room}</text>" in page
        assert diagrams.purpose(room), room


def test_the_flow_names_what_there_is(site: Path, diagrams: Any) -> None:
    page = (site / "design.html").read_text(encoding="utf-8")
    for stages in diagrams.FLOW.values():
        for name, _ in stages:
            assert f">{name}</text>" in page
            owner, _, member = name.removesuffix("()").partition(".")
            known = getattr(trio_tlsbio, owner)
            assert hasattr(known, member) or member in inspect.get_annotations(known)
