"""TLS for Trio that is sans-IO at heart."""

from ._client import open_tls_over_tcp_stream
from ._connection import TLSConnection
from ._errors import (
    CertificateError,
    HandshakeTimeoutError,
    PeerAlertError,
    TLSError,
    TruncationError,
)
from ._info import HandshakeInfo
from ._server import TLSListener, open_tls_over_tcp_listeners, serve_tls_over_tcp
from ._sessions import TLSSession
from ._states import State
from ._stream import TLSStream

__all__ = [
    "CertificateError",
    "HandshakeInfo",
    "HandshakeTimeoutError",
    "NeedHandshakeError",
    "PeerAlertError",
    "State",
    "TLSConnection",
    "TLSError",
    "TLSListener",
    "TLSSession",
    "TLSStream",
    "TruncationError",
    "open_tls_over_tcp_listeners",
    "open_tls_over_tcp_stream",
    "serve_tls_over_tcp",
]

from trio import NeedHandshakeError
