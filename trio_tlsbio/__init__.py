"""TLS for Trio that is sans-IO at heart."""

from trio import NeedHandshakeError

from ._client import (
    Reconnecting,
    Retry,
    TLSConnector,
    is_worth_retrying,
    open_tls_over_tcp_stream,
    reconnect,
)
from ._connection import TLSConnection
from ._contexts import ContextProvider, ReloadingContext, sni_context
from ._drain import Drain
from ._errors import (
    CertificateError,
    HandshakeTimeoutError,
    PeerAlertError,
    PostHandshakeAuthError,
    TLSError,
    TruncationError,
)
from ._info import HandshakeInfo, certificate_names, decoded_chain
from ._monitor import (
    AcceptFailed,
    ConnectionAccepted,
    ConnectionClosed,
    HandshakeCompleted,
    HandshakeFailed,
    ServerEvent,
    ServerMonitor,
    ServerStatistics,
)
from ._pump import PumpedStream, open_pump
from ._server import (
    TLSListener,
    open_tls_over_tcp_listeners,
    serve_tls_listeners,
    serve_tls_over_tcp,
)
from ._sessions import SessionCache, SessionCacheStatistics, TLSSession
from ._states import State
from ._stream import TLSStream, start_tls

__all__ = [
    "AcceptFailed",
    "CertificateError",
    "ConnectionAccepted",
    "ConnectionClosed",
    "Drain",
    "ContextProvider",
    "HandshakeCompleted",
    "HandshakeFailed",
    "HandshakeInfo",
    "HandshakeTimeoutError",
    "NeedHandshakeError",
    "PeerAlertError",
    "PostHandshakeAuthError",
    "PumpedStream",
    "Reconnecting",
    "ReloadingContext",
    "Retry",
    "ServerEvent",
    "ServerMonitor",
    "ServerStatistics",
    "SessionCache",
    "SessionCacheStatistics",
    "State",
    "TLSConnection",
    "TLSConnector",
    "TLSError",
    "TLSListener",
    "TLSSession",
    "TLSStream",
    "TruncationError",
    "certificate_names",
    "decoded_chain",
    "is_worth_retrying",
    "open_pump",
    "open_tls_over_tcp_listeners",
    "open_tls_over_tcp_stream",
    "reconnect",
    "serve_tls_listeners",
    "serve_tls_over_tcp",
    "sni_context",
    "start_tls",
]
