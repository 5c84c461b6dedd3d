"""For programs on anyio's Trio backend: what :mod:`anyio.streams.tls` offers, with the same names.

Needs ``trio-tlsbio[anyio]``.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial
from typing import Any, Literal, TypeAlias

import anyio
import anyio.abc
import attrs
import trio
from anyio.streams.tls import TLSAttribute
from trio.lowlevel import enable_ki_protection

import trio_tlsbio

from ._client import resume_over
from ._contexts import make_default_context
from ._errors import printable
from ._server import close_after, current_context, first_of, is_failure_of
from ._sessions import SessionCache

__all__ = [
    "CertificateError",
    "HandshakeTimeoutError",
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
    :exc:`ssl.SSLError`. ``str()`` says in plain words what went wrong.
    """

    error: trio_tlsbio.TLSError
    """What it tells of, which is its cause as well."""

    def __init__(self, error: trio_tlsbio.TLSError) -> None:
        source = error.__cause__
        number = source.errno if isinstance(source, ssl.SSLError) else None
        ssl.SSLError.__init__(self, number or ssl.SSL_ERROR_SSL, str(error))
        self.error = error
        self.library: str = getattr(source, "library", None) or ""
        self.reason: str = error.reason or ""

    def __reduce__(self) -> tuple[type[TLSError], tuple[trio_tlsbio.TLSError]]:
        """Make it anew from what it tells of, to copy or pickle it."""
        return type(self), (self.error,)


class CertificateError(TLSError, ssl.SSLCertVerificationError):
    """This side refused the peer's certificate."""

    def __init__(self, error: trio_tlsbio.TLSError) -> None:
        super().__init__(error)
        self.verify_code: int = getattr(error.__cause__, "verify_code", 0)
        self.verify_message: str = getattr(error.__cause__, "verify_message", str(error))


class HandshakeTimeoutError(TLSError, TimeoutError):
    """The handshake took longer than ``handshake_timeout``."""


def _same_kind(error: trio_tlsbio.TLSError) -> TLSError:
    match error:
        case trio_tlsbio.CertificateError():
            return CertificateError(error)
        case trio_tlsbio.HandshakeTimeoutError():
            return HandshakeTimeoutError(error)
        case _:
            return TLSError(error)


@contextmanager
def _in_words_of_anyio() -> Generator[None, None, None]:
    try:
        yield
    except trio_tlsbio.TLSError as exc:
        raise _same_kind(exc) from exc
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
        # Whatever a subclass does with the bytes is gone around.
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
          ssl_context: The settings; by default those of :func:`ssl.create_default_context`, with
            the cipher suites that RFC 9325 recommends.
          standard_compatible: Whether to send a close_notify at the end, and to expect one.
          handshake_timeout: How long the handshake may take, in seconds.
          session_cache: Where to take a session from, and to put those that the server gives.
            Clients only, and only with the same ``ssl_context``.

        Raises:
          TLSError: if the handshake failed.
          ValueError: for arguments that don't go together.
          RuntimeError: if the program does not run on Trio.
        """
        try:
            if not trio.lowlevel.in_trio_run():
                raise RuntimeError("trio_tlsbio.anyio needs anyio's Trio backend: backend='trio'")
            if ssl_context is None and session_cache is not None:
                raise ValueError(
                    "sessions can only be resumed with the ssl_context they were made with"
                )
            if server_side or (server_side is None and not hostname):
                if ssl_context is None:
                    ssl_context = make_default_context(ssl.Purpose.CLIENT_AUTH)
                stream = cls._as_server(
                    transport_stream, ssl_context, standard_compatible, handshake_timeout
                )
                try:
                    await stream._shake_hands()
                except TLSError as exc:
                    await close_after(exc.error, stream.trio_stream)
                    raise
                return stream
            with _in_words_of_anyio():
                trio_stream = await resume_over(
                    _beneath(transport_stream),
                    ssl_context or make_default_context(),
                    server_hostname=hostname,
                    port=transport_stream.extra(anyio.abc.SocketAttribute.remote_port, 0),
                    session_cache=session_cache,
                    https_compatible=not standard_compatible,
                    handshake_timeout=handshake_timeout,
                )
            return cls(transport_stream, trio_stream, standard_compatible)
        except BaseException:
            await anyio.aclose_forcefully(transport_stream)
            raise

    @classmethod
    def _as_server(
        cls,
        transport_stream: _AnyByteStream,
        ssl_context: ssl.SSLContext,
        standard_compatible: bool,
        handshake_timeout: float,
    ) -> TLSStream:
        trio_stream = trio_tlsbio.TLSStream(
            _beneath(transport_stream),
            ssl_context,
            server_side=True,
            https_compatible=not standard_compatible,
            handshake_timeout=handshake_timeout,
        )
        return cls(transport_stream, trio_stream, standard_compatible)

    async def _shake_hands(self) -> None:
        with _in_words_of_anyio():
            await self.trio_stream.do_handshake()

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

    @enable_ki_protection
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
    async def handle_handshake_error(
        exc: BaseException,
        stream: _AnyByteStream,  # noqa: ARG004  # for subclasses
    ) -> None:
        """Log why a handshake failed. A subclass may do something else.

        The stream beneath is open still, to tell who the peer is; it is closed afterwards, so that
        the peer's alert arrives. Cancellation and the like is raised again.
        """
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
            stream = await self._wrap(transport_stream)
            try:
                await stream._shake_hands()
            except BaseException as exc:
                try:
                    await self.handle_handshake_error(exc, transport_stream)
                finally:
                    error = exc.error if isinstance(exc, TLSError) else exc
                    await close_after(error, stream.trio_stream)
            else:
                async with _one_client_ends_itself_alone(stream):
                    await handler(stream)

        await self.listener.serve(handle, task_group)

    async def _wrap(self, transport_stream: _AnyByteStream) -> TLSStream:
        try:
            return TLSStream._as_server(
                transport_stream,
                current_context(self.ssl_context),
                self.standard_compatible,
                self.handshake_timeout,
            )
        except BaseException:  # what the function that gives the context raises
            await anyio.aclose_forcefully(transport_stream)
            raise

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
        if not is_failure_of(partial(_is_error_of, stream), exc):
            raise
        _logger.warning("connection ended: %s", printable(str(first_of(exc))))


def _is_error_of(stream: TLSStream, exc: BaseException) -> bool:
    return isinstance(exc, TLSError) and stream.trio_stream.is_source_of(exc.error)


################################################################
# Clients
################################################################


def _context_or_default(ssl_context: ssl.SSLContext | None) -> ssl.SSLContext:
    return make_default_context() if ssl_context is None else ssl_context


@attrs.define(eq=False, slots=False, kw_only=True)
class TLSConnectable(anyio.abc.ByteStreamConnectable):
    """Connects, and speaks TLS, as :class:`anyio.streams.tls.TLSConnectable`; and resumes."""

    connectable: anyio.abc.ByteStreamConnectable = attrs.field(kw_only=False)
    """What makes the connection beneath."""

    hostname: str | None = None
    """The name of the server."""

    ssl_context: ssl.SSLContext = attrs.field(default=None, converter=_context_or_default)
    """The settings; by default as in :meth:`TLSStream.wrap`."""

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
