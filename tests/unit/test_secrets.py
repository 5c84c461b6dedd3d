"""No key, ticket or plaintext is shown: not by a repr, an error, a log or a command's output."""

from __future__ import annotations

import base64
import copy
import importlib
import logging
import pickle
import pprint
import random
import re
import ssl
import traceback
from collections import deque
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme
from cryptography.hazmat.primitives import serialization

from tests.commands import run_here, serve
from tests.helpers import (
    NAME,
    both_handshakes,
    client_context_for,
    port_of,
    server_context_for,
    shake_hands,
    tcp_pair,
)
from trio_tlsbio import (
    ReloadingContext,
    SessionCache,
    TLSConnection,
    TLSConnector,
    TLSError,
    TLSStream,
    load_identity,
    open_pump,
    serve_tls_over_tcp,
    start_tls,
)
from trio_tlsbio.monitoring import ServerEvent, ServerMonitor
from trio_tlsbio.testing import (
    CertificateAuthority,
    Corrupt,
    Cut,
    FaultyStream,
    RecordedStream,
    Reset,
    exchange,
    tls_stream_pair,
    transfer,
)
from trio_tlsbio.ticket_keys import TicketKeys

# No literal, so that a traceback that quotes this line does not have it.
PLAINTEXT = "-".join(("a", "password", "nobody", "is", "to", "see")).encode()

################################################################
# What is secret, and how it would look
################################################################


def looks_of(secret: bytes) -> Iterator[str]:
    """How a secret may look in a text, and a piece of it that was cut short."""
    for piece in (secret[:12], secret[len(secret) // 2 :][:12], secret[-12:]):
        yield repr(piece)[2:-1]
        yield piece.hex()
        yield piece.hex().upper()
        yield piece.hex(" ")
        yield piece.hex(":")
        yield ", ".join(map(str, piece))
    yield base64.b64encode(secret).decode()[:16]


@attrs.define(eq=False, repr=False)
class Secrets:
    """All that must not be seen, by what it is."""

    _by_name: dict[str, list[bytes]] = attrs.field(factory=dict)

    def add(self, name: str, *secrets: bytes) -> None:
        assert all(len(secret) >= 12 for secret in secrets)
        self._by_name.setdefault(name, []).extend(secrets)

    def add_keys_of(self, keylog: Path) -> None:
        """What the format of SSLKEYLOGFILE has: a label, a number that is public, a secret."""
        for line in keylog.read_text().splitlines():
            if not line.startswith("#"):
                label, _, secret = line.split()
                self.add(label, bytes.fromhex(secret))

    def add_private_key(self, pem: bytes) -> None:
        key: Any = serialization.load_pem_private_key(pem, None)
        self.add("private key", key.private_numbers().private_value.to_bytes(32))
        # The lines after it have the public key too.
        self.add("private key's PEM", pem.splitlines()[1])

    def names(self) -> set[str]:
        return set(self._by_name)

    def check(self, text: str) -> None:
        """See that a text has none of them. A failure does not show the text."""
        for name, secrets in self._by_name.items():
            for secret in secrets:
                for look in looks_of(secret):
                    assert look not in text, f"{name}: {text[max(0, text.index(look) - 200) :]}"


@pytest.fixture
def secrets() -> Secrets:
    secrets = Secrets()
    secrets.add("plaintext", PLAINTEXT)
    return secrets


################################################################
# What is shown
################################################################


def parts_of(value: object) -> Iterator[object]:
    """What an object of ours refers to, by attributes and containers."""
    if isinstance(value, Mapping):
        yield from value.keys()
        yield from value.values()
    elif isinstance(value, tuple | list | set | frozenset | deque):
        yield from value
    elif type(value).__module__.startswith("trio_tlsbio"):
        names = set(getattr(value, "__dict__", ()))
        for base in type(value).__mro__:
            slots = base.__dict__.get("__slots__", ())
            names.update((slots,) if isinstance(slots, str) else slots)
        for name in names - {"__weakref__"}:
            if hasattr(value, name):
                yield getattr(value, name)


def ours_in(values: Iterable[object]) -> Iterator[object]:
    """All objects of this package that can be reached from some, each once."""
    seen: dict[int, object] = {}
    left = list(values)
    while left:
        value = left.pop()
        if id(value) in seen or isinstance(value, (str, bytes, bytearray, memoryview)):
            continue
        seen[id(value)] = value
        if type(value).__module__.startswith("trio_tlsbio"):
            yield value
        left += parts_of(value)


def check_shown(secrets: Secrets, *values: object) -> set[str]:
    """See that nothing shows in what stands for objects. Return the names of their classes."""
    names = set()
    for value in ours_in(values):
        names.add(type(value).__name__)
        secrets.check("\n".join((repr(value), str(value), f"{value}", pprint.pformat(value))))
    return names


def check_value(secrets: Secrets, value: Any) -> None:
    """A value is there to be logged, whole."""
    secrets.check(repr(attrs.asdict(value)))
    secrets.check(repr(attrs.astuple(value)))
    check_shown(secrets, value)


def causes_of(exc: BaseException) -> Iterator[BaseException]:
    seen: list[BaseException] = []
    left: list[BaseException | None] = [exc]
    while left:
        if (link := left.pop()) is not None and link not in seen:
            seen.append(link)
            left += (link.__cause__, link.__context__)
            left += getattr(link, "exceptions", ())
    yield from seen


def check_error(secrets: Secrets, exc: BaseException) -> None:
    """See that an exception shows nothing, however it is looked at."""
    for link in causes_of(exc):
        secrets.check("\n".join((repr(link), str(link), repr(link.args), repr(vars(link)))))
        secrets.check(repr(getattr(link, "__notes__", ())))
    secrets.check("".join(traceback.format_exception(exc)))
    if type(exc).__module__.startswith("trio_tlsbio"):
        secrets.check(repr(pickle.loads(pickle.dumps(exc))))
    # Tools may record the local variables of each frame. Bytes that are on their way are there, in
    # our frames as in the program's; our objects don't show theirs.
    with_locals = traceback.TracebackException.from_exception(exc, capture_locals=True)
    for frame in with_locals.stack:
        for shown in (frame.locals or {}).values():
            if not re.match(r"b['\"]|bytearray\(|\[b['\"]", shown):
                secrets.check(shown)


def check_logs(secrets: Secrets, caplog: pytest.LogCaptureFixture) -> None:
    formatter = logging.Formatter("%(name)s %(levelname)s %(message)s")
    for record in caplog.records:
        secrets.check(formatter.format(record))
        secrets.check(repr(vars(record)))


def test_the_check_can_fail(secrets: Secrets) -> None:
    secrets.add("key", bytes(range(100, 148)))
    for text in (
        f"{PLAINTEXT!r}",
        f"<Thing {PLAINTEXT[:20]!r}...>",
        bytes(range(100, 148)).hex(),
        repr(list(range(100, 148))),
    ):
        with pytest.raises(AssertionError):
            secrets.check(text)
    careless = attrs.make_class("Careless", ["buffer"])
    careless.__module__ = "trio_tlsbio.careless"
    with pytest.raises(AssertionError):
        check_shown(secrets, [{"a": careless(bytearray(PLAINTEXT))}])
    with pytest.raises(AssertionError):
        check_error(secrets, ValueError(PLAINTEXT))


################################################################
# Connections that go well
################################################################


@attrs.frozen
class Sides:
    """Contexts with certificates on both sides, whose secrets are known."""

    client: ssl.SSLContext
    server: ssl.SSLContext
    keylog: Path


@pytest.fixture
def sides(ca: trustme.CA, tls_version: ssl.TLSVersion, tmp_path: Path, secrets: Secrets) -> Sides:
    client_cert = ca.issue_cert("client@client.example")
    server_cert = ca.issue_cert(NAME, "127.0.0.1")
    for cert in (client_cert, server_cert):
        secrets.add_private_key(cert.private_key_pem.bytes())
    client = client_context_for(ca, tls_version)
    client_cert.configure_cert(client)
    client.keylog_filename = str(tmp_path / "keys.log")
    server = server_context_for(server_cert, tls_version)
    ca.configure_trust(server)
    server.verify_mode = ssl.CERT_REQUIRED
    return Sides(client, server, tmp_path / "keys.log")


def ticket_in(client_hello: bytes) -> bytes:
    """Find the ticket in a ClientHello (RFC 9846 section 4.2.2), which is one record."""
    at = 5 + 4 + 2 + 32
    at += 1 + client_hello[at]  # the session's id
    at += 2 + int.from_bytes(client_hello[at : at + 2])  # cipher suites
    at += 1 + client_hello[at]  # compression methods
    at += 2
    while at < len(client_hello):
        kind, size = (int.from_bytes(client_hello[at + i : at + i + 2]) for i in (0, 2))
        body = client_hello[at + 4 : at + 4 + size]
        at += 4 + size
        if kind == 35 and body:  # session_ticket, RFC 5077
            return body
        if kind == 41:  # pre_shared_key: a list of identities
            return body[4 : 4 + int.from_bytes(body[2:4])]
    raise AssertionError("it offers no session")


def test_the_core(sides: Sides, tls_version: ssl.TLSVersion, secrets: Secrets) -> None:
    client = TLSConnection(sides.client, server_hostname=NAME, collect_sessions=True)
    server = TLSConnection(sides.server, server_side=True)
    client.send(PLAINTEXT)  # held
    assert client.outbox.held
    check_shown(secrets, client)
    exchange(client, server)
    server.look_ahead()
    assert server.inbox.plaintext
    server.send(PLAINTEXT)
    transfer(server, client)
    client.look_ahead()
    sessions = client.new_sessions()
    assert sessions
    secrets.add_keys_of(sides.keylog)
    resuming = TLSConnection(sides.client, server_hostname=NAME, session=sessions[-1])
    secrets.add("ticket", ticket_in(b"".join(map(bytes, resuming.unsent))))
    assert secrets.names() >= {
        "plaintext",
        "private key",
        "ticket",
        "CLIENT_TRAFFIC_SECRET_0" if tls_version is ssl.TLSVersion.TLSv1_3 else "CLIENT_RANDOM",
    }
    cache = SessionCache()
    for session in sessions:
        cache.put(session, 443, now=0)
    names = check_shown(secrets, client, server, sessions, cache, resuming, resuming.unsent)
    assert names >= {"TLSConnection", "TLSSession", "SessionCache", "Records", "HandshakeInfo"}
    check_value(secrets, client.handshake)
    check_value(secrets, cache.statistics())
    for session in sessions:
        secrets.check(repr(attrs.asdict(session)))
    secrets.check(repr([sides.client, sides.server, client.ssl_object, client.session]))
    # What is offered again, and what comes of it.
    second = TLSConnection(sides.server, server_side=True)
    shake_hands(resuming, second)
    assert resuming.handshake is not None
    assert resuming.handshake.session_reused
    secrets.add_keys_of(sides.keylog)
    check_shown(secrets, resuming, second)
    assert server.receive() == PLAINTEXT, "it was there all the time"
    assert client.receive() == PLAINTEXT


async def test_clients_and_servers(
    sides: Sides, secrets: Secrets, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    events: list[ServerEvent] = []
    streams: list[TLSStream[trio.SocketStream]] = []
    errors: list[Exception] = []
    monitor = ServerMonitor(events.append)
    connector = TLSConnector(ssl_context=sides.client)

    async def handler(stream: TLSStream[trio.SocketStream]) -> None:
        streams.append(stream)
        async for data in stream:
            await stream.send_all(data)
            if len(streams) == 4:
                raise LookupError("nothing is found")

    def on_error(stream: TLSStream[trio.SocketStream], exc: Exception) -> None:
        errors.append(exc)

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            listeners = await nursery.start(
                partial(
                    serve_tls_over_tcp,
                    handler,
                    0,
                    sides.server,
                    host="127.0.0.1",
                    monitor=monitor,
                    on_error=on_error,
                )
            )
            port = port_of(listeners)
            for _ in range(4):
                async with await connector.connect("127.0.0.1", port) as client:
                    await client.send_all(PLAINTEXT + PLAINTEXT)
                    assert await client.receive_some(1)
                    assert client.bytes_committed
                    names = check_shown(secrets, client, streams, connector, listeners, monitor)
            assert client.session_reused
            connecting = connector.reconnect("127.0.0.1", port)
            async for client in connecting:
                async with client:
                    check_shown(secrets, connecting, client)
                break
            # A client that takes it for a plaintext port.
            plain = await trio.open_tcp_stream("127.0.0.1", port)
            async with plain:
                await plain.send_all(b"GET /" + PLAINTEXT + b" HTTP/1.1\r\n\r\n")
                while await plain.receive_some():
                    pass
            await trio.testing.wait_all_tasks_blocked()
            nursery.cancel_scope.cancel()
    secrets.add_keys_of(sides.keylog)
    assert names >= {"TLSConnector", "TLSListener", "ServerMonitor", "TLSStream", "SessionCache"}
    names = check_shown(secrets, events, streams, connector, connecting, listeners, monitor)
    assert names >= {"ConnectionAccepted", "HandshakeCompleted", "ConnectionClosed"}
    assert "HandshakeFailed" in names
    for event in events:
        check_value(secrets, event)
    check_value(secrets, monitor.statistics())
    assert [type(error) for error in errors] == [LookupError]
    for error in errors:
        check_error(secrets, error)
    assert "an HTTP request" in caplog.text
    check_logs(secrets, caplog)


async def test_streams_of_all_kinds(sides: Sides, secrets: Secrets) -> None:
    """What they have in their buffers does not show."""
    ours, theirs = trio.testing.memory_stream_pair()
    recorded = RecordedStream(ours)
    faulty = FaultyStream(theirs, receiving=[Corrupt(1_000_000)])
    client, server = tls_stream_pair(
        (recorded, faulty), sides.client, sides.server, server_hostname=NAME
    )
    with trio.fail_after(10):
        await both_handshakes(client, server)
        await client.send_all(PLAINTEXT)
        assert await server.receive_some(1) == PLAINTEXT[:1]
        # In plaintext, over a transport that takes nothing yet.
        stuck, _ = trio.testing.lockstep_stream_pair()
        async with open_pump(stuck) as pump:
            await pump.send_all(PLAINTEXT)
            inner = RecordedStream(pump)
            await inner.send_all(PLAINTEXT)
            faulty_pump = FaultyStream(pump)
            names = check_shown(secrets, pump, inner, faulty_pump)
            pump_names = names
            with trio.CancelScope() as scope:
                scope.cancel()
                await pump.aclose()
    secrets.add_keys_of(sides.keylog)
    assert pump_names >= {"PumpedStream", "RecordedStream", "Conversation", "Passage"}
    names = check_shown(secrets, client, server)
    assert names >= {"RecordedStream", "Conversation", "FaultyStream", "FaultyLine", "Passage"}
    for flight in recorded.conversation.flights:
        check_value(secrets, flight)
        for record in flight.records:
            check_value(secrets, record)


def test_authorities_for_tests(secrets: Secrets) -> None:
    authority = CertificateAuthority()
    certificate = authority.issue(NAME)
    secrets.add_private_key(certificate.private_key_pem)
    check_shown(secrets, authority, certificate)


@pytest.mark.parametrize("library", ["httpx", "httpx2"])
async def test_http(library: str, ca: trustme.CA, secrets: Secrets) -> None:
    """Headers and a proxy's password are in their pools, which don't show either."""
    client_library: Any = pytest.importorskip(library, reason=f"{library} is not installed")
    adapter = importlib.import_module(f"trio_tlsbio.{library}")

    async def handler(stream: TLSStream[trio.SocketStream]) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await stream.receive_some()

    context = client_context_for(ca)
    password = PLAINTEXT.decode()
    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            cert = ca.issue_cert("127.0.0.1")
            listeners = await nursery.start(
                partial(serve_tls_over_tcp, handler, 0, server_context_for(cert), host="127.0.0.1")
            )
            transport = adapter.TLSTransport(verify=context)
            async with client_library.AsyncClient(transport=transport) as client:
                response = await client.get(
                    f"https://127.0.0.1:{port_of(listeners)}/", auth=("user", password)
                )
                assert response.text == "ok"
                network_stream = response.extensions["network_stream"]
                names = check_shown(secrets, transport, network_stream)
                secrets.check(repr(transport._pools))
            with pytest.raises(client_library.ConnectError) as caught:
                async with client_library.AsyncClient(
                    transport=adapter.TLSTransport(verify=ssl.create_default_context())
                ) as client:
                    await client.get(
                        f"https://127.0.0.1:{port_of(listeners)}/",
                        headers={"Authorization": password},
                    )
            nursery.cancel_scope.cancel()
    assert names >= {"TLSTransport", "SessionCache"}
    for link in causes_of(caught.value):
        secrets.check(f"{link} {link!r} {link.args}")
    secrets.check("".join(traceback.format_exception(caught.value)))
    proxied = adapter.TLSTransport(
        verify=context, proxy=client_library.Proxy("http://localhost:1", auth=("user", password))
    )
    check_shown(secrets, proxied)
    secrets.check(repr(proxied._pools))


################################################################
# Keys and identities that are given
################################################################


def test_ticket_keys(
    secrets: Secrets, sides: Sides, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    secret = random.Random(0).randbytes(80)
    secrets.add("ticket keys", secret)
    path = tmp_path / "tickets.key"
    path.touch(mode=0o600)
    path.write_bytes(secret)
    keys = TicketKeys.from_file(path)
    shown: list[object] = [keys]
    if TicketKeys.is_available():
        # In use are others, which are derived: they are OpenSSL's alone.
        current = ReloadingContext(lambda: sides.server, ticket_keys=path)
        shown.append(current)
        path.write_bytes(secret + b"!")
        assert not current.reload()
        check_logs(secrets, caplog)
    assert "TicketKeys" in check_shown(secrets, *shown)
    path.write_bytes(secret + b"!")
    with pytest.raises(ValueError, match="has 81 bytes") as caught:
        TicketKeys.from_file(path)
    check_error(secrets, caught.value)


def test_identities(secrets: Secrets, ca: trustme.CA) -> None:
    cert, other = ca.issue_cert(NAME), ca.issue_cert(NAME)
    secrets.add_private_key(cert.private_key_pem.bytes())
    for certificate, key in (
        (other.cert_chain_pems[0].bytes(), cert.private_key_pem.bytes()),
        (b"", cert.private_key_pem.bytes()),
        (cert.private_key_pem.bytes(), cert.private_key_pem.bytes()),
        (cert.cert_chain_pems[0].bytes(), cert.private_key_pem.bytes()[:-40]),
    ):
        with pytest.raises(ValueError, match=r".") as caught:
            load_identity(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), certificate, key)
        check_error(secrets, caught.value)


################################################################
# Connections that fail
################################################################


async def _use(stream: TLSStream[Any], errors: list[BaseException]) -> None:
    try:
        await stream.send_all(PLAINTEXT)
        async for _ in stream:
            await stream.send_all(PLAINTEXT)
        await stream.unwrap()
    except Exception as exc:
        errors.append(exc)
    finally:
        await trio.aclose_forcefully(stream)


FAULTS: dict[str, dict[str, list[Any]]] = {
    "corrupt handshake": {"receiving": [Corrupt(300)]},
    "cut handshake": {"receiving": [Cut(300)]},
    "corrupt data": {"receiving": [Corrupt(8000)]},
    "cut data": {"receiving": [Cut(8000)]},
    "reset": {"receiving": [Reset(8000)]},
    "reset while sending": {"sending": [Reset(8000)]},
}


@pytest.mark.parametrize("faults", FAULTS.values(), ids=list(FAULTS))
async def test_faults(
    faults: dict[str, list[Any]],
    sides: Sides,
    secrets: Secrets,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG)
    errors: list[BaseException] = []
    with trio.fail_after(10):
        async with tcp_pair() as (ours, theirs):
            client, server = tls_stream_pair(
                (FaultyStream(ours, **faults), theirs),
                sides.client,
                sides.server,
                server_hostname=NAME,
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_use, client, errors)
                nursery.start_soon(_use, server, errors)
    if sides.keylog.exists():
        secrets.add_keys_of(sides.keylog)
    assert errors
    for error in errors:
        check_error(secrets, error)
    check_shown(secrets, client, server)
    check_logs(secrets, caplog)


async def test_refusals(sides: Sides, secrets: Secrets) -> None:
    """Nobody is trusted, by one side or the other."""
    errors: list[BaseException] = []
    for hostname, context in (
        ("other.example", sides.client),
        (NAME, client_context_for(trustme.CA())),
        (NAME, client_context_for(trustme.CA(), ssl.TLSVersion.TLSv1_2)),
    ):
        with trio.fail_after(10):
            client, server = tls_stream_pair(
                trio.testing.memory_stream_pair(), context, sides.server, server_hostname=hostname
            )
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_use, client, errors)
                nursery.start_soon(_use, server, errors)
    assert len(errors) == 6
    for error in errors:
        assert isinstance(error, TLSError)
        check_error(secrets, error)


Provoke = Callable[[TLSStream[Any], TLSStream[Any]], Awaitable[object]]


async def _begin_tls_too_late(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    context = client.connection.ssl_object.context
    stream = client.transport_stream
    await start_tls(stream, context, buffered=PLAINTEXT, server_hostname=NAME)


async def _speak_no_tls(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    await server.transport_stream.send_all(PLAINTEXT)
    await client.send_all(PLAINTEXT)


async def _wait_in_vain(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    late = TLSStream(
        client.transport_stream,
        client.connection.ssl_object.context,
        server_hostname=NAME,
        handshake_timeout=0.001,
    )
    await late.send_all(PLAINTEXT)


async def _unwrap_too_early(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    await both_handshakes(client, server)
    await server.send_all(PLAINTEXT)
    await client.unwrap()


async def _send_and_vanish(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    await both_handshakes(client, server)
    with trio.CancelScope() as scope:
        scope.cancel()
        await client.send_all(PLAINTEXT)
    await server.send_all(PLAINTEXT)
    await trio.aclose_forcefully(server)
    while await client.receive_some():
        pass


async def _send_to_the_closed(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    await both_handshakes(client, server)
    await trio.aclose_forcefully(server)
    await client.send_all(PLAINTEXT)


async def _send_after_the_end(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    await both_handshakes(client, server)
    await client.send_eof()
    await client.send_all(PLAINTEXT)


@pytest.mark.parametrize(
    "provoke",
    [
        _begin_tls_too_late,
        _speak_no_tls,
        _wait_in_vain,
        _unwrap_too_early,
        _send_and_vanish,
        _send_to_the_closed,
        _send_after_the_end,
    ],
    ids=lambda provoke: provoke.__name__.strip("_"),
)
async def test_what_goes_wrong_otherwise(
    provoke: Provoke,
    sides: Sides,
    secrets: Secrets,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """Errors count bytes, and don't show them."""
    client, server = tls_stream_pair(
        trio.testing.memory_stream_pair(), sides.client, sides.server, server_hostname=NAME
    )
    with pytest.raises((TLSError, trio.ClosedResourceError)) as caught:
        await provoke(client, server)
    if sides.keylog.exists():
        secrets.add_keys_of(sides.keylog)
    check_error(secrets, caught.value)
    check_shown(secrets, client, server)


################################################################
# Copies
################################################################


@pytest.mark.parametrize(
    "way",
    [pickle.dumps, partial(pickle.dumps, protocol=0), copy.copy, copy.deepcopy],
    ids=["pickle", "protocol 0", "copy", "deepcopy"],
)
def test_what_holds_keys_is_not_copied(way: Callable[[object], object], sides: Sides) -> None:
    client = TLSConnection(sides.client, server_hostname=NAME, collect_sessions=True)
    server = TLSConnection(sides.server, server_side=True)
    shake_hands(client, server)
    ours, _ = trio.testing.memory_stream_pair()
    stream = TLSStream(ours, sides.client, server_hostname=NAME)
    full = SessionCache()
    (session, *_) = client.new_sessions()
    full.put(session, 443, now=0)
    keys = TicketKeys.generate()
    for holder in (client, server, stream, session, SessionCache(), full, keys):
        message = f"a {type(holder).__name__} holds secret keys, and can't be pickled or copied"
        with pytest.raises(TypeError) as caught:
            way(holder)
        assert str(caught.value) == message
        if way is not copy.copy:
            with pytest.raises(TypeError, match="can't be"):
                way([holder])
    # Nor what has one of them in it.
    with pytest.raises(TypeError):
        pickle.dumps(TLSConnector(ssl_context=sides.client))


################################################################
# The command line
################################################################


async def test_the_command_line(
    ca: trustme.CA,
    tls_version: ssl.TLSVersion,
    tmp_path: Path,
    secrets: Secrets,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    run = partial(run_here, capfdbinary)
    files = {name: tmp_path / f"{name}.pem" for name in ("ca", "client", "server")}
    ca.cert_pem.write_to_path(str(files["ca"]))
    for name, cert in {
        "client": ca.issue_cert("client@client.example"),
        "server": ca.issue_cert("127.0.0.1"),
    }.items():
        cert.private_key_and_cert_chain_pem.write_to_path(str(files[name]))
        secrets.add_private_key(cert.private_key_pem.bytes())
    version = "--tls13" if tls_version is ssl.TLSVersion.TLSv1_3 else "--tls12"
    async with serve(
        *("--cert", str(files["server"]), "--client-ca", str(files["ca"]), version)
    ) as server:
        connect = (
            *("connect", f"127.0.0.1:{server.port}", "--cafile", str(files["ca"])),
            *("--cert", str(files["client"]), "--keylog", str(tmp_path / "keys.log"), version),
        )
        request = b"GET / HTTP/1.1\r\nHost: a\r\nAuthorization: " + PLAINTEXT + b"\r\n\r\n"
        # The data itself is on standard output, where it belongs, and nowhere else.
        result = await run(*connect, "--timeline", stdin=request)
        assert (result.status, result.stdout) == (0, request), "it is echoed"
        shown = [result.stderr]
        for more in (("--json",), ("--reconnect", "2"), ("--reconnect", "2", "--json")):
            result = await run(*connect, *more, "--timeline", stdin=request)
            assert result.status == 0, result.stderr
            shown += [result.stdout.decode(), result.stderr]
        result = await run("connect", f"127.0.0.1:{server.port}", "--json", stdin=request)
        assert result.status == 3
        shown += [result.stdout.decode(), result.stderr]
        shown.append((await server.end()).stderr)
    secrets.add_keys_of(tmp_path / "keys.log")
    for text in shown:
        secrets.check(text)
