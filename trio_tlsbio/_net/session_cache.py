"""A bounded store of the sessions of many servers."""

from __future__ import annotations

import ssl
from collections import Counter, OrderedDict, deque
from collections.abc import Callable
from typing import NoReturn, TypeAlias
from weakref import WeakSet

import attrs

from trio_tlsbio._core.dates import now
from trio_tlsbio._core.misuse import check_positive, kind_of
from trio_tlsbio._core.sessions import MAX_LINEAGE, TLSSession, refuse_copy

__all__ = ["SessionCache", "SessionCacheStatistics", "check_cache"]


@attrs.frozen
class SessionCacheStatistics:
    """How a :class:`~trio_tlsbio.SessionCache` has done so far."""

    stored: int = 0
    """Sessions that were put in."""

    hits: int = 0
    """Times that one was taken out to resume with."""

    misses: int = 0
    """Times that there was none to take."""

    expired: int = 0
    """Sessions that were dropped because their lifetime, or their lineage's, was over."""

    evicted: int = 0
    """Sessions that were dropped to make room."""

    unusable: int = 0
    """Sessions that were dropped because the context's verification settings had changed."""


# How many used tickets a cache remembers. One has to be known for as long as a connection that was
# made with it may be put a session of: there are hardly more of these at once.
_MOST_USED = 4096

# A server by the context to speak to it with, its name in ASCII form, and its port. Sessions of
# two contexts must never mix: one may have verified less.
_Server: TypeAlias = tuple[ssl.SSLContext, str | None, int]


@attrs.frozen(eq=False)
class _Entry:
    session: TLSSession = attrs.field(repr=False)
    expires: float


@attrs.define(eq=False, init=False, repr=False)
class SessionCache:
    """A bounded store of sessions, for all the connections of a program to share.

    It keeps some tickets for each server in TLS 1.3, each of which is given out once, and one
    session in TLS 1.2, which may be used again and again. A ticket that was given out is not taken
    back. It does no I/O. Lifetimes are measured by the time that is passed in, in seconds of any
    clock that only goes forward; ``clock`` is for the dates at which certificates expire.

    :func:`open_tls_over_tcp_stream`, :class:`TLSConnector` and :func:`reconnect` use one by
    themselves. It belongs to one thread, as all of Trio's objects do.

    Args:
      max_sessions: How many sessions to keep in all. Beyond it the server that was not used for
        the longest time loses its own.
      tickets_per_server: How many tickets of TLS 1.3 to keep for one server; the oldest go first.
        So many connections that are opened at once can all resume. The default is more than the
        idle connections that HTTP clients keep for all servers together, often 20, of which each
        may have brought a single ticket.
      max_lineage: How long after a full handshake the sessions that come of it may be resumed, in
        seconds: tickets of resumed connections included, which verify no certificate. They never
        outlive the server's certificate. The default, seven days, is also the longest: RFC 9846
        section 4.7.1 allows no ticket to be kept for longer, so by default no single ticket is
        cut short, and tickets that come of it gain nothing. Choose less to have certificates, and
        their revocation, verified more often.
      clock: Returns the time in seconds since the epoch.

    Raises:
      ValueError: for a limit that is not positive, or a ``max_lineage`` of more than seven days.
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
        clock: Callable[[], float] = now,
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
        return f"<SessionCache of {self._count} sessions for {len(self._servers)} servers>"

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)

    def __len__(self) -> int:
        """Return how many sessions it holds, expired ones that nobody asked for included."""
        return self._count

    def put(self, session: TLSSession, port: int, *, now: float) -> None:
        """Keep a session that the server at ``port`` of its name has given.

        A ticket of TLS 1.3 that was used already is not kept, nor is a session whose lineage has
        ended, or whose context is retired.
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
        """Return a session to resume with, the newest there is, or None.

        A ticket of TLS 1.3 is not in the cache any more afterwards.
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
            self._servers[server] = entries  # at the end: it was used last
        self._counts["misses" if found is None else "hits"] += 1
        return None if found is None else found.session

    def has_ended(self, session: TLSSession) -> bool:
        """Whether a session's lineage is over, so that it should not be resumed any more."""
        return session.has_ended(self._clock(), self._max_lineage)

    def mark_used(self, session: TLSSession) -> None:
        """Take note that a session is used that did not come from :meth:`take`.

        A ticket of TLS 1.3 is not given out any more from now on.
        """
        if session.single_use:
            self._used[session.id] = None
            self._used.move_to_end(session.id)
            if len(self._used) > _MOST_USED:
                self._used.popitem(last=False)

    def _is_used(self, session: TLSSession) -> bool:
        return session.single_use and session.id in self._used

    def discard(self, ssl_context: ssl.SSLContext, server_hostname: str | None, port: int) -> None:
        """Forget all sessions of one server."""
        self._count -= len(self._servers.pop((ssl_context, server_hostname, port), ()))

    def retire(self, ssl_context: ssl.SSLContext) -> None:
        """Forget all sessions of a context that is not used for new connections any more.

        What its open connections still bring is not kept either, until a session is asked for.
        """
        self._retired.add(ssl_context)
        for server in [server for server in self._servers if server[0] is ssl_context]:
            self.discard(*server)

    def clear(self) -> None:
        """Forget all sessions. The statistics stay, and so does which tickets were used."""
        self._servers.clear()
        self._count = 0

    def statistics(self) -> SessionCacheStatistics:
        """Return how often it has helped so far."""
        return SessionCacheStatistics(**self._counts)


def check_cache(session_cache: object) -> None:
    """Raise :exc:`TypeError` for what is neither None nor a :class:`SessionCache`."""
    if not isinstance(session_cache, SessionCache | None):
        raise TypeError(
            f"session_cache must be a SessionCache, not {kind_of(session_cache)}: SessionCache() "
            "makes one"
        )
