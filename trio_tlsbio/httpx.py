"""For httpx: a transport whose connections resume sessions. Requires ``trio-tlsbio[httpx]``."""

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

    It replaces :class:`httpx.AsyncHTTPTransport`, and has the same parameters, except those that
    httpx deprecates. For the behaviour of its connections, and for the last two parameters, see
    :class:`trio_tlsbio.httpcore.TLSBackend`.

    Args:
      verify: The :class:`ssl.SSLContext` to connect with, or True for httpx's default, or False to
        not verify certificates. httpcore sets its ALPN protocols. It can be a
        :class:`trio_tlsbio.ReloadingContext`: a new context gets new connections and sessions, and
        the old connections are closed when their requests have ended.
      cert: Not supported. Load a client certificate into the context, with
        :meth:`~ssl.SSLContext.load_cert_chain`.
      trust_env: Whether the environment variables ``SSL_CERT_FILE`` and ``SSL_CERT_DIR`` can set
        the trusted authorities. This only concerns contexts that httpx makes, as for
        ``verify=True``.
      http1: Whether to allow HTTP/1.1.
      http2: Whether to allow HTTP/2; this requires ``httpx[http2]``.
      limits: An :class:`httpx.Limits`; by default that of httpx.
      proxy: A URL or :class:`httpx.Proxy` to connect through: ``http``, ``https`` or, with
        ``httpx[socks]``, ``socks5``. (With a transport, httpx ignores environment variables for
        proxies.)
      uds: The path of a Unix socket to connect to instead of the URL's host. Not with a proxy.
      local_address: The address to connect from. Not with a proxy.
      retries: How often to retry a failed connection attempt, even if the server's certificate was
        refused.
      socket_options: Options to set on each socket. Not with a proxy.
      session_cache: Where to store sessions; by default in a new :class:`trio_tlsbio.SessionCache`.
      https_compatible: Whether the end of a connection without close_notify counts as the end of a
        response.

    Raises:
      ValueError: if the options are not valid together.
      TypeError: if an argument has the wrong type, or ``cert`` is passed.
    """

    library: ClassVar[ModuleType] = httpx
    core: ClassVar[ModuleType] = httpcore
    body_class: ClassVar[type[HTTPBody]] = _Body
    backend_class: ClassVar[type[HTTPBackend[Any]]] = TLSBackend
