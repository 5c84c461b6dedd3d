"""Send with a time limit for each turn: after a cancelled send,
bytes_committed shows where to continue.
"""

import ssl

import trio

import trio_tlsbio


async def send_for(
    stream: trio_tlsbio.TLSStream[trio.SocketStream],
    data: memoryview,
    seconds: float,
) -> int:
    """Send for some seconds at most, and return how many bytes were sent."""
    before = stream.bytes_committed
    with trio.move_on_after(seconds):
        await stream.send_all(data)
    return stream.bytes_committed - before


async def upload(
    host: str, port: int, data: bytes, ssl_context: ssl.SSLContext
) -> bytes:
    """Send all of the data in turns of 10 ms, and return the answer."""
    stream = await trio_tlsbio.open_tls_over_tcp_stream(
        host, port, ssl_context=ssl_context
    )
    async with stream:
        rest = memoryview(data)
        while rest:
            rest = rest[await send_for(stream, rest, 0.01) :]
            print(f"{len(rest)} bytes to go")
        await stream.send_eof()
        return b"".join([chunk async for chunk in stream])


if __name__ == "__main__":
    trio.run(
        upload,
        "sink.example",
        4433,
        bytes(10_000_000),
        ssl.create_default_context(),
    )
