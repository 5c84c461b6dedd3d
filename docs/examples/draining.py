"""On SIGTERM, answer what was asked, and then leave."""

import signal
import ssl
from functools import partial

import trio

import trio_tlsbio


async def answer(
    drain: trio_tlsbio.Drain, stream: trio_tlsbio.TLSStream[trio.SocketStream]
) -> None:
    """Send back each line in capitals."""
    rest = b""
    while True:
        # Between two lines the client is idle. Once a line has begun, its rest
        # is awaited.
        receive = (
            stream.receive_some if rest else partial(drain.receive_some, stream)
        )
        chunk = await receive()
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            await stream.send_all(line.upper() + b"\n")


async def serve(
    listeners: list[trio_tlsbio.TLSListener[trio.SocketStream]],
    seconds: float = 30,
) -> None:
    """Serve until SIGTERM. Then give the handlers some seconds to finish."""
    drain = trio_tlsbio.Drain()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(
                trio_tlsbio.serve_tls_listeners,
                partial(answer, drain),
                listeners,
                drain=drain,
            )
        )
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            await anext(signals)
        # From here on, another SIGTERM ends the program at once.
        await drain.end(seconds)


async def main() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    await serve(await trio_tlsbio.open_tls_over_tcp_listeners(4433, context))


if __name__ == "__main__":
    trio.run(main)
