"""What a connection costs: CPU time of full and resumed handshakes, side by side in one run.

Each implementation is client and server at once, in a process each, over loopback. A connection is
TCP connect, handshake, one byte each way, close. The rounds are interleaved, so that a machine
that slows down slows down all of them. Run it on an idle machine:

    python benchmarks/handshakes.py [--connections 200] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import trio
import trustme

import trio_tlsbio

HOST = NAME = "127.0.0.1"


@dataclass(frozen=True)
class Case:
    """One kind of connection."""

    version: ssl.TLSVersion
    key: trustme.KeyType
    client_certificate: bool

    def __str__(self) -> str:
        version = {"TLSv1_2": "TLS 1.2", "TLSv1_3": "TLS 1.3"}[self.version.name]
        who = "client certificate" if self.client_certificate else "server only"
        return f"{version}, {self.key.name}, {who}"


################################################################
# The implementations: each opens one connection, and serves
################################################################


class Blocking:
    """ssl.SSLSocket, blocking."""

    name = "blocking ssl"

    def __init__(self) -> None:
        self.session: ssl.SSLSession | None = None

    def connect(self, context: ssl.SSLContext, port: int, *, resume: bool) -> bool:
        raw = socket.create_connection((HOST, port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = self.session if resume else None
        with context.wrap_socket(raw, server_hostname=NAME, session=session) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"y"
            self.session = sock.session
            reused = bool(sock.session_reused)
            sock.unwrap()
        return reused

    def run(self, context: ssl.SSLContext, port: int, count: int, *, resume: bool) -> int:
        return sum(self.connect(context, port, resume=resume) for _ in range(count))

    @staticmethod
    def serve(context: ssl.SSLContext, listener: socket.socket) -> None:
        listener.setblocking(True)
        while True:
            raw, _ = listener.accept()
            raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            with context.wrap_socket(raw, server_side=True) as sock:
                assert sock.recv(1) == b"x"
                sock.sendall(b"y")
                sock.recv(1)
                sock.unwrap()


class TrioSSL:
    """trio.SSLStream, resumed by hand."""

    name = "trio.SSLStream"

    def __init__(self) -> None:
        self.session: ssl.SSLSession | None = None

    async def connect(self, context: ssl.SSLContext, port: int, *, resume: bool) -> bool:
        stream: Any = trio.SSLStream(
            await trio.open_tcp_stream(HOST, port), context, server_hostname=NAME
        )
        if resume and self.session is not None:
            stream.session = self.session
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"y"
        self.session = stream.session
        reused = bool(stream.session_reused)
        await stream.aclose()
        return reused

    def run(self, context: ssl.SSLContext, port: int, count: int, *, resume: bool) -> int:
        async def main() -> int:
            return sum([await self.connect(context, port, resume=resume) for _ in range(count)])

        return trio.run(main)

    @staticmethod
    def serve(context: ssl.SSLContext, listener: socket.socket) -> None:
        async def handler(stream: trio.SSLStream[trio.SocketStream]) -> None:
            assert await stream.receive_some(1) == b"x"
            await stream.send_all(b"y")
            await stream.receive_some(1)
            await stream.aclose()

        listeners = [
            trio.SSLListener(trio.SocketListener(trio.socket.from_stdlib_socket(listener)), context)
        ]
        trio.run(partial(trio.serve_listeners, handler, listeners))


class Ours:
    """TLSStream with a session cache."""

    name = "trio_tlsbio"

    def __init__(self) -> None:
        self.cache = trio_tlsbio.SessionCache()

    async def connect(self, context: ssl.SSLContext, port: int, *, resume: bool) -> bool:
        stream = await trio_tlsbio.open_tls_over_tcp_stream(
            HOST, port, ssl_context=context, session_cache=self.cache if resume else None
        )
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"y"
        reused = stream.session_reused
        await stream.aclose()
        return reused

    run = TrioSSL.run

    @staticmethod
    def serve(context: ssl.SSLContext, listener: socket.socket) -> None:
        async def handler(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
            assert await stream.receive_some(1) == b"x"
            await stream.send_all(b"y")
            await stream.receive_some(1)
            await stream.aclose()

        listeners = [
            trio_tlsbio.TLSListener(
                trio.SocketListener(trio.socket.from_stdlib_socket(listener)), context
            )
        ]
        trio.run(partial(trio.serve_listeners, handler, listeners))


IMPLEMENTATIONS: tuple[Any, ...] = (Ours, TrioSSL, Blocking)


################################################################
# Measuring
################################################################


def server_process(serve: Callable[..., None], case: Case, seed: Path, pipe: Connection) -> None:
    """Serve, and say of each byte that comes by the pipe how much CPU time was used so far."""
    import threading

    context = load_context(seed, case, server_side=True)
    listener = socket.create_server((HOST, 0), backlog=64)

    def answer() -> None:
        pipe.send(listener.getsockname()[1])
        while pipe.recv():
            pipe.send(time.process_time())

    threading.Thread(target=answer, daemon=True).start()
    listener.setblocking(False)
    serve(context, listener)


def save_certificates(case: Case, folder: Path) -> None:
    ca = trustme.CA(key_type=case.key)
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    for side, names in (("server", [NAME]), ("client", ["client@bench.example"])):
        cert = ca.issue_cert(*names, key_type=case.key)
        cert.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{side}.pem"))


def load_context(folder: Path, case: Case, *, server_side: bool) -> ssl.SSLContext:
    purpose = ssl.Purpose.CLIENT_AUTH if server_side else ssl.Purpose.SERVER_AUTH
    context = ssl.create_default_context(purpose, cafile=str(folder / "ca.pem"))
    context.minimum_version = context.maximum_version = case.version
    if server_side:
        context.load_cert_chain(folder / "server.pem")
        if case.client_certificate:
            context.verify_mode = ssl.CERT_REQUIRED
    elif case.client_certificate:
        context.load_cert_chain(folder / "client.pem")
    return context


@dataclass
class Peer:
    """One implementation's client here, and its server in another process."""

    implementation: Any
    case: Case
    folder: Path
    results: dict[tuple[str, str], list[float]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        self.process = multiprocessing.get_context("spawn").Process(
            target=server_process,
            args=(self.implementation.serve, self.case, self.folder, theirs),
            daemon=True,
        )
        self.process.start()
        self.port = self.pipe.recv()
        self.context = load_context(self.folder, self.case, server_side=False)
        self.client = self.implementation()
        self.client.run(self.context, self.port, 3, resume=True)

    def server_seconds(self) -> float:
        self.pipe.send(True)
        seconds: float = self.pipe.recv()
        return seconds

    def measure(self, count: int, *, resume: bool) -> None:
        """Make connections, and note the CPU time that one took on each side."""
        if resume:
            self.client.run(self.context, self.port, 1, resume=True)
        server, client = self.server_seconds(), time.process_time()
        reused = self.client.run(self.context, self.port, count, resume=resume)
        client, server = time.process_time() - client, self.server_seconds() - server
        assert reused == (count if resume else 0), f"{reused} of {count} were resumed"
        kind = "resumed" if resume else "full"
        for side, seconds in (("client", client), ("server", server)):
            self.results.setdefault((kind, side), []).append(seconds / count * 1e6)

    def stop(self) -> None:
        self.process.terminate()
        self.process.join()


def round_trips(case: Case, folder: Path) -> Iterator[tuple[str, int]]:
    """Count the round trips from the first byte of TLS to the first byte of an answer."""
    client_context = load_context(folder, case, server_side=False)
    server_context = load_context(folder, case, server_side=True)
    session = None
    for kind in ("full", "resumed"):
        client = trio_tlsbio.TLSConnection(client_context, server_hostname=NAME, session=session)
        server = trio_tlsbio.TLSConnection(server_context, server_side=True)
        client.send(b"x")
        count = 0
        while not (answer := client.receive()):
            count += 1
            server.feed(client.data_to_send())
            if server.receive() == b"x":
                server.send(b"y")
            client.feed(server.data_to_send())
        assert answer == b"y"
        session = client.session
        yield kind, count


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--connections", type=int, default=100, help="connections per round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args()

    cases = [
        Case(version, key, client_certificate)
        for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2)
        for key in (trustme.KeyType.ECDSA, trustme.KeyType.RSA)
        for client_certificate in (False, True)
    ]
    print(f"CPU time per connection in µs, {ssl.OPENSSL_VERSION}, Python {sys.version.split()[0]}")
    print("median of the rounds (lowest to highest), and the ratio to trio_tlsbio")
    figures = []
    for case in cases:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            save_certificates(case, folder)
            trips = dict(round_trips(case, folder))
            peers = [Peer(implementation, case, folder) for implementation in IMPLEMENTATIONS]
            try:
                for number in range(options.rounds):
                    if sys.stderr.isatty():
                        print(f"\r{case}: round {number + 1} ", end="", file=sys.stderr)
                    for resume in (False, True):
                        for peer in peers:
                            peer.measure(options.connections, resume=resume)
            finally:
                for peer in peers:
                    peer.stop()
        if sys.stderr.isatty():
            print("\r", end="", file=sys.stderr)
        print(f"\n{case}")
        for kind in ("full", "resumed"):
            print(f"  {kind}: {trips[kind]} round trips to the first byte of the answer")
            for side in ("client", "server"):
                ours = statistics.median(peers[0].results[kind, side])
                for peer in peers:
                    values = peer.results[kind, side]
                    median = statistics.median(values)
                    print(
                        f"    {side}  {peer.implementation.name:15}{median:7.0f}"
                        f"  ({min(values):.0f} to {max(values):.0f})  x {median / ours:.2f}"
                    )
                    figures.append(
                        {
                            "case": str(case),
                            "kind": kind,
                            "side": side,
                            "implementation": peer.implementation.name,
                            "microseconds": values,
                        }
                    )
    if options.json is not None:
        options.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
