"""The programs that embed the core without Trio, against OpenSSL's server and awkward ones."""

from __future__ import annotations

import asyncio
import socket
import ssl
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from selectors import DefaultSelector
from typing import Any

import pytest
import trio
import trustme

from tests.docblocks import Block, example, runs
from tests.helpers import DOCS, HOST, LIMIT, server_context_for, serving
from tests.programs import VERSION_OPTIONS, Output, needs, s_server
from trio_tlsbio import (
    CertificateError,
    SessionCache,
    TLSConnection,
    TLSStream,
    TruncationError,
)
from trio_tlsbio.testing import Cut, exchange, tls_connection_pair

BIG = bytes(range(256)) * 40_000


def ask_by_blocking(port: int, question: bytes, context: ssl.SSLContext) -> bytes:
    answer: bytes = example("blocking").ask(HOST, port, question, context)
    return answer


def ask_by_asyncio(port: int, question: bytes, context: ssl.SSLContext) -> bytes:
    async def ask() -> bytes:
        async with asyncio.timeout(LIMIT):
            answer: bytes = await example("asyncio_client").ask(HOST, port, question, context)
            return answer

    return asyncio.run(ask())


def ask_by_selecting(port: int, question: bytes, context: ssl.SSLContext) -> bytes:
    (answer,) = example("selecting").run([(calling(question, context), (HOST, port))])
    return bytes(answer)


def calling(question: bytes, context: ssl.SSLContext) -> TLSConnection:
    connection = TLSConnection(context, server_hostname=HOST)
    connection.send(question)
    connection.send_close_notify()
    return connection


PROGRAMS = {
    "blocking": ask_by_blocking,
    "asyncio_client": ask_by_asyncio,
    "selecting": ask_by_selecting,
}


@pytest.fixture(params=list(PROGRAMS))
def ask(request: pytest.FixtureRequest) -> Callable[..., Awaitable[bytes]]:
    """Each program, run in a thread: takes a port, a question and a context."""
    program: Any = PROGRAMS[request.param]
    return partial(trio.to_thread.run_sync, program)


@pytest.fixture
def server_pem(server_cert: trustme.LeafCert, tmp_path: Path) -> Path:
    path = tmp_path / "server.pem"
    server_cert.private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_programs_are_short(name: str) -> None:
    text = (DOCS / "examples" / f"{name}.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) < 55


################################################################
# OpenSSL's server
################################################################


@needs("openssl")
async def test_answers_of_s_server(
    ask: Callable[..., Awaitable[bytes]],
    server_pem: Path,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    async with s_server(server_pem, VERSION_OPTIONS[tls_version], "-rev") as port:
        for _ in range(2):
            assert await ask(port, b"hello\nagain\n", client_context) == b"olleh\nniaga\n"


@needs("openssl")
async def test_s_server_is_told_why(
    ask: Callable[..., Awaitable[bytes]], server_pem: Path, tls_version: ssl.TLSVersion
) -> None:
    output = Output()
    options = (VERSION_OPTIONS[tls_version], "-rev")
    async with s_server(server_pem, *options, output=output) as port:
        with pytest.raises(CertificateError):
            await ask(port, b"hello\n", ssl.create_default_context())
        await output.wait_for(b"alert unknown ca")


@needs("openssl")
@pytest.mark.parametrize("at", [0, 100, 2000])
async def test_truncated_answers_of_s_server(
    at: int,
    ask: Callable[..., Awaitable[bytes]],
    server_pem: Path,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    faulty_way = example("faulty_way").faulty_way
    page = b"GET / HTTP/1.0\r\n\r\n"
    async with s_server(server_pem, VERSION_OPTIONS[tls_version], "-www") as port:
        answer = await ask(port, page, client_context)
        assert len(answer) > 2000
        async with faulty_way(port) as way:
            assert len(await ask(way, page, client_context)) > 2000
        async with faulty_way(port, Cut(at)) as way:
            with pytest.raises(TruncationError, match=r"close_notify|during the handshake"):
                await ask(way, page, client_context)


################################################################
# Servers that read late, or not at once
################################################################


async def collect(stream: TLSStream[Any]) -> None:
    """Send back what has come, once all of it is there."""
    async with stream:
        await stream.send_all(b"".join([part async for part in stream]))


async def echo(stream: TLSStream[Any]) -> None:
    """Send back what comes, and read no more until that is sent."""
    async with stream:
        async for part in stream:
            await stream.send_all(part)


async def test_half_close(
    ask: Callable[..., Awaitable[bytes]],
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with serving(collect, server_context) as port:
        assert await ask(port, BIG, client_context) == BIG


@pytest.mark.parametrize("program", ["asyncio_client", "selecting"])
async def test_both_directions_at_once(
    program: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context) as port:
        answer = await trio.to_thread.run_sync(PROGRAMS[program], port, BIG, client_context)
    assert answer == BIG


async def test_selecting_over_a_socket_that_takes_a_part(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Reluctant(socket.socket):
        def send(self, data: Any, flags: int = 0) -> int:
            return super().send(data[:1000], flags)

    def create_connection(*args: Any, **kwargs: Any) -> Reluctant:
        return Reluctant(fileno=connect(*args, **kwargs).detach())

    connect = socket.create_connection
    monkeypatch.setattr(socket, "create_connection", create_connection)
    question = BIG[:500_000]
    async with serving(echo, server_context) as port:
        answer = await trio.to_thread.run_sync(ask_by_selecting, port, question, client_context)
    assert answer == question


async def test_several_connections_at_once(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    questions = [bytes([index]) * 100_000 for index in range(5)]
    arrived = 0
    all_arrived = trio.Event()

    async def handle(stream: TLSStream[Any]) -> None:
        nonlocal arrived
        async with stream:
            question = b"".join([part async for part in stream])
            arrived += 1
            if arrived == len(questions):
                all_arrived.set()
            await all_arrived.wait()
            await stream.send_all(question)

    async with serving(handle, server_context) as port:
        connections = [(calling(each, client_context), (HOST, port)) for each in questions]
        assert await trio.to_thread.run_sync(example("selecting").run, connections) == questions


async def test_selecting_waits_where_there_is_nothing_to_do(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    selects = 0

    class Counting(DefaultSelector):
        def select(self, timeout: float | None = None) -> Any:
            nonlocal selects
            selects += 1
            return super().select(timeout)

    async def end_at_once(stream: TLSStream[Any]) -> None:
        async with stream:
            await stream.send_all(b"enough")
            await stream.send_eof()
            await stream.transport_stream.send_eof()
            await trio.sleep(0.2)  # gives the client the time to go wrong
            async for _ in stream:
                pass

    module: Any = example("selecting")
    monkeypatch.setattr(module, "DefaultSelector", Counting)
    async with serving(end_at_once, server_context) as port:
        connections = [(calling(BIG, client_context), (HOST, port))]
        answers = await trio.to_thread.run_sync(module.run, connections)
    assert answers == [b"enough"]
    assert selects < 2 * len(BIG) / 16384 + 20


################################################################
# The code in the guide
################################################################


@pytest.fixture
def named(ca: trustme.CA, tls_version: ssl.TLSVersion) -> ssl.SSLContext:
    """A server's context, for the name in the guide."""
    return server_context_for(ca.issue_cert("echo.example"), tls_version)


BEGINNING = 'connection = TLSConnection(ssl_context, server_hostname="echo.example")\nconnection'


@runs("core.rst", BEGINNING + '.send(b"hello")')
async def test_the_loop_in_the_guide(
    block: Block,
    client_context: ssl.SSLContext,
    named: ssl.SSLContext,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def ask(port: int) -> None:
        with socket.create_connection((HOST, port), timeout=LIMIT) as sock:
            names = {"TLSConnection": TLSConnection, "ssl_context": client_context, "sock": sock}
            # It never awaits anything.
            trio.run(partial(block.run, **names))

    async with serving(collect, named) as port:
        await trio.to_thread.run_sync(ask, port)
    assert capsys.readouterr().out == "b'hello'\n"


@runs("core.rst", BEGINNING + r'.send(b"hello\n")')
async def test_selecting_in_the_guide(
    block: Block, client_context: ssl.SSLContext, named: ssl.SSLContext
) -> None:
    def run(connections: list[tuple[TLSConnection, tuple[str, int]]]) -> list[bytearray]:
        answers: list[bytearray] = example("selecting").run(
            [(connection, (HOST, port)) for connection, _ in connections]
        )
        return answers

    def ask() -> dict[str, Any]:
        names = {"TLSConnection": TLSConnection, "ssl_context": client_context, "run": run}
        return trio.run(partial(block.run, **names))

    async with serving(collect, named) as port:
        names = await trio.to_thread.run_sync(ask)
    assert names["answer"] == b"hello\n"


@runs("core.rst", "while connection.unsent:")
async def test_sending_in_parts_in_the_guide(
    block: Block, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, server = tls_connection_pair(client_context, server_context)
    exchange(client, server)
    client.send(bytes(100_000))
    size = client.bytes_to_send
    ours, theirs = socket.socketpair()
    with ours, theirs:
        await block.run(connection=client, sock=ours)
        while size:
            size -= len(part := theirs.recv(size))
            server.feed(part)
    assert server.receive() == bytes(100_000)


@runs("core.rst", "session = cache.take(")
async def test_sessions_in_the_guide(
    block: Block, client_context: ssl.SSLContext, named: ssl.SSLContext
) -> None:
    def connect(*args: Any, **options: Any) -> TLSConnection:
        # The conversation in the middle is left out there.
        client = TLSConnection(*args, **options)
        server = TLSConnection(named, server_side=True)
        exchange(client, server)
        server.send(b"x")
        exchange(client, server)
        assert client.receive() == b"x"
        return client

    names: dict[str, Any] = {"cache": SessionCache(), "time": time, "TLSConnection": connect}
    for is_resumed in (False, True):
        await block.run(ssl_context=client_context, **names)
        assert (client_context.session_stats()["hits"] > 0) is is_resumed
        assert len(names["cache"]) > 0
