"""The adapters for httpcore and httpx, and for their successors, with servers of ours."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from tests.helpers import (
    HOST,
    LIMIT,
    client_context_for,
    port_of,
    server_context_for,
    serving,
)
from tests.http_clients import (
    Contexts,
    Generation,
    contexts,
    head_of,
    http,
    proxy,
    reused,
)
from tests.programs import free_port
from trio_tlsbio import (
    CertificateError,
    TLSStream,
    TruncationError,
    serve_tls_over_tcp,
)

__all__ = ["contexts", "http"]  # fixtures

################################################################
# What the connections do, with a server of our own
################################################################

Handler = Callable[[TLSStream[trio.SocketStream]], Awaitable[object]]


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
            words = "the peer did not take all data" if phase == "write" else "no answer"
            with pytest.raises(error, match=rf"{words} within 0\.05 seconds"):
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


async def test_sessions_of_a_proxy_and_of_two_servers_of_one_name_are_told_apart(
    http: Generation, contexts: Contexts, server_cert: trustme.LeafCert
) -> None:
    client_context, server_context = contexts
    others = [server_context_for(server_cert), server_context_for(server_cert)]

    async def handle(stream: TLSStream[trio.SocketStream]) -> None:
        await head_of(stream)
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    async with (
        serving(handle, server_context) as port,
        serving(handle, others[0]) as other_port,
        serving(proxy, others[1]) as proxy_port,
    ):
        through = http.client.Proxy(f"https://{HOST}:{proxy_port}", ssl_context=client_context)
        limits = http.client.Limits(max_keepalive_connections=0)
        transport = http.transport(verify=client_context, proxy=through, limits=limits)
        async with http.client.AsyncClient(transport=transport) as client:
            for _ in range(3):
                assert (await client.get(f"https://{HOST}:{port}/")).text == "ok"
                assert (await client.get(f"https://{HOST}:{other_port}/")).text == "ok"
    hits = [context.session_stats()["hits"] for context in (server_context, *others)]
    assert hits == [2, 2, 5]


def test_asyncio_is_refused(http: Generation) -> None:
    async def main() -> None:
        await http.backend().connect_tcp(HOST, free_port())

    with pytest.raises(RuntimeError, match="run on Trio"):
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
