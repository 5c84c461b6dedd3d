"""The code of trust.rst and certificates.rst."""

from __future__ import annotations

import os
import ssl
import sys
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

import trio_tlsbio
from tests.docblocks import Block, example, runs
from tests.helpers import HOST, echo, server_context_for, serving
from trio_tlsbio import CertificateError, TLSConnector, TLSStream

from .peers import NAME, Logged, check_echo, connect


def pem_file(directory: Path, ca: trustme.CA) -> str:
    path = directory / "our-ca.pem"
    ca.cert_pem.write_to_path(str(path))
    return str(path)


@runs("trust.rst", 'context = ssl.create_default_context(cafile="our-ca.pem")')
async def test_trust_our_authority(
    block: Block,
    ca: trustme.CA,
    context: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    pem_file(tmp_path, ca)
    names = await block.run(ssl=ssl)
    assert names["context"].cert_store_stats()["x509_ca"] == 1, "and nobody else"
    async with serving(echo, context) as port:
        await check_echo(await connect(port, names["context"]))


@runs("trust.rst", "context = ssl.create_default_context()\ncontext.load_verify_locations")
async def test_trust_our_authority_too(
    block: Block,
    ca: trustme.CA,
    context: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    other = trustme.CA()
    (tmp_path / "system").mkdir()
    monkeypatch.setenv("SSL_CERT_FILE", pem_file(tmp_path / "system", other))
    monkeypatch.chdir(tmp_path)
    pem_file(tmp_path, ca)
    names = await block.run(ssl=ssl)
    for server_context in (context, server_context_for(other.issue_cert(NAME))):
        async with serving(echo, server_context) as port:
            await check_echo(await connect(port, names["context"]))


async def test_system_store(
    ca: trustme.CA,
    context: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: Logged,
) -> None:
    pytest.importorskip("truststore", reason="truststore is not installed")
    system_store = example("system_store")
    async with serving(echo, context) as port:
        # One that the system does not trust is refused, and the server told why.
        with pytest.raises(CertificateError, match="the peer's certificate was refused"):
            await system_store.ask(HOST, port, b"", system_store.make_context())
        assert "(alert unknown_ca)" in await logged.receive_channel.receive()

        # OpenSSL, and so truststore, takes these for the system's files.
        monkeypatch.setenv("SSL_CERT_FILE", pem_file(tmp_path, ca))
        client_context = system_store.make_context()
        assert await system_store.ask(HOST, port, b"hello", client_context) == b"hello"
        with pytest.raises(CertificateError, match=r"the certificate is for .*, not localhost"):
            await system_store.ask("localhost", port, b"", client_context)

        connector = TLSConnector(ssl_context=client_context)
        for _ in range(2):
            await check_echo(await connector.connect(HOST, port))
    assert connector.session_cache.statistics().stored == 0
    assert context.session_stats()["hits"] == 0


async def test_what_the_page_says_of_truststore() -> None:
    pytest.importorskip("truststore", reason="truststore is not installed")
    program = """
import ssl, truststore
from trio_tlsbio import TLSConnection
before = ssl.create_default_context()
truststore.inject_into_ssl()
TLSConnection(ssl.create_default_context(), server_hostname="a.example")
try:
    TLSConnection(before, server_hostname="a.example")
except TypeError as exc:
    print(exc)
server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
server.num_tickets = 5
server.sni_callback = print
print(server._ctx.num_tickets, server._ctx.sni_callback)
"""
    with trio.fail_after(60):
        done = await trio.run_process([sys.executable, "-c", program], capture_stdout=True)
    assert done.stdout.decode().splitlines() == [
        "ssl_context must be an ssl.SSLContext, not SSLContext: "
        "ssl.create_default_context(ssl.Purpose.SERVER_AUTH) makes one",
        "2 None",
    ]


@runs("trust.rst", "context = ssl.create_default_context(cafile=certifi.where())")
async def test_certifi(
    block: Block,
    ca: trustme.CA,
    context: ssl.SSLContext,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    logged: Logged,
) -> None:
    certifi = pytest.importorskip("certifi", reason="certifi is not installed")
    names = await block.run(ssl=ssl, certifi=certifi)
    assert names["context"].cert_store_stats()["x509_ca"] > 50
    async with serving(echo, context) as port:
        with pytest.raises(CertificateError):
            await check_echo(await connect(port, names["context"]))
        assert "(alert unknown_ca)" in await logged.receive_channel.receive()
        # A list that has our authority.
        path = pem_file(tmp_path, ca)
        monkeypatch.setattr(certifi, "where", lambda: path)
        names = await block.run(ssl=ssl, certifi=certifi)
        await check_echo(await connect(port, names["context"]))


@runs("trust.rst", "tcp_stream = await trio.open_tcp_stream(")
async def test_trust_another_name(
    block: Block, client_context: ssl.SSLContext, context: ssl.SSLContext
) -> None:
    async with serving(echo, context) as port:
        names = await block.run(trio=trio, port=port, TLSStream=TLSStream, context=client_context)
        await check_echo(names["stream"])
        assert names["stream"].handshake.matched_name == NAME


################################################################
# Certificates
################################################################


@runs("certificates.rst", "trio_tlsbio.load_identity(")
async def test_certificates_from_memory(
    block: Block, ca: trustme.CA, client_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    cert = ca.issue_cert(NAME)
    monkeypatch.setenv("TLS_CERTIFICATE", cert.cert_chain_pems[0].bytes().decode())
    monkeypatch.setenv("TLS_KEY", cert.private_key_pem.bytes().decode())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    await block.run(trio_tlsbio=trio_tlsbio, context=context, os=os)
    async with serving(echo, context) as port:
        await check_echo(await connect(port, client_context))
