"""For httpcore: connections that resume each other's sessions. Needs ``trio-tlsbio[httpcore]``."""

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

    Connections resume the sessions of earlier ones with the same context, name and port; behind a
    proxy, that is the proxy's port. So give the pool a context, and a proxy its ``ssl_context``:
    without, httpcore makes one for each connection, and nothing can be resumed.

    A response that is cut off raises :exc:`httpcore.ReadError`, even where nothing but the end of
    the connection says how long it is (RFC 9112 section 9.8). A failed handshake raises
    :exc:`httpcore.ConnectError`. Their ``__context__`` is the :exc:`trio_tlsbio.TLSError`. A
    request of HTTP/2 may be cancelled at any time: those that share its connection go on.

    With ``response.extensions["network_stream"].get_extra_info("tls_stream")`` the
    :class:`trio_tlsbio.TLSStream` can be had.

    Args:
      session_cache: Where sessions are kept; by default a
        :class:`trio_tlsbio.SessionCache` of its own.
      https_compatible: Whether to take the end of a connection without close_notify for the end of
        a response, for servers that are careless. See :class:`trio_tlsbio.TLSStream`.
    """

    stream_class: ClassVar[type[Any]] = _Stream
