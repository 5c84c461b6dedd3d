"""The blocks of code in docs/core.rst and docs/testing.rst, run: see test_docs_blocks.py."""

from __future__ import annotations

import importlib.util
import socket
import ssl
import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing

import trio_tlsbio
from trio_tlsbio import SessionCache, TLSConnection, TLSStream, serve_tls_over_tcp
from trio_tlsbio.testing import CertificateAuthority, transfer

from .docblocks import DOCS, Block, runs
from .helpers import shake_hands

NAME = "echo.example"
HOST = "127.0.0.1"
BEGINNING = f'connection = TLSConnection(ssl_context, server_hostname="{NAME}")\nconnection'


@pytest.fixture
def authority() -> CertificateAuthority:
    """What the blocks call so."""
    return CertificateAuthority()


async def against_an_echo(
    block: Block, context: ssl.SSLContext, done: dict[str, Any], **names: Any
) -> None:
    """Run a block in a thread, as it blocks, with a socket to a server. What it knows in the end
    goes into ``done``, and the server's port does at once.
    """

    async def echo(stream: TLSStream[trio.SocketStream]) -> None:
        async for chunk in stream:
            await stream.send_all(chunk)

    def in_thread() -> None:
        with socket.create_connection((HOST, done["port"]), timeout=10) as sock:
            done.update(trio.run(partial(block.run, sock=sock, **names)))

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tls_over_tcp, echo, 0, context, host=HOST)
            (listener,) = await nursery.start(serve)
            done["port"] = listener.transport_listener.socket.getsockname()[1]
            await trio.to_thread.run_sync(in_thread)
            nursery.cancel_scope.cancel()


@runs("core.rst", BEGINNING + '.send(b"hello")')
async def test_core_loop(
    block: Block, authority: CertificateAuthority, capsys: pytest.CaptureFixture[str]
) -> None:
    names = {"TLSConnection": TLSConnection, "ssl_context": authority.client_context()}
    await against_an_echo(block, authority.server_context(NAME), {}, **names)
    assert capsys.readouterr().out == "b'hello'\n"


@runs("core.rst", BEGINNING + r'.send(b"hello\n")')
async def test_core_selectors(block: Block, authority: CertificateAuthority) -> None:
    path = DOCS / "examples" / "selecting.py"
    spec = importlib.util.spec_from_file_location("docs_example_selecting", path)
    assert spec is not None
    assert spec.loader is not None
    selecting = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(selecting)
    done: dict[str, Any] = {}

    def run(connections: Any) -> Any:
        ((connection, address),) = connections
        assert address == (NAME, 4433)
        return selecting.run([(connection, (HOST, done["port"]))])

    names = {"TLSConnection": TLSConnection, "ssl_context": authority.client_context(), "run": run}
    await against_an_echo(block, authority.server_context(NAME), done, **names)
    assert done["answer"] == b"hello\n"


@runs("core.rst", "session = cache.take(")
async def test_core_sessions(block: Block, authority: CertificateAuthority) -> None:
    cache = SessionCache()
    server_context = authority.server_context(NAME)
    client_context = authority.client_context()
    reused: list[bool] = []

    def make(*args: Any, **options: Any) -> TLSConnection:
        # What stands for "..." in the block: a handshake, and data.
        client = TLSConnection(*args, **options)
        server = TLSConnection(server_context, server_side=True)
        shake_hands(client, server)
        server.send(b"hello")
        transfer(server, client)
        assert client.receive() == b"hello"
        assert client.handshake is not None
        reused.append(client.handshake.session_reused)
        return client

    for _ in range(3):
        await block.run(cache=cache, ssl_context=client_context, time=time, TLSConnection=make)
    assert reused == [False, True, True]


@runs("testing.rst", "@pytest.fixture")
async def test_testing_fixture(block: Block) -> None:
    names = await block.run(pytest=pytest, CertificateAuthority=CertificateAuthority)
    assert "authority" in names


@runs("testing.rst", "alice = authority.issue(")
async def test_testing_client_certificate(block: Block, authority: CertificateAuthority) -> None:
    names = await block.run(authority=authority, ssl=ssl)
    client = TLSConnection(names["client_context"], server_hostname="localhost")
    server = TLSConnection(names["server_context"], server_side=True)
    shake_hands(client, server)
    assert server.handshake is not None
    assert "alice" in str(server.handshake.peer_certificate)


@runs("testing.rst", 'authority.write(tmp_path / "ca.pem")')
async def test_testing_files(block: Block, authority: CertificateAuthority, tmp_path: Path) -> None:
    await block.run(authority=authority, tmp_path=tmp_path)
    client_context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.load_cert_chain(tmp_path / "server.pem")
    client = TLSConnection(client_context, server_hostname="localhost")
    shake_hands(client, TLSConnection(server_context, server_side=True))


@runs("testing.rst", "FaultyStream(transport,")
async def test_testing_faults(block: Block) -> None:
    transport, _ = trio.testing.memory_stream_pair()
    names = {name: getattr(trio_tlsbio.testing, name) for name in trio_tlsbio.testing.__all__}
    await block.run(transport=transport, **names)
