"""Pre-shared keys (PSK): what authenticates both sides in place of certificates."""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from tests.helpers import (
    NAME,
    both_handshakes,
    failures,
    has_psk,
    server_of,
    shake_hands,
    wrap_pair,
)
from trio_tlsbio import (
    CertificateError,
    PeerAlertError,
    TLSConnection,
    TLSError,
    contexts_by_name,
)

pytestmark = has_psk

KEY = bytes(range(32))
KEYS = {"alice": KEY}

# What a callback was given: the identity on a server, the hint on a client.
Seen = list[str | None]


def psk_client(
    version: ssl.TLSVersion,
    identity: str | None = "alice",
    key: bytes = KEY,
    seen: Seen | None = None,
) -> ssl.SSLContext:
    """A client's context that trusts no certificate, as Python makes one with nothing loaded."""
    context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("kECDHEPSK")

    def callback(hint: str | None) -> tuple[str | None, bytes]:
        if seen is not None:
            seen.append(hint)
        return identity, key

    context.set_psk_client_callback(callback)
    return context  # type: ignore[no-any-return]


def psk_server(
    version: ssl.TLSVersion,
    keys: Mapping[str, bytes] = KEYS,
    seen: Seen | None = None,
    hint: str | None = "which one?",
) -> ssl.SSLContext:
    """A server's context without a certificate."""
    context: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    context.set_ciphers("kECDHEPSK")

    def callback(identity: str | None) -> bytes:
        if seen is not None:
            seen.append(identity)
        return b"" if identity is None else keys.get(identity, b"")

    context.set_psk_server_callback(callback, hint)
    return context  # type: ignore[no-any-return]


def pair_of(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, **options: Any
) -> tuple[TLSConnection, TLSConnection]:
    options.setdefault("server_hostname", NAME)
    client = TLSConnection(client_context, **options)
    return client, TLSConnection(server_context, server_side=True)


def failures_of(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> tuple[TLSError | None, TLSError | None]:
    client_error, server_error = failures(*pair_of(client_context, server_context))
    return client_error, server_error


################################################################
# Connections
################################################################


@pytest.mark.parametrize("hint", ["which one?", None])
def test_connections(tls_version: ssl.TLSVersion, hint: str | None) -> None:
    hints: Seen = []
    identities: Seen = []
    client, server = pair_of(
        psk_client(tls_version, seen=hints), psk_server(tls_version, seen=identities, hint=hint)
    )
    shake_hands(client, server)
    is_old = tls_version is ssl.TLSVersion.TLSv1_2
    assert hints == [hint if is_old else None]  # TLS 1.3 has no hints
    assert identities == ["alice"]
    for handshake in (client.handshake, server.handshake):
        assert handshake is not None
        assert ("PSK" in handshake.cipher) == is_old
        assert handshake.peer_certificate is None
        assert handshake.peer_certificate_chain == ()
        assert handshake.matched_name is None
        assert handshake.session_reused == (not is_old)
    client.send(b"hello")
    server.feed(client.data_to_send())
    assert server.receive() == b"hello"


async def test_streams(tls_version: ssl.TLSVersion) -> None:
    client, server = wrap_pair(
        *trio.testing.memory_stream_pair(), psk_client(tls_version), psk_server(tls_version)
    )
    await both_handshakes(client, server)
    assert client.getpeercert() is None
    assert client.getpeercert(binary_form=True) is None
    await server.send_all(b"hello")
    assert await client.receive_some() == b"hello"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.aclose)
        nursery.start_soon(server.aclose)


async def test_a_refusal_on_streams(tls_version: ssl.TLSVersion) -> None:
    client, server = wrap_pair(
        *trio.testing.memory_stream_pair(), psk_client(tls_version, "bob"), psk_server(tls_version)
    )

    async def refuse() -> None:
        with pytest.raises(TLSError, match=r"no pre-shared key \(PSK\) .*is known here"):
            await server.do_handshake()
        await server.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse)
        with pytest.raises(PeerAlertError, match=r"pre-shared key \(PSK\)"):
            await client.do_handshake()
    await client.aclose()


################################################################
# Refusals
################################################################

TLS12, TLS13 = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3


def alert_in(error: TLSError | None) -> str:
    assert isinstance(error, PeerAlertError)
    return error.alert


@pytest.mark.parametrize(
    ("version", "alert", "words"),
    [
        (TLS12, "unknown_psk_identity", "it knows no pre-shared key (PSK) for the identity"),
        (TLS13, "handshake_failure", "or pre-shared key (PSK) where it needs one"),
    ],
    ids=["tls12", "tls13"],
)
def test_an_unknown_identity(version: ssl.TLSVersion, alert: str, words: str) -> None:
    client_error, server_error = failures_of(psk_client(version, "bob"), psk_server(version))
    assert alert_in(client_error) == alert
    assert words in str(client_error)
    assert "no pre-shared key (PSK)" in str(server_error)
    assert "known here" in str(server_error)


def test_another_key_in_tls_1_2() -> None:
    client_error, server_error = failures_of(psk_client(TLS12, key=KEY[1:]), psk_server(TLS12))
    assert alert_in(client_error) == "bad_record_mac"
    assert str(client_error) == (
        "the peer ended the connection: the pre-shared keys (PSK) of both sides differ, or a "
        "record that we sent arrived damaged (alert bad_record_mac)"
    )
    assert str(server_error).startswith(
        "the pre-shared keys (PSK) of both sides differ, or a record arrived damaged"
    )


def test_another_key_in_tls_1_3() -> None:
    client_error, server_error = failures_of(psk_client(TLS13, key=KEY[1:]), psk_server(TLS13))
    # The first one is what RFC 9846 section 6.2 says, and newer versions of OpenSSL send.
    assert alert_in(client_error) in {"decrypt_error", "illegal_parameter"}
    assert "our pre-shared key (PSK) is not the one that it has" in str(client_error)
    assert "can't prove that it has" in str(server_error)


def test_damage_after_the_handshake_is_not_about_keys(tls_version: ssl.TLSVersion) -> None:
    client, server = pair_of(psk_client(tls_version), psk_server(tls_version))
    shake_hands(client, server)
    client.send(b"hello")
    record = bytearray(client.data_to_send())
    record[-1] ^= 1
    server.feed(record)
    with pytest.raises(TLSError) as caught:
        server.receive()
    assert "PSK" not in str(caught.value)


def test_a_client_without_a_key(tls_version: ssl.TLSVersion) -> None:
    client_error, server_error = failures_of(
        psk_client(tls_version, key=b""), psk_server(tls_version)
    )
    if tls_version is TLS12:
        assert "no pre-shared key (PSK) is known here for" in str(client_error)
        assert alert_in(server_error) == "handshake_failure"
    else:  # it is like one that never had one
        assert "or no certificate is loaded here" in str(server_error)
        assert alert_in(client_error) == "handshake_failure"


def test_a_client_without_an_identity_in_tls_1_3() -> None:
    with pytest.raises(ValueError, match="nothing can be offered"):
        TLSConnection(psk_client(TLS13, identity=None), server_hostname=NAME)


def test_a_client_without_a_callback() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("kECDHEPSK")
    context.maximum_version = TLS12
    with pytest.raises(ValueError, match=r"pre-shared key \(PSK\) that it has no callback for"):
        TLSConnection(context, server_hostname=NAME)


def test_a_server_without_a_callback(tls_version: ssl.TLSVersion) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = tls_version
    _, server_error = failures_of(psk_client(tls_version), context)
    assert "certificate" in str(server_error)
    assert "pre-shared key (PSK)" in str(server_error)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_callback_that_raises(
    tls_version: ssl.TLSVersion, monkeypatch: pytest.MonkeyPatch
) -> None:
    ignored: list[Any] = []
    monkeypatch.setattr("sys.unraisablehook", lambda args: ignored.append(args.exc_value))

    def fail(identity: str | None) -> bytes:
        raise LookupError(identity)

    context: Any = psk_server(tls_version)
    context.set_psk_server_callback(fail)
    client_error, server_error = failures_of(psk_client(tls_version), context)
    assert isinstance(client_error, PeerAlertError)
    assert "no pre-shared key (PSK)" in str(server_error)
    assert [str(exc) for exc in ignored] == ["alice"]


################################################################
# A server that has a certificate
################################################################


def test_a_server_that_ignores_the_key_is_refused_by_its_certificate(
    server_cert: trustme.LeafCert,
) -> None:
    server_context = psk_server(TLS13, keys={})
    server_cert.configure_cert(server_context)
    client_error, server_error = failures_of(psk_client(TLS13), server_context)
    assert isinstance(client_error, CertificateError)
    assert alert_in(server_error) == "unknown_ca"


def test_a_client_that_verifies_nothing_sees_who_was_there(
    server_cert: trustme.LeafCert,
) -> None:
    client_context, server_context = psk_client(TLS13), psk_server(TLS13, keys={})
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    server_cert.configure_cert(server_context)
    client, server = pair_of(client_context, server_context)
    shake_hands(client, server)
    assert client.handshake is not None
    assert client.handshake.peer_certificate_chain != ()
    assert not client.handshake.session_reused


def test_a_server_that_has_both_may_prefer_its_certificate(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    client_context, server_context = psk_client(TLS13), psk_server(TLS13)
    ca.configure_trust(client_context)
    server_cert.configure_cert(server_context)
    client, server = pair_of(client_context, server_context)
    shake_hands(client, server)
    assert client.handshake is not None
    # The keys of Python's callbacks are for SHA-256.
    assert client.handshake.cipher.endswith("SHA384")
    assert client.handshake.peer_certificate_chain != ()


def test_a_client_with_a_key_needs_no_certificate(
    ca: trustme.CA, tls_version: ssl.TLSVersion
) -> None:
    server_context = psk_server(tls_version)
    server_context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(server_context)
    client, server = pair_of(psk_client(tls_version), server_context)
    shake_hands(client, server)
    assert server.handshake is not None
    assert server.handshake.peer_certificate is None


################################################################
# Sessions
################################################################


def test_sessions_are_resumed_for_the_same_name(tls_version: ssl.TLSVersion) -> None:
    identities: Seen = []
    client_context = psk_client(tls_version)
    server_context = psk_server(tls_version, seen=identities)
    client, server = pair_of(client_context, server_context)
    shake_hands(client, server)
    session = client.session
    assert session is not None
    client, server = pair_of(client_context, server_context, session=session)
    shake_hands(client, server)
    assert server.handshake is not None
    assert server.handshake.session_reused
    assert server_context.session_stats()["hits"] >= 1
    assert not session.fits(client_context, "another.example")
    assert not session.fits(psk_client(tls_version), NAME)
    # What would not be asked for any more: a certificate from now on.
    client_context.check_hostname = False
    assert not session.fits(client_context, NAME)


def test_what_a_session_outlives() -> None:
    """Neither side asks for the key again: docs/trust.rst says what to do about that."""
    keys = dict(KEYS)
    client_context: Any = psk_client(TLS13)
    server_context = psk_server(TLS13, keys)
    client, server = pair_of(client_context, server_context)
    shake_hands(client, server)
    session = client.session
    client_context.set_psk_client_callback(None)
    keys.clear()
    client, server = pair_of(client_context, server_context, session=session)
    shake_hands(client, server)
    assert client.handshake is not None
    assert client.handshake.session_reused
    assert client.handshake.peer_certificate is None


def test_a_handshake_with_a_key_alone_gives_no_session() -> None:
    # OpenSSL takes it for the resumption of a session that the key stands for.
    server_context = psk_server(TLS13)
    server_context.num_tickets = 0
    client, server = pair_of(psk_client(TLS13), server_context)
    shake_hands(client, server)
    assert client.session is None


@pytest.mark.parametrize("name", ["a.example", "b.example"])
def test_each_name_has_its_own_keys(tls_version: ssl.TLSVersion, name: str) -> None:
    """A session that a key of one name has made does not let in at another name."""
    choose = contexts_by_name(
        {
            "a.example": psk_server(tls_version),
            "b.example": psk_server(tls_version, {"bob": KEY}),
        }
    )
    client_context = psk_client(tls_version)
    client = TLSConnection(client_context, server_hostname="a.example")
    shake_hands(client, server_of(choose))
    session = client.session
    assert session is not None
    object.__setattr__(session, "server_hostname", name)  # as a hostile client can
    client = TLSConnection(client_context, server_hostname=name, session=session)
    pair = client, server_of(choose)
    if name == "a.example":
        shake_hands(*pair)
    else:
        client_error, server_error = failures(*pair)
        assert isinstance(client_error, PeerAlertError)
        assert "no pre-shared key (PSK)" in str(server_error)
