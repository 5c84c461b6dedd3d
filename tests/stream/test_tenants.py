"""Tenants on one port, each with a context of its own."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme

from tests.certificates import CLIENT, Certificate, Issued
from tests.helpers import HOST, LIMIT, VERSIONS, client_context_for, server_context_for, serving
from trio_tlsbio import (
    ClientHello,
    HandshakeInfo,
    TLSError,
    TLSListener,
    TLSSession,
    TLSStream,
    contexts_by_name,
    serve_tls_listeners,
)

################################################################
# Which want different things of their clients
################################################################

BANK, SHOP = "bank.example", "shop.example"
ALICE = "alice.example"


@attrs.define(eq=False)
class Port:
    """One port with two tenants: BANK requires client certificates, SHOP speaks TLS 1.2 only."""

    number: int
    handshakes: list[HandshakeInfo]

    async def visit(
        self, client_context: ssl.SSLContext, name: str, session: TLSSession | None = None
    ) -> tuple[HandshakeInfo, TLSSession]:
        """Get an answer of a tenant, and return what it saw, and the session.

        A session of another tenant is offered as its own, as only a hostile client does.
        """
        if session is not None:
            session = attrs.evolve(session, server_hostname=name)
        stream = TLSStream(
            await trio.open_tcp_stream(HOST, self.number),
            client_context,
            server_hostname=name,
            session=session,
        )
        try:
            assert await stream.receive_some() == name.encode()
            assert stream.session is not None
            return self.handshakes.pop(), stream.session
        finally:
            await stream.aclose()

    async def is_refused(
        self, client_context: ssl.SSLContext, name: str, session: TLSSession | None = None
    ) -> bool:
        try:
            await self.visit(client_context, name, session)
        except TLSError:
            return not self.handshakes
        return False


@pytest.fixture
def clients() -> trustme.CA:
    """The authority that the bank trusts."""
    return trustme.CA()


@pytest.fixture
async def port(
    ca: trustme.CA, clients: trustme.CA, request: pytest.FixtureRequest
) -> AsyncIterator[Port]:
    bank, shop = (server_context_for(ca.issue_cert(name)) for name in (BANK, SHOP))
    bank.minimum_version = shop.minimum_version = shop.maximum_version = VERSIONS["tls12"]
    clients.configure_trust(bank)
    bank.verify_mode = ssl.CERT_REQUIRED
    uses_tickets, shop_mode = request.param
    shop.verify_mode = shop_mode
    trustme.CA().configure_trust(shop)
    if not uses_tickets:
        bank.options |= ssl.OP_NO_TICKET
        shop.options |= ssl.OP_NO_TICKET
    handshakes: list[HandshakeInfo] = []

    async def handler(stream: TLSStream[trio.SocketStream]) -> None:
        handshakes.append(stream.handshake)
        assert stream.handshake.server_hostname is not None
        await stream.send_all(stream.handshake.server_hostname.encode())

    async with serving(handler, contexts_by_name({BANK: bank, SHOP: shop})) as number:
        yield Port(number, handshakes)


def with_shop(*modes: ssl.VerifyMode) -> pytest.MarkDecorator:
    cases = [(uses_tickets, mode) for uses_tickets in (True, False) for mode in modes]
    ids = [f"{'tickets' if tickets else 'ids'}-{mode.name}" for tickets, mode in cases]
    return pytest.mark.parametrize("port", cases, ids=ids, indirect=True)


@pytest.fixture
def new_client(
    ca: trustme.CA, clients: trustme.CA, tls_version: ssl.TLSVersion
) -> Callable[..., ssl.SSLContext]:
    """Make the context of a client that speaks TLS 1.2, and 1.3 in turn."""

    def make(*, is_alice: bool) -> ssl.SSLContext:
        context = client_context_for(ca, tls_version)
        context.minimum_version = VERSIONS["tls12"]
        if is_alice:
            certificate = Certificate(names=[ALICE], purposes=[CLIENT])
            certificate.signed_by(Issued.of(clients)).load_into(context)
        return context

    return make


@with_shop(ssl.CERT_NONE, ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED)
async def test_what_lets_in_at_the_first_is_nothing_at_the_second(
    port: Port,
    new_client: Callable[..., ssl.SSLContext],
    tls_version: ssl.TLSVersion,
    request: pytest.FixtureRequest,
) -> None:
    alice = new_client(is_alice=True)
    handshake, session = await port.visit(alice, BANK)
    assert handshake.version == tls_version.name.replace("_", ".")
    assert handshake.certificate_names == (ALICE,)
    handshake, again = await port.visit(alice, BANK, session)
    assert handshake.session_reused
    assert handshake.certificate_names == (ALICE,)

    _, shop_mode = request.node.callspec.params["port"]
    if shop_mode is not ssl.CERT_NONE:  # it knows no authority that vouches for alice
        assert await port.is_refused(alice, SHOP)
        assert await port.is_refused(alice, SHOP, again)
        return
    for offered in (None, again):
        handshake, session = await port.visit(alice, SHOP, offered)
        assert handshake.version == "TLSv1.2"
        assert not handshake.session_reused
        assert handshake.peer_certificate is None
    handshake, _ = await port.visit(alice, SHOP, session)
    assert handshake.session_reused


@with_shop(ssl.CERT_NONE, ssl.CERT_OPTIONAL)
async def test_a_session_of_the_second_does_not_let_in_at_the_first(
    port: Port, new_client: Callable[..., ssl.SSLContext]
) -> None:
    nobody = new_client(is_alice=False)
    assert await port.is_refused(nobody, BANK)
    handshake, session = await port.visit(nobody, SHOP)
    assert handshake.version == "TLSv1.2"
    assert await port.is_refused(nobody, BANK, session)
    handshake, _ = await port.visit(nobody, SHOP, session)
    assert handshake.session_reused


@with_shop(ssl.CERT_NONE)
async def test_the_second_speaks_tls12_only(
    port: Port, ca: trustme.CA, clients: trustme.CA
) -> None:
    modern = client_context_for(ca)
    clients.issue_cert(ALICE).configure_cert(modern)
    assert await port.is_refused(modern, SHOP)
    handshake, _ = await port.visit(modern, BANK)
    assert handshake.version == "TLSv1.3"


################################################################
# Whose contexts take a while to get
################################################################


class MemoryListener(trio.abc.Listener[Any]):
    """Accepts memory streams, so that nothing but the clock can make anybody wait."""

    def __init__(self) -> None:
        self._clients, self._accepted = trio.open_memory_channel[Any](1000)

    def connect(self) -> Any:
        client, server = trio.testing.memory_stream_pair()
        self._clients.send_nowait(server)
        return client

    async def accept(self) -> Any:
        return await self._accepted.receive()

    async def aclose(self) -> None:
        await self._accepted.aclose()


@asynccontextmanager
async def serving_memory(choose: Any) -> AsyncIterator[MemoryListener]:
    async def handler(stream: TLSStream[Any]) -> None:
        await stream.send_all((stream.handshake.server_hostname or "").encode())

    listener = MemoryListener()
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve_tls_listeners, handler, [TLSListener(listener, choose)])
            yield listener
            nursery.cancel_scope.cancel()


async def test_nobody_waits_for_the_contexts_of_others(
    ca: trustme.CA, autojump_clock: trio.testing.MockClock, tls_version: ssl.TLSVersion
) -> None:
    """The clock stands still while any task can go on: what took no time has not waited."""
    delay = 0.05
    certificate = ca.issue_cert("*.tenants.example")
    names = [f"number{number}.tenants.example" for number in range(200)]
    ready = {"ready.tenants.example": server_context_for(certificate, tls_version)}
    fetched: list[str] = []

    async def choose(hello: ClientHello) -> ssl.SSLContext:
        name = hello.server_name
        assert name is not None
        if name in ready:
            return ready[name]
        await trio.sleep(delay)
        fetched.append(name)
        return server_context_for(certificate, tls_version)

    client_context = client_context_for(ca, tls_version)
    took: dict[str, float] = {}

    async def visit(listener: MemoryListener, name: str) -> None:
        begin = trio.current_time()
        async with TLSStream(listener.connect(), client_context, server_hostname=name) as stream:
            assert await stream.receive_some() == name.encode()
            took[name] = trio.current_time() - begin

    async with serving_memory(choose) as listener, trio.open_nursery() as nursery:
        for name in names:
            nursery.start_soon(visit, listener, name)
        await trio.testing.wait_all_tasks_blocked()
        assert not fetched
        for _ in range(3):  # with 200 handshakes before it that wait
            await visit(listener, "ready.tenants.example")
            assert took.pop("ready.tenants.example") == 0
        assert not took
    assert sorted(fetched) == sorted(names)
    assert took == dict.fromkeys(names, pytest.approx(delay))
