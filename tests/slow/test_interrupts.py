"""Ctrl-C at every line of the library: the signal comes where it could do the most harm.

A scenario runs once to see which lines of the library it takes, and then once for each of them,
with a SIGINT just before the line runs for the first time. The peer is blocking ``ssl`` in a
thread.
"""

from __future__ import annotations

import errno
import random
import signal
import socket
import ssl
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any, TypeAlias

import attrs
import pytest
import trio
import trio._ssl
import trustme
from trio.lowlevel import enable_ki_protection
from trio.testing import MockClock, wait_all_tasks_blocked

import trio_tlsbio
from tests.helpers import (
    NAME,
    both_handshakes,
    client_context_for,
    server_context_for,
    tcp_pair,
    wrap_pair,
)
from trio_tlsbio import PumpedStream, TLSListener, TLSStream, open_pump, serve_tls_listeners
from trio_tlsbio.cli._status import leaves
from trio_tlsbio.httpcore import TLSBackend

SOURCES = str(Path(trio_tlsbio.__file__).parent)

# Three slices. A socket does not take that much at once.
LARGE = random.Random(1).randbytes(600_000)

# More than all buffers between two sockets take.
MUCH = bytes(16 * 1024 * 1024)

LEFT = b"as a cancelled send leaves it"


@pytest.fixture(autouse=True)
def ctrl_c_works() -> Iterator[None]:
    """Programs that a shell starts in the background ignore SIGINT."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


################################################################
# Interrupting at one line after the other
################################################################

Place: TypeAlias = tuple[str, int]  # a file and a line


@attrs.define(eq=False)
class Interrupter:
    """Presses Ctrl-C at a place, when a thread comes there for the first time."""

    sources: str | tuple[str, ...]
    place: Place | None
    places: dict[Place, None] = attrs.field(factory=dict)  # where it came, in this order

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the lines that the block runs."""
        before = sys.gettrace()
        sys.settrace(self._trace_calls)
        try:
            yield
        finally:
            sys.settrace(before)

    def _trace_calls(self, frame: FrameType, event: str, arg: object) -> Any:
        return self._trace_lines if frame.f_code.co_filename.startswith(self.sources) else None

    def _trace_lines(self, frame: FrameType, event: str, arg: object) -> Any:
        place = frame.f_code.co_filename, frame.f_lineno
        if event == "line" and place not in self.places:
            self.places[place] = None
            if place == self.place:
                signal.raise_signal(signal.SIGINT)
        return self._trace_lines


@contextmanager
def even_if_gone(end: type[ssl.SSLError]) -> Iterator[None]:
    """Let the block fail if the other end has gone, which ``end`` says as well."""
    try:
        yield
    except OSError as exc:
        # On PyPy a broken pipe is an SSLError.
        if exc.errno != errno.EPIPE and not isinstance(exc, (BrokenPipeError, end)):
            raise


@attrs.define(eq=False)
class Peer:
    """The other end, which reads until it is told of the end, or something is wrong."""

    #: None for a peer without TLS.
    context: ssl.SSLContext | None
    says: bytes
    received: bytes = b""
    #: How it ended; None for a close_notify.
    error: OSError | None = None

    def talk(self, sock: socket.socket, address: str | None) -> None:
        """Connect, shake hands, say what is to be said, and read."""
        try:
            with sock:
                sock.settimeout(10)
                if address is not None:
                    sock.connect(address)
                if self.context is None:
                    self._read(sock)
                    return
                with self.context.wrap_socket(
                    sock, server_hostname=NAME, suppress_ragged_eofs=False
                ) as tls:
                    with even_if_gone(ssl.SSLEOFError):
                        tls.sendall(self.says)
                    self._read(tls)
                    with even_if_gone(ssl.SSLZeroReturnError):
                        tls.unwrap()
        except OSError as exc:
            self.error = exc

    def _read(self, sock: socket.socket) -> None:
        while chunk := sock.recv(65536):
            self.received += chunk
            if self.received.endswith(LEFT):
                sock.sendall(b"it has come")

    @property
    def has_seen_damage(self) -> bool:
        """Whether anything came that was no TLS any more."""
        if not isinstance(self.error, ssl.SSLError) or isinstance(self.error, ssl.SSLEOFError):
            return False
        # An end that meets a write has another class in newer Pythons.
        return self.error.reason != "UNEXPECTED_EOF_WHILE_READING"

    @contextmanager
    def beside(self, sock: socket.socket, address: str | None = None) -> Iterator[None]:
        """Talk while the block runs, on a socket that is connected, or after connecting it."""
        thread = threading.Thread(target=self.talk, args=[sock, address])
        thread.start()
        try:
            yield
        finally:
            thread.join()


@attrs.define(eq=False)
class Run:
    """One run of a scenario, and what came of it."""

    peer: Peer
    interrupter: Interrupter
    stream: Any = None
    received: bytes = b""
    was_interrupted: bool = False


AtEveryLine: TypeAlias = Callable[[Callable[[Place | None], Run]], Iterator[Run]]


@pytest.fixture
def at_every_line(stride: int) -> AtEveryLine:
    """Yield what came of a scenario, undisturbed first, and with Ctrl-C at each of its lines."""

    def runs(scenario: Callable[[Place | None], Run]) -> Iterator[Run]:
        undisturbed = scenario(None)
        assert undisturbed.peer.error is None
        assert len(undisturbed.interrupter.places) >= 10, "it takes more lines than that"
        yield undisturbed
        for place in list(undisturbed.interrupter.places)[::stride]:
            run = scenario(place)
            # It may not have come there, if the system's buffers were faster this time.
            assert run.was_interrupted == (place in run.interrupter.places), place
            assert not run.peer.has_seen_damage, (place, run.peer.error)
            yield run

    return runs


@contextmanager
def caught(run: Run) -> Iterator[None]:
    """Catch Ctrl-C, and take note of it."""
    try:
        yield
    except KeyboardInterrupt:
        run.was_interrupted = True


async def take_held_back(run: Run) -> None:
    """Let Ctrl-C come that was pressed where it is held back."""
    with caught(run):
        await trio.lowlevel.checkpoint()


def run_to_its_end(run: Run, main: Callable[[], Awaitable[None]]) -> None:
    """Run a program, which may end by Ctrl-C: in groups, where it has nurseries of its own."""
    try:
        trio.run(main)
    except BaseException as exc:
        # PyPy's "except*" fails for a group that holds a KeyboardInterrupt.
        if not all(isinstance(leaf, KeyboardInterrupt) for leaf in leaves(exc)):
            raise
        run.was_interrupted = True


################################################################
# One stream
################################################################

Program: TypeAlias = Callable[[Run], Awaitable[None]]


def run_stream(
    program: Program,
    place: Place | None,
    *,
    peer_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    is_main: bool,
    says: bytes = b"go",
    pump: bool = False,
    stream_class: type[Any] = TLSStream,
    sources: str | tuple[str, ...] = SOURCES,
) -> Run:
    """Run a program with a stream over a socket, in the main task or in another one."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 64 * 1024)
    run = Run(Peer(peer_context, says), Interrupter(sources, place))

    async def with_stream() -> None:
        sock = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        async with open_pump(sock) if pump else nullcontext(sock) as transport:
            run.stream = stream_class(transport, server_context, server_side=True)
            await program(run)
            await take_held_back(run)
            await run.stream.aclose()

    async def main() -> None:
        if is_main:
            await with_stream()
        else:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(with_stream)

    with run.peer.beside(theirs), ours:
        run_to_its_end(run, main)
    return run


async def answer(run: Run) -> None:
    """Do what a handler does, with the handshake and the close."""
    with run.interrupter.watching():
        async with run.stream as stream:
            assert await stream.receive_some() == b"go"
            for message in (b"one", b"two", b"three"):
                await stream.send_all(message)


def has_said_all(run: Run) -> bool:
    """Whether no message was interrupted before it was encrypted, as far as the peer's data shows:
    without a close_notify it may have.
    """
    return bool(run.stream.bytes_committed == len(b"onetwothree") or not run.was_interrupted)


@pytest.fixture
def run_here(ca: trustme.CA, server_cert: trustme.LeafCert) -> Callable[..., Run]:
    """``run_stream`` with certificates."""
    return partial(
        run_stream,
        peer_context=client_context_for(ca),
        server_context=server_context_for(server_cert),
    )


@pytest.mark.parametrize("is_main", [True, False], ids=["main task", "another task"])
@pytest.mark.parametrize("pump", [False, True], ids=["socket", "pump"])
def test_the_peer_sees_a_clean_end(
    run_here: Callable[..., Run], is_main: bool, pump: bool, at_every_line: AtEveryLine
) -> None:
    for run in at_every_line(partial(run_here, answer, is_main=is_main, pump=pump)):
        assert b"onetwothree".startswith(run.peer.received)
        if run.stream.connection.handshake is not None and has_said_all(run):
            assert run.peer.error is None, run.interrupter.place


def test_in_the_main_task_what_was_committed_arrives(
    run_here: Callable[..., Run], at_every_line: AtEveryLine
) -> None:
    async def send(run: Run) -> None:
        with run.interrupter.watching():
            async with run.stream as stream:
                await stream.send_all(LARGE)

    for run in at_every_line(partial(run_here, send, is_main=True)):
        if run.stream.connection.handshake is not None:
            committed = run.stream.bytes_committed
            assert run.peer.received == LARGE[:committed], run.interrupter.place
            if 0 < committed < len(LARGE):  # a clean end would vouch for half of it
                assert run.peer.error is not None, run.interrupter.place
            elif committed:
                assert run.peer.error is None, run.interrupter.place


async def again(run: Run, operation: Callable[[], Awaitable[object]]) -> object:
    """Do something until it is through."""
    while True:
        with caught(run), run.interrupter.watching():
            return await operation()


async def converse(run: Run) -> None:
    """Use whatever a stream has; where Ctrl-C is pressed, do the same once more."""
    stream = run.stream

    async def receive() -> None:
        while len(run.received) < len(LARGE):
            data = stream.receive_nowait() if stream.is_readable() else None
            run.received += await stream.receive_some() if data is None else data

    async def send() -> None:
        while (sent := stream.bytes_committed) < len(LARGE):
            await stream.wait_send_all_might_not_block()
            sent += stream.send_nowait(LARGE[sent : sent + 1000])
            await stream.send_all(LARGE[sent : sent + 400_000])

    await again(run, stream.do_handshake)
    await again(run, receive)
    await again(run, stream.verify_client_post_handshake)
    await again(run, send)
    await receive_and_send(run)
    await again(run, stream.send_eof)
    await again(run, stream.unwrap)


async def receive_and_send(run: Run) -> None:
    """Receive while something is left to send, as after a send that was cancelled."""
    run.stream.connection.send(LEFT)
    assert await again(run, run.stream.receive_some) == b"it has come"


@pytest.mark.parametrize("pump", [False, True], ids=["socket", "pump"])
def test_everything_goes_on(
    ca: trustme.CA,
    server_cert: trustme.LeafCert,
    run_here: Callable[..., Run],
    pump: bool,
    at_every_line: AtEveryLine,
) -> None:
    peer_context, server_context = client_context_for(ca), server_context_for(server_cert)
    peer_context.post_handshake_auth = server_context.post_handshake_auth = True
    server_context.verify_mode = ssl.CERT_OPTIONAL
    scenario = partial(
        run_here,
        converse,
        peer_context=peer_context,
        server_context=server_context,
        is_main=True,
        says=LARGE,
        pump=pump,
    )
    for run in at_every_line(scenario):
        assert run.peer.error is None, run.interrupter.place
        assert run.peer.received == LARGE + LEFT, run.interrupter.place
        assert run.received == LARGE, run.interrupter.place


def test_what_is_left_is_sent_once_while_receiving(
    run_here: Callable[..., Run], at_every_line: AtEveryLine
) -> None:
    async def receive(run: Run) -> None:
        assert await run.stream.receive_some() == b"go"
        await receive_and_send(run)

    for run in at_every_line(partial(run_here, receive, is_main=True)):
        assert run.peer.error is None, run.interrupter.place
        assert run.peer.received == LEFT, run.interrupter.place


def test_the_end_is_sent_once(run_here: Callable[..., Run], at_every_line: AtEveryLine) -> None:
    async def send_eof(run: Run) -> None:
        assert await run.stream.receive_some() == b"go"
        await again(run, run.stream.send_eof)
        assert await run.stream.receive_some() == b""

    for run in at_every_line(partial(run_here, send_eof, is_main=True)):
        assert run.peer.error is None, run.interrupter.place
        assert run.peer.received == b""


# Options of run_stream() for a program that has the pump itself.
WITHOUT_TLS: dict[str, Any] = {
    "peer_context": None,
    "is_main": True,
    "pump": True,
    "stream_class": lambda pumped, *_, **__: pumped,
}


async def wait_and_send(pumped: PumpedStream, data: bytes) -> None:
    await pumped.wait_send_all_might_not_block()
    pumped.send_nowait(data)


@pytest.mark.parametrize("send_some", [PumpedStream.send_all, wait_and_send])
def test_a_pump_sends_everything_once(
    run_here: Callable[..., Run],
    send_some: Callable[[PumpedStream, bytes], Awaitable[None]],
    at_every_line: AtEveryLine,
) -> None:
    async def send(run: Run) -> None:
        async def rest() -> None:
            while (sent := run.stream.bytes_committed) < len(LARGE):
                await send_some(run.stream, LARGE[sent:])

        await again(run, rest)

    for run in at_every_line(partial(run_here, send, **WITHOUT_TLS)):
        assert run.peer.received == LARGE, run.interrupter.place


async def leave_stream(stream: PumpedStream) -> None:
    await stream.__aexit__(None, None, None)


@pytest.mark.parametrize("close_stream", [PumpedStream.aclose, leave_stream])
def test_a_pump_that_is_closed_has_closed_its_transport(
    run_here: Callable[..., Run],
    close_stream: Callable[[PumpedStream], Awaitable[None]],
    at_every_line: AtEveryLine,
    stride: int,
) -> None:
    async def close(run: Run) -> None:
        await run.stream.send_all(b"one")
        with caught(run), run.interrupter.watching():
            await close_stream(run.stream)
        assert run.stream.transport_stream.socket.fileno() == -1, run.interrupter.place

    sources = SOURCES, trio.abc.AsyncResource.__aexit__.__code__.co_filename
    runs = list(at_every_line(partial(run_here, close, **WITHOUT_TLS, sources=sources)))
    assert len(runs) > 10 / stride


def test_httpcore_writes_everything_once(
    run_here: Callable[..., Run], at_every_line: AtEveryLine
) -> None:
    async def write(run: Run) -> None:
        assert await run.stream.receive_some() == b"go"
        backend = TLSBackend()
        stream = backend.stream_class(run.stream, 443, backend._options)
        for start in range(0, len(LARGE), 200_000):
            with caught(run), run.interrupter.watching():
                await stream.write(LARGE[start : start + 200_000])
        await take_held_back(run)
        await stream.write(b"")  # what is left

    for run in at_every_line(partial(run_here, write, is_main=True)):
        assert run.peer.error is None, run.interrupter.place
        assert run.peer.received == LARGE, run.interrupter.place


@enable_ki_protection  # else it would be raised here
async def press_ctrl_c() -> None:
    await wait_all_tasks_blocked()
    signal.raise_signal(signal.SIGINT)


def test_a_receiver_sends_what_an_interrupted_sender_has_left(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        with trio.fail_after(10):
            async with tcp_pair() as transports, trio.open_nursery() as nursery:
                ours, theirs = wrap_pair(*transports, client_context, server_context)
                await both_handshakes(ours, theirs)

                async def receive() -> None:
                    assert await ours.receive_some() == b"it has come"

                nursery.start_soon(receive)
                nursery.start_soon(press_ctrl_c)
                with pytest.raises(KeyboardInterrupt):
                    await ours.send_all(MUCH)
                received = b""
                while len(received) < ours.bytes_committed:
                    received += await theirs.receive_some()
                assert MUCH.startswith(received)
                await theirs.send_all(b"it has come")

    trio.run(main)


def test_it_comes_bare_from_a_receiver_with_a_sender_beside(
    ca: trustme.CA, server_cert: trustme.LeafCert, at_every_line: AtEveryLine, stride: int
) -> None:
    contexts = client_context_for(ca), server_context_for(server_cert)

    def scenario(place: Place | None) -> Run:
        run = Run(Peer(None, b""), Interrupter(SOURCES, place))

        async def main() -> None:
            async with tcp_pair() as transports:
                ours, theirs = wrap_pair(*transports, *contexts)
                await both_handshakes(ours, theirs)
                ours.connection.send(MUCH)  # which nobody reads
                await theirs.send_all(b"one")
                assert await again(run, ours.receive_some) == b"one"
                await take_held_back(run)

        trio.run(main)  # so a group would come out
        return run

    assert len(list(at_every_line(scenario))) > 10 / stride


def test_a_close_waits_for_nothing_more(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def main() -> None:
        async with tcp_pair() as transports, trio.open_nursery() as nursery:
            inner = wrap_pair(*transports, client_context, server_context)
            await both_handshakes(*inner)
            ours, theirs = wrap_pair(*inner, client_context, server_context)
            await both_handshakes(ours, theirs)
            ours.connection.send(MUCH)  # which nobody reads
            nursery.start_soon(press_ctrl_c)
            begin = trio.current_time()
            with pytest.raises(KeyboardInterrupt):
                await ours.aclose()
            assert trio.current_time() == begin

    trio.run(main, clock=MockClock(autojump_threshold=0.01))


def test_a_stream_of_trio_sends_damaged_records(run_here: Callable[..., Run]) -> None:
    # So what the tests above look for can be seen. docs/migrating.rst says so, too.
    async def send(run: Run) -> None:
        async with run.stream as stream:
            assert await stream.receive_some() == b"go"
            with run.interrupter.watching():
                await stream.send_all(b"one")

    scenario = partial(
        run_here, send, is_main=True, stream_class=trio.SSLStream, sources=trio._ssl.__file__
    )
    places = scenario(None).interrupter.places
    assert any(scenario(place).peer.has_seen_damage for place in places)


################################################################
# A server
################################################################


async def greet(run: Run) -> None:
    assert await run.stream.receive_some() == b"go"
    await run.stream.send_all(b"one")


def run_server(
    place: Place | None,
    *,
    path: Path,
    peer_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    handle: Program = greet,
) -> Run:
    """Run a server for one connection, on a Unix socket: closing it destroys nothing on its way."""
    run = Run(Peer(peer_context, b"go"), Interrupter(SOURCES, place))
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    listening.bind(str(path))
    listening.listen()
    listener = TLSListener(
        trio.SocketListener(trio.socket.from_stdlib_socket(listening)), server_context
    )

    async def handler(stream: TLSStream[trio.SocketStream]) -> None:
        run.stream = stream
        await listener.aclose()
        await handle(run)

    async def main() -> None:
        with run.interrupter.watching():
            await serve_tls_listeners(handler, [listener])

    client = socket.socket(socket.AF_UNIX)
    with run.peer.beside(client, str(path)), listening:
        run_to_its_end(run, main)
    return run


@pytest.fixture
def serve_here(ca: trustme.CA, server_cert: trustme.LeafCert, tmp_path: Path) -> Callable[..., Run]:
    """``run_server`` with certificates."""
    if sys.platform == "win32":
        pytest.skip("Python has no Unix sockets on this system")
    return partial(
        run_server,
        path=tmp_path / "socket",
        peer_context=client_context_for(ca),
        server_context=server_context_for(server_cert),
    )


def test_a_server_ends_its_connections(
    serve_here: Callable[..., Run], at_every_line: AtEveryLine
) -> None:
    for run in at_every_line(serve_here):
        if run.stream is not None and has_said_all(run):
            assert run.peer.error is None, run.interrupter.place


def test_a_handler_is_interrupted_where_it_is(serve_here: Callable[..., Run]) -> None:
    has_gone_on = False

    async def handle(run: Run) -> None:
        nonlocal has_gone_on
        signal.raise_signal(signal.SIGINT)
        has_gone_on = True  # as one does that never waits

    run = serve_here(None, handle=handle)
    assert run.was_interrupted
    assert not has_gone_on
    assert run.peer.error is None
