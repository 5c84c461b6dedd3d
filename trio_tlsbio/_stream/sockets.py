"""Calls to sockets that don't wait, as each system has them."""

from __future__ import annotations

import errno
import os
import select
import socket as stdlib_socket
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager, suppress

if sys.platform == "linux":
    import fcntl
    import termios

import attrs
import trio

from trio_tlsbio._core.error_queue import IS_PYPY
from trio_tlsbio._core.records import Data

__all__ = [
    "MOST_PIECES",
    "RECEIVE_BYTES",
    "SocketCalls",
    "calls",
    "closed_error",
    "peer_has_gone",
    "stream_error",
]


# How much is taken from a socket at a time, in bytes. It is below the 128 KiB from which on glibc's
# malloc asks the system for new pages each time.
RECEIVE_BYTES = 96 * 1024

# How many pieces go to a socket at a time. A slice has 16 of them, and systems take 1024 (IOV_MAX
# in sysconf(3)).
MOST_PIECES = 64


@attrs.frozen
class SocketCalls:
    """What can be done with a socket without waiting."""

    _stream: trio.SocketStream

    def check_send(self) -> None:
        """Raise :exc:`trio.ClosedResourceError` if our direction, or all of it, was closed."""
        if self._stream.socket.fileno() < 0:
            raise closed_error()
        if self._stream.socket.did_shutdown_SHUT_WR:
            raise trio.ClosedResourceError("can't send data after sending EOF")

    def send_nowait(self, pieces: Sequence[Data]) -> int | None:
        """Send as much as the socket takes, and return how many bytes that was; None if it takes
        nothing now.
        """
        try:
            return calls.write(self._stream.socket.fileno(), pieces[:MOST_PIECES])
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as exc:
            raise stream_error(exc) from exc

    async def wait_writable(self) -> None:
        """Wait until it takes something."""
        await trio.lowlevel.wait_writable(self._stream.socket.fileno())

    def receive_nowait(self) -> bytes | None:
        """Return what has arrived, ``b""`` at the end; None if nothing has."""
        try:
            return calls.read(self._stream.socket.fileno(), RECEIVE_BYTES)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError as exc:
            raise stream_error(exc) from exc

    def peer_has_gone(self) -> bool:
        """See :meth:`Transport.peer_has_gone`."""
        try:
            return peer_has_gone(self._stream.socket.fileno())
        except OSError:
            return True

    def end_direction(self) -> bool:
        """See :meth:`Transport.end_direction`."""
        # A TCP socket that is closed while bytes wait in it, or come later, answers with RST, and
        # then the peer's kernel may throw away what it has not read yet. RFC 9112 section 9.6
        # tells the same of HTTP.
        socket = self._stream.socket
        if socket.fileno() >= 0 and not socket.did_shutdown_SHUT_WR:
            with suppress(OSError):  # the peer has reset it already
                socket.shutdown(stdlib_socket.SHUT_WR)
        return True


# Trio has no calls that try once. Its sockets are in non-blocking mode, so these don't wait.


@contextmanager
def _borrowed(descriptor: int) -> Generator[stdlib_socket.socket, None, None]:
    if descriptor < 0:  # a closed socket's, for which the standard library has a ValueError
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    # With family and type given, making it costs no system call on CPython.
    borrowed = stdlib_socket.socket(
        stdlib_socket.AF_INET, stdlib_socket.SOCK_STREAM, fileno=descriptor
    )
    if IS_PYPY or stdlib_socket.getdefaulttimeout() is not None:
        # The new socket would wait. On PyPy so would the stream's: making it has changed the mode
        # of the descriptor, which they share.
        borrowed.settimeout(0)
    try:
        yield borrowed
    finally:
        borrowed.detach()  # the descriptor stays the stream's


class PortableCalls:
    """The calls that work on every system. Windows has no others."""

    @staticmethod
    def read(descriptor: int, max_bytes: int, /) -> bytes:
        """Read what has arrived, ``max_bytes`` at most; ``b""`` at the end."""
        with _borrowed(descriptor) as socket:
            return socket.recv(max_bytes)

    @staticmethod
    def write(descriptor: int, pieces: Sequence[Data], /) -> int:
        """Write as much as the socket takes, and return how many bytes that was."""
        with _borrowed(descriptor) as socket:
            return socket.send(b"".join(pieces))

    @staticmethod
    def peer_has_gone(descriptor: int) -> bool:
        """Whether it has, as far as the system shows that. Raises the OSError that shows it."""
        try:  # the end shows once all before it was received
            with _borrowed(descriptor) as socket:
                return socket.recv(1, stdlib_socket.MSG_PEEK) == b""
        except (BlockingIOError, InterruptedError):
            return False

    @staticmethod
    def unacknowledged(descriptor: int) -> int | None:  # noqa: ARG004 - it can't be asked
        """See :meth:`Transport.unacknowledged`."""
        return None


# Everything that depends on the system is chosen here, and looked up at each use, so that a test
# can choose another system's.
calls: type[PortableCalls] = PortableCalls

if sys.platform != "win32":

    class PosixCalls(PortableCalls):
        """Cheaper ones, where sockets are files. macOS has no more than these."""

        read = staticmethod(os.read)
        write = staticmethod(os.writev)

    # PyPy lacks the name; its poll() knows the flag.
    _POLLRDHUP: int = getattr(select, "POLLRDHUP", 0x2000 if sys.platform == "linux" else 0)

    class PollingCalls(PosixCalls):
        """Those of a system that shows the end before what came earlier is received."""

        @staticmethod
        def peer_has_gone(descriptor: int) -> bool:
            """See :meth:`PortableCalls.peer_has_gone`."""
            poll = select.poll()
            poll.register(descriptor, _POLLRDHUP)
            return bool(poll.poll(0))

    calls = PollingCalls if _POLLRDHUP else PosixCalls

if sys.platform == "linux":
    # The first field of struct tcp_info in linux/tcp.h is the state; Python has no name for this.
    _TCP_CLOSE = 7

    def _is_reset(descriptor: int) -> bool:
        try:
            with _borrowed(descriptor) as socket:
                info = socket.getsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_INFO, 1)
        except OSError:  # it is no TCP
            return False
        return info[0] == _TCP_CLOSE

    class LinuxCalls(PollingCalls):
        """All that Linux can do."""

        @staticmethod
        def unacknowledged(descriptor: int) -> int | None:
            """See :meth:`PortableCalls.unacknowledged`."""
            try:  # SIOCOUTQ in tcp(7)
                answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
            except OSError:
                return None
            if _is_reset(descriptor):
                return 0  # the system counts on, but sends nothing any more
            return int.from_bytes(answer, sys.byteorder)

    calls = LinuxCalls


def peer_has_gone(descriptor: int) -> bool:
    return descriptor >= 0 and calls.peer_has_gone(descriptor)


def stream_error(exc: OSError) -> Exception:
    """Return the exception by which Trio's streams report an OSError."""
    if exc.errno in (errno.EBADF, errno.ENOTSOCK):
        return closed_error()
    return trio.BrokenResourceError(f"socket connection broken: {exc}")


def closed_error() -> trio.ClosedResourceError:
    return trio.ClosedResourceError("this socket was already closed")
