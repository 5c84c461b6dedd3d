"""Connecting and reconnecting over TCP."""

from __future__ import annotations

import ssl
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from functools import partial
from itertools import pairwise
from typing import Any, TypeAlias

import attrs
import pytest
import trio
import trio.testing
import trustme

from tests.helpers import (
    HOST,
    client_context_for,
    port_of,
    server_context_for,
    serving,
    wrap_pair,
)
from trio_tlsbio import (
    CertificateError,
    HandshakeTimeoutError,
    PeerAlertError,
    Retry,
    SessionCache,
    TLSConnector,
    TLSError,
    TLSStream,
    TruncationError,
    is_worth_retrying,
    open_tls_over_tcp_stream,
    reconnect,
    start_tls,
)
from trio_tlsbio._core import words
from trio_tlsbio.testing import do_handshakes

Stream: TypeAlias = TLSStream[trio.SocketStream]


async def echo(stream: Stream) -> None:
    async for data in stream:
        await stream.send_all(data)
    await stream.aclose()


async def listen_only(stream: Stream) -> None:
    async for _ in stream:
        pass
    await stream.aclose()


async def ping(stream: Stream) -> None:
    await stream.send_all(b"ping")
    assert await stream.receive_some() == b"ping"


################################################################
# One connection
################################################################


async def test_the_handshake_is_left_for_later(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with (
        serving(echo, server_context) as port,
        await open_tls_over_tcp_stream(HOST, port, ssl_context=client_context) as stream,
    ):
        assert stream.connection.handshake is None
        await ping(stream)


async def test_wrap_resumes_over_any_transport(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """The sessions of ``connect`` and ``wrap`` are the same ones, by name and port."""
    connector = TLSConnector(ssl_context=client_context)
    async with serving(echo, server_context) as port:
        async with await connector.connect(HOST, port) as stream:
            await ping(stream)
        for name, number, is_resumed in (
            (HOST, port, True),
            (HOST, port + 1, False),
            ("localhost", port, False),
        ):
            tcp_stream = await trio.open_tcp_stream(HOST, port)
            async with await connector.wrap(tcp_stream, name, number) as stream:
                await ping(stream)
                assert stream.session_reused is is_resumed


async def test_a_failed_handshake_forgets_the_sessions(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """It may be the session that the server could not bear."""
    connector = TLSConnector(ssl_context=client_context)
    async with serving(echo, server_context) as port:
        for _ in range(3):
            async with await connector.connect(HOST, port) as stream:
                await ping(stream)
        assert len(connector.session_cache) > 0
        transport, peer = trio.testing.memory_stream_pair()
        await peer.send_eof()
        with pytest.raises(TLSError):
            await connector.wrap(transport, HOST, port)
        assert len(connector.session_cache) == 0
        await peer.aclose()


async def test_wrap_closes_the_transport_if_it_fails(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    connector = TLSConnector(ssl_context=client_context)
    async with serving(echo, server_context) as port:
        for name, options, error in (
            ("another.example", {}, CertificateError),
            ("", {}, ValueError),
            (HOST, {"alpn_protocols": ["h2"]}, ValueError),
            (HOST, {"alpn_protocols": "h2"}, TypeError),
            (HOST, {"alpn_protocols": [b"h2"]}, TypeError),
        ):
            tcp_stream = await trio.open_tcp_stream(HOST, port)
            with pytest.raises(error):
                await connector.wrap(tcp_stream, name, port, **options)
            assert tcp_stream.socket.fileno() == -1


async def test_the_systems_certificates_are_the_default(
    server_context: ssl.SSLContext,
) -> None:
    async with serving(echo, server_context) as port:
        stream = await open_tls_over_tcp_stream(HOST, port)
        with pytest.raises(CertificateError):
            await stream.do_handshake()
        await stream.aclose()


def no_network(*args: Any, **kwargs: Any) -> Any:
    raise AssertionError("it has connected")


async def test_bad_arguments_are_told_before_connecting(client_context: ssl.SSLContext) -> None:
    bad_context: Any = "context"
    bad_session: Any = object()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trio, "open_tcp_stream", no_network)
        with pytest.raises(ValueError, match="server_hostname"):
            await open_tls_over_tcp_stream("", 1, ssl_context=client_context)
        with pytest.raises(TypeError, match="ssl_context"):
            await open_tls_over_tcp_stream(HOST, 1, ssl_context=bad_context)
        with pytest.raises(TypeError, match="session"):
            await open_tls_over_tcp_stream(HOST, 1, ssl_context=client_context, session=bad_session)
        with pytest.raises(ValueError, match="ssl_context"):
            await open_tls_over_tcp_stream(HOST, 1, session_cache=SessionCache())
        with pytest.raises(ValueError, match="server_hostname"):
            reconnect("", 1, ssl_context=client_context)


@pytest.mark.parametrize(
    "name",
    [
        "a" * 64 + ".example",
        "a..b",
        "a." * 126 + "aa",
        "https://a",
        "a:443",
        "[::1]",
        b"a\0",
    ],
)
async def test_every_door_refuses_what_is_no_host_name(
    client_context: ssl.SSLContext, name: str | bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trio, "open_tcp_stream", no_network)
    connector = TLSConnector(ssl_context=client_context)
    text: Any = name  # a host to connect to may be bytes for Trio, too

    def is_refused() -> Any:
        return pytest.raises(ValueError, match=r"server_hostname: .*is not a host name")

    with is_refused():
        await open_tls_over_tcp_stream(text, 443, ssl_context=client_context)
    with is_refused():
        await connector.connect(text, 443)
    with is_refused():
        reconnect(text, 443, ssl_context=client_context)
    with is_refused():
        connector.reconnect(text, 443)
    doors: list[tuple[Callable[[Any], Any], bool]] = [
        (lambda ours: connector.wrap(ours, text, 443), True),
        (lambda ours: start_tls(ours, client_context, buffered=b"", server_hostname=name), True),
        (lambda ours: TLSStream(ours, client_context, server_hostname=name), False),
    ]
    for wrap, closes in doors:
        ours, theirs = trio.testing.memory_stream_pair()
        with is_refused():
            await wrap(ours)
        if closes:
            assert await theirs.receive_some() == b""
        else:
            await ours.send_all(b"in plaintext")
            assert await theirs.receive_some() == b"in plaintext"


async def test_an_address_with_a_zone_is_connected_to_as_it_is(
    client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, _ = trio.testing.memory_stream_pair()
    hosts = []

    async def connect(host: str, port: int, **options: Any) -> Any:
        hosts.append(host)
        return ours

    monkeypatch.setattr(trio, "open_tcp_stream", connect)
    stream = await open_tls_over_tcp_stream("fe80::1%eth0", 443, ssl_context=client_context)
    assert hosts == ["fe80::1%eth0"]
    assert stream.server_hostname == "fe80::1"
    await trio.aclose_forcefully(stream)


async def test_a_ticket_is_not_wasted_on_a_port_where_nobody_listens(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    cache = SessionCache()
    connect = partial(
        open_tls_over_tcp_stream, HOST, ssl_context=client_context, session_cache=cache
    )
    async with serving(echo, server_context) as port:
        async with await connect(port) as stream:
            await ping(stream)
        left = len(cache)
        assert left
    with pytest.raises(OSError, match=f"{HOST}:{port}"):
        await connect(port)
    assert len(cache) == left


################################################################
# Resumption
################################################################


@pytest.mark.parametrize("https_compatible", [False, True])
async def test_every_reconnect_is_resumed(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, https_compatible: bool
) -> None:
    cache = SessionCache()
    async with serving(echo, server_context, https_compatible=https_compatible) as port:
        for count in range(50):
            async with await open_tls_over_tcp_stream(
                HOST,
                port,
                ssl_context=client_context,
                session_cache=cache,
                https_compatible=https_compatible,
            ) as stream:
                await ping(stream)
                assert stream.session_reused is (count > 0)
    assert cache.statistics().misses == 1
    assert cache.statistics().hits == client_context.session_stats()["hits"] == 49


async def test_a_client_that_never_reads_is_resumed_too(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    cache = SessionCache()
    async with serving(listen_only, server_context) as port:
        for count in range(50):
            async with await open_tls_over_tcp_stream(
                HOST, port, ssl_context=client_context, session_cache=cache
            ) as stream:
                await stream.send_all(b"into the void")
                assert stream.session_reused is (count > 0)


async def test_a_server_that_never_sends_gives_its_tickets(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    got = trio.Event()

    async def handler(stream: Stream) -> None:
        await trio.sleep_forever()

    async with serving(handler, server_context) as port:
        stream = TLSStream(
            await trio.open_tcp_stream(HOST, port),
            client_context,
            server_hostname=HOST,
            on_session=lambda session: got.set(),
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stream.receive_some)
            await got.wait()
            nursery.cancel_scope.cancel()
        await trio.aclose_forcefully(stream)


async def test_as_many_connections_at_once_as_before_are_all_resumed(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    """Each of those before has brought a single ticket, and the cache is the default one."""
    server_context = server_context_for(server_cert)
    server_context.num_tickets = 1
    connector = TLSConnector(ssl_context=client_context_for(ca))
    streams: list[Stream] = []

    async def connect(port: int) -> None:
        stream = await connector.connect(HOST, port)
        await ping(stream)
        streams.append(stream)

    async with serving(echo, server_context) as port:
        for is_resumed in (False, True):
            async with trio.open_nursery() as nursery:
                for _ in range(20):
                    nursery.start_soon(connect, port)
            assert [stream.session_reused for stream in streams] == 20 * [is_resumed]
            while streams:
                await streams.pop().aclose()


async def test_a_ticket_that_was_used_without_the_cache_is_not_given_out_by_it(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    server_context = server_context_for(server_cert)
    server_context.num_tickets = 1
    context = client_context_for(ca)
    cache = SessionCache()
    connect = partial(open_tls_over_tcp_stream, HOST, ssl_context=context, session_cache=cache)
    async with serving(echo, server_context) as port:
        async with await connect(port) as stream:
            await ping(stream)
            session = stream.session
        assert session is not None
        server_context.num_tickets = 0
        for resumed in (session, None):
            async with await connect(port, session=resumed) as stream:
                await ping(stream)
                assert stream.session_reused is (resumed is not None)
                assert stream.session is None
        assert len(cache) == 0


async def test_connections_at_once_share_the_tickets(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    server_context = server_context_for(server_cert)
    server_context.num_tickets = 8
    offered: list[bytes] = []
    reused = 0
    connector = TLSConnector(ssl_context=client_context_for(ca))

    async def connect(port: int) -> None:
        nonlocal reused
        async with await connector.connect(HOST, port) as stream:
            await ping(stream)
            reused += stream.session_reused

    class Watching(SessionCache):
        def take(self, *args: Any, **kwargs: Any) -> Any:
            session = super().take(*args, **kwargs)
            if session is not None:
                offered.append(session.id)
            return session

    connector.session_cache = Watching()
    async with serving(echo, server_context) as port:
        await connect(port)
        # All take their tickets before the first gives a new one.
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(connect, port)
    assert reused >= 8
    assert len(offered) == len(set(offered)) == reused


async def test_a_restarted_server_costs_a_full_handshake(
    ca: trustme.CA, server_cert: trustme.LeafCert, tls_version: ssl.TLSVersion
) -> None:
    connector = TLSConnector(ssl_context=client_context_for(ca, tls_version))
    reused = []
    port = 0
    for _ in range(2):
        # The same certificate, other keys for the tickets. The port is the same for the client.
        async with serving(echo, server_context_for(server_cert, tls_version)) as real_port:
            port = port or real_port
            for _ in range(2):
                tcp_stream = await trio.open_tcp_stream(HOST, real_port)
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(trio, "open_tcp_stream", returning(tcp_stream))
                    stream = await connector.connect(HOST, port)
                async with stream:
                    await ping(stream)
                reused.append(stream.session_reused)
    assert reused == [False, True, False, True]


def returning(value: Any) -> Callable[..., Awaitable[Any]]:
    async def function(*args: Any, **kwargs: Any) -> Any:
        return value

    return function


async def test_contexts_that_share_a_cache_never_mix(
    ca: trustme.CA, server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    cache = SessionCache()
    connectors = [
        TLSConnector(ssl_context=client_context_for(ca, tls_version), session_cache=cache)
        for _ in range(2)
    ]
    async with serving(echo, server_context) as port:
        for expected in (False, True):
            for connector in connectors:
                async with await connector.connect(HOST, port) as stream:
                    await ping(stream)
                    assert stream.session_reused is expected


################################################################
# The connector
################################################################


async def test_alpn_for_a_connector_and_for_a_call(
    ca: trustme.CA, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    connector = TLSConnector(ssl_context=client_context, alpn_protocols=["http/1.1"])

    async def chosen(**options: Any) -> str | None:
        async with await connector.connect(HOST, port, **options) as stream:
            await ping(stream)
            return stream.selected_alpn_protocol()

    async with serving(echo, server_context) as port:
        assert await chosen() == "http/1.1"
        assert await chosen(alpn_protocols=["h2", "http/1.1"]) == "h2"
        assert await chosen(alpn_protocols=[]) is None
        assert await chosen() == "http/1.1"
    with pytest.raises(ValueError, match="alpn_protocols"):
        await TLSConnector(ssl_context=client_context).connect(HOST, 1, alpn_protocols=["h2"])


# What is wrong, and what is said about it.
WRONG_PROTOCOLS: dict[str, tuple[Any, type[Exception], str]] = {
    "empty": (["h2", ""], ValueError, "1 to 255 ASCII characters, not ''"),
    "long": (["x" * 256], ValueError, "1 to 255 ASCII characters"),
    "not ASCII": (["h2", "é"], ValueError, "ASCII characters, not '.xe9'"),
    "surrogate": (["\ud800"], ValueError, "ASCII characters"),
    "too many": (258 * ["x" * 254], ValueError, "65535 bytes"),
    "str": ("h2", TypeError, r"a list of str, such as \[.h2.\], not str"),
    "bytes": (b"h2", TypeError, r"a list of str, such as \[.h2.\], not bytes"),
    "list of bytes": ([b"h2"], TypeError, r"a list of str, such as \[.h2.\], not of bytes"),
    "list of lists": ([["h2"]], TypeError, r"a list of str, such as \[.h2.\], not of list"),
    "number": (2, TypeError, r"a list of str, such as \[.h2.\], not int"),
}


@pytest.mark.parametrize("wrong", WRONG_PROTOCOLS.values(), ids=WRONG_PROTOCOLS)
async def test_wrong_protocols_are_refused_at_every_door_before_connecting(
    ca: trustme.CA,
    server_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    wrong: tuple[Any, type[Exception], str],
) -> None:
    names, error, match = wrong
    context = client_context_for(ca, tls_version)
    connector = TLSConnector(ssl_context=context, alpn_protocols=["echo"])
    async with serving(echo, server_context) as port:
        async with await connector.connect(HOST, port) as stream:
            await ping(stream)
        sessions = len(connector.session_cache)
        assert sessions > 0
        transport, peer = trio.testing.memory_stream_pair()
        functions: list[Callable[..., object]] = [
            partial(TLSConnector, ssl_context=context),
            partial(reconnect, HOST, port, ssl_context=context),
        ]
        coroutine_functions: list[Callable[..., Awaitable[object]]] = [
            partial(open_tls_over_tcp_stream, HOST, port, ssl_context=context),
            partial(connector.connect, HOST, port),
            partial(connector.wrap, transport, HOST, port),
        ]
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(trio, "open_tcp_stream", no_network)
            for function in functions:
                with pytest.raises(error, match=match):
                    function(alpn_protocols=names)
            with pytest.raises(error, match=match):
                connector.alpn_protocols = names
            for coroutine_function in coroutine_functions:
                with pytest.raises(error, match=match):
                    await coroutine_function(alpn_protocols=names)
        assert await peer.receive_some() == b""  # wrap() closes the transport
        assert len(connector.session_cache) == sessions


async def test_protocols_stay_as_they_were_checked(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    server_context.set_alpn_protocols(["h2", "http/1.1"])
    names = ["http/1.1"]
    iterator: Any = iter(names[:])
    connectors = [
        TLSConnector(ssl_context=client_context, alpn_protocols=alpn_protocols)
        for alpn_protocols in (names, iterator)
    ]
    names[:] = ["", "h2"]
    async with serving(echo, server_context) as port:
        for connector in 2 * connectors:
            async with await connector.connect(HOST, port) as stream:
                await ping(stream)
                assert stream.selected_alpn_protocol() == "http/1.1"


async def test_the_longest_protocols(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    longest = [chr(ord("!") + number) * 255 for number in range(90)]
    server_context.set_alpn_protocols(longest[-1:])
    async with (
        serving(echo, server_context) as port,
        await open_tls_over_tcp_stream(
            HOST, port, ssl_context=client_context, alpn_protocols=longest
        ) as stream,
    ):
        await ping(stream)
        assert stream.selected_alpn_protocol() == longest[-1]


async def test_a_failed_handshake_leaves_nothing_behind(server_context: ssl.SSLContext) -> None:
    async with serving(echo, server_context) as port:
        connector = TLSConnector(ssl_context=client_context_for(trustme.CA()))
        connector.ssl_context.minimum_version = ssl.TLSVersion.TLSv1_2
        with pytest.raises(CertificateError):
            await connector.connect(HOST, port)
    assert len(connector.session_cache) == 0


async def test_a_context_that_can_offer_nothing_leaves_no_connection_open(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client_context.maximum_version = ssl.TLSVersion.TLSv1_3
    client_context.minimum_version = ssl.TLSVersion.TLSv1_3
    client_context.maximum_version = ssl.TLSVersion.TLSv1_2
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    async with listener:
        with pytest.raises(ValueError, match="nothing can be offered") as caught:
            await open_tls_over_tcp_stream(HOST, port_of(listener), ssl_context=client_context)
        assert caught.tb  # which would keep it
        async with await listener.accept() as accepted:
            with trio.fail_after(10):
                assert await accepted.receive_some() == b""


@pytest.mark.parametrize("how", ["connect", "reconnect"])
async def test_https_compatible_is_handed_on(
    how: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def answer_and_vanish(stream: Stream) -> None:
        await stream.send_all(b"answer")
        await stream.transport_stream.aclose()

    async with serving(answer_and_vanish, server_context) as port:
        options: Any = {"ssl_context": client_context, "https_compatible": True}
        if how == "connect":
            stream = await TLSConnector(**options).connect(HOST, port)
        else:
            stream = await anext(reconnect(HOST, port, **options))
        assert await stream.receive_some() == b"answer"
        assert await stream.receive_some() == b""
        await stream.aclose()


################################################################
# Reconnecting
################################################################


async def test_reconnecting_gives_resumed_streams(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    reused = []
    async with serving(echo, server_context) as port:
        async for stream in reconnect(HOST, port, ssl_context=client_context, initial_delay=0):
            async with stream:
                await ping(stream)
                reused.append(stream.session_reused)
            if len(reused) == 3:
                break
    assert reused == [False, True, True]


async def test_a_stream_that_was_left_open_is_closed(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    streams: list[Stream] = []
    async with serving(echo, server_context) as port:
        async for stream in reconnect(HOST, port, ssl_context=client_context, initial_delay=0):
            streams.append(stream)
            if len(streams) == 2:
                break
        with pytest.raises(trio.ClosedResourceError):
            await streams[0].send_all(b"x")
        await ping(streams[1])
        await streams[1].aclose()


class Attempts:
    """A connector's connect() that fails as it is told to."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.times: list[float] = []

    async def __call__(self, host: Any, port: int) -> Any:
        self.times.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.errors:
            raise self.errors.pop(0)
        return trio.testing.memory_stream_pair()[0]


@pytest.fixture
def connector(ca: trustme.CA) -> TLSConnector:
    """A connector whose connect() a test replaces."""
    return TLSConnector(ssl_context=client_context_for(ca))


async def next_of(connector: TLSConnector, attempts: Any, **options: Any) -> Any:
    """Return the first stream of a reconnect() that connects by ``attempts``."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TLSConnector, "connect", attempts)
        return await anext(connector.reconnect(HOST, 1, **options))


async def test_delays_double_with_jitter_up_to_a_limit(
    connector: TLSConnector, autojump_clock: trio.testing.MockClock
) -> None:
    attempts = Attempts(*[OSError("nobody there")] * 8)
    retries: list[Retry] = []
    await next_of(connector, attempts, initial_delay=1, max_delay=20, on_retry=retries.append)
    assert [retry.attempt for retry in retries] == [1, 2, 3, 4, 5, 6, 7, 8]
    for retry, longest in zip(retries, [1, 2, 4, 8, 16, 20, 20, 20], strict=True):
        assert max(1, longest / 2) <= retry.delay <= longest
        assert str(retry.error) == "nobody there"
    waited = [after - before for before, after in pairwise(attempts.times)]
    assert waited == pytest.approx([retry.delay for retry in retries])


# What a client and its server do once they are connected.
Script: TypeAlias = Callable[[TLSStream[Any], TLSStream[Any]], Awaitable[object]]


@attrs.define
class Peers:
    """A connector's connect() to servers in memory, with which it does what it is told to."""

    client_context: ssl.SSLContext
    server_context: ssl.SSLContext
    scripts: list[Script]
    times: list[float] = attrs.field(factory=list, init=False)

    async def __call__(self, host: Any, port: int) -> Any:
        self.times.append(trio.current_time())
        client, server = wrap_pair(
            *trio.testing.memory_stream_pair(), self.client_context, self.server_context
        )
        await do_handshakes(client, server)
        await self.scripts.pop(0)(client, server)
        return client


@attrs.define
class Supply:
    """A reconnect() to :class:`Peers`, and what it has reported."""

    peers: Peers
    supply: Any = attrs.field(init=False)
    retries: list[Retry] = attrs.field(factory=list, init=False)

    async def next(self, *scripts: Script) -> Stream:
        """Let the next connections do something, and return the stream of the last one of them."""
        del self.retries[:]
        self.peers.scripts += scripts
        stream: Stream = await anext(self.supply)
        assert not self.peers.scripts
        return stream

    @property
    def attempts(self) -> list[int]:
        return [retry.attempt for retry in self.retries]


@pytest.fixture
def supply(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> Iterator[Supply]:
    """A reconnect() whose initial delay is a second, and whose longest is 20."""
    supply = Supply(Peers(client_context, server_context, []))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TLSConnector, "connect", supply.peers)
        supply.supply = reconnect(
            HOST,
            1,
            ssl_context=client_context,
            initial_delay=1,
            max_delay=20,
            on_retry=supply.retries.append,
        )
        yield supply


async def hang_up(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    await server.aclose()
    assert await client.receive_some() == b""


async def vanish(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    await server.transport_stream.aclose()
    with pytest.raises(TruncationError):
        await client.receive_some()


async def greet(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    await server.send_all(b"hello")
    assert await client.receive_some() == b"hello"


async def greet_and_hang_up(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    await greet(client, server)
    await hang_up(client, server)


async def refuse_connection(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    raise ConnectionRefusedError("nobody there")


async def stay(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    pass


@pytest.mark.parametrize(("end", "error"), [(hang_up, None), (vanish, TruncationError)])
async def test_a_connection_that_ends_at_once_without_data_is_a_failed_attempt(
    supply: Supply, autojump_clock: trio.testing.MockClock, end: Any, error: type[Exception] | None
) -> None:
    await supply.next(end)
    for attempt in range(1, 8):
        await supply.next(end)
        (retry,) = supply.retries
        assert retry.attempt == attempt
        longest = min(20, 2 ** (attempt - 1))
        assert max(1, longest / 2) <= retry.delay <= longest
        assert (None if retry.error is None else type(retry.error)) is error
    await supply.next(refuse_connection, refuse_connection, end)
    assert supply.attempts == [8, 9, 10]
    # The last one has brought data, which resets it.
    await supply.next(greet_and_hang_up)
    await supply.next(refuse_connection, end)
    assert supply.attempts == [0, 1]


async def test_a_connection_with_data_was_made_however_short(
    supply: Supply, autojump_clock: trio.testing.MockClock
) -> None:
    await supply.next(*3 * [refuse_connection], greet_and_hang_up)
    for _ in range(5):
        await supply.next(greet_and_hang_up)
        assert supply.retries == [Retry(attempt=0, delay=1, error=None)]


async def test_data_that_nobody_has_received_counts_too(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def greet(stream: Stream) -> None:
        await stream.send_all(b"hello")
        await stream.aclose()

    retries: list[Retry] = []
    async with serving(greet, server_context) as port:
        supply = reconnect(
            HOST, port, ssl_context=client_context, initial_delay=0.01, on_retry=retries.append
        )
        for _ in range(3):
            stream = await anext(supply)
            while not stream.connection.inbox.has_decrypted:
                await trio.lowlevel.wait_readable(stream.transport_stream.socket)
                stream.is_readable()
        await stream.aclose()
    assert {retry.attempt for retry in retries} <= {0}


async def test_a_connection_that_lasted_was_made(
    supply: Supply, autojump_clock: trio.testing.MockClock
) -> None:
    await supply.next(*3 * [refuse_connection], stay)
    await trio.sleep(8)  # the longest delay that a fourth failure would cost
    await supply.next(stay)
    assert supply.attempts == []
    await supply.next(refuse_connection, refuse_connection, stay)
    assert supply.attempts == [1, 2, 3]
    await trio.sleep(3.9)  # this time a failure costs 4 s at least
    await supply.next(stay)
    assert supply.attempts == [4]


async def test_a_clean_end_resets_the_delay_unless_it_comes_at_once(
    supply: Supply, autojump_clock: trio.testing.MockClock
) -> None:
    """A program that only sends recovers from an outage, although its server never sends."""

    pairs: list[tuple[TLSStream[Any], TLSStream[Any]]] = []

    async def connect(client: TLSStream[Any], server: TLSStream[Any]) -> None:
        pairs.append((client, server))

    await supply.next(*5 * [refuse_connection], connect)
    for _ in range(5):
        # more than the initial delay, and less than another failure would cost
        await trio.sleep(1.5)
        await hang_up(*pairs.pop())
        await supply.next(connect)
        assert supply.attempts == []
    # At once, it is a failure. So is a cut.
    await supply.next(refuse_connection, refuse_connection, hang_up)
    assert supply.attempts == [1, 2, 3]
    await supply.next(connect)
    assert supply.attempts == [4]
    await trio.sleep(1.5)
    await vanish(*pairs.pop())
    await supply.next(connect)
    assert supply.attempts == [5]


@pytest.mark.parametrize("way", ["sending", "receiving", "closing"])
async def test_a_server_that_ends_cleanly_and_never_sends_is_no_failure(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, way: str
) -> None:
    """Over a socket, however the client notices the end."""
    initial_delay = 0.01

    async def read_for_a_while(stream: Stream) -> None:
        await stream.receive_some()
        await trio.sleep(2 * initial_delay)

    retries: list[Retry] = []
    async with serving(read_for_a_while, server_context) as port:
        supply = reconnect(
            HOST,
            port,
            ssl_context=client_context,
            initial_delay=initial_delay,
            on_retry=retries.append,
        )
        supply._failures = 10  # an outage before
        for _ in range(3):
            stream = await anext(supply)
            await stream.send_all(b"line")
            match way:
                case "sending":
                    with suppress(TLSError):
                        while True:
                            await stream.send_all(b"line")
                            await trio.lowlevel.checkpoint()
                case "receiving":
                    assert await stream.receive_some() == b""
            await stream.aclose()
    assert retries == []


async def test_attempts_are_never_closer_than_the_initial_delay(
    supply: Supply, autojump_clock: trio.testing.MockClock
) -> None:
    ends = [hang_up, vanish, greet_and_hang_up, refuse_connection, stay]
    for number in range(100):
        end = ends[number % 5]
        await supply.next(*([end, stay] if end is refuse_connection else [end]))
        if number % 3 == 0:
            await trio.sleep(number / 20)
    waited = [after - before for before, after in pairwise(supply.peers.times)]
    assert len(waited) > 100
    assert min(waited) >= 1 - 1e-9


async def test_a_cancelled_wait_is_not_skipped(
    supply: Supply, autojump_clock: trio.testing.MockClock
) -> None:
    await supply.next(hang_up)
    while True:
        with trio.move_on_after(0.3):
            await supply.next(stay)
            break
        del supply.peers.scripts[:]
    first, second = supply.peers.times
    assert second - first == 1


REFUSAL = PeerAlertError("it wants a client certificate", alert="certificate_required")
PASSING = PeerAlertError("it has an internal error", alert="internal_error")


@pytest.mark.parametrize("seconds", [0, 1000])
async def test_a_refusal_before_any_data_is_a_failed_attempt(
    supply: Supply, autojump_clock: trio.testing.MockClock, seconds: float
) -> None:
    for attempt in range(1, 4):
        stream = await supply.next(stay)
        assert supply.attempts == ([] if attempt == 1 else [attempt - 1])
        stream.connection.abort(PASSING.again())
        await trio.sleep(seconds)
    stream = await supply.next(stay)
    assert str(supply.retries[0].error) == str(PASSING)
    stream.connection.abort(REFUSAL.again())
    await trio.sleep(seconds)
    with pytest.raises(PeerAlertError, match="certificate") as excinfo:
        await supply.next()
    assert excinfo.value is not stream.connection.error
    with pytest.raises(trio.ClosedResourceError):
        await stream.receive_some()


async def test_a_refusal_after_data_is_no_failed_attempt(
    supply: Supply, autojump_clock: trio.testing.MockClock
) -> None:
    stream = await supply.next(greet)
    stream.connection.abort(REFUSAL.again())
    await supply.next(stay)
    assert supply.attempts == [0]


@pytest.mark.parametrize("ends_by", ["reading", "closing", "closing at once", "leaving it open"])
async def test_a_client_certificate_that_is_refused_ends_it(
    ca: trustme.CA, server_cert: trustme.LeafCert, tls_version: ssl.TLSVersion, ends_by: str
) -> None:
    """In TLS 1.3 the client's handshake is done by then."""
    server_context = server_context_for(server_cert, tls_version)
    server_context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(server_context)
    context = client_context_for(ca, tls_version)
    async with serving(echo, server_context) as port:
        supply = reconnect(HOST, port, ssl_context=context, initial_delay=0)
        if tls_version is ssl.TLSVersion.TLSv1_3:
            stream = await anext(supply)
            await trio.lowlevel.wait_readable(stream.transport_stream.socket)
            if ends_by == "reading":
                with pytest.raises(PeerAlertError):
                    await stream.receive_some()
            if ends_by == "closing":
                with pytest.raises(PeerAlertError):
                    await stream.aclose()
            if ends_by == "closing at once":
                await trio.aclose_forcefully(stream)
        with pytest.raises(PeerAlertError) as excinfo:
            await anext(supply)
    assert excinfo.value.alert in {"certificate_required", "handshake_failure"}


# In plaintext, as a server sends them that has not answered the ClientHello yet.
ALERTS = {
    "close_notify": b"\x15\x03\x03\x00\x02\x01\x00",
    "user_canceled": b"\x15\x03\x03\x00\x02\x02\x5a",
    "user_canceled as RFC 9846 has it": b"\x15\x03\x03\x00\x02\x01\x5a\x15\x03\x03\x00\x02\x01\x00",
    "internal_error": b"\x15\x03\x03\x00\x02\x02\x50",
    "none": b"",
}


@pytest.mark.parametrize("alert", ALERTS.values(), ids=ALERTS)
async def test_a_server_that_is_shutting_down_is_tried_again(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, alert: bytes
) -> None:
    connections = 0

    async def serve(tcp_stream: trio.SocketStream) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await tcp_stream.receive_some()
            if alert:
                await tcp_stream.send_all(alert)
            await tcp_stream.aclose()
        else:
            async with TLSStream(tcp_stream, server_context, server_side=True) as stream:
                await stream.send_all(b"welcome")

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host=HOST))
            port = listener.socket.getsockname()[1]
            async for stream in reconnect(HOST, port, ssl_context=client_context, initial_delay=0):
                async with stream:
                    assert await stream.receive_some() == b"welcome"
                break
            nursery.cancel_scope.cancel()
    assert connections == 2


def test_which_alerts_are_worth_another_attempt() -> None:
    alerts = {"close_notify", "user_canceled", *words.ALERTS} - {"user_cancelled"}
    worth = {a for a in alerts if is_worth_retrying(PeerAlertError("no", alert=a))}
    assert worth == {
        "close_notify",
        "user_canceled",
        "internal_error",
        "bad_record_mac",
        "decryption_failed",
    }


def because(error: TLSError, cause: Exception) -> TLSError:
    error.__cause__ = cause
    return error


@pytest.mark.parametrize(
    "error",
    [
        CertificateError("not trusted"),
        PeerAlertError("unknown", alert="unknown_ca"),
        PeerAlertError("no name", alert="unknown"),
        TLSError("not TLS", reason="WRONG_VERSION_NUMBER"),
        because(TLSError("refused"), ValueError("by code that verifies")),
        because(TLSError("refused"), ssl.SSLError("by code that verifies")),
        because(TLSError("the proxy's TLS broke"), CertificateError("not trusted")),
        ssl.SSLError("of Python code"),
        RuntimeError("a bug"),
    ],
)
async def test_what_will_be_the_same_next_time_is_raised(
    connector: TLSConnector, error: Exception
) -> None:
    attempts = Attempts(error)
    with pytest.raises(type(error)):
        await next_of(connector, attempts)
    assert len(attempts.times) == 1


@pytest.mark.parametrize(
    "error",
    [
        OSError("refused"),
        TruncationError("cut"),
        HandshakeTimeoutError("slow"),
        TLSError("the transport broke"),
        because(TLSError("the transport broke"), ConnectionResetError("reset")),
        because(TLSError("the transport broke"), trio.BrokenResourceError("reset")),
        because(TLSError("the proxy's TLS broke"), TruncationError("cut")),
        TLSError("damaged", reason="DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
        PeerAlertError("trouble", alert="internal_error"),
        trio.TooSlowError(),
        trio.BrokenResourceError("gone"),
    ],
)
async def test_what_may_be_better_next_time_is_tried_again(
    connector: TLSConnector, error: Exception, autojump_clock: trio.testing.MockClock
) -> None:
    assert is_worth_retrying(error)
    attempts = Attempts(error)
    await next_of(connector, attempts)
    assert len(attempts.times) == 2


async def test_the_caller_decides_what_is_tried_again(
    connector: TLSConnector, autojump_clock: trio.testing.MockClock
) -> None:
    attempts = Attempts(CertificateError("not yet"), OSError("enough"))
    with pytest.raises(OSError, match="enough"):
        await next_of(
            connector,
            attempts,
            should_retry=lambda exc: isinstance(exc, CertificateError),
        )


async def test_an_attempt_that_hangs_is_given_up(
    connector: TLSConnector, autojump_clock: trio.testing.MockClock
) -> None:
    times: list[float] = []

    async def hang_once(self: TLSConnector, host: Any, port: int) -> Any:
        times.append(trio.current_time())
        if len(times) == 1:
            await trio.sleep_forever()
        return trio.testing.memory_stream_pair()[0]

    retries: list[Retry] = []
    await next_of(connector, hang_once, attempt_timeout=7, on_retry=retries.append)
    assert isinstance(retries[0].error, trio.TooSlowError)
    assert times[1] - times[0] == pytest.approx(7 + retries[0].delay)


@pytest.mark.parametrize("where", ["connecting", "waiting"])
async def test_cancellation_ends_it_at_once(
    connector: TLSConnector, autojump_clock: trio.testing.MockClock, where: str
) -> None:
    async def connect(self: TLSConnector, host: Any, port: int) -> Any:
        if where == "connecting":
            await trio.sleep_forever()
        raise OSError("nobody there")

    start = trio.current_time()
    with trio.move_on_after(3) as scope:
        await next_of(connector, connect, initial_delay=100, attempt_timeout=100)
    assert scope.cancelled_caught
    assert trio.current_time() - start == 3


async def test_it_tries_for_years(
    connector: TLSConnector, autojump_clock: trio.testing.MockClock
) -> None:
    attempts = Attempts(*[OSError("nobody there")] * 1100)
    await next_of(connector, attempts, max_delay=60)
    assert len(attempts.times) == 1101


async def test_nobody_is_told_to_wait_without_a_need(connector: TLSConnector) -> None:
    with suppress(StopAsyncIteration):
        await next_of(connector, Attempts(), on_retry=pytest.fail)
