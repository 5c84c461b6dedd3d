"""The programs of docs/examples run, and do what they are there for."""

from __future__ import annotations

import hashlib
import logging
import re
import signal
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from cryptography import x509

import trio_tlsbio
import trio_tlsbio.testing
from tests.docblocks import example
from tests.hellos import hello_of
from tests.helpers import DOCS, HOST, NAME, ROOT, client_context_for, has_psk, port_of, serving
from trio_tlsbio import (
    ClientHello,
    PeerName,
    ReloadingContext,
    SessionCache,
    TLSStream,
    open_tls_over_tcp_listeners,
    open_tls_over_tcp_stream,
)


async def test_client_and_server(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with serving(example("server").echo, server_context) as port:
        question = bytes(range(256)) * 100
        assert await example("client").ask(HOST, port, question, client_context) == question


async def test_server_survives_a_client_that_vanishes(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    server = example("server")
    ended = trio.Event()

    async def echo(stream: TLSStream[trio.SocketStream]) -> None:
        try:
            await server.echo(stream)
        finally:
            ended.set()

    async with serving(echo, server_context) as port:
        tcp_stream = await trio.open_tcp_stream(HOST, port)
        stream = TLSStream(tcp_stream, client_context, server_hostname=HOST)
        await stream.do_handshake()
        await tcp_stream.aclose()
        await ended.wait()
        assert await example("client").ask(HOST, port, b"hello", client_context) == b"hello"
    assert "connection from" in caplog.text


async def test_resume(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving(example("server").echo, server_context) as port:
        await example("resume").talk_twice(HOST, port, client_context)
    assert capsys.readouterr().out.split("\n") == ["full handshake", "resumed", ""]


async def test_connector(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    capsys: pytest.CaptureFixture[str],
) -> None:
    connector = trio_tlsbio.TLSConnector(ssl_context=client_context)
    async with serving(example("server").echo, server_context) as port:
        await example("connector").ask_often(connector, HOST, port, [b"one", b"two"])
    assert capsys.readouterr().out.splitlines() == ["b'one' full handshake", "b'two' resumed"]


async def test_reconnecting(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    capsys: pytest.CaptureFixture[str],
) -> None:
    connections = 0

    async def echo(stream: TLSStream[trio.SocketStream]) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await stream.transport_stream.aclose()
        else:
            await example("server").echo(stream)

    async with serving(echo, server_context) as port:
        answer = await example("reconnecting").ask(HOST, port, b"hello", client_context)
    assert answer == b"hello"
    assert connections == 2
    assert capsys.readouterr().out.startswith("once more: ")


async def test_deadline(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    deadline: Any = example("deadline")
    data = bytes(range(256)) * 100_000
    turns: list[int] = []
    first_turn_over = trio.Event()

    async def send_for(*args: Any, send_for: Any = deadline.send_for) -> int:
        count: int = await send_for(*args)
        turns.append(count)
        first_turn_over.set()
        return count

    async def sink(stream: TLSStream[trio.SocketStream]) -> None:
        async with stream:
            await first_turn_over.wait()  # nothing was read, so it is not the last one
            received = b"".join([chunk async for chunk in stream])
            await stream.send_all(b"all of it" if received == data else b"something else")

    deadline.send_for = send_for
    async with serving(sink, server_context) as port:
        assert await deadline.upload(HOST, port, data, client_context) == b"all of it"
    assert len(turns) > 1
    assert sum(turns) == len(data)


async def test_pumped(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    transport, server_transport = trio.testing.memory_stream_pair()
    server_stream = TLSStream(server_transport, server_context, server_side=True)

    async def serve() -> None:
        async with server_stream:
            await example("server").echo(server_stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        answer = await example("pumped").ask(transport, NAME, b"hello", client_context)
    assert answer == b"hello"


async def test_blocking(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async with serving(example("server").echo, server_context) as port:
        question = b"hello\n" * 10
        ask = example("blocking").ask
        answer = await trio.to_thread.run_sync(ask, HOST, port, question, client_context)
    assert answer == question


async def test_blocking_tells_the_server_why(server_context: ssl.SSLContext) -> None:
    logged, told = trio.open_memory_channel[str](1)

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            logged.send_nowait(record.getMessage())

    handler = Handler()
    logger = logging.getLogger("trio_tlsbio.server")
    logger.addHandler(handler)
    try:
        async with serving(example("server").echo, server_context) as port:
            ask = partial(example("blocking").ask, HOST, port, b"", ssl.create_default_context())
            with pytest.raises(trio_tlsbio.CertificateError):
                await trio.to_thread.run_sync(ask)
            assert "unknown_ca" in await told.receive()
    finally:
        logger.removeHandler(handler)


@pytest.mark.parametrize("seconds", [1000, 0])
async def test_draining(
    seconds: float, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    listeners = await open_tls_over_tcp_listeners(0, server_context, host=HOST)
    connect = partial(
        open_tls_over_tcp_stream, HOST, port_of(listeners), ssl_context=client_context
    )
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(example("draining").serve, listeners, seconds)
            async with await connect() as idle, await connect() as busy:
                await idle.send_all(b"hello\n")
                assert await idle.receive_some() == b"HELLO\n"
                await busy.send_all(b"hello\ngood")
                assert await busy.receive_some() == b"HELLO\n"
                signal.raise_signal(signal.SIGTERM)
                assert await idle.receive_some() == b""
                if seconds:
                    await busy.send_all(b"bye\n")
                    assert await busy.receive_some() == b"GOODBYE\n"
                assert await busy.receive_some() == b""
    with pytest.raises(OSError, match="connect"):
        await connect()


class Chatter:
    """A client of the chat, which reads line by line."""

    def __init__(self, stream: TLSStream[Any]) -> None:
        self.stream = stream
        self.rest = b""

    async def say(self, line: str) -> None:
        await self.stream.send_all(line.encode() + b"\n")

    async def hear(self) -> str | None:
        """Return the next line, or None at the end."""
        while b"\n" not in self.rest:
            chunk = await self.stream.receive_some()
            if not chunk:
                return None
            self.rest += chunk
        line, _, self.rest = self.rest.partition(b"\n")
        return line.decode()


@pytest.fixture
def chat_contexts(ca: trustme.CA, server_context: ssl.SSLContext) -> dict[str, ssl.SSLContext]:
    """The contexts of the chat's clients; its server asks for their certificates."""
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    contexts = {}
    for name in ("alice", "bob", "carol"):
        contexts[name] = client_context_for(ca, server_context.minimum_version)
        ca.issue_cert(f"{name}@chat.example").configure_cert(contexts[name])
    contexts["dave"] = client_context_for(ca, server_context.minimum_version)
    ca.issue_cert("dave.example").configure_cert(contexts["dave"])
    return contexts


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([PeerName("DNS", "a.example"), PeerName("email", "a@chat.example")], "a@chat.example"),
        ([PeerName("email", "eve joins\na@chat.example: hi")], None),
        ([PeerName("email", "a@chat.example: hi")], None),
        ([PeerName("URI", "a@chat.example")], None),
        ([], None),
    ],
)
def test_names_in_the_chat(names: list[PeerName], expected: str | None) -> None:
    stream = SimpleNamespace(handshake=SimpleNamespace(peer_names=names))
    assert example("chat").name_of(stream) == expected


async def test_chat(
    chat_contexts: dict[str, ssl.SSLContext], server_context: ssl.SSLContext
) -> None:
    listeners = await open_tls_over_tcp_listeners(0, server_context, host=HOST)

    async def connect(name: str) -> Chatter:
        connector = trio_tlsbio.TLSConnector(ssl_context=chat_contexts[name])
        return Chatter(await connector.connect(HOST, port_of(listeners)))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(example("chat").serve, listeners)
            alice = await connect("alice")
            assert await alice.hear() == "alice@chat.example joins"
            bob = await connect("bob")
            for each in (alice, bob):
                assert await each.hear() == "bob@chat.example joins"
            await bob.stream.send_all(b"hel")
            await alice.say("hello")
            await bob.say("lo")
            heard = {await alice.hear(), await alice.hear()}
            assert heard == {"alice@chat.example: hello", "bob@chat.example: hello"}
            assert {await bob.hear(), await bob.hear()} == heard

            # One that vanishes, and one that leaves, after which it gets what was sent before.
            carol = await connect("carol")
            assert await carol.hear() == "carol@chat.example joins"
            await trio.aclose_forcefully(carol.stream.transport_stream)
            for each in (alice, bob):
                assert await each.hear() == "carol@chat.example joins"
                assert await each.hear() == "carol@chat.example leaves"
            await bob.say("bye")
            await bob.stream.send_eof()
            assert await bob.hear() == "bob@chat.example: bye"
            assert await bob.hear() is None
            assert await alice.hear() == "bob@chat.example: bye"
            assert await alice.hear() == "bob@chat.example leaves"
            await bob.stream.aclose()

            # A long line is cut, and a flood of lines is no reason to lose a client.
            await alice.say("x" * 100_000)
            assert await alice.hear() == "alice@chat.example: " + "x" * 1000
            await alice.stream.send_all(b"\n" * 150)
            for _ in range(150):
                assert await alice.hear() == "alice@chat.example: "

            # No text forges a line or changes a terminal, and neither does a name.
            await alice.say("\x1b[2Jna\rïve\u202e")
            assert await alice.hear() == "alice@chat.example: ?[2Jna?ïve?"
            dave = await connect("dave")
            assert await dave.hear() == "your certificate has no e-mail address"
            assert await dave.hear() is None
            await dave.stream.aclose()

            signal.raise_signal(signal.SIGTERM)
            while (line := await alice.hear()) is not None:
                last = line
            assert last == "the server goes down"
            await alice.stream.aclose()


async def test_a_slow_client_of_the_chat(
    chat_contexts: dict[str, ssl.SSLContext], server_context: ssl.SSLContext
) -> None:
    listener = trio_tlsbio.testing.MemoryListener(lockstep=True)
    chat = example("chat").Chat()

    async def connect(name: str) -> Chatter:
        connector = trio_tlsbio.TLSConnector(ssl_context=chat_contexts[name])
        return Chatter(await connector.wrap(await listener.connect(), HOST))

    serve = partial(
        trio_tlsbio.serve_tls_listeners,
        chat.handle,
        [trio_tlsbio.TLSListener(listener, server_context)],
        drain=chat.drain,
    )
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            alice, bob = await connect("alice"), await connect("bob")
            assert await alice.hear() == "alice@chat.example joins"
            assert await alice.hear() == "bob@chat.example joins"
            for number in range(101):
                await alice.say(str(number))
                assert await alice.hear() == f"alice@chat.example: {number}"
            assert await alice.hear() == "bob@chat.example leaves"
            with pytest.raises(trio_tlsbio.TLSError):
                _ = [chunk async for chunk in bob.stream]
            nursery.start_soon(chat.drain.end, 5)
            assert await alice.hear() is None


@pytest.mark.parametrize("text", [b"x" * 900 + b"\n", b"\n" * 16_000], ids=["long", "empty"])
async def test_a_busy_client_of_the_chat(
    text: bytes, chat_contexts: dict[str, ssl.SSLContext], server_context: ssl.SSLContext
) -> None:
    """A client that never pauses between its lines does not delay the end."""
    listeners = await open_tls_over_tcp_listeners(0, server_context, host=HOST)
    chat = example("chat").Chat()
    is_flooding = trio.Event()

    async def flood(stream: TLSStream[Any]) -> None:
        with suppress(trio_tlsbio.TLSError, trio.ClosedResourceError):
            while True:
                await stream.send_all(text)
                is_flooding.set()

    async def listen(stream: TLSStream[Any]) -> None:
        _ = [chunk async for chunk in stream]
        await stream.aclose()

    serve = partial(trio_tlsbio.serve_tls_listeners, chat.handle, listeners, drain=chat.drain)
    connector = trio_tlsbio.TLSConnector(ssl_context=chat_contexts["alice"])
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            alice = await connector.connect(HOST, port_of(listeners))
            assert await alice.receive_some() == b"alice@chat.example joins\n"
            nursery.start_soon(flood, alice)
            nursery.start_soon(listen, alice)
            await is_flooding.wait()
            assert await chat.drain.end(3) == 0


async def test_an_endless_line_in_the_chat() -> None:
    chat = example("chat").Chat()
    received = 0

    async def receive_some(_: int | None) -> bytes:
        # A receive returns the data that has arrived even if its time is over.
        nonlocal received
        received += 1
        if received == 3:
            chat.drain.begin()
        assert received < 10
        return b"x" * 900

    await chat.receive(SimpleNamespace(receive_some=receive_some), "eve")
    assert received == 3


@pytest.mark.skipif(not hasattr(signal, "SIGHUP"), reason="this system has no SIGHUP")
async def test_reloading(
    ca: trustme.CA,
    client_context: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.chdir(tmp_path)
    reloaded, reports = trio.open_memory_channel[Exception | None](1)

    def write_certificate() -> bytes:
        cert = ca.issue_cert(HOST)
        cert.private_key_pem.write_to_path("server.key")
        cert.cert_chain_pems[0].write_to_path("server.pem")
        return ssl.PEM_cert_to_DER_cert(cert.cert_chain_pems[0].bytes().decode())

    async def certificate_of(stream: TLSStream[trio.SocketStream]) -> bytes:
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"
        certificate = stream.getpeercert(binary_form=True)
        assert isinstance(certificate, bytes)
        return certificate

    old = write_certificate()
    reloading = example("reloading")
    context = ReloadingContext(reloading.make_context, on_reload=reloaded.send_nowait)
    listeners = await open_tls_over_tcp_listeners(0, context, host=HOST)
    connect = partial(
        open_tls_over_tcp_stream, HOST, port_of(listeners), ssl_context=client_context
    )
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(reloading.serve, listeners, context)
            async with await connect() as first:
                assert await certificate_of(first) == old

                new = write_certificate()
                signal.raise_signal(signal.SIGHUP)
                assert await reports.receive() is None
                async with await connect() as stream:
                    assert await certificate_of(stream) == new

                await trio.Path("server.pem").write_text("no certificate", encoding="utf-8")
                signal.raise_signal(signal.SIGHUP)
                assert await reports.receive() is not None
                assert "the old one stays" in caplog.text
                async with await connect() as stream:
                    assert await certificate_of(stream) == new
                assert await certificate_of(first) == old
            nursery.cancel_scope.cancel()


@pytest.fixture
def server_on_request(
    ca: trustme.CA, server_cert: trustme.LeafCert, tmp_path: Path, tls_version: ssl.TLSVersion
) -> ssl.SSLContext:
    """The context of docs/examples/on_request.py, with the certificates of the tests."""
    pem, authorities = tmp_path / "server.pem", tmp_path / "clients-ca.pem"
    server_cert.private_key_and_cert_chain_pem.write_to_path(str(pem))
    ca.cert_pem.write_to_path(str(authorities))
    context: ssl.SSLContext = example("on_request").make_context(pem, pem, authorities)
    context.minimum_version = context.maximum_version = tls_version
    return context


async def get(port: int, path: str, context: ssl.SSLContext, **options: Any) -> str:
    """Ask for a path by HTTP, and return the status and the text."""
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    stream = await open_tls_over_tcp_stream(HOST, port, ssl_context=context, **options)
    async with stream:
        await stream.send_all(request)
        response = b"".join([chunk async for chunk in stream]).decode()
    head, _, text = response.partition("\r\n\r\n")
    assert f"\r\nContent-Length: {len(text)}\r\n" in head
    return f"{head.split()[1]} {text}"


async def test_on_request(
    ca: trustme.CA, server_on_request: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    for_all, for_some = "200 this is for everybody\n", "200 this is for alice\n"
    refused = "403 this is for those who have a certificate\n"
    async with serving(example("on_request").answer, server_on_request) as port:
        context = client_context_for(ca, tls_version)
        assert await get(port, "/", context) == for_all
        assert await get(port, "/private", context) == refused  # it can't be asked

        context = client_context_for(ca, tls_version)
        context.post_handshake_auth = True
        assert await get(port, "/private", context) == refused  # it has none

        context = client_context_for(ca, tls_version)
        context.post_handshake_auth = True
        ca.issue_cert("alice@example.org", common_name="alice").configure_cert(context)
        cache = SessionCache()
        for _ in range(3):
            assert await get(port, "/private", context, session_cache=cache) == for_some
            assert await get(port, "/", context, session_cache=cache) == for_all
        assert context.session_stats()["hits"] == 5

        context = client_context_for(ca, tls_version)
        context.post_handshake_auth = True
        trustme.CA().issue_cert("mallory@example.org").configure_cert(context)
        with pytest.raises(trio_tlsbio.PeerAlertError, match="unknown_ca"):
            await get(port, "/private", context)
        assert await get(port, "/", client_context_for(ca, tls_version)) == for_all


async def test_metrics(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    tmp_path: Path,
) -> None:
    metrics: Any = example("metrics").Metrics()
    path = tmp_path / "tls-server.prom"
    listeners = await open_tls_over_tcp_listeners(0, server_context, host=HOST)
    connect = partial(open_tls_over_tcp_stream, HOST, port_of(listeners))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(example("metrics").serve, listeners, metrics, path)
        stream = await connect(ssl_context=ssl.create_default_context())
        with pytest.raises(trio_tlsbio.CertificateError):
            await stream.do_handshake()
        await stream.aclose()
        cache = SessionCache()
        for _ in range(2):
            async with await connect(ssl_context=client_context, session_cache=cache) as stream:
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"
        before = await trio.Path(path).read_text(encoding="utf-8")
        for listener in listeners:
            await listener.aclose()  # which ends it
    assert "tls_connections_total 0\n" in before, "it is written again after 15 seconds"
    metrics.write(path)
    lines = (await trio.Path(path).read_text(encoding="utf-8")).splitlines()
    version = {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}[tls_version]
    sums = [line for line in lines if line.startswith("tls_handshake_seconds_sum ")]
    assert float(sums[0].split()[1]) > 0
    assert [line for line in lines if line not in sums] == [
        "tls_connections_total 3",
        "tls_connections_active 0",
        "tls_handshakes_resumed_total 1",
        "tls_handshake_seconds_count 2",
        f'tls_handshakes_total{{version="{version}"}} 2',
        'tls_handshakes_failed_total{error_type="alert_unknown_ca"} 1',
    ]


@has_psk
async def test_psk(server_cert: trustme.LeafCert) -> None:
    psk: Any = example("psk")
    keys = {f"sensor-{number}": bytes([number] * 32) for number in range(5)}
    answers: dict[str, bytes] = {}

    async def ask(identity: str, key: bytes) -> None:
        answers[identity] = await psk.ask(HOST, port, psk.make_client_context(identity, key))

    async with serving(psk.greet, psk.make_server_context(keys)) as port:
        async with trio.open_nursery() as nursery:
            for identity, key in keys.items():
                nursery.start_soon(ask, identity, key)
        assert answers == {identity: f"hello, {identity}\n".encode() for identity in keys}
        with pytest.raises(trio_tlsbio.PeerAlertError, match=r"our pre-shared key \(PSK\)"):
            await ask("sensor-1", keys["sensor-2"])
        with pytest.raises(trio_tlsbio.PeerAlertError, match=r"no .* pre-shared key \(PSK\)"):
            await ask("another", keys["sensor-2"])

    impostor = psk.make_server_context({})
    server_cert.configure_cert(impostor)
    async with serving(example("server").echo, impostor) as port:
        with pytest.raises(trio_tlsbio.CertificateError):
            await ask("sensor-1", keys["sensor-1"])
        context = psk.make_client_context("sensor-1", keys["sensor-1"])
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with pytest.raises(psk.NoKeyUsedError):
            await psk.ask(HOST, port, context)


@asynccontextmanager
async def routing(backends: Mapping[str, tuple[str, int]]) -> AsyncIterator[int]:
    """Run the router; the value is its port."""
    route = partial(example("sni_router").route, backends)
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, route, 0, host=HOST))
        yield port_of(listener)
        nursery.cancel_scope.cancel()


async def test_sni_router(ca: trustme.CA, caplog: pytest.LogCaptureFixture) -> None:
    async with AsyncExitStack() as stack:
        backends = {}
        for name in "a.example", "b.example":
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            ca.issue_cert(name).configure_cert(context)
            port = await stack.enter_async_context(serving(example("server").echo, context))
            backends[name] = (HOST, port)
        (listener,) = await trio.open_tcp_listeners(0, host=HOST)
        backends["gone.example"] = (HOST, port_of(listener))
        await listener.aclose()
        port = await stack.enter_async_context(routing(backends))

        async def connect(name: str) -> TLSStream[trio.SocketStream]:
            tcp_stream = await trio.open_tcp_stream(HOST, port)
            return TLSStream(tcp_stream, client_context_for(ca), server_hostname=name)

        async def say(stream: TLSStream[trio.SocketStream], data: bytes) -> None:
            await stream.send_all(data)
            await stream.send_eof()

        data = bytes(range(256)) * 10_000
        for name in "a.example", "b.example":  # whose certificate the client verifies
            async with await connect(name) as stream, trio.open_nursery() as nursery:
                nursery.start_soon(say, stream, data)
                assert b"".join([chunk async for chunk in stream]) == data
        for name in "c.example", "gone.example":
            stream = await connect(name)
            with pytest.raises(trio_tlsbio.TLSError):
                await stream.do_handshake()
            await trio.aclose_forcefully(stream)
        tcp_stream = await trio.open_tcp_stream(HOST, port)
        await tcp_stream.send_all(b"GET / HTTP/1.1\r\n\r\n")
        with suppress(trio.BrokenResourceError):
            assert await tcp_stream.receive_some() == b""
        await tcp_stream.aclose()
    messages = [record.getMessage() for record in caplog.records if record.name == "sni_router"]
    assert messages[0] == "no backend for b'c.example'"
    assert messages[1].startswith("a client was not routed: ")
    assert messages[2:] == [
        "a client was not routed: the client did not speak TLS: it sent an HTTP request"
    ]


async def test_sni_router_waits_for_nobody(
    autojump_clock: trio.abc.Clock, caplog: pytest.LogCaptureFixture
) -> None:
    client, server = trio.testing.memory_stream_pair()
    await client.send_all(b"\x16\x03\x01")
    start = trio.current_time()
    await example("sni_router").route({}, server, timeout=10)
    assert trio.current_time() == start + 10
    assert await client.receive_some() == b""
    assert "it took too long" in caplog.text


async def test_acme_challenge(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    acme: Any = example("acme_challenge")
    challenges = acme.Challenges(server_context)
    validator = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # as an authority connects
    validator.minimum_version = validator.maximum_version = tls_version
    validator.check_hostname = False
    validator.verify_mode = ssl.CERT_NONE
    validator.set_alpn_protocols(["acme-tls/1"])

    async def validate(name: str) -> x509.Certificate:
        tcp_stream = await trio.open_tcp_stream(HOST, port)
        async with TLSStream(tcp_stream, validator, server_hostname=name) as stream:
            assert await stream.receive_some() == b""
            assert stream.selected_alpn_protocol() == "acme-tls/1"
            certificate = stream.getpeercert(binary_form=True)
            assert isinstance(certificate, bytes)
            return x509.load_der_x509_certificate(certificate)

    async with serving(acme.echo, challenges.choose) as port:
        challenges.begin("a.example", "token.thumbprint")
        extensions = {each.oid: each for each in (await validate("a.example")).extensions}
        assert len(extensions) == 2
        names = extensions[x509.oid.ExtensionOID.SUBJECT_ALTERNATIVE_NAME].value
        assert list(names) == [x509.DNSName("a.example")]
        identifier = extensions[x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")]
        assert identifier.critical
        digest = hashlib.sha256(b"token.thumbprint").digest()
        assert identifier.value.value == b"\x04\x20" + digest

        ask = partial(example("client").ask, HOST, port, b"hello", client_context)
        assert await ask() == b"hello"  # meanwhile

        challenges.end("a.example")
        for name in ("a.example", "b.example"):
            with pytest.raises(trio_tlsbio.PeerAlertError, match="unrecognized_name"):
                await validate(name)
        assert await ask() == b"hello"


class TenantClients:
    """Clients of docs/examples/on_demand.py, over memory."""

    def __init__(self, tenants: Any, client_context: ssl.SSLContext) -> None:
        self.tenants = tenants
        self.client_context = client_context
        self.answers: list[bytes] = []

    async def ask(self, name: str) -> None:
        client, server = trio.testing.memory_stream_pair()
        stream = TLSStream(client, self.client_context, server_hostname=name)

        async def serve() -> None:
            server_stream = TLSStream(server, self.tenants.choose, server_side=True)
            with suppress(trio_tlsbio.TLSError):
                await server_stream.do_handshake()
                await example("on_demand").greet(server_stream)
            await server_stream.aclose()

        async with stream, trio.open_nursery() as nursery:
            nursery.start_soon(serve)
            try:
                self.answers.append(await stream.receive_some())
            except trio_tlsbio.PeerAlertError as exc:
                self.answers.append(exc.alert.encode())


async def test_on_demand(
    ca: trustme.CA, client_context: ssl.SSLContext, autojump_clock: trio.abc.Clock
) -> None:
    fetched: list[str] = []

    async def fetch(name: str) -> bytes | None:
        fetched.append(name)
        await trio.sleep(1)
        if name == "unknown.example":
            return None
        return ca.issue_cert(name).private_key_and_cert_chain_pem.bytes()

    tenants: Any = example("on_demand").Tenants(fetch)
    clients = TenantClients(tenants, client_context)
    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for name in ["a.example"] * 5 + ["b.example"] * 5:
            nursery.start_soon(clients.ask, name)
    assert sorted(fetched) == ["a.example", "b.example"]
    assert trio.current_time() == start + 1
    assert sorted(set(clients.answers)) == [b"this is a.example\n", b"this is b.example\n"]
    assert len(clients.answers) == 10

    await clients.ask("a.example")  # it is kept
    assert trio.current_time() == start + 1
    tenants.forget("a.example")
    await clients.ask("a.example")
    assert trio.current_time() == start + 2
    assert fetched[2:] == ["a.example"]
    await clients.ask("unknown.example")
    assert clients.answers[-1] == b"unrecognized_name"


async def test_on_demand_one_that_ends_leaves_it_to_the_next(
    ca: trustme.CA, client_context: ssl.SSLContext, autojump_clock: trio.abc.Clock
) -> None:
    fetched: list[str] = []

    async def fetch(name: str) -> bytes:
        fetched.append(name)
        await trio.sleep(1)
        return ca.issue_cert(name).private_key_and_cert_chain_pem.bytes()

    tenants: Any = example("on_demand").Tenants(fetch)
    hello = ClientHello.parse(hello_of(client_context, "a.example")[5:])
    contexts: list[ssl.SSLContext] = []

    async def choose(timeout: float) -> None:
        with trio.move_on_after(timeout):
            contexts.append(await tenants.choose(hello))

    start = trio.current_time()
    async with trio.open_nursery() as nursery:
        for timeout in (0.5, 10, 10):
            nursery.start_soon(choose, timeout)
            await trio.testing.wait_all_tasks_blocked()
    assert trio.current_time() == start + 1.5
    assert len(fetched) == 2
    assert len(contexts) == 2
    assert contexts[0] is contexts[1]


async def test_on_demand_reads_files(
    ca: trustme.CA, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tenants").mkdir()
    pem = ca.issue_cert("a.example").private_key_and_cert_chain_pem
    pem.write_to_path(str(tmp_path / "tenants" / "a.example.pem"))
    fetch = example("on_demand").fetch_from_folder
    assert await fetch("a.example") == pem.bytes()
    assert await fetch("b.example") is None


# With how many tests are in them.
TEST_EXAMPLES = {
    "recording": 1,
    "testing_faulty_server": 1,
    "testing_server": 1,
    "testing_slow_client": 1,
    "testing_sockets": 1,
    "testing_tls": 5,
    "testing_core": 1,
}


@pytest.fixture(scope="module")
def report() -> str:
    """What pytest tells of them, one line for each test; none of them waits."""
    paths = [str(DOCS / "examples" / f"{name}.py") for name in TEST_EXAMPLES]
    command = [sys.executable, "-m", "pytest", "-q", "-rA", "-n0", "-p", "no:cacheprovider"]
    result = subprocess.run(
        [*command, "-o", "timeout=20", *paths],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@pytest.mark.parametrize("name", list(TEST_EXAMPLES))
def test_tests(name: str, report: str) -> None:
    passed = re.findall(rf"^PASSED .*\b{name}\.py::", report, re.MULTILINE)
    assert len(passed) == TEST_EXAMPLES[name]


def test_every_example_has_a_test() -> None:
    # By its name in one of the tests. Those of the tutorial are run by test_tutorial.py.
    tests = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py"))
    for path in (DOCS / "examples").glob("*.py"):
        is_tested = re.search(rf'["/]{path.stem}(\.py)?\b', tests) is not None
        assert is_tested or path.stem.startswith("tutorial_"), path.name
