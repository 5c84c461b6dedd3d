"""Serves connections, each in its own task, so that a bad client affects only its own
connection.
"""

from __future__ import annotations

import logging
import math
import random
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Generic

import attrs
import trio
from trio.lowlevel import disable_ki_protection, enable_ki_protection

from trio_tlsbio._core.errors import HandshakeTimeoutError, TLSError, TruncationError, printable
from trio_tlsbio._core.misuse import check_positive, kind_of
from trio_tlsbio._core.proxy_header import ProxyCommand
from trio_tlsbio._stream.before_tls import end_if_silent, receive_arrived
from trio_tlsbio._stream.decisions import VerifyPeer
from trio_tlsbio._stream.options import CLOSE_MAX_BYTES, CLOSE_TIMEOUT, StreamOptions
from trio_tlsbio._stream.stream import T_Stream, TLSStream

from .accepting import Acceptor
from .drain import Drain, drain_or_own, limit_age
from .handlers import check_handler, started
from .listening import (
    HANDSHAKE_TIMEOUT,
    ServerContext,
    ServerSettings,
    TLSListener,
    contexts_of,
    open_listeners,
)
from .monitor import (
    ConnectionAccepted,
    ConnectionClosed,
    HandshakeCompleted,
    HandshakeFailed,
    ServerMonitor,
)
from .places import Places
from .plaintext import OnPlaintext
from .proxy_protocol import REFUSALS, TrustedProxies

__all__ = ["close_after", "first_of", "is_failure_of", "serve_tls_listeners", "serve_tls_over_tcp"]

_logger = logging.getLogger("trio_tlsbio.server")

# The random variation of the maximum age, as a fraction. Connections that began together should not
# all end, and be replaced, at the same time.
_AGE_JITTER = 0.1


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
    close_max_bytes: int = CLOSE_MAX_BYTES,
    max_connections: int | None = None,
    max_handshakes: int | None = None,
    on_error: Callable[[TLSStream[trio.SocketStream], Exception], object] | None = None,
    monitor: ServerMonitor | None = None,
    proxy_protocol: TrustedProxies | None = None,
    verify_peer: VerifyPeer | None = None,
    strict_alpn: bool = False,
    on_plaintext: OnPlaintext[trio.SocketStream] | None = None,
    drain: Drain | None = None,
    max_connection_age: float | None = None,
) -> None:
    """Listen on a TCP port, and run ``handler(stream)`` in a task for each connection.

    A drop-in for :func:`trio.serve_ssl_over_tcp`. This combines :func:`open_tls_over_tcp_listeners`
    and :func:`serve_tls_listeners`, which describe the behaviour and all parameters.
    """
    check_handler(handler)
    policy = _Policy(
        max_connections=max_connections,
        max_handshakes=max_handshakes,
        on_error=on_error,
        monitor=monitor,
        drain=drain,
        max_age=max_connection_age,
    )
    options = StreamOptions(
        https_compatible=https_compatible,
        handshake_timeout=handshake_timeout,
        close_timeout=close_timeout,
        close_max_bytes=close_max_bytes,
        verify_peer=verify_peer,
        strict_alpn=strict_alpn,
    )
    settings = ServerSettings.of(ssl_context, options, proxy_protocol, on_plaintext)
    listeners = await open_listeners(settings, port, host=host, backlog=backlog)
    await _serve(handler, listeners, policy, handler_nursery, task_status)


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
    drain: Drain | None = None,
    max_connection_age: float | None = None,
) -> None:
    """Accept connections from listeners, and run ``handler(stream)`` in a task for each connection.

    The handler gets a stream whose handshake is done. A failure of one connection ends only that
    connection, and is logged to ``trio_tlsbio.server``: a handshake that fails or takes too long,
    or a :exc:`TLSError` of the stream that the handler doesn't catch. A client that disconnects
    before it has sent a byte is logged at level ``DEBUG``. Any other exception from the handler,
    including :exc:`trio.TooSlowError`, is passed to ``on_error``; without ``on_error`` it
    propagates and ends the server, as with :func:`trio.serve_listeners`. If the system runs out of
    descriptors or memory, accepting pauses until some are available again.

    Closing the listeners drains the server, and so does :meth:`Drain.end`: no more connections are
    accepted, connections on which no byte has arrived are closed, and this returns when the last
    handler has returned. See :class:`Drain` for handlers that wait for idle clients. To limit the
    time, use a cancel scope around this, or the timeout of :meth:`Drain.end`. The connections of
    handlers that are cancelled by it still end with a close_notify, if the socket has room for it.

    Args:
      handler: Called with a :class:`TLSStream` for each connection. When the handler returns, the
        stream is closed with :meth:`TLSStream.aclose`. When it raises an exception, the stream is
        closed at once.
      listeners: The listeners to accept from. They are closed at the end.
      handler_nursery: The nursery in which to run the connections; by default a new one.
      task_status: For ``nursery.start()``, which returns ``listeners``.
      max_connections: How many connections may be open at once. Further connections wait: each
        listener has accepted one of them, and the others are in the kernel's queue.
      max_handshakes: How many handshakes may be in progress at once. Further connections wait in
        the same way, so silent clients can keep others out for ``handshake_timeout``.
      on_error: Called with the stream and the exception, if the handler, or the function that
        chooses a context, raises an :exc:`Exception` that is not a failure of the stream itself.
        The connection ends, and the server continues. An exception that ``on_error`` raises
        propagates. If the function that chooses a context has failed, the stream has no
        :attr:`~TLSStream.handshake`.
      monitor: Counts and reports the server's events.
      drain: Can end this server, and others, with one call.
      max_connection_age: How long a connection may last, in seconds, varied at random by up to a
        tenth. After that its handler ends as soon as it waits for an idle client with a method of a
        :class:`Drain`, which need not be this server's. Other handlers are not ended.

    Raises:
      ValueError: if a limit is not positive. The listeners stay open.
      TypeError: if ``drain``, ``monitor`` or ``listeners`` have the wrong type, or ``handler`` is
        not an async function. Whether a function is async can only be seen when it is first called.
    """
    check_handler(handler)
    _check_listeners(listeners)
    policy = _Policy(
        max_connections=max_connections,
        max_handshakes=max_handshakes,
        on_error=on_error,
        monitor=monitor,
        drain=drain,
        max_age=max_connection_age,
    )
    await _serve(handler, listeners, policy, handler_nursery, task_status)


def _limit(limit: float | None) -> float:
    return math.inf if limit is None else limit


def _check_monitor(_: object, __: object, monitor: ServerMonitor | None) -> None:
    if not (monitor is None or isinstance(monitor, ServerMonitor)):
        raise TypeError(
            f"monitor must be a ServerMonitor, not {kind_of(monitor)}: ServerMonitor() makes one"
        )


def _check_listeners(listeners: object) -> None:
    if isinstance(listeners, trio.abc.Listener):
        raise TypeError(f"listeners must be a list, not {kind_of(listeners)}: pass [listener]")
    for listener in listeners if isinstance(listeners, list) else []:
        if isinstance(listener, trio.SocketListener):
            raise TypeError(
                "a listener must be a TLSListener, not SocketListener: wrap it as "
                "TLSListener(listener, ssl_context)"
            )


def _check_limit(_: object, field: attrs.Attribute[float], limit: float) -> None:
    check_positive(field.name, limit, least=1)


@attrs.frozen(kw_only=True)
class _Policy(Generic[T_Stream]):
    """The parameters of :func:`serve_tls_listeners` for the treatment of connections, validated."""

    max_connections: float = attrs.field(converter=_limit, validator=_check_limit)
    max_handshakes: float = attrs.field(converter=_limit, validator=_check_limit)
    on_error: Callable[[TLSStream[T_Stream], Exception], object] | None = attrs.field()
    monitor: ServerMonitor | None = attrs.field(validator=_check_monitor)
    drain: Drain = attrs.field(converter=drain_or_own)
    max_age: float = attrs.field(converter=_limit)

    @on_error.validator
    def _check_on_error(self, _: object, value: object) -> None:
        if value is not None and not callable(value):
            raise TypeError(
                f"on_error must be a function, not {kind_of(value)}: it is called with the stream "
                "and the exception"
            )

    @max_age.validator
    def _check_max_age(self, _: object, seconds: float) -> None:
        check_positive("max_connection_age", seconds)


async def _serve(
    handler: Callable[[TLSStream[T_Stream]], Awaitable[object]],
    listeners: list[TLSListener[T_Stream]],
    policy: _Policy[T_Stream],
    handler_nursery: trio.Nursery | None,
    task_status: trio.TaskStatus[list[TLSListener[T_Stream]]],
) -> None:
    places = Places(policy.max_connections, policy.max_handshakes)
    if policy.monitor is not None:
        policy.monitor.watch(contexts_of(listeners))
    async with trio.open_nursery() as nursery:
        handlers = nursery if handler_nursery is None else handler_nursery
        acceptor = Acceptor(listeners, places, policy.monitor, nursery)
        server = _Server(handler, handlers, handlers is nursery, policy, places, acceptor)
        nursery.start_soon(server.drain_after, server.start())
        task_status.started(listeners)
    await places.wait_until_empty()  # waits for connections that run in another nursery


@attrs.define(eq=False)
class _Server(Generic[T_Stream]):
    """Runs its connections from start to end, and can end all of them."""

    _handler: Callable[[TLSStream[T_Stream]], Awaitable[object]]
    _nursery: trio.Nursery
    _is_nursery_ours: bool
    _policy: _Policy[T_Stream]
    _places: Places
    _acceptor: Acceptor[T_Stream]
    # Set once all listeners are closed.
    _draining: trio.Event = attrs.field(factory=trio.Event, init=False)
    # The open connections. The scope cancels one connection, if the nursery is not ours.
    _streams: dict[TLSStream[T_Stream], trio.CancelScope | None] = attrs.field(
        factory=dict, init=False
    )
    # The connections whose handshake is in progress.
    _handshaking: set[TLSStream[T_Stream]] = attrs.field(factory=set, init=False)

    def start(self) -> list[trio.Event]:
        """Start accepting. Return an event for each listener, which is set when the listener is
        closed.
        """
        closed = self._acceptor.start(self._begin, self._leave_drain)
        if closed:
            self._policy.drain._add(self)
        return closed

    def _begin(self, stream: TLSStream[T_Stream]) -> None:
        scope = None  # a scope would cost each connection a hundredth of its handshake
        if self._is_nursery_ours:
            self._nursery.start_soon(self._run, stream)
        else:
            scope = trio.CancelScope()
            if self._acceptor.is_cancelled:
                scope.cancel()  # the stream was accepted just before the cancellation
            self._nursery.start_soon(self._run_in, scope, stream)
        self._streams[stream] = scope
        self._places.take()

    ################################################################
    # Ending all connections
    ################################################################

    @enable_ki_protection
    async def drain_after(self, closed: list[trio.Event]) -> None:
        """Wait until all listeners are closed, then end the handshakes of silent clients."""
        try:
            for event in closed:
                await event.wait()
        finally:  # also if cancelled: connections in another nursery continue
            self._draining.set()
            for stream in self._streams:
                stream.stop_lingering()
            for stream in self._handshaking:
                _end_if_silent(stream)

    def stop_accepting(self) -> None:
        """See :class:`Drainable`."""
        self._acceptor.stop()

    def cut_off(self) -> int:
        """See :class:`Drainable`."""
        self._acceptor.cancel()
        connections = self._places.connections
        if self._is_nursery_ours:
            self._nursery.cancel_scope.cancel()
        for scope in self._streams.values():
            if scope is not None:
                scope.cancel()
        return connections

    def _leave_drain(self) -> None:
        """Leave the drain if it has nothing to end any more."""
        if not (self._places.connections or self._acceptor.is_running):
            self._policy.drain._discard(self)

    ################################################################
    # One connection
    ################################################################

    @enable_ki_protection
    async def _run_in(self, scope: trio.CancelScope, stream: TLSStream[T_Stream]) -> None:
        """Run one connection, unless it is cancelled by :meth:`cut_off`."""
        with scope:
            await self._run(stream)

    @enable_ki_protection
    async def _run(self, stream: TLSStream[T_Stream]) -> None:
        """Run one connection, from the handshake to the end."""
        if (max_age := self._policy.max_age) < math.inf:
            jitter = random.uniform(-_AGE_JITTER, _AGE_JITTER)  # noqa: S311  # not security-relevant
            limit_age(stream, trio.current_time() + max_age * (1 + jitter))
        start = trio.current_time()
        is_established = False
        error: Exception | None = None
        if self._draining.is_set():
            stream.stop_lingering()
        try:
            _ = stream.peer_address  # remembers it for the log: after a reset, a socket forgets it
            try:
                error = await self._shake_hands(stream, start)
                if error is None:
                    is_established = True
                    error = await self._handle(stream)
                else:
                    await close_after(error, stream)
            except Exception as exc:
                error = exc
                raise
            except BaseException:
                await trio.aclose_forcefully(stream)
                raise
            finally:
                # Without a checkpoint if possible: a cancellation would replace the error.
                if not stream.abort():
                    await trio.aclose_forcefully(stream)
        finally:
            del self._streams[stream]
            self._places.leave()
            self._leave_drain()
            if isinstance(error, TLSError):
                _log_failure(error, stream)
            if (monitor := self._policy.monitor) is not None:
                handshake = stream.handshake if is_established else None
                duration = trio.current_time() - start
                monitor.happened(ConnectionClosed(_client_of(stream), handshake, error, duration))
            del error  # otherwise its traceback would keep it and the stream alive in a cycle

    async def _shake_hands(self, stream: TLSStream[T_Stream], start: float) -> Exception | None:
        """Complete the handshake. Return the error if it failed."""
        monitor = self._policy.monitor  # without one, events would only cost time
        self._handshaking.add(stream)
        try:
            if monitor is not None:
                monitor.happened(ConnectionAccepted(_client_of(stream)))
            if self._draining.is_set():
                _end_if_silent(stream)
            elif len(self._handshaking) > 1:
                receive_arrived(stream)  # a busy server is behind its clients
            await stream.do_handshake()
        except Exception as exc:
            if monitor is not None:
                duration = trio.current_time() - start
                monitor.happened(HandshakeFailed(_client_of(stream), exc, duration))
            if not isinstance(exc, TLSError):  # raised by the function that chooses a context
                if self._policy.on_error is None:
                    raise
                self._policy.on_error(stream, exc)
            return exc
        finally:
            self._handshaking.remove(stream)
            self._places.end_handshake()
        if monitor is not None:
            duration = trio.current_time() - start
            monitor.happened(HandshakeCompleted(_client_of(stream), stream.handshake, duration))
        return None

    async def _handle(self, stream: TLSStream[T_Stream]) -> Exception | None:
        """Run the handler. Return the exception that ended the connection, unless it propagates."""
        try:
            await self._call_handler(stream)
        except Exception as exc:
            try:
                if is_failure_of(stream.is_source_of, exc):
                    return first_of(exc)
                if self._policy.on_error is None:
                    raise
                self._policy.on_error(stream, exc)
                return exc
            finally:
                # The handler has not sent everything: the client must not take this for a clean
                # end.
                stream.abort()
        try:
            await stream.aclose()
        except TLSError as exc:
            return exc
        return None

    @disable_ki_protection  # the handler can take long, and Ctrl-C should interrupt it
    async def _call_handler(self, stream: TLSStream[T_Stream]) -> None:
        await started(self._handler(stream), self._handler)


def _end_if_silent(stream: TLSStream[Any]) -> None:
    end_if_silent(
        stream, TruncationError("the server is draining, and the client has not sent anything")
    )


def _log_failure(error: TLSError, stream: TLSStream[Any]) -> None:
    """Log the error that ended a connection."""
    peer = _client_of(stream)
    extra = {"error_type": error.error_type}
    words = printable(str(error))  # the text can come from the peer
    # Load balancers connect and disconnect to check that the server is up, some of them after a
    # handshake. A client that stays silent for the whole handshake timeout is another matter.
    header = stream.proxy_header
    is_check = header is not None and header.command is ProxyCommand.LOCAL
    is_refused = error.reason in REFUSALS
    has_spoken = stream.has_received or isinstance(error, HandshakeTimeoutError)
    if is_refused or (has_spoken and not is_check):
        _logger.warning("connection from %s: %s", peer, words, extra=extra)
    else:
        _logger.debug("connection from %s: %s", peer, words, extra=extra)


async def close_after(error: BaseException, stream: TLSStream[Any]) -> None:
    """Close a stream whose handshake failed, in a way that lets its alert arrive."""
    if isinstance(error, TLSError) and not isinstance(error, HandshakeTimeoutError):
        # Closing at once could destroy the alert in flight. See TLSStream.aclose().
        with suppress(TLSError):
            await stream.aclose()
    await trio.aclose_forcefully(stream)


def is_failure_of(is_source_of: Callable[[BaseException], bool], exc: BaseException) -> bool:
    """Return True if an exception, or every exception in a group, is a failure of one stream."""
    if isinstance(exc, BaseExceptionGroup):
        return all(is_failure_of(is_source_of, one) for one in exc.exceptions)
    return is_source_of(exc)


def first_of(exc: Exception) -> Exception:
    """Return the first exception in a group, or the exception itself if it is not a group."""
    return first_of(exc.exceptions[0]) if isinstance(exc, ExceptionGroup) else exc


def _client_of(stream: TLSStream[Any]) -> str:
    """Return a client's address as text, in the usual notation."""
    match stream.client_address:
        case (host, port):
            return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        case None if isinstance(stream.transport_stream, trio.SocketStream):
            return "a peer that has gone"
        case None | "":
            return "a peer"
        case path:  # the path of a Unix socket; clients usually have none
            return f"a peer {path!r}"
