"""From plaintext to TLS on the same stream."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable

import trio

from trio_tlsbio._core.errors import TLSError
from trio_tlsbio._core.records import Data
from trio_tlsbio._core.sessions import TLSSession

from .abstract import check_transport
from .decisions import ChooseContext, VerifyPeer
from .options import CLOSE_MAX_BYTES, CLOSE_TIMEOUT
from .stream import T_Stream, TLSStream

__all__ = ["start_tls"]


async def start_tls(
    transport_stream: T_Stream,
    ssl_context: ssl.SSLContext | ChooseContext,
    *,
    buffered: Data,
    server_hostname: str | bytes | None = None,
    server_side: bool = False,
    https_compatible: bool = False,
    session: TLSSession | None = None,
    on_session: Callable[[TLSSession], object] | None = None,
    handshake_timeout: float = math.inf,
    close_timeout: float = CLOSE_TIMEOUT,
    close_max_bytes: int = CLOSE_MAX_BYTES,
    verify_peer: VerifyPeer | None = None,
) -> TLSStream[T_Stream]:
    """Go on with TLS on a stream that has carried plaintext, as STARTTLS does.

    Call it when both sides have agreed in plaintext, and use only the returned stream afterwards.
    :meth:`TLSStream.unwrap` is the way back.

    What came before the handshake may come from anybody. If it stays in a buffer and is taken for a
    command or an answer after it, somebody on the way can speak with the peer's voice (the
    command injection of CVE-2011-0411). So this wants to see the buffer, and refuses to go on
    unless it is empty: neither side has anything to say there.

    Args:
      transport_stream: The stream, which is closed if this fails.
      ssl_context: See :class:`TLSStream`, as for those that are not told of here.
      buffered: What was received already, and not been used: the contents of your read buffer.
      server_hostname: The name of the server. Clients only.
      server_side: Whether this end is the server.
      https_compatible: See :class:`TLSStream`.
      session: The session to resume. Clients only.
      on_session: Called with every session that the server gives. Clients only.
      handshake_timeout: How long the handshake may take, in seconds; by default as long as it
        takes.
      close_timeout: How long closing waits for the peer, in seconds.
      close_max_bytes: How many bytes closing throws away before it stops waiting.
      verify_peer: Verifies the peer. See :class:`TLSStream`.

    Raises:
      TLSError: if something was in the buffer, or the handshake failed.
      ValueError: for arguments that don't go together.
      TypeError: for arguments of a wrong type.
    """
    check_transport(transport_stream)
    try:
        stream = TLSStream(
            transport_stream,
            ssl_context,
            server_hostname=server_hostname,
            server_side=server_side,
            https_compatible=https_compatible,
            session=session,
            on_session=on_session,
            handshake_timeout=handshake_timeout,
            close_timeout=close_timeout,
            close_max_bytes=close_max_bytes,
            verify_peer=verify_peer,
        )
        if buffered:
            raise TLSError(
                f"the peer sent {len(buffered)} bytes in plaintext where TLS was to begin: whoever "
                "is on the way could have put them there"
            )
    except BaseException:
        await trio.aclose_forcefully(transport_stream)
        raise
    try:
        await stream.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream
