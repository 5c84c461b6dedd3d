"""A way to a server, with faults on it: between two programs that know nothing
of it.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from trio_tlsbio.testing import Fault, FaultyStream


async def carry(
    source: trio.abc.ReceiveStream, sink: trio.abc.HalfCloseableStream
) -> None:
    with suppress(trio.BrokenResourceError):  # the other one has gone
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()


@asynccontextmanager
async def faulty_way(port: int, *faults: Fault) -> AsyncIterator[int]:
    """Yield a port that leads to another one; the faults are in what comes back
    from there.
    """

    async def handle(client: trio.SocketStream) -> None:
        server = FaultyStream(
            await trio.open_tcp_stream("127.0.0.1", port), receiving=faults
        )
        async with server, trio.open_nursery() as nursery:
            nursery.start_soon(carry, client, server)
            nursery.start_soon(carry, server, client)

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            partial(trio.serve_tcp, handle, 0, host="127.0.0.1")
        )
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()
