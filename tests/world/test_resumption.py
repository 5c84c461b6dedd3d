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
from itertools import pairwise
from pathlib import Path
from typing import TypeAlias

import attrs
import pytest
import trio
import trustme

from tests.helpers import DOCS, HOST, LIMIT
from tests.peers import running
from tests.programs import VERSION_OPTIONS, free_port, gnutls_serv, needs, nginx, s_server
from trio_tlsbio import SessionCache, TLSConnector, TLSStream, open_tls_over_tcp_stream

Stream: TypeAlias = TLSStream[trio.SocketStream]

EXAMPLES = DOCS / "examples"


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

def make_context():
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(sys.argv[1])
    context.minimum_version = context.maximum_version = ssl.TLSVersion(int(sys.argv[2]))
    return context

sock = socket.create_server(("127.0.0.1", 0))
print("port", sock.getsockname()[1], flush=True)
workers.serve(sock, make_context)
"""

needs_fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no os.fork")


@attrs.define(eq=False)
class Workers:
    """docs/examples/workers.py as a program, and a client of it that keeps its sessions."""

    process: trio.Process
    client_context: ssl.SSLContext
    port: int = 0
    sessions: SessionCache = attrs.field(factory=SessionCache)
    output: bytes = b""

    async def line(self) -> bytes:
        """Return the next line that it prints; b"" once all processes have gone."""
        assert self.process.stdout is not None
        while b"\n" not in self.output:
            part = await self.process.stdout.receive_some()
            if not part:
                assert not self.output
                return b""
            self.output += part
        line, _, self.output = self.output.partition(b"\n")
        return line

    async def next_to_leave(self) -> int:
        """Wait until a worker has left."""
        line = await self.line()
        found = re.fullmatch(rb"worker (\d+) has left", line)
        assert found is not None, line
        return int(found[1])

    async def connect(self) -> Stream:
        return await open_tls_over_tcp_stream(
            HOST, self.port, ssl_context=self.client_context, session_cache=self.sessions
        )

    async def ask(self, stream: Stream) -> int:
        """Ask a worker who it is."""
        await stream.send_all(b"who are you?")
        answer = await receive_until(stream, b"\n")
        found = re.fullmatch(rb"worker (\d+)\n", answer)
        assert found is not None, answer
        return int(found[1])

    async def visit(self, times: int, certificate: trustme.LeafCert) -> set[int]:
        """Connect often, each time to another worker than before, and return which they were.

        Each connection but the first is resumed, and each knows of the certificate.
        """
        workers: list[int] = []
        resumed = []
        stopped: int | None = None
        (leaf, *_) = certificate.cert_chain_pems
        expected = ssl.PEM_cert_to_DER_cert(leaf.bytes().decode())
        try:
            for _ in range(times):
                async with await self.connect() as stream:
                    workers.append(await self.ask(stream))
                    resumed.append(stream.session_reused)
                    assert stream.getpeercert(binary_form=True) == expected
                # So that another one takes the next connection.
                os.kill(workers[-1], signal.SIGSTOP)
                if stopped is not None:
                    os.kill(stopped, signal.SIGCONT)
                stopped = workers[-1]
        finally:
            if stopped is not None:
                os.kill(stopped, signal.SIGCONT)
        assert resumed == [False] + (times - 1) * [True]
        assert all(one != next_one for one, next_one in pairwise(workers))
        return set(workers)


@asynccontextmanager
async def worker_processes(
    pem: Path, version: ssl.TLSVersion, client_context: ssl.SSLContext
) -> AsyncIterator[Workers]:
    """Run docs/examples/workers.py on a port that the kernel chooses."""
    argv = (sys.executable, "-B", "-W", "error", "-c", WORKERS, pem, version.value)
    with trio.fail_after(LIMIT):
        async with running(
            *argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=EXAMPLES,
            env=os.environ | {"PYTHONUNBUFFERED": ""},  # so that lines are written whole
        ) as process:
            workers = Workers(process, client_context)
            word, port = (await workers.line()).split()
            assert word == b"port"
            workers.port = int(port)
            yield workers


@needs_fork
async def test_forked_workers_resume_each_others_sessions(
    server_pem: Path,
    server_cert: trustme.LeafCert,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    async with worker_processes(server_pem, tls_version, client_context) as workers:
        pids = await workers.visit(40, server_cert)
        workers.process.kill()
        # They notice that it has gone, and complain of nothing.
        left = {await workers.next_to_leave() for _ in range(4)}
        assert await workers.line() == b""
    assert pids <= left


@needs_fork
async def test_forked_workers_drain(
    server_pem: Path, client_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    async with worker_processes(server_pem, tls_version, client_context) as workers:
        async with await workers.connect() as stream:
            pid = await workers.ask(stream)
            workers.process.send_signal(signal.SIGTERM)
            others = {await workers.next_to_leave() for _ in range(3)}
            assert await workers.ask(stream) == pid
        assert await workers.next_to_leave() == pid
        assert await workers.line() == b""
        assert await workers.process.wait() == 0
        assert pid not in others
        with pytest.raises(OSError, match="connect"):
            await workers.connect()


@needs_fork
async def test_forked_workers_are_replaced(
    server_pem: Path,
    server_cert: trustme.LeafCert,
    ca: trustme.CA,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    async with worker_processes(server_pem, tls_version, client_context) as workers:
        old = await workers.visit(5, server_cert)
        async with await workers.connect() as stream:
            pid = await workers.ask(stream)
            new_cert = ca.issue_cert(HOST)
            new_cert.private_key_and_cert_chain_pem.write_to_path(str(server_pem))
            workers.process.send_signal(signal.SIGHUP)
            others = {await workers.next_to_leave() for _ in range(3)}
            assert await workers.ask(stream) == pid
        assert await workers.next_to_leave() == pid
        assert old <= others | {pid}
        # Whoever comes now meets the new ones, which have keys of their own that they share.
        new = await workers.visit(20, new_cert)
        assert not new & (others | {pid})

        await trio.Path(server_pem).write_text("no certificate", encoding="utf-8")
        workers.process.send_signal(signal.SIGHUP)
        assert (await workers.line()).startswith(b"the workers stay: ")
        async with await workers.connect() as stream:
            assert await workers.ask(stream) in new
            assert stream.session_reused
        workers.process.send_signal(signal.SIGTERM)
        assert new <= {await workers.next_to_leave() for _ in range(4)}
        assert await workers.process.wait() == 0


@needs_fork
async def test_a_forked_worker_that_fails_ends_them_all(
    server_pem: Path, client_context: ssl.SSLContext
) -> None:
    version = client_context.minimum_version
    async with worker_processes(server_pem, version, client_context) as workers:
        async with await workers.connect() as stream:
            pid = await workers.ask(stream)
            os.kill(pid, signal.SIGKILL)
        assert await workers.process.wait() == 1
        output = []
        while line := await workers.line():
            output.append(line)
    assert b"RuntimeError: a worker has failed" in output
    assert sum(line.endswith(b" has left") for line in output) == 3
