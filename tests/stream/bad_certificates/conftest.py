"""The root that issues what is bad, and how strict the other side is."""

from __future__ import annotations

import ssl

import pytest

from tests.certificates import Issued
from tests.stream.bad_certificates.menu import authority
from tests.stream.bad_certificates.sides import PARTIAL_AND_STRICT


@pytest.fixture(scope="module")
def root() -> Issued:
    return authority("root").signed_by(None)


@pytest.fixture(params=["lax", "strict"])
def verify_flags(request: pytest.FixtureRequest) -> ssl.VerifyFlags:
    """What create_default_context() has up to Python 3.12, and from 3.13 on."""
    return PARTIAL_AND_STRICT if request.param == "strict" else ssl.VerifyFlags(0)
