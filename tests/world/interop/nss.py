"""NSS, which Firefox uses: selfserv, which answers each request with a page, and tstclnt."""

from __future__ import annotations

import ctypes
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs

from tests.helpers import NAME
from tests.programs import free_port

from .formats import PASSWORD, pkcs12
from .harness import (
    CLIENT,
    HTTP,
    LINES,
    OTHER_NAME,
    TLS12,
    TLS13,
    Aspect,
    Client,
    ClientTerms,
    Files,
    Program,
    Server,
    ServerTerms,
    Stack,
    program,
    run,
)

VERSION = {TLS12: "tls1.2:tls1.2", TLS13: "tls1.3:tls1.3"}


async def make_database(files: Files, pems: dict[str, Path]) -> str:
    """Make a database that trusts the authority, and has keys and certificates by their names."""
    database = f"sql:{tempfile.mkdtemp(dir=files.directory)}"
    await run("certutil", "-N", "-d", database, "--empty-password")
    await run("certutil", "-A", "-d", database, "-n", "ca", "-t", "CT,C,C", "-a", "-i", files.ca)
    for name, pem in pems.items():
        imported = pkcs12(pem, name)
        await run("pk12util", "-i", imported, "-d", database, "-W", PASSWORD.decode())
    return database


@asynccontextmanager
async def selfserv(terms: ServerTerms) -> AsyncIterator[Program]:
    files = terms.files
    port = free_port()
    # It finds the certificate for a name by the name that this has in the database.
    database = await make_database(files, {NAME: files.server, OTHER_NAME: files.other})
    argv: list[object] = [
        *("selfserv", "-d", database, "-p", port, "-V", VERSION[terms.version]),
        *("-n", NAME, "-a", NAME, "-a", OTHER_NAME, "-u", "-Q", "-v"),
    ]
    if terms.asks_certificate:
        argv += ["-r", "-r"]
    async with program(*argv, port=port) as server:
        yield server


@asynccontextmanager
async def tstclnt(terms: ClientTerms) -> AsyncIterator[Program]:
    files = terms.files
    # If it is asked for a certificate, and has any, it shows that.
    certificates = {CLIENT: files.client} if terms.has_certificate else {}
    database = await make_database(files, certificates)
    argv: list[object] = [
        *("tstclnt", "-d", database, "-h", "127.0.0.1", "-p", terms.port, "-a", terms.name),
        *("-V", VERSION[terms.version], "-u", "-v"),
    ]
    if terms.has_certificate:
        argv += ["-n", CLIENT]
    if terms.resumes:
        argv += ["-L", 2]
    question = files.directory / "question"
    question.write_bytes(LINES.question)
    async with program(*argv, "-A", question) as client:
        client.end = client.ended
        yield client


def version() -> str | None:
    """What the library says; its programs don't."""
    if shutil.which("tstclnt") is None:
        return None
    get_version = ctypes.CDLL("libnss3.so").NSS_GetVersion
    get_version.restype = ctypes.c_char_p
    said: bytes = get_version()
    return said.decode()


STACK = Stack(
    name="NSS",
    needs="NSS's selfserv, tstclnt, certutil or pk12util",
    version=version,
    server=Server(
        run=selfserv,
        speech=attrs.evolve(HTTP, answer=b"HTTP/1.0 200 OK"),
        refusals={TLS12: "bad_certificate", TLS13: "certificate_required"},
    ),
    client=Client(
        run=tstclnt,
        speech=LINES,
        waits_for_our_end=True,
        words={Aspect.RESUMED: b"1 stateless resumes"},
        cannot={
            Aspect.ALPN: "tstclnt offers no protocol",
            Aspect.HALF_CLOSE: "tstclnt never ends first",
        },
    ),
)
