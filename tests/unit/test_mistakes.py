"""The mistakes that users make: each message names the mistake, and the cure."""

from __future__ import annotations

import importlib
import inspect
import math
import os
import socket
import ssl
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)
from trio.testing import memory_stream_pair

from tests.certificates import CLIENT, SERVER, Certificate, Issued
from tests.helpers import (
    HOST,
    LIMIT,
    NAME,
    VERSIONS,
    client_context_for,
    echo,
    failures,
    server_context_for,
    shake_hands,
)
from tests.peers import Untouchable
from trio_tlsbio import (
    CertificateError,
    Drain,
    HandshakeInfo,
    NeedHandshakeError,
    PeerAlertError,
    RefuseHandshake,
    ReloadingContext,
    SessionCache,
    TLSConnection,
    TLSConnector,
    TLSError,
    TLSListener,
    TLSSession,
    TLSStream,
    TrustedProxies,
    contexts_by_name,
    load_identity,
    open_tls_over_tcp_stream,
    reconnect,
    serve_tls_listeners,
    serve_tls_over_tcp,
    start_tls,
)
from trio_tlsbio.monitoring import ServerMonitor
from trio_tlsbio.testing import (
    CertificateAuthority,
    Cut,
    FaultyLine,
    FaultyStream,
    MemoryListener,
    Split,
    do_handshakes,
    exchange,
    tls_stream_pair,
)
from trio_tlsbio.ticket_keys import TicketKeys

TLS13 = VERSIONS["tls13"]


@attrs.frozen
class World:
    """What users have when they make a mistake: contexts, certificates and files."""

    ca: trustme.CA
    cert: trustme.LeafCert
    client: ssl.SSLContext
    server: ssl.SSLContext
    directory: Path

    def stream(self, transport_stream: Any = None, **options: Any) -> TLSStream[Any]:
        """Make a client's stream."""
        transport_stream = Untouchable() if transport_stream is None else transport_stream
        context = options.pop("ssl_context", self.client)
        return TLSStream(transport_stream, context, **{"server_hostname": NAME} | options)

    def server_stream(self, **options: Any) -> TLSStream[Any]:
        """Make a server's stream."""
        context = options.pop("ssl_context", self.server)
        return TLSStream(Untouchable(), context, server_side=True, **options)

    def pair(self, **options: Any) -> tuple[TLSStream[Any], TLSStream[Any]]:
        """Make two streams that are connected."""
        return tls_stream_pair(
            memory_stream_pair(), self.client, self.server, server_hostname=NAME, **options
        )

    async def established(self) -> tuple[TLSStream[Any], TLSStream[Any]]:
        """Make two streams whose handshake is done."""
        pair = self.pair()
        await do_handshakes(*pair)
        return pair

    async def serve(self, handler: Any = echo, **options: Any) -> None:
        """Serve, on a port of loopback that no client connects to."""
        context = options.pop("ssl_context", self.server)
        await serve_tls_over_tcp(handler, 0, context, host=HOST, **options)

    def session(self) -> TLSSession:
        """Return a session of NAME and the client's context."""
        client, server = connections(self.client, self.server)
        shake_hands(client, server)
        assert client.session is not None
        return client.session

    def issued(self, **certificate: Any) -> Issued:
        """Have a certificate issued."""
        return Certificate(**certificate).signed_by(Issued.of(self.ca))

    def key_file(self, content: bytes, mode: int = 0o600) -> Path:
        """Write a file of ticket keys."""
        path = self.directory / "tickets.key"
        path.write_bytes(content)
        path.chmod(mode)
        return path

    @property
    def pem(self) -> tuple[bytes, bytes]:
        """The certificate and its key."""
        return self.cert.cert_chain_pems[0].bytes(), self.cert.private_key_pem.bytes()


def faulty(faults: Any, _: World) -> None:
    """Make a stream with faults."""
    FaultyStream(memory_stream_pair()[0], receiving=faults)


def misplaced(at: Any, _: World) -> None:
    """Make a fault at this position."""
    Cut(at)


def certified_by_itself(context: Any, _: World) -> None:
    """Make a context with an authority in place of its certificate."""
    context(CertificateAuthority(), certificate=CertificateAuthority())


@pytest.fixture
def world(ca: trustme.CA, server_cert: trustme.LeafCert, tmp_path: Path) -> World:
    client, server = client_context_for(ca), server_context_for(server_cert)
    return World(ca, server_cert, client, server, tmp_path)


def connections(
    client: ssl.SSLContext, server: ssl.SSLContext
) -> tuple[TLSConnection, TLSConnection]:
    return (
        TLSConnection(client, server_hostname=NAME),
        TLSConnection(server, server_side=True),
    )


def raised_by_client(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Raise what a client reads."""
    error, _ = failures(*connections(client, server))
    assert error is not None
    raise error


def raised_by_server(client: ssl.SSLContext, server: ssl.SSLContext) -> None:
    """Raise what a server logs."""
    _, error = failures(*connections(client, server))
    assert error is not None
    raise error


################################################################
# What they do
################################################################


def sync_handler(stream: object) -> None:
    """Lacks its async."""


def sync_verify(handshake: HandshakeInfo) -> bool:
    """Lacks its async."""
    return False


async def denies(handshake: HandshakeInfo) -> bool:
    """Answers as in OpenSSL's callbacks."""
    return False


def sync_answer(stream: object, received: bytes) -> None:
    """Lacks its async."""


async def serve_one(world: World, handler: Any) -> None:
    """Serve one client."""
    listener = MemoryListener()
    async with trio.open_nursery() as nursery:
        serve = partial(serve_tls_listeners, handler, [TLSListener(listener, world.server)])
        nursery.start_soon(serve)
        stream = world.stream(await listener.connect())
        await stream.do_handshake()
        await trio.sleep_forever()


async def ask_in_plaintext(world: World, **options: Any) -> None:
    """Send HTTP to a server."""
    listener = MemoryListener()
    client = await listener.connect()
    await client.send_all(b"GET / HTTP/1.1\r\n\r\n")
    stream = await TLSListener(listener, world.server, **options).accept()
    await stream.do_handshake()


async def verify_by(world: World, verify_peer: Any) -> None:
    """Verify a server."""
    client, server = world.pair()
    client = world.stream(client.transport_stream, verify_peer=verify_peer)
    await do_handshakes(client, server)


async def use_after_close(world: World) -> None:
    client, _ = await world.established()
    await trio.aclose_forcefully(client)
    await client.send_all(b"too late")


async def send_after_eof(world: World) -> None:
    client, _ = await world.established()
    await client.send_eof()
    await client.send_all(b"too late")


async def use_after_unwrap(world: World) -> None:
    client, server = await world.established()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.unwrap)
        nursery.start_soon(server.unwrap)
    await client.send_all(b"too late")


async def send_after_cancelled_unwrap(world: World) -> None:
    client, _ = await world.established()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.unwrap)
        await trio.testing.wait_all_tasks_blocked()  # its close_notify is sent
        nursery.cancel_scope.cancel()
    await client.send_all(b"too late")


async def use_after_failure(world: World) -> None:
    client, server = world.pair()
    client = world.stream(client.transport_stream, server_hostname="other.example")
    with pytest.raises(CertificateError):
        await do_handshakes(client, server)
    client.version()


async def receive_twice(world: World) -> None:
    client, _ = await world.established()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_some)
        nursery.start_soon(client.receive_some)


async def send_twice(world: World) -> None:
    async def send() -> None:
        while True:
            await client.send_all(bytes(100_000))

    client = world.stream(trio.testing.lockstep_stream_pair()[0])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(send)
        nursery.start_soon(send)


async def send_text(world: World) -> None:
    client, _ = await world.established()
    await client.send_all("text")  # type: ignore[arg-type]


async def receive(world: World, max_bytes: int) -> None:
    client, _ = await world.established()
    await client.receive_some(max_bytes)


async def wrap_too_late(world: World) -> None:
    await start_tls(
        memory_stream_pair()[0], world.client, buffered=b"220 ready\r\n", server_hostname=NAME
    )


async def wrap_without_buffer(world: World) -> None:
    await start_tls(
        memory_stream_pair()[0],
        world.client,
        buffered=None,  # type: ignore[arg-type]
        server_hostname=NAME,
    )


def over_socket(world: World) -> None:
    with socket.socket() as sock:
        world.stream(sock)


def over_ssl_socket(world: World) -> None:
    with socket.socket() as sock, world.client.wrap_socket(sock, server_hostname=NAME) as wrapped:
        world.stream(wrapped)


async def wrap_socket(world: World) -> None:
    with socket.socket() as sock:
        await TLSConnector(ssl_context=world.client).wrap(sock, NAME)  # type: ignore[type-var]


async def start_over_socket(world: World) -> None:
    with socket.socket() as sock:
        await start_tls(sock, world.client, buffered=b"", server_hostname=NAME)  # type: ignore[type-var]


def listen_at_socket(world: World) -> None:
    with socket.socket() as sock:
        TLSListener(sock, world.server)  # type: ignore[arg-type]


async def serve_listeners_of_trio(world: World) -> None:
    listeners: Any = await trio.open_tcp_listeners(0, host=HOST)
    try:
        await serve_tls_listeners(echo, listeners)
    finally:
        await listeners[0].aclose()


def change_context(world: World) -> None:
    session = world.session()
    world.client.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    TLSConnection(world.client, server_hostname=NAME, session=session)


def raw_session(world: World) -> Any:
    client, server = connections(world.client, world.server)
    shake_hands(client, server)
    return client.ssl_object.session


def without(library: str, module: str) -> None:
    """Import an adapter whose library is not installed."""
    with mock.patch.dict(sys.modules, {library: None}):
        sys.modules.pop(module, None)
        importlib.import_module(module)


def mismatch(world: World) -> None:
    other = world.ca.issue_cert("other.example").private_key_pem.bytes()
    load_identity(world.server, world.pem[0], other)


def without_password(world: World) -> None:
    certificate, pem = world.pem
    form = (Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    load_identity(world.server, certificate, load_pem_private_key(pem, None).private_bytes(*form))


def expired(world: World) -> ssl.SSLContext:
    """The context of a server whose certificate was renewed on the disk, and not loaded."""
    end = datetime.now(UTC) - timedelta(days=1)
    return server_context_for(world.ca.issue_cert(NAME, not_after=end))


def with_issued(context: ssl.SSLContext, issued: Issued) -> ssl.SSLContext:
    issued.load_into(context)
    return context


def strict(world: World) -> ssl.SSLContext:
    """A client's context, as Python 3.13 makes it."""
    world.client.verify_flags |= ssl.VERIFY_X509_STRICT
    return world.client


def server_for_clients(world: World) -> ssl.SSLContext:
    """A server's context that asks for certificates."""
    world.server.verify_mode = ssl.CERT_REQUIRED
    world.ca.configure_trust(world.server)
    return world.server


def client_with(world: World, **certificate: Any) -> ssl.SSLContext:
    """A client's context with a certificate of its own."""
    return with_issued(world.client, world.issued(**certificate))


def without_certificate(version: ssl.TLSVersion) -> ssl.SSLContext:
    """A server's context for which nobody has called load_cert_chain()."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.minimum_version = context.maximum_version = version
    return context


def client_of(world: World, version: ssl.TLSVersion) -> ssl.SSLContext:
    return client_context_for(world.ca, version)


def hear_http(world: World) -> None:
    """Connect to a port that does not speak TLS."""
    client = TLSConnection(world.client, server_hostname=NAME)
    client.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    client.do_handshake()


def refuse_protocols(world: World) -> None:
    world.client.set_alpn_protocols(["h2"])
    world.server.set_alpn_protocols(["http/1.1"])
    client = TLSConnection(world.client, server_hostname=NAME)
    server = TLSConnection(world.server, server_side=True, strict_alpn=True)
    exchange(client, server)
    server.do_handshake()


################################################################
# The table
################################################################

Mistake = Callable[[World], Any]


@attrs.frozen
class Row:
    """A mistake, and what the message says."""

    what: str
    make: Mistake = attrs.field(repr=False)
    error: type[BaseException]
    names_mistake: str
    names_cure: str


def names(name: Any) -> Mistake:
    """Connect to this name."""
    return lambda world: world.stream(server_hostname=name)


def options(**options: Any) -> Mistake:
    """Make a client's stream with these."""
    return lambda world: world.stream(**options)


def serving(**options: Any) -> Mistake:
    """Serve with these."""
    return lambda world: world.serve(**options)


def by_name(*names: Any) -> Mistake:
    """Choose the context by these names."""
    return lambda world: contexts_by_name(dict.fromkeys(names, world.server))


def offering(protocols: Any) -> Mistake:
    """Offer these protocols."""
    return lambda world: TLSConnector(ssl_context=world.client, alpn_protocols=protocols)


def httpx_with(**options: Any) -> Mistake:
    """Make a transport for httpx with these."""
    return lambda _: pytest.importorskip("trio_tlsbio.httpx").TLSTransport(**options)


CREATE_CLIENT = "ssl.create_default_context(ssl.Purpose.SERVER_AUTH)"
CREATE_SERVER = "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"

ROWS = [
    # Contexts
    Row(
        "a server's context on a client",
        lambda world: world.stream(ssl_context=world.server),
        ValueError,
        "made for the other side, by PROTOCOL_TLS_SERVER",
        CREATE_CLIENT,
    ),
    Row(
        "a client's context on a server",
        lambda world: world.server_stream(ssl_context=world.client),
        ValueError,
        "made for the other side, by PROTOCOL_TLS_CLIENT",
        CREATE_SERVER,
    ),
    Row(
        "the class as a context",
        options(ssl_context=ssl.SSLContext),
        TypeError,
        "not the class SSLContext",
        CREATE_CLIENT,
    ),
    Row(
        "a path as a server's context",
        serving(ssl_context="server.pem"),
        TypeError,
        "must be an ssl.SSLContext, or a function that returns one, not str",
        CREATE_SERVER,
    ),
    Row(
        "a path as the context of a server's stream",
        lambda world: world.server_stream(ssl_context="server.pem"),
        TypeError,
        "must be a function or an ssl.SSLContext, not str",
        CREATE_SERVER,
    ),
    Row(
        "a function as a client's context",
        options(ssl_context=ssl.create_default_context),
        TypeError,
        "must be an ssl.SSLContext, not function",
        CREATE_CLIENT,
    ),
    Row(
        "a context in place of what makes one",
        lambda world: ReloadingContext(world.server),  # type: ignore[arg-type]
        TypeError,
        "not SSLContext",
        "a function that returns an ssl.SSLContext",
    ),
    Row(
        "one path in place of a list",
        lambda world: ReloadingContext(lambda: world.server, files="server.pem"),
        TypeError,
        "files must be a list of paths, not str",
        "files=[path]",
    ),
    # Names
    Row(
        "no name to check",
        names(None),
        ValueError,
        "checks host names (check_hostname)",
        "needs server_hostname",
    ),
    Row(
        "an empty name", names(""), ValueError, "'' is not a host name", "the name in the server's"
    ),
    Row("a URL", names("https://a.example/"), ValueError, "is not a host name", "in the URL alone"),
    Row("a port", names("a.example:443"), ValueError, "is not a host name", "without a port"),
    Row("brackets", names("[::1]"), ValueError, "is not a host name", "without a port or brackets"),
    Row(
        "a wildcard", names("*.example"), ValueError, "is not a host name", "the name of one server"
    ),
    Row("a space", names("a example"), ValueError, "is not a host name", "as 'www.example.org'"),
    Row("bytes", names("ü.example".encode()), ValueError, "bytes must be ASCII", "names as str"),
    Row("an address pair", names((HOST, 443)), TypeError, "not tuple", "pass only the name"),
    Row(
        "a URL as a host",
        lambda world: open_tls_over_tcp_stream("https://a.example", 443, ssl_context=world.client),
        ValueError,
        "'https://a.example' is not a host name",
        "in the URL alone",
    ),
    Row(
        "another name than the certificate's",
        lambda world: raised_by_client(
            world.client, server_context_for(world.ca.issue_cert("a.example"))
        ),
        CertificateError,
        f"not {NAME}",
        "the certificate is for a.example",
    ),
    # Contexts by name
    Row("an address by name", by_name("192.0.2.1"), ValueError, "an IP address", "use default"),
    Row("a URL by name", by_name("https://a.example"), ValueError, "not a host name", "name alone"),
    Row("two wildcards", by_name("*.*.x"), ValueError, "'*.*.x'", "as in '*.example.org'"),
    Row(
        "equal names",
        by_name("a.example", "A.example."),
        ValueError,
        "already",
        "case and a trailing dot don't matter",
    ),
    Row("a name that is not ASCII", by_name("ü.example"), ValueError, "ASCII form", "with xn--"),
    Row(
        "a list of contexts",
        lambda world: contexts_by_name([("a.example", world.server)]),  # type: ignore[arg-type]
        TypeError,
        "not list",
        "a dict of names and their contexts",
    ),
    Row(
        "a path by name",
        lambda world: contexts_by_name({"a.example": "a.pem"}),  # type: ignore[dict-item]
        TypeError,
        "the context for a.example must be an ssl.SSLContext",
        "or a function that returns one, not str",
    ),
    Row(
        "a client's context by name",
        lambda world: contexts_by_name({"a.example": world.client}),
        ValueError,
        "for a.example was made for clients",
        CREATE_SERVER,
    ),
    # Protocols
    Row("one protocol", offering("h2"), TypeError, "not str", '["h2"]'),
    Row("protocols as bytes", offering([b"h2"]), TypeError, "not of bytes", "a list of str"),
    Row("an empty protocol", offering([""]), ValueError, "not ''", "1 to 255 ASCII characters"),
    Row(
        "strict_alpn on a client",
        options(strict_alpn=True),
        ValueError,
        "is for servers",
        "check handshake.alpn_protocol",
    ),
    Row(
        "no protocol in common",
        refuse_protocols,
        TLSError,
        "that is served here",
        "but h2",
    ),
    # Functions
    Row(
        "a handler that was called",
        lambda world: world.serve(echo(Untouchable())),  # type: ignore[arg-type]
        TypeError,
        "a coroutine object",
        "give it echo itself, and not echo(...)",
    ),
    Row(
        "a handler that is not async",
        lambda world: serve_one(world, sync_handler),
        TypeError,
        "sync_handler appears to be synchronous",
        "define it with async def",
    ),
    Row(
        "no handler", serving(handler=None), TypeError, "it got None", "expecting an async function"
    ),
    Row("verify_peer is True", options(verify_peer=True), TypeError, "not bool", "with async def"),
    Row(
        "verify_peer was called",
        lambda world: world.stream(verify_peer=denies(None)),  # type: ignore[arg-type]
        TypeError,
        "verify_peer must be a function, not a coroutine",
        "without calling it",
    ),
    Row(
        "verify_peer is not async",
        lambda world: verify_by(world, sync_verify),
        TLSError,
        "sync_verify appears to be synchronous",
        "define it with async def",
    ),
    Row(
        "verify_peer returns False",
        lambda world: verify_by(world, denies),
        TLSError,
        "returned False",
        "raise an exception",
    ),
    Row("on_plaintext is text", serving(on_plaintext="no"), TypeError, "not str", "with async def"),
    Row(
        "on_plaintext is not async",
        lambda world: ask_in_plaintext(world, on_plaintext=sync_answer),
        TLSError,
        "sync_answer appears to be synchronous",
        "define it with async def",
    ),
    Row("on_error is text", serving(on_error="no"), TypeError, "not str", "called with the stream"),
    Row(
        "an alert by its number",
        lambda _: RefuseHandshake(112),  # type: ignore[arg-type]
        TypeError,
        "not int",
        "'unrecognized_name'",
    ),
    # Objects
    Row(
        "a class as drain", serving(drain=Drain), TypeError, "not the class Drain", "Drain() makes"
    ),
    Row(
        "a class as monitor",
        serving(monitor=ServerMonitor),
        TypeError,
        "not the class ServerMonitor",
        "ServerMonitor() makes one",
    ),
    Row(
        "a class as session_cache",
        lambda world: TLSConnector(ssl_context=world.client, session_cache=SessionCache),  # type: ignore[arg-type]
        TypeError,
        "not the class SessionCache",
        "SessionCache() makes one",
    ),
    # httpx
    *(
        Row(f"{words} as httpx's {name}", httpx_with(**{name: value}), TypeError, mistake, cure)
        for words, name, value, mistake, cure in (
            ("True", "session_cache", True, "must be a SessionCache, not bool", "SessionCache()"),
            ("a number", "limits", 5, "must be an httpx.Limits, not int", "httpx.Limits(max_con"),
            ("a path", "cert", "a.pem", "cert is not supported", "with load_cert_chain()"),
        )
    ),
    Row(
        "True as httpcore's session_cache",
        lambda _: pytest.importorskip("trio_tlsbio.httpcore").TLSBackend(session_cache=True),
        TypeError,
        "must be a SessionCache, not bool",
        "SessionCache()",
    ),
    # Transports
    Row("a socket", over_socket, TypeError, "not socket", "trio.open_tcp_stream()"),
    Row("an SSLSocket", over_ssl_socket, TypeError, "not SSLSocket", "trio.SocketStream"),
    Row("a socket to wrap", wrap_socket, TypeError, "not socket", "trio.SocketStream"),
    Row("STARTTLS over a socket", start_over_socket, TypeError, "not socket", "trio.SocketStream"),
    Row(
        "plaintext before STARTTLS",
        wrap_too_late,
        TLSError,
        "11 bytes in plaintext where TLS was to begin",
        "an attacker could have injected them",
    ),
    Row(
        "no buffer where STARTTLS ends",
        wrap_without_buffer,
        TypeError,
        "buffered must be bytes, not NoneType",
        "the content of your read buffer, b'' if it is empty",
    ),
    Row(
        "a socket to listen at",
        listen_at_socket,
        TypeError,
        "must be a trio.abc.Listener, not socket",
        "trio.open_tcp_listeners()",
    ),
    Row(
        "listeners of Trio",
        serve_listeners_of_trio,
        TypeError,
        "must be a TLSListener, not SocketListener",
        "TLSListener(listener, ssl_context)",
    ),
    Row(
        "one listener",
        lambda world: serve_tls_listeners(echo, TLSListener(MemoryListener(), world.server)),  # type: ignore[arg-type]
        TypeError,
        "must be a list, not TLSListener",
        "[listener]",
    ),
    # Numbers
    *(
        Row(
            f"a timeout of {value}", options(handshake_timeout=value), ValueError, words, "positive"
        )
        for value, words in ((-1, "not -1"), (0, "not 0"), (math.nan, "not nan"))
    ),
    Row("a timeout in text", options(handshake_timeout="10"), TypeError, "not str", "a number"),
    Row("no timeout", options(handshake_timeout=None), TypeError, "not NoneType", "math.inf"),
    Row(
        "closing until NaN",
        options(close_timeout=math.nan),
        ValueError,
        "not nan",
        "must be 0 or more",
    ),
    Row("a limit in text", serving(max_connections="9"), TypeError, "not str", "a number"),
    Row("a limit of none", serving(max_connections=0), ValueError, "not 0", "must be positive"),
    Row(
        "a delay before now",
        lambda world: reconnect(NAME, 443, ssl_context=world.client, initial_delay=-1),
        ValueError,
        "initial_delay",
        "must be 0 or more",
    ),
    Row("draining in text", lambda _: Drain().end("30"), TypeError, "not str", "a number"),  # type: ignore[arg-type]
    Row("receiving nothing", lambda w: receive(w, 0), ValueError, "not 0", "leave it out"),
    Row("receiving less", lambda w: receive(w, -1), ValueError, "not -1", "leave it out"),
    # Faults in tests
    *(
        Row(
            f"{words} in place of a list of faults",
            partial(faulty, faults),
            TypeError,
            f"not {words}",
            "in a list, such as [Cut(3)]",
        )
        for faults, words in ((Cut(3), "Cut"), (Split(1), "Split"), (Cut, "the class Cut"))
    ),
    *(
        Row(
            f"a {type(at).__name__} as a fault's position",
            partial(misplaced, at),
            TypeError,
            f"not {type(at).__name__}",
            "a whole number of bytes, as in Cut(3)",
        )
        for at in (1.5, "3")
    ),
    *(
        Row(
            f"an authority in place of a {side}'s certificate",
            partial(certified_by_itself, context),
            TypeError,
            "not CertificateAuthority",
            'authority.issue("localhost")',
        )
        for side, context in (
            ("server", CertificateAuthority.server_context),
            ("client", CertificateAuthority.client_context),
        )
    ),
    Row(
        "a certificate in place of a name",
        lambda _: CertificateAuthority().server_context(
            CertificateAuthority().issue(NAME)  # type: ignore[arg-type]
        ),
        TypeError,
        "not IssuedCertificate",
        "as certificate=...",
    ),
    Row(
        "one end of a transport in place of both",
        lambda world: tls_stream_pair(
            memory_stream_pair()[0],  # type: ignore[arg-type]
            world.client,
            world.server,
        ),
        TypeError,
        "not one StapledStream",
        "pass what memory_stream_pair() returns",
    ),
    Row("a line with one fault", lambda _: FaultyLine(Cut(3)), TypeError, "not Cut", "in a list"),  # type: ignore[arg-type]
    Row(
        "the class of a fault",
        lambda _: FaultyLine([Cut]),  # type: ignore[list-item]
        TypeError,
        "not the class Cut",
        "such as Cut(3)",
    ),
    Row(
        "a list of faults to add",
        lambda _: FaultyLine().add([Cut(3)]),  # type: ignore[arg-type]
        TypeError,
        "not list",
        "such as Cut(3)",
    ),
    # The PROXY protocol
    Row(
        "a network as proxy_protocol",
        serving(proxy_protocol="10.0.0.0/8"),
        TypeError,
        "not str",
        'TrustedProxies(["192.0.2.0/24"])',
    ),
    Row(
        "one network",
        lambda _: TrustedProxies("10.0.0.0/8"),
        TypeError,
        "not str",
        '["192.0.2.0/24"]',
    ),
    Row(
        "a network with host bits",
        lambda _: TrustedProxies(["10.1.2.3/8"]),
        ValueError,
        "10.1.2.3/8 has bits set after its prefix",
        "give 10.0.0.0/8",
    ),
    Row(
        "a name as a network",
        lambda _: TrustedProxies(["proxy.example"]),
        ValueError,
        "'proxy.example' does not appear to be an IPv4 or IPv6 network",
        "names are not looked up",
    ),
    # The order of calls
    Row(
        "the handshake before it is done",
        lambda world: world.stream().handshake,
        NeedHandshakeError,
        "before calling 'handshake'",
        "call do_handshake()",
    ),
    Row(
        "a certificate requested before the context is chosen",
        lambda _: TLSConnection(None, server_side=True).verify_client_post_handshake(),
        NeedHandshakeError,
        "can't ask for a certificate",
        "before the handshake is done",
    ),
    Row(
        "the version before the handshake",
        lambda world: world.stream().version(),
        NeedHandshakeError,
        "before calling 'version'",
        "call do_handshake()",
    ),
    Row(
        "the version after a failed handshake",
        use_after_failure,
        NeedHandshakeError,
        "'version' needs a handshake, but the handshake failed",
        f"the certificate is for {NAME}, localhost, {HOST}, not other.example",
    ),
    Row(
        "a closed stream",
        use_after_close,
        trio.ClosedResourceError,
        "was closed",
        "use another connection",
    ),
    Row(
        "data after the end",
        send_after_eof,
        trio.ClosedResourceError,
        "can't send data",
        "after send_eof()",
    ),
    Row(
        "a stream after unwrap",
        use_after_unwrap,
        trio.ClosedResourceError,
        "was ended by unwrap()",
        "use the transport that unwrap() returned",
    ),
    Row(
        "data after an unwrap that was cancelled",
        send_after_cancelled_unwrap,
        trio.ClosedResourceError,
        "can't send data",
        "or unwrap()",
    ),
    Row(
        "two tasks that receive",
        receive_twice,
        trio.BusyResourceError,
        "another task is currently receiving data",
        "let one task receive",
    ),
    Row(
        "two tasks that send",
        send_twice,
        trio.BusyResourceError,
        "another task is currently sending data",
        "let one task send",
    ),
    Row("text", send_text, TypeError, "carries bytes, not str", "encode text first"),
    Row(
        "text to the core",
        lambda world: TLSConnection(world.client, server_hostname=NAME).feed("text"),  # type: ignore[arg-type]
        TypeError,
        "carries bytes, not str",
        "encode text first",
    ),
    # Sessions
    Row(
        "TLSStream.session is one",
        lambda world: world.stream(session=raw_session(world)),
        TypeError,
        "must be a TLSSession, not SSLSession",
        "TLSStream.session",
    ),
    Row(
        "a session of another name",
        lambda world: world.stream(server_hostname="other.example", session=world.session()),
        ValueError,
        f"is for {NAME}, and resuming it for other.example",
        "connect without it",
    ),
    Row(
        "a session of another context",
        lambda world: TLSStream(
            Untouchable(),
            client_context_for(world.ca),
            server_hostname=NAME,
            session=world.session(),
        ),
        ValueError,
        "made with another SSLContext",
        "use one SSLContext for all connections",
    ),
    Row(
        "a context that was changed",
        change_context,
        ValueError,
        "verification settings changed",
        "connect without it",
    ),
    Row(
        "a session on a server",
        lambda world: world.server_stream(session=world.session()),
        ValueError,
        "session is for clients",
        "resumes the sessions that clients offer",
    ),
    Row(
        "a cache without a context",
        lambda _: open_tls_over_tcp_stream(NAME, 443, session_cache=SessionCache()),
        ValueError,
        "only be resumed with the ssl_context they were made with",
        "pass it too",
    ),
    # Certificates and keys that are loaded
    Row(
        "a path where PEM is to be",
        lambda world: load_identity(world.server, "server.pem", "server.key"),
        ValueError,
        "not in PEM form",
        "call load_cert_chain()",
    ),
    Row(
        "a Path where PEM is to be",
        lambda world: load_identity(world.server, Path("a.pem"), Path("a.key")),  # type: ignore[arg-type]
        TypeError,
        "must be str or bytes in PEM form",
        "call load_cert_chain()",
    ),
    Row(
        "the key before the certificate",
        lambda world: load_identity(world.server, *reversed(world.pem)),
        ValueError,
        "no certificate in PEM form",
        "the certificate comes first",
    ),
    Row(
        "another's key", mismatch, ValueError, "belongs to another certificate", "renewed together"
    ),
    Row("no password", without_password, ValueError, "is encrypted", "give its password"),
    Row(
        "no context to load into",
        lambda world: load_identity(ssl.SSLContext, *world.pem),  # type: ignore[arg-type]
        TypeError,
        "not the class SSLContext",
        "makes one",
    ),
    # Ticket keys
    Row(
        "a file of ticket keys of a wrong size",
        lambda world: TicketKeys.from_file(world.key_file(bytes(range(48)))),
        ValueError,
        "has 48 bytes",
        "`openssl rand 80`",
    ),
    Row(
        "ticket keys in hexadecimal",
        lambda _: TicketKeys(bytes(range(80)).hex().encode()),
        ValueError,
        "80 bytes, not 160",
        "not in hexadecimal",
    ),
    # Extras
    Row(
        "an adapter without its library",
        lambda _: without("httpx", "trio_tlsbio.httpx"),
        ModuleNotFoundError,
        "trio_tlsbio.httpx needs httpx, which is not installed",
        "in a clone of trio-tlsbio, pip install '.[httpx]'",
    ),
    # What peers present
    Row(
        "a certificate that was renewed, and not loaded",
        lambda world: raised_by_client(world.client, expired(world)),
        CertificateError,
        "it has expired (valid until ",
        "if it was renewed, the peer has not loaded the new one",
    ),
    Row(
        "the same, on the server",
        lambda world: raised_by_server(world.client, expired(world)),
        PeerAlertError,
        "our certificate has expired",
        "ReloadingContext",
    ),
    Row(
        "an authority that is not trusted",
        lambda world: raised_by_client(client_context_for(trustme.CA()), world.server),
        CertificateError,
        "its issuer is not trusted here",
        "or the peer did not send the intermediate certificates",
    ),
    Row(
        "a certificate that Python 3.13 refuses",
        lambda world: raised_by_client(
            strict(world),
            with_issued(
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH),
                world.issued(without=[x509.AuthorityKeyIdentifier]),
            ),
        ),
        CertificateError,
        "has no Authority Key Identifier",
        "have it reissued, or clear the flag in the context's verify_flags",
    ),
    Row(
        "a client's certificate of a public authority",
        lambda world: raised_by_server(
            client_with(world, purposes=[SERVER]), server_for_clients(world)
        ),
        CertificateError,
        "was not issued for this purpose (key usage, extended key usage)",
        "needs clientAuth, which public authorities no longer issue",
    ),
    Row(
        "the same, on the client",
        lambda world: raised_by_client(
            client_with(world, purposes=[SERVER]), server_for_clients(world)
        ),
        PeerAlertError,
        "was not issued for this purpose",
        "clientAuth for clients",
    ),
    Row(
        "a client's certificate on a server",
        lambda world: raised_by_client(
            world.client,
            with_issued(
                ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), world.issued(purposes=[CLIENT])
            ),
        ),
        CertificateError,
        "was not issued for this purpose",
        "a server's certificate needs serverAuth",
    ),
    Row(
        "no client certificate",
        lambda world: raised_by_client(world.client, server_for_clients(world)),
        PeerAlertError,
        "it requires a client certificate, and we sent none",
        "load_cert_chain() loads one",
    ),
    Row(
        "a server without a certificate, TLS 1.3",
        lambda world: raised_by_server(world.client, without_certificate(TLS13)),
        TLSError,
        "certificate",
        "was load_cert_chain() called?",
    ),
    Row(
        "a server without a certificate, TLS 1.2",
        lambda world: raised_by_server(
            client_of(world, VERSIONS["tls12"]), without_certificate(VERSIONS["tls12"])
        ),
        TLSError,
        "certificate",
        "was load_cert_chain() called?",
    ),
    Row(
        "no version in common",
        lambda world: raised_by_server(client_of(world, VERSIONS["tls12"]), world.server),
        TLSError,
        "offers no TLS version that is allowed here",
        "minimum_version",
    ),
    Row(
        "a port that does not speak TLS",
        hear_http,
        TLSError,
        "does not speak TLS here",
        "a plaintext port, or one that requires STARTTLS first",
    ),
]

if os.name == "posix":
    ROWS.append(
        Row(
            "ticket keys that others can read",
            lambda world: TicketKeys.from_file(world.key_file(bytes(range(80)), 0o644)),
            ValueError,
            "group or others have access to it (its mode is 0644)",
            "set the mode to 0600",
        )
    )


async def _within_limit(awaitable: Awaitable[object]) -> None:
    with trio.fail_after(LIMIT):
        await awaitable


def message_of(row: Row, world: World) -> str:
    """Make the mistake, and return what the exception says."""
    try:
        result = row.make(world)
        if inspect.isawaitable(result):
            trio.run(_within_limit, result)
    except BaseException as exc:
        error: BaseException = exc
    else:
        pytest.fail("no exception was raised")
    while isinstance(error, BaseExceptionGroup):
        (error,) = error.exceptions
    if not isinstance(error, row.error):
        raise error
    return str(error)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.what)
def test_the_message_names_the_mistake_and_the_cure(row: Row, world: World) -> None:
    message = message_of(row, world)
    assert row.names_mistake in message
    assert row.names_cure in message


def test_the_mistakes_are_forty_at_least() -> None:
    assert len({row.what for row in ROWS}) == len(ROWS) >= 40
