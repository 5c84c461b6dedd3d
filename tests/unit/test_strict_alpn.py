"""Servers that refuse clients with whom they share no application protocol."""

from __future__ import annotations

import ssl

import pytest
import trustme

from tests.hellos import hello_of
from tests.helpers import NAME, client_context_for, failures, server_context_for, shake_hands
from trio_tlsbio import PeerAlertError, TLSConnection, TLSError
from trio_tlsbio.testing import transfer

NO_APPLICATION_PROTOCOL = b"\x15\x03\x03\x00\x02\x02\x78"


@pytest.fixture(params=["plain", "callback", "chosen"])
def server(request: pytest.FixtureRequest, server_context: ssl.SSLContext) -> TLSConnection:
    """A server with h2, whose ClientHello passes by in one way or another."""
    server_context.set_alpn_protocols(["h2"])
    if request.param == "callback":
        server_context.sni_callback = lambda *_: None
    if request.param != "chosen":
        return TLSConnection(server_context, server_side=True, strict_alpn=True)

    class Server(TLSConnection):
        def do_handshake(self) -> bool:
            is_done = super().do_handshake()
            if self.wants_context:
                self.use_context(server_context)
                is_done = super().do_handshake()
            return is_done

    return Server(None, server_side=True, strict_alpn=True)


@pytest.mark.parametrize("verifies_peer", [False, True])
@pytest.mark.parametrize("offered", [["http/1.1"], ["spdy/3", "http/1.1"]])
def test_no_common_protocol(
    offered: list[str],
    verifies_peer: bool,
    client_context: ssl.SSLContext,
    server: TLSConnection,
) -> None:
    client_context.set_alpn_protocols(offered)
    client = TLSConnection(client_context, server_hostname=NAME, verifies_peer=verifies_peer)
    refusal, reason = failures(client, server)
    assert isinstance(refusal, PeerAlertError)
    assert refusal.alert == "no_application_protocol"
    assert isinstance(reason, TLSError)
    assert str(reason) == (
        "the peer offers no application protocol (ALPN) that is served here, but "
        + ", ".join(offered)
    )
    assert reason.error_type == "no_application_protocol"


@pytest.mark.parametrize("chunk", [1, 7, None])
def test_nothing_but_the_alert_goes_out(
    chunk: int | None, client_context: ssl.SSLContext, server: TLSConnection
) -> None:
    client_context.set_alpn_protocols(["http/1.1"])
    transfer(TLSConnection(client_context, server_hostname=NAME), server, chunk)
    for _ in range(2):
        with pytest.raises(TLSError, match="no application protocol"):
            server.do_handshake()
    assert server.data_to_send() == NO_APPLICATION_PROTOCOL


@pytest.mark.parametrize("offered", [["h2"], ["http/1.1", "h2"], []])
def test_others_are_served(
    offered: list[str], client_context: ssl.SSLContext, server: TLSConnection
) -> None:
    """Also those that offer nothing: RFC 7301 leaves them alone."""
    if offered:
        client_context.set_alpn_protocols(offered)
    shake_hands(TLSConnection(client_context, server_hostname=NAME), server)
    assert server.handshake is not None
    assert server.handshake.alpn_protocol == ("h2" if offered else None)


def test_by_default_the_handshake_goes_on(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client_context.set_alpn_protocols(["http/1.1"])
    server_context.set_alpn_protocols(["h2"])
    server = TLSConnection(server_context, server_side=True)
    shake_hands(TLSConnection(client_context, server_hostname=NAME), server)
    assert server.handshake is not None
    assert server.handshake.alpn_protocol is None


def test_where_another_key_share_is_asked_for(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    """In TLS 1.3 a HelloRetryRequest would be the first answer."""
    server_context = server_context_for(server_cert)
    server_context.set_ecdh_curve("secp384r1")
    server_context.set_alpn_protocols(["h2"])
    for offered in ("http/1.1", "h2"):
        client_context = client_context_for(ca)
        client_context.set_alpn_protocols([offered])
        client = TLSConnection(client_context, server_hostname=NAME)
        server = TLSConnection(server_context, server_side=True, strict_alpn=True)
        if offered == "h2":
            shake_hands(client, server)
            continue
        refusal, _ = failures(client, server)
        assert isinstance(refusal, PeerAlertError)
        assert refusal.alert == "no_application_protocol"


def test_resumed_sessions_are_looked_at_too(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """The protocol is not the session's: each handshake agrees on one (RFC 7301 section 3.1)."""
    client_context.set_alpn_protocols(["h2"])
    server_context.set_alpn_protocols(["h2"])
    client = TLSConnection(client_context, server_hostname=NAME)
    shake_hands(client, TLSConnection(server_context, server_side=True, strict_alpn=True))
    client_context.set_alpn_protocols(["http/1.1"])
    client = TLSConnection(client_context, server_hostname=NAME, session=client.session)
    server = TLSConnection(server_context, server_side=True, strict_alpn=True)
    refusal, _ = failures(client, server)
    assert isinstance(refusal, PeerAlertError)
    assert refusal.alert == "no_application_protocol"


def test_what_a_stranger_offers_is_said_in_printable_characters(
    client_context: ssl.SSLContext, server: TLSConnection
) -> None:
    client_context.set_alpn_protocols(["aaaa", "b", "c", "d", "e", "f"])
    server.feed(hello_of(client_context, NAME).replace(b"aaaa", b"\n\x1b\xff\\"))
    with pytest.raises(TLSError) as raised:
        server.do_handshake()
    assert str(raised.value).endswith(r", but \n\x1b\xff\, b, c, d, e, ...")


def test_it_is_for_servers(client_context: ssl.SSLContext) -> None:
    with pytest.raises(ValueError, match="strict_alpn is for servers"):
        TLSConnection(client_context, server_hostname=NAME, strict_alpn=True)
