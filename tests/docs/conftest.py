"""Fixtures that the tests of the documentation share."""

from __future__ import annotations

import logging
import ssl
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.helpers import DOCS, HOST, server_context_for

from .peers import NAME, Logged


@pytest.fixture
def context(ca: trustme.CA, tls_version: ssl.TLSVersion) -> ssl.SSLContext:
    """A server's context, for the name in the pages."""
    return server_context_for(ca.issue_cert(NAME, HOST), tls_version)


@pytest.fixture
def logged() -> Iterator[Logged]:
    """What the server logs."""
    handler = Logged()
    logger = logging.getLogger("trio_tlsbio.server")
    logger.addHandler(handler)
    yield handler
    logger.removeHandler(handler)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The documentation as Sphinx builds it."""
    pytest.importorskip("sphinx", reason="Sphinx is not installed")
    pytest.importorskip("furo", reason="furo, the theme of the docs, is not installed")
    directory = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-n", "-E"]
    command += ["-d", str(directory / "doctrees"), str(DOCS), str(directory / "html")]
    build = subprocess.run(command, capture_output=True, text=True, check=False)
    assert build.returncode == 0, build.stdout + build.stderr
    return directory / "html"
