"""The code of servers.rst and performance.rst."""

from __future__ import annotations

import logging
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from tests.docblocks import Block, example, runs
from tests.helpers import HOST, client_context_for, echo, port_of, serving, tcp_pair
from trio_tlsbio import (
    ClientHello,
    Drain,
    HandshakeInfo,
    PeerAlertError,
    RefuseHandshake,
    ReloadingContext,
    TLSError,
    TLSListener,
    TLSStream,
    TruncationError,
    TrustedProxies,
    contexts_by_name,
    open_tls_over_tcp_listeners,
    read_client_hello,
    serve_tls_listeners,
)

from .peers import NAME, Logged, Stream, bounded_nursery, check_echo, connect


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


@runs("servers.rst", "hello, received = await read_client_hello")
async def test_servers_received(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with tcp_pair() as (client_transport, tcp_stream):
        client = TLSStream(client_transport, client_context, server_hostname=NAME)
        names: dict[str, Any] = {"read_client_hello": read_client_hello, "TLSStream": TLSStream}
        async with bounded_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            names = await block.run(**names, tcp_stream=tcp_stream, context=context)
            await names["stream"].do_handshake()
        assert names["hello"].server_name == NAME


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


class ProtocolError(Exception):
    """A client has broken the handler's own protocol."""


@runs(
    "servers.rst",
    "async def handler(stream):\n    try:\n        await talk(stream)\n    except Pro",
)
async def test_servers_bad_protocol(
    block: Block,
    client_context: ssl.SSLContext,
    context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def talk(stream: Stream) -> None:
        async for data in stream:
            if not data.isascii():
                raise ProtocolError("not ASCII")
            await stream.send_all(data)

    names = await block.run(talk=talk, ProtocolError=ProtocolError, logging=logging)
    async with serving(names["handler"], context) as port:
        async with await connect(port, client_context) as stream:
            await stream.send_all(b"\xff")
            with pytest.raises(TruncationError):
                await stream.receive_some()
        await check_echo(await connect(port, client_context))
    assert [record.getMessage() for record in caplog.records] == ["a bad client: not ASCII"]


@asynccontextmanager
async def served(block: Block, **names: Any) -> AsyncIterator[int]:
    """Run a block that serves, on a free port instead of its own; the value is the port."""
    started, listeners = trio.open_memory_channel[Any](1)

    async def serve(handler: Any, port: int, context: Any, **options: Any) -> None:
        assert port == 443
        async with serving(handler, context, **options) as chosen:
            await started.send(chosen)
            await trio.sleep_forever()

    async with bounded_nursery() as nursery:
        names = {"serve_tls_over_tcp": serve, "handler": echo} | names
        nursery.start_soon(partial(block.run, **names))
        yield await listeners.receive()
        nursery.cancel_scope.cancel()


@runs("servers.rst", "proxies = TrustedProxies(")
async def test_servers_proxy_protocol(block: Block, context: ssl.SSLContext) -> None:
    async with served(block, context=context, TrustedProxies=TrustedProxies) as port:
        stream = await trio.open_tcp_stream(HOST, port)
        assert await stream.receive_some() == b""  # this host is none of the proxies
        await stream.aclose()


@runs("servers.rst", "async def choose(hello: ClientHello)")
async def test_servers_chosen_context(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async def find_tenant(name: str | None) -> Any:
        return SimpleNamespace(ssl_context=context) if name == NAME else None

    names: dict[str, Any] = {"ClientHello": ClientHello, "RefuseHandshake": RefuseHandshake}
    async with served(block, ssl=ssl, find_tenant=find_tenant, **names) as port:
        await check_echo(await connect(port, client_context))
        async with await connect(port, client_context, "other.example") as stream:
            with pytest.raises(PeerAlertError, match="unrecognized_name"):
                await stream.do_handshake()


@runs("servers.rst", 'context.set_alpn_protocols(["h2", "http/1.1"])')
async def test_servers_strict_alpn(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with served(block, context=context) as port:
        client_context.set_alpn_protocols(["http/1.1"])
        await check_echo(await connect(port, client_context))
        client_context.set_alpn_protocols(["xmpp-client"])
        async with await connect(port, client_context) as stream:
            with pytest.raises(PeerAlertError, match="no_application_protocol"):
                await stream.do_handshake()


@runs("servers.rst", "async def verify(handshake: HandshakeInfo)")
async def test_servers_verify_peer(
    block: Block, ca: trustme.CA, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.issue_cert("alice@example.org").configure_cert(client_context)
    answers = iter([True, False])

    async def is_allowed(certificate: bytes) -> bool:
        assert isinstance(certificate, bytes)
        return next(answers)

    names = {"HandshakeInfo": HandshakeInfo, "is_allowed": is_allowed, "context": context}
    async with served(block, **names) as port:
        await check_echo(await connect(port, client_context))
        stream = await connect(port, client_context)
        with pytest.raises(TLSError):
            await stream.receive_some()
        await trio.aclose_forcefully(stream)


@runs("servers.rst", "async def handler(stream):\n    try:\n        async with stream:")
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
            async for _ in plain:
                pass
        await check_echo(await connect(port_of(listener), client_context))
        nursery.cancel_scope.cancel()
    assert (
        capsys.readouterr().out
        == "lost a client: the client did not speak TLS: it sent an HTTP request\n"
    )


@runs("servers.rst", "async def on_plaintext(stream: trio.SocketStream, received: bytes)")
async def test_servers_plaintext(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with bounded_nursery() as nursery:
        ports = trio.open_memory_channel[int](1)

        async def serve(handler: Any, _port: int, context: ssl.SSLContext, **options: Any) -> None:
            async with serving(handler, context, **options) as port:
                ports[0].send_nowait(port)
                await trio.sleep_forever()

        nursery.start_soon(
            partial(block.run, trio=trio, serve_tls_over_tcp=serve, handler=echo, context=context)
        )
        port = await ports[1].receive()
        async with await trio.open_tcp_stream(HOST, port) as plain:
            await plain.send_all(b"GET / HTTP/1.1\r\n\r\n")
            answer = b"".join([bytes(part) async for part in plain])
        assert answer.startswith(b"HTTP/1.1 400 ")
        await check_echo(await connect(port, client_context))
        nursery.cancel_scope.cancel()


@runs("servers.rst", "drain = Drain()\nasync with trio.open_nursery()")
async def test_servers_drain_end(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    drains: list[Drain] = []
    ports = trio.open_memory_channel[int](1)
    told = trio.Event()

    def make_drain() -> Drain:
        drains.append(Drain())
        return drains[0]

    async def handler(stream: Stream) -> None:
        while data := await drains[0].receive_some(stream):
            await stream.send_all(data)

    async def serve(handler: Any, _port: int, context: ssl.SSLContext, drain: Drain) -> None:
        listeners = await open_tls_over_tcp_listeners(0, context, host=HOST)
        ports[0].send_nowait(port_of(listeners))
        await serve_tls_listeners(handler, listeners, drain=drain)

    async with bounded_nursery() as nursery:
        nursery.start_soon(
            partial(
                block.run,
                trio=trio,
                partial=partial,
                serve_tls_over_tcp=serve,
                Drain=make_drain,
                handler=handler,
                context=context,
                wait_for_the_end=told.wait,
            )
        )
        async with await connect(await ports[1].receive(), client_context) as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
            told.set()
            assert await stream.receive_some() == b""


@runs("servers.rst", "await serve_tls_over_tcp(handler, 443, context, drain=drain, max_conn")
async def test_servers_connection_age(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    drain = Drain()
    ports = trio.open_memory_channel[int](1)

    async def handler(stream: Stream) -> None:
        assert await drain.receive_some(stream) == b""

    async def serve(
        handler: Any, _port: int, context: ssl.SSLContext, max_connection_age: int, **options: Any
    ) -> None:
        age = max_connection_age / 100_000
        async with serving(handler, context, max_connection_age=age, **options) as port:
            ports[0].send_nowait(port)
            await trio.sleep_forever()

    async with bounded_nursery() as nursery:
        names = {"serve_tls_over_tcp": serve, "handler": handler, "context": context}
        nursery.start_soon(partial(block.run, **names, drain=drain))
        async with await connect(await ports[1].receive(), client_context) as stream:
            assert await stream.receive_some() == b""
        nursery.cancel_scope.cancel()


async def certificate_at(port: int, context: ssl.SSLContext, name: str = NAME) -> object:
    async with await connect(port, context, name) as stream:
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


@runs("servers.rst", "def make_context(name):")
async def test_servers_several_names(
    block: Block, ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def renew(name: str) -> bytes:
        cert = ca.issue_cert(name)
        cert.private_key_and_cert_chain_pem.write_to_path(f"{name}.pem")
        return ssl.PEM_cert_to_DER_cert(cert.cert_chain_pems[0].bytes().decode())

    certificates = {name: renew(name) for name in ("a.example", "b.example")}
    names = {"contexts_by_name": contexts_by_name, "ReloadingContext": ReloadingContext}
    async with served(block, ssl=ssl, partial=partial, **names) as port:
        for _ in range(2):
            for name, certificate in certificates.items():
                await check_echo(await connect(port, client_context_for(ca), name))
                assert await certificate_at(port, client_context_for(ca), name) == certificate
            certificates["b.example"] = renew("b.example")
        async with await connect(port, client_context_for(ca), "c.example") as stream:
            with pytest.raises(PeerAlertError, match="unrecognized_name"):
                await stream.do_handshake()


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
            assert "an HTTP request" in await logged.receive_channel.receive()
            await block.run(logging=logging)
            await knock(port)
    finally:
        logger.setLevel(logging.NOTSET)
    assert logged.receive_channel.statistics().current_buffer_used == 0


@runs("performance.rst", "tcp.socket.setsockopt(")
async def test_performance_not_sent_low_water_mark(block: Block) -> None:
    if not hasattr(trio.socket, "TCP_NOTSENT_LOWAT"):
        pytest.skip("this system has no TCP_NOTSENT_LOWAT")
    async with tcp_pair() as (tcp, _):
        option = trio.socket.IPPROTO_TCP, trio.socket.TCP_NOTSENT_LOWAT
        assert tcp.getsockopt(*option) == 16 * 1024  # as the page says
        await block.run(tcp=tcp, trio=trio)
        assert tcp.getsockopt(*option) == 0
