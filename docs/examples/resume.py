"""Resume a session: the second handshake is shorter than the first."""

import ssl

import trio

import trio_tlsbio


async def talk(
    host: str,
    port: int,
    ssl_context: ssl.SSLContext,
    session: trio_tlsbio.TLSSession | None,
) -> trio_tlsbio.TLSSession | None:
    stream = await trio_tlsbio.open_tls_over_tcp_stream(
        host, port, ssl_context=ssl_context, session=session
    )
    async with stream:
        await stream.send_all(b"hello\n")
        await stream.receive_some()
        print("resumed" if stream.session_reused else "full handshake")
        return stream.session  # it is there once something was received


async def talk_twice(host: str, port: int, ssl_context: ssl.SSLContext) -> None:
    session = await talk(host, port, ssl_context, None)
    # The same context and the same name.
    await talk(host, port, ssl_context, session)


if __name__ == "__main__":
    trio.run(talk_twice, "echo.example", 4433, ssl.create_default_context())
