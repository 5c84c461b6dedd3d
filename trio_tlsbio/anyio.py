"""For programs on anyio's Trio backend: what :mod:`anyio.streams.tls` offers, with the same names.

Needs ``trio-tlsbio[anyio]``.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Literal, TypeAlias

import anyio
import anyio.abc
import attrs
import trio
from anyio.streams.tls import TLSAttribute

import trio_tlsbio

from ._client import resume_over
from ._errors import printable
from ._server import close_after, current_context, is_failure_of
from ._sessions import SessionCache

__all__ = [
    "CertificateError",
    "TLSAttribute",
    "TLSConnectable",
    "TLSError",
    "TLSListener",
    "TLSStream",
    "connect_tcp",
]

_logger = logging.getLogger("trio_tlsbio.server")

_AnyByteStream: TypeAlias = anyio.abc.ObjectStream[bytes] | anyio.abc.ByteStream


################################################################
# Exceptions
################################################################


class TLSError(anyio.BrokenResourceError, ssl.SSLError):
    """TLS, the peer or the transport failed.

    Where anyio raises one or the other, this is both an :exc:`anyio.BrokenResourceError` and an
    :exc:`ssl.SSLError`. ``str()`` says in plain words what went wrong; ``__cause__`` is the
    :exc:`trio_tlsbio.TLSError`.
    """

    def __init__(self, cause: trio_tlsbio.TLSError) -> None:
        super().__init__(str(cause))
        self.reason: str = cause.reason or ""

    def __str__(self) -> str:
        """Return the message, which ssl.SSLError would show as a tuple."""
        return str(self.args[0])


class CertificateError(TLSError, ssl.SSLCertVerificationError):
    """This side refused the peer's certificate."""


def _raised(exc: trio_tlsbio.TLSError) -> TLSError:
    kind = CertificateError if isinstance(exc, trio_tlsbio.CertificateError) else TLSError
    return kind(exc)


@contextmanager
def _in_words_of_anyio() -> Generator[None, None, None]:
    try:
        yield
    except trio_tlsbio.TLSError as exc:
        raise _raised(exc) from exc
    except trio.ClosedResourceError as exc:
        raise anyio.ClosedResourceError(*exc.args) from exc
    except trio.BusyResourceError as exc:
        raise anyio.BusyResourceError("using") from exc


################################################################
# The transport beneath
################################################################


@attrs.define(eq=False)
class _Transport(trio.abc.Stream):
    """Any byte stream of anyio, for Trio's eyes."""

    _stream: _AnyByteStream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        with self._in_words_of_trio():
            await self._stream.send(bytes(data))

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()  # there is no way to know

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        with self._in_words_of_trio():
            try:
                return await self._stream.receive(*(() if max_bytes is None else (max_bytes,)))
            except anyio.EndOfStream:
                return b""

    async def aclose(self) -> None:
        await self._stream.aclose()

    @contextmanager
    def _in_words_of_trio(self) -> Generator[None, None, None]:
        try:
            yield
        except anyio.BrokenResourceError as exc:
            raise trio.BrokenResourceError(*exc.args) from exc
        except anyio.ClosedResourceError as exc:
            raise trio.ClosedResourceError(*exc.args) from exc
        except anyio.BusyResourceError as exc:
            raise trio.BusyResourceError(*exc.args) from exc


def _beneath(stream: _AnyByteStream) -> trio.abc.Stream:
    """Return the Trio stream that TLS is to be spoken over."""
    if isinstance(stream, TLSStream):
        return stream.trio_stream
    if isinstance(stream, anyio.abc.SocketStream):
        # A second owner of the same socket, which tells how much a send took that is cancelled.
        socket = stream.extra(anyio.abc.SocketAttribute.raw_socket)
        return trio.SocketStream(trio.socket.from_stdlib_socket(socket))
    return _Transport(stream)


################################################################
# The stream
################################################################


@attrs.define(eq=False, slots=False)
class TLSStream(anyio.abc.ByteStream):
    """A :class:`trio_tlsbio.TLSStream` as a byte stream of anyio. Made by :meth:`wrap`.

    It does all that :class:`anyio.streams.tls.TLSStream` does, and what that one can't:
    :meth:`send_eof` works, a cancelled call leaves the stream usable (over sockets and over other
    streams of this class; else, see :func:`trio_tlsbio.open_pump`), and the peer is told why
    something failed. What goes wrong with TLS, the peer or the transport is a :exc:`TLSError`.
    """

    transport_stream: _AnyByteStream
    """The stream it was made over."""

    trio_stream: trio_tlsbio.TLSStream[Any]
    """The stream that does the work: sessions, ``bytes_committed`` and more can be had there."""

    standard_compatible: bool
    """Whether a close_notify is sent and expected."""

    @classmethod
    async def wrap(
        cls,
        transport_stream: _AnyByteStream,
        *,
        server_side: bool | None = None,
        hostname: str | None = None,
        ssl_context: ssl.SSLContext | None = None,
        standard_compatible: bool = True,
        handshake_timeout: float = math.inf,
        session_cache: SessionCache | None = None,
    ) -> TLSStream:
        """Do the handshake over a stream, and return the encrypted one.

        Args:
          transport_stream: The stream, which is closed if this fails.
          server_side: Whether this end is the server; by default it is if there is no ``hostname``.
          hostname: The name of the server. Clients only.
          ssl_context: The settings; by default those of :func:`ssl.create_default_context`.
          standard_compatible: Whether to send a close_notify at the end, and to expect one.
          handshake_timeout: How long the handshake may take, in seconds.
          session_cache: Where to take a session from, and to put those that the server gives.
            Clients only, and only with the same ``ssl_context``.

        Raises:
          TLSError: if the handshake failed.
          RuntimeError: if the program does not run on Trio.
        """
        if server_side is None:
            server_side = not hostname
        if ssl_context is None:
            purpose = ssl.Purpose.CLIENT_AUTH if server_side else ssl.Purpose.SERVER_AUTH
            ssl_context = ssl.create_default_context(purpose)
        options: dict[str, Any] = {
            "https_compatible": not standard_compatible,
            "handshake_timeout": handshake_timeout,
        }
        try:
            if not trio.lowlevel.in_trio_run():
                raise RuntimeError("trio_tlsbio.anyio needs anyio's Trio backend: backend='trio'")
            with _in_words_of_anyio():
                if server_side:
                    stream = trio_tlsbio.TLSStream(
                        _beneath(transport_stream), ssl_context, server_side=True, **options
                    )
                    try:
                        await stream.do_handshake()
                    except trio_tlsbio.TLSError as exc:
                        await close_after(exc, stream)
                        raise
                else:
                    stream = await resume_over(
                        _beneath(transport_stream),
                        ssl_context,
                        server_hostname=hostname,
                        port=transport_stream.extra(anyio.abc.SocketAttribute.remote_port, 0),
                        session_cache=session_cache,
                        **options,
                    )
        except BaseException:
            await anyio.aclose_forcefully(transport_stream)
            raise
        return cls(transport_stream, stream, standard_compatible)

    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive up to ``max_bytes``. Cancelled, nothing is lost.

        Raises:
          anyio.EndOfStream: once the peer has ended its direction.
          TLSError: if TLS or the transport failed, or ended without a close_notify.
        """
        with _in_words_of_anyio():
            data = await self.trio_stream.receive_some(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    async def send(self, item: bytes) -> None:
        """Send all of it. Cancelled, see :attr:`trio_tlsbio.TLSStream.bytes_committed`.

        Raises:
          TLSError: if TLS or the transport failed.
        """
        with _in_words_of_anyio():
            await self.trio_stream.send_all(item)

    async def send_eof(self) -> None:
        """End our direction by a close_notify. Receiving goes on."""
        with _in_words_of_anyio():
            await self.trio_stream.send_eof()

    async def unwrap(self) -> tuple[_AnyByteStream, bytes]:
        """End TLS in both directions. See :meth:`trio_tlsbio.TLSStream.unwrap`.

        Returns:
          The stream beneath, and what was received on it already.
        """
        with _in_words_of_anyio():
            _, trailing_data = await self.trio_stream.unwrap()
        return self.transport_stream, trailing_data

    async def aclose(self) -> None:
        """End the connection, and close the stream beneath: see
        :meth:`trio_tlsbio.TLSStream.aclose`.
        """
        try:
            with _in_words_of_anyio():
                await self.trio_stream.aclose()
        finally:
            if self.trio_stream.transport_stream is not None:  # as it is after unwrap()
                await self.transport_stream.aclose()  # it has to know that its socket is closed

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the stream beneath, and those of anyio's TLSAttribute."""
        ssl_object = self.trio_stream.connection.ssl_object
        return {
            **self.transport_stream.extra_attributes,
            TLSAttribute.alpn_protocol: ssl_object.selected_alpn_protocol,
            TLSAttribute.channel_binding_tls_unique: ssl_object.get_channel_binding,
            TLSAttribute.cipher: ssl_object.cipher,
            TLSAttribute.peer_certificate: ssl_object.getpeercert,
            TLSAttribute.peer_certificate_binary: lambda: ssl_object.getpeercert(True),
            TLSAttribute.server_side: lambda: ssl_object.server_side,
            TLSAttribute.shared_ciphers: lambda: (
                ssl_object.shared_ciphers() if ssl_object.server_side else None
            ),
            TLSAttribute.ssl_object: lambda: ssl_object,
            TLSAttribute.standard_compatible: lambda: self.standard_compatible,
            TLSAttribute.tls_version: ssl_object.version,
        }


################################################################
# Servers
################################################################


@attrs.define(eq=False, slots=False)
class TLSListener(anyio.abc.Listener[TLSStream]):
    """A listener whose connections speak TLS, as :class:`anyio.streams.tls.TLSListener`.

    A client whose handshake fails, or takes too long, ends its own connection alone. So does one
    that vanishes later, if the handler lets the :exc:`TLSError` of its stream through: that is
    logged, and does not end the server. What else a handler raises does.
    """

    listener: anyio.abc.Listener[Any]
    """The listener whose connections are wrapped."""

    ssl_context: ssl.SSLContext | trio_tlsbio.ContextProvider
    """The settings, or a function that returns them: see :class:`trio_tlsbio.TLSListener`."""

    standard_compatible: bool = True
    """Whether a close_notify is sent and expected."""

    handshake_timeout: float = 30.0
    """How long a handshake may take, in seconds."""

    @staticmethod
    async def handle_handshake_error(exc: BaseException, stream: _AnyByteStream) -> None:
        """Log why a handshake failed. A subclass may do something else.

        Cancellation and the like is raised again.
        """
        await anyio.aclose_forcefully(stream)
        if not isinstance(exc, Exception):
            raise exc
        _logger.warning("handshake failed: %s", printable(str(exc)))

    async def serve(
        self,
        handler: Callable[[TLSStream], Any],
        task_group: anyio.abc.TaskGroup | None = None,
    ) -> None:
        """Accept connections, and call ``handler`` for each in a task of its own."""

        async def handle(transport_stream: _AnyByteStream) -> None:
            try:
                stream = await self._shake_hands(transport_stream)
            except BaseException as exc:
                await self.handle_handshake_error(exc, transport_stream)
            else:
                async with _one_client_ends_itself_alone(stream):
                    await handler(stream)

        await self.listener.serve(handle, task_group)

    async def _shake_hands(self, transport_stream: _AnyByteStream) -> TLSStream:
        return await TLSStream.wrap(
            transport_stream,
            server_side=True,
            ssl_context=current_context(self.ssl_context),
            standard_compatible=self.standard_compatible,
            handshake_timeout=self.handshake_timeout,
        )

    async def aclose(self) -> None:
        """Close the listener beneath."""
        await self.listener.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the listener beneath, and ``standard_compatible``."""
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
        if not is_failure_of(lambda one: stream.trio_stream.is_source_of(_cause_of(one)), exc):
            raise
        _logger.warning("connection ended: %s", printable(str(exc)))


def _cause_of(exc: BaseException) -> BaseException:
    return exc.__cause__ or exc


################################################################
# Clients
################################################################


@attrs.define(eq=False, slots=False, kw_only=True)
class TLSConnectable(anyio.abc.ByteStreamConnectable):
    """Connects, and speaks TLS, as :class:`anyio.streams.tls.TLSConnectable`; and resumes."""

    connectable: anyio.abc.ByteStreamConnectable = attrs.field(kw_only=False)
    """What makes the connection beneath."""

    hostname: str | None = None
    """The name of the server."""

    ssl_context: ssl.SSLContext = attrs.field(factory=ssl.create_default_context)
    """The settings."""

    standard_compatible: bool = True
    """Whether a close_notify is sent and expected."""

    session_cache: SessionCache = attrs.field(factory=SessionCache)
    """Where the sessions of earlier connections are kept."""

    async def connect(self) -> TLSStream:
        """Connect, and do the handshake."""
        return await TLSStream.wrap(
            await self.connectable.connect(),
            server_side=False,
            hostname=self.hostname,
            ssl_context=self.ssl_context,
            standard_compatible=self.standard_compatible,
            session_cache=self.session_cache,
        )


async def connect_tcp(
    remote_host: Any,
    remote_port: int,
    *,
    tls: Literal[True] = True,  # noqa: ARG001  # for programs that say so
    ssl_context: ssl.SSLContext | None = None,
    tls_standard_compatible: bool = True,
    tls_hostname: str | None = None,
    session_cache: SessionCache | None = None,
    **options: Any,
) -> TLSStream:
    """Connect by TCP and do the handshake, as :func:`anyio.connect_tcp` does with ``tls=True``.

    Args:
      remote_host: The host to connect to.
      remote_port: The port.
      tls: True, as it always is here.
      ssl_context: See :meth:`TLSStream.wrap`.
      tls_standard_compatible: Whether to send a close_notify at the end, and to expect one.
      tls_hostname: The name in the server's certificate, by default ``remote_host``.
      session_cache: Where to take a session from, and to put those that the server gives.
      options: What else :func:`anyio.connect_tcp` takes: ``local_host``, for example.

    Raises:
      OSError: if no connection can be made.
      TLSError: if the handshake failed.
    """
    return await TLSStream.wrap(
        await anyio.connect_tcp(remote_host, remote_port, **options),
        server_side=False,
        hostname=tls_hostname or str(remote_host),
        ssl_context=ssl_context,
        standard_compatible=tls_standard_compatible,
        session_cache=session_cache,
    )
