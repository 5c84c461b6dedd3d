"""Adapts any anyio byte stream as a Trio stream, for use as a transport."""

from __future__ import annotations

import operator
from collections.abc import Generator
from contextlib import contextmanager
from typing import TypeAlias

import anyio
import anyio.abc
import attrs
import trio

from trio_tlsbio._core.misuse import max_bytes_error

__all__ = ["AnyByteStream", "Transport"]

AnyByteStream: TypeAlias = anyio.abc.ObjectStream[bytes] | anyio.abc.ByteStream


@attrs.define(eq=False)
class Transport(trio.abc.Stream):
    """Any anyio byte stream, as a Trio stream."""

    _stream: AnyByteStream
    # The rest of an item that was longer than the caller requested.
    _rest: bytes = attrs.field(default=b"", init=False, repr=False)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        item = bytes(data)
        if not item:  # an object stream would deliver an empty item
            await trio.lowlevel.checkpoint()
            return
        with self._as_trio_errors():
            await self._stream.send(item)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()  # there is no way to find out

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise max_bytes_error(max_bytes)
        if self._rest:
            await trio.lowlevel.checkpoint()
        with self._as_trio_errors():
            while not self._rest:
                try:
                    self._rest = await self._stream.receive()
                except anyio.EndOfStream:
                    return b""
                if not self._rest:
                    # An empty item is not the end. The peer may send them forever, so let other
                    # tasks run.
                    await trio.lowlevel.checkpoint()
        data = self._rest[:max_bytes]
        self._rest = self._rest[len(data) :]
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()

    @contextmanager
    def _as_trio_errors(self) -> Generator[None, None, None]:
        try:
            yield
        except (anyio.BrokenResourceError, OSError) as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        except anyio.ClosedResourceError as exc:
            raise trio.ClosedResourceError(*exc.args) from exc
        except anyio.BusyResourceError as exc:
            raise trio.BusyResourceError(*exc.args) from exc
