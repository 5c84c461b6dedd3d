"""``connect`` as a user runs it: what is on which stream, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys

import pytest
import trio
import trustme

from tests.commands import COMMAND, TIMEOUT, Files, Stream, run, run_here
from tests.helpers import server_context_for

from .peers import echo, say_and_truncate, tls_server


async def test_our_own_server(server_context: ssl.SSLContext, files: Files) -> None:
    data = bytes(range(256)) * 8192  # more than fits on its way at once
    async with tls_server(echo, server_context) as port:
        result = await run("connect", f"localhost:{port}", "--cafile", files.ca, stdin=data)
    assert result.status == 0
    assert result.stdout == data
    assert result.fact("sent") == "2,097,152 bytes, then our close_notify"
    assert result.fact("received") == "2,097,152 bytes, then the server's close_notify"


async def test_servername_is_asked_for_and_checked(
    ca: trustme.CA, files: Files, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    asked: list[str | None] = []
    context = server_context_for(ca.issue_cert("*.wild.example"))
    context.sni_callback = lambda _obj, name, _context: asked.append(name)
    async with tls_server(echo, context) as port:
        result = await run_here(
            capfdbinary,
            *("connect", f"127.0.0.1:{port}", "--cafile", files.ca),
            *("--servername", "a.wild.example"),
        )
    assert result.status == 0
    assert result.fact("name matched") == "*.wild.example, for a.wild.example"
    assert asked == ["a.wild.example"]


async def test_insecure_says_so_and_shows_the_fingerprint(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    cert = trustme.CA().issue_cert("somebody.else.example")
    async with tls_server(echo, server_context_for(cert)) as port:
        result = await run_here(
            capfdbinary, "connect", f"127.0.0.1:{port}", "--insecure", stdin=b"hello"
        )
    assert (result.status, result.stdout) == (0, b"hello")
    assert result.stderr.startswith("warning: --insecure")
    assert result.fact("certificate") == "not verified"
    assert len(result.fact("SHA-256")) == 64


def _has_ipv6_loopback() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as sock:
            sock.bind(("::1", 0))
    except OSError:
        return False
    return True


@pytest.mark.skipif(not _has_ipv6_loopback(), reason="there is no IPv6 loopback")
async def test_ipv6(
    ca: trustme.CA, files: Files, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    context = server_context_for(ca.issue_cert("::1"))
    async with tls_server(echo, context, host="::1") as port:
        result = await run_here(
            capfdbinary, "connect", f"[::1]:{port}", "--cafile", files.ca, stdin=b"six"
        )
    assert (result.status, result.stdout) == (0, b"six")
    assert result.fact("name matched") == "::1"


async def test_https_compatible(
    server_cert: trustme.LeafCert, files: Files, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    seen: list[bytes] = []

    async def http(stream: Stream) -> None:
        seen.append(await stream.receive_some())
        await say_and_truncate(stream)

    async with tls_server(http, server_context_for(server_cert)) as port:
        result = await run_here(
            capfdbinary,
            *("connect", f"localhost:{port}", "--cafile", files.ca, "--https-compatible"),
            stdin=b"GET / HTTP/1.0\r\n\r\n",
        )
    assert (result.status, result.stdout) == (0, b"not all of ")
    assert seen == [b"GET / HTTP/1.0\r\n\r\n"]
    assert result.fact("sent") == "18 bytes, then no close_notify"
    assert (
        result.fact("received")
        == "11 bytes, then the end of the connection, without a close_notify"
    )


async def test_certificates_cannot_steer_the_terminal(
    ca: trustme.CA, files: Files, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    cert = ca.issue_cert("localhost", organization_name="\x1b]0;owned\x07\nversion: fake")
    async with tls_server(echo, server_context_for(cert)) as port:
        result = await run_here(capfdbinary, "connect", f"localhost:{port}", "--cafile", files.ca)
    assert result.status == 0
    assert "\x1b" not in result.stderr
    assert r"O=\x1b]0\;owned\x07\nversion: fake" in result.fact("certificate")


################################################################
# Standard input and output
################################################################


async def _stderr_until(process: trio.Process, text: bytes) -> bytes:
    assert process.stderr is not None
    said = b""
    with trio.fail_after(TIMEOUT):
        while text not in said:
            more = await process.stderr.receive_some()
            assert more, said
            said += more
    return said


async def _read_all(stream: trio.abc.ReceiveStream | None) -> bytes:
    assert stream is not None
    return b"".join([data async for data in stream])


async def test_closed_standard_input_sends_nothing(
    server_cert: trustme.LeafCert, files: Files
) -> None:
    async with tls_server(echo, server_context_for(server_cert)) as port:
        connect = [*COMMAND, "connect", f"localhost:{port}", "--cafile", files.ca]
        with trio.fail_after(TIMEOUT):
            done = await trio.run_process(
                ["/bin/sh", "-c", 'exec "$@" <&-', "sh", *connect],
                capture_stdout=True,
                capture_stderr=True,
                check=False,
            )
    assert (done.returncode, done.stdout) == (0, b"")
    assert b"0 bytes, then our close_notify" in done.stderr


async def test_closed_standard_error_leaves_data_alone(
    server_cert: trustme.LeafCert, files: Files
) -> None:
    async with tls_server(echo, server_context_for(server_cert)) as port:
        connect = [*COMMAND, "connect", f"localhost:{port}", "--cafile", files.ca]
        with trio.fail_after(TIMEOUT):
            done = await trio.run_process(
                ["/bin/sh", "-c", 'exec "$@" 2>&-', "sh", *connect],
                stdin=b"data",
                capture_stdout=True,
                check=False,
            )
    assert (done.returncode, done.stdout) == (0, b"data")


async def test_ends_with_the_server_while_input_stays_open(
    server_cert: trustme.LeafCert, files: Files
) -> None:
    async def greet(stream: Stream) -> None:
        await stream.send_all(b"good bye\n")

    async with tls_server(greet, server_context_for(server_cert)) as port:
        process = await trio.lowlevel.open_process(
            [*COMMAND, "connect", f"localhost:{port}", "--cafile", files.ca],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        with trio.fail_after(TIMEOUT):
            async with process.stdin:
                assert await _read_all(process.stdout) == b"good bye\n"
                stderr = await _read_all(process.stderr)
                assert await process.wait() == 0, stderr


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
async def test_terminal(server_cert: trustme.LeafCert, files: Files) -> None:
    master, slave = os.openpty()
    try:
        async with tls_server(echo, server_context_for(server_cert)) as port:
            process = await trio.lowlevel.open_process(
                [*COMMAND, "connect", f"localhost:{port}", "--cafile", files.ca],
                stdin=slave,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            os.write(master, b"typed\n\x04")
            with trio.fail_after(TIMEOUT):
                assert await _read_all(process.stdout) == b"typed\n"
                stderr = await _read_all(process.stderr)
                assert await process.wait() == 0, stderr
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGINT to send to one process")
async def test_ctrl_c_is_quiet(server_cert: trustme.LeafCert, files: Files) -> None:
    ends: list[bytes] = []

    async def listen(stream: Stream) -> None:
        ends.append(await stream.receive_some())

    async with tls_server(listen, server_context_for(server_cert)) as port:
        process = await trio.lowlevel.open_process(
            [*COMMAND, "connect", f"localhost:{port}", "--cafile", files.ca],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdin is not None
        said = await _stderr_until(process, b"name matched:  localhost\n")
        process.send_signal(signal.SIGINT)
        with trio.fail_after(TIMEOUT):
            said += await _read_all(process.stderr)
            assert await process.wait() == 130
            assert said.endswith(b"name matched:  localhost\n")
            assert await _read_all(process.stdout) == b""
            await process.stdin.aclose()
    assert ends == [b""]  # and the server was told by a close_notify


async def test_input_that_the_server_does_not_take(
    server_cert: trustme.LeafCert, files: Files
) -> None:
    async def one_word(stream: Stream) -> None:
        await stream.receive_some()
        await stream.send_all(b"enough\n")

    data = b"word " * 10_000_000
    async with tls_server(one_word, server_context_for(server_cert)) as port:
        result = await run("connect", f"localhost:{port}", "--cafile", files.ca, stdin=data)
    assert (result.status, result.stdout) == (0, b"enough\n")
    assert result.fact("note").startswith("the server did not take all of the input")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGPIPE to speak of")
async def test_nobody_reads_the_output(server_cert: trustme.LeafCert, files: Files) -> None:
    async def talk(stream: Stream) -> None:
        try:
            while True:
                await stream.send_all(b"x" * 65536)
        except trio.BrokenResourceError:
            pass

    async with tls_server(talk, server_context_for(server_cert)) as port:
        process = await trio.lowlevel.open_process(
            [*COMMAND, "connect", f"localhost:{port}", "--cafile", files.ca],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        assert process.stdout is not None
        with trio.fail_after(TIMEOUT):
            assert await process.stdout.receive_some(100) == b"x" * 100
            await process.stdout.aclose()
            stderr = await _read_all(process.stderr)
            assert await process.wait() == 141, stderr
    assert b"Traceback" not in stderr
    assert b"trio-tlsbio:" not in stderr
