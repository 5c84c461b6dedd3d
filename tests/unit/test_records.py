"""Ciphertext is given out in whole records."""

from __future__ import annotations

import ssl
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.helpers import NAME, shake_hands
from trio_tlsbio import TLSConnection, TLSError
from trio_tlsbio._core.record_refusals import reason_of_refusal
from trio_tlsbio._core.records import RECORD_BYTES, Records, is_acceptable, record_bounds

# What a record's length may be, with all that is added to its plaintext, and its header.
MOST_BYTES = 5 + RECORD_BYTES + 2048

lengths = st.one_of(st.integers(0, 300), st.integers(RECORD_BYTES - 10, RECORD_BYTES + 2048))
kinds: st.SearchStrategy[Callable[[bytes], bytes | bytearray | memoryview]] = st.sampled_from(
    [bytes, bytearray, memoryview]
)


def record(length: int) -> bytes:
    return b"\x17\x03\x03" + length.to_bytes(2, "big") + bytes(length)


@given(
    record_lengths=st.lists(lengths, min_size=1, max_size=8),
    sizes=st.lists(st.integers(1, 70_000), min_size=1, max_size=5),
    kind=kinds,
    single=st.booleans(),
    eager=st.booleans(),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # PyPy has to warm up
def test_what_is_taken_ends_with_a_record_wherever_it_can(
    record_lengths: list[int],
    sizes: list[int],
    kind: Callable[[bytes], bytes | bytearray | memoryview],
    single: bool,
    eager: bool,
) -> None:
    stream = b"".join(map(record, record_lengths))
    ends = {0}
    for length in record_lengths:
        ends.add(max(ends) + 5 + length)
    queue = Records(is_single=single)
    fed, taken = 0, b""

    def take() -> bool:
        nonlocal taken
        part = queue.take()
        assert len(part) <= RECORD_BYTES + MOST_BYTES
        before, taken = len(taken), taken + bytes(part)
        assert len(taken) in ends
        if single:
            assert not any(before < end < len(taken) for end in ends)
        return bool(part)

    for number in range(len(stream)):
        if fed == len(stream):
            break
        size = max(sizes[number % len(sizes)], len(stream) // 500)  # or it would take long
        queue.feed(kind(stream[fed : fed + size]))
        fed = min(fed + size, len(stream))
        if eager:
            while take():
                pass
            whole = max(end for end in ends if end <= fed)
            assert len(taken) == whole, "no more than a part of a record is kept"
    while take():
        pass
    assert taken == stream
    assert queue.waiting == 0


@pytest.mark.parametrize(
    "header",
    [b"\x17\x03\x03\xff\xff", b"GET /", b"\x19\x03\x03\x40\x00", b"\x17\x02\x00\x40\x00"],
    ids=["too long", "HTTP", "type", "version"],
)
def test_what_is_no_record_is_not_waited_for(header: bytes) -> None:
    queue = Records()
    queue.feed(record(3) + header[:4])
    assert queue.take() == record(3)
    assert queue.take() == b""
    queue.feed(header[4:] + b"more")
    data = bytes(queue.take())
    assert data.startswith(header)
    assert data + queue.take_all() == header + b"more"


@pytest.mark.parametrize("content_type", range(20, 25))
def test_what_may_be_a_record_is_waited_for(content_type: int) -> None:
    longest = bytes([content_type, 3, 3, *(RECORD_BYTES + 2048).to_bytes(2, "big")])
    queue = Records()
    queue.feed(longest)
    assert queue.take() == b""
    assert queue.waiting == 5


@pytest.mark.parametrize(
    "header",
    [b"\x13\x03\x03\x00\x09", b"\x19\x03\x03\x00\x09", b"\x17\x03\x03\x48\x01"],
    ids=["type below", "type above", "one byte too long"],
)
def test_what_is_all_but_a_record_is_not_waited_for(header: bytes) -> None:
    queue = Records()
    queue.feed(record(3) + header)
    assert queue.take() == record(3)
    assert queue.take() == header
    assert queue.waiting == 0
    queue.feed(b"\0" * 3)
    assert queue.take() == b"\0" * 3


@pytest.mark.parametrize("size", [1, 3, 41, 42])
def test_a_hello_in_the_format_of_sslv2_is_cut_where_it_ends(size: int) -> None:
    hello = b"\x80\x28\x01\x03\x03" + bytes(37)
    queue, taken = Records(), b""
    for start in range(0, len(hello), size):
        queue.feed(hello[start : start + size])
        while part := queue.take(lambda record: False):
            taken += bytes(part)
    assert taken == hello
    queue.is_single = True
    queue.feed(record(3) + record(4))
    assert queue.take() == record(3)


@pytest.mark.parametrize("length", range(4))
def test_a_hello_in_the_format_of_sslv2_that_is_too_short_is_given_out(length: int) -> None:
    queue, taken = Records(), b""
    for byte in bytes([0x80, length, 1, 3, 3, 0, 0]):
        queue.feed(bytes([byte]))
        taken += bytes(queue.take(lambda record: False))
    assert taken == bytes([0x80, length, 1, 3, 3])
    assert queue.waiting == 2


@pytest.mark.parametrize("size", [6, 2], ids=["whole", "in parts"])
def test_only_the_first_record_may_be_a_hello_in_the_format_of_sslv2(size: int) -> None:
    queue, first, taken = Records(), record(1), b""
    for start in range(0, len(first), size):
        queue.feed(first[start : start + size])
        taken += bytes(queue.take(lambda record: False))
    taken += bytes(queue.take(lambda record: False))
    assert taken == first
    # As a hello it would end after five bytes.
    queue.feed(b"\x80\x03\x01\x00\x40" + bytes(10))
    assert queue.take(lambda record: True) == b""


def test_a_record_that_was_taken_in_part_is_given_out_as_it_arrives() -> None:
    queue, taken = Records(), b""
    for byte in record(20) + record(0):
        queue.feed(bytes([byte]))
        taken += bytes(queue.take(lambda record: False))
    assert taken == record(20) + record(0)


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (b"\x17\x03\x03\x40\x18", True),
        (b"\x17\x03\x03\x40\x19", False),
        (b"\x17\x03\x01\x00\x20", False),
        (b"\x16\x03\x03\x00\x20", False),
    ],
    ids=["data", "too long", "version", "handshake"],
)
def test_only_data_that_openssl_accepts_is_held_back(header: bytes, expected: bool) -> None:
    assert is_acceptable(header) is expected


def test_no_more_records_are_taken_than_are_allowed() -> None:
    queue = Records()
    queue.feed(record(1) * 100)
    queue.allowance, queue.cost = 14, 2
    assert queue.take() == record(1) * 7
    assert queue.take() == b""
    queue.allowance = 7
    assert queue.take() == record(1) * 3


def test_a_hello_in_the_format_of_sslv2_takes_its_part_of_what_is_allowed() -> None:
    hello = b"\x80\x28\x01\x03\x03" + bytes(37)
    queue = Records(allowance=2)
    queue.feed(hello + record(1) * 3)
    assert queue.take() == hello + record(1)
    assert queue.take() == b""


def test_long_records_take_more_of_what_is_allowed() -> None:
    queue = Records(shift=3)
    queue.feed(record(99) * 3)  # 104 bytes each
    queue.allowance = 15
    assert queue.take() == record(99) * 2
    assert queue.allowance < queue.cost
    queue.allowance = 1
    assert queue.take() == record(99), "one is taken, however long it is"
    assert queue.allowance < 0
    queue = Records()
    message = b"\x16" + record(251)[1:]  # 256 bytes, in which there may be many messages
    queue.feed(message * 3)
    queue.allowance = 4
    assert queue.take() == message * 2


def test_nothing_that_is_fed_hides_what_follows() -> None:
    queue = Records()
    data = record(20)
    queue.feed(data[:10])
    taken = bytes(queue.take(lambda record: False))
    for part in (data[10:12], b"", data[12:14], b"", b"", data[14:]):
        queue.feed(part)
    while part := bytes(queue.take(lambda record: False)):
        taken += part
    assert taken == data


def test_records_from_the_first_handshake_message_on_are_split_off() -> None:
    message = b"\x16" + record(4)[1:]
    queue = Records()
    queue.feed(record(2) + record(0))
    queue.feed(message + record(3) + message[:7])
    assert queue.take_from_handshake() == message + record(3) + message[:7]
    assert queue.take_all() == record(2) + record(0)


def test_small_records_are_taken_together() -> None:
    queue = Records()
    queue.feed(record(100) * 1000)
    assert len(queue.take()) == RECORD_BYTES // 105 * 105


def test_what_was_put_back_comes_first() -> None:
    queue = Records()
    queue.feed(record(10) + record(20)[:8])
    queue.feed(record(20)[8:])
    queue.is_single = True
    assert queue.take() == record(10)
    queue.put_back(record(5))
    assert queue.take_all() == record(5) + record(20)
    assert queue.waiting == 0
    assert queue.take() == b""


def test_what_was_taken_in_part_may_be_put_back() -> None:
    queue = Records()
    queue.feed(record(20)[:8])
    taken = queue.take(lambda record: False)
    assert taken == record(20)[:8]
    queue.put_back(bytes(taken))
    queue.is_single = True
    queue.feed(record(20)[8:] + record(3))
    assert queue.take() == record(20)
    assert queue.take() == record(3)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_what_is_fed_may_change_afterwards(kind: Callable[[bytearray], bytearray]) -> None:
    buffer = bytearray(record(10))
    queue = Records()
    queue.feed(kind(buffer))
    buffer[:] = bytes(len(buffer))
    assert queue.take() == record(10)


def test_what_was_taken_is_not_kept_with_the_rest() -> None:
    queue = Records()
    queue.feed(record(RECORD_BYTES) * 5 + record(1000)[:100])
    for _ in range(5):
        assert len(queue.take()) == 5 + RECORD_BYTES
    assert queue.take() == b""
    assert len(queue._data) == queue.waiting == 100
    queue.feed(record(1000)[100:])
    assert queue.take() == record(1000)


################################################################
# Records that OpenSSL refuses
################################################################

OVERFLOW, MAC, VERSION, UNEXPECTED, DECODE = 22, 20, 70, 10, 50
BODY = bytes(range(40))


def written(alert: int | None, *, is_tls13: bool = True) -> bytes:
    """What OpenSSL has written when it refuses a record; None for an alert that is encrypted."""
    flight = b"\x14\x03\x03\x00\x01\x01"
    if alert is not None:
        return flight + bytes([21, 3, 3, 0, 2, 2, alert])
    return flight + bytes([23 if is_tls13 else 21, 3, 3, 0, 26]) + bytes(26)


def header(content_type: int, version: int, length: int) -> bytes:
    return bytes([content_type]) + version.to_bytes(2, "big") + length.to_bytes(2, "big")


@pytest.mark.parametrize(
    ("alert", "last_header", "rest", "expected"),
    [
        (MAC, b"", b"", "DECRYPTION_FAILED_OR_BAD_RECORD_MAC"),
        (VERSION, header(22, 0x0000, 40), BODY, "WRONG_VERSION_NUMBER"),
        (OVERFLOW, header(22, 0x0303, 16385), bytes(16385), "DATA_LENGTH_TOO_LONG"),
        (OVERFLOW, header(22, 0x0303, 16704), bytes(16704), "DATA_LENGTH_TOO_LONG"),
        (OVERFLOW, header(22, 0x0303, 16705), bytes(16705), "ENCRYPTED_LENGTH_TOO_LONG"),
        (OVERFLOW, header(22, 0x0303, 16708), bytes(16708), "PACKET_LENGTH_TOO_LONG"),
        (DECODE, b"\x80\x03\x01\x03\x03", b"", "LENGTH_TOO_SHORT"),
        (DECODE, header(20, 0x0303, 1), BODY, "WRONG_VERSION_NUMBER"),
        (UNEXPECTED, header(22, 0x0301, 0), b"", "RECORD_TOO_SMALL"),
        (UNEXPECTED, header(22, 0x0303, 0), record(9), "RECORD_TOO_SMALL"),
        (UNEXPECTED, header(20, 0x0303, 1), b"", "UNEXPECTED_CCS_MESSAGE"),
        (UNEXPECTED, header(99, 0x0303, 40), BODY, "BAD_RECORD_TYPE"),
        (UNEXPECTED, b"HTTP/", BODY, "WRONG_VERSION_NUMBER"),
        (UNEXPECTED, header(21, 0x0303, 0), b"", None),
        (80, b"", b"", None),
    ],
)
def test_an_alert_in_plaintext_shows_why_a_record_was_refused(
    alert: int, last_header: bytes, rest: bytes, expected: str | None
) -> None:
    reason = reason_of_refusal(last_header, rest, written(alert), is_split=False, is_tls13=False)
    assert reason == expected


@pytest.mark.parametrize(
    ("last_header", "tls12", "tls13"),
    [
        (header(22, 0x0303, 40), None, "BAD_RECORD_TYPE"),
        (header(21, 0x0303, 40), None, "BAD_RECORD_TYPE"),
        (header(99, 0x0301, 40), "WRONG_VERSION_NUMBER", "BAD_RECORD_TYPE"),
        (header(99, 0x0000, 40), "WRONG_VERSION_NUMBER", "WRONG_VERSION_NUMBER"),
        (b"GET /", "WRONG_VERSION_NUMBER", "WRONG_VERSION_NUMBER"),
        (header(23, 0x0304, 40), "WRONG_VERSION_NUMBER", "WRONG_VERSION_NUMBER"),
        (header(23, 0x0303, 16640), None, None),
        (header(23, 0x0303, 16641), None, "ENCRYPTED_LENGTH_TOO_LONG"),
        (header(23, 0x0303, 16704), None, "ENCRYPTED_LENGTH_TOO_LONG"),
        (header(23, 0x0303, 16705), "ENCRYPTED_LENGTH_TOO_LONG", "ENCRYPTED_LENGTH_TOO_LONG"),
        (header(23, 0x0303, 16708), "PACKET_LENGTH_TOO_LONG", "PACKET_LENGTH_TOO_LONG"),
        (header(23, 0x0303, 65535), "PACKET_LENGTH_TOO_LONG", "PACKET_LENGTH_TOO_LONG"),
    ],
)
@pytest.mark.parametrize("ending", ["split", "whole", "followed"])
def test_a_header_shows_why_an_encrypted_record_was_refused(
    last_header: bytes, tls12: str | None, tls13: str | None, ending: str
) -> None:
    body = b"" if ending == "split" else BODY.ljust(int.from_bytes(last_header[3:]), b"\xff")
    rest = body + record(9) * 2 if ending == "followed" else body
    for is_tls13, expected in ((False, tls12), (True, tls13)):
        for alert in (written(None, is_tls13=is_tls13), b""):  # none follows our close_notify
            reason = reason_of_refusal(
                last_header, rest, alert, is_split=ending == "split", is_tls13=is_tls13
            )
            assert reason == expected


@pytest.mark.parametrize(
    ("rest", "tls12", "tls13"),
    [
        (b"", None, None),
        (record(9) + record(20), None, None),
        (BODY, "WRONG_VERSION_NUMBER", "WRONG_VERSION_NUMBER"),
        (BODY + record(9), "WRONG_VERSION_NUMBER", "WRONG_VERSION_NUMBER"),
        (bytes(16641), "WRONG_VERSION_NUMBER", "ENCRYPTED_LENGTH_TOO_LONG"),
        (bytes(18433), "PACKET_LENGTH_TOO_LONG", "PACKET_LENGTH_TOO_LONG"),
        (bytes(70_000), "PACKET_LENGTH_TOO_LONG", "PACKET_LENGTH_TOO_LONG"),
    ],
)
@pytest.mark.parametrize("older", [b"", header(22, 0x0303, 122), header(20, 0x0303, 1)])
def test_what_openssl_has_not_read_shows_why_an_encrypted_record_was_refused(
    rest: bytes, tls12: str | None, tls13: str | None, older: bytes
) -> None:
    for is_tls13, expected in ((False, tls12), (True, tls13)):
        alert = written(None, is_tls13=is_tls13)
        reason = reason_of_refusal(older, rest, alert, is_split=False, is_tls13=False)
        assert reason == expected


def test_the_last_header_that_is_not_that_of_data_is_kept() -> None:
    queue = Records()
    queue.feed(record(3))
    queue.take()
    assert queue.last_header == b""
    queue.feed(record(3) + b"\x16" + record(4)[1:] + record(5))
    queue.take()
    assert queue.last_header == b"\x16\x03\x03\x00\x04"
    queue.feed(b"HTTP/1.1")
    queue.take()
    assert queue.last_header == b"HTTP/"


@pytest.mark.parametrize("has_alert", [True, False])
def test_the_reason_depends_on_the_version(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    has_alert: bool,
) -> None:
    """Also if OpenSSL sends no alert, as after our close_notify."""
    client = TLSConnection(client_context, server_hostname=NAME)
    shake_hands(client, TLSConnection(server_context, server_side=True))
    if not has_alert:
        client.send_close_notify()
    if tls_version is ssl.TLSVersion.TLSv1_3:
        too_long = header(23, 0x0303, 16641) + bytes(16641)
    else:
        too_long = header(22, 0x0303, 16705) + bytes(16705)
    client.feed(too_long)
    with pytest.raises(TLSError) as caught:
        client.receive()
    assert caught.value.reason == "ENCRYPTED_LENGTH_TOO_LONG"


def test_a_record_that_is_cut_has_no_bounds() -> None:
    data = record(3) + record(4)
    for end in range(8, len(data)):
        assert list(record_bounds(data[:end])) == [(0, 8)]
    assert list(record_bounds(data)) == [(0, 8), (8, 17)]
