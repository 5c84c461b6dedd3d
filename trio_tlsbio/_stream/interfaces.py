"""Optional interfaces of a transport stream, in addition to Trio's."""

from __future__ import annotations

from typing import Protocol, TypeVar, runtime_checkable

import trio

from trio_tlsbio._core.misuse import kind_of
from trio_tlsbio._core.records import Data

__all__ = [
    "CountingStream",
    "ImmediateStream",
    "LingeringStream",
    "WatchedStream",
    "check_transport",
    "stream_of",
]


T = TypeVar("T")


@runtime_checkable
class CountingStream(Protocol):
    """A stream that reports how much a cancelled send has sent, as a
    :class:`~trio_tlsbio.TLSStream` does.
    """

    @property
    def is_cancel_safe(self) -> bool:
        """True if it does so. This may depend on the underlying stream."""
        ...

    @property
    def bytes_committed(self) -> int:
        """How many bytes the stream has committed to deliver since it was created."""
        ...

    def send_nowait(self, data: Data) -> int:
        """Commit to as much of ``data`` as possible without waiting. Return the number of bytes."""
        ...

    async def send_all(self, data: Data) -> None:
        """Send all of ``data``."""
        ...


@runtime_checkable
class ImmediateStream(Protocol):
    """A stream that can receive without waiting, as a :class:`~trio_tlsbio.TLSStream` over a socket
    can.
    """

    def receive_nowait(self) -> bytes | None:
        """Return the received data, or ``b""`` at the end, or None if nothing has arrived."""
        ...


@runtime_checkable
class LingeringStream(Protocol):
    """A stream over a socket, which should not be closed before the peer has closed."""

    def end_direction(self) -> bool:
        """End our direction of the socket, if there is one. This must not raise.

        Returns:
          True if there is a socket: closing it before the peer has closed can destroy data in
          flight.
        """
        ...


@runtime_checkable
class WatchedStream(Protocol):
    """A stream that reports whether the peer has gone, as a :class:`~trio_tlsbio.TLSStream` over a
    socket does.
    """

    def peer_has_gone(self) -> bool:
        """Return True if it is known, without receiving the data that came before, that the peer
        has ended its direction or the whole transport.
        """
        ...


def check_transport(transport_stream: object) -> None:
    """Raise :exc:`TypeError` if this is not a Trio stream. Usually it is a socket then."""
    if isinstance(transport_stream, trio.abc.Stream):
        return
    methods = ("send_all", "receive_some", "aclose")
    has_them = all(hasattr(transport_stream, name) for name in methods)
    if isinstance(transport_stream, type) or not has_them:
        raise TypeError(
            f"transport_stream must be a trio.abc.Stream, not {kind_of(transport_stream)}: "
            "trio.open_tcp_stream() returns one, and trio.SocketStream(sock) wraps a trio socket"
        )


def stream_of(kind: type[T], stream: object) -> T | None:
    """Return the first stream of type ``kind`` among ``stream`` and its underlying streams, or
    None.
    """
    while stream is not None and not isinstance(stream, kind):
        stream = getattr(stream, "transport_stream", None)
    return stream
