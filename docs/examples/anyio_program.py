"""A program for anyio: a server that keeps notes, and a client that leaves and
reads them.

Without this library, the import of trio_tlsbio.anyio reads ``from
anyio.streams.tls import ...``.
"""

import ssl

import anyio
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream

from trio_tlsbio.anyio import TLSAttribute, TLSListener, TLSStream


class NoteServer:
    def __init__(self, ssl_context: ssl.SSLContext) -> None:
        self.ssl_context = ssl_context
        self.notes: list[bytes] = []

    async def handle(self, stream: TLSStream) -> None:
        async with stream:
            lines = BufferedByteReceiveStream(stream)
            while True:
                try:
                    line = await lines.receive_until(b"\n", 1024)
                except (anyio.EndOfStream, anyio.IncompleteRead):
                    return
                if line == b"read":
                    await stream.send(
                        b"".join(note + b"\n" for note in self.notes) + b"\n"
                    )
                else:
                    self.notes.append(line)

    async def serve(
        self,
        *,
        task_status: anyio.abc.TaskStatus[int] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        tcp = await anyio.create_tcp_listener(local_host="127.0.0.1")
        listener = TLSListener(tcp, self.ssl_context, handshake_timeout=10)
        async with listener:
            task_status.started(tcp.extra(SocketAttribute.local_port))
            await listener.serve(self.handle)


async def leave_and_read(
    port: int, note: bytes, ssl_context: ssl.SSLContext
) -> list[bytes]:
    async with (
        await anyio.connect_tcp("127.0.0.1", port) as tcp,
        await TLSStream.wrap(
            tcp, hostname="127.0.0.1", ssl_context=ssl_context
        ) as stream,
    ):
        if not stream.extra(TLSAttribute.tls_version).startswith("TLSv1."):
            raise ConnectionError("an old protocol")
        lines = BufferedByteReceiveStream(stream)
        await stream.send(note + b"\n")
        await stream.send(b"read\n")
        notes = []
        while line := await lines.receive_until(b"\n", 1024):
            notes.append(line)
        return notes


async def main(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> list[bytes]:
    server = NoteServer(server_context)
    async with anyio.create_task_group() as task_group:
        port = await task_group.start(server.serve)
        await leave_and_read(port, b"the first note", client_context)
        try:  # somebody who does not trust the server
            await leave_and_read(port, b"never", ssl.create_default_context())
        except ssl.SSLCertVerificationError:
            await leave_and_read(port, b"somebody was here", client_context)
        notes = await leave_and_read(port, b"the last note", client_context)
        task_group.cancel_scope.cancel()
    return notes
