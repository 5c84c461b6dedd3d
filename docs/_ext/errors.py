"""``.. error-table:: alerts``, ``reasons`` or ``certificates``: messages with explanations.

The messages come from the tables in the code; this module says what to do about each of them. A
message without a cure ends the build, so that none is forgotten.
"""

from __future__ import annotations

from typing import Any

from _rst import escape, list_table, parse
from docutils import nodes  # type: ignore[import-untyped]
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from trio_tlsbio._core import certificate_words, words

_DAMAGED = (
    "This is rare over TCP. Check for two tasks or programs that write to the same socket, and for "
    "network devices that change data."
)
_TWO_IMPLEMENTATIONS = (
    "There is a bug in one implementation, or the data is not TLS at all. Check the versions of "
    "both sides, and try another peer."
)
_HOSTILE = "The peer is probably malicious: see :doc:`hostile`."
_OUR_CERTIFICATE = (
    "Check the certificate that this side loaded, and ask the peer's operator which ones it "
    "accepts."
)
_PROTOCOL = (
    "Check the port, and whether its protocol begins in plaintext (STARTTLS). If so, begin with a "
    "plain stream."
)
_OLD_PEER = "Update the peer. Relaxing the context's requirements would reduce security."
_VERSIONS = (
    "Set ``minimum_version`` and ``maximum_version`` so that both sides have a version in common."
)
_CALLBACK = (
    "Check what the callback raised or returned: ``sni_callback`` or a pre-shared key callback."
)
_COMMON_PARAMETERS = (
    "Compare the versions, ciphers, groups and types of certificates of both sides. Often the "
    "reason is ``set_ciphers()`` or a raised security level."
)

_ALERT_CURES = {
    "unexpected_message": _TWO_IMPLEMENTATIONS,
    "bad_record_mac": _DAMAGED,
    "decryption_failed": _DAMAGED,
    "record_overflow": _TWO_IMPLEMENTATIONS,
    "decompression_failure": _TWO_IMPLEMENTATIONS,
    "handshake_failure": _COMMON_PARAMETERS
    + " If the peer requires a client certificate, load one with ``load_cert_chain()``. With a "
    "pre-shared key, compare the identities of both sides.",
    "no_certificate": "Load a client certificate with ``load_cert_chain()``.",
    "bad_certificate": _OUR_CERTIFICATE,
    "unsupported_certificate": "Use a certificate with another type of key, or one issued for "
    "this purpose (extended key usage).",
    "certificate_revoked": "Obtain a new certificate.",
    "certificate_expired": "Renew the certificate. Check the clocks of both sides.",
    "certificate_unknown": _OUR_CERTIFICATE,
    "illegal_parameter": _TWO_IMPLEMENTATIONS + " With a pre-shared key, compare the keys of both "
    "sides.",
    "unknown_ca": "Make the peer trust the authority, and send the intermediate certificates: "
    "``load_cert_chain()`` requires the whole chain in its file.",
    "access_denied": "Ask the peer's operator for access.",
    "decode_error": _TWO_IMPLEMENTATIONS,
    "decrypt_error": "Check whether the certificate and the key belong together, and whether both "
    "sides have the same pre-shared keys.",
    "export_restriction": _OLD_PEER,
    "protocol_version": "Allow a version that the peer supports with ``minimum_version`` and "
    "``maximum_version`` of the context. It is better to update the peer.",
    "insufficient_security": "Allow stronger ciphers or groups, or use a longer key.",
    "internal_error": "Check the peer's log.",
    "inappropriate_fallback": "Don't try older versions after a failure: the handshake chooses "
    "the best one.",
    "user_cancelled": "Try again. Check the peer's log.",
    "no_renegotiation": "Nothing: no peer is required to renegotiate.",
    "missing_extension": _TWO_IMPLEMENTATIONS,
    "unsupported_extension": _TWO_IMPLEMENTATIONS,
    "certificate_unobtainable": _TWO_IMPLEMENTATIONS,
    "unrecognized_name": "Check ``server_hostname``. Connect by name rather than by address.",
    "bad_certificate_status_response": "Check the OCSP response that this side sends.",
    "bad_certificate_hash_value": _TWO_IMPLEMENTATIONS,
    "unknown_psk_identity": "Compare the identities of both sides.",
    "certificate_required": "Load a client certificate with ``load_cert_chain()``.",
    "no_application_protocol": "Compare the arguments of ``set_alpn_protocols()`` on both sides.",
    "general_error": "Check the peer's log.",
    "ech_required": "Configure the server to accept clients without ECH.",
    "unknown": "Check the peer's log.",
}

_REASON_CURES = {
    "HTTP_REQUEST": "Use ``https://`` on the client. On a server, use a separate port for plain "
    "HTTP.",
    "HTTPS_PROXY_REQUEST": "The client uses this port as a plain HTTP proxy: correct its proxy "
    "settings.",
    "WRONG_VERSION_NUMBER": _PROTOCOL,
    "UNKNOWN_PROTOCOL": _PROTOCOL,
    "RECORD_LAYER_FAILURE": _DAMAGED,
    "UNSUPPORTED_PROTOCOL": _OLD_PEER
    + " A server that only supports TLS 1.3 also reports this if it has neither a suitable "
    "certificate nor a callback for pre-shared keys.",
    "NO_PROTOCOLS_AVAILABLE": "Set ``minimum_version`` and ``maximum_version`` so that a "
    "version remains. Check the system's OpenSSL configuration.",
    "WRONG_SSL_VERSION": _OLD_PEER,
    "NO_SHARED_CIPHER": "On a server, load a certificate with ``load_cert_chain()``. Otherwise "
    "compare the ciphers of both sides: in TLS 1.2, pre-shared keys require special ciphers.",
    "NO_CIPHERS_AVAILABLE": "Change ``set_ciphers()`` or the versions: they have nothing in "
    "common. For pre-shared keys, call ``set_psk_client_callback()``.",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "Use a certificate with another type of key, such as "
    "ECDSA P-256 or RSA. For pre-shared keys, compare the identities of both sides.",
    "NO_SUITABLE_KEY_SHARE": _COMMON_PARAMETERS,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "Load a certificate on the client, or set "
    "``verify_mode`` to ``CERT_OPTIONAL`` if clients may omit it.",
    "NO_APPLICATION_PROTOCOL": "Compare the arguments of ``set_alpn_protocols()`` on both sides.",
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": _DAMAGED,
    "BAD_RECORD_TYPE": _PROTOCOL,
    "PACKET_LENGTH_TOO_LONG": _PROTOCOL,
    "DATA_LENGTH_TOO_LONG": _TWO_IMPLEMENTATIONS,
    "ENCRYPTED_LENGTH_TOO_LONG": _TWO_IMPLEMENTATIONS,
    "UNEXPECTED_MESSAGE": _TWO_IMPLEMENTATIONS,
    "UNEXPECTED_RECORD": _TWO_IMPLEMENTATIONS,
    "RECORD_TOO_SMALL": _HOSTILE,
    "UNEXPECTED_CCS_MESSAGE": _TWO_IMPLEMENTATIONS,
    "CCS_RECEIVED_EARLY": _TWO_IMPLEMENTATIONS,
    "INVALID_CCS_MESSAGE": _TWO_IMPLEMENTATIONS,
    "BAD_CHANGE_CIPHER_SPEC": _TWO_IMPLEMENTATIONS,
    "MIXED_HANDSHAKE_AND_NON_HANDSHAKE_DATA": _TWO_IMPLEMENTATIONS,
    "NOT_ON_RECORD_BOUNDARY": _TWO_IMPLEMENTATIONS,
    "BAD_KEY_UPDATE": _TWO_IMPLEMENTATIONS,
    "EXCESSIVE_MESSAGE_SIZE": _HOSTILE + " If the message is a chain of certificates, shorten it.",
    "INVALID_ALERT": _TWO_IMPLEMENTATIONS,
    "UNKNOWN_ALERT_TYPE": _TWO_IMPLEMENTATIONS,
    "TOO_MANY_WARN_ALERTS": _HOSTILE,
    "NO_RENEGOTIATION": "This library never requests one: find out which code does.",
    "INTERNAL_ERROR": _TWO_IMPLEMENTATIONS,
    "LENGTH_MISMATCH": _TWO_IMPLEMENTATIONS,
    "LENGTH_TOO_SHORT": _TWO_IMPLEMENTATIONS,
    "BAD_LENGTH": _TWO_IMPLEMENTATIONS,
    "BAD_PACKET": _TWO_IMPLEMENTATIONS,
    "ASN1_LIB": "The peer's certificate is damaged, and has to be reissued.",
    "BAD_KEY_SHARE": _TWO_IMPLEMENTATIONS,
    "BAD_EXTENSION": _TWO_IMPLEMENTATIONS,
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": _OLD_PEER,
    "DH_KEY_TOO_SMALL": _OLD_PEER,
    "INAPPROPRIATE_FALLBACK": "The client must not try older versions after a failure.",
    "BAD_SIGNATURE": "Check whether the peer's certificate and key belong together.",
    "DIGEST_CHECK_FAILED": _DAMAGED,
    "CALLBACK_FAILED": _CALLBACK,
    "VERSION_TOO_LOW": _OLD_PEER,
    "VERSION_TOO_HIGH": _VERSIONS,
    "UNSUPPORTED_SSL_VERSION": _VERSIONS,
    "AT_LEAST_TLS_1_2_NEEDED_IN_SUITEB_MODE": _VERSIONS,
    "NO_SHARED_SIGNATURE_ALGORITHMS": _COMMON_PARAMETERS,
    "NO_SHARED_GROUPS": _COMMON_PARAMETERS,
    "UNSUPPORTED_ELLIPTIC_CURVE": _COMMON_PARAMETERS,
    "NO_SUITABLE_GROUPS": "Allow a group that the versions support: check ``set_ecdh_curve()`` "
    "and the system's OpenSSL configuration.",
    **dict.fromkeys(
        ("WRONG_SIGNATURE_TYPE", "LEGACY_SIGALG_DISALLOWED_OR_UNSUPPORTED", "UNKNOWN_DIGEST"),
        "Update the side that signs, or use a certificate with another type of key. Allowing SHA-1 "
        "with a lower security level would reduce security.",
    ),
    "WRONG_CURVE": _COMMON_PARAMETERS,
    "ILLEGAL_POINT_COMPRESSION": "The peer's certificate has to be reissued, with the key in its "
    "uncompressed form.",
    "CERTIFICATE_VERIFY_FAILED": "See the table of certificate errors.",
    "NO_CERTIFICATES_RETURNED": "Load a certificate on the client, or set "
    "``verify_mode`` to ``CERT_OPTIONAL`` if clients may omit it.",
    **dict.fromkeys(
        (
            "BAD_CERTIFICATE",
            "X509_LIB",
            "CERT_LENGTH_MISMATCH",
            "CA_DN_LENGTH_MISMATCH",
        ),
        "The peer's certificate is damaged, and has to be reissued.",
    ),
    **dict.fromkeys(
        (
            "BAD_ECC_CERT",
            "ECC_CERT_NOT_FOR_SIGNING",
            "MISSING_RSA_ENCRYPTING_CERT",
            "MISSING_RSA_SIGNING_CERT",
            "MISSING_DSA_SIGNING_CERT",
            "MISSING_ECDSA_SIGNING_CERT",
            "MISSING_SIGNING_CERT",
            "NO_GOST_CERTIFICATE_SENT_BY_PEER",
            "WRONG_CERTIFICATE_TYPE",
            "SIGNATURE_FOR_NON_SIGNING_CERTIFICATE",
            "BAD_DATA",
        ),
        "The peer needs a certificate with another type of key, or with another key usage.",
    ),
    **dict.fromkeys(
        (
            "UNKNOWN_CERTIFICATE_TYPE",
            "UNKNOWN_PKEY_TYPE",
            "UNABLE_TO_FIND_PUBLIC_KEY_PARAMETERS",
            "INVALID_RAW_PUBLIC_KEY",
            "EMPTY_RAW_PUBLIC_KEY",
            "WRONG_RPK_TYPE",
            "BAD_RSA_ENCRYPT",
        ),
        "The peer needs a certificate with another type of key, such as ECDSA P-256 or RSA.",
    ),
    **dict.fromkeys(
        ("EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL", "CA_MD_TOO_WEAK"),
        "Obtain a certificate with a longer key, from an authority with a longer key and a newer "
        "hash.",
    ),
    "MISSING_RSA_CERTIFICATE": _TWO_IMPLEMENTATIONS,
    "INVALID_CONTEXT": _TWO_IMPLEMENTATIONS,
    **dict.fromkeys(
        ("INVALID_STATUS_RESPONSE", "OCSP_CALLBACK_FAILURE"),
        "Check the OCSP response that the peer sends.",
    ),
    "MISSING_TMP_DH_KEY": "Call ``load_dh_params()`` on the context. It is better to allow ciphers "
    "with ECDHE.",
    **dict.fromkeys(
        ("PSK_IDENTITY_NOT_FOUND", "PSK_NO_CLIENT_CB", "PSK_NO_SERVER_CB", "BAD_PSK"),
        "Compare the identities and keys of both sides, and check the context's pre-shared key "
        "callbacks.",
    ),
    "BINDER_DOES_NOT_VERIFY": "Compare the pre-shared keys of both sides. With a session, check "
    "whether servers share their ticket keys by mistake.",
    "SESSION_ID_CONTEXT_UNINITIALIZED": "Python sets one on every context: check the code that "
    "created or changed this context.",
    **dict.fromkeys(
        ("NO_COOKIE_CALLBACK_SET", "COOKIE_GEN_CALLBACK_FAILURE"),
        "Remove the option from the context.",
    ),
    "TOO_MANY_KEY_UPDATES": _HOSTILE,
    **dict.fromkeys(
        ("SEQUENCE_CTR_WRAPPED", "MAXIMUM_ENCRYPTED_PKTS_REACHED"),
        "Open a new connection before so much data is sent, or use TLS 1.3, which updates its "
        "keys.",
    ),
    "UNEXPECTED_EOF_WHILE_READING": "Check the peer's log.",
    "BLOCK_CIPHER_PAD_IS_WRONG": _DAMAGED,
    "INVALID_RECORD": _PROTOCOL,
    "COMPRESSED_LENGTH_TOO_LONG": _TWO_IMPLEMENTATIONS,
    "CERT_CB_ERROR": _CALLBACK,
    "BAD_DATA_RETURNED_BY_CALLBACK": _CALLBACK,
    **dict.fromkeys(
        (
            "CONNECTION_TYPE_NOT_SET",
            "BAD_WRITE_RETRY",
            "PROTOCOL_IS_SHUTDOWN",
            "SHUTDOWN_WHILE_IN_INIT",
            "STILL_IN_INIT",
            "UNINITIALIZED",
        ),
        "Find the code that uses ``ssl_object``: only the connection may use it.",
    ),
    **dict.fromkeys(
        (
            "BAD_HANDSHAKE_LENGTH",
            "BAD_HANDSHAKE_STATE",
            "BUF_LIB",
            "CALLED_A_FUNCTION_YOU_SHOULD_NOT_CALL",
            "CANNOT_CHANGE_CIPHER",
            "CRYPTO_LIB",
            "LIBRARY_BUG",
            "MALLOC_FAILURE",
            "MISSING_FATAL",
            "OVERFLOW_ERROR",
            "PASSED_A_NULL_PARAMETER",
            "PASSED_INVALID_ARGUMENT",
            "PIPELINE_FAILURE",
            "RECORDS_NOT_RELEASED",
            "SSL_HANDSHAKE_FAILURE",
            "SSL_LIB",
            "SSL_NEGATIVE_LENGTH",
            "SSL_SESSION_ID_CALLBACK_FAILED",
            "SSL_SESSION_ID_CONFLICT",
            "SSL_SESSION_ID_HAS_BAD_LENGTH",
            "SYSTEM_LIB",
            "UNKNOWN_STATE",
        ),
        "Check the memory limit of the process, and try another version of OpenSSL.",
    ),
    **dict.fromkeys(
        (
            "BN_LIB",
            "CANNOT_GET_GROUP_NAME",
            "DH_LIB",
            "EC_LIB",
            "EVP_LIB",
            "FAILED_TO_GET_PARAMETER",
            "FETCH_FAILED",
            "NO_REQUIRED_DIGEST",
            "NO_SUITABLE_DIGEST_ALGORITHM",
            "NO_SUITABLE_RECORD_LAYER",
            "RSA_LIB",
            "UNKNOWN_MANDATORY_PARAMETER",
            "UNSUPPORTED",
        ),
        "Check whether the system's OpenSSL configuration, or FIPS mode, disables an algorithm. "
        "The peer's key may also be damaged.",
    ),
    # All other reasons are caused by incorrect peers.
    **dict.fromkeys(
        (
            "APPLICATION_DATA_AFTER_CLOSE_NOTIFY",
            "APP_DATA_IN_HANDSHAKE",
            "ATTEMPT_TO_REUSE_SESSION_IN_DIFFERENT_CONTEXT",
            "BAD_CIPHER",
            "BAD_COMPRESSION_ALGORITHM",
            "BAD_DECOMPRESSION",
            "BAD_DH_VALUE",
            "BAD_DIGEST_LENGTH",
            "BAD_EARLY_DATA",
            "BAD_ECPOINT",
            "BAD_HELLO_REQUEST",
            "BAD_HRR_VERSION",
            "BAD_LEGACY_VERSION",
            "BAD_PACKET_LENGTH",
            "BAD_PROTOCOL_VERSION_NUMBER",
            "BAD_PSK_IDENTITY",
            "BAD_SRP_A_LENGTH",
            "BAD_SRP_PARAMETERS",
            "CIPHERSUITE_DIGEST_HAS_CHANGED",
            "CLIENTHELLO_TLSEXT",
            "COMPRESSION_DISABLED",
            "COMPRESSION_FAILURE",
            "COMPRESSION_LIBRARY_ERROR",
            "COOKIE_MISMATCH",
            "COPY_PARAMETERS_FAILED",
            "DATA_BETWEEN_CCS_AND_FINISHED",
            "DECRYPTION_FAILED",
            "DH_PUBLIC_VALUE_LENGTH_IS_WRONG",
            "ERROR_IN_RECEIVED_CIPHER_LIST",
            "EXTRA_DATA_IN_MESSAGE",
            "EXT_LENGTH_MISMATCH",
            "GOT_A_FIN_BEFORE_A_CCS",
            "INCONSISTENT_COMPRESSION",
            "INCONSISTENT_EARLY_DATA_ALPN",
            "INCONSISTENT_EARLY_DATA_SNI",
            "INCONSISTENT_EXTMS",
            "INSUFFICIENT_SECURITY",
            "INVALID_COMPRESSION_ALGORITHM",
            "INVALID_MAX_EARLY_DATA",
            "INVALID_SESSION_ID",
            "LENGTH_TOO_LONG",
            "MISSING_PSK_KEX_MODES_EXTENSION",
            "MISSING_SIGALGS_EXTENSION",
            "MISSING_SUPPORTED_GROUPS_EXTENSION",
            "MISSING_SUPPORTED_VERSIONS_EXTENSION",
            "MISSING_TMP_ECDH_KEY",
            "NO_CHANGE_FOLLOWING_HRR",
            "NO_CIPHERS_SPECIFIED",
            "NO_COMPRESSION_SPECIFIED",
            "OLD_SESSION_CIPHER_NOT_RETURNED",
            "OLD_SESSION_COMPRESSION_ALGORITHM_NOT_RETURNED",
            "PARSE_TLSEXT",
            "POST_HANDSHAKE_AUTH_ENCODING_ERR",
            "RECORD_LENGTH_MISMATCH",
            "RENEGOTIATE_EXT_TOO_LONG",
            "RENEGOTIATION_ENCODING_ERR",
            "RENEGOTIATION_MISMATCH",
            "REQUIRED_CIPHER_MISSING",
            "REQUIRED_COMPRESSION_ALGORITHM_MISSING",
            "SCSV_RECEIVED_WHEN_RENEGOTIATING",
            "SERVERHELLO_TLSEXT",
            "SIGNATURE_ALGORITHMS_ERROR",
            "SRP_A_CALC",
            "SSL3_EXT_INVALID_MAX_FRAGMENT_LENGTH",
            "SSL3_SESSION_ID_TOO_LONG",
            "SSL_SESSION_ID_TOO_LONG",
            "SSL_SESSION_VERSION_MISMATCH",
            "TLS_INVALID_ECPOINTFORMAT_LIST",
            "TOO_MUCH_EARLY_DATA",
            "UNABLE_TO_FIND_ECDH_PARAMETERS",
            "UNEXPECTED_END_OF_EARLY_DATA",
            "UNKNOWN_CIPHER_RETURNED",
            "UNKNOWN_CIPHER_TYPE",
            "UNKNOWN_KEY_EXCHANGE_TYPE",
            "UNSOLICITED_EXTENSION",
            "UNSUPPORTED_COMPRESSION_ALGORITHM",
            "UNSUPPORTED_STATUS_TYPE",
            "WRONG_CIPHER_RETURNED",
            "WRONG_SIGNATURE_LENGTH",
            "WRONG_SIGNATURE_SIZE",
        ),
        _TWO_IMPLEMENTATIONS,
    ),
}

_CRL_CURE = (
    "Load current revocation lists with ``load_verify_locations()``, or don't set the CRL checks "
    "in ``verify_flags``."
)
_ISSUER_CURE = (
    "Trust the authority that issued it with ``load_verify_locations()``. Often the server doesn't "
    "send the intermediate certificates: they belong in its file, after its own certificate."
)
_REISSUE_CURE = "The certificate has to be reissued."
_SIGNATURE_CURE = (
    "Usually there are two authorities with the same name and different keys: trust the one that "
    "issued it. The certificate may also be forged."
)
_WEAK_CURE = "The certificate has to be reissued, to meet the context's security level."
_STRICT_CURE = (
    "The certificate has to be reissued. For an old authority of your own, use "
    "``verify_flags &= ~ssl.VERIFY_X509_STRICT``, the default before Python 3.13."
)

_CERTIFICATE_CURES = {
    2: "Trust the root too. To accept the trusted issuer without the root, set "
    "``VERIFY_X509_PARTIAL_CHAIN`` in ``verify_flags``, as Python 3.13 does.",
    3: _CRL_CURE + " With ``VERIFY_CRL_CHECK_CHAIN``, each authority must have one.",
    7: _SIGNATURE_CURE,
    8: _SIGNATURE_CURE,
    9: "Set this machine's clock, or wait.",
    10: "The peer has to renew it, or to load what was renewed: a server that is not told goes on "
    "with the old one (see ``ReloadingContext``). Look at this machine's clock if others "
    "accept it.",
    11: "Set this machine's clock, or wait.",
    12: _CRL_CURE,
    18: "Trust this certificate with ``load_verify_locations()``, or use one from an authority.",
    19: "Trust the root with ``load_verify_locations()``, if it is yours. A device in between may "
    "present its own certificates (a company's proxy, a virus scanner).",
    20: _ISSUER_CURE,
    21: _ISSUER_CURE,
    22: "The peer has to send a shorter one: a hundred certificates are not needed.",
    23: "The peer has to obtain a new certificate.",
    24: _REISSUE_CURE + " Its issuer must be a certificate authority (basicConstraints, keyUsage).",
    25: _REISSUE_CURE,
    26: _REISSUE_CURE + " Servers need ``serverAuth``, clients ``clientAuth``. Public "
    "authorities no longer issue certificates for clients: use an authority of your own for them.",
    34: _REISSUE_CURE,
    35: "The certificate of the authority has to be reissued, with ``cRLSign``.",
    41: _REISSUE_CURE,
    47: _REISSUE_CURE,
    48: _REISSUE_CURE,
    66: _WEAK_CURE,
    67: _WEAK_CURE,
    68: _WEAK_CURE,
    79: _REISSUE_CURE + " Its issuer must be a certificate authority (basicConstraints, keyUsage).",
    **dict.fromkeys(range(80, 94), _STRICT_CURE),
}


def tables() -> dict[str, tuple[str, str, dict[Any, str], dict[Any, str]]]:
    """Return, for each table, the heading of its keys, the start of its messages, and the dicts of
    messages and cures.
    """
    return {
        "alerts": ("Alert", "the peer ended the connection: ", words.ALERTS, _ALERT_CURES),
        "reasons": ("``reason``", "", words.REASONS, _REASON_CURES),
        "certificates": (
            "``verify_code``",
            "the peer's certificate was refused: ",
            certificate_words.VERIFY_CODES,
            _CERTIFICATE_CURES,
        ),
    }


class ErrorTable(SphinxDirective):
    """Shows one of the tables. Entries with the same message and cure share a row."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(words.__file__)
        self.env.note_dependency(certificate_words.__file__)
        self.env.note_dependency(__file__)
        name = self.arguments[0]
        heading, _, messages, cures = tables()[name]
        if messages.keys() != cures.keys():
            different = sorted(map(str, messages.keys() ^ cures.keys()))
            raise ExtensionError(
                f"docs/_ext/errors.py and the code differ in {name}: {', '.join(different)}"
            )
        groups: dict[tuple[str, str], list[str]] = {}
        for key, message in messages.items():
            groups.setdefault((message, cures[key]), []).append(f"``{key}``")
        rows = [
            (escape(message), ", ".join(keys), cure) for (message, cure), keys in groups.items()
        ]
        return parse(self, list_table(("Message", heading, "What to do"), rows, (38, 24, 38)))


def setup(app: Sphinx) -> dict[str, Any]:
    app.add_directive("error-table", ErrorTable)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
