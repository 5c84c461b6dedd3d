"""A ClientHello that is read off a stream, and TLS over what was read already."""

from __future__ import annotations

import ssl
from typing import Any

import pytest
import trio
from trio.testing import MemoryReceiveStream, memory_stream_pair

from tests.hellos import browser_hello, fragments, hello_of
from tests.helpers import NAME, both_handshakes, tcp_pair, wrap_pair
from trio_tlsbio import (
    ClientHello,
    PeerAlertError,
    TLSError,
    TLSStream,
    TruncationError,
    read_client_hello,
)

HTTP = b"GET / HTTP/1.1\r\n\r\n"


class Pieces(trio.abc.ReceiveStream):
    """A stream that has these to receive, one at a time; an exception is raised."""

    def __init__(self, *pieces: bytes | Exception) -> None:
        self._pieces = list(pieces)
        self.asked: list[int | None] = []  # how much, each time

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        await trio.lowlevel.checkpoint()
        self.asked.append(max_bytes)
        piece = self._pieces.pop(0)
        if isinstance(piece, Exception):
            raise piece
        return piece

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()


@pytest.mark.parametrize("size", [1, 100, 16384])
async def test_it_reads_until_the_hello_is_whole(size: int) -> None:
    hello = browser_hello(NAME.encode())
    data = fragments(hello.record, size)
    stream = Pieces(*(data[start : start + 500] for start in range(0, len(data), 500)))
    found, received = await read_client_hello(stream)
    assert found == ClientHello.parse(hello.message)
    assert received == data
    assert len(stream.asked) == -(-len(data) // 500), "it waits for nothing more"
    assert all(each is not None and each <= 16384 for each in stream.asked)


async def test_what_came_along_is_returned_too() -> None:
    record = browser_hello(NAME.encode()).record
    stream = Pieces(record + b"early data")
    _, received = await read_client_hello(stream)
    assert received == record + b"early data"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (HTTP, "it sent an HTTP request"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "the client did not speak TLS"),
        (b"\x16\x03\x01\x00\x05\x01\x00\x00\x01\x00", "malformed handshake message"),
        (b"\x16\x03\x01\x00\x04\x01\xff\xff\xff", "more than 64 KiB"),
    ],
)
async def test_what_is_no_hello_is_an_error(data: bytes, words: str) -> None:
    for pieces in ([data], [data[at : at + 1] for at in range(len(data))]):
        stream = Pieces(*pieces)
        with pytest.raises(TLSError, match=words):
            await read_client_hello(stream)


@pytest.mark.parametrize("end", [0, 3, 5, 100])
async def test_an_end_is_a_truncation(end: int) -> None:
    receive = MemoryReceiveStream()
    receive.put_data(browser_hello(NAME.encode()).record[:end])
    receive.put_eof()
    with pytest.raises(TruncationError, match="closed the connection during the handshake"):
        await read_client_hello(receive)


async def test_an_end_of_tls_around_it_is_a_truncation(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    transports = memory_stream_pair()
    client, server = wrap_pair(*transports, client_context, server_context)
    await both_handshakes(client, server)
    await transports[0].aclose()
    with pytest.raises(TruncationError, match="closed the connection during the handshake"):
        await read_client_hello(server)


async def test_a_transport_that_breaks_is_a_tls_error() -> None:
    stream = Pieces(trio.BrokenResourceError("no line"))
    with pytest.raises(TLSError, match="the transport broke while receiving: no line") as caught:
        await read_client_hello(stream)
    assert isinstance(caught.value.__cause__, trio.BrokenResourceError)
    assert caught.value.error_type == "transport_broken"


async def test_a_closed_stream_is_closed() -> None:
    receive = MemoryReceiveStream()
    await receive.aclose()
    with pytest.raises(trio.ClosedResourceError):
        await read_client_hello(receive)


async def test_a_silent_client_costs_a_timeout(autojump_clock: trio.abc.Clock) -> None:
    receive = MemoryReceiveStream()
    receive.put_data(browser_hello(NAME.encode()).record[:100])
    with trio.move_on_after(5) as scope:
        await read_client_hello(receive)
    assert scope.cancelled_caught
    assert trio.current_time() == scope.deadline


################################################################
# TLS over it
################################################################


@pytest.mark.parametrize("retries", [False, True])
@pytest.mark.parametrize("kind", ["tcp", "memory"])
async def test_a_server_takes_what_was_read(
    kind: str, retries: bool, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    if retries:  # by a HelloRetryRequest, in TLS 1.3
        server_context.set_ecdh_curve("secp384r1")

    async def talk(client_transport: Any, server_transport: Any) -> None:
        client = TLSStream(client_transport, client_context, server_hostname=NAME)

        async def ask() -> None:
            await client.send_all(b"hello")
            assert await client.receive_some() == b"HELLO"
            await client.aclose()

        nursery.start_soon(ask)
        hello, received = await read_client_hello(server_transport)
        assert hello.server_name == NAME
        server = TLSStream(server_transport, server_context, server_side=True, received=received)
        assert server.has_received
        await server.send_all((await server.receive_some()).upper())
        assert await server.receive_some() == b""
        await server.aclose()

    async with trio.open_nursery() as nursery:
        if kind == "memory":
            await talk(*memory_stream_pair())
        else:
            async with tcp_pair() as transports:
                await talk(*transports)


@pytest.mark.parametrize("cut", [0, 1, 4, 5, 100, None])
async def test_it_comes_before_what_is_read(
    cut: int | None, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client_transport, server_transport = memory_stream_pair()
    client = TLSStream(client_transport, client_context, server_hostname=NAME)
    received = b""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.do_handshake)
        if cut != 0:
            received = bytes(await server_transport.receive_some(cut))
        server = TLSStream(
            server_transport, server_context, server_side=True, received=memoryview(received)
        )
        assert server.has_received == (cut != 0)
        await server.do_handshake()


async def test_all_of_a_conversation_may_have_been_read(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """An end of the transport, too: nothing is read where nothing is missing."""
    client_transport, server_transport = memory_stream_pair()
    await client_transport.send_all(hello_of(client_context, NAME) + HTTP)
    _, received = await read_client_hello(server_transport)
    server = TLSStream(server_transport, server_context, server_side=True, received=received)
    with pytest.raises(TLSError):
        await server.do_handshake()


async def test_a_client_takes_what_was_read(client_context: ssl.SSLContext) -> None:
    client_transport, _ = memory_stream_pair()
    alert = b"\x15\x03\x03\x00\x02\x02\x70"
    client = TLSStream(client_transport, client_context, server_hostname=NAME, received=alert)
    assert client.has_received
    with pytest.raises(PeerAlertError, match="unrecognized_name"):
        await client.do_handshake()
