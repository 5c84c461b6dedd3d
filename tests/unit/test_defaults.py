"""What docs/security.rst says of the contexts that the library makes itself.

Each row of its table has a test, whose docstring begins with the section of RFC 9325.
"""

from __future__ import annotations

import argparse
import os
import re
import ssl
import sysconfig
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa

import trio_tlsbio.anyio
from tests.helpers import DOCS, NAME, failures, reports_security_level, shake_hands
from tests.programs import gnutls_serv, needs
from trio_tlsbio import (
    CertificateError,
    ReloadingContext,
    SessionCache,
    TLSConnection,
    TLSConnector,
    TLSError,
    TLSStream,
    open_tls_over_tcp_stream,
    serve_tls_over_tcp,
)
from trio_tlsbio._core.openssl_errors import IS_PYPY
from trio_tlsbio._net.default_context import _keep_recommended_ciphers, make_default_context
from trio_tlsbio.cli import _connect, _serve
from trio_tlsbio.testing import CertificateAuthority

PAGE = DOCS / "security.rst"

# Rows that are not about a context.
NOT_OURS = {
    "3.2": "HSTS is the application's; plaintext before the handshake: test_start_tls.py",
    "3.10": "Python has no early data; SSLyze looks for it in test_scanners.py",
    "4.4": "OpenSSL does not do it, and Python has no way to",
    "4.6": "OpenSSL has no truncated HMAC",
    "7.4": "OpenSSL has made new keys for each connection since 1.1.0",
}


def test_each_row_of_the_table_is_held() -> None:
    rows = re.findall(r"^   \* - (\d+(?:\.\d+)+)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    tests = [thing for name, thing in globals().items() if name.startswith("test_")]
    held = {
        section
        for test in tests
        for section in re.findall(r"\d+(?:\.\d+)+", (test.__doc__ or "").partition(":")[0])
    }
    assert sorted(rows) == sorted(held | NOT_OURS.keys())


################################################################
# The contexts
################################################################


async def open_and_close() -> ssl.SSLContext:
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        port = listener.socket.getsockname()[1]
        stream = await open_tls_over_tcp_stream("127.0.0.1", port)
        await trio.aclose_forcefully(stream)
        return stream.connection.ssl_object.context


def of_open_tls_over_tcp_stream() -> ssl.SSLContext:
    return trio.run(open_and_close)


def of_tls_connector() -> ssl.SSLContext:
    return TLSConnector().ssl_context


def of_anyio() -> ssl.SSLContext:
    connectable = anyio.TCPConnectable("127.0.0.1", 4433)
    context = trio_tlsbio.anyio.TLSConnectable(connectable, hostname=NAME).ssl_context
    assert isinstance(context, ssl.SSLContext)
    return context


def of_connect() -> ssl.SSLContext:
    options = dict.fromkeys(["cafile", "insecure", "cert", "key", "alpn", "version", "keylog"])
    return _connect._context_for(argparse.Namespace(**options))


def of_serve() -> ssl.SSLContext:
    options = dict.fromkeys(["client_ca", "client_cert", "alpn", "www", "version"])
    equip = CertificateAuthority().issue(NAME).load_into
    return _serve._make_context(argparse.Namespace(**options), equip)


CLIENTS = [of_open_tls_over_tcp_stream, of_tls_connector, of_anyio, of_connect]


@pytest.fixture(autouse=True)
def no_system_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the system's certificate authorities, which take longer to load than a test."""
    monkeypatch.setenv("SSL_CERT_FILE", os.devnull)


@pytest.fixture(params=CLIENTS, ids=lambda make: make.__name__)
def client(request: pytest.FixtureRequest) -> ssl.SSLContext:
    """A client's context, from each of the places that make one."""
    context = request.param()
    assert isinstance(context, ssl.SSLContext)
    return context


@pytest.fixture
def server() -> ssl.SSLContext:
    """A server's context."""
    return of_serve()


@pytest.fixture(params=[*CLIENTS, of_serve], ids=lambda make: make.__name__)
def context(request: pytest.FixtureRequest) -> ssl.SSLContext:
    """A context of either side."""
    made = request.param()
    assert isinstance(made, ssl.SSLContext)
    return made


def pair(
    client_of: Callable[[ssl.SSLContext], object] = lambda _: None,
    server_of: Callable[[ssl.SSLContext], object] = lambda _: None,
) -> tuple[TLSConnection, TLSConnection]:
    """A client and a server of our own contexts, that are changed as the test wants it."""
    authority = CertificateAuthority()
    ours, theirs = make_default_context(), make_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_verify_locations(cadata=authority.certificate_pem.decode())
    authority.issue(NAME).load_into(theirs)
    client_of(ours)
    server_of(theirs)
    return TLSConnection(ours, server_hostname=NAME), TLSConnection(theirs, server_side=True)


async def test_context_of_the_caller_stays_as_it_is(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    def settings() -> list[object]:
        return [
            (
                [cipher["name"] for cipher in context.get_ciphers()],
                *(context.options, context.minimum_version, context.maximum_version),
                *(context.verify_mode, context.verify_flags, context.check_hostname),
                *(context.post_handshake_auth, context.hostname_checks_common_name),
            )
            for context in (client_context, server_context)
        ]

    async def echo(stream: TLSStream[trio.SocketStream]) -> None:
        async for chunk in stream:
            await stream.send_all(chunk)

    before = settings()
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(
            partial(serve_tls_over_tcp, echo, 0, server_context, host="127.0.0.1")
        )
        port = listener.transport_listener.socket.getsockname()[1]
        stream = await open_tls_over_tcp_stream(
            "127.0.0.1", port, ssl_context=client_context, session_cache=SessionCache()
        )
        async with (
            stream,
            await TLSConnector(ssl_context=client_context).connect("127.0.0.1", port),
        ):
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"hello"
        nursery.cancel_scope.cancel()
    assert settings() == before


@reports_security_level
def test_what_python_gives() -> None:
    context = ssl.create_default_context()
    assert context.security_level >= 2
    if "--with-ssl-default-suites=openssl" in (sysconfig.get_config_var("CONFIG_ARGS") or ""):
        return  # as Debian builds it: the rest is OpenSSL's choice
    assert context.minimum_version >= ssl.TLSVersion.TLSv1_2
    ciphers = context.get_ciphers()
    assert {cipher["kea"] for cipher in ciphers} <= {"kx-any", "kx-ecdhe", "kx-dhe"}
    assert not [name for cipher in ciphers if (name := cipher["name"]).endswith("-SHA")]


################################################################
# Section 3
################################################################


def test_versions(context: ssl.SSLContext) -> None:
    """3.1.1, 3.1.3: TLS 1.2 and 1.3 alone."""
    assert context.minimum_version == ssl.TLSVersion.TLSv1_2
    assert context.maximum_version in (ssl.TLSVersion.TLSv1_3, ssl.TLSVersion.MAXIMUM_SUPPORTED)


def test_best_version_is_preferred() -> None:
    """3.1.1: TLS 1.3 if both can."""
    client, server = pair()
    shake_hands(client, server)
    assert client.handshake is not None
    assert client.handshake.version == "TLSv1.3"


def test_compression(context: ssl.SSLContext) -> None:
    """3.3: none."""
    assert context.options & ssl.OP_NO_COMPRESSION


def test_resumption_has_forward_secrecy(context: ssl.SSLContext) -> None:
    """3.4: a resumed session of TLS 1.3 has a key exchange of its own."""
    allow_no_dhe_kex = 0x400  # SSL_OP_ALLOW_NO_DHE_KEX, which Python has no name for
    assert not context.options & allow_no_dhe_kex


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_tickets_are_good_for_two_hours(version: ssl.TLSVersion) -> None:
    """3.4: a reasonable time."""
    client, server = pair(lambda context: setattr(context, "maximum_version", version))
    shake_hands(client, server)
    session = client.ssl_object.session
    assert session is not None
    assert session.has_ticket
    assert 0 < session.timeout <= 7200


async def test_ticket_keys_are_renewed(autojump_clock: trio.testing.MockClock) -> None:
    """3.4: they are in use for a day, by the command serve."""
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(make_default_context(ssl.Purpose.CLIENT_AUTH))
        return made[-1]

    context = ReloadingContext(make)
    with trio.move_on_after(7 * 24 * 60 * 60 + 1):
        await _serve._renew_ticket_keys(context)
    assert len(made) == 8
    assert context() is made[-1]


def test_legacy_servers_and_renegotiation(context: ssl.SSLContext) -> None:
    """3.5: what the handshake can't protect is not renegotiated."""
    legacy_server_connect = 0x4  # ssl.OP_LEGACY_SERVER_CONNECT, in Python since 3.12
    assert not context.options & legacy_server_connect


def test_old_openssl_is_told_of_legacy_servers(monkeypatch: pytest.MonkeyPatch) -> None:
    """3.5: before 3.0, OpenSSL allowed them."""
    permissive = ssl.create_default_context()
    permissive.options |= 0x4
    monkeypatch.setattr(ssl, "create_default_context", lambda *_args, **_options: permissive)
    assert not make_default_context().options & 0x4


def test_server_does_not_renegotiate(server: ssl.SSLContext) -> None:
    """3.5: a client can't make it work."""
    assert server.options & ssl.OP_NO_RENEGOTIATION


@needs("gnutls-serv")
async def test_server_without_secure_renegotiation_is_refused(
    ca: trustme.CA, server_cert: trustme.LeafCert, tmp_path: Path
) -> None:
    """3.5: the client makes no connection to it."""
    pem = tmp_path / "server.pem"
    server_cert.private_key_and_cert_chain_pem.write_to_path(pem)
    context = make_default_context()
    ca.configure_trust(context)
    # GnuTLS takes the last of two.
    option = ("--priority", "NORMAL:-VERS-ALL:+VERS-TLS1.2:%DISABLE_SAFE_RENEGOTIATION")
    async with gnutls_serv(pem, ssl.TLSVersion.TLSv1_2, *option) as port:
        stream = await open_tls_over_tcp_stream("127.0.0.1", port, ssl_context=context)
        with pytest.raises(TLSError, match=r"insecure renegotiation \(RFC 5746\)"):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)


def test_post_handshake_authentication(context: ssl.SSLContext) -> None:
    """3.6: only for those who ask for it."""
    assert not context.post_handshake_auth


def test_server_name_is_sent() -> None:
    """3.7: the name that is checked is the name that is asked for."""
    names: list[str | None] = []

    def note(_object: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        names.append(name)

    client, server = pair(server_of=lambda context: setattr(context, "sni_callback", note))
    shake_hands(client, server)
    assert names == [NAME]


def test_no_common_application_protocol() -> None:
    """3.8: Python goes on without one, and the handler sees it."""
    client, server = pair(
        lambda context: context.set_alpn_protocols(["h2"]),
        lambda context: context.set_alpn_protocols(["http/1.1"]),
    )
    shake_hands(client, server)
    assert server.handshake is not None
    assert server.handshake.alpn_protocol is None


################################################################
# Section 4
################################################################

RECOMMENDED = {
    *("ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"),
    *("ECDHE-ECDSA-AES128-GCM-SHA256", "ECDHE-ECDSA-AES256-GCM-SHA384"),
}


def test_cipher_suites(context: ssl.SSLContext) -> None:
    """4.1, 4.2: AEAD with forward secrecy, of 128 bits at least."""
    ciphers = context.get_ciphers()
    for cipher in ciphers:
        assert cipher["aead"], cipher
        assert cipher["strength_bits"] >= 128, cipher
        assert cipher["protocol"] == "TLSv1.3" or " Kx=ECDH " in cipher["description"], cipher
    names = [cipher["name"] for cipher in ciphers]
    assert set(names) >= RECOMMENDED
    assert {name for name in names if name.startswith("TLS_")}
    others = {name for name in names if not name.startswith("TLS_")} - RECOMMENDED
    assert all(name.endswith("CHACHA20-POLY1305") for name in others)


@reports_security_level
def test_what_is_refused_already_stays_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """4.1: the policy of a system is narrowed, never widened."""
    strict = ssl.create_default_context()
    strict.set_ciphers("ECDHE+AES256:!AESCCM:@SECLEVEL=3")
    monkeypatch.setattr(ssl, "create_default_context", lambda *_args, **_options: strict)
    context = make_default_context()
    assert context.security_level == 3
    tls12 = {item["name"] for item in context.get_ciphers() if item["protocol"] == "TLSv1.2"}
    assert tls12 == {"ECDHE-ECDSA-AES256-GCM-SHA384", "ECDHE-RSA-AES256-GCM-SHA384"}


class PointsAtNames(ssl.SSLContext):
    """Has pointers where CPython has names, as on PyPy."""

    def get_ciphers(self) -> list[dict[str, Any]]:  # type: ignore[override]
        return [{**cipher, "kea": object()} for cipher in super().get_ciphers()]


def test_cipher_suites_where_the_key_exchange_has_no_name() -> None:
    """4.1: the same suites."""
    expected, context = (make(ssl.PROTOCOL_TLS_CLIENT) for make in (ssl.SSLContext, PointsAtNames))
    for each in (expected, context):
        each.set_ciphers("ALL:@SECLEVEL=0")
        _keep_recommended_ciphers(each)
    names = [cipher["name"] for cipher in context.get_ciphers()]
    assert names == [cipher["name"] for cipher in expected.get_ciphers()]
    assert names


def test_weak_peers_are_refused() -> None:
    """4.1: CBC and a key exchange without forward secrecy, with TLS 1.2."""
    for ciphers in ("ECDHE+AES:!AESGCM", "AES128-SHA256:AES128-GCM-SHA256"):

        def weaken(context: ssl.SSLContext, ciphers: str = ciphers) -> None:
            context.maximum_version = ssl.TLSVersion.TLSv1_2
            context.set_ciphers(ciphers)

        client_error, server_error = failures(*pair(client_of=weaken))
        assert "no cipher" in str(server_error)
        assert "no parameters that both sides support" in str(client_error)


def test_server_prefers_its_own_order(server: ssl.SSLContext) -> None:
    """4.2.1: the strongest first, whatever the client's order is."""
    assert server.options & ssl.OP_CIPHER_SERVER_PREFERENCE


@pytest.mark.parametrize(
    "curve",
    [
        "prime256v1",
        pytest.param(
            "X25519",
            marks=pytest.mark.where(not IS_PYPY, "PyPy's set_ecdh_curve() does not know it"),
        ),
    ],
)
@pytest.mark.parametrize(
    ("side", "version"),
    [  # in TLS 1.2 a client needs the curve of the certificate too
        ("client", ssl.TLSVersion.TLSv1_3),
        ("server", ssl.TLSVersion.TLSv1_2),
        ("server", ssl.TLSVersion.TLSv1_3),
    ],
)
def test_groups(curve: str, version: ssl.TLSVersion, side: str) -> None:
    """4.2.1: P-256 and X25519, on both sides."""

    def narrow(context: ssl.SSLContext) -> None:
        context.maximum_version = version
        context.set_ecdh_curve(curve)

    shake_hands(*(pair(client_of=narrow) if side == "client" else pair(server_of=narrow)))


@reports_security_level
def test_key_lengths(context: ssl.SSLContext) -> None:
    """4.5: 2048 bits of RSA, no SHA-1: OpenSSL's security level 2."""
    assert context.security_level >= 2


def test_short_rsa_key_is_not_served(server: ssl.SSLContext, tmp_path: Path) -> None:
    """4.5: it can't be loaded."""
    key = rsa.generate_private_key(65537, 1024)
    pem = serialization.Encoding.PEM
    private = key.private_bytes(
        pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    certificate = self_signed(key, NAME)
    path = tmp_path / "short.pem"
    path.write_bytes(private + certificate)
    with pytest.raises(ssl.SSLError, match="EE_KEY_TOO_SMALL"):
        server.load_cert_chain(path)


################################################################
# Section 7
################################################################


def self_signed(key: rsa.RSAPrivateKey, common_name: str) -> bytes:
    """A certificate without any name but in its subject."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, common_name)])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(
        name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1)
    )
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_certificates_are_verified(client: ssl.SSLContext) -> None:
    """7.1: the chain and the name."""
    assert client.verify_mode is ssl.CERT_REQUIRED
    assert client.check_hostname
    assert not client.hostname_checks_common_name


def test_common_name_is_no_name(tmp_path: Path) -> None:
    """7.1: a name in the subject alone is not looked at."""
    key = rsa.generate_private_key(65537, 2048)
    certificate = self_signed(key, NAME)
    pem = serialization.Encoding.PEM
    path = tmp_path / "server.pem"
    path.write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        + certificate
    )
    ours, theirs = make_default_context(), make_default_context(ssl.Purpose.CLIENT_AUTH)
    ours.load_verify_locations(cadata=certificate.decode())
    theirs.load_cert_chain(path)
    client = TLSConnection(ours, server_hostname=NAME)
    server = TLSConnection(theirs, server_side=True)
    error, _ = failures(client, server)
    assert isinstance(error, CertificateError)


def test_revocation_is_not_asked_for(client: ssl.SSLContext) -> None:
    """7.5: no lists are there, unless the program loads them."""
    assert not client.verify_flags & (ssl.VERIFY_CRL_CHECK_LEAF | ssl.VERIFY_CRL_CHECK_CHAIN)
