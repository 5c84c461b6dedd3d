"""Session tickets that several contexts can read, and those that they can't."""

from __future__ import annotations

import _ssl
import copy
import logging
import os
import pickle
import ssl
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import attrs
import pytest
import trustme

from tests.certificates import CLIENT, Certificate, Issued, load_revocation_list
from tests.helpers import (
    NAME,
    client_context_for,
    failures,
    server_context_for,
    server_of,
    shake_hands,
)
from trio_tlsbio import (
    CertificateError,
    ReloadingContext,
    TLSConnection,
    TLSSession,
    contexts_by_name,
)
from trio_tlsbio._core import libssl, native_context
from trio_tlsbio._net.ticket_keys import hkdf, purpose_of
from trio_tlsbio._stream.decisions import ChooseContext
from trio_tlsbio.ticket_keys import TicketKeys

AVAILABLE = TicketKeys.is_available()
available = pytest.mark.where(AVAILABLE, "this Python does not let us at its contexts")
has_modes = pytest.mark.where(os.name == "posix", "there are no modes to check")

SECRET = bytes(range(80))


def make_key_file(path: Path, secret: bytes = SECRET) -> Path:
    """Put a file into place as a fleet's tools do: whole, and readable by its owner alone."""
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    new.touch(mode=0o600)
    new.write_bytes(secret)
    new.replace(path)
    return path


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    return make_key_file(tmp_path / "tickets.key")


@pytest.fixture
def make_server(
    server_cert: trustme.LeafCert, tls_version: ssl.TLSVersion
) -> Callable[[], ssl.SSLContext]:
    """Make the same context again and again, each with keys of its own."""
    return partial(server_context_for, server_cert, tls_version)


def connect(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    session: TLSSession | None = None,
) -> tuple[bool, TLSSession]:
    """Shake hands; return whether the session was resumed, and the one to go on with."""
    client = TLSConnection(client_context, server_hostname=NAME, session=session)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    assert client.handshake is not None
    assert server.handshake is not None
    assert client.handshake.session_reused == server.handshake.session_reused
    after = client.session
    assert after is not None
    return client.handshake.session_reused, after


def resumes(client_context: ssl.SSLContext, first: ssl.SSLContext, second: ssl.SSLContext) -> bool:
    """Whether a second server resumes what the first one gave. If not, the handshake is full."""
    resumed, session = connect(client_context, first)
    assert not resumed
    return connect(client_context, second, session)[0]


################################################################
# The keys of one context
################################################################


@available
def test_contexts_with_the_same_keys_resume_each_others_sessions(
    client_context: ssl.SSLContext, make_server: Callable[[], ssl.SSLContext], key_file: Path
) -> None:
    one, other, stranger = make_server(), make_server(), make_server()
    for context in one, other:
        TicketKeys.from_file(key_file).install(context)
    assert resumes(client_context, one, other)
    assert resumes(client_context, other, one)
    assert not resumes(client_context, one, stranger)
    assert not resumes(client_context, stranger, one)


@available
def test_contexts_with_another_purpose_do_not(
    client_context: ssl.SSLContext, make_server: Callable[[], ssl.SSLContext], key_file: Path
) -> None:
    servers = [make_server(), make_server(), make_server()]
    keys = TicketKeys.from_file(key_file)
    for context, purpose in zip(servers, (b"a.example", b"b.example", b""), strict=True):
        keys.install(context, purpose)
    for one in servers:
        for other in servers:
            assert resumes(client_context, one, other) == (one is other)


@available
def test_a_ticket_of_old_keys_costs_a_full_handshake(
    client_context: ssl.SSLContext, make_server: Callable[[], ssl.SSLContext]
) -> None:
    context = make_server()
    TicketKeys.generate().install(context, b"a")
    _, session = connect(client_context, context)
    TicketKeys.generate().install(context, b"a")
    resumed, session = connect(client_context, context, session)
    assert not resumed
    assert connect(client_context, context, session)[0], "it goes on with the new keys"


@available
def test_a_connection_that_is_open_does_not_notice(
    client_context: ssl.SSLContext, make_server: Callable[[], ssl.SSLContext]
) -> None:
    context = make_server()
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(context, server_side=True)
    shake_hands(client, server)
    TicketKeys.generate().install(context)
    server.send(b"data")
    client.feed(server.data_to_send())
    assert client.receive() == b"data"


@available
def test_what_is_installed_is_not_what_is_in_the_file(
    make_server: Callable[[], ssl.SSLContext], key_file: Path
) -> None:
    """A ticket begins with the name of its key: that of one purpose says nothing of another."""
    installed: list[bytes] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            "trio_tlsbio._net.ticket_keys.set_ticket_keys",
            lambda _, keys: installed.append(keys),
        )
        for purpose in b"", b"a", b"b", b"a":
            TicketKeys.from_file(key_file).install(make_server(), purpose)
    assert installed[1] == installed[3]
    pieces = [keys[at : at + 16] for keys in installed[:3] for at in range(0, 80, 16)]
    assert len(set(pieces)) == 15
    assert not any(piece in SECRET for piece in pieces)


def test_hkdf() -> None:
    """RFC 5869 appendix A, cases 1 to 3."""
    output = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
    assert output.hex() == (
        "3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865"
    )
    inputs = bytes(range(0x50)), bytes(range(0x60, 0xB0)), bytes(range(0xB0, 0x100))
    assert hkdf(*inputs, 82).hex() == (
        "b11e398dc80327a1c8e7f78c596a49344f012eda2d4efad8a050cc4c19afa97c59045a99cac7827271cb41c6"
        "5e590e09da3275600c2f09b8367793a9aca3db71cc30c58179ec3e87c14c01d5c1f3434f1d87"
    )
    assert hkdf(b"\x0b" * 22, b"", b"", 42).hex() == (
        "8da4e775a563c18f715f802a063c5a31b8a11f5c5ee1879ec3454e5f3c738d2d9d201395faa4b61a96c8"
    )


@available
def test_misuse_is_refused(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    keys = TicketKeys.generate()
    with pytest.raises(ValueError, match="was made for clients"):
        keys.install(client_context)
    with pytest.raises(TypeError, match="a purpose must be bytes, not str"):
        keys.install(server_context, "a.example")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"into an ssl\.SSLContext, not into a ReloadingContext"):
        keys.install(ReloadingContext(lambda: server_context))  # type: ignore[arg-type]


@pytest.mark.parametrize("length", [0, 48, 79, 81])
def test_a_secret_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(ValueError, match=rf"must have 80 bytes, not {length}"):
        TicketKeys(SECRET[:1] + os.urandom(length)[1:] if length else b"")


def test_what_is_no_secret_is_refused() -> None:
    with pytest.raises(ValueError, match="not random"):
        TicketKeys(bytes(80))
    with pytest.raises(TypeError, match="must be bytes, not str"):
        TicketKeys("a" * 80)  # type: ignore[arg-type]


################################################################
# Files
################################################################


@pytest.mark.parametrize("length", [0, 48, 79, 81, 4096])
def test_a_file_of_another_size_is_refused(length: int, key_file: Path) -> None:
    make_key_file(key_file, os.urandom(length))
    with pytest.raises(ValueError, match=rf"tickets\.key has {length} bytes, but .*openssl rand"):
        TicketKeys.from_file(key_file)


@has_modes
@pytest.mark.parametrize("mode", [0o640, 0o620, 0o604, 0o602, 0o666])
def test_a_file_that_is_not_its_owners_alone_is_refused(mode: int, key_file: Path) -> None:
    key_file.chmod(mode)
    with pytest.raises(ValueError, match=rf"mode is {mode:04o}\): set the mode to 0600"):
        TicketKeys.from_file(key_file)
    key_file.chmod(0o400)
    TicketKeys.from_file(str(key_file))


@has_modes
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for path in tmp_path / "pipe", tmp_path:
        with pytest.raises(ValueError, match="is not a regular file"):
            TicketKeys.from_file(path)
    with pytest.raises(FileNotFoundError):
        TicketKeys.from_file(tmp_path / "missing")


@has_modes
def test_the_file_that_is_checked_is_the_one_that_is_read(
    key_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A link that leads elsewhere in between changes nothing; neither does its own mode."""
    link = key_file.with_name("link")
    link.symlink_to(key_file)
    TicketKeys.from_file(link)
    good = make_key_file(key_file.with_name("other"))
    open_file = os.open

    def swap(path: Any, flags: int) -> int:
        descriptor = open_file(path, flags)
        link.unlink()
        link.symlink_to(good)
        return descriptor

    key_file.chmod(0o644)
    with monkeypatch.context() as patch:
        patch.setattr(os, "open", swap)
        with pytest.raises(ValueError, match="mode is 0644"):
            TicketKeys.from_file(link)


@pytest.mark.where(Path("/proc/self/fd").exists(), "descriptors can't be listed")
def test_files_are_closed(key_file: Path, tmp_path: Path) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    TicketKeys.from_file(key_file)
    for bad in tmp_path, make_key_file(tmp_path / "bad", b""):
        with pytest.raises(ValueError, match=r"bad|not a regular"):
            TicketKeys.from_file(bad)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


################################################################
# Nothing shows
################################################################


def test_keys_are_not_shown(key_file: Path) -> None:
    keys = TicketKeys.from_file(key_file)
    assert repr(keys) == str(keys) == "TicketKeys()"


@pytest.mark.parametrize("way", [pickle.dumps, copy.copy, copy.deepcopy])
def test_keys_are_not_copied(way: Callable[[object], object]) -> None:
    with pytest.raises(TypeError, match="a TicketKeys holds secret keys"):
        way(TicketKeys.generate())


def test_errors_show_no_keys(key_file: Path) -> None:
    make_key_file(key_file, SECRET + b"\n")
    with pytest.raises(ValueError, match="81 bytes") as caught:
        TicketKeys.from_file(key_file)
    with pytest.raises(ValueError, match="81") as direct:
        TicketKeys(SECRET + b"\n")
    for error in caught.value, direct.value:
        assert repr(SECRET[:16])[2:-1] not in repr(error.args)


################################################################
# Where contexts can't be reached
################################################################


def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    for function in native_context._libssl, native_context.is_reachable:
        function.cache_clear()
    monkeypatch.setattr(libssl, "_ssl", SimpleNamespace())


@pytest.fixture
def without_libssl(monkeypatch: pytest.MonkeyPatch) -> Any:
    unreachable(monkeypatch)
    yield
    monkeypatch.undo()
    for function in native_context._libssl, native_context.is_reachable:
        function.cache_clear()


def test_a_python_with_all_built_in_says_so(
    without_libssl: None, server_context: ssl.SSLContext, key_file: Path
) -> None:
    assert not TicketKeys.is_available()
    message = "this Python gives no access to the OpenSSL library of its ssl module"
    with pytest.raises(NotImplementedError, match=message):
        TicketKeys.generate().install(server_context)
    with pytest.raises(NotImplementedError, match=message):
        ReloadingContext(lambda: server_context, ticket_keys=key_file)


def test_where_it_is_available() -> None:
    if sys.implementation.name == "pypy":
        assert not AVAILABLE
    if sys.implementation.name == "cpython" and sys.platform == "linux":
        assert AVAILABLE or not hasattr(_ssl, "__file__")


@available
def test_a_context_that_only_claims_to_be_one_is_refused(server_context: ssl.SSLContext) -> None:
    class Wrapper:
        """As truststore has it."""

        protocol = ssl.PROTOCOL_TLS_SERVER
        __class__ = ssl.SSLContext  # type: ignore[assignment]

    with pytest.raises(NotImplementedError, match="a Wrapper gives no access to OpenSSL's context"):
        TicketKeys.generate().install(Wrapper())  # type: ignore[arg-type]


@available
def test_a_pointer_whose_options_differ_is_none(server_context: ssl.SSLContext) -> None:
    class Odd(ssl.SSLContext):
        options = 0  # type: ignore[assignment]

    context = Odd(ssl.PROTOCOL_TLS_SERVER)
    with pytest.raises(NotImplementedError, match="a Odd gives no access"):
        TicketKeys.generate().install(context)


@available
def test_an_openssl_that_takes_no_keys_says_so(
    server_context: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(native_context, "_SET_TICKET_KEYS", 0)
    with pytest.raises(NotImplementedError, match="does not accept session ticket keys"):
        TicketKeys.generate().install(server_context)


################################################################
# What a context is for
################################################################


def server_with(*certificates: trustme.LeafCert, trust: trustme.CA | None = None) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    for certificate in certificates:
        certificate.configure_cert(context)
    if trust is not None:
        trust.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
    return context


@available
def test_a_purpose_is_the_names() -> None:
    names = ("a.example", "*.b.example", "127.0.0.1")
    one, other = trustme.CA(), trustme.CA()
    purpose = purpose_of(server_with(one.issue_cert(*names)))
    assert purpose == purpose_of(server_with(one.issue_cert(*names))), "renewed"
    assert purpose == purpose_of(server_with(other.issue_cert(*reversed(names))))
    assert purpose != purpose_of(server_with(one.issue_cert(*names[:2])))
    assert purpose != purpose_of(server_with(one.issue_cert(*names, "c.example")))


@available
def test_a_purpose_is_the_names_in_all_certificates() -> None:
    ca = trustme.CA()
    rsa = ca.issue_cert("a.example", key_type=trustme.KeyType.RSA)
    ec = ca.issue_cert("b.example", key_type=trustme.KeyType.ECDSA)
    purposes = {purpose_of(server_with(*order)) for order in ([rsa, ec], [ec, rsa])}
    assert len(purposes) == 1
    assert purposes.isdisjoint(purpose_of(server_with(one)) for one in (rsa, ec))


@available
@pytest.mark.parametrize("kinds", [("RSA", "ECDSA"), ("ECDSA", "RSA")], ids="-".join)
def test_looking_at_a_contexts_certificates_leaves_it_as_it_is(kinds: tuple[str, ...]) -> None:
    ca = trustme.CA()
    context = server_with(*(ca.issue_cert(NAME, key_type=trustme.KeyType[kind]) for kind in kinds))
    libssl, pointer = native_context._reach(context)
    before = libssl.SSL_CTX_get0_certificate(pointer)
    assert before
    purpose_of(context)
    assert libssl.SSL_CTX_get0_certificate(pointer) == before


@available
def test_a_certificate_without_names_counts_by_its_subject(ca: trustme.CA) -> None:
    def context(common_name: str) -> ssl.SSLContext:
        certificate = Certificate(names=[], common_name=common_name).signed_by(Issued.of(ca))
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        certificate.load_into(context)
        return context

    assert purpose_of(context("one")) == purpose_of(context("one"))
    assert purpose_of(context("one")) != purpose_of(context("other"))


@available
def test_a_purpose_is_also_whom_it_lets_in() -> None:
    ca, clients, others = trustme.CA(), trustme.CA(), trustme.CA()
    certificate = ca.issue_cert("a.example")
    contexts = {
        "nobody": server_with(certificate),
        "clients": server_with(certificate, trust=clients),
        "others": server_with(certificate, trust=others),
        "both": server_with(certificate, trust=clients),
        "optional": server_with(certificate, trust=clients),
        "strict": server_with(certificate, trust=clients),
        "later": server_with(certificate, trust=clients),
        "weak": server_with(certificate, trust=clients),
    }
    others.configure_trust(contexts["both"])
    contexts["optional"].verify_mode = ssl.CERT_OPTIONAL
    contexts["strict"].verify_flags ^= ssl.VERIFY_X509_STRICT
    contexts["later"].post_handshake_auth = True
    contexts["weak"].set_ciphers("DEFAULT@SECLEVEL=1")
    purposes = {purpose_of(context) for context in contexts.values()}
    assert len(purposes) == len(contexts)
    again = server_with(ca.issue_cert("a.example"), trust=others)
    clients.configure_trust(again)
    assert purpose_of(again) == purpose_of(contexts["both"]), "in another order"
    trusting = server_with(certificate)
    others.configure_trust(trusting)
    assert purpose_of(trusting) == purpose_of(contexts["nobody"]), "it asks nobody"


@available
def test_what_can_not_be_compared_is_refused(ca: trustme.CA) -> None:
    certificate = ca.issue_cert(NAME)
    message = r"call TicketKeys\.install\(\) with a purpose of your own"
    with pytest.raises(ValueError, match=f"has no certificate.*{message}"):
        purpose_of(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
    unknown = server_with(certificate)
    unknown.verify_mode = ssl.CERT_REQUIRED
    revoking = server_with(certificate, trust=ca)
    load_revocation_list(revoking, Issued.of(ca).revokes())
    for context in unknown, revoking:
        with pytest.raises(ValueError, match=f"can't be compared.*{message}"):
            purpose_of(context)


################################################################
# Contexts that are recreated
################################################################


@pytest.fixture
def pem(ca: trustme.CA, tmp_path: Path) -> Path:
    path = tmp_path / "server.pem"
    renew(ca, path)
    return path


def renew(ca: trustme.CA, pem: Path, name: str = NAME) -> None:
    new = pem.with_suffix(".new")
    ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(new))
    new.replace(pem)


@pytest.fixture
def make_machine(
    pem: Path, key_file: Path, tls_version: ssl.TLSVersion
) -> Callable[..., ReloadingContext]:
    """Make one of the machines of a fleet."""

    def make_context() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
        context.minimum_version = context.maximum_version = tls_version
        return context

    def make(**options: Any) -> ReloadingContext:
        return ReloadingContext(make_context, files=[pem], ticket_keys=key_file, **options)

    return make


Machines = Callable[..., ReloadingContext]


@available
def test_machines_of_a_fleet_resume_each_others_sessions(
    client_context: ssl.SSLContext, make_machine: Machines, ca: trustme.CA, pem: Path
) -> None:
    one, other = make_machine(), make_machine()
    assert one() is not other()
    assert resumes(client_context, one(), other())
    _, session = connect(client_context, one())
    renew(ca, pem)
    before = other._current
    assert other() is not before
    resumed, session = connect(client_context, other(), session)
    assert resumed, "a renewed certificate has the same names"
    assert one.reload()
    assert connect(client_context, make_machine()(), session)[0], "after a restart"


@available
def test_machines_for_other_names_do_not(
    client_context: ssl.SSLContext, make_machine: Machines, ca: trustme.CA, pem: Path
) -> None:
    client_context.check_hostname = False
    one = make_machine()()
    renew(ca, pem, "other.example")
    assert not resumes(client_context, one, make_machine()())


@available
def test_new_keys_are_rolled_over_a_fleet(
    client_context: ssl.SSLContext,
    make_machine: Machines,
    key_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Machine by machine: in between some handshakes are full, and none fails."""
    outcomes: list[Exception | None] = []
    one, other = make_machine(on_reload=outcomes.append), make_machine()
    old = other._current
    _, session = connect(client_context, one())
    make_key_file(key_file, SECRET[::-1])
    resumed, session = connect(client_context, one(), session)
    assert not resumed
    assert not connect(client_context, old, session)[0], "not there yet"
    assert connect(client_context, other(), connect(client_context, one())[1])[0]
    assert outcomes == [None]
    assert not caplog.records


@available
@pytest.mark.parametrize("how", ["short", "missing", "open to all"])
def test_a_bad_key_file_keeps_the_old_keys(
    how: str,
    client_context: ssl.SSLContext,
    make_machine: Machines,
    ca: trustme.CA,
    pem: Path,
    key_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It does not hold up a renewed certificate either."""
    outcomes: list[Exception | None] = []
    one, other = make_machine(on_reload=outcomes.append), make_machine()
    _, session = connect(client_context, one())
    if how == "short":
        make_key_file(key_file, b"short")
    elif how == "missing":
        key_file.unlink()
    else:
        key_file.chmod(0o644)
    renew(ca, pem)
    for _ in range(3):
        resumed, session = connect(client_context, one(), session)
        assert resumed
        resumed, session = connect(client_context, other(), session)
        assert resumed
    (error,) = outcomes
    assert isinstance(error, OSError | ValueError)
    first, *_ = caplog.records
    assert (first.name, first.levelno, len(caplog.records)) == (
        "trio_tlsbio.server",
        logging.ERROR,
        2,
    )
    assert first.getMessage().startswith(
        "can't read the session ticket keys, so the old ones stay in use: "
    )
    assert str(key_file) in first.getMessage()
    assert not one.reload()
    key_file.unlink(missing_ok=True)
    make_key_file(key_file, SECRET[::-1])
    assert not connect(client_context, one(), session)[0]
    assert outcomes[2:] == [None]


@available
def test_a_bad_certificate_does_not_hold_up_new_keys(
    client_context: ssl.SSLContext,
    make_machine: Machines,
    pem: Path,
    key_file: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    good = pem.read_bytes()
    one, other = make_machine(), make_machine()
    _, session = connect(client_context, one())
    pem.write_bytes(b"garbage")
    make_key_file(key_file, SECRET[::-1])
    resumed, session = connect(client_context, one(), session)
    assert not resumed
    (record,) = caplog.records
    assert record.getMessage().startswith("can't make a new SSLContext")
    pem.write_bytes(good)
    assert connect(client_context, other(), session)[0]


@available
def test_both_that_are_bad_are_reported(
    make_machine: Machines, pem: Path, key_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    outcomes: list[Exception | None] = []
    one = make_machine(on_reload=outcomes.append)
    pem.write_bytes(b"garbage")
    make_key_file(key_file, b"")
    assert not one.reload()
    assert [record.getMessage()[:10] for record in caplog.records] == ["can't make", "can't read"]
    (outcome,) = outcomes
    assert isinstance(outcome, ssl.SSLError)


@available
def test_a_bad_key_file_at_the_start_is_raised(make_machine: Machines, key_file: Path) -> None:
    make_key_file(key_file, b"short")
    with pytest.raises(ValueError, match="has 5 bytes"):
        make_machine()


@available
def test_keys_alone_are_looked_at_too(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext, key_file: Path
) -> None:
    current = ReloadingContext(lambda: server_context, ticket_keys=key_file)
    _, session = connect(client_context, current())
    make_key_file(key_file, SECRET[::-1])
    assert not connect(client_context, current(), session)[0]
    assert repr(current) == f"<ReloadingContext of {key_file}>"


@available
def test_only_contexts_of_servers_have_keys(
    client_context: ssl.SSLContext, key_file: Path, ca: trustme.CA
) -> None:
    ca.issue_cert("client@example.org").configure_cert(client_context)
    client_context.check_hostname = False
    with pytest.raises(ValueError, match="was made for clients"):
        ReloadingContext(lambda: client_context, ticket_keys=key_file)


@available
def test_each_name_has_its_own(
    ca: trustme.CA, client_context: ssl.SSLContext, key_file: Path, tls_version: ssl.TLSVersion
) -> None:
    names = "a.example", "b.example"

    def machine() -> ChooseContext:
        return contexts_by_name(
            {
                name: ReloadingContext(
                    partial(server_context_for, ca.issue_cert(name), tls_version),
                    ticket_keys=key_file,
                )
                for name in names
            }
        )

    def ask(
        choose: ChooseContext, name: str, session: TLSSession | None = None
    ) -> tuple[bool, TLSSession]:
        client = TLSConnection(client_context, server_hostname=name, session=session)
        shake_hands(client, server_of(choose))
        assert client.handshake is not None
        assert client.session is not None
        return client.handshake.session_reused, client.session

    client_context.check_hostname = False
    one, other = machine(), machine()
    for name in names:
        resumed, session = ask(one, name)
        assert not resumed
        assert ask(other, name, session)[0]
        (elsewhere,) = set(names) - {name}
        stolen = attrs.evolve(session, server_hostname=elsewhere)  # as a hostile client can
        assert not ask(other, elsewhere, stolen)[0]


@available
def test_a_client_that_one_machine_lets_in_gets_no_further(
    ca: trustme.CA, key_file: Path, tls_version: ssl.TLSVersion
) -> None:
    """The same name and the same file, but other authorities: who resumes is verified anew."""
    clients = trustme.CA()
    certificate = Certificate(purposes=[CLIENT]).signed_by(Issued.of(clients))
    client_context = client_context_for(ca, tls_version)
    certificate.load_into(client_context)

    def machine(trusted: trustme.CA, mode: ssl.VerifyMode) -> ssl.SSLContext:
        def make_context() -> ssl.SSLContext:
            context = server_context_for(ca.issue_cert(NAME), tls_version)
            trusted.configure_trust(context)
            context.verify_mode = mode
            return context

        return ReloadingContext(make_context, ticket_keys=key_file)()

    lets_in = machine(clients, ssl.CERT_REQUIRED)
    assert resumes(client_context, lets_in, machine(clients, ssl.CERT_REQUIRED))
    _, session = connect(client_context, lets_in)
    client = TLSConnection(client_context, server_hostname=NAME, session=session)
    server = TLSConnection(machine(trustme.CA(), ssl.CERT_REQUIRED), server_side=True)
    _, refusal = failures(client, server)
    assert isinstance(refusal, CertificateError)
    # Nor does a session without a certificate let anybody in where one is required.
    asks_nobody = machine(clients, ssl.CERT_NONE)
    assert not resumes(client_context, asks_nobody, lets_in)
