"""Node, with OpenSSL inside: peer.js."""

from __future__ import annotations

from pathlib import Path

from . import scripted
from .harness import Stack, version_of


async def _node() -> tuple[object, ...]:
    return ("node", Path(__file__).with_name("peer.js"))


STACK = Stack(
    name="Node",
    needs="the program node",
    version=version_of("node", "--version", pattern=r"v(\S+)"),
    server=scripted.server(_node),
    client=scripted.client(_node),
)
