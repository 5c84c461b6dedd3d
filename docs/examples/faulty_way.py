"""A proxy that adds faults to a connection. Neither of the two programs has to
be changed.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial

import trio

from trio_tlsbio.testing import Fault, FaultyStream


async def carry(
    source: trio.abc.ReceiveStream, sink: trio.abc.HalfCloseableStream
) -> None:
    with suppress(trio.BrokenResourceError):  # the other side is gone
        async for data in source:
            await sink.send_all(data)
        await sink.send_eof()


@asynccontextmanager
async def faulty_way(port: int, *faults: Fault) -> AsyncIterator[int]:
    """Yield a new port that forwards to the given one. The faults are in the
    data that comes back.
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
