"""The header of the PROXY protocol, both versions: what is accepted, and what is refused."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from trio_tlsbio import TrustedProxies
from trio_tlsbio._core.proxy_header import MAX_HEADER_BYTES
from trio_tlsbio.proxy_protocol import (
    ProxyCommand,
    ProxyEndpoint,
    ProxyHeader,
    ProxyHeaderReader,
    ProxyTLSInfo,
)

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
LOCAL, PROXY = 0x20, 0x21
TCP4, TCP6, UNIX = 0x11, 0x21, 0x31
V4 = bytes([192, 0, 2, 1, 198, 51, 100, 2, 0x12, 0x34, 1, 187])
V6 = ip_address("2001:db8::1").packed + ip_address("::1").packed + b"\xff\xff\0\0"
REST = b"\x16\x03\x01 and so on"

# What a proxy sends for these two, in both versions.
SOURCE = (ip_address("192.0.2.1"), 0x1234)
DESTINATION = (ip_address("198.51.100.2"), 443)


def entry(kind: int, value: bytes) -> bytes:
    return bytes([kind]) + len(value).to_bytes(2) + value


def header(command: int = PROXY, family: int = TCP4, block: bytes = V4) -> bytes:
    return SIGNATURE + bytes([command, family]) + len(block).to_bytes(2) + block


def with_entries(*entries: bytes) -> bytes:
    return header(block=V4 + b"".join(entries))


def read(data: bytes) -> ProxyHeader:
    """Read a header that is whole."""
    reader = ProxyHeaderReader()
    result = reader.feed(data)
    assert result is not None
    assert reader.rest == b""
    return result


# Of HAProxy 2.6, with "send-proxy-v2 proxy-v2-options crc32c,unique-id".
WITH_CHECKSUM = bytes.fromhex(
    "0d0a0d0a000d0a515549540a211100237f0000017f0000019c40e18d"
    "030004363e6fbc05000d3132372e302e302e312d616263"
)

################################################################
# What is accepted
################################################################

LINES = {
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4660 443\r\n": (SOURCE, DESTINATION),
    b"PROXY TCP4 0.0.0.0 255.255.255.255 0 65535\r\n": (
        (ip_address("0.0.0.0"), 0),
        (ip_address("255.255.255.255"), 65535),
    ),
    b"PROXY TCP6 2001:DB8::1 ::1 65535 0\r\n": (
        (ip_address("2001:db8::1"), 65535),
        (ip_address("::1"), 0),
    ),
    # What inet_ntop(3) writes, and haproxy sends, where one address is of IPv4.
    b"PROXY TCP6 ::ffff:192.0.2.1 ::1 1 2\r\n": (
        (ip_address("::ffff:192.0.2.1"), 1),
        (ip_address("::1"), 2),
    ),
    b"PROXY TCP6 " + 2 * (b"ffff:" * 7 + b"ffff ") + b"65535 65535\r\n": (
        (ip_address("ffff:" * 7 + "ffff"), 65535),
        (ip_address("ffff:" * 7 + "ffff"), 65535),
    ),
    b"PROXY UNKNOWN\r\n": (None, None),
    b"PROXY UNKNOWN " + 2 * (b"ffff:" * 7 + b"ffff ") + b"65535 65535\r\n": (None, None),
    b"PROXY UNKNOWN \xff what not\r\n": (None, None),
}

BINARY: dict[bytes, tuple[ProxyEndpoint | None, ProxyEndpoint | None]] = {
    header(): (SOURCE, DESTINATION),
    header(family=TCP6, block=V6): ((ip_address("2001:db8::1"), 65535), (ip_address("::1"), 0)),
    header(family=UNIX, block=b"/run/a".ljust(108, b"\0") + bytes(108)): ("/run/a", ""),
    # A path without a NUL, what an earlier path has left behind one, and an abstract name.
    header(family=UNIX, block=b"/" * 108 + b"/b\0old".ljust(108, b"\0")): ("/" * 108, "/b"),
    header(family=UNIX, block=b"\0name".ljust(108, b"\0") + b"\xff" + bytes(107)): (
        "\0name",
        "\udcff",
    ),
    # Not supported, and valid: the addresses of the socket are to be used.
    header(family=0x00, block=b""): (None, None),
    header(family=0x00, block=b"anything"): (None, None),
    header(family=0x12, block=V4): (None, None),
    header(family=0x22, block=V6): (None, None),
    header(family=0x32, block=bytes(216)): (None, None),
}


@pytest.mark.parametrize(("line", "endpoints"), LINES.items())
def test_version_1(line: bytes, endpoints: tuple[Any, Any]) -> None:
    assert read(line) == ProxyHeader(
        version=1, command=ProxyCommand.PROXY, source=endpoints[0], destination=endpoints[1]
    )


@pytest.mark.parametrize(("data", "endpoints"), BINARY.items())
def test_version_2(data: bytes, endpoints: tuple[Any, Any]) -> None:
    assert read(data) == ProxyHeader(
        version=2, command=ProxyCommand.PROXY, source=endpoints[0], destination=endpoints[1]
    )


@pytest.mark.parametrize("family", [0x00, TCP4, UNIX, 0xFF])
@pytest.mark.parametrize("ignored", [b"", V4, b"anything"])
def test_local_says_nothing_about_a_client(family: int, ignored: bytes) -> None:
    expected = ProxyHeader(version=2, command=ProxyCommand.LOCAL)
    assert read(header(LOCAL, family, ignored)) == expected


@pytest.mark.parametrize("data", [*LINES, *BINARY, WITH_CHECKSUM])
def test_cut_at_every_byte(data: bytes) -> None:
    expected = read(data)
    for cut in range(len(data) + 1):
        reader = ProxyHeaderReader()
        first = reader.feed(data[:cut])
        assert (first is None) == (cut < len(data)), "it takes no byte less"
        if first is None:
            first = reader.feed(data[cut:] + REST)
            assert reader.rest == REST
        assert first == expected


def read_in_single_bytes(data: bytes) -> tuple[ProxyHeaderReader, list[ProxyHeader | None]]:
    reader = ProxyHeaderReader()
    return reader, [reader.feed(data[at : at + 1]) for at in range(len(data))]


@pytest.mark.parametrize("data", [*LINES, *BINARY, WITH_CHECKSUM])
def test_in_single_bytes(data: bytes) -> None:
    reader, results = read_in_single_bytes(data)
    assert results == [None] * (len(data) - 1) + [read(data)]
    assert reader.rest == b""
    with pytest.raises(ValueError, match="already complete"):
        reader.feed(b"")


def test_what_follows_is_given_back() -> None:
    for data in *LINES, *BINARY:
        for buffer in bytes, bytearray, memoryview:
            reader = ProxyHeaderReader()
            assert reader.feed(buffer(data + REST)) == read(data)
            assert reader.rest == REST
            assert type(reader.rest) is bytes


################################################################
# What version 2 reports besides
################################################################


def test_entries() -> None:
    result = read(
        with_entries(
            entry(0x01, b"h2"),
            entry(0x04, b"padding"),
            entry(0x04, b""),
            entry(0x02, "bücher.example".encode()),
            entry(0x05, b"\x01\xff"),
            entry(0x30, b"blue"),
            entry(0xEA, b"\x01vpce-1"),
        )
    )
    assert result == ProxyHeader(
        version=2,
        command=ProxyCommand.PROXY,
        source=SOURCE,
        destination=DESTINATION,
        alpn=b"h2",
        authority="bücher.example",
        unique_id=b"\x01\xff",
        netns="blue",
        others={0xEA: b"\x01vpce-1"},
    )
    assert isinstance(hash(result), int)
    with pytest.raises(TypeError):
        result.others[1] = b""  # type: ignore[index]


def test_tls_of_the_client() -> None:
    value = b"\x03\0\0\0\0" + b"".join(
        (
            entry(0x21, b"TLSv1.3"),
            entry(0x22, "Zoë".encode()),
            entry(0x23, b"TLS_AES_128_GCM_SHA256"),
            entry(0x24, b"RSA-SHA256"),
            entry(0x25, b"RSA2048"),
            entry(0x26, b"secp256r1"),
            entry(0x27, b"rsa_pss_rsae_sha256"),
            entry(0x28, b"DER"),
            entry(0x03, b"not the checksum, which is no part of this"),
        )
    )
    info = read(with_entries(entry(0x20, value))).tls
    assert info == ProxyTLSInfo(
        is_tls=True,
        has_sent_certificate=True,
        verify_code=0,
        version="TLSv1.3",
        cipher="TLS_AES_128_GCM_SHA256",
        group="secp256r1",
        signature_scheme="rsa_pss_rsae_sha256",
        signature_algorithm="RSA-SHA256",
        key_algorithm="RSA2048",
        common_name="Zoë",
        client_certificate=b"DER",
    )
    assert info.is_verified


@pytest.mark.parametrize(
    ("value", "is_tls", "has_sent", "is_verified"),
    [
        (b"\x00\0\0\0\0", False, False, False),
        (b"\x01\0\0\0\0", True, False, False),  # OpenSSL's 0 where there was no certificate
        (b"\x05\0\0\0\0", True, True, True),  # earlier in the session
        (b"\x03\0\0\0\x0a", True, True, False),
        (b"\xf8\0\0\0\0", False, False, False),  # bits that have no meaning yet
    ],
)
def test_a_certificate_is_verified_only_where_there_is_one(
    value: bytes, is_tls: bool, has_sent: bool, is_verified: bool
) -> None:
    info = read(with_entries(entry(0x20, value))).tls
    assert info is not None
    assert (info.is_tls, info.has_sent_certificate) == (is_tls, has_sent)
    assert info.is_verified == is_verified


def test_a_checksum_is_checked() -> None:
    result = read(WITH_CHECKSUM)
    assert result.source == (ip_address("127.0.0.1"), 40000)
    assert result.unique_id == b"127.0.0.1-abc"
    assert result.others == {}
    for at in range(16, len(WITH_CHECKSUM)):
        if at in {28, 29, 30, 35, 36, 37}:  # types and lengths
            continue
        damaged = bytearray(WITH_CHECKSUM)
        damaged[at] ^= 1
        with pytest.raises(ValueError, match="wrong checksum"):
            ProxyHeaderReader().feed(damaged)


def test_the_representation_shows_no_secrets() -> None:
    tls = b"\x03\0\0\0\0" + entry(0x28, b"secret DER")
    reader = ProxyHeaderReader()
    reader.feed(with_entries(entry(0x20, tls), entry(0xE0, b"secret token")) + b"secret rest")
    assert "192.0.2.1" in repr(reader)
    assert "secret" not in repr(reader)


################################################################
# What is refused
################################################################

REFUSED = [
    (b"\x16\x03\x01", "began with TLS instead of a PROXY protocol header"),
    (b"GET / HTTP/1.1\r\n", "began with something else"),
    (b"PROXX", "began with something else"),
    (b"proxy TCP4", "began with something else"),
    (b"PROXY\r\n", "began with something else"),
    (b"\r\n\r\n\0\r\nQUIT\r", "began with something else"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\n", "by itself"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2\r\r\n", "by itself"),
    (b"PROXY UNKNOWN\rPROXY\r\n", "by itself"),
    (b"PROXY UNKNOWN " + bytes(93), "does not end within 107 bytes"),
    (b"PROXY UNKNOWN " + bytes(92) + b"\r\n", "does not end within 107 bytes"),
    (b"PROXY \r\n", "unknown protocol: ''"),
    (b"PROXY  TCP4 192.0.2.1 198.51.100.2 1 2\r\n", "unknown protocol: ''"),
    (b"PROXY TCP5 192.0.2.1 198.51.100.2 1 2\r\n", "unknown protocol: 'TCP5'"),
    (b"PROXY tcp4 192.0.2.1 198.51.100.2 1 2\r\n", "unknown protocol: 'tcp4'"),
    (b"PROXY UNKNOWN1\r\n", "unknown protocol: 'UNKNOWN1'"),
    (b"PROXY TCP4\r\n", "two addresses and two ports"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1\r\n", "two addresses and two ports"),
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 2 \r\n", "two addresses and two ports"),
    (b"PROXY TCP4 192.0.2.1  198.51.100.2 1 2\r\n", "two addresses and two ports"),
    (b"PROXY TCP4 ::1 198.51.100.2 1 2\r\n", "invalid IPv4 address: '::1'"),
    (b"PROXY TCP4 192.0.2.1 ::1 1 2\r\n", "invalid IPv4 address: '::1'"),
    (b"PROXY TCP6 ::1 192.0.2.1 1 2\r\n", "invalid IPv6 address: '192.0.2.1'"),
    (b"PROXY TCP4 192.0.2.01 198.51.100.2 1 2\r\n", "invalid IPv4 address"),
    (b"PROXY TCP4 192.0.2 198.51.100.2 1 2\r\n", "invalid IPv4 address"),
    (b"PROXY TCP4 192.0.2.256 198.51.100.2 1 2\r\n", "invalid IPv4 address"),
    (b"PROXY TCP4 192.0.2.1/8 198.51.100.2 1 2\r\n", "invalid IPv4 address"),
    (b"PROXY TCP4 192.0.2.\xff 198.51.100.2 1 2\r\n", r"invalid IPv4 address: '192.0.2.\\\\xff'"),
    (b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", "invalid IPv6 address: 'fe80::1%eth0'"),
    (b"PROXY TCP6 fe80::1% ::1 1 2\r\n", "invalid IPv6 address"),
    (b"PROXY TCP6 1::2::3 ::1 1 2\r\n", "invalid IPv6 address"),
    *(
        (b"PROXY TCP4 192.0.2.1 198.51.100.2 1 %b\r\n" % port, "invalid port")
        for port in (b"", b"01", b"00", b"-1", b"+1", b"1_0", b"65536", b"100000", b"x", b"\t1")
    ),
    (SIGNATURE + b"\x11\x11\0\x0c", "unknown version: 1"),
    (SIGNATURE + b"\x31\x11\0\x0c", "unknown version: 3"),
    (SIGNATURE + b"\x22\x11\0\x0c", "unknown command: 2"),
    (SIGNATURE + b"\x2f\x11\0\x0c", "unknown command: 15"),
    *(
        (SIGNATURE + bytes([PROXY, family]) + b"\0\xd8", f"unknown protocol: 0x{family:02x}")
        for family in (0x01, 0x02, 0x10, 0x13, 0x20, 0x30, 0x33, 0x41, 0xFF)
    ),
    *(
        (SIGNATURE + bytes([PROXY, family, 0, size - 1]), "too short for its addresses")
        for family, size in ((0x11, 12), (0x12, 12), (0x21, 36), (0x22, 36), (0x31, 216))
    ),
    (SIGNATURE + bytes([PROXY, TCP4]) + (MAX_HEADER_BYTES - 15).to_bytes(2), "longer than 8192"),
    (SIGNATURE + bytes([LOCAL, 0]) + b"\xff\xff", "longer than 8192"),
    (with_entries(b"\x04"), "cut off in a value of type 0x04"),
    (with_entries(b"\x04\0"), "cut off in a value of type 0x04"),
    (with_entries(entry(0x05, b"ab")[:-1]), "cut off in a value of type 0x05"),
    (with_entries(entry(0x05, b"ab"), b"\x01\xff\xff"), "cut off in a value of type 0x01"),
    (with_entries(entry(0x05, b"a"), entry(0x05, b"a")), "two values of type 0x05"),
    (with_entries(entry(0xEA, b"a"), entry(0xEA, b"b")), "two values of type 0xea"),
    (with_entries(entry(0x03, bytes(4)), entry(0x03, bytes(4))), "two values of type 0x03"),
    (with_entries(entry(0x05, bytes(129))), "unique ID of more than 128 bytes"),
    (with_entries(entry(0x02, b"\xff")), "0x02 that is not text"),
    (with_entries(entry(0x30, b"\xff")), "0x30 that is not text"),
    (with_entries(entry(0x03, b"")), "checksum of the wrong length"),
    (with_entries(entry(0x03, bytes(5))), "checksum of the wrong length"),
    (with_entries(entry(0x03, bytes(4))), "wrong checksum"),
    (with_entries(entry(0x20, bytes(4))), "cut off in its TLS information"),
    (with_entries(entry(0x20, bytes(5) + b"\x21\0")), "cut off in a value of type 0x21"),
    (with_entries(entry(0x20, bytes(5) + 2 * entry(0x21, b""))), "two values of type 0x21"),
    (with_entries(entry(0x20, bytes(5) + entry(0x21, b"\xff"))), "0x21 that is not text"),
    (with_entries(entry(0x20, bytes(5) + entry(0x22, b"\xff"))), "0x22 that is not text"),
]


@pytest.mark.parametrize(("data", "words"), REFUSED)
def test_refused(data: bytes, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        ProxyHeaderReader().feed(data)
    with pytest.raises(ValueError, match=words):
        read_in_single_bytes(data)


def test_the_longest_header() -> None:
    padding = MAX_HEADER_BYTES - len(with_entries(entry(4, b"")))
    data = with_entries(entry(4, bytes(padding)))
    assert len(data) == MAX_HEADER_BYTES
    assert read(data).source == SOURCE
    with pytest.raises(ValueError, match="longer than 8192 bytes"):
        ProxyHeaderReader().feed(with_entries(entry(4, bytes(padding + 1))))


################################################################
# Whom to trust
################################################################


@pytest.mark.parametrize(
    ("address", "is_trusted"),
    [
        (("192.0.2.7", 1), True),
        (("192.0.3.7", 1), False),
        (("198.51.100.1", 1), True),
        (("198.51.100.2", 1), False),
        (("::ffff:192.0.2.7", 1), True),
        (("::ffff:192.0.3.7", 1), False),
        (("2001:db8::1", 1), True),
        (("2001:db9::1", 1), False),
        (("fe80::1%eth0", 1), True),
        (("::", 1), False),
        ("", False),
        ("/run/haproxy", False),
        (None, False),
    ],
)
def test_trusted_networks(address: Any, is_trusted: bool) -> None:
    proxies = TrustedProxies(
        ["192.0.2.0/24", ip_address("198.51.100.1"), ip_network("2001:db8::/32"), "fe80::/10"]
    )
    assert proxies.trusts(address) == is_trusted


def test_trusted_unix_sockets() -> None:
    proxies = TrustedProxies(unix=True)
    assert proxies.trusts("")
    assert proxies.trusts("/run/haproxy")
    assert not proxies.trusts(None)
    assert not proxies.trusts(("127.0.0.1", 1))
    both = TrustedProxies(["127.0.0.1"], unix=True)
    assert both.trusts("") and both.trusts(("127.0.0.1", 1))  # noqa: PT018
    assert both == TrustedProxies([ip_network("127.0.0.1/32")], unix=True)
    assert "127.0.0.1/32" in repr(both)


@pytest.mark.parametrize(
    ("networks", "error", "words"),
    [
        ([], ValueError, "needs at least one network"),
        ("127.0.0.1", TypeError, "takes a list of networks"),
        (7, TypeError, "takes a list of networks"),
        (None, TypeError, "takes a list of networks"),
        ([7], TypeError, "must be a str"),
        ([None], TypeError, "must be a str"),
        (["localhost"], ValueError, "'localhost' does not appear to be"),
        (["192.0.2.1/24"], ValueError, r"192\.0\.2\.1/24 has bits .* give 192\.0\.2\.0/24"),
        (["192.0.2.0/33"], ValueError, "not an IP address or network"),
        ([""], ValueError, "not an IP address or network"),
        (["fe80::1%eth0"], ValueError, "zone"),
        ([ip_address("fe80::1%eth0")], ValueError, "zone"),
    ],
)
def test_what_can_not_be_trusted(networks: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        TrustedProxies(networks)
