"""TLSStream over memory, lockstep, pipe and socket transports."""

from __future__ import annotations

import os
import random
import socket
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import pytest
import trio
import trustme
from trio.testing import (
    MockClock,
    assert_checkpoints,
    check_half_closeable_stream,
    check_two_way_stream,
    lockstep_stream_pair,
    memory_stream_pair,
    memory_stream_pump,
    wait_all_tasks_blocked,
)

from tests.helpers import (
    NAME,
    both_handshakes,
    client_context_for,
    server_context_for,
    tcp_pair,
    wrap_pair,
)
from tests.peers import (
    PIPE_SERVER,
    RenegotiatingEcho,
    Untouchable,
    blocking_echo_server,
    clog,
    running,
)
from trio_tlsbio import (
    CertificateError,
    NeedHandshakeError,
    PeerAlertError,
    State,
    TLSConnection,
    TLSError,
    TLSStream,
    TruncationError,
)

Pair: TypeAlias = tuple[TLSStream[Any], TLSStream[Any]]
Step: TypeAlias = Callable[[], Awaitable[object]]


@pytest.fixture
def pair(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> Pair:
    """A client and a server over memory, before the handshake."""
    return wrap_pair(*memory_stream_pair(), client_context, server_context)


@pytest.fixture
async def established(pair: Pair) -> Pair:
    """A client and a server over memory, after the handshake."""
    await both_handshakes(*pair)
    return pair


@pytest.fixture
async def over_tcp(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> AsyncIterator[Pair]:
    """A client and a server over TCP, before the handshake."""
    async with tcp_pair() as transports:
        yield wrap_pair(*transports, client_context, server_context)


async def together(*steps: Step) -> None:
    """Run the steps at once. What one of them raises comes in a group."""
    async with trio.open_nursery() as nursery:
        for step in steps:
            nursery.start_soon(step)


async def error_of(step: Step) -> TLSError | None:
    """Return the TLSError that a step raises, if it does."""
    try:
        await step()
    except TLSError as exc:
        return exc
    return None


async def errors_of(*steps: Step) -> list[TLSError | None]:
    """Run the steps at once, and return the TLSError that each raises."""
    errors: list[TLSError | None] = [None] * len(steps)

    async def run(index: int, step: Step) -> None:
        errors[index] = await error_of(step)

    await together(*(partial(run, index, step) for index, step in enumerate(steps)))
    return errors


async def cancelled_when_blocked(step: Step) -> None:
    """Start a step, and cancel it once nothing moves any more."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(step)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert nursery.cancel_scope.cancelled_caught


async def receive_exactly(stream: TLSStream[Any], count: int) -> bytes:
    data = bytearray()
    while len(data) < count:
        part = await stream.receive_some()
        assert part, "the stream ended too early"
        data += part
    assert len(data) == count
    return bytes(data)


async def receive_all(stream: TLSStream[Any]) -> bytes:
    data = bytearray()
    while part := await stream.receive_some():
        data += part
    return bytes(data)


async def expect(stream: TLSStream[Any], data: bytes) -> None:
    with assert_checkpoints():
        assert await stream.receive_some(len(data) or 10) == data


async def fail() -> NoReturn:
    raise KeyError("from the transport")


################################################################
# Against blocking ssl
################################################################


async def test_client_talks_to_blocking_ssl(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with (
        blocking_echo_server(server_context) as transport,
        TLSStream(transport, client_context, server_hostname=NAME) as stream,
    ):
        assert not stream.server_side
        await stream.send_all(b"hello")
        assert await receive_exactly(stream, 5) == b"hello"


async def test_client_refuses_an_authority_it_does_not_know(
    server_context: ssl.SSLContext,
) -> None:
    async with blocking_echo_server(server_context, error="UNKNOWN_CA") as transport:
        stream = TLSStream(transport, ssl.create_default_context(), server_hostname=NAME)
        with pytest.raises(CertificateError) as raised:
            await stream.send_all(b"hello")
        assert isinstance(raised.value.__cause__, ssl.SSLCertVerificationError)


async def test_client_refuses_a_certificate_for_another_name(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with blocking_echo_server(server_context, error="BAD_CERTIFICATE") as transport:
        stream = TLSStream(transport, client_context, server_hostname="other.example")
        with pytest.raises(CertificateError, match=r"is for server\.example.*not other\.example"):
            await stream.send_all(b"hello")


async def test_server_talks_to_blocking_ssl(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    ours, theirs = socket.socketpair()
    theirs.settimeout(10)

    def client() -> None:
        with theirs, client_context.wrap_socket(theirs, server_hostname=NAME) as tls:
            tls.sendall(b"question")
            assert tls.recv(100) == b"answer"
            tls.sendall(b"thanks")
            tls.unwrap()

    transport = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
    async with TLSStream(transport, server_context, server_side=True) as stream:
        assert stream.server_side
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, client)
            assert await receive_exactly(stream, 8) == b"question"
            await stream.send_all(b"answer")
            assert await receive_exactly(stream, 6) == b"thanks"
            assert await stream.receive_some() == b""
            await stream.aclose()


async def test_full_duplex_with_handshakes_at_once(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    sent = [bytes([number]) * 32768 for number in range(30)]
    received = bytearray()

    async def send() -> None:
        for chunk in sent:
            await stream.send_all(chunk)

    async def receive() -> None:
        while len(received) < 30 * 32768:
            received.extend(await stream.receive_some(10_000))

    async with blocking_echo_server(server_context) as transport:
        stream = TLSStream(transport, client_context, server_hostname=NAME)
        await together(send, receive, stream.do_handshake, stream.do_handshake)
        await stream.aclose()
    assert bytes(received) == b"".join(sent)


################################################################
# The contract of a Stream, by Trio's own checks
################################################################


def transports(kind: str) -> tuple[trio.abc.Stream, trio.abc.Stream]:
    if kind == "memory":
        return memory_stream_pair()
    if kind == "lockstep":
        return lockstep_stream_pair()
    assert kind == "pipes"
    (read1, write1), (read2, write2) = os.pipe(), os.pipe()
    fd = trio.lowlevel.FdStream
    return trio.StapledStream(fd(write1), fd(read2)), trio.StapledStream(fd(write2), fd(read1))


def maker(
    kind: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    *,
    layers: int = 1,
    clogged: bool = False,
    **options: Any,
) -> Callable[[], Awaitable[Pair]]:
    """Return an async function that makes a pair as the checks want it.

    On a clogged one, which is for lockstep streams, each send waits for the peer to receive.
    """

    async def make() -> Pair:
        pair: tuple[Any, Any] = transports(kind)
        for _ in range(layers):
            pair = wrap_pair(*pair, client_context, server_context, **options)
        if clogged:
            await both_handshakes(*pair)
        return pair

    return make


both_modes = pytest.mark.parametrize("https_compatible", [False, True])


@both_modes
@pytest.mark.parametrize("kind", ["memory", "pipes"])
async def test_contract(
    kind: str,
    https_compatible: bool,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    contexts = client_context, server_context
    await check_half_closeable_stream(
        maker(kind, *contexts, https_compatible=https_compatible),
        maker("lockstep", *contexts, clogged=True, https_compatible=https_compatible),
    )


@both_modes
async def test_contract_without_half_closing(
    https_compatible: bool, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    contexts = client_context, server_context
    await check_two_way_stream(
        maker("memory", *contexts, https_compatible=https_compatible),
        maker("lockstep", *contexts, clogged=True, https_compatible=https_compatible),
    )


# Two ends of a lockstep stream that both only send, as when both close, wait for each other: here
# until the close_timeout has passed, which is why these need a clock that jumps.


@both_modes
async def test_contract_over_lockstep_streams(
    https_compatible: bool,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    contexts = client_context, server_context
    with trio.fail_after(3600):
        await check_half_closeable_stream(
            maker("lockstep", *contexts, https_compatible=https_compatible),
            maker("lockstep", *contexts, clogged=True, https_compatible=https_compatible),
        )


async def test_contract_of_tls_in_tls(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    contexts = client_context, server_context
    with trio.fail_after(3600):
        await check_half_closeable_stream(
            maker("memory", *contexts, layers=2),
            maker("lockstep", *contexts, layers=2, clogged=True),
        )


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", ["memory", "lockstep"])
async def test_tickets_that_nobody_reads_hold_up_no_receiver(
    kind: str,
    layers: int,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: MockClock,
) -> None:
    # A TLS 1.3 server has its tickets to send when the handshake is done.
    client, server = await maker(
        kind, client_context, server_context, layers=layers, clogged=True
    )()
    with trio.fail_after(60):
        await together(partial(client.send_all, b"x"), partial(expect, server, b"x"))


@both_modes
@pytest.mark.parametrize("layers", [1, 2])
async def test_contract_over_tcp(
    layers: int,
    https_compatible: bool,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    # What is thrown away at the end is kept low, since the checks send it in hundreds of bytes.
    options: dict[str, Any] = {"https_compatible": https_compatible, "close_max_bytes": 16384}
    async with AsyncExitStack() as stack:

        async def make() -> Pair:
            pair: tuple[Any, Any] = await stack.enter_async_context(tcp_pair())
            for _ in range(layers):
                pair = wrap_pair(*pair, client_context, server_context, **options)
            return pair

        async def make_clogged() -> Pair:
            pair: tuple[Any, Any] = await stack.enter_async_context(tcp_pair())
            for stream in pair:
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
                stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            for _ in range(layers):
                pair = wrap_pair(*pair, client_context, server_context, **options)
            client, server = pair
            await both_handshakes(client, server)
            clog(client)
            clog(server)
            return client, server

        with trio.fail_after(20):
            await check_half_closeable_stream(make, make_clogged)


################################################################
# Arguments and attributes
################################################################


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, ValueError),  # the context checks host names
        ({"server_hostname": ""}, ValueError),
        ({"server_hostname": "."}, ValueError),
        ({"server_hostname": ".example"}, ValueError),
        ({"server_hostname": "a\0.example"}, ValueError),
        ({"server_hostname": "ü".encode()}, ValueError),
        ({"server_hostname": "ü" * 64}, ValueError),
        ({"server_hostname": 1}, TypeError),
        ({"server_side": True}, ValueError),  # with a client's context
        ({"server_hostname": NAME, "server_side": True}, ValueError),
        ({"server_hostname": NAME, "session": b"session"}, TypeError),
        ({"server_hostname": NAME, "close_timeout": -1}, ValueError),
        ({"server_hostname": NAME, "close_timeout": float("nan")}, ValueError),
        ({"server_hostname": NAME, "close_max_bytes": -1}, ValueError),
        ({"server_hostname": NAME, "ssl_context": None}, TypeError),
        ({"server_hostname": NAME, "ssl_context": "context"}, TypeError),
        ({"server_hostname": NAME, "unheard_of": 1}, TypeError),
    ],
    ids=repr,
)
def test_wrong_arguments_are_refused_at_once(
    options: dict[str, Any], error: type[Exception]
) -> None:
    options = {"ssl_context": ssl.create_default_context(), **options}
    with pytest.raises(error):
        TLSStream(Untouchable(), options.pop("ssl_context"), **options)


def test_server_context_is_refused_on_the_client_side() -> None:
    with pytest.raises(ValueError, match="ssl_context"):
        TLSStream(Untouchable(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server_hostname=NAME)


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        TLSStream(Untouchable(), ssl.create_default_context(), NAME)  # type: ignore[call-arg]


def test_attributes(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    transport = Untouchable()
    client = TLSStream(transport, client_context, server_hostname=NAME)
    assert client.transport_stream is transport
    assert client.context is client_context
    assert client.server_hostname == NAME
    assert client.server_side is False
    assert client.pending() == 0
    assert client.handshake is None
    assert client.session is None

    server = TLSStream(transport, server_context, server_side=True)
    assert server.context is server_context
    assert server.server_hostname is None
    assert server.server_side is True


def test_unknown_attributes_are_errors(pair: Pair) -> None:
    with pytest.raises(AttributeError):
        pair[0].no_such_thing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError):
        pair[0].no_such_thing = 1  # type: ignore[attr-defined]


def test_dir_lists_what_there_is(pair: Pair) -> None:
    assert {"transport_stream", "context", "do_handshake", "cipher"} <= set(dir(pair[0]))


@pytest.mark.parametrize("name", ["server_side", "server_hostname", "transport_stream", "session"])
def test_read_only_attributes(pair: Pair, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(pair[0], name, None)


async def test_setting_the_context_takes_effect(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with blocking_echo_server(server_context, error="UNKNOWN_CA") as transport:
        stream = TLSStream(transport, client_context, server_hostname=NAME)
        untrusting = ssl.create_default_context()
        stream.context = untrusting
        assert stream.context is untrusting
        with pytest.raises(CertificateError):
            await stream.do_handshake()


@pytest.mark.parametrize("name", ["faß.de", "faß.de."])
def test_server_hostname_is_encoded_by_idna_2008(name: str, client_context: ssl.SSLContext) -> None:
    # IDNA 2003, as the ssl module has it, would make it "fass.de", which is another host.
    stream = TLSStream(Untouchable(), client_context, server_hostname=name)
    assert stream.server_hostname == "xn--fa-hia.de"


async def test_server_is_asked_for_the_idna_2008_name(
    ca: trustme.CA, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    asked: list[str | None] = []

    def sni_callback(ssl_object: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        asked.append(name)

    server_context.sni_callback = sni_callback
    ca.issue_cert("faß.de").configure_cert(server_context)
    ours, theirs = memory_stream_pair()
    client = TLSStream(ours, client_context, server_hostname="faß.de")
    server = TLSStream(theirs, server_context, server_side=True)
    await both_handshakes(client, server)
    assert asked == ["xn--fa-hia.de"]


FORWARDED = [
    "getpeercert",
    "selected_alpn_protocol",
    "selected_npn_protocol",
    "cipher",
    "shared_ciphers",
    "compression",
    "get_channel_binding",
    "version",
]
if sys.version_info >= (3, 13):
    FORWARDED += ["get_verified_chain", "get_unverified_chain"]


@pytest.mark.parametrize("name", FORWARDED)
def test_forwarded_methods_need_the_handshake(name: str, pair: Pair) -> None:
    for stream in pair:
        with pytest.raises(NeedHandshakeError, match=name):
            getattr(stream, name)()


def test_session_reused_needs_the_handshake(pair: Pair) -> None:
    for stream in pair:
        with pytest.raises(NeedHandshakeError, match="session_reused"):
            stream.session_reused  # noqa: B018


def test_need_handshake_error_is_trios() -> None:
    assert NeedHandshakeError is trio.NeedHandshakeError


@pytest.mark.filterwarnings("ignore:.*NPN is deprecated.*")
@pytest.mark.parametrize("name", FORWARDED)
async def test_forwarded_methods_answer_as_the_ssl_object_does(
    name: str, established: Pair
) -> None:
    for stream in established:
        answer = getattr(stream.connection.ssl_object, name)()
        assert getattr(stream, name)() == answer


async def test_session_reused_after_a_full_handshake(established: Pair) -> None:
    client, server = established
    assert client.session_reused is False
    assert server.session_reused is False


async def test_version_and_cipher(established: Pair, tls_version: ssl.TLSVersion) -> None:
    client, server = established
    names = {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}
    assert client.version() == server.version() == names[tls_version]
    assert client.cipher() == server.cipher()
    assert client.handshake is not None
    assert client.handshake.version == names[tls_version]


async def test_getpeercert(established: Pair) -> None:
    client, server = established
    certificate = client.getpeercert()
    assert isinstance(certificate, dict)
    assert ("DNS", NAME) in certificate["subjectAltName"]
    assert client.getpeercert(binary_form=True) == client.getpeercert(True)
    assert isinstance(client.getpeercert(True), bytes)
    assert server.getpeercert() is None  # clients have none here


async def test_alpn_protocol_is_none_unless_set(established: Pair) -> None:
    client, server = established
    assert client.selected_alpn_protocol() is None
    assert server.selected_alpn_protocol() is None


async def test_alpn_protocol(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client_context.set_alpn_protocols(["h2", "http/1.1"])
    server_context.set_alpn_protocols(["http/1.1"])
    client, server = wrap_pair(*memory_stream_pair(), client_context, server_context)
    await both_handshakes(client, server)
    assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == "http/1.1"


@pytest.mark.filterwarnings("ignore:.*NPN is deprecated.*")
async def test_npn_protocol_is_none(established: Pair) -> None:
    for stream in established:
        assert stream.selected_npn_protocol() is None


async def test_channel_binding_is_the_same_on_both_sides(established: Pair) -> None:
    client, server = established
    binding = client.get_channel_binding()
    assert binding
    assert binding == server.get_channel_binding("tls-unique")
    with pytest.raises(ValueError, match="nonsense"):
        client.get_channel_binding("nonsense")


################################################################
# Handshakes that fail
################################################################


async def test_server_learns_that_its_authority_is_not_known(
    server_context: ssl.SSLContext,
) -> None:
    client, server = wrap_pair(*memory_stream_pair(), ssl.create_default_context(), server_context)
    ours, theirs = await errors_of(client.do_handshake, server.do_handshake)
    assert isinstance(ours, CertificateError)
    assert isinstance(theirs, PeerAlertError)
    assert theirs.alert == "unknown_ca"
    assert isinstance(theirs.__cause__, ssl.SSLError)


async def test_client_learns_that_it_needs_a_certificate(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    server_context.verify_mode = ssl.CERT_REQUIRED
    client, server = wrap_pair(*memory_stream_pair(), client_context, server_context)
    # In TLS 1.3 the client has done its part before the server looks at the certificate.
    ours, theirs = await errors_of(client.receive_some, server.do_handshake)
    assert isinstance(ours, PeerAlertError)
    is_13 = tls_version is ssl.TLSVersion.TLSv1_3
    assert ours.alert == ("certificate_required" if is_13 else "handshake_failure")
    assert theirs is not None
    assert theirs.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


async def test_everybody_who_waits_for_a_handshake_hears_that_it_failed(
    server_context: ssl.SSLContext,
) -> None:
    client, server = wrap_pair(*memory_stream_pair(), ssl.create_default_context(), server_context)
    with trio.fail_after(5):
        *ours, _ = await errors_of(
            client.do_handshake,
            client.do_handshake,
            client.receive_some,
            partial(client.send_all, b"x"),
            server.do_handshake,
        )
    assert [type(error) for error in ours] == [CertificateError] * 4
    assert len(set(map(id, ours))) == 4, "one exception object was raised in several tasks"


async def test_failed_handshake_stays_failed(server_context: ssl.SSLContext) -> None:
    client, server = wrap_pair(*memory_stream_pair(), ssl.create_default_context(), server_context)
    await errors_of(client.do_handshake, server.do_handshake)
    for step in (
        client.do_handshake,
        client.receive_some,
        partial(client.send_all, b"x"),
        client.send_eof,
        client.unwrap,
    ):
        assert isinstance(await error_of(step), CertificateError)


async def test_error_of_a_send_in_the_handshake_propagates(pair: Pair) -> None:
    client, _ = pair
    client.transport_stream.send_stream.send_all_hook = fail
    with pytest.raises(KeyError), assert_checkpoints():
        await client.do_handshake()
    with pytest.raises(trio.BrokenResourceError), assert_checkpoints():
        await client.do_handshake()


async def test_handshake_whose_transport_breaks_has_failed(pair: Pair) -> None:
    client, server = pair
    await server.transport_stream.aclose()
    with pytest.raises(TLSError, match="broke while sending"):
        await client.do_handshake()
    assert client.connection.send_state is client.connection.receive_state is State.FAILED
    assert "broke while sending" in str(client.connection.error)


async def test_error_of_a_receive_in_the_handshake_propagates(pair: Pair) -> None:
    client, server = pair
    client.transport_stream.receive_stream.receive_some_hook = fail
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        with pytest.raises(KeyError), assert_checkpoints():
            await client.do_handshake()
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError), assert_checkpoints():
        await client.do_handshake()


################################################################
# Cancellation
################################################################


async def test_more_pieces_than_a_system_call_takes(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    for _ in range(3000):  # more than IOV_MAX
        client.connection.send(b"x")
    assert len(client.connection.unsent) == 3000
    await client.send_all(b"y")
    received = b""
    while not received.endswith(b"y"):
        received += await server.receive_some()
    assert received == b"x" * 3000 + b"y"


async def test_cancelled_handshake_goes_on(over_tcp: Pair) -> None:
    client, server = over_tcp
    await cancelled_when_blocked(client.do_handshake)  # its first message is out
    await cancelled_when_blocked(server.do_handshake)  # its answer is out
    await both_handshakes(client, server)
    await client.send_all(b"x")
    await expect(server, b"x")


async def test_cancelled_handshake_leaves_it_to_the_others(over_tcp: Pair) -> None:
    client, server = over_tcp
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cancelled_when_blocked, client.do_handshake)
        nursery.start_soon(client.do_handshake)
        nursery.start_soon(expect, client, b"hello")
        await wait_all_tasks_blocked(0.01)
        await server.send_all(b"hello")


async def test_cancelled_receive_loses_nothing(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    for number in range(5):
        await cancelled_when_blocked(server.receive_some)
        with trio.CancelScope() as scope:
            scope.cancel()
            await server.receive_some()
        assert scope.cancelled_caught
        await client.send_all(bytes([number]))
        await expect(server, bytes([number]))


@pytest.mark.parametrize("layers", [1, 2])
async def test_cancelled_send_goes_on_where_it_stopped(
    layers: int, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    payload = random.Random(0).randbytes(8_000_000)
    received = b""

    async def receive() -> None:
        nonlocal received
        received = await receive_exactly(server, len(payload))

    async with tcp_pair() as pair:
        client, server = wrap_pair(*pair, client_context, server_context)
        if layers == 2:
            client, server = wrap_pair(client, server, client_context, server_context)
        await both_handshakes(client, server)
        await cancelled_when_blocked(partial(client.send_all, payload))
        assert 0 < client.bytes_committed < len(payload)

        await server.send_all(b"still there?")  # the other direction is as good as ever
        await expect(client, b"still there?")

        rest = payload[client.bytes_committed :]
        await together(receive, partial(client.send_all, rest))
        assert received == payload
        assert client.bytes_committed == len(payload)


async def test_what_a_cancelled_send_left_goes_out_while_receiving(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    await cancelled_when_blocked(partial(client.send_all, bytes(8_000_000)))
    committed = client.bytes_committed
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_some)
        with trio.fail_after(5):
            await receive_exactly(server, committed)
        nursery.cancel_scope.cancel()


async def test_cancelled_send_over_any_stream_leaves_receiving_alive(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    # Such a transport does not tell how much of the send went out.
    client, server = wrap_pair(*lockstep_stream_pair(), client_context, server_context)
    await both_handshakes(client, server)
    await cancelled_when_blocked(partial(client.send_all, b"x"))
    with pytest.raises(TLSError, match="cancelled half-way"):
        await client.send_all(b"y")
    await together(partial(server.send_all, b"z"), partial(expect, client, b"z"))


async def test_cancelled_send_eof_goes_on(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    await cancelled_when_blocked(partial(client.send_all, bytes(8_000_000)))
    committed = client.bytes_committed
    await cancelled_when_blocked(client.send_eof)

    async def receive() -> None:
        assert await receive_all(server) == bytes(committed)

    await together(client.send_eof, receive)


async def test_cancelled_unwrap_goes_on(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    await cancelled_when_blocked(client.unwrap)
    await together(client.unwrap, server.unwrap)


################################################################
# Renegotiation, of TLS 1.2
################################################################


def renegotiating(
    ca: trustme.CA,
    cert: trustme.LeafCert,
    delay: Callable[[str], Awaitable[None]] | None = None,
) -> tuple[TLSStream[RenegotiatingEcho], RenegotiatingEcho]:
    transport = RenegotiatingEcho(cert) if delay is None else RenegotiatingEcho(cert, delay)
    context = client_context_for(ca, ssl.TLSVersion.TLSv1_2)
    return TLSStream(transport, context, server_hostname=NAME), transport


async def settle(stream: TLSStream[RenegotiatingEcho]) -> None:
    """Exchange data until the renegotiation is over: each side moves only when it is used."""
    while stream.transport_stream.is_renegotiating:
        await stream.send_all(b"-")
        await expect(stream, b"-")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("send_all", "send_all"),
        ("send_all", "wait_send_all_might_not_block"),
        ("wait_send_all_might_not_block", "wait_send_all_might_not_block"),
        ("receive_some", "receive_some"),
    ],
)
async def test_renegotiating_echo_refuses_two_tasks(
    first: str, second: str, server_cert: trustme.LeafCert
) -> None:
    # Else the tests below would not notice that the stream has two tasks use its transport.
    transport = RenegotiatingEcho(server_cert)
    steps: dict[str, Step] = {
        "send_all": partial(transport.send_all, b"x"),
        "receive_some": transport.receive_some,
        "wait_send_all_might_not_block": transport.wait_send_all_might_not_block,
    }
    with pytest.raises(ExceptionGroup) as raised:
        await together(steps[first], steps[second])
    assert raised.group_contains(trio.BusyResourceError, match="two tasks")


async def test_renegotiation(ca: trustme.CA, server_cert: trustme.LeafCert) -> None:
    stream, transport = renegotiating(ca, server_cert)
    await stream.do_handshake()
    transport.renegotiate()
    await stream.send_all(b"a")
    await expect(stream, b"a")
    await settle(stream)
    assert transport.renegotiations == 1
    await stream.aclose()


async def test_large_send_during_a_renegotiation(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    data = random.Random(0).randbytes(20_000)
    received = b""

    async def receive() -> None:
        nonlocal received
        received = await receive_exactly(stream, len(data))

    stream, transport = renegotiating(ca, server_cert)
    await stream.do_handshake()
    transport.renegotiate()
    await together(partial(stream.send_all, data), receive)
    assert received == data
    assert transport.renegotiations == 1


async def test_send_during_a_renegotiation_leaves_nothing(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    stream, transport = renegotiating(ca, server_cert)
    await stream.do_handshake()
    transport.renegotiate()
    await stream.send_all(b"a")

    async def cancel(_: str) -> None:
        scope.cancel()

    transport.delay = cancel
    with trio.CancelScope() as scope:
        await stream.receive_some()  # receives the request, and does not answer any more
    assert scope.cancelled_caught
    assert transport.is_renegotiating
    await stream.send_all(b"b")
    assert not transport.is_renegotiating
    assert not stream.connection.held
    assert not stream.connection.unsent


@pytest.mark.parametrize("order", ["renegotiate, send", "send, renegotiate"])
@pytest.mark.parametrize("seed", range(3))
async def test_renegotiation_with_random_delays(
    seed: int,
    order: str,
    ca: trustme.CA,
    server_cert: trustme.LeafCert,
    autojump_clock: MockClock,
) -> None:
    chance = random.Random(seed)

    async def delay(method: str) -> None:
        await trio.sleep(chance.uniform(0, 10))

    stream, transport = renegotiating(ca, server_cert, delay)

    async def late_send(data: bytes) -> None:
        await delay("outer send")
        with assert_checkpoints():
            await stream.send_all(data)

    async def late_expect(data: bytes) -> None:
        await delay("outer receive")
        await expect(stream, data)

    await stream.do_handshake()
    for number in range(50):
        data = bytes([number])
        if order == "renegotiate, send":
            transport.renegotiate()
            await together(partial(late_send, data), partial(late_expect, data))
        else:
            await late_send(data)
            transport.renegotiate()
            await late_expect(data)
        await together(partial(late_expect, b"2"), partial(late_send, b"2"))
        await settle(stream)
    assert transport.renegotiations == 50
    await stream.aclose()


@pytest.mark.parametrize("slow", ["send_all", "wait_send_all_might_not_block"])
async def test_renegotiation_while_another_task_waits_to_send(
    slow: str, ca: trustme.CA, server_cert: trustme.LeafCert, autojump_clock: MockClock
) -> None:
    # A receiver has to send in a renegotiation. Neither may get in the other's way, whichever
    # comes second.
    async def delay(method: str) -> None:
        if method == slow:
            await trio.sleep(1000)

    stream, transport = renegotiating(ca, server_cert, delay)

    async def late_wait() -> None:
        await trio.sleep(500 if slow == "send_all" else 0)
        await stream.wait_send_all_might_not_block()

    async def late_expect() -> None:
        await trio.sleep(0 if slow == "send_all" else 500)
        await expect(stream, b"x")

    await stream.send_all(b"x")
    transport.renegotiate()
    with trio.fail_after(1_000_000):
        await together(late_wait, late_expect)
        await settle(stream)
        await stream.aclose()


################################################################
# Sending
################################################################


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("send_all", "send_all"),
        ("send_all", "wait_send_all_might_not_block"),
        ("send_all", "send_eof"),
        ("send_all", "unwrap"),
        ("wait_send_all_might_not_block", "wait_send_all_might_not_block"),
        ("wait_send_all_might_not_block", "send_eof"),
        ("receive_some", "receive_some"),
        ("receive_some", "unwrap"),
    ],
)
async def test_two_tasks_for_one_direction_are_refused(
    first: str, second: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, _ = wrap_pair(*lockstep_stream_pair(), client_context, server_context)

    async def run(name: str) -> None:
        with assert_checkpoints():
            await (client.send_all(b"x") if name == "send_all" else getattr(client, name)())

    with pytest.raises(ExceptionGroup) as raised:
        await together(partial(run, first), partial(run, second))
    assert raised.group_contains(trio.BusyResourceError, match="another task")


async def test_wait_send_all_might_not_block_asks_the_transport() -> None:
    asked = 0

    class Transport(Untouchable):
        async def wait_send_all_might_not_block(self) -> None:
            nonlocal asked
            asked += 1

    stream = TLSStream(Transport(), ssl.create_default_context(), server_hostname=NAME)
    await stream.wait_send_all_might_not_block()
    assert asked == 1


async def test_empty_sends_mean_nothing(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with (
        blocking_echo_server(server_context) as transport,
        TLSStream(transport, client_context, server_hostname=NAME) as stream,
    ):
        for empty in (b"", bytearray(), memoryview(b"")):
            with assert_checkpoints():
                await stream.send_all(empty)
        await stream.send_all(b"x")
        await expect(stream, b"x")


async def test_every_method_is_a_checkpoint(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with blocking_echo_server(server_context) as transport:
        stream = TLSStream(transport, client_context, server_hostname=NAME)
        for step in (
            stream.do_handshake,
            stream.do_handshake,
            stream.wait_send_all_might_not_block,
            partial(stream.send_all, b"xyz"),
            partial(stream.receive_some, 1),
            partial(stream.receive_some, 1),  # these two are there already, decrypted
            partial(stream.receive_some, 1),
            stream.send_eof,
            stream.send_eof,
            stream.receive_some,
            stream.receive_some,
            stream.unwrap,
        ):
            with assert_checkpoints():
                await step()

    async with blocking_echo_server(server_context) as transport:
        stream = TLSStream(transport, client_context, server_hostname=NAME)
        for step in (stream.do_handshake, stream.aclose, stream.aclose):
            with assert_checkpoints():
                await step()


async def test_handshake_that_waits_for_nothing_is_a_checkpoint(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    server = TLSConnection(server_context, server_side=True)
    async with tcp_pair() as (transport, _):
        client = TLSStream(transport, client_context, server_hostname=NAME)
        while not client.connection.do_handshake():
            server.feed(client.connection.data_to_send())
            server.do_handshake()
            client.connection.feed(server.data_to_send())
        with assert_checkpoints():
            await client.do_handshake()
        assert client.handshake is not None


async def test_send_that_comes_upon_a_bad_record_tells_the_peer(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    # Only in TLS 1.2, where a send looks first whether the peer renegotiates.
    version = ssl.TLSVersion.TLSv1_2
    contexts = client_context_for(ca, version), server_context_for(server_cert, version)
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, *contexts)
        await both_handshakes(client, server)
        client.connection.feed(b"\x17\x03\x03\x00\x20" + bytes(32))
        with pytest.raises(TLSError, match="arrived damaged"):
            await client.send_all(b"x")
        with trio.fail_after(10), pytest.raises(PeerAlertError) as raised:
            await server.receive_some()
        assert raised.value.alert == "bad_record_mac"


async def test_failure_in_the_middle_of_a_send_breaks_sending(established: Pair) -> None:
    client, _ = established
    client.transport_stream.send_stream.send_all_hook = fail
    with pytest.raises(KeyError):
        await client.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await client.send_all(b"x")
    with pytest.raises(trio.BrokenResourceError):
        await client.wait_send_all_might_not_block()

    closed: list[str] = []
    client.transport_stream.send_stream.close_hook = partial(closed.append, "send")
    client.transport_stream.receive_stream.close_hook = partial(closed.append, "receive")
    await client.aclose()
    assert sorted(closed) == ["receive", "send"]


async def test_failure_of_a_receive_propagates(established: Pair) -> None:
    client, _ = established
    client.transport_stream.receive_stream.receive_some_hook = fail
    with pytest.raises(KeyError):
        await client.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await client.receive_some()


################################################################
# Half-closing, and taking TLS off
################################################################


async def test_send_eof_ends_one_direction(established: Pair) -> None:
    client, server = established
    await client.send_all(b"all")
    await client.send_eof()
    assert await receive_all(server) == b"all"
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"more")
    with pytest.raises(trio.ClosedResourceError):
        await client.wait_send_all_might_not_block()
    await client.send_eof()

    await server.send_all(b"the answer")
    await server.send_eof()
    assert await receive_all(client) == b"the answer"
    await together(client.aclose, server.aclose)


async def test_send_eof_completes_the_handshake(pair: Pair) -> None:
    client, server = pair
    await together(client.send_eof, partial(expect, server, b""))


async def test_send_eof_leaves_the_transport_open(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    await client.send_eof()
    await expect(server, b"")
    await server.send_eof()
    client_transport, _ = await client.unwrap()
    server_transport, _ = await server.unwrap()
    await client_transport.send_all(b"plain")
    assert await server_transport.receive_some() == b"plain"


async def test_unwrap_returns_what_came_after(established: Pair) -> None:
    client, server = established
    client_transport, server_transport = client.transport_stream, server.transport_stream
    # Hold what the client sends, so that the server gets its close_notify and what comes after
    # in one piece.
    pump = client_transport.send_stream.send_all_hook
    client_transport.send_stream.send_all_hook = None

    async def run_client() -> None:
        await expect(client, b"")
        assert client.transport_stream is client_transport
        transport, trailing = await client.unwrap()
        assert transport is client_transport
        assert trailing == b""
        assert client.transport_stream is None
        await transport.send_all(b"in plain")
        client_transport.send_stream.send_all_hook = pump
        memory_stream_pump(client_transport.send_stream, server_transport.receive_stream)

    async def run_server() -> None:
        transport, trailing = await server.unwrap()
        assert transport is server_transport
        assert trailing == b"in plain"
        assert server.transport_stream is None

    await together(run_client, run_server)
    with pytest.raises(trio.ClosedResourceError):
        await client.send_all(b"x")
    await client.aclose()  # closes nothing: the transport is not its own any more
    await client_transport.send_all(b"still open")
    assert await server_transport.receive_some() == b"still open"


async def test_tls_can_be_taken_off_and_put_on_again(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with tcp_pair() as (client_transport, server_transport):
        for number in range(3):
            client, server = wrap_pair(
                client_transport, server_transport, client_context, server_context
            )
            await together(
                partial(client.send_all, bytes([number])),
                partial(expect, server, bytes([number])),
            )
            await together(client.unwrap, server.unwrap)


async def test_unwrap_with_data_to_receive_is_an_error_and_loses_nothing(
    established: Pair,
) -> None:
    client, server = established
    await server.send_all(b"not yet")
    with pytest.raises(TLSError, match="7 bytes of data"):
        await client.unwrap()
    await server.send_all(b", now")
    await server.send_eof()
    assert await receive_all(client) == b"not yet, now"
    transport, trailing = await client.unwrap()
    assert trailing == b""
    assert transport is not None


################################################################
# Closing
################################################################


async def test_closing_both_ends(established: Pair) -> None:
    client, server = established
    transport = client.transport_stream

    async def close_client() -> None:
        with assert_checkpoints():
            await client.aclose()

    async def close_server() -> None:
        await expect(server, b"")
        await expect(server, b"")
        with assert_checkpoints():
            await server.aclose()

    await together(close_client, close_server)
    with pytest.raises(trio.ClosedResourceError):
        await transport.send_all(b"x")
    for _ in range(2):
        with assert_checkpoints():
            await client.aclose()


async def test_everything_is_an_error_after_closing(established: Pair) -> None:
    client, _ = established
    await client.aclose()
    for step in (
        client.do_handshake,
        client.receive_some,
        client.wait_send_all_might_not_block,
        partial(client.send_all, b"x"),
        partial(client.send_all, b""),
        client.send_eof,
        client.unwrap,
    ):
        with pytest.raises(trio.ClosedResourceError):
            await step()
    with pytest.raises(trio.ClosedResourceError):
        client.send_nowait(b"x")


@pytest.mark.parametrize(
    "name", ["do_handshake", "receive_some", "send_eof", "unwrap", "wait_send_all_might_not_block"]
)
async def test_nothing_uses_a_transport_that_an_abort_could_not_close(
    name: str, client_context: ssl.SSLContext
) -> None:
    client = TLSStream(Untouchable(), client_context, server_hostname=NAME)
    assert not client.abort()
    with pytest.raises(trio.ClosedResourceError):
        await getattr(client, name)()


async def test_closing_before_the_handshake_is_a_clean_end(pair: Pair) -> None:
    client, server = pair

    async def end_server() -> None:
        await expect(server, b"")
        with assert_checkpoints():
            await server.aclose()

    await together(client.aclose, end_server)


async def test_transport_is_closed_only_once(established: Pair) -> None:
    client, _ = established
    closed = 0

    def close() -> NoReturn:
        nonlocal closed
        closed += 1
        raise KeyError("from the transport")

    client.transport_stream.send_stream.close_hook = close
    with pytest.raises(KeyError):
        await client.aclose()
    await client.aclose()
    assert closed == 1


async def test_two_tasks_may_close_at_once(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    with trio.fail_after(4):
        await together(client.aclose, client.aclose, server.aclose)


async def test_closing_reports_that_the_handshake_fails(server_context: ssl.SSLContext) -> None:
    # Else one could go through a whole connection without hearing that nobody verified the peer.
    async with blocking_echo_server(server_context, error="UNKNOWN_CA") as transport:
        stream = TLSStream(transport, ssl.create_default_context(), server_hostname=NAME)
        with pytest.raises(CertificateError):
            await stream.aclose()
        assert transport.socket.fileno() == -1


@both_modes
async def test_closing_does_not_wait_long_for_a_silent_peer(
    https_compatible: bool, client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    ours, _ = memory_stream_pair()
    stream = TLSStream(
        ours, client_context, server_hostname=NAME, https_compatible=https_compatible
    )
    start = trio.current_time()
    with trio.fail_after(60):
        await stream.aclose()
    assert trio.current_time() - start <= 5
    with pytest.raises(trio.ClosedResourceError):
        await ours.send_all(b"x")


async def test_closing_without_waiting_at_all(
    client_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    ours, _ = memory_stream_pair()
    stream = TLSStream(ours, client_context, server_hostname=NAME, close_timeout=0)
    start = trio.current_time()
    await stream.aclose()
    assert trio.current_time() == start


async def test_closing_with_a_blocked_sender_and_receiver(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    client, server = wrap_pair(*lockstep_stream_pair(), client_context, server_context)
    await both_handshakes(client, server)

    async def expect_closed(step: Step) -> None:
        with pytest.raises(trio.ClosedResourceError):
            await step()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(expect_closed, partial(client.send_all, bytes(100_000)))
        nursery.start_soon(expect_closed, client.receive_some)
        await wait_all_tasks_blocked()
        with trio.fail_after(60):
            await client.aclose()


async def test_closing_in_a_cancelled_scope_says_goodbye(over_tcp: Pair) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    await client.send_all(b"last words")
    await trio.aclose_forcefully(client)
    assert await receive_all(server) == b"last words"
    await server.aclose()


async def test_closing_loses_nothing_that_was_sent(over_tcp: Pair) -> None:
    # What the client says is never read, which makes a careless close reset the connection.
    client, server = over_tcp
    await both_handshakes(client, server)
    await client.send_all(b"a greeting")

    async def send_and_close() -> None:
        await server.send_all(bytes(30_000))
        await server.aclose()

    async def read_slowly() -> None:
        await wait_all_tasks_blocked(0.01)
        await client.send_all(b"and more")
        assert await receive_all(client) == bytes(30_000)
        await client.aclose()

    with trio.fail_after(4):
        await together(send_and_close, read_slowly)


################################################################
# Ends without a close_notify
################################################################


async def test_truncation_is_an_error_each_time(established: Pair) -> None:
    client, server = established
    await client.send_all(b"half of")
    await client.transport_stream.aclose()
    await expect(server, b"half of")
    for _ in range(2):
        with pytest.raises(TruncationError) as raised, assert_checkpoints():
            await server.receive_some()
        assert isinstance(raised.value.__cause__, ssl.SSLEOFError)
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")
    await server.aclose()


async def test_truncation_is_an_end_to_https(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, server = wrap_pair(
        *memory_stream_pair(), client_context, server_context, https_compatible=True
    )
    await both_handshakes(client, server)
    await client.send_all(b"all")
    await client.transport_stream.aclose()
    await expect(server, b"all")
    for _ in range(2):
        await expect(server, b"")
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")
    await server.aclose()


async def test_forceful_close_over_memory_breaks_the_peer(established: Pair) -> None:
    # This transport can't send without waiting, so there was no close_notify.
    client, server = established
    await trio.aclose_forcefully(client)
    with pytest.raises(trio.BrokenResourceError):
        await server.receive_some()
    with pytest.raises(trio.BrokenResourceError):
        await server.send_all(b"x")
    await server.aclose()


async def test_https_compatible_against_one_that_is_not(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    ours, theirs = memory_stream_pair()
    client = TLSStream(ours, client_context, server_hostname=NAME, https_compatible=True)
    server = TLSStream(theirs, server_context, server_side=True)
    await both_handshakes(client, server)

    async def expect_truncation() -> None:
        with pytest.raises(TruncationError):
            await server.receive_some()

    await together(client.aclose, expect_truncation)


async def test_https_end_before_the_handshake(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, server = wrap_pair(
        *memory_stream_pair(), client_context, server_context, https_compatible=True
    )
    await together(client.aclose, partial(expect, server, b""))
    with pytest.raises(TruncationError):
        await server.do_handshake()


async def test_end_in_the_handshake(pair: Pair) -> None:
    client, server = pair
    await client.transport_stream.aclose()
    for step in (server.do_handshake, server.receive_some, partial(server.send_all, b"x")):
        with pytest.raises(TruncationError):
            await step()


################################################################
# Transports of other kinds
################################################################


async def test_tls_in_tls(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    contexts = client_context, server_context
    client, server = wrap_pair(*wrap_pair(*memory_stream_pair(), *contexts), *contexts)

    async def run_client() -> None:
        await client.send_all(b"question")
        await expect(client, b"answer")

    async def run_server() -> None:
        await expect(server, b"question")
        await server.send_all(b"answer")

    await together(run_client, run_server)
    await together(client.aclose, server.aclose)


async def test_over_the_pipes_of_a_subprocess(
    ca: trustme.CA, server_cert: trustme.LeafCert, tmp_path: Path
) -> None:
    certificate = tmp_path / "server.pem"
    server_cert.private_key_and_cert_chain_pem.write_to_path(str(certificate))
    async with running(
        sys.executable, "-c", PIPE_SERVER, certificate, stdin=-1, stdout=-1
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        transport = trio.StapledStream(process.stdin, process.stdout)
        stream = TLSStream(transport, client_context_for(ca), server_hostname=NAME)
        with trio.fail_after(10):
            await stream.send_all(b"hello")
            await expect(stream, b"HELLO")
            await together(
                partial(stream.send_all, b"x" * 1_000_000), partial(receive_exactly, stream, 10**6)
            )
            await stream.send_eof()
            assert await receive_all(stream) == b"BYE"
            await stream.aclose()
            assert await process.wait() == 0


async def test_a_receiver_that_waits_already_sends_what_a_cancelled_send_has_left(
    over_tcp: Pair,
) -> None:
    client, server = over_tcp
    await both_handshakes(client, server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_some)
        await wait_all_tasks_blocked()
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as inner:
                inner.start_soon(client.send_all, bytes(50_000_000))
                await wait_all_tasks_blocked()
                scope.cancel()
        assert client.connection.bytes_to_send
        # Nobody calls a method of the client any more.
        received = 0
        while received < client.bytes_committed:
            received += len(await server.receive_some())
        nursery.cancel_scope.cancel()
