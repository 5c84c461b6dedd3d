"""SMTP with STARTTLS (RFC 3207): a client that sends an email, and the first
steps of a server.
"""

import logging
import ssl
from functools import partial

import trio

import trio_tlsbio


class Dialogue:
    """Sends and receives lines. ``buffer`` holds the data received after the
    last line.
    """

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.buffer = b""

    async def line(self) -> bytes:
        while b"\r\n" not in self.buffer:
            chunk = await self.stream.receive_some(1000)
            if not chunk or len(self.buffer) > 10_000:
                raise trio.BrokenResourceError("a line is not complete")
            self.buffer += chunk
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line

    async def reply(self, code: bytes) -> list[bytes]:
        """Return the lines of a reply, which has to begin with ``code``."""
        lines = [await self.line()]
        while lines[-1][3:4] == b"-":
            if len(lines) == 100:
                raise trio.BrokenResourceError("the reply has too many lines")
            lines.append(await self.line())
        if not lines[-1].startswith(code):
            raise trio.BrokenResourceError(f"the server says {lines[-1]!r}")
        return lines

    async def ask(self, command: bytes, code: bytes) -> list[bytes]:
        await self.stream.send_all(command + b"\r\n")
        return await self.reply(code)


async def upgrade_client(
    stream: trio.SocketStream, host: str, ssl_context: ssl.SSLContext
) -> trio_tlsbio.TLSStream[trio.SocketStream]:
    dialogue = Dialogue(stream)
    await dialogue.reply(b"220")
    if b"250 STARTTLS" not in [
        line.replace(b"-", b" ")
        for line in await dialogue.ask(b"EHLO client.example", b"250")
    ]:
        raise trio.BrokenResourceError("the server does not offer TLS")
    await dialogue.ask(b"STARTTLS", b"220")
    return await trio_tlsbio.start_tls(
        stream, ssl_context, buffered=dialogue.buffer, server_hostname=host
    )


async def send_mail(
    host: str,
    port: int,
    ssl_context: ssl.SSLContext,
    *,
    sender: str,
    recipient: str,
    text: bytes,
) -> None:
    tcp_stream = await trio.open_tcp_stream(host, port)
    async with (
        tcp_stream,
        await upgrade_client(tcp_stream, host, ssl_context) as stream,
    ):
        dialogue = Dialogue(stream)
        # The server has forgotten the EHLO that it received before TLS.
        await dialogue.ask(b"EHLO client.example", b"250")
        await dialogue.ask(f"MAIL FROM:<{sender}>".encode(), b"250")
        await dialogue.ask(f"RCPT TO:<{recipient}>".encode(), b"250")
        await dialogue.ask(b"DATA", b"354")
        # A line that begins with a dot gets one more: RFC 5321, 4.5.2.
        lines = (b"\r\n" + text).replace(b"\r\n.", b"\r\n..")[2:]
        await dialogue.ask(lines + b"\r\n.", b"250")
        await dialogue.ask(b"QUIT", b"221")


async def upgrade_server(
    stream: trio.SocketStream, ssl_context: ssl.SSLContext
) -> trio_tlsbio.TLSStream[trio.SocketStream]:
    dialogue = Dialogue(stream)
    await stream.send_all(b"220 server.example\r\n")
    while (command := await dialogue.line()) != b"STARTTLS":
        offer = b"250-server.example\r\n250 STARTTLS\r\n"
        refusal = b"530 Must issue a STARTTLS command first\r\n"
        await stream.send_all(
            offer if command.startswith(b"EHLO ") else refusal
        )
    # If the client has sent more, start_tls() closes the connection.
    if not dialogue.buffer:
        await stream.send_all(b"220 Go ahead\r\n")
    return await trio_tlsbio.start_tls(
        stream, ssl_context, buffered=dialogue.buffer, server_side=True
    )


async def handle(
    stream: trio.SocketStream, ssl_context: ssl.SSLContext
) -> None:
    """Serve one client. Its errors end here: they would end the server."""
    try:
        with trio.fail_after(30):
            tls_stream = await upgrade_server(stream, ssl_context)
        async with tls_stream:  # trio.serve_tcp() only closes the TCP stream
            with trio.fail_after(300):
                await Dialogue(tls_stream).line()  # the client's EHLO
                await tls_stream.send_all(b"250 server.example\r\n")
    except (trio.BrokenResourceError, trio.TooSlowError) as exc:
        logging.warning("a client failed: %r", exc)


async def serve(port: int, ssl_context: ssl.SSLContext) -> None:
    await trio.serve_tcp(partial(handle, ssl_context=ssl_context), port)
