"""The listener, for servers."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import asynccontextmanager
from functools import partial, wraps
from typing import Any

import anyio
import anyio.abc
import attrs
from anyio.streams.tls import TLSAttribute

import trio_tlsbio
from trio_tlsbio._core.errors import printable
from trio_tlsbio._net.handlers import check_handler, started
from trio_tlsbio._net.listening import ServerContext, ServerSettings
from trio_tlsbio._net.serving import close_after, first_of, is_failure_of

from ._errors import TLSError
from ._stream import TLSStream, options_of, server_stream, shake_hands
from ._transport import AnyByteStream

__all__ = ["TLSListener"]

_logger = logging.getLogger("trio_tlsbio.server")


@attrs.define(eq=False, slots=False)
class TLSListener(anyio.abc.Listener[TLSStream]):
    """A listener whose connections use TLS, like :class:`anyio.streams.tls.TLSListener`.

    A client whose handshake fails, or takes too long, only ends its own connection. The same is
    true of a client that disappears later, if the handler doesn't catch the :exc:`TLSError` of its
    stream: the error is logged, and does not end the server. Any other exception from a handler
    ends the server.
    """

    listener: anyio.abc.Listener[Any]
    """The listener whose connections are wrapped."""

    ssl_context: ServerContext
    """The settings, or a function that returns them, such as the result of
    :func:`trio_tlsbio.contexts_by_name`: see :class:`trio_tlsbio.TLSListener`.
    """

    standard_compatible: bool = True
    """Whether a close_notify is sent and expected."""

    handshake_timeout: float = 30.0
    """How long a handshake may take, in seconds."""

    _settings: ServerSettings = attrs.field(init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        options = options_of(self.standard_compatible, self.handshake_timeout)
        self._settings = ServerSettings.of(self.ssl_context, options)

    @staticmethod
    async def handle_handshake_error(
        exc: BaseException,
        stream: AnyByteStream,  # noqa: ARG004  # for subclasses
    ) -> None:
        """Log why a handshake failed. Subclasses can override this.

        anyio's own method closes the stream, and logs an error with a traceback to
        ``anyio.streams.tls``. This one leaves the stream open, and :meth:`serve` closes it
        afterwards so that the peer receives the alert: closing a socket too early can destroy it.
        It logs one line to ``trio_tlsbio.server``, as a warning, because the peer usually causes
        the failure, and on a public port this happens often. An override may close the stream, or
        query the peer's address from it.

        Args:
          exc: The exception from the handshake. If it is not an :exc:`Exception`, but a
            cancellation, for example, it is raised again.
          stream: The underlying stream.
        """
        if not isinstance(exc, Exception):
            try:
                raise exc
            finally:
                del exc  # otherwise its traceback would keep it alive in a cycle
        _logger.warning("handshake failed: %s", printable(str(exc)))

    async def serve(
        self,
        handler: Callable[[TLSStream], Any],
        task_group: anyio.abc.TaskGroup | None = None,
    ) -> None:
        """Accept connections, and call ``handler`` for each of them in its own task."""
        check_handler(handler)

        @wraps(handler)  # for the names of tasks
        async def handle(transport_stream: AnyByteStream) -> None:
            trio_stream = await self._wrap(transport_stream)
            try:
                await shake_hands(trio_stream)
            except BaseException as exc:
                try:
                    await self.handle_handshake_error(exc, transport_stream)
                finally:
                    await close_after(exc.error if isinstance(exc, TLSError) else exc, trio_stream)
            else:
                stream = TLSStream(transport_stream, trio_stream, self.standard_compatible)
                async with _one_client_ends_itself_alone(stream):
                    await started(handler(stream), handler)

        await self.listener.serve(handle, task_group)

    async def _wrap(self, transport_stream: AnyByteStream) -> trio_tlsbio.TLSStream[Any]:
        try:
            return server_stream(
                transport_stream, await self._settings.arguments(), self._settings.options
            )
        except BaseException:  # from the function that returns the context
            await anyio.aclose_forcefully(transport_stream)
            raise

    async def aclose(self) -> None:
        """Close the underlying listener."""
        await self.listener.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the underlying listener, and ``standard_compatible``."""
        return {
            **self.listener.extra_attributes,
            TLSAttribute.standard_compatible: lambda: self.standard_compatible,
        }


@asynccontextmanager
async def _one_client_ends_itself_alone(stream: TLSStream) -> AsyncGenerator[None, None]:
    try:
        yield
    except Exception as exc:
        await anyio.aclose_forcefully(stream)
        if not is_failure_of(partial(_is_error_of, stream), exc):
            raise
        _logger.warning("connection ended: %s", printable(str(first_of(exc))))


def _is_error_of(stream: TLSStream, exc: BaseException) -> bool:
    return isinstance(exc, TLSError) and stream.trio_stream.is_source_of(exc.error)
