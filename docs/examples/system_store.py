"""Trust what the operating system trusts, by truststore: also on macOS and
Windows.
"""

import ssl

import trio
import truststore

import trio_tlsbio


def make_context() -> ssl.SSLContext:
    return truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)


async def ask(
    host: str, port: int, question: bytes, ssl_context: ssl.SSLContext
) -> bytes:
    stream = await trio_tlsbio.open_tls_over_tcp_stream(
        host, port, ssl_context=ssl_context
    )
    async with stream:
        await stream.send_all(question)
        await stream.send_eof()
        return b"".join([chunk async for chunk in stream])


if __name__ == "__main__":
    print(trio.run(ask, "echo.example", 4433, b"hello\n", make_context()))
