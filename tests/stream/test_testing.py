"""What the package offers for other people's tests: certificates, pairs, and faults."""

from __future__ import annotations

import gc
import re
import ssl
import subprocess
import sys
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
from trio.testing import MockClock, lockstep_stream_pair, memory_stream_pair

from tests.docblocks import Block, example, runs
from tests.helpers import DOCS, LIMIT, VERSIONS, counts_references, echo, tcp_pair
from tests.peers import running
from tests.programs import needs
from trio_tlsbio import (
    CertificateError,
    Drain,
    HandshakeTimeoutError,
    PeerAlertError,
    TLSConnector,
    TLSError,
    TLSListener,
    TLSStream,
    TruncationError,
    serve_tls_listeners,
)
from trio_tlsbio.monitoring import ServerMonitor
from trio_tlsbio.testing import (
    CertificateAuthority,
    Corrupt,
    Cut,
    Fault,
    FaultyLine,
    FaultyStream,
    Insert,
    MemoryListener,
    Reset,
    Split,
    Stall,
    do_handshakes,
    exchange,
    tls_connection_pair,
    tls_stream_pair,
    transfer,
)


@pytest.fixture(scope="module")
def authority() -> CertificateAuthority:
    return CertificateAuthority()


@pytest.fixture
def contexts(
    authority: CertificateAuthority, tls_version: ssl.TLSVersion
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    return (
        authority.client_context(minimum_version=tls_version, maximum_version=tls_version),
        authority.server_context(minimum_version=tls_version, maximum_version=tls_version),
    )


################################################################
# Certificates
################################################################


def test_nothing_is_taken_for_a_test() -> None:
    import trio_tlsbio.testing

    assert [name for name in vars(trio_tlsbio.testing) if name.lower().startswith("test")] == []


def test_without_trustme(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trustme", None)
    with pytest.raises(ImportError, match=r"pip install '\.\[testing\]'"):
        CertificateAuthority()


def test_trustme_is_only_imported_where_it_is_used(tmp_path: Path) -> None:
    (tmp_path / "trustme.py").write_text("raise ImportError('not here')\n", encoding="utf-8")
    code = "from trio_tlsbio.testing import *; FaultyLine([Split(1)])"
    subprocess.run([sys.executable, "-c", code], env={"PYTHONPATH": str(tmp_path)}, check=True)


def test_the_command_line_does_without_trio_testing() -> None:
    """It would import pytest too, and a command would take longer to start."""
    code = "import sys, trio_tlsbio.cli; print('trio.testing' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    assert done.stdout.strip() == b"False"


@pytest.mark.parametrize("server_hostname", ["localhost", "127.0.0.1", "::1"])
def test_default_names(authority: CertificateAuthority, server_hostname: str) -> None:
    client, server = tls_connection_pair(
        authority.client_context(), authority.server_context(), server_hostname=server_hostname
    )
    exchange(client, server)
    assert client.handshake is not None
    assert client.handshake.matched_name == server_hostname


def test_names(authority: CertificateAuthority) -> None:
    server_context = authority.server_context("a.example", "*.b.example")
    for name in ("a.example", "x.b.example"):
        pair = tls_connection_pair(authority.client_context(), server_context, server_hostname=name)
        exchange(*pair)
        assert pair[0].do_handshake()
    client, server = tls_connection_pair(authority.client_context(), server_context)
    exchange(client, server)
    with pytest.raises(CertificateError, match=r"for a\.example, \*\.b\.example, not localhost"):
        client.do_handshake()
    with pytest.raises(PeerAlertError, match="bad_certificate"):
        server.receive()


def test_nobody_else_is_trusted(authority: CertificateAuthority) -> None:
    other = CertificateAuthority()
    assert len(authority.client_context().get_ca_certs()) == 1
    client, server = tls_connection_pair(other.client_context(), authority.server_context())
    exchange(client, server)
    with pytest.raises(CertificateError):
        client.do_handshake()


def test_an_expired_certificate(authority: CertificateAuthority) -> None:
    now = datetime.now(UTC)
    certificate = authority.issue(
        "localhost", not_before=now - timedelta(days=2), not_after=now - timedelta(days=1)
    )
    client, server = tls_connection_pair(
        authority.client_context(), authority.server_context(certificate=certificate)
    )
    exchange(client, server)
    with pytest.raises(CertificateError, match="expired"):
        client.do_handshake()


def test_client_certificates(authority: CertificateAuthority) -> None:
    alice = authority.issue("alice@example.org", common_name="alice")
    assert repr(alice) == "<IssuedCertificate for alice@example.org>"
    server_context = authority.server_context(client_certificates=ssl.CERT_REQUIRED)
    client, server = tls_connection_pair(
        authority.client_context(certificate=alice), server_context
    )
    exchange(client, server)
    assert server.handshake is not None
    assert server.handshake.peer_certificate is not None
    assert (("commonName", "alice"),) in server.handshake.peer_certificate["subject"]

    client, server = tls_connection_pair(authority.client_context(), server_context)
    exchange(client, server)
    with pytest.raises(TLSError, match="certificate"):
        server.do_handshake()
    with pytest.raises(PeerAlertError):
        client.receive()


def test_versions_and_alpn(authority: CertificateAuthority, tls_version: ssl.TLSVersion) -> None:
    client, server = tls_connection_pair(
        authority.client_context(maximum_version=tls_version, alpn_protocols=["h2", "http/1.1"]),
        authority.server_context(
            minimum_version=ssl.TLSVersion.TLSv1_2, alpn_protocols=["http/1.1"]
        ),
    )
    exchange(client, server)
    assert client.handshake is not None
    assert client.handshake.version == tls_version.name.replace("_", ".")
    assert client.handshake.alpn_protocol == "http/1.1"


def test_misuse_of_the_authority(authority: CertificateAuthority) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        authority.issue()
    with pytest.raises(ValueError, match="not both"):
        authority.server_context("a.example", certificate=authority.issue("b.example"))
    wrong: Any
    for wrong in ("h2", b"h2", [b"h2"]):
        for make_context in (authority.client_context, authority.server_context):
            with pytest.raises(TypeError, match="alpn_protocols must be a list of str"):
                make_context(alpn_protocols=wrong)
    assert authority.issue(common_name="alice").names == ("alice",)
    assert repr(authority) == "<CertificateAuthority>"


@needs("openssl")
async def test_files_for_other_programs(authority: CertificateAuthority, tmp_path: Path) -> None:
    ca_pem, server_pem = tmp_path / "ca.pem", tmp_path / "server.pem"
    authority.write(ca_pem)
    server_pem.write_text("something longer " * 1000, encoding="utf-8")
    authority.issue("server.example").write(server_pem)
    new_pem = tmp_path / "new.pem"
    authority.issue("server.example").write(new_pem)
    if sys.platform != "win32":
        assert new_pem.stat().st_mode & 0o077 == 0
    argv = ("openssl", "verify", "-CAfile", ca_pem, "-verify_hostname", "server.example")
    with trio.fail_after(LIMIT):
        async with running(*argv, server_pem, stdout=subprocess.DEVNULL) as process:
            assert await process.wait() == 0
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(server_pem)


################################################################
# Pairs
################################################################


@pytest.mark.parametrize("chunk_bytes", [None, 1, 7, 1000])
def test_exchange(contexts: tuple[ssl.SSLContext, ssl.SSLContext], chunk_bytes: int | None) -> None:
    client, server = tls_connection_pair(*contexts)
    assert not client.do_handshake()
    by_client, by_server = exchange(client, server, chunk_bytes)
    assert by_client > 200
    assert by_server > 500
    assert client.session is not None, "the tickets have come"
    assert exchange(client, server) == (0, 0)

    data = bytes(range(256)) * 200
    client.send(data)
    client.send_close_notify()
    server.send(b"hello")
    by_client, by_server = exchange(client, server, chunk_bytes)
    assert by_client > len(data)
    assert server.receive() == data
    assert server.receive() == b""
    assert client.receive() == b"hello"
    assert client.receive() is None


def test_transfer(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, server = tls_connection_pair(*contexts)
    count = client.bytes_to_send
    assert transfer(client, server, 5) == count
    assert client.bytes_to_send == server.bytes_to_send == 0
    assert not server.do_handshake()
    assert server.bytes_to_send > 0
    exchange(client, server)
    assert client.do_handshake()
    client.send(b"x")
    wrong: Any
    for wrong, error in ((0, ValueError), (-1, ValueError), (1.5, TypeError)):
        for function in (transfer, exchange):
            with pytest.raises(error):
                function(client, server, wrong)
    exchange(client, server)
    assert server.receive() == b"x"  # nothing was lost


def test_exchange_goes_on_with_what_was_transferred(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    client, server = tls_connection_pair(*contexts)
    transfer(client, server)
    exchange(client, server)
    assert server.do_handshake()


TRANSPORTS: dict[str, Callable[[], tuple[trio.abc.Stream, trio.abc.Stream]]] = {
    "memory": memory_stream_pair,
    "lockstep": lockstep_stream_pair,
}


@pytest.mark.parametrize("kind", list(TRANSPORTS))
async def test_streams(kind: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, server = tls_stream_pair(TRANSPORTS[kind](), *contexts, close_timeout=3)
    assert client.connection.handshake is server.connection.handshake is None
    with trio.fail_after(LIMIT):
        await do_handshakes(client, server)
        assert client.connection.handshake is not None
        assert server.connection.handshake is not None
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send_all, b"hello")
            assert await server.receive_some() == b"hello"
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.aclose)
            assert await server.receive_some() == b""
            await server.aclose()


@pytest.mark.parametrize("kind", list(TRANSPORTS))
async def test_handshakes_that_fail(
    kind: str, authority: CertificateAuthority, autojump_clock: MockClock
) -> None:
    with trio.fail_after(LIMIT):
        other = CertificateAuthority()
        streams = tls_stream_pair(
            TRANSPORTS[kind](), other.client_context(), authority.server_context()
        )
        with pytest.raises(CertificateError):
            await do_handshakes(*streams)

        # In TLS 1.3 the client hears of it afterwards.
        server_context = authority.server_context(client_certificates=ssl.CERT_REQUIRED)
        streams = tls_stream_pair(TRANSPORTS[kind](), authority.client_context(), server_context)
        with pytest.raises(TLSError, match="certificate"):
            await do_handshakes(*streams)


@counts_references
async def test_an_error_of_a_handshake_is_freed(authority: CertificateAuthority) -> None:
    references: list[weakref.ref[TLSError]] = []

    async def fail() -> None:
        other = CertificateAuthority()
        streams = tls_stream_pair(
            memory_stream_pair(), other.client_context(), authority.server_context()
        )
        try:
            await do_handshakes(*streams)
        except CertificateError as exc:
            references.append(weakref.ref(exc))

    gc.disable()
    try:
        await fail()
        await trio.lowlevel.checkpoint()
        assert [reference() for reference in references] == [None]
    finally:
        gc.enable()


async def test_a_handshake_that_nobody_answers(
    authority: CertificateAuthority, autojump_clock: MockClock
) -> None:
    transport, server_transport = memory_stream_pair()
    streams = tls_stream_pair(
        (FaultyStream(transport, sending=[Stall(10, seconds=100)]), server_transport),
        authority.client_context(),
        authority.server_context(),
        handshake_timeout=5,
    )
    with pytest.raises(HandshakeTimeoutError):
        await do_handshakes(*streams)
    assert trio.current_time() == pytest.approx(5)


async def release_when_stalled(faulty: FaultyStream[Any], seconds: float) -> None:
    await faulty.sending.wait_stalled()
    await trio.sleep(seconds)
    faulty.sending.resume()


################################################################
# Faults without I/O
################################################################


def carried(faults: list[Fault], *data: bytes) -> list[object]:
    line = FaultyLine(faults)
    return [step for part in data for step in line.carry(part)]


def test_faults_are_values() -> None:
    assert Cut(5) == Cut(5) != Reset(5)
    assert repr(Split([1, 2])) == "Split(sizes=(1, 2))"
    assert Split(3) == Split([3])
    assert len({Stall(1), Stall(1), Stall(1, seconds=2)}) == 2


@pytest.mark.parametrize(
    ("make", "error"),
    [
        (lambda: Cut(-1), ValueError),
        (lambda: Stall(1, seconds=-1), ValueError),
        (lambda: Cut(1.5), TypeError),  # type: ignore[arg-type]
        (lambda: Corrupt(1, mask=0), ValueError),
        (lambda: Corrupt(1, mask=256), ValueError),
        (lambda: Split([]), ValueError),
        (lambda: Split([1, 0]), ValueError),
    ],
)
def test_faults_that_make_no_sense(make: Callable[[], object], error: type[Exception]) -> None:
    with pytest.raises(error):
        make()


@pytest.mark.parametrize(
    ("faults", "data", "result"),
    [
        ([], [b"abc", b"", b"d"], [b"abc", b"d"]),
        ([Split(2)], [b"abcde"], [b"ab", b"cd", b"e"]),
        ([Split(2)], [b"a", b"bcd", b"e"], [b"a", b"b", b"cd", b"e"]),
        ([Split([1, 3])], [b"abcdefgh"], [b"a", b"bcd", b"e", b"fgh"]),
        ([Split(2), Split(3)], [b"abcdefg"], [b"ab", b"c", b"d", b"ef", b"g"]),
        ([Cut(2)], [b"abc", b"d"], [b"ab", Cut(2)]),
        ([Cut(2)], [b"ab"], [b"ab", Cut(2)]),
        ([Cut(0)], [b""], [Cut(0)]),
        ([Reset(3), Cut(2)], [b"abcd"], [b"ab", Cut(2)]),
        ([Reset(3)], [b"ab", b"cd", b"e"], [b"ab", b"c", Reset(3)]),
        ([Corrupt(1)], [b"abc"], [b"a", b"c", b"c"]),
        ([Corrupt(1)], [b"a", b"bc"], [b"a", b"c", b"c"]),
        ([Corrupt(1), Corrupt(1, mask=2)], [b"aa"], [b"a", b"b"]),
        ([Corrupt(1), Cut(2)], [b"abc"], [b"a", b"c", Cut(2)]),
        ([Corrupt(1), Cut(1)], [b"abc"], [b"a", Cut(1)]),
        ([Insert(1, b"XY")], [b"ab"], [b"a", b"XY", b"b"]),
        ([Insert(2, b"XY"), Cut(2)], [b"ab"], [b"ab", b"XY", Cut(2)]),
        ([Cut(2), Insert(2, b"XY")], [b"ab"], [b"ab", Cut(2)]),
        ([Insert(1, b"XY"), Corrupt(1)], [b"ab"], [b"a", b"XY", b"c"]),
        ([Stall(1), Split(2)], [b"abcd"], [b"a", Stall(1), b"b", b"cd"]),
    ],
)
def test_line(faults: list[Fault], data: list[bytes], result: list[object]) -> None:
    assert carried(faults, *data) == result


def test_what_a_line_knows() -> None:
    line = FaultyLine([Split(2), Insert(1, b"XYZ"), Stall(3), Cut(4)])
    assert line.faults_left == (Insert(1, b"XYZ"), Stall(3), Cut(4))
    steps = line.carry(memoryview(b"abcdef"))
    assert [next(steps) for _ in range(4)] == [b"a", b"XYZ", b"b", b"c"]
    assert line.bytes_passed == 3
    assert not line.is_stalled
    with pytest.raises(RuntimeError, match="not stalled"):
        line.resume()
    assert next(steps) == Stall(3)
    assert line.is_stalled
    line.resume()
    assert not line.is_stalled
    assert line.end is None
    assert list(steps) == [b"d", Cut(4)]
    assert line.end == Cut(4)
    assert line.faults_left == ()
    assert line.faults_happened == (Insert(1, b"XYZ"), Stall(3), Cut(4))
    assert list(line.carry(b"more")) == []
    assert line.bytes_passed == 4


def test_faults_are_added_later() -> None:
    line = FaultyLine([Split([1, 3]), Cut(8)])
    assert list(line.carry(b"abc")) == [b"a", b"bc"]
    line.add(Corrupt(0), Split(2), Insert(2, b"XY"))
    assert line.faults_left == (Corrupt(3), Insert(5, b"XY"), Cut(8))
    assert list(line.carry(b"defghi")) == [b"e", b"e", b"XY", b"fg", b"h", Cut(8)]
    assert line.faults_happened == (Corrupt(3), Insert(5, b"XY"), Cut(8))
    assert repr(line) == "<FaultyLine after 8 bytes, Cut(at=8)>"


async def test_a_cut_that_is_added_later() -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(left)
    await right.send_all(b"abc")
    assert await faulty.receive_some() == b"abc"
    faulty.receiving.add(Cut(0))
    with trio.fail_after(LIMIT):
        assert await faulty.receive_some() == b""


def test_two_connections_and_a_line(contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> None:
    client, server = tls_connection_pair(*contexts)
    exchange(client, server)
    line = FaultyLine([Corrupt(20)])
    client.send(b"hello, this is more than 20 bytes")
    for step in line.carry(client.data_to_send()):
        assert isinstance(step, bytes)
        server.feed(step)
    with pytest.raises(TLSError, match=r"changed|damaged|corrupt|MAC|decrypt"):
        server.receive()


################################################################
# Faulty streams
################################################################


@pytest.mark.parametrize("kind", ["memory", "lockstep"])
async def test_a_stream_without_faults_is_as_good_as_any(kind: str) -> None:
    async def make() -> tuple[FaultyStream[Any], FaultyStream[Any]]:
        left, right = TRANSPORTS[kind]()
        return FaultyStream(left), FaultyStream(right, receiving=[Split([1, 50_000])])

    async def make_clogged() -> tuple[FaultyStream[Any], FaultyStream[Any]]:
        left, right = lockstep_stream_pair()
        return FaultyStream(left), FaultyStream(right)

    await trio.testing.check_half_closeable_stream(make, make_clogged)


async def test_split_stream() -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(left, receiving=[Split([1, 3])])
    await right.send_all(b"abcdefg")
    assert await faulty.receive_some() == b"a"
    assert await faulty.receive_some(2) == b"bc"
    assert await faulty.receive_some() == b"d"
    assert await faulty.receive_some(100) == b"e"
    await right.send_eof()
    assert await faulty.receive_some() == b"fg"
    assert await faulty.receive_some() == await faulty.receive_some() == b""


async def test_split_sends() -> None:
    sizes: list[int] = []

    class Counting(FaultyStream[Any]):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None:
            sizes.append(len(data))
            await super().send_all(data)

    left, right = memory_stream_pair()
    await FaultyStream(Counting(left), sending=[Split(4)]).send_all(bytes(10))
    assert sizes == [4, 4, 2]
    assert await right.receive_some() == bytes(10)


async def test_cut_on_the_way_out() -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(left, sending=[Cut(3)])
    await faulty.send_all(b"abcdef")
    await faulty.wait_send_all_might_not_block()
    await faulty.send_all(b"into the void")
    assert await right.receive_some() == b"abc"
    assert await right.receive_some() == b""
    await right.send_all(b"the other direction works")
    assert await faulty.receive_some() == b"the other direction works"
    await faulty.send_eof()


async def test_cut_on_the_way_in() -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(left, receiving=[Cut(3)])
    await right.send_all(b"abcdef")
    assert await faulty.receive_some() == b"abc"
    assert await faulty.receive_some() == await faulty.receive_some() == b""
    await faulty.send_all(b"x")
    assert await right.receive_some() == b"x"
    assert await FaultyStream(right, receiving=[Cut(0)]).receive_some() == b""


def test_a_cut_takes_a_direction_that_can_be_ended() -> None:
    class Whole(trio.abc.Stream):
        async def send_all(self, data: bytes | bytearray | memoryview) -> None: ...
        async def wait_send_all_might_not_block(self) -> None: ...
        async def receive_some(self, max_bytes: int | None = None) -> bytes:
            return b""

        async def aclose(self) -> None: ...

    with pytest.raises(TypeError, match="a Whole can't be ended alone"):
        FaultyStream(Whole(), sending=[Split(1), Cut(3)])
    FaultyStream(Whole(), receiving=[Cut(3)])


async def test_reset_while_sending() -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(left, sending=[Reset(3)])
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def receive() -> None:
                with pytest.raises(trio.BrokenResourceError, match="reset after 3 bytes"):
                    await faulty.receive_some()

            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(trio.BrokenResourceError, match="reset after 3 bytes"):
                await faulty.send_all(b"abcdef")
        for use in (
            lambda: faulty.send_all(b"x"),
            faulty.receive_some,
            faulty.send_eof,
            faulty.wait_send_all_might_not_block,
        ):
            with pytest.raises(trio.BrokenResourceError):
                await use()
        assert await right.receive_some() == b"abc"
        assert await right.receive_some() == b""
        with pytest.raises(trio.BrokenResourceError):
            await right.send_all(b"x")
        await faulty.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await faulty.receive_some()


async def test_reset_while_receiving() -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(left, sending=[Stall(0)], receiving=[Reset(3)])
    await right.send_all(b"abcdef")
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:

            @nursery.start_soon
            async def send() -> None:
                with pytest.raises(trio.BrokenResourceError, match="reset after 3 bytes"):
                    await faulty.send_all(b"x")

            await faulty.sending.wait_stalled()
            assert await faulty.receive_some() == b"abc"
            with pytest.raises(trio.BrokenResourceError, match="reset after 3 bytes"):
                await faulty.receive_some()


async def test_reset_over_tcp_is_a_reset() -> None:
    async with tcp_pair() as (client, server):
        faulty = FaultyStream(client, sending=[Reset(3)])
        with pytest.raises(trio.BrokenResourceError, match="by a fault"):
            await faulty.send_all(b"abcdef")
        with trio.fail_after(LIMIT), pytest.raises(trio.BrokenResourceError) as raised:
            await receive_all(server)
        assert isinstance(raised.value.__cause__, ConnectionResetError)


@pytest.mark.parametrize("direction", ["sending", "receiving"])
async def test_tls_reports_a_reset_by_a_fault_like_a_real_one(
    direction: str, contexts: tuple[ssl.SSLContext, ssl.SSLContext]
) -> None:
    async def use(stream: trio.abc.Stream) -> None:
        await stream.send_all(b"hello")
        await receive_all(stream)

    async with tcp_pair() as transports:
        faulty = FaultyStream(transports[0])
        client, server = tls_stream_pair((faulty, transports[1]), *contexts)
        await do_handshakes(client, server)
        getattr(faulty, direction).add(Reset(3))
        await server.send_all(b"hello")
        with trio.fail_after(LIMIT), pytest.raises(TLSError, match="by a fault") as raised:
            await use(client)
        assert raised.value.error_type == "connection_reset"
        with trio.fail_after(LIMIT), pytest.raises(TLSError) as raised:
            await receive_all(server)
        assert raised.value.error_type == "connection_reset"


async def test_stalled_sends() -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(left, sending=[Stall(3), Stall(5)])
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(faulty.send_all, b"abcdefg")
            await faulty.sending.wait_stalled()
            assert await right.receive_some() == b"abc"
            faulty.sending.resume()
            assert not faulty.sending.is_stalled
            await faulty.sending.wait_stalled()
            assert await right.receive_some() == b"de"
            faulty.sending.resume()
        assert await right.receive_some() == b"fg"


async def test_a_cancelled_send_in_a_stall() -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(left, sending=[Stall(3)])
    for use in (
        lambda: faulty.send_all(b"abcdefg"),
        lambda: faulty.send_all(b"hij"),
        faulty.wait_send_all_might_not_block,
        faulty.send_eof,
    ):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(use)
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    faulty.sending.resume()
    await faulty.send_all(b"xyz")
    await faulty.send_eof()
    assert await right.receive_some() == b"abcxyz"
    assert await right.receive_some() == b""


async def test_a_cancelled_receive_in_a_stall() -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(left, receiving=[Stall(3)])
    await right.send_all(b"abcdef")
    assert await faulty.receive_some() == b"abc"
    for _ in range(2):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(faulty.receive_some)
            await faulty.receiving.wait_stalled()
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    faulty.receiving.resume()
    assert await faulty.receive_some() == b"def"


async def test_a_stall_for_some_time(autojump_clock: MockClock) -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(left, receiving=[Stall(0, seconds=5), Stall(3, seconds=7)])
    await right.send_all(b"abcdef")
    assert await faulty.receive_some() == b"abc"
    assert trio.current_time() == pytest.approx(5)
    assert await faulty.receive_some() == b"def"
    assert trio.current_time() == pytest.approx(12)


async def test_a_stall_for_some_time_that_is_ended_earlier(autojump_clock: MockClock) -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(left, sending=[Stall(1, seconds=100)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(faulty.send_all, b"ab")
        nursery.start_soon(release_when_stalled, faulty, 2)
    assert trio.current_time() == pytest.approx(2)
    assert await right.receive_some() == b"ab"


async def test_closing_in_a_stall() -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(left, sending=[Stall(1)], receiving=[Stall(0)])

    async def fails(use: Callable[[], Any]) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await use()

    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(fails, lambda: faulty.send_all(b"ab"))
            nursery.start_soon(fails, faulty.receive_some)
            await faulty.sending.wait_stalled()
            await faulty.receiving.wait_stalled()
            await faulty.aclose()
    assert await right.receive_some() == b"a"
    assert await right.receive_some() == b""


async def test_two_tasks_at_once() -> None:
    left, _ = memory_stream_pair()
    faulty = FaultyStream(left, sending=[Stall(0)])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(faulty.send_all, b"x")
        nursery.start_soon(faulty.receive_some)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await faulty.send_all(b"x")
        with pytest.raises(trio.BusyResourceError):
            await faulty.receive_some()
        nursery.cancel_scope.cancel()
    with pytest.raises(ValueError, match="max_bytes"):
        await faulty.receive_some(0)


################################################################
# TLS over them
################################################################


async def test_tls_over_bytes_that_come_one_by_one(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    left, right = memory_stream_pair()
    client, server = tls_stream_pair(
        (FaultyStream(left, receiving=[Split(1)]), FaultyStream(right, receiving=[Split(1)])),
        *contexts,
    )
    await do_handshakes(client, server)
    await client.send_all(b"hello")
    assert await server.receive_some() == b"hello"


@pytest.mark.parametrize(
    ("fault", "error", "match"),
    [
        (Cut(1), TruncationError, "without a close_notify"),
        (Reset(0), TLSError, "the transport broke while receiving: connection reset"),
        (Corrupt(10), TLSError, None),
        (Insert(0, b"HTTP/1.1 400 Bad Request\r\n"), TLSError, None),
    ],
)
async def test_tls_with_faults(
    fault: Cut | Reset | Corrupt | Insert,
    error: type[TLSError],
    match: str | None,
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    left, right = memory_stream_pair()
    faulty = FaultyStream(right)
    client, server = tls_stream_pair((left, faulty), *contexts)
    await do_handshakes(client, server)
    faulty.receiving.add(Split(3), attrs.evolve(fault, at=fault.at + 100))
    await client.send_all(b"hello" * 100)
    with pytest.raises(error, match=match):
        await receive_all(server)
    if isinstance(fault, Corrupt | Insert):
        with pytest.raises(PeerAlertError, match=r"bad_record_mac|unexpected_message"):
            await receive_all(client)


async def receive_all(stream: trio.abc.ReceiveStream) -> bytes:
    return b"".join([part async for part in stream])


################################################################
# The code in the guide
################################################################


@runs("testing.rst", "@pytest.fixture")
async def test_fixture_in_the_guide(block: Block) -> None:
    names = {"pytest": pytest, "CertificateAuthority": CertificateAuthority}
    names = await block.run(**names)
    assert "authority" in names


@runs("testing.rst", "alice = authority.issue(")
async def test_client_certificates_in_the_guide(
    block: Block, authority: CertificateAuthority
) -> None:
    names = await block.run(authority=authority, ssl=ssl)
    client, server = tls_connection_pair(names["client_context"], names["server_context"])
    exchange(client, server)
    assert server.handshake is not None
    assert server.handshake.peer_certificate is not None


@runs("testing.rst", "yesterday = datetime.now(UTC)")
async def test_expired_certificate_in_the_guide(
    block: Block, authority: CertificateAuthority
) -> None:
    names = await block.run(authority=authority, datetime=datetime, UTC=UTC, timedelta=timedelta)
    client, server = tls_connection_pair(authority.client_context(), names["server_context"])
    exchange(client, server)
    with pytest.raises(CertificateError, match="has expired"):
        client.do_handshake()


@runs("testing.rst", "authority.write(")
async def test_files_in_the_guide(
    block: Block, authority: CertificateAuthority, tmp_path: Path
) -> None:
    await block.run(authority=authority, tmp_path=tmp_path)
    ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "server.pem")


@runs("testing.rst", "FaultyStream(transport,")
async def test_faults_in_the_guide(block: Block) -> None:
    made: list[FaultyStream[Any]] = []

    def make(*args: Any, **options: Any) -> None:
        made.append(FaultyStream(*args, **options))

    names = {"Split": Split, "Stall": Stall, "Corrupt": Corrupt, "Cut": Cut}
    transport, _ = memory_stream_pair()
    await block.run(transport=transport, FaultyStream=make, **names)
    assert made[0].sending.faults_left == (Cut(2000),)


@runs("testing.rst", "async def test_hello(authority, autojump_clock)")
async def test_a_hang_in_the_guide(
    block: Block, authority: CertificateAuthority, autojump_clock: MockClock
) -> None:
    names: dict[str, Any] = {"trio": trio, "tls_stream_pair": tls_stream_pair}
    names = await block.run(**names, memory_stream_pair=memory_stream_pair)
    with pytest.raises(trio.TooSlowError):
        await names["test_hello"](authority, autojump_clock)


# Rows of the table "What needs sockets".


@asynccontextmanager
async def connected(
    is_memory: bool, authority: CertificateAuthority, **options: Any
) -> AsyncIterator[tuple[TLSStream[Any], trio.CancelScope]]:
    """Serve one client, which the handler ignores. The value is the client's stream, and the
    server's cancel scope.
    """
    listener = MemoryListener() if is_memory else example("testing_sockets").SocketPairListener()
    tls_listener = TLSListener(listener, authority.server_context())
    connector = TLSConnector(ssl_context=authority.client_context())
    scope = trio.CancelScope()

    async def ignore(_: TLSStream[Any]) -> None:
        await trio.sleep_forever()

    async def serve() -> None:
        with scope:
            await serve_tls_listeners(ignore, [tls_listener], **options)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        stream = await connector.wrap(await listener.connect(), "localhost")
        await trio.testing.wait_all_tasks_blocked()
        yield stream, scope
        await trio.aclose_forcefully(stream)
        scope.cancel()


@pytest.mark.parametrize("is_memory", [True, False], ids=["memory", "sockets"])
@pytest.mark.parametrize("drains", [True, False], ids=["time limit", "cancelled"])
async def test_how_a_server_cuts_off_a_client(
    drains: bool, is_memory: bool, authority: CertificateAuthority, autojump_clock: MockClock
) -> None:
    drain = Drain()
    async with connected(is_memory, authority, drain=drain) as (stream, scope):
        if drains:
            assert await drain.end(10) == 1
            assert autojump_clock.current_time() >= 10
        else:
            scope.cancel()
        if is_memory:
            with pytest.raises(TruncationError):
                await stream.receive_some()
        else:
            assert await stream.receive_some() == b""


@pytest.mark.parametrize("is_memory", [True, False], ids=["memory", "sockets"])
async def test_how_long_aclose_waits_for_a_silent_peer(
    is_memory: bool, authority: CertificateAuthority, autojump_clock: MockClock
) -> None:
    async with connected(is_memory, authority) as (stream, _):
        start = autojump_clock.current_time()
        await stream.aclose()
        assert autojump_clock.current_time() - start == (0 if is_memory else 5)


@pytest.mark.parametrize("tickets", [0, 2])
async def test_tickets_in_lockstep(
    tickets: int, authority: CertificateAuthority, autojump_clock: MockClock
) -> None:
    context = authority.server_context(minimum_version=VERSIONS["tls13"])
    context.num_tickets = tickets
    client, server = tls_stream_pair(lockstep_stream_pair(), authority.client_context(), context)
    await do_handshakes(client, server)
    with trio.move_on_after(30) as scope:
        await server.send_all(b"hello")
    assert scope.cancelled_caught
    assert server.bytes_committed == (0 if tickets else 5)
    server.abort()
    if tickets:
        with pytest.raises(TruncationError):
            await client.receive_some()
    else:
        assert await client.receive_some() == b"hello"


KINDS = (Corrupt, Cut, Insert, Reset, Split, Stall)


def test_faults_in_the_table() -> None:
    text = (DOCS / "testing.rst").read_text(encoding="utf-8")
    faults = [
        eval(code, {"at": 5} | {kind.__name__: kind for kind in KINDS})
        for line in re.findall(r"^   \* - (`.*)$", text, re.MULTILINE)
        for code in re.findall(r"`([^`]+)`", line)
    ]
    assert {type(fault) for fault in faults} == set(KINDS)


################################################################
# A listener in memory
################################################################


LISTENERS = pytest.mark.parametrize("lockstep", [False, True], ids=["memory", "lockstep"])


async def test_a_memory_listener_in_lockstep() -> None:
    """Its sends wait until the other side has received all."""
    listener = MemoryListener(lockstep=True)
    client = await listener.connect()
    server = await listener.accept()
    assert repr(listener) == "<MemoryListener>"
    for sender, receiver in ((client, server), (server, client)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send_all, b"four")
            await trio.testing.wait_all_tasks_blocked()
            assert await receiver.receive_some(3) == b"fou"
            await trio.testing.wait_all_tasks_blocked()
            assert len(nursery.child_tasks) == 1
            assert await receiver.receive_some() == b"r"


async def test_memory_listener() -> None:
    listener = MemoryListener()
    with trio.testing.assert_checkpoints():
        client = await listener.connect()
    with trio.testing.assert_checkpoints():
        server = await listener.accept()
    await client.send_all(b"there")
    assert await server.receive_some() == b"there"
    await server.send_all(b"back")
    assert await client.receive_some() == b"back"
    assert repr(listener) == "<MemoryListener>"


@LISTENERS
async def test_a_memory_listener_that_is_closed(lockstep: bool) -> None:
    listener = MemoryListener(lockstep=lockstep)
    accepted = await listener.connect()
    server = await listener.accept()
    waiting = await listener.connect()
    for _ in range(2):
        with trio.testing.assert_checkpoints():
            await listener.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await listener.accept()
    with pytest.raises(ConnectionRefusedError):
        await listener.connect()
    assert await waiting.receive_some() == b"", "nobody will ever accept it"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.send_all, b"goes on")
        assert await accepted.receive_some() == b"goes on"


async def test_closing_a_memory_listener_ends_who_accepts() -> None:
    listener = MemoryListener()

    async def accept() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await listener.accept()

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(accept)
            await trio.testing.wait_all_tasks_blocked()
            await listener.aclose()


@LISTENERS
async def test_closing_a_memory_listener_in_a_cancelled_scope(lockstep: bool) -> None:
    listener = MemoryListener(lockstep=lockstep)
    waiting = [await listener.connect() for _ in range(3)]
    await trio.aclose_forcefully(listener)
    for client in waiting:
        assert await client.receive_some() == b""


async def test_serving_from_a_memory_listener(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> None:
    client_context, server_context = contexts
    listener, monitor = MemoryListener(), ServerMonitor()
    serve = partial(
        serve_tls_listeners, echo, [TLSListener(listener, server_context)], monitor=monitor
    )
    connector = TLSConnector(ssl_context=client_context)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        for is_resumed in (False, True):
            async with await connector.wrap(await listener.connect(), "localhost") as stream:
                await stream.send_all(b"there and back")
                assert await stream.receive_some() == b"there and back"
                assert stream.handshake.session_reused is is_resumed
        await listener.aclose()
    assert (monitor.statistics().established, monitor.statistics().resumed) == (2, 1)
