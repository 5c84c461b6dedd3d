"""Say hello to the server, and print what it answers."""

import trio

from trio_tlsbio import open_tls_over_tcp_stream


async def main() -> None:
    stream = await open_tls_over_tcp_stream("localhost", 4433)
    async with stream:
        await stream.send_all(b"hello")
        print(await stream.receive_some())


if __name__ == "__main__":
    trio.run(main)
