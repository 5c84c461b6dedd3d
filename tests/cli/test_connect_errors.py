"""How ``connect`` fails, and how that is told."""

from __future__ import annotations

import datetime as dt
import errno
import os
import socket
import ssl
from collections.abc import Awaitable, Callable

import pytest
import trio
import trustme

from tests.commands import Files, Stream, refused, run, run_here
from tests.helpers import server_context_for

from .peers import drain, echo, plain_server, say_and_reset, say_and_truncate, tls_server


async def test_connection_refused() -> None:
    with socket.socket() as sock:  # bound, but not listening
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        result = await run("connect", f"127.0.0.1:{port}")
    assert refused(result, 1) == (
        f"can't connect to 127.0.0.1 port {port}: {os.strerror(errno.ECONNREFUSED)}"
    )


async def test_name_not_found(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    result = await run_here(capfdbinary, "connect", "nowhere.invalid")  # RFC 6761: never exists
    assert refused(result, 1).startswith("can't connect to nowhere.invalid port 443: ")


async def test_tcp_timeout(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    # A full backlog makes Linux ignore those who come next.
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        fillers = [socket.socket() for _ in range(4)]
        try:
            for sock in fillers:
                sock.setblocking(False)
                sock.connect_ex(listener.getsockname())
            port = listener.getsockname()[1]
            result = await run_here(capfdbinary, "connect", f"127.0.0.1:{port}", "--timeout", "0.5")
        finally:
            for sock in fillers:
                sock.close()
    if result.status == 5:
        pytest.skip("this kernel's backlog is never full")
    assert refused(result, 1) == (
        f"can't connect to 127.0.0.1 port {port}: no answer within 0.5 seconds"
    )


async def test_wrong_name(
    server_cert: trustme.LeafCert, files: Files, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async with tls_server(echo, server_context_for(server_cert)) as port:
        result = await run_here(
            capfdbinary,
            *("connect", f"127.0.0.1:{port}", "--cafile", files.ca),
            *("--servername", "other.example"),
        )
    message = refused(result, 3)
    assert message == (
        "the certificate is for server.example, localhost, 127.0.0.1, not other.example"
    )
    assert "--servername" in result.fact("hint")


async def test_unknown_ca(
    server_cert: trustme.LeafCert, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async with tls_server(echo, server_context_for(server_cert)) as port:
        result = await run_here(capfdbinary, "connect", f"localhost:{port}")
    assert "issuer is not trusted" in refused(result, 3)
    assert "--cafile" in result.fact("hint")


async def test_expired_certificate(
    ca: trustme.CA, files: Files, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    context = server_context_for(ca.issue_cert("localhost", not_after=yesterday))
    async with tls_server(echo, context) as port:
        result = await run_here(capfdbinary, "connect", f"localhost:{port}", "--cafile", files.ca)
    assert refused(result, 3) == (
        "the peer's certificate was refused: it has expired (valid until "
        f"{yesterday:%Y-%m-%d %H:%M} UTC); if it was renewed, the peer has not loaded the new one"
    )


async def test_plain_http_server(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async def http(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    async with plain_server(http) as port:
        result = await run_here(capfdbinary, "connect", f"localhost:{port}")
    assert "does not speak TLS" in refused(result, 4)


async def test_silent_server(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async with plain_server(drain) as port:
        result = await run_here(capfdbinary, "connect", f"localhost:{port}", "--timeout", "0.5")
    assert "within 0.5 seconds" in refused(result, 5)


async def test_closed_in_the_handshake(capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with plain_server(hang_up) as port:
        result = await run_here(capfdbinary, "connect", f"localhost:{port}")
    assert "during the handshake" in refused(result, 6)


@pytest.mark.parametrize("handler", [say_and_truncate, say_and_reset])
async def test_truncated(
    handler: Callable[[Stream], Awaitable[None]],
    server_context: ssl.SSLContext,
    files: Files,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    async with tls_server(handler, server_context) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", files.ca)
        result = await run_here(capfdbinary, *connect, stdin=b"?")
    assert result.status == 6
    assert result.stdout == b"not all of "  # what was genuine is there
    assert result.fact("received").startswith("11 bytes, then ")
    assert "trio-tlsbio: the " in result.stderr
