"""NSS, which Firefox uses: selfserv, which answers each request with a page, and tstclnt."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509 import load_pem_x509_certificate

from tests.programs import free_port

from .harness import (
    HTTP,
    LINES,
    OTHER_NAME,
    TLS12,
    TLS13,
    Client,
    ClientTerms,
    Files,
    Program,
    Server,
    ServerTerms,
    Stack,
    program,
    run,
    version_of,
)

VERSION = {TLS12: "tls1.2:tls1.2", TLS13: "tls1.3:tls1.3"}

PASSWORD = b"secret"


async def make_database(files: Files, *pems: Path) -> str:
    """Make a database of certificates, trusting the authority; each has its file's name there."""
    directory = files.directory / "nss"
    directory.mkdir()
    database = f"sql:{directory}"
    await run("certutil", "-N", "-d", database, "--empty-password")
    await run("certutil", "-A", "-d", database, "-n", "ca", "-t", "CT,C,C", "-a", "-i", files.ca)
    for pem in pems:
        path = pem.with_suffix(".p12")
        data = pem.read_bytes()
        path.write_bytes(
            pkcs12.serialize_key_and_certificates(
                pem.stem.encode(),
                load_pem_private_key(data, None),  # type: ignore[arg-type]
                load_pem_x509_certificate(data),
                None,
                BestAvailableEncryption(PASSWORD),
            )
        )
        await run("pk12util", "-i", path, "-d", database, "-W", PASSWORD.decode())
    return database


@asynccontextmanager
async def selfserv(terms: ServerTerms) -> AsyncIterator[Program]:
    files = terms.files
    port = free_port()
    database = await make_database(files, files.server, files.other)
    argv: list[object] = [
        *("selfserv", "-d", database, "-p", port, "-V", VERSION[terms.version]),
        *("-n", files.server.stem, "-a", OTHER_NAME, "-u", "-Q", "-v"),
    ]
    if terms.asks_certificate:
        argv += ["-r", "-r"]
    async with program(*argv, port=port) as server:
        yield server


@asynccontextmanager
async def tstclnt(terms: ClientTerms) -> AsyncIterator[Program]:
    files = terms.files
    database = await make_database(files, files.client)
    argv: list[object] = [
        *("tstclnt", "-d", database, "-h", "127.0.0.1", "-p", terms.port, "-a", terms.name),
        *("-V", VERSION[terms.version], "-u", "-v"),
    ]
    if terms.has_certificate:
        argv += ["-n", files.client.stem]
    if terms.resumes:
        argv += ["-L", 2]
    async with program(*argv) as client:
        await client.say(LINES.question)
        yield client


STACK = Stack(
    name="NSS",
    needs="NSS's selfserv, tstclnt, certutil or pk12util",
    version=version_of("certutil", "-H", pattern=r"(c)"),
    server=Server(
        run=selfserv,
        speech=attrs.evolve(HTTP, answer=b"HTTP/1.0 200 OK"),
    ),
    client=Client(
        run=tstclnt,
        speech=LINES,
    ),
)
