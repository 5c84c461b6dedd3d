"""The core in a program that has blocking sockets and no Trio."""

import socket
import ssl
from contextlib import suppress

from trio_tlsbio import TLSConnection, TLSError


def ask(
    host: str, port: int, question: bytes, ssl_context: ssl.SSLContext
) -> bytes:
    connection = TLSConnection(ssl_context, server_hostname=host)
    connection.send(question)  # held until the handshake is done
    connection.send_close_notify()
    answer = bytearray()
    with socket.create_connection((host, port), timeout=10) as sock:
        try:
            while (chunk := connection.receive()) != b"":
                if chunk is not None or connection.is_behind:
                    answer += chunk or b""
                    continue
                # It needs to be fed, and the peer may wait for us before it
                # sends.
                sock.sendall(connection.data_to_send())
                if data := sock.recv(65536):
                    connection.feed(data)
                else:
                    connection.feed_eof()
        except TLSError:
            with suppress(OSError):
                # The alert that says why.
                sock.sendall(connection.data_to_send())
            raise
        sock.sendall(connection.data_to_send())
    return bytes(answer)


if __name__ == "__main__":
    print(ask("echo.example", 4433, b"hello\n", ssl.create_default_context()))
