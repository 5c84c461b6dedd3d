"""Certificates and keys from memory, which leave nothing behind."""

from __future__ import annotations

import errno
import os
import ssl
import stat
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
import trustme
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from tests.certificates import Certificate, Issued, rsa_key
from tests.helpers import NAME, client_context_for, reports_security_level, shake_hands
from trio_tlsbio import HandshakeInfo, TLSConnection, load_identity

HAS_MEMFD = hasattr(os, "memfd_create")
# No literals, so that a traceback that quotes a line does not have them.
PASSWORD = "-".join(("a", "password", "that", "opens"))
WRONG = "-".join(("another", "password", "that", "does", "not"))


@attrs.frozen
class Pem:
    """An identity as it is handed over, and another one that it must not be mixed up with."""

    certificate: bytes
    key: bytes
    other_certificate: bytes
    other_key: bytes

    def encrypted(self, form: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
        key: Any = load_pem_private_key(self.key, None)
        how = BestAvailableEncryption(PASSWORD.encode())
        encrypted: bytes = key.private_bytes(Encoding.PEM, form, how)
        return encrypted


@pytest.fixture
def pem(ca: trustme.CA, server_cert: trustme.LeafCert) -> Pem:
    other = ca.issue_cert(NAME)
    return Pem(
        b"".join(each.bytes() for each in server_cert.cert_chain_pems),
        server_cert.private_key_pem.bytes(),
        other.cert_chain_pems[0].bytes(),
        other.private_key_pem.bytes(),
    )


@pytest.fixture
def context() -> ssl.SSLContext:
    return ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)


@pytest.fixture(params=["memory", "disk"])
def directory(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Path]:
    """The directory for temporary files, by each way; it is empty afterwards."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    if request.param == "disk":
        monkeypatch.delattr(os, "memfd_create", raising=False)
    before = open_files()
    yield tmp_path
    assert list(tmp_path.iterdir()) == []
    assert open_files() == before


def open_files() -> int:
    fds = Path("/proc/self/fd")
    return len(list(fds.iterdir())) if fds.exists() else 0


def shake(ca: trustme.CA, context: ssl.SSLContext) -> HandshakeInfo:
    client = TLSConnection(client_context_for(ca), server_hostname=NAME)
    shake_hands(client, TLSConnection(context, server_side=True))
    assert client.handshake is not None
    return client.handshake


################################################################
# What works
################################################################


@pytest.mark.parametrize("kind", [bytes, bytes.decode], ids=["bytes", "str"])
def test_an_identity_from_memory(
    kind: Callable[[bytes], Any],
    ca: trustme.CA,
    context: ssl.SSLContext,
    pem: Pem,
    directory: Path,
) -> None:
    load_identity(context, kind(pem.certificate), kind(pem.key))
    assert shake(ca, context).peer_certificate


def test_both_may_be_in_one_text(
    ca: trustme.CA, context: ssl.SSLContext, pem: Pem, directory: Path
) -> None:
    for both in pem.key + pem.certificate, b"# \xc3\xa9 \n" + pem.certificate + pem.key:
        load_identity(context, both, both)
        shake(ca, context)


def test_issuers_are_sent_along(directory: Path) -> None:
    root = trustme.CA()
    between = root.create_child_ca()
    leaf = between.issue_cert(NAME)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    chain = b"".join(each.bytes() for each in leaf.cert_chain_pems)
    load_identity(context, chain, leaf.private_key_pem.bytes())
    shake(root, context)  # which knows nothing of what is between


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize(
    "password",
    [PASSWORD, PASSWORD.encode(), bytearray(PASSWORD.encode()), lambda: PASSWORD],
    ids=["str", "bytes", "bytearray", "function"],
)
def test_a_key_that_is_encrypted(
    password: Any,
    form: PrivateFormat,
    ca: trustme.CA,
    context: ssl.SSLContext,
    pem: Pem,
    directory: Path,
) -> None:
    load_identity(context, pem.certificate, pem.encrypted(form), password)
    shake(ca, context)


def test_the_password_is_asked_for_once_and_only_if_needed(
    context: ssl.SSLContext, pem: Pem, directory: Path
) -> None:
    calls: list[None] = []

    def ask() -> str:
        calls.append(None)
        return PASSWORD

    load_identity(context, pem.certificate, pem.key, ask)
    assert len(calls) == 0
    load_identity(context, pem.certificate, pem.encrypted(), ask)
    assert len(calls) == 1


def test_a_clients_identity(ca: trustme.CA, directory: Path) -> None:
    cert = ca.issue_cert("client@client.example")
    client_context = client_context_for(ca)
    load_identity(client_context, cert.cert_chain_pems[0].bytes(), cert.private_key_pem.bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ca.issue_cert(NAME).configure_cert(context)
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    server = TLSConnection(context, server_side=True)
    shake_hands(TLSConnection(client_context, server_hostname=NAME), server)
    assert server.handshake is not None
    assert server.handshake.peer_certificate


################################################################
# What does not
################################################################


def damaged(pem: bytes) -> bytes:
    lines = pem.splitlines(keepends=True)
    lines[2] = b"A" * (len(lines[2]) - 1) + b"\n"
    return b"".join(lines)


def cut(pem: bytes) -> bytes:
    return b"".join(pem.splitlines(keepends=True)[:4])


REFUSED: dict[str, tuple[Callable[[Pem], tuple[Any, ...]], str]] = {
    "another key": (
        lambda pem: (pem.certificate, pem.other_key),
        "the private key belongs to another certificate: the two have to be renewed together",
    ),
    "another certificate": (
        lambda pem: (pem.other_certificate, pem.key),
        "the private key belongs to another certificate: the two have to be renewed together",
    ),
    "no password": (
        lambda pem: (pem.certificate, pem.encrypted()),
        "the private key is encrypted: give its password",
    ),
    "no password, the old form": (
        lambda pem: (pem.certificate, pem.encrypted(PrivateFormat.TraditionalOpenSSL)),
        "the private key is encrypted: give its password",
    ),
    "wrong password": (
        lambda pem: (pem.certificate, pem.encrypted(), WRONG),
        "the private key can't be decrypted: the password is wrong, or the key is damaged",
    ),
    "wrong password, the old form": (
        lambda pem: (pem.certificate, pem.encrypted(PrivateFormat.TraditionalOpenSSL), WRONG),
        "the private key can't be decrypted: the password is wrong, or the key is damaged",
    ),
    "empty password": (
        lambda pem: (pem.certificate, pem.encrypted(), ""),
        "the private key can't be decrypted: the password is wrong, or the key is damaged",
    ),
    "damaged certificate": (
        lambda pem: (damaged(pem.certificate), pem.key),
        "a certificate is damaged, or not whole",
    ),
    "cut certificate": (
        lambda pem: (cut(pem.certificate), pem.key),
        "a certificate is damaged, or not whole",
    ),
    "damaged issuer": (
        lambda pem: (pem.certificate + damaged(pem.certificate), pem.key),
        "a certificate is damaged, or not whole",
    ),
    "damaged key": (
        lambda pem: (pem.certificate, damaged(pem.key)),
        "the private key is damaged, or of a kind that OpenSSL does not know",
    ),
    "cut key": (
        lambda pem: (pem.certificate, cut(pem.key)),
        "the private key is damaged, or of a kind that OpenSSL does not know",
    ),
    "swapped": (
        lambda pem: (pem.key, pem.certificate),
        "there is no certificate in PEM form where it should be: the certificate comes first, then "
        "the key",
    ),
    "no key": (
        lambda pem: (pem.certificate, pem.certificate),
        "there is no private key in PEM form where it should be: the certificate comes first, then "
        "the key",
    ),
    "a path": (
        lambda pem: ("server.pem", "server.key"),
        "the certificate is not in PEM form: if it is the path of a file, call load_cert_chain()",
    ),
    "nothing": (
        lambda pem: (pem.certificate, b""),
        "the private key is not in PEM form: if it is the path of a file, call load_cert_chain()",
    ),
    "DER": (
        lambda pem: (ssl.PEM_cert_to_DER_cert(pem.certificate.decode()), pem.key),
        "the certificate seems to be in DER form: it has to be in PEM form",
    ),
}


@pytest.mark.parametrize(("how", "message"), REFUSED.values(), ids=list(REFUSED))
def test_what_is_wrong_is_said_in_words(
    how: Callable[[Pem], tuple[Any, ...]],
    message: str,
    ca: trustme.CA,
    context: ssl.SSLContext,
    pem: Pem,
    directory: Path,
) -> None:
    load_identity(context, pem.certificate, pem.key)
    with pytest.raises(ValueError, match=r".") as caught:
        load_identity(context, *how(pem))
    assert str(caught.value) == message
    shown = [*traceback.format_exception(caught.value), repr(caught.value.args)]
    cause = caught.value.__cause__
    shown += [repr(cause), repr(getattr(cause, "args", None))]
    for secret in (pem.key.splitlines()[1], pem.encrypted().splitlines()[-3], PASSWORD, WRONG):
        text = secret if isinstance(secret, str) else secret.decode()
        assert not any(text in each for each in shown)
    # What was loaded before is there, certificate and key.
    shake(ca, context)


def test_a_key_that_is_too_weak_is_refused(
    ca: trustme.CA, context: ssl.SSLContext, pem: Pem, directory: Path
) -> None:
    weak = Certificate(key=rsa_key(1024)).signed_by(Issued.of(ca))
    load_identity(context, pem.certificate, pem.key)
    with pytest.raises(ValueError, match="too weak for this security level"):
        load_identity(context, weak.pem, weak.key_pem)
    shake(ca, context)
    context.set_ciphers("DEFAULT@SECLEVEL=0")
    load_identity(context, weak.pem, weak.key_pem)


@reports_security_level
def test_an_issuer_that_is_too_weak_leaves_the_context_as_it_was(
    ca: trustme.CA, context: ssl.SSLContext, pem: Pem, directory: Path
) -> None:
    """OpenSSL loads the issuers last."""
    issuer = Certificate(key=rsa_key(1024), is_ca=True).signed_by(None)
    strong = Certificate().signed_by(issuer)
    load_identity(context, pem.certificate, pem.key)
    with pytest.raises(ValueError, match="too weak for this security level"):
        load_identity(context, strong.pem + issuer.pem, strong.key_pem)
    shake(ca, context)


def test_what_a_function_for_the_password_raises_propagates(
    context: ssl.SSLContext, pem: Pem, directory: Path
) -> None:
    def ask() -> str:
        raise LookupError("the vault is closed")

    with pytest.raises(LookupError, match="the vault is closed"):
        load_identity(context, pem.certificate, pem.encrypted(), ask)


@pytest.mark.parametrize("value", [None, 3, Path("server.pem"), bytearray(b"pem")], ids=repr)
def test_other_types_are_refused(value: Any, context: ssl.SSLContext, pem: Pem) -> None:
    name = type(value).__name__
    with pytest.raises(TypeError, match=f"the certificate must be .* not {name}"):
        load_identity(context, value, pem.key)
    with pytest.raises(TypeError, match=f"the private key must be .* not {name}"):
        load_identity(context, pem.certificate, value)


################################################################
# Where it is meanwhile
################################################################


class Watching(ssl.SSLContext):
    """Looks at the files that are to be loaded."""

    seen: list[Path]

    def load_cert_chain(self, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
        self.seen += [Path(certfile), Path(keyfile)]
        for path in self.seen:
            if "/proc/" not in str(path):
                assert stat.S_IMODE(path.stat().st_mode) == 0o600
                assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        super().load_cert_chain(certfile, keyfile, password)


def watching() -> Watching:
    context = Watching(ssl.PROTOCOL_TLS_SERVER)
    context.seen = []
    return context


@pytest.mark.where(os.name == "posix", "there are no modes to check")
def test_only_this_user_could_read_it(pem: Pem, directory: Path) -> None:
    context = watching()
    before = os.umask(0)
    try:
        load_identity(context, pem.certificate, pem.key)
    finally:
        os.umask(before)
    assert len(context.seen) == 2
    assert not any(path.exists() for path in context.seen)


@pytest.mark.where(HAS_MEMFD, "there are no files in memory")
def test_where_it_can_nothing_is_written_to_a_disk(
    pem: Pem, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    context = watching()
    load_identity(context, pem.certificate, pem.key)
    assert all(str(path).startswith("/proc/self/fd/") for path in context.seen)


@pytest.mark.where(HAS_MEMFD, "there are no files in memory")
@pytest.mark.parametrize("how", ["memfd_create", "/proc"])
def test_where_that_is_refused_files_are_used(
    how: str, pem: Pem, monkeypatch: pytest.MonkeyPatch, directory: Path
) -> None:
    def refuse(name: str) -> int:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    if how == "/proc":
        monkeypatch.setattr(os, "access", lambda path, mode: False)
    else:
        monkeypatch.setattr(os, "memfd_create", refuse, raising=False)
    context = watching()
    load_identity(context, pem.certificate, pem.key)
    assert all(directory in path.parents for path in context.seen)


def test_ctrl_c_leaves_nothing(pem: Pem, directory: Path) -> None:
    class Interrupted(Watching):
        def load_cert_chain(self, *args: Any) -> None:
            super().load_cert_chain(*args)
            raise KeyboardInterrupt

    context = Interrupted(ssl.PROTOCOL_TLS_SERVER)
    context.seen = []
    with pytest.raises(KeyboardInterrupt):
        load_identity(context, pem.certificate, pem.key)
    assert not any(path.exists() for path in context.seen)


def test_no_error_is_left_for_other_connections(
    ca: trustme.CA, context: ssl.SSLContext, pem: Pem, directory: Path
) -> None:
    load_identity(context, pem.certificate, pem.key)
    client = TLSConnection(client_context_for(ca), server_hostname=NAME)
    server = TLSConnection(context, server_side=True)
    for how, _ in REFUSED.values():
        with pytest.raises(ValueError, match=r"."):
            load_identity(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), *how(pem))
        client.do_handshake()
        server.feed(client.data_to_send())
        server.do_handshake()
        client.feed(server.data_to_send())
    assert client.do_handshake()
