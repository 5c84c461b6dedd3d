"""The core in asyncio: streams over plain TCP, and no Trio."""

import asyncio
import ssl
from contextlib import suppress

from trio_tlsbio import TLSConnection


async def ask(
    host: str, port: int, question: bytes, ssl_context: ssl.SSLContext
) -> bytes:
    connection = TLSConnection(ssl_context, server_hostname=host)
    connection.send(question)  # held until the handshake is done
    connection.send_close_notify()
    answer = bytearray()
    reader, writer = await asyncio.open_connection(host, port)
    try:
        while (chunk := connection.receive()) != b"":
            if chunk is not None:
                answer += chunk
                continue
            # Not waited for: both sides may write.
            writer.write(connection.data_to_send())
            if connection.is_behind:  # there is more to decrypt
                await asyncio.sleep(0)
            elif data := await reader.read(65536):
                connection.feed(data)
            else:
                connection.feed_eof()
    finally:
        # After an error, the alert that says why.
        writer.write(connection.data_to_send())
        writer.close()
        with suppress(OSError):  # or it takes too long
            await asyncio.wait_for(writer.wait_closed(), 5)
        writer.transport.abort()
    return bytes(answer)


if __name__ == "__main__":
    context = ssl.create_default_context()
    print(asyncio.run(ask("echo.example", 4433, b"hello\n", context)))
