"""Pre-shared keys: both sides know a secret key. There are no certificates."""

import ssl
import sys
from collections.abc import Mapping
from contextvars import ContextVar

import trio

import trio_tlsbio

assert sys.version_info >= (3, 13)  # which has the callbacks

client_identity = ContextVar[str]("client_identity")


class NoKeyUsedError(Exception):
    """The server has shown a certificate in place of the key."""


def make_client_context(identity: str, key: bytes) -> ssl.SSLContext:
    # It trusts no authority, so a server that ignores the key is refused,
    # whatever it shows.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.set_psk_client_callback(lambda _: (identity, key))
    return context


def make_server_context(keys: Mapping[str, bytes]) -> ssl.SSLContext:
    def key_of(identity: str | None) -> bytes:
        if identity is None or identity not in keys:
            return b""  # which refuses the client
        # For the handler, which runs in the same task.
        client_identity.set(identity)
        return keys[identity]

    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # So that each connection needs the key, and has an identity.
    context.num_tickets = 0
    context.set_psk_server_callback(key_of)
    return context


async def greet(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
    # The handshake is done, so the client has proved that it has the key of
    # that identity.
    await stream.send_all(f"hello, {client_identity.get()}\n".encode())


async def ask(host: str, port: int, ssl_context: ssl.SSLContext) -> bytes:
    stream = await trio_tlsbio.open_tls_over_tcp_stream(
        host, port, ssl_context=ssl_context
    )
    async with stream:
        await stream.do_handshake()
        # With the context from above this can't happen. It can with one that
        # trusts authorities, or verifies nothing.
        if stream.handshake.peer_certificate_chain:
            raise NoKeyUsedError(f"{host} does not use our key")
        return b"".join([chunk async for chunk in stream])


if __name__ == "__main__":
    # Made by secrets.token_bytes(32), and kept in a file that nobody else can
    # read.
    key = trio.run(trio.Path("sensor-1.key").read_bytes)
    if sys.argv[1:] == ["serve"]:
        context = make_server_context({"sensor-1": key})
        trio.run(trio_tlsbio.serve_tls_over_tcp, greet, 4433, context)
    else:
        print(
            trio.run(
                ask, "echo.example", 4433, make_client_context("sensor-1", key)
            )
        )
