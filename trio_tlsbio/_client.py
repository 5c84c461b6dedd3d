"""Connecting: a TLS stream over TCP in one call."""

from __future__ import annotations

import ssl

import trio

from ._connection import check_arguments
from ._sessions import TLSSession
from ._stream import TLSStream

__all__ = ["open_tls_over_tcp_stream"]


async def open_tls_over_tcp_stream(
    host: str | bytes,
    port: int,
    *,
    https_compatible: bool = False,
    ssl_context: ssl.SSLContext | None = None,
    happy_eyeballs_delay: float | None = 0.25,
    session: TLSSession | None = None,
) -> TLSStream[trio.SocketStream]:
    """Connect to a host by TCP, to speak TLS with it. A drop-in for
    :func:`trio.open_ssl_over_tcp_stream`.

    As there, the handshake happens when the stream is first used, or in
    :meth:`TLSStream.do_handshake`.

    Args:
      host: The host to connect to. It needs a certificate for this name, or IP address.
      port: The port.
      https_compatible: See :class:`TLSStream`.
      ssl_context: The settings; by default those of :func:`ssl.create_default_context`. Loading
        the system's certificates takes a while, so programs that connect often make one context.
      happy_eyeballs_delay: How long one address of the host is tried before the next one is
        tried as well, in seconds. See :func:`trio.open_tcp_stream`.
      session: The session of an earlier connection to resume. See :class:`TLSSession`.

    Raises:
      OSError: if no connection can be made.
      ValueError, TypeError: for arguments that don't go together, before connecting.
    """
    if ssl_context is None:
        ssl_context = ssl.create_default_context()
    check_arguments(ssl_context, server_side=False, server_hostname=host, session=session)
    tcp_stream = await trio.open_tcp_stream(host, port, happy_eyeballs_delay=happy_eyeballs_delay)
    try:
        return TLSStream(
            tcp_stream,
            ssl_context,
            server_hostname=host,
            https_compatible=https_compatible,
            session=session,
        )
    except BaseException:
        await trio.aclose_forcefully(tcp_stream)
        raise
