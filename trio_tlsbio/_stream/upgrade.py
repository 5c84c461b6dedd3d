"""Upgrades a stream from plaintext to TLS."""

from __future__ import annotations

import math
import ssl
from collections.abc import Callable

import trio

from trio_tlsbio._core.errors import TLSError, count
from trio_tlsbio._core.misuse import kind_of
from trio_tlsbio._core.records import Data
from trio_tlsbio._core.sessions import TLSSession

from .decisions import ChooseContext, VerifyPeer
from .interfaces import check_transport
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
    """Continue with TLS on a stream that has carried plaintext, as STARTTLS does.

    Call this when both sides have agreed on TLS in plaintext, and use only the returned stream
    afterwards. :meth:`TLSStream.unwrap` switches back.

    Bytes that arrive before the handshake can come from an attacker. If they stay in a buffer and
    are taken for a command or an answer after the handshake, the attacker can impersonate the peer
    (the command injection of CVE-2011-0411). So this requires your buffer, and fails unless it is
    empty: neither side has a reason to send anything at this point.

    Args:
      transport_stream: The stream. It is closed if this fails.
      ssl_context: See :class:`TLSStream`, also for parameters not described here.
      buffered: Received bytes that were not used yet: the contents of your read buffer.
      server_hostname: The name of the server. Clients only.
      server_side: Whether this end is the server.
      https_compatible: See :class:`TLSStream`.
      session: The session to resume. Clients only.
      on_session: Called with every session that the server sends. Clients only.
      handshake_timeout: How long the handshake may take, in seconds. By default there is no limit.
      close_timeout: How long closing waits for the peer, in seconds.
      close_max_bytes: How many bytes closing discards before it stops waiting.
      verify_peer: Verifies the peer. See :class:`TLSStream`.

    Raises:
      TLSError: if the buffer was not empty, or the handshake failed.
      ValueError: if the arguments are not valid together.
      TypeError: if an argument has the wrong type.
    """
    check_transport(transport_stream)
    buffer: object = buffered
    if not isinstance(buffer, bytes | bytearray | memoryview):
        await trio.aclose_forcefully(transport_stream)
        raise TypeError(
            f"buffered must be bytes, not {kind_of(buffer)}: the content of your read buffer, "
            "b'' if it is empty"
        )
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
                f"the peer sent {count(len(buffered), 'byte')} in plaintext where TLS was to "
                "begin: an attacker could have injected them"
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
