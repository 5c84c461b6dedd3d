"""Tests of a server without a port: what clients see of it, and how it ends."""

from functools import partial
from typing import Any

import pytest
import trio

from trio_tlsbio import (
    CertificateError,
    Drain,
    TLSListener,
    TLSStream,
    serve_tls_listeners,
)
from trio_tlsbio.testing import CertificateAuthority, MemoryListener

# What is tested.


async def shout(stream: TLSStream[Any], drain: Drain) -> None:
    while question := await drain.receive_some(stream):
        await stream.send_all(question.upper())


# The tests.


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return CertificateAuthority()


async def test_a_bad_client_does_not_affect_others(
    authority: CertificateAuthority,
) -> None:
    listener, drain = MemoryListener(), Drain()
    server = partial(
        serve_tls_listeners,
        partial(shout, drain=drain),
        [TLSListener(listener, authority.server_context())],
        drain=drain,
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        stranger = TLSStream(
            await listener.connect(),
            CertificateAuthority().client_context(),
            server_hostname="localhost",
        )
        with pytest.raises(CertificateError):
            await stranger.do_handshake()
        client = TLSStream(
            await listener.connect(),
            authority.client_context(),
            server_hostname="localhost",
        )
        await client.send_all(b"hello")
        assert await client.receive_some() == b"HELLO"

        await drain.end(timeout=10)  # and so the nursery ends, too
        assert await client.receive_some() == b"", "a clean end"
        with pytest.raises(ConnectionRefusedError):
            await listener.connect()
