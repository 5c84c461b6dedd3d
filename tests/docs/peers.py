"""What the code of the pages talks to."""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from tests.helpers import HOST, LIMIT
from trio_tlsbio import TLSConnector, TLSStream

NAME = "echo.example"

Stream = TLSStream[trio.SocketStream]


@asynccontextmanager
async def bounded_nursery() -> AsyncIterator[trio.Nursery]:
    """A nursery that does not wait for ever."""
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            yield nursery


async def connect(port: int, context: ssl.SSLContext, name: str = NAME) -> Stream:
    """Connect to loopback, and expect a name there."""
    return TLSStream(await trio.open_tcp_stream(HOST, port), context, server_hostname=name)


async def check_echo(stream: Stream) -> None:
    async with stream:
        await stream.send_all(b"hello")
        assert await stream.receive_some() == b"hello"


class Logged(logging.Handler):
    """The lines of the server's log, to be waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.send_channel, self.receive_channel = trio.open_memory_channel[str](math.inf)

    def emit(self, record: logging.LogRecord) -> None:
        self.send_channel.send_nowait(record.getMessage())


def connector_to(
    port: int, monkeypatch: pytest.MonkeyPatch, context: ssl.SSLContext, **options: Any
) -> TLSConnector:
    """A connector; what is meant for port 4433 of any host goes to a port of this machine."""
    open_tcp_stream = trio.open_tcp_stream

    async def open_here(host: str, asked: int, **_: Any) -> trio.SocketStream:
        assert (host, asked) == (NAME, 4433)
        return await open_tcp_stream(HOST, port)

    monkeypatch.setattr(trio, "open_tcp_stream", open_here)
    return TLSConnector(ssl_context=context, **options)
