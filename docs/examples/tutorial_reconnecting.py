"""Say hello every second, over as many connections as it takes."""

import ssl

import trio

from trio_tlsbio import Retry, TLSConnector, TLSError, TLSStream


async def talk(stream: TLSStream[trio.SocketStream]) -> None:
    print(
        "connected:", "resumed" if stream.session_reused else "full handshake"
    )
    while True:
        await stream.send_all(b"hello")
        answer = await stream.receive_some()
        if not answer:
            print("the server has ended the connection")
            return
        print(answer)
        await trio.sleep(1)


def tell(retry: Retry) -> None:
    reason = retry.error or "the connection was short"
    print(f"trying again in {retry.delay:.1f} s: {reason}")


async def main() -> None:
    context = ssl.create_default_context(cafile="client.pem")
    connector = TLSConnector(ssl_context=context)
    async for stream in connector.reconnect("localhost", 4433, on_retry=tell):
        async with stream:
            try:
                await talk(stream)
            except TLSError as exc:
                print("lost:", exc)


if __name__ == "__main__":
    trio.run(main)
