"""Connects clients."""

from __future__ import annotations

import os
import ssl
from ipaddress import IPv4Address, IPv6Address
from typing import Any, Literal, TypeAlias, overload

import anyio
import anyio.abc
import attrs

from trio_tlsbio._net.connecting import renewed_context
from trio_tlsbio._net.reloading import ContextProvider, next_context
from trio_tlsbio._net.session_cache import SessionCache

from ._checks import check_backend, check_client, check_session_cache, context_or_default
from ._stream import TLSStream

__all__ = ["TLSConnectable", "as_connectable", "connect_tcp"]

_Host: TypeAlias = str | IPv4Address | IPv6Address


@attrs.define(eq=False, slots=False, kw_only=True)
class TLSConnectable(anyio.abc.ByteStreamConnectable):
    """Connects over TLS, like :class:`anyio.streams.tls.TLSConnectable`, and resumes sessions.

    Raises:
      TypeError: if ``ssl_context`` is neither an :class:`ssl.SSLContext` nor a function.
    """

    connectable: anyio.abc.ObjectStreamConnectable[bytes] | anyio.abc.ByteStreamConnectable = (
        attrs.field(kw_only=False)
    )
    """Establishes the underlying connection."""

    hostname: str | None = None
    """The name of the server."""

    ssl_context: ssl.SSLContext | ContextProvider = attrs.field(
        default=None, converter=context_or_default
    )
    """The settings, or a function that returns them, such as a
    :class:`trio_tlsbio.ReloadingContext`; by default as in :meth:`TLSStream.wrap`.
    """

    standard_compatible: bool = True
    """Whether a close_notify is sent and expected."""

    session_cache: SessionCache = attrs.field(factory=SessionCache)
    """The cache for the sessions of earlier connections."""

    _latest: ssl.SSLContext | None = attrs.field(default=None, init=False, repr=False)

    async def connect(self) -> TLSStream:
        """Connect, and perform the handshake.

        Raises:
          OSError: if the connection can't be established.
          TLSError: if the handshake failed.
          ValueError: if the attributes are not valid together, before connecting.
        """
        check_backend()
        context = await renewed_context(self.ssl_context, self._latest, self.session_cache)
        self._latest = context
        check_client(context, self.hostname)
        return await TLSStream.wrap(
            await self.connectable.connect(),
            server_side=False,
            hostname=self.hostname,
            ssl_context=context,
            standard_compatible=self.standard_compatible,
            session_cache=self.session_cache,
        )


def as_connectable(
    remote: anyio.abc.ByteStreamConnectable | tuple[_Host, int] | str | bytes | os.PathLike[str],
    /,
    *,
    tls: bool = False,
    ssl_context: ssl.SSLContext | ContextProvider | None = None,
    tls_hostname: str | None = None,
    tls_standard_compatible: bool = True,
    session_cache: SessionCache | None = None,
) -> anyio.abc.ByteStreamConnectable:
    """Create a connectable from an address, as :func:`anyio.as_connectable` does.

    Args:
      remote: A host and port for TCP, or the path of a Unix socket. A connectable is returned
        unchanged, whatever the other arguments are.
      tls: Whether to use TLS, with a :class:`TLSConnectable`. The parameters below only apply to
        TLS.
      ssl_context: See :class:`TLSConnectable`.
      tls_hostname: The name in the server's certificate, by default the host. There is no default
        for a Unix socket.
      tls_standard_compatible: Whether to send a close_notify at the end, and to expect one.
      session_cache: Where to store sessions; by default in a new cache.

    Raises:
      TypeError: if ``remote`` has the wrong type.
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


# These overloads match anyio's: TLS is used if any argument requests it.
@overload
async def connect_tcp(
    remote_host: _Host,
    remote_port: int,
    *,
    local_host: _Host | None = ...,
    local_port: int | None = ...,
    tls: bool = ...,
    ssl_context: ssl.SSLContext | ContextProvider | None = ...,
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
    ssl_context: ssl.SSLContext | ContextProvider,
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
    ssl_context: ssl.SSLContext | ContextProvider | None = ...,
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
    ssl_context: ssl.SSLContext | ContextProvider | None = None,
    tls_standard_compatible: bool = True,
    tls_hostname: str | None = None,
    happy_eyeballs_delay: float = 0.25,
    session_cache: SessionCache | None = None,
) -> anyio.abc.SocketStream | TLSStream:
    """Connect over TCP, and perform the handshake if TLS is requested, as :func:`anyio.connect_tcp`
    does.

    TLS is requested with ``tls=True``, an ``ssl_context`` or a ``tls_hostname``. Without any of
    them, the connection is plain TCP.

    Args:
      remote_host: The host to connect to.
      remote_port: The port.
      local_host: The address to connect from, by default the system's choice.
      local_port: The port to connect from. This requires ``local_host``, and a version of anyio
        that has this parameter.
      tls: Whether to use TLS. False does not disable it: see above.
      ssl_context: See :class:`TLSConnectable`.
      tls_standard_compatible: Whether to send a close_notify at the end, and to expect one.
      tls_hostname: The name in the server's certificate, by default ``remote_host``.
      happy_eyeballs_delay: How long to try one address of the host before trying the next one as
        well, in seconds.
      session_cache: Where to take a session from, and to store the sessions that the server sends.
        This requires an ``ssl_context``.

    Returns:
      The encrypted stream, or anyio's own stream if TLS was not requested.

    Raises:
      OSError: if the connection can't be established.
      TLSError: if the handshake failed.
      ValueError: if the arguments are not valid together, before connecting.
      TypeError: if an argument has the wrong type, before connecting.
      RuntimeError: if TLS is requested and anyio does not run on Trio.
    """
    is_tls = bool(tls or tls_hostname or ssl_context)
    hostname = tls_hostname or str(remote_host)
    check_session_cache(session_cache, ssl_context, server_side=False)
    context: ssl.SSLContext | None = None
    if is_tls:
        check_backend()
        context = await next_context(context_or_default(ssl_context))
        check_client(context, hostname)
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
        ssl_context=context,
        standard_compatible=tls_standard_compatible,
        session_cache=session_cache,
    )
