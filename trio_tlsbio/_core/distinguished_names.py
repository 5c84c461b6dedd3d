"""Formats distinguished names as strings (RFC 4514)."""

from __future__ import annotations

from collections.abc import Mapping

from .certificate_der import Element, dotted

__all__ = ["rfc4514_string"]

# The names that RFC 4514 section 3 requires, and some more that RFC 4519 registers. Other
# attributes are written as numbers, with the value in hexadecimal.
_SHORT_NAMES: Mapping[str, str] = {
    "2.5.4.3": "CN",
    "2.5.4.4": "SN",
    "2.5.4.5": "serialNumber",
    "2.5.4.6": "C",
    "2.5.4.7": "L",
    "2.5.4.8": "ST",
    "2.5.4.9": "STREET",
    "2.5.4.10": "O",
    "2.5.4.11": "OU",
    "2.5.4.12": "title",
    "2.5.4.42": "givenName",
    "2.5.4.46": "dnQualifier",
    "0.9.2342.19200300.100.1.1": "UID",
    "0.9.2342.19200300.100.1.25": "DC",
}

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
    """Format an X.501 Name. Raise :exc:`ValueError` if it is not one."""
    rdns = [
        "+".join(_attribute(attribute) for attribute in rdn.elements()) for rdn in name.elements()
    ]
    return ",".join(reversed(rdns))


def _attribute(attribute: Element) -> str:
    kind, value = attribute.elements()
    oid = dotted(kind.content)
    encoding = _ENCODINGS.get(value.tag)
    if oid in _SHORT_NAMES and encoding is not None:
        try:
            return f"{_SHORT_NAMES[oid]}={_escaped(value.content.decode(encoding))}"
        except UnicodeDecodeError:
            pass
    return f"{_SHORT_NAMES.get(oid, oid)}=#{value.encoded.hex()}"


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
