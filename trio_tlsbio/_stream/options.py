"""Parameters for the behaviour of a stream, which several public functions share."""

from __future__ import annotations

import math
from functools import lru_cache

import attrs

from trio_tlsbio._core.misuse import check_not_negative, check_positive

from .decisions import ChooseContext, VerifyPeer, checked_function

__all__ = ["CLOSE_MAX_BYTES", "CLOSE_TIMEOUT", "StreamOptions"]

CLOSE_TIMEOUT = 5.0
"""How long :meth:`TLSStream.aclose` waits for the peer by default, in seconds."""

CLOSE_MAX_BYTES = 1024 * 1024
"""How many bytes :meth:`TLSStream.aclose` discards by default before it stops waiting."""


@attrs.frozen(kw_only=True)
class StreamOptions:
    """The parameters of a :class:`TLSStream` that define its behaviour, validated.

    They don't depend on the single connection, so a listener or a connector creates them once for
    all of its connections.
    """

    https_compatible: bool = False
    handshake_timeout: float = attrs.field(default=math.inf)
    close_timeout: float = attrs.field(default=CLOSE_TIMEOUT)
    close_max_bytes: int = attrs.field(default=CLOSE_MAX_BYTES)
    verify_peer: VerifyPeer | None = attrs.field(default=None)
    strict_alpn: bool = False
    #: Chooses the context of a server connection that is created without one.
    choose_context: ChooseContext | None = attrs.field(default=None)

    @classmethod
    @lru_cache(maxsize=16)
    def of(
        cls,
        https_compatible: bool,
        handshake_timeout: float,
        close_timeout: float,
        close_max_bytes: int,
        strict_alpn: bool = False,
    ) -> StreamOptions:
        """Return the options without functions. They are cached, because most connections share
        them.
        """
        return cls(
            https_compatible=https_compatible,
            handshake_timeout=handshake_timeout,
            close_timeout=close_timeout,
            close_max_bytes=close_max_bytes,
            strict_alpn=strict_alpn,
        )

    def deciding(
        self, *, verify_peer: VerifyPeer | None, choose_context: ChooseContext | None = None
    ) -> StreamOptions:
        """Return a copy with the functions that decide during a handshake."""
        return attrs.evolve(self, verify_peer=verify_peer, choose_context=choose_context)

    @handshake_timeout.validator
    def _check_handshake_timeout(self, _: object, value: float) -> None:
        check_positive("handshake_timeout", value)

    @close_timeout.validator
    def _check_close_timeout(self, _: object, value: float) -> None:
        check_not_negative("close_timeout", value)

    @close_max_bytes.validator
    def _check_close_max_bytes(self, _: object, value: int) -> None:
        check_not_negative("close_max_bytes", value)

    @verify_peer.validator
    def _check_verify_peer(self, _: object, value: VerifyPeer | None) -> None:
        if value is not None:
            checked_function(value, "verify_peer")

    @choose_context.validator
    def _check_choose_context(self, _: object, value: ChooseContext | None) -> None:
        if value is not None:
            checked_function(value, "ssl_context")
