"""A menu of bad certificates, as badssl.com has one, on both sides: what is said, and to whom."""

from __future__ import annotations

import functools
import ipaddress
import ssl
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.certificates import (
    CLIENT,
    RSA_MD5,
    RSA_SHA1,
    SERVER,
    Certificate,
    Issued,
    key_usage,
    load_revocation_list,
    names_of,
    rsa_key,
)
from tests.helpers import NAME, VERSIONS, failure, failures, shake_hands, tcp_pair
from tests.tables import Tables
from trio_tlsbio import (
    CertificateError,
    PeerAlertError,
    ReloadingContext,
    TLSConnection,
    TLSError,
    TLSStream,
)
from trio_tlsbio._words import VERIFY_CODES
from trio_tlsbio.testing import exchange

# As much as no handshake takes: were it sent, one would see it.
MUCH = bytes(100_000)

################################################################
# The menu
################################################################


@attrs.frozen(kw_only=True)
class Presented:
    """What one side presents, and what the other one knows and checks besides."""

    chain: Sequence[Issued]
    trusted: Sequence[Issued] | None = None
    """In place of the root."""
    lists: bytes | None = None
    """Revocation lists in PEM form, to be looked at for the first certificate."""
    flags: int = 0


@attrs.frozen
class Dish:
    """Something bad, and what is to become of it."""

    what: str
    verify_code: int
    alert: str
    make: Callable[[Issued], Presented]
    is_lax: bool
    """Whether it is accepted without strict verification."""
    is_strict: bool
    """Whether it is accepted with it: it comes with partial chains."""
    only: ssl.TLSVersion | None
    """The one version that can present it, if the other one can't."""


MENU: list[Dish] = []


def bad(
    what: str,
    verify_code: int,
    alert: str,
    *,
    is_lax: bool = False,
    is_strict: bool = False,
    only: ssl.TLSVersion | None = None,
) -> Callable[[Callable[[Issued], Presented]], Callable[[Issued], Presented]]:
    """Put it on the menu."""

    def add(make: Callable[[Issued], Presented]) -> Callable[[Issued], Presented]:
        MENU.append(Dish(what, verify_code, alert, make, is_lax, is_strict, only))
        return make

    return add


def authority(name: str = "authority", **what: Any) -> Certificate:
    return Certificate(is_ca=True, common_name=name, **what)


def issued_by(issuer: Issued) -> Presented:
    """A good certificate by an issuer that is not trusted itself."""
    return Presented(chain=[Certificate().signed_by(issuer), issuer])


@bad("It has expired", 10, "certificate_expired")
def _(root: Issued) -> Presented:
    return Presented(chain=[Certificate(days=(-9, -1)).signed_by(root)])


@bad("It is not valid yet", 9, "bad_certificate")
def _(root: Issued) -> Presented:
    return Presented(chain=[Certificate(days=(1, 9)).signed_by(root)])


@bad("An intermediate certificate has expired", 10, "certificate_expired")
def _(root: Issued) -> Presented:
    return issued_by(authority(days=(-9, -1)).signed_by(root))


@bad("The root has expired", 10, "certificate_expired")
def _(root: Issued) -> Presented:
    expired = authority(days=(-9, -1)).signed_by(None)
    return Presented(chain=[Certificate().signed_by(expired)], trusted=[expired])


@bad("Another root, which is not trusted", 20, "unknown_ca")
def _(root: Issued) -> Presented:
    return Presented(chain=[Certificate().signed_by(authority("another").signed_by(None))])


@bad("The same, and that root is sent too", 19, "unknown_ca")
def _(root: Issued) -> Presented:
    return issued_by(authority("another").signed_by(None))


@bad("It is self-signed", 18, "unknown_ca")
def _(root: Issued) -> Presented:
    return Presented(chain=[Certificate().signed_by(None)])


@bad("The intermediate certificate is not sent", 20, "unknown_ca")
def _(root: Issued) -> Presented:
    return Presented(chain=[Certificate().signed_by(authority().signed_by(root))])


@bad("Only an intermediate certificate is trusted", 2, "unknown_ca", is_strict=True)
def _(root: Issued) -> Presented:
    intermediate = authority().signed_by(root)
    return Presented(chain=[Certificate().signed_by(intermediate)], trusted=[intermediate])


@bad("Only the certificate itself is trusted", 20, "unknown_ca", is_strict=True)
def _(root: Issued) -> Presented:
    certificate = Certificate().signed_by(root)
    return Presented(chain=[certificate], trusted=[certificate])


@bad("Its signature is wrong", 7, "decrypt_error")
def _(root: Issued) -> Presented:
    certificate = Certificate().signed_by(root)
    body, _, signature = certificate.der.rpartition(b"\x03")
    forged = body + b"\x03" + signature[:-1] + bytes([signature[-1] ^ 1])
    return Presented(chain=[attrs.evolve(certificate, der=forged)])


@bad("Its issuer is no authority", 79, "unknown_ca")
def _(root: Issued) -> Presented:
    return issued_by(Certificate().signed_by(root))


@bad("Its issuer's key may not sign certificates", 79, "unknown_ca")
def _(root: Issued) -> Presented:
    usage = key_usage("digital_signature")
    return issued_by(authority(extensions=[(usage, True)]).signed_by(root))


@bad("Its issuer was not to have others below it (path length)", 25, "unknown_ca")
def _(root: Issued) -> Presented:
    last = authority("last", path_length=0).signed_by(root)
    return Presented(chain=[*issued_by(authority().signed_by(last)).chain, last])


@bad("More than a hundred certificates", 22, "unknown_ca")
def _(root: Issued) -> Presented:
    key = Certificate().key
    chain = [root]
    for number in range(102):
        chain.append(authority(f"authority {number}", key=key).signed_by(chain[-1]))
    return Presented(chain=[Certificate().signed_by(chain[-1]), *reversed(chain[1:])])


@bad("Its key may not sign (key usage)", 26, "unsupported_certificate", only=ssl.TLSVersion.TLSv1_3)
def _(root: Issued) -> Presented:
    return Presented(
        chain=[Certificate(extensions=[(key_usage("crl_sign"), True)]).signed_by(root)]
    )


@bad("It is for signing code (extended key usage)", 26, "unsupported_certificate")
def _(root: Issued) -> Presented:
    purpose = ExtendedKeyUsageOID.CODE_SIGNING
    return Presented(chain=[Certificate(purposes=[purpose]).signed_by(root)])


@bad("Its issuer is for signing code (extended key usage)", 26, "unsupported_certificate")
def _(root: Issued) -> Presented:
    purpose = ExtendedKeyUsageOID.CODE_SIGNING
    return issued_by(authority(purposes=[purpose]).signed_by(root))


@bad("An RSA key of 512 bits", 66, "bad_certificate", only=ssl.TLSVersion.TLSv1_2)
def _(root: Issued) -> Presented:
    return Presented(chain=[Certificate(key=rsa_key(512)).signed_by(root)])


@bad("An RSA key of 1024 bits", 66, "bad_certificate")
def _(root: Issued) -> Presented:
    return Presented(chain=[Certificate(key=rsa_key(1024)).signed_by(root)])


@bad("Its issuer has an RSA key of 1024 bits", 67, "bad_certificate")
def _(root: Issued) -> Presented:
    return issued_by(authority(key=rsa_key(1024)).signed_by(root))


def weakly_signed(algorithm: bytes) -> Presented:
    issuer = authority(key=rsa_key(2048)).signed_by(None)
    certificate = Certificate().signed_by(issuer).weakly_signed(issuer, algorithm)
    return Presented(chain=[certificate], trusted=[issuer])


@bad("It is signed with SHA-1", 68, "bad_certificate")
def _(root: Issued) -> Presented:
    return weakly_signed(RSA_SHA1)


@bad("It is signed with MD5", 68, "bad_certificate")
def _(root: Issued) -> Presented:
    return weakly_signed(RSA_MD5)


@bad("It was revoked", 23, "certificate_revoked")
def _(root: Issued) -> Presented:
    certificate = Certificate().signed_by(root)
    return Presented(chain=[certificate], lists=root.revokes(certificate))


@bad("An intermediate certificate was revoked", 23, "certificate_revoked")
def _(root: Issued) -> Presented:
    intermediate = authority().signed_by(root)
    return attrs.evolve(
        issued_by(intermediate),
        lists=root.revokes(intermediate) + intermediate.revokes(),
        flags=ssl.VERIFY_CRL_CHECK_CHAIN,
    )


@bad("There is no revocation list", 3, "unknown_ca")
def _(root: Issued) -> Presented:
    return Presented(chain=[Certificate().signed_by(root)], lists=b"")


@bad("There is no revocation list of an issuer further up", 3, "unknown_ca")
def _(root: Issued) -> Presented:
    intermediate = authority().signed_by(root)
    return attrs.evolve(
        issued_by(intermediate), lists=intermediate.revokes(), flags=ssl.VERIFY_CRL_CHECK_CHAIN
    )


@bad("The revocation list has expired", 12, "certificate_expired")
def _(root: Issued) -> Presented:
    certificate = Certificate().signed_by(root)
    return Presented(chain=[certificate], lists=root.revokes(days=(-9, -1)))


@bad("The revocation list is not valid yet", 11, "bad_certificate")
def _(root: Issued) -> Presented:
    certificate = Certificate().signed_by(root)
    return Presented(chain=[certificate], lists=root.revokes(days=(1, 9)))


@bad("The revocation list is not signed by the issuer", 8, "decrypt_error")
def _(root: Issued) -> Presented:
    certificate = Certificate().signed_by(root)
    return Presented(chain=[certificate], lists=root.revokes(by=certificate))


@bad("The issuer may not sign revocation lists", 35, "certificate_unknown")
def _(root: Issued) -> Presented:
    issuer = authority(extensions=[(key_usage("key_cert_sign"), True)]).signed_by(root)
    return attrs.evolve(issued_by(issuer), lists=issuer.revokes())


def constrained(
    *,
    permitted: Sequence[x509.GeneralName] | None = None,
    excluded: Sequence[x509.GeneralName] | None = None,
) -> Certificate:
    return authority(extensions=[(x509.NameConstraints(permitted, excluded), True)])


@bad("Its issuer may only certify other names", 47, "certificate_unknown")
def _(root: Issued) -> Presented:
    return issued_by(constrained(permitted=[x509.DNSName("other.example")]).signed_by(root))


@bad("Its issuer may not certify this name", 48, "certificate_unknown")
def _(root: Issued) -> Presented:
    return issued_by(constrained(excluded=[x509.DNSName(NAME)]).signed_by(root))


@bad("Its issuer may only certify other IP addresses", 47, "certificate_unknown")
def _(root: Issued) -> Presented:
    network = x509.IPAddress(ipaddress.ip_network("10.0.0.0/8"))
    issuer = constrained(permitted=[network]).signed_by(root)
    return Presented(chain=[Certificate(names=[NAME, "127.0.0.1"]).signed_by(issuer), issuer])


@bad("It has a critical extension that nobody knows", 34, "certificate_unknown")
def _(root: Issued) -> Presented:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    return Presented(chain=[Certificate(extensions=[(unknown, True)]).signed_by(root)])


@bad("It has no Authority Key Identifier", 85, "certificate_unknown", is_lax=True)
def _(root: Issued) -> Presented:
    return Presented(chain=[Certificate(without=[x509.AuthorityKeyIdentifier]).signed_by(root)])


@bad("Its issuer has no Authority Key Identifier", 85, "certificate_unknown", is_lax=True)
def _(root: Issued) -> Presented:
    return issued_by(authority(without=[x509.AuthorityKeyIdentifier]).signed_by(root))


@bad("Its issuer has no Subject Key Identifier", 86, "certificate_unknown", is_lax=True)
def _(root: Issued) -> Presented:
    return issued_by(authority(without=[x509.SubjectKeyIdentifier]).signed_by(root))


@bad("Its issuer has no key usage", 92, "certificate_unknown", is_lax=True)
def _(root: Issued) -> Presented:
    return issued_by(authority(without=[x509.KeyUsage]).signed_by(root))


@bad("Its issuer's Basic Constraints are not critical", 89, "certificate_unknown", is_lax=True)
def _(root: Issued) -> Presented:
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    return issued_by(authority(extensions=[(constraints, False)]).signed_by(root))


@bad("Its issuer has no name", 83, "certificate_unknown", is_lax=True)
def _(root: Issued) -> Presented:
    issuer = Certificate(is_ca=True, common_name=None).signed_by(root)
    return issued_by(issuer)


@bad("It has no subject, but names that are not critical", 88, "certificate_unknown", is_lax=True)
def _(root: Issued) -> Presented:
    odd = Certificate(common_name=None, extensions=[(names_of(NAME), False)])
    return Presented(chain=[odd.signed_by(root)])


@bad(
    "Its key may sign certificates, but it is no authority", 82, "certificate_unknown", is_lax=True
)
def _(root: Issued) -> Presented:
    usage = key_usage("key_cert_sign", "digital_signature")
    return Presented(chain=[Certificate(extensions=[(usage, True)]).signed_by(root)])


################################################################
# On both sides
################################################################

PARTIAL_AND_STRICT = ssl.VERIFY_X509_STRICT | ssl.VERIFY_X509_PARTIAL_CHAIN


@pytest.fixture(scope="module")
def root() -> Issued:
    return authority("root").signed_by(None)


@pytest.fixture(params=["lax", "strict"])
def verify_flags(request: pytest.FixtureRequest) -> ssl.VerifyFlags:
    """What create_default_context() has up to Python 3.12, and from 3.13 on."""
    return PARTIAL_AND_STRICT if request.param == "strict" else ssl.VerifyFlags(0)


@functools.cache
def present(dish: Dish, root: Issued) -> Presented:
    return dish.make(root)


def context_for(
    *, server_side: bool, version: ssl.TLSVersion, flags: int = 0, trusted: Sequence[Issued] = ()
) -> ssl.SSLContext:
    """A context that is the same with all versions of Python. It verifies if it trusts somebody."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER if server_side else ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = context.maximum_version = version
    context.verify_flags |= ssl.VerifyFlags(flags)
    for each in trusted:
        each.trusted_by(context)
    if server_side and trusted:
        context.verify_mode = ssl.CERT_REQUIRED
    return context


def accepting(context: ssl.SSLContext, presented: Presented) -> None:
    """Load the revocation lists, and have them looked at."""
    if presented.lists is not None:
        context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
        if presented.lists:
            load_revocation_list(context, presented.lists)
    context.verify_flags |= ssl.VerifyFlags(presented.flags)


def presenting(context: ssl.SSLContext, presented: Presented) -> None:
    """Load what no side with a sane security level could."""
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    presented.chain[0].load_into(context, *presented.chain[1:])


@attrs.frozen
class Pair:
    """The two sides, one of which presents something."""

    client: TLSConnection
    server: TLSConnection

    @classmethod
    def of(
        cls,
        presented: Presented,
        root: Issued,
        *,
        by_client: bool,
        version: ssl.TLSVersion,
        flags: int,
    ) -> Pair:
        trusted = [root] if presented.trusted is None else presented.trusted
        if by_client:
            # A client adds to its chain what it trusts, so that is to be somebody else.
            another = authority("another").signed_by(None)
            client = context_for(server_side=False, version=version, trusted=[another])
            server = context_for(server_side=True, version=version, flags=flags, trusted=trusted)
            Certificate().signed_by(another).load_into(server)
            presenting(client, presented)
            accepting(server, presented)
        else:
            client = context_for(server_side=False, version=version, flags=flags, trusted=trusted)
            server = context_for(server_side=True, version=version)
            presenting(server, presented)
            accepting(client, presented)
        return cls(
            TLSConnection(client, server_hostname=NAME), TLSConnection(server, server_side=True)
        )


def check_words(error: TLSError | None, verify_code: int) -> CertificateError:
    """See that an error has all its fields, and words of its own."""
    assert isinstance(error, CertificateError)
    assert error.verify_code == verify_code
    assert error.reason == "CERTIFICATE_VERIFY_FAILED"
    assert error.error_type == "certificate_verify_failed"
    assert str(error) == f"the peer's certificate was refused: {VERIFY_CODES[verify_code]}"
    cause = error.__cause__
    assert isinstance(cause, ssl.SSLCertVerificationError)
    assert cause.verify_code == verify_code
    return error


def serve(
    dish: Dish,
    root: Issued,
    *,
    by_client: bool,
    version: ssl.TLSVersion,
    flags: ssl.VerifyFlags,
) -> Pair | None:
    """Present a dish; None if all is said, as it is accepted or goes with another version."""
    pair = Pair.of(present(dish, root), root, by_client=by_client, version=version, flags=flags)
    if dish.is_strict if flags else dish.is_lax:
        shake_hands(pair.client, pair.server)
        return None
    if dish.only not in {None, version}:
        assert all(failures(pair.client, pair.server))
        return None
    return pair


@pytest.mark.parametrize("dish", MENU, ids=lambda dish: dish.what)
def test_the_client_refuses(
    dish: Dish, root: Issued, tls_version: ssl.TLSVersion, verify_flags: ssl.VerifyFlags
) -> None:
    pair = serve(dish, root, by_client=False, version=tls_version, flags=verify_flags)
    if pair is None:
        return
    pair.client.send(MUCH)
    sent, _ = exchange(pair.client, pair.server)
    assert sent < len(MUCH), "no data goes out"
    check_words(failure(pair.client), dish.verify_code)
    heard = failure(pair.server)
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == dish.alert
    with pytest.raises(PeerAlertError):
        pair.server.receive()
    with pytest.raises(CertificateError):
        pair.client.send(b"all the same")
    assert pair.client.session is None


@pytest.mark.parametrize("dish", MENU, ids=lambda dish: dish.what)
def test_the_server_refuses(
    dish: Dish, root: Issued, tls_version: ssl.TLSVersion, verify_flags: ssl.VerifyFlags
) -> None:
    pair = serve(dish, root, by_client=True, version=tls_version, flags=verify_flags)
    if pair is None:
        return
    pair.server.send(MUCH)
    pair.client.send(b"before it hears of it")
    _, sent = exchange(pair.client, pair.server)
    assert sent < len(MUCH), "no data goes out"
    check_words(failure(pair.server), dish.verify_code)
    with pytest.raises(CertificateError):
        pair.server.receive()  # nor comes in
    heard = failure(pair.client)
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == dish.alert
    with pytest.raises(PeerAlertError):
        pair.client.receive()


def test_the_menu_is_told(root: Issued, tables: Tables) -> None:
    for dish in MENU:
        pair = Pair.of(
            present(dish, root),
            root,
            by_client=False,
            version=dish.only or ssl.TLSVersion.TLSv1_3,
            flags=PARTIAL_AND_STRICT if dish.is_lax else 0,
        )
        tell(tables, dish.what, *failures(pair.client, pair.server))


def tell(tables: Tables, what: str, refusal: TLSError | None, heard: TLSError | None) -> None:
    assert isinstance(heard, PeerAlertError)
    tables.tell("certificates", what, str(refusal).replace("*", r"\*"), heard.alert)


def test_each_kind_of_refusal_is_on_the_menu() -> None:
    told = {dish.verify_code for dish in MENU}
    # Those that OpenSSL has from before, and what it does not get to: it refuses them earlier.
    assert VERIFY_CODES.keys() - told == {21, 24, 41, 80, 81, 84, 87, 90, 91, 93}


################################################################
# For servers, for clients
################################################################


def connections(client: ssl.SSLContext, server: ssl.SSLContext, hostname: str = NAME) -> Pair:
    return Pair(
        TLSConnection(client, server_hostname=hostname), TLSConnection(server, server_side=True)
    )


@pytest.mark.parametrize("of_client", [False, True], ids=["server", "client"])
def test_a_certificate_of_the_other_side(
    of_client: bool, root: Issued, tls_version: ssl.TLSVersion, tables: Tables
) -> None:
    wrong = Certificate(purposes=[SERVER if of_client else CLIENT]).signed_by(root)
    pair = Pair.of(
        Presented(chain=[wrong]), root, by_client=of_client, version=tls_version, flags=0
    )
    client_error, server_error = failures(pair.client, pair.server)
    refusal, heard = (server_error, client_error) if of_client else (client_error, server_error)
    assert isinstance(refusal, CertificateError)
    check_words(refusal, 26)
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == "unsupported_certificate"
    if tls_version is ssl.TLSVersion.TLSv1_3:
        what = "A client presents a server's" if of_client else "A server presents a client's"
        tell(tables, what, refusal, heard)
    # And the right one is accepted.
    right = Certificate(purposes=[CLIENT if of_client else SERVER]).signed_by(root)
    pair = Pair.of(
        Presented(chain=[right]), root, by_client=of_client, version=tls_version, flags=0
    )
    shake_hands(pair.client, pair.server)


def test_no_client_certificate(root: Issued, tls_version: ssl.TLSVersion, tables: Tables) -> None:
    client = context_for(server_side=False, version=tls_version, trusted=[root])
    server = context_for(server_side=True, version=tls_version, trusted=[root])
    Certificate().signed_by(root).load_into(server)
    pair = connections(client, server)
    pair.client.send(b"before it hears of it")
    heard, refusal = failures(pair.client, pair.server)
    assert isinstance(refusal, TLSError)
    assert str(refusal) == "the peer sent no client certificate, and one is required"
    assert refusal.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"
    with pytest.raises(TLSError, match="no client certificate"):
        pair.server.receive()
    assert isinstance(heard, PeerAlertError)
    is_new = tls_version is ssl.TLSVersion.TLSv1_3
    assert heard.alert == ("certificate_required" if is_new else "handshake_failure")
    assert "client certificate" in str(heard)
    version = "TLS 1.3" if is_new else "TLS 1.2"
    tell(tables, f"A client presents none, and has to ({version})", refusal, heard)


@pytest.mark.parametrize(
    "key",
    [
        lambda: dsa.generate_private_key(1024),
        lambda: ec.generate_private_key(ec.SECP192R1()),
    ],
    ids=["DSA", "P-192"],
)
def test_a_key_that_goes_with_no_version(
    key: Callable[[], object], root: Issued, tls_version: ssl.TLSVersion
) -> None:
    """The server can't use it, and tells both sides so."""
    presented = Presented(chain=[Certificate(key=key()).signed_by(root)])
    pair = Pair.of(presented, root, by_client=False, version=tls_version, flags=0)
    heard, error = failures(pair.client, pair.server)
    is_new = tls_version is ssl.TLSVersion.TLSv1_3
    assert error is not None
    assert error.reason == ("UNSUPPORTED_PROTOCOL" if is_new else "NO_SHARED_CIPHER")
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == ("protocol_version" if is_new else "handshake_failure")


################################################################
# Names
################################################################

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


def named(
    certificate: Certificate, hostname: str, root: Issued, version: ssl.TLSVersion, flags: int = 0
) -> Pair:
    client = context_for(server_side=False, version=version, flags=flags, trusted=[root])
    server = context_for(server_side=True, version=version)
    certificate.signed_by(root).load_into(server)
    return connections(client, server, hostname)


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
    ("*.a.example", "a.example"): "A wildcard, and no label in its place",
    ("*.a.example", "x.y.a.example"): "A wildcard, and two labels in its place",
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


################################################################
# What is odd, but not bad
################################################################


@pytest.mark.parametrize("odd", ["order", "others", "root", "twice", "long"])
def test_an_odd_chain_is_accepted(
    odd: str, root: Issued, tls_version: ssl.TLSVersion, verify_flags: ssl.VerifyFlags
) -> None:
    key = Certificate().key
    chain = [root]
    for number in range(99 if odd == "long" else 2):
        chain.append(authority(f"authority {number}", key=key).signed_by(chain[-1]))
    others = [authority(f"other {number}").signed_by(None) for number in range(2)]
    sent = {
        "order": chain[1:],
        "others": [others[0], *reversed(chain[1:]), others[1]],
        "root": [*reversed(chain)],
        "twice": [*reversed(chain[1:])] * 2,
        "long": [*reversed(chain[1:])],
    }[odd]
    certificate = Certificate().signed_by(chain[-1])
    pair = Pair.of(
        Presented(chain=[certificate, *sent]),
        root,
        by_client=False,
        version=tls_version,
        flags=verify_flags,
    )
    shake_hands(pair.client, pair.server)
    assert pair.client.handshake is not None
    assert pair.client.handshake.peer_certificate_chain == tuple(
        each.der for each in (certificate, *sent)
    )


def test_what_is_not_critical_may_be_unknown(root: Issued, tls_version: ssl.TLSVersion) -> None:
    unknown = x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"\x05\x00")
    pair = named(Certificate(extensions=[(unknown, False)]), NAME, root, tls_version)
    shake_hands(pair.client, pair.server)


def test_a_list_that_revokes_others(root: Issued, tls_version: ssl.TLSVersion) -> None:
    lists = root.revokes(Certificate().signed_by(root))
    presented = Presented(chain=[Certificate().signed_by(root)], lists=lists)
    for by_client in (False, True):
        pair = Pair.of(presented, root, by_client=by_client, version=tls_version, flags=0)
        shake_hands(pair.client, pair.server)


@pytest.mark.parametrize("level", [0, 1, 2])
@pytest.mark.parametrize("algorithm", [RSA_SHA1, RSA_MD5], ids=["SHA-1", "MD5"])
def test_which_security_level_refuses_a_weak_hash(
    algorithm: bytes, level: int, root: Issued, tls_version: ssl.TLSVersion
) -> None:
    presented = weakly_signed(algorithm)
    assert presented.trusted is not None
    client = context_for(server_side=False, version=tls_version, trusted=presented.trusted)
    client.set_ciphers(f"DEFAULT:@SECLEVEL={level}")
    server = context_for(server_side=True, version=tls_version)
    presenting(server, presented)
    pair = connections(client, server)
    if level == 0:
        shake_hands(pair.client, pair.server)
    else:
        error, _ = failures(pair.client, pair.server)
        check_words(error, 68)


################################################################
# What can't be read
################################################################


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


################################################################
# Over a network
################################################################


@pytest.mark.parametrize("by_client", [False, True], ids=["server", "client"])
async def test_streams(by_client: bool, root: Issued, tls_version: ssl.TLSVersion) -> None:
    presented = Presented(chain=[Certificate(days=(-9, -1)).signed_by(root)])
    client_context = context_for(server_side=False, version=tls_version, trusted=[root])
    server_context = context_for(
        server_side=True, version=tls_version, trusted=[root] if by_client else []
    )
    if by_client:
        presenting(client_context, presented)
        Certificate().signed_by(root).load_into(server_context)
    else:
        presenting(server_context, presented)
    errors: dict[str, TLSError] = {}

    async def use(side: str, stream: TLSStream[Any]) -> None:
        try:
            await stream.send_all(b"data")
            await stream.receive_some()
        except TLSError as exc:
            errors[side] = exc

    with trio.fail_after(10):
        async with tcp_pair() as (client, server), trio.open_nursery() as nursery:
            nursery.start_soon(
                use, "client", TLSStream(client, client_context, server_hostname=NAME)
            )
            nursery.start_soon(use, "server", TLSStream(server, server_context, server_side=True))
    refusal, heard = errors["client"], errors["server"]
    if by_client:
        refusal, heard = heard, refusal
    check_words(refusal, 10)
    assert isinstance(heard, PeerAlertError)
    assert heard.alert == "certificate_expired"


################################################################
# Contexts
################################################################


def test_a_key_of_another_certificate(root: Issued) -> None:
    certificate = Certificate().signed_by(root)
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        attrs.evolve(certificate, key=Certificate().key).load_into(
            context_for(server_side=True, version=VERSIONS["tls13"])
        )


@pytest.mark.parametrize("what", ["another key", "a weak key", "no PEM"])
def test_a_reload_says_what_is_wrong(
    what: str, root: Issued, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "server.pem"
    good = Certificate().signed_by(root)
    weak = Certificate(key=rsa_key(1024)).signed_by(root)
    path.write_bytes(good.key_pem + good.pem)

    def make_context() -> ssl.SSLContext:
        context = context_for(server_side=True, version=VERSIONS["tls13"])
        context.load_cert_chain(path)
        return context

    provider = ReloadingContext(make_context)
    before = provider()
    content, words = {
        "another key": (
            Certificate().signed_by(root).key_pem + good.pem,
            "the private key belongs to another certificate",
        ),
        "a weak key": (
            weak.key_pem + weak.pem,
            "the certificate's key, or that of an issuer, is too weak",
        ),
        "no PEM": (b"nothing", "a file holds no certificate"),
    }[what]
    path.write_bytes(content)
    assert not provider.reload()
    assert provider() is before
    assert words in caplog.text
