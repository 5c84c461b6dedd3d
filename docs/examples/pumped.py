"""TLS over a stream that can't tell how much a cancelled send has sent."""

import ssl

import trio

import trio_tlsbio


async def ask(
    transport: trio.abc.Stream,
    host: str,
    question: bytes,
    ssl_context: ssl.SSLContext,
) -> bytes:
    async with trio_tlsbio.open_pump(transport) as pumped:
        stream = trio_tlsbio.TLSStream(
            pumped, ssl_context, server_hostname=host
        )
        async with stream:
            await stream.send_all(question)
            await stream.send_eof()
            return b"".join([chunk async for chunk in stream])
