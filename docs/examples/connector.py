"""Connect often: one connector for the program, which resumes sessions by
itself.
"""

import trio

import trio_tlsbio


async def ask_often(
    connector: trio_tlsbio.TLSConnector,
    host: str,
    port: int,
    questions: list[bytes],
) -> None:
    for question in questions:
        stream = await connector.connect(host, port)
        async with stream:
            await stream.send_all(question)
            answer = await stream.receive_some()
            print(
                answer, "resumed" if stream.session_reused else "full handshake"
            )


if __name__ == "__main__":
    connector = trio_tlsbio.TLSConnector()
    trio.run(
        ask_often, connector, "echo.example", 4433, [b"one", b"two", b"three"]
    )
