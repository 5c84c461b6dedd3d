"""The fuzz targets: inputs that were kept, random ones, and what the targets themselves rest on.

``python -m fuzz`` makes many more inputs with atheris, which these tests don't need.
"""

from __future__ import annotations

import ssl
import subprocess
import sys

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from fuzz import _certificates, _core
from fuzz._input import Input, as_buffer, edited
from fuzz._randomness import Randomness
from fuzz._setup import CLIENTS, SERVERS, VERSIONS, Handshake
from fuzz.targets import TARGETS, Target
from tests.helpers import ROOT
from trio_tlsbio import ClientHello, TLSConnection, TLSError, TruncationError
from trio_tlsbio._core.outbox import Outbox
from trio_tlsbio._core.records import Records
from trio_tlsbio.cli import _certificates as _cli_certificates

each_target = pytest.mark.parametrize("target", TARGETS.values(), ids=lambda each: str(each.name))

################################################################
# Inputs
################################################################


@each_target
def test_inputs_that_were_kept(target: Target) -> None:
    inputs = target.inputs()
    assert inputs, "there is no corpus"
    for path in inputs:
        try:
            target.run(path.read_bytes())
        except Exception as exc:
            exc.add_note(f"{path.relative_to(target.corpus.parent.parent)}")
            raise


@each_target
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink],
    suppress_health_check=[HealthCheck.too_slow],
)
@given(data=st.binary(max_size=200))
def test_random_inputs(target: Target, data: bytes) -> None:
    target.run(data)


def test_the_corpus_is_small() -> None:
    sizes = [path.stat().st_size for target in TARGETS.values() for path in target.inputs()]
    assert sum(sizes) < 300_000
    assert max(sizes) <= max(target.max_len for target in TARGETS.values())


def test_a_serial_number_of_zero_is_no_reason_to_warn() -> None:
    der = _certificates._built(Input(b"\x01\x00"))
    facts = _cli_certificates.facts_of(der, {})
    assert facts.key == _cli_certificates.KeyFacts("EC secp256r1", 256)


################################################################
# What the targets rest on
################################################################


@pytest.mark.parametrize("version", list(VERSIONS))
@pytest.mark.parametrize("name", [*CLIENTS, *SERVERS])
def test_a_handshake_is_the_same_each_time(name: str, version: str) -> None:
    handshake = Handshake.of(name, version)
    for _ in range(2):
        connection, tickets = handshake.done()
        forger = _core._Forger(*handshake.keys(), version == "TLSv1.3")
        forger.read(tickets)
        forger.put(23, b"from the peer", 10)
        connection.feed(forger.wire)
        assert connection.receive() == b"from the peer"
        connection.send(b"from us")
        forger.read(connection.data_to_send())
        assert forger.received == b"from us"


def test_random_numbers_are_openssls_own_again_afterwards() -> None:
    with Randomness(b"x").used():
        first = ssl.RAND_bytes(16)
        with Randomness(b"y").used():
            assert ssl.RAND_bytes(16) != first
    with Randomness(b"x").used():
        assert ssl.RAND_bytes(16) == first
    assert ssl.RAND_bytes(16) != ssl.RAND_bytes(16)


def test_a_handshake_is_the_same_in_another_process() -> None:
    code = (
        "from fuzz._setup import Handshake\n"
        "for version in 'TLSv1.2', 'TLSv1.3':\n"
        "    print(Handshake.of('client', version).flights[0].hex())\n"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    expected = [Handshake.of("client", version).flights[0].hex() for version in VERSIONS]
    assert done.stdout.split() == expected


@given(st.binary(), st.integers(0, 11))
def test_every_kind_of_buffer_holds_the_same(data: bytes, kind: int) -> None:
    assert bytes(as_buffer(data, kind)) == data


def test_an_input_is_read_from_the_front_and_never_ends() -> None:
    source = Input(b"\x05\x02ab\xff\x00\x03cdeX")
    assert source.byte() == 5
    assert source.block() == b"ab"
    assert source.block() == b"cde"
    assert source
    assert source.rest() == b"X"
    assert not source
    assert (source.byte(), source.word(), source.block(), source.take(3)) == (0, 0, b"", b"")
    assert source.choice("abc") == "a"


@pytest.mark.parametrize(
    ("edit", "result"),
    [
        ("01 00 0001 01", b"ace"),
        ("01 01 0001 0001", b"ac"),
        ("01 02 0001 02 7879", b"axybc"),
        ("01 03 0001 0002", b"abcbc"),
        ("01 04 0000 0001 0002", b"bca"),
        ("00", b"abc"),
    ],
)
def test_edits(edit: str, result: bytes) -> None:
    start = b"abc" if result != b"ace" else b"abe"
    changed = edited(start, Input(bytes.fromhex(edit)))
    assert changed == (result if result != b"ace" else b"ace")


################################################################
# They can fail
################################################################

_HONEST = bytes([0, 1])  # of the target "open": a client of TLS 1.3 that trusts anybody
_DATA = bytes([3, 0, 20, 6, 0, 0, 0])  # the peer sends 20 bytes, which are fed and received


def test_data_that_is_lost_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = TLSConnection.receive

    def lose(self: TLSConnection, max_bytes: int | None = None) -> bytes | None:
        data = receive(self, max_bytes)
        return data[:-1] if data else data

    TARGETS["open"].run(_HONEST + _DATA)
    monkeypatch.setattr(TLSConnection, "receive", lose)
    with pytest.raises(AssertionError, match="something is lost"):
        TARGETS["open"].run(_HONEST + _DATA)


def test_a_truncation_that_is_taken_for_an_end_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    receive = TLSConnection.receive

    def forgive(self: TLSConnection, max_bytes: int | None = None) -> bytes | None:
        try:
            return receive(self, max_bytes)
        except TruncationError:
            return b""

    monkeypatch.setattr(TLSConnection, "receive", forgive)
    with pytest.raises(AssertionError):
        TARGETS["open"].run(_HONEST + _DATA)
    with pytest.raises(AssertionError):
        TARGETS["pair"].run(bytes([0, 0, 1, 1, 16, 3]))


def test_an_alert_that_is_lost_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    garbage = bytes([3, 10, 6, *b"\x17\x03\x03\x00\x01x", 6, 0, 0, 0])
    TARGETS["open"].run(_HONEST + garbage)
    monkeypatch.setattr(Outbox, "collect", lambda self: self.bio.read())
    with pytest.raises(AssertionError, match="no alert after"):
        TARGETS["open"].run(_HONEST + garbage)


def test_an_error_that_is_not_documented_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: TLSConnection, max_bytes: int | None = None) -> bytes | None:
        raise ssl.SSLError("not in our words")

    monkeypatch.setattr(TLSConnection, "receive", fail)
    with pytest.raises(ssl.SSLError):
        TARGETS["handshake"].run(b"")


def test_another_error_than_before_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    count = 0

    def again(self: TLSError) -> TLSError:
        nonlocal count
        count += 1
        return TLSError(f"number {count}")

    monkeypatch.setattr(TLSError, "again", again)
    with pytest.raises(AssertionError, match="another error"):
        TARGETS["handshake"].run(bytes([3, 2, 5, 6, *b"GET / ", 10, 0]))


def test_a_record_that_is_cut_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    two = bytes([0, 1, 5, 0, 0, 1, 5, 0, 3])
    TARGETS["records"].run(two)
    take = Records.take
    monkeypatch.setattr(Records, "take", lambda self: bytes(take(self))[:-1])
    with pytest.raises(AssertionError):
        TARGETS["records"].run(two)


def test_a_hello_that_is_refused_and_answered_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    real = bytes([1, 1, 0])  # of TLS 1.3, without changes
    TARGETS["hello"].run(real)

    def refuse(message: bytes) -> ClientHello:
        raise ValueError("not this one")

    monkeypatch.setattr(ClientHello, "parse", refuse)
    with pytest.raises(AssertionError):
        TARGETS["hello"].run(real)
