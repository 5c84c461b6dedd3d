"""rustls, as it is in pyreqwest, an HTTP client, and in Granian, an HTTP server.

Both are extensions whose binary names the crates that it was built from, in what they say of a
panic; that is where the version of rustls is from, and there is no other TLS in them.
"""

from __future__ import annotations

import functools
import importlib.util
import re
import sys
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import attrs

from tests.programs import free_port

from . import scripted
from .formats import pkcs8
from .harness import (
    HTTP,
    TLS12,
    VERSIONS,
    Aspect,
    Program,
    Server,
    ServerTerms,
    Stack,
    program,
)


def _version_in(extension: str) -> Callable[[], str | None]:
    """The version of rustls that an extension module has inside."""

    @functools.cache
    def version() -> str | None:
        package, _, _ = extension.partition(".")
        if importlib.util.find_spec(package) is None:
            return None
        spec = importlib.util.find_spec(extension)
        assert spec is not None
        assert spec.origin is not None
        binary = Path(spec.origin).read_bytes()
        found = re.search(rb"/rustls-(\d+\.\d+\.\d+)/", binary)
        assert found is not None, f"{extension} has no rustls"
        return found[1].decode()

    return version


def granian(terms: ServerTerms) -> AbstractAsyncContextManager[Program]:
    port = free_port()
    argv: list[object] = [
        *(sys.executable, "-m", "granian", "--interface", "rsgi", "--port", port, "--http", "1"),
        *("--ssl-certificate", terms.files.server, "--ssl-keyfile", pkcs8(terms.files.server)),
        *("--ssl-protocol-min", "tls1.2" if terms.version is TLS12 else "tls1.3"),
    ]
    if terms.asks_certificate:
        argv += ["--ssl-client-verify", "--ssl-ca", terms.files.ca]
    return program(*argv, "tests.world.interop.granian_app:app", port=port)


async def _pyreqwest() -> tuple[object, ...]:
    return (sys.executable, Path(__file__).with_name("peer_pyreqwest.py"))


GRANIAN = Stack(
    name="rustls in Granian",
    needs="the package granian",
    version=_version_in("granian._granian"),
    server=Server(
        run=granian,
        speech=attrs.evolve(HTTP, answer=b"HELLO\n"),
        refusals=dict.fromkeys(VERSIONS, "certificate_required"),  # in TLS 1.2, too
        cannot={
            Aspect.SNI: "has one certificate for all names",
            # hyper's HTTP/1 has an option half_close, which is off.
            Aspect.HALF_CLOSE: "drops a request whose client has ended its direction",
        },
    ),
)

PYREQWEST = Stack(
    name="rustls in pyreqwest",
    needs="the package pyreqwest",
    version=_version_in("pyreqwest._pyreqwest"),
    client=scripted.client(
        _pyreqwest,
        speech=HTTP,
        words={},
        cannot={Aspect.HALF_CLOSE: "sends its close_notify when it has the answer"},
    ),
)
