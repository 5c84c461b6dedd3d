"""The core in a selectors loop: several connections at once, in one thread and
without Trio.
"""

import socket
from contextlib import ExitStack, suppress
from selectors import EVENT_READ, EVENT_WRITE, DefaultSelector

from trio_tlsbio import TLSConnection, TLSError


def run(
    connections: list[tuple[TLSConnection, tuple[str, int]]],
) -> list[bytearray]:
    """Send what each connection holds to its address, and return what comes
    back to each.
    """
    answers = [bytearray() for _ in connections]
    with DefaultSelector() as selector, ExitStack() as stack:
        for (connection, address), answer in zip(
            connections, answers, strict=True
        ):
            sock = stack.enter_context(
                socket.create_connection(address, timeout=10)
            )
            sock.setblocking(False)
            selector.register(sock, EVENT_WRITE, (sock, connection, answer))
        while selector.get_map():
            events = selector.select(timeout=10)
            if not events:
                raise TimeoutError("nothing has moved for 10 seconds")
            for key, ready in events:
                sock, connection, answer = key.data
                with suppress(BlockingIOError):  # it was not that ready
                    if ready & EVENT_WRITE:
                        connection.mark_sent(sock.send(connection.unsent[0]))
                    if ready & EVENT_READ:
                        data = sock.recv(65536)
                        connection.feed(data) if data else connection.feed_eof()
                chunk: bytes | None = b""
                # Raised again below, when the alert is sent.
                with suppress(TLSError):
                    while (
                        chunk := connection.receive()
                    ) or connection.is_behind:
                        answer += chunk or b""
                if wants := EVENT_READ * (chunk is None) | EVENT_WRITE * bool(
                    connection.unsent
                ):
                    selector.modify(sock, wants, key.data)
                else:
                    selector.unregister(sock)
                    connection.receive()  # b"", or the error
    return answers
