"""Names: which fit a certificate's, and what is said of those that don't."""

from __future__ import annotations

import ssl

import pytest
from cryptography import x509

from tests.certificates import Certificate, Issued
from tests.helpers import NAME, failure, failures, shake_hands
from tests.stream.bad_certificates.sides import MUCH, Pair, connections, context_for, named, tell
from tests.tables import Tables
from trio_tlsbio import CertificateError, PeerAlertError
from trio_tlsbio.testing import exchange

ANYTHING = "anything.example"

ACCEPTED = [
    # In the certificate, what is connected to.
    ("a.example", "a.example"),
    ("a.example", "A.Example"),
    ("A.EXAMPLE", "a.example"),
    ("a.example", "a.example."),
    ("*.a.example", "x.a.example"),
    ("*.A.example", "X.a.example"),
    ("*.xn--bcher-kva.example", "x.bücher.example"),
    ("xn--bcher-kva.example", "bücher.example"),
    ("XN--BCHER-KVA.example", "bücher.example"),
    ("*.a.example", "xn--bcher-kva.a.example"),
    ("_service.a.example", "_service.a.example"),
    ("127.0.0.1", "127.0.0.1"),
    ("::1", "::1"),
    ("2001:db8::a", "2001:0DB8:0:0::A"),
]

REFUSED = [
    # In the certificate, what is connected to, and what is told of the certificate's names.
    ("b.example", "a.example", None),
    ("a.example", "x.a.example", None),
    ("x.a.example", "a.example", None),
    ("*.a.example", "a.example", None),
    ("*.a.example", "x.y.a.example", None),
    ("*.*.a.example", "x.y.a.example", None),
    ("x.*.a.example", "x.y.a.example", None),
    ("*.example", "a.example", None),
    ("*", "a.example", None),
    ("*", "example", None),
    ("*.", "example", None),
    ("f*.a.example", "foo.a.example", None),
    ("*o.a.example", "foo.a.example", None),
    ("f*o.a.example", "foo.a.example", None),
    ("xn--*.a.example", "xn--bcher-kva.a.example", None),
    ("*.xn--bcher-kva.example", "bücher.example", None),
    (".a.example", "x.a.example", None),
    ("a.example.", "a.example", None),
    ("a.example ", "a.example", None),
    ("a.example\0.evil.example", "a.example", "a.example\\x00.evil.example"),
    ("evil.example\0a.example", "a.example", "evil.example\\x00a.example"),
    ("\x1b[2J\r\nok.example", "a.example", "\\x1b[2J\\r\\nok.example"),
    ("127.0.0.2", "127.0.0.1", None),
    ("::2", "::1", None),
    ("127.0.0.1", "localhost", None),
    ("localhost", "127.0.0.1", None),
    ("127.0.0.1", "::ffff:127.0.0.1", None),
]


def refuses_name(pair: Pair, names: str | None, hostname: str) -> CertificateError:
    """See that the client refuses a name, and says which it is."""
    pair.client.send(MUCH)
    sent, _ = exchange(pair.client, pair.server)
    assert sent < len(MUCH)
    error = failure(pair.client)
    assert isinstance(error, CertificateError)
    assert error.verify_code in {62, 64}
    ours = pair.client.ssl_object.server_hostname
    assert str(error) == (
        f"the certificate is not valid for {ours}"
        if names is None
        else f"the certificate is for {names}, not {ours}"
    )
    assert isinstance(error.__cause__, ssl.SSLCertVerificationError)
    heard = failure(pair.server)
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == "bad_certificate"
    return error


@pytest.mark.parametrize(("name", "hostname"), ACCEPTED, ids=ascii)
def test_a_name_that_fits(
    name: str,
    hostname: str,
    root: Issued,
    tls_version: ssl.TLSVersion,
    verify_flags: ssl.VerifyFlags,
) -> None:
    certificate = Certificate(names=[ANYTHING, name])
    pair = named(certificate, hostname, root, tls_version, verify_flags)
    shake_hands(pair.client, pair.server)
    assert pair.client.handshake is not None
    assert pair.client.handshake.matched_name == name, "it is told which"


@pytest.mark.parametrize(("name", "hostname", "told"), REFUSED, ids=ascii)
def test_a_name_that_does_not_fit(
    name: str,
    hostname: str,
    told: str | None,
    root: Issued,
    tls_version: ssl.TLSVersion,
    verify_flags: ssl.VerifyFlags,
    tables: Tables,
) -> None:
    certificate = Certificate(names=[ANYTHING, name])
    pair = named(certificate, hostname, root, tls_version, verify_flags)
    refuses_name(pair, f"{ANYTHING}, {told or name}", hostname)
    what = FOR_THE_TABLE.get((name, hostname))
    if what is not None and tls_version is ssl.TLSVersion.TLSv1_3 and not verify_flags:
        pair = named(Certificate(names=[name]), hostname, root, tls_version)
        tell(tables, what, *failures(pair.client, pair.server))


FOR_THE_TABLE = {
    ("b.example", "a.example"): "It is for another name",
    ("*.a.example", "a.example"): "A wildcard; the name has no label in its place",
    ("*.a.example", "x.y.a.example"): "A wildcard; the name has two labels in its place",
    ("127.0.0.2", "127.0.0.1"): "It is for another IP address",
}


@pytest.mark.parametrize(
    ("name", "hostname"),
    [
        (x509.DNSName("127.0.0.1"), "127.0.0.1"),
        (x509.DNSName("::1"), "::1"),
        (x509.DNSName("*.0.0.1"), "127.0.0.1"),
        (x509.UniformResourceIdentifier("https://a.example"), "a.example"),
        (x509.RFC822Name("x@a.example"), "a.example"),
        (x509.DirectoryName(x509.Name([])), "a.example"),
    ],
    ids=ascii,
)
def test_a_name_of_another_kind(
    name: x509.GeneralName, hostname: str, root: Issued, tls_version: ssl.TLSVersion
) -> None:
    pair = named(Certificate(names=[name]), hostname, root, tls_version)
    told = name.value if isinstance(name, x509.DNSName) else None
    refuses_name(pair, told, hostname)


def test_a_common_name_alone(root: Issued, tls_version: ssl.TLSVersion) -> None:
    """Python looks at it unless it is told not to, as long as there is no other name."""
    lonely = Certificate(names=[], common_name=NAME)
    pair = named(lonely, NAME, root, tls_version)
    shake_hands(pair.client, pair.server)
    client = context_for(server_side=False, version=tls_version, trusted=[root])
    client.hostname_checks_common_name = False
    server = context_for(server_side=True, version=tls_version)
    lonely.signed_by(root).load_into(server)
    refuses_name(connections(client, server), None, NAME)
    with_another = Certificate(names=["other.example"], common_name=NAME)
    refuses_name(named(with_another, NAME, root, tls_version), "other.example", NAME)
    for hostname in ("127.0.0.1", "::1"):
        as_address = Certificate(names=[], common_name=hostname)
        refuses_name(named(as_address, hostname, root, tls_version), None, hostname)


def test_many_names(root: Issued, tls_version: ssl.TLSVersion) -> None:
    names = [f"{number}.example" for number in range(1000)]
    told = "0.example, 1.example, 2.example, 3.example, 4.example, ..."
    refuses_name(named(Certificate(names=names), NAME, root, tls_version), told, NAME)
