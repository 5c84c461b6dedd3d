"""A menu of bad certificates, as badssl.com has one."""

from __future__ import annotations

import ipaddress
import ssl
from collections.abc import Callable, Sequence
from typing import Any

import attrs
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from tests.certificates import RSA_MD5, RSA_SHA1, Certificate, Issued, key_usage, names_of, rsa_key
from tests.helpers import NAME


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
    forged = certificate.der[:-1] + bytes([certificate.der[-1] ^ 1])  # the signature is last
    return Presented(chain=[attrs.evolve(certificate, der=forged)])


@bad("Its issuer is not an authority", 79, "unknown_ca")
def _(root: Issued) -> Presented:
    return issued_by(Certificate().signed_by(root))


@bad("Its issuer's key may not sign certificates", 79, "unknown_ca")
def _(root: Issued) -> Presented:
    usage = key_usage("digital_signature")
    return issued_by(authority(extensions=[(usage, True)]).signed_by(root))


@bad("Its issuer may not have other issuers below it (path length)", 25, "unknown_ca")
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


@bad("It has an unknown critical extension", 34, "certificate_unknown")
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


@bad(
    "It has no subject, and a subjectAltName that is not critical",
    88,
    "certificate_unknown",
    is_lax=True,
)
def _(root: Issued) -> Presented:
    odd = Certificate(common_name=None, extensions=[(names_of(NAME), False)])
    return Presented(chain=[odd.signed_by(root)])


@bad(
    "Its key may sign certificates, but it is not an authority",
    82,
    "certificate_unknown",
    is_lax=True,
)
def _(root: Issued) -> Presented:
    usage = key_usage("key_cert_sign", "digital_signature")
    return Presented(chain=[Certificate(extensions=[(usage, True)]).signed_by(root)])
