"""Contexts for one version: what a server does here is the same with any."""

from __future__ import annotations

import ssl

import pytest
import trustme

from tests.helpers import client_context_for, server_context_for


@pytest.fixture
def client_context(ca: trustme.CA) -> ssl.SSLContext:
    return client_context_for(ca)


@pytest.fixture
def server_context(server_cert: trustme.LeafCert) -> ssl.SSLContext:
    return server_context_for(server_cert)
