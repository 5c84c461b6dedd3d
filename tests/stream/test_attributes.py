"""Arguments and attributes of TLSStream."""

from __future__ import annotations

import ssl
import sys
from typing import Any

import pytest
import trio
import trustme
from trio.testing import memory_stream_pair

from tests.helpers import NAME, both_handshakes, wrap_pair
from tests.peers import Untouchable, blocking_echo_server
from tests.stream.steps import Pair
from trio_tlsbio import CertificateError, NeedHandshakeError, TLSStream


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({}, ValueError),  # the context checks host names
        ({"server_hostname": ""}, ValueError),
        ({"server_hostname": "."}, ValueError),
        ({"server_hostname": ".example"}, ValueError),
        ({"server_hostname": "a\0.example"}, ValueError),
        ({"server_hostname": "ü".encode()}, ValueError),
        ({"server_hostname": "ü" * 64}, ValueError),
        ({"server_hostname": 1}, TypeError),
        ({"server_side": True}, ValueError),  # with a client's context
        ({"server_hostname": NAME, "server_side": True}, ValueError),
        ({"server_hostname": NAME, "session": b"session"}, TypeError),
        ({"server_hostname": NAME, "close_timeout": -1}, ValueError),
        ({"server_hostname": NAME, "close_timeout": float("nan")}, ValueError),
        ({"server_hostname": NAME, "close_max_bytes": -1}, ValueError),
        ({"server_hostname": NAME, "ssl_context": None}, TypeError),
        ({"server_hostname": NAME, "ssl_context": "context"}, TypeError),
        ({"server_hostname": NAME, "unheard_of": 1}, TypeError),
    ],
    ids=repr,
)
def test_wrong_arguments_are_refused_at_once(
    options: dict[str, Any], error: type[Exception]
) -> None:
    options = {"ssl_context": ssl.create_default_context(), **options}
    with pytest.raises(error):
        TLSStream(Untouchable(), options.pop("ssl_context"), **options)


def test_server_context_is_refused_on_the_client_side() -> None:
    with pytest.raises(ValueError, match="ssl_context"):
        TLSStream(Untouchable(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER), server_hostname=NAME)


def test_options_are_keyword_only() -> None:
    with pytest.raises(TypeError):
        TLSStream(Untouchable(), ssl.create_default_context(), NAME)  # type: ignore[call-arg]


def test_attributes(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    transport = Untouchable()
    client = TLSStream(transport, client_context, server_hostname=NAME)
    assert client.transport_stream is transport
    assert client.context is client_context
    assert client.server_hostname == NAME
    assert client.server_side is False
    assert client.pending() == 0
    assert client.session is None

    server = TLSStream(transport, server_context, server_side=True)
    assert server.context is server_context
    assert server.server_hostname is None
    assert server.server_side is True


def test_unknown_attributes_are_errors(pair: Pair) -> None:
    with pytest.raises(AttributeError):
        pair[0].no_such_thing  # type: ignore[attr-defined]  # noqa: B018
    with pytest.raises(AttributeError):
        pair[0].no_such_thing = 1  # type: ignore[attr-defined]


def test_dir_lists_what_there_is(pair: Pair) -> None:
    assert {"transport_stream", "context", "do_handshake", "cipher"} <= set(dir(pair[0]))


@pytest.mark.parametrize("name", ["server_side", "server_hostname", "transport_stream", "session"])
def test_read_only_attributes(pair: Pair, name: str) -> None:
    with pytest.raises(AttributeError):
        setattr(pair[0], name, None)


async def test_setting_the_context_takes_effect(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
) -> None:
    async with blocking_echo_server(server_context, error="UNKNOWN_CA") as transport:
        stream = TLSStream(transport, client_context, server_hostname=NAME)
        untrusting = ssl.create_default_context()
        stream.context = untrusting
        assert stream.context is untrusting
        with pytest.raises(CertificateError):
            await stream.do_handshake()


@pytest.mark.parametrize("name", ["faß.de", "faß.de."])
def test_server_hostname_is_encoded_by_idna_2008(name: str, client_context: ssl.SSLContext) -> None:
    # IDNA 2003, as the ssl module has it, would make it "fass.de", which is another host.
    stream = TLSStream(Untouchable(), client_context, server_hostname=name)
    assert stream.server_hostname == "xn--fa-hia.de"


async def test_server_is_asked_for_the_idna_2008_name(
    ca: trustme.CA, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    asked: list[str | None] = []

    def sni_callback(ssl_object: ssl.SSLObject, name: str | None, context: ssl.SSLContext) -> None:
        asked.append(name)

    server_context.sni_callback = sni_callback
    ca.issue_cert("faß.de").configure_cert(server_context)
    ours, theirs = memory_stream_pair()
    client = TLSStream(ours, client_context, server_hostname="faß.de")
    server = TLSStream(theirs, server_context, server_side=True)
    await both_handshakes(client, server)
    assert asked == ["xn--fa-hia.de"]


FORWARDED = [
    "getpeercert",
    "selected_alpn_protocol",
    "selected_npn_protocol",
    "cipher",
    "shared_ciphers",
    "compression",
    "get_channel_binding",
    "version",
]
if sys.version_info >= (3, 13):
    FORWARDED += ["get_verified_chain", "get_unverified_chain"]


@pytest.mark.parametrize("name", FORWARDED)
def test_forwarded_methods_need_the_handshake(name: str, pair: Pair) -> None:
    for stream in pair:
        with pytest.raises(NeedHandshakeError, match=name):
            getattr(stream, name)()


@pytest.mark.parametrize("name", ["handshake", "session_reused"])
def test_attributes_that_need_the_handshake(name: str, pair: Pair) -> None:
    for stream in pair:
        with pytest.raises(NeedHandshakeError, match=f"call do_handshake.* {name!r}"):
            getattr(stream, name)


async def test_after_a_handshake_that_failed(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    # The other error's advice would be wrong: do_handshake() fails again.
    client, server = wrap_pair(*memory_stream_pair(), ssl.create_default_context(), server_context)
    with pytest.raises(CertificateError) as failed:
        await both_handshakes(client, server)
    for query in (lambda: client.handshake, client.version):
        with pytest.raises(NeedHandshakeError) as caught:
            query()
        assert str(failed.value) in str(caught.value)
        assert type(caught.value.__cause__) is CertificateError
        assert caught.value.__cause__ is not client.connection.error


def test_need_handshake_error_is_trios() -> None:
    assert NeedHandshakeError is trio.NeedHandshakeError


@pytest.mark.filterwarnings("ignore:.*NPN is deprecated.*")
@pytest.mark.parametrize("name", FORWARDED)
async def test_forwarded_methods_answer_as_the_ssl_object_does(
    name: str, established: Pair
) -> None:
    for stream in established:
        answer = getattr(stream.connection.ssl_object, name)()
        assert getattr(stream, name)() == answer


async def test_session_reused_after_a_full_handshake(established: Pair) -> None:
    client, server = established
    assert client.session_reused is False
    assert server.session_reused is False


async def test_version_and_cipher(established: Pair, tls_version: ssl.TLSVersion) -> None:
    client, server = established
    names = {ssl.TLSVersion.TLSv1_2: "TLSv1.2", ssl.TLSVersion.TLSv1_3: "TLSv1.3"}
    assert client.version() == server.version() == names[tls_version]
    assert client.cipher() == server.cipher()
    assert client.handshake.version == names[tls_version]


async def test_getpeercert(established: Pair) -> None:
    client, server = established
    certificate = client.getpeercert()
    assert isinstance(certificate, dict)
    assert ("DNS", NAME) in certificate["subjectAltName"]
    assert client.getpeercert(binary_form=True) == client.getpeercert(True)
    assert isinstance(client.getpeercert(True), bytes)
    assert server.getpeercert() is None  # clients have none here


async def test_alpn_protocol_is_none_unless_set(established: Pair) -> None:
    client, server = established
    assert client.selected_alpn_protocol() is None
    assert server.selected_alpn_protocol() is None


async def test_alpn_protocol(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client_context.set_alpn_protocols(["h2", "http/1.1"])
    server_context.set_alpn_protocols(["http/1.1"])
    client, server = wrap_pair(*memory_stream_pair(), client_context, server_context)
    await both_handshakes(client, server)
    assert client.selected_alpn_protocol() == server.selected_alpn_protocol() == "http/1.1"


@pytest.mark.filterwarnings("ignore:.*NPN is deprecated.*")
async def test_npn_protocol_is_none(established: Pair) -> None:
    for stream in established:
        assert stream.selected_npn_protocol() is None


async def test_channel_binding_is_the_same_on_both_sides(established: Pair) -> None:
    client, server = established
    binding = client.get_channel_binding()
    assert binding
    assert binding == server.get_channel_binding("tls-unique")
    with pytest.raises(ValueError, match="nonsense"):
        client.get_channel_binding("nonsense")
