"""Certificates and contexts that the tests share."""

from __future__ import annotations

import gc
import ssl
from collections.abc import Iterator

import pytest
import trustme

from trio_tlsbio._core.openssl_errors import IS_PYPY

from .helpers import NAME, VERSIONS, client_context_for, server_context_for

pytest_plugins = ["tests.selection", "tests.systems", "tests.tables"]

# These call OpenSSL's own functions, in the library that the ssl module has loaded. PyPy has none.
collect_ignore = (
    ["slow/test_differential.py", "slow/test_fuzz.py", "unit/test_error_queue.py"]
    if IS_PYPY
    else []
)


@pytest.fixture(scope="module", autouse=True)
def older_objects_are_frozen() -> None:
    """Exclude what exists before a file's tests from garbage collection, which takes less time."""
    if hasattr(gc, "freeze"):  # PyPy has none
        gc.collect()
        gc.freeze()


@pytest.fixture(scope="session")
def ca() -> trustme.CA:
    """A throw-away certificate authority."""
    return trustme.CA()


@pytest.fixture(scope="session")
def server_cert(ca: trustme.CA) -> trustme.LeafCert:
    """A certificate for NAME, issued by ``ca``."""
    return ca.issue_cert(NAME, "localhost", "127.0.0.1")


@pytest.fixture(params=list(VERSIONS))
def tls_version(request: pytest.FixtureRequest) -> ssl.TLSVersion:
    """Each TLS version in turn: a test that uses it, or a context below, runs once for each."""
    return VERSIONS[request.param]


@pytest.fixture
def client_context(ca: trustme.CA, tls_version: ssl.TLSVersion) -> ssl.SSLContext:
    """A client's context that trusts ``ca`` and speaks ``tls_version`` only."""
    return client_context_for(ca, tls_version)


@pytest.fixture
def server_context(server_cert: trustme.LeafCert, tls_version: ssl.TLSVersion) -> ssl.SSLContext:
    """A server's context with the certificate for NAME, that speaks ``tls_version`` only."""
    return server_context_for(server_cert, tls_version)


@pytest.fixture(autouse=True)
def the_block_runs(request: pytest.FixtureRequest) -> Iterator[None]:
    """See that a test runs the block that it has taken."""
    yield
    if hasattr(request.node, "callspec"):
        block = request.node.callspec.params.get("block")
        assert block is None or block.ran, f"{block} was not run"
