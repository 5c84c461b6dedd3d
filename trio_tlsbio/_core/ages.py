"""Sessions that outlive the client's certificate, refused on servers."""

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
    """Return the error for a client whose certificate has expired since the session that it resumes
    was made, which OpenSSL doesn't check; None for all other clients.

    To be called after each step of a handshake, before the data that OpenSSL has written is
    collected. As long as that is the server's first flight, the client gets an alert instead. Where
    the certificate can't be read so early, the client is refused at the end of the handshake,
    without an alert, since OpenSSL has no function that sends one.
    """
    if not ssl_object.session_reused:
        return None
    if is_done:
        certificate = ssl_object.getpeercert(binary_form=True)
    else:
        certificate = peer_certificate(ssl_object) if outbox.bio.pending else None
    if certificate is None or dates.expiry_of(certificate) > dates.now():
        return None
    outbox.bio.read()  # the flight, or new session tickets
    if not is_done:
        outbox.pieces.append(plaintext_alert(Alert.CERTIFICATE_EXPIRED))
    return CertificateError(
        "the client resumed a session, but its certificate has expired since that was made",
        reason="CERTIFICATE_VERIFY_FAILED",
        verify_code=_CERT_HAS_EXPIRED,
    )
