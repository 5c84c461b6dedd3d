"""Reads the ClientHello from a stream before TLS begins."""

from __future__ import annotations

import trio

from trio_tlsbio._core.client_hello import ClientHello
from trio_tlsbio._core.errors import TLSError, TruncationError
from trio_tlsbio._core.hello_reader import HelloReader

__all__ = ["read_client_hello"]


async def read_client_hello(
    transport_stream: trio.abc.ReceiveStream,
) -> tuple[ClientHello, bytes]:
    """Wait for a client's ClientHello on a stream. Return it, and all received bytes.

    A router forwards these bytes to the server that it has chosen, and then everything that follows
    in both directions: TLS is between the client and that server. To act as the server yourself,
    create a :class:`TLSStream` with ``server_side=True``, and pass the bytes as ``received``.

    This never sends anything, even if it fails: you decide how to answer the client, and when to
    close the transport. There is no timeout for the client, so put one around this call.

    If this is cancelled, the bytes received so far are lost: close the transport.

    Args:
      transport_stream: The stream over which the client has connected. At most 16 KiB are read
        beyond the ClientHello.

    Raises:
      TLSError: if the client doesn't speak TLS, if its ClientHello is malformed or longer than 64
        KiB, or if the transport broke. The messages are those of a server's :class:`TLSStream`.
      TruncationError: if the transport ended first.
      trio.BusyResourceError: if another task receives from the stream.
      trio.ClosedResourceError: if the stream is closed.
    """
    reader = HelloReader()
    hello = None
    while hello is None:
        try:
            data = await transport_stream.receive_some(reader.most_bytes)
        # a TLS transport was truncated: the inner client has not ended its own stream
        except TruncationError:
            data = b""
        except trio.BrokenResourceError as exc:
            words = str(exc) or type(exc).__name__
            raise TLSError(f"the transport broke while receiving: {words}") from exc
        if data:
            hello = reader.feed(data)
        else:
            reader.feed_eof()
    return hello, bytes(reader.received)
