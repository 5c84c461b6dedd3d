"""The certificates of a path, with details that the library itself doesn't need."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from ipaddress import ip_address, ip_network

import attrs

from trio_tlsbio._core.certificate_der import (
    Element,
    Extension,
    dotted,
    elements,
    extensions_in,
    fields_of,
)

from ._certificates import CertificateFacts

__all__ = [
    "AUTHORITY_KEY_ID",
    "BASIC_CONSTRAINTS",
    "EXTENDED_KEY_USAGE",
    "KEY_USAGE",
    "NAME_CONSTRAINTS",
    "SUBJECT_ALT_NAME",
    "SUBJECT_KEY_ID",
    "Link",
]

# Object identifiers of extensions (RFC 5280 section 4.2.1).
SUBJECT_KEY_ID, KEY_USAGE, SUBJECT_ALT_NAME = "2.5.29.14", "2.5.29.15", "2.5.29.17"
BASIC_CONSTRAINTS, NAME_CONSTRAINTS = "2.5.29.19", "2.5.29.30"
AUTHORITY_KEY_ID, EXTENDED_KEY_USAGE = "2.5.29.35", "2.5.29.37"

_BOOLEAN, _INTEGER = 0x01, 0x02
_FALSE = b"\0"


@attrs.frozen
class Link:
    """A certificate in the path, and its position: 0 is the server's own."""

    place: int
    facts: CertificateFacts
    signature_algorithm: str
    has_issuer: bool
    has_subject: bool
    is_self_issued: bool
    extensions: Mapping[str, Extension]

    @classmethod
    def of(cls, place: int, facts: CertificateFacts) -> Link:
        """Parse a certificate. Raise :exc:`ValueError` if it is malformed."""
        _serial, algorithm, issuer, _validity, subject, _key, *rest = fields_of(facts.der)
        return cls(
            place,
            facts,
            signature_algorithm=dotted(algorithm.elements()[0].content),
            has_issuer=bool(issuer.content),
            has_subject=bool(subject.content),
            is_self_issued=issuer.content == subject.content,
            extensions={dotted(each.kind): each for each in extensions_in(rest)},
        )

    @property
    def _constraints(self) -> list[Element]:
        extension = self.extensions.get(BASIC_CONSTRAINTS)
        return [] if extension is None else elements(extension.value)[0].elements()

    @property
    def is_authority(self) -> bool:
        return any(each.tag == _BOOLEAN and each.content != _FALSE for each in self._constraints)

    @property
    def path_length(self) -> int | None:
        numbers = [each.content for each in self._constraints if each.tag == _INTEGER]
        return int.from_bytes(numbers[0]) if numbers else None

    def may(self, *, do: int) -> bool:
        """Return True if its key may be used for any of the uses in ``do``, a bit mask. Without the
        extension there is no restriction.
        """
        extension = self.extensions.get(KEY_USAGE)
        if extension is None:
            return True
        _unused, *octets = elements(extension.value)[0].content
        return bool(octets) and bool(octets[0] & do)

    @property
    def purposes(self) -> list[str]:
        """Its extended key usages. An empty list means that all are allowed."""
        extension = self.extensions.get(EXTENDED_KEY_USAGE)
        if extension is None:
            return []
        return [dotted(each.content) for each in elements(extension.value)[0].elements()]

    def names_that_are(self, kind: str) -> list[str]:
        """Return the names in its name constraints. ``kind`` is "permitted" or "excluded"."""
        extension = self.extensions.get(NAME_CONSTRAINTS)
        parts = [] if extension is None else elements(extension.value)[0].elements()
        tag = 0xA0 if kind == "permitted" else 0xA1
        bases = [
            tree.elements()[0] for each in parts if each.tag == tag for tree in each.elements()
        ]
        return [_constrained_name(base) for base in bases]


def _constrained_name(base: Element) -> str:
    with suppress(ValueError):
        match base.tag:
            case 0x87:
                half = len(base.content) // 2
                address, mask = base.content[:half], base.content[half:]
                bits = int.from_bytes(mask).bit_count()
                return str(ip_network(f"{ip_address(address)}/{bits}", strict=False))
            case 0x81 | 0x82 | 0x86:
                return base.content.decode("ascii")
    return "names of another kind"
