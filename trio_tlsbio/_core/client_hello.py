"""Parses the first message of a client."""

from __future__ import annotations

import re
import struct

import attrs

from .iana import ExtensionType, HandshakeType, NameType
from .messages import (
    MESSAGE_HEADER_BYTES,
    MalformedError,
    message_bytes,
    numbers,
    only_vector,
    vector,
)
from .records import Data

__all__ = ["ClientHello", "MAX_HELLO_BYTES"]

MAX_HELLO_BYTES = 64 * 1024
"""The most bytes of records that a ClientHello may take up. Real ones need a few KiB."""

# A client may not repeat an extension. OpenSSL only detects that for the extensions it knows; all
# of its versions know these.
_KNOWN_EXTENSIONS = frozenset(map(int, ExtensionType))  # plain integers are looked up faster

# Enum lookups cost three calls; the members are bound once.
_CLIENT_HELLO = bytes([HandshakeType.CLIENT_HELLO])
_HOST_NAME = bytes([NameType.HOST_NAME])
_SERVER_NAME = int(ExtensionType.SERVER_NAME)
_ALPN = int(ExtensionType.APPLICATION_LAYER_PROTOCOL_NEGOTIATION)
_VERSIONS = int(ExtensionType.SUPPORTED_VERSIONS)
_GROUPS = int(ExtensionType.SUPPORTED_GROUPS)
_SIGNATURE_SCHEMES = int(ExtensionType.SIGNATURE_ALGORITHMS)

_EXTENSION_HEADER = struct.Struct(">HH").unpack_from

_TLS10, _TLS12 = 0x0301, 0x0303
# The message's header, the version, and the random come before it.
_SESSION_ID_START = MESSAGE_HEADER_BYTES + 2 + 32
_MOST_SESSION_ID_BYTES = 32

_MOST_NAME_BYTES = 253
# Host names have no underscore, but browsers and others request such names anyway. No top-level
# domain is a number, so a name that ends in one is an address.
_LABEL = r"[a-z0-9_-]{1,63}"
_HOST = re.compile(rf"(?:{_LABEL}\.)*(?![0-9]+$){_LABEL}")


@attrs.frozen
class ClientHello:
    """What a client offers and requests, in the first message of its handshake.

    Nothing in it is verified: a client can send any name. The numbers are from IANA's registries,
    in the client's order. They include reserved values that many clients add at random (GREASE, RFC
    8701). With Encrypted Client Hello (RFC 9849) this is the outer ClientHello, and its name is
    that of the client-facing server.

    If the server requests another key share (HelloRetryRequest), a second ClientHello for the same
    name follows.
    """

    server_name: str | None
    """The host name that the client requests (SNI, RFC 6066 section 3), in lower case and without a
    trailing dot. None if the client requests no name, or something that is not an ASCII host name,
    such as an IP address.
    """
    requested_name: bytes | None
    """The name as it was sent: any bytes, up to 65 KB. None if the client requests no name."""
    alpn_protocols: tuple[bytes, ...]
    """The protocols that the client offers with ALPN (RFC 7301), such as ``b"h2"``."""
    versions: tuple[int, ...]
    """The TLS versions that the client offers, such as ``0x0304`` for TLS 1.3.

    A client that sends no list of versions states only its newest one, which counts as TLS 1.2 at
    most. In that case this is every version from that one down to TLS 1.0, because the client may
    accept any of them.
    """
    cipher_suites: tuple[int, ...]
    """The cipher suites that the client offers."""
    groups: tuple[int, ...]
    """The key exchange groups that the client offers (supported_groups)."""
    signature_schemes: tuple[int, ...]
    """The signature schemes that the client accepts (signature_algorithms)."""
    raw: bytes = attrs.field(repr=False)
    """The handshake message, with its header of four bytes."""

    @classmethod
    def parse(cls, message: Data) -> ClientHello:
        """Parse a ClientHello.

        OpenSSL refuses every message that this refuses. It checks more of the extensions, so it may
        refuse messages that this accepts.

        Args:
          message: The complete handshake message, with its header, assembled from its records.

        Raises:
          ValueError: if it is not a ClientHello, is malformed, or is longer than 64 KiB.
        """
        try:
            return cls._parse(bytes(message))
        except MalformedError:
            raise ValueError(
                "the ClientHello is malformed: it is cut, or a length in it is wrong"
            ) from None

    @classmethod
    def _parse(cls, raw: bytes) -> ClientHello:
        if raw[:1] != _CLIENT_HELLO:
            raise ValueError("this handshake message is not a ClientHello")
        if len(raw) > MAX_HELLO_BYTES:
            raise ValueError(f"the ClientHello has more than {MAX_HELLO_BYTES // 1024} KiB")
        if message_bytes(raw) != len(raw):
            raise MalformedError
        session_id, end = vector(raw, _SESSION_ID_START, 1)
        if len(session_id) > _MOST_SESSION_ID_BYTES:
            raise ValueError("the ClientHello is malformed: its session ID is too long")
        cipher_suites, end = vector(raw, end, 2)
        compression_methods, end = vector(raw, end, 1)
        if 0 not in compression_methods:
            raise ValueError("the ClientHello is malformed: it can't do without compression")
        extensions = _extensions(raw, end)
        name = _host_name(extensions.get(_SERVER_NAME))
        return cls(
            server_name=_normal_form(name),
            requested_name=name,
            alpn_protocols=_alpn_protocols(extensions.get(_ALPN)),
            versions=_versions(extensions.get(_VERSIONS), raw[4] << 8 | raw[5]),
            cipher_suites=numbers(cipher_suites),
            groups=_numbers(extensions.get(_GROUPS)),
            signature_schemes=_numbers(extensions.get(_SIGNATURE_SCHEMES)),
            raw=raw,
        )


def _extensions(hello: bytes, start: int) -> dict[int, bytes]:
    """Parse the extensions at the end of a ClientHello, which may have none. Return the known
    ones.
    """
    found: dict[int, bytes] = {}
    end = len(hello)
    if start == end:
        return found
    at = start + 2
    if at + int.from_bytes(hello[start:at]) != end:
        raise MalformedError
    # A malicious ClientHello of 64 KiB can contain thousands of them, so this loop calls little.
    while (content := at + 4) <= end:
        kind, size = _EXTENSION_HEADER(hello, at)
        at = content + size
        if kind in _KNOWN_EXTENSIONS:
            if kind in found:
                raise ValueError(f"the ClientHello is malformed: it has extension {kind} twice")
            found[kind] = hello[content:at]
    if at != end:
        raise MalformedError
    return found


def _host_name(extension: bytes | None) -> bytes | None:
    if extension is None:
        return None
    # In RFC 6066 the list can only have one entry, of one type, and OpenSSL accepts no other list.
    names = only_vector(extension, 2)
    if names[:1] != _HOST_NAME:
        raise MalformedError
    return only_vector(names[1:], 2)


def _normal_form(name: bytes | None) -> str | None:
    """Return a name in the form used for lookups, or None if it is not a host name."""
    form = (name or b"")[: _MOST_NAME_BYTES + 2].decode("latin-1").lower().removesuffix(".")
    return form if len(form) <= _MOST_NAME_BYTES and _HOST.fullmatch(form) else None


def _alpn_protocols(extension: bytes | None) -> tuple[bytes, ...]:
    if extension is None:
        return ()
    data, at, found = only_vector(extension, 2), 0, list[bytes]()
    while at < len(data):
        size = data[at]
        at += 1 + size
        if not size or at > len(data):
            raise MalformedError
        found.append(data[at - size : at])
    if not found:
        raise MalformedError
    return tuple(found)


def _numbers(extension: bytes | None) -> tuple[int, ...]:
    return () if extension is None else numbers(only_vector(extension, 2))


def _versions(extension: bytes | None, legacy_version: int) -> tuple[int, ...]:
    if extension is not None:
        return numbers(only_vector(extension, 1))
    newest = min(legacy_version, _TLS12)
    return tuple(range(newest, min(newest, _TLS10) - 1, -1))
