"""Contexts that are recreated, and chosen by name: no sockets needed."""

from __future__ import annotations

import logging
import os
import re
import ssl
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeAlias

import attrs
import pytest
import trustme

from tests.certificates import CLIENT, Certificate, Issued, load_revocation_list
from tests.hellos import browser_hello
from tests.helpers import (
    VERSIONS,
    client_context_for,
    failures,
    server_context_for,
    server_of,
    shake_hands,
)
from trio_tlsbio import (
    CertificateError,
    ClientHello,
    HandshakeInfo,
    PeerAlertError,
    RefuseHandshake,
    ReloadingContext,
    TLSConnection,
    TLSError,
    contexts_by_name,
)

LOGGER = "trio_tlsbio.server"

Choose: TypeAlias = Callable[[ClientHello], object]


################################################################
# Renewed certificates
################################################################


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return tmp_path / "server.pem"


@pytest.fixture
def renew(ca: trustme.CA, pem: Path) -> Callable[[str], None]:
    """Put a certificate for a name into the file."""

    def put(name: str) -> None:
        # As ACME clients do: never half of a file, and another one each time.
        new = pem.with_suffix(".new")
        ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(new))
        new.rename(pem)

    put("one.example")
    return put


@pytest.fixture
def make_context(pem: Path) -> Callable[[], ssl.SSLContext]:
    def make() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
        return context

    return make


def certificate_names(
    ca: trustme.CA, context: ssl.SSLContext | Choose, name: str | None = None
) -> object:
    """Shake hands with a server, and return the names in its certificate."""
    client_context = client_context_for(ca)
    client_context.check_hostname = False
    client = TLSConnection(client_context, server_hostname=name)
    shake_hands(client, server_of(context))
    assert client.handshake is not None
    assert client.handshake.peer_certificate is not None
    return [value for _, value in client.handshake.peer_certificate["subjectAltName"]]


def test_a_changed_file_is_noticed(
    ca: trustme.CA,
    pem: Path,
    renew: Callable[[str], None],
    make_context: Callable[[], ssl.SSLContext],
) -> None:
    reloads: list[Exception | None] = []
    current = ReloadingContext(make_context, files=[pem], on_reload=reloads.append)
    first = current()
    assert current() is first
    assert certificate_names(ca, first) == ["one.example"]
    renew("two.example")
    assert current() is not first
    assert current() is current()
    assert certificate_names(ca, current()) == ["two.example"]
    assert certificate_names(ca, first) == ["one.example"], "what is in use goes on"
    assert reloads == [None]


def test_a_link_that_leads_elsewhere_is_noticed(
    ca: trustme.CA,
    pem: Path,
    renew: Callable[[str], None],
    make_context: Callable[[], ssl.SSLContext],
) -> None:
    pem.rename(pem.with_name("archive1.pem"))
    pem.symlink_to("archive1.pem")
    current = ReloadingContext(make_context, files=[str(pem)])
    renew("two.example")
    pem.rename(pem.with_name("archive2.pem"))
    pem.symlink_to("archive2.pem")
    assert certificate_names(ca, current()) == ["two.example"]


def test_without_files_it_takes_asking(
    ca: trustme.CA, renew: Callable[[str], None], make_context: Callable[[], ssl.SSLContext]
) -> None:
    current = ReloadingContext(make_context)
    renew("two.example")
    assert certificate_names(ca, current()) == ["one.example"]
    assert current.reload()
    assert certificate_names(ca, current()) == ["two.example"]


@pytest.mark.parametrize(
    ("how", "why"),
    [
        ("garbage", "in PEM form"),
        ("empty", "in PEM form"),
        ("missing", "No such file"),
        ("another key", "the private key belongs to another certificate"),
    ],
)
def test_a_bad_file_keeps_the_old_and_is_reported_once(
    how: str,
    why: str,
    ca: trustme.CA,
    pem: Path,
    renew: Callable[[str], None],
    make_context: Callable[[], ssl.SSLContext],
    caplog: pytest.LogCaptureFixture,
) -> None:
    reloads: list[Exception | None] = []
    current = ReloadingContext(make_context, files=[pem], on_reload=reloads.append)
    first = current()
    if how == "missing":
        pem.unlink()
    elif how == "another key":
        key = ca.issue_cert("two.example").private_key_pem.bytes()
        pem.write_bytes(key + ca.issue_cert("three.example").cert_chain_pems[0].bytes())
    else:
        pem.write_bytes(b"garbage" if how == "garbage" else b"")
    for _ in range(3):
        assert current() is first
    (error,) = reloads
    assert isinstance(error, OSError)  # ssl.SSLError is one
    (record,) = caplog.records
    assert (record.name, record.levelno) == (LOGGER, logging.ERROR)
    message = record.getMessage()
    assert message.startswith(
        f"can't make a new SSLContext from {pem}, so the old one stays in use"
    )
    assert why in message
    assert not current.reload(), "asked for, it says so again"
    assert len(reloads) == len(caplog.records) == 2
    renew("two.example")
    assert certificate_names(ca, current()) == ["two.example"]
    assert reloads[-1] is None


def test_what_failed_for_a_passing_reason_is_tried_again_more_and_more_rarely(
    ca: trustme.CA,
    pem: Path,
    renew: Callable[[str], None],
    make_context: Callable[[], ssl.SSLContext],
    caplog: pytest.LogCaptureFixture,
) -> None:
    failure: OSError | None = None
    tries = 0

    def make() -> ssl.SSLContext:
        nonlocal tries
        tries += 1
        if failure is not None:
            raise failure
        return make_context()

    reloads: list[Exception | None] = []
    current = ReloadingContext(make, files=[pem], on_reload=reloads.append)
    first = current()
    renew("two.example")
    tries = 0
    for reason in ["no descriptors"] * 32 + ["no memory"] * 32:
        failure = OSError(reason)
        assert current() is first
    # Each try blocks the event loop, and anybody who connects could bring it about.
    assert tries == 1 + 6
    renew("three.example")  # news, which begins anew
    for _ in range(1 + 1 + 2):
        current()
    assert tries == 1 + 6 + 3
    failure = None
    for _ in range(4):
        current()
    assert tries == 1 + 6 + 3 + 1
    assert certificate_names(ca, current()) == ["three.example"]
    told = [str(error) for error in reloads]
    assert told == ["no descriptors", "no memory", "no memory", "None"]
    assert len(caplog.records) == 3, "a line for each reason and change, not for each try"


def test_what_changes_while_it_is_read_is_read_again(
    ca: trustme.CA,
    pem: Path,
    renew: Callable[[str], None],
    make_context: Callable[[], ssl.SSLContext],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """At the next look: a context made of files from before and after is not used meanwhile."""
    names = iter(["two.example", "three.example"])
    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        made.append(make_context())
        if name := next(names, None):
            renew(name)
        return made[-1]

    reloads: list[Exception | None] = []
    current = ReloadingContext(make, files=[pem], on_reload=reloads.append)
    assert current() is made[0], "the first one has none to keep"
    assert len(made) == 2, "one look makes one context"
    assert current() is made[2]
    assert certificate_names(ca, current()) == ["three.example"]
    assert len(made) == 3
    error, fine = reloads
    assert str(error) == "the files changed while they were read"
    assert fine is None
    (record,) = caplog.records
    assert record.getMessage().endswith(
        "the old one stays in use: the files changed while they were read"
    )


@attrs.frozen
class Volume:
    """A directory of secrets as Kubernetes has it: all files change by one rename of a link."""

    directory: Path
    ca: trustme.CA

    @property
    def files(self) -> list[Path]:
        return [self.directory / name for name in ("tls.crt", "tls.key", "ca.crt")]

    def put(self, version: str) -> None:
        content = self.directory / f"..{version}"
        content.mkdir()
        cert = self.ca.issue_cert(f"{version}.example")
        cert.cert_chain_pems[0].write_to_path(str(content / "tls.crt"))
        cert.private_key_pem.write_to_path(str(content / "tls.key"))
        # Which authority there is says which version was read.
        trustme.CA(organization_name=version).cert_pem.write_to_path(str(content / "ca.crt"))
        link = self.directory / "..data_tmp"
        link.symlink_to(content.name)
        link.replace(self.directory / "..data")
        for file in self.files:
            if not file.is_symlink():
                file.symlink_to(f"..data/{file.name}")


@pytest.fixture
def volume(ca: trustme.CA, tmp_path: Path) -> Volume:
    volume = Volume(tmp_path / "secrets", ca)
    volume.directory.mkdir()
    volume.put("one")
    return volume


def authority_of(context: ssl.SSLContext) -> str:
    (authority,) = context.get_ca_certs()
    subject: Any = authority["subject"]
    names: dict[str, str] = dict(part for parts in subject for part in parts)
    return names["organizationName"]


@pytest.mark.parametrize("after", ["nothing", "tls.crt", "tls.key", "ca.crt"])
def test_a_volume_is_seen_whole_or_not_at_all(after: str, ca: trustme.CA, volume: Volume) -> None:
    """Whenever the link is renamed, also between the files while they are read."""
    certificate, key, authorities = volume.files
    new = iter(["three"])

    def then(file: str) -> None:
        if file == after and len(made) == 1 and (version := next(new, None)):
            volume.put(version)

    class Reading(ssl.SSLContext):
        def load_cert_chain(self, certfile: Any, keyfile: Any = None, password: Any = None) -> None:
            # OpenSSL opens them one after the other.
            opened = [os.open(certfile, os.O_RDONLY)]
            try:
                then("tls.crt")
                opened.append(os.open(keyfile, os.O_RDONLY))
                super().load_cert_chain(*(f"/dev/fd/{file}" for file in opened))
            finally:
                for file in opened:
                    os.close(file)
            then("tls.key")

    made: list[ssl.SSLContext] = []

    def make() -> ssl.SSLContext:
        context = Reading(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        context.load_verify_locations(authorities)
        then("ca.crt")
        made.append(context)
        return context

    def version() -> str:
        context = current()
        assert certificate_names(ca, context) == [f"{authority_of(context)}.example"]
        return authority_of(context)

    current = ReloadingContext(make, files=volume.files)
    assert version() == "one"
    volume.put("two")
    expected = "two" if after == "nothing" else "one"
    assert version() == expected
    assert version() == ("two" if after == "nothing" else "three")
    assert len(made) <= 3
    assert version() == ("two" if after == "nothing" else "three")


@pytest.mark.parametrize("first", ["certificate", "key"])
def test_files_that_are_written_one_after_the_other(
    first: str, ca: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    certificate, key = tmp_path / "server.pem", tmp_path / "server.key"

    def write(cert: trustme.LeafCert, *files: str) -> None:
        for file in files:
            if file == "key":
                cert.private_key_pem.write_to_path(str(key))
            else:
                cert.cert_chain_pems[0].write_to_path(str(certificate))

    def make() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(certificate, key)
        return context

    write(ca.issue_cert("one.example"), "certificate", "key")
    reloads: list[Exception | None] = []
    current = ReloadingContext(make, files=[certificate, key], on_reload=reloads.append)
    old = current()
    new = ca.issue_cert("two.example")
    write(new, first)
    for _ in range(5):
        assert current() is old
    (record,) = caplog.records
    assert "the private key belongs to another certificate" in record.getMessage()
    write(new, "key" if first == "certificate" else "certificate")
    assert certificate_names(ca, current()) == ["two.example"], "at once"
    assert [type(error) for error in reloads] == [ssl.SSLError, type(None)]


def test_it_fails_at_once_if_there_is_nothing_to_keep(
    pem: Path, make_context: Callable[[], ssl.SSLContext]
) -> None:
    with pytest.raises(FileNotFoundError):
        ReloadingContext(make_context, files=[pem])
    with pytest.raises(TypeError, match=r"must return an ssl\.SSLContext, not NoneType"):
        ReloadingContext(lambda: None)  # type: ignore[arg-type,return-value]


def test_its_repr_names_the_files(
    pem: Path, renew: Callable[[str], None], make_context: Callable[[], ssl.SSLContext]
) -> None:
    assert repr(ReloadingContext(make_context, files=[pem])) == f"<ReloadingContext of {pem}>"
    assert repr(ReloadingContext(make_context)) == "<ReloadingContext of no files>"


def test_a_bug_that_is_no_exception_of_files_is_not_hidden_from_who_asks(
    renew: Callable[[str], None], make_context: Callable[[], ssl.SSLContext]
) -> None:
    reloads: list[Exception | None] = []
    results = iter([make_context(), "no context"])
    current = ReloadingContext(lambda: next(results), on_reload=reloads.append)  # type: ignore[arg-type,return-value]
    assert not current.reload()
    assert isinstance(reloads[0], TypeError)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        (ssl.PROTOCOL_TLS_SERVER, ssl.PROTOCOL_TLS_CLIENT),
        (ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER),
    ],
    ids=["server", "client"],
)
def test_a_reload_does_not_change_the_side(
    first: ssl._SSLMethod, second: ssl._SSLMethod, caplog: pytest.LogCaptureFixture
) -> None:
    """The next connection could not be made by it, which would end a server."""
    reloads: list[Exception | None] = []
    protocols = iter([first, second, first])
    current = ReloadingContext(lambda: ssl.SSLContext(next(protocols)), on_reload=reloads.append)
    before = current()
    assert not current.reload()
    assert current() is before
    (record,) = caplog.records
    assert f"its first context was for {first.name}" in record.getMessage()
    assert current.reload(), "it goes by the first one, not by the last"
    assert current().protocol is first
    refused, fine = reloads
    assert isinstance(refused, ValueError)
    assert second.name in str(refused)
    assert fine is None


################################################################
# Several names
################################################################


def test_how_many_connections_go_by_before_the_next_try(
    pem: Path, renew: Callable[[str], None], make_context: Callable[[], ssl.SSLContext]
) -> None:
    tries: list[int] = []
    connections = 0

    def make() -> ssl.SSLContext:
        tries.append(connections)
        if connections:
            raise OSError("no descriptors")
        return make_context()

    current = ReloadingContext(make, files=[pem])
    renew("two.example")
    for connections in range(1, 5000):  # noqa: B007  # make() reads it
        current()
    gaps = [after - before for before, after in pairwise(tries)]
    assert gaps[1:] == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 1024, 1024]


NAMES = ("a.example", "b.example", "*.c.example")


@pytest.fixture
def contexts(ca: trustme.CA, tls_version: ssl.TLSVersion) -> dict[str, ssl.SSLContext]:
    return {name: server_context_for(ca.issue_cert(name), tls_version) for name in NAMES}


def named_pair(
    ca: trustme.CA, choose: Choose, name: str | None, version: ssl.TLSVersion
) -> tuple[TLSConnection, TLSConnection]:
    client_context = client_context_for(ca, version)
    client_context.check_hostname = name is not None
    client_context.set_alpn_protocols(["h2", "http/1.1"])
    return TLSConnection(client_context, server_hostname=name), server_of(choose)


@pytest.mark.parametrize(
    ("asked", "certificate"),
    [
        ("a.example", "a.example"),
        ("b.example", "b.example"),
        ("B.Example", "b.example"),
        ("x.c.example", "*.c.example"),
    ],
)
def test_each_name_has_its_certificate(
    asked: str,
    certificate: str,
    ca: trustme.CA,
    contexts: dict[str, ssl.SSLContext],
    tls_version: ssl.TLSVersion,
) -> None:
    client, server = named_pair(ca, contexts_by_name(contexts), asked, tls_version)
    shake_hands(client, server)
    assert client.handshake is not None
    assert client.handshake.matched_name == certificate
    assert server.handshake is not None
    assert server.handshake.server_hostname == asked.lower()


@pytest.mark.parametrize("asked", ["other.example", "c.example", "y.x.c.example", None])
def test_other_names_are_refused(
    asked: str | None,
    ca: trustme.CA,
    contexts: dict[str, ssl.SSLContext],
    tls_version: ssl.TLSVersion,
) -> None:
    client, server = named_pair(ca, contexts_by_name(contexts), asked, tls_version)
    refusal, reason = failures(client, server)
    assert isinstance(refusal, PeerAlertError)
    assert refusal.alert == "unrecognized_name"
    assert isinstance(reason, TLSError)
    assert str(reason) == (
        f"the peer asked for {asked or 'no name'}, which is not served here "
        "(alert unrecognized_name)"
    )
    assert reason.error_type == "unrecognized_name"


def test_a_wildcard_itself_can_not_be_asked_for(contexts: dict[str, ssl.SSLContext]) -> None:
    hello = browser_hello(b"*.c.example").message
    with pytest.raises(RefuseHandshake, match=r"the peer asked for \*\.c\.example, which is not"):
        contexts_by_name(contexts)(ClientHello.parse(hello))


@pytest.mark.parametrize("asked", ["other.example", None])
def test_other_names_can_have_a_default(
    asked: str | None,
    ca: trustme.CA,
    contexts: dict[str, ssl.SSLContext],
    tls_version: ssl.TLSVersion,
) -> None:
    default = server_context_for(ca.issue_cert("other.example"), tls_version)
    choose = contexts_by_name(contexts, default=default)
    client, server = named_pair(ca, choose, asked, tls_version)
    shake_hands(client, server)
    assert server.ssl_object.context is default
    assert server.handshake is not None
    assert server.handshake.server_hostname == asked
    client, server = named_pair(ca, choose, "b.example", tls_version)
    shake_hands(client, server)
    assert client.handshake is not None
    assert client.handshake.matched_name == "b.example"


def test_a_name_given_itself_comes_before_a_wildcard(
    ca: trustme.CA, contexts: dict[str, ssl.SSLContext], tls_version: ssl.TLSVersion
) -> None:
    itself = server_context_for(ca.issue_cert("x.c.example"), tls_version)
    choose = contexts_by_name({**contexts, "x.c.example": itself})
    for name in ("x.c.example", "y.c.example"):
        client, server = named_pair(ca, choose, name, tls_version)
        shake_hands(client, server)
        expected = itself if name == "x.c.example" else contexts["*.c.example"]
        assert server.ssl_object.context is expected


def test_each_name_has_its_alpn_protocols(
    ca: trustme.CA, contexts: dict[str, ssl.SSLContext], tls_version: ssl.TLSVersion
) -> None:
    contexts["a.example"].set_alpn_protocols(["h2"])
    contexts["b.example"].set_alpn_protocols(["http/1.1"])
    choose = contexts_by_name(contexts)
    for name, protocol in (("a.example", "h2"), ("b.example", "http/1.1"), ("x.c.example", None)):
        client, server = named_pair(ca, choose, name, tls_version)
        shake_hands(client, server)
        assert server.handshake is not None
        assert server.handshake.alpn_protocol == protocol


def test_sessions_of_a_name_are_resumed(
    ca: trustme.CA, contexts: dict[str, ssl.SSLContext], tls_version: ssl.TLSVersion
) -> None:
    choose = contexts_by_name(contexts)
    client, server = named_pair(ca, choose, "b.example", tls_version)
    shake_hands(client, server)
    session = client.session
    assert session is not None
    client = TLSConnection(session.ssl_context, server_hostname="b.example", session=session)
    server = server_of(choose)
    shake_hands(client, server)
    assert server.handshake is not None
    assert server.handshake.session_reused
    assert server.handshake.server_hostname == "b.example"


def test_each_name_has_its_versions(ca: trustme.CA) -> None:
    """OpenSSL reads an sni_callback's context too late for this."""
    contexts = {
        name: server_context_for(ca.issue_cert(name), version)
        for name, version in (("a.example", VERSIONS["tls12"]), ("b.example", VERSIONS["tls13"]))
    }
    choose = contexts_by_name(contexts)
    context = client_context_for(ca)
    context.minimum_version = VERSIONS["tls12"]
    for name, version in (("a.example", "TLSv1.2"), ("b.example", "TLSv1.3")):
        client, server = TLSConnection(context, server_hostname=name), server_of(choose)
        shake_hands(client, server)
        assert client.handshake is not None
        assert client.handshake.version == version
    client, server = named_pair(ca, choose, "b.example", VERSIONS["tls12"])
    refusal, _ = failures(client, server)
    assert isinstance(refusal, PeerAlertError)
    assert refusal.alert == "protocol_version"


@pytest.mark.parametrize("order", [1, -1])
def test_each_name_has_the_settings_of_its_context(
    order: int,
    ca: trustme.CA,
    contexts: dict[str, ssl.SSLContext],
    tls_version: ssl.TLSVersion,
) -> None:
    """Also those that OpenSSL does not change when an sni_callback gives it another context."""
    demanding, plain = contexts["a.example"], contexts["b.example"]
    ca.configure_trust(demanding)
    demanding.verify_mode = ssl.CERT_REQUIRED
    demanding.options |= ssl.OP_NO_TICKET
    demanding.num_tickets = 1
    choose = contexts_by_name(dict(list(contexts.items())[::order]))
    client_context = client_context_for(ca, tls_version)
    Certificate(purposes=[CLIENT]).signed_by(Issued.of(ca)).load_into(client_context)
    for name, is_demanding in (("a.example", True), ("b.example", False), ("a.example", True)):
        client = TLSConnection(client_context, server_hostname=name, collect_sessions=True)
        server = server_of(choose)
        shake_hands(client, server)
        assert server.ssl_object.context is (demanding if is_demanding else plain)
        assert server.handshake is not None
        assert bool(server.handshake.peer_certificate) == is_demanding
        sessions = client.new_sessions()
        if tls_version is ssl.TLSVersion.TLSv1_3:
            assert len(sessions) == (1 if is_demanding else 2)
        elif (session := client.ssl_object.session) is not None:
            assert session.has_ticket != is_demanding


@pytest.mark.parametrize(
    "name",
    [
        *("", ".", "a..b", ".a.example", "a.example..", "*."),
        *("*", "*.*.example", "a.*.example", "a*.example", "*a.example", "a.example.*"),
        *("192.0.2.1", "*.0.2.1", "1.2.3", "80", "::1", "[::1]", "2001:db8::1", "fe80::1%eth0"),
        *("https://a.example", "a.example/", "a.example:443", "[::1]:443", "user@a.example"),
        *("a example", " a.example", "a.example\n", "a.example\0", "a\t.example"),
        *("a" * 64 + ".example", "a." * 126 + "ab"),
    ],
)
def test_names_that_no_client_can_ask_for_are_refused(
    name: str, contexts: dict[str, ssl.SSLContext]
) -> None:
    with pytest.raises(ValueError, match=r"host name|wildcard|IP address") as caught:
        contexts_by_name({"good.example": contexts["a.example"], name: contexts["b.example"]})
    assert repr(name) in str(caught.value)


def test_the_longest_name_can_have_a_context(contexts: dict[str, ssl.SSLContext]) -> None:
    contexts_by_name({"a." * 126 + "b": contexts["a.example"]})


@pytest.mark.parametrize(
    "names",
    [
        ("a.example", "A.example"),
        ("a.example", "a.example."),
        ("A.Example.", "a.eXample"),
        ("*.a.example", "*.A.example."),
    ],
)
def test_a_name_that_is_given_twice_is_refused(
    names: tuple[str, str], contexts: dict[str, ssl.SSLContext]
) -> None:
    with pytest.raises(ValueError, match=re.escape(repr(names[1])) + ".* already"):
        contexts_by_name(dict(zip(names, contexts.values(), strict=False)))


@pytest.mark.parametrize(
    "name", ["localhost", "A.example.", "xn--bcher-kva.example", "_x.a_b.example", "1.2.3.x"]
)
def test_names_that_clients_can_ask_for_are_served(
    name: str, ca: trustme.CA, contexts: dict[str, ssl.SSLContext], tls_version: ssl.TLSVersion
) -> None:
    choose = contexts_by_name({name: contexts["a.example"]})
    handshake = asked(RawClient.of(ca, tls_version, None), choose, name, None)
    assert handshake.server_hostname == name.lower().removesuffix(".")


def test_a_name_that_is_not_ascii_is_refused(contexts: dict[str, ssl.SSLContext]) -> None:
    with pytest.raises(ValueError, match=r"'bücher\.example': .* xn--"):
        contexts_by_name({"bücher.example": contexts["a.example"]})


def test_an_internationalised_name_is_found_by_its_ascii_form(
    ca: trustme.CA, contexts: dict[str, ssl.SSLContext], tls_version: ssl.TLSVersion
) -> None:
    choose = contexts_by_name({"xn--bcher-kva.example": contexts["a.example"]})
    client, server = named_pair(ca, choose, "bücher.example", tls_version)
    client.ssl_object.context.check_hostname = False
    with suppress(TLSError):  # the certificate is for another name
        shake_hands(client, server)
    assert server.ssl_object.context is contexts["a.example"]


def test_what_is_no_servers_context_is_refused(contexts: dict[str, ssl.SSLContext]) -> None:
    for other in (None, ssl.SSLContext):
        with pytest.raises(TypeError, match=r"must be an ssl\.SSLContext"):
            contexts_by_name({**contexts, "b.example": other})  # type: ignore[dict-item]
    with pytest.raises(TypeError, match=r"for b\.example must be an ssl\.SSLContext"):
        contexts_by_name({**contexts, "b.example": lambda: None})  # type: ignore[dict-item,return-value]
    for name in (b"b.example", None):
        with pytest.raises(TypeError, match="must be a str"):
            contexts_by_name({name: contexts["b.example"]})  # type: ignore[dict-item]
    client_context = ssl.create_default_context()
    with pytest.raises(ValueError, match=r"for b\.example was made for clients"):
        contexts_by_name({**contexts, "b.example": client_context})
    with pytest.raises(ValueError, match="for other names was made for clients"):
        contexts_by_name(contexts, default=client_context)
    with pytest.raises(ValueError, match="at least one name"):
        contexts_by_name({})


################################################################
# Sessions of several names
################################################################


def pin() -> Issued:
    """A client's certificate that is trusted as it is, and is no CA."""
    return Certificate(names=["client.example"], purposes=[CLIENT]).signed_by(None)


@attrs.frozen(eq=False)
class RawClient:
    """A client that resumes any session under any name, as a hostile one does."""

    context: ssl.SSLContext

    @classmethod
    def of(cls, ca: trustme.CA, version: ssl.TLSVersion, certificate: Issued | None) -> RawClient:
        context = client_context_for(ca, version)
        context.check_hostname = False
        if certificate is not None:
            certificate.load_into(context)
        return cls(context)

    def ask(
        self, server: TLSConnection, name: str | None, session: ssl.SSLSession | None = None
    ) -> ssl.SSLSession | None:
        """Shake hands and receive, so that the tickets arrive, and return the session."""
        incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        client = self.context.wrap_bio(incoming, outgoing, server_hostname=name, session=session)
        is_greeted = False
        for _ in range(5):
            with suppress(ssl.SSLWantReadError):
                client.do_handshake()
                client.read(100)
            server.feed(outgoing.read())
            if server.do_handshake() and not is_greeted:
                is_greeted = True
                server.send(b"welcome")
            incoming.write(server.data_to_send())
        server.send_close_notify()  # or OpenSSL would forget the session
        return client.session


def asked(
    client: RawClient, choose: Choose, name: str, session: ssl.SSLSession | None
) -> HandshakeInfo:
    """Connect to a server, and return what it knows of the handshake."""
    server = server_of(choose)
    client.ask(server, name, session)
    assert server.handshake is not None
    return server.handshake


@pytest.fixture(params=["tickets", "session ids"])
def resumable(
    request: pytest.FixtureRequest, contexts: dict[str, ssl.SSLContext]
) -> dict[str, ssl.SSLContext]:
    """Contexts that resume sessions in either way. (In TLS 1.3 both are called tickets.)"""
    if request.param == "session ids":
        for context in contexts.values():
            context.options |= ssl.OP_NO_TICKET
    return contexts


ASKED = ("a.example", "b.example", "x.c.example")


@pytest.mark.parametrize("first", ASKED)
@pytest.mark.parametrize("mode", [ssl.CERT_NONE, ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED])
def test_a_session_is_resumed_under_no_other_name(
    mode: ssl.VerifyMode,
    first: str,
    ca: trustme.CA,
    resumable: dict[str, ssl.SSLContext],
    tls_version: ssl.TLSVersion,
) -> None:
    for context in resumable.values():
        ca.configure_trust(context)
        context.verify_mode = mode
    choose = contexts_by_name(resumable)
    certificate = Certificate(purposes=[CLIENT]).signed_by(Issued.of(ca)) if mode else None
    client = RawClient.of(ca, tls_version, certificate)
    for name in ASKED:
        session = client.ask(server_of(choose), first)
        handshake = asked(client, choose, name, session)
        assert handshake.session_reused == (name == first)
        assert handshake.server_hostname == name
        assert bool(handshake.peer_certificate) == bool(mode)


@pytest.mark.parametrize("mode", [ssl.CERT_OPTIONAL, ssl.CERT_REQUIRED])
@pytest.mark.parametrize("trust", ["pinned", "pinned besides", "other authorities", "revoked"])
@pytest.mark.parametrize("names", [("a.example", "b.example"), ("b.example", "a.example")])
def test_a_certificate_of_one_name_gets_nobody_in_at_another(
    names: tuple[str, str],
    trust: str,
    mode: ssl.VerifyMode,
    ca: trustme.CA,
    resumable: dict[str, ssl.SSLContext],
    tls_version: ssl.TLSVersion,
) -> None:
    """Whatever the contexts trust: a session goes with the context that has verified it."""
    here, elsewhere = names
    for context in resumable.values():
        context.verify_mode = mode
        if trust != "pinned":
            ca.configure_trust(context)
    if trust == "revoked":
        certificate = Certificate(purposes=[CLIENT]).signed_by(Issued.of(ca))
        load_revocation_list(resumable[elsewhere], Issued.of(ca).revokes(certificate))
        resumable[elsewhere].verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF
    elif trust == "other authorities":
        clients = trustme.CA()
        clients.configure_trust(resumable[here])
        certificate = Certificate(purposes=[CLIENT]).signed_by(Issued.of(clients))
    else:
        certificate = pin()
        certificate.trusted_by(resumable[here])
    choose = contexts_by_name(resumable)
    client = RawClient.of(ca, tls_version, certificate)
    session = client.ask(server_of(choose), here)
    assert session is not None
    assert asked(client, choose, here, session).session_reused
    for offered in (None, session):
        with pytest.raises(CertificateError):
            client.ask(server_of(choose), elsewhere, offered)


def test_a_wildcards_sessions_are_resumed_under_the_name_that_is_asked_for(
    ca: trustme.CA, resumable: dict[str, ssl.SSLContext], tls_version: ssl.TLSVersion
) -> None:
    """One context has verified the client for all these names. OpenSSL tells the session's name."""
    choose = contexts_by_name(resumable)
    client = RawClient.of(ca, tls_version, None)
    session = client.ask(server_of(choose), "x.c.example")
    handshake = asked(client, choose, "y.c.example", session)
    assert handshake.session_reused
    assert handshake.server_hostname == "y.c.example"


def test_names_are_reloaded_one_by_one(
    ca: trustme.CA, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    files = {name: tmp_path / f"{name}.pem" for name in ("a.example", "b.example")}

    def renew(name: str) -> None:
        new = tmp_path / "new"
        ca.issue_cert(name).private_key_and_cert_chain_pem.write_to_path(str(new))
        os.replace(new, files[name])  # noqa: PTH105

    def make_context(name: str) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(files[name])
        return context

    for name in files:
        renew(name)
    reloading = {
        name: ReloadingContext(partial(make_context, name), files=[path])
        for name, path in files.items()
    }
    choose = contexts_by_name(reloading)
    for name in files:
        before = {each: current() for each, current in reloading.items()}
        renew(name)
        assert certificate_names(ca, choose, name) == [name]
        after = {each: current() for each, current in reloading.items()}
        assert [each for each in files if after[each] is not before[each]] == [name]
    assert not caplog.records
