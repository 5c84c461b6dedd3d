"""Further options of ``connect``: where the chain is kept, and how long it lives."""

from __future__ import annotations

import os
import ssl
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from tests.certificates import Certificate, Issued
from tests.commands import COMMAND, TIMEOUT, Files, Stream, document, refused, run_here
from tests.helpers import server_context_for
from tests.stream.bad_certificates.menu import authority

from .peers import Chain, echo, tls_server


def certificates_in(path: Path) -> list[bytes]:
    end = "-----END CERTIFICATE-----\n"
    *pem, rest = path.read_text().split(end)
    assert rest == ""
    return [ssl.PEM_cert_to_DER_cert(each + end) for each in pem]


def served(chain: Chain) -> list[bytes]:
    return [ssl.PEM_cert_to_DER_cert(pem.bytes().decode()) for pem in chain.cert.cert_chain_pems]


@pytest.mark.parametrize("form", ["https://localhost:{}", "HTTPS://localhost:{}/", "localhost:{}"])
async def test_urls(form: str, server: Chain, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    async with tls_server(echo, server_context_for(server.cert)) as port:
        connect = ("connect", form.format(port), "--cafile", server.ca)
        result = await run_here(capfdbinary, *connect, stdin=b"hello")
    assert (result.status, result.stdout) == (0, b"hello")
    assert result.fact("name matched") == "localhost"


################################################################
# The chain as a file
################################################################


@pytest.mark.parametrize("more", [(), ("--json",), ("--reconnect", "2")])
async def test_save_chain(
    more: tuple[str, ...],
    server: Chain,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    run = partial(run_here, capfdbinary)
    path = tmp_path / "chain.pem"
    async with tls_server(echo, server_context_for(server.cert)) as port:
        connect = ("connect", f"localhost:{port}", "--save-chain", str(path), *more)
        assert (await run(*connect, "--cafile", server.ca)).status == 0
        assert certificates_in(path) == served(server)
        path.unlink()
        assert (await run(*connect)).status == 3
        assert certificates_in(path) == served(server), "it is of use where it is refused, too"
        result = await run(*connect[:3], str(tmp_path / "no" / "chain.pem"), *more)
    assert result.status == 8


async def test_the_chain_can_not_be_saved(
    server: Chain, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    path = tmp_path / "no" / "chain.pem"
    async with tls_server(echo, server_context_for(server.cert)) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", server.ca, "--save-chain", str(path))
        result = await run_here(capfdbinary, *connect)
    assert refused(result, 8) == f"--save-chain {path}: No such file or directory"


################################################################
# How long it lives
################################################################


@pytest.fixture(scope="module")
def root() -> Issued:
    return authority("root", days=(-10, 1000)).signed_by(None)


@pytest.fixture
def cafile(root: Issued, tmp_path: Path) -> str:
    path = tmp_path / "root.pem"
    path.write_bytes(root.pem)
    return str(path)


async def test_expires_within(
    root: Issued, cafile: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run = partial(run_here, capfdbinary)
    leaf = Certificate(names=["localhost"], days=(-10, 10)).signed_by(root)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.load_into(context)
    async with tls_server(echo, context) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", cafile, "--expires-within")
        assert (await run(*connect, "9d")).status == 0
        assert (await run(*connect, "1w")).status == 0
        result = await run(*connect, "14d", stdin=b"said all the same")
        assert (result.status, result.stdout) == (9, b"said all the same")
        when = leaf.certificate.not_valid_after_utc
        message = (
            "the certificate, or one of its issuers, expires within 14 days: at "
            f"{when:%Y-%m-%d %H:%M} UTC"
        )
        assert f"trio-tlsbio: {message}" in result.stderr.splitlines()
        assert (await run(*connect, "241h", "--reconnect", "2")).status == 9
        value = document(await run(*connect, "14d", "--json"))
        assert value["connections"][0]["server_end"] == "close_notify"
        assert value["error"] == {
            "type": "expires_soon",
            "message": message,
            "alert": None,
            "hint": None,
            "exit_status": 9,
        }
        assert document(await run(*connect, "9d", "--json"))["error"] is None


async def test_an_issuer_expires_first(
    root: Issued, cafile: str, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run = partial(run_here, capfdbinary)
    issuer = authority(days=(-10, 5)).signed_by(root)
    unrelated = authority("unrelated", days=(-10, -5)).signed_by(root)
    leaf = Certificate(names=["localhost"], days=(-10, 30)).signed_by(issuer)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    leaf.load_into(context, issuer, unrelated)
    async with tls_server(echo, context) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", cafile, "--expires-within")
        result = await run(*connect, "4d")
        assert result.status == 0, "what the server presents needlessly does not count"
        result = await run(*connect, "7d")
    assert (result.status, "expires within 7 days" in result.stderr) == (9, True)


async def test_expired_and_not_checked(
    ca: trustme.CA, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    context = server_context_for(ca.issue_cert("localhost", not_after=yesterday))
    async with tls_server(echo, context) as port:
        connect = ("connect", f"localhost:{port}", "--insecure", "--expires-within", "1s")
        result = await run_here(capfdbinary, *connect)
    assert "issuers, has expired: at" in refused(result, 9)


################################################################
# On a terminal
################################################################


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pseudo-terminals")
@pytest.mark.parametrize("data", [b"text \xc3\xa4 \x1b[1m\n", b"\x89PNG\0\0"])
async def test_binary_data_does_not_go_to_a_terminal(
    data: bytes, server_context: ssl.SSLContext, files: Files
) -> None:
    async def greet(stream: Stream) -> None:
        await stream.send_all(data)

    ours, theirs = os.openpty()
    async with tls_server(greet, server_context) as port:
        with trio.fail_after(TIMEOUT):
            done = await trio.run_process(
                [*COMMAND, "connect", f"localhost:{port}", "--cafile", files.ca],
                stdin=subprocess.DEVNULL,
                stdout=theirs,
                capture_stderr=True,
                check=False,
            )
    os.set_blocking(ours, False)
    try:
        shown = os.read(ours, 1000)
    except BlockingIOError:
        shown = b""
    os.close(theirs)
    os.close(ours)
    if b"\0" in data:
        assert (done.returncode, shown) == (8, b"")
        assert b"trio-tlsbio: the server sent binary data" in done.stderr
    else:
        assert (done.returncode, shown) == (0, data.replace(b"\n", b"\r\n"))
