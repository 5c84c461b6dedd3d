"""Explanations for the names that OpenSSL reports: alerts and reasons."""

from __future__ import annotations

from .iana import Alert

__all__ = ["ALERTS", "NEWER_ALERTS", "REASONS"]

# The alerts of RFC 9846 section 6 that a peer may send, with their meaning for the recipient.
# OpenSSL names some after the protocol version that introduced them.
ALERTS = {
    "unexpected_message": "a message that it did not expect arrived",
    "bad_record_mac": "a record that we sent arrived damaged",
    "decryption_failed": "a record that we sent arrived damaged",
    "record_overflow": "a record that we sent is too long",
    "decompression_failure": "it can't decompress our data",
    "handshake_failure": "it found no parameters that both sides support (ciphers, groups,"
    " signatures), or no client certificate or pre-shared key (PSK) where it needs one",
    "no_certificate": "we did not send a certificate",
    "bad_certificate": "it does not accept our certificate",
    "unsupported_certificate": "our certificate is of a kind that it does not support, or was not "
    "issued for this purpose (extended key usage: clientAuth for "
    "clients, serverAuth for servers)",
    "certificate_revoked": "our certificate was revoked",
    "certificate_expired": "our certificate has expired or is not valid yet; if it was renewed,"
    " it has to be loaded again (ReloadingContext does that)",
    "certificate_unknown": "it does not accept our certificate",
    "illegal_parameter": "a handshake message that we sent has an invalid value, or our"
    " pre-shared key (PSK) is not the one that it has",
    "unknown_ca": "it does not trust the authority that issued our certificate",
    "access_denied": "our certificate is valid, but access is denied",
    "decode_error": "it can't read a message that we sent",
    "decrypt_error": "it can't verify a signature or a Finished message that we sent, or our"
    " pre-shared key (PSK) is not the one that it has",
    "export_restriction": "export restrictions are violated",
    "protocol_version": "it supports no TLS version that we offer",
    "insufficient_security": "what we offer is not secure enough for it",
    "internal_error": "it has an internal error",
    "inappropriate_fallback": "we fell back to an older TLS version without need",
    "user_cancelled": "it gave up the handshake",
    "no_renegotiation": "it does not renegotiate",
    "missing_extension": "a handshake message that we sent lacks an extension",
    "unsupported_extension": "we sent an extension that it did not ask for",
    "certificate_unobtainable": "it could not fetch our certificate",
    "unrecognized_name": "it serves no site with the name that we asked for",
    "bad_certificate_status_response": "it can't accept our OCSP response",
    "bad_certificate_hash_value": "our certificate doesn't match the hash that it was given",
    "unknown_psk_identity": "it knows no pre-shared key (PSK) for the identity that we sent",
    "certificate_required": "it requires a client certificate, and we sent none"
    " (load_cert_chain() loads one)",
    "no_application_protocol": "it speaks no application protocol (ALPN) that we offer",
    "general_error": "it does not say why",
    "ech_required": "it requires Encrypted Client Hello (ECH), which Python does not support",
    "unknown": "it sent an alert of an unknown kind",
}

# The alerts in IANA's registry that OpenSSL has no name for.
NEWER_ALERTS: dict[int | None, str] = {
    alert: alert.description for alert in (Alert.GENERAL_ERROR, Alert.ECH_REQUIRED)
}

# Messages that several reasons share.
_NO_TLS_RECORD = "the peer sent something that is not a TLS record"
_DAMAGED = "a record arrived damaged: its bytes were changed or reordered on the way"
_WORN_OUT_KEY = "more records were sent with one key than TLS allows"
_TOO_LONG_A_RECORD = "the peer sent a record that is longer than TLS allows"
_MISPLACED_RECORD = "the peer sent an unexpected record"
_MALFORMED = "the peer sent a malformed handshake message"
_MALFORMED_ALERT = "the peer sent a malformed alert"
_CONTRADICTORY_VERSIONS = "the peer's messages name versions of TLS that contradict each other"
_NO_GROUP = "the peer offers no key exchange group that is allowed here"
_MISSING_EXTENSION = "the peer's ClientHello lacks an extension that TLS 1.3 requires"
_OTHER_RETRY = (
    "the peer's second ClientHello does not match its first one, or the HelloRetryRequest that it"
    " answers"
)
_OTHER_CHOICE = "the peer chose something that was not offered to it"
_OTHER_SESSION = "the peer resumed a session with parameters that differ from the session's"
_NO_SIGNATURE = (
    "the handshake is signed by an algorithm that is not allowed, or that does not fit the"
    " certificate's key"
)
_UNREADABLE_CERTIFICATE = (
    "the peer sent a certificate, or the name of an authority, that can't be read"
)
_NO_CERTIFICATE = "the peer sent no client certificate, and one is required"
_UNFIT_CERTIFICATE = "the peer's certificate does not fit the cipher that was agreed on"
_UNREADABLE_KEY = "the key in the peer's certificate can't be used"
_BAD_KEY_EXCHANGE = "the peer's part of the key exchange is invalid"
_WEAK_CERTIFICATE = "the certificate loaded here is too weak for the context's security level"
_NO_PSK = "the peer asks for a pre-shared key (PSK), and there is none for it here"
_COMPRESSION = "the peer compresses its data, which is disabled here"
_BAD_COMPRESSION = "compressing or decompressing a record failed"
_RENEGOTIATION = "the peer's renegotiation does not belong to the handshake before it (RFC 5746)"
_EARLY_DATA = "the peer's early data (0-RTT), or its limit for early data, is invalid"
_COOKIE = "the context's options require a cookie (OP_COOKIE_EXCHANGE), which Python can't make"
_CALLBACK = "a callback of the SSLContext failed or refused the peer"
_SESSION_ID = "no unique ID was found for a new session"
_LATE_CALL = "an operation was called that is invalid in this state of the connection"
_OPENSSL = "OpenSSL failed, because of a bug or a lack of memory"
_OPENSSL_CRYPTO = "OpenSSL failed in a cryptographic operation that the handshake needs"

# OpenSSL's reasons that can reach a connection. For others, OpenSSL's own message is used.
REASONS = {
    "HTTP_REQUEST": "the client did not speak TLS: it sent an HTTP request",
    "HTTPS_PROXY_REQUEST": "the client did not speak TLS: it sent an HTTP request to a proxy",
    "WRONG_VERSION_NUMBER": "the peer does not speak TLS here: this may be a plaintext port, or"
    " one that requires STARTTLS first",
    "UNKNOWN_PROTOCOL": "the peer does not speak TLS here",
    "RECORD_LAYER_FAILURE": "a record arrived damaged: its bytes were changed or reordered on"
    " the way, or the peer sent an invalid one",
    "BAD_RECORD_TYPE": _NO_TLS_RECORD,
    # Versions
    "UNSUPPORTED_PROTOCOL": "the peer offers no TLS version that is allowed here (minimum_version,"
    " maximum_version), or there is neither a certificate nor a pre-shared key (PSK) for it here"
    " (was load_cert_chain() called?)",
    "VERSION_TOO_LOW": "the peer's newest TLS version is older than those that are allowed here",
    "VERSION_TOO_HIGH": "the peer's TLS version is newer than those that are allowed here",
    "NO_PROTOCOLS_AVAILABLE": "the context's minimum_version and maximum_version leave no TLS"
    " version to use",
    "WRONG_SSL_VERSION": "the peer chose a TLS version that is not allowed here",
    "BAD_LEGACY_VERSION": _CONTRADICTORY_VERSIONS,
    "BAD_PROTOCOL_VERSION_NUMBER": _CONTRADICTORY_VERSIONS,
    "UNSUPPORTED_SSL_VERSION": "the peer chose a TLS version that is not allowed here",
    "INAPPROPRIATE_FALLBACK": "the peer fell back to an older TLS version without need",
    "AT_LEAST_TLS_1_2_NEEDED_IN_SUITEB_MODE": "the context's ciphers are those of Suite B, which"
    " need TLS 1.2",
    # Ciphers, groups and signatures
    "NO_SHARED_CIPHER": "the peer offers no cipher that is allowed here, or there is no"
    " certificate or pre-shared key (PSK) for the ciphers it offers (was load_cert_chain()"
    " called?)",
    "NO_CIPHERS_AVAILABLE": "the context's ciphers fit none of its TLS versions, or need a"
    " pre-shared key (PSK) that it has no callback for",
    "NO_CIPHERS_SPECIFIED": "the peer's ClientHello offers no ciphers at all",
    "NO_SHARED_SIGNATURE_ALGORITHMS": "the peer accepts no signature algorithm that is allowed"
    " here",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "the peer accepts no signature that our certificate's key"
    " can make; or no certificate is loaded here (was load_cert_chain() called?), and the peer"
    " offers no pre-shared key (PSK) that is known here",
    "NO_SUITABLE_KEY_SHARE": _NO_GROUP,
    "NO_SHARED_GROUPS": _NO_GROUP,
    "UNSUPPORTED_ELLIPTIC_CURVE": _NO_GROUP,
    "NO_SUITABLE_GROUPS": "the context's key exchange groups fit none of its TLS versions",
    "WRONG_SIGNATURE_TYPE": _NO_SIGNATURE,
    "LEGACY_SIGALG_DISALLOWED_OR_UNSUPPORTED": _NO_SIGNATURE,
    "UNKNOWN_DIGEST": _NO_SIGNATURE,
    "WRONG_CURVE": "the peer uses an elliptic curve that is not allowed here, or that does not fit"
    " its signature",
    "ILLEGAL_POINT_COMPRESSION": "the peer's certificate has an elliptic-curve key in a compressed"
    " form, which is not allowed here",
    "DH_KEY_TOO_SMALL": "the peer's Diffie-Hellman key is too small to be secure",
    "WRONG_CIPHER_RETURNED": _OTHER_CHOICE,
    "UNKNOWN_CIPHER_RETURNED": _OTHER_CHOICE,
    "UNSOLICITED_EXTENSION": "the peer answered with an extension that was not offered to it",
    "MISSING_SIGALGS_EXTENSION": _MISSING_EXTENSION,
    "MISSING_SUPPORTED_GROUPS_EXTENSION": _MISSING_EXTENSION,
    "MISSING_PSK_KEX_MODES_EXTENSION": _MISSING_EXTENSION,
    "MISSING_SUPPORTED_VERSIONS_EXTENSION": "the peer's HelloRetryRequest does not name the version"
    " of TLS",
    "NO_APPLICATION_PROTOCOL": "the peer offers no application protocol (ALPN) that is served here",
    # Certificates
    "CERTIFICATE_VERIFY_FAILED": "the peer's certificate was refused",
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": _NO_CERTIFICATE,
    "NO_CERTIFICATES_RETURNED": _NO_CERTIFICATE,
    "BAD_SIGNATURE": "the peer's signature of the handshake is wrong",
    "ASN1_LIB": _UNREADABLE_CERTIFICATE,
    "BAD_CERTIFICATE": _UNREADABLE_CERTIFICATE,
    "X509_LIB": _UNREADABLE_CERTIFICATE,
    "CERT_LENGTH_MISMATCH": _UNREADABLE_CERTIFICATE,
    "CA_DN_LENGTH_MISMATCH": _UNREADABLE_CERTIFICATE,
    "BAD_ECC_CERT": _UNFIT_CERTIFICATE,
    "ECC_CERT_NOT_FOR_SIGNING": _UNFIT_CERTIFICATE,
    "MISSING_RSA_ENCRYPTING_CERT": _UNFIT_CERTIFICATE,
    "MISSING_RSA_SIGNING_CERT": _UNFIT_CERTIFICATE,
    "MISSING_DSA_SIGNING_CERT": _UNFIT_CERTIFICATE,
    "MISSING_ECDSA_SIGNING_CERT": _UNFIT_CERTIFICATE,
    "MISSING_SIGNING_CERT": _UNFIT_CERTIFICATE,
    "NO_GOST_CERTIFICATE_SENT_BY_PEER": _UNFIT_CERTIFICATE,
    "WRONG_CERTIFICATE_TYPE": _UNFIT_CERTIFICATE,
    "SIGNATURE_FOR_NON_SIGNING_CERTIFICATE": _UNFIT_CERTIFICATE,
    "BAD_DATA": _UNFIT_CERTIFICATE,
    "UNKNOWN_CERTIFICATE_TYPE": _UNREADABLE_KEY,
    "UNKNOWN_PKEY_TYPE": _UNREADABLE_KEY,
    "UNABLE_TO_FIND_PUBLIC_KEY_PARAMETERS": _UNREADABLE_KEY,
    "EE_KEY_TOO_SMALL": _WEAK_CERTIFICATE,
    "CA_KEY_TOO_SMALL": _WEAK_CERTIFICATE,
    "CA_MD_TOO_WEAK": _WEAK_CERTIFICATE,
    "MISSING_RSA_CERTIFICATE": "the peer encrypted for an RSA key, and no RSA certificate is loaded"
    " here",
    "INVALID_CONTEXT": "the peer's certificate does not answer the request for it",
    "INVALID_STATUS_RESPONSE": "the peer's OCSP response was refused",
    "OCSP_CALLBACK_FAILURE": "the peer's OCSP response was refused",
    "INVALID_RAW_PUBLIC_KEY": _UNREADABLE_KEY,
    "EMPTY_RAW_PUBLIC_KEY": _UNREADABLE_KEY,
    "WRONG_RPK_TYPE": _UNREADABLE_KEY,
    # Key exchange
    "BAD_KEY_SHARE": _MALFORMED,
    "BAD_DH_VALUE": _BAD_KEY_EXCHANGE,
    "BAD_ECPOINT": _BAD_KEY_EXCHANGE,
    "COPY_PARAMETERS_FAILED": _BAD_KEY_EXCHANGE,
    "DECRYPTION_FAILED": _BAD_KEY_EXCHANGE,
    "DH_PUBLIC_VALUE_LENGTH_IS_WRONG": _BAD_KEY_EXCHANGE,
    "MISSING_TMP_ECDH_KEY": _BAD_KEY_EXCHANGE,
    "UNABLE_TO_FIND_ECDH_PARAMETERS": _BAD_KEY_EXCHANGE,
    "UNKNOWN_CIPHER_TYPE": _BAD_KEY_EXCHANGE,
    "UNKNOWN_KEY_EXCHANGE_TYPE": _BAD_KEY_EXCHANGE,
    "BAD_SRP_A_LENGTH": _BAD_KEY_EXCHANGE,
    "BAD_SRP_PARAMETERS": _BAD_KEY_EXCHANGE,
    "SRP_A_CALC": _BAD_KEY_EXCHANGE,
    "INSUFFICIENT_SECURITY": _BAD_KEY_EXCHANGE,
    "BAD_RSA_ENCRYPT": _UNREADABLE_KEY,
    "MISSING_TMP_DH_KEY": "a Diffie-Hellman cipher was agreed on, and the context has no"
    " parameters for it (load_dh_params())",
    "PSK_IDENTITY_NOT_FOUND": "no pre-shared key (PSK) is known here for the identity or the hint"
    " that the peer sent",
    "PSK_NO_CLIENT_CB": _NO_PSK,
    "PSK_NO_SERVER_CB": _NO_PSK,
    "BAD_PSK": "the pre-shared key (PSK), or the session, does not fit the cipher that was"
    " agreed on",
    "BAD_PSK_IDENTITY": "the peer chose a session or pre-shared key that was not offered to it",
    "BINDER_DOES_NOT_VERIFY": "the peer can't prove that it has the key of the session, or the"
    " pre-shared key, that it wants to use",
    # Resuming, a second ClientHello, renegotiation, early data
    "ATTEMPT_TO_REUSE_SESSION_IN_DIFFERENT_CONTEXT": _OTHER_SESSION,
    "CIPHERSUITE_DIGEST_HAS_CHANGED": _OTHER_SESSION,
    "OLD_SESSION_CIPHER_NOT_RETURNED": _OTHER_SESSION,
    "OLD_SESSION_COMPRESSION_ALGORITHM_NOT_RETURNED": _OTHER_SESSION,
    "REQUIRED_CIPHER_MISSING": _OTHER_SESSION,
    "REQUIRED_COMPRESSION_ALGORITHM_MISSING": _OTHER_SESSION,
    "INCONSISTENT_COMPRESSION": _OTHER_SESSION,
    "INCONSISTENT_EXTMS": _OTHER_SESSION,
    "SSL_SESSION_VERSION_MISMATCH": _OTHER_SESSION,
    "SESSION_ID_CONTEXT_UNINITIALIZED": "the context asks for client certificates, and has no"
    " session-id context, without which no session can be resumed",
    "BAD_CIPHER": _OTHER_RETRY,
    "COOKIE_MISMATCH": _OTHER_RETRY,
    "NO_COOKIE_CALLBACK_SET": _COOKIE,
    "COOKIE_GEN_CALLBACK_FAILURE": _COOKIE,
    "NO_CHANGE_FOLLOWING_HRR": "the peer asks for a second ClientHello that would be the same as"
    " the first",
    "BAD_HRR_VERSION": _CONTRADICTORY_VERSIONS,
    "NO_RENEGOTIATION": "the peer refuses a renegotiation",
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": "the peer only knows insecure renegotiation (RFC 5746)",
    "RENEGOTIATION_MISMATCH": _RENEGOTIATION,
    "RENEGOTIATION_ENCODING_ERR": _RENEGOTIATION,
    "RENEGOTIATE_EXT_TOO_LONG": _RENEGOTIATION,
    "SCSV_RECEIVED_WHEN_RENEGOTIATING": _RENEGOTIATION,
    "BAD_EARLY_DATA": _EARLY_DATA,
    "INCONSISTENT_EARLY_DATA_ALPN": _EARLY_DATA,
    "INCONSISTENT_EARLY_DATA_SNI": _EARLY_DATA,
    "INVALID_MAX_EARLY_DATA": _EARLY_DATA,
    "TOO_MUCH_EARLY_DATA": _EARLY_DATA,
    "UNEXPECTED_END_OF_EARLY_DATA": _EARLY_DATA,
    # Compression
    "COMPRESSION_DISABLED": _COMPRESSION,
    "INVALID_COMPRESSION_ALGORITHM": _COMPRESSION,
    "UNSUPPORTED_COMPRESSION_ALGORITHM": _COMPRESSION,
    "BAD_COMPRESSION_ALGORITHM": _COMPRESSION,
    "NO_COMPRESSION_SPECIFIED": "the peer insists on compressing its data",
    "BAD_DECOMPRESSION": _BAD_COMPRESSION,
    "COMPRESSION_FAILURE": _BAD_COMPRESSION,
    "COMPRESSION_LIBRARY_ERROR": _BAD_COMPRESSION,
    # Records
    "DECRYPTION_FAILED_OR_BAD_RECORD_MAC": _DAMAGED,
    "BLOCK_CIPHER_PAD_IS_WRONG": _DAMAGED,
    "RECORD_TOO_SMALL": "the peer sent too many empty records in a row",
    "PACKET_LENGTH_TOO_LONG": _TOO_LONG_A_RECORD,
    "DATA_LENGTH_TOO_LONG": _TOO_LONG_A_RECORD,
    "ENCRYPTED_LENGTH_TOO_LONG": _TOO_LONG_A_RECORD,
    "COMPRESSED_LENGTH_TOO_LONG": _TOO_LONG_A_RECORD,
    "INVALID_RECORD": _NO_TLS_RECORD,
    "UNEXPECTED_MESSAGE": "the peer sent an unexpected message",
    "BAD_HELLO_REQUEST": "the peer sent an unexpected message",
    "UNEXPECTED_RECORD": _MISPLACED_RECORD,
    "UNEXPECTED_CCS_MESSAGE": _MISPLACED_RECORD,
    "CCS_RECEIVED_EARLY": _MISPLACED_RECORD,
    "INVALID_CCS_MESSAGE": _MISPLACED_RECORD,
    "BAD_CHANGE_CIPHER_SPEC": _MISPLACED_RECORD,
    "GOT_A_FIN_BEFORE_A_CCS": _MISPLACED_RECORD,
    "DATA_BETWEEN_CCS_AND_FINISHED": _MISPLACED_RECORD,
    "APP_DATA_IN_HANDSHAKE": "the peer sent application data during a handshake",
    "APPLICATION_DATA_AFTER_CLOSE_NOTIFY": "the peer sent data while the connection was being"
    " closed",
    "MIXED_HANDSHAKE_AND_NON_HANDSHAKE_DATA": "the peer sent a record in the middle of a"
    " handshake message",
    "NOT_ON_RECORD_BOUNDARY": "the peer changed its keys in the middle of a record",
    "INVALID_ALERT": _MALFORMED_ALERT,
    "UNKNOWN_ALERT_TYPE": _MALFORMED_ALERT,
    "TOO_MANY_WARN_ALERTS": "the peer sent too many warnings in a row",
    "TOO_MANY_KEY_UPDATES": "the peer changed its keys too often",
    "SEQUENCE_CTR_WRAPPED": _WORN_OUT_KEY,
    "MAXIMUM_ENCRYPTED_PKTS_REACHED": _WORN_OUT_KEY,
    "UNEXPECTED_EOF_WHILE_READING": "the transport ended in the middle of a record",
    # Handshake messages
    "DIGEST_CHECK_FAILED": "the peer's Finished message is wrong: the handshake was changed on"
    " the way",
    "LENGTH_MISMATCH": _MALFORMED,
    "LENGTH_TOO_SHORT": _MALFORMED,
    "LENGTH_TOO_LONG": _MALFORMED,
    "BAD_LENGTH": "the peer sent a message that is empty, or has a wrong length",
    "BAD_PACKET": _MALFORMED,
    "BAD_PACKET_LENGTH": _MALFORMED,
    "BAD_DIGEST_LENGTH": _MALFORMED,
    "BAD_EXTENSION": _MALFORMED,
    "BAD_KEY_UPDATE": _MALFORMED,
    "CLIENTHELLO_TLSEXT": _MALFORMED,
    "ERROR_IN_RECEIVED_CIPHER_LIST": _MALFORMED,
    "EXT_LENGTH_MISMATCH": _MALFORMED,
    "EXTRA_DATA_IN_MESSAGE": _MALFORMED,
    "INVALID_SESSION_ID": "the peer's ServerHello has a different session ID from our ClientHello",
    "PARSE_TLSEXT": _MALFORMED,
    "POST_HANDSHAKE_AUTH_ENCODING_ERR": _MALFORMED,
    "RECORD_LENGTH_MISMATCH": _MALFORMED,
    "SERVERHELLO_TLSEXT": _MALFORMED,
    "SIGNATURE_ALGORITHMS_ERROR": _MALFORMED,
    "SSL3_EXT_INVALID_MAX_FRAGMENT_LENGTH": _MALFORMED,
    "SSL3_SESSION_ID_TOO_LONG": _MALFORMED,
    "SSL_SESSION_ID_TOO_LONG": _MALFORMED,
    "TLS_INVALID_ECPOINTFORMAT_LIST": _MALFORMED,
    "UNSUPPORTED_STATUS_TYPE": _MALFORMED,
    "WRONG_SIGNATURE_LENGTH": _MALFORMED,
    "WRONG_SIGNATURE_SIZE": _MALFORMED,
    "EXCESSIVE_MESSAGE_SIZE": "the peer sent a handshake message that is longer than OpenSSL allows"
    " (100 KiB for its certificates)",
    # This side
    "CALLBACK_FAILED": _CALLBACK,
    "CERT_CB_ERROR": _CALLBACK,
    "BAD_DATA_RETURNED_BY_CALLBACK": _CALLBACK,
    "SSL_SESSION_ID_CALLBACK_FAILED": _SESSION_ID,
    "SSL_SESSION_ID_CONFLICT": _SESSION_ID,
    "SSL_SESSION_ID_HAS_BAD_LENGTH": _SESSION_ID,
    "PROTOCOL_IS_SHUTDOWN": "this side has sent its close_notify, and can't send any more",
    "CONNECTION_TYPE_NOT_SET": _LATE_CALL,
    "BAD_WRITE_RETRY": _LATE_CALL,
    "SHUTDOWN_WHILE_IN_INIT": _LATE_CALL,
    "STILL_IN_INIT": _LATE_CALL,
    "UNINITIALIZED": _LATE_CALL,
    "INTERNAL_ERROR": "OpenSSL can't continue (internal error); in TLS 1.2, a record that is too "
    "short to be encrypted causes this",
    "BAD_HANDSHAKE_LENGTH": _OPENSSL,
    "BAD_HANDSHAKE_STATE": _OPENSSL,
    "CANNOT_CHANGE_CIPHER": _OPENSSL,
    "LIBRARY_BUG": _OPENSSL,
    "MISSING_FATAL": _OPENSSL,
    "OVERFLOW_ERROR": _OPENSSL,
    "PIPELINE_FAILURE": _OPENSSL,
    "RECORDS_NOT_RELEASED": _OPENSSL,
    "SSL_HANDSHAKE_FAILURE": _OPENSSL,
    "SSL_NEGATIVE_LENGTH": _OPENSSL,
    "UNKNOWN_STATE": _OPENSSL,
    "MALLOC_FAILURE": _OPENSSL,
    "BUF_LIB": _OPENSSL,
    "CRYPTO_LIB": _OPENSSL,
    "SSL_LIB": _OPENSSL,
    "SYSTEM_LIB": _OPENSSL,
    "CALLED_A_FUNCTION_YOU_SHOULD_NOT_CALL": _OPENSSL,
    "PASSED_A_NULL_PARAMETER": _OPENSSL,
    "PASSED_INVALID_ARGUMENT": _OPENSSL,
    "BN_LIB": _OPENSSL_CRYPTO,
    "DH_LIB": _OPENSSL_CRYPTO,
    "EC_LIB": _OPENSSL_CRYPTO,
    "EVP_LIB": _OPENSSL_CRYPTO,
    "RSA_LIB": _OPENSSL_CRYPTO,
    "FETCH_FAILED": _OPENSSL_CRYPTO,
    "UNSUPPORTED": _OPENSSL_CRYPTO,
    "CANNOT_GET_GROUP_NAME": _OPENSSL_CRYPTO,
    "FAILED_TO_GET_PARAMETER": _OPENSSL_CRYPTO,
    "UNKNOWN_MANDATORY_PARAMETER": _OPENSSL_CRYPTO,
    "NO_REQUIRED_DIGEST": _OPENSSL_CRYPTO,
    "NO_SUITABLE_DIGEST_ALGORITHM": _OPENSSL_CRYPTO,
    "NO_SUITABLE_RECORD_LAYER": _OPENSSL_CRYPTO,
}
