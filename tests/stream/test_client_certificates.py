"""Servers that want a certificate of their clients: always, if there is one, or later."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
import trustme
from trio.testing import memory_stream_pair, wait_all_tasks_blocked

from tests.helpers import (
    NAME,
    both_handshakes,
    client_context_for,
    failures,
    server_context_for,
    shake_hands,
    tcp_pair,
    wrap_pair,
)
from trio_tlsbio import (
    HandshakeInfo,
    PeerAlertError,
    PostHandshakeAuthError,
    TLSConnection,
    TLSError,
    TLSStream,
    TruncationError,
)
from trio_tlsbio.testing import transfer

CLIENT = "client@client.example"


@pytest.fixture
def with_certificate(ca: trustme.CA, client_context: ssl.SSLContext) -> ssl.SSLContext:
    ca.issue_cert(CLIENT).configure_cert(client_context)
    return client_context


@pytest.fixture
def asking_context(ca: trustme.CA, server_context: ssl.SSLContext) -> ssl.SSLContext:
    ca.configure_trust(server_context)
    return server_context


def pair(client: ssl.SSLContext, server: ssl.SSLContext) -> tuple[TLSConnection, TLSConnection]:
    return (
        TLSConnection(client, server_hostname=NAME),
        TLSConnection(server, server_side=True),
    )


def names_in(handshake: HandshakeInfo | None) -> list[str] | None:
    """The names in the peer's certificate; None if there is no certificate."""
    assert handshake is not None
    if handshake.peer_certificate is None:
        return None
    return [name for _, name in handshake.peer_certificate["subjectAltName"]]


################################################################
# In the handshake
################################################################


@pytest.mark.parametrize("mode", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL])
def test_certificate_is_told(
    mode: ssl.VerifyMode, with_certificate: ssl.SSLContext, asking_context: ssl.SSLContext
) -> None:
    asking_context.verify_mode = mode
    client, server = pair(with_certificate, asking_context)
    shake_hands(client, server)
    assert names_in(server.handshake) == [CLIENT]


def test_optional_certificate_may_be_missing(
    client_context: ssl.SSLContext, asking_context: ssl.SSLContext
) -> None:
    asking_context.verify_mode = ssl.CERT_OPTIONAL
    client, server = pair(client_context, asking_context)
    shake_hands(client, server)
    assert names_in(server.handshake) is None


def test_required_certificate_may_not(
    client_context: ssl.SSLContext, asking_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    asking_context.verify_mode = ssl.CERT_REQUIRED
    refusal, reason = failures(*pair(client_context, asking_context))
    assert isinstance(refusal, PeerAlertError)
    assert refusal.alert == (
        "certificate_required" if tls_version is ssl.TLSVersion.TLSv1_3 else "handshake_failure"
    )
    assert isinstance(reason, TLSError)
    assert "sent no client certificate, and one is required" in str(reason)


@pytest.mark.parametrize("mode", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL])
def test_untrusted_certificate_is_refused(
    mode: ssl.VerifyMode, client_context: ssl.SSLContext, asking_context: ssl.SSLContext
) -> None:
    trustme.CA().issue_cert(CLIENT).configure_cert(client_context)
    asking_context.verify_mode = mode
    refusal, _ = failures(*pair(client_context, asking_context))
    assert isinstance(refusal, PeerAlertError)
    assert refusal.alert == "unknown_ca"


################################################################
# After the handshake, in the core
################################################################


class Asking:
    """Contexts for a certificate on request, which is a matter of TLS 1.3."""

    def __init__(self, ca: trustme.CA, cert: trustme.LeafCert) -> None:
        self.client = client_context_for(ca)
        self.client.post_handshake_auth = True
        self.server = server_context_for(cert)
        ca.configure_trust(self.server)
        self.server.post_handshake_auth = True
        self.server.verify_mode = ssl.CERT_REQUIRED

    def connections(self) -> tuple[TLSConnection, TLSConnection]:
        client, server = pair(self.client, self.server)
        shake_hands(client, server)
        assert names_in(server.handshake) is None
        return client, server


@pytest.fixture
def asking(ca: trustme.CA, server_cert: trustme.LeafCert) -> Asking:
    return Asking(ca, server_cert)


@pytest.mark.parametrize("chunk", [1, 7, None])
@pytest.mark.parametrize("mode", [ssl.CERT_REQUIRED, ssl.CERT_OPTIONAL])
def test_client_answers(
    mode: ssl.VerifyMode, chunk: int | None, ca: trustme.CA, asking: Asking
) -> None:
    ca.issue_cert(CLIENT).configure_cert(asking.client)
    asking.server.verify_mode = mode
    client, server = asking.connections()
    for _ in range(2):  # it may be asked again
        server.verify_client_post_handshake()
        client.send(b"on its way already")
        transfer(client, server, chunk)
        assert not server.client_has_answered()
        transfer(server, client, chunk)
        assert client.receive() is None  # in which it answers
        client.send(b"after the answer")
        transfer(client, server, chunk)
        assert server.client_has_answered()
        assert names_in(server.handshake) == [CLIENT]
        assert server.receive() == b"on its way already" + b"after the answer"
        transfer(server, client)
        assert client.receive() is None


def test_client_has_no_certificate_and_needs_none(asking: Asking) -> None:
    asking.server.verify_mode = ssl.CERT_OPTIONAL
    client, server = asking.connections()
    server.verify_client_post_handshake()
    transfer(server, client)
    assert client.receive() is None
    transfer(client, server)
    assert server.client_has_answered()
    assert names_in(server.handshake) is None
    assert server.handshake is not None
    assert server.handshake.peer_certificate_chain == ()
    server.send(b"all the same")
    transfer(server, client)
    assert client.receive() == b"all the same"


@pytest.mark.parametrize("has_one", [False, True])
def test_client_has_no_certificate_that_will_do(has_one: bool, asking: Asking) -> None:
    if has_one:
        trustme.CA().issue_cert(CLIENT).configure_cert(asking.client)
    client, server = asking.connections()
    server.verify_client_post_handshake()
    transfer(server, client)
    assert client.receive() is None
    transfer(client, server)
    for _ in range(2):
        with pytest.raises(TLSError, match="certificate"):
            server.client_has_answered()
        with pytest.raises(TLSError, match="certificate"):
            server.receive()
    transfer(server, client)
    with pytest.raises(PeerAlertError) as caught:
        client.receive()
    assert caught.value.alert == ("unknown_ca" if has_one else "certificate_required")


@pytest.mark.parametrize("reason", ["not offered", "TLS 1.2"])
def test_client_can_not_be_asked(reason: str, asking: Asking) -> None:
    if reason == "not offered":
        asking.client.post_handshake_auth = False
    else:
        asking.client.minimum_version = ssl.TLSVersion.TLSv1_2
        asking.client.maximum_version = ssl.TLSVersion.TLSv1_2
        asking.server.minimum_version = ssl.TLSVersion.TLSv1_2
        asking.server.verify_mode = ssl.CERT_OPTIONAL
    client, server = asking.connections()
    for _ in range(2):
        with pytest.raises(PostHandshakeAuthError, match="can't be asked") as caught:
            server.verify_client_post_handshake()
        assert isinstance(caught.value.__cause__, ssl.SSLError)
    server.send(b"never mind")
    transfer(server, client)
    assert client.receive() == b"never mind"
    client.send(b"well")
    transfer(client, server)
    assert server.receive() == b"well"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"post_handshake_auth": False}, "post_handshake_auth set"),
        ({"verify_mode": ssl.CERT_NONE}, "verify_mode"),
        ({"num_tickets": 0}, "num_tickets"),
    ],
    ids=str,
)
def test_context_that_can_not_ask(settings: dict[str, Any], message: str, asking: Asking) -> None:
    for name, value in {"verify_mode": ssl.CERT_OPTIONAL, **settings}.items():
        setattr(asking.server, name, value)
    client, server = pair(asking.client, asking.server)
    shake_hands(client, server)
    with pytest.raises(ValueError, match=message):
        server.verify_client_post_handshake()
    server.send(b"x")


def test_only_servers_ask_and_only_after_the_handshake(asking: Asking) -> None:
    client, server = pair(asking.client, asking.server)
    with pytest.raises(trio.NeedHandshakeError):
        server.verify_client_post_handshake()
    shake_hands(client, server)
    with pytest.raises(ValueError, match="for servers"):
        client.verify_client_post_handshake()
    assert server.client_has_answered(), "nothing is awaited"


def test_nothing_is_asked_after_the_end_of_our_direction(asking: Asking) -> None:
    _, server = asking.connections()
    server.send_close_notify()
    server.data_to_send()
    with pytest.raises(trio.ClosedResourceError, match="can't ask for a certificate after"):
        server.verify_client_post_handshake()
    assert not server.bytes_to_send
    assert server.client_has_answered(), "nothing is awaited"


def test_nothing_is_answered_after_the_end_of_our_direction(asking: Asking) -> None:
    client, server = asking.connections()
    client.send_close_notify()
    transfer(client, server)
    server.verify_client_post_handshake()
    transfer(server, client)
    assert client.receive() is None
    assert not client.bytes_to_send, "it would be taken for what comes after TLS"
    with pytest.raises(PostHandshakeAuthError, match="did not answer"):
        server.client_has_answered()


def test_client_ends_instead_of_answering(asking: Asking) -> None:
    client, server = asking.connections()
    server.verify_client_post_handshake()
    client.send_close_notify()
    transfer(client, server)
    for _ in range(2):
        with pytest.raises(PostHandshakeAuthError, match="did not answer with a certificate"):
            server.client_has_answered()
    assert server.receive() == b""

    client, server = asking.connections()
    server.verify_client_post_handshake()
    server.feed_eof()
    with pytest.raises(TruncationError):
        server.client_has_answered()


def test_client_answers_and_ends_at_once(ca: trustme.CA, asking: Asking) -> None:
    ca.issue_cert(CLIENT).configure_cert(asking.client)
    client, server = asking.connections()
    server.verify_client_post_handshake()
    transfer(server, client)
    assert client.receive() is None
    client.send(b"bye")
    client.send_close_notify()
    transfer(client, server)
    assert server.client_has_answered()
    assert names_in(server.handshake) == [CLIENT]
    assert server.receive() == b"bye"
    assert server.receive() == b""


def test_client_answers_and_fails_at_once(ca: trustme.CA, asking: Asking) -> None:
    ca.issue_cert(CLIENT).configure_cert(asking.client)
    client, server = asking.connections()
    server.verify_client_post_handshake()
    transfer(server, client)
    assert client.receive() is None
    client.send(b"damaged on its way")
    data = bytearray(client.data_to_send())
    data[-1] ^= 1
    server.feed(data)
    for _ in range(2):
        with pytest.raises(TLSError, match="damaged"):
            server.client_has_answered()
    assert names_in(server.handshake) is None


def test_client_sends_data_without_end_instead_of_answering(asking: Asking) -> None:
    client, server = asking.connections()
    server.verify_client_post_handshake()
    sent = 1 << 20
    client.send(bytes(sent))
    transfer(client, server)
    assert not server.client_has_answered()
    client.send(b"x")
    transfer(client, server)
    for _ in range(2):
        with pytest.raises(PostHandshakeAuthError, match="should answer with a certificate"):
            server.client_has_answered()
    data = server.receive()
    assert data == bytes(sent) + b"x", "nothing is lost"
    assert not server.client_has_answered()


################################################################
# After the handshake, in the stream
################################################################


async def test_stream_waits_for_the_answer(ca: trustme.CA, asking: Asking) -> None:
    ca.issue_cert(CLIENT).configure_cert(asking.client)
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, asking.client, asking.server)
        await both_handshakes(client, server)
        assert server.getpeercert() is None
        async with trio.open_nursery() as nursery:

            async def ask() -> None:
                await client.send_all(b"GET /private")
                assert await client.receive_some() == b"secret"
                nursery.cancel_scope.cancel()

            nursery.start_soon(ask)
            assert await server.receive_some() == b"GET /private"
            await server.verify_client_post_handshake()
            assert names_in(server.handshake) == [CLIENT]
            assert server.getpeercert()
            await server.send_all(b"secret")
            await trio.sleep_forever()


async def test_stream_keeps_data_that_comes_first(ca: trustme.CA, asking: Asking) -> None:
    ca.issue_cert(CLIENT).configure_cert(asking.client)
    client, server = wrap_pair(*memory_stream_pair(), asking.client, asking.server)
    await both_handshakes(client, server)
    await client.send_all(b"on its way already")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_some)
        await server.verify_client_post_handshake()
        nursery.cancel_scope.cancel()
    assert await server.receive_some() == b"on its way already"


async def test_stream_fails_and_tells_the_client_why(asking: Asking) -> None:
    client, server = wrap_pair(*memory_stream_pair(), asking.client, asking.server)
    await both_handshakes(client, server)

    async def hear() -> None:
        with pytest.raises(PeerAlertError) as caught:
            await client.receive_some()
        assert caught.value.alert == "certificate_required"

    async with trio.open_nursery() as nursery:
        nursery.start_soon(hear)
        with pytest.raises(TLSError, match="sent no client certificate"):
            await server.verify_client_post_handshake()


async def test_cancelled_request_is_gone_on_with(ca: trustme.CA, asking: Asking) -> None:
    ca.issue_cert(CLIENT).configure_cert(asking.client)
    client, server = wrap_pair(*memory_stream_pair(), asking.client, asking.server)
    await both_handshakes(client, server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.verify_client_post_handshake)
        await wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.receive_some)
        await server.verify_client_post_handshake()
        assert names_in(server.handshake) == [CLIENT]
        nursery.cancel_scope.cancel()


async def test_only_one_receives(asking: Asking) -> None:
    client, server = wrap_pair(*memory_stream_pair(), asking.client, asking.server)
    await both_handshakes(client, server)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.receive_some)
        await wait_all_tasks_blocked()
        with pytest.raises(trio.BusyResourceError):
            await server.verify_client_post_handshake()
        nursery.cancel_scope.cancel()
    await trio.aclose_forcefully(server)
    with pytest.raises(trio.ClosedResourceError):
        await server.verify_client_post_handshake()
    assert isinstance(client, TLSStream)


async def test_answer_that_comes_after_the_stream_was_closed(
    ca: trustme.CA, asking: Asking
) -> None:
    ca.issue_cert(CLIENT).configure_cert(asking.client)
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, asking.client, asking.server)
        await both_handshakes(client, server)
        with trio.fail_after(10):
            async with trio.open_nursery() as nursery:

                @nursery.start_soon
                async def ask() -> None:
                    with pytest.raises(trio.ClosedResourceError):
                        await server.verify_client_post_handshake()

                await wait_all_tasks_blocked()
                nursery.start_soon(server.aclose)
                await wait_all_tasks_blocked()
                assert await client.receive_some() == b""
                await client.aclose()


async def test_answer_goes_out_with_data_that_comes_after_the_request(
    ca: trustme.CA, asking: Asking
) -> None:
    ca.issue_cert(CLIENT).configure_cert(asking.client)
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, asking.client, asking.server)
        await both_handshakes(client, server)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.verify_client_post_handshake)
            await wait_all_tasks_blocked()
            await server.send_all(b"data")
            assert await client.receive_some() == b"data"
            # The client has no more to do, and does not use the stream.
            with trio.fail_after(10):
                while nursery.child_tasks:
                    await trio.lowlevel.checkpoint()
        assert names_in(server.handshake) == [CLIENT]


async def test_answer_that_waits_for_room_goes_out_while_receiving(
    ca: trustme.CA, asking: Asking
) -> None:
    ca.issue_cert(CLIENT).configure_cert(asking.client)
    client, server = wrap_pair(*memory_stream_pair(), asking.client, asking.server)
    await both_handshakes(client, server)
    has_room = trio.Event()
    client.transport_stream.send_stream.wait_send_all_might_not_block_hook = has_room.wait
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.wait_send_all_might_not_block)
        nursery.start_soon(client.receive_some)
        await wait_all_tasks_blocked()
        with trio.fail_after(10):
            async with trio.open_nursery() as inner:
                inner.start_soon(server.verify_client_post_handshake)
                await wait_all_tasks_blocked()
                assert client.connection.unsent
                has_room.set()
        assert names_in(server.handshake) == [CLIENT]
        nursery.cancel_scope.cancel()
