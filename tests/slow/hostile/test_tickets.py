"""Servers that give tickets where it is rare, or none where they could."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import trustme

from fuzz._forge import (
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    FINISHED,
    HANDSHAKE,
    NEW_SESSION_TICKET,
    Keys12,
    _hash_of,
    _prf,
    handshake,
    record,
    records_in,
)
from tests.helpers import NAME, server_context_for
from trio_tlsbio import TLSConnection, TLSSession

from .cases import Arenas
from .peer import Arena, HostilePeer, outcome_of, shake_hands

SESSION_TICKET = b"\x00\x23\x00\x00"  # an empty extension: RFC 5077 section 3.2


def first_session(arena: Arena, cert: trustme.LeafCert, keylog: Path) -> tuple[Arena, TLSSession]:
    """Make an arena whose server gives tickets, and return it with the session of one."""
    server_context = server_context_for(cert, arena.version)
    server_context.set_ciphers("ECDHE+AESGCM")
    server_context.keylog_filename = str(keylog)
    arena = Arena("client", arena.version, arena.victim_context, server_context)
    victim = TLSConnection(arena.victim_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    for _ in range(3):
        server.feed(victim.data_to_send())
        server.do_handshake()
        victim.feed(server.data_to_send())
        victim.receive()
    assert victim.session is not None
    return arena, victim.session


def renewing_flight(peer: HostilePeer, client_hello: bytes, ticket: bytes) -> bytes:
    """Make the flight of a server of TLS 1.2 that resumes from one that gives no new ticket."""
    hello_record, *_ = records_in(peer.next_flight())
    hello = hello_record[5:]
    extensions_at = 4 + 2 + 32 + 1 + hello[38] + 2 + 1
    extensions = hello[extensions_at + 2 :] + SESSION_TICKET
    body = hello[4:extensions_at] + len(extensions).to_bytes(2, "big") + extensions
    hello = handshake(hello[0], body)
    new_ticket = handshake(
        NEW_SESSION_TICKET, (3600).to_bytes(4, "big") + len(ticket).to_bytes(2, "big") + ticket
    )
    algorithm = _hash_of(peer._cipher).name
    transcript = hashlib.new(algorithm, client_hello + hello + new_ticket).digest()
    _, master_secret = peer._secrets()["CLIENT_RANDOM"]
    verify_data = _prf(master_secret, b"server finished", transcript, 12, algorithm)
    keys = peer.ours
    assert isinstance(keys, Keys12)
    keys._sequence = 0
    return (
        record(HANDSHAKE, hello)
        + record(HANDSHAKE, new_ticket)
        + record(CHANGE_CIPHER_SPEC, b"\x01")
        + keys.seal(HANDSHAKE, handshake(FINISHED, verify_data))
    )


def test_a_session_that_is_renewed_while_it_is_resumed_is_reported_once(
    arenas: Arenas, server_cert: trustme.LeafCert, tmp_path: Path
) -> None:
    arena, session = first_session(arenas["client", "tls12"], server_cert, tmp_path / "keys")
    peer = arena.new_peer()
    victim = TLSConnection(
        arena.victim_context, server_hostname=NAME, session=session, collect_sessions=True
    )
    hello = victim.data_to_send()
    peer.hear(hello)
    victim.feed(renewing_flight(peer, hello[5:], b"a new ticket"))
    assert victim.do_handshake()
    assert victim.handshake is not None
    assert victim.handshake.session_reused
    (renewed,) = victim.new_sessions()
    assert renewed.id != session.id
    victim.feed(peer.seal(APPLICATION_DATA, b"data"))
    assert outcome_of(victim).data == b"data"
    victim.look_for_session()
    assert victim.new_sessions() == []
    again = TLSConnection(arena.victim_context, server_hostname=NAME, session=renewed)
    assert b"a new ticket" in again.data_to_send()


@pytest.mark.parametrize("version", ["tls12", "tls13"])
@pytest.mark.parametrize("collects", [True, False])
def test_a_session_that_is_not_renewed_is_no_new_one(
    arenas: Arenas, server_cert: trustme.LeafCert, tmp_path: Path, version: str, collects: bool
) -> None:
    """What was offered stays in OpenSSL's hands. A ticket of TLS 1.3 is not to be used again."""
    arena, session = first_session(arenas["client", version], server_cert, tmp_path / "keys")
    arena.peer_context.num_tickets = 0
    peer = arena.new_peer()
    victim = TLSConnection(
        arena.victim_context, server_hostname=NAME, session=session, collect_sessions=collects
    )
    shake_hands(peer, victim)
    assert victim.handshake is not None
    assert victim.handshake.session_reused
    victim.feed(peer.seal(APPLICATION_DATA, b"data"))
    assert outcome_of(victim).data == b"data"
    victim.look_for_session()
    assert victim.new_sessions() == []
    if version == "tls13":
        assert victim.session is None
    else:
        assert victim.session is not None
        assert victim.session.id == session.id
