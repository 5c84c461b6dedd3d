"""Passes data between standard input and output and the server."""

from __future__ import annotations

import errno
import math
import os
import select
import sys
from typing import Any

import attrs
import trio

from trio_tlsbio import TLSError, TLSStream

from ._status import Failure, Status

__all__ = ["Conversation"]

# The most bytes to read from standard input at a time.
_INPUT_BYTES = 64 * 1024

# How long standard input may pause after the server has ended the conversation, in seconds. A file
# or a busy pipe is still sent completely, but no one has to press Ctrl-D after the server has gone.
_INPUT_GRACE = 0.5


@attrs.define(eq=False)
class Conversation:
    """Sends standard input to the server, and writes the server's data to standard output."""

    stream: TLSStream[Any]
    half_close: bool
    received: int = 0
    send_error: TLSError | None = None
    _server_has_ended: bool = False
    _reading: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def send_input(self) -> None:
        """Send standard input until its end, then end our direction."""
        try:
            while data := await self._read_input():
                await self.stream.send_all(data)
            if self.half_close:
                await self.stream.send_eof()
        except TLSError as exc:
            # The reason can only be in the data from the server, such as an alert.
            self.send_error = exc

    async def _read_input(self) -> bytes:
        deadline = trio.current_time() + _INPUT_GRACE if self._server_has_ended else math.inf
        with trio.CancelScope(deadline=deadline) as self._reading:
            return await trio.to_thread.run_sync(_read, abandon_on_cancel=True)
        return b""

    async def receive_output(self) -> None:
        """Write the server's data to standard output, until the server's end."""
        while data := await self.stream.receive_some():
            self.received += len(data)
            await trio.to_thread.run_sync(_write, data, abandon_on_cancel=True)
        self._server_has_ended = True
        self._reading.deadline = trio.current_time() + _INPUT_GRACE


# Standard input and output are accessed by their descriptors: then a thread that is left behind in
# a read or write holds none of Python's locks, which would crash the interpreter at exit.


def _read() -> bytes:
    """Wait for data on standard input, in a thread. Return ``b""`` at its end, or if it
    is closed.
    """
    if sys.stdin is None:  # the descriptor may now belong to the socket
        return b""
    descriptor = sys.stdin.fileno()
    while True:
        try:
            return os.read(descriptor, _INPUT_BYTES)
        except BlockingIOError:  # another program has left the terminal in non-blocking mode
            select.select([descriptor], [], [])
        except OSError as exc:
            if exc.errno == errno.EIO:  # the terminal has gone
                return b""
            raise Failure(Status.FAILED_HERE, f"can't read standard input: {exc}") from exc


def _write(data: bytes) -> None:
    """Write all of ``data`` to standard output, in a thread."""
    if sys.stdout is None:
        return
    descriptor = sys.stdout.fileno()
    if b"\0" in data and os.isatty(descriptor):
        raise Failure(
            Status.FAILED_HERE,
            "the server sent binary data, which could garble the terminal: redirect standard "
            "output to a file or a pipe",
        )
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise Failure(Status.FAILED_HERE, f"can't write standard output: {exc}") from exc
