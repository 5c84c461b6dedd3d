"""What can be done with a Trio socket without waiting: Trio itself has no calls that try once."""

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

# How much is taken from a socket at a time, in bytes. It is below the 128 KiB from which on glibc's
# malloc asks the system for new pages each time.
RECEIVE_BYTES = 96 * 1024

# How many pieces go to a socket at a time. A slice has 16 of them, and systems take 1024 (IOV_MAX
# in sysconf(3)).
MOST_PIECES = 64


class NonWaitingSocket:
    """The calls, for a class that has the fields."""

    __slots__ = ()

    _stream: trio.SocketStream
    # The descriptor is asked for each time: that of a closed socket is -1, with which all calls
    # fail, while its old number may be another file's by now.
    _fileno: Callable[[], int]

    def check_socket(self) -> None:
        """Raise :exc:`trio.ClosedResourceError` if our direction, or all of it, was closed."""
        if self._stream.socket.did_shutdown_SHUT_WR:
            raise trio.ClosedResourceError("can't send data after sending EOF")
        if self._fileno() < 0:
            raise closed_error()

    def write_nowait(self, pieces: Sequence[Data]) -> int:
        """Send as much as the socket takes now, and return how many bytes that was."""
        try:
            return system_calls.calls.write(self._fileno(), pieces[:MOST_PIECES])
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as exc:
            raise stream_error(exc) from exc

    def read_nowait(self) -> bytes | None:
        """Return what has arrived, ``b""`` at the end; None if nothing has."""
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
        # A TCP socket that is closed while bytes wait in it, or come later, answers with RST, and
        # then the peer's kernel may throw away what it has not read yet. RFC 9112 section 9.6
        # says the same about HTTP.
        socket = self._stream.socket
        if socket.fileno() >= 0 and not socket.did_shutdown_SHUT_WR:
            with suppress(OSError):  # the peer has reset it already
                socket.shutdown(stdlib_socket.SHUT_WR)
        return True


def fileno_of(calls: NonWaitingSocket) -> Callable[[], int]:
    """Return the method that returns the descriptor, for the field."""
    fileno: Callable[[], int] = calls._stream.socket.fileno
    return fileno


@attrs.frozen(eq=False)
class SocketCalls(NonWaitingSocket):
    """The calls of one socket."""

    _stream: trio.SocketStream
    _fileno: Callable[[], int] = attrs.field(
        default=attrs.Factory(fileno_of, takes_self=True), init=False
    )

    async def wait_writable(self) -> None:
        """Wait until it takes something."""
        await trio.lowlevel.wait_writable(self._fileno())

    def peer_has_gone(self) -> bool:
        """See :meth:`Transport.peer_has_gone`."""
        try:
            return system_calls.peer_has_gone(self._fileno())
        except OSError:
            return True


def stream_error(exc: OSError) -> Exception:
    """Return the exception by which Trio's streams report an OSError."""
    if exc.errno in (errno.EBADF, errno.ENOTSOCK):
        return closed_error()
    return trio.BrokenResourceError(f"socket connection broken: {exc}")


def closed_error() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("this socket was already closed")
