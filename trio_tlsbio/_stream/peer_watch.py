"""Noticing that the peer has gone, for programs that only send."""

from __future__ import annotations

import errno
import math
import os
import time

import attrs

from trio_tlsbio._core.errors import TLSError

from .driver import Driver

__all__ = ["PeerWatch"]

# How often to look, at most, in seconds. A look takes a system call, so many sends share one.
_LOOK_INTERVAL = 0.00025


@attrs.define(eq=False)
class PeerWatch:
    """Looks whether the peer has gone, for a program that never receives: it would not learn of
    that otherwise, and what it sends afterwards is lost.

    A program that sends in bulk learns of it by the reset that its data causes.
    """

    _driver: Driver
    #: Whether the peer's end was received.
    has_received_end: bool = attrs.field(default=False, init=False)
    _next_look: float = attrs.field(default=0.0, init=False)

    def end(self) -> None:
        """Never look again."""
        self._next_look = math.inf

    def look(self) -> None:
        """Look, if it is time to.

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
        # After a close_notify alone the peer may still read. A program that has received the end,
        # or has something left to receive, does not only send, and may know what it does.
        is_known = self.has_received_end or connection.bytes_to_receive
        if transport.inbox.has_ended and not is_known:
            error = TLSError("the peer has closed the connection, and reads nothing any more")
            error.__cause__ = BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))
            transport.give_up_sending(error)
