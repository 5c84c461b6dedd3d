"""The commands as a user runs them: real processes, exit statuses, and what is on which stream."""

from __future__ import annotations

import datetime as dt
import errno
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import trio
import trustme

from tests.certificates import Certificate, Issued, rsa_key
from tests.commands import COMMAND, TIMEOUT, Files, Stream, facts, refused, run
from tests.helpers import server_context_for

from .peers import (
    drain,
    echo,
    openssl_server,
    plain_server,
    say_and_reset,
    say_and_truncate,
    tls_server,
)

################################################################
# demo
################################################################


async def test_demo_tells_its_story() -> None:
    result = await run("demo")
    assert result.status == 0
    assert result.stderr == ""
    text = result.stdout.decode()
    assert facts(text, "version") == ["TLSv1.3", "TLSv1.3"]
    assert all(cipher.startswith("TLS_") for cipher in facts(text, "cipher"))
    assert facts(text, "ALPN") == ["demo", "demo"]
    assert facts(text, "session") == ["new", "resumed"]
    assert facts(text, "certificate") == ["O=trio-tlsbio demo, OU=server"] * 2
    assert facts(text, "issued by") == ["O=trio-tlsbio demo, OU=throw-away CA"] * 2
    assert all(valid.endswith(" UTC, 6 days left") for valid in facts(text, "valid"))
    assert facts(text, "name matched") == ["*.demo.example, for www.demo.example"] * 2
    assert facts(text, "sent") == ["262,158 bytes, then our close_notify"] * 2
    assert facts(text, "received") == ["262,158 bytes, then the server's close_notify"] * 2
    steps = [line for line in text.splitlines() if " ms  " in line]
    assert len(steps) == 14
    assert text.isascii()


async def test_demo_without_trustme(tmp_path: Path) -> None:
    (tmp_path / "trustme.py").write_text("raise ImportError('not here')\n")
    result = await run("demo", env={"PYTHONPATH": str(tmp_path)})
    assert result.status == 7
    assert "pip install 'trio-tlsbio[demo]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
async def test_demo_to_a_full_disk() -> None:
    with trio.fail_after(TIMEOUT):
        done = await trio.run_process(
            ["/bin/sh", "-c", 'exec "$@" >/dev/full', "sh", *COMMAND, "demo"],
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 8
    assert done.stderr.decode() == f"trio-tlsbio: [Errno 28] {os.strerror(errno.ENOSPC)}\n"


################################################################
# connect: what works
################################################################


@pytest.mark.parametrize(("option", "version"), [("--tls12", "TLSv1.2"), ("--tls13", "TLSv1.3")])
async def test_openssl_server(files: Files, option: str, version: str) -> None:
    async with openssl_server(files) as port:
        result = await run(
            "connect", f"127.0.0.1:{port}", "--cafile", files.ca, option, stdin=b"abc\ndef\n"
        )
    assert result.status == 0
    assert result.stdout == b"cba\nfed\n"
    assert result.fact("version") == version
    assert result.fact("cipher").endswith(" bits")
    assert result.fact("ALPN") == "none"
    assert result.fact("session") == "new"
    assert result.fact("certificate").startswith("O=trustme")
    assert result.fact("issued by").startswith("O=trustme")
    assert result.fact("valid").startswith("2000-01-01 00:00 to ")
    assert result.fact("name matched") == "127.0.0.1"
    assert result.fact("sent") == "8 bytes, then our close_notify"
    assert result.fact("received") == "8 bytes, then the server's close_notify"


@pytest.mark.parametrize(("option", "version"), [("-tls1_2", "TLSv1.2"), ("-tls1_3", "TLSv1.3")])
async def test_takes_the_version_that_the_server_has(
    files: Files, option: str, version: str
) -> None:
    async with openssl_server(files, option) as port:
        result = await run("connect", f"localhost:{port}", "--cafile", files.ca)
    assert (result.status, result.stdout) == (0, b"")
    assert result.fact("version") == version
    assert result.fact("name matched") == "localhost"


async def test_alpn(files: Files) -> None:
    async with openssl_server(files, "-alpn", "h2") as port:
        result = await run(
            "connect", f"localhost:{port}", "--cafile", files.ca, "--alpn", "http/1.1,h2"
        )
    assert result.status == 0
    assert result.fact("ALPN") == "h2"


async def test_no_protocol_in_common(files: Files) -> None:
    async with openssl_server(files, "-alpn", "h2") as port:
        result = await run(
            "connect", f"localhost:{port}", "--cafile", files.ca, "--alpn", "http/1.1"
        )
    assert "alert no_application_protocol" in refused(result, 4)
    assert "--alpn" in result.fact("hint")


@pytest.mark.parametrize("option", ["--tls12", "--tls13"])
async def test_client_certificate(files: Files, option: str) -> None:
    wanted = ("-Verify", "1", "-verify_return_error", "-CAfile", files.ca)
    async with openssl_server(files, *wanted) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", files.ca, option)
        result = await run(*connect, "--cert", files.client, stdin=b"abc\n")
        assert (result.status, result.stdout) == (0, b"cba\n")
        result = await run(*connect, "--cert", files.client, "--key", files.client, stdin=b"abc\n")
        assert (result.status, result.stdout) == (0, b"cba\n")
        result = await run(*connect)
    message = refused(result, 4)
    assert "client certificate" in message
    assert "alert " in message
    assert result.fact("hint") == "--cert FILE and --key FILE present a client certificate"


async def test_our_own_server(server_context: ssl.SSLContext, files: Files) -> None:
    data = bytes(range(256)) * 8192  # more than fits on its way at once
    async with tls_server(echo, server_context) as port:
        result = await run("connect", f"localhost:{port}", "--cafile", files.ca, stdin=data)
    assert result.status == 0
    assert result.stdout == data
    assert result.fact("sent") == "2,097,152 bytes, then our close_notify"
    assert result.fact("received") == "2,097,152 bytes, then the server's close_notify"


async def test_servername_is_asked_for_and_checked(ca: trustme.CA, files: Files) -> None:
    asked: list[str | None] = []
    context = server_context_for(ca.issue_cert("*.wild.example"))
    context.sni_callback = lambda _obj, name, _context: asked.append(name)
    async with tls_server(echo, context) as port:
        result = await run(
            *("connect", f"127.0.0.1:{port}", "--cafile", files.ca),
            *("--servername", "a.wild.example"),
        )
    assert result.status == 0
    assert result.fact("name matched") == "*.wild.example, for a.wild.example"
    assert asked == ["a.wild.example"]


async def test_insecure_says_so_and_shows_the_fingerprint() -> None:
    cert = trustme.CA().issue_cert("somebody.else.example")
    async with tls_server(echo, server_context_for(cert)) as port:
        result = await run("connect", f"127.0.0.1:{port}", "--insecure", stdin=b"hello")
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
async def test_ipv6(ca: trustme.CA, files: Files) -> None:
    context = server_context_for(ca.issue_cert("::1"))
    async with tls_server(echo, context, host="::1") as port:
        result = await run("connect", f"[::1]:{port}", "--cafile", files.ca, stdin=b"six")
    assert (result.status, result.stdout) == (0, b"six")
    assert result.fact("name matched") == "::1"


async def test_https_compatible(server_cert: trustme.LeafCert, files: Files) -> None:
    seen: list[bytes] = []

    async def http(stream: Stream) -> None:
        seen.append(await stream.receive_some())
        await say_and_truncate(stream)

    async with tls_server(http, server_context_for(server_cert)) as port:
        result = await run(
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


async def test_certificates_cannot_steer_the_terminal(ca: trustme.CA, files: Files) -> None:
    cert = ca.issue_cert("localhost", organization_name="\x1b]0;owned\x07\nversion: fake")
    async with tls_server(echo, server_context_for(cert)) as port:
        result = await run("connect", f"localhost:{port}", "--cafile", files.ca)
    assert result.status == 0
    assert "\x1b" not in result.stderr
    assert r"O=\x1b]0;owned\x07\nversion: fake" in result.fact("certificate")


################################################################
# connect: standard input and output
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


################################################################
# connect: what fails, and how that is told
################################################################


async def test_connection_refused() -> None:
    with socket.socket() as sock:  # bound, but not listening
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        result = await run("connect", f"127.0.0.1:{port}")
    assert refused(result, 1) == (
        f"can't connect to 127.0.0.1 port {port}: {os.strerror(errno.ECONNREFUSED)}"
    )


async def test_name_not_found() -> None:
    result = await run("connect", "nowhere.invalid")  # RFC 6761: never exists
    assert refused(result, 1).startswith("can't connect to nowhere.invalid port 443: ")


async def test_tcp_timeout() -> None:
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
            result = await run("connect", f"127.0.0.1:{port}", "--timeout", "0.5")
        finally:
            for sock in fillers:
                sock.close()
    if result.status == 5:
        pytest.skip("this kernel's backlog is never full")
    assert refused(result, 1) == (
        f"can't connect to 127.0.0.1 port {port}: no answer within 0.5 seconds"
    )


async def test_wrong_name(server_cert: trustme.LeafCert, files: Files) -> None:
    async with tls_server(echo, server_context_for(server_cert)) as port:
        result = await run(
            *("connect", f"127.0.0.1:{port}", "--cafile", files.ca),
            *("--servername", "other.example"),
        )
    message = refused(result, 3)
    assert message == (
        "the certificate is for server.example, localhost, 127.0.0.1, not other.example"
    )
    assert "--servername" in result.fact("hint")


async def test_unknown_ca(server_cert: trustme.LeafCert) -> None:
    async with tls_server(echo, server_context_for(server_cert)) as port:
        result = await run("connect", f"localhost:{port}")
    assert "issuer is not trusted" in refused(result, 3)
    assert "--cafile" in result.fact("hint")


async def test_expired_certificate(ca: trustme.CA, files: Files) -> None:
    yesterday = dt.datetime.now(dt.UTC) - dt.timedelta(days=1)
    context = server_context_for(ca.issue_cert("localhost", not_after=yesterday))
    async with tls_server(echo, context) as port:
        result = await run("connect", f"localhost:{port}", "--cafile", files.ca)
    assert (
        refused(result, 3)
        == "the peer's certificate was refused: it, or one of its issuers, has expired"
    )


async def test_plain_http_server() -> None:
    async def http(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        await stream.send_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")

    async with plain_server(http) as port:
        result = await run("connect", f"localhost:{port}")
    assert "does not speak TLS" in refused(result, 4)


@pytest.mark.parametrize(("option", "server"), [("--tls12", "-tls1_3"), ("--tls13", "-tls1_2")])
async def test_no_version_in_common(files: Files, option: str, server: str) -> None:
    async with openssl_server(files, server) as port:
        result = await run("connect", f"localhost:{port}", "--cafile", files.ca, option)
    assert "alert protocol_version" in refused(result, 4)


async def test_silent_server() -> None:
    async with plain_server(drain) as port:
        result = await run("connect", f"localhost:{port}", "--timeout", "0.5")
    assert "within 0.5 seconds" in refused(result, 5)


async def test_closed_in_the_handshake() -> None:
    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()

    async with plain_server(hang_up) as port:
        result = await run("connect", f"localhost:{port}")
    assert "during the handshake" in refused(result, 6)


@pytest.mark.parametrize("handler", [say_and_truncate, say_and_reset])
async def test_truncated(
    handler: Callable[[Stream], Awaitable[None]], server_context: ssl.SSLContext, files: Files
) -> None:
    async with tls_server(handler, server_context) as port:
        result = await run("connect", f"localhost:{port}", "--cafile", files.ca, stdin=b"?")
    assert result.status == 6
    assert result.stdout == b"not all of "  # what was genuine is there
    assert result.fact("received").startswith("11 bytes, then ")
    assert "trio-tlsbio: the " in result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "COMMAND"),
        (("dance",), "invalid choice: 'dance'"),
        (("connect",), "HOST[:PORT]"),
        (("connect", "https://a.example/"), "not a URL"),
        (("connect", "a.example:0"), "the port must be"),
        (("connect", "a.example:http"), "the port must be"),
        (("connect", "a.example:"), "the port must be"),
        (("connect", "[::1]443"), "the port must be"),
        (("connect", ""), "not a host name"),
        (("connect", ":443"), "not a host name"),
        (("connect", "a.example", "--servername", ".example"), "not a host name"),
        (("connect", "a.example", "--timeout", "0"), "seconds above 0"),
        (("connect", "a.example", "--timeout", "nan"), "seconds above 0"),
        (("connect", "a.example", "--timeout", "soon"), "seconds above 0"),
        (("connect", "a.example", "--alpn", "h2,,h3"), "not a list"),
        (("connect", "a.example", "--cafile", "no/such.pem"), os.strerror(errno.ENOENT)),
        (("connect", "a.example", "--tls12", "--tls13"), "not allowed with"),
        (("connect", "a.example", "--insecure", "--cafile", __file__), "not allowed with"),
        (("connect", "a.example", "--cafile", __file__), "no certificate in PEM form"),
        (("connect", "a.example", "--cert", __file__), "no certificate with its private key"),
        (("connect", "a.example", "--key", __file__), "--key needs --cert"),
    ],
)
async def test_usage_errors(args: tuple[str, ...], words: str) -> None:
    result = await run(*args)
    assert (result.status, result.stdout) == (2, b"")
    assert words in result.stderr.splitlines()[-1]


async def test_key_of_another_certificate(files: Files) -> None:
    result = await run("connect", "a.example", "--cert", files.client, "--key", files.server)
    assert refused(result, 2) == (
        f"--cert {files.client}: the private key belongs to another certificate"
    )


async def test_key_that_is_too_weak(ca: trustme.CA, tmp_path: Path) -> None:
    pem = tmp_path / "weak.pem"
    weak = Certificate(key=rsa_key(1024)).signed_by(Issued.of(ca))
    pem.write_bytes(weak.key_pem + weak.pem)
    result = await run("connect", "a.example", "--cert", str(pem))
    assert "is too weak for OpenSSL's security level" in refused(result, 2)


@pytest.mark.parametrize("args", [("--help",), ("connect", "--help"), ("demo", "--help")])
async def test_help_lists_the_exit_statuses(args: tuple[str, ...]) -> None:
    result = await run(*args, env={"COLUMNS": "80"})
    assert (result.status, result.stderr) == (0, "")
    text = result.stdout.decode()
    listed = text.partition("exit status:\n")[2].split("\n")
    assert [int(line.split()[0]) for line in listed if line] == [*range(9), 130, 141]
    assert max(map(len, text.splitlines())) <= 100


async def test_version() -> None:
    result = await run("--version")
    assert result.status == 0
    assert result.stdout.startswith(b"trio-tlsbio ")
