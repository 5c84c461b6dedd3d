"""Trust what the operating system trusts, by truststore: also on macOS and Windows."""

import ssl

import trio
import truststore

import trio_tlsbio


async def ask(connector: trio_tlsbio.TLSConnector, host: str, port: int, question: bytes) -> bytes:
    async with await connector.connect(host, port) as stream:
        await stream.send_all(question)
        await stream.send_eof()
        return b"".join([chunk async for chunk in stream])


def make_connector() -> trio_tlsbio.TLSConnector:
    context = truststore.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return trio_tlsbio.TLSConnector(ssl_context=context)


if __name__ == "__main__":
    print(trio.run(ask, make_connector(), "echo.example", 4433, b"hello\n"))
