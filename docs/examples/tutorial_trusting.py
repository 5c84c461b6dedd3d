"""Say hello to the server, and look at who answers."""

import ssl

import trio

from trio_tlsbio import open_tls_over_tcp_stream


async def main() -> None:
    context = ssl.create_default_context(cafile="client.pem")
    stream = await open_tls_over_tcp_stream(
        "localhost", 4433, ssl_context=context
    )
    async with stream:
        await stream.send_all(b"hello")
        print(await stream.receive_some())
        print(stream.handshake.version, "with", stream.handshake.matched_name)


if __name__ == "__main__":
    trio.run(main)
