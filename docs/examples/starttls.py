"""STARTTLS in the manner of SMTP (RFC 3207): both sides."""

import ssl

import trio

import trio_tlsbio


class Lines:
    """Lines from a stream. What has come after them stays in ``buffer``."""

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def next(self) -> bytes:
        while b"\r\n" not in self.buffer:
            chunk = await self.stream.receive_some(1000)
            if not chunk or len(self.buffer) > 10_000:
                raise trio.BrokenResourceError("a line without an end")
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line


async def upgrade_client(
    stream: trio.SocketStream, host: str, ssl_context: ssl.SSLContext
) -> trio_tlsbio.TLSStream[trio.SocketStream]:
    lines = Lines(stream)
    await stream.send_all(b"STARTTLS\r\n")
    answer = await lines.next()
    if not answer.startswith(b"220 "):
        raise trio.BrokenResourceError(f"the server does not want TLS: {answer!r}")
    return await trio_tlsbio.start_tls(
        stream, ssl_context, buffered=lines.buffer, server_hostname=host
    )


async def upgrade_server(
    stream: trio.SocketStream, ssl_context: ssl.SSLContext
) -> trio_tlsbio.TLSStream[trio.SocketStream]:
    lines = Lines(stream)
    while await lines.next() != b"STARTTLS":
        await stream.send_all(b"530 Must issue a STARTTLS command first\r\n")
    if not lines.buffer:  # else the client gets no answer, and start_tls() closes the connection
        await stream.send_all(b"220 Go ahead\r\n")
    return await trio_tlsbio.start_tls(stream, ssl_context, buffered=lines.buffer, server_side=True)
