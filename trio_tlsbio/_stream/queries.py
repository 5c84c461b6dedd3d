"""What :class:`trio.SSLStream` offers of :class:`ssl.SSLObject`."""

from __future__ import annotations

import ssl
import sys
from typing import Any

import trio

from trio_tlsbio._core.connection import TLSConnection

__all__ = ["SSLObjectQueries"]


class SSLObjectQueries:
    """The attributes and methods of a stream that ask its SSLObject."""

    __slots__ = ()

    @property
    def connection(self) -> TLSConnection:
        """The connection whose SSLObject it is."""
        raise NotImplementedError

    @property
    def context(self) -> ssl.SSLContext:
        """The context in use. A server's ``sni_callback`` may have set another one.

        See :attr:`ssl.SSLSocket.context`.
        """
        return self.connection.ssl_object.context

    @context.setter
    def context(self, context: ssl.SSLContext) -> None:
        self.connection.ssl_object.context = context

    @property
    def server_side(self) -> bool:
        """Whether this end is the server."""
        return self.connection.ssl_object.server_side

    @property
    def server_hostname(self) -> str | None:
        """The name of the server in its ASCII form. None on servers."""
        return self.connection.ssl_object.server_hostname

    @property
    def session_reused(self) -> bool:
        """Whether the handshake resumed an earlier session.

        Raises:
          trio.NeedHandshakeError: before the handshake is done, as all that follow.
        """
        return bool(self._after_handshake("session_reused").session_reused)

    def pending(self) -> int:
        """See :meth:`ssl.SSLSocket.pending`. Needs no handshake."""
        return self.connection.ssl_object.pending()

    def getpeercert(self, binary_form: bool = False) -> dict[str, Any] | bytes | None:
        """See :meth:`ssl.SSLSocket.getpeercert`."""
        return self._after_handshake("getpeercert").getpeercert(binary_form)

    def selected_alpn_protocol(self) -> str | None:
        """See :meth:`ssl.SSLSocket.selected_alpn_protocol`."""
        return self._after_handshake("selected_alpn_protocol").selected_alpn_protocol()

    def selected_npn_protocol(self) -> str | None:
        """See :meth:`ssl.SSLSocket.selected_npn_protocol`; ALPN replaced NPN."""
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
            """See :meth:`ssl.SSLSocket.group`. :attr:`HandshakeInfo.group` has it everywhere."""
            return self._after_handshake("group").group()

        def client_sigalg(self) -> str | None:
            """See :meth:`ssl.SSLSocket.client_sigalg`."""
            return self._after_handshake("client_sigalg").client_sigalg()

        def server_sigalg(self) -> str | None:
            """See :meth:`ssl.SSLSocket.server_sigalg`."""
            return self._after_handshake("server_sigalg").server_sigalg()

    def _after_handshake(self, name: str) -> ssl.SSLObject:
        # OpenSSL would answer with nothing, which could be taken for an answer.
        if self.connection.handshake is None:
            raise trio.NeedHandshakeError(f"call do_handshake() before calling {name!r}")
        return self.connection.ssl_object
