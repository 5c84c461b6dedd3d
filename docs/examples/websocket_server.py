"""A WebSocket server by trio-websocket, on listeners of trio_tlsbio."""

import ssl
from typing import Any

import trio
from trio_websocket import (
    ConnectionClosed,
    WebSocketConnection,
    WebSocketRequest,
    wrap_server_stream,
)

import trio_tlsbio


async def echo(connection: WebSocketConnection) -> None:
    """Send back each message."""
    try:
        while True:
            await connection.send_message(await connection.get_message())
    except ConnectionClosed:
        pass


async def handle(stream: Any) -> None:
    async with trio.open_nursery() as nursery:
        request: WebSocketRequest = await wrap_server_stream(nursery, stream)
        async with await request.accept() as connection:
            await echo(connection)


if __name__ == "__main__":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    trio.run(trio_tlsbio.serve_tls_over_tcp, handle, 443, context)
