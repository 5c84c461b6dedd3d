"""Send a question to a server, and receive the whole answer."""

import ssl

import trio

import trio_tlsbio


async def ask(
    host: str,
    port: int,
    question: bytes,
    ssl_context: ssl.SSLContext | None = None,
) -> bytes:
    stream = await trio_tlsbio.open_tls_over_tcp_stream(
        host, port, ssl_context=ssl_context
    )
    async with stream:
        await stream.send_all(question)
        await stream.send_eof()  # the question is complete; go on receiving
        return b"".join([chunk async for chunk in stream])


if __name__ == "__main__":
    context = ssl.create_default_context(cafile="client.pem")
    print(trio.run(ask, "localhost", 4433, b"hello\n", context))
