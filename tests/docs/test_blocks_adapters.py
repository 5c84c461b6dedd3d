"""The code of adapters.rst, and the traps in other libraries that it names."""

from __future__ import annotations

import ssl
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
import trio
import trustme
from trio_websocket import WebSocketRequest, WebSocketServer

from tests.docblocks import Block, example, runs
from tests.helpers import HOST, client_context_for, port_of, serving
from trio_tlsbio import TLSError, TLSStream, open_tls_over_tcp_listeners
from trio_tlsbio.httpx import TLSTransport

from .peers import NAME, Stream, bounded_nursery, connect, connector_to


async def test_httpx_ignores_settings_besides_a_transport(
    ca: trustme.CA, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async def answer(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi")

    pytest.importorskip("h2", reason="h2 is not installed")  # httpx needs it for http2=True
    context.set_alpn_protocols(["h2", "http/1.1"])
    async with serving(answer, context) as port:
        url = f"https://{HOST}:{port}/"
        async with httpx.AsyncClient(transport=TLSTransport(), verify=False) as client:
            with pytest.raises(httpx.ConnectError, match="certificate was refused"):
                await client.get(url)
        transport = TLSTransport(verify=client_context)
        async with httpx.AsyncClient(transport=transport, http2=True) as client:
            assert (await client.get(url)).http_version == "HTTP/1.1"


async def test_httpx_makes_transports_of_its_own_for_proxies(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example")
    async with httpx.AsyncClient(transport=TLSTransport()) as client:
        assert not client._mounts
    async with httpx.AsyncClient(transport=TLSTransport(), proxy="http://localhost") as client:
        (made,) = client._mounts.values()
        assert type(made) is httpx.AsyncHTTPTransport


@pytest.mark.parametrize("retries", [0, 2])
async def test_httpx_retries_although_the_certificate_is_refused(
    retries: int, context: ssl.SSLContext
) -> None:
    attempts = 0

    async def refused(tcp_stream: trio.SocketStream) -> None:
        nonlocal attempts
        attempts += 1
        with suppress(TLSError):
            async with TLSStream(tcp_stream, context, server_side=True) as stream:
                await stream.receive_some()

    async with bounded_nursery() as nursery:
        serve = partial(trio.serve_tcp, refused, 0, host=HOST)
        (listener,) = await nursery.start(serve)
        url = f"https://{HOST}:{listener.socket.getsockname()[1]}/"
        async with httpx.AsyncClient(transport=TLSTransport(retries=retries)) as client:
            with pytest.raises(httpx.ConnectError, match="certificate was refused"):
                await client.get(url)
        nursery.cancel_scope.cancel()
    assert attempts == retries + 1


@runs("adapters.rst", "limits = httpx.Limits(")
async def test_httpx_limits(block: Block) -> None:
    limits = (await block.run(httpx=httpx, TLSTransport=TLSTransport))["limits"]
    # Only the last of the defaults of the transport is changed.
    assert limits == httpx.Limits(
        max_connections=100, max_keepalive_connections=20, keepalive_expiry=3
    )


async def test_trio_websocket_knows_no_addresses(
    client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    locals_: list[Any] = []

    async def handle(request: WebSocketRequest) -> None:
        locals_.extend([request.local, request.remote])
        async with await request.accept() as connection:
            await example("websocket_server").echo(connection)

    listeners: Any = await open_tls_over_tcp_listeners(0, context, host=HOST)
    async with bounded_nursery() as nursery:
        server = await nursery.start(WebSocketServer(handle, listeners).run)
        with pytest.raises(RuntimeError, match="does not have a port"):
            _ = server.port
        connector = SimpleNamespace(
            connect=lambda host, port: connect(port_of(listeners), client_context)
        )
        assert await example("websocket_client").ask(connector, HOST, 443, ["hello"]) == ["hello"]
        assert [type(local) for local in locals_] == [str, str]
        nursery.cancel_scope.cancel()


@runs("adapters.rst", 'stream = await connector.connect("echo.example", 443)')
async def test_websockets_over_our_stream(
    block: Block,
    ca: trustme.CA,
    context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    module = pytest.importorskip("websockets.trio.client")
    server_module = pytest.importorskip("websockets.trio.server")
    handle = example("websocket_server").handle
    async with serving(handle, context) as port:
        client = client_context_for(ca, context.minimum_version)
        connector = connector_to(port, monkeypatch, client)

        async def connect_here(host: str, asked: int) -> Stream:
            assert asked == 443
            return await connector.connect(host, 4433)

        names = {
            "connector": SimpleNamespace(connect=connect_here),
            "websockets": SimpleNamespace(trio=SimpleNamespace(client=module)),
        }
        names = await block.run(**names)
        assert capsys.readouterr().out == "hello\n"
        with pytest.raises(NotImplementedError):
            _ = names["connection"].local_address

        stream = await connector.connect(NAME, 4433)
        with pytest.raises(trio.BrokenResourceError):
            async with module.connect(f"wss://{NAME}/", stream=stream, ssl=client):
                pass

    listeners = await open_tls_over_tcp_listeners(0, context, host=HOST)
    with pytest.raises(ExceptionGroup) as caught:
        await server_module.serve(None, listeners=listeners)
    assert caught.group_contains(AttributeError, match="socket")
