"""Serving: each connection has a task of its own, so that a bad client costs one connection."""

from __future__ import annotations

import errno
import logging
import math
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

import attrs
import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

from trio_tlsbio._core.errors import HandshakeTimeoutError, TLSError, TruncationError, printable
from trio_tlsbio._core.proxy_header import ProxyCommand
from trio_tlsbio._stream.closing import CLOSE_TIMEOUT
from trio_tlsbio._stream.decisions import VerifyPeer
from trio_tlsbio._stream.stream import TLSStream

from .listening import HANDSHAKE_TIMEOUT, ServerContext, TLSListener, open_tls_over_tcp_listeners
from .monitor import (
    AcceptFailed,
    ConnectionAccepted,
    ConnectionClosed,
    HandshakeCompleted,
    HandshakeFailed,
    ServerMonitor,
)
from .proxy_protocol import REFUSALS, TrustedProxies

__all__ = ["close_after", "first_of", "is_failure_of", "serve_tls_listeners", "serve_tls_over_tcp"]

T_Stream = TypeVar("T_Stream", bound=trio.abc.Stream)

_logger = logging.getLogger("trio_tlsbio.server")

# What accept(2) says when there are no descriptors, or no memory, for another connection.
_EXHAUSTED = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

# How long to wait then, in seconds, unless a connection ends before.
_EXHAUSTED_DELAY = 0.1


async def serve_tls_over_tcp(
    handler: Callable[[TLSStream[trio.SocketStream]], Awaitable[object]],
    port: int,
    ssl_context: ServerContext,
    *,
    host: str | bytes | None = None,
    https_compatible: bool = False,
    backlog: int | None = None,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[list[TLSListener[trio.SocketStream]]] = trio.TASK_STATUS_IGNORED,
    handshake_timeout: float = HANDSHAKE_TIMEOUT,
    close_timeout: float = CLOSE_TIMEOUT,
    max_connections: int | None = None,
    max_handshakes: int | None = None,
    on_error: Callable[[TLSStream[trio.SocketStream], Exception], object] | None = None,
    monitor: ServerMonitor | None = None,
    proxy_protocol: TrustedProxies | None = None,
    verify_peer: VerifyPeer | None = None,
) -> None:
    """Listen on a TCP port, and run ``handler(stream)`` in a task for each connection.

    A drop-in for :func:`trio.serve_ssl_over_tcp`. This is :func:`open_tls_over_tcp_listeners` and
    :func:`serve_tls_listeners` in one: see these for what it does, and for all parameters.
    """
    _check_limits(max_connections, max_handshakes)
    listeners = await open_tls_over_tcp_listeners(
        port,
        ssl_context,
        host=host,
        https_compatible=https_compatible,
        backlog=backlog,
        handshake_timeout=handshake_timeout,
        close_timeout=close_timeout,
        proxy_protocol=proxy_protocol,
        verify_peer=verify_peer,
    )
    await serve_tls_listeners(
        handler,
        listeners,
        handler_nursery=handler_nursery,
        task_status=task_status,
        max_connections=max_connections,
        max_handshakes=max_handshakes,
        on_error=on_error,
        monitor=monitor,
    )


async def serve_tls_listeners(
    handler: Callable[[TLSStream[T_Stream]], Awaitable[object]],
    listeners: list[TLSListener[T_Stream]],
    *,
    handler_nursery: trio.Nursery | None = None,
    task_status: trio.TaskStatus[list[TLSListener[T_Stream]]] = trio.TASK_STATUS_IGNORED,
    max_connections: int | None = None,
    max_handshakes: int | None = None,
    on_error: Callable[[TLSStream[T_Stream], Exception], object] | None = None,
    monitor: ServerMonitor | None = None,
) -> None:
    """Accept from listeners, and run ``handler(stream)`` in a task for each connection.

    The handler gets a stream whose handshake is done. What goes wrong with one connection ends that
    one alone, with a line in the log ``trio_tlsbio.server``: a handshake that fails or takes too
    long, and a :exc:`TLSError` of the stream that the handler lets through. A client that ends
    before it has sent a byte is logged at level ``DEBUG``. What else the handler raises,
    :exc:`trio.TooSlowError` too, goes to ``on_error``, or propagates and ends the server, as with
    :func:`trio.serve_listeners`. Where the system is out of descriptors or memory, accepting waits
    until it has some again.

    Closing the listeners drains the server: nothing more is accepted, connections on which no byte
    has arrived end, and this returns when the last handler has; see :class:`Drain` for handlers
    that wait for idle clients. A cancel scope around it says how long that may take. Handlers that
    are cut off by it still end with a close_notify, where the socket has room for one.

    Args:
      handler: Called with a :class:`TLSStream` for each connection. When it returns, the stream is
        closed by :meth:`TLSStream.aclose`, and when it raises, at once.
      listeners: Where to accept from. They are closed at the end.
      handler_nursery: The nursery to run connections in; one of its own by default.
      task_status: For ``nursery.start()``, which returns ``listeners``.
      max_connections: How many connections may be open at once. Further ones wait: one that each
        listener has accepted, and the others in the kernel's queue.
      max_handshakes: How many handshakes may go on at once. Further connections wait likewise, so
        clients that say nothing can keep others out for ``handshake_timeout``.
      on_error: Called with the stream and what the handler raised, or the function that chooses a
        context, if that is an :exc:`Exception` and no failure of the stream itself. The connection
        ends; the server goes on. What it raises itself propagates.
      monitor: Counts what happens, and tells it.

    Raises:
      ValueError: if a limit is not positive. The listeners stay open.
    """
    _check_limits(max_connections, max_handshakes)
    async with trio.open_nursery() as nursery:
        server = _Server(
            handler=handler,
            nursery=nursery if handler_nursery is None else handler_nursery,
            max_connections=math.inf if max_connections is None else max_connections,
            max_handshakes=math.inf if max_handshakes is None else max_handshakes,
            on_error=on_error,
            monitor=ServerMonitor() if monitor is None else monitor,
        )
        # A listener of another class is known to be closed when accepting from it ends.
        closed = [
            listener._closed if isinstance(listener, TLSListener) else trio.Event()
            for listener in listeners
        ]
        nursery.start_soon(server.drain_after, closed)
        for listener, event in zip(listeners, closed, strict=True):
            nursery.start_soon(server.accept_from, listener, event)
        task_status.started(listeners)
    await server.wait_until_idle()


def _check_limits(max_connections: int | None, max_handshakes: int | None) -> None:
    for name, limit in (("max_connections", max_connections), ("max_handshakes", max_handshakes)):
        if limit is not None and limit < 1:
            raise ValueError(f"{name} must be positive")


@attrs.define(eq=False, kw_only=True)
class _Server(Generic[T_Stream]):
    """Accepts connections within limits, and sees each of them through."""

    _handler: Callable[[TLSStream[T_Stream]], Awaitable[object]]
    _nursery: trio.Nursery
    _max_connections: float
    _max_handshakes: float
    _on_error: Callable[[TLSStream[T_Stream], Exception], object] | None
    _monitor: ServerMonitor
    #: Set once all listeners are closed.
    draining: trio.Event = attrs.field(factory=trio.Event, init=False)
    _connections: int = attrs.field(default=0, init=False)
    _handshakes: int = attrs.field(default=0, init=False)
    _less_to_do: trio.lowlevel.ParkingLot = attrs.field(
        factory=trio.lowlevel.ParkingLot, init=False
    )
    _streams: set[TLSStream[T_Stream]] = attrs.field(factory=set, init=False)
    # The handshakes that are going on, and what ends each if it has not begun when draining does.
    _shaking: dict[TLSStream[T_Stream], trio.CancelScope] = attrs.field(factory=dict, init=False)

    @enable_ki_protection
    async def drain_after(self, closed: list[trio.Event]) -> None:
        """Wait until all listeners are closed, and end the handshakes that have not begun."""
        try:
            for event in closed:
                await event.wait()
        finally:  # cancelled too: what runs in another nursery goes on
            self.draining.set()
            for stream in self._streams:
                stream.stop_lingering()
            for stream, scope in self._shaking.items():
                if not stream.has_received:
                    scope.deadline = trio.current_time()

    @enable_ki_protection
    async def accept_from(self, listener: TLSListener[T_Stream], closed: trio.Event) -> None:
        """Accept until the listener is closed, and set ``closed`` then."""
        try:
            await self._accept_from(listener)
        finally:
            closed.set()

    async def _accept_from(self, listener: TLSListener[T_Stream]) -> None:
        async with listener:
            is_exhausted = False
            while True:
                try:
                    stream = await listener.accept()
                except (trio.ClosedResourceError, OSError) as exc:
                    if exc is getattr(listener, "_context_error", None):
                        raise
                    if isinstance(exc, trio.ClosedResourceError):
                        return
                    if exc.errno not in _EXHAUSTED:
                        raise
                    if not is_exhausted:
                        is_exhausted = True
                        _logger.error("can't accept connections for now: %s", exc)  # noqa: TRY400
                        self._monitor.happened(AcceptFailed(exc))
                    with trio.move_on_after(_EXHAUSTED_DELAY):
                        await self._less_to_do.park()
                else:
                    is_exhausted = False
                    await self._start(stream)

    async def _start(self, stream: TLSStream[T_Stream]) -> None:
        # Looked at when it is there: one that waits is the only one that this listener accepts.
        try:
            while (
                self._connections >= self._max_connections
                or self._handshakes >= self._max_handshakes
            ):
                await self._less_to_do.park()
            self._nursery.start_soon(self._run, stream)
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        self._connections += 1
        self._handshakes += 1

    async def wait_until_idle(self) -> None:
        """Wait for connections that run in another nursery."""
        while self._connections:
            await self._less_to_do.park()

    @enable_ki_protection
    async def _run(self, stream: TLSStream[T_Stream]) -> None:
        """See one connection through, from the handshake to the end."""
        begin = trio.current_time()
        is_established = False
        error: Exception | None = None
        self._streams.add(stream)
        if self.draining.is_set():
            stream.stop_lingering()
        try:
            try:
                error = await self._shake_hands(stream)
                if error is None:
                    is_established = True
                    error = await self._handle(stream)
                else:
                    await close_after(error, stream)
            except Exception as exc:
                error = exc
                raise
            finally:
                await trio.aclose_forcefully(stream)
        finally:
            self._streams.remove(stream)
            self._connections -= 1
            self._less_to_do.unpark_all()
            if isinstance(error, TLSError):
                _log_failure(error, stream)
            handshake = stream.handshake if is_established else None
            duration = trio.current_time() - begin
            peer = _client_of(stream)
            self._monitor.happened(ConnectionClosed(peer, handshake, error, duration))
            del error  # or its traceback would keep it, and the stream, alive in a cycle

    async def _shake_hands(self, stream: TLSStream[T_Stream]) -> Exception | None:
        """Complete the handshake, and return why it failed, if it did."""
        begin = trio.current_time()
        try:
            self._monitor.happened(ConnectionAccepted(_client_of(stream)))
            await self._do_handshake(stream)
        except Exception as exc:
            duration = trio.current_time() - begin
            self._monitor.happened(HandshakeFailed(_client_of(stream), exc, duration))
            if not isinstance(exc, TLSError):  # of the function that chooses a context
                if self._on_error is None:
                    raise
                self._on_error(stream, exc)
            return exc
        finally:
            self._handshakes -= 1
            self._less_to_do.unpark_all()
        assert stream.handshake is not None
        duration = trio.current_time() - begin
        self._monitor.happened(HandshakeCompleted(_client_of(stream), stream.handshake, duration))
        return None

    async def _do_handshake(self, stream: TLSStream[T_Stream]) -> None:
        """Complete the handshake, unless the server drains before the client has sent anything."""
        with trio.CancelScope() as scope:
            if self.draining.is_set():
                # Not before it is entered: Trio looks first for what has arrived. See Drain.
                scope.deadline = trio.current_time()
            self._shaking[stream] = scope
            try:
                await stream.do_handshake()
            finally:
                del self._shaking[stream]
        if scope.cancelled_caught:
            if not stream.has_received:
                error = TruncationError("the server drains, and the client has not sent anything")
                stream.connection.abort(error)
            await stream.do_handshake()  # it goes on where it was

    async def _handle(self, stream: TLSStream[T_Stream]) -> Exception | None:
        """Run the handler, and return what has ended the connection, unless that propagates."""
        try:
            await self._call_handler(stream)
        except Exception as exc:
            try:
                if is_failure_of(stream.is_source_of, exc):
                    return first_of(exc)
                if self._on_error is None:
                    raise
                self._on_error(stream, exc)
                return exc
            finally:
                # The handler has not said all: the client must not take this for a clean end.
                stream.abort()
        try:
            await stream.aclose()
        except TLSError as exc:
            return exc
        return None

    @disable_ki_protection  # it is not ours: it may take its time, and Ctrl-C should reach it
    async def _call_handler(self, stream: TLSStream[T_Stream]) -> None:
        await self._handler(stream)


def _log_failure(error: TLSError, stream: TLSStream[Any]) -> None:
    """Log what has ended a connection."""
    peer = _client_of(stream)
    extra = {"error_type": error.error_type}
    words = printable(str(error))  # which may come from the peer
    # Load balancers connect and go, to see whether the server is there; some first shake hands. A
    # client that keeps silent for as long as a handshake may take is another matter.
    header = stream.proxy_header
    is_check = header is not None and header.command is ProxyCommand.LOCAL
    is_refused = error.reason in REFUSALS
    has_spoken = stream.has_received or isinstance(error, HandshakeTimeoutError)
    if is_refused or (has_spoken and not is_check):
        _logger.warning("connection from %s: %s", peer, words, extra=extra)
    else:
        _logger.debug("connection from %s: %s", peer, words, extra=extra)


async def close_after(error: BaseException, stream: TLSStream[Any]) -> None:
    """Close a stream whose handshake failed, so that its alert arrives."""
    if isinstance(error, TLSError) and not isinstance(error, HandshakeTimeoutError):
        # Not at once: that could destroy the alert on its way. See TLSStream.aclose().
        with suppress(TLSError):
            await stream.aclose()
    await trio.aclose_forcefully(stream)


def is_failure_of(is_source_of: Callable[[BaseException], bool], exc: BaseException) -> bool:
    """Whether an exception, or each one in a group as nurseries raise it, tells of a stream."""
    if isinstance(exc, BaseExceptionGroup):
        return all(is_failure_of(is_source_of, one) for one in exc.exceptions)
    return is_source_of(exc)


def first_of(exc: Exception) -> Exception:
    """Return the first exception in a group, or what is no group itself."""
    return first_of(exc.exceptions[0]) if isinstance(exc, ExceptionGroup) else exc


def _client_of(stream: TLSStream[Any]) -> str:
    """Return a client's address as people write it."""
    match stream.client_address:
        case (host, port):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case None if isinstance(stream.transport_stream, trio.SocketStream):
            return "a peer that has gone"
        case None | "":
            return "a peer"
        case path:  # of a Unix socket, which clients mostly don't have
            return f"a peer {path!r}"
