"""A peer whose handshake is real, and that says what it likes before, in and after it."""

from __future__ import annotations

import ssl
from contextlib import suppress
from pathlib import Path

import attrs
import trio

from trio_tlsbio import TLSConnection, TLSError, TLSStream

from tests.helpers import NAME

from .records import ALERT, Keys, Keys13, keys12, take_records

# Both logs of TLS 1.3 name a direction by who writes (RFC 9850 section 2).
_SIDES = ("CLIENT", "SERVER")


@attrs.define(eq=False)
class HostilePeer:
    """One end of a connection, without I/O: what it hears goes in, what it says comes out.

    It opens what it hears by itself, so it goes on where a well-behaved end has given up.
    """

    _connection: TLSConnection  # makes the handshake, and nothing else
    _keylog: Path
    _arrived: bytearray = attrs.field(factory=bytearray, init=False)
    #: What came since the handshake: content type and content of each record.
    heard: list[tuple[int, bytes]] = attrs.field(factory=list, init=False)
    #: What came before, as it was.
    heard_in_handshake: list[bytes] = attrs.field(factory=list, init=False)
    said_in_handshake: bytearray = attrs.field(factory=bytearray, init=False)
    _ours: Keys | None = attrs.field(default=None, init=False)
    _theirs: Keys | None = attrs.field(default=None, init=False)

    @classmethod
    def of(cls, context: ssl.SSLContext, keylog: Path, *, server_side: bool) -> HostilePeer:
        """Make one with a context that nobody else uses."""
        context.keylog_filename = str(keylog)
        context.set_ciphers("ECDHE+AESGCM")
        if server_side:
            context.num_tickets = 0  # or they would be the first records, before all others
        name = None if server_side else NAME
        return cls(
            TLSConnection(context, server_side=server_side, server_hostname=name), keylog
        )

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
                self.heard.append(self.theirs.open(record))
            else:
                self.heard_in_handshake.append(record)
                self._connection.feed(record)
                with suppress(TLSError):
                    self._connection.do_handshake()

    @property
    def alerts(self) -> list[tuple[int, int]]:
        """Level and description of each alert that came since the handshake."""
        return [(data[0], data[1]) for kind, data in self.heard if kind == ALERT]

    ################################################################
    # Keys
    ################################################################

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

    def handshake_keys(self) -> Keys13:
        """What protects what we say in the handshake of TLS 1.3, from the first record on."""
        return self._keys13("HANDSHAKE_TRAFFIC_SECRET", self.is_server)

    def seal(self, content_type: int, data: bytes, padding: int = 0) -> bytes:
        """Say anything after the handshake."""
        return self.ours.seal(content_type, data, padding)

    def _derive(self) -> None:
        if self.is_tls13:
            pair = [self._keys13("TRAFFIC_SECRET_0", server) for server in (False, True)]
        else:
            secrets = self._secrets()
            client_random, master_secret = secrets["CLIENT_RANDOM"]
            pair = list(
                keys12(master_secret, client_random, self._server_random(), self._cipher)
            )
        self._ours, self._theirs = pair[::-1] if self.is_server else pair

    def _keys13(self, label: str, server: bool) -> Keys13:
        _, secret = self._secrets()[f"{_SIDES[server]}_{label}"]
        return Keys13(secret, self._cipher)

    def _secrets(self) -> dict[str, tuple[bytes, bytes]]:
        """By their labels: the client's random, and the secret (RFC 9850 section 2)."""
        lines = map(str.split, self._keylog.read_text().splitlines())
        return {
            label: (bytes.fromhex(client_random), bytes.fromhex(secret))
            for label, client_random, secret in (line for line in lines if len(line) == 3)
        }

    def _server_random(self) -> bytes:
        # The first record of a server begins with its ServerHello: type, length, version, random.
        said = self.said_in_handshake if self.is_server else self.heard_in_handshake[0]
        return bytes(said[5 + 4 + 2 :][:32])

    @property
    def _cipher(self) -> str:
        cipher = self._connection.ssl_object.cipher()
        assert cipher is not None
        return cipher[0]


def shake_hands(peer: HostilePeer, victim: TLSConnection) -> None:
    """Complete the handshake. What the other end says along with it is heard."""
    for _ in range(4):
        victim.feed(peer.next_flight())
        victim.do_handshake()
        peer.hear(victim.data_to_send())
    assert peer.is_established
    assert victim.handshake is not None


@attrs.define(eq=False)
class HostileEnd:
    """A hostile peer over TCP."""

    peer: HostilePeer
    tcp: trio.SocketStream

    async def shake_hands(self, victim: TLSStream[trio.SocketStream]) -> None:
        """Complete the handshake with a stream in this program."""
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
            self.peer.hear(await self._receive())

    async def _receive(self) -> bytes:
        return bytes(await self.tcp.receive_some())

    async def say(self, content_type: int, data: bytes, padding: int = 0) -> None:
        """Say anything after the handshake."""
        await self.tcp.send_all(self.peer.seal(content_type, data, padding))

    async def hear_all(self) -> None:
        """Hear until the other end has ended."""
        with suppress(trio.BrokenResourceError):
            while data := await self._receive():
                self.peer.hear(data)
