"""What a stream reports about its connection: the queries of :class:`trio.SSLStream`, and more."""

from __future__ import annotations

import ssl
import sys
from typing import Any

import trio

from trio_tlsbio._core.connection import TLSConnection
from trio_tlsbio._core.handshake_info import HandshakeInfo
from trio_tlsbio._core.sessions import TLSSession

__all__ = ["ConnectionQueries"]


class ConnectionQueries:
    """The attributes and methods of a stream that query its connection, or its SSLObject."""

    __slots__ = ()

    _connection: TLSConnection

    @property
    def connection(self) -> TLSConnection:
        """The sans-IO connection, for inspection only. Only the stream may feed it or take data
        from it.
        """
        return self._connection

    @property
    def handshake(self) -> HandshakeInfo:
        """The result of the handshake. A server's handler can use it at once.

        To check whether the handshake is done, use ``stream.connection.handshake``, which is None
        until then.

        Raises:
          trio.NeedHandshakeError: before the handshake is done, and if it has failed. So does
            :meth:`version`.
        """
        if (handshake := self._connection.handshake) is None:
            raise self._need_handshake("handshake")
        return handshake

    @property
    def session(self) -> TLSSession | None:
        """A session for a later connection to the same server to resume, or None.

        A TLS 1.3 server sends it after the handshake, so it is available once some data was
        received.
        """
        return self._connection.session

    def is_source_of(self, exc: BaseException) -> bool:
        """Return True if an exception was caused by this stream, its peer or its transport, rather
        than by another stream that the same code uses.
        """
        return self._connection.lifecycle.origin.is_source_of(exc)

    @property
    def context(self) -> ssl.SSLContext:
        """The context in use, which a server's ``sni_callback`` may have replaced.

        See :attr:`ssl.SSLSocket.context`.
        """
        return self._connection.ssl_object.context

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        self._connection.ssl_object.context = context

    @property
    def server_side(self) -> bool:
        """True if this end is the server."""
        return self._connection.ssl_object.server_side

    @property
    def server_hostname(self) -> str | None:
        """The name of the server in its ASCII form, or None on servers."""
        return self._connection.ssl_object.server_hostname

    @property
    def session_reused(self) -> bool:
        """True if the handshake resumed an earlier session.

        Raises:
          trio.NeedHandshakeError: before the handshake is done. The methods below raise this too.
        """
        return bool(self._after_handshake("session_reused").session_reused)

    def pending(self) -> int:
        """See :meth:`ssl.SSLSocket.pending`. This doesn't require a handshake."""
        return self._connection.ssl_object.pending()

    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """See :meth:`ssl.SSLSocket.getpeercert`."""
        return self._after_handshake("getpeercert").getpeercert(binary_form)

    def selected_alpn_protocol(self) -> str | None:
        """See :meth:`ssl.SSLSocket.selected_alpn_protocol`."""
        return self._after_handshake("selected_alpn_protocol").selected_alpn_protocol()

    def selected_npn_protocol(self) -> str | None:
        """See :meth:`ssl.SSLSocket.selected_npn_protocol`. ALPN has replaced NPN."""
        ssl_object: Any = self._after_handshake("selected_npn_protocol")
        npn_protocol: str | None = ssl_object.selected_npn_protocol()
        return npn_protocol

    def cipher(self) -> tuple[str, str, int] | None:
        """See :meth:`ssl.SSLSocket.cipher`."""
        return self._after_handshake("cipher").cipher()

    def shared_ciphers(self) -> list[tuple[str, str, int]] | None:
        """See :meth:`ssl.SSLSocket.shared_ciphers`."""
        return self._after_handshake("shared_ciphers").shared_ciphers()

    def compression(self) -> str | None:
        """See :meth:`ssl.SSLSocket.compression`."""
        return self._after_handshake("compression").compression()

    def get_channel_binding(self, cb_type: str = "tls-unique") -> bytes | None:
        """See :meth:`ssl.SSLSocket.get_channel_binding`."""
        return self._after_handshake("get_channel_binding").get_channel_binding(cb_type)

    def version(self) -> str | None:
        """See :meth:`ssl.SSLSocket.version`."""
        return self._after_handshake("version").version()

    if sys.version_info >= (3, 13):

        def get_verified_chain(self) -> list[bytes]:
            """See :meth:`ssl.SSLSocket.get_verified_chain`."""
            return self._after_handshake("get_verified_chain").get_verified_chain()

        def get_unverified_chain(self) -> list[bytes]:
            """See :meth:`ssl.SSLSocket.get_unverified_chain`."""
            return self._after_handshake("get_unverified_chain").get_unverified_chain()

    if sys.version_info >= (3, 15):

        def group(self) -> str:
            """See :meth:`ssl.SSLSocket.group`. On older Pythons, use
            :attr:`HandshakeInfo.group`.
            """
            return self._after_handshake("group").group()

        def client_sigalg(self) -> str | None:
            """See :meth:`ssl.SSLSocket.client_sigalg`."""
            return self._after_handshake("client_sigalg").client_sigalg()

        def server_sigalg(self) -> str | None:
            """See :meth:`ssl.SSLSocket.server_sigalg`. :attr:`HandshakeInfo.signature_scheme` has
            it for TLS 1.2 everywhere.
            """
            return self._after_handshake("server_sigalg").server_sigalg()

    def _after_handshake(self, name: str) -> ssl.SSLObject:
        # OpenSSL would return an empty value, which could be mistaken for a result.
        if self._connection.handshake is None:
            raise self._need_handshake(name)
        return self._connection.ssl_object

    def _need_handshake(self, name: str) -> trio.NeedHandshakeError:
        error = self._connection.error
        if error is None:
            return trio.NeedHandshakeError(f"call do_handshake() before calling {name!r}")
        failed = trio.NeedHandshakeError(
            f"{name!r} needs a handshake, but the handshake failed: {error}"
        )
        failed.__cause__ = error.again()
        return failed
