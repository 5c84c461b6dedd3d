"""Sessions and certificates age together: nothing outlives what it was verified by."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable
from types import SimpleNamespace

import pytest
import trustme

from tests.certificates import CLIENT, Certificate, Issued, load_pem
from tests.helpers import NAME, client_context_for, failure, server_context_for, shake_hands
from trio_tlsbio import (
    CertificateError,
    PeerAlertError,
    SessionCache,
    TLSConnection,
    TLSError,
    TLSSession,
)
from trio_tlsbio._core import dates, native_session, stale_sessions
from trio_tlsbio.testing import exchange, transfer

DAY = 24 * 3600
WEEK = 7 * DAY

Travel = Callable[[float], None]


@pytest.fixture
def travel(monkeypatch: pytest.MonkeyPatch) -> Travel:
    """Move the library's clock, not OpenSSL's: what is verified anew is still good."""
    offset = 0.0
    monkeypatch.setattr(dates, "time", SimpleNamespace(time=lambda: time.time() + offset))

    def go(seconds: float) -> None:
        nonlocal offset
        offset += seconds

    return go


def connect(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    session: TLSSession | None = None,
) -> tuple[bool, TLSSession]:
    """Return whether a new connection is resumed, and the session that it brings."""
    client = TLSConnection(
        client_context, server_hostname=NAME, session=session, collect_sessions=True
    )
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    server.send_close_notify()  # or OpenSSL would forget a session that it keeps by its id
    assert client.handshake is not None
    sessions = client.new_sessions()
    latest = sessions[-1] if sessions else session
    assert latest is not None
    return client.handshake.session_reused, latest


################################################################
# When a certificate ends
################################################################


def expiry_by_python(issued: Issued) -> float:
    return issued.certificate.not_valid_after_utc.timestamp()


@pytest.mark.parametrize("days", [0.5, 10, 10_000, 400_000])  # the last two after 2050
def test_the_expiry_is_read_off_a_certificate(days: float) -> None:
    issued = Certificate(days=(-1, days)).signed_by(None)
    assert dates.expiry_of(issued.der) == expiry_by_python(issued)


def test_what_is_no_certificate_has_expired_long_ago() -> None:
    issued = Certificate().signed_by(None)
    known = {0.0, expiry_by_python(issued)}
    for end in range(len(issued.der)):
        assert dates.expiry_of(issued.der[:end]) in known
    for garbage in (b"certificate", bytes(100), b"0" * 100, issued.key_pem):
        assert dates.expiry_of(garbage) == 0


################################################################
# Clients: a session ends with its certificate, and its lineage
################################################################


def test_a_session_knows_its_beginning_and_its_end(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, travel: Travel
) -> None:
    begin = dates.now()
    _, first = connect(client_context, server_context)
    assert begin <= first.verified_at <= dates.now()
    certificate = TLSConnection(client_context, server_hostname=NAME)
    shake_hands(certificate, TLSConnection(server_context, server_side=True))
    assert certificate.handshake is not None
    chain = certificate.handshake.peer_certificate_chain
    assert first.certificate_expires == dates.expiry_of(chain[0])
    travel(DAY)
    is_resumed, second = connect(client_context, server_context, first)
    assert is_resumed
    assert second.verified_at == first.verified_at
    assert second.certificate_expires == first.certificate_expires
    is_resumed, other = connect(client_context, server_context)
    assert not is_resumed
    assert other.verified_at >= begin + DAY


@pytest.mark.parametrize("first_to_end", ["root", "intermediate", "leaf"])
def test_the_first_certificate_of_the_chain_to_end_counts(first_to_end: str) -> None:
    days = {"root": 30.0, "intermediate": 20.0, "leaf": 10.0, first_to_end: 2.0}
    root = Certificate(is_ca=True, days=(-1, days["root"]), common_name="root").signed_by(None)
    middle = Certificate(
        is_ca=True, days=(-1, days["intermediate"]), common_name="middle"
    ).signed_by(root)
    leaf = Certificate(days=(-1, days["leaf"])).signed_by(middle)
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_pem(server_context, leaf.key_pem, leaf.pem, middle.pem)
    client_context = ssl.create_default_context(cadata=root.pem.decode())
    _, session = connect(client_context, server_context)
    chain = {"root": root, "intermediate": middle, "leaf": leaf}
    assert session.certificate_expires == expiry_by_python(chain[first_to_end])


def test_without_verification_no_certificate_ends_a_session(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    assert connect(client_context, server_context)[1].certificate_expires is None


def test_a_lineage_ends_with_the_certificate(
    ca: trustme.CA, tls_version: ssl.TLSVersion, travel: Travel
) -> None:
    leaf = Certificate(days=(-1, 3)).signed_by(Issued.of(ca))
    server_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    load_pem(server_context, leaf.key_pem, leaf.pem)
    client_context = client_context_for(ca, tls_version)
    _, session = connect(client_context, server_context)
    for _ in range(2):
        travel(DAY)
        is_resumed, session = connect(client_context, server_context, session)
        assert is_resumed
    assert not session.has_ended(dates.now())
    travel(DAY)
    assert session.has_ended(dates.now())
    assert session.fits(client_context, NAME)
    # It is not offered, which is no error, and what comes of it begins anew.
    is_resumed, other = connect(client_context, server_context, session)
    assert not is_resumed
    assert other.verified_at == pytest.approx(session.verified_at + 3 * DAY, abs=60)


def test_a_lineage_ends_after_a_week(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, travel: Travel
) -> None:
    _, session = connect(client_context, server_context)
    for _ in range(6):
        travel(DAY)
        is_resumed, session = connect(client_context, server_context, session)
        assert is_resumed
    travel(DAY)
    assert not connect(client_context, server_context, session)[0]


def test_a_cache_ends_lineages_sooner(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    moment = dates.now()
    cache = SessionCache(max_lineage=3600, clock=lambda: moment)
    begin = moment
    _, session = connect(client_context, server_context)
    for minutes in (0, 30, 59):
        moment = begin + 60 * minutes
        cache.put(session, 443, now=0)
        taken = cache.take(client_context, NAME, 443, now=0)
        assert taken is session
        # What a resumed connection brings does not begin anew.
        is_resumed, session = connect(client_context, server_context, taken)
        assert is_resumed
    cache.put(session, 443, now=0)
    moment = begin + 3601
    assert cache.take(client_context, NAME, 443, now=0) is None
    assert len(cache) == 0
    cache.put(session, 443, now=0)
    assert len(cache) == 0
    assert cache.has_ended(session)
    assert cache.statistics().expired == 2


@pytest.mark.parametrize("max_lineage", [0, -1, WEEK + 1, float("inf"), float("nan")])
def test_a_lineage_is_bounded(max_lineage: float) -> None:
    SessionCache(max_lineage=WEEK)
    with pytest.raises(ValueError, match="max_lineage must be positive, and at most 604800"):
        SessionCache(max_lineage=max_lineage)


################################################################
# Servers: no session of a client whose certificate has expired
################################################################


@pytest.fixture(params=["by ticket", "by id"])
def asking(
    request: pytest.FixtureRequest, ca: trustme.CA, server_context: ssl.SSLContext
) -> ssl.SSLContext:
    """A server's context that asks for a certificate."""
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    if request.param == "by id":
        server_context.options |= ssl.OP_NO_TICKET
    return server_context


@pytest.fixture
def of_a_day(ca: trustme.CA, client_context: ssl.SSLContext) -> ssl.SSLContext:
    """A client's context with a certificate that is good for two days."""
    leaf = Certificate(days=(-1, 2), purposes=[CLIENT]).signed_by(Issued.of(ca))
    load_pem(client_context, leaf.key_pem, leaf.pem)
    return client_context


def shake_hands_and_choose(client: TLSConnection, context: ssl.SSLContext) -> TLSConnection:
    """Let a server that chooses its context do what it can."""
    server = TLSConnection(None, server_side=True)
    transfer(client, server)
    assert not server.do_handshake()
    assert server.wants_context
    server.use_context(context)
    exchange(client, server)
    return server


@pytest.fixture
def is_early(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> bool:
    """Whether the certificate can be read before the handshake is done."""
    if request.param:
        return native_session._libssl_for_certificates() is not None
    monkeypatch.setattr(stale_sessions, "peer_certificate", lambda _: None)
    return False


@pytest.mark.parametrize("is_early", [True, False], indirect=True, ids=["early", "late"])
@pytest.mark.parametrize("is_chosen", [False, True], ids=["given", "chosen"])
def test_a_session_of_a_client_whose_certificate_has_expired_is_refused(
    of_a_day: ssl.SSLContext,
    asking: ssl.SSLContext,
    travel: Travel,
    is_chosen: bool,
    is_early: bool,
) -> None:
    _, session = connect(of_a_day, asking)
    travel(DAY)
    is_resumed, session = connect(of_a_day, asking, session)
    assert is_resumed
    travel(DAY + 60)
    client = TLSConnection(of_a_day, server_hostname=NAME, session=session)
    client.send(b"from a client that nobody may be")
    if is_chosen:
        server = shake_hands_and_choose(client, asking)
    else:
        server = TLSConnection(asking, server_side=True)
        exchange(client, server)
    error = failure(server)
    assert isinstance(error, CertificateError)
    assert "its certificate has expired in the meantime" in str(error)
    assert (error.reason, error.verify_code) == ("CERTIFICATE_VERIFY_FAILED", 10)
    assert server.handshake is None
    assert not server.inbox.has_decrypted
    with pytest.raises(CertificateError):
        server.receive()
    with pytest.raises(CertificateError):
        server.send(b"secret")
    assert server.data_to_send() == b""
    if is_early:
        refusal = failure(client)
        assert isinstance(refusal, PeerAlertError)
        assert refusal.alert == "certificate_expired"
        assert client.session is None
    # Who comes without the session is looked at by OpenSSL, whose clock stands still here.
    assert not connect(of_a_day, asking)[0]


def test_a_certificate_has_expired_from_its_last_second_on(
    of_a_day: ssl.SSLContext, asking: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session = connect(of_a_day, asking)
    moment = dates.now()
    monkeypatch.setattr(dates, "now", lambda: moment)
    monkeypatch.setattr(dates, "expiry_of", lambda _: moment)
    client = TLSConnection(of_a_day, server_hostname=NAME, session=session)
    server = TLSConnection(asking, server_side=True)
    exchange(client, server)
    assert "its certificate has expired in the meantime" in str(failure(server))


def test_a_client_that_is_refused_gets_no_new_tickets(
    ca: trustme.CA, of_a_day: ssl.SSLContext, travel: Travel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stale_sessions, "peer_certificate", lambda _: None)
    of_a_day.minimum_version = of_a_day.maximum_version = ssl.TLSVersion.TLSv1_3
    context = server_context_for(ca.issue_cert(NAME))
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    _, session = connect(of_a_day, context)
    travel(2 * DAY + 60)
    client = TLSConnection(of_a_day, server_hostname=NAME, session=session, collect_sessions=True)
    exchange(client, TLSConnection(context, server_side=True))
    assert client.receive() is None
    assert client.new_sessions() == []


def test_without_a_client_certificate_nothing_is_decoded(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, session = connect(client_context, server_context)

    def decode(_: bytes) -> float:
        raise AssertionError("a certificate was decoded")

    monkeypatch.setattr(dates, "expiry_of", decode)
    assert connect(client_context, server_context, session)[0]


def test_a_refused_client_is_told_before_it_is_verified_otherwise(
    of_a_day: ssl.SSLContext, asking: ssl.SSLContext, travel: Travel
) -> None:
    """A server that verifies by itself too never gets to see the client."""
    _, session = connect(of_a_day, asking)
    travel(2 * DAY + 60)
    client = TLSConnection(of_a_day, server_hostname=NAME, session=session)
    server = TLSConnection(asking, server_side=True, verifies_peer=True)
    exchange(client, server)
    assert server.unverified is None
    with pytest.raises(TLSError, match="has expired in the meantime"):
        server.do_handshake()


@pytest.mark.parametrize("verifies_peer", [False, True])
def test_an_interrupted_check_of_a_client_is_made_again(
    of_a_day: ssl.SSLContext,
    asking: ssl.SSLContext,
    travel: Travel,
    monkeypatch: pytest.MonkeyPatch,
    verifies_peer: bool,
) -> None:
    """Otherwise, Ctrl-C at the right moment would let in a client whose certificate has expired."""
    _, session = connect(of_a_day, asking)
    travel(2 * DAY + 60)
    expiry_of, interrupts = dates.expiry_of, [KeyboardInterrupt]

    def interrupted(certificate: bytes) -> float:
        if interrupts:
            raise interrupts.pop()
        return expiry_of(certificate)

    client = TLSConnection(of_a_day, server_hostname=NAME, session=session)
    server = TLSConnection(asking, server_side=True, verifies_peer=verifies_peer)
    monkeypatch.setattr(dates, "expiry_of", interrupted)
    monkeypatch.setattr(stale_sessions, "peer_certificate", lambda _: None)  # not until the end
    transfer(client, server)
    assert not server.do_handshake()
    transfer(server, client)
    assert client.do_handshake()
    transfer(client, server)
    with pytest.raises(KeyboardInterrupt):
        server.do_handshake()
    assert server.unverified is None
    with pytest.raises(TLSError, match="has expired in the meantime"):
        server.do_handshake()
