"""What a handshake leaves, when the connection is gone."""

from __future__ import annotations

import copy
import gc
import pickle
import ssl
import weakref
from collections.abc import Callable

import pytest
import trustme

from tests.helpers import NAME, shake_hands
from trio_tlsbio import HandshakeInfo, TLSConnection
from trio_tlsbio.testing import exchange, tls_connection_pair


def handshake(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> HandshakeInfo:
    client, _ = pair = tls_connection_pair(client_context, server_context, server_hostname=NAME)
    exchange(*pair)
    assert client.handshake is not None
    return client.handshake


def test_names_of_the_peer(server_context: ssl.SSLContext, client_context: ssl.SSLContext) -> None:
    info = handshake(server_context, client_context)
    assert info.certificate_names == (NAME, "localhost", "127.0.0.1")


def test_a_client_is_decoded(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, ca: trustme.CA
) -> None:
    """Also in a resumed session, in which OpenSSL has no chain."""
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    ca.issue_cert("client@example.org").configure_cert(client_context)
    session = None
    for is_resumed in (False, True):
        client = TLSConnection(client_context, server_hostname=NAME, session=session)
        server = TLSConnection(server_context, server_side=True)
        shake_hands(client, server)
        session, info = client.session, server.handshake
        assert info is not None
        assert info.session_reused is is_resumed
        assert info.decoded_chain[0]["subjectAltName"] == (("email", "client@example.org"),)


def test_a_client_without_a_certificate_has_no_chain(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    _, server = pair = tls_connection_pair(client_context, server_context, server_hostname=NAME)
    exchange(*pair)
    assert server.handshake is not None
    assert server.handshake.decoded_chain == ()


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda info: pickle.loads(pickle.dumps(info))],
    ids=["copy", "deepcopy", "pickle"],
)
def test_a_copy_has_all(
    copied: Callable[[HandshakeInfo], HandshakeInfo],
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    info = handshake(server_context, client_context)
    again = copied(copied(info))
    assert again == info
    assert hash(again) == hash(info)
    assert again.decoded_chain == info.decoded_chain == (info.peer_certificate,)


def test_it_does_not_hold_the_connection(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    client, server = tls_connection_pair(client_context, server_context, server_hostname=NAME)
    exchange(client, server)
    info, ssl_object = client.handshake, weakref.ref(client.ssl_object)
    assert info is not None
    del client
    gc.collect()  # PyPy
    assert ssl_object() is None
    assert len(info.decoded_chain) == 1
