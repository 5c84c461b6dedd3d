"""Certificates as odd as one likes, made from a description of what is in them."""

from __future__ import annotations

import ipaddress
import itertools
import ssl
import tempfile
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from .helpers import NAME

SERVER = ExtendedKeyUsageOID.SERVER_AUTH
CLIENT = ExtendedKeyUsageOID.CLIENT_AUTH

_KEY_USAGES = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
    "encipher_only",
    "decipher_only",
)
_serial_numbers = itertools.count(1000)


def key_usage(*names: str) -> x509.KeyUsage:
    """The extension that allows a key these uses and no others."""
    return x509.KeyUsage(**{name: name in names for name in _KEY_USAGES})


def names_of(*names: str | x509.GeneralName) -> x509.SubjectAlternativeName:
    """The extension with these names; a string is an IP address if it looks like one."""

    def general(name: str | x509.GeneralName) -> x509.GeneralName:
        if not isinstance(name, str):
            return name
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    return x509.SubjectAlternativeName(map(general, names))


def _new_key() -> Any:
    return ec.generate_private_key(ec.SECP256R1())


def rsa_key(bits: int) -> Any:
    """An RSA key. One of 512 bits, which nobody makes any more, is always the same."""
    if bits != 512:
        return rsa.generate_private_key(65537, bits)
    p = 0xE5E5332B48E81C0D2A5C663C102E429A45985B660FCA220A3F1622004FC41F15
    q = 0xC7E712789F35A00650CAAE960AF3DBB18E463CAA0916AA3AE5CD1B01ED7E9873
    d = pow(65537, -1, (p - 1) * (q - 1))
    public = rsa.RSAPublicNumbers(65537, p * q)
    numbers = rsa.RSAPrivateNumbers(
        p, q, d, d % (p - 1), d % (q - 1), rsa.rsa_crt_iqmp(p, q), public
    )
    return numbers.private_key()


@attrs.frozen(kw_only=True, eq=False)
class Certificate:
    """What a certificate is to say. With nothing said it is a good one for a server, NAME."""

    names: Sequence[str | x509.GeneralName] = (NAME,)
    """Nothing stands for no subjectAltName at all."""
    common_name: str | None = "odd"
    days: tuple[float, float] = (-10, 10)
    """When it begins and ends to be valid, in days from now."""
    is_ca: bool = False
    path_length: int | None = None
    purposes: Sequence[x509.ObjectIdentifier] = ()
    """The extended key usages; nothing stands for all."""
    extensions: Sequence[tuple[x509.ExtensionType, bool]] = ()
    """More, each of them critical or not. One takes the place of what would be there."""
    without: Collection[type[x509.ExtensionType]] = ()
    """Extensions to leave out."""
    key: Any = attrs.field(factory=_new_key, repr=False)

    def extensions_for(self, issuer_key: Any) -> list[tuple[x509.ExtensionType, bool]]:
        """All extensions: those that each certificate should have, and what makes this one odd."""
        usual: list[tuple[x509.ExtensionType, bool]] = [
            (x509.BasicConstraints(ca=self.is_ca, path_length=self.path_length), True),
            (x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), False),
            (x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), False),
        ]
        if self.is_ca:
            usual.append((key_usage("key_cert_sign", "crl_sign", "digital_signature"), True))
        elif self.names:
            usual.append((names_of(*self.names), self.common_name is None))
        if self.purposes:
            usual.append((x509.ExtendedKeyUsage(self.purposes), False))
        replaced = {extension.oid for extension, _ in self.extensions}
        return [
            (extension, critical)
            for extension, critical in [*usual, *self.extensions]
            if not isinstance(extension, tuple(self.without))
            and (extension.oid not in replaced or (extension, critical) in self.extensions)
        ]

    def signed_by(self, issuer: Issued | None) -> Issued:
        """Make it. Without an issuer it is self-signed."""
        subject = [] if self.common_name is None else [self.common_name]
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, each) for each in subject])
        issuer_key = self.key if issuer is None else issuer.key
        now = datetime.now(UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name if issuer is None else issuer.certificate.subject)
            .public_key(self.key.public_key())
            .serial_number(next(_serial_numbers))
            .not_valid_before(now + timedelta(self.days[0]))
            .not_valid_after(now + timedelta(self.days[1]))
        )
        for extension, critical in self.extensions_for(issuer_key):
            builder = builder.add_extension(extension, critical)
        certificate = builder.sign(issuer_key, hashes.SHA256())
        return Issued(certificate.public_bytes(serialization.Encoding.DER), self.key)


# What cryptography does not sign certificates by, or not such ones: algorithm identifiers in DER.
RSA_MD5 = bytes.fromhex("300d06092a864886f70d0101040500")
RSA_SHA1 = bytes.fromhex("300d06092a864886f70d0101050500")
RSA_SHA256 = bytes.fromhex("300d06092a864886f70d01010b0500")
_ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
_SIGNATURES: dict[bytes, Callable[[Any, bytes], bytes]] = {
    RSA_MD5: lambda key, data: key.sign(data, padding.PKCS1v15(), hashes.MD5()),
    RSA_SHA1: lambda key, data: key.sign(data, padding.PKCS1v15(), hashes.SHA1()),
    RSA_SHA256: lambda key, data: key.sign(data, padding.PKCS1v15(), hashes.SHA256()),
    _ECDSA_SHA256: lambda key, data: key.sign(data, ec.ECDSA(hashes.SHA256())),
}


def _der(tag: int, *content: bytes) -> bytes:
    body = b"".join(content)
    size = len(body)
    return bytes([tag]) + (bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2)) + body


@attrs.frozen(eq=False)
class Issued:
    """A certificate that was made, and its private key."""

    der: bytes
    key: Any = attrs.field(repr=False)

    @classmethod
    def of(cls, ca: trustme.CA) -> Issued:
        """One of trustme's authorities."""
        key = serialization.load_pem_private_key(ca.private_key_pem.bytes(), None)
        return cls(ssl.PEM_cert_to_DER_cert(ca.cert_pem.bytes().decode()), key)

    @property
    def certificate(self) -> x509.Certificate:
        """What is in it."""
        return x509.load_der_x509_certificate(self.der)

    @property
    def pem(self) -> bytes:
        """The certificate in PEM form."""
        return ssl.DER_cert_to_PEM_cert(self.der).encode()

    @property
    def key_pem(self) -> bytes:
        """The private key in PEM form."""
        pem: bytes = self.key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.TraditionalOpenSSL,
            serialization.NoEncryption(),
        )
        return pem

    def changed(self, old: bytes, new: bytes, issuer: Issued) -> Issued:
        """Put other bytes into it, as many as before, and let the issuer sign that."""
        signed = self.certificate.tbs_certificate_bytes
        assert len(old) == len(new)
        assert signed.count(old) == 1
        signed = signed.replace(old, new)
        algorithm, signature = next(
            (algorithm, sign(issuer.key, signed))
            for algorithm, sign in _SIGNATURES.items()
            if algorithm in signed
        )
        return Issued(_der(0x30, signed, algorithm, _der(0x03, b"\0", signature)), self.key)

    def weakly_signed(self, issuer: Issued, algorithm: bytes) -> Issued:
        """Let the issuer, whose key is RSA, sign it again by another algorithm."""
        return self.changed(RSA_SHA256, algorithm, issuer)

    def load_into(self, context: ssl.SSLContext, *others: Issued) -> None:
        """Make a context present it, and others after it."""
        load_pem(context, self.key_pem, self.pem, *(other.pem for other in others))

    def trusted_by(self, context: ssl.SSLContext) -> None:
        """Make a context trust it."""
        context.load_verify_locations(cadata=self.pem.decode())

    def revokes(
        self, *revoked: Issued, days: tuple[float, float] = (-5, 5), by: Issued | None = None
    ) -> bytes:
        """Make the revocation list of this authority, in PEM form, signed by itself or not."""
        now = datetime.now(UTC)
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self.certificate.subject)
            .last_update(now + timedelta(days[0]))
            .next_update(now + timedelta(days[1]))
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key()), False
            )
            .add_extension(x509.CRLNumber(1), critical=False)
        )
        for each in revoked:
            builder = builder.add_revoked_certificate(
                x509.RevokedCertificateBuilder()
                .serial_number(each.certificate.serial_number)
                .revocation_date(now + timedelta(days[0]))
                .build()
            )
        key = self.key if by is None else by.key
        return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _with_file(content: bytes, use: Callable[[Path], object]) -> None:
    # The ssl module reads keys and revocation lists from files alone.
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "some.pem")
        path.write_bytes(content)
        use(path)


def load_pem(context: ssl.SSLContext, *pem: bytes) -> None:
    """Make a context present what is in PEM form: the key, the certificate, and others."""
    _with_file(b"".join(pem), context.load_cert_chain)


def load_revocation_list(context: ssl.SSLContext, pem: bytes) -> None:
    """Let a context know revocation lists."""
    _with_file(pem, context.load_verify_locations)
