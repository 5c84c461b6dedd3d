"""Renegotiation, of TLS 1.2."""

from __future__ import annotations

import random
import ssl
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, NoReturn

import pytest
import trio
import trio.testing
import trustme
from trio.testing import MockClock, assert_checkpoints

from tests.helpers import NAME, client_context_for, server_context_for, shake_hands
from tests.peers import RenegotiatingEcho
from tests.stream.steps import Step, expect, receive_exactly, together
from trio_tlsbio import TLSConnection, TLSStream, TruncationError


def renegotiating(
    ca: trustme.CA,
    cert: trustme.LeafCert,
    delay: Callable[[str], Awaitable[None]] | None = None,
) -> tuple[TLSStream[RenegotiatingEcho], RenegotiatingEcho]:
    transport = RenegotiatingEcho(cert) if delay is None else RenegotiatingEcho(cert, delay)
    context = client_context_for(ca, ssl.TLSVersion.TLSv1_2)
    return TLSStream(transport, context, server_hostname=NAME), transport


async def settle(stream: TLSStream[RenegotiatingEcho]) -> None:
    """Exchange data until the renegotiation is over: each side moves only when it is used."""
    while stream.transport_stream.is_renegotiating:
        await stream.send_all(b"-")
        await expect(stream, b"-")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("send_all", "send_all"),
        ("send_all", "wait_send_all_might_not_block"),
        ("wait_send_all_might_not_block", "wait_send_all_might_not_block"),
        ("receive_some", "receive_some"),
    ],
)
async def test_renegotiating_echo_refuses_two_tasks(
    first: str, second: str, server_cert: trustme.LeafCert
) -> None:
    # Else the tests below would not notice that the stream has two tasks use its transport.
    transport = RenegotiatingEcho(server_cert)
    steps: dict[str, Step] = {
        "send_all": partial(transport.send_all, b"x"),
        "receive_some": transport.receive_some,
        "wait_send_all_might_not_block": transport.wait_send_all_might_not_block,
    }
    with pytest.raises(ExceptionGroup) as raised:
        await together(steps[first], steps[second])
    assert raised.group_contains(trio.BusyResourceError, match="two tasks")


async def test_renegotiation(ca: trustme.CA, server_cert: trustme.LeafCert) -> None:
    stream, transport = renegotiating(ca, server_cert)
    await stream.do_handshake()
    transport.renegotiate()
    await stream.send_all(b"a")
    await expect(stream, b"a")
    await settle(stream)
    assert transport.renegotiations == 1
    await stream.aclose()


async def test_large_send_during_a_renegotiation(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    data = random.Random(0).randbytes(20_000)
    received = b""

    async def receive() -> None:
        nonlocal received
        received = await receive_exactly(stream, len(data))

    stream, transport = renegotiating(ca, server_cert)
    await stream.do_handshake()
    transport.renegotiate()
    await together(partial(stream.send_all, data), receive)
    assert received == data
    assert transport.renegotiations == 1


async def test_send_during_a_renegotiation_leaves_nothing(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    stream, transport = renegotiating(ca, server_cert)
    await stream.do_handshake()
    transport.renegotiate()
    await stream.send_all(b"a")

    async def cancel(_: str) -> None:
        scope.cancel()

    transport.delay = cancel
    with trio.CancelScope() as scope:
        await stream.receive_some()  # receives the request, and does not answer any more
    assert scope.cancelled_caught
    assert transport.is_renegotiating
    await stream.send_all(b"b")
    assert not transport.is_renegotiating
    assert not stream.connection.outbox.held
    assert not stream.connection.unsent


@pytest.mark.parametrize("order", ["renegotiate, send", "send, renegotiate"])
@pytest.mark.parametrize("seed", range(3))
async def test_renegotiation_with_random_delays(
    seed: int,
    order: str,
    ca: trustme.CA,
    server_cert: trustme.LeafCert,
    autojump_clock: MockClock,
) -> None:
    chance = random.Random(seed)

    async def delay(method: str) -> None:
        await trio.sleep(chance.uniform(0, 10))

    stream, transport = renegotiating(ca, server_cert, delay)

    async def late_send(data: bytes) -> None:
        await delay("outer send")
        with assert_checkpoints():
            await stream.send_all(data)

    async def late_expect(data: bytes) -> None:
        await delay("outer receive")
        await expect(stream, data)

    await stream.do_handshake()
    for number in range(50):
        data = bytes([number])
        if order == "renegotiate, send":
            transport.renegotiate()
            await together(partial(late_send, data), partial(late_expect, data))
        else:
            await late_send(data)
            transport.renegotiate()
            await late_expect(data)
        await together(partial(late_expect, b"2"), partial(late_send, b"2"))
        await settle(stream)
    assert transport.renegotiations == 50
    await stream.aclose()


@pytest.mark.parametrize("slow", ["send_all", "wait_send_all_might_not_block"])
async def test_renegotiation_while_another_task_waits_to_send(
    slow: str, ca: trustme.CA, server_cert: trustme.LeafCert, autojump_clock: MockClock
) -> None:
    # A receiver has to send in a renegotiation. Neither may get in the other's way, whichever
    # comes second.
    async def delay(method: str) -> None:
        if method == slow:
            await trio.sleep(1000)

    stream, transport = renegotiating(ca, server_cert, delay)

    async def late_wait() -> None:
        await trio.sleep(500 if slow == "send_all" else 0)
        await stream.wait_send_all_might_not_block()

    async def late_expect() -> None:
        await trio.sleep(0 if slow == "send_all" else 500)
        await expect(stream, b"x")

    await stream.send_all(b"x")
    transport.renegotiate()
    with trio.fail_after(1_000_000):
        await together(late_wait, late_expect)
        await settle(stream)
        await stream.aclose()


def test_a_connection_that_ends_in_a_renegotiation_holds_nothing_for_ever(
    ca: trustme.CA, server_cert: trustme.LeafCert
) -> None:
    version = ssl.TLSVersion.TLSv1_2
    context = client_context_for(ca, version)
    context.sslobject_class = WantsRead
    client = TLSConnection(context, server_hostname=NAME)
    server = TLSConnection(server_context_for(server_cert, version), server_side=True)
    shake_hands(client, server)
    client.send(b"as in a renegotiation")
    assert client.outbox.held
    client.feed_eof()
    with pytest.raises(TruncationError, match="renegotiated"):
        client.do_handshake()
    assert not client.outbox.held


class WantsRead(ssl.SSLObject):
    """An SSLObject in the middle of another handshake."""

    def write(self, data: Any) -> NoReturn:
        raise ssl.SSLWantReadError
