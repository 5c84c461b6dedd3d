"""What connections are made of: contexts, and handshakes whose peer's part was made before.

The keys in ``fuzz/keys`` are for fuzzing alone, and known to everybody.
"""

from __future__ import annotations

import re
import ssl
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path

import attrs

from trio_tlsbio import TLSConnection

from ._forge import Keys, Keys13, keys12
from ._randomness import Randomness

__all__ = ["CLIENT", "NAME", "SERVER", "VERSIONS", "Handshake", "connection", "contexts"]

KEYS = Path(__file__).parent / "keys"
NAME = "server.example"
VERSIONS = {"TLSv1.2": ssl.TLSVersion.TLSv1_2, "TLSv1.3": ssl.TLSVersion.TLSv1_3}

CLIENT, SERVER = Randomness(b"client"), Randomness(b"server")

_SECRET = re.compile(r"^(\w+) \w+ (\w+)$", re.MULTILINE)  # a line of a keylog file

# _forge.py knows AES-GCM. The suites of TLS 1.3 can't be chosen; this is OpenSSL's first.
_CIPHER12 = "ECDHE-ECDSA-AES128-GCM-SHA256"
CIPHER13 = "TLS_AES_256_GCM_SHA384"


def _client(version: str | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(cafile=str(KEYS / "authority.pem"))
    context.set_ciphers(_CIPHER12)
    if version is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


def _credulous(version: str | None = None) -> ssl.SSLContext:
    context = _client(version)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def _asking(version: str | None = None) -> ssl.SSLContext:
    """Both sides may use it: a client that answers, or a server that asks, after the handshake."""
    context = _client(version)
    context.load_cert_chain(KEYS / "client.pem")
    context.post_handshake_auth = True
    return context


def _server(version: str | None = None, *, tickets: int = 2) -> ssl.SSLContext:
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=str(KEYS / "authority.pem")
    )
    context.set_ciphers(_CIPHER12)
    if version is not None:
        context.minimum_version = context.maximum_version = VERSIONS[version]
    context.load_cert_chain(KEYS / "server.pem")
    context.set_alpn_protocols(["http/1.1"])
    context.num_tickets = tickets
    return context


def _demanding(version: str | None = None) -> ssl.SSLContext:
    context = _server(version)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def _asking_later(version: str | None = None) -> ssl.SSLContext:
    context = _server(version)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.post_handshake_auth = True
    return context


def _by_name(version: str | None = None) -> ssl.SSLContext:
    """A context that looks at names, so that the ClientHello is held back."""
    context, other = _server(version), _server(version)

    def choose(ssl_object: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int | None:
        if name != "other" and not (name or "").endswith(".example"):
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        ssl_object.context = other if name == "other" else context
        return None

    context.sni_callback = choose
    return context


_MAKERS: Mapping[str, Callable[[str | None], ssl.SSLContext]] = {
    "client": _client,
    "credulous client": _credulous,
    "client with a certificate": _asking,
    "server": _server,
    "demanding server": _demanding,
    "server that asks later": _asking_later,
    "server by name": _by_name,
}
CLIENTS = tuple(_MAKERS)[:3]
SERVERS = tuple(_MAKERS)[3:]


@cache
def contexts(name: str, version: str | None) -> ssl.SSLContext:
    """Return one of the contexts, which are made once."""
    with Randomness(name.encode()).used():  # the keys for session tickets
        return _MAKERS[name](version)


def connection(name: str, version: str | None) -> TLSConnection:
    """Make one with the context of that name, at the beginning of its random numbers."""
    if name in SERVERS:
        SERVER.restart()
        with SERVER.used():
            return TLSConnection(contexts(name, version), server_side=True)
    CLIENT.restart()
    with CLIENT.used():
        return TLSConnection(
            contexts(name, version),
            server_hostname=NAME,
            collect_sessions=name != "credulous client",  # it takes a while
        )


@attrs.frozen
class Handshake:
    """A handshake of one side, with what its peer sends, made once."""

    name: str
    version: str
    flights: tuple[bytes, ...] = attrs.field(repr=False)
    #: All that this side sends in it.
    answers: tuple[bytes, ...] = attrs.field(repr=False)
    _secrets: Mapping[str, bytes] = attrs.field(repr=False)

    @property
    def is_server(self) -> bool:
        return self.name in SERVERS

    @property
    def randomness(self) -> Randomness:
        """What this side draws from."""
        return SERVER if self.is_server else CLIENT

    def handshake_secret(self) -> bytes:
        """Return the peer's secret for the handshake. TLS 1.3."""
        side = "CLIENT" if self.is_server else "SERVER"
        return self._secrets[f"{side}_HANDSHAKE_TRAFFIC_SECRET"]

    def keys(self) -> tuple[Keys, Keys]:
        """Return the peer's keys to send with and to receive with, as they are after it."""
        client: Keys
        server: Keys
        if self.version == "TLSv1.3":
            client = Keys13(self._secrets["CLIENT_TRAFFIC_SECRET_0"], CIPHER13)
            server = Keys13(self._secrets["SERVER_TRAFFIC_SECRET_0"], CIPHER13)
        else:
            ours, theirs = self.answers[0][11:43], self.flights[0][11:43]
            randoms = (theirs, ours) if self.is_server else (ours, theirs)
            client, server = keys12(self._secrets["CLIENT_RANDOM"], *randoms, _CIPHER12)
        return (client, server) if self.is_server else (server, client)

    def done(self) -> tuple[TLSConnection, bytes]:
        """Return a connection whose handshake is done, and what it has sent after it."""
        made = connection(self.name, self.version)
        sent = made.data_to_send()
        with self.randomness.used():
            for flight in self.flights:
                made.feed(flight)
                made.do_handshake()
                sent = made.data_to_send()
        assert made.handshake is not None
        # A server's tickets. Anything else is a part of the handshake.
        return made, sent if self.is_server and self.version == "TLSv1.3" else b""

    @classmethod
    @cache
    def of(cls, name: str, version: str) -> Handshake:
        """Make it with a real peer."""
        is_server = name in SERVERS
        own = contexts(name, version)
        with tempfile.TemporaryDirectory() as folder, Randomness(b"peer").used():
            path = Path(folder, "secrets")
            theirs = _asking(version) if is_server else _server(version, tickets=0)
            theirs.keylog_filename = str(path)
            context = (theirs, own) if is_server else (own, theirs)
            sent = _shake_hands(*context)
            secrets = {
                label: bytes.fromhex(secret) for label, secret in _SECRET.findall(path.read_text())
            }
        ours, peers = reversed(sent) if is_server else sent
        return cls(name, version, tuple(peers), tuple(ours), secrets)


def _shake_hands(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> tuple[list[bytes], list[bytes]]:
    """Complete a handshake, and return what each side has sent."""
    CLIENT.restart()
    SERVER.restart()
    with CLIENT.used():
        client = TLSConnection(client_context, server_hostname=NAME, collect_sessions=True)
    with SERVER.used():
        server = TLSConnection(server_context, server_side=True)
    sent: tuple[list[bytes], list[bytes]] = ([], [])
    while True:
        with CLIENT.used():
            client.do_handshake()
        if data := client.data_to_send():
            sent[0].append(data)
            server.feed(data)
        with SERVER.used():
            server.do_handshake()
        if not (answer := server.data_to_send()):
            break
        sent[1].append(answer)
        client.feed(answer)
    assert client.handshake is not None
    assert server.handshake is not None
    return sent
