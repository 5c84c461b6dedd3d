"""The names for which a certificate is valid."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import attrs

from .certificate_der import CertificateParts

__all__ = [
    "PeerName",
    "certificate_names",
    "common_name",
    "is_same_name",
    "names_in",
    "spiffe_id_in",
]

Kind: TypeAlias = Literal["DNS", "IP", "URI", "email"]


@attrs.frozen
class PeerName:
    """A name in a certificate (RFC 5280 section 4.2.1.6).

    Names of different kinds are never equal, so a set of allowed names is unambiguous.
    """

    kind: Kind
    """``"DNS"``, ``"IP"``, ``"URI"`` or ``"email"``."""

    value: str
    """The name. IP addresses are in their usual form, such as ``"::1"``. Other names are unchanged
    from the certificate, and can contain any characters.
    """

    def __str__(self) -> str:
        return self.value


# The names that ssl uses for the kinds.
_KINDS: Mapping[str, Kind] = {"DNS": "DNS", "IP Address": "IP", "URI": "URI", "email": "email"}


def names_in(certificate: Mapping[str, Any]) -> tuple[PeerName, ...]:
    """Return the names in the subjectAltName of a certificate, in the same order.

    Args:
      certificate: The certificate, as decoded by :meth:`ssl.SSLSocket.getpeercert`.
    """
    names = []
    for ssl_kind, value in certificate.get("subjectAltName", ()):
        kind = _KINDS.get(ssl_kind)
        if kind == "IP":
            try:
                # OpenSSL writes 0:0:0:0:0:0:0:1 for ::1.
                names.append(PeerName(kind, str(ipaddress.ip_address(value.strip()))))
            except ValueError:  # a malformed address identifies no peer
                continue
        elif kind is not None:
            names.append(PeerName(kind, value))
    return tuple(names)


def certificate_names(certificate: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names by which a server's certificate is verified: DNS names and IP addresses.

    Only the subjectAltName is used: clients no longer accept the common name (RFC 9525 section 2).

    Args:
      certificate: The certificate, as decoded by :meth:`ssl.SSLSocket.getpeercert`.
    """
    return tuple(name.value for name in names_in(certificate) if name.kind in ("DNS", "IP"))


def common_name(certificate: Mapping[str, Any]) -> str | None:
    """Return the common name in the subject of a certificate, or None unless there is
    exactly one.
    """
    parts = [part for rdn in certificate.get("subject", ()) for part in rdn]
    names: list[str] = [value for kind, value in parts if kind == "commonName"]
    # If there are several, some implementations use the first one and others the last.
    return names[0] if len(names) == 1 else None


# SPIFFE-ID sections 2.1 to 2.3. A segment of the path is neither "." nor "..".
_SPIFFE_ID = re.compile(r"spiffe://[a-z0-9._-]{1,255}(/(?!\.{1,2}(/|\Z))[A-Za-z0-9._-]+)+")
_MOST_SPIFFE_ID = 2048


def spiffe_id_in(certificate: Mapping[str, Any], der: bytes) -> str | None:
    """Return the SPIFFE ID of a verified certificate, according to X509-SVID section 5.2.

    Args:
      certificate: The certificate, as decoded by :meth:`ssl.SSLSocket.getpeercert`.
      der: The same certificate in DER form.
    """
    uris = [name.value for name in names_in(certificate) if name.kind == "URI"]
    if len(uris) != 1 or len(uris[0]) > _MOST_SPIFFE_ID or not _SPIFFE_ID.fullmatch(uris[0]):
        return None
    try:
        return None if CertificateParts.of(der).may_sign else uris[0]
    except ValueError:
        return None


def is_same_name(pattern: str, hostname: str) -> bool:
    """Return True if a name in a certificate matches a host name, by RFC 9525 section 6.3."""
    try:
        return ipaddress.ip_address(pattern) == ipaddress.ip_address(hostname)
    except ValueError:
        pass
    pattern, hostname = pattern.lower(), hostname.lower()
    if pattern.startswith("*."):
        # A wildcard matches exactly one label, the leftmost.
        return hostname.partition(".")[2] == pattern[2:]
    return pattern == hostname
