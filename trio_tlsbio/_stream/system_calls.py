"""Socket calls that don't wait, as each system has them."""

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
