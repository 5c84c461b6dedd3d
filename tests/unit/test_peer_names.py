"""Who the peer is, by the names in its certificate."""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Sequence
from typing import Any

import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.certificates import Certificate, Issued, key_usage
from tests.helpers import NAME, client_context_for, server_context_for
from trio_tlsbio import HandshakeInfo, PeerName
from trio_tlsbio._core.certificate_der import CertificateParts, dotted, elements
from trio_tlsbio._core.peer_names import common_name, names_in, spiffe_id_in
from trio_tlsbio.testing import exchange, tls_connection_pair

ID = "spiffe://example.org/billing"
URI = x509.UniformResourceIdentifier


@pytest.fixture(scope="module")
def issuer(ca: trustme.CA) -> Issued:
    return Issued.of(ca)


def server_sees(
    client: Issued | None,
    ca: trustme.CA,
    server_cert: trustme.LeafCert,
    verify_mode: ssl.VerifyMode = ssl.CERT_REQUIRED,
) -> HandshakeInfo:
    """Show a certificate to a server, and return what it knows after that."""
    client_context, server_context = client_context_for(ca), server_context_for(server_cert)
    if client is not None:
        client.load_into(client_context)
    ca.configure_trust(server_context)
    server_context.verify_mode = verify_mode
    server_context.verify_flags &= ~ssl.VERIFY_X509_STRICT  # Python 3.13 refuses odd authorities
    _, server = pair = tls_connection_pair(client_context, server_context, server_hostname=NAME)
    exchange(*pair)
    assert server.handshake is not None
    return server.handshake


def test_names_of_each_kind(ca: trustme.CA, server_cert: trustme.LeafCert, issuer: Issued) -> None:
    names: Sequence[Any] = (
        "a.example",
        "192.0.2.1",
        "::1",
        URI("https://a.example/b"),
        x509.RFC822Name("alice@example.org"),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3.4")),
        x509.DirectoryName(x509.Name([])),
        "*.b.example",
    )
    client = Certificate(names=names, common_name="alice").signed_by(issuer)
    info = server_sees(client, ca, server_cert)
    assert info.peer_names == (
        PeerName("DNS", "a.example"),
        PeerName("IP", "192.0.2.1"),
        PeerName("IP", "::1"),
        PeerName("URI", "https://a.example/b"),
        PeerName("email", "alice@example.org"),
        PeerName("DNS", "*.b.example"),
    )
    assert info.certificate_names == ("a.example", "192.0.2.1", "::1", "*.b.example")
    assert info.peer_common_name == "alice"
    assert info.spiffe_id is None
    assert info.matched_name is None
    assert str(info.peer_names[0]) == "a.example"


def test_kinds_are_not_mixed_up() -> None:
    allowed = {PeerName("URI", ID)}
    assert allowed.isdisjoint({PeerName("DNS", ID)})
    assert not allowed.isdisjoint({PeerName("URI", ID)})


def test_malformed_address_is_no_name() -> None:
    assert names_in({"subjectAltName": (("IP Address", "<invalid>"), ("DNS", "a"))}) == (
        PeerName("DNS", "a"),
    )


def test_client_without_a_certificate(ca: trustme.CA, server_cert: trustme.LeafCert) -> None:
    info = server_sees(None, ca, server_cert, ssl.CERT_OPTIONAL)
    assert info.peer_names == ()
    assert info.peer_common_name is info.spiffe_id is info.peer_public_key is None


def test_unverified_certificate_has_no_names(ca: trustme.CA, issuer: Issued) -> None:
    server = Certificate(names=(NAME, URI(ID)), common_name=NAME).signed_by(issuer)
    contexts = {}
    for verify_mode in (ssl.CERT_REQUIRED, ssl.CERT_NONE):
        client_context = client_context_for(ca)
        client_context.check_hostname = False
        client_context.verify_mode = verify_mode
        server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        server.load_into(server_context)
        client, _ = pair = tls_connection_pair(client_context, server_context, server_hostname=NAME)
        exchange(*pair)
        assert client.handshake is not None
        contexts[verify_mode] = client.handshake
    verified, unverified = contexts.values()
    assert verified.spiffe_id == ID
    assert verified.peer_common_name == NAME
    assert unverified.peer_names == unverified.certificate_names == ()
    assert unverified.peer_common_name is unverified.spiffe_id is None
    assert unverified.peer_public_key == verified.peer_public_key is not None


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([], None),
        (["a"], "a"),
        (["a", "b"], None),
        (["a", "a"], None),
    ],
)
def test_common_name_is_the_only_one(names: list[str], expected: str | None) -> None:
    subject = ((("countryName", "XX"),), *((("commonName", name),) for name in names))
    assert common_name({"subject": subject}) == expected


################################################################
# SPIFFE
################################################################


def test_spiffe_id_among_other_names(
    ca: trustme.CA, server_cert: trustme.LeafCert, issuer: Issued
) -> None:
    client = Certificate(
        names=("a.example", URI(ID)),
        extensions=[(key_usage("digital_signature"), True)],
    ).signed_by(issuer)
    info = server_sees(client, ca, server_cert)
    assert info.spiffe_id == ID
    assert PeerName("URI", ID) in info.peer_names


LONGEST = "spiffe://example.org/" + "x" * (2048 - len("spiffe://example.org/"))


@pytest.mark.parametrize(
    "uri",
    [
        ID,
        "spiffe://example.org/ns/staging/sa/default",
        "spiffe://a_b-c.example.org/.../A-Z_09.x",
        "spiffe://192.0.2.1/x",
        f"spiffe://{'d' * 255}/x",
        LONGEST,
    ],
)
def test_valid_spiffe_ids(uri: str, issuer: Issued) -> None:
    assert spiffe_id(issuer, uri) == uri


@pytest.mark.parametrize(
    "uri",
    [
        "",
        "https://example.org/billing",
        "SPIFFE://example.org/billing",
        "spiffe:example.org/billing",
        "spiffe:///billing",
        "spiffe://example.org",
        "spiffe://example.org/",
        "spiffe://example.org/billing/",
        "spiffe://example.org//billing",
        "spiffe://example.org/./billing",
        "spiffe://example.org/a/..",
        "spiffe://example.org/../billing",
        "spiffe://Example.org/billing",
        "spiffe://exa%6dple.org/billing",
        "spiffe://user@example.org/billing",
        "spiffe://example.org:443/billing",
        "spiffe://example.org:/billing",
        "spiffe://[::1]/billing",
        "spiffe://example.org/billing?x=1",
        "spiffe://example.org/billing?",
        "spiffe://example.org/billing#x",
        "spiffe://example.org/billing#",
        "spiffe://example.org/bil%6cing",
        "spiffe://example.org/bill ing",
        "spiffe://example.org/billing\n",
        "spiffe://example.org/billing\0",
        "spiffe://example.org/billing\0/other",
        f"spiffe://{'d' * 256}/x",
        LONGEST + "x",
    ],
)
def test_invalid_spiffe_ids(uri: str, issuer: Issued) -> None:
    assert spiffe_id(issuer, uri) is None


@pytest.mark.parametrize("uri", ["spiffe://example.org/größe", "spiffe://exämple.org/x"])
def test_spiffe_ids_are_ascii(uri: str, issuer: Issued) -> None:
    der = Certificate().signed_by(issuer).der
    assert spiffe_id_in({"subjectAltName": (("URI", uri),)}, der) is None


def spiffe_id(issuer: Issued, *uris: str, **options: Any) -> str | None:
    """Put URIs into a certificate, and decode it as OpenSSL does."""
    issued = Certificate(names=[NAME, *map(URI, uris)], **options).signed_by(issuer)
    certificate = {"subjectAltName": (("DNS", NAME), *(("URI", uri) for uri in uris))}
    return spiffe_id_in(certificate, issued.der)


@pytest.mark.parametrize("others", [[ID], ["https://example.org/"], ["spiffe://example.org/b"]])
def test_several_uris_are_no_spiffe_id(others: list[str], issuer: Issued) -> None:
    assert spiffe_id(issuer, ID, *others) is None
    assert spiffe_id(issuer) is None


@pytest.mark.parametrize(
    "extension",
    [
        x509.BasicConstraints(ca=True, path_length=None),
        key_usage("digital_signature", "key_cert_sign"),
        key_usage("digital_signature", "crl_sign"),
    ],
    ids=["CA", "keyCertSign", "cRLSign"],
)
def test_authority_has_no_spiffe_id(
    extension: x509.ExtensionType,
    ca: trustme.CA,
    server_cert: trustme.LeafCert,
    issuer: Issued,
) -> None:
    client = Certificate(names=[URI(ID)], extensions=[(extension, True)]).signed_by(issuer)
    info = server_sees(client, ca, server_cert)
    assert info.peer_names == (PeerName("URI", ID),)
    assert info.spiffe_id is None


def test_certificate_that_is_not_understood_has_no_spiffe_id() -> None:
    assert spiffe_id_in({"subjectAltName": (("URI", ID),)}, b"\x30\x00") is None


################################################################
# The certificate's parts
################################################################


def test_public_key_is_what_pins_are_made_of(
    ca: trustme.CA, server_cert: trustme.LeafCert, issuer: Issued
) -> None:
    client = Certificate().signed_by(issuer)
    info = server_sees(client, ca, server_cert)
    expected = client.certificate.public_key().public_bytes(
        Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    )
    assert info.peer_public_key == expected
    renewed = Certificate(key=client.key).signed_by(issuer)
    again = server_sees(renewed, ca, server_cert).peer_public_key
    assert again is not None
    assert hashlib.sha256(again).digest() == hashlib.sha256(expected).digest()


def test_parts_are_those_that_cryptography_finds(ca: trustme.CA, issuer: Issued) -> None:
    for issued in (
        issuer,
        Certificate(names=(), common_name=None).signed_by(issuer),
        Certificate(names=["a.example"] * 500).signed_by(issuer),  # lengths of several bytes
        Certificate(is_ca=True).signed_by(None),
    ):
        parts, certificate = CertificateParts.of(issued.der), issued.certificate
        assert parts.subject.encoded == certificate.subject.public_bytes()
        assert len(parts.extensions) == len(certificate.extensions)
        for ours, theirs in zip(parts.extensions, certificate.extensions, strict=True):
            assert dotted(ours.kind) == theirs.oid.dotted_string
            assert ours.value == theirs.value.public_bytes()
            assert ours.is_critical == theirs.critical


def test_each_cut_is_noticed(issuer: Issued) -> None:
    der = Certificate().signed_by(issuer).der
    for size in range(len(der)):
        with pytest.raises(ValueError):  # noqa: PT011
            CertificateParts.of(der[:size])


@pytest.mark.parametrize(
    "data",
    ["30", "3080", "30800000", "3f0100", "3081", "308201", "30ff", "0201ff0201"],
)
def test_malformed_values(data: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011
        elements(bytes.fromhex(data))


def test_changed_bytes_raise_nothing_else(issuer: Issued) -> None:
    der = Certificate(names=[URI(ID)]).signed_by(issuer).der
    decoded = {"subjectAltName": (("URI", ID),)}
    for position in range(len(der)):
        for value in (0, 0x30, 0x7F, 0x80, 0x84, 0xFF):
            changed = der[:position] + bytes([value]) + der[position + 1 :]
            assert spiffe_id_in(decoded, changed) in (None, ID)
