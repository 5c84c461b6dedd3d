"""Honest peers, recorded: what they send to one side under test, and what it takes to go on.

All of OpenSSL's random numbers are made the same each time, so a side that is fed the same bytes
writes the same bytes. The peer's part is made once, and is good for any number of conversations.
"""

from __future__ import annotations

import _ssl
import ctypes
import re
import ssl
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeVar

import attrs
from OpenSSL import SSL

from fuzz import _setup
from fuzz._forge import Keys, Keys12, Keys13, keys12, records_in
from fuzz._randomness import Randomness
from fuzz._setup import CIPHER13, KEYS, NAME
from trio_tlsbio import TLSSession
from trio_tlsbio._core.native_session import AnySession

from .subjects import Act, Action, Ours, Plain

__all__ = ["SCENARIOS", "Item", "Scenario", "Transcript", "records_in_part", "within_a_second"]

T = TypeVar("T")

# What happens in a conversation: the peer's flights, and what the application does.
Item = bytes | Action

_OURS, _PEER = Randomness(b"under test"), Randomness(b"peer")

# SSL_OP_NO_RENEGOTIATION is Python's OP_NO_RENEGOTIATION; this one has no name there.
_ALLOW_CLIENT_RENEGOTIATION = 1 << 8

_SECRET = re.compile(r"^(\w+) \w+ (\w+)$", re.MULTILINE)  # a line of a keylog file

################################################################
# Contexts
################################################################

Maker = Callable[[str | None], ssl.SSLContext]


def _with_retry(version: str | None) -> ssl.SSLContext:
    """A server that requires another group than clients begin with: HelloRetryRequest."""
    context = _setup._server(version, tickets=0)
    context.set_ecdh_curve("prime256v1")
    return context


def _renegotiating(version: str | None) -> ssl.SSLContext:
    context = _setup._server(version)
    context.options |= ssl.OP_NO_TICKET  # the new handshake rests on the time in it
    context.options &= ~ssl.OP_NO_RENEGOTIATION
    context.options |= _ALLOW_CLIENT_RENEGOTIATION
    return context


def _demanding(version: str | None) -> ssl.SSLContext:
    context = _setup._demanding(version)
    context.num_tickets = 0
    return context


_silent: Maker = partial(_setup._server, tickets=0)


@attrs.frozen(eq=False)
class Scenario:
    """A kind of handshake, and the side of it that is under test."""

    name: str
    is_server: bool
    version: str
    own: Maker
    peer: Maker
    #: Whether it resumes a session of a handshake before.
    resumes: bool = False
    #: What follows the handshake, where a real peer must say it.
    follows: str | None = None
    #: Whether each side offers all versions, except that the peer of TLS 1.2 has no other.
    is_open: bool = False

    def own_context(self) -> ssl.SSLContext:
        """Make the context of the side under test: with the same ticket keys each time."""
        with Randomness(self.name.encode()).used():
            context = self.own(None if self.is_open else self.version)
        if self.is_server:
            _remember_nothing(context)
        return context

    @property
    def server_hostname(self) -> str | None:
        """What the side under test asks for."""
        return None if self.is_server else NAME


def _scenarios() -> Iterator[Scenario]:
    client: Maker = _setup._client
    asking: Maker = _setup._asking
    server: Maker = _setup._server
    for version in _setup.VERSIONS:
        for name, own, peer in (
            ("plain", client, _silent),
            ("with a certificate", asking, _demanding),
            ("that verifies nothing", _setup._credulous, _silent),
        ):
            yield Scenario(f"{version} client {name}", False, version, own, peer)
        for name, own, peer in (
            ("plain", server, client),
            ("that demands a certificate", _setup._demanding, asking),
            ("without tickets", _silent, client),
        ):
            yield Scenario(f"{version} server {name}", True, version, own, peer)
        for name, own, peer, is_server in (
            ("client", client, server, False),
            ("server", server, client, True),
        ):
            yield Scenario(
                f"{version} {name} that resumes", is_server, version, own, peer, resumes=True
            )
            yield Scenario(
                f"{version} {name} of any version", is_server, version, own, peer, is_open=True
            )
    v13, v12 = "TLSv1.3", "TLSv1.2"
    yield Scenario(f"{v13} client with a HelloRetryRequest", False, v13, client, _with_retry)
    yield Scenario(f"{v13} server with a HelloRetryRequest", True, v13, _with_retry, client)
    asks = _setup._asking_later
    yield Scenario(f"{v13} client that is asked later", False, v13, asking, asks, follows="asks")
    yield Scenario(f"{v13} server that asks later", True, v13, asks, asking, follows="asks")
    for number in range(4):
        yield Scenario(
            f"{v12} client, renegotiation {number}",
            *(False, v12, client, server),
            follows=f"renegotiates {number}",
        )
        yield Scenario(
            f"{v12} server, renegotiation {number}",
            *(True, v12, _renegotiating, client),
            follows=f"renegotiates {number}",
        )


SCENARIOS: Mapping[str, Scenario] = {scenario.name: scenario for scenario in _scenarios()}

################################################################
# Peers
################################################################


@attrs.define(eq=False)
class PythonPeer:
    """One by Python's ssl module."""

    plain: Plain
    _said: bytes = b""

    def hear(self, data: bytes) -> None:
        self._said += self.plain.feed(data).written

    def say(self) -> bytes:
        said, self._said = self._said + self.plain.step().written, b""
        return said

    def ask(self) -> None:
        """Request a certificate."""
        self._said += self.plain.act(Action(Act.ASK)).written


@attrs.define(eq=False)
class Renegotiator:
    """One by pyOpenSSL, which can begin new handshakes. Its random numbers are its own."""

    _ssl: SSL.Connection

    @classmethod
    def of(cls, *, server_side: bool) -> Renegotiator:
        context = SSL.Context(SSL.TLS_SERVER_METHOD if server_side else SSL.TLS_CLIENT_METHOD)
        context.set_max_proto_version(SSL.TLS1_2_VERSION)  # the last that renegotiates
        context.set_cipher_list(_setup._CIPHER12.encode())
        if server_side:
            context.use_certificate_file(str(KEYS / "server.pem"))
            context.use_privatekey_file(str(KEYS / "server.pem"))
        connection = SSL.Connection(context, None)
        if server_side:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
        with suppress(SSL.WantReadError):
            connection.do_handshake()
        return cls(connection)

    def hear(self, data: bytes) -> None:
        if data:
            self._ssl.bio_write(data)
        with suppress(SSL.WantReadError):
            while True:
                self._ssl.recv(16384)

    def say(self) -> bytes:
        said = b""
        with suppress(SSL.WantReadError):
            while True:
                said += self._ssl.bio_read(65536)
        return said

    def send(self, data: bytes) -> None:
        with suppress(SSL.WantReadError):
            self._ssl.sendall(data)

    def renegotiate(self) -> None:
        self._ssl.renegotiate()
        with suppress(SSL.WantReadError):
            self._ssl.do_handshake()

    @property
    def renegotiations(self) -> int:
        """How many new handshakes it has been through."""
        return self._ssl.total_renegotiations()

    def close(self) -> None:
        with suppress(SSL.Error):
            self._ssl.shutdown()


################################################################
# Recording
################################################################


@attrs.define(eq=False)
class _Recorder:
    """A peer, and a side like the one under test that hears it."""

    subject: Plain
    peer: PythonPeer | Renegotiator
    items: list[Item] = attrs.field(factory=list, init=False)
    said: bytearray = attrs.field(factory=bytearray, init=False)  # by the subject
    #: After how many items the handshake is done.
    handshake_items: int = attrs.field(default=0, init=False)

    def exchange(self) -> None:
        """Carry everything, both ways, until neither side says anything."""
        written = self.subject.step().written
        while True:
            self.said += written
            self.peer.hear(written)
            if not (flight := self.peer.say()):
                return
            self.items.append(flight)
            step = self.subject.feed(flight)
            written = step.written
            if step.is_established and not self.handshake_items:
                self.handshake_items = len(self.items)

    def act(self, action: Action) -> None:
        """Let the side under test do something."""
        self.items.append(action)
        written = self.subject.act(action).written
        self.said += written
        self.peer.hear(written)

    def first_data(self) -> bytes:
        """Return what the peer has sent first."""
        first = self.items[0]
        assert isinstance(first, bytes)
        return first


@attrs.define(eq=False)
class _Kit:
    """What one of the sides under test is made of."""

    context: ssl.SSLContext
    session: ssl.SSLSession | None = None
    our_session: TLSSession | None = None
    peer_session: ssl.SSLSession | None = None

    @classmethod
    def of(cls, scenario: Scenario, peer_context: ssl.SSLContext) -> _Kit:
        kit = cls(scenario.own_context())
        if scenario.resumes:
            kit._shake_hands(scenario, peer_context)
        return kit

    def _shake_hands(self, scenario: Scenario, peer_context: ssl.SSLContext) -> None:
        """Complete a first handshake, the same for each kit, to resume from."""
        subject = Plain.of(self.context, _OURS, server_hostname=scenario.server_hostname)
        peer = _python_peer(scenario, peer_context)
        recorder = _Recorder(subject, peer)
        recorder.exchange()
        if scenario.is_server:
            self.peer_session = peer.plain.ssl_object.session
            return
        self.session = subject.ssl_object.session
        ours = Ours.of(self.context, _OURS, server_hostname=NAME)
        for flight in recorder.items:
            assert isinstance(flight, bytes)
            ours.feed(flight)
        self.our_session = ours.connection.session
        assert self.our_session is not None


def _python_peer(
    scenario: Scenario, context: ssl.SSLContext, session: ssl.SSLSession | None = None
) -> PythonPeer:
    name = NAME if scenario.is_server else None
    return PythonPeer(Plain.of(context, _PEER, server_hostname=name, session=session))


def _record(scenario: Scenario, kit: _Kit, peer_context: ssl.SSLContext) -> _Recorder:
    """Record a conversation."""
    peer: PythonPeer | Renegotiator
    follows = scenario.follows or ""
    if follows.startswith("renegotiates"):
        peer = Renegotiator.of(server_side=not scenario.is_server)
    else:
        peer = _python_peer(scenario, peer_context, kit.peer_session)
    if kit.session is not None:
        make_new(kit.session)
    subject = Plain.of(
        kit.context, _OURS, server_hostname=scenario.server_hostname, session=kit.session
    )
    recorder = _Recorder(subject, peer)
    recorder.exchange()
    assert subject.is_established, f"{scenario.name}: {subject.error}"
    assert bool(subject.ssl_object.session_reused) is scenario.resumes
    if isinstance(peer, Renegotiator):
        _renegotiate(recorder, peer, int(follows.split()[1]))
    elif follows == "asks":
        if scenario.is_server:
            recorder.act(Action(Act.ASK))
        else:
            peer.ask()
        recorder.exchange()
    return recorder


def _renegotiate(recorder: _Recorder, peer: Renegotiator, number: int) -> None:
    """Let the peer begin new handshakes, alongside data of both sides."""
    if number % 2:
        peer.send(b"before " * 10)
    for _ in range(1 + number // 2):
        peer.renegotiate()
        recorder.act(Action(Act.SEND, b"ours, while the peer renegotiates"))
        recorder.exchange()
        peer.send(bytes(20_000 if number % 2 else 10))
        recorder.exchange()
        assert peer.renegotiations
    recorder.act(Action(Act.SEND, b"ours, afterwards"))
    peer.send(b"the last")
    peer.close()
    recorder.exchange()


################################################################
# Sessions, which know the time, and are remembered
################################################################

# The library that the ssl module has loaded: no other one counts.
_openssl = ctypes.CDLL(_ssl.__file__)
_openssl.SSL_SESSION_set_time.argtypes = [ctypes.c_void_p, ctypes.c_long]

_openssl.SSL_CTX_ctrl.argtypes = [ctypes.c_void_p, ctypes.c_int, ctypes.c_long, ctypes.c_void_p]
_SSL_CTRL_SET_SESS_CACHE_MODE = 44

# By so much the clock that C's time() reads may be slow, in seconds.
_TICK = 0.02


def _remember_nothing(context: ssl.SSLContext) -> None:
    """Let a server resume by tickets alone: an id of a session would be chosen until it is new."""
    _openssl.SSL_CTX_ctrl(_pointer_in(context), _SSL_CTRL_SET_SESS_CACHE_MODE, 0, None)


def _pointer_in(wrapper: object) -> ctypes.c_void_p:
    """Return OpenSSL's own object, to which CPython's holds a pointer first of all."""
    return ctypes.c_void_p.from_address(id(wrapper) + object.__basicsize__)


def make_new(session: AnySession) -> None:
    """Let a session be of this second. A ClientHello of TLS 1.3 says how old it is, in seconds of
    which OpenSSL leaves out the first.
    """
    pointer = getattr(session, "_pointer", None) or _pointer_in(session)
    _openssl.SSL_SESSION_set_time(pointer, int(time.time() - _TICK))


################################################################
# What conversations are made from
################################################################


@attrs.frozen(eq=False)
class Transcript:
    """What an honest peer has sent in one scenario."""

    scenario: Scenario
    #: The handshake, and what followed where a real peer had to say it.
    items: tuple[Item, ...]
    #: After how many of them it is done.
    handshake_items: int
    client_random: bytes = attrs.field(repr=False)
    server_random: bytes = attrs.field(repr=False)
    #: The first record of the client.
    client_hello: bytes = attrs.field(repr=False)
    #: By the labels of a key log, empty if the keys can't be known.
    secrets: Mapping[str, bytes] = attrs.field(repr=False)
    _our_kit: _Kit
    _plain_kit: _Kit

    @property
    def is_tls13(self) -> bool:
        return self.scenario.version == "TLSv1.3"

    def ours(self, **options: Any) -> Ours:
        """Make the library's side, as it is before the first byte."""
        kit = self._our_kit
        if kit.our_session is not None:
            make_new(kit.our_session._ssl_session)
        name = self.scenario.server_hostname
        return Ours.of(kit.context, _OURS, server_hostname=name, session=kit.our_session, **options)

    def plain(self, **options: Any) -> Plain:
        """Make OpenSSL's side, as it is before the first byte."""
        kit = self._plain_kit
        if kit.session is not None:
            make_new(kit.session)
        name = self.scenario.server_hostname
        randomness = Randomness(_OURS.seed)
        return Plain.of(
            kit.context, randomness, server_hostname=name, session=kit.session, **options
        )

    def keys(self) -> Keys | None:
        """Return what the peer seals with after these items; None if that can't be known."""
        if not self.secrets:
            return None
        if not self.is_tls13:
            return self._keys12()
        keys = Keys13(self.secrets[f"{self._writer}_TRAFFIC_SECRET_0"], CIPHER13)
        later = b"".join(i for i in self.items[self.handshake_items :] if isinstance(i, bytes))
        keys._sequence = sum(1 for _ in records_in(later))
        return keys

    def handshake_keys(self) -> Keys | None:
        """Return what the peer seals the encrypted part of its handshake with."""
        if not self.secrets:
            return None
        if self.is_tls13:
            return Keys13(self.secrets[f"{self._writer}_HANDSHAKE_TRAFFIC_SECRET"], CIPHER13)
        keys = self._keys12()
        keys._sequence = 0  # the Finished
        return keys

    @property
    def _writer(self) -> str:
        return "CLIENT" if self.scenario.is_server else "SERVER"

    def _keys12(self) -> Keys12:
        client, server = keys12(
            self.secrets["CLIENT_RANDOM"],
            self.client_random,
            self.server_random,
            _setup._CIPHER12,
        )
        return client if self.scenario.is_server else server

    @classmethod
    @cache
    def of(cls, name: str) -> Transcript:
        """Record it, once."""
        scenario = SCENARIOS[name]
        # The three kits resume the same session only if its ticket says the same second.
        return within_a_second(lambda: cls._recorded(scenario))

    @classmethod
    def _recorded(cls, scenario: Scenario) -> Transcript:
        with _PEER.used(), tempfile.TemporaryDirectory() as folder:
            peer_context = scenario.peer(scenario.version)
            kits = [_Kit.of(scenario, peer_context) for _ in range(3)]
            path = Path(folder, "secrets")
            peer_context.keylog_filename = str(path)
            recorder = _record(scenario, kits[0], peer_context)
            secrets = {
                label: bytes.fromhex(secret) for label, secret in _SECRET.findall(path.read_text())
            }
        hellos = bytes(recorder.said), recorder.first_data()
        client, server = hellos[::-1] if scenario.is_server else hellos
        return cls(
            scenario=scenario,
            items=tuple(recorder.items),
            handshake_items=recorder.handshake_items,
            # After the headers of record and message, and the version.
            client_random=client[11:43],
            server_random=server[11:43],
            client_hello=next(records_in_part(client)),
            secrets=secrets,
            our_kit=kits[1],
            plain_kit=kits[2],
        )


def within_a_second(make: Callable[[], T], is_good: Callable[[T], bool] = lambda _: False) -> T:
    """Make something in which the time of day is written, such as tickets: again, if the clock
    has gone on to another second meanwhile and what was made is not good anyway.
    """
    while True:
        second = int(time.time() - _TICK)
        made = make()
        if is_good(made) or int(time.time()) == second:
            return made


def records_in_part(data: bytes) -> Iterator[bytes]:
    """Cut data into records; the last one may be cut short."""
    start = 0
    while start < len(data):
        end = start + 5 + int.from_bytes(data[start + 3 : start + 5], "big")
        yield data[start:end]
        start = end
