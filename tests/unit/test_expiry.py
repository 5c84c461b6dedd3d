"""When the certificate that is in use expires, as statistics report it."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from tests.certificates import Certificate, Issued, load_pem, rsa_key
from tests.helpers import client_context_for, serving
from trio_tlsbio import ReloadingContext, contexts_by_name
from trio_tlsbio._core import native_context
from trio_tlsbio._net import expiry
from trio_tlsbio._net.expiry import certificate_expiry
from trio_tlsbio.monitoring import ReloadingStatistics, ServerMonitor

can_look = pytest.mark.where(
    native_context.is_reachable(), "this Python does not let us at its contexts"
)


def server_context(*leaves: Issued) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for leaf in leaves:
        load_pem(context, leaf.key_pem, leaf.pem)
    return context


def leaf(days: float, name: str = "a.example", key: object = None) -> Issued:
    if key is None:
        return Certificate(names=[name], days=(-1, days)).signed_by(None)
    return Certificate(names=[name], days=(-1, days), key=key).signed_by(None)


def expiry_of(issued: Issued) -> float:
    return issued.certificate.not_valid_after_utc.timestamp()


@can_look
def test_a_context_shows_its_first_certificate_to_expire() -> None:
    soon, late = leaf(5, key=rsa_key(2048)), leaf(9)
    assert certificate_expiry(server_context(late)) == expiry_of(late)
    for order in ((soon, late), (late, soon)):
        assert certificate_expiry(server_context(*order)) == expiry_of(soon)
    by_name = {"a.example": server_context(late), "b.example": server_context(soon)}
    assert certificate_expiry(contexts_by_name(by_name)) == expiry_of(soon)


def test_a_context_without_a_certificate_has_none(ca: trustme.CA) -> None:
    assert certificate_expiry(client_context_for(ca)) is None
    assert certificate_expiry(lambda _: None) is None
    assert ReloadingContext(lambda: client_context_for(ca)).certificate_expires is None


@pytest.fixture(params=[pytest.param("context", marks=can_look), "files"])
def known_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the context shows its certificate, or the files do."""

    def can_not(_: ssl.SSLContext) -> list[bytes]:
        raise NotImplementedError

    if request.param == "files":
        monkeypatch.setattr(expiry, "certificates_in_der", can_not)
    return str(request.param)


@pytest.fixture
def pem(tmp_path: Path) -> Callable[[Issued | None], list[Path]]:
    """Put a certificate, or garbage, into the files of a server."""
    key, certificate = tmp_path / "server.key", tmp_path / "server.pem"

    def put(issued: Issued | None) -> list[Path]:
        key.write_bytes(b"" if issued is None else issued.key_pem)
        certificate.write_bytes(b"garbage" if issued is None else issued.pem)
        return [key, certificate]

    return put


def test_what_is_in_use_counts_not_what_is_in_the_files(
    known_by: str, pem: Callable[[Issued | None], list[Path]]
) -> None:
    first, second = leaf(5), leaf(9)
    key, certificate = pem(first)

    def make_context() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context

    current = ReloadingContext(make_context, files=[key, certificate])
    assert current.statistics() == ReloadingStatistics(0, 0, expiry_of(first))
    pem(second)
    assert current.certificate_expires == expiry_of(first), "nobody has looked yet"
    current()
    assert current.statistics() == ReloadingStatistics(1, 0, expiry_of(second))
    pem(None)
    current()
    assert current.statistics() == ReloadingStatistics(1, 1, expiry_of(second))
    assert certificate_expiry(current) == expiry_of(second)


async def test_a_server_reports_it(
    known_by: str, pem: Callable[[Issued | None], list[Path]]
) -> None:
    first, second = leaf(5), leaf(9)
    key, certificate = pem(first)

    def make_context() -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        return context

    async def handler(_: object) -> None: ...

    current = ReloadingContext(make_context, files=[key, certificate])
    monitor = ServerMonitor()
    assert monitor.statistics().certificate_expires is None
    async with serving(handler, current, monitor=monitor):
        assert monitor.statistics().certificate_expires == expiry_of(first)
        pem(second)
        assert current.reload()
        assert monitor.statistics().certificate_expires == expiry_of(second)
    plain = ServerMonitor()
    async with serving(handler, make_context(), monitor=plain):
        expected = expiry_of(second) if known_by == "context" else None
        assert plain.statistics().certificate_expires == expected
