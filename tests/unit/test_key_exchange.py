"""The group of the key exchange, which few Pythons tell, is read off the server's messages."""

from __future__ import annotations

import random
import ssl
from collections.abc import Callable, Iterator
from contextlib import suppress
from itertools import pairwise

import pytest
import trustme

from tests.helpers import (
    NAME,
    VERSIONS,
    client_context_for,
    server_context_for,
    server_of,
    shake_hands,
)
from trio_tlsbio import (
    ClientHello,
    HandshakeInfo,
    TLSConnection,
    TLSError,
    TLSSession,
    contexts_by_name,
)
from trio_tlsbio._core.hello import HELLO_RETRY_REQUEST
from trio_tlsbio._core.iana import GROUPS
from trio_tlsbio._core.key_exchange import key_exchange_in, key_exchange_message

ECDHE = "ECDHE-ECDSA-AES128-GCM-SHA256"
TLS13 = "TLS_AES_128_GCM_SHA256"
HAS_MLKEM = ssl.OPENSSL_VERSION_INFO >= (3, 5)


def key_exchange_of(records: bytes, cipher: str) -> tuple[str | None, str | None]:
    """Return the group and the scheme that a server's records tell."""
    message = key_exchange_message(records, is_tls13=cipher.startswith("TLS_"))
    return key_exchange_in(message, cipher)


def connect(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext | Callable[[ClientHello], object],
    session: TLSSession | None = None,
    chunk: int | None = None,
) -> tuple[TLSConnection, HandshakeInfo]:
    """Shake hands, and return the client and what both sides know of it."""
    client = TLSConnection(client_context, server_hostname=NAME, session=session)
    server = server_of(server_context)
    shake_hands(client, server, chunk)
    info, on_server = client.handshake, server.handshake
    assert info is not None
    assert on_server is not None
    assert info.group == on_server.group
    assert info.signature_scheme == on_server.signature_scheme
    signed: object = getattr(client.ssl_object, "server_sigalg", None)  # from Python 3.15 on
    if callable(signed):
        assert signed() == info.signature_scheme
    tells: object = getattr(client.ssl_object, "group", None)  # from Python 3.15 on
    if callable(tells) and info.group is not None:
        assert tells() == info.group
    return client, info


@pytest.mark.parametrize("chunk", [None, 1, 7])
@pytest.mark.parametrize(
    ("curve", "group"),
    [("prime256v1", "secp256r1"), ("secp384r1", "secp384r1"), ("secp521r1", "secp521r1")],
)
def test_the_group_is_told(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    curve: str,
    group: str,
    chunk: int | None,
) -> None:
    """Also where a TLS 1.3 server has asked for another key share than the first."""
    server_context.set_ecdh_curve(curve)
    _, info = connect(client_context, server_context, chunk=chunk)
    assert info.group == group
    assert not info.is_post_quantum


def test_the_default(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    _, info = connect(client_context, server_context)
    is_post_quantum = HAS_MLKEM and tls_version is ssl.TLSVersion.TLSv1_3
    assert info.group == ("X25519MLKEM768" if is_post_quantum else "x25519")
    assert info.is_post_quantum is is_post_quantum


@pytest.mark.parametrize("curve", ["prime256v1", "secp384r1"])
def test_the_group_is_told_where_the_context_looks_at_names(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, curve: str
) -> None:
    """Also where the server has asked for another key share than the first."""
    server_context.set_ecdh_curve(curve)
    _, info = connect(client_context, contexts_by_name({NAME: server_context}))
    assert info.group == {"prime256v1": "secp256r1"}.get(curve, curve)


def test_a_resumed_session(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    """It has a key exchange of its own in TLS 1.3, and none in TLS 1.2."""
    server_context.set_ecdh_curve("secp384r1")
    client, _ = connect(client_context, server_context)
    _, info = connect(client_context, server_context, client.session)
    assert info.session_reused
    assert info.group == ("secp384r1" if tls_version is ssl.TLSVersion.TLSv1_3 else None)


@pytest.mark.parametrize(
    ("key_type", "cipher", "scheme"),
    [
        (trustme.KeyType.ECDSA, ECDHE, "ecdsa_secp256r1_sha256"),
        (trustme.KeyType.RSA, "ECDHE-RSA-AES128-GCM-SHA256", "rsa_pss_rsae_sha256"),
        (trustme.KeyType.RSA, "AES128-GCM-SHA256", None),
    ],
)
@pytest.mark.parametrize("chunk", [None, 1])
def test_the_signature_of_tls12_is_told(
    ca: trustme.CA, key_type: trustme.KeyType, cipher: str, scheme: str | None, chunk: int | None
) -> None:
    client_context = client_context_for(ca, VERSIONS["tls12"])
    server_context = server_context_for(ca.issue_cert(NAME, key_type=key_type), VERSIONS["tls12"])
    for context in (client_context, server_context):
        context.set_ciphers(cipher)
    client, info = connect(client_context, server_context)
    assert info.signature_scheme == scheme
    _, again = connect(client_context, server_context, client.session, chunk)
    assert again.session_reused
    assert again.signature_scheme is None


def test_the_signature_of_tls13_is_told_where_python_has_it(ca: trustme.CA) -> None:
    server_context = server_context_for(ca.issue_cert(NAME))
    client, info = connect(client_context_for(ca), server_context)
    has_it = hasattr(client.ssl_object, "server_sigalg")
    assert info.signature_scheme == ("ecdsa_secp256r1_sha256" if has_it else None)


DHE = "DHE-RSA-AES128-GCM-SHA256"


def signature_scheme_in(records: bytes, cipher: str) -> str | None:
    return key_exchange_of(records, cipher)[1]


def key_exchange(body: bytes) -> bytes:
    """The record of a ServerKeyExchange."""
    message = bytes([12]) + len(body).to_bytes(3) + body
    return bytes([22, 3, 3]) + len(message).to_bytes(2) + message


def test_the_signature_of_diffie_hellman_over_numbers() -> None:
    parameters = b"\0\3abc" + b"\0\1\2" + b"\0\5value"
    assert signature_scheme_in(key_exchange(parameters + b"\4\1"), DHE) == "rsa_pkcs1_sha256"
    assert signature_scheme_in(key_exchange(parameters + b"\xee\xef"), DHE) == "0xeeef"
    assert signature_scheme_in(key_exchange(parameters), "DHE-PSK-AES128-GCM-SHA256") is None


@pytest.mark.parametrize("filler", [b"\0", b"\x03", b"\xff"])
@pytest.mark.parametrize("cipher", [ECDHE, DHE])
def test_a_key_exchange_that_is_cut_raises_nothing(filler: bytes, cipher: str) -> None:
    for size in range(0, 400, 7):
        signature_scheme_in(key_exchange(filler * size), cipher)


def test_no_group_takes_part_in_rsa(ca: trustme.CA) -> None:
    cert = ca.issue_cert(NAME, key_type=trustme.KeyType.RSA)
    client_context = client_context_for(ca, VERSIONS["tls12"])
    server_context = server_context_for(cert, VERSIONS["tls12"])
    for context in (client_context, server_context):
        context.set_ciphers("AES128-GCM-SHA256")
    _, info = connect(client_context, server_context)
    assert info.group is None
    assert not info.is_post_quantum


async def test_it_outlives_a_certificate_on_request(ca: trustme.CA) -> None:
    client_context = client_context_for(ca)
    ca.issue_cert("client@example.org").configure_cert(client_context)
    client_context.post_handshake_auth = True
    server_context = server_context_for(ca.issue_cert(NAME))
    ca.configure_trust(server_context)
    server_context.post_handshake_auth = True
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.set_ecdh_curve("secp384r1")
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    server.verify_client_post_handshake()
    client.feed(server.data_to_send())
    assert client.receive() is None
    server.feed(client.data_to_send())
    assert server.client_has_answered()
    assert server.handshake is not None
    assert server.handshake.group == "secp384r1"


################################################################
# The parser
################################################################


@pytest.fixture
def flight(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> bytes:
    """What a server that prefers secp384r1 answers to a ClientHello."""
    server_context.set_ecdh_curve("secp384r1")
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    server.feed(client.data_to_send())
    server.do_handshake()
    first = server.data_to_send()
    client.feed(first)
    client.do_handshake()
    server.feed(client.data_to_send())
    server.do_handshake()
    return first + server.data_to_send()


def group_of(*records: bytes, cipher: str = ECDHE) -> str | None:
    return key_exchange_of(b"".join(records), cipher)[0]


@pytest.fixture
def cipher(tls_version: ssl.TLSVersion) -> str:
    return TLS13 if tls_version is ssl.TLSVersion.TLSv1_3 else ECDHE


def test_a_flight_that_is_cut_tells_the_group_or_none(flight: bytes, cipher: str) -> None:
    told = [group_of(flight[:end], cipher=cipher) for end in range(len(flight) + 1)]
    changes = [pair for pair in pairwise(told) if pair[0] != pair[1]]
    assert changes == [(None, "secp384r1")]


def test_damage_is_no_error(flight: bytes, cipher: str) -> None:
    """It tells another group or none, and OpenSSL refuses the handshake."""
    source = random.Random(1)
    for position in range(len(flight)):
        damaged = bytearray(flight)
        damaged[position] ^= source.randrange(1, 256)
        group_of(bytes(damaged), cipher=cipher)


def message(kind: int, body: bytes) -> bytes:
    payload = bytes([kind]) + len(body).to_bytes(3) + body
    return b"\x16\x03\x03" + len(payload).to_bytes(2) + payload


@pytest.mark.parametrize("size", [1, 8, 9, 100])
def test_messages_share_records_or_continue_in_the_next(size: int) -> None:
    certificate, exchange = (
        message(kind, body)[5:]
        for kind, body in ((11, b"odd"), (12, b"\3\0\x17" + b"\1P" + b"\4\3" + b"\0\1S"))
    )
    messages = certificate + exchange
    parts = [messages[at : at + size] for at in range(0, len(messages), size)]
    records = b"".join(b"\x16\x03\x03" + len(part).to_bytes(2) + part for part in parts)
    assert key_exchange_of(records, ECDHE) == ("secp256r1", "ecdsa_secp256r1_sha256")


def server_hello(cipher_suite: bytes, extensions: bytes = b"") -> bytes:
    body = b"\x03\x03" + bytes(32) + b"\0" + cipher_suite + b"\0"
    return message(2, body + len(extensions).to_bytes(2) + extensions)


def key_share(group: int) -> bytes:
    content = group.to_bytes(2) + b"\0\x01k"
    return b"\0\x33" + len(content).to_bytes(2) + content


def messages() -> Iterator[tuple[str, bytes, bytes, str | None]]:
    curve = b"\x03" + (24).to_bytes(2)
    # Diffie-Hellman with a prime of 6,144 bits, whose length begins like a named curve.
    yield "DHE-RSA-AES128-GCM-SHA256", b"\x00\x9e", b"\x03\x00" + b"\x18" * 768, None
    yield "ECDHE-RSA-AES128-GCM-SHA256", b"\xc0\x2f", curve, "secp384r1"
    yield "ECDHE-PSK-AES128-CBC-SHA256", b"\xc0\x37", b"\0\x04hint" + curve, "secp384r1"
    yield "ECDHE-PSK-AES128-CBC-SHA256", b"\xc0\x37", b"\xff\xffhint" + curve, None
    yield "ECDHE-RSA-AES128-GCM-SHA256", b"\xc0\x2f", b"\x01" + curve, None  # explicit_prime
    yield "ECDHE-RSA-AES128-GCM-SHA256", b"\xc0\x2f", b"\x03", None


@pytest.mark.parametrize(("cipher", "suite", "exchange", "group"), list(messages()))
def test_server_key_exchange(cipher: str, suite: bytes, exchange: bytes, group: str | None) -> None:
    assert group_of(server_hello(suite), message(12, exchange), cipher=cipher) == group


def test_status_of_a_certificate_comes_before_the_group() -> None:
    certificate, status = message(11, bytes(100)), message(22, bytes(100))
    exchange = message(12, b"\x03" + (24).to_bytes(2))
    assert group_of(server_hello(b"\xc0\x2f"), certificate, status, exchange) == "secp384r1"


def test_another_hello_is_asked_for_without_a_group() -> None:
    cookie = b"\0\x2c\0\4\0\2ab"
    retry = server_hello(b"\x13\x01", cookie).replace(bytes(32), HELLO_RETRY_REQUEST)
    assert group_of(retry, server_hello(b"\x13\x01", key_share(24)), cipher=TLS13) == "secp384r1"


def test_a_group_that_was_only_asked_for_is_not_told() -> None:
    """After the second ClientHello, a server can resume a session without a key exchange."""
    asked_for = b"\0\x33\0\2" + (24).to_bytes(2)
    retry = server_hello(b"\x13\x01", asked_for).replace(bytes(32), HELLO_RETRY_REQUEST)
    assert group_of(retry, cipher=TLS13) is None
    assert group_of(retry, server_hello(b"\x13\x01"), cipher=TLS13) is None


@pytest.mark.parametrize("number", [*GROUPS, 0x0A0A])
def test_names_of_groups(number: int) -> None:
    expected = GROUPS.get(number, "0x0a0a")
    assert group_of(server_hello(b"\x13\x01", key_share(number)), cipher=TLS13) == expected


@pytest.mark.parametrize("size", range(60))
def test_a_message_that_is_shorter_than_it_says(size: int) -> None:
    """OpenSSL refuses it, so nobody sees what this tells; but nothing is raised."""
    whole = server_hello(b"\x13\x01", key_share(29))
    payload = whole[5 : 5 + size]
    group_of(b"\x16\x03\x03" + len(payload).to_bytes(2) + payload, cipher=TLS13)
    body = whole[9 : 9 + size]
    group_of(message(2, body), cipher=TLS13)
    exchange = (b"\0\x04hint\x03" + (24).to_bytes(2))[: size % 10]
    group_of(message(12, exchange), cipher="ECDHE-PSK-AES128-CBC-SHA256")


def test_what_comes_after_many_certificates_is_not_kept(
    client_context: ssl.SSLContext,
) -> None:
    """A peer that sends for ever takes no memory."""
    client = TLSConnection(client_context, server_hostname=NAME)
    client.feed(b"\x16\x03\x03\x00\x04\x0b\x01\x00\x00")
    for _ in range(40):
        client.feed(b"\x16\x03\x03\x40\x00" + bytes(1 << 14))
        with suppress(TLSError):
            client.do_handshake()
    assert client._handshake is None or len(client._handshake._server_records) < 256 * 1024
