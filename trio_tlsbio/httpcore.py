"""For httpcore: connections that resume sessions. Requires ``trio-tlsbio[httpcore]``."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from ._extras import missing_extra

try:
    import httpcore
except ModuleNotFoundError as _error:
    raise missing_extra(_error, __name__, "httpcore") from _error

from ._http import HTTPBackend, HTTPStream

__all__ = ["TLSBackend"]


class _Stream(HTTPStream, httpcore.AsyncNetworkStream):
    library: ClassVar[ModuleType] = httpcore


class TLSBackend(HTTPBackend[_Stream], httpcore.AsyncNetworkBackend):
    """A network backend for httpcore's pools and proxies, on Trio.

    For example::

        pool = httpcore.AsyncConnectionPool(
            ssl_context=httpcore.default_ssl_context(), network_backend=TLSBackend()
        )

    Connections resume the sessions of earlier connections with the same context, name and port,
    also through a proxy. So pass a context to the pool, and an ``ssl_context`` to a proxy:
    otherwise httpcore creates one for each connection, and no session can be resumed.

    A truncated response raises :exc:`httpcore.ReadError`, even if nothing but the end of the
    connection marks where the response ends (RFC 9112 section 9.8). A failed handshake raises
    :exc:`httpcore.ConnectError`. The ``__context__`` of these is the :exc:`trio_tlsbio.TLSError`.
    An HTTP/2 request can be cancelled at any time: others that share its connection continue.

    ``response.extensions["network_stream"].get_extra_info("tls_stream")`` returns the
    :class:`trio_tlsbio.TLSStream`.

    Args:
      session_cache: Where to store sessions; by default in a new :class:`trio_tlsbio.SessionCache`.
      https_compatible: Whether the end of a connection without close_notify counts as the end of a
        response, for servers that omit the close_notify. See :class:`trio_tlsbio.TLSStream`.
    """

    stream_class: ClassVar[type[Any]] = _Stream
