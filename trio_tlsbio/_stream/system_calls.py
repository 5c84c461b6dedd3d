"""Socket calls that don't wait, for each system."""

from __future__ import annotations

import errno
import os
import select
import socket as stdlib_socket
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager

if sys.platform == "linux":
    import fcntl
    import termios

from trio_tlsbio._core.openssl_errors import IS_PYPY
from trio_tlsbio._core.records import Data

__all__ = ["PortableCalls", "calls", "peer_has_gone"]

# Trio has no calls that try an operation once. Its sockets are in non-blocking mode, so these calls
# don't wait.


@contextmanager
def _borrowed(descriptor: int) -> Generator[stdlib_socket.socket, None, None]:
    # the descriptor of a closed socket, for which the standard library raises ValueError
    if descriptor < 0:
        raise OSError(errno.EBADF, os.strerror(errno.EBADF))
    # With family and type given, creating the object costs no system call on CPython.
    borrowed = stdlib_socket.socket(
        stdlib_socket.AF_INET, stdlib_socket.SOCK_STREAM, fileno=descriptor
    )
    if IS_PYPY or stdlib_socket.getdefaulttimeout() is not None:
        # The new object would wait. On PyPy the stream's socket would wait as well: creating the
        # object has changed the mode of the descriptor that they share.
        borrowed.settimeout(0)
    try:
        yield borrowed
    finally:
        borrowed.detach()  # the stream keeps the descriptor


class PortableCalls:
    """The calls that work on every system. Windows has only these."""

    @staticmethod
    def read(descriptor: int, max_bytes: int, /) -> bytes:
        """Read the data that has arrived, at most ``max_bytes``. Return ``b""`` at the end."""
        with _borrowed(descriptor) as socket:
            return socket.recv(max_bytes)

    @staticmethod
    def write(descriptor: int, pieces: Sequence[Data], /) -> int:
        """Write as much as the socket takes. Return the number of bytes."""
        with _borrowed(descriptor) as socket:
            return socket.send(b"".join(pieces))

    @staticmethod
    def peer_has_gone(descriptor: int) -> bool:
        """Return True if the peer has gone, as far as the system shows it. An OSError
        shows it too.
        """
        try:  # the end is visible only after all earlier data was received
            with _borrowed(descriptor) as socket:
                return socket.recv(1, stdlib_socket.MSG_PEEK) == b""
        except (BlockingIOError, InterruptedError):
            return False

    @staticmethod
    def unacknowledged(descriptor: int) -> int | None:  # noqa: ARG004 - it can't be asked
        """See :meth:`Transport.unacknowledged`."""
        return None


# All system-dependent code is selected here, and looked up at each use, so that tests can select
# another system's.
calls: type[PortableCalls] = PortableCalls

if sys.platform != "win32":

    class PosixCalls(PortableCalls):
        """Cheaper calls, for systems where sockets are files. macOS has only these."""

        read = staticmethod(os.read)
        write = staticmethod(os.writev)

    # PyPy lacks the name, but its poll() knows the flag.
    _POLLRDHUP: int = getattr(select, "POLLRDHUP", 0x2000 if sys.platform == "linux" else 0)

    class PollingCalls(PosixCalls):
        """Calls for systems that show the peer's end before the earlier data is received."""

        @staticmethod
        def peer_has_gone(descriptor: int) -> bool:
            """See :meth:`PortableCalls.peer_has_gone`."""
            poll = select.poll()
            poll.register(descriptor, _POLLRDHUP)
            return bool(poll.poll(0))

    calls = PollingCalls if _POLLRDHUP else PosixCalls

if sys.platform == "linux":
    # The first field of struct tcp_info in linux/tcp.h is the state. Python has no name for the
    # value.
    _TCP_CLOSE = 7

    def _is_reset(descriptor: int) -> bool:
        try:
            with _borrowed(descriptor) as socket:
                info = socket.getsockopt(stdlib_socket.IPPROTO_TCP, stdlib_socket.TCP_INFO, 1)
        except OSError:  # not a TCP socket
            return False
        return info[0] == _TCP_CLOSE

    class LinuxCalls(PollingCalls):
        """All calls that Linux supports."""

        @staticmethod
        def unacknowledged(descriptor: int) -> int | None:
            """See :meth:`PortableCalls.unacknowledged`."""
            try:  # SIOCOUTQ in tcp(7)
                answer = fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4))
            except OSError:
                return None
            if _is_reset(descriptor):
                return 0  # the system still counts bytes, but sends nothing any more
            return int.from_bytes(answer, sys.byteorder)

    calls = LinuxCalls


def peer_has_gone(descriptor: int) -> bool:
    return descriptor >= 0 and calls.peer_has_gone(descriptor)
