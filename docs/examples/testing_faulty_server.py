"""A test of a server with faults on its own end of a connection."""

from typing import Any

import pytest
import trio

from trio_tlsbio import (
    TLSConnector,
    TLSListener,
    TLSStream,
    TruncationError,
    serve_tls_listeners,
)
from trio_tlsbio.testing import (
    CertificateAuthority,
    FaultyStream,
    MemoryListener,
    Reset,
)


class FaultyListener(trio.abc.Listener[FaultyStream[Any]]):
    """A listener whose connections can have faults."""

    def __init__(self, listener: trio.abc.Listener[Any]) -> None:
        self._listener = listener
        self.accepted: list[FaultyStream[Any]] = []

    async def accept(self) -> FaultyStream[Any]:
        stream = FaultyStream(await self._listener.accept())
        self.accepted.append(stream)
        return stream

    async def aclose(self) -> None:
        await self._listener.aclose()


# What is tested.


async def shout(stream: TLSStream[Any]) -> None:
    async for question in stream:
        await stream.send_all(question.upper())


# The test.


async def test_a_reset_ends_only_its_own_connection(
    caplog: pytest.LogCaptureFixture,
) -> None:
    authority = CertificateAuthority()
    listener = MemoryListener()
    faulty = FaultyListener(listener)
    connector = TLSConnector(ssl_context=authority.client_context())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            serve_tls_listeners,
            shout,
            [TLSListener(faulty, authority.server_context())],
        )
        client = await connector.wrap(await listener.connect(), "localhost")
        faulty.accepted[0].sending.add(Reset(10))
        await client.send_all(b"hello")
        with pytest.raises(TruncationError):
            await client.receive_some()

        other = await connector.wrap(await listener.connect(), "localhost")
        await other.send_all(b"hello")
        assert await other.receive_some() == b"HELLO"
        nursery.cancel_scope.cancel()
    assert "connection reset after" in caplog.text
