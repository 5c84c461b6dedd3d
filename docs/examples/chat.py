"""A chat: each line of a client goes to all clients, with the e-mail address
in its certificate.
"""

import re
import signal
import ssl
from functools import partial
from typing import Any

import trio

from trio_tlsbio import (
    Drain,
    TLSListener,
    TLSStream,
    open_tls_over_tcp_listeners,
    serve_tls_listeners,
)

MOST_MESSAGES = 100  # that a client may be behind
MOST_BYTES = 1000  # in a line
PAUSE = 0.01  # seconds after each line, so that no client floods the others

# A certificate can contain any text, even line breaks.
ADDRESS = re.compile(r"[\w.+-]+@[\w.-]+", re.ASCII)


def name_of(stream: TLSStream[Any]) -> str | None:
    """Return the client's e-mail address if it is safe to show to others."""
    for name in stream.handshake.peer_names:
        if name.kind == "email" and ADDRESS.fullmatch(str(name)):
            return str(name)
    return None


def printable(text: str) -> str:
    """Replace what could change or forge lines on other users' terminals."""
    return "".join(each if each.isprintable() else "?" for each in text)


class Chat:
    def __init__(self) -> None:
        self.drain = Drain()
        self.mailboxes: dict[
            trio.MemorySendChannel[bytes], trio.CancelScope
        ] = {}

    def broadcast(self, message: str) -> None:
        """Put a message into each mailbox. A client whose mailbox is full loses
        its connection.
        """
        for mailbox, scope in self.mailboxes.items():
            try:
                mailbox.send_nowait(message.encode() + b"\n")
            except trio.WouldBlock:
                scope.cancel()

    async def handle(self, stream: TLSStream[Any]) -> None:
        name = name_of(stream)
        if name is None:
            await stream.send_all(b"your certificate has no e-mail address\n")
            return
        mailbox, messages = trio.open_memory_channel[bytes](MOST_MESSAGES)
        with trio.CancelScope() as scope:
            self.mailboxes[mailbox] = scope
            self.broadcast(f"{name} joins")
            try:
                async with trio.open_nursery() as nursery, mailbox:
                    nursery.start_soon(self.send, stream, messages)
                    await self.receive(stream, name)
                    # Leaving this block closes the mailbox, so the other task
                    # sends what is in there, and ends.
                    scope.deadline = trio.current_time() + 5
                    del self.mailboxes[mailbox]
            finally:
                self.mailboxes.pop(mailbox, None)
                self.broadcast(f"{name} leaves")
        if scope.cancelled_caught:
            stream.abort()  # it was too slow

    async def send(
        self,
        stream: TLSStream[Any],
        messages: trio.MemoryReceiveChannel[bytes],
    ) -> None:
        async for message in messages:
            await stream.send_all(message)

    async def receive(self, stream: TLSStream[Any], name: str) -> None:
        """Broadcast lines until the client ends, or the server drains."""
        rest = b""
        # A client that never pauses is never idle, so receive_some() alone
        # would not end its handler.
        while not self.drain.should_end(stream):
            chunk = await self.drain.receive_some(stream)
            if not chunk:
                return
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                if self.drain.should_end(stream):
                    return
                text = line[:MOST_BYTES].decode(errors="replace")
                self.broadcast(f"{name}: {printable(text)}")
                await trio.sleep(PAUSE)
            rest = rest[: MOST_BYTES + 1]


async def serve(listeners: list[TLSListener[Any]], seconds: float = 10) -> None:
    """Serve until SIGTERM comes. Then send each client what is in its mailbox,
    for some seconds at most.
    """
    chat = Chat()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            partial(
                serve_tls_listeners, chat.handle, listeners, drain=chat.drain
            )
        )
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            await anext(signals)
        chat.broadcast("the server goes down")
        await chat.drain.end(seconds)


async def main() -> None:
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile="clients-ca.pem"
    )
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain("server.pem", "server.key")
    await serve(await open_tls_over_tcp_listeners(4433, context))


if __name__ == "__main__":
    trio.run(main)
