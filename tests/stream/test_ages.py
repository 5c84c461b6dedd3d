"""Certificates that end after three seconds: no session is resumed beyond them, on either side."""

from __future__ import annotations

import ssl

import pytest
import trio
import trustme

from tests.certificates import CLIENT, Certificate, Issued, load_pem
from tests.helpers import HOST, client_context_for, echo, serving
from trio_tlsbio import TLSConnector, TLSError, TLSSession, TLSStream
from trio_tlsbio._core.dates import now

_SECOND = 1 / (24 * 3600)  # in days


async def test_no_session_is_resumed_beyond_a_certificate(
    ca: trustme.CA, tls_version: ssl.TLSVersion
) -> None:
    # A client's that ends soon, and a server's: each with another peer, whose own lasts.
    authority = Issued.of(ca)
    short = Certificate(names=[HOST], days=(-1, 3 * _SECOND)).signed_by(authority)
    short_client = Certificate(
        names=["client.example"], days=(-1, 3 * _SECOND), purposes=[CLIENT]
    ).signed_by(authority)
    long = Certificate(names=[HOST]).signed_by(authority)

    def server_context(issued: Issued) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        load_pem(context, issued.key_pem, issued.pem)
        context.minimum_version = context.maximum_version = tls_version
        ca.configure_trust(context)
        return context

    of_servers, of_clients = server_context(short), server_context(long)
    of_clients.verify_mode = ssl.CERT_REQUIRED
    plain, named = client_context_for(ca, tls_version), client_context_for(ca, tls_version)
    load_pem(named, short_client.key_pem, short_client.pem)

    async with serving(echo, of_servers) as one, serving(echo, of_clients) as other:
        connector = TLSConnector(ssl_context=plain)
        sessions: list[TLSSession] = []

        async def is_resumed() -> bool:
            async with await connector.connect(HOST, one) as stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
                return stream.handshake.session_reused

        async def is_resumed_with_certificate() -> bool:
            stream = TLSStream(
                await trio.open_tcp_stream(HOST, other),
                named,
                server_hostname=HOST,
                session=sessions[-1] if sessions else None,
                on_session=sessions.append,
            )
            async with stream:
                await stream.send_all(b"x")
                assert await stream.receive_some() == b"x"
                return stream.handshake.session_reused

        assert [await is_resumed(), await is_resumed()] == [False, True]
        assert [await is_resumed_with_certificate() for _ in range(2)] == [False, True]
        await trio.sleep(short.certificate.not_valid_after_utc.timestamp() - now() + 0.1)
        # A client makes a full handshake, whose certificate OpenSSL refuses.
        with pytest.raises(TLSError, match="has expired"):
            await is_resumed()
        assert connector.session_cache.statistics().expired > 0
        # A server refuses what a client whose clock is wrong, say, still resumes.
        assert not sessions[-1].has_ended(now())
        with pytest.raises(TLSError) as refused:
            await is_resumed_with_certificate()
        assert "certificate_expired" in str(refused.value) or "close_notify" in str(refused.value)
