"""Plain words for all that OpenSSL can report about a connection."""

from __future__ import annotations

import _ssl
import ctypes
import re
import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import trio_tlsbio
from trio_tlsbio import PeerAlertError, TLSError
from trio_tlsbio._core import words as known
from trio_tlsbio._core.certificate_words import VERIFY_CODES
from trio_tlsbio._core.errors import count, printable
from trio_tlsbio._core.explain import explain

# OpenSSL's reasons that can't reach a connection of this library, by what they are about.
UNREACHABLE = {
    "loading certificates, keys and other files": """
        BAD_SSL_FILETYPE BAD_VALUE INVALID_SERVERINFO_DATA MISSING_PARAMETERS
        NOT_REPLACING_CERTIFICATE NO_CERTIFICATE_ASSIGNED NO_CERTIFICATE_SET NO_PEM_EXTENSIONS
        NO_PRIVATE_KEY_ASSIGNED PATH_TOO_LONG PEM_NAME_BAD_PREFIX PEM_NAME_TOO_SHORT
        PRIVATE_KEY_MISMATCH
    """,
    "configuring a context": """
        COMPRESSION_ID_NOT_WITHIN_PRIVATE_RANGE DUPLICATE_COMPRESSION_ID
        ERROR_IN_SYSTEM_DEFAULT_CONFIG INVALID_COMMAND
        INVALID_CONFIGURATION_NAME INVALID_NULL_CMD_NAME INVALID_TICKET_KEYS_LENGTH
        LIBRARY_HAS_NO_CIPHERS NO_CIPHER_MATCH NULL_SSL_METHOD_PASSED SSL_COMMAND_SECTION_EMPTY
        SSL_COMMAND_SECTION_NOT_FOUND SSL_LIBRARY_HAS_NO_CIPHERS SSL_SECTION_EMPTY
        SSL_SECTION_NOT_FOUND SSL_SESSION_ID_CONTEXT_TOO_LONG UNKNOWN_CMD_NAME UNKNOWN_COMMAND
        UNSUPPORTED_CONFIG_VALUE UNSUPPORTED_CONFIG_VALUE_CLASS UNSUPPORTED_CONFIG_VALUE_OP
        X509_VERIFICATION_SETUP_PROBLEMS
    """,
    "making an SSL object, which Python's wrap_bio() does completely": """
        BIO_NOT_SET NO_METHOD_SPECIFIED NULL_SSL_CTX READ_BIO_NOT_SET
        SSL3_EXT_INVALID_SERVERNAME SSL3_EXT_INVALID_SERVERNAME_TYPE
        SSL_CTX_HAS_NO_DEFAULT_SSL_VERSION
    """,
    "reading a session from its serialised form": """
        CIPHER_CODE_WRONG_LENGTH UNKNOWN_SSL_VERSION
    """,
    "asking for a certificate after the handshake: PostHandshakeAuthError has its own words": """
        EXTENSION_NOT_RECEIVED INVALID_CONFIG NOT_SERVER REQUEST_PENDING REQUEST_SENT
    """,
    "functions that Python does not call": """
        CUSTOM_EXT_HANDLER_ALREADY_INSTALLED FAILED_TO_INIT_ASYNC INVALID_KEY_UPDATE_TYPE
        NO_CLIENT_CERT_METHOD TLS_ILLEGAL_EXPORTER_LABEL UNSUPPORTED_WRITE_FLAG
    """,
    "DANE": """
        CONTEXT_NOT_DANE_ENABLED DANE_ALREADY_ENABLED DANE_CANNOT_OVERRIDE_MTYPE_FULL
        DANE_NOT_ENABLED DANE_TLSA_BAD_CERTIFICATE DANE_TLSA_BAD_CERTIFICATE_USAGE
        DANE_TLSA_BAD_DATA_LENGTH DANE_TLSA_BAD_DIGEST_LENGTH DANE_TLSA_BAD_MATCHING_TYPE
        DANE_TLSA_BAD_PUBLIC_KEY DANE_TLSA_BAD_SELECTOR DANE_TLSA_NULL_DATA
        ERROR_SETTING_TLSA_BASE_DOMAIN
    """,
    "DTLS and SRTP": """
        BAD_SRTP_MKI_VALUE BAD_SRTP_PROTECTION_PROFILE_LIST DTLS_MESSAGE_TOO_BIG
        EMPTY_SRTP_PROTECTION_PROFILE_LIST EXCEEDS_MAX_FRAGMENT_SIZE FRAGMENTED_CLIENT_HELLO
        INVALID_SEQUENCE_NUMBER NO_SRTP_PROFILES NO_VERIFY_COOKIE_CALLBACK READ_TIMEOUT_EXPIRED
        SRTP_COULD_NOT_ALLOCATE_PROFILES SRTP_PROTECTION_PROFILE_LIST_TOO_LONG
        SRTP_UNKNOWN_PROTECTION_PROFILE USE_SRTP_NOT_NEGOTIATED
    """,
    "QUIC": """
        CONN_USE_ONLY DOMAIN_USE_ONLY FEATURE_NEGOTIATION_NOT_COMPLETE FEATURE_NOT_RENEGOTIABLE
        LISTENER_USE_ONLY MISSING_QUIC_TLS_FUNCTIONS NO_STREAM
        POLL_REQUEST_NOT_SUPPORTED QUIC_HANDSHAKE_LAYER_ERROR
        QUIC_NETWORK_ERROR QUIC_PROTOCOL_ERROR REMOTE_PEER_ADDRESS_NOT_SET STREAM_COUNT_LIMITED
        STREAM_FINISHED STREAM_RECV_ONLY STREAM_RESET STREAM_SEND_ONLY
    """,
    "SRP and signed certificate timestamps, which Python can't turn on": """
        INVALID_CT_VALIDATION_TYPE INVALID_SRP_USERNAME MISSING_SRP_PARAM NO_VALID_SCTS
        SCT_VERIFICATION_FAILED
    """,
    "what OpenSSL has a name for, and does not raise since 1.1.0": """
        AT_LEAST_TLS_1_0_NEEDED_IN_FIPS_MODE ECDH_REQUIRED_FOR_SUITEB_MODE ILLEGAL_SUITEB_DIGEST
        INVALID_CERTIFICATE_OR_ALG UNABLE_TO_LOAD_SSL3_MD5_ROUTINES
        UNABLE_TO_LOAD_SSL3_SHA1_ROUTINES
    """,
}
NOT_WORDED = {reason for reasons in UNREACHABLE.values() for reason in reasons.split()}

# Reasons of all libraries that OpenSSL's handshake raises as its own, in OpenSSL's words.
GENERIC = [
    "ASN1 lib",
    "BN lib",
    "BUF lib",
    "called a function you should not call",
    "CRYPTO lib",
    "DH lib",
    "EC lib",
    "EVP lib",
    "fetch failed",
    "internal error",
    "malloc failure",
    "passed a null parameter",
    "passed invalid argument",
    "RSA lib",
    "SSL lib",
    "system lib",
    "unsupported",
    "X509 lib",
]

# Reasons that came with OpenSSL 3.2 to 3.6, which a Python that is older has no names for.
NEWER = [
    "bad certificate",
    "bad compression algorithm",
    "empty raw public key",
    "failed to get parameter",
    "invalid raw public key",
    "invalid record",
    "maximum encrypted pkts reached",
    "missing supported versions extension",
    "no suitable record layer",
    "records not released",
    "sequence ctr wrapped",
    "unknown mandatory parameter",
    "wrong rpk type",
]

# Where OpenSSL's words are not the name in lower case. Python has names for these.
DIFFERENT = {
    "at least (D)TLS 1.2 needed in Suite B mode",
    "can't find SRP server param",
    "error with the srp params",
    "illegal Suite B digest",
    "Peer haven't sent GOST certificate, required for selected ciphersuite",
}


def error(text: str = "unknown", **attributes: object) -> ssl.SSLError:
    """Make the exception that Python makes of an entry in OpenSSL's error queue."""
    exc = ssl.SSLError(ssl.SSL_ERROR_SSL, f"[SSL] {text} (_ssl.c:1006)")
    exc.__dict__.update({"library": "SSL", "reason": None} | attributes)
    return exc


def explained(exc: ssl.SSLError) -> TLSError:
    return explain(
        exc,
        names=list,
        server_hostname="server.example",
        agrees_by_psk=False,
        refusal=None,
        foreign=None,
    )


def is_worded(exc: ssl.SSLError) -> bool:
    return not str(explained(exc)).startswith("TLS failed")


def names_of_python() -> set[str]:
    """Return the reasons that this Python has names for. From 3.12 on it keeps them to itself."""
    codes: dict[tuple[int, int], str] = getattr(_ssl, "err_codes_to_names", {})
    libraries: dict[int, str] = getattr(_ssl, "lib_codes_to_names", {})
    return {name for (library, _), name in codes.items() if libraries[library] == "SSL"}


def texts_of_openssl() -> set[str]:
    """Return the reasons that this OpenSSL has words for."""
    try:
        library: Any = ctypes.CDLL(_ssl.__file__)
        reason_of: Callable[[int], bytes | None] = library.ERR_reason_error_string
    except (AttributeError, OSError):  # it is built in, or hides OpenSSL
        return set()
    library.ERR_reason_error_string.restype = ctypes.c_char_p
    library.ERR_reason_error_string.argtypes = [ctypes.c_ulong]
    ssl.create_default_context()  # so that OpenSSL has loaded them
    shift = 24 if ssl.OPENSSL_VERSION_INFO < (3,) else 23
    texts = {reason_of(20 << shift | code) for code in range(100, 1200)}
    return {text.decode() for text in texts if text is not None}


@pytest.mark.where(names_of_python(), "from 3.12 on Python keeps the names to itself")
def test_every_reason_that_can_reach_a_connection_has_words() -> None:
    names = names_of_python()
    assert len(names) > 250
    silent = {name for name in names if not is_worded(error(reason=name))}
    assert silent <= NOT_WORDED, f"they have no words: {sorted(silent - NOT_WORDED)}"


@pytest.mark.where(texts_of_openssl(), "OpenSSL's functions can't be called elsewhere")
def test_every_reason_of_this_openssl_has_words_though_python_may_have_no_name_for_it() -> None:
    texts = texts_of_openssl()
    assert len(texts) > 250
    # The words for alerts aren't their names in newer versions, and Python has names for them.
    texts = {text for text in texts - DIFFERENT if "alert" not in text}
    silent = {text.upper().replace(" ", "_") for text in texts if not is_worded(error(text))}
    assert silent <= NOT_WORDED, f"they have no words: {sorted(silent - NOT_WORDED)}"


@pytest.mark.parametrize("text", GENERIC + NEWER)
def test_reasons_that_python_has_no_name_for(text: str) -> None:
    explanation = explained(error(text))
    assert str(explanation) == known.REASONS[text.upper().replace(" ", "_")]
    assert explanation.reason == text.upper().replace(" ", "_")


def test_no_reason_is_in_two_places() -> None:
    listed = [reason for reasons in UNREACHABLE.values() for reason in reasons.split()]
    assert len(listed) == len(set(listed))
    assert not NOT_WORDED & known.REASONS.keys()


def test_reasons_of_other_libraries_are_not_mistaken_for_the_handshakes() -> None:
    exc = error("length too long", library="ASN1", reason="LENGTH_TOO_LONG")
    assert str(explained(exc)).startswith("TLS failed: ")
    exc = error("length too long", reason="LENGTH_TOO_LONG")
    assert "malformed" in str(explained(exc))


@pytest.mark.parametrize(
    ("reason", "expected"),
    [
        ("WRONG_SIGNATURE_TYPE", "signed by an algorithm"),
        ("UNSOLICITED_EXTENSION", "extension that was not offered"),
        ("NO_SHARED_SIGNATURE_ALGORITHMS", "no signature algorithm"),
        ("BINDER_DOES_NOT_VERIFY", "can't prove that it has the key"),
        ("VERSION_TOO_LOW", "older than those that are allowed"),
        ("VERSION_TOO_HIGH", "newer than those that are allowed"),
        ("DATA_BETWEEN_CCS_AND_FINISHED", "an unexpected record"),
        ("COMPRESSION_DISABLED", "compresses its data"),
        ("EE_KEY_TOO_SMALL", "loaded here is too weak"),
        ("PSK_IDENTITY_NOT_FOUND", "no pre-shared key (PSK) is known here"),
        ("NO_SUITABLE_SIGNATURE_ALGORITHM", "or no certificate is loaded here"),
        ("NO_CIPHERS_AVAILABLE", "it has no callback for"),
    ],
)
def test_the_words_say_what_is_wrong(reason: str, expected: str) -> None:
    assert expected in str(explained(error(reason=reason)))


def test_the_words_are_for_people() -> None:
    for words in (*known.ALERTS.values(), *known.REASONS.values(), *VERIFY_CODES.values()):
        assert words == printable(words)
        assert not words.endswith(".")
        # No names of codes, nor two words in one where two lines of code meet.
        assert not re.search(r"[A-Z]{3,}_[A-Z_]{12}|  |[a-z][.,:][a-z]", words.replace("_X509", ""))


@pytest.mark.parametrize("alert", known.ALERTS)
def test_every_alert_has_words(alert: str) -> None:
    exc = error(reason=f"TLSV1_ALERT_{alert.upper()}")
    explanation = explained(exc)
    assert isinstance(explanation, PeerAlertError)
    assert known.ALERTS[alert] in str(explanation)


def error_of_pypy(text: str) -> ssl.SSLError:
    """Make the exception that PyPy makes of a reason that it has no name for."""
    exc = ssl.SSLError(ssl.SSL_ERROR_SSL, f"[SSL] {text}")
    exc.__dict__.update(library="SSL", reason=None)
    return exc


@pytest.mark.parametrize("text", [*GENERIC, *NEWER])
def test_reasons_that_pypy_has_no_name_for(text: str) -> None:
    explanation = explained(error_of_pypy(text))
    assert str(explanation) == known.REASONS[text.upper().replace(" ", "_")]


def test_an_alert_that_pypy_has_no_name_for() -> None:
    explanation = explained(error_of_pypy("tlsv1 alert no application protocol"))
    assert isinstance(explanation, PeerAlertError)
    assert explanation.alert == "no_application_protocol"


@pytest.mark.parametrize(
    ("number", "alert", "shown"),
    [(117, "general_error", "general_error"), (121, "ech_required", "ech_required")]
    + [(number, "unknown", str(number)) for number in (0, 103, 255)],
)
@pytest.mark.parametrize("library", [20 << 23, 20 << 24 | 148 << 12], ids=["3.0", "1.1.1"])
def test_an_alert_that_openssl_has_no_name_for(
    number: int, alert: str, shown: str, library: int
) -> None:
    code = library | 1000 + number
    explanation = explained(error_of_pypy(f"unknown error for errcode {code}"))
    assert isinstance(explanation, PeerAlertError)
    assert explanation.alert == alert
    assert str(explanation).endswith(f"{known.ALERTS[alert]} (alert {shown})")
    assert explanation.reason == "UNKNOWN_ERROR"


def test_cpython_hides_the_number_of_an_alert_without_a_name() -> None:
    explanation = explained(error("unknown error"))
    assert isinstance(explanation, PeerAlertError)
    assert explanation.alert == "unknown"
    assert str(explanation).endswith("(alert unknown)")


def test_an_error_without_words_that_is_no_alert() -> None:
    explanation = explained(error_of_pypy(f"unknown error for errcode {20 << 23 | 999}"))
    assert not isinstance(explanation, PeerAlertError)
    assert str(explanation).startswith("TLS failed: [SSL] unknown error")


################################################################
# Numbers
################################################################


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0 bytes"),
        (1, "1 byte"),
        (1.0, "1 byte"),
        (2, "2 bytes"),
        (0.5, "0.5 bytes"),
        (1.25, "1.25 bytes"),
        (30.0, "30 bytes"),
        (1_234_567, "1234567 bytes"),
    ],
)
def test_numbers_of_things(number: float, text: str) -> None:
    assert count(number, "byte") == text


def test_no_message_puts_a_number_before_a_plural() -> None:
    """A number that may be 1 needs count()."""
    words = "bytes|days|seconds|certificates|connections|sessions|servers|records|attempts"
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(trio_tlsbio.__file__).parent.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if re.search(rf"(\}}|%[dsg]) ({words})\b", line)
        # Constants above 1, and sizes that are 0 or too large.
        and not re.search(r"\{_?[A-Z_]+(:g)?\} (bytes|seconds)|of \{size\} bytes: is it", line)
    ]
    assert found == []
