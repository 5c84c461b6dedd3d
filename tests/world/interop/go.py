"""Go's crypto/tls: peer.go."""

from __future__ import annotations

import os
import subprocess
import tempfile
from pathlib import Path

from . import scripted
from .harness import TLS12, TLS13, Stack, version_of

_DIRECTORY = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)


_PEER = Path(_DIRECTORY.name) / "peer"


async def _go() -> tuple[object, ...]:
    return (_PEER,)


def _build() -> None:
    if not _PEER.exists():
        env = os.environ | {
            "GO111MODULE": "off",
            "GOFLAGS": "",
            "GOCACHE": str(_PEER.with_name("cache")),
        }
        source = Path(__file__).with_name("peer.go")
        subprocess.run(("go", "build", "-o", _PEER, source), env=env, check=True)


STACK = Stack(
    name="Go",
    needs="the program go",
    prepare=_build,
    version=version_of("go", "version", pattern=r"go(\d\S*)"),
    server=scripted.server(
        _go,
        # Go 1.19 has one alert for every certificate that it does not take, and for none.
        refusals={TLS12: "bad_certificate", TLS13: "certificate_required"},
        former_refusal="bad_certificate",
    ),
    client=scripted.client(_go),
)
