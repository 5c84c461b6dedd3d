"""Refusals by code above OpenSSL: nothing goes out any more."""

from __future__ import annotations

import ssl

import pytest
import trustme

from tests.helpers import NAME, client_context_for, failures, server_context_for
from trio_tlsbio import TLSConnection
from trio_tlsbio.testing import transfer


def test_a_refusal_by_an_openssl_error_of_its_own_lets_nothing_out(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    class Verifier(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            ssl.create_default_context(cadata="no certificate")  # fails in OpenSSL

    client_context = client_context_for(ca)
    client_context.sslobject_class = Verifier
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context_for(server_cert), server_side=True)
    client_error, server_error = failures(client, server)
    assert client_error is not None
    assert server_error is None
    assert server.handshake is None


def test_an_interruption_in_a_refusal_lets_nothing_out(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    class Interrupted(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()
            raise KeyboardInterrupt

    client_context = client_context_for(ca)
    client_context.sslobject_class = Interrupted
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context_for(server_cert), server_side=True)
    transfer(client, server)
    server.do_handshake()
    transfer(server, client)
    with pytest.raises(KeyboardInterrupt):
        client.do_handshake()
    assert client.data_to_send() == b""
