"""Ask for a client's certificate only where it is needed: for one path of
several.
"""

import ssl
from contextlib import suppress

import trio

import trio_tlsbio

HEAD = (
    "HTTP/1.1 %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n"
    "Connection: close\r\n\r\n"
)


async def answer(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
    """Answer one HTTP request."""
    request = bytearray()
    while b"\r\n\r\n" not in request:
        chunk = await stream.receive_some()
        if not chunk or len(request) > 10_000:
            return
        request += chunk
    status, text = "200 OK", "this is for everybody\n"
    if request.startswith(b"GET /private "):
        name = await ask_for_name(stream)
        if name is None:
            status, text = (
                "403 Forbidden",
                "this is for those who have a certificate\n",
            )
        else:
            text = f"this is for {name}\n"
    body = text.encode()
    await stream.send_all((HEAD % (status, len(body))).encode() + body)


async def ask_for_name(
    stream: trio_tlsbio.TLSStream[trio.SocketStream],
) -> str | None:
    """Return the name in the client's certificate; None if it has no
    certificate.
    """
    # With TLS 1.2, and when resumed, it may be there.
    if not stream.handshake.peer_certificate:
        # This client can't be asked.
        with suppress(trio_tlsbio.PostHandshakeAuthError):
            await stream.verify_client_post_handshake()
    certificate = stream.handshake.peer_certificate
    if not certificate:
        return None
    subject = dict(pair for part in certificate["subject"] for pair in part)
    return str(subject.get("commonName"))


def make_context(
    certificate: str, key: str, authorities: str
) -> ssl.SSLContext:
    context = ssl.create_default_context(
        ssl.Purpose.CLIENT_AUTH, cafile=authorities
    )
    context.load_cert_chain(certificate, key)
    context.verify_mode = ssl.CERT_OPTIONAL
    context.post_handshake_auth = True
    return context


if __name__ == "__main__":
    context = make_context("server.pem", "server.key", "clients-ca.pem")
    trio.run(trio_tlsbio.serve_tls_over_tcp, answer, 4433, context)
