"""How a server holds up: limits, errors, drains, exhaustion, new certificates under load."""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import socket
import ssl
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeAlias

import attrs
import pytest
import trio
import trustme
from trio.testing import MockClock, memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import (
    HOST,
    NAME,
    client_context_for,
    counts_references,
    echo,
    reset_when_closed,
    server_context_for,
    tcp_pair,
)
from trio_tlsbio import (
    AcceptFailed,
    ConnectionAccepted,
    ConnectionClosed,
    Drain,
    HandshakeCompleted,
    HandshakeFailed,
    HandshakeTimeoutError,
    PeerAlertError,
    ReloadingContext,
    ServerEvent,
    ServerMonitor,
    ServerStatistics,
    TLSConnection,
    TLSConnector,
    TLSError,
    TLSListener,
    TLSStream,
    TruncationError,
    open_tls_over_tcp_listeners,
    serve_tls_listeners,
    serve_tls_over_tcp,
)

LOGGER = "trio_tlsbio.server"

Stream: TypeAlias = TLSStream[trio.SocketStream]


@pytest.fixture
def client_context(ca: trustme.CA) -> ssl.SSLContext:
    return client_context_for(ca)


@pytest.fixture
def server_context(server_cert: trustme.LeafCert) -> ssl.SSLContext:
    return server_context_for(server_cert)


@attrs.define(eq=False)
class Server:
    """A server that runs in a nursery, and its clients' way to it."""

    client_context: ssl.SSLContext
    monitor: ServerMonitor
    listener: TLSListener[trio.SocketStream]
    scope: trio.CancelScope
    ended: trio.Event

    @property
    def port(self) -> int:
        transport_listener = self.listener.transport_listener
        assert isinstance(transport_listener, trio.SocketListener)
        port: int = transport_listener.socket.getsockname()[1]
        return port

    @property
    def statistics(self) -> ServerStatistics:
        return self.monitor.statistics()

    async def tcp(self) -> trio.SocketStream:
        return await trio.open_tcp_stream(HOST, self.port)

    async def connect(self) -> Stream:
        """Connect, and complete the handshake."""
        stream = TLSStream(await self.tcp(), self.client_context, server_hostname=HOST)
        try:
            await stream.do_handshake()
        except BaseException:
            await trio.aclose_forcefully(stream)
            raise
        return stream

    async def ask(self, stream: Stream, question: bytes = b"anybody home?") -> None:
        with trio.fail_after(10):
            await stream.send_all(question)
            answer = b""
            while len(answer) < len(question):
                answer += await stream.receive_some()
            assert answer == question

    async def until(self, condition: Callable[[ServerStatistics], bool]) -> None:
        with trio.fail_after(60):
            while not condition(self.statistics):
                await trio.lowlevel.checkpoint()


@asynccontextmanager
async def serving(
    handler: Callable[[Stream], Awaitable[object]],
    server_context: Any,
    client_context: ssl.SSLContext,
    *,
    on_event: Callable[[ServerEvent], object] | None = None,
    **options: Any,
) -> AsyncIterator[Server]:
    monitor = ServerMonitor(on_event)
    scope = trio.CancelScope()
    ended = trio.Event()

    async def serve(task_status: trio.TaskStatus[list[TLSListener[trio.SocketStream]]]) -> None:
        with scope:
            await serve_tls_over_tcp(
                handler,
                0,
                server_context,
                host=HOST,
                monitor=monitor,
                task_status=task_status,
                **options,
            )
        ended.set()

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(serve)
        yield Server(client_context, monitor, listener, scope, ended)
        nursery.cancel_scope.cancel()


class OneStream(trio.abc.Listener[Any]):
    """Accepts a single stream."""

    def __init__(self, stream: Any) -> None:
        self.streams = [stream]
        self.closed = trio.Event()

    async def accept(self) -> Any:
        await trio.lowlevel.checkpoint()
        if self.streams:
            return self.streams.pop()
        await self.closed.wait()
        raise trio.ClosedResourceError

    async def aclose(self) -> None:
        self.closed.set()
        await trio.lowlevel.checkpoint()


################################################################
# trio.serve_listeners
################################################################


async def test_slow_handshake_under_trios_serve_listeners(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    failures: list[TLSError] = []

    async def careful(stream: Stream) -> None:
        try:
            await echo(stream)
        except TLSError as exc:
            failures.append(exc)

    (tcp_listener,) = await trio.open_tcp_listeners(0, host=HOST)
    listener = TLSListener(tcp_listener, server_context, handshake_timeout=1000)
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, careful, [listener])
        server = Server(
            client_context, ServerMonitor(), listener, nursery.cancel_scope, trio.Event()
        )
        slow = await server.tcp()
        await slow.send_all(b"\x16\x03\x01")
        await wait_all_tasks_blocked()
        async with await server.connect() as stream:  # nobody waits for the slow one
            await server.ask(stream)
        mock_clock.jump(1000)
        with trio.fail_after(10):
            assert await slow.receive_some() == b""
        await slow.aclose()
        async with await server.connect() as stream:
            await server.ask(stream)
        nursery.cancel_scope.cancel()
    (failure,) = failures
    assert isinstance(failure, HandshakeTimeoutError)
    assert str(failure) == "no handshake within 1000 seconds"
    assert failure.error_type == "handshake_timeout"


async def test_timeout_of_a_handshake_is_the_streams(
    server_context: ssl.SSLContext, autojump_clock: MockClock
) -> None:
    _, transport = memory_stream_pair()
    stream = TLSStream(transport, server_context, server_side=True, handshake_timeout=5)
    await trio.sleep(10)  # it begins with the first call that waits
    with trio.move_on_after(3):
        await stream.do_handshake()
    begin = trio.current_time()
    results: list[TLSError] = []

    async def wait_for_it(operation: Callable[[], Awaitable[object]]) -> None:
        try:
            await operation()
        except TLSError as exc:
            results.append(exc)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait_for_it, stream.do_handshake)
        nursery.start_soon(wait_for_it, partial(stream.send_all, b"x"))
        nursery.start_soon(wait_for_it, stream.receive_some)
    assert trio.current_time() == begin + 2, "it goes on where it was cancelled"
    assert all(isinstance(result, HandshakeTimeoutError) for result in results)
    assert len(results) == 3
    for operation in (stream.do_handshake, stream.receive_some, partial(stream.send_all, b"x")):
        with pytest.raises(HandshakeTimeoutError):
            await operation()
    await stream.aclose()
    assert trio.current_time() == begin + 2, "nothing was sent, so nothing is waited for"


async def test_where_nothing_was_sent_closing_waits_for_nothing(
    server_context: ssl.SSLContext, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    async with tcp_pair() as (_, transport):
        stream = TLSStream(
            transport, server_context, server_side=True, handshake_timeout=1, close_timeout=1000
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait_all_tasks_blocked)
            mock_clock.jump(1)
            with pytest.raises(HandshakeTimeoutError):
                await stream.do_handshake()
        with trio.fail_after(10):
            await stream.aclose()


async def test_failed_handshake_ends_without_a_reset(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context) as server:
        bad = await server.tcp()
        await bad.send_all(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")  # a malformed ClientHello
        with trio.fail_after(10):
            assert b"".join([part async for part in bad]), "there is an alert"
        for _ in range(10):  # a closed socket would answer with a reset
            await bad.send_all(b"and so on")
            await wait_all_tasks_blocked(0.001)
        await bad.aclose()


async def test_options_that_make_no_sense(server_context: ssl.SSLContext) -> None:
    _, transport = memory_stream_pair()
    with pytest.raises(ValueError, match="handshake_timeout must be positive"):
        TLSStream(transport, server_context, server_side=True, handshake_timeout=0)
    for name in ("handshake_timeout", "close_timeout"):
        with pytest.raises(ValueError, match=f"{name} must"):
            await open_tls_over_tcp_listeners(0, server_context, **{name: -1})  # type: ignore[arg-type]
    for name in ("max_connections", "max_handshakes"):
        with pytest.raises(ValueError, match=f"{name} must be positive"):
            await serve_tls_listeners(echo, [], **{name: 0})  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=f"{name} must be positive"):  # before listening
            await serve_tls_over_tcp(echo, 0, server_context, **{name: 0})  # type: ignore[arg-type]


################################################################
# Limits
################################################################


async def test_connections_at_once_are_limited(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context, max_connections=2) as server:
        first, second = await server.connect(), await server.connect()
        third = await server.tcp()
        await third.send_all(b"GET / HTTP/1.1\r\n\r\n")
        await wait_all_tasks_blocked(0.01)
        await server.ask(first)
        await server.ask(second)
        assert server.statistics.accepted == 2, "the third one waits"
        await second.aclose()
        await server.until(lambda statistics: statistics.failed == {"http_request": 1})
        await third.aclose()
        await first.aclose()


async def test_handshakes_at_once_are_limited(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, mock_clock: MockClock
) -> None:
    mock_clock.rate = 1
    async with serving(
        echo, server_context, client_context, max_handshakes=1, handshake_timeout=1000
    ) as server:
        open_already = await server.connect()
        silent = await server.tcp()
        await server.until(lambda statistics: statistics.handshaking == 1)
        async with trio.open_nursery() as nursery:

            async def late() -> None:
                async with await server.connect() as stream:
                    await server.ask(stream)

            nursery.start_soon(late)
            await wait_all_tasks_blocked(0.01)
            await server.ask(open_already)
            assert server.statistics.accepted == 2, "the late one waits"
            mock_clock.jump(1000)
        assert server.statistics.timed_out == 1
        assert server.statistics.established == 2
        await silent.aclose()
        await open_already.aclose()


async def test_one_that_waits_for_the_limit_is_closed_with_the_server(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context, max_connections=1) as server:
        first = await server.connect()
        waiting = await server.tcp()
        await wait_all_tasks_blocked(0.01)
    assert await waiting.receive_some() == b""
    await trio.aclose_forcefully(waiting)
    await trio.aclose_forcefully(first)


################################################################
# Errors
################################################################


async def test_errors_of_the_handler_go_to_the_hook(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    errors: list[tuple[Stream, Exception]] = []

    async def handler(stream: Stream) -> None:
        if await stream.receive_some() == b"fail":
            raise KeyError("from the handler")
        await stream.send_all(b"fine")

    async with serving(
        handler,
        server_context,
        client_context,
        on_error=lambda stream, exc: errors.append((stream, exc)),
    ) as server:
        async with await server.connect() as stream:
            await stream.send_all(b"fail")
            with pytest.raises(TruncationError):  # it has not said all
                await stream.receive_some()
        async with await server.connect() as stream:
            await stream.send_all(b"don't")
            assert await stream.receive_some() == b"fine", "the server goes on"
        await server.until(lambda statistics: statistics.active == 0)
        assert server.statistics.broken == {"KeyError": 1}
    ((stream, error),) = errors
    assert isinstance(stream, TLSStream)
    assert isinstance(error, KeyError)


async def test_what_the_hook_raises_propagates(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def handler(stream: Stream) -> NoReturn:
        raise KeyError("from the handler")

    def hook(stream: Stream, exc: Exception) -> NoReturn:
        raise RuntimeError("from the hook") from exc

    async def run() -> None:
        async with serving(handler, server_context, client_context, on_error=hook) as server:
            await trio.aclose_forcefully(await server.connect())
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(RuntimeError, match="from the hook")


async def test_failure_of_the_stream_is_not_the_handlers(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    errors: list[Exception] = []
    async with serving(
        echo, server_context, client_context, on_error=lambda _, exc: errors.append(exc)
    ) as server:
        stream = await server.connect()
        await server.ask(stream)
        await stream.transport_stream.aclose()
        await server.until(lambda statistics: statistics.active == 0)
        assert server.statistics.broken == {"truncated": 1}
    assert not errors
    (record,) = caplog.records
    assert "without a close_notify" in record.getMessage()


async def test_failure_of_the_stream_in_a_nursery_of_the_handler(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    """It comes out in a group of groups."""

    async def handler(stream: Stream) -> None:
        async with trio.open_nursery() as outer, trio.open_nursery() as nursery:
            outer.start_soon(trio.sleep_forever)
            nursery.start_soon(echo, stream)
            nursery.start_soon(trio.sleep_forever)

    async with serving(handler, server_context, client_context) as server:
        stream = await server.connect()
        await server.ask(stream)
        await stream.transport_stream.aclose()
        await server.until(lambda statistics: statistics.active == 0)
        stream = await server.connect()
        await server.ask(stream)
        await trio.aclose_forcefully(stream)
    message, *_ = (record.getMessage() for record in caplog.records)
    assert "without a close_notify" in message


async def test_failure_of_the_stream_beside_another_one_is_the_handlers(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def handler(stream: Stream) -> None:
        async def fail_too() -> None:
            try:
                await trio.sleep_forever()
            finally:
                raise KeyError("mine")

        async with trio.open_nursery() as nursery:
            nursery.start_soon(echo, stream)
            nursery.start_soon(fail_too)

    async def run() -> None:
        async with serving(handler, server_context, client_context) as server:
            stream = await server.connect()
            await server.ask(stream)
            await stream.transport_stream.aclose()
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(KeyError, match="mine")


@pytest.mark.parametrize("reason", ["can't be asked", "ended", "unwrap"])
async def test_failure_that_leaves_the_stream_usable_is_not_the_handlers_either(
    reason: str,
    ca: trustme.CA,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    server_context.post_handshake_auth = True
    client_context.post_handshake_auth = reason == "ended"

    async def handler(stream: Stream) -> None:
        if reason == "unwrap":
            await stream.unwrap()
        else:
            await stream.verify_client_post_handshake()

    async with serving(handler, server_context, client_context) as server:
        stream = await server.connect()
        await stream.send_all(b"data" * (reason == "unwrap"))
        await stream.send_eof()
        await server.until(lambda statistics: statistics.established == 1)
        await server.until(lambda statistics: statistics.active == 0)
        await stream.aclose()
    (record,) = caplog.records
    message = record.getMessage()
    assert {"can't be asked": "can't be asked", "ended": "ended its direction"}.get(
        reason, "unwrap() expected"
    ) in message


async def test_failure_of_another_stream_is_the_handlers(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def handler(stream: Stream) -> None:
        _, transport = memory_stream_pair()
        other = TLSStream(transport, client_context, server_hostname=NAME, handshake_timeout=1e-9)
        await other.do_handshake()

    async def run() -> None:
        async with serving(handler, server_context, client_context) as server:
            await trio.aclose_forcefully(await server.connect())
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(HandshakeTimeoutError)


async def test_what_a_provider_raises_propagates_and_leaks_nothing(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    contexts = iter([server_context, server_context])

    async def run() -> None:
        # It is called for the check before listening, and for the check of the listener.
        async with serving(echo, lambda: next(contexts), client_context) as server:
            tcp = await server.tcp()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    assert await tcp.receive_some() == b""
                    await tcp.aclose()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains((StopIteration, RuntimeError))


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "from the function") for number in (errno.EMFILE, errno.ENOMEM)),
        *(OSError(number, "from the function") for number in (errno.ENFILE, errno.ENOBUFS)),
        trio.ClosedResourceError("from the function"),
        trio.BrokenResourceError("from the function"),
    ],
    ids=repr,
)
async def test_error_of_a_provider_is_no_failure_of_accepting(
    error: Exception,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither are clients lost one after the other, nor does the server end in silence."""
    calls = 0

    def provider() -> ssl.SSLContext:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise error
        return server_context

    async def run() -> None:
        async with serving(echo, provider, client_context) as server:
            async with await server.tcp() as tcp:
                with trio.fail_after(10):
                    assert await tcp.receive_some() == b""
            with trio.fail_after(10):
                await server.ended.wait()
            raise AssertionError("the server did not say why it ended")

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(type(error), match="from the function")
    assert calls == 3
    assert not caplog.records


async def test_client_context_of_a_provider_ends_the_server_with_words(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    contexts = iter([server_context, server_context, client_context])

    async def run() -> None:
        async with (
            serving(echo, lambda: next(contexts), client_context) as server,
            await server.tcp(),
        ):
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(ValueError, match="made for the other side")


async def test_client_context_of_a_reload_leaves_the_server_as_it_was(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    contexts = iter([server_context, client_context])
    current = ReloadingContext(lambda: next(contexts))
    async with serving(echo, current, client_context) as server:
        assert not current.reload()
        async with await server.connect() as stream:
            await server.ask(stream)


async def test_what_strangers_send_writes_no_lines_of_its_own(
    ca: trustme.CA,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def refuse(ssl_object: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> int:
        ssl_object.refused_hostname = name  # type: ignore[attr-defined]
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME

    server_context.sni_callback = refuse
    client_context.check_hostname = False
    async with serving(echo, server_context, client_context) as server:
        stream = TLSStream(
            await server.tcp(), client_context, server_hostname="a\nconnection from\x1b[31m"
        )
        with pytest.raises(PeerAlertError):
            await stream.do_handshake()
        await trio.aclose_forcefully(stream)
        await server.until(lambda statistics: statistics.active == 0)
    (record,) = caplog.records
    message = record.getMessage()
    assert message.isprintable()
    assert r"a\nconnection from\x1b[31m" in message


async def test_client_that_fails_twice_ends_alone(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """It sends a ClientHello; while the server answers, it sends garbage and resets."""
    sockets: list[socket.socket] = []

    def while_the_server_works(*_: object) -> None:
        (bad,) = sockets
        bad.sendall(b"\x17\x03\x03\x00\x05hello" + b"garbage")
        reset_when_closed(bad)
        bad.close()

    async with serving(echo, server_context, client_context) as server:
        server_context.sni_callback = while_the_server_works
        sockets.append(socket.create_connection((HOST, server.port)))
        hello = TLSConnection(client_context, server_hostname=HOST).data_to_send()
        sockets[0].sendall(hello)
        await server.until(lambda statistics: bool(statistics.failed))
        await server.until(lambda statistics: statistics.active == 0)
        server_context.sni_callback = None
        async with await server.connect() as stream:
            await server.ask(stream)


@pytest.mark.parametrize("event_type", [ConnectionAccepted, HandshakeCompleted, ConnectionClosed])
async def test_hook_that_raises_leaves_nothing_behind(
    event_type: type[ServerEvent], server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    monitors: list[ServerMonitor] = []

    def hook(event: ServerEvent) -> None:
        if isinstance(event, event_type):
            raise KeyError("from the hook")

    async def run() -> None:
        async with (
            trio.open_nursery() as handlers,
            serving(
                echo, server_context, client_context, handler_nursery=handlers, on_event=hook
            ) as server,
        ):
            monitors.append(server.monitor)
            with suppress(TLSError):
                async with await server.connect() as stream:
                    await server.ask(stream)
            await trio.sleep_forever()

    with trio.fail_after(20), pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(KeyError, match="from the hook")
    (monitor,) = monitors
    statistics = monitor.statistics()
    assert (statistics.accepted, statistics.active, statistics.handshaking) == (1, 0, 0)


################################################################
# The log
################################################################


@pytest.mark.parametrize("how", ["end", "reset"])
async def test_a_health_check_is_logged_for_debugging_alone(
    how: str,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A load balancer connects every few seconds, and sends nothing."""
    caplog.set_level(logging.DEBUG, LOGGER)
    async with serving(echo, server_context, client_context) as server:
        check = await server.tcp()
        await server.until(lambda statistics: statistics.accepted == 1)
        if how == "reset":
            reset_when_closed(check)
        await check.aclose()
        await server.until(lambda statistics: statistics.active == 0)
        error_type = "truncated" if how == "end" else "connection_reset"
        assert server.statistics.failed == {error_type: 1}, "it is counted all the same"
    (record,) = caplog.records
    assert record.levelno == logging.DEBUG
    assert record.getMessage().startswith("connection from 127.0.0.1:")
    assert vars(record)["error_type"] == error_type


@pytest.mark.parametrize(
    ("data", "error_type"),
    [
        (b"\x16", "truncated"),
        (b"\x16\x03\x01\x02", "truncated"),
        (b"GET / HTTP/1.1\r\n\r\n", "http_request"),
    ],
)
async def test_a_client_that_sends_anything_is_logged_as_a_warning(
    data: bytes,
    error_type: str,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(echo, server_context, client_context) as server:
        bad = await server.tcp()
        await bad.send_all(data)
        await bad.send_eof()
        await server.until(lambda statistics: statistics.failed == {error_type: 1})
        await bad.aclose()
        await server.until(lambda statistics: statistics.active == 0)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert vars(record)["error_type"] == error_type


async def test_a_connection_that_breaks_later_is_logged_as_a_warning(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(echo, server_context, client_context) as server:
        stream = await server.connect()
        await server.ask(stream)
        await stream.transport_stream.aclose()
        await server.until(lambda statistics: statistics.active == 0)
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert vars(record)["error_type"] == "truncated"


async def test_a_client_that_keeps_silent_is_logged_as_a_warning(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mock_clock.rate = 1
    async with serving(echo, server_context, client_context, handshake_timeout=1000) as server:
        silent = await server.tcp()
        await server.until(lambda statistics: statistics.handshaking == 1)
        mock_clock.jump(1000)
        await server.until(lambda statistics: statistics.active == 0)
        await silent.aclose()
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert vars(record)["error_type"] == "handshake_timeout"


################################################################
# Events and statistics
################################################################


async def test_every_event_is_told_and_counted(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    events: list[ServerEvent] = []
    connector = TLSConnector(ssl_context=client_context)
    async with serving(echo, server_context, client_context, on_event=events.append) as server:
        for _ in range(2):
            async with await connector.connect(HOST, server.port) as stream:
                await server.ask(stream)
        bad = await server.tcp()
        await bad.send_all(b"GET / HTTP/1.1\r\n\r\n")
        _, bad_port = bad.socket.getsockname()
        await bad.send_eof()
        await server.until(lambda statistics: bool(statistics.failed))
        await bad.aclose()
        await server.until(lambda statistics: statistics.active == 0)
        statistics = server.statistics
    kinds = [type(event) for event in events]
    good = [ConnectionAccepted, HandshakeCompleted, ConnectionClosed]
    assert kinds == [*good, *good, ConnectionAccepted, HandshakeFailed, ConnectionClosed]
    completed, failed, closed = events[4], events[7], events[8]
    assert isinstance(completed, HandshakeCompleted)
    assert completed.handshake.session_reused
    assert 0 < completed.duration < 10
    assert isinstance(failed, HandshakeFailed)
    assert failed.peer == f"{HOST}:{bad_port}"
    assert isinstance(failed.error, TLSError)
    assert failed.error.reason == "HTTP_REQUEST"
    assert isinstance(closed, ConnectionClosed)
    assert (closed.peer, closed.handshake) == (failed.peer, None)
    assert closed.error is failed.error
    assert statistics == ServerStatistics(
        accepted=3,
        active=0,
        established=2,
        resumed=1,
        failed={"http_request": 1},
        handshake_seconds=statistics.handshake_seconds,
        connection_seconds=statistics.connection_seconds,
    )
    assert 0 < statistics.handshake_seconds < statistics.connection_seconds
    assert statistics.handshaking == statistics.timed_out == 0
    assert "accepted=3" in repr(server.monitor)


async def test_statistics_tell_what_goes_on_now(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context) as server:
        silent, stream = await server.tcp(), await server.connect()
        await server.until(lambda statistics: statistics.accepted == 2)
        await server.until(lambda statistics: statistics.established == 1)
        before = server.statistics
        assert (before.active, before.handshaking, before.established) == (2, 1, 1)
        with pytest.raises(AttributeError):
            before.active = 0  # type: ignore[misc]
        with pytest.raises(TypeError):
            before.failed["x"] = 1  # type: ignore[index]
        server.scope.cancel()
        await server.ended.wait()
        after = server.statistics
        assert (after.active, after.handshaking, after.cancelled) == (0, 0, 1)
        assert after.failed == after.broken == {}
        assert before.active == 2, "a snapshot"
        await trio.aclose_forcefully(silent)
        await trio.aclose_forcefully(stream)


@pytest.mark.parametrize("how", ["reset", "timeout", "cancelled"])
async def test_handshake_that_fails_in_its_last_flight_is_counted_once(
    how: str, server_cert: trustme.LeafCert, ca: trustme.CA, mock_clock: MockClock
) -> None:
    """TLS 1.2, where the server has the last word: OpenSSL is through before that is sent."""
    mock_clock.rate = 1
    version = ssl.TLSVersion.TLSv1_2
    client_end, server_end = memory_stream_pair()
    sends = 0

    async def stall() -> None:
        nonlocal sends
        sends += 1
        if sends == 2:
            if how == "reset":
                raise trio.BrokenResourceError from ConnectionResetError()
            await trio.sleep_forever()
        await pump()

    pump: Any = server_end.send_stream.send_all_hook
    server_end.send_stream.send_all_hook = stall
    monitor = ServerMonitor()
    listener = TLSListener(
        OneStream(server_end), server_context_for(server_cert, version), handshake_timeout=1000
    )
    client = TLSStream(client_end, client_context_for(ca, version), server_hostname=NAME)
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_tls_listeners, echo, [listener], monitor=monitor))
        nursery.start_soon(client.do_handshake)
        while sends < 2:
            await trio.lowlevel.checkpoint()
        await wait_all_tasks_blocked()
        if how == "timeout":
            mock_clock.jump(1000)
            await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    statistics = monitor.statistics()
    assert (statistics.accepted, statistics.established, statistics.active) == (1, 0, 0)
    assert statistics.handshaking == 0
    assert statistics.broken == {}
    reasons = {"reset": {"connection_reset": 1}, "timeout": {"handshake_timeout": 1}}
    assert statistics.failed == reasons.get(how, {})
    assert statistics.cancelled == (how == "cancelled")


async def test_failed_handshake_that_is_cut_off_is_counted_once(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(echo, server_context, client_context) as server:
        bad = await server.tcp()
        await bad.send_all(b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00")
        await server.until(lambda statistics: bool(statistics.failed))
        await wait_all_tasks_blocked(0.01)  # its alert is out; it is awaited that the client ends
        assert server.statistics.active == 1
        server.scope.cancel()
        await server.ended.wait()
        await bad.aclose()
        statistics = server.statistics
        assert (statistics.handshaking, statistics.cancelled, statistics.active) == (0, 0, 0)
        assert sum(statistics.failed.values()) == 1
    assert len(caplog.records) == 1


@counts_references
async def test_failed_connections_leave_no_cycles(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    streams: list[weakref.ref[Stream]] = []

    class Remembering(TLSListener[trio.SocketStream]):
        async def accept(self) -> Stream:
            stream = await super().accept()
            streams.append(weakref.ref(stream))
            return stream

    (tcp_listener,) = await trio.open_tcp_listeners(0, host=HOST)
    listener = Remembering(tcp_listener, server_context)
    monitor = ServerMonitor()
    gc.collect()
    gc.disable()
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(partial(serve_tls_listeners, echo, [listener], monitor=monitor))
            server = Server(client_context, monitor, listener, nursery.cancel_scope, trio.Event())
            for number in range(20):
                bad = await server.tcp()
                await bad.send_all(b"GET / HTTP/1.1\r\n\r\n" * (number % 2))
                await bad.aclose()
                good = await server.connect()
                await server.ask(good)
                await good.transport_stream.aclose()  # without a close_notify
                await server.until(lambda statistics: statistics.active == 0)
            await wait_all_tasks_blocked()
            alive = sum(stream() is not None for stream in streams)
            nursery.cancel_scope.cancel()
    finally:
        gc.enable()
    assert len(streams) == 40
    assert alive <= 2  # the last one may still be a variable somewhere


async def test_ipv6_peers_are_named_in_brackets(
    server_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    try:
        listeners = await open_tls_over_tcp_listeners(0, server_context, host="::1")
    except OSError:
        pytest.skip("this machine has no IPv6 loopback")
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_tls_listeners, echo, listeners)
        transport_listener = listeners[0].transport_listener
        assert isinstance(transport_listener, trio.SocketListener)
        port = transport_listener.socket.getsockname()[1]
        await (await trio.open_tcp_stream("::1", port)).aclose()
        with trio.fail_after(10):
            while not caplog.records:
                await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    assert caplog.records[0].getMessage().startswith("connection from [::1]:")


async def test_listeners_of_other_transports_are_served(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    client_end, server_end = memory_stream_pair()
    listener = TLSListener(OneStream(server_end), server_context)
    async with trio.open_nursery() as nursery:
        await nursery.start(serve_tls_listeners, echo, [listener])
        client = TLSStream(client_end, client_context, server_hostname=NAME)
        await client.send_all(b"x")
        assert await client.receive_some() == b"x"
        await client_end.aclose()
        with trio.fail_after(10):
            while not caplog.records:
                await trio.lowlevel.checkpoint()
        await listener.aclose()  # and serving returns
    assert caplog.records[0].getMessage().startswith("connection from a peer: ")


################################################################
# Draining
################################################################


async def test_closing_the_listeners_drains(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context) as server:
        stream = await server.connect()
        late = LateClient(client_context, await server.tcp())
        await late.begin()
        await server.until(lambda statistics: statistics.accepted == 2)
        await wait_all_tasks_blocked(0.01)
        port = server.port
        await server.listener.aclose()
        with pytest.raises(OSError, match="connect"):
            await trio.open_tcp_stream(HOST, port)
        await server.ask(stream)
        # A handshake that has begun is completed, and gets its answers.
        await late.ask()
        assert not server.ended.is_set()
        await stream.aclose()
        with trio.fail_after(10):
            await server.ended.wait()


@attrs.define(eq=False)
class LateClient:
    """A client that takes its time in the middle of its first message."""

    _context: ssl.SSLContext
    tcp: trio.SocketStream
    _rest: bytes = b""
    _connection: TLSConnection = attrs.field(init=False)

    @_connection.default
    def _default_connection(self) -> TLSConnection:
        return TLSConnection(self._context, server_hostname=HOST)

    async def begin(self) -> None:
        hello = self._connection.data_to_send()
        await self.tcp.send_all(hello[:1])
        self._rest = hello[1:]

    async def ask(self) -> None:
        """Go on, get an answer, and end."""
        connection = self._connection
        await self.tcp.send_all(self._rest)
        connection.send(b"anybody home?")
        with trio.fail_after(10):
            while (answer := connection.receive()) is None:
                await self.tcp.send_all(connection.data_to_send())
                connection.feed(await self.tcp.receive_some())
        assert answer == b"anybody home?"
        connection.send_close_notify()
        await self.tcp.send_all(connection.data_to_send())
        await self.tcp.aclose()


@pytest.mark.parametrize("where", ["its own nursery", "another nursery"])
async def test_silent_clients_do_not_hold_up_a_drain(
    where: str,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.DEBUG, LOGGER)
    async with (
        trio.open_nursery() as handlers,
        serving(
            echo,
            server_context,
            client_context,
            handler_nursery=handlers if where == "another nursery" else None,
            handshake_timeout=1000,
        ) as server,
    ):
        silent = [await server.tcp() for _ in range(3)]
        await server.until(lambda statistics: statistics.accepted == 3)
        await server.listener.aclose()
        with trio.fail_after(10):
            await server.ended.wait()
            for tcp in silent:
                assert await tcp.receive_some() == b""
                await tcp.aclose()
        statistics = server.statistics
        assert statistics.failed == {"truncated": 3}
        assert (statistics.active, statistics.handshaking, statistics.cancelled) == (0, 0, 0)
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}
    assert len(caplog.records) == 3
    for record in caplog.records:
        assert "the server drains" in record.getMessage()
        assert vars(record)["error_type"] == "truncated"


async def test_connections_that_wait_for_a_place_do_not_hold_up_a_drain(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(
        echo, server_context, client_context, max_connections=1, handshake_timeout=1000
    ) as server:
        stream = await server.connect()
        silent = await server.tcp()  # it is accepted, and waits for a place
        await wait_all_tasks_blocked(0.01)
        await server.listener.aclose()
        await server.ask(stream)
        assert server.statistics.accepted == 1
        await stream.aclose()
        with trio.fail_after(10):
            await server.ended.wait()
        assert server.statistics.failed == {"truncated": 1}
        await silent.aclose()


@pytest.mark.parametrize("what", ["all", "a byte"])
async def test_what_was_sent_while_waiting_for_a_place_is_answered(
    what: str, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The place is that of a silent client, which the drain ends though nothing is accepted."""
    async with serving(
        echo, server_context, client_context, max_connections=1, handshake_timeout=1000
    ) as server:
        silent = await server.tcp()
        await server.until(lambda statistics: statistics.handshaking == 1)
        late = LateClient(client_context, await server.tcp())
        await wait_all_tasks_blocked(0.01)
        if what == "a byte":
            await late.begin()
        async with trio.open_nursery() as nursery:
            if what == "all":
                nursery.start_soon(late.ask)
            await wait_all_tasks_blocked(0.01)
            assert server.statistics.accepted == 1
            await server.listener.aclose()
            await server.until(lambda statistics: statistics.accepted == 2)
            if what == "a byte":
                await wait_all_tasks_blocked(0.01)
                await late.ask()
        with trio.fail_after(10):
            await server.ended.wait()
        assert server.statistics.failed == {"truncated": 1}
        assert server.statistics.established == 1
        await silent.aclose()


async def test_a_server_drains_once_its_last_listener_is_closed(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    open_listener = partial(
        open_tls_over_tcp_listeners, 0, server_context, host=HOST, handshake_timeout=1000
    )
    listeners = [*await open_listener(), *await open_listener()]
    monitor = ServerMonitor()
    async with trio.open_nursery() as nursery:
        await nursery.start(partial(serve_tls_listeners, echo, listeners, monitor=monitor))
        server = Server(client_context, monitor, listeners[0], nursery.cancel_scope, trio.Event())
        silent = await server.tcp()
        await server.until(lambda statistics: statistics.handshaking == 1)
        await listeners[0].aclose()
        await wait_all_tasks_blocked(0.01)
        assert server.statistics.handshaking == 1
        await listeners[1].transport_listener.aclose()  # beneath, which is as good
        await server.until(lambda statistics: statistics.active == 0)
        await silent.aclose()


async def test_silent_clients_do_not_outlive_a_server_that_is_cancelled(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """Its connections, in another nursery, would hold that up."""
    with trio.fail_after(20):
        async with trio.open_nursery() as handlers:
            async with serving(
                echo,
                server_context,
                client_context,
                handler_nursery=handlers,
                handshake_timeout=1000,
            ) as server:
                silent, late = await server.tcp(), LateClient(client_context, await server.tcp())
                await late.begin()
                await server.until(lambda statistics: statistics.accepted == 2)
                await wait_all_tasks_blocked(0.01)
            assert await silent.receive_some() == b""
            await late.ask()
    await silent.aclose()


async def test_drain_is_bounded_by_a_scope_and_ends_with_close_notify(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with serving(echo, server_context, client_context) as server:
        streams = [await server.connect() for _ in range(3)]
        for stream in streams:
            await server.ask(stream)
        await server.listener.aclose()
        await wait_all_tasks_blocked(0.01)
        assert not server.ended.is_set()
        server.scope.cancel()
        with trio.fail_after(10):
            await server.ended.wait()
            for stream in streams:
                assert await stream.receive_some() == b""  # a truncation would raise
                await stream.aclose()


async def test_drain_waits_for_handlers_in_another_nursery(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with (
        trio.open_nursery() as handlers,
        serving(echo, server_context, client_context, handler_nursery=handlers) as server,
    ):
        stream = await server.connect()
        await server.listener.aclose()
        await wait_all_tasks_blocked(0.01)
        assert not server.ended.is_set()
        await server.ask(stream)
        await stream.aclose()
        with trio.fail_after(10):
            await server.ended.wait()


async def test_every_request_that_was_accepted_is_answered(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL)
    answered = refused = 0

    async def handler(stream: Stream) -> None:
        request = await stream.receive_some()
        await trio.lowlevel.checkpoint()
        await stream.send_all(request * 1000)

    async with serving(handler, server_context, client_context) as server:

        async def client(number: int) -> None:
            nonlocal answered, refused
            request = b"%08d" % number
            while True:
                try:
                    stream = await server.connect()
                except (OSError, TLSError):
                    refused += 1  # the kernel had it, and nobody has accepted it
                    return
                async with stream:
                    try:
                        await stream.send_all(request)
                        answer = b"".join([part async for part in stream])
                    except TLSError:
                        answer = b""
                    # In TLS 1.3 a client is through before the server is.
                    if answer:
                        assert answer == request * 1000
                        answered += 1

        with trio.fail_after(60):
            async with trio.open_nursery() as clients:
                for number in range(50):
                    clients.start_soon(client, number)
                await server.until(lambda statistics: statistics.established >= 200)
                await server.listener.aclose()
            await server.ended.wait()
        statistics = server.statistics
        assert answered == statistics.established > 200
        assert refused == 50
        assert statistics.broken == {}
        # Some may not have said a word yet.
        failed = dict(statistics.failed)
        assert statistics.accepted == answered + failed.pop("truncated", 0)
        assert failed == {}


################################################################
# No descriptors left
################################################################


@contextmanager
def few_descriptors(count: int) -> Any:
    """Leave only so many descriptors to this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))  # noqa: PTH208
    fill = []
    while (number := os.open(os.devnull, os.O_RDONLY)) < highest:
        fill.append(number)
    fill.append(number)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(highest, number) + 1 + count, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for number in fill:
            os.close(number)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="/proc/self/fd is not there")
async def test_exhausted_descriptors_are_waited_out(
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    mock_clock: MockClock,
    caplog: pytest.LogCaptureFixture,
) -> None:
    mock_clock.rate = 1
    events: list[ServerEvent] = []
    async with serving(echo, server_context, client_context, on_event=events.append) as server:
        address = (HOST, server.port)
        sockets = [trio.socket.socket() for _ in range(20)]
        with few_descriptors(8), trio.fail_after(30):
            for sock in sockets:
                await sock.connect(address)
            streams = [
                TLSStream(trio.SocketStream(sock), client_context, server_hostname=HOST)
                for sock in sockets
            ]
            await server.until(lambda statistics: statistics.accept_errors > 0)
            for _ in range(5):  # it tries again and again, and says so once
                mock_clock.jump(0.2)
                await wait_all_tasks_blocked(0.001)
            assert server.statistics.accept_errors == 1
            served = streams[:8]
            for stream in served:
                await server.ask(stream)
            assert server.statistics.accepted == 8
            # Each one that goes makes room for another one.
            for gone, coming in zip(streams, streams[8:], strict=False):
                await gone.aclose()
                await server.ask(coming)
        for stream in streams[12:]:
            await server.ask(stream)
            await stream.aclose()
        async with await server.connect() as stream:
            await server.ask(stream)
        assert server.statistics.failed == server.statistics.broken == {}
    errors = [event.error for event in events if isinstance(event, AcceptFailed)]
    assert {error.errno for error in errors} == {errno.EMFILE}
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == len(errors), "a line for each time, not for each try"
    assert all("Too many open files" in line for line in lines)


async def test_other_errors_of_accepting_propagate(server_context: ssl.SSLContext) -> None:
    class Broken(trio.abc.Listener[Any]):
        async def accept(self) -> NoReturn:
            await trio.lowlevel.checkpoint()
            raise OSError(errno.EINVAL, "no listener at all")

        async def aclose(self) -> None:
            await trio.lowlevel.checkpoint()

    with pytest.raises(ExceptionGroup) as raised:
        await serve_tls_listeners(echo, [TLSListener(Broken(), server_context)])
    assert raised.group_contains(OSError, match="no listener")


################################################################
# New certificates under load
################################################################


async def test_two_hundred_new_certificates_under_load(ca: trustme.CA, tmp_path: Path) -> None:
    pem = tmp_path / "server.pem"

    def renew(number: int) -> None:
        certificate = ca.issue_cert(HOST, f"number{number}.example")
        new = pem.with_suffix(".new")
        certificate.private_key_and_cert_chain_pem.write_to_path(str(new))
        new.rename(pem)

    def make_context() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
        return context

    renew(0)
    outcomes: list[Exception | None] = []
    current = ReloadingContext(make_context, files=[pem], on_reload=outcomes.append)
    connector = TLSConnector(ssl_context=client_context_for(ca))
    done = False
    answered = 0
    async with serving(echo, current, connector.ssl_context) as server:
        lasting = await server.connect()

        async def client() -> None:
            nonlocal answered
            while not done:
                async with await connector.connect(HOST, server.port) as stream:
                    for _ in range(3):
                        await server.ask(stream)
                        answered += 1

        async with trio.open_nursery() as clients:
            for _ in range(10):
                clients.start_soon(client)
            for number in range(1, 201):
                if number % 10 == 0:
                    pem.write_bytes(b"not a certificate")
                    async with await server.connect() as stream:
                        await server.ask(stream)
                renew(number)
                if number % 2:
                    assert current.reload()
                async with await server.connect() as stream:
                    assert stream.handshake is not None
                    certificate = stream.handshake.peer_certificate
                    assert certificate is not None
                    assert ("DNS", f"number{number}.example") in certificate["subjectAltName"]
                await server.ask(lasting)
            done = True
        await lasting.aclose()
        assert server.statistics.failed == server.statistics.broken == {}
        assert server.statistics.resumed > 0
    assert outcomes.count(None) == 200
    assert len([error for error in outcomes if error is not None]) == 20
    assert answered > 200


async def test_alpn_reaches_the_handler(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async def tell(stream: Stream) -> None:
        assert stream.handshake is not None
        await stream.send_all(str(stream.handshake.alpn_protocol).encode())

    server_context.set_alpn_protocols(["h2", "http/1.1"])
    connector = TLSConnector(ssl_context=client_context, alpn_protocols=["http/1.1"])
    async with (
        serving(tell, server_context, client_context) as server,
        await connector.connect(HOST, server.port) as stream,
    ):
        assert await stream.receive_some() == b"http/1.1"


async def test_alert_arrives_although_the_client_talks_on(
    ca: trustme.CA, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """A TLS 1.3 client sends data before it can know that its certificate was refused."""
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    async with serving(echo, server_context, client_context) as server:
        for _ in range(20):
            stream = await server.connect()
            with suppress(TLSError):
                await stream.send_all(bytes(500_000))
            with pytest.raises(PeerAlertError) as caught:
                await stream.receive_some()
            assert caught.value.alert == "certificate_required"
            await stream.aclose()


################################################################
# Whose failure it is, and what the client sees of it
################################################################


@attrs.define(eq=False)
class Wrapper(trio.abc.Stream):
    """A stream of other code, which does not show what carries it."""

    _stream: trio.abc.Stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._stream.send_all(data)

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._stream.receive_some(max_bytes)

    async def wait_send_all_might_not_block(self) -> None:
        await self._stream.wait_send_all_might_not_block()

    async def aclose(self) -> None:
        await self._stream.aclose()


@pytest.mark.parametrize("how", ["FIN", "RST"])
@pytest.mark.parametrize("wrap", [lambda stream: stream, Wrapper], ids=["", "wrapped"])
async def test_failure_of_tls_in_the_clients_tls_is_the_clients(
    wrap: Callable[[trio.abc.Stream], trio.abc.Stream],
    how: str,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
) -> None:
    async def handler(stream: Stream) -> None:
        inner = TLSStream(wrap(stream), server_context, server_side=True)
        async for data in inner:
            await inner.send_all(data)

    async with serving(handler, server_context, client_context) as server:
        for _ in range(2):  # the server has gone on
            outer = await server.connect()
            inner = TLSStream(outer, client_context, server_hostname=HOST)
            await server.ask(inner)  # type: ignore[arg-type]
            if how == "RST":
                reset_when_closed(outer.transport_stream)
            outer.transport_stream.socket.close()
            await server.until(lambda statistics: statistics.active == 0)
        assert sum(server.statistics.broken.values()) == 2


@pytest.mark.parametrize(
    ("ends", "seen"),
    [
        ("returns", "clean"),
        ("raises", "truncated"),
        ("another stream fails", "truncated"),
        ("is cancelled", "clean"),
    ],
)
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_only_a_handler_that_raises_ends_without_a_close_notify(
    version: ssl.TLSVersion,
    ends: str,
    seen: str,
    ca: trustme.CA,
    server_context: ssl.SSLContext,
) -> None:
    client_context = client_context_for(ca, version)
    server_context.minimum_version = version
    errors: list[Exception] = []
    scope = trio.CancelScope()

    async def handler(stream: Stream) -> None:
        await stream.send_all(b"half of it")
        if ends == "raises":
            raise KeyError
        if ends == "another stream fails":
            left, right = memory_stream_pair()
            await left.aclose()
            await TLSStream(right, client_context, server_hostname=NAME).do_handshake()
        if ends == "is cancelled":
            with scope:
                scope.cancel()
                await trio.sleep_forever()

    async with serving(
        handler, server_context, client_context, on_error=lambda _, exc: errors.append(exc)
    ) as server:
        stream = await server.connect()
        assert await stream.receive_some() == b"half of it"
        if seen == "clean":
            assert await stream.receive_some() == b""
        else:
            with pytest.raises(TruncationError):
                await stream.receive_some()
        await stream.aclose()
        await server.until(lambda statistics: statistics.active == 0)
        assert len(errors) == (seen == "truncated")


@pytest.mark.parametrize("answer", [b"", bytes(8_000_000)], ids=["idle", "a large answer"])
async def test_a_drain_waits_for_answers_and_not_for_idle_clients(
    answer: bytes, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    drain = Drain()
    has_answered = trio.Event()

    async def handler(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"first")
        with suppress(trio.BrokenResourceError):
            await stream.send_all(answer)
            has_answered.set()
        assert await drain.receive_some(stream) == b""

    async with serving(handler, server_context, client_context) as server:
        stream = await server.connect()
        await stream.send_all(b"question")
        assert await stream.receive_some(5) == b"first"
        await wait_all_tasks_blocked()
        assert has_answered.is_set() == (not answer)  # the client's system can't take all of it
        await server.listener.aclose()
        drain.begin()
        with trio.fail_after(3):  # a client that is waited for costs 5
            received = b""
            while part := await stream.receive_some():
                received += part
            await server.ended.wait()
        assert received == answer
        await trio.aclose_forcefully(stream)
