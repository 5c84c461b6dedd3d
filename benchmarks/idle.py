"""What idle connections cost a server: memory for each, and time for requests beside them.

The server and the client are processes of their own. The clients do a handshake each (plaintext
ones send a byte), and then say nothing. Needs the extra ``bench``; POSIX only:

    python benchmarks/idle.py [--connections 9000] [--tls12] [--traffic] [--json FILE]

Memory is what the server process has for itself (USS), after a garbage collection. The growth from
a few connections to all of them is divided by their number. The kernel's memory for sockets is not
in it. The implementations are measured one after the other, each in a fresh process.

Times are of one request of 64 bytes and its echo, on a few connections in turn, while the others
are idle: CPU time of the server, and wall time, which has the client's part in it. The servers with
few idle connections and those with many run at the same time, and take turns in every round.
"""

from __future__ import annotations

import argparse
import itertools
import json
import resource
import select
import socket
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path

from _common import (
    HOST,
    NAME,
    TIMEOUT,
    Case,
    Implementation,
    Remote,
    ServerProcess,
    answer,
    end_tidily,
    progress,
    spread,
    versions,
)
from _servers import BareSSL, Ours, TrioPlain, TrioSSL

BARE = BareSSL
MEMORY: tuple[type[Implementation], ...] = (Ours, TrioSSL, BARE, TrioPlain)
TIMES: tuple[type[Implementation], ...] = (Ours, TrioSSL, TrioPlain)

FEW_IDLE = 10
ACTIVE = 4
WARM_UP = 50

REQUEST_BYTES = 64
TRAFFIC_BYTES = 256 * 1024

# How many connections are told of at once, so that each step is short.
BATCH = 100

# Descriptors for all but connections.
RESERVED = 100

# How long the client waits for the server to say something, in seconds.
PATIENCE = 30.0


################################################################
# The client
################################################################


class ClientConnection:
    """A connection to an echo server, over a socket that does not block.

    Args:
      context: None for plaintext.
      port: The server's.
      session: To resume with.
    """

    __slots__ = ("_incoming", "_outgoing", "_sock", "_tls")

    def __init__(
        self, context: ssl.SSLContext | None, port: int, session: ssl.SSLSession | None
    ) -> None:
        self._sock = socket.create_connection((HOST, port), timeout=PATIENCE)
        self._sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._sock.setblocking(False)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls: ssl.SSLObject | None = None
        if context is None:
            self.exchange(b"x")
            return
        self._tls = context.wrap_bio(
            self._incoming, self._outgoing, server_hostname=NAME, session=session
        )
        while not self._shake_hands(self._tls):
            self._wait(select.POLLIN)
            self._incoming.write(self._receive())
        assert self._tls.session_reused == (session is not None), "resumed, or not, unlike asked"

    def _shake_hands(self, tls: ssl.SSLObject) -> bool:
        try:
            tls.do_handshake()
        except ssl.SSLWantReadError:
            return False
        finally:
            self._sock.sendall(self._outgoing.read())
        return True

    @property
    def session(self) -> ssl.SSLSession | None:
        """What to resume with."""
        return None if self._tls is None else self._tls.session

    def exchange(self, data: bytes) -> None:
        """Send data and receive as much, both at once."""
        left = len(data)
        unsent = memoryview(data if self._tls is None else self._encrypt(self._tls, data))
        while left:
            ready = self._wait(select.POLLIN | select.POLLOUT if unsent else select.POLLIN)
            if ready & select.POLLOUT:
                unsent = unsent[self._sock.send(unsent) :]
            if ready & ~select.POLLOUT:
                left -= len(self._decrypt(self._receive()))

    def check(self) -> None:
        """Raise ConnectionError if the server has closed it. It is of no use afterwards."""
        try:
            while True:
                self._receive()  # session tickets, for example
        except BlockingIOError:
            pass

    def _encrypt(self, tls: ssl.SSLObject, data: bytes) -> bytes:
        tls.write(data)  # into a MemoryBIO, which takes it all
        return self._outgoing.read()

    def _decrypt(self, data: bytes) -> bytes:
        if self._tls is None:
            return data
        self._incoming.write(data)
        plaintext = b""
        try:
            while chunk := self._tls.read(16 * 1024):
                plaintext += chunk
        except ssl.SSLWantReadError:
            pass
        return plaintext

    def _receive(self) -> bytes:
        if not (data := self._sock.recv(64 * 1024)):
            raise ConnectionError("the server has closed a connection")
        return data

    def _wait(self, events: int) -> int:
        poll = select.poll()  # select.select() knows no descriptors above 1023
        poll.register(self._sock, events)
        ready = poll.poll(PATIENCE * 1000)
        if not ready:
            raise TimeoutError("the server does not answer")
        return ready[0][1]


class Client:
    """Holds connections open, and uses them when asked to."""

    def __init__(self, context: ssl.SSLContext | None, port: int, *, resume: bool) -> None:
        self._context = context
        self._port = port
        self._resume = resume
        self._session: ssl.SSLSession | None = None
        self._connections: list[ClientConnection] = []

    def connect(self, count: int) -> None:
        """Open further connections, one after the other."""
        for _ in range(count):
            connection = ClientConnection(self._context, self._port, self._session)
            self._connections.append(connection)
            if self._resume and self._session is None:
                connection.exchange(b"x")  # some servers send no ticket before that
                self._session = connection.session

    def exchange(self, start: int, stop: int, size: int) -> None:
        """Have the server echo ``size`` bytes on some of the connections."""
        data = bytes(size)
        for connection in self._connections[start:stop]:
            connection.exchange(data)

    def request(self, among: int, count: int) -> float:
        """Make requests on the first connections in turn, and return how many seconds it took."""
        data = bytes(REQUEST_BYTES)
        begin = time.perf_counter()
        for connection in itertools.islice(itertools.cycle(self._connections[:among]), count):
            connection.exchange(data)
        return time.perf_counter() - begin

    def check(self) -> None:
        """Raise ConnectionError unless all connections are still open."""
        for connection in self._connections:
            connection.check()


def run_client(pipe: Connection, case: Case | None, folder: Path, port: int, resume: bool) -> None:
    """Run a client that does what it is told by the pipe."""
    context = None if case is None else case.context(folder, server_side=False)
    client = Client(context, port, resume=resume)
    methods = (client.connect, client.exchange, client.request, client.check)
    answer(pipe, {method.__name__: method for method in methods})


################################################################
# Measuring
################################################################


@dataclass(frozen=True)
class Options:
    """What to measure. See ``--help``."""

    connections: int
    traffic: bool
    resume: bool
    rounds: int
    requests: int
    timeout: float


@dataclass(frozen=True)
class MemoryFigure:
    """Memory of the server for one connection, in bytes."""

    protocol: str
    implementation: str
    idle: float
    after_traffic: float | None


@dataclass
class RequestFigure:
    """Time for one request while others are idle, in microseconds, for each round."""

    protocol: str
    implementation: str
    idle_connections: int
    cpu: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)


@dataclass
class Pair:
    """A server, and a client with connections to it."""

    implementation: type[Implementation]
    protocol: str
    server: ServerProcess
    client: Remote

    @property
    def label(self) -> str:
        """What is running, for people."""
        name = self.implementation.name
        return f"{self.protocol}, {name}" if self.implementation.is_encrypted else name

    def connect(self, count: int) -> None:
        """Open connections, and show how far it is."""
        for batch in progress(f"{self.label}: connecting", count, BATCH):
            self.client.ask("connect", len(batch))

    def exchange(self, start: int, count: int) -> None:
        """Send traffic over connections, and show how far it is."""
        for batch in progress(f"{self.label}: traffic", count, BATCH):
            self.client.ask("exchange", start + batch.start, start + batch.stop, TRAFFIC_BYTES)


@contextmanager
def running(
    implementation: type[Implementation], case: Case, folder: Path, options: Options
) -> Iterator[Pair]:
    """Start a server and its client, and end them with the block."""
    is_encrypted = implementation.is_encrypted
    protocol = case.protocol if is_encrypted else "plaintext"
    with ExitStack() as stack:
        server = stack.enter_context(
            ServerProcess(implementation, case, folder, timeout=options.timeout)
        )
        client = stack.enter_context(
            Remote(
                f"the client of {implementation.name}",
                run_client,
                case if is_encrypted else None,
                folder,
                server.port,
                options.resume,
                timeout=options.timeout,
            )
        )
        try:
            yield Pair(implementation, protocol, server, client)
        finally:
            # Both at once, so that neither complains that the other one has gone.
            server.begin_to_stop()
            client.begin_to_stop()


def measure_memory(pair: Pair, options: Options) -> MemoryFigure:
    """Open all connections and see how much memory each of them takes."""
    pair.client.ask("connect", WARM_UP)
    pair.client.ask("exchange", 0, WARM_UP, REQUEST_BYTES)
    pair.server.memory_bytes()  # loads what it needs itself
    before = pair.server.memory_bytes()
    pair.connect(options.connections)
    idle = (pair.server.memory_bytes() - before) / options.connections
    after_traffic = None
    if options.traffic:
        pair.exchange(WARM_UP, options.connections)
        after_traffic = (pair.server.memory_bytes() - before) / options.connections
    pair.client.ask("check")
    return MemoryFigure(pair.protocol, pair.implementation.name, idle, after_traffic)


def measure_requests(
    implementations: list[type[Implementation]], case: Case, folder: Path, options: Options
) -> list[RequestFigure]:
    """Time requests beside few and many idle connections."""
    with ExitStack() as stack:
        pairs: list[tuple[Pair, RequestFigure]] = []
        for implementation in implementations:
            for idle in (FEW_IDLE, options.connections):
                pair = stack.enter_context(running(implementation, case, folder, options))
                pair.client.ask("connect", ACTIVE)
                pair.connect(idle)
                pair.client.ask("request", ACTIVE, options.requests)
                pairs.append((pair, RequestFigure(pair.protocol, implementation.name, idle)))
        for _ in progress(
            f"{case.protocol}: rounds of {options.requests} requests", options.rounds
        ):
            for pair, figure in pairs:
                before = pair.server.cpu_seconds()
                wall: float = pair.client.ask("request", ACTIVE, options.requests)
                cpu = pair.server.cpu_seconds() - before
                figure.cpu.append(cpu / options.requests * 1e6)
                figure.wall.append(wall / options.requests * 1e6)
        for pair, _ in pairs:
            pair.client.ask("check")
        return [figure for _, figure in pairs]


def descriptors() -> int:
    """Raise the limit of open files as far as it goes, and return it. Processes inherit it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard == resource.RLIM_INFINITY:
        hard = 1 << 20
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    except (OSError, ValueError):  # a system may allow less than it says
        return soft
    return hard


################################################################
# Tables
################################################################


def print_memory(figures: list[MemoryFigure], options: Options) -> None:
    """Print the table of memory."""
    bare = {figure.protocol: figure for figure in figures if figure.implementation == BARE.name}
    print(f"\nMemory of the server per connection, {options.connections} of them, in KiB")
    print(f"and the ratio to a bare {BARE.name} with its MemoryBIOs and socket")
    traffic = f"after {TRAFFIC_BYTES // 1024} KiB of echo" if options.traffic else ""
    print(f"  {'':27}{'idle':>6}{traffic:>30}".rstrip())
    for figure in figures:
        base = bare.get(figure.protocol, bare["TLS 1.3"])
        line = f"  {figure.protocol:9} {figure.implementation:17}"
        line += f"{figure.idle / 1024:6.1f}  x {figure.idle / base.idle:4.2f}"
        if figure.after_traffic is not None and base.after_traffic is not None:
            ratio = figure.after_traffic / base.after_traffic
            line += f"{figure.after_traffic / 1024:14.1f}  x {ratio:4.2f}"
        print(line)


def print_requests(figures: list[RequestFigure], options: Options) -> None:
    """Print the table of times."""
    print(f"\nTime per request of {REQUEST_BYTES} bytes beside idle connections, in µs:")
    print("median of the rounds (lowest to highest), and the ratio of many idle to few")
    print(f"  {'':40}{f'{FEW_IDLE} idle':27}{options.connections} idle")
    for few, many in zip(figures[::2], figures[1::2], strict=True):
        for kind, low, high in (("server's CPU", few.cpu, many.cpu), ("wall", few.wall, many.wall)):
            ratio = statistics.median(high) / statistics.median(low)
            print(
                f"  {few.protocol:9} {few.implementation:17} {kind:12}"
                f"{spread(low):26} {spread(high):26} x {ratio:.2f}"
            )


def main() -> None:
    """Run it all."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--connections", type=int, default=9000, help="how many are idle")
    parser.add_argument("--tls12", action="store_true", help="TLS 1.2 beside TLS 1.3")
    parser.add_argument(
        "--traffic",
        action="store_true",
        help=f"also the memory after {TRAFFIC_BYTES // 1024} KiB on each connection",
    )
    parser.add_argument("--resume", action="store_true", help="resume instead of full handshakes")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of requests; 0 for none")
    parser.add_argument("--requests", type=int, default=1000, help="requests in a round")
    parser.add_argument(
        "--timeout", type=float, default=TIMEOUT, help="for one step, in seconds: %(default)g"
    )
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    arguments = parser.parse_args()
    if arguments.connections < 1 or arguments.rounds < 0 or arguments.requests < 1:
        parser.error("--connections and --requests must be positive, --rounds not negative")
    limit = descriptors()
    most = limit - RESERVED - WARM_UP
    if most < 1:
        parser.error(f"the limit of open files, {limit}, allows no connections")
    if arguments.connections > most:
        print(
            f"The limit of open files, {limit}, allows {most} connections, not "
            f"{arguments.connections}: going on with {most}.",
            file=sys.stderr,
        )
    options = Options(
        connections=min(arguments.connections, most),
        traffic=arguments.traffic,
        resume=arguments.resume,
        rounds=arguments.rounds,
        requests=arguments.requests,
        timeout=arguments.timeout,
    )
    end_tidily()

    cases = [Case(ssl.TLSVersion.TLSv1_3)]
    if arguments.tls12:
        cases.append(Case(ssl.TLSVersion.TLSv1_2))
    memory: list[MemoryFigure] = []
    requests: list[RequestFigure] = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for case in cases:
            case.save_certificates(folder)
            # Plaintext is the same in all cases.
            skip = () if case is cases[0] else (TrioPlain,)
            for implementation in MEMORY:
                if implementation not in skip:
                    with running(implementation, case, folder, options) as pair:
                        memory.append(measure_memory(pair, options))
            if options.rounds:
                times = [each for each in TIMES if each not in skip]
                requests += measure_requests(times, case, folder, options)

    print(f"{versions()}, {'resumed' if options.resume else 'full'} handshakes")
    print_memory(memory, options)
    if requests:
        print_requests(requests, options)
    if arguments.json is not None:
        figures = {
            "versions": versions(),
            "options": asdict(options),
            "memory": [asdict(figure) for figure in memory],
            "requests": [asdict(figure) for figure in requests],
        }
        arguments.json.write_text(json.dumps(figures, indent=1) + "\n")


if __name__ == "__main__":
    main()
