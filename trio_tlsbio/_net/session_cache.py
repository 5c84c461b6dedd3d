"""A bounded store for the sessions of many servers."""

from __future__ import annotations

import ssl
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import NoReturn, TypeAlias
from weakref import WeakSet

import attrs

from trio_tlsbio._core import dates
from trio_tlsbio._core.errors import count
from trio_tlsbio._core.misuse import check_positive, kind_of
from trio_tlsbio._core.sessions import MAX_LINEAGE, TLSSession, refuse_copy

__all__ = ["SessionCache", "SessionCacheStatistics", "check_cache"]


@attrs.frozen
class SessionCacheStatistics:
    """The counters of a :class:`~trio_tlsbio.SessionCache`."""

    stored: int = 0
    """Sessions that were stored."""

    hits: int = 0
    """How often a session was taken for resumption."""

    misses: int = 0
    """How often there was no session to take."""

    expired: int = 0
    """Sessions that were dropped because their lifetime, or that of their lineage, was over."""

    evicted: int = 0
    """Sessions that were dropped to make room."""

    unusable: int = 0
    """Sessions that were dropped because the context's verification settings had changed."""


# How many used tickets a cache remembers. A ticket must be remembered while the connection that
# used it can still store sessions. There are hardly more such connections at once.
_MOST_USED = 4096

# Identifies a server by the context used to connect to it, its name in ASCII form, and its port.
# Sessions of two contexts must never mix: one context may verify less than the other.
_Server: TypeAlias = tuple[ssl.SSLContext, str | None, int]


@attrs.frozen(eq=False)
class _Entry:
    session: TLSSession = attrs.field(repr=False)
    expires: float


@attrs.define(eq=False, init=False, repr=False)
class SessionCache:
    """A bounded store of sessions, which all connections in a process can share.

    For each server it holds several TLS 1.3 tickets, each of which is handed out once, and one TLS
    1.2 session, which can be used repeatedly. A ticket that was handed out is not stored again. The
    cache does no I/O. Lifetimes are measured by the time that the caller passes in, in seconds of
    any monotonic clock; ``clock`` is used for the expiry dates of certificates.

    :func:`open_tls_over_tcp_stream`, :class:`TLSConnector` and :func:`reconnect` use a cache
    automatically. Like all Trio objects, a cache belongs to one thread.

    Args:
      max_sessions: The maximum number of sessions in total. If it is exceeded, the server that was
        not used for the longest time loses a session.
      tickets_per_server: The maximum number of TLS 1.3 tickets for one server; the oldest are
        dropped first. Up to this many connections that are opened at once can resume. HTTP clients
        often keep 20 idle connections for all servers together, each of which may have received a
        single ticket, so the default is higher than that.
      max_lineage: How long after a full handshake its sessions can be resumed, in seconds. This
        includes tickets from resumed connections, in which no certificate is verified. Sessions
        never outlive the server's certificate. The default of seven days is also the maximum: RFC
        9846 section 4.7.1 forbids keeping a ticket for longer. Use a lower value to verify
        certificates, and their revocation, more often.
      clock: Returns the time in seconds since the epoch.

    Raises:
      ValueError: if a limit is not positive, or ``max_lineage`` exceeds seven days.
    """

    _max_sessions: int
    _tickets_per_server: int
    _max_lineage: float
    _clock: Callable[[], float]
    _retired: WeakSet[ssl.SSLContext]
    _servers: OrderedDict[_Server, deque[_Entry]]
    _used: OrderedDict[bytes, None]  # ids of tickets, the latest last
    _count: int
    _counts: Counter[str]  # by the names in SessionCacheStatistics

    def __init__(
        self,
        max_sessions: int = 1000,
        *,
        tickets_per_server: int = 32,
        max_lineage: float = MAX_LINEAGE,
        clock: Callable[[], float] = dates.now,
    ) -> None:
        check_positive("max_sessions", max_sessions, least=1)
        check_positive("tickets_per_server", tickets_per_server, least=1)
        if not 0 < max_lineage <= MAX_LINEAGE:
            raise ValueError("max_lineage must be positive, and at most 604800 seconds (7 days)")
        self._max_sessions = max_sessions
        self._tickets_per_server = tickets_per_server
        self._max_lineage = max_lineage
        self._clock = clock
        self._retired = WeakSet()
        self._servers = OrderedDict()
        self._used = OrderedDict()
        self._count = 0
        self._counts = Counter()

    def __repr__(self) -> str:
        sessions, servers = count(self._count, "session"), count(len(self._servers), "server")
        return f"<SessionCache of {sessions} for {servers}>"

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)

    def __len__(self) -> int:
        """Return the number of sessions, including expired ones that were not removed yet."""
        return self._count

    def put(self, session: TLSSession, port: int, *, now: float) -> None:
        """Store a session from the server at ``port`` of the session's server name.

        This does nothing for a TLS 1.3 ticket that was already used, for a session whose lineage
        has ended, or if the context is retired.
        """
        if self._is_used(session) or session.ssl_context in self._retired:
            return
        if self.has_ended(session):
            self._counts["expired"] += 1
            return
        server = (session.ssl_context, session.server_hostname, port)
        entries = self._servers.setdefault(server, deque())
        self._servers.move_to_end(server)
        entries.append(_Entry(session, now + session.lifetime))
        self._count += 1
        self._counts["stored"] += 1
        if len(entries) > (self._tickets_per_server if session.single_use else 1):
            self._evict(server)
        if self._count > self._max_sessions:
            self._evict(next(iter(self._servers)))

    def _evict(self, server: _Server) -> None:
        entries = self._servers[server]
        entries.popleft()
        if not entries:
            del self._servers[server]
        self._count -= 1
        self._counts["evicted"] += 1

    def take(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None, port: int, *, now: float
    ) -> TLSSession | None:
        """Return the newest session to resume with, or None.

        A TLS 1.3 ticket is removed from the cache.
        """
        self._retired.discard(ssl_context)
        server = (ssl_context, server_hostname, port)
        entries = self._servers.pop(server, None) or deque[_Entry]()
        found: _Entry | None = None
        while entries and found is None:
            entry = entries.pop()
            self._count -= 1
            if entry.expires <= now or self.has_ended(entry.session):
                self._counts["expired"] += 1
            elif not entry.session.fits(ssl_context, server_hostname):
                self._counts["unusable"] += 1
            elif not self._is_used(entry.session):
                found = entry
        if found is not None:
            if found.session.single_use:
                self.mark_used(found.session)
            else:
                entries.append(found)
                self._count += 1
        if entries:
            self._servers[server] = entries  # move it to the end: it was used last
        self._counts["misses" if found is None else "hits"] += 1
        return None if found is None else found.session

    def has_ended(self, session: TLSSession) -> bool:
        """Return True if a session must not be resumed, because its lineage has ended."""
        return session.has_ended(self._clock(), self._max_lineage)

    def mark_used(self, session: TLSSession) -> None:
        """Record that a session that did not come from :meth:`take` is being used.

        If it is a TLS 1.3 ticket, it is not handed out from now on.
        """
        if session.single_use:
            self._used[session.id] = None
            self._used.move_to_end(session.id)
            if len(self._used) > _MOST_USED:
                self._used.popitem(last=False)

    def _is_used(self, session: TLSSession) -> bool:
        return session.single_use and session.id in self._used

    def discard(self, ssl_context: ssl.SSLContext, server_hostname: str | None, port: int) -> None:
        """Discard all sessions of one server."""
        self._count -= len(self._servers.pop((ssl_context, server_hostname, port), ()))

    def retire(self, ssl_context: ssl.SSLContext) -> None:
        """Discard all sessions of a context that is no longer used for new connections.

        New sessions from its open connections are not stored either, until :meth:`take` is called
        for the context.
        """
        self._retired.add(ssl_context)
        for server in [server for server in self._servers if server[0] is ssl_context]:
            self.discard(*server)

    def clear(self) -> None:
        """Discard all sessions. The statistics are kept, and so is the record of used tickets."""
        self._servers.clear()
        self._count = 0

    def statistics(self) -> SessionCacheStatistics:
        """Return the current values of the counters."""
        return SessionCacheStatistics(**self._counts)


def check_cache(session_cache: object) -> None:
    """Raise :exc:`TypeError` unless this is None or a :class:`SessionCache`."""
    if not isinstance(session_cache, SessionCache | None):
        raise TypeError(
            f"session_cache must be a SessionCache, not {kind_of(session_cache)}: SessionCache() "
            "makes one"
        )
