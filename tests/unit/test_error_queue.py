"""OpenSSL's queue of errors belongs to a thread, and so to all of its connections.

``SSL_get_error`` looks at it: with an entry in it, any connection that merely has to wait for more
seems to have failed. CPython leaves entries in it where it decodes a certificate with a malformed
extension. So nothing of ours may leave one, and none may matter that other code has left.
"""

from __future__ import annotations

import _ssl
import copy
import ctypes
import functools
import inspect
import socket
import ssl
from collections.abc import Callable, Iterator
from contextlib import AsyncExitStack, nullcontext, suppress
from functools import partial
from typing import Any

import attrs
import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtensionOID

from fuzz import _certificates
from fuzz._forge import records_in
from fuzz._setup import CLIENT, KEYS, connection
from tests.certificates import Certificate, Issued
from tests.helpers import NAME, client_context_for, failure, server_context_for, tcp_pair
from trio_tlsbio import (
    CertificateError,
    TLSConnection,
    TLSConnector,
    TLSError,
    TLSStream,
    open_tls_over_tcp_listeners,
    serve_tls_listeners,
)
from trio_tlsbio._core.certificates import presented_names
from trio_tlsbio._core.iana import Alert, AlertLevel
from trio_tlsbio._core.records import ALERT
from trio_tlsbio.testing import exchange

# The library that the ssl module has loaded: no other one counts.
_openssl = ctypes.CDLL(_ssl.__file__)
try:
    _peek, _clear = _openssl.ERR_peek_error, _openssl.ERR_clear_error
except AttributeError as exc:
    pytest.skip(f"OpenSSL's functions can't be reached: {exc}", allow_module_level=True)
_peek.restype = ctypes.c_ulong
_openssl.ERR_reason_error_string.restype = ctypes.c_char_p
_openssl.ERR_reason_error_string.argtypes = [ctypes.c_ulong]


def first_entry() -> str | None:
    """Return what the first entry of the queue says; None if the queue is empty."""
    code: int = _peek()
    if not code:
        return None
    reason: bytes | None = _openssl.ERR_reason_error_string(code)
    return f"{code:#x}" if reason is None else reason.decode()


@pytest.fixture(autouse=True)
def no_entry_remains() -> Iterator[None]:
    """Begin with an empty queue, and leave none to other tests."""
    _clear()
    yield
    _clear()


################################################################
# Odd certificates
################################################################

AIA = ExtensionOID.AUTHORITY_INFORMATION_ACCESS
CRLS = ExtensionOID.CRL_DISTRIBUTION_POINTS
NAMES = ExtensionOID.SUBJECT_ALTERNATIVE_NAME

# What an extension is replaced by, in DER.
MALFORMED = {
    "NULL": b"\x05\0",
    "nothing": b"",
    "a sequence of NULL": b"\x30\2\x05\0",
    "a sequence that is cut short": b"\x30\3\2\1",
    "no DER": b"\xff" * 5,
    "no end": b"\x30\x80",
}

# OpenSSL presents a certificate whose authorityInfoAccess it can't read, and none of the others.
PRESENTED = [(AIA, how) for how in MALFORMED]
ALL = [(oid, how) for oid in (AIA, CRLS, NAMES) for how in MALFORMED]
_IDS = {AIA: "authorityInfoAccess", CRLS: "cRLDistributionPoints", NAMES: "subjectAltName"}

each_presented = pytest.mark.parametrize(
    ("oid", "how"), PRESENTED, ids=[f"{_IDS[oid]}: {how}" for oid, how in PRESENTED]
)
each_odd = pytest.mark.parametrize(
    ("oid", "how"), ALL, ids=[f"{_IDS[oid]}: {how}" for oid, how in ALL]
)


def odd(oid: x509.ObjectIdentifier = AIA, how: str = "NULL", **what: Any) -> Certificate:
    """Describe a certificate with one malformed extension."""
    extension = x509.UnrecognizedExtension(oid, MALFORMED[how])
    without = [x509.SubjectAlternativeName] if oid == NAMES else []
    return Certificate(extensions=[(extension, False)], without=without, **what)


@pytest.fixture(scope="module")
def root(ca: trustme.CA) -> Issued:
    """The authority that the contexts trust."""
    return Issued.of(ca)


def with_certificate(context: ssl.SSLContext, issued: Issued) -> ssl.SSLContext:
    issued.load_into(context)
    return context


@attrs.define(eq=False)
class Litter:
    """Leaves entries in the queue, as other code in the thread may."""

    _client: ssl.SSLObject

    @classmethod
    def of(cls, root: Issued) -> Litter:
        """Let a raw SSLObject meet a server whose certificate is odd."""
        server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        odd().signed_by(root).load_into(server_context)
        client_context = ssl.create_default_context()
        root.trusted_by(client_context)
        wires = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = client_context.wrap_bio(*wires, server_hostname=NAME)
        server = server_context.wrap_bio(*wires[::-1], server_side=True)
        for side in (client, server, client, server):
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
        with suppress(ssl.SSLWantReadError):
            client.read()  # the tickets
        return cls(client)

    def drop(self) -> None:
        """Leave some."""
        self._client.getpeercert()

    def read(self) -> bytes:
        """Read what there is not."""
        return self._client.read()


@pytest.fixture(scope="module")
def litter(root: Issued) -> Litter:
    return Litter.of(root)


def test_decoding_leaves_entries_that_break_other_connections(root: Issued) -> None:
    """What all of this is about. A Python that leaves nothing needs no cure."""
    one, other = Litter.of(root), Litter.of(root)
    with pytest.raises(ssl.SSLWantReadError):
        other.read()
    one.drop()
    if first_entry() is None:
        pytest.skip("this Python leaves nothing in the queue")
    with pytest.raises(ssl.SSLError, match="asn1") as caught:
        other.read()
    assert not isinstance(caught.value, ssl.SSLWantReadError)


################################################################
# Every call is watched
################################################################


def _wrapped(function: Callable[..., Any], around: Callable[[str], Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        done = around(function.__name__)
        try:
            return function(*args, **kwargs)
        finally:
            done()

    return call


@attrs.define(eq=False)
class Watch:
    """What is done around each call of the core from outside."""

    before: Callable[[], object]
    after: Callable[[str], object]
    _depth: int = 0
    calls: int = 0

    def around(self, name: str) -> Callable[[], object]:
        if not self._depth:
            self.calls += 1
            self.before()
        self._depth += 1
        return partial(self._leave, name)

    def _leave(self, name: str) -> None:
        self._depth -= 1
        if not self._depth:
            self.after(name)


def _is_empty(name: str) -> None:
    entry = first_entry()
    _clear()  # once is enough
    assert entry is None, f"TLSConnection.{name} leaves an entry in the queue: {entry}"


@pytest.fixture(params=["nothing is left", "something was there"])
def watch(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch, litter: Litter) -> Watch:
    """Either no public call leaves an entry, or there is one before each call."""
    if request.param == "nothing is left":
        watch = Watch(before=lambda: None, after=_is_empty)
    else:
        watch = Watch(before=litter.drop, after=lambda name: _clear())
    for name, member in list(vars(TLSConnection).items()):
        if name.startswith("_") and name != "__init__":
            continue
        if inspect.isfunction(member):
            monkeypatch.setattr(TLSConnection, name, _wrapped(member, watch.around))
        elif isinstance(member, property):
            assert member.fget is not None
            watched = property(_wrapped(member.fget, watch.around))
            monkeypatch.setattr(TLSConnection, name, watched)
    return watch


def converse(client: TLSConnection, server: TLSConnection) -> None:
    """Exchange some data, and close both ways."""
    for one, other in ((client, server), (server, client)):
        one.send(b"hello")
        one.send(bytes(40_000))
        data = one.data_to_send()
        received = b""
        for start in range(0, len(data), 7000):
            other.feed(data[start : start + 7000])
            received += other.receive() or b""
        while more := other.receive():
            received += more
        assert len(received) == 40_005
        assert other.receive() is None
    client.send_close_notify()
    exchange(client, server)
    assert server.receive() == b""
    server.send(b"after it")
    server.send_close_notify()
    exchange(client, server)
    assert client.receive() == b"after it"
    assert client.receive() == b""


def meet(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, **options: Any
) -> tuple[TLSConnection, TLSConnection]:
    client = TLSConnection(client_context, server_hostname=NAME, **options)
    server = TLSConnection(server_context, server_side=True)
    exchange(client, server)
    return client, server


def established(client: TLSConnection, server: TLSConnection) -> None:
    assert failure(client) is None
    assert failure(server) is None
    assert client.handshake is not None
    assert server.handshake is not None


@pytest.mark.parametrize("collect", [False, True])
def test_a_conversation(
    collect: bool, client_context: ssl.SSLContext, server_context: ssl.SSLContext, watch: Watch
) -> None:
    client, server = meet(client_context, server_context, collect_sessions=collect)
    established(client, server)
    converse(client, server)
    assert watch.calls > 30


def test_a_handshake_byte_by_byte(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, watch: Watch
) -> None:
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    exchange(client, server, 1)
    established(client, server)


def test_resumption(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, watch: Watch
) -> None:
    client, server = meet(client_context, server_context)
    assert client.receive() is None
    session = client.session
    assert session is not None
    client, server = meet(client_context, server_context, session=session)
    established(client, server)
    assert client.handshake is not None
    assert client.handshake.session_reused
    converse(client, server)


@pytest.mark.parametrize("is_odd", [False, True])
def test_client_certificates(
    is_odd: bool,
    root: Issued,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    watch: Watch,
) -> None:
    issued = (odd() if is_odd else Certificate()).signed_by(root)
    with_certificate(client_context, issued)
    root.trusted_by(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    client, server = meet(client_context, server_context)
    established(client, server)
    assert server.handshake is not None
    assert server.handshake.peer_certificate_chain[:1] == (issued.der,)
    converse(client, server)


@pytest.mark.parametrize("is_odd", [False, True])
def test_client_certificates_on_request(
    is_odd: bool, root: Issued, ca: trustme.CA, server_cert: trustme.LeafCert, watch: Watch
) -> None:
    issued = (odd() if is_odd else Certificate()).signed_by(root)
    client_context = with_certificate(client_context_for(ca), issued)
    client_context.post_handshake_auth = True
    server_context = server_context_for(server_cert)
    root.trusted_by(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.post_handshake_auth = True
    client, server = meet(client_context, server_context)
    established(client, server)
    server.verify_client_post_handshake()
    exchange(client, server)
    assert server.receive() is None
    assert server.handshake is not None
    assert server.handshake.peer_certificate_chain[:1] == (issued.der,)
    converse(client, server)


@each_presented
def test_an_odd_certificate_that_is_accepted(
    oid: x509.ObjectIdentifier,
    how: str,
    root: Issued,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    watch: Watch,
) -> None:
    issued = odd(oid, how).signed_by(root)
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.maximum_version = tls_version
    client, server = meet(client_context, with_certificate(server_context, issued))
    established(client, server)
    assert client.handshake is not None
    assert client.handshake.matched_name == NAME
    assert client.handshake.certificate_names == (NAME,)
    converse(client, server)


_STRANGER = Certificate(is_ca=True, common_name="stranger")

REFUSED: dict[str, Callable[[Issued], Issued]] = {
    "a wrong name": lambda root: Certificate(names=["other.example"]).signed_by(root),
    "a wrong name, odd": lambda root: odd(names=["other.example"]).signed_by(root),
    "no name, odd": lambda root: odd(names=[]).signed_by(root),
    "a name that is not text, odd": lambda root: (
        odd(names=["other.example"])
        .signed_by(root)
        .changed(b"other.example", b"other.exampl\xff", root)
    ),
    "it has expired": lambda root: Certificate(days=(-9, -1)).signed_by(root),
    "it has expired, odd": lambda root: odd(days=(-9, -1)).signed_by(root),
    "not trusted": lambda root: Certificate().signed_by(_STRANGER.signed_by(None)),
    "not trusted, odd": lambda root: odd().signed_by(_STRANGER.signed_by(None)),
    "self-signed, odd": lambda root: odd().signed_by(None),
    # It names the trusted authority as its issuer, with another key: anyone can make it.
    "forged, odd": lambda root: odd(names=["other.example"]).signed_by(
        Issued(root.der, _STRANGER.key)
    ),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_a_certificate_that_is_refused(
    name: str,
    root: Issued,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    watch: Watch,
) -> None:
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server_context.maximum_version = tls_version
    client, server = meet(client_context, with_certificate(server_context, REFUSED[name](root)))
    for _ in range(2):
        refused = failure(client)
        assert isinstance(refused.__cause__ if refused else None, ssl.SSLCertVerificationError)
    assert "alert" in str(failure(server))


@pytest.mark.parametrize("name", ["it has expired, odd", "not trusted, odd", "forged, odd"])
def test_a_client_certificate_that_is_refused(
    name: str,
    root: Issued,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    watch: Watch,
) -> None:
    with_certificate(client_context, REFUSED[name](root))
    root.trusted_by(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    client, server = meet(client_context, server_context)
    refused = failure(server)
    assert isinstance(refused.__cause__ if refused else None, ssl.SSLCertVerificationError)
    exchange(client, server)
    assert "alert" in str(failure(client))


def test_truncation_and_garbage(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, watch: Watch
) -> None:
    for garbage in (b"GET / HTTP/1.1\r\n\r\n", b"\x16\3\1\0\5hello", b"\x15\3\1\0\2\2\x28", b""):
        server = TLSConnection(server_context, server_side=True)
        server.feed(garbage)
        assert (failure(server) is None) is (not garbage)
        if not garbage:
            server.feed_eof()
            with pytest.raises(TLSError, match="closed the connection during the handshake"):
                server.do_handshake()


################################################################
# What is decoded for the caller
################################################################

_FUZZ_KEY: Any = serialization.load_pem_private_key((KEYS / "server.pem").read_bytes(), None)


@each_odd
def test_what_decodes_a_certificate_leaves_nothing(
    oid: x509.ObjectIdentifier, how: str, root: Issued
) -> None:
    """Also of one that OpenSSL would not present: a peer may have other means."""
    issued = odd(oid, how, key=_FUZZ_KEY).signed_by(root)
    flight = _certificates._Flight.of("credulous client").with_certificates([issued.der])
    client = connection("credulous client", "TLSv1.3")
    client.feed(flight)
    with CLIENT.used():
        assert client.do_handshake()
    _is_empty("do_handshake")
    info = client.handshake
    assert info is not None
    assert info.peer_certificate_chain == (issued.der,)
    decode: dict[str, Callable[[], object]] = {
        "decoded_chain": lambda: info.decoded_chain,
        "presented_names": lambda: presented_names(client.ssl_object),
        "a copy": lambda: copy.copy(info),
    }
    for what, act in decode.items():
        act()
        entry = first_entry()
        _clear()
        assert entry is None, f"{what} leaves an entry in the queue: {entry}"
    with CLIENT.used():
        assert client.receive() is None


################################################################
# An entry is there already, in any phase
################################################################

Pair = tuple[TLSConnection, TLSConnection]


def _new(client: TLSConnection, server: TLSConnection) -> None:
    pass


def _server_has_hello(client: TLSConnection, server: TLSConnection) -> None:
    server.feed(client.data_to_send())


def _client_has_some(client: TLSConnection, server: TLSConnection) -> None:
    _server_has_hello(client, server)
    server.do_handshake()
    client.feed(server.data_to_send()[:100])


def _done(client: TLSConnection, server: TLSConnection) -> None:
    exchange(client, server)
    assert client.receive() is None
    assert server.receive() is None


def _data_waits(client: TLSConnection, server: TLSConnection) -> None:
    _done(client, server)
    for one, other in ((client, server), (server, client)):
        one.send(b"x" * 100)
        one.send(b"y" * 20_000)
        other.feed(one.data_to_send()[:-1])


def _closed(client: TLSConnection, server: TLSConnection) -> None:
    _done(client, server)
    client.send_close_notify()
    server.feed(client.data_to_send())


def _half_closed(client: TLSConnection, server: TLSConnection) -> None:
    _closed(client, server)
    assert server.receive() == b""
    server.send(b"more")
    client.feed(server.data_to_send())


def _refused(client: TLSConnection, server: TLSConnection) -> None:
    _done(client, server)
    server.feed(b"\x17\3\3\0\x20" + bytes(32))


PHASES = (
    *(_new, _server_has_hello, _client_has_some, _done),
    *(_data_waits, _closed, _half_closed, _refused),
)


def _send_and_receive(connection: TLSConnection) -> object:
    connection.send(b"z")
    return connection.receive()


def _end(connection: TLSConnection) -> object:
    connection.feed_eof()
    return connection.receive()


CALLS: dict[str, Callable[[TLSConnection], object]] = {
    "do_handshake": lambda connection: connection.do_handshake(),
    "receive": lambda connection: connection.receive(),
    "receive some": lambda connection: connection.receive(10),
    "send": lambda connection: connection.send(b"z" * 30_000),
    "send_close_notify": lambda connection: connection.send_close_notify(),
    "send, receive": _send_and_receive,
    "feed_eof": _end,
    "session": lambda connection: connection.session is None,
}


def _outcome(call: Callable[[TLSConnection], object], connection: TLSConnection) -> object:
    try:
        result = call(connection)
    except (TLSError, trio.ClosedResourceError) as exc:
        result = type(exc), str(exc)
    sent = [each[0] for each in records_in(connection.data_to_send())]
    states = connection.send_state, connection.receive_state, connection.wants_data
    return result, sent, states


@pytest.mark.sample(4)
@pytest.mark.parametrize("call", list(CALLS))
@pytest.mark.parametrize("phase", PHASES, ids=lambda phase: phase.__name__.strip("_"))
@pytest.mark.parametrize("side", [0, 1], ids=["client", "server"])
def test_a_call_with_an_entry_is_the_same_as_without(
    side: int,
    phase: Callable[[TLSConnection, TLSConnection], None],
    call: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    litter: Litter,
) -> None:
    outcomes = []
    for has_entry in (False, True):
        client = TLSConnection(client_context, server_hostname=NAME)
        pair = (client, TLSConnection(server_context, server_side=True))
        phase(*pair)
        if has_entry:
            litter.drop()
        outcomes.append(_outcome(CALLS[call], pair[side]))
        _clear()
        # Nothing is found later either.
        outcomes[-1] = outcomes[-1], _outcome(CALLS["receive"], pair[side])
    assert outcomes[0] == outcomes[1]


def test_an_entry_from_within_a_step_is_not_blamed_on_the_next_record(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, litter: Litter
) -> None:
    """The call is repeated for what OpenSSL has: what follows may be an error of its own."""
    server_context.set_ecdh_curve("secp384r1")  # a retry request is all that the step writes
    outcomes = []
    for leave in (lambda: None, litter.drop):
        server_context.sni_callback = lambda *_, leave=leave: leave()
        client = TLSConnection(client_context, server_hostname=NAME)
        server = TLSConnection(server_context, server_side=True)
        refusal = bytes([ALERT, 3, 3, 0, 2, AlertLevel.FATAL, Alert.HANDSHAKE_FAILURE])
        server.feed(client.data_to_send() + refusal)
        outcomes.append(_outcome(TLSConnection.do_handshake, server))
        _clear()
    assert outcomes[0] == outcomes[1]
    assert "handshake_failure" in str(outcomes[0])


@pytest.mark.parametrize("has_entry", [False, True])
def test_a_new_client_with_an_entry(
    has_entry: bool, client_context: ssl.SSLContext, litter: Litter
) -> None:
    if has_entry:
        litter.drop()
    client = TLSConnection(client_context, server_hostname=NAME)
    assert client.data_to_send()[:1] == b"\x16"


################################################################
# Over TCP
################################################################


@attrs.define(eq=False)
class Server:
    """A server that answers a request, and closes."""

    port: int
    #: Set once the handshake of an evil client is done.
    meets_evil: trio.Event = attrs.field(factory=trio.Event, init=False)

    async def handle(self, stream: TLSStream[trio.SocketStream]) -> None:
        if await stream.receive_some() == b"evil":
            self.meets_evil.set()
            await trio.sleep_forever()
        await stream.send_all(bytes(20_000))


def _be_evil(port: int, context: ssl.SSLContext) -> ssl.SSLSocket:
    """Present a certificate. It is another thread, so what it does itself is of no account."""
    sock = socket.create_connection(("127.0.0.1", port))
    wrapped = context.wrap_socket(sock, server_hostname=NAME)
    wrapped.sendall(b"evil")
    return wrapped


async def _be_innocent(client: TLSStream[trio.SocketStream]) -> str | None:
    """Make a request. Return what went wrong."""
    try:
        await client.send_all(b"request")
        received = 0
        async for data in client:
            received += len(data)
        await client.aclose()
    except (TLSError, trio.BrokenResourceError) as exc:
        return repr(exc)
    return None if received == 20_000 else f"{received} bytes were received"


async def test_odd_client_certificates_harm_no_other_client(
    root: Issued,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    ca: trustme.CA,
    rounds: int,
) -> None:
    innocents = 4 * rounds
    root.trusted_by(server_context)
    server_context.verify_mode = ssl.CERT_OPTIONAL
    evil_context = client_context_for(ca, client_context.maximum_version)
    with_certificate(evil_context, odd().signed_by(root))
    failures = []
    async with trio.open_nursery() as nursery:
        listeners = await open_tls_over_tcp_listeners(0, server_context, host="127.0.0.1")
        transport_listener = listeners[0].transport_listener
        assert isinstance(transport_listener, trio.SocketListener)
        server = Server(transport_listener.socket.getsockname()[1])
        await nursery.start(serve_tls_listeners, server.handle, listeners)
        with trio.fail_after(60):
            for _ in range(innocents):
                tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
                innocent = TLSStream(tcp, client_context, server_hostname=NAME)
                await innocent.do_handshake()
                server.meets_evil = trio.Event()
                with await trio.to_thread.run_sync(_be_evil, server.port, evil_context):
                    await server.meets_evil.wait()
                    failure = await _be_innocent(innocent)
                if failure is not None:
                    failures.append(failure)
                    await trio.aclose_forcefully(innocent)
        nursery.cancel_scope.cancel()
    assert not failures, f"{len(failures)} of {innocents} fail, such as by {failures[0]}"


@pytest.mark.parametrize("is_accepted", [False, True])
async def test_an_odd_server_harms_no_other_connection_of_a_connector(
    is_accepted: bool,
    root: Issued,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    odd_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    odd_context.maximum_version = tls_version
    certificate = odd(names=[NAME if is_accepted else "other.example"]).signed_by(root)
    with_certificate(odd_context, certificate)
    connector = TLSConnector(ssl_context=client_context)

    async def connect() -> tuple[TLSStream[Any], TLSStream[Any]]:
        ours, theirs = await stack.enter_async_context(tcp_pair())
        server = TLSStream(theirs, server_context, server_side=True)
        nursery.start_soon(server.do_handshake)
        return await connector.wrap(ours, NAME, 443), server

    async def meet_odd_server() -> None:
        ours, theirs = socket.socketpair()
        stack.enter_context(theirs)
        nursery.start_soon(trio.to_thread.run_sync, _shake_hands, theirs, odd_context)
        transport = trio.SocketStream(trio.socket.from_stdlib_socket(ours))
        with nullcontext() if is_accepted else pytest.raises(CertificateError):
            stream = await connector.wrap(transport, NAME, 444)
            stack.push_async_callback(trio.aclose_forcefully, stream)

    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        with trio.fail_after(20):
            for _ in range(5):
                client, server = await connect()
                await meet_odd_server()
                await client.send_eof()
                assert await server.receive_some() == b""
                await server.send_all(b"after that")
                assert await client.receive_some() == b"after that"
                client, server = await connect()
                await server.send_all(b"all")
                await meet_odd_server()
                await server.send_eof()
                assert await client.receive_some() == b"all"
                assert await client.receive_some() == b""


def _shake_hands(sock: socket.socket, context: ssl.SSLContext) -> None:
    """Be a server, in another thread."""
    sock.settimeout(10)
    wires = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = context.wrap_bio(*wires, server_side=True)
    with suppress(OSError):  # the client may refuse
        while True:
            try:
                server.do_handshake()
            except ssl.SSLWantReadError:
                sock.sendall(wires[1].read())
                wires[0].write(sock.recv(65536))
            else:
                sock.sendall(wires[1].read())
                return
