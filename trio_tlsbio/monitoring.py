"""Events and statistics about the connections of a server, and about the reuse of sessions."""

from __future__ import annotations

from ._net.monitor import (
    AcceptFailed,
    ConnectionAccepted,
    ConnectionClosed,
    HandshakeCompleted,
    HandshakeFailed,
    ServerEvent,
    ServerMonitor,
    ServerStatistics,
)
from ._net.reloading import ReloadingStatistics
from ._net.session_cache import SessionCacheStatistics
from ._net.telemetry import tls_attributes
from ._public import publish

__all__ = [
    "AcceptFailed",
    "ConnectionAccepted",
    "ConnectionClosed",
    "HandshakeCompleted",
    "HandshakeFailed",
    "ReloadingStatistics",
    "ServerEvent",
    "ServerMonitor",
    "ServerStatistics",
    "SessionCacheStatistics",
    "tls_attributes",
]

publish(__name__)
