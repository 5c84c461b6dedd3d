"""Go's crypto/tls: peer.go."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from . import scripted
from .harness import VERSIONS, Stack, run, version_of

_DIRECTORY = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


async def _go() -> tuple[object, ...]:
    """The program, built if it has not been yet."""
    directory = Path(_DIRECTORY.name)
    peer = directory / "peer"
    if not peer.exists():
        env = os.environ | {
            "GO111MODULE": "off",
            "GOFLAGS": "",
            "GOCACHE": str(directory / "cache"),
        }
        await run("go", "build", "-o", peer, Path(__file__).with_name("peer.go"), env=env)
    return (peer,)


STACK = Stack(
    name="Go",
    needs="the program go",
    version=version_of("go", "version", pattern=r"go(\d\S*)"),
    server=scripted.server(
        _go,
        # Go 1.19 has one alert for every certificate that it does not take, and for none.
        refusals=dict.fromkeys(VERSIONS, "bad_certificate"),
    ),
    client=scripted.client(_go),
)
