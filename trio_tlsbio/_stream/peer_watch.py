"""Detects that the peer has gone, for code that only sends."""

from __future__ import annotations

import errno
import math
import os
import time

import attrs

from trio_tlsbio._core.errors import TLSError

from .driver import Driver

__all__ = ["PeerWatch"]

# The shortest interval between checks, in seconds. A check takes a system call, so many sends share
# one.
_LOOK_INTERVAL = 0.00025


@attrs.define(eq=False)
class PeerWatch:
    """Checks whether the peer has gone. Code that never receives would not notice this otherwise,
    and the data that it sends afterwards would be lost.

    With bulk data, the reset that the data provokes is noticed anyway.
    """

    _driver: Driver
    #: True if the end of the peer's data was received.
    has_received_end: bool = False
    _next_look: float = 0.0

    def end(self) -> None:
        """Disable all further checks."""
        self._next_look = math.inf

    def look(self) -> None:
        """Check, unless the last check was too recent.

        Raises:
          PeerAlertError: if the peer has sent a fatal alert.
        """
        now = time.monotonic()
        if now < self._next_look:
            return
        self._next_look = now + _LOOK_INTERVAL
        driver = self._driver
        connection, transport = driver.connection, driver.transport
        if transport.is_receiving or not transport.peer_has_gone():
            return
        driver.raise_alert()
        # After a close_notify alone, the peer may still read. If the caller has received the end,
        # or has something left to receive, it doesn't only send, and can see the peer's end itself.
        is_known = self.has_received_end or connection.inbox.plaintext
        if transport.inbox.has_ended and not is_known:
            error = TLSError("the peer has closed the connection, and no longer reads")
            error.__cause__ = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            transport.give_up_sending(error)
