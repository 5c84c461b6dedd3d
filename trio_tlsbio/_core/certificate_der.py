"""Parses the parts of a certificate that the standard library doesn't (RFC 5280 section 4.1)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import attrs

__all__ = [
    "CertificateParts",
    "Element",
    "Extension",
    "dotted",
    "elements",
    "extensions_in",
    "fields_of",
]

_CONSTRUCTED = 0x20
_SEQUENCE, _VERSION, _EXTENSIONS = 0x30, 0xA0, 0xA3
_BOOLEAN, _FALSE = 0x01, b"\0"

_BASIC_CONSTRAINTS = bytes.fromhex("551d13")  # 2.5.29.19
_KEY_USAGE = bytes.fromhex("551d0f")  # 2.5.29.15
_KEY_CERT_SIGN, _CRL_SIGN = 0x04, 0x02  # in the first byte of the bits


@attrs.frozen
class Element:
    """One value in DER form (X.690)."""

    tag: int
    content: bytes
    encoded: bytes
    """The complete encoding, with tag and length."""

    def elements(self) -> list[Element]:
        """Return the elements of the contents. Raise :exc:`ValueError` if this is not a constructed
        value.
        """
        if not self.tag & _CONSTRUCTED:
            raise ValueError  # a primitive value has no parts
        return elements(self.content)


def elements(data: bytes) -> list[Element]:
    """Split a sequence of values in DER form. Raise :exc:`ValueError` if it is something else.

    Indefinite lengths, and tags of more than one byte, are not supported: they don't occur in the
    parts of certificates that are parsed here.
    """
    found, start = [], 0
    while start < len(data):
        tag, content = data[start], start + 2
        size = int.from_bytes(data[start + 1 : content])
        if size & 0x80:
            more = size & 0x7F
            size = int.from_bytes(data[content : content + more])
            content += more
            if not more:
                raise ValueError  # an indefinite length
        end = content + size
        if tag & 0x1F == 0x1F or end > len(data):
            raise ValueError
        found.append(Element(tag, data[content:end], data[start:end]))
        start = end
    return found


def dotted(content: bytes) -> str:
    """Return an object identifier in its usual form, such as ``"2.5.29.17"``. Raise
    :exc:`ValueError` if it is malformed.
    """
    numbers, number = [], 0
    for octet in content:
        number = number << 7 | octet & 0x7F
        if not octet & 0x80:
            numbers.append(number)
            number = 0
    if not numbers or content[-1] & 0x80:
        raise ValueError
    first = min(numbers[0] // 40, 2)
    return ".".join(map(str, (first, numbers[0] - 40 * first, *numbers[1:])))


def fields_of(certificate: bytes) -> list[Element]:
    """Return the fields that the issuer has signed, from the serial number on. Raise
    :exc:`ValueError` if this is not a certificate.
    """
    (whole,) = elements(certificate)
    signed, _algorithm, _signature = whole.elements()
    fields = signed.elements()
    if fields and fields[0].tag == _VERSION:  # version 1 certificates don't have this field
        del fields[0]
    return fields


class Extension(NamedTuple):
    """One extension of a certificate (RFC 5280 section 4.2)."""

    kind: bytes
    """The contents of its object identifier."""
    value: bytes
    is_critical: bool


def extensions_in(fields: Iterable[Element]) -> Iterator[Extension]:
    """Yield the extensions among the last fields of a certificate, those after its key. Raise
    :exc:`ValueError` if they are malformed.
    """
    for field in fields:
        if field.tag == _EXTENSIONS:
            (sequence,) = field.elements()
            for extension in sequence.elements():
                kind, *critical, value = extension.elements()
                is_critical = any(each.content != _FALSE for each in critical)
                yield Extension(kind.content, value.content, is_critical)


@attrs.frozen
class CertificateParts:
    """The parts of one certificate, each in DER form."""

    subject: Element
    public_key: bytes
    """The SubjectPublicKeyInfo."""
    extensions: tuple[Extension, ...]

    @classmethod
    def of(cls, certificate: bytes) -> CertificateParts:
        """Find the parts. Raise :exc:`ValueError` if this is not a certificate."""
        _serial, _algorithm, _issuer, _validity, subject, public_key, *rest = fields_of(certificate)
        if not subject.tag == public_key.tag == _SEQUENCE:
            raise ValueError
        return cls(subject, public_key.encoded, tuple(extensions_in(rest)))

    @property
    def may_sign(self) -> bool:
        """True if the certificate is an authority's, or its key may sign certificates or revocation
        lists.
        """
        return any(
            (kind == _BASIC_CONSTRAINTS and _is_ca(value)) or (kind == _KEY_USAGE and _signs(value))
            for kind, value, _ in self.extensions
        )


def _is_ca(basic_constraints: bytes) -> bool:
    (sequence,) = elements(basic_constraints)
    parts = sequence.elements()
    return bool(parts) and parts[0].tag == _BOOLEAN and parts[0].content != _FALSE


def _signs(key_usage: bytes) -> bool:
    (bits,) = elements(key_usage)
    _unused, *octets = bits.content
    return bool(octets) and bool(octets[0] & (_KEY_CERT_SIGN | _CRL_SIGN))
