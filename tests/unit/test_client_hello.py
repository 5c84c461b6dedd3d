"""A ClientHello, taken apart and put together from its records."""

from __future__ import annotations

import random
import ssl
from collections import Counter
from collections.abc import Callable
from contextlib import suppress

import attrs
import pytest
import trustme

from tests.hellos import GREASE, Hello, browser_hello, damaged, fragments, hello_of, vector
from tests.helpers import NAME, client_context_for, failure, server_context_for
from tests.unit.test_hello import STRANGE, WARNING
from trio_tlsbio import ClientHello, TLSConnection, TLSError, TruncationError
from trio_tlsbio._core.client_hello import MAX_HELLO_BYTES
from trio_tlsbio._core.hello_reader import HelloReader
from trio_tlsbio._core.iana import Alert, ExtensionType
from trio_tlsbio.testing import transfer

# What the parser looks into, by their types.
READ = (
    ExtensionType.SERVER_NAME,
    ExtensionType.SUPPORTED_GROUPS,
    ExtensionType.SIGNATURE_ALGORITHMS,
    ExtensionType.APPLICATION_LAYER_PROTOCOL_NEGOTIATION,
    ExtensionType.SUPPORTED_VERSIONS,
)


@pytest.fixture
def any_server(server_cert: trustme.LeafCert) -> ssl.SSLContext:
    """A server's context for TLS 1.2 and 1.3."""
    context = server_context_for(server_cert)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["h2", "http/1.1"])
    return context


################################################################
# What is in it
################################################################


def test_what_a_browser_sends() -> None:
    message = browser_hello(b"www.Example.ORG").message
    assert len(message) > 1700, "a hybrid key share needs two TCP segments"
    assert ClientHello.parse(message) == ClientHello(
        server_name="www.example.org",
        requested_name=b"www.Example.ORG",
        alpn_protocols=(b"h2", b"http/1.1"),
        versions=(GREASE[2], 0x0304, 0x0303),
        cipher_suites=(GREASE[0], 0x1301, 0x1302, 0x1303, 0xC02B, 0xC02F, 0xC02C, 0xC030),
        groups=(GREASE[3], 0x11EC, 29, 23, 24),
        signature_schemes=(0x0403, 0x0804, 0x0401, 0x0503, 0x0805, 0x0501, 0x0806, 0x0601),
        raw=message,
    )


def test_what_python_sends(client_context: ssl.SSLContext, tls_version: ssl.TLSVersion) -> None:
    client_context.set_alpn_protocols(["x"])
    hello = ClientHello.parse(hello_of(client_context, NAME)[5:])
    assert hello.server_name == NAME
    assert hello.alpn_protocols == (b"x",)
    assert hello.versions[0] == tls_version
    assert 29 in hello.groups
    assert 0x0804 in hello.signature_schemes
    suite = 0x1301 if tls_version is ssl.TLSVersion.TLSv1_3 else 0xC02F
    assert suite in hello.cipher_suites


def test_what_is_not_there_is_empty() -> None:
    for has_extensions in (False, True):
        hello = ClientHello.parse(Hello(has_extensions=has_extensions).message)
        assert hello.server_name is hello.requested_name is None
        assert hello.alpn_protocols == hello.groups == hello.signature_schemes == ()
        assert hello.cipher_suites == (0x1301, 0xC02F)


@pytest.mark.parametrize(
    ("legacy_version", "versions"),
    [
        (0x0300, (0x0300,)),
        (0x0301, (0x0301,)),
        (0x0303, (0x0303, 0x0302, 0x0301)),
        (0x0304, (0x0303, 0x0302, 0x0301)),
        (0xFFFF, (0x0303, 0x0302, 0x0301)),
    ],
)
def test_the_legacy_version_names_the_newest(
    legacy_version: int, versions: tuple[int, ...]
) -> None:
    hello = Hello(version=legacy_version.to_bytes(2))
    assert ClientHello.parse(hello.message).versions == versions
    listed = hello.with_extension(ExtensionType.SUPPORTED_VERSIONS, b"\x02\x03\x04")
    assert ClientHello.parse(listed.message).versions == (0x0304,)


@pytest.mark.parametrize(
    ("name", "normal_form"),
    [
        (b"a.example", "a.example"),
        (b"A.eXample.", "a.example"),
        (b"localhost", "localhost"),
        (b"_dmarc.xn--bcher-kva.example", "_dmarc.xn--bcher-kva.example"),
        (b"x" * 63 + b".1.a", "x" * 63 + ".1.a"),
        (b"x" * 64 + b".example", None),
        (b"a." * 126 + b"a", "a." * 126 + "a"),
        (b"a." * 126 + b"a.", "a." * 126 + "a"),
        (b"a." * 126 + b"aa", None),
        (b"a." * 127 + b"..", None),
        (b"a" * 65000, None),
        (b"", None),
        (b".", None),
        (b"a..example", None),
        (b"127.0.0.1", None),
        (b"::1", None),
        (b"*.example", None),
        (b"a.example\n", None),
        (b"a\0.example", None),
        (b"\xe4.example", None),
        ("\u212a.example".encode(), None),  # the Kelvin sign, whose lower case is a k
    ],
)
def test_name_is_a_host_name(name: bytes, normal_form: str | None) -> None:
    hello = ClientHello.parse(Hello().with_name(name).message)
    assert hello.server_name == normal_form
    assert hello.requested_name == name


def test_its_repr_is_short_and_a_hello_can_be_a_key() -> None:
    message = browser_hello(b"a.example").message
    hello = ClientHello.parse(bytearray(message))
    assert len(repr(hello)) < 600
    assert hash(hello) == hash(ClientHello.parse(message))


################################################################
# What is none
################################################################


def test_a_hello_that_is_cut_anywhere_is_none() -> None:
    message = browser_hello(NAME.encode()).message
    ClientHello.parse(message)
    for end in range(len(message)):
        with pytest.raises(ValueError, match=r"is cut, or a length|not a ClientHello"):
            ClientHello.parse(message[:end])
    with pytest.raises(ValueError, match="is cut, or a length"):
        ClientHello.parse(message + b"x")


def extension(kind: ExtensionType, content: bytes) -> Callable[[Hello], Hello]:
    return lambda hello: hello.with_extension(kind, content)


ALPN = ExtensionType.APPLICATION_LAYER_PROTOCOL_NEGOTIATION
# Some of it OpenSSL finds while it is after something else.
MALFORMED_ALERTS = (Alert.DECODE_ERROR, Alert.ILLEGAL_PARAMETER, Alert.PROTOCOL_VERSION)
MALFORMED: dict[str, Callable[[Hello], Hello]] = {
    "session ID": lambda hello: attrs.evolve(hello, session_id=bytes(33)),
    "no suites": lambda hello: attrs.evolve(hello, suites=b""),
    "odd suites": lambda hello: attrs.evolve(hello, suites=b"\x13\x01\x13"),
    "no null compression": lambda hello: attrs.evolve(hello, compressions=b"\x01"),
    "no compression": lambda hello: attrs.evolve(hello, compressions=b""),
    "no name": extension(ExtensionType.SERVER_NAME, b"\0\0"),
    "another kind of name": extension(ExtensionType.SERVER_NAME, b"\0\5\1\0\2ab"),
    "two names": extension(ExtensionType.SERVER_NAME, b"\0\x0a" + b"\0\0\2ab" * 2),
    "behind the name": extension(ExtensionType.SERVER_NAME, b"\0\6\0\0\2abx"),
    "behind the names": extension(ExtensionType.SERVER_NAME, b"\0\5\0\0\2abx"),
    "no protocol": extension(ALPN, b"\0\0"),
    "empty protocol": extension(ALPN, b"\0\3\1x\0"),
    "cut protocol": extension(ALPN, b"\0\3\3h2"),
    "behind the protocols": extension(ALPN, b"\0\3\2h2x"),
    "no group": extension(ExtensionType.SUPPORTED_GROUPS, b"\0\0"),
    "odd groups": extension(ExtensionType.SUPPORTED_GROUPS, b"\0\3\0\x1d\0"),
    "no signature": extension(ExtensionType.SIGNATURE_ALGORITHMS, b"\0\0"),
    "odd signatures": extension(ExtensionType.SIGNATURE_ALGORITHMS, b"\0\3\x08\x04\x08"),
    "odd versions": extension(ExtensionType.SUPPORTED_VERSIONS, b"\3\3\4\3"),
    "behind the versions": extension(ExtensionType.SUPPORTED_VERSIONS, b"\2\3\4x"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_parts_are_refused_by_openssl_too(name: str, any_server: ssl.SSLContext) -> None:
    good = browser_hello(NAME.encode())
    assert verdict(any_server, good.message) is None
    message = MALFORMED[name](good).message
    assert verdict(any_server, message) in MALFORMED_ALERTS
    with pytest.raises(ValueError, match="the ClientHello is malformed: "):
        ClientHello.parse(message)


@pytest.mark.parametrize("more", [b"x", b"\x30\x39\0", b"\x30\x39\0\1", b"\x30\x39\xff\xffx"])
def test_an_extension_that_is_cut_is_refused_by_openssl_too(
    more: bytes, any_server: ssl.SSLContext
) -> None:
    extensions = vector(b"\0\x17\0\0" + more)
    body = Hello(has_extensions=False).message[4:] + extensions
    assert verdict(any_server, b"\x01" + vector(body, 3)) is Alert.DECODE_ERROR
    with pytest.raises(ValueError, match="is cut, or a length"):
        ClientHello.parse(b"\x01" + vector(body, 3))


@pytest.mark.parametrize("kind", [*ExtensionType, 12345, GREASE[0]])
def test_openssl_judges_an_extension_that_comes_twice(
    kind: int, any_server: ssl.SSLContext
) -> None:
    """It refuses those that it knows."""
    hello = browser_hello(NAME.encode())
    content = dict(hello.extensions).get(kind, b"")
    hello.extensions = [each for each in hello.extensions if each[0] != kind]
    hello.extensions += [(kind, content)] * 2
    message = hello.message
    if kind in list(ExtensionType):
        assert verdict(any_server, message) is Alert.ILLEGAL_PARAMETER
        with pytest.raises(ValueError, match=f"it has extension {int(kind)} twice"):
            ClientHello.parse(message)
    else:
        assert verdict(any_server, message) is None
        ClientHello.parse(message)


def test_another_message_is_no_hello() -> None:
    with pytest.raises(ValueError, match="this handshake message is not a ClientHello"):
        ClientHello.parse(b"\x02" + Hello().message[1:])


@pytest.mark.parametrize("more", [0, 1])
def test_the_longest_hello(more: int) -> None:
    free = MAX_HELLO_BYTES + more - len(Hello().with_extension(12345, b"").message)
    hello = Hello().with_extension(12345, bytes(free))
    message = hello.message
    assert len(message) == MAX_HELLO_BYTES + more
    if more:
        with pytest.raises(ValueError, match="has more than 64 KiB"):
            ClientHello.parse(message)
    else:
        ClientHello.parse(message)


def verdict(context: ssl.SSLContext, message: bytes) -> Alert | None:
    """Return the alert that OpenSSL sends to a ClientHello, or None if it answers it."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    incoming.write(fragments(b"\x16\x03\x01\0\0" + message, 16384))
    with suppress(ssl.SSLError):
        context.wrap_bio(incoming, outgoing, server_side=True).do_handshake()
    flight = outgoing.read()
    assert flight[0] in (21, 22)
    return Alert(flight[6]) if flight[0] == 21 else None


def test_openssl_agrees_on_damaged_hellos(ca: trustme.CA, any_server: ssl.SSLContext) -> None:
    """It refuses all that is refused here. What it calls malformed and is accepted here is so in
    extensions that the parser does not look into.
    """
    hellos = [browser_hello(NAME.encode()).message]
    for version in ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3:
        context = client_context_for(ca, version)
        context.set_alpn_protocols(["h2", "http/1.1"])
        hellos.append(hello_of(context, NAME)[5:])
    dice = random.Random(1)
    seen = Counter[str]()
    for _ in range(4000):
        message = damaged(dice.choice(hellos), dice)
        alert = verdict(any_server, message)
        hello = None
        with suppress(ValueError):
            hello = ClientHello.parse(message)
        if hello is None:
            assert alert is not None, message.hex()
            seen["refused by both"] += 1
        elif alert is not Alert.DECODE_ERROR:
            seen["answered" if alert is None else "refused for its content"] += 1
        else:
            parts = Hello.of(message)
            parts.extensions = [each for each in parts.extensions if each[0] in READ]
            assert verdict(any_server, parts.message) is not Alert.DECODE_ERROR, message.hex()
            seen["malformed elsewhere"] += 1
    assert seen["refused by both"] > 1000
    assert seen["answered"] > 1000
    assert seen["refused for its content"] > 100
    assert 100 < seen["malformed elsewhere"] < 300


################################################################
# From a stream of bytes
################################################################


def read(data: bytes, chunk: int | None = None) -> tuple[ClientHello | None, HelloReader]:
    reader, hello = HelloReader(), None
    for start in range(0, len(data), chunk or len(data) or 1):
        assert hello is None, "it was whole before"
        hello = reader.feed(data[start : start + chunk if chunk else None])
    return hello, reader


@pytest.mark.parametrize("size", [1, 7, 1000, 16384])
def test_a_hello_is_put_together_at_its_last_byte(size: int) -> None:
    hello = browser_hello(NAME.encode())
    data = fragments(hello.record, size)
    for chunk in (1, 7, None):
        found, reader = read(data, chunk)
        assert found == ClientHello.parse(hello.message)
        assert reader.received == data


@pytest.mark.parametrize("size", [1, 500])
def test_a_hello_that_is_cut_anywhere_is_awaited(
    size: int, client_context: ssl.SSLContext, stride: int
) -> None:
    data = fragments(hello_of(client_context, NAME), size)
    # Records of one byte are 6 bytes long: steps of 7 meet each place in a record.
    step = 7 if size == 1 and stride > 1 else 1
    for cut in range(0, len(data), step):
        found, reader = read(data[:cut])
        assert found is None
        assert reader.feed(data[cut:]) is not None


@pytest.mark.parametrize("cut", range(1, 200, 13))
def test_what_follows_is_left_alone(cut: int) -> None:
    """Early data, for example."""
    record = browser_hello(NAME.encode()).record
    more = b"\x14\x03\x03\0\1\1\x17\x03\x03\1\0" + bytes(256)
    found, reader = read(record + more[:cut])
    assert found is not None
    assert reader.received == record + more[:cut]


def test_warnings_between_the_pieces_are_received_too() -> None:
    pieces = fragments(browser_hello(NAME.encode()).record, 100)
    data = pieces[:105] + WARNING + pieces[105:]
    found, reader = read(data, 11)
    assert found is not None
    assert reader.received == data


def test_second_hello_can_be_read_too(ca: trustme.CA, server_cert: trustme.LeafCert) -> None:
    """TLS 1.3, where the server asks for another key share."""
    server_context = server_context_for(server_cert)
    server_context.set_ecdh_curve("secp384r1")
    client = TLSConnection(client_context_for(ca), server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    first, reader = read(bytes(client.data_to_send()))
    server.feed(reader.received)
    assert not server.do_handshake()
    transfer(server, client)
    assert not client.do_handshake()
    flight = client.data_to_send()
    assert flight[0] == 20  # change_cipher_spec, which is no beginning
    second, _ = read(flight[6:], 9)
    assert first is not None
    assert second is not None
    assert (first.server_name, second.server_name) == (NAME, NAME)
    assert first != second


@pytest.mark.parametrize("chunk", [1, None])
@pytest.mark.parametrize("name", [name for name in STRANGE if name != "SSL 2"])
def test_what_is_no_hello_is_refused_in_the_words_of_a_server(
    name: str, chunk: int | None, any_server: ssl.SSLContext
) -> None:
    server, reader = TLSConnection(any_server, server_side=True), HelloReader()
    error, data = None, STRANGE[name]
    for start in range(0, len(data), chunk or len(data) or 1):
        piece = data[start : start + chunk if chunk else None]
        server.feed(piece)
        try:
            assert reader.feed(piece) is None
        except TLSError as exc:
            error = exc
        assert repr(error) == repr(failure(server)), "at once"
        if error is not None:
            return
    server.feed_eof()
    with pytest.raises(TruncationError) as caught:
        reader.feed_eof()
    assert repr(caught.value) == repr(failure(server))


@pytest.mark.parametrize("size", [1, 16384])
@pytest.mark.parametrize("versions", [(0x0304,), (0x0304, 0x0303)])
def test_malformed_hellos_are_refused_in_the_words_of_a_server(
    versions: tuple[int, ...], size: int, any_server: ssl.SSLContext, stride: int
) -> None:
    """At once, whatever OpenSSL would choose a certificate by."""
    listed = vector(b"".join(version.to_bytes(2) for version in versions), 1)
    good = browser_hello(NAME.encode()).with_extension(ExtensionType.SUPPORTED_VERSIONS, listed)
    dice, refused = random.Random(2), 0
    # Records of one byte take long: a few of the same hellos do by default.
    count = 300 if size > 1 or stride == 1 else 50
    for _ in range(count):
        message = damaged(good.message, dice)
        record = fragments(b"\x16\x03\x01\0\0" + message, size)
        server, error = TLSConnection(any_server, server_side=True), None
        server.feed(record)
        try:
            assert HelloReader().feed(record) is not None
        except TLSError as exc:
            error = exc
            refused += 1
        with suppress(TLSError):
            while not server.do_handshake() and server.is_behind:
                pass
        assert error is None or repr(error) == repr(failure(server)), message.hex()
    assert refused > count / 6


def test_format_of_ssl_2_is_refused_in_words_of_its_own() -> None:
    for chunk in (1, None):
        with pytest.raises(TLSError, match="in the format of SSL 2") as caught:
            read(STRANGE["SSL 2"], chunk)
        assert caught.value.error_type == "unsupported_protocol"


@pytest.mark.parametrize("name", [b"\xff.example", b"a\r\nb\xe4"])
def test_name_that_is_not_ascii_is_refused(name: bytes) -> None:
    with pytest.raises(TLSError, match="which is not a host name: it is not ASCII"):
        read(Hello().with_name(name).record)


@pytest.mark.parametrize(
    "data",
    [
        b"\x16\x03\x01\x00\x04\x01\x01\x00\x00",
        b"\x16\x03\x01\x00\x04\x01\x00\xff\x00" + b"\x16\x03\x01\x00\x01x" * MAX_HELLO_BYTES,
        b"\x16\x03\x01\x00\x04\x01\x00\xff\x00" + WARNING * MAX_HELLO_BYTES,
        b"\x16\x03\x01\x00\x04\x01\x00\xff\x00" + b"\x16\x03\x01\x00\x00" * MAX_HELLO_BYTES,
        b"\x16\x03\x01\x00\x04\x01\x00\xff\x00"
        + (b"\x16\x03\x01\x3f\xff" + bytes(16383)) * 3
        + (b"\x16\x03\x01\x40\x00" + bytes(16383)),
    ],
    ids=["it says so", "it comes", "among warnings", "empty records", "half a record"],
)
def test_hello_without_end_is_not_kept(data: bytes) -> None:
    reader = HelloReader()

    def feed_all() -> None:
        while len(reader.received) < len(data):
            reader.feed(data[len(reader.received) :][: reader.most_bytes])

    with pytest.raises(TLSError, match="a ClientHello of more than 64 KiB") as caught:
        feed_all()
    assert caught.value.error_type == "excessive_message_size"
    assert len(reader.received) <= MAX_HELLO_BYTES + 1


def test_a_hello_of_64_kib_with_its_records_is_read() -> None:
    free = MAX_HELLO_BYTES - 4 * 5 - len(Hello().with_extension(12345, b"").message)
    data = Hello().with_extension(12345, bytes(free)).record
    assert len(data) == MAX_HELLO_BYTES
    hello, _ = read(data, 16384)
    assert hello is not None
