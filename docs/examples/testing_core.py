"""A test of two connections without I/O."""

from trio_tlsbio.testing import (
    CertificateAuthority,
    exchange,
    tls_connection_pair,
)


def test_question_in_small_chunks() -> None:
    authority = CertificateAuthority()
    client, server = tls_connection_pair(
        authority.client_context(alpn_protocols=["shout/1"]),
        authority.server_context(alpn_protocols=["shout/1"]),
    )
    client.send(b"hello")
    exchange(client, server, chunk_bytes=7)
    assert server.handshake is not None
    assert server.handshake.alpn_protocol == "shout/1"
    assert server.receive() == b"hello"

    server.send(b"HELLO")
    server.send_close_notify()
    exchange(client, server, chunk_bytes=7)
    assert client.receive() == b"HELLO"
    assert client.receive() == b""
