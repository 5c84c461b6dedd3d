"""A naive handler under thousands of hostile connections, while good clients work on."""

from __future__ import annotations

import logging
import random
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import attrs
import pytest
import trio
import trustme
from trio.testing import MockClock

from tests.helpers import (
    HOST,
    NAME,
    VERSIONS,
    client_context_for,
    echo,
    reset_when_closed,
    server_context_for,
)
from trio_tlsbio import PeerAlertError, TLSConnection, TLSConnector, TLSStream, serve_tls_over_tcp
from trio_tlsbio.monitoring import ServerMonitor

TIMEOUT = 600  # of a handshake, in the seconds of a clock that the test moves on

Stream: TypeAlias = TLSStream[trio.SocketStream]
Attack: TypeAlias = Callable[[int], Awaitable[None]]


@attrs.define(eq=False)
class Attackers:
    """Each method is one hostile connection, the ``number``-th of its kind."""

    port: int
    ca: trustme.CA
    version: ssl.TLSVersion
    hello: bytes = attrs.field(init=False)
    contexts: dict[str, ssl.SSLContext] = attrs.field(init=False)
    alerts: Counter[str] = attrs.field(factory=Counter)

    def __attrs_post_init__(self) -> None:
        stranger = trustme.CA().issue_cert("client@stranger.example")
        self.contexts = {
            kind: client_context_for(self.ca, self.version) for kind in ("missing", "untrusted")
        }
        stranger.configure_cert(self.contexts["untrusted"])
        connection = TLSConnection(self.contexts["missing"], server_hostname=NAME)
        self.hello = connection.data_to_send()

    async def _connect(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(HOST, self.port)

    async def _say(self, data: bytes) -> None:
        """Send something, and nothing more; wait until the server has had enough."""
        async with await self._connect() as tcp:
            # The server may be through with us while we send.
            with suppress(trio.BrokenResourceError):
                await tcp.send_all(data)
                await tcp.send_eof()
                async for _ in tcp:
                    pass

    async def scan(self, _: int) -> None:
        await (await self._connect()).aclose()

    async def plain_http(self, number: int) -> None:
        await self._say(b"GET /%d HTTP/1.1\r\nHost: a.example\r\n\r\n" % number)

    async def random_bytes(self, number: int) -> None:
        source = random.Random(number)
        await self._say(source.randbytes(source.randrange(1, 3000)))

    async def cut_hello(self, number: int) -> None:
        await self._say(self.hello[: number % len(self.hello)])

    async def reset(self, number: int) -> None:
        tcp = await self._connect()
        await tcp.send_all(self.hello[: number % len(self.hello)])
        reset_when_closed(tcp)
        await tcp.aclose()

    async def without_end(self, number: int) -> None:
        async with await self._connect() as tcp:
            await tcp.send_all(self.hello[: number % len(self.hello)])
            assert await tcp.receive_some() == b""  # when the server has had enough

    async def bad_certificate(self, kind: str, _: int) -> None:
        stream = TLSStream(await self._connect(), self.contexts[kind], server_hostname=NAME)
        async with stream:
            try:
                await stream.do_handshake()
                await stream.receive_some()
            except PeerAlertError as exc:
                self.alerts[exc.alert] += 1


@attrs.define(eq=False)
class GoodClients:
    """They come and go, and ask all the time."""

    port: int
    connector: TLSConnector
    answered: int = 0
    connected: int = 0
    may_end: bool = False

    async def run(self, number: int) -> None:
        while not self.may_end:
            with trio.fail_after(60):
                async with await self.connector.connect(HOST, self.port) as stream:
                    self.connected += 1
                    for turn in range(10):
                        request = b"request %d of client %d" % (turn, number)
                        await stream.send_all(request)
                        answer = b""
                        while len(answer) < len(request):
                            answer += await stream.receive_some()
                        assert answer == request
                        self.answered += 1


async def attack(attacks: Sequence[Callable[[], Awaitable[None]]], at_once: int) -> None:
    """Go through all attacks, some at once."""
    left = iter(attacks)

    async def some() -> None:
        for one in left:
            await one()

    async with trio.open_nursery() as nursery:
        for _ in range(at_once):
            nursery.start_soon(some)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", ["tls13", "tls12"])
async def test_not_one_good_request_fails(
    name: str,
    ca: trustme.CA,
    server_cert: trustme.LeafCert,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
    stride: int,
) -> None:
    version = VERSIONS[name]
    # 10,000 connections with TLS 1.3; what differs in 1.2 are certificates.
    share = 1 if name == "tls13" and stride == 1 else 10
    mock_clock.rate = 1
    caplog.set_level(logging.DEBUG, "trio_tlsbio.server")
    server_context = server_context_for(server_cert, version)
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    client_context = client_context_for(ca, version)
    ca.issue_cert("client@good.example").configure_cert(client_context)
    monitor = ServerMonitor()

    async with trio.open_nursery() as nursery:
        serve = partial(serve_tls_over_tcp, echo, 0, server_context, host=HOST)
        (listener,) = await nursery.start(
            partial(serve, handshake_timeout=TIMEOUT, monitor=monitor)
        )
        port = listener.transport_listener.socket.getsockname()[1]
        attackers = Attackers(port, ca, version)
        good = GoodClients(port, TLSConnector(ssl_context=client_context))
        counts: dict[Attack, int] = {
            attackers.scan: 1900 // share,
            attackers.plain_http: 1900 // share,
            attackers.random_bytes: 1900 // share,
            # At every offset, more than once.
            attackers.cut_hello: max(1900 // share, len(attackers.hello)),
            attackers.reset: 1300 // share,
            partial(attackers.bad_certificate, "missing"): 300 // share,
            partial(attackers.bad_certificate, "untrusted"): 300 // share,
        }
        attacks = [
            partial(kind, number) for kind, count in counts.items() for number in range(count)
        ]
        random.Random(1).shuffle(attacks)
        async with trio.open_nursery() as endless:
            for number in range(500 // share):
                endless.start_soon(attackers.without_end, number)
            async with trio.open_nursery() as clients:
                for number in range(50):
                    clients.start_soon(good.run, number)
                await attack(attacks, at_once=400)
                good.may_end = True
            mock_clock.jump(TIMEOUT)  # the time of those that never end is over
        with trio.fail_after(60):
            while monitor.statistics().active:
                await trio.lowlevel.checkpoint()
        statistics = monitor.statistics()
        nursery.cancel_scope.cancel()

    failed = dict(statistics.failed)
    hostile = [counts[kind] for kind in counts]
    assert good.answered == 10 * good.connected
    assert good.answered > 50 * 10
    assert statistics.established == good.connected
    assert statistics.broken == {}
    assert statistics.accepted == good.connected + sum(hostile) + 500 // share
    assert sum(failed.values()) == sum(hostile) + 500 // share
    assert failed.pop("handshake_timeout") == 500 // share
    assert failed.pop("http_request") == 1900 // share
    assert failed.pop("connection_reset") == 1300 // share
    assert failed.pop("peer_did_not_return_a_certificate") == 300 // share
    assert failed.pop("certificate_verify_failed") == 300 // share
    assert failed.pop("truncated") >= counts[attackers.scan] + counts[attackers.cut_hello]
    # The rest are random bytes.
    assert sum(failed.values()) <= counts[attackers.random_bytes]
    assert "other" not in failed
    # One line for each, with peer and reason.
    assert len(caplog.records) == sum(statistics.failed.values())
    # And they hear why.
    missing = "certificate_required" if name == "tls13" else "handshake_failure"
    assert attackers.alerts == {missing: 300 // share, "unknown_ca": 300 // share}
    print(good.connected, good.answered, statistics)
