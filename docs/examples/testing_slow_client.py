"""A test of a server, with one client that does not read and one that does."""

from functools import partial
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from trio_tlsbio import (
    TLSConnector,
    TLSListener,
    TLSStream,
    TruncationError,
    serve_tls_listeners,
)
from trio_tlsbio.testing import CertificateAuthority, MemoryListener

# What is tested.


async def send_news(stream: TLSStream[Any]) -> None:
    for number in range(100):
        with trio.move_on_after(30) as scope:
            await stream.send_all(b"news %d\n" % number)
        if scope.cancelled_caught:
            stream.abort()  # this client is too slow
            return


# The tests.


async def test_a_client_that_does_not_read_is_cut_off(
    autojump_clock: MockClock,
) -> None:
    authority = CertificateAuthority()
    listener = MemoryListener(lockstep=True)
    connector = TLSConnector(ssl_context=authority.client_context())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(
                serve_tls_listeners,
                send_news,
                [TLSListener(listener, authority.server_context())],
            )
        )
        slow = await connector.wrap(await listener.connect(), "localhost")
        fast = await connector.wrap(await listener.connect(), "localhost")
        news = b"".join([part async for part in fast])
        assert news.endswith(b"news 99\n")
        assert autojump_clock.current_time() < 30, "it is not held up"

        await trio.sleep(31)
        with pytest.raises(TruncationError):
            _ = [part async for part in slow]
        nursery.cancel_scope.cancel()
