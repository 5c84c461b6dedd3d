"""Reports and counts what happens to the connections of a server."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import TypeAlias

import attrs

from trio_tlsbio._core.errors import TLSError
from trio_tlsbio._core.handshake_info import HandshakeInfo

from .expiry import certificate_expiry

__all__ = [
    "AcceptFailed",
    "ConnectionAccepted",
    "ConnectionClosed",
    "HandshakeCompleted",
    "HandshakeFailed",
    "ServerEvent",
    "ServerMonitor",
    "ServerStatistics",
    "error_type_of",
]


@attrs.frozen
class ConnectionAccepted:
    """A client has connected. Its handshake begins."""

    peer: str
    """The client's address, ``127.0.0.1:50000`` or ``[::1]:50000``. With ``proxy_protocol``, this
    is the proxy's address here, and the client's address in later events, once the proxy has
    reported it.
    """


@attrs.frozen
class HandshakeCompleted:
    """The handshake is done. The handler is about to be called."""

    peer: str
    handshake: HandshakeInfo
    duration: float
    """How long the handshake took, in seconds."""


@attrs.frozen
class HandshakeFailed:
    """The handshake failed, or took too long."""

    peer: str
    error: Exception
    duration: float
    """How long the handshake was attempted, in seconds."""


@attrs.frozen
class ConnectionClosed:
    """A connection has ended, and its socket is closed."""

    peer: str
    handshake: HandshakeInfo | None
    """The result of its handshake, or None if the handshake was not completed."""
    error: Exception | None
    """The error that ended the connection: a :exc:`~trio_tlsbio.TLSError`, or an exception of the
    handler or of a hook. None for a clean end, and if serving was cancelled.
    """
    duration: float
    """How long the connection lasted, in seconds."""


@attrs.frozen
class AcceptFailed:
    """The system is out of descriptors or memory, so no connections can be accepted for now."""

    error: OSError


ServerEvent: TypeAlias = (
    ConnectionAccepted | HandshakeCompleted | HandshakeFailed | ConnectionClosed | AcceptFailed
)
"""The type of the argument of ``on_event`` in :class:`ServerMonitor`."""


def _counts(counter: Mapping[str, int]) -> Mapping[str, int]:
    return MappingProxyType(dict(counter))


@attrs.frozen
class ServerStatistics:
    """The counters of a server. Each connection is counted in ``accepted``, and then in one of
    ``established``, ``failed`` and ``cancelled``, unless its handshake is still in progress.
    """

    accepted: int = 0
    """Accepted connections. Envoy: ``downstream_cx_total``."""

    active: int = 0
    """Open connections. Envoy: ``downstream_cx_active``."""

    established: int = 0
    """Completed handshakes. Envoy: ``ssl.handshake``."""

    resumed: int = 0
    """Completed handshakes that resumed a session. Envoy: ``ssl.session_reused``."""

    failed: Mapping[str, int] = attrs.field(factory=dict, converter=_counts, hash=False)
    """Failed handshakes, by :attr:`~trio_tlsbio.TLSError.error_type`. Envoy:
    ``ssl.connection_error`` and, for certificates, ``ssl.fail_verify_error`` and
    ``ssl.fail_verify_no_cert``.
    """

    cancelled: int = 0
    """Handshakes that were interrupted because serving was cancelled."""

    broken: Mapping[str, int] = attrs.field(factory=dict, converter=_counts, hash=False)
    """Connections that broke after the handshake, by :attr:`~trio_tlsbio.TLSError.error_type`, or
    by the class of the exception that the handler raised.
    """

    accept_errors: int = 0
    """How often the system could not accept a connection for lack of descriptors or memory."""

    handshake_seconds: float = 0.0
    """The total duration of all completed handshakes, in seconds."""

    connection_seconds: float = 0.0
    """The total duration of all closed connections, in seconds."""

    certificate_expires: float | None = attrs.field(default=None, eq=False)  # not a counter
    """When the first of the server's certificates expires, in seconds since the epoch. This refers
    to the certificate that the server has loaded, even if the file has changed since. None if it is
    unknown: for contexts that your own function chooses, and, where CPython's underlying objects
    are not accessible, for contexts other than a :class:`~trio_tlsbio.ReloadingContext`. Envoy:
    ``days_until_first_cert_expiring``, in days.
    """

    @property
    def timed_out(self) -> int:
        """Handshakes that took too long. They are also in ``failed``. Envoy:
        ``downstream_cx_transport_socket_connect_timeout``.
        """
        return self.failed.get("handshake_timeout", 0)

    @property
    def handshaking(self) -> int:
        """Handshakes in progress."""
        ended = self.established + sum(self.failed.values()) + self.cancelled
        return self.accepted - ended


@attrs.define(eq=False, repr=False)
class ServerMonitor:
    """Counts what happens to the connections of one or more servers.

    Pass it to :func:`~trio_tlsbio.serve_tls_over_tcp`, and call :meth:`statistics` at any time.

    Args:
      on_event: Called with each :data:`ServerEvent`, in the task of the connection. It must not
        wait. Its exceptions propagate into the server.
    """

    on_event: Callable[[ServerEvent], object] | None = None
    _totals: Counter[str] = attrs.field(factory=Counter, init=False)
    _failed: Counter[str] = attrs.field(factory=Counter, init=False)
    _broken: Counter[str] = attrs.field(factory=Counter, init=False)
    _handshake_seconds: float = attrs.field(default=0.0, init=False)
    _connection_seconds: float = attrs.field(default=0.0, init=False)
    _contexts: list[object] = attrs.field(factory=list, init=False)

    def __repr__(self) -> str:
        return f"<ServerMonitor: {self.statistics()}>"

    def statistics(self) -> ServerStatistics:
        """Return the current values of the counters."""
        return ServerStatistics(
            **self._totals,
            failed=self._failed,
            broken=self._broken,
            handshake_seconds=self._handshake_seconds,
            connection_seconds=self._connection_seconds,
            certificate_expires=self._certificate_expires(),
        )

    def watch(self, ssl_contexts: Iterable[object]) -> None:
        """Include the certificates of these contexts in the statistics. For use by servers."""
        # Contexts are never removed: a server keeps the same contexts.
        self._contexts += [each for each in ssl_contexts if each not in self._contexts]

    def _certificate_expires(self) -> float | None:
        expiries = [certificate_expiry(context) for context in self._contexts]
        return min((each for each in expiries if each is not None), default=None)

    def happened(self, event: ServerEvent) -> None:
        """Count an event, and pass it to ``on_event``. For use by servers, including your own."""
        totals = self._totals
        match event:
            case ConnectionAccepted():
                totals["accepted"] += 1
                totals["active"] += 1
            case HandshakeCompleted():
                totals["established"] += 1
                totals["resumed"] += event.handshake.session_reused
                self._handshake_seconds += event.duration
            case HandshakeFailed():
                self._failed[error_type_of(event.error)] += 1
            case ConnectionClosed():
                totals["active"] -= 1
                self._connection_seconds += event.duration
                if event.handshake is not None and event.error is not None:
                    self._broken[error_type_of(event.error)] += 1
                totals["cancelled"] += event.handshake is None and event.error is None
            case AcceptFailed():
                totals["accept_errors"] += 1
        if self.on_event is not None:
            self.on_event(event)


def error_type_of(error: Exception) -> str:
    """Return a short name under which to count an error."""
    return error.error_type if isinstance(error, TLSError) else type(error).__name__
