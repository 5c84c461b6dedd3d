"""Refuses to resume sessions that outlive the client's certificate. Servers only."""

from __future__ import annotations

import ssl

from . import dates
from .errors import CertificateError
from .hello import plaintext_alert
from .iana import Alert
from .native_session import peer_certificate
from .outbox import Outbox

__all__ = ["refusal_of_session"]

_CERT_HAS_EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED


def refusal_of_session(
    ssl_object: ssl.SSLObject, outbox: Outbox, *, is_done: bool
) -> CertificateError | None:
    """Return the error for a client that resumes a session, if its certificate has expired since
    the creation of that session, which OpenSSL doesn't check. Return None for all other clients.

    Call this after each step of such a handshake, before the bytes that OpenSSL has written are
    collected. If they are the server's first flight, they are replaced with an alert. If the
    certificate is not accessible that early, the client is refused at the end of the handshake,
    without an alert, because OpenSSL has no function to send one.
    """
    if is_done:
        certificate = ssl_object.getpeercert(binary_form=True)
    else:
        certificate = peer_certificate(ssl_object) if outbox.bio.pending else None
    if certificate is None or dates.expiry_of(certificate) > dates.now():
        return None
    outbox.bio.read()  # the flight, or new session tickets
    if not is_done:
        outbox.put(plaintext_alert(Alert.CERTIFICATE_EXPIRED))
    return CertificateError(
        "the client resumed a session, but its certificate has expired in the meantime",
        reason="CERTIFICATE_VERIFY_FAILED",
        verify_code=_CERT_HAS_EXPIRED,
    )
