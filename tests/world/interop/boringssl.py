"""BoringSSL, as it is in curl_cffi, an HTTP client."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import sys
from pathlib import Path

from . import scripted
from .harness import HTTP, Aspect, Stack


async def _curl_cffi() -> tuple[object, ...]:
    return (sys.executable, Path(__file__).with_name("peer_curl_cffi.py"))


def _version() -> str | None:
    """BoringSSL itself has no versions."""
    if importlib.util.find_spec("curl_cffi") is None:
        return None
    from curl_cffi import Curl

    assert b" BoringSSL " in Curl().version()
    return "curl_cffi " + importlib.metadata.version("curl_cffi")


CURL_CFFI = Stack(
    name="BoringSSL in curl_cffi",
    needs="the package curl_cffi",
    version=_version,
    client=scripted.client(
        _curl_cffi,
        speech=HTTP,
        words={},
        cannot={Aspect.HALF_CLOSE: "sends its close_notify when it has the answer"},
    ),
)
