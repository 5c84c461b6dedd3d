"""stunnel, which puts TLS around connections of others, on either side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import trio

from tests.programs import NGINX_VERSIONS, free_port

from .harness import (
    LINES,
    OTHER_NAME,
    Aspect,
    Client,
    ClientTerms,
    Program,
    Server,
    ServerTerms,
    Stack,
    program,
    proxy,
    version_of,
)

GLOBAL = """
foreground = yes
pid =
debug = info
"""

SERVER = """
sslVersion = {version}
{verify}
[tls]
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{plain_port}
cert = {server}
[other]
sni = tls:{other_name}
connect = 127.0.0.1:{plain_port}
cert = {other}
"""

CLIENT = """
[plain]
client = yes
accept = 127.0.0.1:{port}
connect = 127.0.0.1:{their_port}
sslVersion = {version}
CAfile = {ca}
verifyChain = yes
checkHost = {name}
sni = {name}
{certificate}
"""


def write(directory: Path, config: str) -> Path:
    path = directory / "stunnel.conf"
    path.write_text(GLOBAL + config, encoding="utf-8")
    return path


async def answer(stream: trio.SocketStream) -> None:
    """What stunnel's server passes on is answered here: a line in capitals."""
    async with stream:
        async for data in stream:
            await stream.send_all(data.upper())


@asynccontextmanager
async def server(terms: ServerTerms) -> AsyncIterator[Program]:
    files = terms.files
    port = free_port()
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, answer, 0, host="127.0.0.1"))
        config = SERVER.format(
            port=port,
            plain_port=listener.socket.getsockname()[1],
            version=NGINX_VERSIONS[terms.version],
            server=files.server,
            other=files.other,
            other_name=OTHER_NAME,
            verify=f"CAfile = {files.ca}\nverifyChain = yes" if terms.asks_certificate else "",
        )
        async with program("stunnel4", write(files.directory, config), port=port) as running:
            yield running
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def client(terms: ClientTerms) -> AsyncIterator[Program]:
    files = terms.files
    port = free_port()
    config = CLIENT.format(
        port=port,
        their_port=terms.port,
        version=NGINX_VERSIONS[terms.version],
        ca=files.ca,
        name=terms.name,
        certificate=f"cert = {files.client}" if terms.has_certificate else "",
    )
    argv = ("stunnel4", write(files.directory, config))
    async with proxy(terms, port, LINES, *argv) as running:
        yield running


STACK = Stack(
    name="stunnel",
    needs="the program stunnel4",
    version=version_of("stunnel4", "-version", pattern=r"stunnel (\S+)"),
    server=Server(
        run=server,
        speech=LINES,
        cannot={Aspect.ALPN: "it has no option for it"},
    ),
    client=Client(
        run=client,
        speech=LINES,
        cannot={Aspect.ALPN: "it has no option for it"},
    ),
)
