"""Let in the clients on a list: by their SPIFFE IDs, or by the fingerprints of
their certificates.

The list is read for each connection, so who is struck off the list gets no
further connection, not even by resuming a session.
"""

import hashlib
import ssl

import trio

import trio_tlsbio


class NotOnTheListError(Exception):
    """The client has a good certificate, but is not on the list."""


class AllowList:
    """A text file. Each line is a SPIFFE ID, or the SHA-256 of a certificate in
    hexadecimal.
    """

    def __init__(self, path: str) -> None:
        self.path = trio.Path(path)

    async def verify(self, handshake: trio_tlsbio.HandshakeInfo) -> None:
        """For ``verify_peer``: refuse the client unless it is on the list."""
        # A server that doesn't insist on certificates.
        if not handshake.peer_certificate:
            raise NotOnTheListError("a client without a certificate")
        fingerprint = hashlib.sha256(
            handshake.peer_certificate_chain[0]
        ).hexdigest()
        lines = (await self.path.read_text(encoding="utf-8")).splitlines()
        if not {handshake.spiffe_id, fingerprint} & set(lines):
            raise NotOnTheListError(handshake.spiffe_id or fingerprint)


async def greet(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
    name = stream.handshake.spiffe_id or stream.handshake.peer_common_name
    await stream.send_all(f"hello, {name}\n".encode())


async def main() -> None:
    ssl_context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile="clients-ca.pem"
    )
    ssl_context.load_cert_chain("server.pem", "server.key")
    ssl_context.verify_mode = ssl.CERT_REQUIRED
    allowed = AllowList("allowed.txt")
    await trio_tlsbio.serve_tls_over_tcp(
        greet, 4433, ssl_context, verify_peer=allowed.verify
    )


if __name__ == "__main__":
    trio.run(main)
