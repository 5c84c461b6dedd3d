"""The stacks that there are. A new one is a module and a line here."""

from __future__ import annotations

import pytest

from . import (
    boringssl,
    chromium,
    curl,
    gnutls,
    go,
    haproxy,
    java,
    nginx,
    node,
    nss,
    openssl,
    rustls,
    stunnel,
    tlslite,
)
from .harness import VERSIONS, Aspect, Case, Side, Stack

STACKS: tuple[Stack, ...] = (
    openssl.STACK,
    gnutls.STACK,
    nss.STACK,
    nginx.STACK,
    haproxy.STACK,
    stunnel.STACK,
    curl.STACK,
    node.STACK,
    go.STACK,
    java.STACK,
    rustls.GRANIAN,
    rustls.PYREQWEST,
    boringssl.CURL_CFFI,
    chromium.STACK,
    tlslite.STACK,
)


def with_each(side: Side, aspect: Aspect) -> pytest.MarkDecorator:
    """Run a test with each stack and version that can show something."""
    cases = [
        Case(stack, side, aspect, version)
        for stack in STACKS
        if side.of(stack) is not None
        for version in VERSIONS
    ]
    return pytest.mark.parametrize(
        "case", [case for case in cases if case.is_possible], ids=str, indirect=True
    )
