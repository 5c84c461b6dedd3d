"""A renewed certificate without a restart: SIGHUP reads it, and no connection
is dropped.
"""

import signal
import ssl

import trio

import trio_tlsbio


def make_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    return context


async def echo(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def serve(
    listeners: list[trio_tlsbio.TLSListener[trio.SocketStream]],
    context: trio_tlsbio.ReloadingContext,
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_tlsbio.serve_tls_listeners, echo, listeners)
        with trio.open_signal_receiver(signal.SIGHUP) as signals:
            async for _ in signals:
                # If that fails, the old one stays, and the log says why.
                context.reload()


async def main() -> None:
    context = trio_tlsbio.ReloadingContext(make_context)
    await serve(
        await trio_tlsbio.open_tls_over_tcp_listeners(4433, context), context
    )


if __name__ == "__main__":
    trio.run(main)
