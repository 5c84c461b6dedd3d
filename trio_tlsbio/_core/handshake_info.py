"""The result of a completed handshake."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from typing import Any

import attrs

from .certificate_der import CertificateParts
from .certificates import (
    Certificate,
    UndecodedCertificate,
    copies_of,
    decoded_by_der,
    peer_certificates,
)
from .client_hello import ClientHello
from .hello import hello_in
from .key_exchange import key_exchange_in, key_exchange_message
from .peer_names import (
    PeerName,
    certificate_names,
    common_name,
    is_same_name,
    names_in,
    spiffe_id_in,
)
from .records import Data

__all__ = ["HandshakeInfo", "with_certificate"]


_SHOWN = (
    "version",
    "cipher",
    "cipher_bits",
    "group",
    "alpn_protocol",
    "server_hostname",
    "session_reused",
)


def _contents(certificate: Certificate | UndecodedCertificate | None) -> Certificate | None:
    return certificate.get_info() if isinstance(certificate, UndecodedCertificate) else certificate


@attrs.frozen(repr=False)
class HandshakeInfo:
    """The result of a completed handshake, and the identity of the peer."""

    version: str
    """The protocol version, such as ``"TLSv1.3"``."""

    cipher: str
    """OpenSSL's name of the cipher suite."""

    cipher_bits: int
    """The length of the cipher's secret key, in bits."""

    alpn_protocol: str | None
    """The application protocol that was chosen with ALPN (RFC 7301)."""

    _server_hostname: str | None

    session_reused: bool
    """Whether the handshake resumed an earlier session (RFC 9846 section 2.2). In TLS 1.3 this is
    also True with an external pre-shared key, which OpenSSL treats as a session.
    """

    _peer_certificate: Certificate | UndecodedCertificate | None = attrs.field(
        repr=False, eq=_contents, hash=False
    )

    peer_certificate_chain: tuple[bytes, ...] = attrs.field(repr=False)
    """The certificates that the peer presented, in DER form, its own first. This is the chain as it
    was sent, not the verified one. A resumed TLS 1.2 session may only have the first certificate.
    See :attr:`decoded_chain` for their contents.
    """

    # Messages are parsed on access, because that takes a tenth of the time of a handshake.

    # The server's part of the key exchange. Empty if there was none.
    _key_exchange: bytes = attrs.field(default=b"", repr=False, eq=False)

    _encrypted_scheme: str | None = attrs.field(default=None, repr=False)

    # The first message that a server has received: a ClientHello, or the records that contain it.
    _hello: ClientHello | bytes | None = attrs.field(default=None, repr=False)

    # The objects that decoded_chain decodes.
    _certificates: tuple[Any, ...] = attrs.field(default=(), repr=False, eq=False)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in _SHOWN)
        return f"HandshakeInfo({shown})"

    @property
    def group(self) -> str | None:
        """IANA's name of the key exchange group, such as ``"X25519MLKEM768"``.

        If the library has no name for it, its number (``"0x0a0a"``). None if no group was used: in
        TLS 1.2 this applies to resumed sessions, RSA key exchange, and Diffie-Hellman with explicit
        parameters.
        """
        return key_exchange_in(self._key_exchange, self.cipher)[0]

    @property
    def signature_scheme(self) -> str | None:
        """IANA's name of the scheme with which the server signed the handshake, such as
        ``"ecdsa_secp256r1_sha256"``. TLS 1.3 encrypts it, so there it is None before Python 3.15.
        It is also None if nothing was signed: in a resumed session, with pre-shared keys, and with
        RSA key exchange.
        """
        if self.version != "TLSv1.2":  # older versions sign by none of the registry
            return self._encrypted_scheme
        return key_exchange_in(self._key_exchange, self.cipher)[1]

    @property
    def peer_certificate(self) -> Certificate | None:
        """The peer's certificate, decoded as by :meth:`ssl.SSLSocket.getpeercert`: None if the peer
        sent none, empty if the context does not verify certificates, or if it can't be decoded.
        """
        return _contents(self._peer_certificate)

    @property
    def server_hostname(self) -> str | None:
        """The name that the client requested, in its ASCII form. A client has verified it. On a
        server it is :attr:`ClientHello.server_name`: None if the client requested none.
        """
        if self._server_hostname is not None or self.client_hello is None:
            return self._server_hostname
        return self.client_hello.server_name

    @property
    def client_hello(self) -> ClientHello | None:
        """What the client has offered and requested. Servers only."""
        return hello_in(self._hello) if isinstance(self._hello, bytes) else self._hello

    @property
    def is_post_quantum(self) -> bool:
        """True if the key exchange resists quantum computers, which means that it uses ML-KEM,
        alone or in a hybrid. This doesn't cover the signatures of certificates.
        """
        return "MLKEM" in (self.group or "")

    @property
    def matched_name(self) -> str | None:
        """The name in the peer's certificate that matches :attr:`server_hostname`.

        This is for information only: OpenSSL has performed the actual check.
        """
        if self.server_hostname is None or self.client_hello is not None:
            return None  # a client's certificate is not issued for the server's name
        if not self.peer_certificate:
            return None
        for name in self.certificate_names:
            if is_same_name(name, self.server_hostname):
                return name
        return None

    @property
    def peer_names(self) -> tuple[PeerName, ...]:
        """The names for which the peer's certificate is valid: DNS names, IP addresses, URIs and
        e-mail addresses, each with its kind, in the order of the certificate's subjectAltName.

        Empty if the certificate was not verified, like :attr:`peer_certificate`.
        """
        return names_in(self.peer_certificate or {})

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """The DNS names and IP addresses among :attr:`peer_names`, by which a server is verified.

        Only the subjectAltName is used: clients no longer accept the common name (RFC 9525 section
        2).
        """
        return certificate_names(self.peer_certificate or {})

    @property
    def peer_common_name(self) -> str | None:
        """The common name in the subject of the peer's certificate.

        None if there are none or several, or if the certificate was not verified, like
        :attr:`peer_certificate`. Use it for authorities that put names nowhere else; servers are
        verified by :attr:`peer_names`.
        """
        return common_name(self.peer_certificate or {})

    @property
    def spiffe_id(self) -> str | None:
        """The SPIFFE ID of the peer, such as ``"spiffe://example.org/billing"``.

        It is the only URI in :attr:`peer_names`, and has the form that the `SPIFFE ID standard
        <https://spiffe.io/docs/latest/spiffe-specs/spiffe-id/>`__ requires. None if there are
        several URIs, if the certificate belongs to an authority or may sign certificates or
        revocation lists, or if the certificate was not verified, like :attr:`peer_certificate`.
        This does not check whether the authority may issue names in this trust domain: to ensure
        that, trust only the authorities of one trust domain.
        """
        if not self.peer_certificate:
            return None
        return spiffe_id_in(self.peer_certificate, self.peer_certificate_chain[0])

    @property
    def peer_public_key(self) -> bytes | None:
        """The public key in the peer's certificate: its SubjectPublicKeyInfo in DER form. Pins are
        its SHA-256 hash (RFC 7469 section 2.4).

        The handshake has proved that the peer has the private key, even if the certificate was not
        verified. None without a certificate, or if its format is not understood.
        """
        if not self.peer_certificate_chain:
            return None
        try:
            return CertificateParts.of(self.peer_certificate_chain[0]).public_key
        except ValueError:
            return None

    @property
    def decoded_chain(self) -> tuple[Certificate, ...]:
        """The certificates that the peer presented, decoded, its own first.

        These are the certificates of :attr:`peer_certificate_chain`, in the same order, whether
        they were verified or not. Each of them is a dictionary as returned by
        :meth:`ssl.SSLSocket.getpeercert`, empty if the certificate can't be decoded. Decoding is
        slow, and happens on every access.
        """
        chain = self.peer_certificate_chain
        known = decoded_by_der(self._certificates)
        if chain:
            known.setdefault(chain[0], self.peer_certificate or {})
        return tuple(known.get(certificate, {}) for certificate in chain)

    def __reduce__(self) -> tuple[partial[HandshakeInfo], tuple[()]]:
        """Rebuild the object for a copy or pickle, with copies of OpenSSL's objects."""
        values = {k.lstrip("_"): v for k, v in attrs.asdict(self, recurse=False).items()}
        values["peer_certificate"] = self.peer_certificate
        values["certificates"] = copies_of(values["certificates"])
        return partial(type(self), **values), ()

    @classmethod
    def of(
        cls,
        ssl_object: ssl.SSLObject,
        server_records: Data,
        hello: ClientHello | bytes | None,
    ) -> HandshakeInfo:
        """Read the result of a completed handshake from its SSLObject. The values that the object
        doesn't expose are read from the records of the handshake.
        """
        own_certificate, chain, certificates = peer_certificates(ssl_object)
        cipher = ssl_object.cipher()
        version = ssl_object.version()
        assert cipher is not None
        assert version is not None
        is_resumed = bool(ssl_object.session_reused)
        is_tls13 = version == "TLSv1.3"
        has_key_exchange = is_tls13 or not is_resumed  # TLS 1.2 resumes without one
        return cls(
            version=version,
            cipher=cipher[0],
            cipher_bits=cipher[2],
            alpn_protocol=ssl_object.selected_alpn_protocol(),
            server_hostname=ssl_object.server_hostname,
            session_reused=is_resumed,
            peer_certificate=own_certificate,
            peer_certificate_chain=chain,
            key_exchange=(
                key_exchange_message(server_records, is_tls13=is_tls13) if has_key_exchange else b""
            ),
            encrypted_scheme=_encrypted_scheme(ssl_object) if is_tls13 else None,
            hello=hello,
            certificates=certificates,
        )


def _encrypted_scheme(ssl_object: ssl.SSLObject) -> str | None:
    """Return the signature scheme in TLS 1.3, which is not readable in the records."""
    server_sigalg: Callable[[], str | None] | None = getattr(ssl_object, "server_sigalg", None)
    return None if server_sigalg is None else server_sigalg()


def with_certificate(info: HandshakeInfo, ssl_object: ssl.SSLObject) -> HandshakeInfo:
    """Return the result with the certificate that the peer has sent after the handshake."""
    own_certificate, chain, certificates = peer_certificates(ssl_object)
    return attrs.evolve(
        info,
        peer_certificate=own_certificate,
        peer_certificate_chain=chain,
        certificates=certificates,
    )
