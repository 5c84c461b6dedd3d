"""Passes clients that don't speak TLS to a function of the server."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any, TypeAlias

import attrs

from trio_tlsbio._core.errors import TLSError, caused_by, described
from trio_tlsbio._core.plaintext import begins_with_tls, error_of_plaintext
from trio_tlsbio._stream.addresses import Addresses
from trio_tlsbio._stream.before_tls import expect_before_tls
from trio_tlsbio._stream.decisions import answer_of
from trio_tlsbio._stream.prologue import Prologue
from trio_tlsbio._stream.stream import T_Stream, TLSStream

from .proxy_protocol import HeaderPrologue, TrustedProxies

__all__ = ["OnPlaintext", "expect_prologue"]

OnPlaintext: TypeAlias = Callable[[T_Stream, bytes], Awaitable[object]]
"""Answers a client that doesn't speak TLS."""


def expect_prologue(
    stream: TLSStream[Any],
    proxies: TrustedProxies | None,
    on_plaintext: OnPlaintext[Any] | None,
) -> None:
    """Make a stream read the data that may precede its handshake, if there can be any."""
    after: _Plaintext | None = None
    if on_plaintext is not None:
        answer = partial(answer_of, on_plaintext, "on_plaintext", stream.transport_stream)
        after = _Plaintext(answer)
    if proxies is not None:
        expect_before_tls(stream, partial(_in_turn, proxies, after))
    elif after is not None:
        expect_before_tls(stream, partial(_only, after))


def _only(prologue: Prologue, _addresses: Addresses) -> Prologue:
    return prologue


def _in_turn(proxies: TrustedProxies, after: Prologue | None, addresses: Addresses) -> Prologue:
    header = HeaderPrologue(proxies, addresses)
    return header if after is None else _InTurn(header, after)


@attrs.define(eq=False)
class _InTurn:
    """One prologue after another."""

    _current: Prologue
    _next: Prologue | None

    @property
    def name(self) -> str:
        return self._current.name

    @property
    def has_received(self) -> bool:
        return self._current.has_received

    async def feed(self, data: bytes) -> bytes | None:
        rest = await self._current.feed(data)
        if rest is None or self._next is None:
            return rest
        self._current, self._next = self._next, None
        return await self._current.feed(rest)

    def feed_eof(self) -> bytes:
        return self._current.feed_eof()


@attrs.define(eq=False)
class _Plaintext:
    """Checks whether TLS begins, and calls the function if it doesn't."""

    _answer: Callable[[bytes], Awaitable[object]]
    _received: bytes = attrs.field(default=b"", repr=False)
    _error: TLSError | None = None  # once it is known

    @property
    def name(self) -> str:
        return "handshake" if self._error is None else "answer by on_plaintext"

    @property
    def has_received(self) -> bool:
        return bool(self._received)

    async def feed(self, data: bytes) -> bytes | None:
        if self._error is None:
            self._received += data
            if begins := begins_with_tls(self._received):
                return self._received
            if begins is None:
                return None
            self._error = error_of_plaintext(self._received)
            await self._call()
        raise self._error.again()

    async def _call(self) -> None:
        assert self._error is not None
        try:
            await self._answer(self._received)
        except Exception as exc:
            message = f"{self._error}; on_plaintext failed: {described(exc)}"
            self._error = caused_by(TLSError(message, reason=self._error.reason), exc)

    def feed_eof(self) -> bytes:
        return self._received  # too short to decide; OpenSSL reports the error
