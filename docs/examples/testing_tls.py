"""Tests of a client and a server that speak TLS: in memory, with faults, and
without waiting.
"""

import pytest
import trio
from trio.testing import MockClock, memory_stream_pair

from trio_tlsbio import CertificateError, HandshakeTimeoutError, TruncationError
from trio_tlsbio.testing import (
    CertificateAuthority,
    Cut,
    FaultyStream,
    Split,
    Stall,
    do_handshakes,
    tls_stream_pair,
)

# What is tested.


async def shout(stream: trio.abc.Stream) -> None:
    async with stream:
        question = b"".join([part async for part in stream])
        await stream.send_all(question.upper())


async def ask(stream: trio.abc.HalfCloseableStream, question: bytes) -> bytes:
    async with stream:
        await stream.send_all(question)
        await stream.send_eof()
        return b"".join([part async for part in stream])


# The tests.


@pytest.fixture(scope="session")
def authority() -> CertificateAuthority:
    return CertificateAuthority()


async def test_answer(authority: CertificateAuthority) -> None:
    client, server = tls_stream_pair(
        memory_stream_pair(),
        authority.client_context(),
        authority.server_context(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shout, server)
        assert await ask(client, b"hello") == b"HELLO"


async def test_answer_that_comes_byte_by_byte(
    authority: CertificateAuthority,
) -> None:
    transport, server_transport = memory_stream_pair()
    client, server = tls_stream_pair(
        (FaultyStream(transport, receiving=[Split(1)]), server_transport),
        authority.client_context(),
        authority.server_context(),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shout, server)
        assert await ask(client, b"hello") == b"HELLO"


async def test_answer_that_is_cut(authority: CertificateAuthority) -> None:
    transport, server_transport = memory_stream_pair()
    faulty = FaultyStream(transport)
    client, server = tls_stream_pair(
        (faulty, server_transport),
        authority.client_context(),
        authority.server_context(),
    )
    await do_handshakes(client, server)
    faulty.receiving.add(Cut(10))  # counted from here
    async with trio.open_nursery() as nursery:
        nursery.start_soon(shout, server)
        with pytest.raises(TruncationError):
            await ask(client, b"hello")


async def test_server_that_says_nothing(
    authority: CertificateAuthority, autojump_clock: MockClock
) -> None:
    transport, server_transport = memory_stream_pair()
    client, server = tls_stream_pair(
        (FaultyStream(transport, receiving=[Stall(0)]), server_transport),
        authority.client_context(),
        authority.server_context(),
        handshake_timeout=30,
    )
    with pytest.raises(HandshakeTimeoutError):
        await do_handshakes(client, server)
    assert autojump_clock.current_time() >= 30


async def test_server_with_another_name(
    authority: CertificateAuthority,
) -> None:
    client, server = tls_stream_pair(
        memory_stream_pair(),
        authority.client_context(),
        authority.server_context("other.example"),
        server_hostname="server.example",
    )
    with pytest.raises(
        CertificateError, match=r"is for other\.example, not server\.example"
    ):
        await do_handshakes(client, server)
