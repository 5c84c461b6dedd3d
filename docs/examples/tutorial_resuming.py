"""Say hello over three connections: the second and the third resume the first
one's session.
"""

import ssl

import trio

from trio_tlsbio import TLSConnector


async def main() -> None:
    context = ssl.create_default_context(cafile="client.pem")
    connector = TLSConnector(ssl_context=context)
    for _ in range(3):
        async with await connector.connect("localhost", 4433) as stream:
            await stream.send_all(b"hello")
            answer = await stream.receive_some()
            print(
                answer, "resumed" if stream.session_reused else "full handshake"
            )


if __name__ == "__main__":
    trio.run(main)
