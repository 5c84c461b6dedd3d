"""What the tests know of a TLS stack: how to run its programs, and what they can't show.

Each stack has a module of its own here, which ends with its :class:`Stack`, and a line in
``stacks.py``. What is asserted stands in ``test_servers.py`` (our client with their server) and
``test_clients.py`` (their client with our server), in one place for all stacks.
"""

from __future__ import annotations

import enum
import os
import re
import shutil
import signal
import ssl
import subprocess
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import trio

from tests.helpers import LIMIT, NAME
from tests.peers import running
from tests.programs import Output, connect_to, until_it_accepts

TLS12 = ssl.TLSVersion.TLSv1_2
TLS13 = ssl.TLSVersion.TLSv1_3
VERSIONS = {TLS13: "1.3", TLS12: "1.2"}

# Besides NAME, servers have a certificate for this name; and the client's is for CLIENT.
OTHER_NAME = "other.example"
CLIENT = "client.example"

# What clients offer, and what servers take of it.
ALPN_OFFERED = ("h2", "http/1.1")
ALPN_TAKEN = "http/1.1"


class Aspect(enum.Enum):
    """What is shown, once for each version of TLS. docs/interop.rst tells what each word means."""

    FULL = "full"
    RESUMED = "resumed"
    CLIENT_CERTIFICATE = "client certificate"
    ALPN = "ALPN"
    SNI = "SNI"
    HALF_CLOSE = "half-close"
    TRUNCATION = "truncation"


################################################################
# What is said
################################################################


@attrs.frozen
class Speech:
    """What a client asks, and what a server answers."""

    question: bytes
    end: bytes
    """What the question ends with."""

    answer: bytes
    """Ours, whole; of the answer of a server that is not ours, a part that is always in it."""

    word: bytes
    """A part of our answer that a client which is not ours prints."""

    server_ends: bool
    """Whether the server ends the connection, after its answer, or the client does."""


LINES = Speech(b"hello\n", b"\n", b"HELLO\n", b"HELLO", server_ends=False)

HTTP = Speech(
    f"GET /hello HTTP/1.1\r\nHost: {NAME}\r\nConnection: close\r\n\r\n".encode(),
    b"\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 6\r\n"
    b"Connection: close\r\n\r\nHELLO\n",
    b"HELLO",
    server_ends=True,
)


################################################################
# Programs that run
################################################################


@attrs.define(eq=False)
class Program:
    """A program of a stack that runs."""

    process: trio.Process
    output: Output
    """What it has said so far, standard error included; and for a client its answer."""

    port: int = 0
    """Where it listens, if it is a server."""

    end: Callable[[], Awaitable[None]] = attrs.field(init=False)
    """Let a client end its connection as it does when all has gone well. By default its standard
    input ends, and it ends itself.
    """

    def __attrs_post_init__(self) -> None:
        self.end = self._end_by_itself

    @property
    def stdin(self) -> trio.abc.SendStream:
        """Its standard input."""
        assert self.process.stdin is not None
        return self.process.stdin

    async def say(self, data: bytes) -> None:
        """Write to its standard input, unless it has ended: a client that was refused may have."""
        with suppress(trio.BrokenResourceError):
            await self.stdin.send_all(data)

    async def _end_by_itself(self) -> None:
        await self.stdin.aclose()
        await self.ended()

    async def ended(self) -> None:
        """Wait until it has ended, and see that it has ended well."""
        with trio.fail_after(LIMIT):
            code = await self.process.wait()
        assert code == 0, f"it ended with {code}: {self.output}"

    def kill(self) -> None:
        """Let it die at once, with all its processes: no time for a close_notify."""
        os.killpg(self.process.pid, signal.SIGKILL)


@asynccontextmanager
async def program(*argv: object, port: int = 0, **options: Any) -> AsyncIterator[Program]:
    """Run a program; one that is to listen on ``port``, once it accepts connections there."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    async with running(*argv, start_new_session=True, **(pipes | options)) as process:
        assert process.stdout is not None
        output = Output()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.read, process.stdout)
            if port:
                with trio.fail_after(LIMIT):
                    await until_it_accepts(process, port, partial(str, output))
            try:
                yield Program(process, output, port)
            except BaseException:
                print(f"{argv[0]} said: {output}")  # which pytest shows if the test fails
                raise
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def proxy(
    terms: ClientTerms, port: int, speech: Speech, *argv: object
) -> AsyncIterator[Program]:
    """Run a program that listens without TLS on ``port``, and is a TLS client for whoever connects.

    What it is asked there, and answers, counts as its output. Killed, it takes its port with it.
    """
    async with program(*argv) as client, trio.open_nursery() as nursery:
        # Nobody looks first whether it listens: it would connect for that, too.
        connect = partial(connect_to, client.process, port, partial(str, client.output))
        if terms.resumes:
            async with await connect() as stream:
                await stream.send_all(speech.question)
                await _hear(stream, Output(), speech.word)
        async with await connect() as stream:
            await stream.send_all(speech.question)
            if terms.ends_first:
                await stream.send_eof()
            nursery.start_soon(_hear, stream, client.output)
            client.end = stream.aclose
            yield client
        nursery.cancel_scope.cancel()


async def _hear(stream: trio.SocketStream, output: Output, word: bytes = b"") -> None:
    """Take what a proxy answers, up to a word, or to the end."""
    heard = b""
    with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
        while not (word and word in heard) and (part := await stream.receive_some()):
            heard += part
            output.add(part)
    assert word in heard, f"{heard!r}: {output}"


async def run(*argv: object, **options: Any) -> bytes:
    """Run a program to its end, for what it prints."""
    with trio.fail_after(LIMIT):
        result = await trio.run_process(
            [str(arg) for arg in argv], capture_stdout=True, stderr=subprocess.STDOUT, **options
        )
    return result.stdout


def _unread(transport: trio.SocketStream) -> int:
    """What the other end has not read yet of a connection here, in bytes: see proc(5)."""
    ours, theirs = transport.socket.getsockname()[1], transport.socket.getpeername()[1]
    unread = 0
    for table in (Path("/proc/net/tcp"), Path("/proc/net/tcp6")):
        for line in table.read_text().splitlines()[1:] if table.exists() else []:
            _, *addresses, _, queues, _ = line.split(maxsplit=5)
            sent, received = (int(queue, 16) for queue in queues.split(":"))
            match [int(address.rpartition(":")[2], 16) for address in addresses]:
                case [local, remote] if (local, remote) == (ours, theirs):
                    unread += sent
                case [local, remote] if (local, remote) == (theirs, ours):
                    unread += received
    return unread


async def until_all_is_read(transport: trio.SocketStream) -> None:
    """Wait until the program at the other end of a connection has read all that was sent to it.

    If there is something left when it is killed, a session ticket perhaps, its kernel ends the
    connection with RST, which everybody takes for an error. Otherwise it ends it with FIN, as for a
    program that has closed it, and only TLS can tell the difference.
    """
    while _unread(transport):  # noqa: ASYNC110  # the kernel tells nobody
        await trio.sleep(0.01)


################################################################
# The stacks
################################################################


@attrs.frozen
class Files:
    """Files in PEM, each but the first with a key and its certificate."""

    ca: Path
    server: Path
    """For NAME."""
    other: Path
    """For OTHER_NAME."""
    client: Path
    """For CLIENT."""

    @property
    def directory(self) -> Path:
        """A place for files of one test."""
        return self.ca.parent

    def write(self, name: str, text: str) -> Path:
        """Write one there, a configuration for example."""
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        return path


@attrs.frozen(kw_only=True)
class ServerTerms:
    """How a server is to be run. It always takes ALPN_TAKEN if that is offered, resumes sessions,
    and has a certificate for OTHER_NAME, too, if it can.
    """

    version: ssl.TLSVersion
    files: Files
    asks_certificate: bool = False
    """Whether each client has to have a certificate."""


@attrs.frozen(kw_only=True)
class ClientTerms:
    """How a client is to be run. It always offers ALPN_OFFERED, if it can."""

    version: ssl.TLSVersion
    files: Files
    port: int
    name: str = NAME
    """The server's name, which it asks for and expects in the certificate."""

    has_certificate: bool = False
    resumes: bool = False
    """Whether it connects twice, the second time with the session of the first."""

    ends_first: bool = False
    """Whether it ends its direction with a close_notify after the question, and then waits for the
    answer.
    """


Reasons: TypeAlias = Mapping[Aspect | tuple[Aspect, ssl.TLSVersion], str]
"""What a program can't show, in all versions or in one, and why, in a few words."""

Words: TypeAlias = Mapping[Aspect, bytes]
"""What a program says itself when something was shown: in its answer, or in its output."""


@attrs.frozen(kw_only=True)
class Server:
    """A server that is not ours."""

    run: Callable[[ServerTerms], AbstractAsyncContextManager[Program]]
    speech: Speech
    words: Words = attrs.field(factory=dict)
    cannot: Reasons = attrs.field(factory=dict)

    refusals: Mapping[ssl.TLSVersion, str | bytes] = attrs.field(
        # RFC 5246 section 7.4.6, RFC 9846 section 4.5.1.3
        factory=lambda: {TLS12: "handshake_failure", TLS13: "certificate_required"}
    )
    """How a client without a certificate is refused: by an alert, or with an answer (bytes)."""

    former_refusal: str = ""
    """The alert of older versions, where it is another one."""

    cut_after_our_end: str = ""
    """Why it sends no close_notify of its own, after its answer, once it has had ours; empty if it
    does send one, as RFC 9846 section 6.1 wants it.
    """


@attrs.frozen(kw_only=True)
class Client:
    """A client that is not ours. When it runs, it connects and asks the question by itself."""

    run: Callable[[ClientTerms], AbstractAsyncContextManager[Program]]
    speech: Speech
    waits_for_our_end: bool = False
    """Whether it ends its side only after our close_notify."""

    words: Words = attrs.field(factory=dict)
    cannot: Reasons = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Stack:
    """A TLS stack, with programs that use it."""

    name: str
    needs: str
    """What has to be installed, for who reads that a test was skipped."""

    version: Callable[[], str | None] = attrs.field(repr=False)
    """Its version in its own words; None if it is not installed."""

    prepare: Callable[[], None] = attrs.field(default=lambda: None, repr=False)
    """Builds its program, if that has not been done yet. It may take long."""

    server: Server | None = attrs.field(default=None, repr=False)
    client: Client | None = attrs.field(default=None, repr=False)


def version_of(*argv: str, pattern: str) -> Callable[[], str | None]:
    """How a program tells its version: the groups of ``pattern`` in what it prints."""

    def version() -> str | None:
        if shutil.which(argv[0]) is None:
            return None
        said = subprocess.run(
            argv, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ).stdout
        found = re.search(pattern, said)
        assert found is not None, said
        return ", ".join(found.groups())

    return version


################################################################
# What is to be shown, and what has been
################################################################


class Side(enum.Enum):
    """What a stack is, towards the library."""

    SERVER = "server"
    CLIENT = "client"

    def of(self, stack: Stack) -> Server | Client | None:
        """What the stack has for this side."""
        return stack.server if self is Side.SERVER else stack.client


@attrs.frozen
class Case:
    """One thing to be shown with one stack."""

    stack: Stack = attrs.field(eq=lambda stack: stack.name)
    side: Side
    aspect: Aspect
    version: ssl.TLSVersion

    def __str__(self) -> str:
        return f"{self.stack.name}-{VERSIONS[self.version]}"

    @property
    def server(self) -> Server:
        assert self.stack.server is not None
        return self.stack.server

    @property
    def client(self) -> Client:
        assert self.stack.client is not None
        return self.stack.client

    @property
    def peer(self) -> Server | Client:
        peer = self.side.of(self.stack)
        assert peer is not None
        return peer

    @property
    def word(self) -> bytes:
        """What the program says itself when this was shown."""
        return self.peer.words.get(self.aspect, b"")

    @property
    def is_possible(self) -> bool:
        cannot = self.peer.cannot
        return self.aspect not in cannot and (self.aspect, self.version) not in cannot


def row(stack: Stack, side: Side, shown: set[Case]) -> tuple[str, ...] | None:
    """A row of the table: what was shown with a stack on one side; None if nothing was."""
    peer = side.of(stack)
    cells = [
        ", ".join(aspect.value for aspect in Aspect if Case(stack, side, aspect, version) in shown)
        for version in VERSIONS
    ]
    if peer is None or not any(cells):
        return None
    reasons = _reasons(peer)
    return (stack.name, stack.version() or "", side.value, *cells, "; ".join(reasons))


def _reasons(peer: Server | Client) -> list[str]:
    """What can't be shown, or is not quite as it should be."""
    reasons = [
        f"{key.value}: {reason}"
        if isinstance(key, Aspect)
        else f"{key[0].value} in {VERSIONS[key[1]]}: {reason}"
        for key, reason in peer.cannot.items()
    ]
    if isinstance(peer, Server) and peer.cut_after_our_end:
        reasons.append(f"{Aspect.HALF_CLOSE.value}: {peer.cut_after_our_end}")
    return reasons
