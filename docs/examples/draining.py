"""On SIGTERM, answer what was asked, and then leave."""

import signal
import ssl

import trio

import trio_tlsbio


class LineServer:
    """Sends back each line in capitals, until it is told to stop."""

    def __init__(self) -> None:
        self.is_stopping = False
        self.idle_scopes: set[trio.CancelScope] = set()

    async def answer(self, stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
        rest = b""
        while chunk := await self.receive(stream, is_idle=not rest):
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                await stream.send_all(line.upper() + b"\n")

    async def receive(
        self, stream: trio_tlsbio.TLSStream[trio.SocketStream], *, is_idle: bool
    ) -> bytes:
        """Wait for data; b"" if the client has ended, or is idle when the server stops."""
        if not is_idle:  # the rest of a line is still to come
            return await stream.receive_some()
        if self.is_stopping:
            return b""
        with trio.CancelScope() as scope:  # cancelled, nothing is lost
            self.idle_scopes.add(scope)
            try:
                return await stream.receive_some()
            finally:
                self.idle_scopes.remove(scope)
        return b""

    def stop(self) -> None:
        self.is_stopping = True
        for scope in self.idle_scopes:
            scope.cancel()


async def serve(
    listeners: list[trio_tlsbio.TLSListener[trio.SocketStream]], seconds: float = 30
) -> None:
    """Serve until SIGTERM comes. Clients that are not idle then have some seconds left."""
    server = LineServer()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio_tlsbio.serve_tls_listeners, server.answer, listeners)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            await anext(signals)
        # From here on, another SIGTERM ends the program at once.
        for listener in listeners:
            await listener.aclose()
        server.stop()
        nursery.cancel_scope.deadline = trio.current_time() + seconds


async def main() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    await serve(await trio_tlsbio.open_tls_over_tcp_listeners(4433, context))


if __name__ == "__main__":
    trio.run(main)
