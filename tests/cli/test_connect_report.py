"""What ``connect`` tells, in each of its ways: lines, a JSON document, colours, a table."""

from __future__ import annotations

import os
import re
import ssl
import stat
import subprocess
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme
from cryptography import x509

from tests.certificates import Certificate, Issued
from tests.commands import COMMAND, TIMEOUT, Stream, document, refused, run, run_here
from tests.helpers import NAME, both_handshakes, server_context_for, tcp_pair, wrap_pair
from trio_tlsbio import TLSStream, TruncationError

from .peers import Chain, echo, tls_server


async def silent(stream: Stream) -> None:
    """Say nothing, and end when the client does."""
    async for _ in stream:
        pass


################################################################
# The chain
################################################################


@pytest.mark.parametrize("is_resumed", [False, True])
async def test_decoded_chain(
    client_context: ssl.SSLContext, tls_version: ssl.TLSVersion, server: Chain, is_resumed: bool
) -> None:
    server_context = server_context_for(server.cert, tls_version)
    session = None
    for _ in range(1 + is_resumed):
        async with tcp_pair() as transports:
            client, peer = wrap_pair(*transports, client_context, server_context)
            if session is not None:
                client = TLSStream(
                    transports[0], client_context, server_hostname=NAME, session=session
                )
            await both_handshakes(client, peer)
            await peer.send_all(b"x")
            await client.receive_some()  # and the tickets
            session = client.session
            chain = client.handshake.decoded_chain
            assert len(chain) == len(client.handshake.peer_certificate_chain)
            assert peer.handshake.decoded_chain == peer.handshake.certificate_names == ()
    assert client.session_reused is is_resumed
    assert chain[0] == client.getpeercert()
    if not is_resumed:
        assert chain[1]["subject"] == chain[0]["issuer"]


async def test_decoded_chain_that_is_not_verified(server: Chain) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with tcp_pair() as transports:
        client, peer = wrap_pair(*transports, context, server_context_for(server.cert))
        await both_handshakes(client, peer)
        assert client.getpeercert() == {}
        assert ("DNS", NAME) in client.handshake.decoded_chain[0]["subjectAltName"]
        assert client.handshake.certificate_names == (), "nobody has verified it"


async def test_chain_in_lines(server: Chain, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    run = partial(run_here, capfdbinary)
    async with tls_server(echo, server_context_for(server.cert)) as port:
        result = await run("connect", f"localhost:{port}", "--cafile", server.ca)
        unchecked = await run("connect", f"localhost:{port}", "--insecure")
    assert result.fact("key") == "EC secp256r1, 256 bits"
    assert result.fact("names") == f"{NAME}, localhost (matched), 127.0.0.1"
    assert result.fact("chain, 1 up") == result.fact("issued by")
    assert re.search(
        r"^ +2000-01-01 .* days left; EC secp256r1, 256 bits$", result.stderr, re.MULTILINE
    )
    assert unchecked.fact("certificate") == "not verified"
    assert unchecked.fact("presented") == result.fact("certificate")


################################################################
# JSON
################################################################


async def test_json(server: Chain, tls_version: ssl.TLSVersion) -> None:
    context = server_context_for(server.cert, tls_version)
    async with tls_server(echo, context) as port:
        result = await run(
            *("connect", f"localhost:{port}", "--cafile", server.ca, "--json", "--timeline"),
            stdin=b"this is not sent",
        )
    value = document(result)
    assert (result.status, result.stderr) == (0, "")
    assert value["error"] is value["summary"] is None
    assert value["target"] == {
        "host": "localhost",
        "port": port,
        "server_name": "localhost",
        "starttls": None,
    }
    (connection,) = value["connections"]
    assert (connection["address"], connection["port"]) == ("127.0.0.1", port)
    assert connection["server_end"] == "close_notify"
    assert connection["starttls_seconds"] is None
    handshake = connection["handshake"]
    assert handshake["version"] == tls_version.name.replace("_", ".")
    assert handshake["session_reused"] is False
    assert handshake["verified"] is True
    assert handshake["matched_name"] == "localhost"
    leaf, issuer = handshake["certificates"]
    assert leaf["subject"] == f"O=Example, {leaf['subject'].partition(', ')[2]}"
    assert leaf["issuer"] == issuer["subject"]
    assert leaf["names"] == [NAME, "localhost", "127.0.0.1"]
    assert leaf["not_before"] == "2000-01-01T00:00:00+00:00"
    assert leaf["days_left"] > 300_000
    assert leaf["key"] == {"kind": "EC secp256r1", "bits": 256}
    assert len(leaf["sha256"]) == 64
    flights = connection["timeline"]["flights"]
    assert flights[0]["direction"] == "sent"
    assert flights[0]["records"][0]["messages"] == ["ClientHello"]
    assert flights[1]["records"][0]["messages"] == ["ServerHello"]
    assert sum(item["size"] for item in flights[0]["records"]) == flights[0]["size"]
    assert connection["timeline"]["bytes_not_kept"] == 0


async def test_names_of_each_kind(
    ca: trustme.CA, server: Chain, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run = partial(run_here, capfdbinary)
    spiffe_id = "spiffe://example.org/web"
    others = x509.UniformResourceIdentifier(spiffe_id), x509.RFC822Name("web@example.org")
    issued = Certificate(names=["localhost", *others]).signed_by(Issued.of(ca))
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    issued.load_into(context)
    async with tls_server(echo, context) as port:
        connect = ("connect", f"localhost:{port}")
        result = await run(*connect, "--cafile", server.ca)
        insecure = await run(*connect, "--insecure")
        value = document(await run(*connect, "--cafile", server.ca, "--json"))
    handshake = value["connections"][0]["handshake"]
    assert result.fact("names") == f"localhost (matched), {spiffe_id}, web@example.org"
    assert result.fact("SPIFFE ID") == spiffe_id
    assert insecure.status == 0
    assert "SPIFFE ID" not in insecure.stderr, "nobody has verified it"
    (leaf,) = handshake["certificates"]
    assert (leaf["names"], leaf["uris"], leaf["emails"]) == (
        ["localhost"],
        [spiffe_id],
        ["web@example.org"],
    )
    assert handshake["spiffe_id"] == spiffe_id


async def test_json_errors(
    server: Chain, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run = partial(run_here, capfdbinary)
    async with tls_server(echo, server_context_for(server.cert)) as port:
        connect = ("connect", f"localhost:{port}", "--json")
        value = document(
            await run(*connect, "--cafile", server.ca, "--servername", "other.example")
        )
        assert value["exit_status"] == 3
        assert value["error"] == {
            "type": "certificate_verify_failed",
            "message": f"the certificate is for {NAME}, localhost, 127.0.0.1, not other.example",
            "alert": None,
            "hint": "--servername NAME asks for another name, and checks that one",
            "exit_status": 3,
        }
        assert value["connections"][0]["handshake"] is None
        value = document(await run(*connect, "--cafile", server.ca, "--tls12", "--timeline"))
        assert (value["exit_status"], value["error"]["alert"]) == (4, "protocol_version")
        records = value["connections"][0]["timeline"]["flights"][-1]["records"]
        assert records[-1]["messages"] == ["protocol_version"]
    value = document(await run(*connect))
    assert (value["exit_status"], value["error"]["type"]) == (1, "no_connection")
    assert value["connections"] == []
    value = document(await run(*connect, "--key", str(server.pem)))
    assert value["error"]["type"] == "usage"
    assert value["error"]["message"] == "--key needs --cert"


async def test_json_tells_that_a_client_certificate_is_missing(
    ca: trustme.CA, server: Chain, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    # In TLS 1.3 a server refuses after the client's handshake is done.
    context = server_context_for(server.cert)
    context.verify_mode = ssl.CERT_REQUIRED
    ca.configure_trust(context)
    async with tls_server(echo, context) as port:
        result = await run_here(
            capfdbinary, "connect", f"localhost:{port}", "--cafile", server.ca, "--json"
        )
    value = document(result)
    assert (result.status, value["error"]["alert"]) == (4, "certificate_required")
    assert value["error"]["type"] == "alert_certificate_required"
    assert "--cert" in value["error"]["hint"]
    assert value["connections"][0]["handshake"]["version"] == "TLSv1.3"


async def test_json_does_not_wait_for_a_server_without_end(
    server: Chain, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async def deaf(stream: Stream) -> None:
        await trio.sleep_forever()

    async with tls_server(deaf, server_context_for(server.cert)) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", server.ca, "--timeout", "0.5")
        value = document(await run_here(capfdbinary, *connect, "--json"))
        assert (value["exit_status"], value["connections"][0]["server_end"]) == (0, "open")


@pytest.mark.parametrize("option", [(), ("--https-compatible",)])
async def test_json_from_servers_that_send_no_close_notify(
    server: Chain, option: tuple[str, ...], capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async def cut(stream: Stream) -> None:
        with suppress(TruncationError):
            await stream.receive_some()
        await stream.transport_stream.aclose()

    async with tls_server(cut, server_context_for(server.cert)) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", server.ca, *option)
        value = document(await run_here(capfdbinary, *connect, "--json"))
    assert value["error"] is None
    assert value["connections"][0]["server_end"] == "truncated"


################################################################
# Several connections
################################################################


async def test_reconnect_to_a_server_that_says_nothing(
    server: Chain, tls_version: ssl.TLSVersion, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async with tls_server(silent, server_context_for(server.cert, tls_version)) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", server.ca, "--reconnect", "4")
        result = await run_here(capfdbinary, *connect)
        value = document(await run_here(capfdbinary, *connect, "--json", "--timeline"))
    assert (result.status, result.stdout) == (0, b"")
    rows = [line.split() for line in result.stderr.splitlines() if re.match(r" +\d ", line)]
    version = tls_version.name.replace("_", ".")
    assert [(row[0], *row[5:]) for row in rows] == [
        (str(number), "new" if number == 1 else "resumed", version, "close_notify")
        for number in range(1, 5)
    ]
    assert result.fact("summary").startswith("4 connections, 3 resumed; median: TCP ")
    reused = [item["handshake"]["session_reused"] for item in value["connections"]]
    assert reused == [False, True, True, True]
    assert all(item["timeline"]["flights"] for item in value["connections"])
    summary = value["summary"]
    assert (summary["connections"], summary["resumed"]) == (4, 3)
    times = sorted(item["handshake"]["seconds"] for item in value["connections"])
    assert summary["handshake_seconds_median"] == pytest.approx(sum(times[1:3]) / 2, abs=2e-6)


async def test_reconnect_stops_where_it_fails(
    server: Chain, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    visits = 0

    def count(_object: object, _name: object, _context: object) -> int | None:
        nonlocal visits
        visits += 1
        return ssl.ALERT_DESCRIPTION_INTERNAL_ERROR if visits == 3 else None

    context = server_context_for(server.cert)
    context.sni_callback = count
    async with tls_server(silent, context) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", server.ca, "--reconnect", "4")
        result = await run_here(capfdbinary, *connect)
    assert "internal_error" in refused(result, 4)
    assert len([line for line in result.stderr.splitlines() if re.match(r" +\d ", line)]) == 2


################################################################
# The wire, and keys
################################################################


async def test_timeline_of_a_handshake_that_fails(
    server: Chain, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    async with tls_server(echo, server_context_for(server.cert)) as port:
        result = await run_here(capfdbinary, "connect", f"localhost:{port}", "--timeline")
    assert "issuer is not trusted" in refused(result, 3)
    assert "handshake (ServerHello)" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no file modes")
async def test_keylog(
    server: Chain, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run = partial(run_here, capfdbinary)
    keys = tmp_path / "keys.log"
    async with tls_server(echo, server_context_for(server.cert)) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", server.ca, "--keylog", str(keys))
        result = await run(*connect)
        assert result.fact("warning") == (
            f"--keylog: with {keys}, the traffic of this connection can be read"
        )
        assert stat.S_IMODE(keys.stat().st_mode) == 0o600
        assert "CLIENT_TRAFFIC_SECRET_0 " in keys.read_text()
        result = await run(*connect, "--json")
        assert document(result)["error"] is None
        assert result.fact("warning")
        assert keys.read_text().count("CLIENT_TRAFFIC_SECRET_0 ") == 2
        keys.chmod(0o640)
        message = refused(await run(*connect), 2)
    assert message == (f"--keylog {keys}: others can read this file: run chmod 600 on it first")
    message = refused(await run("connect", "a.example", "--keylog", str(tmp_path / "no" / "f")), 2)
    assert "No such file" in message


################################################################
# On a terminal
################################################################


async def on_a_terminal(*args: str, env: dict[str, str] | None = None) -> tuple[int, bytes, str]:
    """Run the command with a terminal as stderr; return status, stdout, and what it shows."""
    pty = pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                shown.extend(data)
        except OSError:  # the other side was closed
            pass

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, read)
        try:
            with trio.fail_after(TIMEOUT):
                done = await trio.run_process(
                    [*COMMAND, *args],
                    capture_stdout=True,
                    stderr=theirs,
                    stdin=subprocess.DEVNULL,
                    check=False,
                    env={
                        **{k: v for k, v in os.environ.items() if k not in {"NO_COLOR", "COLUMNS"}},
                        "TERM": "xterm-256color",
                        "COLUMNS": "100",
                        **(env or {}),
                    },
                )
        finally:
            os.close(theirs)
    os.close(ours)
    return done.returncode, done.stdout, shown.decode()


async def test_colours_on_a_terminal(server: Chain) -> None:
    pytest.importorskip("rich", reason="rich is not installed")
    async with tls_server(silent, server_context_for(server.cert)) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", server.ca, "--timeline")
        status, stdout, shown = await on_a_terminal(*connect, "--reconnect", "2")
        assert (status, stdout) == (0, b"")
        assert "\x1b[" in shown
        assert "▶" in shown
        assert "ClientHello" in shown
        assert "2 connections, 1 resumed" in shown
        _, _, shown = await on_a_terminal(*connect, env={"NO_COLOR": "1"})
        assert "▶" in shown
        assert not re.search(r"\x1b\[[\d;]*3\dm", shown)  # no colour


async def test_plain_on_a_terminal_without_rich(server: Chain, tmp_path: Path) -> None:
    (tmp_path / "rich").mkdir()
    (tmp_path / "rich" / "__init__.py").write_text("raise ImportError('not here')\n")
    async with tls_server(silent, server_context_for(server.cert)) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", server.ca)
        status, _, shown = await on_a_terminal(*connect, env={"PYTHONPATH": str(tmp_path)})
    assert status == 0
    assert "\x1b[" not in shown
    assert "name matched:  localhost" in shown


async def test_what_the_server_says_does_not_steer_the_terminal(
    ca: trustme.CA, server: Chain
) -> None:
    pytest.importorskip("rich", reason="rich is not installed")
    cert = ca.issue_cert("localhost", organization_name="[red]\x1b[31mevil\x1b]0;title\x07")
    async with tls_server(silent, server_context_for(cert)) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", server.ca)
        _, _, shown = await on_a_terminal(*connect, env={"NO_COLOR": "1"})
    assert r"[red]\x1b[31mevil\x1b]0\;title\x07" in shown
    assert "\x07" not in shown
