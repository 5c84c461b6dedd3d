"""The sessions that a server gives after the handshake, collected as they come."""

from __future__ import annotations

import ssl

import attrs

from .inbox import Inbox
from .native_session import LOOKS_ARE_CHEAP
from .sessions import SessionSource, TLSSession

__all__ = ["TicketWatch"]

# Upper bound on session lookups of a connection: a server can send tickets forever. One yields the
# ticket that the next connection needs.
_MOST_LOOKS = 16 if LOOKS_ARE_CHEAP else 1


@attrs.define(eq=False)
class TicketWatch:
    """Looks for a session where one may have come.

    OpenSSL shows the latest alone, and nothing shows that there is a new one. So it gets single
    records after the handshake, until the first data, and each of them may have been a ticket.
    """

    _source: SessionSource
    _inbox: Inbox
    _ssl_object: ssl.SSLObject
    _new: list[TLSSession] = attrs.field(factory=list, init=False)
    _known_ids: set[bytes | None] = attrs.field(init=False)
    _looks_left: int = attrs.field(factory=lambda: _MOST_LOOKS, init=False)

    @_known_ids.default
    def _default_known_ids(self) -> set[bytes | None]:
        return {self._source.offered_id}

    def begin(self) -> None:
        """Begin to look, after the handshake."""
        if self._ssl_object.version() == "TLSv1.3":
            # OpenSSL stands between two records now. What it has not read is cut by records too.
            self._inbox.is_single = True
            self._inbox.put_back()
        else:
            # In TLS 1.2 the ticket is a part of the handshake, and there is none after it. One
            # that was resumed may be renewed.
            self.look()
            self._looks_left = 0

    def look(self) -> None:
        """Look after a record that was no data."""
        if not self._looks_left:
            return
        self._looks_left -= 1
        self._inbox.is_single = self._inbox.is_single and self._looks_left > 0
        session = self._source.session_of(self._ssl_object)
        if session is not None and session.id not in self._known_ids:
            self._known_ids.add(session.id)
            self._new.append(session)

    def look_at_the_end(self) -> None:
        """Look once more if there was none yet: nothing shows one that comes along with data."""
        if len(self._known_ids) == 1:
            self.look()

    def take(self) -> list[TLSSession]:
        """Take those that have come since the last call."""
        sessions, self._new = self._new, []
        return sessions
