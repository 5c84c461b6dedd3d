"""``serve`` as scanners of TLS servers see it: testssl.sh, sslscan and SSLyze find nothing.

What they do find is explained below, one by one.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import ipaddress
import json
import re
import subprocess
import sys
import xml.etree.ElementTree as ET
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from tests.commands import COMMAND, Server
from tests.helpers import LIMIT
from tests.peers import running
from tests.programs import Output, needs
from tests.tables import Tables

needs_sslyze = pytest.mark.skipif(
    importlib.util.find_spec("sslyze") is None, reason="SSLyze is not installed"
)

# How long one scan may take on a machine that is busy, in seconds.
SCAN_LIMIT = 400


################################################################
# What they find, and why it stays
################################################################


@attrs.frozen
class Explained:
    """A finding that the set-up explains.

    Args:
      finding: What the scanner calls it.
      reason: Why it stays.
      where: Against which of the servers below.
      always: Whether each scan finds it.
    """

    finding: str
    reason: str
    where: tuple[str, ...] = ("echo", "www")
    always: bool = True


NO_GROUPS = "Python has no way to choose groups before 3.15; these are OpenSSL's own"
NO_RESPONDER = "a private CA that answers no one"
OF_TRUSTME = "trustme makes the subjectAltName critical, so strict verifiers refuse it"

EXPLAINED = {
    "testssl.sh": [
        Explained("cert_revocation", NO_RESPONDER),
        Explained("service", "an echo speaks no protocol that it knows", ("echo",)),
        Explained(
            "HSTS",
            "a promise for all of a host, which is its operator's to give",
            ("www",),
        ),
        Explained(
            "sessionresumption_ticket",
            "in TLS 1.3 it may hang up before the ticket has come, with any server; SSLyze sees"
            " resumption",
            always=False,
        ),
    ],
    "sslscan": [
        Explained("group ffdhe2048, 112 bits", NO_GROUPS),
    ],
    "SSLyze": [
        Explained("curve X448", NO_GROUPS),
        Explained("curve secp521r1", NO_GROUPS),
        Explained("certificate_path_validation", OF_TRUSTME, ("echo",)),
        Explained("no OCSP response", NO_RESPONDER),
        Explained("no signed certificate timestamps", "a private CA has no transparency log"),
        Explained("no HSTS", "as above: its operator's to promise", ("www",)),
    ],
}


@attrs.frozen
class Report:
    """What a scanner has said: how much it has looked at, and what it has found."""

    version: str
    checks: int
    found: set[str]

    def judge(self, scanner: str, server: str, tables: Tables) -> None:
        """Fail for what is not explained, and for explanations of what is not there."""
        explained = [item for item in EXPLAINED[scanner] if server in item.where]
        assert self.found - {item.finding for item in explained} == set()
        assert {item.finding for item in explained if item.always} - self.found == set()
        told = ", ".join(item.finding.replace("_", " ") for item in explained if item.always)
        found = f"nothing, except what the setup explains: {told}"
        tables.tell("scanners", scanner, self.version, server, self.checks, found)


################################################################
# The servers
################################################################


@attrs.frozen
class Target:
    """A server that runs."""

    port: int
    ca_file: Path


@asynccontextmanager
async def serving(*options: object, ca_file: Path | None = None) -> AsyncIterator[Target]:
    """Run ``serve``, which goes on after a scan as if nothing had been."""
    command = (*COMMAND, "serve", "--port", 0, *options)
    async with running(*command, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        server = Server(process)
        await server.until("listening:")
        assert process.stderr is not None
        output = Output()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(output.read, process.stderr)
            yield Target(server.port, ca_file or Path(server.fact("its issuer")))
            assert process.poll() is None, output.text
            assert b"Traceback" not in output.text
            nursery.cancel_scope.cancel()


def usage(**bits: bool) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
        *("key_agreement", "key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: bits.get(name, False) for name in names})


@pytest.fixture(scope="module")
def given(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A certificate as a CA of today makes it, with its RSA key; and that CA's."""
    folder = tmp_path_factory.mktemp("given")
    now = datetime.now(UTC)
    ca_key, key = (rsa.generate_private_key(65537, 2048) for _ in range(2))
    ca_name, name = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in ("CA", "localhost")
    )
    ca_id = x509.SubjectKeyIdentifier.from_public_key(ca_key.public_key())

    def begin(subject: x509.Name, public_key: rsa.RSAPublicKey) -> x509.CertificateBuilder:
        return x509.CertificateBuilder(
            issuer_name=ca_name,
            subject_name=subject,
            public_key=public_key,
            serial_number=x509.random_serial_number(),
            not_valid_before=now - timedelta(days=1),
            not_valid_after=now + timedelta(days=89),
        )

    ca = (
        begin(ca_name, ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(usage(key_cert_sign=True, crl_sign=True), critical=True)
        .add_extension(ca_id, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    names = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        begin(name, key.public_key())
        .add_extension(x509.SubjectAlternativeName(names), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(usage(digital_signature=True), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(ca_id), critical=False
        )
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    pkcs8 = serialization.PrivateFormat.PKCS8
    private = key.private_bytes(pem, pkcs8, serialization.NoEncryption())
    (folder / "server.pem").write_bytes(private + certificate.public_bytes(pem))
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    return folder / "server.pem", folder / "ca.pem"


@asynccontextmanager
async def server_of(kind: str, given: tuple[Path, Path]) -> AsyncIterator[Target]:
    """An echo with a throw-away ECDSA certificate, or ``--www`` with one by RSA that is given."""
    with trio.fail_after(SCAN_LIMIT):
        if kind == "echo":
            async with serving() as target:
                yield target
        else:
            async with serving("--www", "--cert", given[0], ca_file=given[1]) as target:
                yield target


async def scan(*argv: object) -> str:
    """Run a scanner. With its processes it is gone at the end, whatever happens."""
    output = b""
    async with running(
        *argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    ) as process:
        assert process.stdout is not None
        async for part in process.stdout:
            output += part
        await process.wait()
    return output.decode()


################################################################
# testssl.sh
################################################################

# Protocols, cipher categories, forward secrecy, preferences, certificate and extensions, HTTP
# headers, all vulnerabilities. It asks nobody else. Without NO_ENGINE it counts it as a finding
# when its own openssl has no GOST engine, which says nothing about the server.
TESTSSL = (
    *("env", "NO_ENGINE=true"),
    *("testssl", "--quiet", "--color", 0, "--warnings", "off", "--nodns", "none"),
    *("--ip", "127.0.0.1", "-p", "-s", "-f", "-P", "-S", "-h", "-U"),
)


def report_of_testssl(path: Path, version: str) -> Report:
    items = json.loads(path.read_text(encoding="utf-8"))
    by_id = {item["id"]: item["finding"] for item in items}
    assert by_id["TLS1_2"] == "offered"
    assert by_id["TLS1_3"].startswith("offered")
    assert by_id["LUCKY13"] == "not vulnerable"
    assert by_id["cert_chain_of_trust"] == "passed."
    found = {item["id"] for item in items if item["severity"] not in ("OK", "INFO")}
    return Report(version, len(items), found)


@needs("testssl")
@pytest.mark.timeout(SCAN_LIMIT + LIMIT)
async def test_testssl(given: tuple[Path, Path], tmp_path: Path, tables: Tables) -> None:
    reports: dict[str, Report] = {}
    first_line = await scan("testssl", "--version", "--color", 0)
    found = re.search(r"testssl +([\d.]+)", first_line)
    assert found is not None, first_line

    async def examine(kind: str) -> None:
        path = tmp_path / f"{kind}.json"
        async with server_of(kind, given) as target:
            ca = ("--add-ca", target.ca_file, "--jsonfile", path)
            said = await scan(*TESTSSL, *ca, f"localhost:{target.port}")
        assert path.exists(), said
        reports[kind] = report_of_testssl(path, found[1])

    # It waits a lot, so both at once.
    async with trio.open_nursery() as nursery:
        for kind in ("echo", "www"):
            nursery.start_soon(examine, kind)
    for kind in ("echo", "www"):
        reports[kind].judge("testssl.sh", kind, tables)


################################################################
# sslscan
################################################################


def weakness_of(element: ET.Element) -> str | None:
    """Return what is wrong with something that sslscan tells of, by the limits of RFC 9325.

    It has no severities, only colours on a terminal.
    """
    get = element.attrib.get
    match element.tag:
        case "protocol":
            name = f"{get('type')} {get('version')}"
            is_good = (get("enabled") == "1") is (name in ("tls 1.2", "tls 1.3"))
        case "renegotiation":
            name = "insecure renegotiation"
            is_good = get("supported") == "0" or get("secure") == "1"
        case "fallback":
            name, is_good = "no TLS_FALLBACK_SCSV", get("supported") == "1"
        case "compression":
            name, is_good = "compression", get("supported") == "0"
        case "heartbleed":
            name, is_good = "heartbleed", get("vulnerable") == "0"
        case "cipher":
            name = get("cipher", "")
            has_forward_secrecy = get("curve") is not None
            is_aead = re.search("GCM|POLY1305", name) is not None
            is_good = has_forward_secrecy and is_aead and int(get("bits", 0)) >= 128
        case "group":
            name = f"group {get('name')}, {get('bits')} bits"
            is_good = int(get("bits", 0)) >= 128
        case "connection-signature-algorithm":
            name = get("name", "")
            is_good = "sha1" not in name and "md5" not in name
        case _:
            return None
    return None if is_good else name


def weaknesses_of(certificate: ET.Element) -> Iterator[str]:
    """Return what is wrong with a certificate."""
    if certificate.findtext("self-signed") != "false":
        yield "a self-signed certificate"
    if certificate.findtext("expired") != "false":
        yield "an expired certificate"
    if "sha256" not in certificate.findtext("signature-algorithm", "").lower():
        yield "a certificate with a weak signature"


@needs("sslscan")
@pytest.mark.parametrize("kind", ["echo", "www"])
@pytest.mark.timeout(SCAN_LIMIT + LIMIT)
async def test_sslscan(kind: str, given: tuple[Path, Path], tmp_path: Path, tables: Tables) -> None:
    path = tmp_path / "sslscan.xml"
    async with server_of(kind, given) as target:
        said = await scan(
            *("sslscan", "--no-colour", "--ocsp", "--show-sigs", "--timeout=20"),
            *(f"--xml={path}", "--sni-name=localhost", f"127.0.0.1:{target.port}"),
        )
    # Made by a program that runs here, of what our own server has said.
    document = ET.parse(path).getroot()
    test = document.find("ssltest")
    assert test is not None, said
    seen = {cipher.get("sslversion") for cipher in test.iter("cipher")}
    assert seen == {"TLSv1.2", "TLSv1.3"}, said
    found = {weakness for element in test if (weakness := weakness_of(element))}
    (certificate,) = test.findall(".//certificate[@type='short']")
    found.update(weaknesses_of(certificate))
    Report(document.get("version", ""), len(list(test)), found).judge("sslscan", kind, tables)


################################################################
# SSLyze
################################################################


def sslyze_findings(results: dict[str, dict[str, Any]], said: str) -> Iterator[str]:
    """What it finds, and where the server is not as Mozilla's "intermediate" has it."""
    scanned = {name: item["result"] for name, item in results.items()}
    mozilla = dict(re.findall(r"^ +\* (\w+): (.*)$", said.partition("COMPLIANCE")[2], re.MULTILINE))
    for name in re.findall(r"'(\w+)'", mozilla.pop("tls_curves", "")):
        yield f"curve {name}"
    yield from mozilla
    # What that leaves out.
    if scanned["session_renegotiation"]["is_vulnerable_to_client_renegotiation_dos"]:
        yield "renegotiation by the client"
    if (early := scanned["tls_1_3_early_data"]) is not None and early["supports_early_data"]:
        yield "early data"
    headers = scanned["http_headers"]
    if headers is not None and headers["strict_transport_security_header"] is None:
        yield "no HSTS"
    (certificate,) = scanned["certificate_info"]["certificate_deployments"]
    if certificate["ocsp_response"] is None:
        yield "no OCSP response"
    if not certificate["leaf_certificate_signed_certificate_timestamps_count"]:
        yield "no signed certificate timestamps"
    if not certificate["received_chain_has_valid_order"]:
        yield "a chain in disorder"
    if certificate["verified_chain_has_sha1_signature"]:
        yield "SHA-1"


@needs_sslyze
@pytest.mark.parametrize("kind", ["echo", "www"])
@pytest.mark.timeout(SCAN_LIMIT + LIMIT)
async def test_sslyze(kind: str, given: tuple[Path, Path], tmp_path: Path, tables: Tables) -> None:
    path = tmp_path / "sslyze.json"
    http = ("--early_data", "--http_headers") if kind == "www" else ()
    async with server_of(kind, given) as target:
        said = await scan(
            *(sys.executable, "-W", "ignore", "-m", "sslyze", "--mozilla_config=intermediate"),
            *("--resum", *http, "--certinfo_ca_file", target.ca_file, "--json_out", path),
            f"localhost:{target.port}{{127.0.0.1}}",
        )
    document = json.loads(path.read_text(encoding="utf-8"))
    (server,) = document["server_scan_results"]
    assert server["scan_status"] == "COMPLETED", said
    results = server["scan_result"]
    done = [item for item in results.values() if item["status"] == "COMPLETED"]
    assert all(item["status"] != "ERROR" for item in results.values()), said
    assert 'Checking results against Mozilla\'s "intermediate"' in said
    resumption = results["session_resumption"]["result"]
    assert resumption["tls_ticket_resumption_result"] == "FULLY_SUPPORTED"
    found = set(sslyze_findings(results, said))
    version = importlib.metadata.version("sslyze")
    Report(version, len(done), found).judge("SSLyze", kind, tables)
