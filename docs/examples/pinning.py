"""Pin a certificate: the context checks the server as always, and this is checked besides."""

import hashlib
import ssl

import trio

import trio_tlsbio


class WrongCertificateError(Exception):
    """The server has a good certificate, but not the one that was expected."""


def fingerprint(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> str:
    assert stream.handshake is not None
    certificate = stream.handshake.peer_certificate_chain[0]  # in DER form
    return hashlib.sha256(certificate).hexdigest()


async def connect(
    host: str, port: int, pins: set[str], ssl_context: ssl.SSLContext
) -> trio_tlsbio.TLSStream[trio.SocketStream]:
    stream = await trio_tlsbio.open_tls_over_tcp_stream(host, port, ssl_context=ssl_context)
    try:
        await stream.do_handshake()  # nothing of ours is sent before we know who is there
        if fingerprint(stream) not in pins:
            raise WrongCertificateError(f"{host} has the certificate {fingerprint(stream)}")
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def main() -> None:
    pins = {"the fingerprint that you know"}
    async with await connect("echo.example", 4433, pins, ssl.create_default_context()) as stream:
        await stream.send_all(b"hello\n")


if __name__ == "__main__":
    trio.run(main)
