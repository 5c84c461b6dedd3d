"""The header of the PROXY protocol, with which a proxy reports the client on whose behalf it
connects.

The specification is HAProxy's: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. The
package ``proxy-protocol`` on PyPI does no I/O either, but is neither bounded nor strict: it accepts
a port of ``+0_1``, an IPv6 zone and a line of any length, and ignores unknown families.
"""

from __future__ import annotations

import enum
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address
from types import MappingProxyType
from typing import TypeAlias

import attrs

from .records import HANDSHAKE, Data

__all__ = [
    "MAX_HEADER_BYTES",
    "MAX_LINE_BYTES",
    "ProxyCommand",
    "ProxyEndpoint",
    "ProxyHeader",
    "ProxyHeaderReader",
    "ProxyTLSInfo",
]

MAX_HEADER_BYTES = 8 * 1024
"""The maximum size of a version 2 header, in bytes. The largest item is a client's certificate."""

MAX_LINE_BYTES = 107
"""The maximum size of a version 1 header, with its CRLF (section 2.1), in bytes."""

_LINE_BEGINS = b"PROXY "
_SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_BYTES = 16
_MAX_UNIQUE_ID_BYTES = 128
_UNIX_PATH_BYTES = 108
_PORT = re.compile("0|[1-9][0-9]{0,4}")

_FAMILIES: dict[str, type[IPv4Address | IPv6Address]] = {
    "TCP4": IPv4Address,
    "TCP6": IPv6Address,
}

ProxyEndpoint: TypeAlias = tuple[IPv4Address | IPv6Address, int] | str
"""An IP address and a port, or the path of a Unix socket, which is empty for an unnamed socket."""


class ProxyCommand(enum.Enum):
    """On whose behalf a proxy has connected."""

    LOCAL = 0
    """Its own: a health check."""
    PROXY = 1
    """A client's."""


class _Type(enum.IntEnum):
    """The type of a version 2 entry (section 2.2)."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    SSL_VERSION = 0x21
    SSL_CN = 0x22
    SSL_CIPHER = 0x23
    SSL_SIG_ALG = 0x24
    SSL_KEY_ALG = 0x25
    SSL_GROUP = 0x26
    SSL_SIG_SCHEME = 0x27
    SSL_CLIENT_CERT = 0x28
    NETNS = 0x30


# The bits of an SSL entry's first byte.
_CLIENT_SSL, _CLIENT_CERT_CONN, _CLIENT_CERT_SESS = 1, 2, 4

# The family and protocol of version 2, and the size of the addresses in bytes.
_TCP4, _TCP6, _UNIX = 0x11, 0x21, 0x31
_UDP4, _UDP6, _UNIX_DATAGRAMS = 0x12, 0x22, 0x32
_ADDRESS_BYTES = {
    0x00: 0,
    _TCP4: 12,
    _UDP4: 12,
    _TCP6: 36,
    _UDP6: 36,
    _UNIX: 2 * _UNIX_PATH_BYTES,
    _UNIX_DATAGRAMS: 2 * _UNIX_PATH_BYTES,
}


def _read_only(entries: Mapping[int, bytes]) -> Mapping[int, bytes]:
    return MappingProxyType(dict(entries))


@attrs.frozen(kw_only=True)
class ProxyTLSInfo:
    """What a proxy reports about its client's TLS connection, which ends at the proxy."""

    is_tls: bool
    """Whether the client has connected with TLS."""
    has_sent_certificate: bool
    """Whether the client has sent a certificate, on this connection or earlier in its session."""
    verify_code: int
    """0, or why the proxy did not accept the certificate, as an OpenSSL number if the proxy uses
    OpenSSL.
    """
    version: str | None = None
    """The TLS version, such as ``"TLSv1.3"``."""
    cipher: str | None = None
    """The cipher, such as ``"TLS_AES_256_GCM_SHA384"``."""
    group: str | None = None
    """The group of the key exchange."""
    signature_scheme: str | None = None
    """The signature scheme of the proxy's handshake."""
    signature_algorithm: str | None = None
    """The signature algorithm of the proxy's certificate, such as ``"RSA-SHA256"``."""
    key_algorithm: str | None = None
    """The type of the proxy's key, such as ``"RSA2048"``."""
    common_name: str | None = None
    """The common name (CN) in the client's certificate."""
    client_certificate: bytes | None = attrs.field(default=None, repr=False)
    """The client's certificate in DER form."""

    @property
    def is_verified(self) -> bool:
        """True if the client has sent a certificate, and the proxy has verified it."""
        return self.has_sent_certificate and self.verify_code == 0


@attrs.frozen(kw_only=True)
class ProxyHeader:
    """What a proxy reports when it connects. All values except ``version`` and ``command`` are
    optional.
    """

    version: int
    """The version of the PROXY protocol, 1 or 2."""
    command: ProxyCommand
    """On whose behalf the proxy has connected."""
    source: ProxyEndpoint | None = None
    """The address of the client. None for health checks, and if it is unknown."""
    destination: ProxyEndpoint | None = None
    """The address that the client has connected to. None if ``source`` is None."""
    alpn: bytes | None = None
    """The application protocol, as in ALPN."""
    authority: str | None = None
    """The host name that the client requested, as in SNI."""
    unique_id: bytes | None = None
    """The proxy's identifier for this connection, which it may use in its logs, for example."""
    tls: ProxyTLSInfo | None = None
    """The client's TLS connection, if that ends at the proxy (``PP2_TYPE_SSL``)."""
    netns: str | None = None
    """The name of the network namespace."""
    others: Mapping[int, bytes] = attrs.field(
        factory=dict[int, bytes], converter=_read_only, repr=False, hash=False
    )
    """Other values, by the number of their type: ``0xEA`` for AWS, for example."""


@attrs.define(eq=False)
class ProxyHeaderReader:
    """Reads a header that arrives in pieces. It does no I/O and never waits.

    Both versions are accepted. Memory use is bounded: a version 1 header has up to 107 bytes. A
    version 2 header may have up to 8 KiB here, although its length field allows 64 KiB.
    """

    header: ProxyHeader | None = attrs.field(default=None, init=False)
    """The header, or None until it is complete."""
    rest: bytes = attrs.field(default=b"", init=False, repr=False)
    """The bytes that were fed after the end of the header. They belong to what follows, such as
    TLS.
    """
    _data: bytearray = attrs.field(factory=bytearray, init=False, repr=False)

    def feed(self, data: Data) -> ProxyHeader | None:
        """Add received bytes, and return the header once it is complete.

        Raises:
          ValueError: as soon as the header is known to be invalid, with an explanation, or if the
            header is already complete. Discard the reader, and close the connection.
        """
        if self.header is not None:
            raise ValueError("the header is already complete: don't feed the bytes after it")
        self._data += data
        size = _header_bytes(self._data)
        if size is not None and len(self._data) >= size:
            block = bytes(self._data[:size])
            self.header = _parse_line(block) if block[0] == _LINE_BEGINS[0] else _parse(block)
            self.rest = bytes(self._data[size:])
            self._data.clear()
        return self.header


def _header_bytes(data: bytearray) -> int | None:
    """Return the size of the header at the start of some bytes, or None if it is not known yet."""
    if _SIGNATURE.startswith(data[: len(_SIGNATURE)]):
        return _binary_bytes(data)
    if _LINE_BEGINS.startswith(data[: len(_LINE_BEGINS)]):
        return _line_bytes(data)
    what = "TLS" if data[0] == HANDSHAKE else "something else"
    raise ValueError(
        f"the proxy began with {what} instead of a PROXY protocol header: is it configured to send"
        " one?"
    )


################################################################
# Version 1
################################################################


def _line_bytes(data: bytearray) -> int | None:
    end = data.find(b"\n", 0, MAX_LINE_BYTES) + 1
    if end:
        if data.find(b"\r", 0, end) != end - 2:
            raise ValueError("the PROXY protocol line has a carriage return or line feed by itself")
        return end
    if len(data) >= MAX_LINE_BYTES:
        raise ValueError(f"the PROXY protocol line does not end within {MAX_LINE_BYTES} bytes")
    return None


def _parse_line(line: bytes) -> ProxyHeader:
    words = line[:-2].decode("ascii", "backslashreplace").split(" ")
    if words[1] == "UNKNOWN":  # the rest of the line must be ignored
        return ProxyHeader(version=1, command=ProxyCommand.PROXY)
    family = _FAMILIES.get(words[1])
    if family is None:
        raise ValueError(f"the PROXY protocol line has an unknown protocol: {words[1]!r}")
    if len(words) != 6:
        raise ValueError("the PROXY protocol line must have two addresses and two ports")
    addresses = [_address(family, word) for word in words[2:4]]
    ports = [_port(word) for word in words[4:]]
    return ProxyHeader(
        version=1,
        command=ProxyCommand.PROXY,
        source=(addresses[0], ports[0]),
        destination=(addresses[1], ports[1]),
    )


def _address(family: type[IPv4Address | IPv6Address], word: str) -> IPv4Address | IPv6Address:
    with suppress(ValueError):
        if "%" not in word:  # a zone is only meaningful on one machine
            return family(word)
    version = "IPv4" if family is IPv4Address else "IPv6"
    raise ValueError(f"the PROXY protocol header has an invalid {version} address: {word!r}")


def _port(word: str) -> int:
    if not _PORT.fullmatch(word) or int(word) > 0xFFFF:
        raise ValueError(f"the PROXY protocol header has an invalid port: {word!r}")
    return int(word)


################################################################
# Version 2
################################################################


def _binary_bytes(data: bytearray) -> int | None:
    if len(data) < _FIXED_BYTES:
        return None
    version, command, family = data[12] >> 4, data[12] & 15, data[13]
    if version != 2:
        raise ValueError(f"the PROXY protocol header has an unknown version: {version}")
    if command not in (ProxyCommand.LOCAL.value, ProxyCommand.PROXY.value):
        raise ValueError(f"the PROXY protocol header has an unknown command: {command}")
    size = _FIXED_BYTES + int.from_bytes(data[14:_FIXED_BYTES])
    if size > MAX_HEADER_BYTES:
        raise ValueError(f"the PROXY protocol header is longer than {MAX_HEADER_BYTES} bytes")
    if command == ProxyCommand.PROXY.value:
        if family not in _ADDRESS_BYTES:
            raise ValueError(f"the PROXY protocol header has an unknown protocol: 0x{family:02x}")
        if size < _FIXED_BYTES + _ADDRESS_BYTES[family]:
            raise ValueError("the PROXY protocol header is too short for its addresses")
    return size


def _parse(block: bytes) -> ProxyHeader:
    command, family = ProxyCommand(block[12] & 15), block[13]
    if command is ProxyCommand.LOCAL or family not in (_TCP4, _TCP6, _UNIX):
        # The receiver has to ignore the rest, or does not need to support it.
        return ProxyHeader(version=2, command=command)
    start = _FIXED_BYTES + _ADDRESS_BYTES[family]
    source, destination = _endpoints(family, block[_FIXED_BYTES:start])
    entries = _entries(block, start)
    if entries.pop(_Type.CRC32C, None) is not None:
        _check_sum(block, start)
    tls = entries.pop(_Type.SSL, None)
    unique_id = entries.pop(_Type.UNIQUE_ID, None)
    if unique_id is not None and len(unique_id) > _MAX_UNIQUE_ID_BYTES:
        raise ValueError("the PROXY protocol header has a unique ID of more than 128 bytes")
    return ProxyHeader(
        version=2,
        command=command,
        source=source,
        destination=destination,
        alpn=entries.pop(_Type.ALPN, None),
        authority=_text(entries, _Type.AUTHORITY, "utf-8"),
        unique_id=unique_id,
        tls=None if tls is None else _tls_info(tls),
        netns=_text(entries, _Type.NETNS, "ascii"),
        others=entries,
    )


def _endpoints(family: int, data: bytes) -> tuple[ProxyEndpoint, ProxyEndpoint]:
    if family == _UNIX:
        return _path(data[:_UNIX_PATH_BYTES]), _path(data[_UNIX_PATH_BYTES:])
    make, size = (IPv4Address, 4) if family == _TCP4 else (IPv6Address, 16)
    ports = data[2 * size :]
    return (
        (make(data[:size]), int.from_bytes(ports[:2])),
        (make(data[size : 2 * size]), int.from_bytes(ports[2:])),
    )


def _path(data: bytes) -> str:
    # Linux's abstract names begin with a NUL. After the NUL that ends a path, there can be any
    # bytes.
    path = data.rstrip(b"\0") if data[:1] == b"\0" else data.partition(b"\0")[0]
    return path.decode("utf-8", "surrogateescape")


def _entries(block: bytes, start: int) -> dict[int, bytes]:
    """Return the entries at the end of a block, by type."""
    entries: dict[int, bytes] = {}
    for kind, _, value in _each_entry(block, start):
        if kind in entries:
            raise ValueError(f"the PROXY protocol header has two values of type 0x{kind:02x}")
        if kind != _Type.NOOP:
            entries[kind] = value
    return entries


def _check_sum(block: bytes, start: int) -> None:
    """Check the checksum, if there is one. It covers the header, with zeros in its place."""
    for kind, at, value in _each_entry(block, start):
        if kind == _Type.CRC32C:
            if len(value) != 4:
                raise ValueError("the PROXY protocol header has a checksum of the wrong length")
            if _crc32c(block[:at] + bytes(4) + block[at + 4 :]) != int.from_bytes(value):
                raise ValueError("the PROXY protocol header has a wrong checksum: it is damaged")


def _each_entry(block: bytes, at: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the type of each entry, the position of its value, and the value."""
    while at < len(block):
        kind, start = block[at], at + 3
        at = start + int.from_bytes(block[at + 1 : start])
        if start > len(block) or at > len(block):
            raise ValueError(
                f"the PROXY protocol header is cut off in a value of type 0x{kind:02x}"
            )
        yield kind, start, block[start:at]


def _text(entries: dict[int, bytes], kind: _Type, encoding: str) -> str | None:
    value = entries.pop(kind, None)
    try:
        return None if value is None else value.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError(
            f"the PROXY protocol header has a value of type 0x{kind:02x} that is not text"
        ) from None


def _tls_info(value: bytes) -> ProxyTLSInfo:
    if len(value) < 5:
        raise ValueError("the PROXY protocol header is cut off in its TLS information")
    client, entries = value[0], _entries(value, 5)
    return ProxyTLSInfo(
        is_tls=bool(client & _CLIENT_SSL),
        has_sent_certificate=bool(client & (_CLIENT_CERT_CONN | _CLIENT_CERT_SESS)),
        verify_code=int.from_bytes(value[1:5]),
        version=_text(entries, _Type.SSL_VERSION, "ascii"),
        cipher=_text(entries, _Type.SSL_CIPHER, "ascii"),
        group=_text(entries, _Type.SSL_GROUP, "ascii"),
        signature_scheme=_text(entries, _Type.SSL_SIG_SCHEME, "ascii"),
        signature_algorithm=_text(entries, _Type.SSL_SIG_ALG, "ascii"),
        key_algorithm=_text(entries, _Type.SSL_KEY_ALG, "ascii"),
        common_name=_text(entries, _Type.SSL_CN, "utf-8"),
        client_certificate=entries.get(_Type.SSL_CLIENT_CERT),
    )


def _crc32c(data: bytes) -> int:
    """Return the checksum of RFC 9260 appendix A, which zlib does not provide."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC_TABLE = tuple(_crc_of(byte) for byte in range(256))
