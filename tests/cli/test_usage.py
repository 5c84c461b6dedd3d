"""Commands that end before they begin: usage errors, missing extras, help and version."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import trustme

from tests.certificates import Certificate, Issued, rsa_key
from tests.commands import Files, Result, refused, run
from trio_tlsbio.cli import main

Command = Callable[..., Result]


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Run a command to its end, in this process."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("PYTHON_COLORS", "0")  # else FORCE_COLOR colours help since Python 3.14

    def run_it(*args: str) -> Result:
        status: Any
        try:
            status = main(args)
        except SystemExit as exc:
            status = exc.code
        out, err = capsys.readouterr()
        return Result(status, out.encode(), err)

    return run_it


################################################################
# Usage errors
################################################################


def check_usage_error(result: Result, words: str) -> None:
    assert (result.status, result.stdout) == (2, b"")
    message, *hint = result.stderr.splitlines()
    assert words in message
    assert message.startswith("trio-tlsbio")
    assert len(hint) <= 1
    assert all(line.startswith("       hint: trio-tlsbio ") for line in hint)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("demo", "more"), "unrecognized arguments"),  # argparse finds it
        (("connect", "a.example", "--key", __file__), "--key needs --cert"),  # the command does
    ],
)
async def test_usage_errors_of_a_process(args: tuple[str, ...], words: str) -> None:
    check_usage_error(await run(*args), words)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ((), "COMMAND"),
        (("dance",), "invalid choice: 'dance'"),
        (("demo", "more"), "unrecognized arguments"),
        (("connect",), "HOST[:PORT]"),
        (("connect", "https://a.example/page"), "without a path"),
        (("connect", "https://a.example?"), "without a path"),
        (("connect", "https://a.example//"), "without a path"),
        (("connect", "http://a.example"), "without a path"),
        (("connect", "https://user@a.example"), "not a host name"),
        (("connect", "https://"), "not a host name"),
        (("connect", "https://a.example:0"), "the port must be"),
        (("connect", "a.example", "--expires-within", "14"), "a whole number and a unit"),
        (("connect", "a.example", "--expires-within", "d"), "a whole number and a unit"),
        (("connect", "a.example", "--expires-within=-1d"), "a whole number and a unit"),
        (("connect", "a.example", "--expires-within", "1.5d"), "a whole number and a unit"),
        (("connect", "a.example", "--expires-within", "999999999w"), "too long"),
        (("connect", "a.example", "\x1b[31m"), r"\x1b[31m"),
        (("connect", "a.example", "443"), "443 (HOST:PORT is a single argument)"),
        (("connect", "a.example", "443", "--insecure"), "443 (HOST:PORT is a single argument)"),
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
        (("connect", "a.example", "--reconnect", "0"), "not a number from 1"),
        (("connect", "a.example", "--reconnect", "many"), "not a number from 1"),
        (("connect", "a.example", "--starttls", "ftp"), "invalid choice"),
        (("connect", "a.example", "--proxy-header", "v3"), "invalid choice"),
    ],
)
def test_usage_errors(args: tuple[str, ...], words: str, command: Command) -> None:
    check_usage_error(command(*args), words)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("--port", "65536"), "the port must be"),
        (("--port", "https"), "the port must be"),
        (("--port=-1",), "the port must be"),
        (("--host", ""), "not a host name"),
        (("--host", "no_such_name"), "no certificate can be made for this name"),
        (("--cert", "no/such.pem"), os.strerror(errno.ENOENT)),
        (("--cert", __file__), "no certificate with its private key"),
        (("--key", __file__), "--key needs --cert"),
        (("--client-ca", __file__), "no certificate in PEM form"),
        (("--client-cert", "optional"), "--client-cert needs --client-ca"),
        (("--client-cert", "perhaps"), "invalid choice"),
        (("--alpn", "h2,,h3"), "not a list"),
        (("--tls12", "--tls13"), "not allowed with"),
        (("--handshake-timeout", "0"), "seconds above 0"),
        (("--drain-timeout", "soon"), "seconds above 0"),
        (("--max-connections", "0"), "not a number above 0"),
        (("--proxy-protocol", "localhost"), "not an IP address or network that can be trusted"),
        (("--proxy-protocol", "127.0.0.1,"), "not an IP address or network that can be trusted"),
        (("--strict-alpn",), "--strict-alpn needs --alpn"),
        (("more",), "unrecognized arguments"),
        (("--directory", "."), "unrecognized arguments"),
    ],
)
def test_usage_errors_of_serve(args: tuple[str, ...], words: str, command: Command) -> None:
    check_usage_error(command("serve", *args), words)


def test_key_of_another_certificate(files: Files, command: Command) -> None:
    result = command("connect", "a.example", "--cert", files.client, "--key", files.server)
    assert refused(result, 2) == (
        f"--key {files.server}: the private key does not belong to --cert {files.client}"
    )


def test_key_that_is_too_weak(ca: trustme.CA, tmp_path: Path, command: Command) -> None:
    pem = tmp_path / "weak.pem"
    weak = Certificate(key=rsa_key(1024)).signed_by(Issued.of(ca))
    pem.write_bytes(weak.key_pem + weak.pem)
    result = command("connect", "a.example", "--cert", str(pem))
    assert refused(result, 2) == (
        f"--cert {pem}: the certificate's key, or that of an issuer, is too weak for this "
        "security level"
    )


def test_encrypted_key_is_not_asked_for(
    server_cert: trustme.LeafCert, tmp_path: Path, command: Command
) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(server_cert.private_key_pem.bytes(), None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"password"),
    )
    pem = tmp_path / "encrypted.pem"
    pem.write_bytes(encrypted + server_cert.cert_chain_pems[0].bytes())
    result = command("serve", "--port", "0", "--cert", str(pem))
    assert refused(result, 2) == f"--cert {pem}: the private key is encrypted"


################################################################
# Help and version
################################################################


@pytest.mark.parametrize(
    "args", [("--help",), ("connect", "--help"), ("demo", "--help"), ("serve", "--help")]
)
def test_help_lists_the_exit_statuses(args: tuple[str, ...], command: Command) -> None:
    result = command(*args)
    assert (result.status, result.stderr) == (0, "")
    text = result.stdout.decode()
    listed = text.partition("exit status:\n")[2].split("\n")
    assert [int(line.split()[0]) for line in listed if line] == [*range(10), 130, 141]
    assert max(map(len, text.splitlines())) <= 100


async def test_version() -> None:
    result = await run("--version")
    assert result.status == 0
    assert result.stdout.startswith(b"trio-tlsbio ")


################################################################
# What can't be served
################################################################


async def test_missing_trustme(tmp_path: Path) -> None:
    (tmp_path / "trustme.py").write_text("raise ImportError('not here')\n")
    result = await run("serve", "--port", "0", env={"PYTHONPATH": str(tmp_path)})
    assert "requires trustme: in a clone of trio-tlsbio, pip install '.[demo]'" in refused(
        result, 7
    )
    assert len(result.stderr.splitlines()) == 1


async def test_port_in_use(pem: Path) -> None:
    with closing(socket.socket()) as sock:
        sock.bind(("127.0.0.1", 0))
        sock.listen()
        port = sock.getsockname()[1]
        result = await run("serve", "--cert", str(pem), "--port", str(port))
    assert refused(result, 8) == (
        f"can't listen on 127.0.0.1 port {port}: {os.strerror(errno.EADDRINUSE)}"
    )


async def test_host_that_is_not_found(pem: Path) -> None:
    result = await run("serve", "--cert", str(pem), "--host", "nowhere.invalid")  # RFC 6761
    assert refused(result, 8).startswith("can't listen on nowhere.invalid port 4433: ")
