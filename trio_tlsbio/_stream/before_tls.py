"""A server's connection before its handshake: prologues, and clients that send nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from trio_tlsbio._core.errors import TLSError

from .addresses import Addresses
from .prologue import Prologue
from .stream import TLSStream

__all__ = ["end_if_silent", "expect_before_tls", "receive_arrived"]


def expect_before_tls(
    stream: TLSStream[Any], make_prologue: Callable[[Addresses], Prologue]
) -> None:
    """Make a stream read a prologue before its handshake. The handshake timeout covers both."""
    stream._driver.expect(make_prologue(stream._addresses))


def receive_arrived(stream: TLSStream[Any]) -> None:
    """Receive the start of the handshake if it has arrived. Waiting for it would cost more."""
    stream._driver.transport.receive_nowait(1)


def end_if_silent(stream: TLSStream[Any], error: TLSError) -> None:
    """Fail the handshake with ``error`` if the peer has not sent anything yet."""
    stream._driver.end_if_silent(error)
