"""The addresses of the peer, and of the client on whose behalf a proxy connects."""

from __future__ import annotations

import socket
from typing import TypeAlias

import attrs
import trio

from trio_tlsbio._core.proxy_header import ProxyHeader

from .interfaces import stream_of

__all__ = ["Address", "AddressQueries", "Addresses"]

Address: TypeAlias = tuple[str, int] | str
"""An IP address and a port, or the path of a Unix socket, which is empty for an unnamed socket."""


@attrs.define(eq=False)
class Addresses:
    """The addresses of one transport. The peer's is cached: after a reset, a socket forgets it."""

    _transport_stream: trio.abc.Stream
    #: The header that a proxy has sent before TLS.
    proxy_header: ProxyHeader | None = None
    _peer: Address | None = None

    @property
    def peer(self) -> Address | None:
        """The address of the other end of the socket, or None without a socket."""
        if self._peer is None:
            self._peer = _peer_of(self._transport_stream)
        return self._peer

    @property
    def has_gone(self) -> bool:
        """True if there is a socket that has forgotten its peer's address, which means it was
        reset.
        """
        socket_stream = stream_of(trio.SocketStream, self._transport_stream)
        return self.peer is None and socket_stream is not None

    @property
    def client(self) -> Address | None:
        """The address that a proxy has reported, or else the socket's."""
        source = None if self.proxy_header is None else self.proxy_header.source
        if source is None:
            return self.peer
        if isinstance(source, str):
            return source
        ip, port = source
        # The format that sockets use, on every Python version: "::ffff:192.0.2.1".
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        return socket.inet_ntop(family, ip.packed), port


class AddressQueries:
    """What a stream reports about its addresses."""

    __slots__ = ()

    _addresses: Addresses

    @property
    def peer_address(self) -> Address | None:
        """The address of the other end of the socket: an IP address and a port, ``("192.0.2.1",
        443)``, or the path of a Unix socket, which is usually empty for clients.

        None if there is no underlying socket, or if it was reset before the first access.
        """
        return self._addresses.peer

    @property
    def client_address(self) -> Address | None:
        """The address of the client: the one reported by a proxy (``proxy_protocol`` of
        :class:`TLSListener`), or else :attr:`peer_address`.

        A proxy's report is available once the handshake is done.
        """
        return self._addresses.client

    @property
    def proxy_header(self) -> ProxyHeader | None:
        """The PROXY protocol header, in which a proxy has reported its client. None without a
        proxy, and until the header has arrived.
        """
        return self._addresses.proxy_header


def _peer_of(transport_stream: trio.abc.Stream) -> Address | None:
    stream = stream_of(trio.SocketStream, transport_stream)
    try:
        name = None if stream is None else stream.socket.getpeername()
    except OSError:
        return None
    match name:
        case (str(host), int(port), *_):
            return host, port
        case str():
            return name
        case bytes():  # Linux's abstract socket names
            return name.decode("utf-8", "surrogateescape")
        case _:
            return None
