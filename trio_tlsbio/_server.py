"""Listening and serving: each connection's handshake in a task of its own."""

from __future__ import annotations

import logging
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Generic, NoReturn, TypeVar

import attrs
import trio

from ._connection import check_arguments
from ._errors import HandshakeTimeoutError, TLSError
from ._stream import TLSStream

__all__ = ["TLSListener", "open_tls_over_tcp_listeners", "serve_tls_over_tcp"]

T_Stream = TypeVar("T_Stream", bound=trio.abc.Stream)

_logger = logging.getLogger("trio_tlsbio.server")


@attrs.define(eq=False, init=False)
class TLSListener(trio.abc.Listener[TLSStream[T_Stream]], Generic[T_Stream]):
    """A listener whose connections speak TLS. A drop-in for :class:`trio.SSLListener`.

    Args:
      transport_listener: The listener whose connections are wrapped.
      ssl_context: The settings, with the server's certificate.
      https_compatible: See :class:`TLSStream`.

    Raises:
      TypeError: if ``ssl_context`` is not an :class:`ssl.SSLContext`.
    """

    transport_listener: trio.abc.Listener[T_Stream]
    """The listener it was made with."""

    _ssl_context: ssl.SSLContext = attrs.field(repr=False)
    _https_compatible: bool

    def __init__(
        self,
        transport_listener: trio.abc.Listener[T_Stream],
        ssl_context: ssl.SSLContext,
        *,
        https_compatible: bool = False,
    ) -> None:
        check_arguments(ssl_context, server_side=True, server_hostname=None, session=None)
        self.transport_listener = transport_listener
        self._ssl_context = ssl_context
        self._https_compatible = https_compatible

    async def accept(self) -> TLSStream[T_Stream]:
        """Wait for the next connection and wrap it. The handshake is the stream's, not done here,
        so that no client can hold up the others.
        """
        transport_stream = await self.transport_listener.accept()
        return TLSStream(
            transport_stream,
            self._ssl_context,
            server_side=True,
            https_compatible=self._https_compatible,
        )

    async def aclose(self) -> None:
        """Close the transport listener."""
        await self.transport_listener.aclose()


async def open_tls_over_tcp_listeners(
    port: int,
    ssl_context: ssl.SSLContext,
    *,
    host: str | bytes | None = None,
    https_compatible: bool = False,
    backlog: int | None = None,
) -> list[TLSListener[trio.SocketStream]]:
    """Listen for TLS connections on a TCP port. A drop-in for
    :func:`trio.open_ssl_over_tcp_listeners`.

    Args:
      port: The port; 0 lets the kernel choose one.
      ssl_context: The settings, with the server's certificate.
      host: The address to bind to; all of the machine's by default.
      https_compatible: See :class:`TLSStream`.
      backlog: How many connections may wait to be accepted. See :func:`trio.open_tcp_listeners`.
    """
    check_arguments(ssl_context, server_side=True, server_hostname=None, session=None)
    return [
        TLSListener(listener, ssl_context, https_compatible=https_compatible)
        for listener in await trio.open_tcp_listeners(port, host=host, backlog=backlog)
    ]


async def serve_tls_over_tcp(
    handler: Callable[[TLSStream[trio.SocketStream]], Awaitable[object]],
    port: int,
    ssl_context: ssl.SSLContext,
    *,
    host: str | bytes | None = None,
    https_compatible: bool = False,
    backlog: int | None = None,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[list[TLSListener[trio.SocketStream]]] = trio.TASK_STATUS_IGNORED,
    handshake_timeout: float = 15.0,
) -> NoReturn:
    """Listen on a TCP port, and run ``handler(stream)`` in a task for each connection.

    A drop-in for :func:`trio.serve_ssl_over_tcp`, but the handler gets a stream whose handshake
    is done. What goes wrong with one connection ends that one alone, with a line in the log
    ``trio_tlsbio.server``: a handshake that fails or takes too long, and a :exc:`TLSError` of
    the stream that the handler lets through. What else the handler raises propagates, as with
    :func:`trio.serve_listeners`.

    Args:
      handler: Called with a :class:`TLSStream` for each connection. When it returns, the stream is
        closed by :meth:`TLSStream.aclose`, and when it raises, at once.
      port: The port; 0 lets the kernel choose one.
      ssl_context: The settings, with the server's certificate.
      host: The address to bind to; all of the machine's by default.
      https_compatible: See :class:`TLSStream`.
      backlog: How many connections may wait to be accepted. See :func:`trio.open_tcp_listeners`.
      handler_nursery: The nursery to run handlers in; one of its own by default.
      task_status: For ``nursery.start()``, which returns the list of listeners.
      handshake_timeout: How long a handshake may take, in seconds.
    """
    listeners = await open_tls_over_tcp_listeners(
        port, ssl_context, host=host, https_compatible=https_compatible, backlog=backlog
    )
    await trio.serve_listeners(
        partial(_handle, handler, handshake_timeout),
        listeners,
        handler_nursery=handler_nursery,
        task_status=task_status,
    )


async def _handle(
    handler: Callable[[TLSStream[trio.SocketStream]], Awaitable[object]],
    handshake_timeout: float,
    stream: TLSStream[trio.SocketStream],
) -> None:
    peer = _peer_of(stream)
    try:
        with trio.move_on_after(handshake_timeout) as scope:
            await stream.do_handshake()
        if scope.cancelled_caught:
            raise HandshakeTimeoutError(f"no handshake within {handshake_timeout:g} seconds")
    except TLSError as exc:
        _logger.warning("connection from %s: %s", peer, exc)
        return
    try:
        await handler(stream)
        await stream.aclose()
    except BaseException as exc:
        if (failure := _only_failure(exc, stream)) is None:
            raise
        _logger.warning("connection from %s: %s", peer, failure)


def _only_failure(exc: BaseException, stream: TLSStream[trio.SocketStream]) -> TLSError | None:
    """Return the failure of ``stream``, if ``exc`` tells of nothing else, as an exception or as
    the group that comes out of a handler's nursery.
    """
    if isinstance(exc, BaseExceptionGroup):
        failures = [_only_failure(part, stream) for part in exc.exceptions]
        return None if None in failures else failures[0]
    return exc if isinstance(exc, TLSError) and stream.is_broken_by(exc) else None


def _peer_of(stream: TLSStream[trio.SocketStream]) -> str:
    try:
        host, port, *_ = stream.transport_stream.socket.getpeername()
    except (OSError, ValueError):
        return "a peer that has gone"
    return f"{host}:{port}"
