"""Sessions: bound to one use, kept in bounds, resumed by themselves."""

from __future__ import annotations

import copy
import pickle
import ssl
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trustme

from tests.helpers import (
    NAME,
    client_context_for,
    reports_security_level,
    server_context_for,
    shake_hands,
)
from trio_tlsbio import SessionCache, TLSConnection, TLSError, TLSSession
from trio_tlsbio._net import session_cache
from trio_tlsbio.core import State
from trio_tlsbio.monitoring import SessionCacheStatistics
from trio_tlsbio.testing import transfer


def resume(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    session: TLSSession | None = None,
    name: str = NAME,
) -> tuple[TLSConnection, list[TLSSession]]:
    """Make a connection, and return the client with the sessions that it was given."""
    client = TLSConnection(
        client_context, server_hostname=name, session=session, collect_sessions=True
    )
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    client.send(b"ping")
    transfer(client, server)
    assert server.receive() == b"ping"
    server.send(b"pong")
    transfer(server, client)
    assert client.receive() == b"pong"
    return client, client.new_sessions()


def was_resumed(client: TLSConnection) -> bool:
    assert client.handshake is not None
    return client.handshake.session_reused


################################################################
# Resuming
################################################################


def test_a_session_is_resumed(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, _ = resume(client_context, server_context)
    assert not was_resumed(client)
    session = client.session
    for _ in range(3):
        client, _ = resume(client_context, server_context, session)
        assert was_resumed(client)
        session = client.session
    assert client_context.session_stats()["hits"] == 3
    assert server_context.session_stats()["hits"] == 3


def test_where_python_code_verifies_there_is_no_session(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    class Thin(ssl.SSLObject):
        def do_handshake(self) -> None:
            super().do_handshake()

    class Chatty(ssl.SSLObject):
        def write(self, data: Any) -> int:
            return super().write(data)

    client_context.sslobject_class = Thin
    client, sessions = resume(client_context, server_context)
    assert client.session is None
    assert sessions == []
    # What such code verifies, some Pythons don't have in a resumed handshake.
    client_context.sslobject_class = Chatty
    client, _ = resume(client_context, server_context)
    assert len(chain_of(client)) == 1
    client, _ = resume(client_context, server_context, client.session)
    assert was_resumed(client)


def test_the_settings_of_a_context_that_wraps_another_one_are_that_ones(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    class Wrapper(ssl.SSLContext):
        def wrap_bio(self, *args: Any, **options: Any) -> ssl.SSLObject:
            return client_context.wrap_bio(*args, **options)

        def cert_store_stats(self) -> dict[str, int]:
            raise NotImplementedError

    wrapper = Wrapper(ssl.PROTOCOL_TLS_CLIENT)
    client, _ = resume(wrapper, server_context)
    session = client.session
    assert session is not None
    assert session.ssl_context is wrapper
    assert not session.fits(client_context, NAME)
    client, _ = resume(wrapper, server_context, session)
    assert was_resumed(client)
    client_context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    assert not session.fits(wrapper, NAME)


def chain_of(client: TLSConnection) -> list[Any]:
    """What truststore takes for the certificates that the peer has sent."""
    ssl_object: Any = client.ssl_object
    return ssl_object._sslobj.get_unverified_chain() or []


def test_there_is_no_session_before_the_ticket(ca: trustme.CA, server_cert: Any) -> None:
    # TLS 1.3 has a session object from the start, which nobody can resume with.
    client = TLSConnection(client_context_for(ca), server_hostname=NAME)
    server = TLSConnection(server_context_for(server_cert), server_side=True)
    assert client.session is None
    transfer(client, server)
    server.do_handshake()
    transfer(server, client)
    assert client.do_handshake()
    assert client.session is None
    transfer(client, server)
    assert server.do_handshake()
    assert server.session is None
    transfer(server, client)
    assert client.session is None
    client.receive()
    assert client.session is not None


def test_every_ticket_is_collected_once(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    is_tls13 = tls_version is ssl.TLSVersion.TLSv1_3
    if is_tls13:
        server_context.num_tickets = 3
    client, sessions = resume(client_context, server_context)
    assert len({session.id for session in sessions}) == len(sessions) == (3 if is_tls13 else 1)
    assert client.new_sessions() == []
    for session in sessions:
        assert session.single_use is is_tls13
        assert was_resumed(resume(client_context, server_context, session)[0])


@pytest.mark.parametrize("chunk", [1, 7, None])
def test_tickets_are_collected_from_any_chunks(
    ca: trustme.CA, server_cert: trustme.LeafCert, chunk: int | None
) -> None:
    client = TLSConnection(client_context_for(ca), server_hostname=NAME, collect_sessions=True)
    server = TLSConnection(server_context_for(server_cert), server_side=True)
    server.send(bytes(100_000))  # right behind the tickets
    while server.receive() is None and not (client.handshake and server.handshake):
        transfer(client, server, chunk)
        server.do_handshake()
        transfer(server, client, chunk)
        client.do_handshake()
    transfer(server, client, chunk)
    received = b"".join(iter(lambda: client.receive(999) or b"", b""))
    assert received == bytes(100_000)
    assert len(client.new_sessions()) == 2


def test_tickets_are_collected_from_records_that_come_one_by_one(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    client = TLSConnection(client_context_for(ca), server_hostname=NAME, collect_sessions=True)
    server = TLSConnection(server_context_for(server_cert), server_side=True)
    for _ in range(3):
        transfer(client, server)
        server.do_handshake()
        flight = server.data_to_send()
        while flight:
            size = 5 + int.from_bytes(flight[3:5], "big")
            client.feed(flight[:size])
            flight = flight[size:]
            client.receive()
    assert client.receive() is None
    assert len(client.new_sessions()) == 2


def test_a_connection_that_does_not_collect_has_none_to_take(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    assert client.new_sessions() == []
    assert client.session is not None


@pytest.mark.parametrize("why", ["restarted", "another server", "without tickets"])
def test_a_ticket_that_the_server_can_not_use_means_a_full_handshake(
    ca: trustme.CA,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    server_cert: trustme.LeafCert,
    tls_version: ssl.TLSVersion,
    why: str,
) -> None:
    client, _ = resume(client_context, server_context)
    cert = ca.issue_cert(NAME) if why == "another server" else server_cert
    other = server_context_for(cert, tls_version)  # has ticket keys of its own
    if why == "without tickets":
        other.options |= ssl.OP_NO_TICKET
    client, _ = resume(client_context, other, client.session)
    assert not was_resumed(client)


################################################################
# Never for another use
################################################################


def test_never_for_another_name(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    session = resume(client_context, server_context)[0].session
    assert session is not None
    with pytest.raises(ValueError, match=f"is for {NAME}, and resuming it for localhost"):
        TLSConnection(client_context, server_hostname="localhost", session=session)


def test_openssl_alone_would_resume_for_another_name(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    # What the rule above is for: if this fails some day, Python or OpenSSL checks by itself.
    raw = resume(client_context, server_context)[0].ssl_object.session
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context.wrap_bio(
        incoming, outgoing, server_hostname="wrong.example", session=raw
    )
    server = TLSConnection(server_context, server_side=True)
    for _ in range(3):
        with suppress(ssl.SSLWantReadError):
            client.do_handshake()
        server.feed(outgoing.read())
        server.do_handshake()
        incoming.write(server.data_to_send())
    assert client.session_reused


def test_never_with_another_context(
    ca: trustme.CA,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    session = resume(client_context, server_context)[0].session
    other = client_context_for(ca, tls_version)
    with pytest.raises(ValueError, match="another SSLContext"):
        TLSConnection(other, server_hostname=NAME, session=session)


def verify_nothing(context: ssl.SSLContext) -> None:
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE


def check_no_name(context: ssl.SSLContext) -> None:
    context.check_hostname = False


def change_strictness(context: ssl.SSLContext) -> None:
    context.verify_flags ^= ssl.VERIFY_X509_STRICT  # on by default from Python 3.13


def want_longer_keys(context: ssl.SSLContext) -> None:
    context.set_ciphers("DEFAULT:@SECLEVEL=3")


@pytest.mark.parametrize(
    "change",
    [
        verify_nothing,
        check_no_name,
        change_strictness,
        pytest.param(want_longer_keys, marks=reports_security_level),
    ],
)
def test_never_under_other_verification_settings(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, change: Any
) -> None:
    session = resume(client_context, server_context)[0].session
    change(client_context)
    with pytest.raises(ValueError, match="verification settings changed"):
        TLSConnection(client_context, server_hostname=NAME, session=session)


def test_trusting_more_keeps_the_sessions(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    # OpenSSL loads the certificates of a directory when it needs them, so it looks like that.
    session = resume(client_context, server_context)[0].session
    trustme.CA().configure_trust(client_context)
    assert was_resumed(resume(client_context, server_context, session)[0])


def test_settings_count_as_they_were_when_the_connection_was_made(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    verify_nothing(client_context)
    client = TLSConnection(client_context, server_hostname=NAME)
    client_context.verify_mode = ssl.CERT_REQUIRED
    client_context.check_hostname = True
    shake_hands(client, TLSConnection(server_context, server_side=True))
    with pytest.raises(ValueError, match="verification settings changed"):
        TLSConnection(client_context, server_hostname=NAME, session=client.session)


def test_no_session_of_a_connection_whose_context_was_swapped(
    ca: trustme.CA, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client = TLSConnection(client_context, server_hostname=NAME)
    client.ssl_object.context = client_context_for(ca, client_context.minimum_version)
    shake_hands(client, TLSConnection(server_context, server_side=True))
    assert client.session is None


def test_no_session_of_a_connection_that_failed_behind_our_close_notify(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, _ = resume(client_context, server_context)
    assert client.session is not None
    client.send_close_notify()
    assert client.session is not None
    client.feed(bytes.fromhex("1703030014") + bytes(20))  # a record that can't be decrypted
    with pytest.raises(TLSError):
        client.receive()
    assert client.send_state is State.CLOSED
    assert client.session is None


def test_no_session_of_a_connection_that_failed_behind_the_peers_close_notify(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    server.send_close_notify()
    transfer(server, client)
    assert client.receive() == b""
    assert client.session is not None
    client.abort(TLSError("the transport broke while sending"))
    assert client.receive_state is State.CLOSED
    assert client.session is None


def test_a_session_that_a_server_of_tls12_renews_is_collected(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    version = ssl.TLSVersion.TLSv1_2
    context = client_context_for(ca, version)
    server_context = server_context_for(server_cert, version)
    server_context.options |= ssl.OP_NO_TICKET
    # OpenSSL forgets the session of a server that goes without a close_notify.
    server = TLSConnection(server_context, server_side=True)
    client = TLSConnection(context, server_hostname=NAME, collect_sessions=True)
    shake_hands(client, server)
    (first,) = client.new_sessions()
    # It knows the session by its id, and gives a ticket in its place.
    server_context.options &= ~ssl.OP_NO_TICKET
    client, (second,) = resume(context, server_context, first)
    assert was_resumed(client)
    assert second.id != first.id
    client, sessions = resume(context, server_context, second)
    assert was_resumed(client)
    assert not sessions  # it was not renewed again


def test_servers_take_none(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    session = resume(client_context, server_context)[0].session
    with pytest.raises(ValueError, match="for clients"):
        TLSConnection(server_context, server_side=True, session=session)


def test_a_raw_session_is_refused(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    raw: Any = resume(client_context, server_context)[0].ssl_object.session
    with pytest.raises(TypeError, match=r"TLSStream\.session is one"):
        TLSConnection(client_context, server_hostname=NAME, session=raw)


def test_a_session_keeps_its_secrets(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    session = resume(client_context, server_context)[0].session
    assert session is not None
    assert repr(session) == f"TLSSession(server_hostname='{NAME}', single_use={session.single_use})"
    for leak in (pickle.dumps, copy.copy, copy.deepcopy):
        with pytest.raises(TypeError, match="secret"):
            leak(session)


################################################################
# The cache
################################################################


@pytest.fixture
def sessions(ca: trustme.CA, server_cert: trustme.LeafCert) -> list[TLSSession]:
    """Six tickets of TLS 1.3, of one server."""
    server_context = server_context_for(server_cert)
    server_context.num_tickets = 6
    return resume(client_context_for(ca), server_context)[1]


def test_each_ticket_is_given_out_once(sessions: list[TLSSession]) -> None:
    context = sessions[0].ssl_context
    cache = SessionCache()
    for session in sessions:
        cache.put(session, 443, now=0)
    assert len(cache) == 6
    taken = [cache.take(context, NAME, 443, now=1) for _ in range(7)]
    assert taken == [*reversed(sessions), None]
    assert len(cache) == 0
    assert cache.statistics() == SessionCacheStatistics(stored=6, hits=6, misses=1)


def test_a_session_of_tls12_is_given_out_again_and_replaced(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    version = ssl.TLSVersion.TLSv1_2
    context = client_context_for(ca, version)
    server_context = server_context_for(server_cert, version)
    (first,), (second,) = (resume(context, server_context)[1] for _ in range(2))
    cache = SessionCache()
    cache.put(first, 443, now=0)
    assert cache.take(context, NAME, 443, now=0) is first
    assert cache.take(context, NAME, 443, now=0) is first
    cache.put(second, 443, now=0)
    assert cache.take(context, NAME, 443, now=0) is second
    assert len(cache) == 1
    # The verification settings change: it must not be used, nor kept.
    context.check_hostname = False
    assert cache.take(context, NAME, 443, now=0) is None
    assert len(cache) == 0
    assert cache.statistics().unusable == 1


def test_a_used_ticket_is_not_given_out_again(sessions: list[TLSSession]) -> None:
    context = sessions[0].ssl_context
    cache = SessionCache(1)
    cache.put(sessions[0], 443, now=0)
    assert cache.take(context, NAME, 443, now=0) is sessions[0]
    cache.put(sessions[0], 443, now=0)
    cache.put(sessions[0], 444, now=0)
    cache.put(attrs.evolve(sessions[0]), 443, now=0)  # another object, the same ticket
    assert len(cache) == 0
    assert cache.take(context, NAME, 443, now=0) is None
    assert cache.take(context, NAME, 444, now=0) is None
    assert cache.statistics().stored == 1
    cache.clear()
    cache.put(sessions[0], 443, now=0)
    assert cache.take(context, NAME, 443, now=0) is None
    # Those of others are still given out, also when there was no room for them before.
    for session in sessions[1:]:
        cache.put(session, 443, now=0)
        assert cache.take(context, NAME, 443, now=0) is session


def test_a_ticket_that_was_put_twice_is_given_out_once(sessions: list[TLSSession]) -> None:
    context = sessions[0].ssl_context
    cache = SessionCache()
    for port in (443, 443, 444):
        cache.put(sessions[0], port, now=0)
    cache.put(sessions[1], 443, now=0)
    taken = [cache.take(context, NAME, port, now=0) for port in (443, 443, 443, 444)]
    assert taken == [sessions[1], sessions[0], None, None]
    assert len(cache) == 0


def test_a_ticket_that_is_used_elsewhere_is_not_given_out(sessions: list[TLSSession]) -> None:
    context = sessions[0].ssl_context
    cache = SessionCache()
    for session in sessions[:2]:
        cache.put(session, 443, now=0)
    cache.mark_used(sessions[1])
    assert cache.take(context, NAME, 443, now=0) is sessions[0]
    assert cache.take(context, NAME, 443, now=0) is None


def test_used_tickets_take_a_bounded_room(sessions: list[TLSSession]) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_cache, "_MOST_USED", 2)
        context = sessions[0].ssl_context
        cache = SessionCache()
        for session in sessions[:3]:
            cache.put(session, 443, now=0)
            assert cache.take(context, NAME, 443, now=0) is session
            cache.mark_used(session)
        for session in sessions[:3]:
            cache.put(session, 443, now=0)
    # The first one was forgotten.
    assert cache.take(context, NAME, 443, now=0) is sessions[0]
    assert cache.take(context, NAME, 443, now=0) is None


def test_the_ticket_that_was_not_used_for_longest_is_forgotten(sessions: list[TLSSession]) -> None:
    cache = SessionCache()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_cache, "_MOST_USED", 2)
        for index in (0, 1, 0, 2):
            cache.mark_used(sessions[index])
    for session in sessions[:3]:
        cache.put(session, 443, now=0)
    assert len(cache) == 1
    assert cache.take(sessions[0].ssl_context, NAME, 443, now=0) is sessions[1]


def test_a_session_of_tls12_may_be_put_and_taken_again(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    version = ssl.TLSVersion.TLSv1_2
    context = client_context_for(ca, version)
    (session,) = resume(context, server_context_for(server_cert, version))[1]
    cache = SessionCache()
    for _ in range(3):
        cache.mark_used(session)
        cache.put(session, 443, now=0)
        assert cache.take(context, NAME, 443, now=0) is session
        assert len(cache) == 1


def test_servers_and_contexts_are_kept_apart(ca: trustme.CA, sessions: list[TLSSession]) -> None:
    context = sessions[0].ssl_context
    cache = SessionCache()
    cache.put(sessions[0], 443, now=0)
    assert cache.take(context, NAME, 444, now=0) is None
    assert cache.take(context, "other.example", 443, now=0) is None
    assert cache.take(client_context_for(ca), NAME, 443, now=0) is None
    assert cache.take(context, NAME, 443, now=0) is sessions[0]


def test_lifetimes_are_honoured(sessions: list[TLSSession]) -> None:
    context = sessions[0].ssl_context
    assert sessions[0].lifetime == 7200  # what OpenSSL's servers say
    cache = SessionCache()
    cache.put(sessions[0], 443, now=100)
    cache.put(sessions[1], 443, now=200)
    assert cache.take(context, NAME, 443, now=7299) is sessions[1]
    assert cache.take(context, NAME, 443, now=7300) is None
    assert cache.statistics().expired == 1
    assert len(cache) == 0


@pytest.mark.parametrize(
    ("timeout", "hint", "single_use", "lifetime"),
    [
        (7200, 600, True, 600),
        (300, 600, True, 300),
        (300, 600, False, 300),
        (7200, 600, False, 600),
        (7200, 0, True, 0),  # not to be kept
        (7200, 0, False, 7200),  # nothing is said
        (10**7, 0, False, 604_800),
        (10**7, 10**7, True, 604_800),
    ],
)
def test_a_lifetime_is_the_shortest_that_counts(
    sessions: list[TLSSession], timeout: int, hint: int, single_use: bool, lifetime: float
) -> None:
    ssl_session: Any = SimpleNamespace(timeout=timeout, ticket_lifetime_hint=hint)
    session = attrs.evolve(sessions[0], single_use=single_use, ssl_session=ssl_session)
    assert session.lifetime == lifetime


def test_the_oldest_tickets_of_a_server_go_first(sessions: list[TLSSession]) -> None:
    context = sessions[0].ssl_context
    cache = SessionCache(tickets_per_server=2)
    for session in sessions:
        cache.put(session, 443, now=0)
    assert len(cache) == 2
    assert cache.statistics().evicted == 4
    assert cache.take(context, NAME, 443, now=0) is sessions[5]
    assert cache.take(context, NAME, 443, now=0) is sessions[4]


def test_the_server_that_was_not_used_for_longest_loses_its_tickets(
    sessions: list[TLSSession],
) -> None:
    context = sessions[0].ssl_context
    cache = SessionCache(4)
    for port, session in zip((1, 1, 2, 3), sessions, strict=False):
        cache.put(session, port, now=0)
    assert cache.take(context, NAME, 1, now=0) is sessions[1]  # which uses that server
    cache.put(sessions[4], 3, now=0)
    cache.put(sessions[5], 3, now=0)
    assert len(cache) == 4
    assert cache.take(context, NAME, 2, now=0) is None
    assert cache.take(context, NAME, 1, now=0) is sessions[0]


def test_a_server_that_has_given_a_session_was_used(sessions: list[TLSSession]) -> None:
    context = sessions[0].ssl_context
    cache = SessionCache(3)
    for port, session in zip((1, 2, 1, 3), sessions, strict=False):
        cache.put(session, port, now=0)
    assert cache.take(context, NAME, 2, now=0) is None
    assert cache.take(context, NAME, 1, now=0) is sessions[2]
    assert cache.take(context, NAME, 3, now=0) is sessions[3]


def test_a_cache_for_one(sessions: list[TLSSession]) -> None:
    cache = SessionCache(1, tickets_per_server=1)
    for port, session in enumerate(sessions):
        cache.put(session, port, now=0)
        assert repr(cache) == "<SessionCache of 1 session for 1 server>"
    assert cache.take(sessions[0].ssl_context, NAME, 5, now=0) is sessions[5]


def test_statistics_begin_with_nothing() -> None:
    assert set(attrs.astuple(SessionCache().statistics())) == {0}
    assert set(attrs.astuple(SessionCacheStatistics())) == {0}


def test_forgetting(sessions: list[TLSSession]) -> None:
    cache = SessionCache()
    cache.put(sessions[0], 1, now=0)
    cache.put(sessions[1], 2, now=0)
    cache.discard(sessions[0].ssl_context, NAME, 1)
    cache.discard(sessions[0].ssl_context, NAME, 1)
    assert len(cache) == 1
    cache.clear()
    assert len(cache) == 0
    assert cache.take(sessions[0].ssl_context, NAME, 2, now=0) is None
    assert cache.statistics().stored == 2


def test_a_cache_shows_no_secrets_and_has_room() -> None:
    assert repr(SessionCache()) == "<SessionCache of 0 sessions for 0 servers>"
    with pytest.raises(ValueError, match="max_sessions"):
        SessionCache(0)
    with pytest.raises(ValueError, match="tickets_per_server"):
        SessionCache(tickets_per_server=0)
