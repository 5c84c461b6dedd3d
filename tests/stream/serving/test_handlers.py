"""Errors of handlers: whose failure it is, and what the client sees of it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any, NoReturn

import attrs
import pytest
import trio
import trustme
from trio.testing import memory_stream_pair

from tests.helpers import HOST, NAME, client_context_for, echo, reset_when_closed
from tests.stream.serving.servers import Stream, serving
from trio_tlsbio import (
    HandshakeTimeoutError,
    TLSStream,
    TruncationError,
    serve_tls_listeners,
    serve_tls_over_tcp,
)

################################################################
# Who hears of an error
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


async def test_a_cancellation_does_not_replace_the_error_of_a_handler(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """A test that fails because the client saw a truncation cancels its server at that moment."""
    scope = trio.CancelScope()

    async def handler(stream: Stream) -> NoReturn:
        scope.cancel()
        raise KeyError("from the handler")

    async def run() -> None:
        with scope:
            async with (
                serving(handler, server_context, client_context) as server,
                await server.connect(),
            ):
                await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(KeyError, match="from the handler")


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


################################################################
# What is no handler
################################################################


async def generator_handler(stream: Stream) -> AsyncGenerator[bytes]:
    yield b""


@pytest.mark.parametrize("give", [serve_tls_over_tcp, serve_tls_listeners])
@pytest.mark.parametrize(
    ("make_handler", "words"),
    [
        (
            lambda: echo(None),  # type: ignore[arg-type]
            r"a coroutine object: give it echo itself, and not echo\(\.\.\.\)",
        ),
        (lambda: None, "instead it got None"),
        (lambda: generator_handler, "async generator: generator_handler must not yield"),
    ],
)
async def test_what_can_be_no_handler_is_refused_at_once(
    server_context: ssl.SSLContext,
    give: Any,
    make_handler: Callable[[], object],
    words: str,
) -> None:
    arguments: tuple[Any, ...] = (0, server_context) if give is serve_tls_over_tcp else ([],)
    with trio.fail_after(5), pytest.raises(TypeError, match=words):
        await give(make_handler(), *arguments)


async def test_a_handler_that_is_not_async_is_explained(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def blocking_handler(stream: Stream) -> None:
        pass

    errors: list[Exception] = []
    async with serving(
        blocking_handler,  # type: ignore[arg-type]
        server_context,
        client_context,
        on_error=lambda _, exc: errors.append(exc),
    ) as server:
        async with await server.connect() as stream:
            with pytest.raises(TruncationError):
                await stream.receive_some()
        await server.until(lambda statistics: statistics.active == 0)
    (error,) = errors
    assert isinstance(error, TypeError)
    assert "blocking_handler appears to be synchronous: define it with async def" in str(error)


async def test_a_function_that_returns_an_awaitable_is_a_handler(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    def handler(stream: Stream) -> Awaitable[None]:
        return echo(stream)

    async with (
        serving(handler, server_context, client_context) as server,
        await server.connect() as stream,
    ):
        await server.ask(stream)
