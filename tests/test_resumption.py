"""Reconnecting to servers that are not ours, and to one of ours that has many processes."""

from __future__ import annotations

import os
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import attrs
import pytest
import trio
import trustme

from trio_tlsbio import SessionCache, TLSConnector, TLSStream, open_tls_over_tcp_stream

from .peers import running
from .programs import LIMIT, VERSION_OPTIONS, free_port, gnutls_serv, needs, nginx, s_server

Stream: TypeAlias = TLSStream[trio.SocketStream]

HOST = "127.0.0.1"  # a name in the server's certificate
EXAMPLES = Path(__file__).parent.parent / "docs" / "examples"


@pytest.fixture
def server_pem(server_cert: trustme.LeafCert, tmp_path: Path) -> Path:
    """A file with the server's key and certificate."""
    path = tmp_path / "server.pem"
    server_cert.private_key_and_cert_chain_pem.write_to_path(str(path))
    return path


async def receive_until(stream: trio.abc.ReceiveStream, end: bytes) -> bytes:
    data = b""
    while not data.endswith(end):
        part = await stream.receive_some()
        assert part, f"the stream ended after {data!r}"
        data += part
    return data


################################################################
# The servers, and how to talk to them
################################################################


async def hear_the_reverse(stream: Stream, number: int) -> None:
    expected = (b"line %d" % number)[::-1] + b"\n"
    assert await receive_until(stream, b"\n") == expected


async def hear_the_echo(stream: Stream, number: int) -> None:
    assert await receive_until(stream, b"\n") == b"line %d\n" % number


async def read_the_page(stream: Stream, number: int) -> None:
    page = b"".join([part async for part in stream])  # to the close_notify
    assert page.startswith(b"HTTP/1.1 200 OK\r\n")
    assert page.endswith(b"\r\n\r\nyou asked for /%d" % number)


LINE = b"line %d\n"
REQUEST = b"GET /%d HTTP/1.1\r\nHost: server.example\r\nConnection: close\r\n\r\n"


@attrs.frozen
class Server:
    """A program, what to say to it, and how to take its answer."""

    program: str
    start: Callable[[Path, ssl.TLSVersion, int], AbstractAsyncContextManager[int]]
    question: bytes  # with a number in it
    take_answer: Callable[[Stream, int], Awaitable[None]]


def start_s_server(
    *options: str,
) -> Callable[[Path, ssl.TLSVersion, int], AbstractAsyncContextManager[int]]:
    return lambda pem, version, port: s_server(
        pem, VERSION_OPTIONS[version], "-rev", *options, port=port
    )


def start_nginx(pem: Path, version: ssl.TLSVersion, port: int) -> AbstractAsyncContextManager[int]:
    return nginx(pem, version, port=port)


def start_nginx_without_tickets(
    pem: Path, version: ssl.TLSVersion, port: int
) -> AbstractAsyncContextManager[int]:
    return nginx(pem, version, port=port, tickets=False)


def start_gnutls_serv(
    pem: Path, version: ssl.TLSVersion, port: int
) -> AbstractAsyncContextManager[int]:
    return gnutls_serv(pem, version, port=port)


SERVERS = {
    "s_server": Server("openssl", start_s_server(), LINE, hear_the_reverse),
    "nginx": Server("nginx", start_nginx, REQUEST, read_the_page),
    "gnutls-serv": Server("gnutls-serv", start_gnutls_serv, LINE, hear_the_echo),
}

# They keep the sessions, and the tickets only name them.
STATEFUL_SERVERS = {
    "s_server": attrs.evolve(SERVERS["s_server"], start=start_s_server("-no_ticket")),
    "nginx": attrs.evolve(SERVERS["nginx"], start=start_nginx_without_tickets),
}


def each_of(servers: dict[str, Server]) -> pytest.MarkDecorator:
    """Run a test with each server whose program is installed."""
    params = [
        pytest.param(server, id=name, marks=needs(server.program))
        for name, server in servers.items()
    ]
    return pytest.mark.parametrize("server", params)


################################################################
# Every reconnect is resumed
################################################################


async def talk_often(
    server: Server, port: int, ssl_context: ssl.SSLContext, *, receives: bool = True
) -> None:
    """Connect 50 times; all but the first are resumed."""
    cache = SessionCache()
    resumed = []
    for number in range(50):
        async with await open_tls_over_tcp_stream(
            HOST, port, ssl_context=ssl_context, session_cache=cache
        ) as stream:
            await stream.send_all(server.question % number)
            if receives:
                await server.take_answer(stream, number)
            resumed.append(stream.session_reused)
    assert resumed == [False] + 49 * [True]
    assert cache.statistics().misses == 1
    assert cache.statistics().hits == ssl_context.session_stats()["hits"] == 49


@each_of(SERVERS)
async def test_every_reconnect_is_resumed(
    server: Server,
    server_pem: Path,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    async with server.start(server_pem, tls_version, 0) as port:
        await talk_often(server, port, client_context)


@each_of(STATEFUL_SERVERS)
async def test_every_reconnect_is_resumed_by_a_server_that_keeps_the_sessions(
    server: Server,
    server_pem: Path,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    async with server.start(server_pem, tls_version, 0) as port:
        await talk_often(server, port, client_context)


@each_of(SERVERS)
async def test_a_client_that_never_reads_is_resumed_too(
    server: Server,
    server_pem: Path,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    async with server.start(server_pem, tls_version, 0) as port:
        await talk_often(server, port, client_context, receives=False)


@each_of(SERVERS)
async def test_every_connection_of_a_connector_is_resumed(
    server: Server,
    server_pem: Path,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    connector = TLSConnector(ssl_context=client_context)
    async with server.start(server_pem, tls_version, 0) as port:
        for number in range(10):
            async with await connector.connect(HOST, port) as stream:
                assert stream.session_reused is (number > 0)
                await stream.send_all(server.question % number)
                await server.take_answer(stream, number)


@each_of(SERVERS)
async def test_a_restarted_server_costs_one_full_handshake(
    server: Server,
    server_pem: Path,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    cache = SessionCache()
    port = free_port()
    resumed = []
    for _ in range(3):  # each time with new keys for the tickets
        async with server.start(server_pem, tls_version, port):
            for number in range(3):
                async with await open_tls_over_tcp_stream(
                    HOST, port, ssl_context=client_context, session_cache=cache
                ) as stream:
                    await stream.send_all(server.question % number)
                    await server.take_answer(stream, number)
                    resumed.append(stream.session_reused)
    assert resumed == 3 * [False, True, True]
    # The old tickets were offered, and refused.
    assert cache.statistics().hits == 8
    assert client_context.session_stats()["hits"] == 6


################################################################
# Worker processes of our own
################################################################

# Arguments: a PEM file with key and certificate, and the version's number.
WORKERS = """
import socket, ssl, sys
import workers

context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
context.load_cert_chain(sys.argv[1])
context.minimum_version = context.maximum_version = ssl.TLSVersion(int(sys.argv[2]))
sock = socket.create_server(("127.0.0.1", 0))
print("port", sock.getsockname()[1], flush=True)
workers.serve(sock, context)
"""


@asynccontextmanager
async def worker_processes(pem: Path, version: ssl.TLSVersion) -> AsyncIterator[int]:
    """Run docs/examples/workers.py on a port that the kernel chooses, and give the port.

    At the end all of its processes have gone, and have complained of nothing.
    """
    argv = (sys.executable, "-B", "-W", "error", "-c", WORKERS, pem, version.value)
    with trio.fail_after(LIMIT):
        async with running(
            *argv, stdin=subprocess.DEVNULL, stdout=-1, stderr=subprocess.STDOUT, cwd=EXAMPLES
        ) as process:
            assert process.stdout is not None
            line = await receive_until(process.stdout, b"\n")
            assert line.startswith(b"port "), line
            yield int(line.split()[1])
            process.kill()
            assert b"".join([part async for part in process.stdout]) == b""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no os.fork")
async def test_forked_workers_resume_each_others_sessions(
    server_pem: Path, client_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    connect = partial(
        open_tls_over_tcp_stream, HOST, ssl_context=client_context, session_cache=SessionCache()
    )
    workers: list[int] = []
    resumed = []
    stopped: int | None = None
    async with worker_processes(server_pem, tls_version) as port:
        try:
            for _ in range(40):
                async with await connect(port) as stream:
                    await stream.send_all(b"who are you?")
                    answer = await receive_until(stream, b"\n")
                    resumed.append(stream.session_reused)
                found = re.fullmatch(rb"worker (\d+)\n", answer)
                assert found is not None
                workers.append(int(found[1]))
                # So that another one takes the next connection.
                os.kill(workers[-1], signal.SIGSTOP)
                if stopped is not None:
                    os.kill(stopped, signal.SIGCONT)
                stopped = workers[-1]
        finally:
            if stopped is not None:
                os.kill(stopped, signal.SIGCONT)
    assert resumed == [False] + 39 * [True]
    assert all(one != next_one for one, next_one in pairwise(workers))
