"""For programs on anyio's Trio backend: what :mod:`anyio.streams.tls` offers, with the same names.

Needs ``trio-tlsbio[anyio]``.
"""

from __future__ import annotations

import logging
import math
import operator
import os
import ssl
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager
from functools import partial, wraps
from ipaddress import IPv4Address, IPv6Address
from types import TracebackType
from typing import Any, Literal, TypeAlias, overload

import anyio
import anyio.abc
import attrs
import trio
from anyio.streams.tls import TLSAttribute
from trio.lowlevel import enable_ki_protection

import trio_tlsbio

from ._core.arguments import check_arguments
from ._core.errors import printable
from ._net.connecting import resume_over
from ._net.default_context import make_default_context
from ._net.listening import current_context
from ._net.serving import close_after, first_of, is_failure_of
from ._net.session_cache import SessionCache
from ._stream.stream import check_handshake_timeout

__all__ = [
    "CertificateError",
    "HandshakeTimeoutError",
    "TLSAttribute",
    "TLSConnectable",
    "TLSError",
    "TLSListener",
    "TLSStream",
    "as_connectable",
    "connect_tcp",
]

_logger = logging.getLogger("trio_tlsbio.server")

_AnyByteStream: TypeAlias = anyio.abc.ObjectStream[bytes] | anyio.abc.ByteStream
_Host: TypeAlias = str | IPv4Address | IPv6Address


################################################################
# Exceptions
################################################################


class TLSError(anyio.BrokenResourceError, ssl.SSLError):
    """TLS, the peer or the transport failed.

    Where anyio raises one or the other, this is both an :exc:`anyio.BrokenResourceError` and an
    :exc:`ssl.SSLError`. ``str()`` says in plain words what went wrong.
    """

    error: trio_tlsbio.TLSError
    """The error that this one reports, and its cause."""

    def __init__(self, error: trio_tlsbio.TLSError) -> None:
        source = error.__cause__
        number = source.errno if isinstance(source, ssl.SSLError) else None
        ssl.SSLError.__init__(self, number or ssl.SSL_ERROR_SSL, str(error))
        self.error = error
        self.library: str = getattr(source, "library", None) or ""
        self.reason: str = error.reason or ""

    def __reduce__(self) -> tuple[type[TLSError], tuple[trio_tlsbio.TLSError]]:
        """Make it anew from that error, to copy or pickle it."""
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
# The underlying transport
################################################################


@attrs.define(eq=False)
class _Transport(trio.abc.Stream):
    """Any byte stream of anyio, as a Trio stream."""

    _stream: _AnyByteStream
    # What is left of an item that was longer than the caller asked for.
    _rest: bytes = attrs.field(default=b"", init=False, repr=False)

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        item = bytes(data)
        if not item:  # an object stream would deliver it
            await trio.lowlevel.checkpoint()
            return
        with self._in_words_of_trio():
            await self._stream.send(item)

    async def wait_send_all_might_not_block(self) -> None:
        await trio.lowlevel.checkpoint()  # there is no way to know

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        if max_bytes is not None and operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be >= 1")
        if self._rest:
            await trio.lowlevel.checkpoint()
        with self._in_words_of_trio():
            while not self._rest:
                try:
                    self._rest = await self._stream.receive()
                except anyio.EndOfStream:
                    return b""
                if not self._rest:
                    # An empty item is no end. The peer may send them forever, so others take turns.
                    await trio.lowlevel.checkpoint()
        data = self._rest[:max_bytes]
        self._rest = self._rest[len(data) :]
        return data

    async def aclose(self) -> None:
        await self._stream.aclose()

    @contextmanager
    def _in_words_of_trio(self) -> Generator[None, None, None]:
        try:
            yield
        except (anyio.BrokenResourceError, OSError) as exc:
            raise trio.BrokenResourceError(str(exc)) from exc
        except anyio.ClosedResourceError as exc:
            raise trio.ClosedResourceError(*exc.args) from exc
        except anyio.BusyResourceError as exc:
            raise trio.BusyResourceError(*exc.args) from exc


def _trio_stream_for(stream: _AnyByteStream) -> trio.abc.Stream:
    """Return the Trio stream to speak TLS over."""
    if isinstance(stream, TLSStream):
        return stream.trio_stream
    if isinstance(stream, anyio.abc.SocketStream):
        # A second owner of the same socket, which knows how much a cancelled send has sent.
        # Whatever a subclass does with the bytes is bypassed.
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
          hostname: The name of the server. Servers ignore it.
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
            _check_backend()
            if server_side is None:
                server_side = not hostname
            _check_session_cache(session_cache, ssl_context, server_side=server_side)
            if server_side:
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
                    _trio_stream_for(transport_stream),
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
            _trio_stream_for(transport_stream),
            ssl_context,
            server_side=True,
            https_compatible=not standard_compatible,
            handshake_timeout=handshake_timeout,
        )
        return cls(transport_stream, trio_stream, standard_compatible)

    async def _shake_hands(self) -> None:
        with _in_words_of_anyio():
            await self.trio_stream.do_handshake()

    @enable_ki_protection
    async def receive(self, max_bytes: int = 65536) -> bytes:
        """Receive up to ``max_bytes``. Cancelled, nothing is lost.

        Raises:
          anyio.EndOfStream: once the peer has ended its direction.
          TLSError: if TLS or the transport failed, or ended without a close_notify.
          ValueError: if ``max_bytes`` is not positive.
        """
        if operator.index(max_bytes) < 1:
            raise ValueError("max_bytes must be a positive integer")
        with _in_words_of_anyio():
            data = await self.trio_stream.receive_some(max_bytes)
        if not data:
            raise anyio.EndOfStream
        return data

    @enable_ki_protection
    async def send(self, item: bytes) -> None:
        """Send all of it. Cancelled, see :attr:`trio_tlsbio.TLSStream.bytes_committed`.

        Raises:
          TLSError: if TLS or the transport failed.
        """
        with _in_words_of_anyio():
            await self.trio_stream.send_all(item)

    @enable_ki_protection
    async def send_eof(self) -> None:
        """End our direction by a close_notify. Receiving goes on."""
        with _in_words_of_anyio():
            await self.trio_stream.send_eof()

    @enable_ki_protection
    async def unwrap(self) -> tuple[_AnyByteStream, bytes]:
        """End TLS in both directions. See :meth:`trio_tlsbio.TLSStream.unwrap`.

        Returns:
          The underlying stream, and what was received on it already.
        """
        with _in_words_of_anyio():
            _, trailing_data = await self.trio_stream.unwrap()
        return self.transport_stream, trailing_data

    @enable_ki_protection
    async def aclose(self) -> None:
        """End the connection, and close the underlying stream.

        This sends a close_notify if the stream is ``standard_compatible``. Over a socket it then
        waits until the peer has closed too, for 5 seconds at most: see
        :meth:`trio_tlsbio.TLSStream.aclose`. A peer that doesn't answer, or has gone, is no error.

        anyio's own stream waits for the peer's close_notify as long as it takes, raises an
        exception if the peer closes without one, and waits for nothing if it is not
        ``standard_compatible``. Here a peer can neither block a close nor make it fail, and the
        data that was sent last isn't lost. To check that the peer has ended properly, receive until
        :exc:`anyio.EndOfStream`, or call :meth:`unwrap`.
        """
        try:
            with _in_words_of_anyio():
                await self.trio_stream.aclose()
        finally:
            if self.trio_stream.transport_stream is not None:  # as it is after unwrap()
                await self.transport_stream.aclose()  # it has to know that its socket is closed

    @enable_ki_protection  # anyio's own would leave it to Ctrl-C whether aclose() begins
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        await self.aclose()

    @property
    def extra_attributes(self) -> Mapping[Any, Callable[[], Any]]:
        """The attributes of the underlying stream, and those of anyio's TLSAttribute."""
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


def _check_backend() -> None:
    if not trio.lowlevel.in_trio_run():
        raise RuntimeError("trio_tlsbio.anyio needs anyio's Trio backend: backend='trio'")


def _check_session_cache(
    session_cache: SessionCache | None, ssl_context: ssl.SSLContext | None, *, server_side: bool
) -> None:
    if session_cache is None:
        return
    if server_side:
        raise ValueError("session_cache is for clients: a server resumes what it is offered")
    if ssl_context is None:
        raise ValueError("sessions can only be resumed with the ssl_context they were made with")


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

    def __attrs_post_init__(self) -> None:
        context = current_context(self.ssl_context)
        check_arguments(context, server_side=True, server_hostname=None, session=None)
        check_handshake_timeout(self.handshake_timeout)

    @staticmethod
    async def handle_handshake_error(
        exc: BaseException,
        stream: _AnyByteStream,  # noqa: ARG004  # for subclasses
    ) -> None:
        """Log why a handshake failed. A subclass can override it.

        anyio's own method closes the stream, and logs an error with a traceback to
        ``anyio.streams.tls``. This one leaves the stream open, and :meth:`serve` closes it
        afterwards so that the peer receives the alert; a socket that is closed too early can
        destroy it. It logs one line to ``trio_tlsbio.server``, as a warning: a failed handshake is
        mostly the peer's doing, and a public port sees many. An override may close the stream, or
        ask it who the peer is.

        Args:
          exc: What the handshake has raised. If it is no :exc:`Exception`, a cancellation for
            example, it is raised again.
          stream: The underlying stream.
        """
        if not isinstance(exc, Exception):
            try:
                raise exc
            finally:
                del exc  # or its traceback would keep it alive in a cycle
        _logger.warning("handshake failed: %s", printable(str(exc)))

    async def serve(
        self,
        handler: Callable[[TLSStream], Any],
        task_group: anyio.abc.TaskGroup | None = None,
    ) -> None:
        """Accept connections, and call ``handler`` for each in a task of its own."""

        @wraps(handler)  # tasks are named after it
        async def handle(transport_stream: _AnyByteStream) -> None:
            stream = await self._wrap(transport_stream)
            try:
                await stream._shake_hands()
            except BaseException as exc:
                try:
                    await self.handle_handshake_error(exc, transport_stream)
                finally:
                    await close_after(
                        exc.error if isinstance(exc, TLSError) else exc, stream.trio_stream
                    )
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


################################################################
# Clients
################################################################


def _context_or_default(ssl_context: ssl.SSLContext | None) -> ssl.SSLContext:
    if ssl_context is None:
        return make_default_context()
    context: object = ssl_context
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {type(context).__name__}")
    return context


def _check_client(ssl_context: ssl.SSLContext, hostname: str | None) -> None:
    """Raise what :meth:`TLSStream.wrap` would raise, before there is a connection."""
    _check_backend()
    check_arguments(ssl_context, server_side=False, server_hostname=hostname, session=None)


@attrs.define(eq=False, slots=False, kw_only=True)
class TLSConnectable(anyio.abc.ByteStreamConnectable):
    """Connects, and speaks TLS, as :class:`anyio.streams.tls.TLSConnectable`; and resumes.

    Raises:
      TypeError: if ``ssl_context`` is no :class:`ssl.SSLContext`.
    """

    connectable: anyio.abc.ObjectStreamConnectable[bytes] | anyio.abc.ByteStreamConnectable = (
        attrs.field(kw_only=False)
    )
    """What makes the underlying connection."""

    hostname: str | None = None
    """The name of the server."""

    ssl_context: ssl.SSLContext = attrs.field(default=None, converter=_context_or_default)
    """The settings; by default as in :meth:`TLSStream.wrap`."""

    standard_compatible: bool = True
    """Whether a close_notify is sent and expected."""

    session_cache: SessionCache = attrs.field(factory=SessionCache)
    """Where the sessions of earlier connections are kept."""

    async def connect(self) -> TLSStream:
        """Connect, and do the handshake.

        Raises:
          OSError: if no connection can be made.
          TLSError: if the handshake failed.
          ValueError: for attributes that don't go together, before connecting.
        """
        _check_client(self.ssl_context, self.hostname)
        return await TLSStream.wrap(
            await self.connectable.connect(),
            server_side=False,
            hostname=self.hostname,
            ssl_context=self.ssl_context,
            standard_compatible=self.standard_compatible,
            session_cache=self.session_cache,
        )


def as_connectable(
    remote: anyio.abc.ByteStreamConnectable | tuple[_Host, int] | str | bytes | os.PathLike[str],
    /,
    *,
    tls: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    tls_hostname: str | None = None,
    tls_standard_compatible: bool = True,
    session_cache: SessionCache | None = None,
) -> anyio.abc.ByteStreamConnectable:
    """Make a connectable of an address, as :func:`anyio.as_connectable` does.

    Args:
      remote: A host and port for TCP, or the path of a Unix socket. A connectable is returned as it
        is, whatever else is given.
      tls: Whether to speak TLS, by a :class:`TLSConnectable`. What follows is for TLS alone.
      ssl_context: See :class:`TLSConnectable`.
      tls_hostname: The name in the server's certificate, by default the host. A Unix socket has
        none.
      tls_standard_compatible: Whether to send a close_notify at the end, and to expect one.
      session_cache: Where sessions are kept; by default one of the connectable's own.

    Raises:
      TypeError: for a ``remote`` of a wrong type.
    """
    connectable = anyio.as_connectable(remote)
    if not tls or connectable is remote:
        return connectable
    if not tls_hostname and isinstance(connectable, anyio.TCPConnectable):
        tls_hostname = str(connectable.host)
    return TLSConnectable(
        connectable,
        hostname=tls_hostname,
        ssl_context=ssl_context,
        standard_compatible=tls_standard_compatible,
        session_cache=SessionCache() if session_cache is None else session_cache,
    )


# anyio's own is declared in the same cases: TLS is spoken if any argument asks for it.
@overload
async def connect_tcp(
    remote_host: _Host,
    remote_port: int,
    *,
    local_host: _Host | None = ...,
    local_port: int | None = ...,
    tls: bool = ...,
    ssl_context: ssl.SSLContext | None = ...,
    tls_standard_compatible: bool = ...,
    tls_hostname: str,
    happy_eyeballs_delay: float = ...,
    session_cache: SessionCache | None = ...,
) -> TLSStream: ...


@overload
async def connect_tcp(
    remote_host: _Host,
    remote_port: int,
    *,
    local_host: _Host | None = ...,
    local_port: int | None = ...,
    tls: bool = ...,
    ssl_context: ssl.SSLContext,
    tls_standard_compatible: bool = ...,
    tls_hostname: str | None = ...,
    happy_eyeballs_delay: float = ...,
    session_cache: SessionCache | None = ...,
) -> TLSStream: ...


@overload
async def connect_tcp(
    remote_host: _Host,
    remote_port: int,
    *,
    local_host: _Host | None = ...,
    local_port: int | None = ...,
    tls: Literal[True],
    ssl_context: ssl.SSLContext | None = ...,
    tls_standard_compatible: bool = ...,
    tls_hostname: str | None = ...,
    happy_eyeballs_delay: float = ...,
    session_cache: SessionCache | None = ...,
) -> TLSStream: ...


@overload
async def connect_tcp(
    remote_host: _Host,
    remote_port: int,
    *,
    local_host: _Host | None = ...,
    local_port: int | None = ...,
    tls: Literal[False] = ...,
    ssl_context: None = ...,
    tls_standard_compatible: bool = ...,
    tls_hostname: None = ...,
    happy_eyeballs_delay: float = ...,
    session_cache: None = ...,
) -> anyio.abc.SocketStream: ...


async def connect_tcp(
    remote_host: _Host,
    remote_port: int,
    *,
    local_host: _Host | None = None,
    local_port: int | None = None,
    tls: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    tls_standard_compatible: bool = True,
    tls_hostname: str | None = None,
    happy_eyeballs_delay: float = 0.25,
    session_cache: SessionCache | None = None,
) -> anyio.abc.SocketStream | TLSStream:
    """Connect by TCP, and do the handshake if TLS is asked for, as :func:`anyio.connect_tcp` does.

    TLS is asked for by ``tls=True``, by an ``ssl_context`` or by a ``tls_hostname``. Without any of
    them the connection is plain TCP.

    Args:
      remote_host: The host to connect to.
      remote_port: The port.
      local_host: The address to connect from, by default the system's choice.
      local_port: The port to connect from. Needs ``local_host``, and a version of anyio that has
        this parameter.
      tls: Whether to speak TLS. False does not forbid it: see above.
      ssl_context: See :meth:`TLSStream.wrap`.
      tls_standard_compatible: Whether to send a close_notify at the end, and to expect one.
      tls_hostname: The name in the server's certificate, by default ``remote_host``.
      happy_eyeballs_delay: How long to try one address of the host alone, in seconds.
      session_cache: Where to take a session from, and to put those that the server gives. Only
        with an ``ssl_context``.

    Returns:
      The encrypted stream, or anyio's own stream if TLS was not asked for.

    Raises:
      OSError: if no connection can be made.
      TLSError: if the handshake failed.
      ValueError: for arguments that don't go together, before connecting.
      TypeError: for arguments of a wrong type, before connecting.
      RuntimeError: if TLS is asked for and the program does not run on Trio.
    """
    is_tls = bool(tls or tls_hostname or ssl_context)
    hostname = tls_hostname or str(remote_host)
    _check_session_cache(session_cache, ssl_context, server_side=False)
    if is_tls:
        ssl_context = _context_or_default(ssl_context)
        _check_client(ssl_context, hostname)
    options: dict[str, Any] = {} if local_port is None else {"local_port": local_port}
    tcp_stream: anyio.abc.SocketStream = await anyio.connect_tcp(
        remote_host,
        remote_port,
        local_host=local_host,
        happy_eyeballs_delay=happy_eyeballs_delay,
        **options,
    )
    if not is_tls:
        return tcp_stream
    return await TLSStream.wrap(
        tcp_stream,
        server_side=False,
        hostname=hostname,
        ssl_context=ssl_context,
        standard_compatible=tls_standard_compatible,
        session_cache=session_cache,
    )
