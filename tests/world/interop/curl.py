"""curl, with the TLS library that it is built with."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager

from .harness import (
    ALPN_TAKEN,
    HTTP,
    TLS12,
    TLS13,
    Aspect,
    Client,
    ClientTerms,
    Program,
    Stack,
    program,
    version_of,
)

VERSION = {TLS12: ("--tlsv1.2", "--tls-max", "1.2"), TLS13: ("--tlsv1.3",)}


def curl(terms: ClientTerms) -> AbstractAsyncContextManager[Program]:
    files = terms.files
    argv: list[object] = [
        *("curl", "--disable", "--noproxy", "*", "--no-progress-meter", "--verbose", "--http2"),
        *VERSION[terms.version],
        *("--cacert", files.ca, "--resolve", f"{terms.name}:{terms.port}:127.0.0.1"),
    ]
    if terms.has_certificate:
        argv += ["--cert", files.client]
    url = f"https://{terms.name}:{terms.port}/hello"
    return program(*argv, url, *([url] if terms.resumes else []))


STACK = Stack(
    name="curl",
    needs="the program curl",
    version=version_of("curl", "--version", pattern=r"curl (\S+) .*? ((?:OpenSSL|GnuTLS)/\S+)"),
    client=Client(
        run=curl,
        speech=HTTP,
        words={
            Aspect.RESUMED: b"using session",
            Aspect.ALPN: b"ALPN: server accepted " + ALPN_TAKEN.encode(),
        },
        cannot={Aspect.HALF_CLOSE: "it ends when it has the answer"},
    ),
)
