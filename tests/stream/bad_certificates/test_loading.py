"""Certificates that a context refuses to load."""

from __future__ import annotations

import ssl
from pathlib import Path

import attrs
import pytest

from tests.certificates import Certificate, Issued, rsa_key
from tests.helpers import VERSIONS
from tests.stream.bad_certificates.sides import context_for
from trio_tlsbio import ReloadingContext


def test_a_key_of_another_certificate(root: Issued) -> None:
    certificate = Certificate().signed_by(root)
    with pytest.raises(ssl.SSLError, match="KEY_VALUES_MISMATCH"):
        attrs.evolve(certificate, key=Certificate().key).load_into(
            context_for(server_side=True, version=VERSIONS["tls13"])
        )


@pytest.mark.parametrize("what", ["another key", "a weak key", "no PEM"])
def test_a_reload_says_what_is_wrong(
    what: str, root: Issued, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "server.pem"
    good = Certificate().signed_by(root)
    weak = Certificate(key=rsa_key(1024)).signed_by(root)
    path.write_bytes(good.key_pem + good.pem)

    def make_context() -> ssl.SSLContext:
        context = context_for(server_side=True, version=VERSIONS["tls13"])
        context.load_cert_chain(path)
        return context

    provider = ReloadingContext(make_context)
    before = provider()
    content, words = {
        "another key": (
            Certificate().signed_by(root).key_pem + good.pem,
            "the private key belongs to another certificate",
        ),
        "a weak key": (
            weak.key_pem + weak.pem,
            "the certificate's key, or that of an issuer, is too weak",
        ),
        "no PEM": (b"nothing", "a file holds no certificate"),
    }[what]
    path.write_bytes(content)
    assert not provider.reload()
    assert provider() is before
    assert words in caplog.text
