"""What a connection costs: CPU time of full and resumed handshakes, side by side in one run.

Each implementation is client and server at once, in a process each, over loopback. A connection is
TCP connect, handshake, one byte each way, close. The rounds are interleaved, so that a machine
that slows down slows down all of them. Needs the extra ``bench``. Run it on an idle machine:

    python benchmarks/handshakes.py [--connections 200] [--rounds 5] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import socket
import ssl
import statistics
import tempfile
import time
from abc import abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import _common
import _servers
import trio
import trustme
from _common import HOST, NAME, Case, ServerProcess

import trio_tlsbio

################################################################
# The implementations: each opens one connection after the other
################################################################


class Implementation(_common.Implementation):
    """An implementation with a client part."""

    @abstractmethod
    def run(self, context: ssl.SSLContext, port: int, count: int, *, resume: bool) -> int:
        """Make connections, and return how many were resumed."""


class Blocking(_servers.Blocking, Implementation):
    """ssl.SSLSocket, blocking."""

    def __init__(self) -> None:
        self.session: ssl.SSLSession | None = None

    def connect(self, context: ssl.SSLContext, port: int, *, resume: bool) -> bool:
        raw = socket.create_connection((HOST, port))
        raw.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        session = self.session if resume else None
        with context.wrap_socket(raw, server_hostname=NAME, session=session) as sock:
            sock.sendall(b"x")
            assert sock.recv(1) == b"x"
            self.session = sock.session
            reused = bool(sock.session_reused)
            sock.unwrap()
        return reused

    def run(self, context: ssl.SSLContext, port: int, count: int, *, resume: bool) -> int:
        return sum(self.connect(context, port, resume=resume) for _ in range(count))


class TrioSSL(_servers.TrioSSL, Implementation):
    """trio.SSLStream, resumed by hand."""

    def __init__(self) -> None:
        self.session: ssl.SSLSession | None = None

    async def connect(self, context: ssl.SSLContext, port: int, *, resume: bool) -> bool:
        stream: Any = trio.SSLStream(
            await trio.open_tcp_stream(HOST, port), context, server_hostname=NAME
        )
        if resume and self.session is not None:
            stream.session = self.session
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"x"
        self.session = stream.session
        reused = bool(stream.session_reused)
        await stream.aclose()
        return reused

    def run(self, context: ssl.SSLContext, port: int, count: int, *, resume: bool) -> int:
        async def main() -> int:
            return sum([await self.connect(context, port, resume=resume) for _ in range(count)])

        return trio.run(main)


class Ours(_servers.Ours, Implementation):
    """TLSStream with a session cache."""

    def __init__(self) -> None:
        self.cache = trio_tlsbio.SessionCache()

    async def connect(self, context: ssl.SSLContext, port: int, *, resume: bool) -> bool:
        stream = await trio_tlsbio.open_tls_over_tcp_stream(
            HOST, port, ssl_context=context, session_cache=self.cache if resume else None
        )
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"x"
        reused = stream.session_reused
        await stream.aclose()
        return reused

    def run(self, context: ssl.SSLContext, port: int, count: int, *, resume: bool) -> int:
        async def main() -> int:
            return sum([await self.connect(context, port, resume=resume) for _ in range(count)])

        return trio.run(main)


IMPLEMENTATIONS: tuple[type[Implementation], ...] = (Ours, TrioSSL, Blocking)


################################################################
# Measuring
################################################################


class Peer:
    """One implementation's client here, and its server in another process."""

    def __init__(
        self, implementation: type[Implementation], case: Case, folder: Path, stack: ExitStack
    ) -> None:
        self.implementation = implementation
        self.results: dict[tuple[str, str], list[float]] = {}
        self.server = stack.enter_context(ServerProcess(implementation, case, folder))
        self.context = case.context(folder, server_side=False)
        self.client = implementation()
        self.client.run(self.context, self.server.port, 3, resume=True)

    def measure(self, count: int, *, resume: bool) -> None:
        """Make connections, and note the CPU time that one took on each side."""
        if resume:
            self.client.run(self.context, self.server.port, 1, resume=True)
        server, client = self.server.cpu_seconds(), time.process_time()
        reused = self.client.run(self.context, self.server.port, count, resume=resume)
        client, server = time.process_time() - client, self.server.cpu_seconds() - server
        assert reused == (count if resume else 0), f"{reused} of {count} were resumed"
        kind = "resumed" if resume else "full"
        for side, seconds in (("client", client), ("server", server)):
            self.results.setdefault((kind, side), []).append(seconds / count * 1e6)


def round_trips(case: Case, folder: Path) -> Iterator[tuple[str, int]]:
    """Count the round trips from the first byte of TLS to the first byte of an answer."""
    client_context = case.context(folder, server_side=False)
    server_context = case.context(folder, server_side=True)
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
    _common.end_tidily()

    cases = [
        Case(version, key, client_certificate)
        for version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.TLSv1_2)
        for key in (trustme.KeyType.ECDSA, trustme.KeyType.RSA)
        for client_certificate in (False, True)
    ]
    print(f"CPU time per connection in µs, {_common.versions()}")
    print("median of the rounds (lowest to highest), and the ratio to trio_tlsbio")
    figures = []
    for case in cases:
        with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
            folder = Path(name)
            case.save_certificates(folder)
            trips = dict(round_trips(case, folder))
            peers = [
                Peer(implementation, case, folder, stack) for implementation in IMPLEMENTATIONS
            ]
            for _ in _common.progress(f"{case}: rounds", options.rounds):
                for resume in (False, True):
                    for peer in peers:
                        peer.measure(options.connections, resume=resume)
        print(f"\n{case}")
        for kind in ("full", "resumed"):
            print(f"  {kind}: {trips[kind]} round trips to the first byte of the answer")
            for side in ("client", "server"):
                ours = statistics.median(peers[0].results[kind, side])
                for peer in peers:
                    values = peer.results[kind, side]
                    median = statistics.median(values)
                    print(
                        f"    {side}  {peer.implementation.name:15}{_common.spread(values)}"
                        f"  x {median / ours:.2f}"
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
