"""The header of the PROXY protocol, by which a proxy reports whom it connects for.

The specification is HAProxy's: https://www.haproxy.org/download/3.0/doc/proxy-protocol.txt. PyPI's
``proxy-protocol`` is pure too, but neither bounded nor strict: it takes a port of ``+0_1``, an IPv6
zone and a line of any length, and ignores families that it does not know.
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
"""How long a header of version 2 may be. The largest thing in it is a client's certificate."""

MAX_LINE_BYTES = 107
"""How long a header of version 1 may be, with its CRLF (section 2.1)."""

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
"""An IP address and a port, or the path of a Unix socket, which is empty if it has none."""


class ProxyCommand(enum.Enum):
    """On whose behalf a proxy has connected."""

    LOCAL = 0
    """Its own: a health check."""
    PROXY = 1
    """A client's."""


class _Type(enum.IntEnum):
    """What is in an entry of version 2 (section 2.2)."""

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

# Family and protocol of version 2, and how many bytes of addresses follow.
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
    """What a proxy reports about the TLS connection of its client, which ends at the proxy."""

    is_tls: bool
    """Whether the client has connected by TLS."""
    has_sent_certificate: bool
    """Whether the client has sent a certificate, on this connection or earlier in its session."""
    verify_code: int
    """0, or why the proxy did not accept the certificate: in OpenSSL's numbers, if it uses that."""
    version: str | None = None
    """The version of TLS, ``"TLSv1.3"``."""
    cipher: str | None = None
    """The cipher, ``"TLS_AES_256_GCM_SHA384"``."""
    group: str | None = None
    """The group of the key exchange."""
    signature_scheme: str | None = None
    """What the proxy has signed its handshake by."""
    signature_algorithm: str | None = None
    """What the proxy's certificate is signed by, ``"RSA-SHA256"``."""
    key_algorithm: str | None = None
    """The kind of the proxy's key, ``"RSA2048"``."""
    common_name: str | None = None
    """The common name (CN) in the client's certificate."""
    client_certificate: bytes | None = attrs.field(default=None, repr=False)
    """The client's certificate, as DER."""

    @property
    def is_verified(self) -> bool:
        """Whether the client has sent a certificate, and the proxy has verified it."""
        return self.has_sent_certificate and self.verify_code == 0


@attrs.frozen(kw_only=True)
class ProxyHeader:
    """What a proxy reports when it connects. All but ``version`` and ``command`` may be missing."""

    version: int
    """The version of the PROXY protocol, 1 or 2."""
    command: ProxyCommand
    """On whose behalf the proxy has connected."""
    source: ProxyEndpoint | None = None
    """Where the client has connected from. None for health checks, and if it is unknown."""
    destination: ProxyEndpoint | None = None
    """Where the client has connected to. None if ``source`` is."""
    alpn: bytes | None = None
    """The application protocol, as in ALPN."""
    authority: str | None = None
    """The host name that the client asked for, as in SNI."""
    unique_id: bytes | None = None
    """What the proxy calls this connection, in its logs for example."""
    tls: ProxyTLSInfo | None = None
    """The client's TLS, if that ends at the proxy (``PP2_TYPE_SSL``)."""
    netns: str | None = None
    """The name of the network namespace."""
    others: Mapping[int, bytes] = attrs.field(
        factory=dict[int, bytes], converter=_read_only, repr=False, hash=False
    )
    """What else it reports, by the number of its type: ``0xEA`` for AWS, for example."""


@attrs.define(eq=False)
class ProxyHeaderReader:
    """Reads a header that arrives in pieces. Nothing it does waits.

    Both versions are accepted. Its memory is bounded: a header of version 1 has up to 107 bytes.
    One of version 2 may have up to 8 KiB here, of the 64 KiB that its length could state.
    """

    header: ProxyHeader | None = attrs.field(default=None, init=False)
    """The header; None until it is whole."""
    rest: bytes = attrs.field(default=b"", init=False, repr=False)
    """What was fed after the end of the header. It belongs to what follows, TLS for example."""
    _data: bytearray = attrs.field(factory=bytearray, init=False, repr=False)

    def feed(self, data: Data) -> ProxyHeader | None:
        """Take what has arrived, and return the header once it is whole.

        Raises:
          ValueError: in plain words, if that is no valid header, as soon as this can be known; and
            if the header is whole already. Discard the reader, and close the connection.
        """
        if self.header is not None:
            raise ValueError("the header is whole already: what follows doesn't belong here")
        self._data += data
        size = _header_bytes(self._data)
        if size is not None and len(self._data) >= size:
            block = bytes(self._data[:size])
            self.header = _parse_line(block) if block[0] == _LINE_BEGINS[0] else _parse(block)
            self.rest = bytes(self._data[size:])
            self._data.clear()
        return self.header


def _header_bytes(data: bytearray) -> int | None:
    """Return how long the header is that some bytes begin with; None if that is not known yet."""
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
    if words[1] == "UNKNOWN":  # what follows it is to be ignored
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
        if "%" not in word:  # a zone has a meaning on one machine alone
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
        # The receiver has to ignore what else is there, or does not need to support it.
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
    # Linux's abstract names begin with a NUL. Behind the one that ends a path may be anything.
    path = data.rstrip(b"\0") if data[:1] == b"\0" else data.partition(b"\0")[0]
    return path.decode("utf-8", "surrogateescape")


def _entries(block: bytes, start: int) -> dict[int, bytes]:
    """Return the values at the end of a block by their types."""
    entries: dict[int, bytes] = {}
    for kind, _, value in _each_entry(block, start):
        if kind in entries:
            raise ValueError(f"the PROXY protocol header has two values of type 0x{kind:02x}")
        if kind != _Type.NOOP:
            entries[kind] = value
    return entries


def _check_sum(block: bytes, start: int) -> None:
    """Check the checksum, if there is one: the header's own, with zeros in its place."""
    for kind, at, value in _each_entry(block, start):
        if kind == _Type.CRC32C:
            if len(value) != 4:
                raise ValueError("the PROXY protocol header has a checksum of a wrong length")
            if _crc32c(block[:at] + bytes(4) + block[at + 4 :]) != int.from_bytes(value):
                raise ValueError("the PROXY protocol header has a wrong checksum: it is damaged")


def _each_entry(block: bytes, at: int) -> Iterator[tuple[int, int, bytes]]:
    """Yield the type of each value, where it begins, and the value."""
    while at < len(block):
        kind, start = block[at], at + 3
        at = start + int.from_bytes(block[at + 1 : start])
        if start > len(block) or at > len(block):
            raise ValueError(f"the PROXY protocol header is cut in a value of type 0x{kind:02x}")
        yield kind, start, block[start:at]


def _text(entries: dict[int, bytes], kind: _Type, encoding: str) -> str | None:
    value = entries.pop(kind, None)
    try:
        return None if value is None else value.decode(encoding)
    except UnicodeDecodeError:
        raise ValueError(
            f"the PROXY protocol header has a value of type 0x{kind:02x} that is no text"
        ) from None


def _tls_info(value: bytes) -> ProxyTLSInfo:
    if len(value) < 5:
        raise ValueError("the PROXY protocol header is cut in what it reports about TLS")
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
    """Return the checksum of RFC 9260 appendix A, which zlib does not have."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = crc >> 8 ^ _CRC_TABLE[(crc ^ byte) & 0xFF]
    return crc ^ 0xFFFFFFFF


def _crc_of(byte: int) -> int:
    for _ in range(8):
        byte = byte >> 1 ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_CRC_TABLE = tuple(_crc_of(byte) for byte in range(256))
