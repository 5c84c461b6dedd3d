"""For httpx: a transport whose connections resume each other's sessions. Needs
``trio-tlsbio[httpx]``.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from ._extras import missing_extra

try:
    import httpcore
    import httpx
except ModuleNotFoundError as _error:
    raise missing_extra(_error, __name__, "httpx") from _error

from ._http import HTTPBackend, HTTPBody, HTTPTransport
from .httpcore import TLSBackend

__all__ = ["TLSTransport"]


class _Body(HTTPBody, httpx.AsyncByteStream):
    library: ClassVar[ModuleType] = httpx
    core: ClassVar[ModuleType] = httpcore


class TLSTransport(HTTPTransport, httpx.AsyncBaseTransport):
    """A transport for :class:`httpx.AsyncClient`, on Trio.

    For example::

        async with httpx.AsyncClient(transport=TLSTransport(http2=True)) as client:
            response = await client.get("https://www.example.org/")

    It takes the place of :class:`httpx.AsyncHTTPTransport`, whose parameters it has, but for those
    that httpx deprecates. See :class:`trio_tlsbio.httpcore.TLSBackend` for what the connections do,
    and for the last two parameters.

    Args:
      verify: The :class:`ssl.SSLContext` to connect with; or True for the default of httpx, or
        False not to check certificates. Its ALPN protocols are set by httpcore. It can be a
        :class:`trio_tlsbio.ReloadingContext`: a new context gets new connections and sessions, and
        the old connections are closed when their requests have ended.
      trust_env: Whether environment variables may say which authorities are trusted.
      http1: Whether HTTP/1.1 may be spoken.
      http2: Whether HTTP/2 may be spoken; this needs ``httpx[http2]``.
      limits: An :class:`httpx.Limits`; by default those of httpx.
      proxy: A URL or :class:`httpx.Proxy` to connect through: ``http``, ``https`` or, with
        ``httpx[socks]``, ``socks5``. (Where a client is given a transport, httpx asks no
        environment variables about proxies.)
      uds: The path of a Unix socket to connect to in place of the URL's host. Not with a proxy.
      local_address: The address to connect from. Not with a proxy.
      retries: How often to try again to connect.
      socket_options: Options to set on each socket. Not with a proxy.
      session_cache: Where sessions are kept; by default a
        :class:`trio_tlsbio.SessionCache` of its own.
      https_compatible: Whether to take the end of a connection without close_notify for the end of
        a response.

    Raises:
      ValueError: for options that don't go together.
    """

    library: ClassVar[ModuleType] = httpx
    core: ClassVar[ModuleType] = httpcore
    body_class: ClassVar[type[HTTPBody]] = _Body
    backend_class: ClassVar[type[HTTPBackend[Any]]] = TLSBackend
