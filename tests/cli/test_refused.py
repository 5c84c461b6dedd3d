"""What ``connect`` shows of certificates that it refuses."""

from __future__ import annotations

import ssl
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Certificate, Issued
from tests.commands import Stream, document, facts, refused, run_here
from tests.helpers import NAME
from tests.stream.bad_certificates.menu import MENU, Presented, authority
from trio_tlsbio.cli._certificates import facts_of, faults_in

from .peers import tls_server

TRUSTED = "self-signed, and not among the trusted certificates"
DISHES = {dish.what: dish for dish in MENU}


@pytest.fixture(scope="module")
def root() -> Issued:
    return authority("root").signed_by(None)


def context_of(presented: Presented, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    presented.chain[0].load_into(context, *presented.chain[1:])
    return context


def moment(issued: Issued, *, is_start: bool = False) -> str:
    certificate = issued.certificate
    when = certificate.not_valid_before_utc if is_start else certificate.not_valid_after_utc
    return f"{when:%Y-%m-%d %H:%M} UTC"


async def never(stream: Stream) -> None:
    pytest.fail("the server was sent data, or a handshake was finished")


class Refusal:
    """What the command shows of a dish, in lines and as a document."""

    def __init__(self, text: str, message: str, document: dict[str, Any]) -> None:
        self.text, self.message, self.document = text, message, document

    @property
    def faults(self) -> list[tuple[int | None, str]]:
        (connection,) = self.document["connections"]
        assert connection["handshake"] is None
        return [(each["certificate"], each["message"]) for each in connection["refused"]["faults"]]


async def refusal_of(
    presented: Presented,
    root: Issued,
    version: ssl.TLSVersion,
    folder: Path,
    capture: pytest.CaptureFixture[bytes],
    *more: str,
    name: str = NAME,
) -> Refusal:
    run = partial(run_here, capture)
    trusted = [root] if presented.trusted is None else presented.trusted
    cafile = folder / "ca.pem"
    cafile.write_bytes(b"".join(each.pem for each in trusted))
    async with tls_server(never, context_of(presented, version)) as port:
        connect = ("connect", f"127.0.0.1:{port}", "--cafile", str(cafile), "--servername", name)
        result = await run(*connect, *more, stdin=b"secret")
        message = refused(result, 3)
        value = document(await run(*connect, *more, "--json"))
    assert value["exit_status"] == 3
    certificates = value["connections"][0]["refused"]["certificates"]
    hashes = [each["sha256"] for each in certificates]
    assert hashes == [facts_of(each.der, {}).sha256 for each in presented.chain]
    assert result.fact("refused").endswith("nothing in them is trusted")
    return Refusal(result.stderr, message, value)


@pytest.mark.parametrize(
    ("what", "index", "words"),
    [
        ("It has expired", 0, "expired since {end}"),
        ("It is not valid yet", 0, "not valid until {start}"),
        ("An intermediate certificate has expired", 1, "expired since {end}"),
        ("Another root, which is not trusted", 0, "CN=another is not trusted here, and"),
        ("The same, and that root is sent too", 1, TRUSTED),
        ("It is self-signed", 0, TRUSTED),
        ("The intermediate certificate is not sent", 0, "CN=authority is not trusted here, and"),
        ("The root has expired", None, "an issuer that the server did not present has expired"),
    ],
)
async def test_the_certificate_at_fault_is_marked(
    what: str,
    index: int | None,
    words: str,
    root: Issued,
    tls_version: ssl.TLSVersion,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    presented = DISHES[what].make(root)
    refusal = await refusal_of(presented, root, tls_version, tmp_path, capfdbinary)
    at_fault = presented.chain[index or 0]
    words = words.format(end=moment(at_fault), start=moment(at_fault, is_start=True))
    ((found, message),) = refusal.faults
    assert found == index
    assert message.startswith(words)
    refused = refusal.document["connections"][0]["refused"]
    assert refused["verify_code"] == DISHES[what].verify_code
    # In lines it is below the certificate that it is about.
    assert facts(refusal.text, "FAILS") == [message]
    before = refusal.text.partition("FAILS:")[0]
    shown = before.count("chain, ")
    assert shown == (len(presented.chain) - 1 if index is None else index)


async def test_all_that_have_expired_are_marked(
    root: Issued, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    old = authority(days=(-9, -1)).signed_by(root)
    presented = Presented(chain=[Certificate(days=(-9, -2)).signed_by(old), old])
    refusal = await refusal_of(
        presented, root, ssl.TLSVersion.TLSv1_3, tmp_path, capfdbinary, "--timeline"
    )
    assert [index for index, _ in refusal.faults] == [0, 1]
    assert "expired 2 days ago" in refusal.text or "expired 3 days ago" in refusal.text
    assert refusal.text.index("FAILS") < refusal.text.index("timeline:")


async def test_another_name(
    root: Issued, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    presented = Presented(chain=[Certificate(names=[NAME, "192.0.2.1"]).signed_by(root)])
    for name in ("other.example", "192.0.2.7"):
        refusal = await refusal_of(
            presented, root, ssl.TLSVersion.TLSv1_3, tmp_path, capfdbinary, name=name
        )
        assert refusal.faults == [(0, f"not for {name}")]
        assert facts(refusal.text, "names") == [f"{NAME}, 192.0.2.1"]
        assert "(matched)" not in refusal.text


async def test_what_is_refused_does_not_steer_the_terminal(
    root: Issued, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    evil = authority("\x1b]0;owned\x07").signed_by(None)
    presented = Presented(chain=[Certificate().signed_by(evil)])
    refusal = await refusal_of(presented, root, ssl.TLSVersion.TLSv1_3, tmp_path, capfdbinary)
    assert "\x1b" not in refusal.text
    assert "\x07" not in refusal.text
    assert r"\x1b]0;owned\x07 is not trusted here" in refusal.text


def test_which_certificate_is_revoked_is_not_known(root: Issued) -> None:
    chain = [facts_of(root.der, {})]
    (fault,) = faults_in(chain, 23, NAME)
    assert fault.index is None
    assert "does not report which" in fault.words
    assert faults_in([], 10, NAME) == ()
    (fault,) = faults_in(chain, 66, NAME)
    assert (fault.index, fault.words) == (0, "its key is too weak, or can't be read")


async def test_issuers_that_are_presented_in_any_order(
    root: Issued, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    stranger = authority("stranger").signed_by(None)
    upper = authority("upper").signed_by(stranger)
    lower = authority("lower").signed_by(upper)
    presented = Presented(
        chain=[Certificate().signed_by(lower), authority("unrelated").signed_by(root), upper, lower]
    )
    refusal = await refusal_of(presented, root, ssl.TLSVersion.TLSv1_3, tmp_path, capfdbinary)
    ((index, words),) = refusal.faults
    assert index == 2
    assert words.startswith("CN=stranger is not trusted here")
