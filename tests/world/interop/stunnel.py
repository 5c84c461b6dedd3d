"""stunnel, which puts TLS around connections of others, on either side."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial

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


async def answer(stream: trio.SocketStream) -> None:
    """What stunnel's server passes on is answered here: a line in capitals."""
    # It may be killed before it has taken the answer.
    async with stream:
        with suppress(trio.BrokenResourceError):
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
        async with program(
            "stunnel4", files.write("stunnel.conf", GLOBAL + config), port=port
        ) as running:
            yield running
        nursery.cancel_scope.cancel()


def client(terms: ClientTerms) -> AbstractAsyncContextManager[Program]:
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
    argv = ("stunnel4", files.write("stunnel.conf", GLOBAL + config))
    return proxy(terms, port, LINES, *argv)


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
