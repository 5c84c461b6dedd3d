"""Certificates of any shape, presented by a server that proves to have the key."""

from __future__ import annotations

import hashlib
import hmac
import ssl
from functools import cache

import attrs
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trio_tlsbio._core.certificates import presented_names
from trio_tlsbio._core.errors import printable
from trio_tlsbio._core.peer_names import certificate_names, spiffe_id_in
from trio_tlsbio.asgi import tls_extension
from trio_tlsbio.cli import _certificates as _cli_certificates

from ._forge import (
    CERTIFICATE,
    CERTIFICATE_VERIFY,
    FINISHED,
    HANDSHAKE,
    Keys13,
    expand_label,
    handshake,
    records_in,
)
from ._input import Input, edited
from ._setup import CIPHER13, CLIENT, KEYS, Handshake, connection
from ._subject import Subject

__all__ = ["fuzz_certificates"]

_CONTEXT = b" " * 64 + b"TLS 1.3, server CertificateVerify\0"  # RFC 9846 section 4.5.2
_ECDSA_SECP256R1_SHA256 = b"\x04\x03"
_SEQUENCE, _SET, _OID, _INTEGER, _BIT_STRING, _OCTET_STRING = 0x30, 0x31, 6, 2, 3, 4

_POINT = 65  # of P-256, not compressed

_VERSION = bytes.fromhex("a003020102")  # 3
_ECDSA = bytes.fromhex("300a06082a8648ce3d040302")
_SAN = bytes.fromhex("0603551d11")
_OTHER_EXTENSIONS = tuple(
    bytes.fromhex(oid)
    for oid in ("0603551d1f", "06082b06010505070101", "0603551d13", "0603551d1e", "0603551d20")
)
_NAME_KINDS = (3, 6, 7, 8, 10, 11, 0x5C)  # of X.520: commonName, ..., and one that is not known


def _der(tag: int, *parts: bytes) -> bytes:
    body = b"".join(parts)
    size = len(body)
    if size < 0x80:
        return bytes([tag, size]) + body
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + body


@cache
def _key() -> tuple[ec.EllipticCurvePrivateKey, bytes]:
    """Return the server's private key, and its public key in DER form."""
    pem = (KEYS / "server.pem").read_bytes()
    key = serialization.load_pem_private_key(pem[pem.index(b"-----") :], None)
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return key, public


@cache
def _certificate() -> bytes:
    pem = (KEYS / "server.pem").read_text()
    return ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERTIFICATE") :])


def _name(source: Input) -> bytes:
    """A distinguished name: strings of any type, with anything in them."""
    parts = []
    for _ in range(source.byte() % 4):
        kind = _der(_OID, b"\x55\x04" + bytes([source.choice(_NAME_KINDS)]))
        parts.append(_der(_SET, _der(_SEQUENCE, kind, _der(source.byte() or 12, source.block()))))
    return _der(_SEQUENCE, *parts)


def _general_names(source: Input) -> bytes:
    names = []
    for _ in range(source.byte() % 6):
        kind = source.byte() % 12
        if kind == 4:
            names.append(_der(0xA4, _name(source)))
        else:
            names.append(_der((0x80 if kind not in (0, 3, 5) else 0xA0) | kind, source.block()))
    return _der(_SEQUENCE, *names)


def _built(source: Input) -> bytes:
    """A certificate whose frame is good, with anything in its fields."""
    serial = _der(_INTEGER, source.block() or b"\x01")
    issuer, subject = _name(source), _name(source)
    if source.byte() % 2:
        validity = _der(_SEQUENCE, *(_der(source.byte(), source.block()) for _ in range(2)))
    else:
        validity = _der(_SEQUENCE, _der(0x17, b"000101000000Z"), _der(0x17, b"491231235959Z"))
    extensions = [_der(_SEQUENCE, _SAN, _der(_OCTET_STRING, _general_names(source)))]
    for _ in range(source.byte() % 3):
        kind = source.choice(_OTHER_EXTENSIONS)
        extensions.append(_der(_SEQUENCE, kind, _der(_OCTET_STRING, source.block())))
    version = _VERSION if source.byte() % 8 else b""
    tbs = [version, serial, _ECDSA, issuer, validity, subject, _key()[1]]
    tbs.append(_der(0xA3, _der(_SEQUENCE, *extensions)))
    return _der(_SEQUENCE, _der(_SEQUENCE, *tbs), _ECDSA, _der(_BIT_STRING, b"\0", b"0\0"))


def _any_certificate(source: Input) -> bytes:
    kind = source.byte() % 4
    if kind == 0:
        return source.block()
    if kind == 1:
        return edited(_certificate(), source)
    if kind == 2:
        return _certificate()
    return _built(source)


@attrs.frozen
class _Flight:
    """A server's flight in TLS 1.3, with other certificates than it really has."""

    hellos: bytes  # the ClientHello and the ServerHello, as messages
    in_plaintext: bytes  # the records before what is encrypted
    extensions: bytes  # the EncryptedExtensions
    secret: bytes = attrs.field(repr=False)

    @classmethod
    @cache
    def of(cls, name: str) -> _Flight:
        shaken = Handshake.of(name, "TLSv1.3")
        keys = Keys13(shaken.handshake_secret(), CIPHER13)
        server_hello, change_cipher_spec, first, *_ = records_in(shaken.flights[0])
        (client_hello,) = records_in(shaken.answers[0])
        return cls(
            hellos=client_hello[5:] + server_hello[5:],
            in_plaintext=server_hello + change_cipher_spec,
            extensions=keys.open(first)[1],
            secret=shaken.handshake_secret(),
        )

    def with_certificates(self, chain: list[bytes]) -> bytes:
        entries = b"".join(len(each).to_bytes(3, "big") + each + b"\0\0" for each in chain)
        body = b"\0" + len(entries).to_bytes(3, "big") + entries
        sent = self.extensions + handshake(CERTIFICATE, body)
        digest = hashlib.sha384(self.hellos + sent).digest()
        signature = _key()[0].sign(_CONTEXT + digest, ec.ECDSA(hashes.SHA256()))
        size = len(signature).to_bytes(2, "big")
        sent += handshake(CERTIFICATE_VERIFY, _ECDSA_SECP256R1_SHA256 + size + signature)
        finished = expand_label(self.secret, b"finished", 48, hashes.SHA384())
        digest = hashlib.sha384(self.hellos + sent).digest()
        sent += handshake(FINISHED, hmac.digest(finished, digest, "sha384"))
        keys = Keys13(self.secret, CIPHER13)
        pieces = (sent[start : start + 16384] for start in range(0, len(sent), 16384))
        return self.in_plaintext + b"".join(keys.seal(HANDSHAKE, piece) for piece in pieces)


def fuzz_certificates(data: bytes) -> None:
    """A server presents any certificates, to a client that does not verify them, or does."""
    source = Input(data)
    name = "credulous client" if source.byte() % 4 else "client"
    chain = [_any_certificate(source) for _ in range(1 + source.byte() % 3)]
    client = Subject(connection(name, "TLSv1.3"), CLIENT)
    client.feed(_Flight.of(name).with_certificates(chain))
    done = client.do_handshake()
    if done:
        assert name != "client" or chain[0] == _certificate(), "anything is trusted"
        _look(client, len(chain))
    else:
        assert all(isinstance(each, str) for each in presented_names(client.connection.ssl_object))
    client.finish()


def _look(client: Subject, count: int) -> None:
    """Look at what the client has been shown, as the command line does."""
    info = client.connection.handshake
    assert info is not None
    chain = info.peer_certificate_chain
    decoded = info.decoded_chain
    assert len(decoded) == len(chain) == count
    for der, certificate in zip(chain, decoded, strict=True):
        names = certificate_names(certificate)
        assert all(isinstance(each, str) for each in names)
        facts = _cli_certificates.facts_of(der, certificate)
        assert facts.names_of("DNS", "IP") == list(names)
        assert printable(repr(facts)).isprintable()
        assert facts.days_left is None or isinstance(facts.days_left, int)
        assert spiffe_id_in(certificate, der) in (None, *facts.names_of("URI"))
    # It has proved to have this key, in whatever form it presents that.
    key = info.peer_public_key
    assert key is None or _key()[1][-_POINT:] in key
    tls = tls_extension(info)
    assert len(tls["client_cert_chain"]) == count
    assert isinstance(tls["client_cert_name"], str | None)
    matched = info.matched_name
    assert matched is None or matched in info.certificate_names
    assert presented_names(client.connection.ssl_object) == certificate_names(decoded[0])
