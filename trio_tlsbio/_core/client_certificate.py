"""Requests a client's certificate after the handshake."""

from __future__ import annotations

import ssl

import attrs
import trio

from .engine import SEAL_BYTES, Engine, Happening
from .errors import Origin, PostHandshakeAuthError
from .handshake_info import HandshakeInfo, with_certificate
from .records import record_bounds
from .states import Lifecycle, State

__all__ = ["CertificateRequest", "ask_for_certificate", "check_may_answer"]

# The size of an encrypted KeyUpdate (RFC 9846 section 4.7.3).
_KEY_UPDATE_BYTES = 5 + SEAL_BYTES


def _check_can_ask(ssl_context: ssl.SSLContext) -> None:
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


def ask_for_certificate(
    engine: Engine, ssl_context: ssl.SSLContext, handshake: HandshakeInfo | None, origin: Origin
) -> Happening | None:
    """Write a request, and return the event.

    Raises:
      PostHandshakeAuthError: if the client can't be asked.
      ValueError: if this side can't ask.
      trio.NeedHandshakeError: before the handshake is done.
    """
    if not engine.server_side:
        raise ValueError("verify_client_post_handshake() is for servers")
    if handshake is None:
        raise trio.NeedHandshakeError("can't ask for a certificate before the handshake is done")
    _check_can_ask(ssl_context)
    try:
        return engine.request_certificate()
    except ssl.SSLError as exc:
        error = PostHandshakeAuthError(
            "this client can't be asked for a certificate after the handshake: it does not "
            f"offer that, or speaks {handshake.version}",
            reason=exc.reason,
        )
        raise origin.claim(error) from exc


def check_may_answer(lifecycle: Lifecycle, decrypted_bytes: int, most_bytes: int) -> None:
    """Raise an error if there is no point in waiting for the answer any longer."""
    lifecycle.check_receive()
    if lifecycle.receive is State.CLOSED:
        message = "the client ended its direction and did not answer with a certificate"
        raise lifecycle.origin.claim(PostHandshakeAuthError(message))
    if decrypted_bytes > most_bytes:
        message = "the client sends data where it should answer with a certificate"
        raise lifecycle.origin.claim(PostHandshakeAuthError(message))


@attrs.define(eq=False)
class CertificateRequest:
    """A request for a certificate (RFC 9846 section 4.7.2), and its result."""

    _ssl_object: ssl.SSLObject
    _handshake: HandshakeInfo
    #: The result of the handshake with the certificate, once that has arrived.
    answered: HandshakeInfo | None = None

    def check_answer(self, answers: bytes) -> None:
        """Check whether the bytes that OpenSSL wrote while decrypting show that a certificate has
        arrived.

        A server sends new tickets after each answer, even an empty one (see the state machine in
        OpenSSL's statem_srvr.c), and nothing else that is longer than a KeyUpdate.
        """
        if self.answered is None and any(
            end - start > _KEY_UPDATE_BYTES for start, end in record_bounds(answers)
        ):
            self.answered = with_certificate(self._handshake, self._ssl_object)
