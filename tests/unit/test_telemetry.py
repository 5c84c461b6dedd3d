"""Attributes by OpenTelemetry's names."""

from __future__ import annotations

import hashlib
import shutil
import ssl
import subprocess

import pytest
import trio
import trustme
from cryptography import x509

from tests.certificates import Certificate, load_pem
from tests.helpers import NAME, client_context_for, shake_hands
from trio_tlsbio import HandshakeInfo, PeerAlertError, TLSConnection, TLSError
from trio_tlsbio._core.cipher_names import iana_name_of
from trio_tlsbio._net.telemetry import _distinguished_name
from trio_tlsbio.cli._certificates import facts_of
from trio_tlsbio.monitoring import (
    AcceptFailed,
    ConnectionAccepted,
    ConnectionClosed,
    HandshakeCompleted,
    HandshakeFailed,
    tls_attributes,
)

# The registry of OpenTelemetry's semantic conventions, as far as it is of use here.
REGISTERED = {
    "error.type",
    "server.address",
    "tls.cipher",
    "tls.curve",
    "tls.established",
    "tls.next_protocol",
    "tls.protocol.name",
    "tls.protocol.version",
    "tls.resumed",
    *(
        f"tls.{side}.{name}"
        for side in ("client", "server")
        for name in ("hash.sha256", "issuer", "not_after", "not_before", "subject")
    ),
}

openssl = shutil.which("openssl")


@pytest.mark.skipif(openssl is None, reason="there is no openssl")
def test_every_cipher_suite_has_the_name_that_openssl_knows() -> None:
    everything = "ALL:COMPLEMENTOFALL:@SECLEVEL=0"
    command = [str(openssl), "ciphers", "-V", "-stdname", everything]
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    lines = [line.split() for line in output.splitlines()]
    names = {line[4]: line[2] for line in lines}
    assert len(names) > 50
    assert {name: iana_name_of(name) for name in names} == names


def test_every_cipher_suite_of_this_python_has_a_name() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.set_ciphers("ALL:COMPLEMENTOFALL:@SECLEVEL=0")
    for cipher in context.get_ciphers():
        assert iana_name_of(cipher["name"]).startswith("TLS_")


def handshakes(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[HandshakeInfo, ...]:
    """The client's and the server's."""
    ours = TLSConnection(client, server_hostname=NAME)
    theirs = TLSConnection(server, server_side=True)
    shake_hands(ours, theirs)
    assert ours.handshake is not None
    assert theirs.handshake is not None
    return ours.handshake, theirs.handshake


def test_a_handshake(
    ca: trustme.CA, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    for context in (client_context, server_context):
        context.set_alpn_protocols(["h2"])
        context.set_ciphers("ECDHE+AESGCM")
    ca.issue_cert("client.example", organization_name="Clients, Inc.").configure_cert(
        client_context
    )
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    handshake, of_server = handshakes(client_context, server_context)
    of_client = tls_attributes(handshake)
    cipher = (
        "TLS_AES_256_GCM_SHA384"
        if handshake.version == "TLSv1.3"
        else "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384"
    )
    both = {
        "server.address": NAME,
        "tls.cipher": cipher,
        "tls.curve": handshake.group,
        "tls.established": True,
        "tls.next_protocol": "h2",
        "tls.protocol.name": "tls",
        "tls.protocol.version": handshake.version[-3:],
        "tls.resumed": False,
    }
    for attributes, info, side in (
        (of_client, handshake, "server"),
        (tls_attributes(of_server), of_server, "client"),
    ):
        certificate = x509.load_der_x509_certificate(info.peer_certificate_chain[0])
        digest = hashlib.sha256(info.peer_certificate_chain[0]).hexdigest().upper()
        expires = certificate.not_valid_after_utc.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        begins = certificate.not_valid_before_utc.strftime("%Y-%m-%dT%H:%M:%S.000Z")
        assert attributes.keys() <= REGISTERED
        assert attributes[f"tls.{side}.hash.sha256"] == digest
        assert attributes[f"tls.{side}.not_after"] == expires
        assert attributes[f"tls.{side}.not_before"] == begins
        assert "O=trustme" in str(attributes[f"tls.{side}.issuer"])
        assert {k: v for k, v in attributes.items() if f"tls.{side}" not in k} == both
    assert "O=Clients\\, Inc." in str(tls_attributes(of_server)["tls.client.subject"])


def test_only_what_is_known_is_there() -> None:
    leaf = Certificate(days=(-1, 400_000)).signed_by(None)
    server_context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    load_pem(server_context, leaf.key_pem, leaf.pem)
    client_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client_context.check_hostname = False
    client_context.verify_mode = ssl.CERT_NONE
    handshake, of_server = handshakes(client_context, server_context)
    assert {name for name in tls_attributes(handshake) if "tls.server" in name} == {
        "tls.server.hash.sha256",
        "tls.server.not_after",
    }
    assert "tls.next_protocol" not in tls_attributes(handshake)
    assert not any("tls.client" in name for name in tls_attributes(of_server))


def test_events(
    ca: trustme.CA, server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    _, handshake = handshakes(client_context_for(ca, tls_version), server_context)
    attributes = tls_attributes(handshake)
    assert tls_attributes(HandshakeCompleted("peer", handshake, 1.0)) == attributes
    assert tls_attributes(ConnectionClosed("peer", handshake, None, 1.0)) == attributes
    error = PeerAlertError("refused", alert="unknown_ca")
    assert tls_attributes(ConnectionClosed("peer", handshake, error, 1.0)) == {
        **attributes,
        "error.type": "alert_unknown_ca",
    }
    failed = {"tls.protocol.name": "tls", "tls.established": False, "error.type": "http_request"}
    plain = TLSError("no TLS", reason="HTTP_REQUEST")
    assert tls_attributes(HandshakeFailed("peer", plain, 1.0)) == failed
    assert tls_attributes(ConnectionClosed("peer", None, plain, 1.0)) == failed
    assert tls_attributes(HandshakeFailed("peer", trio.TooSlowError(), 1.0))["error.type"] == (
        "TooSlowError"
    )
    assert tls_attributes(ConnectionAccepted("peer")) == {}
    assert tls_attributes(AcceptFailed(OSError(24, "no descriptors"))) == {"error.type": "OSError"}


def test_distinguished_names() -> None:
    name = (
        (("domainComponent", "com"),),
        (("domainComponent", "example"),),
        (("organizationalUnitName", "A+B"), ("userId", " x")),
        (("serialNumber", "#1"), ("emailAddress", "a=b")),
        (("commonName", 'He said "no", twice; \\'),),
        (("title", None),),
    )
    parts = [
        "DC=com",
        "DC=example",
        r"OU=A\+B+UID=\ x",
        r"serialNumber=\#1+emailAddress=a=b",
        r"CN=He said \"no\"\, twice\; \\",
        "title=",
    ]
    assert _distinguished_name(name) == ", ".join(reversed(parts))
    facts = facts_of(b"", {"subject": name, "issuer": ()})
    assert (facts.subject, facts.issuer) == (", ".join(parts), "(empty)")
