"""Session ticket keys, for servers that resume each other's sessions."""

from __future__ import annotations

from ._net.ticket_keys import TicketKeys
from ._public import publish

__all__ = ["TicketKeys"]

publish(__name__)
