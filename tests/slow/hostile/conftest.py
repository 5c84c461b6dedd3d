"""Victims of each side and version."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import trustme

from tests.helpers import VERSIONS

from .cases import Arenas
from .peer import SIDES, Arena


@pytest.fixture(scope="session")
def arenas(
    ca: trustme.CA, server_cert: trustme.LeafCert, tmp_path_factory: pytest.TempPathFactory
) -> Arenas:
    """All of them, by side and version of the victim. Their contexts are shared: leave them."""
    directory = tmp_path_factory.mktemp("keylogs")
    return MappingProxyType(
        {
            (side, version): Arena.make(ca, server_cert, side, version, directory)
            for side in SIDES
            for version in VERSIONS
        }
    )


@pytest.fixture(params=SIDES)
def side(request: pytest.FixtureRequest) -> str:
    """Which side is the victim."""
    return str(request.param)


@pytest.fixture(params=list(VERSIONS))
def version(request: pytest.FixtureRequest) -> str:
    """What both speak."""
    return str(request.param)


@pytest.fixture
def arena(arenas: Arenas, side: str, version: str) -> Arena:
    """One after the other."""
    return arenas[side, version]


@pytest.fixture
def arena13(arenas: Arenas, side: str) -> Arena:
    """Those of TLS 1.3."""
    return arenas[side, "tls13"]
