"""What becomes of the stream of anyio beneath one that speaks TLS, when something goes wrong."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from importlib import metadata
from typing import Any

import anyio
import anyio.abc
import pytest
import trio
import trio.testing
from anyio.abc import SocketAttribute
from anyio.streams.stapled import StapledByteStream

from tests.helpers import HOST, LIMIT
from trio_tlsbio.anyio import (
    TLSConnectable,
    TLSError,
    TLSListener,
    TLSStream,
    as_connectable,
    connect_tcp,
)
from trio_tlsbio.anyio._stream import trio_stream_for

# anyio 4.10 takes a socket that it has not closed itself for a broken one.
IS_OLD = tuple(map(int, metadata.version("anyio").split(".")[:2])) < (4, 16)
CLOSED = anyio.BrokenResourceError if IS_OLD else anyio.ClosedResourceError


@asynccontextmanager
async def listening() -> AsyncIterator[tuple[anyio.abc.Listener[anyio.abc.SocketStream], int]]:
    """A listener on loopback, for ``LIMIT`` seconds at most, and its port."""
    with trio.fail_after(LIMIT):
        async with await anyio.create_tcp_listener(local_host=HOST) as listener:
            yield listener, listener.extra(SocketAttribute.local_port)


@asynccontextmanager
async def serving(handler: Any, listener: TLSListener) -> AsyncIterator[None]:
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, handler)
        yield
        tasks.cancel_scope.cancel()


async def echo(stream: Any) -> None:
    async with stream:
        async for data in stream:
            await stream.send(data)


@contextmanager
def raises_group_of(error: type[Exception]) -> Iterator[None]:
    """Expect an exception in groups. It is kept, with all that its frames refer to."""
    with pytest.raises(ExceptionGroup) as raised:
        yield
    assert raised.group_contains(error)


async def test_a_socket_of_anyio_knows_that_it_is_closed(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with (
        listening() as (listener, port),
        serving(echo, TLSListener(listener, server_context)),
    ):
        stream = await connect_tcp(HOST, port, ssl_context=client_context)
        await stream.aclose()
        assert isinstance(stream, TLSStream)
        with pytest.raises(CLOSED):
            await stream.transport_stream.receive()


async def test_a_transport_that_is_in_use_is_not_broken(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with (
        listening() as (listener, port),
        serving(echo, TLSListener(listener, server_context)),
    ):
        tcp = await anyio.connect_tcp(HOST, port)
        transport = StapledByteStream(tcp, tcp)  # a socket itself would be used without anyio
        stream = await TLSStream.wrap(transport, hostname=HOST, ssl_context=client_context)
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(tcp.receive)
            await anyio.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await stream.receive()
            tasks.cancel_scope.cancel()
        await stream.send(b"hello")
        assert await stream.receive() == b"hello"
        await stream.aclose()


async def test_a_transport_that_was_closed_is_not_broken(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async with (
        listening() as (listener, port),
        serving(echo, TLSListener(listener, server_context)),
    ):
        tcp = await anyio.connect_tcp(HOST, port)
        transport = StapledByteStream(tcp, tcp)
        stream = await TLSStream.wrap(transport, hostname=HOST, ssl_context=client_context)
        await transport.aclose()
        for _ in range(2):
            with pytest.raises(anyio.ClosedResourceError):
                await stream.receive()
        await stream.aclose()


async def test_what_is_left_of_an_item_is_received_with_a_checkpoint() -> None:
    async with listening() as (listener, port):
        tcp = await anyio.connect_tcp(HOST, port)

        async def greet(stream: anyio.abc.SocketStream) -> None:
            async with stream:
                await stream.send(b"hello")

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listener.serve, greet)
            transport = StapledByteStream(tcp, tcp)
            stream = trio_stream_for(transport)
            assert await stream.receive_some(4) == b"hell"
            with trio.testing.assert_checkpoints():
                assert await stream.receive_some(4) == b"o"
            await transport.aclose()
            tasks.cancel_scope.cancel()


async def test_the_alert_of_a_refused_client_is_followed_by_an_end(
    server_context: ssl.SSLContext,
) -> None:
    """A socket that is closed while something is unread sends a reset."""
    async with listening() as (listener, port):

        async def refuse(tcp: anyio.abc.SocketStream) -> None:
            with pytest.raises(TLSError):
                await TLSStream.wrap(tcp, server_side=True, ssl_context=server_context)

        async with anyio.create_task_group() as tasks:
            tcp = await anyio.connect_tcp(HOST, port)
            much = b"\x16\x03\x01\x00\x04\x02\x00\x00\x00" + bytes(800_000)
            tasks.start_soon(tcp.send, much)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(listener.serve, refuse)
            alert = await tcp.receive()
            assert alert[0] == 21
            with pytest.raises(anyio.EndOfStream):
                await tcp.receive()
            await tcp.aclose()
            tasks.cancel_scope.cancel()


async def test_a_context_that_can_not_be_made_leaves_no_connection_open(
    server_context: ssl.SSLContext,
) -> None:
    contexts = iter([server_context])

    def provider() -> ssl.SSLContext:
        try:
            return next(contexts)
        except StopIteration:
            raise KeyError("no such context") from None

    async with listening() as (listener, port):
        tcp = await anyio.connect_tcp(HOST, port)
        with raises_group_of(KeyError):
            async with serving(echo, TLSListener(listener, provider)):
                await trio.sleep_forever()
        with pytest.raises(anyio.EndOfStream):
            await tcp.receive()
        await tcp.aclose()


async def test_a_handler_of_handshake_errors_that_fails_leaves_no_connection_open(
    server_context: ssl.SSLContext,
) -> None:
    class Fails(TLSListener):
        @staticmethod
        async def handle_handshake_error(exc: BaseException, stream: Any) -> None:
            raise KeyError("no such handler")

    async with listening() as (listener, port):
        tcp = await anyio.connect_tcp(HOST, port)
        await tcp.send(b"GET / HTTP/1.1\r\n\r\n")
        await tcp.send_eof()
        with raises_group_of(KeyError):
            async with serving(echo, Fails(listener, server_context)):
                await trio.sleep_forever()
        while True:
            try:
                await tcp.receive()  # the alert
            except anyio.EndOfStream:
                break
        await tcp.aclose()


async def test_a_connectable_hands_on_what_is_compatible(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def answer_and_vanish(stream: TLSStream) -> None:
        await stream.send(b"answer")
        await stream.transport_stream.aclose()

    async with (
        listening() as (listener, port),
        serving(answer_and_vanish, TLSListener(listener, server_context)),
    ):
        connectable = TLSConnectable(
            anyio.TCPConnectable(HOST, port),
            hostname=HOST,
            ssl_context=client_context,
            standard_compatible=False,
        )
        async with await connectable.connect() as stream:
            assert await stream.receive() == b"answer"
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()


def test_the_host_stands_for_a_name_that_is_empty(client_context: ssl.SSLContext) -> None:
    for name in ("", None):
        connectable = as_connectable(
            (HOST, 1), tls=True, ssl_context=client_context, tls_hostname=name
        )
        assert isinstance(connectable, TLSConnectable)
        assert connectable.hostname == HOST
