"""Stacks without programs of their own, each spoken to through a small peer written for it.

A peer is run with two arguments: what it is, ``server`` or ``client``, and its terms in JSON. It
prints lines of JSON: a server where it listens (``port``), and both what they know of each
handshake, what a client has heard (``answer``) and what went wrong (``error``).

A server sends what it receives back in capitals, and ends a connection after its client's
close_notify. A client says hello, waits until its standard input ends, and then ends its
connection; with ``ends_first`` it sends its close_notify after the hello. With ``resumes`` it does
that twice.
"""

from __future__ import annotations

import json
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

from .harness import (
    ALPN_OFFERED,
    ALPN_TAKEN,
    CLIENT,
    LINES,
    OTHER_NAME,
    VERSIONS,
    Aspect,
    Client,
    ClientTerms,
    Program,
    Server,
    ServerTerms,
    program,
)

# The command that runs a peer.
Command: TypeAlias = Callable[[], Awaitable[tuple[object, ...]]]

# How its terms are written as arguments.
Encoding: TypeAlias = Callable[[Mapping[str, Any]], Sequence[str]]

# What they say of a handshake.
CLIENT_WORDS = {
    Aspect.RESUMED: b'"resumed":true',
    Aspect.ALPN: b'"alpn":"%b"' % ALPN_TAKEN.encode(),
}
SERVER_WORDS = CLIENT_WORDS | {
    Aspect.CLIENT_CERTIFICATE: b'"certificate":"%b"' % CLIENT.encode(),
    Aspect.SNI: b'"name":"%b"' % OTHER_NAME.encode(),
}


def _json(terms: Mapping[str, Any]) -> Sequence[str]:
    return (json.dumps(terms),)


async def _port(server: Program) -> int:
    """Where a peer listens."""
    await server.output.wait_for(b"}\n")
    found = re.match(rb'{"port":(\d+)}', server.output.text)
    assert found is not None, server.output
    return int(found[1])


def server(command: Command, *, encode: Encoding = _json, **options: Any) -> Server:
    """The server of a peer. ``options`` are those of :class:`Server`."""

    @asynccontextmanager
    async def run(terms: ServerTerms) -> AsyncIterator[Program]:
        said = {
            "version": VERSIONS[terms.version],
            "ca": str(terms.files.ca),
            "certificate": str(terms.files.server),
            "other_name": OTHER_NAME,
            "other_certificate": str(terms.files.other),
            "asks_certificate": terms.asks_certificate,
            "alpn": [ALPN_TAKEN],
        }
        async with program(*await command(), "server", *encode(said)) as peer:
            peer.port = await _port(peer)
            yield peer

    options.setdefault("words", SERVER_WORDS)
    return Server(run=run, speech=LINES, **options)


def client(command: Command, *, encode: Encoding = _json, **options: Any) -> Client:
    """The client of a peer. ``options`` are those of :class:`Client`."""

    @asynccontextmanager
    async def run(terms: ClientTerms) -> AsyncIterator[Program]:
        said = {
            "version": VERSIONS[terms.version],
            "ca": str(terms.files.ca),
            "certificate": str(terms.files.client) if terms.has_certificate else None,
            "alpn": ALPN_OFFERED,
            "port": terms.port,
            "name": terms.name,
            "resumes": terms.resumes,
            "ends_first": terms.ends_first,
        }
        async with program(*await command(), "client", *encode(said)) as peer:
            yield peer

    options.setdefault("words", CLIENT_WORDS)
    options.setdefault("speech", LINES)
    return Client(run=run, **options)
