"""Our server behind proxies that are not ours, which send it the PROXY protocol."""

from __future__ import annotations

import logging
import re
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme

from tests.commands import Files, refused, run_here
from tests.helpers import HOST, NAME, server_context_for, serving
from tests.programs import NGINX_STREAM_MODULE, free_port, listening, needs, nginx_stream_argv
from trio_tlsbio import TLSStream, TrustedProxies
from trio_tlsbio.monitoring import HandshakeFailed, ServerEvent, ServerMonitor
from trio_tlsbio.proxy_protocol import ProxyCommand, ProxyHeader

LOOPBACK = TrustedProxies(["127.0.0.1"])
CLIENT = "client.example"

HAPROXY_CONFIG = """
defaults
    mode tcp
    timeout connect 10s
    timeout client 20s
    timeout server 20s
    timeout check 1s
frontend clients
    bind 127.0.0.1:{port} {bind}
    unique-id-format %[src]-%[src_port]
    default_backend servers
backend servers
    server ours 127.0.0.1:{their_port} {server}
"""


@asynccontextmanager
async def haproxy(folder: Path, their_port: int, server: str, bind: str = "") -> AsyncIterator[int]:
    """Run HAProxy in front of our server, and give its port."""
    port = free_port()
    config = folder / "haproxy.cfg"
    text = HAPROXY_CONFIG.format(port=port, bind=bind, their_port=their_port, server=server)
    await trio.Path(config).write_text(text, encoding="utf-8")
    async with listening(port, folder / "haproxy.log", "haproxy", "-db", "-f", config):
        yield port


@asynccontextmanager
async def nginx(folder: Path, their_port: int) -> AsyncIterator[int]:
    """Run nginx in front of our server, and give its port."""
    port = free_port()
    async with listening(port, folder / "nginx.log", *nginx_stream_argv(folder, port, their_port)):
        yield port


async def report(stream: TLSStream[Any]) -> None:
    """Send the client what is known of its address, once it has asked."""
    await stream.receive_some()
    await stream.send_all(repr((stream.client_address, stream.proxy_header is None)).encode())


async def ask(port: int, context: ssl.SSLContext) -> tuple[tuple[str, int], bytes]:
    """Return our address as a client of a proxy, and what the server says of it."""
    tcp = await trio.open_tcp_stream(HOST, port)
    async with TLSStream(tcp, context, server_hostname=NAME) as stream:
        await stream.send_all(b"who am I?")
        return tcp.socket.getsockname(), await stream.receive_some()


@needs("haproxy")
@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
async def test_haproxy_reports_the_clients_address(
    option: str, tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with (
        serving(report, server_context, proxy_protocol=LOOPBACK) as their_port,
        haproxy(tmp_path, their_port, option) as port,
    ):
        for _ in range(3):
            name, answer = await ask(port, client_context)
            assert answer == repr((name, False)).encode()


@needs("nginx")
@pytest.mark.skipif(
    NGINX_STREAM_MODULE is None, reason="nginx's module for streams is not installed"
)
async def test_nginx_reports_the_clients_address(
    tmp_path: Path, server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    async with (
        serving(report, server_context, proxy_protocol=LOOPBACK) as their_port,
        nginx(tmp_path, their_port) as port,
    ):
        for _ in range(3):
            name, answer = await ask(port, client_context)
            assert answer == repr((name, False)).encode()


HAPROXY_TLS_CONFIG = """
defaults
    mode http
    timeout client 20s
frontend clients
    bind 127.0.0.1:{port} accept-proxy ssl crt {pem}
    http-request return status 200 content-type text/plain lf-string "%[src]:%[src_port]"
"""


@needs("haproxy")
@pytest.mark.parametrize("version", ["v1", "v2"])
async def test_connect_reports_its_address(
    version: str, files: Files, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    """``connect --proxy-header`` stands for a proxy, and HAProxy is behind it."""
    port = free_port()
    config = tmp_path / "haproxy.cfg"
    config.write_text(HAPROXY_TLS_CONFIG.format(port=port, pem=files.server), encoding="utf-8")
    log = tmp_path / "haproxy.log"
    async with listening(port, log, "haproxy", "-db", "-f", config):
        connect = ("connect", f"localhost:{port}", "--cafile", files.ca, "--https-compatible")
        request = b"GET / HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        result = await run_here(capfdbinary, *connect, "--proxy-header", version, stdin=request)
        assert result.status == 0, result.stderr
        assert result.stdout.startswith(b"HTTP/1.1 200 OK\r\n")
        assert re.search(rb"\r\n\r\n127\.0\.0\.1:\d+$", result.stdout)
        # Without it HAProxy ends the connection.
        refused(await run_here(capfdbinary, *connect), 6)


@needs("haproxy")
@pytest.mark.parametrize("has_certificate", [True, False])
async def test_haproxy_reports_the_clients_tls(
    has_certificate: bool, ca: trustme.CA, server_cert: trustme.LeafCert, tmp_path: Path
) -> None:
    """It ends the client's TLS, and connects by TLS of its own."""
    headers: list[ProxyHeader | None] = []

    async def handler(stream: TLSStream[Any]) -> None:
        headers.append(stream.proxy_header)
        await report(stream)

    pem, ca_pem = tmp_path / "server.pem", tmp_path / "ca.pem"
    server_cert.private_key_and_cert_chain_pem.write_to_path(str(pem))
    ca.cert_pem.write_to_path(str(ca_pem))
    client_context = ssl.create_default_context(cafile=str(ca_pem))
    client_context.set_alpn_protocols(["h2"])
    if has_certificate:
        ca.issue_cert(CLIENT, common_name=CLIENT).configure_cert(client_context)
    options = "ssl,cert-cn,ssl-cipher,cert-sig,cert-key,authority,crc32c,unique-id"
    async with (
        serving(handler, server_context_for(server_cert), proxy_protocol=LOOPBACK) as their_port,
        haproxy(
            tmp_path,
            their_port,
            f"ssl verify none send-proxy-v2-ssl-cn proxy-v2-options {options}",
            f"ssl crt {pem} ca-file {ca_pem} verify optional alpn h2",
        ) as port,
    ):
        name, answer = await ask(port, client_context)
    assert answer == repr((name, False)).encode()
    (header,) = headers
    assert header is not None
    assert header.command is ProxyCommand.PROXY
    assert header.source == (ip_address(name[0]), name[1])
    assert header.destination == (ip_address(HOST), port)
    assert header.alpn == b"h2"
    assert header.authority == NAME
    assert header.unique_id == f"{name[0]}-{name[1]}".encode()
    assert header.others == {}
    tls = header.tls
    assert tls is not None
    assert tls.is_tls
    assert tls.version == "TLSv1.3"
    assert tls.cipher == "TLS_AES_256_GCM_SHA384"
    assert tls.key_algorithm is not None
    assert tls.signature_algorithm is not None
    assert tls.has_sent_certificate == tls.is_verified == has_certificate
    assert tls.common_name == (CLIENT if has_certificate else None)


@needs("haproxy")
@pytest.mark.parametrize("option", ["send-proxy", "send-proxy-v2"])
async def test_haproxys_health_checks_make_no_noise(
    option: str, tmp_path: Path, server_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    failed: list[ServerEvent] = []
    was_checked = trio.Event()

    def on_event(event: ServerEvent) -> None:
        if isinstance(event, HandshakeFailed):
            failed.append(event)
            if len(failed) == 3:
                was_checked.set()

    caplog.set_level(logging.DEBUG, "trio_tlsbio.server")
    async with (
        serving(
            report, server_context, proxy_protocol=LOOPBACK, monitor=ServerMonitor(on_event)
        ) as their_port,
        haproxy(tmp_path, their_port, f"{option} check check-send-proxy inter 50ms"),
    ):
        await was_checked.wait()
    levels = {record.levelno for record in caplog.records if record.name == "trio_tlsbio.server"}
    assert levels == {logging.DEBUG}
