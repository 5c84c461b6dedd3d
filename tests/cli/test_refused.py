"""What ``connect`` shows of certificates that it refuses."""

from __future__ import annotations

import io
import random
import ssl
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import pytest
from cryptography import x509

from tests.certificates import CLIENT, Certificate, Issued
from tests.commands import Stream, document, facts, refused, run_here
from tests.helpers import NAME
from tests.stream.bad_certificates.menu import MENU, Dish, Presented, authority
from tests.stream.bad_certificates.sides import PARTIAL_AND_STRICT, accepting, presenting
from trio_tlsbio._core.certificate_words import VERIFY_CODES
from trio_tlsbio._net.default_context import make_default_context
from trio_tlsbio.cli._certificates import facts_of
from trio_tlsbio.cli._facts import Refused
from trio_tlsbio.cli._faults import Fault, faults_in
from trio_tlsbio.cli._words import labelled

from .peers import tls_server

LONG = timedelta(days=9)
UNKNOWN = "OpenSSL does not report which certificate it refused"
TRUSTED = "self-signed, and not among the trusted certificates"


@pytest.fixture(scope="module")
def root() -> Issued:
    return authority("root").signed_by(None)


def context_of(presented: Presented, version: ssl.TLSVersion) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = context.maximum_version = version
    presenting(context, presented)
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


EXPIRED = 10  # X509_V_ERR_CERT_HAS_EXPIRED

# Where each dish is bad: the index of the certificate in what the server presents, None if it is
# none of those, or if that can't be known; and what is said of it, or what that begins with.
AT_FAULT: dict[str, tuple[int | None, str]] = {
    "It has expired": (0, "expired at {end}"),
    "It is not valid yet": (0, "not valid until {start}"),
    "An intermediate certificate has expired": (1, "expired at {end}"),
    "The root has expired": (
        None,
        "CN=authority, which the server did not present: expired at {root_end}",
    ),
    "Another root, which is not trusted": (0, "CN=another is not trusted here, and"),
    "The same, and that root is sent too": (1, TRUSTED),
    "It is self-signed": (0, TRUSTED),
    "The intermediate certificate is not sent": (0, "CN=authority is not trusted here, and"),
    "Only an intermediate certificate is trusted": (
        None,
        "CN=authority, which the server did not present: trusted here, but its issuer is not: "
        "CN=root",
    ),
    "Only the certificate itself is trusted": (0, "CN=root is not trusted here, and"),
    "Its signature is wrong": (0, "not signed by CN=root, which it names"),
    "Its issuer is not an authority": (1, "not an authority, so it may not issue others"),
    "Its issuer's key may not sign certificates": (1, "its key may not issue certificates"),
    "Its issuer may not have other issuers below it (path length)": (
        2,
        "it allows 0 issuers below it, but there are 1 (path length)",
    ),
    "More than a hundred certificates": (None, "none in particular: the chain is longer than"),
    "Its key may not sign (key usage)": (0, "its key may not be used for TLS servers (key usage)"),
    "It is for signing code (extended key usage)": (
        0,
        "issued for signing code, not for TLS servers (extended key usage)",
    ),
    "Its issuer is for signing code (extended key usage)": (
        1,
        "issued for signing code, not for TLS servers (extended key usage)",
    ),
    "An RSA key of 512 bits": (0, "its key is too weak: RSA, 512 bits"),
    "An RSA key of 1024 bits": (0, "its key is too weak: RSA, 1024 bits"),
    "Its issuer has an RSA key of 1024 bits": (1, "its key is too weak: RSA, 1024 bits"),
    "It is signed with SHA-1": (0, "signed with SHA-1, which is too weak"),
    "It is signed with MD5": (0, "signed with MD5, which is too weak"),
    # The command looks at no revocation lists, so these have no words.
    "It was revoked": (None, UNKNOWN),
    "An intermediate certificate was revoked": (None, UNKNOWN),
    "There is no revocation list": (None, UNKNOWN),
    "There is no revocation list of an issuer further up": (None, UNKNOWN),
    "The revocation list has expired": (None, UNKNOWN),
    "The revocation list is not valid yet": (None, UNKNOWN),
    "The revocation list is not signed by the issuer": (None, UNKNOWN),
    "The issuer may not sign revocation lists": (None, UNKNOWN),
    "Its issuer may only certify other names": (
        0,
        "an issuer, CN=authority, may only certify other.example (name constraints)",
    ),
    "Its issuer may not certify this name": (
        0,
        f"an issuer, CN=authority, may not certify {NAME} (name constraints)",
    ),
    "Its issuer may only certify other IP addresses": (
        0,
        "an issuer, CN=authority, may only certify 10.0.0.0/8 (name constraints)",
    ),
    "It has an unknown critical extension": (
        0,
        "has a critical extension that OpenSSL does not know, 1.2.3.4",
    ),
    "It has no Authority Key Identifier": (0, "has no Authority Key Identifier"),
    "Its issuer has no Authority Key Identifier": (1, "has no Authority Key Identifier"),
    "Its issuer has no Subject Key Identifier": (1, "has no Subject Key Identifier"),
    "Its issuer has no key usage": (1, "an authority without a key usage"),
    "Its issuer's Basic Constraints are not critical": (
        1,
        "its Basic Constraints are not critical",
    ),
    "Its issuer has no name": (0, "does not name its issuer"),
    "It has no subject, and a subjectAltName that is not critical": (
        0,
        "has no subject, and a subjectAltName that is not critical",
    ),
    "Its key may sign certificates, but it is not an authority": (
        0,
        "its key may issue certificates (key usage), but it is not an authority",
    ),
}


def test_each_dish_has_its_words() -> None:
    assert AT_FAULT.keys() == {dish.what for dish in MENU}


def verifying(dish: Dish, presented: Presented, patch: pytest.MonkeyPatch) -> None:
    """Make the command as strict as a dish needs it, whatever this Python's default is."""

    def make_context(*, cafile: str) -> ssl.SSLContext:
        context = make_default_context(cafile=cafile)
        context.verify_flags &= ~PARTIAL_AND_STRICT
        if dish.is_lax:
            context.verify_flags |= PARTIAL_AND_STRICT
        accepting(context, presented)
        return context

    patch.setattr("trio_tlsbio.cli._connect.make_default_context", make_context)


@pytest.mark.parametrize(
    ("dish", "version"),
    [
        *((dish, dish.only or ssl.TLSVersion.TLSv1_3) for dish in MENU),
        (MENU[0], ssl.TLSVersion.TLSv1_2),
    ],
    ids=lambda value: getattr(value, "what", ""),
)
async def test_the_certificate_at_fault_is_marked(
    dish: Dish,
    version: ssl.TLSVersion,
    root: Issued,
    tmp_path: Path,
    capfdbinary: pytest.CaptureFixture[bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    presented = dish.make(root)
    verifying(dish, presented, monkeypatch)
    refusal = await refusal_of(presented, root, version, tmp_path, capfdbinary)
    index, words = AT_FAULT[dish.what]
    at_fault = presented.chain[index or 0]
    words = words.format(
        end=moment(at_fault),
        start=moment(at_fault, is_start=True),
        root_end=moment((presented.trusted or [root])[0]),
    )
    ((found, message),) = refusal.faults
    assert found == index
    assert message.startswith(words)
    refused = refusal.document["connections"][0]["refused"]
    assert refused["verify_code"] == dish.verify_code
    # For one that has expired, the message names the date instead.
    words = "" if dish.verify_code == EXPIRED else VERIFY_CODES[dish.verify_code]
    assert refusal.message.startswith(f"the peer's certificate was refused: {words}")
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
    assert "expired 2 days ago" in refusal.text
    assert "expired 1 day ago" in refusal.text
    assert refusal.text.index("FAILS") < refusal.text.index("timeline:")


@pytest.mark.parametrize(
    ("hours", "words"),
    [(1, "0 days left"), (-1, "expired less than a day ago"), (-25, "expired 1 day ago")],
)
def test_how_long_ago_it_expired(hours: int, words: str, root: Issued) -> None:
    end = datetime.now(UTC) + timedelta(hours=hours, minutes=1 if hours > 0 else -1)
    certificate = attrs.evolve(facts_of(root.der, {}), not_before=end - LONG, not_after=end)
    refused = Refused(10, (certificate,), ())
    assert dict(labelled(refused))["valid"].endswith(f", {words}")


def test_what_has_expired_is_yellow(root: Issued, monkeypatch: pytest.MonkeyPatch) -> None:
    console = pytest.importorskip("rich.console", reason="rich is not installed")
    from trio_tlsbio.cli._rich import RichView  # it needs rich

    monkeypatch.delenv("NO_COLOR", raising=False)
    end = datetime.now(UTC) - LONG
    expired = attrs.evolve(facts_of(root.der, {}), not_before=end - LONG, not_after=end)
    shown = io.StringIO()
    view = RichView(
        console.Console(file=shown, force_terminal=True, color_system="standard", width=120)
    )
    view.show(Refused(10, (expired, expired), ()))
    dates = [line for line in shown.getvalue().splitlines() if "expired 9 days ago" in line]
    assert len(dates) == 2
    assert all("\x1b[33m" in line for line in dates)


async def test_an_issuer_that_is_forged(
    root: Issued, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    issuer = authority().signed_by(root)
    forged = attrs.evolve(issuer, der=issuer.der[:-1] + bytes([issuer.der[-1] ^ 1]))
    presented = Presented(chain=[Certificate().signed_by(issuer), forged])
    refusal = await refusal_of(presented, root, ssl.TLSVersion.TLSv1_3, tmp_path, capfdbinary)
    assert refusal.faults == [(1, "not signed by CN=root, which it names")]


async def test_the_certificate_of_a_client(
    root: Issued, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    presented = Presented(chain=[Certificate(purposes=[CLIENT]).signed_by(root)])
    refusal = await refusal_of(presented, root, ssl.TLSVersion.TLSv1_3, tmp_path, capfdbinary)
    assert refusal.faults == [
        (0, "issued for TLS clients, not for TLS servers (extended key usage)")
    ]


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
    assert r"\x1b]0\;owned\x07 is not trusted here" in refusal.text


def test_what_can_not_be_found_is_not_guessed(root: Issued) -> None:
    chain = [facts_of(root.der, {})]
    for verify_code in (23, 41, 1_000_000, None):
        assert faults_in(chain, chain, verify_code, NAME) == (Fault(None, UNKNOWN),)
    for path in ([], [attrs.evolve(chain[0], der=b"no certificate")]):
        assert faults_in(chain, path, 20, NAME) == (Fault(None, UNKNOWN),)
    assert faults_in([], [], 10, NAME) == ()
    without_key = [attrs.evolve(chain[0], key=None)]
    fault = Fault(0, "its key is too weak, or can't be read")
    assert faults_in(without_key, without_key, 66, NAME) == (fault,)


def test_damaged_certificates_are_no_bug(root: Issued, rounds: int) -> None:
    limits = x509.NameConstraints([x509.DNSName("a.example")], [x509.DNSName("b.example")])
    odd = authority(path_length=0, purposes=[CLIENT], extensions=[(limits, True)]).signed_by(root)
    chance = random.Random(0)
    for _ in range(rounds):
        damaged = bytearray(odd.der)
        damaged[chance.randrange(len(damaged))] = chance.choice([0, 1, 0x7F, 0x80, 0x84, 0xFF])
        path = [facts_of(odd.der, {}), *[facts_of(bytes(damaged), {})] * 2]
        for verify_code in VERIFY_CODES:
            assert faults_in(path, path, verify_code, NAME)


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
