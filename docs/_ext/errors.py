"""``.. error-table:: alerts``, ``reasons`` or ``certificates``: the messages of _errors.py.

The messages come from the tables in the code; what to do about each is told here. A message
without a cure ends the build, so that none is forgotten.
"""

from __future__ import annotations

from typing import Any

from _rst import escape, list_table, parse
from docutils import nodes  # type: ignore[import-untyped]
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from trio_tlsbio import _errors

_DAMAGED = (
    "Rare over TCP. Look for two tasks or programs that write to one socket, and for devices on "
    "the way that change data."
)
_TWO_IMPLEMENTATIONS = (
    "A bug at one end, or something that is no TLS at all. Look at the versions of both, and try "
    "another peer."
)
_HOSTILE = "See :doc:`hostile`: no peer that means well does that."
_OUR_CERTIFICATE = (
    "Look at the certificate that this side loaded, and ask the peer's operator which it accepts."
)
_PROTOCOL = (
    "Look at the port, and whether its protocol begins in plaintext (STARTTLS). Use a plain "
    "stream there."
)
_OLD_PEER = "The peer should be updated; lowering what the context demands gives up security."
_COMMON_PARAMETERS = (
    "Compare versions, ciphers, groups and kinds of certificate of both sides. A "
    "``set_ciphers()`` or a raised security level is often the reason."
)

_ALERT_CURES = {
    "unexpected_message": _TWO_IMPLEMENTATIONS,
    "bad_record_mac": _DAMAGED,
    "decryption_failed": _DAMAGED,
    "record_overflow": _TWO_IMPLEMENTATIONS,
    "decompression_failure": _TWO_IMPLEMENTATIONS,
    "handshake_failure": _COMMON_PARAMETERS
    + " If the peer wants a client certificate, load one by ``load_cert_chain()``.",
    "no_certificate": "Load a client certificate by ``load_cert_chain()``.",
    "bad_certificate": _OUR_CERTIFICATE,
    "unsupported_certificate": "Use a certificate of another kind of key, or made for this "
    "purpose (extended key usage).",
    "certificate_revoked": "Get a new certificate.",
    "certificate_expired": "Renew the certificate; look at the clocks of both sides.",
    "certificate_unknown": _OUR_CERTIFICATE,
    "illegal_parameter": _TWO_IMPLEMENTATIONS,
    "unknown_ca": "Let the peer trust the authority, and send the intermediate certificates: "
    "``load_cert_chain()`` wants the whole chain in its file.",
    "access_denied": "Ask the peer's operator for access.",
    "decode_error": _TWO_IMPLEMENTATIONS,
    "decrypt_error": "Look whether certificate and key belong together, and whether pre-shared "
    "keys are the same at both ends.",
    "export_restriction": _OLD_PEER,
    "protocol_version": "Allow a version that the peer has: ``minimum_version`` and "
    "``maximum_version`` of the context. Better, update the peer.",
    "insufficient_security": "Allow stronger ciphers or groups, or use a longer key.",
    "internal_error": "Look into the peer's log.",
    "inappropriate_fallback": "Don't try older versions after a failure: the handshake finds the "
    "best one.",
    "user_cancelled": "Try again; look into the peer's log.",
    "no_renegotiation": "Nothing: no peer has to.",
    "missing_extension": _TWO_IMPLEMENTATIONS,
    "unsupported_extension": _TWO_IMPLEMENTATIONS,
    "certificate_unobtainable": _TWO_IMPLEMENTATIONS,
    "unrecognized_name": "Look at ``server_hostname``; connect by name and not by address.",
    "bad_certificate_status_response": "Look at the OCSP response that this side sends.",
    "bad_certificate_hash_value": _TWO_IMPLEMENTATIONS,
    "unknown_psk_identity": "Compare the identities and keys of both sides.",
    "certificate_required": "Load a client certificate by ``load_cert_chain()``.",
    "no_application_protocol": "Compare what both sides give to ``set_alpn_protocols()``.",
    "unknown": "Look into the peer's log.",
}

_REASON_CURES = {
    "HTTP_REQUEST": "The client should use ``https://``. On a server: send plain HTTP to a port "
    "of its own.",
    "HTTPS_PROXY_REQUEST": "The client takes this port for a plain HTTP proxy: correct its proxy "
    "settings.",
    "WRONG_VERSION_NUMBER": _PROTOCOL,
    "UNKNOWN_PROTOCOL": _PROTOCOL,
    "RECORD_LAYER_FAILURE": _PROTOCOL,
    "UNSUPPORTED_PROTOCOL": _OLD_PEER
    + " A server that speaks TLS 1.3 alone says this too if no certificate is loaded that goes "
    "with it.",
    "NO_PROTOCOLS_AVAILABLE": "Set ``minimum_version`` and ``maximum_version`` so that they "
    "leave one; look at the system's OpenSSL configuration.",
    "WRONG_SSL_VERSION": _OLD_PEER,
    "NO_SHARED_CIPHER": "On a server, load a certificate by ``load_cert_chain()``. Otherwise "
    "compare the ciphers of both sides.",
    "NO_CIPHERS_AVAILABLE": "Change ``set_ciphers()`` or the versions: the two have nothing in "
    "common.",
    "NO_SUITABLE_SIGNATURE_ALGORITHM": "Use a certificate with another kind of key, such as "
    "ECDSA P-256 or RSA.",
    "NO_SUITABLE_KEY_SHARE": _COMMON_PARAMETERS,
    "PEER_DID_NOT_RETURN_A_CERTIFICATE": "Give the client a certificate, or set ``verify_mode`` "
    "to ``CERT_OPTIONAL`` if it may come without.",
    "NO_APPLICATION_PROTOCOL": "Compare what both sides give to ``set_alpn_protocols()``.",
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
    "EXCESSIVE_MESSAGE_SIZE": _HOSTILE + " If it is a chain of certificates that is too long, "
    "shorten it.",
    "INVALID_ALERT": _TWO_IMPLEMENTATIONS,
    "UNKNOWN_ALERT_TYPE": _TWO_IMPLEMENTATIONS,
    "TOO_MANY_WARN_ALERTS": _HOSTILE,
    "NO_RENEGOTIATION": "Nothing in this library asks for one: look at who does.",
    "INTERNAL_ERROR": _TWO_IMPLEMENTATIONS,
    "LENGTH_MISMATCH": _TWO_IMPLEMENTATIONS,
    "LENGTH_TOO_SHORT": _TWO_IMPLEMENTATIONS,
    "BAD_LENGTH": _TWO_IMPLEMENTATIONS,
    "BAD_PACKET": _TWO_IMPLEMENTATIONS,
    "ASN1_LIB": "The peer's certificate is damaged, and has to be issued anew.",
    "BAD_KEY_SHARE": _TWO_IMPLEMENTATIONS,
    "BAD_EXTENSION": _TWO_IMPLEMENTATIONS,
    "UNSAFE_LEGACY_RENEGOTIATION_DISABLED": _OLD_PEER,
    "DH_KEY_TOO_SMALL": _OLD_PEER,
    "INAPPROPRIATE_FALLBACK": "The client should not try older versions after a failure.",
    "BAD_SIGNATURE": "Look whether the peer's certificate and key belong together.",
    "DIGEST_CHECK_FAILED": _DAMAGED,
    "CALLBACK_FAILED": "Look at what the callback raised or returned: ``sni_callback``, the "
    "pre-shared key callbacks.",
}

_CRL_CURE = (
    "Load current ones by ``load_verify_locations()``, or don't set the CRL checks in "
    "``verify_flags``."
)
_ISSUER_CURE = (
    "Trust the authority that issued it: ``load_verify_locations()``. Often the server forgot "
    "the intermediate certificates: they belong into its file, after its own."
)
_REISSUE_CURE = "The certificate has to be issued anew."
_SIGNATURE_CURE = (
    "Two authorities of one name but with different keys are the usual reason: trust the one that "
    "issued it. It may also be forged."
)
_WEAK_CURE = "The certificate has to be issued anew; the context's security level decides."
_STRICT_CURE = (
    "The certificate has to be issued anew. For an authority of your own that is just old: "
    "``verify_flags &= ~ssl.VERIFY_X509_STRICT``, as it was before Python 3.13."
)

_CERTIFICATE_CURES = {
    2: "Trust the root too. If what is trusted is to do, set ``VERIFY_X509_PARTIAL_CHAIN`` in "
    "``verify_flags``, as Python 3.13 does.",
    3: _CRL_CURE + " With ``VERIFY_CRL_CHECK_CHAIN`` each authority has to have one.",
    7: _SIGNATURE_CURE,
    8: _SIGNATURE_CURE,
    9: "Set this machine's clock, or wait.",
    10: "The peer has to renew it. Look at this machine's clock if others accept it.",
    11: "Set this machine's clock, or wait.",
    12: _CRL_CURE,
    18: "Trust this certificate by ``load_verify_locations()``, or use one from an authority.",
    19: "Trust the root by ``load_verify_locations()``, if it is yours. Something on the way may "
    "present certificates of its own (a company's proxy, a virus scanner).",
    20: _ISSUER_CURE,
    21: _ISSUER_CURE,
    22: "The peer has to send a shorter one: some hundred certificates make no sense.",
    23: "The peer has to get a new certificate.",
    24: _REISSUE_CURE + " Its issuer must be a certificate authority (basicConstraints, keyUsage).",
    25: _REISSUE_CURE,
    26: _REISSUE_CURE + " Servers need ``serverAuth``, clients ``clientAuth``.",
    34: _REISSUE_CURE,
    35: "The authority has to be issued anew, with ``cRLSign``.",
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
    """Return each table's heading for its keys, beginning of its messages, messages and cures."""
    return {
        "alerts": ("Alert", "the peer ended the connection: ", _errors._ALERTS, _ALERT_CURES),
        "reasons": ("``reason``", "", _errors._REASONS, _REASON_CURES),
        "certificates": (
            "``verify_code``",
            "the peer's certificate was refused: ",
            _errors._VERIFY_CODES,
            _CERTIFICATE_CURES,
        ),
    }


class ErrorTable(SphinxDirective):
    """List one of the tables, those that have the same words and cure together."""

    required_arguments = 1

    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(_errors.__file__)
        self.env.note_dependency(__file__)
        name = self.arguments[0]
        heading, _, messages, cures = tables()[name]
        if messages.keys() != cures.keys():
            different = sorted(map(str, messages.keys() ^ cures.keys()))
            raise ExtensionError(
                f"docs/_ext/errors.py and _errors.py differ in {name}: {', '.join(different)}"
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
