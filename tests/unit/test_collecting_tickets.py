"""Collecting tickets: which records are looked at, how often, and until when."""

from __future__ import annotations

import ssl

import pytest
import trustme

from tests.helpers import NAME, client_context_for, server_context_for, shake_hands
from trio_tlsbio import TLSConnection, TLSError
from trio_tlsbio._core.sessions import SessionSource
from trio_tlsbio.testing import transfer


def collecting_pair(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> tuple[TLSConnection, TLSConnection]:
    client = TLSConnection(client_context, server_hostname=NAME, collect_sessions=True)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    return client, server


def test_garbage_is_not_waited_for_to_become_a_record(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    server_context = server_context_for(server_cert)
    server_context.num_tickets = 0
    client, _ = collecting_pair(client_context_for(ca), server_context)
    client.feed(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    with pytest.raises(TLSError, match="is not a TLS record"):
        client.receive()


def test_a_ticket_that_comes_with_data_is_found_at_the_end(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    server_context = server_context_for(server_cert)
    server = TLSConnection(server_context, server_side=True)
    client = TLSConnection(client_context_for(ca), server_hostname=NAME, collect_sessions=True)
    transfer(client, server)
    server.do_handshake()
    transfer(server, client)
    client.do_handshake()
    transfer(client, server)
    server.do_handshake()
    tickets = server.data_to_send()
    client.receive()
    client.inbox.records.is_single = False  # as after data
    server.send(b"data")
    client.feed(tickets + server.data_to_send())
    assert client.receive() == b"data"
    assert client.new_sessions() == []
    client.look_for_session()
    assert len(client.new_sessions()) == 1


def test_tickets_without_end_are_not_all_looked_at(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    server_context = server_context_for(server_cert)
    server_context.num_tickets = 100
    client, _ = collecting_pair(client_context_for(ca), server_context)
    assert 8 <= len(client.new_sessions()) <= 16


def test_reading_to_the_last_byte_is_not_taken_for_a_ticket(
    ca: trustme.CA, server_cert: trustme.LeafCert, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = TLSConnection(client_context_for(ca), server_hostname=NAME, collect_sessions=True)
    server = TLSConnection(server_context_for(server_cert), server_side=True)
    shake_hands(client, server)
    client.receive()
    looks: list[ssl.SSLObject] = []
    monkeypatch.setattr(SessionSource, "session_of", lambda _, ssl_object: looks.append(ssl_object))
    for _ in range(20):
        server.send(b"three")
        transfer(server, client)
        client.feed(b"")
        assert client.receive(5) == b"three"
        assert client.receive(5) is None
    assert not looks
    client.look_for_session()
    assert not looks  # there is one already
