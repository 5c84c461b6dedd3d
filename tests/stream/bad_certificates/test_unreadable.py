"""Certificates that OpenSSL, or Python, can't read."""

from __future__ import annotations

import ssl

import pytest
import trustme
from cryptography import x509

from tests.certificates import Certificate, Issued
from tests.helpers import (
    NAME,
    client_context_for,
    failure,
    failures,
    server_context_for,
    shake_hands,
)
from tests.stream.bad_certificates.menu import Presented
from tests.stream.bad_certificates.sides import Pair, named, tell
from tests.tables import Tables
from trio_tlsbio import CertificateError, PeerAlertError, TLSConnection


def test_a_chain_that_is_too_long_to_be_read(
    root: Issued, tls_version: ssl.TLSVersion, tables: Tables
) -> None:
    blob = b"\x04\x83" + (1 << 17).to_bytes(3) + bytes(1 << 17)
    fat = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), blob)
    pair = named(Certificate(extensions=[(fat, False)]), NAME, root, tls_version)
    error, heard = failures(pair.client, pair.server)
    assert error is not None
    assert error.reason == "EXCESSIVE_MESSAGE_SIZE"
    assert "longer than OpenSSL allows (100 KiB for its certificates)" in str(error)
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == "illegal_parameter"
    if tls_version is ssl.TLSVersion.TLSv1_3:
        tell(tables, "It is longer than 100 KiB", error, heard)


@pytest.mark.parametrize("by_client", [False, True], ids=["server", "client"])
@pytest.mark.parametrize("damage", ["nothing", "zeros", "tag", "length", "curve"])
def test_a_damaged_certificate(damage: str, by_client: bool, root: Issued, tables: Tables) -> None:
    """In TLS 1.2 certificates go in plaintext, so that anybody can damage them."""
    presented = Presented(chain=[Certificate().signed_by(root)])
    der = presented.chain[0].der
    curve = bytes.fromhex("06082a8648ce3d030107")
    damaged = {
        "nothing": der,
        "zeros": bytes(len(der)),
        "tag": b"\x31" + der[1:],
        "length": der[:2] + b"\xff" + der[3:],
        "curve": der.replace(curve, curve[:-1] + b"\x99"),
    }[damage]
    pair = Pair.of(presented, root, by_client=by_client, version=ssl.TLSVersion.TLSv1_2, flags=0)
    source, target = (pair.client, pair.server) if by_client else (pair.server, pair.client)
    for _ in range(2):
        for one, other in ((pair.client, pair.server), (pair.server, pair.client)):
            failure(one)
            other.feed(one.data_to_send().replace(der, damaged))
    refusal, heard = failure(target), failure(source)
    if damage == "nothing":
        shake_hands(pair.client, pair.server)
        return
    assert refusal is not None
    assert refusal.reason == "ASN1_LIB"
    assert "can't be read" in str(refusal)
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == ("decode_error" if by_client else "bad_certificate")


def with_names(names: bytes, ca: trustme.CA) -> Issued:
    """Issue a certificate whose subjectAltName makes no sense."""
    extension = x509.UnrecognizedExtension(
        x509.SubjectAlternativeName.oid, b"\x30" + bytes([len(names)]) + names
    )
    return Certificate(extensions=[(extension, False)]).signed_by(Issued.of(ca))


@pytest.mark.parametrize(
    "subject_alt_name",
    [b"\x82\x03\xff\xfea", b"\x81\x03\xff@a", b"\x87\x03abc"],
    ids=["DNS", "email", "IP"],
)
def test_a_certificate_that_python_can_not_decode(
    ca: trustme.CA, server_cert: trustme.LeafCert, subject_alt_name: bytes
) -> None:
    odd = with_names(subject_alt_name, ca)
    # OpenSSL accepts it from a client.
    client_context = client_context_for(ca)
    odd.load_into(client_context)
    server_context = server_context_for(server_cert)
    server_context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(server_context)
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    assert server.handshake is not None
    assert server.handshake.peer_certificate_chain
    # It is not for any name, so a client refuses it.
    odd_server_context = server_context_for(server_cert)
    odd.load_into(odd_server_context)
    client_error, server_error = failures(
        TLSConnection(client_context_for(ca), server_hostname=NAME),
        TLSConnection(odd_server_context, server_side=True),
    )
    assert isinstance(client_error, CertificateError)
    assert isinstance(server_error, PeerAlertError)


def test_a_certificate_whose_subject_is_no_text(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    """OpenSSL verifies it, and getpeercert() raises an SSLError that has nothing to do with TLS."""
    text, no_text = b"\x0c\x03odd", b"\x30\x03\x0c\x01o"  # a SEQUENCE of one
    issuer = Issued.of(ca)
    odd = Certificate(common_name="odd").signed_by(issuer).changed(text, no_text, issuer)

    client_context = client_context_for(ca)
    odd.load_into(client_context)
    server_context = server_context_for(server_cert)
    server_context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(server_context)
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    assert server.handshake is not None
    assert server.handshake.peer_certificate == {}
    assert server.handshake.peer_certificate_chain[0] == odd.der
