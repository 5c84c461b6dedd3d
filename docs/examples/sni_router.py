"""Pass TLS on by the name that the client asks for, without ending it.

The router has no keys, and sees no plaintext: TLS is between the client and the
backend.
"""

import logging
from collections.abc import Mapping
from functools import partial

import trio

import trio_tlsbio

log = logging.getLogger("sni_router")
Backends = Mapping[str, tuple[str, int]]


async def route(
    backends: Backends, client: trio.SocketStream, timeout: float = 10
) -> None:
    """Connect a client to the backend for its name, until both are done."""
    async with client:
        try:
            with trio.fail_after(timeout):
                hello, received = await trio_tlsbio.read_client_hello(client)
                address = backends.get(hello.server_name or "no name")
                if address is None:
                    log.warning("no backend for %r", hello.requested_name)
                    return
                backend = await trio.open_tcp_stream(*address)
        except (OSError, trio.TooSlowError, trio_tlsbio.TLSError) as exc:
            log.warning(
                "a client was not routed: %s", str(exc) or "it took too long"
            )
            return
        async with backend:
            await copy_both_ways(client, backend, received)


async def copy_both_ways(
    client: trio.SocketStream, backend: trio.SocketStream, received: bytes
) -> None:
    async with trio.open_nursery() as nursery:

        async def copy(
            source: trio.SocketStream, target: trio.SocketStream, data: bytes
        ) -> None:
            try:
                await target.send_all(data)
                async for chunk in source:
                    await target.send_all(chunk)
                await target.send_eof()  # the other direction goes on
            except trio.BrokenResourceError:
                nursery.cancel_scope.cancel()

        nursery.start_soon(copy, client, backend, received)
        nursery.start_soon(copy, backend, client, b"")


async def main() -> None:
    backends = {"a.example": ("10.0.0.1", 443), "b.example": ("10.0.0.2", 443)}
    await trio.serve_tcp(partial(route, backends), 443)


if __name__ == "__main__":
    trio.run(main)
