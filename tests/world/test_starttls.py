"""``connect --starttls`` with MariaDB, OpenLDAP and Prosody."""

from __future__ import annotations

import hashlib
import os
import shutil
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TypeAlias

import attrs
import pytest
import trustme

from tests.commands import Files, document, facts, refused, run_here
from tests.programs import free_port, listening, needs

# A folder, the port, and the PEM file with the certificate and its key; None if there is no TLS.
_Run: TypeAlias = Callable[[Path, int, str | None], AbstractAsyncContextManager[object]]


@asynccontextmanager
async def mariadb(folder: Path, port: int, pem: str | None) -> AsyncIterator[None]:
    """Run MariaDB with no databases at all, where each user may log in."""
    data = folder / "data"
    data.mkdir()
    settings = {
        "datadir": data,
        "bind-address": "127.0.0.1",
        "port": port,
        "socket": "socket",  # in the folder with the data: the whole path may be too long
        "pid-file": folder / "pid",
        "default-storage-engine": "MyISAM",
        **({"ssl-cert": pem, "ssl-key": pem} if pem else {"ssl": "OFF"}),
        **({"user": "root"} if os.geteuid() == 0 else {}),
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    program = ("mariadbd", "--no-defaults", "--skip-grant-tables", "--skip-innodb")
    async with listening(port, folder / "log", *program, *options):
        yield


SLAPD_CONFIG = """
pidfile {folder}/pid
argsfile {folder}/args
{tls}
database monitor
"""

SLAPD_TLS = """
TLSCertificateFile {pem}
TLSCertificateKeyFile {pem}
"""


@asynccontextmanager
async def slapd(folder: Path, port: int, pem: str | None) -> AsyncIterator[None]:
    """Run OpenLDAP's server with no data of its own."""
    config = folder / "slapd.conf"
    tls = SLAPD_TLS.format(pem=pem) if pem else ""
    config.write_text(SLAPD_CONFIG.format(folder=folder, tls=tls), encoding="utf-8")
    # AppArmor has rules for the installed file, which keep it from reading ours; a copy has none.
    program = shutil.copy(shutil.which("slapd") or "slapd", folder)
    url = f"ldap://127.0.0.1:{port}/"
    async with listening(port, folder / "log", program, "-f", config, "-h", url, "-d", 0):
        yield


PROSODY_CONFIG = """
pidfile = "{folder}/pid"
data_path = "{folder}"
run_as_root = true
modules_enabled = {{ {modules} }}
modules_disabled = {{ "s2s" }}
interfaces = {{ "127.0.0.1" }}
c2s_ports = {{ {port} }}
ssl = {{ certificate = "{pem}", key = "{pem}" }}
log = {{ {{ levels = {{ min = "info" }}, to = "console" }} }}
VirtualHost "localhost"
VirtualHost "other.example"
"""


@asynccontextmanager
async def prosody(folder: Path, port: int, pem: str | None) -> AsyncIterator[None]:
    """Run Prosody for two domains. The certificate is for the first one."""
    config = folder / "prosody.cfg.lua"
    modules = '"saslauth", "tls"' if pem else '"saslauth"'
    config.write_text(
        PROSODY_CONFIG.format(folder=folder, port=port, pem=pem, modules=modules),
        encoding="utf-8",
    )
    async with listening(port, folder / "log", "prosody", "-F", "--config", config):
        yield


# The second packet of the client, after the SSLRequest and with the same capabilities: it logs in,
# with neither a name nor a password.
MYSQL_LOGIN = b"\x22\0\0\x02" + b"\0\x8a\0\0" + b"\0\0\0\x01" + b"\x21" + bytes(23) + b"\0\0"
MYSQL_QUIT = b"\x01\0\0\0\x01"
# What isn't a request of LDAP is answered by a notice of disconnection (RFC 4511 section 4.4.1).
LDAP_NO_REQUEST = bytes.fromhex("3005 020102 7e00")
LDAP_NOTICE = b"1.3.6.1.4.1.1466.20036"
XMPP_STREAM = (
    b"<?xml version='1.0'?><stream:stream xmlns='jabber:client' "
    b"xmlns:stream='http://etherx.jabber.org/streams' version='1.0' to='localhost'>"
)


@attrs.frozen
class Peer:
    """A server, what to say to it under TLS, and what its answer has in it."""

    protocol: str
    run: _Run
    question: bytes
    answer: bytes
    #: What is said of it if it has no TLS, or what that begins with.
    not_offered: str


PEERS = [
    pytest.param(
        Peer(
            "mysql",
            mariadb,
            MYSQL_LOGIN + MYSQL_QUIT,
            b"\x07\0\0\x03\0",  # OK
            "the server does not offer TLS",
        ),
        id="MariaDB",
        marks=needs("mariadbd"),
    ),
    pytest.param(
        Peer("ldap", slapd, LDAP_NO_REQUEST, LDAP_NOTICE, "the server does not offer StartTLS"),
        id="OpenLDAP",
        marks=needs("slapd"),
    ),
    pytest.param(
        Peer(
            "xmpp",
            prosody,
            XMPP_STREAM + b"</stream:stream>",
            b"<mechanisms ",
            "the server refused STARTTLS: undefined-condition",  # it adds words of its own
        ),
        id="Prosody",
        marks=needs("prosody"),
    ),
]


@pytest.mark.parametrize("peer", PEERS)
async def test_the_certificate_is_verified(
    peer: Peer,
    files: Files,
    server_cert: trustme.LeafCert,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    port = free_port()
    connect = ("connect", f"localhost:{port}", "--cafile", files.ca)
    # The server is to end the conversation: OpenLDAP and Prosody drop what they have not answered
    # when a close_notify comes, and MariaDB sends none itself.
    run = partial(
        run_here, capfdbinary, *connect, "--starttls", peer.protocol, "--https-compatible"
    )
    async with peer.run(tmp_path, port, files.server):
        result = await run(stdin=peer.question)
        assert result.status == 0, result.stderr
        assert result.fact("STARTTLS").startswith(f"agreed on by {peer.protocol}, in ")
        assert result.fact("name matched") == "localhost"
        assert peer.answer in result.stdout
        assert b"starttls" not in result.stdout

        value = document(await run("--json", "--timeline", "--reconnect", "2"))
        assert value["error"] is None
        assert value["target"]["starttls"] == peer.protocol
        der = ssl.PEM_cert_to_DER_cert(server_cert.cert_chain_pems[0].bytes().decode())
        for connection in value["connections"]:
            assert connection["starttls_seconds"] > 0
            handshake = connection["handshake"]
            assert handshake["verified"]
            assert handshake["matched_name"] == "localhost"
            presented = [each["sha256"] for each in handshake["certificates"]]
            assert presented == [hashlib.sha256(der).hexdigest()]
            # The record of the wire begins with TLS.
            first = connection["timeline"]["flights"][0]["records"][0]
            assert first["messages"] == ["ClientHello"]

        result = await run("--servername", "other.example")
        message = refused(result, 3)
        assert message.startswith("the certificate is for ")
        assert message.endswith(", not other.example")
        assert facts(result.stderr, "FAILS") == ["not for other.example"]
        value = document(await run("--servername", "other.example", "--json"))
        assert value["error"]["message"] == message


@pytest.mark.parametrize("peer", PEERS)
async def test_a_server_without_tls(
    peer: Peer, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    port = free_port()
    run = partial(run_here, capfdbinary, "connect", f"localhost:{port}")
    async with peer.run(tmp_path, port, None):
        message = refused(await run("--starttls", peer.protocol), 4)
        error = document(await run("--starttls", peer.protocol, "--json"))["error"]
    assert message.startswith(peer.not_offered)
    assert (error["type"], error["message"]) == ("tls_failed", message)


@needs("prosody")
async def test_a_domain_that_the_server_does_not_have(
    files: Files, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    port = free_port()
    async with prosody(tmp_path, port, files.server):
        result = await run_here(capfdbinary, "connect", f"127.0.0.1:{port}", "--starttls", "xmpp")
    message = refused(result, 4)
    assert message.startswith("the server refused STARTTLS: host-unknown, ")
    assert message.endswith(" 127.0.0.1")
    assert result.fact("hint").startswith("--servername NAME asks for another domain")
