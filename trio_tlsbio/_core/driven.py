"""What a driver, which moves the bytes of a connection, needs besides the public interface."""

from __future__ import annotations

import attrs

from .connection import TLSConnection
from .inbox import Inbox
from .outbox import Outbox
from .states import Lifecycle

__all__ = ["DrivenConnection"]


@attrs.define(eq=False, init=False, repr=False)
class DrivenConnection(TLSConnection):
    """A connection whose driver reaches into its inbox and outbox, without a call for each."""

    @property
    def inbox(self) -> Inbox:
        """Where what the transport receives goes."""
        return self._inbox

    @property
    def outbox(self) -> Outbox:
        """What waits for the transport."""
        return self._outbox

    @property
    def lifecycle(self) -> Lifecycle:
        """The states of both directions, to look at."""
        return self._lifecycle
