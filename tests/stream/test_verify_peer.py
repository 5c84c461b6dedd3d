"""A verification of the peer that takes its time, on top of OpenSSL's."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest
import trio
import trio.testing
import trustme

from tests.helpers import NAME, client_context_for, server_context_for, tcp_pair
from trio_tlsbio import (
    CertificateError,
    HandshakeInfo,
    HandshakeTimeoutError,
    TLSConnection,
    TLSError,
    TLSSession,
    TLSStream,
)
from trio_tlsbio.testing import transfer

Verify = Callable[[HandshakeInfo], Awaitable[object]]
Pair = tuple[TLSStream[trio.SocketStream], TLSStream[trio.SocketStream]]


@pytest.fixture
def client_context(ca: trustme.CA, tls_version: ssl.TLSVersion) -> ssl.SSLContext:
    context = client_context_for(ca, tls_version)
    ca.issue_cert("client@example.org").configure_cert(context)
    return context


@pytest.fixture
def server_context(
    ca: trustme.CA, server_cert: trustme.LeafCert, tls_version: ssl.TLSVersion
) -> ssl.SSLContext:
    context = server_context_for(server_cert, tls_version)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def wrap(
    transports: tuple[trio.SocketStream, trio.SocketStream],
    contexts: tuple[ssl.SSLContext, ssl.SSLContext],
    side: str,
    verify: Verify,
    session: TLSSession | None = None,
    timeout: float = 30,
) -> Pair:
    """Return the side that verifies, and the other one."""
    on_client = verify if side == "client" else None
    on_server = verify if side == "server" else None
    client = TLSStream(
        transports[0],
        contexts[0],
        server_hostname=NAME,
        verify_peer=on_client,
        session=session,
        handshake_timeout=timeout,
    )
    server = TLSStream(
        transports[1],
        contexts[1],
        server_side=True,
        verify_peer=on_server,
        handshake_timeout=timeout,
    )
    return (client, server) if side == "client" else (server, client)


each_side = pytest.mark.parametrize("side", ["client", "server"])


@each_side
async def test_it_is_asked_also_for_a_resumed_session(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, side: str
) -> None:
    seen: list[HandshakeInfo] = []

    async def verify(handshake: HandshakeInfo) -> None:
        seen.append(handshake)

    session: TLSSession | None = None
    for is_resumed in (False, True):
        async with tcp_pair() as transports:
            contexts = client_context, server_context
            ours, theirs = wrap(transports, contexts, side, verify, session)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(theirs.do_handshake)
                await ours.do_handshake()
            assert ours.handshake is seen[-1]  # certificates are decoded once
            assert seen[-1].session_reused == is_resumed
            assert seen[-1].peer_certificate_chain
            client, server = (ours, theirs) if side == "client" else (theirs, ours)
            await server.send_all(b"x")
            assert await client.receive_some() == b"x"
            session = client.session
    assert len(seen) == 2


@each_side
async def test_nothing_passes_before(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, side: str
) -> None:
    is_asked, may_go_on = trio.Event(), trio.Event()

    async def verify(handshake: HandshakeInfo) -> None:
        is_asked.set()
        await may_go_on.wait()

    async with tcp_pair() as transports:
        ours, theirs = wrap(transports, (client_context, server_context), side, verify)
        got: list[bytes] = []

        async def receive(stream: TLSStream[trio.SocketStream]) -> None:
            got.append(await stream.receive_some())

        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.send_all, b"theirs")
            nursery.start_soon(receive, ours)
            nursery.start_soon(ours.send_all, b"ours")
            nursery.start_soon(receive, theirs)
            await is_asked.wait()
            for _ in range(20):
                await trio.testing.wait_all_tasks_blocked()
            assert not got
            assert ours.connection.handshake is None
            assert ours.bytes_committed == 0
            may_go_on.set()
        assert sorted(got) == [b"ours", b"theirs"]


@each_side
async def test_it_refuses(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, side: str
) -> None:
    async def verify(handshake: HandshakeInfo) -> None:
        raise PermissionError("not on the list")

    async with tcp_pair() as transports:
        ours, theirs = wrap(transports, (client_context, server_context), side, verify)

        async def other() -> None:
            with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
                while True:  # a TLS 1.3 client is done before the server verifies it
                    assert await theirs.receive_some() == b"not sent"

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            for _ in range(2):
                with pytest.raises(TLSError, match="PermissionError: not on the list") as raised:
                    await ours.do_handshake()
                assert isinstance(raised.value.__cause__, PermissionError)
                assert raised.value.error_type == "peer_refused"
            with pytest.raises(TLSError, match="not on the list"):
                await ours.receive_some()
            with pytest.raises(TLSError, match="not on the list"):
                await ours.send_all(b"x")
            await trio.aclose_forcefully(ours)


@each_side
async def test_an_error_of_tls_is_raised_as_it_is(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, side: str
) -> None:
    async def verify(handshake: HandshakeInfo) -> None:
        raise CertificateError("revoked yesterday", verify_code=23)

    async with tcp_pair() as transports:
        ours, theirs = wrap(transports, (client_context, server_context), side, verify)

        async def other() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await theirs.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            with pytest.raises(CertificateError, match="revoked yesterday") as raised:
                await ours.do_handshake()
            assert raised.value.verify_code == 23
            await trio.aclose_forcefully(ours)


@each_side
async def test_it_takes_its_time_from_the_handshake(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    side: str,
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def verify(handshake: HandshakeInfo) -> None:
        await trio.sleep_forever()

    async with tcp_pair() as transports:
        contexts = client_context, server_context
        ours, theirs = wrap(transports, contexts, side, verify, timeout=3)

        async def other() -> None:
            with pytest.raises(TLSError):
                await theirs.receive_some()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(other)
            with pytest.raises(HandshakeTimeoutError):
                await ours.do_handshake()
            await trio.aclose_forcefully(ours)


@each_side
async def test_cancelled_it_is_asked_again(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, side: str
) -> None:
    scope, calls = trio.CancelScope(), 0

    async def verify(handshake: HandshakeInfo) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            scope.cancel()
            await trio.lowlevel.checkpoint()

    async with tcp_pair() as transports:
        ours, theirs = wrap(transports, (client_context, server_context), side, verify)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(theirs.do_handshake)
            with scope:
                await ours.do_handshake()
            assert scope.cancelled_caught
            await ours.do_handshake()
        assert calls == 2


def test_the_last_flight_of_a_client_is_held_back(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    client = TLSConnection(client_context, server_hostname=NAME, verifies_peer=True)
    server = TLSConnection(server_context, server_side=True)
    with pytest.raises(ValueError, match="does not wait"):
        client.accept_peer()
    while client.unverified is None:
        transfer(client, server)
        server.do_handshake()
        transfer(server, client)
        client.do_handshake()
    if tls_version is ssl.TLSVersion.TLSv1_3:
        assert client.data_to_send() == b""
        assert not server.do_handshake()
    client.send(b"too early")
    assert client.data_to_send() == b""
    assert client.handshake is None
    assert client.session is None
    assert not client.do_handshake()
    unverified = client.unverified
    client.accept_peer()
    assert client.handshake == unverified
    assert client.do_handshake()
    transfer(client, server)
    assert server.receive() == b"too early"


def test_a_refused_peer_gets_nothing(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client = TLSConnection(client_context, server_hostname=NAME, verifies_peer=True)
    server = TLSConnection(server_context, server_side=True)
    while client.unverified is None:
        transfer(client, server)
        server.do_handshake()
        transfer(server, client)
        client.do_handshake()
    client.abort(TLSError("no"))
    assert client.data_to_send() == b""
    assert client.unverified is None
    with pytest.raises(TLSError, match="no"):
        client.do_handshake()


def test_an_exception_at_the_end_of_the_handshake_releases_nothing(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """Our certificate must not go to a peer that nobody has accepted."""
    errors = [RuntimeError("a class of one's own")]

    class Failing(ssl.SSLObject):
        def selected_alpn_protocol(self) -> str | None:
            if errors:
                raise errors.pop()
            return super().selected_alpn_protocol()

    client_context.sslobject_class = Failing
    client = TLSConnection(client_context, server_hostname=NAME, verifies_peer=True)
    server = TLSConnection(server_context, server_side=True)
    while errors:
        transfer(client, server)
        server.do_handshake()
        transfer(server, client)
        with suppress(RuntimeError):
            client.do_handshake()
    assert client.unverified is None
    assert client.data_to_send() == b""
    assert not client.do_handshake()
    assert client.unverified is not None
    assert client.data_to_send() == b""
    client.accept_peer()
    transfer(client, server)
    assert server.do_handshake()
