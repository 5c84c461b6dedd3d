"""A test of a server over pairs of sockets, because it depends on how a real
connection ends.
"""

import math
from contextlib import suppress
from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock, wait_all_tasks_blocked

from trio_tlsbio import (
    Drain,
    TLSConnector,
    TLSListener,
    TLSStream,
    serve_tls_listeners,
)
from trio_tlsbio.testing import CertificateAuthority


class SocketPairListener(trio.abc.Listener[trio.SocketStream]):
    """Like a MemoryListener, but each connection is a pair of sockets."""

    def __init__(self) -> None:
        self._connected, self._accepted = trio.open_memory_channel[
            trio.SocketStream
        ](math.inf)

    async def connect(self) -> trio.SocketStream:
        await trio.lowlevel.checkpoint()
        client, server = map(trio.SocketStream, trio.socket.socketpair())
        try:
            self._connected.send_nowait(server)
        except trio.BrokenResourceError:
            client.socket.close()
            server.socket.close()
            raise ConnectionRefusedError("the listener is closed") from None
        return client

    async def accept(self) -> trio.SocketStream:
        return await self._accepted.receive()

    async def aclose(self) -> None:
        with suppress(trio.WouldBlock, trio.ClosedResourceError):
            while True:
                self._accepted.receive_nowait().socket.close()
        self._accepted.close()
        await trio.lowlevel.checkpoint()


# What is tested.


async def work(stream: TLSStream[Any], drain: Drain) -> None:
    await drain.receive_some(stream)
    await trio.sleep(3600)


# The test.


async def test_a_client_that_is_cut_off_gets_a_clean_end(
    autojump_clock: MockClock,
) -> None:
    authority = CertificateAuthority()
    listener, drain = SocketPairListener(), Drain()
    connector = TLSConnector(ssl_context=authority.client_context())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(
                serve_tls_listeners,
                partial(work, drain=drain),
                [TLSListener(listener, authority.server_context())],
                drain=drain,
            )
        )
        stream = await connector.wrap(await listener.connect(), "localhost")
        async with stream:
            await stream.send_all(b"hello")
            await wait_all_tasks_blocked()
            assert await drain.end(timeout=10) == 1
            assert autojump_clock.current_time() >= 10
            # Over a MemoryListener, this raises TruncationError.
            assert await stream.receive_some() == b""
        with pytest.raises(ConnectionRefusedError):
            await listener.connect()
