"""The client's certificate and key of ``connect``: encrypted keys, and files that are no good."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from pathlib import Path

import attrs
import pytest
import trio
import trustme
from cryptography.hazmat.primitives import serialization

from tests.commands import COMMAND, TIMEOUT, Files, refused, run_here
from tests.helpers import server_context_for

from .peers import echo, tls_server

# Runs a command with the terminal that it is given as the one that controls it.
ON_A_TERMINAL = """
import fcntl, os, sys, termios
os.setsid()
terminal = os.open(sys.argv[1], os.O_RDWR)
fcntl.ioctl(terminal, termios.TIOCSCTTY, 0)
os.execv(sys.argv[2], sys.argv[2:])
"""

posix = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such terminals")


@attrs.frozen
class Encrypted:
    cert: str
    key: str
    both: str


@pytest.fixture(scope="module")
def encrypted(ca: trustme.CA, tmp_path_factory: pytest.TempPathFactory) -> Encrypted:
    """A client's certificate, whose key takes a password."""
    folder = tmp_path_factory.mktemp("encrypted")
    cert = ca.issue_cert("client@client.example")
    key = serialization.load_pem_private_key(cert.private_key_pem.bytes(), None)
    key_pem = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"open sesame"),
    )
    cert_pem = cert.cert_chain_pems[0].bytes()
    for name, content in (("cert", cert_pem), ("key", key_pem), ("both", key_pem + cert_pem)):
        (folder / name).write_bytes(content)
    return Encrypted(*(str(folder / name) for name in ("cert", "key", "both")))


@pytest.fixture(scope="module")
def asking(ca: trustme.CA, server_cert: trustme.LeafCert) -> ssl.SSLContext:
    """The context of a server that wants a client certificate."""
    context = server_context_for(server_cert)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    return context


async def asked(*args: str, typed: bytes) -> tuple[int, str, str]:
    """Run the command on a terminal, answer its question, and return status, stderr, and what the
    terminal shows.
    """
    ours, theirs = os.openpty()
    shown = bytearray()

    def read_until(end: bytes | None) -> None:
        try:
            while (end is None or end not in shown) and (data := os.read(ours, 65536)):
                shown.extend(data)
        except OSError:  # the other side was closed
            pass

    with trio.fail_after(TIMEOUT):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-c", ON_A_TERMINAL, os.ttyname(theirs), *COMMAND, *args],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        await trio.to_thread.run_sync(read_until, b": ")
        os.write(ours, typed)
        assert process.stderr is not None
        stderr = b"".join([data async for data in process.stderr])
        status = await process.wait()
        os.close(theirs)
        await trio.to_thread.run_sync(read_until, None)
        assert process.stdout is not None
        await process.stdout.aclose()
    os.close(ours)
    return status, stderr.decode(), shown.decode()


@posix
@pytest.mark.parametrize("option", ["--json", None])
async def test_the_password_is_asked_for_once(
    option: str | None, asking: ssl.SSLContext, encrypted: Encrypted, files: Files
) -> None:
    async with tls_server(echo, asking) as port:
        connect = ["connect", f"localhost:{port}", "--cafile", files.ca, "--cert", encrypted.cert]
        status, stderr, shown = await asked(
            *(*connect, "--key", encrypted.key, *filter(None, [option])), typed=b"open sesame\n"
        )
    assert status == 0, stderr
    assert shown.split() == ["password", "for", "--key", f"{encrypted.key}:"]


@posix
async def test_a_wrong_password(encrypted: Encrypted) -> None:
    status, stderr, shown = await asked(
        "connect", "a.example", "--cert", encrypted.both, typed=b"wrong\n"
    )
    assert status == 2
    assert stderr == (
        f"trio-tlsbio: --cert {encrypted.both}: the private key can't be decrypted: the password "
        "is wrong, or the key is damaged\n"
    )
    assert shown.count("password for") == 1


@posix
async def test_ctrl_c_at_the_password(encrypted: Encrypted) -> None:
    status, stderr, _ = await asked(
        "connect", "a.example", "--cert", encrypted.both, typed=b"secr\x03"
    )
    assert (status, stderr) == (130, "")


@posix
async def test_no_terminal_to_ask_on(encrypted: Encrypted) -> None:
    with trio.fail_after(TIMEOUT):
        done = await trio.run_process(
            [*COMMAND, "connect", "a.example", "--cert", encrypted.both],
            stdin=b"open sesame\n",
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            start_new_session=True,  # which has no terminal
        )
    assert (done.returncode, done.stdout) == (2, b"")
    assert done.stderr.decode() == (
        f"trio-tlsbio: --cert {encrypted.both}: the private key is encrypted, and there is no "
        "terminal to ask for its password\n"
    )


async def test_what_is_wrong_with_a_file(
    ca: trustme.CA,
    server_cert: trustme.LeafCert,
    encrypted: Encrypted,
    files: Files,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    async def words(*args: str) -> str:
        return refused(await run_here(capfdbinary, "connect", "a.example", *args), 2)

    der, damaged = tmp_path / "cert.der", tmp_path / "damaged.pem"
    der.write_bytes(ssl.PEM_cert_to_DER_cert(ca.cert_pem.bytes().decode()))
    damaged.write_bytes(server_cert.private_key_pem.bytes().replace(b"-----\nM", b"-----\n!"))
    neither = "no certificate with its private key in PEM form was found"
    assert await words("--cert", files.ca) == f"--cert {files.ca}: {neither}"
    assert await words("--cert", encrypted.key) == f"--cert {encrypted.key}: {neither}"
    assert await words("--cert", str(der), "--key", encrypted.key) == (
        f"--cert {der}: no certificate in PEM form was found"
    )
    assert await words("--cert", files.client, "--key", files.ca) == (
        f"--key {files.ca}: no private key in PEM form was found"
    )
    assert await words("--cert", files.client, "--key", str(damaged)) == (
        f"--key {damaged}: the private key is damaged, or of a kind that OpenSSL does not know"
    )
    if sys.platform != "win32":
        assert await words("--cert", str(tmp_path)) == f"--cert {tmp_path}: Is a directory"
