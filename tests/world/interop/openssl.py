"""OpenSSL: s_server, which sends each line back reversed, and s_client."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs

from tests.programs import VERSION_OPTIONS, free_port

from .harness import (
    ALPN_OFFERED,
    ALPN_TAKEN,
    CLIENT,
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
    version_of,
)


def s_server(terms: ServerTerms) -> AbstractAsyncContextManager[Program]:
    files = terms.files
    port = free_port()
    argv: list[object] = [
        *("openssl", "s_server", "-accept", f"127.0.0.1:{port}", VERSION_OPTIONS[terms.version]),
        *("-cert", files.server, "-key", files.server),
        *("-servername", OTHER_NAME, "-cert2", files.other, "-key2", files.other),
        *("-alpn", ALPN_TAKEN, "-rev"),
    ]
    if terms.asks_certificate:
        argv += ["-Verify", 1, "-verify_return_error", "-CAfile", files.ca]
    return program(*argv, port=port)


@asynccontextmanager
async def s_client(terms: ClientTerms) -> AsyncIterator[Program]:
    files = terms.files
    argv: list[object] = [
        *("openssl", "s_client", "-connect", f"127.0.0.1:{terms.port}", "-nocommands"),
        *(VERSION_OPTIONS[terms.version], "-alpn", ",".join(ALPN_OFFERED)),
        *("-CAfile", files.ca, "-verify_return_error"),
        *("-servername", terms.name, "-verify_hostname", terms.name),
    ]
    if terms.has_certificate:
        argv += ["-cert", files.client, "-key", files.client]
    session = files.directory / "session.pem"
    if terms.resumes:
        async with program(*argv, "-sess_out", session) as client:
            await client.say(LINES.question)
            await client.output.wait_for(LINES.word)
            await client.end()
        argv += ["-sess_in", session]
    async with program(*argv) as client:
        await client.say(LINES.question)
        yield client


STACK = Stack(
    name="OpenSSL",
    needs="the program openssl",
    version=version_of("openssl", "version", pattern=r"OpenSSL (\S+)"),
    server=Server(
        run=s_server,
        speech=attrs.evolve(LINES, answer=b"olleh\n"),
        words={Aspect.CLIENT_CERTIFICATE: CLIENT.encode()},
    ),
    client=Client(
        run=s_client,
        speech=LINES,
        words={
            Aspect.RESUMED: b"Reused, TLSv1.",
            Aspect.ALPN: b"ALPN protocol: " + ALPN_TAKEN.encode(),
        },
        cannot={Aspect.HALF_CLOSE: "s_client leaves once it has sent its close_notify"},
    ),
)
