"""Clients of httpcore, httpx and their successors, over the adapters."""

from __future__ import annotations

import importlib
import ssl
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme

from tests.helpers import (
    HOST,
    client_context_for,
    server_context_for,
)
from trio_tlsbio import (
    SessionCache,
    TLSStream,
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


async def head_of(stream: TLSStream[Any]) -> bytes:
    """Receive a request without a body."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await stream.receive_some()
        if not data:
            break
        head += data
    return head
