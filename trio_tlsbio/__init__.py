"""TLS for Trio, with a sans-IO core."""

from trio import NeedHandshakeError

from . import asgi as asgi
from . import core as core
from . import monitoring as monitoring
from . import proxy_protocol as proxy_protocol
from . import ticket_keys as ticket_keys
from ._core.client_hello import ClientHello
from ._core.connection import TLSConnection
from ._core.errors import (
    CertificateError,
    HandshakeTimeoutError,
    PeerAlertError,
    PostHandshakeAuthError,
    RefuseHandshake,
    TLSError,
    TruncationError,
)
from ._core.handshake_info import HandshakeInfo
from ._core.peer_names import PeerName
from ._core.sessions import TLSSession
from ._net.by_name import contexts_by_name
from ._net.connecting import TLSConnector, open_tls_over_tcp_stream, reconnect
from ._net.drain import Drain
from ._net.identity import load_identity
from ._net.listening import TLSListener, open_tls_over_tcp_listeners
from ._net.proxy_protocol import TrustedProxies
from ._net.reconnecting import Reconnecting, Retry, is_worth_retrying
from ._net.reloading import ContextProvider, ReloadingContext
from ._net.serving import serve_tls_listeners, serve_tls_over_tcp
from ._net.session_cache import SessionCache
from ._public import publish
from ._stream.client_hello import read_client_hello
from ._stream.pump import PumpedStream, open_pump
from ._stream.stream import TLSStream
from ._stream.upgrade import start_tls

__version__ = "0.1.0.dev0"

__all__ = [
    "CertificateError",
    "ClientHello",
    "ContextProvider",
    "Drain",
    "HandshakeInfo",
    "HandshakeTimeoutError",
    "NeedHandshakeError",
    "PeerAlertError",
    "PeerName",
    "PostHandshakeAuthError",
    "PumpedStream",
    "Reconnecting",
    "RefuseHandshake",
    "ReloadingContext",
    "Retry",
    "SessionCache",
    "TLSConnection",
    "TLSConnector",
    "TLSError",
    "TLSListener",
    "TLSSession",
    "TLSStream",
    "TruncationError",
    "TrustedProxies",
    "contexts_by_name",
    "is_worth_retrying",
    "load_identity",
    "open_pump",
    "open_tls_over_tcp_listeners",
    "open_tls_over_tcp_stream",
    "read_client_hello",
    "reconnect",
    "serve_tls_listeners",
    "serve_tls_over_tcp",
    "start_tls",
]

publish(__name__)
