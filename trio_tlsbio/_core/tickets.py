"""Collects the sessions that a server sends after the handshake."""

from __future__ import annotations

import ssl

import attrs

from .inbox import Inbox
from .native_session import LOOKS_ARE_CHEAP
from .sessions import SessionSource, TLSSession

__all__ = ["TicketWatch"]

# Upper bound on session lookups of a connection: a server can send tickets, or other messages that
# look like them, forever. Most servers send one or two tickets, so 16 is enough for those that send
# a client more to choose from. If a lookup is expensive, one yields the ticket that the next
# connection needs.
_MOST_LOOKS = 16 if LOOKS_ARE_CHEAP else 1


@attrs.define(eq=False)
class TicketWatch:
    """Checks for a new session when one may have arrived.

    OpenSSL only exposes the latest session, and does not report a new one. So after the handshake,
    OpenSSL gets single records until the first data, and each of them may have been a ticket.
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

    def start(self) -> None:
        """Start checking, after the handshake."""
        if self._ssl_object.version() == "TLSv1.3":
            # OpenSSL is at the end of a record now. The data that it has not read is split into
            # records too.
            self._inbox.records.is_single = True
            self._inbox.put_back()
        else:
            # In TLS 1.2 the ticket is a part of the handshake, and none follows later. A resumed
            # ticket may have been renewed.
            self.check_ticket()
            self._looks_left = 0

    def check_ticket(self) -> None:
        """Check after a record that was not data."""
        if not self._looks_left:
            return
        self._looks_left -= 1
        if not self._looks_left:
            self._inbox.records.is_single = False
        session = self._source.session_of(self._ssl_object)
        if session is not None and session.id not in self._known_ids:
            self._known_ids.add(session.id)
            self._new.append(session)

    def check_at_the_end(self) -> None:
        """Check once more if there was no session yet: one that arrives with data goes
        unnoticed.
        """
        if len(self._known_ids) == 1:
            self.check_ticket()

    def take(self) -> list[TLSSession]:
        """Return the sessions that have arrived since the last call."""
        sessions, self._new = self._new, []
        return sessions
