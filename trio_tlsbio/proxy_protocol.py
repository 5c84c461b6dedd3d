"""The PROXY protocol: the header in which a proxy reports its client, and a reader without I/O."""

from __future__ import annotations

from ._core.proxy_header import (
    ProxyCommand,
    ProxyEndpoint,
    ProxyHeader,
    ProxyHeaderReader,
    ProxyTLSInfo,
)
from ._net.proxy_protocol import read_proxy_header
from ._public import publish

__all__ = [
    "ProxyCommand",
    "ProxyEndpoint",
    "ProxyHeader",
    "ProxyHeaderReader",
    "ProxyTLSInfo",
    "read_proxy_header",
]

publish(__name__)
