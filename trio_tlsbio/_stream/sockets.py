"""Socket operations that don't wait. Trio has no calls that try an operation once."""

from __future__ import annotations

import errno
import socket as stdlib_socket
from collections.abc import Callable, Sequence
from contextlib import suppress

import attrs
import trio

from trio_tlsbio._core.records import Data
from trio_tlsbio._stream import system_calls

__all__ = [
    "NonWaitingSocket",
    "RECEIVE_BYTES",
    "SocketCalls",
    "closed_error",
    "fileno_of",
    "stream_error",
]

# The most bytes to read from a socket at a time. From 128 KiB on, glibc's malloc would ask the
# system for new pages each time.
RECEIVE_BYTES = 96 * 1024

# The most pieces to write to a socket at a time. A slice has 16 of them, and systems accept 1024
# (IOV_MAX in sysconf(3)).
MOST_PIECES = 64


class NonWaitingSocket:
    """Mixin with the operations, for a class that defines the attributes."""

    __slots__ = ()

    _stream: trio.SocketStream
    # The descriptor is queried each time: that of a closed socket is -1, with which all calls fail,
    # while its old number may belong to another file by now.
    _fileno: Callable[[], int]

    def check_socket(self) -> None:
        """Raise :exc:`trio.ClosedResourceError` if our direction or the whole socket was closed."""
        if self._stream.socket.did_shutdown_SHUT_WR:
            raise trio.ClosedResourceError("can't send data after sending EOF")
        if self._fileno() < 0:
            raise closed_error()

    def write_nowait(self, pieces: Sequence[Data]) -> int:
        """Send as much as the socket takes now, and return the number of bytes."""
        try:
            return system_calls.calls.write(self._fileno(), pieces[:MOST_PIECES])
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            raise stream_error(exc) from exc

    def read_nowait(self) -> bytes | None:
        """Return the received data, or ``b""`` at the end, or None if nothing has arrived."""
        try:
            return system_calls.calls.read(self._fileno(), RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as exc:
            raise stream_error(exc) from exc

    def unacknowledged(self) -> int | None:
        """See :meth:`Transport.unacknowledged`."""
        return system_calls.calls.unacknowledged(self._fileno())

    def end_direction(self) -> bool:
        """See :meth:`Transport.end_direction`."""
        # A TCP socket answers with RST if it is closed while it holds unread bytes, or if bytes
        # arrive later. The peer's kernel may then discard data that the peer has not read yet. RFC
        # 9112 section 9.6 describes this for HTTP.
        socket = self._stream.socket
        if socket.fileno() >= 0 and not socket.did_shutdown_SHUT_WR:
            with suppress(OSError):  # the peer has already reset it
                socket.shutdown(stdlib_socket.SHUT_WR)
        return True


def fileno_of(calls: NonWaitingSocket) -> Callable[[], int]:
    """Return the method that returns the descriptor, as the default of the attribute."""
    fileno: Callable[[], int] = calls._stream.socket.fileno
    return fileno


@attrs.frozen(eq=False)
class SocketCalls(NonWaitingSocket):
    """The operations of one socket."""

    _stream: trio.SocketStream
    _fileno: Callable[[], int] = attrs.field(
        default=attrs.Factory(fileno_of, takes_self=True), init=False
    )

    async def wait_writable(self) -> None:
        """Wait until the socket accepts data."""
        await trio.lowlevel.wait_writable(self._fileno())

    def peer_has_gone(self) -> bool:
        """See :meth:`Transport.peer_has_gone`."""
        try:
            return system_calls.peer_has_gone(self._fileno())
        except OSError:
            return True


def stream_error(exc: OSError) -> Exception:
    """Return the exception that Trio's streams would raise for an OSError."""
    if exc.errno in (errno.EBADF, errno.ENOTSOCK):
        return closed_error()
    return trio.BrokenResourceError(f"socket connection broken: {exc}")


def closed_error() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("this socket was already closed")
