"""The PROXY protocol on servers: which peers to trust, and reading their headers."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any, TypeAlias

import attrs
import trio

from trio_tlsbio._core.errors import TLSError, truncated
from trio_tlsbio._core.misuse import kind_of
from trio_tlsbio._core.proxy_header import ProxyHeader, ProxyHeaderReader
from trio_tlsbio._stream.addresses import Address, Addresses

__all__ = [
    "HeaderPrologue",
    "REFUSALS",
    "TrustedProxies",
    "check_trusted_proxies",
    "read_proxy_header",
]

_UNTRUSTED, _BAD_HEADER = "UNTRUSTED_PROXY", "BAD_PROXY_HEADER"

REFUSALS = frozenset({_UNTRUSTED, _BAD_HEADER})
"""The reasons of errors for peers that are refused before TLS."""

Network: TypeAlias = IPv4Network | IPv6Network
AnyNetwork: TypeAlias = str | IPv4Address | IPv6Address | IPv4Network | IPv6Network


def _networks(networks: Iterable[AnyNetwork]) -> tuple[Network, ...]:
    if isinstance(networks, str) or not isinstance(networks, Iterable):
        raise TypeError(
            'TrustedProxies takes a list of networks, such as ["192.0.2.0/24"], not '
            f"{kind_of(networks)}"
        )
    return tuple(map(_network, networks))


def _network(given: AnyNetwork) -> Network:
    if not isinstance(given, str | IPv4Address | IPv6Address | IPv4Network | IPv6Network):
        raise TypeError(
            f"a network must be a str or an object of the module ipaddress, not {given!r}"
        )
    try:
        network = ipaddress.ip_network(given, strict=False)
    except ValueError as exc:
        raise ValueError(
            f"not an IP address or network that can be trusted: {exc} (names are not looked up)"
        ) from None
    if network != _exact(given):
        raise ValueError(
            f"{given} has bits set after its prefix: give {network}, or an address without a prefix"
        )
    if "%" in str(network):
        raise ValueError(f"a network must not have a zone: {given!r}")
    return network


def _exact(given: AnyNetwork) -> Network | None:
    try:
        return ipaddress.ip_network(given)
    except ValueError:
        return None


@attrs.frozen
class TrustedProxies:
    """The peers whose PROXY protocol headers a server trusts. No other peer can connect to it.

    A trusted peer can claim any client address. So list only your proxies, and no clients.

    Args:
      networks: IP addresses and networks, such as ``"192.0.2.7"``, ``"2001:db8::/64"`` or objects
        of the module ``ipaddress``.
      unix: Whether to trust peers that connect to a Unix socket. The socket's permissions control
        who can connect.

    Raises:
      TypeError: if ``networks`` is not a list of these.
      ValueError: if one of them is not a network, or if no peer would be trusted.
    """

    networks: tuple[Network, ...] = attrs.field(default=(), converter=_networks)
    unix: bool = attrs.field(default=False, kw_only=True)

    def __attrs_post_init__(self) -> None:
        if not (self.networks or self.unix):
            raise ValueError(
                "TrustedProxies needs at least one network: otherwise no peer could connect"
            )

    def trusts(self, address: Address | None) -> bool:
        """Return True if an address, such as :attr:`TLSStream.peer_address`, belongs to a trusted
        proxy.
        """
        if address is None or isinstance(address, str):
            return self.unix and address is not None
        ip: IPv4Address | IPv6Address = ipaddress.ip_address(address[0].partition("%")[0])
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped  # a dual-stack socket reports IPv4 addresses in this form
        return any(ip in network for network in self.networks)


def check_trusted_proxies(proxies: object) -> None:
    """Raise :exc:`TypeError` if ``proxies`` is neither None nor a :class:`TrustedProxies`."""
    if not isinstance(proxies, TrustedProxies | None):
        raise TypeError(
            f"proxy_protocol must be TrustedProxies or None, not {kind_of(proxies)}: pass "
            'TrustedProxies(["192.0.2.0/24"])'
        )


async def read_proxy_header(transport_stream: trio.abc.Stream) -> tuple[ProxyHeader, bytes]:
    """Read a PROXY protocol header, version 1 or 2, at the start of a connection.

    This is for servers that don't use :class:`~trio_tlsbio.TLSListener`. First check with
    :meth:`~trio_tlsbio.TrustedProxies.trusts` that the peer can be trusted. There is no timeout for
    the peer, so put one around this call. If this raises or is cancelled, close the connection.

    Returns:
      The header, and the bytes that were received after it. Pass those to
      :class:`~trio_tlsbio.TLSStream` as ``received``.

    Raises:
      trio_tlsbio.TLSError: if the peer sends something else.
      trio_tlsbio.TruncationError: if the connection ends first.
    """
    reader = ProxyHeaderReader()
    while (header := _feed(reader, data := await transport_stream.receive_some())) is None:
        if not data:
            raise _header_cut()
    return header, reader.rest


@attrs.define(eq=False)
class HeaderPrologue:
    """The PROXY protocol header as a prologue of a stream, if the peer is a trusted proxy."""

    _proxies: TrustedProxies
    _addresses: Addresses
    _reader: ProxyHeaderReader = attrs.field(factory=ProxyHeaderReader, init=False)

    @property
    def name(self) -> str:
        return "PROXY protocol header"

    @property
    def has_received(self) -> bool:
        return False

    async def feed(self, data: bytes) -> bytes | None:
        if self._addresses.has_gone:  # health checks may disconnect so early
            raise truncated("the peer closed the connection before it was accepted")
        if not self._proxies.trusts(self._addresses.peer):
            raise TLSError(
                "the peer is not one of the trusted proxies (TrustedProxies), and only they may "
                "connect here",
                reason=_UNTRUSTED,
            )
        self._addresses.proxy_header = header = _feed(self._reader, data)
        return None if header is None else self._reader.rest

    def feed_eof(self) -> bytes:
        raise _header_cut()


def _header_cut() -> TLSError:
    return truncated("the peer closed the connection before its PROXY protocol header was complete")


def _feed(reader: ProxyHeaderReader, data: Any) -> ProxyHeader | None:
    try:
        return reader.feed(data)
    except ValueError as exc:
        raise TLSError(str(exc), reason=_BAD_HEADER) from exc
