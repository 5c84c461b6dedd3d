"""A peer whose handshake is real, and that says what it likes before, in and after it."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import trio
import trustme

from fuzz._forge import ALERT, HANDSHAKE, KEY_UPDATE, Keys, Keys13, keys12, take_records
from tests.helpers import NAME, VERSIONS, client_context_for, server_context_for
from trio_tlsbio import TLSConnection, TLSError, TLSStream
from trio_tlsbio._core.iana import Alert

SIDES = ("client", "server")

# In a key log of TLS 1.3, a direction is named by who writes (RFC 9850 section 2).
_WRITERS = {False: "CLIENT", True: "SERVER"}


@attrs.define(eq=False)
class HostilePeer:
    """One end of a connection, without I/O: what it hears goes in, what it says comes out.

    After the handshake it opens what it hears by itself, so it goes on where a well-behaved end
    gives up.
    """

    _connection: TLSConnection  # makes the handshake, and nothing else
    _keylog: Path
    _keylog_start: int  # before are other connections
    _arrived: bytearray = attrs.field(factory=bytearray, init=False)
    #: Content type and content of each record that came after the handshake.
    heard: list[tuple[int, bytes]] = attrs.field(factory=list, init=False)
    #: The records that came before, as they were.
    heard_in_handshake: list[bytes] = attrs.field(factory=list, init=False)
    said_in_handshake: bytearray = attrs.field(factory=bytearray, init=False)
    _ours: Keys | None = attrs.field(default=None, init=False)
    _theirs: Keys | None = attrs.field(default=None, init=False)

    @classmethod
    def of(cls, context: ssl.SSLContext, *, server_side: bool) -> HostilePeer:
        """Make one with a context by :func:`hostile_context`."""
        name = None if server_side else NAME
        connection = TLSConnection(context, server_side=server_side, server_hostname=name)
        keylog = Path(context.keylog_filename)
        return cls(connection, keylog, keylog.stat().st_size)

    @property
    def is_server(self) -> bool:
        return self._connection.ssl_object.server_side

    @property
    def is_tls13(self) -> bool:
        return self._connection.ssl_object.context.maximum_version == ssl.TLSVersion.TLSv1_3

    @property
    def is_established(self) -> bool:
        return self._connection.handshake is not None

    ################################################################
    # The handshake
    ################################################################

    def next_flight(self) -> bytes:
        """What belongs into the handshake now."""
        flight = self._connection.data_to_send()
        self.said_in_handshake += flight
        return flight

    def hear(self, data: bytes) -> None:
        """Take what the other end has sent."""
        self._arrived += data
        for record in take_records(self._arrived):
            if self.is_established:
                content_type, content = self.theirs.open(record)
                self.heard.append((content_type, content))
                if self.is_tls13 and content_type == HANDSHAKE and content[0] == KEY_UPDATE:
                    self.theirs.update()
            else:
                self.heard_in_handshake.append(record)
                self._connection.feed(record)
                with suppress(TLSError):
                    self._connection.do_handshake()

    @property
    def alerts(self) -> list[str]:
        """The name of each alert that came; in a handshake, of those in plaintext."""
        contents = [r[5:] for r in self.heard_in_handshake if r[0] == ALERT and len(r) == 5 + 2]
        contents += [content for content_type, content in self.heard if content_type == ALERT]
        return [Alert(content[1]).description for content in contents]

    ################################################################
    # Anything else
    ################################################################

    def seal(self, content_type: int, content: bytes, padding: int = 0) -> bytes:
        """Make any record under the keys that the handshake has agreed on."""
        return self.ours.seal(content_type, content, padding)

    @property
    def ours(self) -> Keys:
        """What protects what we say after the handshake."""
        if self._ours is None:
            self._derive()
        assert self._ours is not None
        return self._ours

    @property
    def theirs(self) -> Keys:
        """What protects what we hear after the handshake."""
        if self._theirs is None:
            self._derive()
        assert self._theirs is not None
        return self._theirs

    def handshake_keys(self) -> tuple[Keys13, Keys13]:
        """What protects the handshake of TLS 1.3, from the first record on: ours, theirs."""
        label = "HANDSHAKE_TRAFFIC_SECRET"
        return self._keys13(label, self.is_server), self._keys13(label, not self.is_server)

    def _derive(self) -> None:
        if self.is_tls13:
            label = "TRAFFIC_SECRET_0"
            self._ours = self._keys13(label, self.is_server)
            self._theirs = self._keys13(label, not self.is_server)
        else:
            client_random, master_secret = self._secrets()["CLIENT_RANDOM"]
            keys = keys12(master_secret, client_random, self._server_random(), self._cipher)
            self._ours, self._theirs = keys[::-1] if self.is_server else keys

    def _keys13(self, label: str, of_server: bool) -> Keys13:
        _, secret = self._secrets()[f"{_WRITERS[of_server]}_{label}"]
        return Keys13(secret, self._cipher)

    def _secrets(self) -> dict[str, tuple[bytes, bytes]]:
        """By their labels: the client's random, and the secret (RFC 9850 section 2)."""
        with self._keylog.open(encoding="ascii") as file:
            file.seek(self._keylog_start)
            lines = [line.split() for line in file if not line.startswith("#")]
        return {
            label: (bytes.fromhex(client_random), bytes.fromhex(secret))
            for label, client_random, secret in lines
        }

    def _server_random(self) -> bytes:
        # A server begins with its ServerHello: record header, handshake header, version, random.
        said = self.said_in_handshake if self.is_server else self.heard_in_handshake[0]
        return bytes(said[5 + 4 + 2 :][:32])

    @property
    def _cipher(self) -> str:
        cipher = self._connection.ssl_object.cipher()
        assert cipher is not None
        return cipher[0]


def shake_hands(peer: HostilePeer, victim: TLSConnection) -> None:
    """Complete the handshake. What the victim says along with it is heard."""
    for _ in range(4):
        victim.feed(peer.next_flight())
        victim.do_handshake()
        peer.hear(victim.data_to_send())
    assert peer.is_established
    assert victim.handshake is not None


################################################################
# Where they meet
################################################################


def hostile_context(context: ssl.SSLContext, keylog: Path) -> ssl.SSLContext:
    """Make a context fit for a hostile peer."""
    context.keylog_filename = str(keylog)
    context.set_ciphers("ECDHE+AESGCM")  # what our record layer knows
    if context.protocol is ssl.PROTOCOL_TLS_SERVER:
        context.num_tickets = 0  # or the first records would not be ours
    return context


@attrs.frozen
class Arena:
    """Makes victims of one side and version, each with its hostile peer."""

    victim_side: str
    version: ssl.TLSVersion
    victim_context: ssl.SSLContext
    peer_context: ssl.SSLContext

    @classmethod
    def make(
        cls, ca: trustme.CA, cert: trustme.LeafCert, side: str, version: str, directory: Path
    ) -> Arena:
        """Make one; key logs go into a directory."""
        number = VERSIONS[version]
        contexts = {
            "client": client_context_for(ca, number),
            "server": server_context_for(cert, number),
        }
        victim_context = contexts.pop(side)
        (peer_context,) = contexts.values()
        hostile_context(peer_context, directory / f"{side}-{version}.log")
        return cls(side, number, victim_context, peer_context)

    @property
    def is_tls13(self) -> bool:
        return self.version == ssl.TLSVersion.TLSv1_3

    @property
    def is_server(self) -> bool:
        """Whether the victim is the server."""
        return self.victim_side == "server"

    def new_peer(self) -> HostilePeer:
        """A hostile peer that has met nobody."""
        return HostilePeer.of(self.peer_context, server_side=not self.is_server)

    def meet(self) -> tuple[HostilePeer, TLSConnection]:
        """A pair that has not exchanged a byte."""
        name = None if self.is_server else NAME
        victim = TLSConnection(
            self.victim_context, server_side=self.is_server, server_hostname=name
        )
        return self.new_peer(), victim

    def establish(self) -> tuple[HostilePeer, TLSConnection]:
        """A pair whose handshake is done, with all that came along."""
        peer, victim = self.meet()
        shake_hands(peer, victim)
        peer.heard.clear()
        return peer, victim

    def stream(self, transport: trio.SocketStream, **options: Any) -> TLSStream[trio.SocketStream]:
        """A victim over TCP."""
        name = None if self.is_server else NAME
        return TLSStream(
            transport,
            self.victim_context,
            server_side=self.is_server,
            server_hostname=name,
            **options,
        )


@attrs.frozen
class Outcome:
    """What a victim makes of what it was fed."""

    data: bytes
    #: Whether the peer has ended its direction cleanly.
    is_end: bool
    error: TLSError | None

    @property
    def words(self) -> str:
        """What it says, for people."""
        if self.error is not None:
            return str(self.error)
        return "the end" if self.is_end else "nothing" if not self.data else "data"


def outcome_of(victim: TLSConnection) -> Outcome:
    """Receive until nothing more comes."""
    data = b""
    try:
        while (part := victim.receive()) or victim.is_behind:
            data += part or b""
    except TLSError as exc:
        return Outcome(data, False, exc)
    return Outcome(data, part == b"", None)


################################################################
# Over TCP
################################################################


@attrs.define(eq=False)
class HostileEnd:
    """A hostile peer at its end of a TCP connection."""

    peer: HostilePeer
    tcp: trio.SocketStream

    async def shake_hands(self, victim: TLSStream[trio.SocketStream]) -> None:
        """Complete the handshake with a stream of this program."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(victim.do_handshake)
            await self.shake_hands_alone()

    async def shake_hands_alone(self) -> None:
        """Do our part of the handshake."""
        while True:
            if flight := self.peer.next_flight():
                await self.tcp.send_all(flight)
            if self.peer.is_established:
                return
            data = await self.tcp.receive_some()
            assert data, "the victim has gone in the handshake"
            self.peer.hear(bytes(data))

    async def say(self, content_type: int, content: bytes, padding: int = 0) -> None:
        """Say anything after the handshake."""
        await self.tcp.send_all(self.peer.seal(content_type, content, padding))

    async def hear_all(self) -> None:
        """Hear until the victim has ended, or reset the connection."""
        with suppress(trio.BrokenResourceError):
            async for data in self.tcp:
                self.peer.hear(bytes(data))
