"""Draining: what is waited for once the listeners are closed, and what isn't."""

from __future__ import annotations

import logging
import os
import ssl
from contextlib import suppress
from functools import partial

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.helpers import HOST, LIMIT, echo
from tests.stream.serving.servers import LOGGER, LateClient, Server, Stream, serving
from trio_tlsbio import Drain, TLSError, open_tls_over_tcp_listeners, serve_tls_listeners
from trio_tlsbio.monitoring import ServerMonitor


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
        assert "the server is draining" in record.getMessage()
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

    async with serving(handler, server_context, client_context, close_timeout=2 * LIMIT) as server:
        stream = await server.connect()
        await stream.send_all(b"question")
        assert await stream.receive_some(5) == b"first"
        await wait_all_tasks_blocked()
        assert has_answered.is_set() == (not answer)  # the client's system can't take all of it
        await server.listener.aclose()
        drain.begin()
        with trio.fail_after(LIMIT):  # a client that is waited for costs more
            received = bytearray()
            while part := await stream.receive_some():
                received += part
            await server.ended.wait()
        assert received == answer
        await trio.aclose_forcefully(stream)


async def test_a_drain_does_not_wait_for_a_client_that_has_gone(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    """The answer to its close_notify comes to a closed socket, which resets the connection."""
    async with serving(echo, server_context, client_context) as server:
        stream = await server.connect()
        await server.ask(stream)
        await server.listener.aclose()
        stream.connection.send_close_notify()
        transport = stream.transport_stream.socket
        os.write(transport.fileno(), stream.connection.data_to_send())
        transport.close()  # at once: the server has not run meanwhile
        with trio.fail_after(3):  # what is waited for costs 5
            await server.ended.wait()
