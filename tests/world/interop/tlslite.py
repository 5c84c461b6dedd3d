"""tlslite-ng, in Python alone: peer_tlslite.py."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from . import scripted
from .harness import Aspect, Stack


async def _tlslite() -> tuple[object, ...]:
    # -P: "tlslite" is the package, not this module, which lies beside the peer.
    return (sys.executable, "-P", Path(__file__).with_name("peer_tlslite.py"))


def _version() -> str | None:
    if importlib.util.find_spec("tlslite") is None:
        return None
    return importlib.metadata.version("tlslite-ng")


_HALF_CLOSE = "ends both directions at the first close_notify"

STACK = Stack(
    name="tlslite-ng",
    needs="the package tlslite-ng",
    version=_version,
    server=scripted.server(
        _tlslite,
        # TLSConnection.resumed stays False for its servers in TLS 1.3.
        words={Aspect.ALPN: scripted.CLIENT_WORDS[Aspect.ALPN]},
        cannot={
            Aspect.CLIENT_CERTIFICATE: "verifies no certificates",
            Aspect.SNI: "has one certificate for all names",
            Aspect.HALF_CLOSE: _HALF_CLOSE,
        },
    ),
    client=scripted.client(_tlslite, cannot={Aspect.HALF_CLOSE: _HALF_CLOSE}),
)
