"""Ask until there is an answer, over as many connections as it takes."""

import ssl

import trio

import trio_tlsbio


async def ask(
    host: str,
    port: int,
    question: bytes,
    ssl_context: ssl.SSLContext | None = None,
) -> bytes:
    async for stream in trio_tlsbio.reconnect(
        host, port, ssl_context=ssl_context
    ):
        async with stream:
            try:
                await stream.send_all(question)
                if answer := await stream.receive_some():
                    return answer
            except trio_tlsbio.TLSError as exc:
                print(f"once more: {exc}")
    raise AssertionError("the supply of connections does not end")


if __name__ == "__main__":
    print(trio.run(ask, "echo.example", 4433, b"hello\n"))
