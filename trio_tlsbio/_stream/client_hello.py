"""The ClientHello, read off a stream before TLS begins."""

from __future__ import annotations

import trio

from trio_tlsbio._core.client_hello import ClientHello
from trio_tlsbio._core.errors import TLSError, TruncationError
from trio_tlsbio._core.hello_reader import HelloReader

__all__ = ["read_client_hello"]


async def read_client_hello(
    transport_stream: trio.abc.ReceiveStream,
) -> tuple[ClientHello, bytes]:
    """Wait for a client's ClientHello on a stream, and return it with all that was received.

    A router passes these bytes on to the server that it has chosen, and everything that follows in
    both directions: TLS is between the client and that server. To speak TLS yourself, make a
    :class:`TLSStream` with ``server_side=True`` and these bytes as ``received``.

    Nothing is sent, also where this fails: what the client hears then, and when the transport is
    closed, is yours to decide. A client may take as long as it likes, so put a timeout around this.

    Cancelled, it loses what was received by then: close the transport.

    Args:
      transport_stream: What the client has connected by. Of what it has, no more is read than one
        piece of 16 KiB beyond the ClientHello.

    Raises:
      TLSError: if the client does not speak TLS, sends a malformed ClientHello or one of more than
        64 KiB, or if the transport broke. The words are those of a server's :class:`TLSStream`.
      TruncationError: if the transport ended first.
      trio.BusyResourceError: if another task receives from the stream.
      trio.ClosedResourceError: if the stream is closed.
    """
    reader = HelloReader()
    hello = None
    while hello is None:
        try:
            data = await transport_stream.receive_some(reader.most_bytes)
        except TruncationError:  # of TLS around this: the client has not sent its own end
            data = b""
        except trio.BrokenResourceError as exc:
            words = str(exc) or type(exc).__name__
            raise TLSError(f"the transport broke while receiving: {words}") from exc
        if data:
            hello = reader.feed(data)
        else:
            reader.feed_eof()
    return hello, bytes(reader.received)
