"""The extension `tls` of ASGI, made from a handshake."""

from __future__ import annotations

import ssl
from typing import Any

import attrs
import pytest
import trustme
from cryptography import x509
from cryptography.x509.name import _ASN1Type
from cryptography.x509.oid import NameOID

from tests.helpers import NAME
from trio_tlsbio import HandshakeInfo
from trio_tlsbio._core.certificate_der import elements
from trio_tlsbio._core.distinguished_names import rfc4514_string
from trio_tlsbio.asgi import tls_extension
from trio_tlsbio.testing import exchange, tls_connection_pair


def server_sees(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> HandshakeInfo:
    _, server = pair = tls_connection_pair(client_context, server_context, server_hostname=NAME)
    exchange(*pair)
    assert server.handshake is not None
    return server.handshake


@pytest.mark.parametrize(
    ("tls_version", "cipher", "number"),
    [
        (ssl.TLSVersion.TLSv1_3, None, 0x1302),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES128-GCM-SHA256", 0xC02B),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-CHACHA20-POLY1305", 0xCCA9),
        (ssl.TLSVersion.TLSv1_2, "ECDHE-ECDSA-AES256-CCM8", 0xC0AF),  # off by default
    ],
    ids=str,
)
def test_numbers(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    cipher: str | None,
    number: int,
) -> None:
    if cipher is not None:
        for context in client_context, server_context:
            context.set_ciphers(f"{cipher}:@SECLEVEL=0")
    extension = tls_extension(server_sees(client_context, server_context))
    assert extension == {
        "server_cert": None,
        "client_cert_chain": [],
        "client_cert_name": None,
        "client_cert_error": None,
        "tls_version": tls_version.value,
        "cipher_suite": number,
    }


def test_client_certificate_with_its_chain(
    ca: trustme.CA, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    leaf = ca.create_child_ca().issue_cert("alice@example.org", common_name="Alice, of A")
    leaf.configure_cert(client_context)
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    extension = tls_extension(server_sees(client_context, server_context), "the server's")
    assert extension["server_cert"] == "the server's"
    chain = [pem.bytes().decode() for pem in leaf.cert_chain_pems]
    assert [pem.strip() for pem in extension["client_cert_chain"]] == [pem.strip() for pem in chain]
    subject = x509.load_pem_x509_certificate(chain[0].encode()).subject
    assert extension["client_cert_name"] == subject.rfc4514_string()
    assert extension["client_cert_name"].startswith("CN=Alice\\, of A,")
    assert extension["client_cert_error"] is None


################################################################
# Distinguished names
################################################################


def written(name: x509.Name) -> str:
    (element,) = elements(name.public_bytes())
    return rfc4514_string(element)


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        " leading",
        "trailing ",
        "  both  ",
        "#hash",
        "not#here",
        'every "special", one: +;<=>\\',
        "größer ⚙ 🔒",
        "null\0",
        "\\ ",
    ],
)
def test_values_are_escaped(value: str) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, value)])
    assert written(name) == name.rfc4514_string()


def test_single_space() -> None:
    assert written(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, " ")])) == "CN=\\ "


def test_all_registered_attributes_last_first() -> None:
    kinds = [
        (NameOID.COUNTRY_NAME, "XX"),
        (NameOID.STATE_OR_PROVINCE_NAME, "state"),
        (NameOID.LOCALITY_NAME, "place"),
        (NameOID.STREET_ADDRESS, "street"),
        (NameOID.ORGANIZATION_NAME, "organization"),
        (NameOID.ORGANIZATIONAL_UNIT_NAME, "unit"),
        (NameOID.DOMAIN_COMPONENT, "example"),
        (NameOID.USER_ID, "user"),
        (NameOID.COMMON_NAME, "name"),
    ]
    name = x509.Name([x509.NameAttribute(kind, value) for kind, value in kinds])
    assert written(name) == name.rfc4514_string()
    assert written(name).endswith("O=organization,STREET=street,L=place,ST=state,C=XX")


def test_several_attributes_in_one_part() -> None:
    parts = [
        x509.NameAttribute(NameOID.COMMON_NAME, "a"),
        x509.NameAttribute(NameOID.USER_ID, "b"),
    ]
    name = x509.Name([x509.RelativeDistinguishedName(parts)])
    assert written(name) == name.rfc4514_string()


def test_no_attributes() -> None:
    assert written(x509.Name([])) == ""


def test_attributes_without_a_short_name_are_in_hexadecimal() -> None:
    # RFC 4514 section 2.4.
    name = x509.Name([x509.NameAttribute(NameOID.EMAIL_ADDRESS, "a@b")])
    assert written(name) == "1.2.840.113549.1.9.1=#1603614062"
    far = x509.NameAttribute(x509.ObjectIdentifier("2.999.3"), "x")
    assert written(x509.Name([far])) == "2.999.3=#0c0178"


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (_ASN1Type.BMPString, "größer"),
        (_ASN1Type.UniversalString, "⚙"),
        (_ASN1Type.T61String, "größer"),
        (_ASN1Type.IA5String, "plain"),
        (_ASN1Type.NumericString, "12"),
    ],
)
def test_string_types(kind: Any, value: str) -> None:
    encodings = {28: "utf-32-be", 30: "utf-16-be", 20: "latin-1"}
    content = value.encode(encodings.get(kind.value, "ascii"))
    attribute = b"\x06\x03\x55\x04\x03" + bytes([kind.value, len(content)]) + content
    rdn = bytes([0x30, len(attribute)]) + attribute
    name = bytes([0x31, len(rdn)]) + rdn
    (element,) = elements(bytes([0x30, len(name)]) + name)
    assert rfc4514_string(element) == f"CN={value}"


def test_value_that_is_no_text() -> None:
    (element,) = elements(bytes.fromhex("300c310a300806035504030c01ff"))
    assert rfc4514_string(element) == "CN=#0c01ff"


@pytest.mark.parametrize(
    "data",
    ["0500", "30020500", "3006310430020600", "300a3108300606005a0000ff"],
)
def test_malformed_names(data: str) -> None:
    (element,) = elements(bytes.fromhex(data))
    with pytest.raises(ValueError):  # noqa: PT011
        rfc4514_string(element)


def test_certificate_that_is_not_understood(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    info = server_sees(client_context, server_context)
    info = attrs.evolve(info, peer_certificate_chain=(b"\x30\x00",))
    assert tls_extension(info)["client_cert_name"] is None
