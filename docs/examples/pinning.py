"""Pin a server's public key. The context still checks the server as usual; the
pin is an additional check.

A pin is the SHA-256 of the key, not of the certificate, so it outlives renewals
that keep the key. For each certificate file:

    openssl x509 -in server.pem -noout -pubkey |
        openssl pkey -pubin -outform der |
        openssl dgst -sha256 -binary | base64
"""

import base64
import hashlib
import ssl

import trio

import trio_tlsbio


class WrongKeyError(Exception):
    """The server has a good certificate, but its key is not an expected one."""


class Pins:
    """The keys that a server may have: the one in use, and one kept in a safe
    place for the day on which that has to be replaced.
    """

    def __init__(self, in_use: str, *backup: str) -> None:
        if not backup:
            raise ValueError(
                "without a backup pin, a lost key locks all clients out"
            )
        self.pins = {in_use, *backup}

    async def verify(self, handshake: trio_tlsbio.HandshakeInfo) -> None:
        """For ``verify_peer``. It waits for nothing, but nothing is sent before
        it returns.
        """
        key = handshake.peer_public_key
        pin = (
            "no key"
            if key is None
            else base64.b64encode(hashlib.sha256(key).digest()).decode()
        )
        if pin not in self.pins:
            raise WrongKeyError(
                f"{handshake.server_hostname} has the key {pin}"
            )


async def send(
    host: str, port: int, data: bytes, pins: Pins, ssl_context: ssl.SSLContext
) -> None:
    stream = await trio_tlsbio.open_tls_over_tcp_stream(
        host, port, ssl_context=ssl_context, verify_peer=pins.verify
    )
    async with stream:
        await stream.send_all(data)


async def main() -> None:
    pins = Pins("the pin of the key in use", "the pin of the key in the safe")
    await send(
        "echo.example", 4433, b"hello\n", pins, ssl.create_default_context()
    )


if __name__ == "__main__":
    trio.run(main)
