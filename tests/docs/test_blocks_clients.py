"""The code of clients.rst."""

from __future__ import annotations

import functools
import logging
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import pytest
import trio
import trustme
from cryptography import x509

from tests.certificates import Certificate, Issued
from tests.docblocks import Block, runs
from tests.helpers import HOST, client_context_for, echo, port_of, serving
from trio_tlsbio import (
    PeerName,
    TLSStream,
    TrustedProxies,
    open_tls_over_tcp_listeners,
    serve_tls_over_tcp,
)
from trio_tlsbio.monitoring import HandshakeCompleted, ServerMonitor

from .peers import NAME, bounded_nursery, connect


@pytest.fixture
def context(ca: trustme.CA, context: ssl.SSLContext) -> ssl.SSLContext:
    """A server's, that asks for client certificates."""
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_OPTIONAL
    return context


@asynccontextmanager
async def served(block: Block, **names: Any) -> AsyncIterator[int]:
    """Run a block that serves, on a free port instead of its own; the value is the port."""
    started, ports = trio.open_memory_channel[int](1)

    async def serve(handler: Any, port: int, context: Any, **options: Any) -> None:
        assert port == 4433
        async with serving(handler, context, **options) as chosen:
            await started.send(chosen)
            await trio.sleep_forever()

    async with bounded_nursery() as nursery:
        nursery.start_soon(partial(block.run, **{"serve_tls_over_tcp": serve} | names))
        yield await ports.receive()
        nursery.cancel_scope.cancel()


async def greeting(port: int, context: ssl.SSLContext) -> str:
    """Return all that a server says."""
    async with await connect(port, context) as stream:
        return b"".join([chunk async for chunk in stream]).decode()


def client_with(
    ca: trustme.CA, version: ssl.TLSVersion, *names: str | x509.GeneralName
) -> ssl.SSLContext:
    context = client_context_for(ca, version)
    Certificate(names=names).signed_by(Issued.of(ca)).load_into(context)
    return context


ALICE = x509.RFC822Name("alice@example.org")


# Up to where the first two blocks differ.
GREET = """async def greet(stream: TLSStream[trio.SocketStream]) -> None:
    assert isinstance(stream.client_address, tuple)"""


@runs("clients.rst", GREET + "#")
async def test_address(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with served(block, context=context, trio=trio, TLSStream=TLSStream) as port:
        assert await greeting(port, client_context) == f"hello, {HOST}\n"


@runs("clients.rst", GREET + "assert")
async def test_address_behind_a_load_balancer(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    def trusted(networks: list[str]) -> TrustedProxies:
        TrustedProxies(networks)
        return TrustedProxies([HOST])

    known = {"trio": trio, "TLSStream": TLSStream, "TrustedProxies": trusted}
    async with served(block, context=context, **known) as port:
        tcp_stream = await trio.open_tcp_stream(HOST, port)
        await tcp_stream.send_all(b"PROXY TCP4 198.51.100.7 192.0.2.1 4660 443\r\n")
        async with TLSStream(tcp_stream, client_context, server_hostname=NAME) as stream:
            words = b"".join([chunk async for chunk in stream])
    assert words == f"hello, 198.51.100.7, by way of {HOST}\n".encode()


@runs("clients.rst", "async def greet(stream):\n    for name in stream.handshake.peer_names")
async def test_names(
    block: Block, ca: trustme.CA, tls_version: ssl.TLSVersion, context: ssl.SSLContext
) -> None:
    names = await block.run()
    async with serving(names["greet"], context) as port:
        client_context = client_with(ca, tls_version, "a.example", "192.0.2.1", ALICE)
        assert (
            await greeting(port, client_context)
            == "hello, DNS a.example\nhello, IP 192.0.2.1\nhello, email alice@example.org\n"
        )
        assert await greeting(port, client_context_for(ca, tls_version)) == ""


@runs("clients.rst", "ADMINS = {")
async def test_whole_names(
    block: Block, ca: trustme.CA, tls_version: ssl.TLSVersion, context: ssl.SSLContext
) -> None:
    names = await block.run(PeerName=PeerName)
    async with serving(names["greet"], context) as port:
        admins: list[list[Any]] = [[ALICE], ["a.example", "backup.example.org"]]
        for each in admins:
            assert await greeting(port, client_with(ca, tls_version, *each)) == "what shall I do?\n"
        others: list[list[Any]] = [["a.example"], [x509.DNSName("alice@example.org")], []]
        for each in others:
            words = await greeting(port, client_with(ca, tls_version, *each))
            assert words == "this is for administrators\n"


@runs("clients.rst", "async def greet(stream):\n    if stream.handshake.spiffe_id")
async def test_spiffe(
    block: Block, ca: trustme.CA, tls_version: ssl.TLSVersion, context: ssl.SSLContext
) -> None:
    names = await block.run()
    async with serving(names["greet"], context) as port:
        for service, words in ("billing", "here are the invoices\n"), ("other", ""):
            uri = x509.UniformResourceIdentifier(f"spiffe://example.org/{service}")
            assert await greeting(port, client_with(ca, tls_version, uri)) == words


@runs("clients.rst", "def log_client(event)")
async def test_log(
    block: Block,
    ca: trustme.CA,
    tls_version: ssl.TLSVersion,
    context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def greet(stream: TLSStream[trio.SocketStream]) -> None:
        await stream.send_all(b"hello")

    names = {"HandshakeCompleted": HandshakeCompleted, "ServerMonitor": ServerMonitor}
    caplog.set_level(logging.INFO, "access")
    async with served(block, **names, context=context, logging=logging, greet=greet) as port:
        client_context = client_with(ca, tls_version, "a.example", ALICE)
        assert await greeting(port, client_context) == "hello"
        assert await greeting(port, client_context_for(ca, tls_version)) == "hello"
    lines = [record.getMessage() for record in caplog.records if record.name == "access"]
    assert [line.partition(" is ")[2] for line in lines] == [
        "'a.example, alice@example.org'",
        "'anonymous'",
    ]
    assert lines[0].startswith(f"{HOST}:")


@runs("clients.rst", "listeners = await open_tls_over_tcp_listeners(0, context")
async def test_port_of_a_listener(block: Block, context: ssl.SSLContext) -> None:
    names = await block.run(
        open_tls_over_tcp_listeners=open_tls_over_tcp_listeners, context=context
    )
    (listener,) = names["listeners"]
    async with listener:
        assert (names["host"], names["port"]) == (HOST, port_of(listener))


@runs("clients.rst", "serve = functools.partial(serve_tls_over_tcp")
async def test_port_of_a_server(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with bounded_nursery() as nursery:
        names = await block.run(
            functools=functools,
            serve_tls_over_tcp=serve_tls_over_tcp,
            greet=echo,
            context=context,
            nursery=nursery,
        )
        async with await connect(names["port"], client_context) as stream:
            await stream.do_handshake()
        nursery.cancel_scope.cancel()


@runs("clients.rst", "async def greet(stream):\n    host, port = stream.transport_stream.socket")
async def test_port_of_a_connection(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    names = await block.run()
    async with serving(names["greet"], context) as port:
        assert await greeting(port, client_context) == f"this is port {port}\n"
