"""Finds which certificate of a refused chain is at fault, and why."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from itertools import pairwise
from types import MappingProxyType
from typing import TypeAlias

import attrs

from ._certificates import CertificateFacts, when
from ._links import (
    AUTHORITY_KEY_ID,
    BASIC_CONSTRAINTS,
    EXTENDED_KEY_USAGE,
    KEY_USAGE,
    NAME_CONSTRAINTS,
    SUBJECT_ALT_NAME,
    SUBJECT_KEY_ID,
    Link,
)

__all__ = ["Fault", "faults_in"]


@attrs.frozen
class Fault:
    """What is wrong with a certificate. ``index`` is its position in the presented chain, or None
    if it is not in that chain or not known.
    """

    index: int | None
    words: str


################################################################
# A search for each of OpenSSL's reasons
################################################################

# The extensions that OpenSSL processes if they are critical: X509_supported_extension().
_RESPECTED = {
    *(SUBJECT_KEY_ID, KEY_USAGE, SUBJECT_ALT_NAME, BASIC_CONSTRAINTS, NAME_CONSTRAINTS),
    *(AUTHORITY_KEY_ID, EXTENDED_KEY_USAGE),
    *("2.5.29.31", "2.5.29.32", "2.5.29.33", "2.5.29.36", "2.5.29.54"),  # policies, and lists
    *("1.3.6.1.5.5.7.1.7", "1.3.6.1.5.5.7.1.8", "1.3.6.1.5.5.7.1.14", "1.3.6.1.5.5.7.48.1.5"),
    "2.16.840.1.113730.1.1",
}

# What keys may be used for, as bits of the first byte (RFC 5280 section 4.2.1.3).
_FOR_TLS_SERVERS, _FOR_CERTIFICATES = 0x80 | 0x20 | 0x08, 0x04

_SERVER_AUTH = "1.3.6.1.5.5.7.3.1"
_PURPOSES = MappingProxyType(
    {
        "1.3.6.1.5.5.7.3.2": "TLS clients",
        "1.3.6.1.5.5.7.3.3": "signing code",
        "1.3.6.1.5.5.7.3.4": "e-mail",
        "1.3.6.1.5.5.7.3.8": "time stamps",
        "1.3.6.1.5.5.7.3.9": "OCSP",
    }
)
_WEAK_SIGNATURES = MappingProxyType(
    {
        "1.2.840.113549.1.1.2": "MD2",
        "1.2.840.113549.1.1.4": "MD5",
        "1.2.840.113549.1.1.5": "SHA-1",
        "1.2.840.10040.4.3": "SHA-1",
        "1.2.840.10045.4.1": "SHA-1",
    }
)

# The position in the path of the certificate at fault, or None, and what is wrong with it.
_Found: TypeAlias = Iterator[tuple[int | None, str]]
_Path: TypeAlias = Sequence[Link]


def _not_yet_valid(path: _Path) -> _Found:
    for link in path:
        start = link.facts.not_before
        if start is not None and start > datetime.now(UTC):
            yield link.place, f"not valid until {when(start)}"


def _expired(path: _Path) -> _Found:
    for link in path:
        end = link.facts.not_after
        if end is not None and end <= datetime.now(UTC):
            yield link.place, f"expired at {when(end)}"


def _issuer_of(link: Link) -> str:
    return link.facts.issuer or "its issuer"


def _not_a_root(path: _Path) -> _Found:
    last = path[-1]
    yield last.place, f"trusted here, but its issuer is not: {_issuer_of(last)}"


def _not_signed(path: _Path) -> _Found:
    if len(path) == 2:  # it must be this one: a root signs itself
        yield 0, f"not signed by {_issuer_of(path[0])}, which it names"
        return
    try:
        from cryptography import x509  # noqa: PLC0415  # trustme brings it
        from cryptography.exceptions import InvalidSignature  # noqa: PLC0415
    except ImportError:
        return
    for link, above in pairwise(path):
        with suppress(ValueError, TypeError), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            certificate = x509.load_der_x509_certificate(link.facts.der)
            issuer = x509.load_der_x509_certificate(above.facts.der)
            try:
                certificate.verify_directly_issued_by(issuer)
            except InvalidSignature:
                yield link.place, f"not signed by {_issuer_of(link)}, which it names"


def _self_signed(path: _Path) -> _Found:
    yield path[-1].place, "self-signed, and not among the trusted certificates"


def _no_issuer(path: _Path) -> _Found:
    issuer = _issuer_of(path[-1])
    yield path[-1].place, f"{issuer} is not trusted here, and the server did not present it"


def _too_many(_path: _Path) -> _Found:
    yield None, "none in particular: the chain is longer than OpenSSL accepts"


def _no_authority(path: _Path) -> _Found:
    for link in path[1:]:
        if not link.is_authority:
            yield link.place, "not an authority, so it may not issue others (basic constraints)"
        elif not link.may(do=_FOR_CERTIFICATES):
            yield link.place, "its key may not issue certificates (key usage)"


def _path_too_long(path: _Path) -> _Found:
    for link in path[2:]:
        below = sum(not each.is_self_issued for each in path[1 : link.place])
        if link.path_length is not None and below > link.path_length:
            words = f"it allows {link.path_length} issuers below it, but there are {below}"
            yield link.place, f"{words} (path length)"


def _wrong_purpose(path: _Path) -> _Found:
    for link in path:
        if link.purposes and _SERVER_AUTH not in link.purposes:
            made_for = ", ".join(_PURPOSES.get(each, each) for each in link.purposes)
            yield link.place, f"issued for {made_for}, not for TLS servers (extended key usage)"
    if not path[0].may(do=_FOR_TLS_SERVERS):
        yield 0, "its key may not be used for TLS servers (key usage)"


def _unknown_extension(path: _Path) -> _Found:
    for link in path:
        for kind, extension in link.extensions.items():
            if extension.is_critical and kind not in _RESPECTED:
                yield link.place, f"has a critical extension that OpenSSL does not know, {kind}"


def _name_not_permitted(path: _Path) -> _Found:
    for link in path[1:]:
        if names := link.names_that_are("permitted"):
            may = f"may only certify {', '.join(names)}"
            yield 0, f"an issuer, {link.facts.subject}, {may} (name constraints)"


def _name_excluded(path: _Path) -> _Found:
    for link in path[1:]:
        if names := link.names_that_are("excluded"):
            may = f"may not certify {', '.join(names)}"
            yield 0, f"an issuer, {link.facts.subject}, {may} (name constraints)"


def _key_too_weak(path: _Path) -> _Found:
    key = path[0].facts.key
    if key is None or key.bits is None:
        yield 0, "its key is too weak, or can't be read"
    else:
        yield 0, f"its key is too weak: {key.kind}, {key.bits} bits"


def _issuer_key_too_weak(path: _Path) -> _Found:
    for link in path[1:]:
        key = link.facts.key
        if key is not None and key.bits is not None:
            least = 224 if key.kind.startswith("E") else 2048  # OpenSSL's security level 2
            if key.bits < least:
                yield link.place, f"its key is too weak: {key.kind}, {key.bits} bits"


def _signature_too_weak(path: _Path) -> _Found:
    for link in path:
        hash_name = _WEAK_SIGNATURES.get(link.signature_algorithm)
        if hash_name is not None and not link.is_self_issued:
            yield link.place, f"signed with {hash_name}, which is too weak"


def _where(words: str, is_so: Callable[[Link], bool]) -> Callable[[_Path], _Found]:
    """Return a search for the certificates of which ``is_so`` is true."""

    def search(path: _Path) -> _Found:
        return ((link.place, words) for link in path if is_so(link))

    return search


def _has_uncritical_constraints(link: Link) -> bool:
    extension = link.extensions.get(BASIC_CONSTRAINTS)
    return link.is_authority and extension is not None and not extension.is_critical


def _is_nameless(link: Link) -> bool:
    extension = link.extensions.get(SUBJECT_ALT_NAME)
    return not link.has_subject and extension is not None and not extension.is_critical


# X509_V_ERR_* numbers, as listed in X509_STORE_CTX_get_error(3); from 80 on, those of strict
# verification. Those about revocation lists are missing, because the command does not check them.
_SEARCHES: Mapping[int, Callable[[_Path], _Found]] = MappingProxyType(
    {
        2: _not_a_root,
        7: _not_signed,
        9: _not_yet_valid,
        10: _expired,
        18: _self_signed,
        19: _self_signed,
        20: _no_issuer,
        21: _no_issuer,
        22: _too_many,
        24: _no_authority,
        25: _path_too_long,
        26: _wrong_purpose,
        34: _unknown_extension,
        47: _name_not_permitted,
        48: _name_excluded,
        66: _key_too_weak,
        67: _issuer_key_too_weak,
        68: _signature_too_weak,
        79: _no_authority,
        82: _where(
            "its key may issue certificates (key usage), but it is not an authority",
            lambda link: (
                KEY_USAGE in link.extensions
                and link.may(do=_FOR_CERTIFICATES)
                and not link.is_authority
            ),
        ),
        83: _where("does not name its issuer", lambda link: not link.has_issuer),
        85: _where(
            "has no Authority Key Identifier",
            lambda link: not link.is_self_issued and AUTHORITY_KEY_ID not in link.extensions,
        ),
        86: _where(
            "has no Subject Key Identifier",
            lambda link: link.is_authority and SUBJECT_KEY_ID not in link.extensions,
        ),
        88: _where("has no subject, and a subjectAltName that is not critical", _is_nameless),
        89: _where("its Basic Constraints are not critical", _has_uncritical_constraints),
        92: _where(
            "an authority without a key usage",
            lambda link: link.is_authority and KEY_USAGE not in link.extensions,
        ),
    }
)
_WRONG_NAME = {62, 64}


def faults_in(
    presented: Sequence[CertificateFacts],
    path: Sequence[CertificateFacts],
    verify_code: int | None,
    server_name: str,
) -> tuple[Fault, ...]:
    """Find the certificates at fault. OpenSSL reports what is wrong, but not with which
    certificate, so this searches the path that OpenSSL checked.
    """
    if not presented:
        return ()
    if verify_code in _WRONG_NAME:
        return (Fault(0, f"not for {server_name}"),)
    search = _SEARCHES.get(verify_code or 0)
    found: list[tuple[int | None, str]] = []
    if search is not None and path:
        with suppress(ValueError, IndexError):  # a certificate is malformed
            found = list(search([Link.of(*each) for each in enumerate(path)]))
    places = {certificate.der: index for index, certificate in reversed([*enumerate(presented)])}
    faults = [
        Fault(None, words) if place is None else _fault_of(path[place], words, places)
        for place, words in found
    ]
    return tuple(faults) or (Fault(None, "OpenSSL does not report which certificate it refused"),)


def _fault_of(certificate: CertificateFacts, words: str, places: Mapping[bytes, int]) -> Fault:
    index = places.get(certificate.der)
    if index is not None:
        return Fault(index, words)
    who = certificate.subject or "an issuer"
    return Fault(None, f"{who}, which the server did not present: {words}")
