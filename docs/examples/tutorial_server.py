"""Send back what clients say, in capitals."""

import ssl
from functools import partial

import trio

from trio_tlsbio import TLSStream, serve_tls_over_tcp


async def shout(stream: TLSStream[trio.SocketStream]) -> None:
    async for chunk in stream:
        await stream.send_all(chunk.upper())


async def main() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    async with trio.open_nursery() as nursery:
        await nursery.start(
            partial(serve_tls_over_tcp, shout, 4433, context, host="localhost")
        )
        print("listening")


if __name__ == "__main__":
    trio.run(main)
