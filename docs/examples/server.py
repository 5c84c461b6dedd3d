"""Send back what each client sends."""

import ssl

import trio

import trio_tlsbio


async def echo(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


if __name__ == "__main__":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    trio.run(trio_tlsbio.serve_tls_over_tcp, echo, 4433, context)
