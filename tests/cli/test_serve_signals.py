"""``serve`` and signals: new certificates, and an end that waits for clients."""

from __future__ import annotations

import signal
import ssl
from pathlib import Path

import pytest
import trio
import trio.testing
import trustme

from tests.commands import Server, Stream, serve
from trio_tlsbio import TruncationError
from trio_tlsbio.core import State

from .peers import connect, exchange, posix

BEGIN, REST = b"GET / HT", b"TP/1.1\r\n\r\n"


async def _in_a_request(server: Server, context: ssl.SSLContext) -> Stream:
    """Connect, and begin a request, for whose rest the server waits."""
    stream = await connect(server, context)
    await stream.send_all(BEGIN)
    return stream


async def _presented(server: Server, context: ssl.SSLContext) -> str:
    """Return the organization in the certificate that a new client sees."""
    async with await connect(server, context) as stream:
        await stream.do_handshake()
        assert stream.handshake.peer_certificate is not None
        subject = stream.handshake.peer_certificate["subject"]
        names: dict[str, str] = dict(entry for rdn in subject for entry in rdn)
        return names["organizationName"]


@posix
async def test_sighup_reloads_the_certificate(
    ca: trustme.CA, tmp_path: Path, context: ssl.SSLContext
) -> None:
    pem = tmp_path / "\x07server.pem"  # what is told of it must not ring the bell

    def renew(name: str) -> None:
        cert = ca.issue_cert("127.0.0.1", organization_name=name)
        cert.private_key_and_cert_chain_pem.write_to_path(pem)

    renew("first")
    async with serve("--cert", pem) as server:
        assert await _presented(server, context) == "first"
        old = await connect(server, context)
        await exchange(old, b"before")

        renew("second")
        server.process.send_signal(signal.SIGHUP)
        await server.until("reloaded:")  # without any client
        assert await _presented(server, context) == "second"

        pem.write_text("nothing of use")
        server.process.send_signal(signal.SIGHUP)
        await server.until("not reloaded:")
        assert await _presented(server, context) == "second"

        assert await exchange(old, b"after") == b"after"
        await old.aclose()
        result = await server.end()
    assert result.status == 0
    assert result.fact("reloaded") == "new connections get the new certificate"
    assert result.fact("not reloaded") == "the old certificate stays in use"
    told = str(pem).replace("\x07", r"\x07")
    assert f"--cert {told}: no certificate with its private key in PEM form" in result.stderr
    assert "\x07" not in result.stderr
    assert result.fact("broken") == "0"


async def test_changed_file_is_noticed_without_a_signal(
    ca: trustme.CA, tmp_path: Path, context: ssl.SSLContext
) -> None:
    pem, renewed = tmp_path / "server.pem", tmp_path / "renewed.pem"
    for name, path in (("first", pem), ("second", renewed)):
        cert = ca.issue_cert("127.0.0.1", organization_name=name)
        cert.private_key_and_cert_chain_pem.write_to_path(path)
    async with serve("--cert", pem) as server:
        assert await _presented(server, context) == "first"
        renewed.replace(pem)
        assert await _presented(server, context) == "second"
        await server.until("reloaded:")


@posix
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_first_signal_drains(
    number: signal.Signals, pem: Path, context: ssl.SSLContext
) -> None:
    async with serve("--cert", pem, "--www") as server:
        idle = await connect(server, context)
        await idle.do_handshake()
        busy = await _in_a_request(server, context)
        server.process.send_signal(number)
        await server.until("draining:")

        # A close_notify at once: anything else would raise a TruncationError.
        assert await idle.receive_some() == b""
        await idle.aclose()
        with pytest.raises(OSError, match="all attempts to connect"):
            await trio.open_tcp_stream("127.0.0.1", server.port)

        await busy.send_all(REST)
        answer = b"".join([data async for data in busy])
        assert answer.startswith(b"HTTP/1.1 200 OK\r\n")
        assert busy.connection.receive_state is State.CLOSED
        await busy.aclose()
        result = await server.end(None)
    assert result.status == 0
    assert result.fact("draining") == "2 connections open, for at most 10 seconds"
    assert result.fact("established") == "2"
    assert result.fact("broken") == "0"


@posix
async def test_drain_of_an_echo(pem: Path, context: ssl.SSLContext) -> None:
    async with serve("--cert", pem) as server:
        stream = await connect(server, context)
        assert await exchange(stream, b"hello") == b"hello"
        server.process.send_signal(signal.SIGTERM)
        assert await stream.receive_some() == b""
        await stream.aclose()
        assert (await server.end(None)).status == 0


@posix
async def test_drain_does_not_wait_for_clients_that_keep_silent(
    pem: Path, context: ssl.SSLContext
) -> None:
    async with serve("--cert", pem, "--drain-timeout", "3600") as server:
        silent = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with await connect(server, context) as stream:
            assert await exchange(stream, b"hello") == b"hello"
        result = await server.end()
        assert await silent.receive_some() == b""
        await silent.aclose()
    assert result.status == 0
    assert result.fact("failed") == "1 (truncated 1)"
    assert "connection from" not in result.stderr


@posix
async def test_drain_takes_no_longer_than_it_may(pem: Path, context: ssl.SSLContext) -> None:
    async with serve("--cert", pem, "--www", "--drain-timeout", "0.3") as server:
        stream = await _in_a_request(server, context)
        result = await server.end()
        assert result.status == 0
        assert result.fact("draining") == "1 connection open, for at most 0.3 seconds"
        assert result.fact("established") == "1"  # statistics are told all the same
        with pytest.raises(TruncationError):
            await stream.receive_some()
        await trio.aclose_forcefully(stream)


@posix
async def test_second_signal_ends_at_once(pem: Path, context: ssl.SSLContext) -> None:
    async with serve("--cert", pem, "--www", "--drain-timeout", "3600") as server:
        stream = await _in_a_request(server, context)
        server.process.send_signal(signal.SIGTERM)
        await server.until("draining:")
        result = await server.end()
        assert result.status == 130
        assert result.fact("established") == "1"
        assert result.stderr.splitlines()[-1].startswith("handshake:")
        await trio.aclose_forcefully(stream)
