"""Handshakes that fail: who hears of it, and that they stay failed."""

from __future__ import annotations

import ssl
from functools import partial

import pytest
import trio
from trio.testing import assert_checkpoints, memory_stream_pair

from tests.helpers import wrap_pair
from tests.stream.steps import Pair, error_of, errors_of, fail
from trio_tlsbio import CertificateError, PeerAlertError, TLSError
from trio_tlsbio.core import State


async def test_server_learns_that_its_authority_is_not_known(
    server_context: ssl.SSLContext,
) -> None:
    client, server = wrap_pair(*memory_stream_pair(), ssl.create_default_context(), server_context)
    ours, theirs = await errors_of(client.do_handshake, server.do_handshake)
    assert isinstance(ours, CertificateError)
    assert isinstance(theirs, PeerAlertError)
    assert theirs.alert == "unknown_ca"
    assert isinstance(theirs.__cause__, ssl.SSLError)


async def test_client_learns_that_it_needs_a_certificate(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
) -> None:
    server_context.verify_mode = ssl.CERT_REQUIRED
    client, server = wrap_pair(*memory_stream_pair(), client_context, server_context)
    # In TLS 1.3 the client has done its part before the server looks at the certificate.
    ours, theirs = await errors_of(client.receive_some, server.do_handshake)
    assert isinstance(ours, PeerAlertError)
    is_13 = tls_version is ssl.TLSVersion.TLSv1_3
    assert ours.alert == ("certificate_required" if is_13 else "handshake_failure")
    assert theirs is not None
    assert theirs.reason == "PEER_DID_NOT_RETURN_A_CERTIFICATE"


async def test_everybody_who_waits_for_a_handshake_hears_that_it_failed(
    server_context: ssl.SSLContext,
) -> None:
    client, server = wrap_pair(*memory_stream_pair(), ssl.create_default_context(), server_context)
    with trio.fail_after(5):
        *ours, _ = await errors_of(
            client.do_handshake,
            client.do_handshake,
            client.receive_some,
            partial(client.send_all, b"x"),
            server.do_handshake,
        )
    assert [type(error) for error in ours] == [CertificateError] * 4
    assert len(set(map(id, ours))) == 4, "one exception object was raised in several tasks"


async def test_failed_handshake_stays_failed(server_context: ssl.SSLContext) -> None:
    client, server = wrap_pair(*memory_stream_pair(), ssl.create_default_context(), server_context)
    await errors_of(client.do_handshake, server.do_handshake)
    for step in (
        client.do_handshake,
        client.receive_some,
        partial(client.send_all, b"x"),
        client.send_eof,
        client.unwrap,
    ):
        assert isinstance(await error_of(step), CertificateError)


async def test_error_of_a_send_in_the_handshake_propagates(pair: Pair) -> None:
    client, _ = pair
    client.transport_stream.send_stream.send_all_hook = fail
    with pytest.raises(KeyError), assert_checkpoints():
        await client.do_handshake()
    with pytest.raises(trio.BrokenResourceError), assert_checkpoints():
        await client.do_handshake()


async def test_handshake_whose_transport_breaks_has_failed(pair: Pair) -> None:
    client, server = pair
    await server.transport_stream.aclose()
    with pytest.raises(TLSError, match="broke while sending"):
        await client.do_handshake()
    assert client.connection.send_state is client.connection.receive_state is State.FAILED
    assert "broke while sending" in str(client.connection.error)


async def test_error_of_a_receive_in_the_handshake_propagates(pair: Pair) -> None:
    client, server = pair
    client.transport_stream.receive_stream.receive_some_hook = fail
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        with pytest.raises(KeyError), assert_checkpoints():
            await client.do_handshake()
        nursery.cancel_scope.cancel()
    with pytest.raises(trio.BrokenResourceError), assert_checkpoints():
        await client.do_handshake()
