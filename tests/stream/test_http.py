"""The adapters for httpcore and httpx, and for their successors, with servers that are not ours."""

from __future__ import annotations

import asyncio
import importlib
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme

from tests.docblocks import example
from tests.helpers import (
    HOST,
    LIMIT,
    ROOT,
    client_context_for,
    port_of,
    server_context_for,
    serving,
)
from tests.programs import free_port, https_proxy, listening, needs, nginx
from trio_tlsbio import (
    CertificateError,
    SessionCache,
    TLSStream,
    TruncationError,
    open_tls_over_tcp_listeners,
    serve_tls_over_tcp,
)

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]

REQUESTS = 100


@attrs.frozen
class Generation:
    """A library, the one beneath it, and what we have for both."""

    client: Any
    core: Any
    transport: Any
    backend: Any

    @classmethod
    def of(cls, name: str, core: str) -> Generation:
        pytest.importorskip(name, reason=f"{name} is not installed")
        return cls(
            importlib.import_module(name),
            importlib.import_module(core),
            importlib.import_module(f"trio_tlsbio.{name}").TLSTransport,
            importlib.import_module(f"trio_tlsbio.{core}").TLSBackend,
        )


@pytest.fixture(params=[("httpx", "httpcore"), ("httpx2", "httpcore2")], ids=lambda pair: pair[0])
def http(request: pytest.FixtureRequest) -> Generation:
    return Generation.of(*request.param)


@pytest.fixture
def contexts(ca: trustme.CA, server_cert: trustme.LeafCert) -> Contexts:
    version = ssl.TLSVersion.TLSv1_3
    return client_context_for(ca, version), server_context_for(server_cert, version)


@pytest.fixture
def server_pem(server_cert: trustme.LeafCert, tmp_path: Path) -> Path:
    path = tmp_path / "server.pem"
    server_cert.private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


def reused(response: Any) -> bool:
    """Whether the connection of a response has resumed a session."""
    stream: TLSStream[Any] = response.extensions["network_stream"].get_extra_info("tls_stream")
    assert isinstance(stream, TLSStream)
    return stream.session_reused


async def ask_often(
    http: Generation, context: ssl.SSLContext, port: int, *, version: str, **options: Any
) -> list[bool]:
    """Send requests over connections of their own, some pools one after the other, and tell which
    of the connections have resumed."""
    cache = SessionCache()
    resumed: list[bool] = []
    limits = http.client.Limits(max_keepalive_connections=0)
    for pool in range(4):
        transport = http.transport(
            verify=context, session_cache=cache, limits=limits, http2=True, **options
        )
        async with http.client.AsyncClient(transport=transport) as client:
            for number in range(pool, REQUESTS, 4):
                response = await client.get(f"https://{HOST}:{port}/{number}")
                assert response.http_version == version
                assert response.text == f"you asked for /{number}"
                resumed.append(reused(response))
    assert cache.statistics().hits >= resumed.count(True)
    return resumed


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


async def proxy(stream: TLSStream[trio.SocketStream]) -> None:
    """Connect to where the client wants to, and pass on what comes from either side."""
    _, target, _ = (await head_of(stream)).decode().split(" ", 2)
    host, _, port = target.partition(":")
    async with await trio.open_tcp_stream(host, int(port)) as remote:
        await stream.send_all(b"HTTP/1.1 200 OK\r\n\r\n")

        async def pass_on(source: trio.abc.ReceiveStream, sink: trio.abc.SendStream) -> None:
            async for data in source:
                await sink.send_all(data)
            nursery.cancel_scope.cancel()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pass_on, stream, remote)
            nursery.start_soon(pass_on, remote, stream)


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
    listeners = await open_tls_over_tcp_listeners(0, context, host=HOST, https_compatible=True)
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
    listeners: list[Any] = attrs.field(init=False)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        from hypercorn.config import Config

        config = Config()
        config.keep_alive_timeout = 3600
        config.graceful_timeout = self.graceful_timeout
        self.listeners = await open_tls_over_tcp_listeners(
            0, self.context, host=HOST, https_compatible=True, close_timeout=3600
        )

        async def serve(task_status: trio.TaskStatus[Any]) -> None:
            await example("hypercorn_server").serve(
                self.app, config, self.listeners, task_status=task_status
            )
            self.drained.set()

        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                await nursery.start(serve)
                yield port_of(self.listeners)
                nursery.cancel_scope.cancel()

    async def drain(self) -> None:
        for listener in self.listeners:
            await listener.aclose()


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
        await server.drain()
        await server.drained.wait()


async def test_hypercorn_drains_although_a_client_waits(contexts: Contexts) -> None:
    client_context, server_context = contexts
    server = Hypercorn(app, server_context)
    async with server.running() as port:
        stream = TLSStream(
            await trio.open_tcp_stream(HOST, port),
            client_context,
            server_hostname=HOST,
            https_compatible=True,
        )
        async with stream:
            await stream.send_all(b"GET /one HTTP/1.1\r\nHost: localhost\r\n\r\n")
            received = b""
            while not received.endswith(b"\r\n0\r\n\r\n"):
                received += await stream.receive_some()
            await server.drain()
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
            await server.drain()
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
            await server.drain()
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
            "tests.stream.test_http:app",
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


################################################################
# What the connections do, with a server of our own
################################################################

Handler = Callable[[TLSStream[trio.SocketStream]], Awaitable[object]]


async def head_of(stream: TLSStream[Any]) -> bytes:
    """Receive a request without a body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await stream.receive_some()
        if not data:
            break
        head += data
    return head


async def test_tickets_do_not_end_an_idle_connection(http: Generation, contexts: Contexts) -> None:
    """A ticket that comes late makes the socket readable, but says nothing of the end."""
    client_context, server_context = contexts
    connections = 0
    answered, go_on = trio.Event(), trio.Event()

    async def handle(stream: TLSStream[trio.SocketStream]) -> None:
        nonlocal connections
        connections += 1
        while await head_of(stream):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            if not answered.is_set():
                answered.set()
                await go_on.wait()
                # Another ticket: the client was asked for a certificate that it has not.
                await stream.verify_client_post_handshake()

    server_context.verify_mode = ssl.CERT_OPTIONAL
    server_context.post_handshake_auth = True
    client_context.post_handshake_auth = True
    async with serving(handle, server_context) as port:
        url = f"https://{HOST}:{port}/"
        async with http.client.AsyncClient(
            transport=http.transport(verify=client_context)
        ) as client:
            response = await client.get(url)
            network_stream = response.extensions["network_stream"]
            assert not network_stream.get_extra_info("is_readable")
            go_on.set()
            await trio.lowlevel.wait_readable(network_stream.get_extra_info("socket"))
            assert not network_stream.get_extra_info("is_readable")
            assert (await client.get(url)).text == "ok"
    assert connections == 1


async def test_a_connection_that_has_ended_is_not_used_again(
    http: Generation, contexts: Contexts
) -> None:
    client_context, server_context = contexts
    connections = 0

    async def handle(stream: TLSStream[trio.SocketStream]) -> None:
        nonlocal connections
        connections += 1
        await head_of(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with serving(handle, server_context) as port:
        url = f"https://{HOST}:{port}/"
        transport = http.transport(verify=client_context)
        async with http.client.AsyncClient(transport=transport) as client:
            for _ in range(3):
                response = await client.get(url)
                assert response.text == "ok"
                network_stream = response.extensions["network_stream"]
                while not network_stream.get_extra_info("is_readable"):
                    await trio.lowlevel.wait_readable(network_stream.get_extra_info("socket"))
    assert connections == 3


@pytest.mark.parametrize("https_compatible", [False, True])
async def test_truncation(http: Generation, contexts: Contexts, https_compatible: bool) -> None:
    """A response whose end nothing tells but the connection's, and the connection is cut."""
    client_context, server_context = contexts

    async def handle(stream: TLSStream[trio.SocketStream]) -> None:
        await head_of(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nhalf of")
        await stream.transport_stream.send_eof()
        await trio.sleep_forever()

    async with serving(handle, server_context) as port:
        transport = http.transport(verify=client_context, https_compatible=https_compatible)
        async with http.client.AsyncClient(transport=transport) as client:
            get = partial(client.get, f"https://{HOST}:{port}/")
            if https_compatible:
                assert (await get()).text == "half of"
                return
            with pytest.raises(http.client.ReadError, match="without a close_notify") as caught:
                await get()
    core_error = caught.value.__cause__
    assert isinstance(core_error, http.core.ReadError)
    assert isinstance(core_error.__cause__, TruncationError)


async def test_a_refused_certificate(http: Generation, contexts: Contexts) -> None:
    """The error says why, and the server gets its alert."""
    _, server_context = contexts
    async with serving(head_of, server_context) as port:
        transport = http.transport(verify=ssl.create_default_context())
        async with http.client.AsyncClient(transport=transport) as client:
            with pytest.raises(http.client.ConnectError, match="certificate") as caught:
                await client.get(f"https://{HOST}:{port}/")
    core_error = caught.value.__cause__
    assert isinstance(core_error, http.core.ConnectError)
    assert isinstance(core_error.__cause__, CertificateError)


async def test_no_server(http: Generation) -> None:
    port = free_port()
    async with http.client.AsyncClient(transport=http.transport(verify=False)) as client:
        with pytest.raises(http.client.ConnectError, match=f"{HOST}:{port}"):
            await client.get(f"https://{HOST}:{port}/")


# httpcore leaves the body that it was sending to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*ByteStream:pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("phase", ["connect", "read", "write"])
async def test_timeouts(http: Generation, contexts: Contexts, phase: str) -> None:
    """Each phase has its own, and is told apart."""
    client_context, server_context = contexts

    async def handle(stream: TLSStream[trio.SocketStream]) -> None:
        await head_of(stream) if phase == "read" else None
        await trio.sleep_forever()

    async def silent(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        if phase == "connect":  # no handshake
            serve: Any = partial(trio.serve_tcp, silent, 0, host=HOST)
            port = (await nursery.start(serve))[0].socket.getsockname()[1]
        else:
            serve = partial(serve_tls_over_tcp, handle, 0, server_context, host=HOST)
            port = port_of(await nursery.start(serve))
        timeout = http.client.Timeout(None, **{phase: 0.05})
        transport = http.transport(verify=client_context)
        async with http.client.AsyncClient(transport=transport, timeout=timeout) as client:
            error = getattr(http.client, f"{phase.title()}Timeout")
            content = bytes(16 * 1024 * 1024 if phase == "write" else 0)
            with pytest.raises(error, match=r"no answer within 0\.05 seconds"):
                await client.post(f"https://{HOST}:{port}/", content=content)
        nursery.cancel_scope.cancel()


async def test_a_cancelled_request_ends_its_own_connection_alone(
    http: Generation, contexts: Contexts
) -> None:
    client_context, server_context = contexts
    asked = trio.Event()

    async def handle(stream: TLSStream[trio.SocketStream]) -> None:
        while head := await head_of(stream):
            if b" /never " in head:
                asked.set()
                await trio.sleep_forever()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with serving(handle, server_context) as port:
        transport = http.transport(verify=client_context)
        async with http.client.AsyncClient(transport=transport) as client:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(client.get, f"https://{HOST}:{port}/never")
                await asked.wait()
                nursery.cancel_scope.cancel()
            response = await client.get(f"https://{HOST}:{port}/")
            assert response.text == "ok"
            assert reused(response)


@pytest.mark.parametrize("cancelled_at", range(1, 12))
async def test_what_a_cancelled_write_has_left_goes_out_first(
    http: Generation, contexts: Contexts, cancelled_at: int
) -> None:
    """HTTP/2 shares a connection: what one task writes may be the frames of another one."""
    client_context, server_context = contexts
    # More than what fits into the socket's buffers, so that some of it is written, or none.
    parts = [bytes([number]) * 3_000_000 for number in range(5)] + [b"end"]
    go_on = trio.Event()
    received: list[bytes] = []

    async def handle(stream: TLSStream[trio.SocketStream]) -> None:
        await go_on.wait()
        received.extend([bytes(data) async for data in stream])

    async with serving(handle, server_context) as port:
        tcp = await http.backend().connect_tcp(HOST, port)
        stream = await tcp.start_tls(client_context, HOST)
        for part in parts[:-1]:
            with trio.CancelScope() as scope:

                async def cancel(scope: trio.CancelScope = scope) -> None:
                    for _ in range(cancelled_at):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()

                async with trio.open_nursery() as nursery:
                    nursery.start_soon(cancel)
                    await stream.write(part)
        go_on.set()
        await stream.write(b"")  # as httpcore does where another task has taken all there was
        await stream.write(parts[-1])
        await stream.aclose()
        while not received or not received[-1].endswith(b"end"):
            await trio.lowlevel.checkpoint()
    assert b"".join(received) == b"".join(parts)


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


@pytest.mark.parametrize("given", [True, False])
async def test_sessions_with_a_proxy_whose_context_nobody_gave(
    given: bool,
    http: Generation,
    contexts: Contexts,
    ca: trustme.CA,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    client_context, server_context = contexts
    path = tmp_path / "ca.pem"
    ca.cert_pem.write_to_path(str(path))
    monkeypatch.setenv("SSL_CERT_FILE", str(path))

    async def handle(stream: TLSStream[trio.SocketStream]) -> None:
        await head_of(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with (
        serving(handle, server_context) as port,
        serving(proxy, server_context) as proxy_port,
    ):
        url = f"https://{HOST}:{proxy_port}"
        proxy_context = client_context_for(ca, ssl.TLSVersion.TLSv1_3)
        through = http.client.Proxy(url, ssl_context=proxy_context) if given else url
        limits = http.client.Limits(max_keepalive_connections=0)
        transport = http.transport(verify=client_context, proxy=through, limits=limits)
        async with http.client.AsyncClient(transport=transport) as client:
            for _ in range(5):
                assert (await client.get(f"https://{HOST}:{port}/")).text == "ok"
    assert server_context.session_stats()["hits"] == 2 * 4


def test_asyncio_is_refused(http: Generation) -> None:
    async def main() -> None:
        await http.backend().connect_tcp(HOST, free_port())

    with pytest.raises(RuntimeError, match="runs on Trio"):
        asyncio.run(main())


async def test_unix_socket(http: Generation, contexts: Contexts, tmp_path: Path) -> None:
    client_context, server_context = contexts
    path = tmp_path / "socket"
    connections = 0

    async def handle(transport_stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        async with TLSStream(transport_stream, server_context, server_side=True) as stream:
            await head_of(stream)
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with trio.socket.socket(trio.socket.AF_UNIX) as socket:
        await socket.bind(str(path))
        socket.listen()
        async with trio.open_nursery() as nursery:
            listener = trio.SocketListener(socket)
            nursery.start_soon(trio.serve_listeners, handle, [listener])
            limits = http.client.Limits(max_keepalive_connections=0)
            transport = http.transport(verify=client_context, uds=str(path), limits=limits)
            async with http.client.AsyncClient(transport=transport) as client:
                for number in range(3):
                    response = await client.get(f"https://{HOST}/")
                    assert response.text == "ok"
                    assert reused(response) is (number > 0)
            nursery.cancel_scope.cancel()
    assert connections == 3


async def test_extra_info(http: Generation, contexts: Contexts) -> None:
    client_context, server_context = contexts

    async def handle(stream: TLSStream[trio.SocketStream]) -> None:
        while await head_of(stream):
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with (
        serving(handle, server_context) as port,
        http.core.AsyncConnectionPool(
            ssl_context=client_context, network_backend=http.backend()
        ) as pool,
    ):
        response = await pool.request("GET", f"https://{HOST}:{port}/")
        info = response.extensions["network_stream"].get_extra_info
        assert info("server_addr") == (HOST, port)
        assert info("client_addr") == info("socket").getsockname()
        assert info("ssl_object").version() == "TLSv1.3"
        assert info("tls_stream").handshake.server_hostname == HOST
        assert info("something") is None


async def test_plain_http(http: Generation) -> None:
    async def handle(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(partial(trio.serve_tcp, handle, 0, host=HOST))
            port = listeners[0].socket.getsockname()[1]
            async with http.client.AsyncClient(transport=http.transport(verify=False)) as client:
                for _ in range(2):
                    response = await client.get(f"http://{HOST}:{port}/")
                    assert response.text == "ok"
                    info = response.extensions["network_stream"].get_extra_info
                    assert info("ssl_object") is None
                    assert info("tls_stream") is None
                    while not info("is_readable"):
                        await trio.lowlevel.wait_readable(info("socket"))
            nursery.cancel_scope.cancel()


def test_options_that_do_not_go_together(http: Generation) -> None:
    for scheme in ("http", "https", "socks5"):
        with pytest.raises(ValueError, match="with a proxy"):
            http.transport(verify=False, proxy=f"{scheme}://{HOST}:1", local_address=HOST)


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
