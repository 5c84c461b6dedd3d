"""A server's context that is chosen by what the client says."""

from __future__ import annotations

import copy
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import attrs
import pytest
import trio
import trio.testing
import trustme

from tests.helpers import (
    HOST,
    NAME,
    client_context_for,
    echo,
    server_context_for,
    serving,
    tcp_pair,
)
from trio_tlsbio import (
    ClientHello,
    HandshakeTimeoutError,
    PeerAlertError,
    RefuseHandshake,
    TLSConnection,
    TLSError,
    TLSSession,
    TLSStream,
    contexts_by_name,
)
from trio_tlsbio.testing import transfer

Choose = Callable[[ClientHello], ssl.SSLContext | Awaitable[ssl.SSLContext]]


async def shake_hands(
    client_context: ssl.SSLContext, choose: Choose, name: str = NAME
) -> tuple[TLSStream[trio.SocketStream], TLSStream[trio.SocketStream]]:
    """Shake hands over TCP; raises what the server raises, else what the client does."""
    async with tcp_pair() as (ours, theirs):
        server = TLSStream(theirs, choose, server_side=True)
        client = TLSStream(ours, client_context, server_hostname=name)
        errors: list[Exception] = []

        async def serve() -> None:
            try:
                await server.do_handshake()
            except Exception as exc:
                errors.append(exc)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            try:
                await client.do_handshake()
                await client.send_all(b"x")
            except TLSError as exc:
                errors.append(exc)
        if errors:
            raise errors[0] from (errors[1] if len(errors) > 1 else None)
        assert await server.receive_some() == b"x"
        return client, server


@asynccontextmanager
async def connecting(
    client_context: ssl.SSLContext, choose: Choose
) -> AsyncIterator[tuple[TLSStream[trio.SocketStream], TLSStream[trio.SocketStream]]]:
    """A server whose function chooses, and a client that meanwhile performs its handshake."""
    async with tcp_pair() as (ours, theirs):
        server = TLSStream(theirs, choose, server_side=True)
        client = TLSStream(ours, client_context, server_hostname=NAME)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.do_handshake)
            yield server, client


@pytest.fixture
def client_context(ca: trustme.CA, tls_version: ssl.TLSVersion) -> ssl.SSLContext:
    return client_context_for(ca, tls_version)


async def test_a_function_chooses(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client_context.set_alpn_protocols(["h2", "http/1.1"])
    seen: list[ClientHello] = []

    def choose(hello: ClientHello) -> ssl.SSLContext:
        seen.append(hello)
        return server_context

    client, server = await shake_hands(client_context, choose)
    (hello,) = seen
    assert hello.server_name == NAME
    assert hello.alpn_protocols == (b"h2", b"http/1.1")
    assert server.handshake.client_hello == hello
    assert server.handshake.server_hostname == NAME
    assert server.context is server_context
    assert client.handshake.client_hello is None


async def test_it_may_await_and_others_go_on(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    has_come, may_go_on = trio.Event(), trio.Event()

    async def choose(hello: ClientHello) -> ssl.SSLContext:
        has_come.set()
        await may_go_on.wait()
        return server_context

    async with trio.open_nursery() as nursery:
        nursery.start_soon(shake_hands, client_context, choose)
        await has_come.wait()
        await shake_hands(client_context, lambda _: server_context)
        may_go_on.set()


@pytest.mark.parametrize("alert", ["unrecognized_name", "no_application_protocol"])
async def test_the_client_is_refused(client_context: ssl.SSLContext, alert: str) -> None:
    def choose(hello: ClientHello) -> ssl.SSLContext:
        raise RefuseHandshake(alert)

    with pytest.raises(TLSError, match=f"refused here \\(alert {alert}\\)") as raised:
        await shake_hands(client_context, choose)
    assert raised.value.error_type == alert
    theirs = raised.value.__cause__
    assert isinstance(theirs, PeerAlertError)
    assert theirs.alert == alert


@pytest.mark.parametrize("why", [None, "no tenant has this name"])
def test_a_refusal_says_why(why: str | None) -> None:
    refusal = RefuseHandshake("access_denied", why)
    assert (refusal.alert, refusal.why) == ("access_denied", why)
    said = f"{why or 'the handshake was refused here'} (alert access_denied)"
    assert str(refusal.error()) == said
    assert str(refusal) == ("access_denied" if why is None else said)
    assert repr(copy.copy(refusal)) == repr(refusal)
    assert copy.copy(refusal).why == why


async def test_what_else_it_raises_is_raised(client_context: ssl.SSLContext) -> None:
    async def choose(hello: ClientHello) -> ssl.SSLContext:
        raise KeyError("no such tenant")

    with pytest.raises(KeyError) as raised:
        await shake_hands(client_context, choose)
    theirs = raised.value.__cause__
    assert isinstance(theirs, PeerAlertError)
    assert theirs.alert == "internal_error"


async def test_a_context_that_fails_to_create_the_connection(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    class Failing(ssl.SSLObject):
        @classmethod
        def _create(cls, *args: object, **options: object) -> ssl.SSLObject:
            raise KeyError("out of keys")

    server_context.sslobject_class = Failing
    with pytest.raises(KeyError, match="out of keys") as raised:
        await shake_hands(client_context, lambda _: server_context)
    theirs = raised.value.__cause__
    assert isinstance(theirs, PeerAlertError)
    assert theirs.alert == "internal_error"


async def test_what_is_no_context(
    client_context: ssl.SSLContext,
) -> None:
    with pytest.raises(ValueError, match="made for the other side"):
        await shake_hands(client_context, lambda _: client_context)
    with pytest.raises(TypeError, match=r"must be an ssl\.SSLContext, not NoneType"):
        await shake_hands(client_context, lambda _: None)  # type: ignore[arg-type, return-value]


async def test_choosing_takes_its_time_from_the_handshake(
    client_context: ssl.SSLContext, autojump_clock: trio.testing.MockClock
) -> None:
    async with tcp_pair() as (ours, theirs):

        async def choose(hello: ClientHello) -> ssl.SSLContext:
            await trio.sleep_forever()
            raise AssertionError

        server = TLSStream(theirs, choose, server_side=True, handshake_timeout=3)
        client = TLSStream(ours, client_context, server_hostname=NAME)

        async def connect() -> None:
            with pytest.raises(TLSError):
                await client.do_handshake()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(connect)
            with pytest.raises(HandshakeTimeoutError):
                await server.do_handshake()
            await trio.aclose_forcefully(server)


async def test_cancelled_it_is_asked_again(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    scope = trio.CancelScope()
    calls = 0

    async def choose(hello: ClientHello) -> ssl.SSLContext:
        nonlocal calls
        calls += 1
        if calls == 1:
            scope.cancel()
            await trio.lowlevel.checkpoint()
        return server_context

    async with connecting(client_context, choose) as (server, _):
        with scope:
            await server.do_handshake()
        assert scope.cancelled_caught
        assert server.connection.handshake is None
        await server.do_handshake()
        assert calls == 2


async def test_of_the_tasks_that_are_left_one_asks_again(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    scope = trio.CancelScope()
    calls = 0

    async def choose(hello: ClientHello) -> ssl.SSLContext:
        nonlocal calls
        calls += 1
        if calls == 1:
            nursery.start_soon(server.do_handshake)
            nursery.start_soon(server.send_all, b"greeting")
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        return server_context

    async with connecting(client_context, choose) as (server, client):
        async with trio.open_nursery() as nursery:
            with scope:
                await server.do_handshake()
            assert scope.cancelled_caught
        assert await client.receive_some() == b"greeting"
        assert calls == 2


async def test_two_tasks_that_need_the_handshake_ask_once(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    calls = 0

    async def choose(hello: ClientHello) -> ssl.SSLContext:
        nonlocal calls
        calls += 1
        for _ in range(5):
            await trio.lowlevel.checkpoint()
        return server_context

    async with connecting(client_context, choose) as (server, client):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.do_handshake)
            nursery.start_soon(server.send_all, b"greeting")
        assert await client.receive_some() == b"greeting"
        assert calls == 1


def test_what_is_no_function(server_context: ssl.SSLContext) -> None:
    ours, _ = trio.testing.memory_stream_pair()
    with pytest.raises(TypeError, match=r"must be a function or an ssl\.SSLContext, not int"):
        TLSStream(ours, 1, server_side=True)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="only servers choose it later"):
        TLSConnection(None)
    with pytest.raises(TypeError, match=r"must be an ssl\.SSLContext, not function"):
        TLSStream(ours, lambda _: server_context)


@pytest.mark.parametrize("alert", ["", "x", "close_notify", "user_canceled"])
def test_what_is_no_alert(alert: str) -> None:
    with pytest.raises(ValueError, match="is not the name of an alert that ends a handshake"):
        RefuseHandshake(alert)


@pytest.mark.parametrize("chunk", [None, 1])
def test_the_core_waits_for_a_context(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, chunk: int | None
) -> None:
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(None, server_side=True)
    assert not server.wants_context
    with pytest.raises(ValueError, match="does not wait"):
        server.use_context(server_context)
    transfer(client, server, chunk)
    assert not server.do_handshake()
    assert server.wants_context
    assert not server.wants_data
    assert server.data_to_send() == b""
    assert server.client_hello is not None
    assert server.client_hello.server_name == NAME
    server.use_context(server_context)
    assert not server.wants_context
    while not (server.do_handshake() and client.do_handshake()):
        transfer(server, client)
        client.do_handshake()
        transfer(client, server)


def test_what_is_no_hello_is_refused_as_ever() -> None:
    server = TLSConnection(None, server_side=True)
    server.feed(b"GET / HTTP/1.1\r\n\r\n")
    with pytest.raises(TLSError, match="HTTP"):
        server.do_handshake()


################################################################
# By name
################################################################


async def test_names(
    ca: trustme.CA, client_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    one, two, three, other = (
        server_context_for(ca.issue_cert(name), tls_version)
        for name in ("a.example", "*.b.example", "x.b.example", "c.example")
    )
    choose = contexts_by_name(
        {"A.example": one, "*.b.example": lambda: two, "x.b.example": three}, default=other
    )
    for name, context in {
        "a.example": one,
        "y.b.example": two,
        "x.b.example": three,
        "c.example": other,
    }.items():
        _, server = await shake_hands(client_context, choose, name)
        assert server.context is context
        assert server.handshake.server_hostname == name


async def test_a_name_that_is_not_served(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    choose = contexts_by_name({"a.example": server_context})
    with pytest.raises(TLSError) as raised:
        await shake_hands(client_context, choose, "b.example")
    words = "the peer asked for b.example, which is not served here (alert unrecognized_name)"
    assert str(raised.value) == words
    assert raised.value.error_type == "unrecognized_name"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "at least one name"),
        (["127.0.0.1"], "IP address"),
        (["a.example", "A.example."], "already"),
        (["a*.example"], "whole first label"),
        ([""], "not a host name"),
    ],
)
def test_names_that_nobody_can_ask_for(
    server_context: ssl.SSLContext, names: list[str], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        contexts_by_name(Pairs(names, server_context))  # type: ignore[arg-type]


class Pairs:
    """A mapping with names that may come twice."""

    def __init__(self, names: list[str], context: ssl.SSLContext) -> None:
        self._pairs = [(name, context) for name in names]

    def items(self) -> list[tuple[str, ssl.SSLContext]]:
        return self._pairs


def test_contexts_that_can_not_serve(client_context: ssl.SSLContext) -> None:
    with pytest.raises(ValueError, match="made for clients"):
        contexts_by_name({"a.example": client_context})
    with pytest.raises(TypeError, match=r"must be an ssl\.SSLContext"):
        contexts_by_name({"a.example": 1})  # type: ignore[dict-item]


################################################################
# On servers
################################################################


async def test_a_server_chooses_for_each_client(
    ca: trustme.CA, client_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    contexts = {
        name: server_context_for(ca.issue_cert(name), tls_version)
        for name in ("a.example", "b.example")
    }
    seen: list[str | None] = []

    async def handler(stream: TLSStream[trio.SocketStream]) -> None:
        seen.append(stream.handshake.server_hostname)

    async with serving(handler, contexts_by_name(contexts)) as port:
        for name in contexts:
            stream = TLSStream(
                await trio.open_tcp_stream(HOST, port), client_context, server_hostname=name
            )
            assert await stream.receive_some() == b""
            await stream.aclose()
        refused = TLSStream(
            await trio.open_tcp_stream(HOST, port), client_context, server_hostname="c.example"
        )
        with pytest.raises(PeerAlertError, match="unrecognized_name"):
            await refused.do_handshake()
        await refused.aclose()
    assert seen == ["a.example", "b.example"]


@pytest.mark.parametrize("is_chosen", [False, True])
async def test_a_server_refuses_unknown_protocols(
    is_chosen: bool,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server_context.set_alpn_protocols(["h2"])
    context = contexts_by_name({NAME: server_context}) if is_chosen else server_context
    async with serving(echo, context, strict_alpn=True) as port:
        for offered in ("http/1.1", "h2"):
            client_context.set_alpn_protocols([offered])
            stream = TLSStream(
                await trio.open_tcp_stream(HOST, port), client_context, server_hostname=NAME
            )
            if offered == "h2":
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
            else:
                with pytest.raises(PeerAlertError, match="no_application_protocol"):
                    await stream.do_handshake()
            await stream.aclose()
    (message,) = [record.getMessage() for record in caplog.records]
    assert "no application protocol (ALPN) that is served here, but http/1.1" in message


async def test_what_choosing_raises_goes_to_the_hook(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    errors: list[Exception] = []

    def choose(hello: ClientHello) -> ssl.SSLContext:
        if not errors:
            raise KeyError("no such tenant")
        return server_context

    async with serving(echo, choose, on_error=lambda _, exc: errors.append(exc)) as port:
        for is_first in (True, False):
            stream = TLSStream(
                await trio.open_tcp_stream(HOST, port), client_context, server_hostname=NAME
            )
            if is_first:
                with pytest.raises(PeerAlertError, match="internal_error"):
                    await stream.do_handshake()
            else:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
            await trio.aclose_forcefully(stream)
    assert [type(error) for error in errors] == [KeyError]


@pytest.mark.parametrize("uses_tickets", [True, False], ids=["tickets", "ids"])
async def test_a_session_of_one_name_is_nothing_at_another(
    ca: trustme.CA,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    uses_tickets: bool,
) -> None:
    """OpenSSL would resume before its sni_callback runs, with the verification of the first."""
    open_context, closed_context = (
        server_context_for(ca.issue_cert("a.example", "b.example"), tls_version) for _ in range(2)
    )
    ca.configure_trust(closed_context)
    closed_context.verify_mode = ssl.CERT_REQUIRED
    for context in (open_context, closed_context):
        if not uses_tickets:
            context.options |= ssl.OP_NO_TICKET
    choose = contexts_by_name({"a.example": open_context, "b.example": closed_context})
    client_context.check_hostname = False  # a client that does not keep the rules
    async with serving(echo, choose) as port:

        async def visit(name: str, session: TLSSession | None) -> TLSStream[trio.SocketStream]:
            stream = TLSStream(
                await trio.open_tcp_stream(HOST, port),
                client_context,
                server_hostname=name,
                session=session,
            )
            try:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            return stream

        stream = await visit("a.example", None)
        session = stream.session
        await stream.aclose()
        assert session is not None
        again = await visit("a.example", session)
        assert again.session_reused
        await again.aclose()
        stolen = attrs.evolve(session, server_hostname="b.example")
        with pytest.raises(trio.BrokenResourceError):
            await visit("b.example", stolen)
