"""A record layer that says anything, under the keys that a key log tells.

The rules are quoted where they are kept. What breaks them is up to the caller: any content type,
any length, any number of records. The fuzzing and the tests of hostile peers speak by it. AES-GCM
alone.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator
from typing import Protocol

import attrs
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256, SHA384, HashAlgorithm

# Content types (RFC 9846 section 5.1).
CHANGE_CIPHER_SPEC, ALERT, HANDSHAKE, APPLICATION_DATA = 20, 21, 22, 23

# Levels of alerts (RFC 9846 section 6).
WARNING, FATAL = 1, 2

TLS12 = b"\x03\x03"
HEADER_BYTES = 5


def record(content_type: int, data: bytes, version: bytes = TLS12) -> bytes:
    """TLSPlaintext: type, version, length, fragment (RFC 9846 section 5.1)."""
    return _header(content_type, len(data), version) + data


def _header(content_type: int, size: int, version: bytes = TLS12) -> bytes:
    """What is longer than a length can tell has a lie there."""
    return bytes([content_type]) + version + (size % 2**16).to_bytes(2, "big")


def handshake(message_type: int, body: bytes, length: int | None = None) -> bytes:
    """Handshake: type, length, body (RFC 9846 section 4). The length may be a lie."""
    size = len(body) if length is None else length
    return bytes([message_type]) + (size % 2**24).to_bytes(3, "big") + body


def take_records(data: bytearray) -> Iterator[bytes]:
    """Take whole records out of what has arrived."""
    while len(data) >= HEADER_BYTES:
        end = HEADER_BYTES + int.from_bytes(data[3:5], "big")
        if len(data) < end:
            return
        yield bytes(data[:end])
        del data[:end]


def records_in(data: bytes) -> Iterator[bytes]:
    """Cut data into records, of which the last is whole too."""
    left = bytearray(data)
    yield from take_records(left)
    assert not left, "what is sent ends in the middle of a record"


class Keys(Protocol):
    """What protects one direction."""

    def seal(self, content_type: int, data: bytes, padding: int = 0) -> bytes:
        """Make the next record."""
        ...

    def open(self, record: bytes) -> tuple[int, bytes]:
        """Return type and content of the next record."""
        ...

    def update(self) -> None:
        """Go on with the next keys, after a KeyUpdate."""
        ...


################################################################
# TLS 1.3
################################################################


def expand_label(secret: bytes, label: bytes, length: int, algorithm: HashAlgorithm) -> bytes:
    """HKDF-Expand-Label with an empty context (RFC 9846 section 7.1), for up to one hash's length:
    there HKDF-Expand is one HMAC (RFC 5869 section 2.3).
    """
    label = b"tls13 " + label
    info = length.to_bytes(2, "big") + bytes([len(label)]) + label + b"\0"
    return hmac.digest(secret, info + b"\x01", algorithm.name)[:length]


@attrs.define(eq=False, repr=False)
class Keys13:
    """One direction of TLS 1.3 with AES-GCM."""

    _secret: bytes
    _cipher: str
    _sequence: int = attrs.field(default=0, init=False)
    _aead: AESGCM = attrs.field(init=False)
    _iv: bytes = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self._derive()

    def _derive(self) -> None:
        """Make the traffic keys (RFC 9846 section 7.3)."""
        algorithm = _hash_of(self._cipher)
        self._aead = AESGCM(expand_label(self._secret, b"key", _key_bytes(self._cipher), algorithm))
        self._iv = expand_label(self._secret, b"iv", 12, algorithm)
        self._sequence = 0

    def update(self) -> None:
        """Go on to the next generation, as after a KeyUpdate (RFC 9846 section 7.2)."""
        algorithm = _hash_of(self._cipher)
        self._secret = expand_label(self._secret, b"traffic upd", algorithm.digest_size, algorithm)
        self._derive()

    def _nonce(self) -> bytes:
        """The sequence number, XORed with the IV (RFC 9846 section 5.3)."""
        nonce = int.from_bytes(self._iv, "big") ^ self._sequence
        self._sequence += 1
        return nonce.to_bytes(12, "big")

    def seal(self, content_type: int, data: bytes, padding: int = 0) -> bytes:
        """TLSInnerPlaintext: content, type, zeros (RFC 9846 section 5.2). Type 0 is all padding."""
        inner = data + bytes([content_type]) + bytes(padding)
        header = _header(APPLICATION_DATA, len(inner) + 16)
        return header + self._aead.encrypt(self._nonce(), inner, header)

    def open(self, record: bytes) -> tuple[int, bytes]:
        inner = self._aead.decrypt(
            self._nonce(), record[HEADER_BYTES:], record[:HEADER_BYTES]
        ).rstrip(b"\0")
        return inner[-1], inner[:-1]


################################################################
# TLS 1.2
################################################################


def _prf(secret: bytes, label: bytes, seed: bytes, length: int, name: str) -> bytes:
    """P_hash (RFC 5246 section 5)."""
    seed = label + seed
    block, output = seed, b""
    while len(output) < length:
        block = hmac.digest(secret, block, name)
        output += hmac.digest(secret, block + seed, name)
    return output[:length]


@attrs.define(eq=False, repr=False)
class Keys12:
    """One direction of TLS 1.2 with AES-GCM (RFC 5288 section 3). Its Finished was the first."""

    _aead: AESGCM
    _salt: bytes
    _sequence: int = attrs.field(default=1, init=False)

    def _additional_data(self, content_type: int, length: int) -> tuple[bytes, bytes]:
        """Sequence number, and that with type, version and length (RFC 5246 section 6.2.3.3)."""
        sequence = self._sequence.to_bytes(8, "big")
        self._sequence += 1
        return sequence, sequence + _header(content_type, length)

    def seal(self, content_type: int, data: bytes, padding: int = 0) -> bytes:
        assert not padding, "TLS 1.2 pads no AEAD ciphers"
        sequence, extra = self._additional_data(content_type, len(data))
        # The explicit part of the nonce is ours to choose.
        sealed = sequence + self._aead.encrypt(self._salt + sequence, data, extra)
        return record(content_type, sealed)

    def open(self, record: bytes) -> tuple[int, bytes]:
        sealed = record[HEADER_BYTES:]
        _, extra = self._additional_data(record[0], len(sealed) - 8 - 16)
        return record[0], self._aead.decrypt(self._salt + sealed[:8], sealed[8:], extra)

    def update(self) -> None:
        """TLS 1.2 has no KeyUpdate."""


def keys12(
    master_secret: bytes, client_random: bytes, server_random: bytes, cipher: str
) -> tuple[Keys12, Keys12]:
    """The keys of the client's and of the server's direction (RFC 5246 section 6.3)."""
    size = _key_bytes(cipher)
    block = _prf(
        master_secret,
        b"key expansion",
        server_random + client_random,
        2 * size + 2 * 4,
        _hash_of(cipher).name,
    )
    client_key, server_key = block[:size], block[size : 2 * size]
    salts = block[2 * size :]
    return Keys12(AESGCM(client_key), salts[:4]), Keys12(AESGCM(server_key), salts[4:])


################################################################
# What the names of ciphers tell
################################################################


def _hash_of(cipher: str) -> HashAlgorithm:
    return SHA384() if cipher.endswith("SHA384") else SHA256()


def _key_bytes(cipher: str) -> int:
    return 32 if "256_GCM" in cipher.replace("-", "_") else 16


################################################################
# Handshake messages
################################################################

# Types (RFC 9846 section 4, RFC 5246 section 7.4).
HELLO_REQUEST, CLIENT_HELLO, SERVER_HELLO, NEW_SESSION_TICKET = 0, 1, 2, 4
END_OF_EARLY_DATA, ENCRYPTED_EXTENSIONS, CERTIFICATE = 5, 8, 11
CERTIFICATE_REQUEST, CERTIFICATE_VERIFY, FINISHED, KEY_UPDATE = 13, 15, 20, 24

# KeyUpdate messages (RFC 9846 section 4.7.3).
UPDATE_NOT_REQUESTED, UPDATE_REQUESTED = b"\x18\0\0\x01\0", b"\x18\0\0\x01\x01"

# A ticket that lives for a second (RFC 9846 section 4.7.1).
TICKET = handshake(
    NEW_SESSION_TICKET, bytes.fromhex("00000001 00000000 00") + b"\0\x06ticket" + b"\0\0"
)

# By this random value a ServerHello is a HelloRetryRequest (RFC 9846 section 4.2.3).
_RETRY = bytes.fromhex("cf21ad74e59a6111be1d8c021e65b891c2a211167abb8c5e079e09e2c8a8339c")


def in_pieces(content_type: int, content: bytes, size: int) -> bytes:
    """Plaintext records with so much in each."""
    return b"".join(
        record(content_type, content[start : start + size])
        for start in range(0, len(content), size)
    )


def with_extension(hello: bytes, extension_type: int, data: bytes) -> bytes:
    """A ClientHello with one extension more, before the others (RFC 9846 section 4.2.2)."""
    body = hello[4:]
    end = 2 + 32  # version and random
    end += 1 + body[end]  # session id
    end += 2 + int.from_bytes(body[end : end + 2], "big")  # cipher suites
    end += 1 + body[end]  # compression methods
    extension = extension_type.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data
    extensions = extension + body[end + 2 :]
    return handshake(CLIENT_HELLO, body[:end] + len(extensions).to_bytes(2, "big") + extensions)


def hello_retry_request(server_hello: bytes, group: int) -> bytes:
    """Made from the ServerHello that it comes instead of (RFC 9846 section 4.2.4)."""
    body = server_hello[4:]
    end = 2 + 32
    session_id = body[end : end + 1 + body[end]]
    cipher = body[end + len(session_id) :][:2]
    extensions = bytes.fromhex("002b 0002 0304 0033 0002") + group.to_bytes(2, "big")
    return handshake(
        SERVER_HELLO,
        b"\x03\x03"
        + _RETRY
        + session_id
        + cipher
        + b"\0"
        + len(extensions).to_bytes(2, "big")
        + extensions,
    )
