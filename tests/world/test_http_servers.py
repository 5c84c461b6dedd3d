"""The adapters for httpcore and httpx with nginx, proxy.py and Hypercorn."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import ssl
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import httpx
import pytest
import trio
import trio.testing
import trio_websocket
import trustme
from cryptography import x509

import trio_tlsbio
from tests.docblocks import example
from tests.helpers import (
    HOST,
    LIMIT,
    NAME,
    ROOT,
    client_context_for,
    port_of,
    serving,
)
from tests.http_clients import (
    REQUESTS,
    Contexts,
    Generation,
    ask_often,
    contexts,
    http,
    proxy,
    server_pem,
)
from tests.programs import free_port, https_proxy, listening, needs, nginx
from trio_tlsbio import (
    Drain,
    TLSStream,
    open_tls_over_tcp_listeners,
    open_tls_over_tcp_stream,
)
from trio_tlsbio.httpx import TLSTransport

__all__ = ["contexts", "http", "server_pem"]  # fixtures

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("hypercorn") is None,
    reason="Hypercorn is not installed, and h2, which it brings, for HTTP/2",
)

################################################################
# Servers that are not ours
################################################################


@needs("nginx")
async def test_nginx(
    http: Generation,
    tls_version: ssl.TLSVersion,
    client_context: ssl.SSLContext,
    server_pem: Path,
) -> None:
    async with nginx(server_pem, tls_version, http2=True) as port:
        resumed = await ask_often(http, client_context, port, version="HTTP/2")
    assert resumed == [False] + [True] * (REQUESTS - 1)
    assert client_context.session_stats()["hits"] == REQUESTS - 1


@needs("nginx")
async def test_nginx_through_an_https_proxy(
    http: Generation,
    tls_version: ssl.TLSVersion,
    client_context: ssl.SSLContext,
    ca: trustme.CA,
    server_pem: Path,
) -> None:
    pytest.importorskip("proxy", reason="proxy.py is not installed")
    proxy_context = ssl.create_default_context()
    ca.configure_trust(proxy_context)
    async with (
        nginx(server_pem, tls_version, http2=True) as port,
        https_proxy(server_pem) as proxy_port,
    ):
        proxy = http.client.Proxy(f"https://{HOST}:{proxy_port}", ssl_context=proxy_context)
        resumed = await ask_often(http, client_context, port, version="HTTP/2", proxy=proxy)
    assert resumed == [False] + [True] * (REQUESTS - 1)
    # The proxy makes a context for each connection, so with itself nothing can be resumed.
    assert proxy_context.session_stats()["hits"] == 0


@needs("nginx")
async def test_tls_in_tls_resumes_both(
    http: Generation,
    tls_version: ssl.TLSVersion,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    ca: trustme.CA,
    server_pem: Path,
) -> None:
    proxy_context = client_context_for(ca, tls_version)
    async with (
        nginx(server_pem, tls_version, http2=True) as port,
        serving(proxy, server_context) as proxy_port,
    ):
        through = http.client.Proxy(f"https://{HOST}:{proxy_port}", ssl_context=proxy_context)
        resumed = await ask_often(http, client_context, port, version="HTTP/2", proxy=through)
    assert resumed == [False] + [True] * (REQUESTS - 1)
    assert proxy_context.session_stats()["hits"] == REQUESTS - 1


async def app(scope: Any, receive: Any, send: Any) -> None:
    """An ASGI app that says what it was asked for."""
    if scope["type"] == "lifespan":
        for done in ("startup", "shutdown"):
            await receive()
            await send({"type": f"lifespan.{done}.complete"})
    else:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        body = f"you asked for {scope['path']}".encode()
        await send({"type": "http.response.body", "body": body})


@asynccontextmanager
async def hypercorn_over_ours(context: ssl.SSLContext) -> AsyncIterator[int]:
    """Hypercorn's Trio worker in this process, over our listeners, as the docs have it."""
    from hypercorn.config import Config

    context.set_alpn_protocols(["h2", "http/1.1"])
    listeners = await open_tls_over_tcp_listeners(0, context, host=HOST)
    serve = partial(example("hypercorn_server").serve, app, Config(), listeners)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            await nursery.start(serve)
            yield port_of(listeners)
            for listener in listeners:
                await listener.aclose()


async def test_hypercorn_over_our_listener(
    http: Generation, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with hypercorn_over_ours(server_context) as port:
        resumed = await ask_often(http, client_context, port, version="HTTP/2")
    assert resumed == [False] + [True] * (REQUESTS - 1)
    assert server_context.session_stats()["hits"] == REQUESTS - 1


@attrs.define(eq=False)
class Hypercorn:
    """The recipe with an app of its own, whose timeouts are too long for a test to wait for."""

    app: Any
    context: ssl.SSLContext
    graceful_timeout: float = 3600.0
    drained: trio.Event = attrs.Factory(trio.Event)
    _drain: Drain = attrs.field(factory=Drain, init=False)
    _drain_begun: trio.Event = attrs.field(factory=trio.Event, init=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        from hypercorn.config import Config

        config = Config()
        config.keep_alive_timeout = 3600
        config.graceful_timeout = self.graceful_timeout
        listeners = await open_tls_over_tcp_listeners(
            0, self.context, host=HOST, close_timeout=3600
        )

        async def serve(task_status: trio.TaskStatus[Any]) -> None:
            await example("hypercorn_server").serve(
                self.app, config, listeners, drain=self._drain, task_status=task_status
            )
            self.drained.set()

        async def end() -> None:
            await self._drain_begun.wait()
            await self._drain.end(self.graceful_timeout)

        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve)
                nursery.start_soon(end)
                yield port_of(listeners)
                nursery.cancel_scope.cancel()

    def drain(self) -> None:
        self._drain_begun.set()


@pytest.mark.parametrize("kind", ["HTTP/1.1", "HTTP/2", "WebSocket"])
async def test_hypercorn_tells_an_app_who_the_client_is(
    kind: str,
    ca: trustme.CA,
    tls_version: ssl.TLSVersion,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    """The extension `tls` of ASGI, of two clients at once, one of which has no certificate."""
    alice = ca.issue_cert("alice@example.org", common_name="alice")
    with_certificate = client_context_for(ca, tls_version)
    alice.configure_cert(with_certificate)
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_OPTIONAL
    server_context.set_alpn_protocols(["h2", "http/1.1"])

    async def who(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        text = json.dumps(scope["extensions"]["tls"])
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.send", "text": text})
            await send({"type": "websocket.close"})
        else:
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": text.encode()})

    async def ask(context: ssl.SSLContext) -> Any:
        if kind == "WebSocket":
            tcp_stream = await trio.open_tcp_stream(HOST, port)
            stream = TLSStream(tcp_stream, context, server_hostname=NAME)
            async with stream, open_websocket_over(stream) as websocket:
                return json.loads(await websocket.get_message())
        transport = TLSTransport(verify=context, http2=kind == "HTTP/2")
        async with httpx.AsyncClient(transport=transport) as client:
            response = await client.get(f"https://{HOST}:{port}/")
            assert response.http_version == kind
            return response.json()

    async with Hypercorn(who, server_context).running() as port:
        answers = [await ask(with_certificate), await ask(client_context)]
    # OpenSSL sends the issuer along, since the client trusts it too.
    chain = [pem.bytes().decode() for pem in (*alice.cert_chain_pems, ca.cert_pem)]
    subject = x509.load_pem_x509_certificate(chain[0].encode()).subject.rfc4514_string()
    for answer, sent, name in zip(answers, [chain, []], [subject, None], strict=True):
        received = answer.pop("client_cert_chain")
        assert [pem.strip() for pem in received] == [pem.strip() for pem in sent]
        cipher = {"TLSv1_2": 0xC02C, "TLSv1_3": 0x1302}[tls_version.name]
        assert answer == {
            "server_cert": None,
            "client_cert_name": name,
            "client_cert_error": None,
            "tls_version": tls_version.value,
            "cipher_suite": cipher,
        }


@asynccontextmanager
async def open_websocket_over(stream: Any) -> AsyncIterator[Any]:
    async with trio.open_nursery() as nursery:
        websocket = await trio_websocket.wrap_client_stream(nursery, stream, HOST, "/")
        yield websocket
        await websocket.aclose()


@pytest.mark.parametrize("http2", [False, True])
async def test_hypercorn_drains_although_a_client_stays_in_a_pool(
    http2: bool, http: Generation, contexts: Contexts
) -> None:
    client_context, server_context = contexts
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    server = Hypercorn(app, server_context)
    transport = http.transport(verify=client_context, http2=http2)
    async with server.running() as port, http.client.AsyncClient(transport=transport) as client:
        await client.get(f"https://{HOST}:{port}/one")
        server.drain()
        await server.drained.wait()


@pytest.mark.parametrize("kind", ["HTTP/1.1", "HTTP/2", "HTTP/2, expired"])
async def test_pools_check_idle_connections_but_not_with_http_2(
    kind: str, http: Generation, contexts: Contexts
) -> None:
    """As the docs say: there, the client has to end idle connections before the server does."""
    client_context, server_context = contexts
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    server = Hypercorn(app, server_context)
    limits = http.client.Limits(keepalive_expiry=0 if "expired" in kind else 3600)
    transport = http.transport(verify=client_context, http2="HTTP/2" in kind, limits=limits)
    async with server.running() as port, http.client.AsyncClient(transport=transport) as client:
        url = f"https://{HOST}:{port}/one"
        assert (await client.get(url)).http_version in kind
        server.drain()
        await server.drained.wait()
        # A new connection is refused, because the server has gone. The old one has ended.
        ended = http.client.ReadError, http.client.RemoteProtocolError
        with pytest.raises(ended if kind == "HTTP/2" else http.client.ConnectError):
            await client.get(url)


async def get_one(stream: TLSStream[Any]) -> None:
    """Send one request, and receive the whole response."""
    await stream.send_all(b"GET /one HTTP/1.1\r\nHost: localhost\r\n\r\n")
    received = b""
    while not received.endswith(b"\r\n0\r\n\r\n"):
        received += await stream.receive_some()


@pytest.mark.skipif(os.name != "posix", reason="SIGTERM ends the process")
async def test_hypercorn_ends_connections_with_a_close_notify(
    contexts: Contexts,
    server_cert: trustme.LeafCert,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The recipe as a whole, up to SIGTERM."""
    client_context, _ = contexts
    monkeypatch.chdir(tmp_path)
    server_cert.cert_chain_pems[0].write_to_path("server.pem")
    server_cert.private_key_pem.write_to_path("server.key")
    opened, is_open = [], trio.Event()

    async def open_here(*args: Any, **options: Any) -> Any:
        opened.extend(await open_tls_over_tcp_listeners(*args, **options, host=HOST))
        is_open.set()
        return opened

    monkeypatch.setattr(trio_tlsbio, "open_tls_over_tcp_listeners", open_here)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(example("hypercorn_server").main, app, 0)
            await is_open.wait()
            stream = await open_tls_over_tcp_stream(
                HOST, port_of(opened), ssl_context=client_context
            )
            async with stream:
                await get_one(stream)
                signal.raise_signal(signal.SIGTERM)
                assert await stream.receive_some() == b""  # and no TruncationError


async def test_hypercorn_drains_although_a_client_waits(contexts: Contexts) -> None:
    client_context, server_context = contexts
    server = Hypercorn(app, server_context)
    async with server.running() as port:
        stream = TLSStream(
            await trio.open_tcp_stream(HOST, port),
            client_context,
            server_hostname=HOST,
        )
        async with stream:
            await get_one(stream)
            server.drain()
            assert await stream.receive_some() == b""
        await server.drained.wait()


@pytest.mark.parametrize("http2", [False, True])
async def test_hypercorn_completes_requests_while_it_drains(
    http2: bool, http: Generation, contexts: Contexts
) -> None:
    client_context, server_context = contexts
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    asked, go_on = trio.Event(), trio.Event()

    async def slow(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            asked.set()
            await go_on.wait()
        await app(scope, receive, send)

    server = Hypercorn(slow, server_context)
    answers: list[str] = []
    transport = http.transport(verify=client_context, http2=http2)
    async with server.running() as port, http.client.AsyncClient(transport=transport) as client:

        async def ask() -> None:
            answers.append((await client.get(f"https://{HOST}:{port}/one")).text)
            await client.aclose()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await asked.wait()
            await trio.testing.wait_all_tasks_blocked()  # hypercorn knows that it is not idle
            server.drain()
            await trio.testing.wait_all_tasks_blocked()
            assert not server.drained.is_set()
            go_on.set()
        assert answers == ["you asked for /one"]
        await server.drained.wait()


async def test_hypercorn_drains_within_its_graceful_timeout(
    http: Generation, contexts: Contexts
) -> None:
    client_context, server_context = contexts
    asked = trio.Event()

    async def stuck(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            asked.set()
            await trio.sleep_forever()
        await app(scope, receive, send)

    server = Hypercorn(stuck, server_context, graceful_timeout=0.05)
    transport = http.transport(verify=client_context)
    async with server.running() as port, http.client.AsyncClient(transport=transport) as client:

        async def ask() -> None:
            with pytest.raises(http.client.TransportError):
                await client.get(f"https://{HOST}:{port}/one", timeout=None)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await asked.wait()
            server.drain()
            await server.drained.wait()


@asynccontextmanager
async def hypercorn(pem: Path, worker: str) -> AsyncIterator[int]:
    """Run the program hypercorn, with a worker of its own, and give the port."""
    port = free_port()
    argv = (
        *(sys.executable, "-m", "hypercorn", "--worker-class", worker, "--bind", f"{HOST}:{port}"),
        *(
            "--certfile",
            pem,
            "--keyfile",
            pem,
            "--log-level",
            "error",
            "tests.world.test_http_servers:app",
        ),
    )
    async with listening(port, pem.parent / "hypercorn.log", *argv):
        yield port


async def test_hypercorn_itself(
    http: Generation, ca: trustme.CA, server_pem: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = client_context_for(ca, ssl.TLSVersion.TLSv1_3)
    monkeypatch.chdir(ROOT)
    async with hypercorn(server_pem, "asyncio") as port:
        resumed = await ask_often(http, context, port, version="HTTP/2")
    assert resumed == [False] + [True] * (REQUESTS - 1)


@needs("nginx")
async def test_cancelled_requests_do_no_harm_to_those_beside_them(
    http: Generation, contexts: Contexts, server_pem: Path
) -> None:
    client_context, _ = contexts
    answers: list[str] = []
    connections: set[Any] = set()

    async with nginx(server_pem, ssl.TLSVersion.TLSv1_3, http2=True) as port:
        transport = http.transport(verify=client_context, http2=True)
        async with http.client.AsyncClient(transport=transport, timeout=None) as client:

            async def get(number: int) -> None:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(ask, number)
                    if number % 2:
                        for _ in range(number % 31):
                            await trio.lowlevel.checkpoint()
                        nursery.cancel_scope.cancel()

            async def ask(number: int) -> None:
                headers = {"x-padding": f"{number:05}" * 200}
                response = await client.get(f"https://{HOST}:{port}/{number}", headers=headers)
                answers.append(response.text)
                connections.add(response.extensions["network_stream"])

            await ask(1000)
            async with trio.open_nursery() as nursery:
                for number in range(90):
                    nursery.start_soon(get, number)
    assert {f"you asked for /{number}" for number in range(0, 90, 2)} <= set(answers)
    assert len(answers) < 90
    assert len(connections) == 1


################################################################
# The programs of the docs
################################################################


@needs("nginx")
async def test_docs_httpx_client(
    tls_version: ssl.TLSVersion, client_context: ssl.SSLContext, server_pem: Path
) -> None:
    pytest.importorskip("httpx", reason="httpx is not installed")
    async with nginx(server_pem, tls_version, http2=True) as port:
        urls = [f"https://{HOST}:{port}/{number}" for number in range(5)]
        texts = await example("httpx_client").fetch(urls, client_context)
    assert texts == [f"you asked for /{number}" for number in range(5)]


@needs("nginx")
async def test_docs_httpcore_pool(client_context: ssl.SSLContext, server_pem: Path) -> None:
    pytest.importorskip("httpcore", reason="httpcore is not installed")
    version = client_context.minimum_version
    name = {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[version]
    async with nginx(server_pem, version, http2=True) as port:
        lines = await example("httpcore_pool").describe(f"https://{HOST}:{port}/", client_context)
    assert lines == [f"200, {name}, full handshake", f"200, {name}, resumed"]
