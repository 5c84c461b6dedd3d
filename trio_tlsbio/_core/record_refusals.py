"""Determines from the bytes why OpenSSL has refused a record."""

from __future__ import annotations

from .iana import Alert
from .records import (
    ALERT,
    APPLICATION_DATA,
    CHANGE_CIPHER_SPEC,
    HANDSHAKE,
    HEADER_BYTES,
    RECORD_BYTES,
    is_possible,
    record_bounds,
    record_length,
)

__all__ = ["reason_of_refusal"]

# The most bytes that encryption adds to a record in OpenSSL's TLS 1.2, and in TLS 1.3 (RFC 9846
# section 5.2), and the longest record that fits into OpenSSL 3.0's buffer.
_MOST_ADDED, _MOST_ADDED_TLS13 = 256 + 64, 256
_MOST_BUFFERED = RECORD_BYTES + _MOST_ADDED + 3

# Why OpenSSL refuses a complete record that is not encrypted, and any record that it answers with
# an alert in plaintext.
_BY_TYPE = {CHANGE_CIPHER_SPEC: "UNEXPECTED_CCS_MESSAGE", HANDSHAKE: "RECORD_TOO_SMALL"}
_BY_ALERT: dict[int, str] = {
    Alert.BAD_RECORD_MAC: "DECRYPTION_FAILED_OR_BAD_RECORD_MAC",
    Alert.PROTOCOL_VERSION: "WRONG_VERSION_NUMBER",
}


def reason_of_refusal(
    header: bytes, rest: bytes, written: bytes, *, is_split: bool, is_tls13: bool
) -> str | None:
    """Return OpenSSL 3.0's name of the reason for which OpenSSL has refused a record.

    From version 3.2 on, OpenSSL reports the same reason for every refusal by its record layer. Its
    alert shows more, unless it is encrypted, and the unread bytes show whether a header was enough.

    Args:
      header: The ``last_header`` of the queue from which the records were taken.
      rest: The part of its records that OpenSSL has not read.
      written: The bytes that OpenSSL has written to be sent, which end with its alert.
      is_split: Whether a part of the last record is missing.
      is_tls13: Whether TLS 1.3 has been negotiated.

    Returns:
      None if the reason is unknown: OpenSSL has read a complete encrypted record, and can't decrypt
      it, or does not allow its contents.
    """
    alert = b""
    for start, end in record_bounds(written):
        alert = written[start:end]
    is_whole = not is_split and _are_whole(rest, 0)
    is_known = is_split or (
        len(header) == HEADER_BYTES
        and (length := record_length(header, 0)) > 0
        and _are_whole(rest, length)
    )
    if len(alert) == HEADER_BYTES + 2 and alert[0] == ALERT:
        length = record_length(header, 0) if is_known else len(rest)
        return _reason_by_alert(alert[-1], header, length, is_whole=is_whole)
    is_tls13 = is_tls13 or alert[:1] == bytes([APPLICATION_DATA])
    if is_known:
        return _reason_by_header(header, is_tls13=is_tls13)
    if is_whole:
        return None
    # Its header was enough for a refusal, and it must have been application data.
    likely = bytes([APPLICATION_DATA, 3, 3, *min(len(rest), 0xFFFF).to_bytes(2, "big")])
    return _reason_by_header(likely, is_tls13=is_tls13) or "WRONG_VERSION_NUMBER"


def _reason_by_alert(alert: int, header: bytes, length: int, *, is_whole: bool) -> str | None:
    """Return the meaning of an alert in plaintext. If ``is_whole`` is False, a header was enough
    for it.
    """
    if alert == Alert.UNEXPECTED_MESSAGE and is_whole:
        return _BY_TYPE.get(header[0]) if header else None
    if alert == Alert.UNEXPECTED_MESSAGE:  # our keys are not in use yet, but the peer's are
        return "BAD_RECORD_TYPE" if header[1:2] == b"\x03" else "WRONG_VERSION_NUMBER"
    if alert == Alert.RECORD_OVERFLOW:
        return _reason_by_length(length, RECORD_BYTES + _MOST_ADDED) or "DATA_LENGTH_TOO_LONG"
    if alert == Alert.DECODE_ERROR:  # for a ClientHello in the SSLv2 format, or in TLS 1.3
        return "LENGTH_TOO_SHORT" if is_whole else "WRONG_VERSION_NUMBER"
    return _BY_ALERT.get(alert)


def _reason_by_header(header: bytes, *, is_tls13: bool) -> str | None:
    """Return the error in the header of an encrypted record."""
    if is_tls13 and header[1] == 3 and header[0] != APPLICATION_DATA:
        return "BAD_RECORD_TYPE"
    if header[1:3] != b"\x03\x03":
        return "WRONG_VERSION_NUMBER"
    most_added = _MOST_ADDED_TLS13 if is_tls13 else _MOST_ADDED
    return _reason_by_length(record_length(header, 0), RECORD_BYTES + most_added)


def _reason_by_length(length: int, most: int) -> str | None:
    if length > _MOST_BUFFERED:
        return "PACKET_LENGTH_TOO_LONG"
    return "ENCRYPTED_LENGTH_TOO_LONG" if length > most else None


def _are_whole(data: bytes, start: int) -> bool:
    """Return True if the rest of the data consists of complete records."""
    end = start
    for begin, end in record_bounds(data, start):
        if not is_possible(data[begin:end]):
            return False
    return end == len(data)
