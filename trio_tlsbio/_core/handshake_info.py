"""What a finished handshake agreed on."""

from __future__ import annotations

import ssl
from functools import partial
from typing import Any

import attrs

from .certificate_der import CertificateParts
from .certificates import (
    Certificate,
    UndecodedCertificate,
    copies_of,
    decoded,
    peer_certificates,
)
from .client_hello import ClientHello
from .hello import hello_in
from .key_exchange import group_in, signature_scheme_in
from .peer_names import (
    PeerName,
    certificate_names,
    common_name,
    is_same_name,
    names_in,
    spiffe_id_in,
)
from .records import Data

__all__ = ["HandshakeInfo"]


_SHOWN = (
    "version",
    "cipher",
    "cipher_bits",
    "group",
    "alpn_protocol",
    "server_hostname",
    "session_reused",
)


def _decoded(certificate: Certificate | UndecodedCertificate | None) -> Certificate | None:
    return certificate.get_info() if isinstance(certificate, UndecodedCertificate) else certificate


@attrs.frozen(repr=False)
class HandshakeInfo:
    """What a finished handshake agreed on, and who the peer is."""

    version: str
    """The protocol version, such as ``"TLSv1.3"``."""

    cipher: str
    """The cipher suite, by OpenSSL's name for it."""

    cipher_bits: int
    """The length of the cipher's secret key, in bits."""

    group: str | None
    """The group of the key exchange, by IANA's name, such as ``"X25519MLKEM768"``.

    Its number if it has no name here (``"0x0a0a"``). None if none took part: in TLS 1.2 that is so
    in a resumed session, with RSA key exchange, and with Diffie-Hellman over numbers."""

    alpn_protocol: str | None
    """The application protocol that ALPN chose (RFC 7301)."""

    _server_hostname: str | None

    session_reused: bool
    """Whether the handshake resumed an earlier session (RFC 9846 section 2.2). In TLS 1.3 that is
    also true of one with an external pre-shared key, which OpenSSL treats as a session."""

    _peer_certificate: Certificate | UndecodedCertificate | None = attrs.field(
        repr=False, eq=_decoded, hash=False
    )

    peer_certificate_chain: tuple[bytes, ...] = attrs.field(repr=False)
    """The certificates that the peer presented, in DER form, its own first. They are what was
    sent, not the chain that was verified; a resumed TLS 1.2 session may have the first alone.
    :attr:`decoded_chain` is what they say."""

    signature_scheme: str | None = attrs.field(default=None)
    """How the server has signed the handshake, by IANA's name, such as
    ``"ecdsa_secp256r1_sha256"``.

    TLS 1.3 encrypts it, so there it is only known from Python 3.15 on. None otherwise, and if
    nothing was signed: in a resumed session, with pre-shared keys, and with RSA key exchange."""

    # What a server has received first: a ClientHello, or the records that hold it. Records are
    # parsed when somebody asks, since that takes a tenth of a handshake.
    _hello: ClientHello | bytes | None = attrs.field(default=None, repr=False)

    # What decoded_chain decodes.
    _certificates: tuple[Any, ...] = attrs.field(default=(), repr=False, eq=False)

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in _SHOWN)
        return f"HandshakeInfo({shown})"

    @property
    def peer_certificate(self) -> Certificate | None:
        """The peer's certificate as :meth:`ssl.SSLSocket.getpeercert` decodes it: None if the peer
        sent none, empty if the context does not verify certificates, or if it can't be decoded.
        """
        return _decoded(self._peer_certificate)

    @property
    def server_hostname(self) -> str | None:
        """The name that the client asked for, in its ASCII form. A client has checked it. On a
        server it is :attr:`ClientHello.server_name`: None if the client asked for none.
        """
        if self._server_hostname is not None or self.client_hello is None:
            return self._server_hostname
        return self.client_hello.server_name

    @property
    def client_hello(self) -> ClientHello | None:
        """What the client has offered and asked for. On servers only."""
        return hello_in(self._hello) if isinstance(self._hello, bytes) else self._hello

    @property
    def is_post_quantum(self) -> bool:
        """Whether the key exchange withstands quantum computers: whether ML-KEM, alone or in a
        hybrid, takes part. The certificates' signatures are another matter.
        """
        return "MLKEM" in (self.group or "")

    @property
    def matched_name(self) -> str | None:
        """The name in the peer's certificate that stands for :attr:`server_hostname`.

        This is for people to read: OpenSSL did the check that counts.
        """
        if self.server_hostname is None or self.client_hello is not None:
            return None  # a client's certificate is not for the server's name
        if not self.peer_certificate:
            return None
        for name in self.certificate_names:
            if is_same_name(name, self.server_hostname):
                return name
        return None

    @property
    def peer_names(self) -> tuple[PeerName, ...]:
        """The names that the peer's certificate is for: DNS names, IP addresses, URIs and e-mail
        addresses, each with its kind, in the order of the certificate's subjectAltName.

        Empty unless the certificate was verified, as :attr:`peer_certificate` is.
        """
        return names_in(self.peer_certificate or {})

    @property
    def certificate_names(self) -> tuple[str, ...]:
        """The DNS names and IP addresses among :attr:`peer_names`: what a server is checked for.

        Only the subjectAltName counts; clients stopped looking at the common name (RFC 9525
        section 2).
        """
        return certificate_names(self.peer_certificate or {})

    @property
    def peer_common_name(self) -> str | None:
        """The common name in the subject of the peer's certificate.

        None if there are none or several, and unless the certificate was verified, as
        :attr:`peer_certificate` is. For authorities that put names nowhere else: servers are
        checked by :attr:`peer_names`.
        """
        return common_name(self.peer_certificate or {})

    @property
    def spiffe_id(self) -> str | None:
        """The SPIFFE ID of the peer, such as ``"spiffe://example.org/billing"``.

        It is the only URI in :attr:`peer_names`, and has the form that the `SPIFFE ID standard
        <https://spiffe.io/docs/latest/spiffe-specs/spiffe-id/>`__ requires. None if there are
        several URIs, if the certificate is an authority's or may sign certificates or revocation
        lists, and unless the certificate was verified, as :attr:`peer_certificate` is. Whether the
        authority may issue names of this trust domain is not checked: for that, trust the
        authorities of one trust domain only.
        """
        if not self.peer_certificate:
            return None
        return spiffe_id_in(self.peer_certificate, self.peer_certificate_chain[0])

    @property
    def peer_public_key(self) -> bytes | None:
        """The public key in the peer's certificate: its SubjectPublicKeyInfo in DER form, of which
        pins are the SHA-256 (RFC 7469 section 2.4).

        The handshake has proved that the peer has the private key, also if the certificate was not
        verified. None without a certificate, and if its form is not understood.
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

        They are in the order of :attr:`peer_certificate_chain`, and like it what was sent, verified
        or not. For each there is the dictionary that :meth:`ssl.SSLSocket.getpeercert` makes of a
        certificate, empty if it can't be decoded. Decoding takes a while, so it is done each time
        that this is asked for.
        """
        chain = self.peer_certificate_chain
        known = decoded(self._certificates)
        if chain:
            known.setdefault(chain[0], self.peer_certificate or {})
        return tuple(known.get(certificate, {}) for certificate in chain)

    def __reduce__(self) -> tuple[partial[HandshakeInfo], tuple[()]]:
        """Make it anew, to copy or pickle it, with copies of what OpenSSL owns."""
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
        """Read it off an SSLObject whose handshake is done, and what it can't tell off the records
        that passed meanwhile.
        """
        own_certificate, chain, certificates = peer_certificates(ssl_object)
        cipher = ssl_object.cipher()
        version = ssl_object.version()
        assert cipher is not None
        assert version is not None
        is_resumed = bool(ssl_object.session_reused)
        # TLS 1.2 resumes without a key exchange.
        has_exchange = version == "TLSv1.3" or not is_resumed
        return cls(
            version=version,
            cipher=cipher[0],
            cipher_bits=cipher[2],
            group=group_in(server_records, cipher[0]) if has_exchange else None,
            alpn_protocol=ssl_object.selected_alpn_protocol(),
            server_hostname=ssl_object.server_hostname,
            session_reused=is_resumed,
            peer_certificate=own_certificate,
            peer_certificate_chain=chain,
            signature_scheme=_signature_scheme(ssl_object, server_records, version, cipher[0])
            if has_exchange
            else None,
            hello=hello,
            certificates=certificates,
        )


def _signature_scheme(
    ssl_object: ssl.SSLObject, server_records: Data, version: str, cipher: str
) -> str | None:
    if version == "TLSv1.2":
        return signature_scheme_in(server_records, cipher)
    server_sigalg: Any = getattr(ssl_object, "server_sigalg", None)
    if server_sigalg is None or version != "TLSv1.3":  # older ones sign by none of the registry
        return None
    scheme: str | None = server_sigalg()
    return scheme
