"""What a finished handshake agreed on."""

from __future__ import annotations

import _ssl
import ipaddress
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any

import attrs

from ._contexts import requested_hostname

__all__ = [
    "HandshakeInfo",
    "certificate_names",
    "clean_error_queue",
    "decoded_chain",
    "presented_names",
]

# A certificate as SSLObject.getpeercert() decodes it.
Certificate = Mapping[str, Any]


def certificate_names(certificate: Certificate) -> tuple[str, ...]:
    """Return the DNS names and IP addresses that a certificate is valid for.

    Only the subjectAltName counts; clients stopped looking at the common name (RFC 9525
    section 2).

    Args:
      certificate: As :meth:`ssl.SSLSocket.getpeercert` decodes it.
    """
    names = []
    for kind, value in certificate.get("subjectAltName", ()):
        if kind == "DNS":
            names.append(value)
        elif kind == "IP Address":
            with suppress(ValueError):  # one that is malformed stands for nobody
                # OpenSSL writes 0:0:0:0:0:0:0:1 for ::1.
                names.append(str(ipaddress.ip_address(value.strip())))
    return tuple(names)


def _raw_chain(ssl_object: ssl.SSLObject) -> tuple[Any, ...]:
    # Public from Python 3.13 on, but there only as DER, which the standard library can't decode;
    # the object beneath has had this method since 3.10. Without it we know less, and say less.
    sslobj = getattr(ssl_object, "_sslobj", None)
    get_chain = getattr(sslobj, "get_unverified_chain", None)
    if get_chain is None:
        return ()
    # A client that was asked for a certificate after the handshake, and has none, leaves a None.
    return tuple(certificate for certificate in get_chain() or () if certificate is not None)


# Never used for a connection.
_scratch_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


@contextmanager
def clean_error_queue() -> Iterator[None]:
    """Empty OpenSSL's error queue after decoding a certificate.

    CPython leaves there what it could not decode, such as a malformed authorityInfoAccess. The
    queue belongs to the thread, and OpenSSL takes an entry for an error of whatever connection is
    used next.
    """
    try:
        yield
    finally:
        empty_error_queue()


def empty_error_queue() -> None:
    """Have Python report an error of OpenSSL, which empties the queue. It takes 2 microseconds."""
    with suppress(ssl.SSLError):
        _scratch_context.load_verify_locations(cadata=b"\0")


def _in_der(certificate: Any) -> bytes:
    data: bytes = certificate.public_bytes(_ssl.ENCODING_DER)
    return data


def presented_names(ssl_object: ssl.SSLObject) -> tuple[str, ...]:
    """Return the names in the certificate that the peer presented, refused ones included.

    getpeercert() tells nothing of a handshake that failed, when one wants to know most.
    """
    chain = _raw_chain(ssl_object)
    with suppress(ValueError, ssl.SSLError), clean_error_queue():  # see _decoded()
        return certificate_names(chain[0].get_info()) if chain else ()
    return ()


def _decoded(ssl_object: ssl.SSLObject) -> Certificate | None:
    try:
        if (certificate := ssl_object.getpeercert()) is not None:
            empty_error_queue()
        return certificate
    except (ValueError, ssl.SSLError):
        # CPython wants names in a certificate to be text, in UTF-8; OpenSSL, who verified it, does
        # not.
        return {}


def _peer_chain(ssl_object: ssl.SSLObject) -> tuple[bytes, ...]:
    leaf = ssl_object.getpeercert(binary_form=True)
    if leaf is None:
        return ()
    chain = tuple(map(_in_der, _raw_chain(ssl_object)))
    # On the server's side, and in a resumed session, OpenSSL leaves the leaf out of the chain.
    return chain if leaf in chain else (leaf, *chain)


def decoded_chain(ssl_object: ssl.SSLObject) -> tuple[Certificate, ...]:
    """Decode the certificates that the peer presented, its own first.

    They are in the order of :attr:`HandshakeInfo.peer_certificate_chain`, and like it what was
    sent, verified or not. It takes a while, so it is not part of the handshake.

    Args:
      ssl_object: Of a connection whose handshake is done, such as
        :attr:`TLSConnection.ssl_object`.

    Returns:
      For each the dictionary that :meth:`ssl.SSLSocket.getpeercert` makes of one, empty where
      that can't be had.
    """
    decoded: dict[bytes, Certificate] = {}
    for certificate in _raw_chain(ssl_object):
        with suppress(ValueError, ssl.SSLError), clean_error_queue():  # see _decoded()
            decoded[_in_der(certificate)] = certificate.get_info()
    chain = _peer_chain(ssl_object)
    if chain and chain[0] not in decoded:
        decoded[chain[0]] = _decoded(ssl_object) or {}
    return tuple(decoded.get(certificate, {}) for certificate in chain)


def _same_name(pattern: str, hostname: str) -> bool:
    """Whether a name in a certificate stands for a host, by RFC 9525 section 6.3."""
    try:
        return ipaddress.ip_address(pattern) == ipaddress.ip_address(hostname)
    except ValueError:
        pass
    pattern, hostname = pattern.lower(), hostname.lower()
    if pattern.startswith("*."):
        # A wildcard stands for exactly one label, the leftmost.
        return hostname.partition(".")[2] == pattern[2:]
    return pattern == hostname


@attrs.frozen
class HandshakeInfo:
    """What a finished handshake agreed on, and who the peer is."""

    version: str
    """The protocol version, such as ``"TLSv1.3"``."""

    cipher: str
    """The cipher suite, by OpenSSL's name for it."""

    cipher_bits: int
    """The length of the cipher's secret key, in bits."""

    group: str | None
    """The group of the key exchange, by IANA's name, such as ``"X25519MLKEM768"``; its number if it
    has no name here (``"0x0a0a"``). None if none took part: in TLS 1.2 that is so in a resumed
    session, with RSA key exchange, and with Diffie-Hellman over numbers."""

    alpn_protocol: str | None
    """The application protocol that ALPN chose (RFC 7301)."""

    server_hostname: str | None
    """The name that the client asked for and checked, in its ASCII form. On a server, the name that
    the client asked for, if the context has an ``sni_callback``, as a :func:`sni_context` has."""

    session_reused: bool
    """Whether the handshake resumed an earlier session (RFC 9846 section 2.2). In TLS 1.3 that is
    also true of one with an external pre-shared key, which OpenSSL treats as a session."""

    peer_certificate: Certificate | None = attrs.field(repr=False, hash=False)
    """The peer's certificate as :meth:`ssl.SSLSocket.getpeercert` decodes it: None if the peer
    sent none, empty if the context does not verify certificates, or if it can't be decoded."""

    peer_certificate_chain: tuple[bytes, ...] = attrs.field(repr=False)
    """The certificates that the peer presented, in DER form, its own first. They are what was
    sent, not the chain that was verified; a resumed TLS 1.2 session may have the first alone.
    :func:`decoded_chain` tells what is in them."""

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
        if self.server_hostname is None or not self.peer_certificate:
            return None
        for name in certificate_names(self.peer_certificate):
            if _same_name(name, self.server_hostname):
                return name
        return None

    @classmethod
    def of(cls, ssl_object: ssl.SSLObject, group: Callable[[str], str | None]) -> HandshakeInfo:
        """Read it off an SSLObject whose handshake is done.

        Few of them tell the group of the key exchange: ``group()`` returns it for a cipher suite.
        """
        cipher = ssl_object.cipher()
        version = ssl_object.version()
        assert cipher is not None
        assert version is not None
        return cls(
            version=version,
            cipher=cipher[0],
            cipher_bits=cipher[2],
            group=group(cipher[0]),
            alpn_protocol=ssl_object.selected_alpn_protocol(),
            server_hostname=ssl_object.server_hostname or requested_hostname(ssl_object),
            session_reused=bool(ssl_object.session_reused),
            peer_certificate=_decoded(ssl_object),
            peer_certificate_chain=_peer_chain(ssl_object),
        )
