"""Formats distinguished names as strings (RFC 4514)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from .certificate_der import Element, dotted

__all__ = ["formatted_parts", "rfc4514_string"]

# CPython decodes an empty value as None if its type is BIT STRING.
DecodedName: TypeAlias = Sequence[Sequence[tuple[str, str | None]]]

# The identifier of an attribute, the name by which OpenSSL calls it, and its short name: those that
# RFC 4514 section 3 requires, and some more that RFC 4519 registers.
_ATTRIBUTES = (
    ("2.5.4.3", "commonName", "CN"),
    ("2.5.4.4", "surname", "SN"),
    ("2.5.4.5", "serialNumber", "serialNumber"),
    ("2.5.4.6", "countryName", "C"),
    ("2.5.4.7", "localityName", "L"),
    ("2.5.4.8", "stateOrProvinceName", "ST"),
    ("2.5.4.9", "streetAddress", "STREET"),
    ("2.5.4.10", "organizationName", "O"),
    ("2.5.4.11", "organizationalUnitName", "OU"),
    ("2.5.4.12", "title", "title"),
    ("2.5.4.42", "givenName", "givenName"),
    ("2.5.4.46", "dnQualifier", "dnQualifier"),
    ("0.9.2342.19200300.100.1.1", "userId", "UID"),
    ("0.9.2342.19200300.100.1.25", "domainComponent", "DC"),
)
_SHORT_BY_OID: Mapping[str, str] = {oid: short for oid, _, short in _ATTRIBUTES}
_SHORT_BY_NAME: Mapping[str, str] = {name: short for _, name, short in _ATTRIBUTES}

_ENCODINGS: Mapping[int, str] = {
    12: "utf-8",
    18: "ascii",  # NumericString
    19: "ascii",  # PrintableString
    20: "latin-1",  # TeletexString, as it is commonly used
    22: "ascii",  # IA5String
    28: "utf-32-be",
    30: "utf-16-be",
}


def rfc4514_string(name: Element) -> str:
    """Format an X.501 Name. Raise :exc:`ValueError` if it is not one.

    Attributes without a short name are written as numbers, with the value in hexadecimal.
    """
    rdns = [
        "+".join(_attribute(attribute) for attribute in rdn.elements()) for rdn in name.elements()
    ]
    return ",".join(reversed(rdns))


def formatted_parts(name: DecodedName) -> list[str]:
    """Format the parts of a name that :meth:`ssl.SSLSocket.getpeercert` has decoded, in the order
    of the certificate. RFC 4514 reverses it.

    Attributes without a short name are written with OpenSSL's name.
    """
    return [
        "+".join(
            f"{_SHORT_BY_NAME.get(kind, kind)}={_escaped(value or '')}" for kind, value in part
        )
        for part in name
    ]


def _attribute(attribute: Element) -> str:
    kind, value = attribute.elements()
    oid = dotted(kind.content)
    encoding = _ENCODINGS.get(value.tag)
    if oid in _SHORT_BY_OID and encoding is not None:
        try:
            return f"{_SHORT_BY_OID[oid]}={_escaped(value.content.decode(encoding))}"
        except UnicodeDecodeError:
            pass
    return f"{_SHORT_BY_OID.get(oid, oid)}=#{value.encoded.hex()}"


def _escaped(text: str) -> str:
    escaped = "".join(
        "\\00" if character == "\0" else f"\\{character}" if character in '"+,;<>\\' else character
        for character in text
    )
    if escaped.startswith((" ", "#")):
        escaped = f"\\{escaped}"
    if escaped.endswith(" ") and len(text) > 1:
        escaped = f"{escaped[:-1]}\\ "
    return escaped
