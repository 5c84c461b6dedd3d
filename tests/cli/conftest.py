"""Fixtures that the tests of the commands share."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
import trustme

from tests.commands import Files, files
from tests.helpers import NAME, client_context_for

from .peers import Chain

__all__ = ["files"]  # a fixture of another module


@pytest.fixture(scope="session")
def context(ca: trustme.CA) -> ssl.SSLContext:
    """A client's context that trusts ``ca``."""
    return client_context_for(ca)


@pytest.fixture
def pem(files: Files) -> Path:
    """The server's certificate and key, in one file."""
    return Path(files.server)


@pytest.fixture
def ca_pem(files: Files) -> Path:
    """The certificate of ``ca``."""
    return Path(files.ca)


@pytest.fixture(scope="session")
def server(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The certificate of a server, with its issuer's."""
    folder = tmp_path_factory.mktemp("chain")
    cert = ca.create_child_ca().issue_cert(
        NAME, "localhost", "127.0.0.1", organization_name="Example"
    )
    ca.cert_pem.write_to_path(folder / "ca.pem")
    cert.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return Chain(str(folder / "ca.pem"), folder / "server.pem", cert)
