"""A transport that breaks or ends: every later call reports it, with the peer's reason if any."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any, TypeAlias

import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

from tests.helpers import (
    NAME,
    both_handshakes,
    client_context_for,
    reset,
    server_context_for,
    tcp_pair,
    wrap_pair,
)
from trio_tlsbio import (
    PeerAlertError,
    TLSError,
    TLSStream,
    TruncationError,
    reconnect,
    serve_tls_over_tcp,
)

Pair: TypeAlias = tuple[TLSStream[Any], TLSStream[Any]]

sides = pytest.mark.parametrize("side", ["client", "server"])
layer_counts = pytest.mark.parametrize("layers", [1, 2], ids=["tls", "tls in tls"])


@asynccontextmanager
async def established(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    side: str = "client",
    *,
    layers: int = 1,
    **options: Any,
) -> AsyncIterator[tuple[TLSStream[Any], TLSStream[Any], trio.SocketStream]]:
    """A stream over TCP, its peer, and the peer's socket, after the handshake."""
    async with tcp_pair() as transports:
        pair: tuple[Any, Any] = transports
        for _ in range(layers):
            pair = wrap_pair(*pair, client_context, server_context, **options)
        await both_handshakes(*pair)
        if side == "client":
            yield *pair, transports[1]
        else:
            yield *pair[::-1], transports[0]


async def has_gone(stream: TLSStream[Any]) -> None:
    """Wait until the end of the peer's direction has arrived, and a sender looks for it again."""
    with trio.fail_after(10):
        while not stream.peer_has_gone():
            await trio.lowlevel.checkpoint()
    await trio.sleep(0.001)


def bottom(stream: Any) -> trio.SocketStream:
    """The socket stream below a stream."""
    while isinstance(stream, TLSStream):
        stream = stream.transport_stream
    assert isinstance(stream, trio.SocketStream)
    return stream


async def wait_and_send(stream: TLSStream[Any]) -> None:
    await stream.wait_send_all_might_not_block()
    stream.send_nowait(b"x")


async def send_nowait(stream: TLSStream[Any]) -> None:
    stream.send_nowait(b"x")
    await trio.lowlevel.checkpoint()


def send_small(stream: TLSStream[Any]) -> Awaitable[None]:
    return stream.send_all(b"x")


Send: TypeAlias = Callable[[TLSStream[Any]], Awaitable[object]]
SENDS: list[Send] = [send_small, send_nowait, wait_and_send]
sends = pytest.mark.parametrize("send", SENDS)


async def send_until_it_fails(send: Send, stream: TLSStream[Any], rounds: int = 5) -> None:
    for _ in range(rounds):
        await send(stream)


################################################################
# A reset
################################################################


@sends
@sides
@layer_counts
@pytest.mark.parametrize("https_compatible", [False, True], ids=["", "https"])
@pytest.mark.parametrize("data", [b"", b"last words"], ids=["", "after data"])
async def test_a_reset_that_a_write_meets_is_not_the_end_of_the_data(
    data: bytes,
    https_compatible: bool,
    layers: int,
    side: str,
    send: Send,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with established(
        client_context, server_context, side, layers=layers, https_compatible=https_compatible
    ) as (ours, theirs, their_socket):
        await theirs.send_all(data)
        reset(their_socket)
        with pytest.raises(TLSError) as raised:
            await send_until_it_fails(send, ours)
        assert raised.value.error_type == "connection_reset"
        if data:
            assert await ours.receive_some() == data
        for _ in range(3):
            with pytest.raises(TLSError) as raised:
                await ours.receive_some()
            assert not isinstance(raised.value, TruncationError)
            with pytest.raises(TLSError) as raised:
                ours.receive_nowait()
            assert not isinstance(raised.value, TruncationError)
            with pytest.raises(TLSError):
                await send(ours)


@sides
@pytest.mark.parametrize("https_compatible", [False, True], ids=["", "https"])
async def test_a_reset_that_waiting_to_send_meets_is_not_the_end_of_the_data(
    https_compatible: bool,
    side: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with established(
        client_context, server_context, side, https_compatible=https_compatible
    ) as (ours, _, their_socket):
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ours.send_all, bytes(8_000_000))
                await wait_all_tasks_blocked()
                scope.cancel()
        reset(their_socket)
        for _ in range(3):
            with pytest.raises(TLSError):
                await ours.wait_send_all_might_not_block()
            with pytest.raises(TLSError) as raised:
                await ours.receive_some()
            assert not isinstance(raised.value, TruncationError)


@sides
@layer_counts
async def test_a_reset_that_a_receive_meets_ends_a_loop_of_sends(
    layers: int, side: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with established(client_context, server_context, side, layers=layers) as (
        ours,
        _,
        their_socket,
    ):
        reset(their_socket)
        with pytest.raises(TLSError):
            await ours.receive_some()
        for send in SENDS:
            with pytest.raises(TLSError):
                await send_until_it_fails(send, ours, 1)


################################################################
# The peer's reason
################################################################


@pytest.fixture
def refused_contexts(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """The contexts of a client without a certificate and of a server that requires one.

    In TLS 1.3 the client's handshake is done before the server has refused it.
    """
    server_context = server_context_for(server_cert)
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    return client_context_for(ca), server_context


@asynccontextmanager
async def refused(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], outer: tuple[ssl.SSLContext, ssl.SSLContext]
) -> AsyncIterator[TLSStream[Any]]:
    """A client in TLS in TLS that was refused after its handshake, and closed on at once."""
    async with tcp_pair() as transports:
        pair = wrap_pair(*transports, *outer)
        await both_handshakes(*pair)
        client, server = wrap_pair(*pair, *contexts)

        async def refuse() -> None:
            with pytest.raises(TLSError):
                await server.do_handshake()
            transports[1].socket.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(refuse)
            await client.do_handshake()
        await has_gone(client)
        yield client


@asynccontextmanager
async def refused_by_blocking_ssl(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
) -> AsyncIterator[TLSStream[Any]]:
    """The same of plain TLS, with a server of the standard library."""
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def refuse() -> None:
            sock, _ = listener.accept()
            sock.settimeout(10)
            with sock, pytest.raises(ssl.SSLError):
                contexts[1].wrap_socket(sock, server_side=True)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, refuse)
            transport = await trio.open_tcp_stream(*listener.getsockname())
            client = TLSStream(transport, contexts[0], server_hostname=NAME)
            await client.do_handshake()
        await has_gone(client)
        yield client
        await trio.aclose_forcefully(transport)


@pytest.fixture(params=["tls", "tls in tls"])
async def refused_client(
    request: pytest.FixtureRequest,
    refused_contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    ca: trustme.CA,
    server_cert: trustme.LeafCert,
) -> AsyncIterator[TLSStream[Any]]:
    """A client that was refused for want of a certificate, and has not heard of it yet."""
    if request.param == "tls":
        client = refused_by_blocking_ssl(refused_contexts)
    else:
        client = refused(
            refused_contexts, (client_context_for(ca), server_context_for(server_cert))
        )
    async with client as stream:
        yield stream


async def wait_only(stream: TLSStream[Any]) -> None:
    stream.is_readable()  # it takes in the alert, and raises nothing
    await stream.wait_send_all_might_not_block()


def send_much(stream: TLSStream[Any]) -> Awaitable[None]:
    return stream.send_all(bytes(1_000_000))


@pytest.mark.parametrize(
    "operation",
    [*SENDS, send_much, wait_only, TLSStream.send_eof, TLSStream.unwrap, TLSStream.aclose],
)
async def test_who_only_sends_hears_why_it_was_refused(
    operation: Send, refused_client: TLSStream[Any]
) -> None:
    with pytest.raises(PeerAlertError) as raised:
        await send_until_it_fails(operation, refused_client)
    assert raised.value.alert == "certificate_required"
    await refused_client.aclose()  # which says so only where no other call has


async def test_closing_says_it_once(refused_client: TLSStream[Any]) -> None:
    with pytest.raises(PeerAlertError) as raised:
        async with refused_client:
            pass
    assert raised.value.alert == "certificate_required"
    assert bottom(refused_client).socket.fileno() == -1
    await refused_client.aclose()


@pytest.mark.parametrize("how", ["forcefully", "another error"])
async def test_closing_says_nothing_where_something_else_matters_more(
    how: str, refused_client: TLSStream[Any]
) -> None:
    if how == "forcefully":
        await trio.aclose_forcefully(refused_client)
    else:
        with pytest.raises(KeyError):
            async with refused_client:
                raise KeyError
    assert bottom(refused_client).socket.fileno() == -1


################################################################
# A peer that has gone, and a program that only sends
################################################################


async def end(how: str, stream: TLSStream[Any], sock: trio.SocketStream) -> None:
    """End a connection as a peer does that has read everything."""
    if "close_notify" in how:
        await stream.send_eof()
    if "FIN" in how:
        await sock.send_eof()
    if "close" in how.split():
        sock.socket.close()
    if "RST" in how:
        reset(sock)


@sends
@sides
@layer_counts
@pytest.mark.parametrize("how", ["close_notify and FIN", "FIN", "close", "RST"])
async def test_sends_to_a_peer_that_has_gone_fail(
    how: str,
    layers: int,
    side: str,
    send: Send,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with established(client_context, server_context, side, layers=layers) as (
        ours,
        theirs,
        their_socket,
    ):
        await send(ours)
        assert await theirs.receive_some() == b"x"
        await end(how, theirs, their_socket)
        await has_gone(ours)
        with pytest.raises(TLSError):
            await send(ours)  # the first: not a message is lost
        with pytest.raises(TLSError):
            await send(ours)


@sends
@sides
@pytest.mark.parametrize("reason", ["half-closed", "heard the end", "something to receive"])
async def test_sends_to_a_peer_that_may_still_read_go_on(
    reason: str,
    side: str,
    send: Send,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with established(client_context, server_context, side) as (ours, theirs, their_socket):
        await send(ours)
        if reason == "something to receive":
            await theirs.send_all(b"question")
        await theirs.send_eof()
        if reason == "half-closed":
            await wait_all_tasks_blocked()
        else:
            await their_socket.send_eof()
            await has_gone(ours)
        if reason == "heard the end":
            assert await ours.receive_some() == b""
        for _ in range(4):
            await trio.sleep(0.001)
            await send(ours)
        await ours.send_eof()
        received = b""
        while part := await theirs.receive_some():
            received += part
        assert received == b"x" * 5


async def test_telemetry_over_reconnecting_loses_no_message(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    received: list[int] = []

    async def take_five(stream: TLSStream[trio.SocketStream]) -> None:
        for _ in range(5):
            received.extend(await stream.receive_some(1))

    sent: list[int] = []
    async with trio.open_nursery() as nursery:
        serve = partial(serve_tls_over_tcp, take_five, 0, server_context, host="127.0.0.1")
        (listener,) = await nursery.start(serve)
        port = listener.transport_listener.socket.getsockname()[1]
        connections = 0
        with trio.fail_after(30):
            async for stream in reconnect(
                "127.0.0.1", port, ssl_context=client_context, initial_delay=0.001, max_delay=0.001
            ):
                connections += 1
                async with stream:
                    with suppress(TLSError):
                        while len(sent) < 23:
                            await stream.send_all(bytes([len(sent)]))
                            sent.append(len(sent))
                            while len(received) < len(sent):
                                await trio.lowlevel.checkpoint()
                            if len(sent) % 5 == 0:
                                await has_gone(stream)
                if len(sent) == 23:
                    break
        nursery.cancel_scope.cancel()
    assert received == sent == list(range(23))
    assert connections == 5
