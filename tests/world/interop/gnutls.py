"""GnuTLS: gnutls-serv, which sends each line back, and gnutls-cli."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import attrs

from tests.programs import free_port, gnutls_priority

from .harness import (
    ALPN_OFFERED,
    ALPN_TAKEN,
    CLIENT,
    LINES,
    TLS12,
    TLS13,
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


def gnutls_serv(terms: ServerTerms) -> AbstractAsyncContextManager[Program]:
    files = terms.files
    port = free_port()
    argv: list[object] = [
        *("gnutls-serv", "--echo", "--port", port, "--priority", gnutls_priority(terms.version)),
        *("--x509certfile", files.server, "--x509keyfile", files.server),
        *("--x509certfile", files.other, "--x509keyfile", files.other),
        *("--alpn", ALPN_TAKEN),
    ]
    if terms.asks_certificate:
        argv += ["--require-client-cert", "--verify-client-cert", "--x509cafile", files.ca]
    else:
        argv += ["--disable-client-cert"]
    return program(*argv, port=port)


@asynccontextmanager
async def gnutls_cli(terms: ClientTerms) -> AsyncIterator[Program]:
    files = terms.files
    argv: list[object] = [
        *("gnutls-cli", "--port", terms.port, "--priority", gnutls_priority(terms.version)),
        *("--x509cafile", files.ca, "--sni-hostname", terms.name, "--verify-hostname", terms.name),
        *(f"--alpn={protocol}" for protocol in ALPN_OFFERED),
    ]
    if terms.has_certificate:
        argv += ["--x509certfile", files.client, "--x509keyfile", files.client]
    if terms.resumes:
        argv += ["--resume", "--waitresumption"]
    async with program(*argv, "127.0.0.1") as client:
        await client.say(LINES.question)
        if terms.ends_first:
            await client.stdin.aclose()
        yield client


STACK = Stack(
    name="GnuTLS",
    needs="gnutls-serv or gnutls-cli",
    version=version_of("gnutls-cli", "--version", pattern=r"gnutls-cli (\S+)"),
    server=Server(
        run=gnutls_serv,
        speech=attrs.evolve(LINES, answer=LINES.question),
        # That is what it makes of GNUTLS_E_NO_CERTIFICATE_FOUND in TLS 1.2.
        refusals={TLS12: "decode_error", TLS13: "certificate_required"},
        words={
            Aspect.RESUMED: b"*** This is a resumed session",
            Aspect.CLIENT_CERTIFICATE: f"CN={CLIENT}".encode(),
            Aspect.ALPN: ALPN_TAKEN.encode(),
        },
    ),
    client=Client(
        run=gnutls_cli,
        speech=LINES,
        words={
            Aspect.RESUMED: b"*** This is a resumed session",
            Aspect.ALPN: ALPN_TAKEN.encode(),
        },
    ),
)
