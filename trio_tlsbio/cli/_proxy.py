"""The header of the PROXY protocol, as a proxy sends it."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

__all__ = ["VERSIONS", "header_for"]

VERSIONS = ("v1", "v2")
"""The versions of the protocol."""

_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_VERSION_2_PROXY = 0x21
_TCP4, _TCP6 = 0x11, 0x21


def header_for(version: str, source: tuple[Any, ...], destination: tuple[Any, ...]) -> bytes:
    """Return the header for a connection between two socket addresses: section 2 of
    https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt.
    """
    # A zone has no meaning on other machines.
    addresses = [ip_address(host.partition("%")[0]) for host, *_ in (source, destination)]
    ports = [source[1], destination[1]]
    is_ipv6 = addresses[0].version == 6
    if version == "v1":
        words = ["PROXY", "TCP6" if is_ipv6 else "TCP4", *map(str, addresses), *map(str, ports)]
        return " ".join(words).encode() + b"\r\n"
    body = b"".join(
        [*(address.packed for address in addresses), *(port.to_bytes(2) for port in ports)]
    )
    family = _TCP6 if is_ipv6 else _TCP4
    return _SIGNATURE + bytes([_VERSION_2_PROXY, family]) + len(body).to_bytes(2) + body
