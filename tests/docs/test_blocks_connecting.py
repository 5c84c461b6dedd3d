"""The code of quickstart.rst, connecting.rst and sessions.rst."""

from __future__ import annotations

import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import trio_tlsbio
from tests.docblocks import Block, example, runs
from tests.helpers import (
    HOST,
    LIMIT,
    client_context_for,
    echo,
    server_context_for,
    serving,
    tcp_pair,
)
from tests.programs import free_port, listening
from trio_tlsbio import (
    PeerAlertError,
    ReloadingContext,
    Retry,
    TLSConnector,
    TLSError,
    TLSSession,
    TLSStream,
    serve_tls_over_tcp,
)
from trio_tlsbio.ticket_keys import TicketKeys

from .peers import NAME, Stream, bounded_nursery, check_echo, connect, connector_to

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


@runs("connecting.rst", "def make_context():")
async def test_connecting_renewed_client_certificate(
    block: Block, ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def renew(name: str) -> None:
        cert = ca.issue_cert(name)
        cert.cert_chain_pems[0].write_to_path("tls.crt")
        cert.private_key_pem.write_to_path("tls.key")

    async def tell(stream: Stream) -> None:
        await stream.send_all(stream.handshake.certificate_names[0].encode())

    renew("one.example")
    server_context = server_context_for(ca.issue_cert(NAME, HOST))
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    ours = SimpleNamespace(create_default_context=lambda: client_context_for(ca))
    names = await block.run(ssl=ours, TLSConnector=TLSConnector, ReloadingContext=ReloadingContext)
    async with serving(tell, server_context) as port:
        for name in ("one.example", "two.example"):
            renew(name)
            async with await names["connector"].connect(HOST, port) as stream:
                assert await stream.receive_some() == name.encode()


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


async def test_starttls_limits_a_reply() -> None:
    starttls = example("starttls")
    with trio.fail_after(LIMIT):
        async with tcp_pair() as (ours, theirs):
            for lines in (100, 101):
                await theirs.send_all(b"250-\r\n" * (lines - 1) + b"250 \r\n")
            dialogue = starttls.Dialogue(ours)
            assert len(await dialogue.reply(b"250")) == 100
            with pytest.raises(trio.BrokenResourceError, match="too many lines"):
                await dialogue.reply(b"250")


@pytest.mark.parametrize("is_silent", [False, True])
async def test_starttls_handler(
    is_silent: bool,
    client_context: ssl.SSLContext,
    context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """It outlives a client that says nothing, and ends TLS for one that does."""
    starttls = example("starttls")
    ours, theirs = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(starttls.handle, theirs, context)
        if not is_silent:
            stream = await starttls.upgrade_client(ours, NAME, client_context)
            await stream.send_all(b"EHLO client.example\r\n")
            assert await stream.receive_some() == b"250 server.example\r\n"
            assert await stream.receive_some() == b""  # and no TruncationError
            await stream.aclose()
    failed = ["a client failed: TooSlowError()"] if is_silent else []
    assert caplog.messages == failed


@runs("connecting.rst", 'await dialogue.ask(b"STARTTLS", b"220")')
async def test_starttls_resumes(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    starttls = example("starttls")
    connector = TLSConnector(ssl_context=client_context)

    async def upgrade(said: bytes) -> Stream:
        dialogue = starttls.Dialogue(ours)
        await theirs.send_all(said)
        known = {"dialogue": dialogue, "connector": connector, "host": NAME, "port": 25}
        stream: Stream = (await block.run(trio=trio, **known))["stream"]
        return stream

    async def serve() -> None:
        assert await theirs.receive_some() == b"STARTTLS\r\n"
        await echo(TLSStream(theirs, context, server_side=True))

    with trio.fail_after(LIMIT):
        for is_resumed in (False, True):
            async with tcp_pair() as (ours, theirs), trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                stream = await upgrade(b"220 Go ahead\r\n")
                assert stream.session_reused == is_resumed
                await check_echo(stream)
        async with tcp_pair() as (ours, theirs):
            with pytest.raises(trio.BrokenResourceError, match="more than its answer"):
                await upgrade(b"220 Go ahead\r\n250 ok\r\n")


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
# Sessions
################################################################


@runs("sessions.rst", "def tell(retry: trio_tlsbio.Retry)")
async def test_sessions_on_retry(block: Block, capsys: pytest.CaptureFixture[str]) -> None:
    names = await block.run(trio_tlsbio=trio_tlsbio)
    names["tell"](Retry(1, 2.0, OSError("no way")))
    assert capsys.readouterr().out == "reconnecting in 2.0 s: no way\n"
    names["tell"](Retry(0, 0.25, None))
    assert capsys.readouterr().out == "reconnecting in 0.2 s: the connection has ended\n"


async def check_shared_keys(block: Block, ca: trustme.CA, **names: Any) -> None:
    """Serve by two contexts that a block makes, one after the other, and resume."""
    client_context = client_context_for(ca)
    cert = ca.issue_cert(NAME)
    cert.private_key_pem.write_to_path("server.key")
    cert.cert_chain_pems[0].write_to_path("server.pem")
    path = trio.Path("tickets.key")
    await path.touch(mode=0o600)
    sessions: list[TLSSession] = []
    for secret, reused in ((b"a", False), (b"a", True), (b"b", False), (b"b", True)):
        await path.write_bytes(secret * 79 + b"z")
        ran = await block.run(ssl=ssl, ReloadingContext=ReloadingContext, **names)
        async with serving(echo, ran["context"]) as port:
            stream = TLSStream(
                await trio.open_tcp_stream(HOST, port),
                client_context,
                server_hostname=NAME,
                session=sessions[-1] if sessions else None,
                on_session=sessions.append,
            )
            await check_echo(stream)
            assert stream.session_reused == reused


@pytest.mark.where(TicketKeys.is_available(), "this Python does not let us at its contexts")
@runs("sessions.rst", "context = ReloadingContext(\n")
async def test_sessions_shared(
    block: Block, ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await check_shared_keys(block, ca, make_context=example("reloading").make_context)


@pytest.mark.where(TicketKeys.is_available(), "this Python does not let us at its contexts")
@runs("sessions.rst", "from trio_tlsbio.ticket_keys import TicketKeys")
async def test_sessions_shared_for_a_purpose(
    block: Block, ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    await check_shared_keys(block, ca)
