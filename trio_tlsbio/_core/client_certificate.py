"""A client's certificate that the server asks for after the handshake."""

from __future__ import annotations

import ssl

import attrs

from .engine import SEAL_BYTES
from .errors import PostHandshakeAuthError
from .handshake_info import HandshakeInfo
from .openssl_errors import clean_up
from .records import record_bounds

__all__ = ["CertificateRequest", "check_can_ask"]

# An encrypted KeyUpdate (RFC 9846 section 4.7.3).
_KEY_UPDATE_BYTES = 5 + SEAL_BYTES


def check_can_ask(ssl_context: ssl.SSLContext) -> None:
    """Raise :exc:`ValueError` unless a server's context allows to ask."""
    if not ssl_context.post_handshake_auth or ssl_context.verify_mode is ssl.CERT_NONE:
        raise ValueError(
            "asking for a certificate after the handshake needs an SSLContext with "
            "post_handshake_auth set, and verify_mode CERT_OPTIONAL or CERT_REQUIRED"
        )
    if not ssl_context.num_tickets:
        # An answer is recognised by the tickets that follow it.
        raise ValueError(
            "asking for a certificate after the handshake needs an SSLContext with num_tickets "
            "above 0"
        )


@attrs.define(eq=False)
class CertificateRequest:
    """A request (RFC 9846 section 4.7.2) that was not answered yet, or was just now."""

    _ssl_object: ssl.SSLObject
    _handshake: HandshakeInfo
    #: What was agreed on, with the certificate, once that has come.
    answered: HandshakeInfo | None = attrs.field(default=None, init=False)

    @classmethod
    def write(cls, ssl_object: ssl.SSLObject, handshake: HandshakeInfo) -> CertificateRequest:
        """Have OpenSSL write a request; ``do_handshake()`` puts it out.

        Raises:
          PostHandshakeAuthError: if the client can't be asked.
        """
        try:
            ssl_object.verify_client_post_handshake()
        except ssl.SSLError as exc:
            clean_up()
            raise PostHandshakeAuthError(
                "this client can't be asked for a certificate after the handshake: it does not "
                f"offer that, or speaks {ssl_object.version()}",
                reason=exc.reason,
            ) from exc
        return cls(ssl_object, handshake)

    def look(self, answers: bytes) -> None:
        """Look whether what OpenSSL wrote while it decrypted shows that a certificate has come.

        A server sends new tickets after each answer, an empty one too (see the state machine in
        OpenSSL's statem_srvr.c), and nothing else that is longer than a KeyUpdate.
        """
        if any(end - start > _KEY_UPDATE_BYTES for start, end in record_bounds(answers)):
            self.answered = HandshakeInfo.of(self._ssl_object, lambda _: self._handshake.group)
