"""A WebSocket client by trio-websocket, over a stream of trio_tlsbio that
resumes its session.
"""

from typing import Any

import trio
from trio_websocket import WebSocketConnection, wrap_client_stream

import trio_tlsbio


async def ask(
    connector: trio_tlsbio.TLSConnector,
    host: str,
    port: int,
    questions: list[str],
) -> list[str | bytes]:
    """Send messages one by one, and return the answers."""
    stream: Any = await connector.connect(host, port)
    async with trio.open_nursery() as nursery:
        connection: WebSocketConnection
        connection = await wrap_client_stream(
            nursery, stream, f"{host}:{port}", "/"
        )
        answers: list[str | bytes] = []
        async with connection:
            for question in questions:
                await connection.send_message(question)
                answers.append(await connection.get_message())
    return answers


if __name__ == "__main__":
    print(
        trio.run(
            ask, trio_tlsbio.TLSConnector(), "echo.example", 443, ["hello"]
        )
    )
