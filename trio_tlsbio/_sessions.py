"""TLS sessions, bound to the one use for which they are safe."""

from __future__ import annotations

import ssl
from typing import NoReturn

import attrs

__all__ = ["TLSSession", "VerificationSettings"]


@attrs.frozen
class VerificationSettings:
    """The part of an SSLContext that decides which peers it accepts.

    A connection takes them over when it is made; a context may be changed afterwards.
    """

    verify_mode: ssl.VerifyMode
    verify_flags: ssl.VerifyFlags
    check_hostname: bool
    hostname_checks_common_name: bool
    # How many certificates and revocation lists are trusted: OpenSSL tells no more of the store.
    trust_store: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, ssl_context: ssl.SSLContext) -> VerificationSettings:
        """Take a snapshot of a context's settings as they are now."""
        return cls(
            verify_mode=ssl_context.verify_mode,
            verify_flags=ssl_context.verify_flags,
            check_hostname=ssl_context.check_hostname,
            hostname_checks_common_name=getattr(ssl_context, "hostname_checks_common_name", False),
            trust_store=tuple(sorted(ssl_context.cert_store_stats().items())),
        )


@attrs.frozen(eq=False)
class TLSSession:
    """What a later connection to the same server can resume with, skipping most of the handshake.

    OpenSSL checks neither certificate nor name again when it resumes: a session from
    ``a.example`` that is offered to ``b.example`` completes a handshake that a fresh one would
    refuse. So a session carries the name, the context and the verification settings under which
    it was made, and :class:`TLSConnection` and :class:`TLSStream` take it under those alone.

    Sessions come from :attr:`TLSStream.session` and can't be made by hand. They hold keys: their
    repr shows none, and they can't be pickled.
    """

    server_hostname: str | None
    """The name that was checked when the session was made."""

    _ssl_context: ssl.SSLContext = attrs.field(repr=False)
    _settings: VerificationSettings = attrs.field(repr=False)
    _ssl_session: ssl.SSLSession = attrs.field(repr=False)

    def resumed_by(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None
    ) -> ssl.SSLSession:
        """Return what OpenSSL resumes with; :exc:`ValueError` if this use would not be safe."""
        if self._ssl_context is not ssl_context:
            raise ValueError(
                "this session was made with another SSLContext, and can't be resumed with this one"
            )
        if self.server_hostname != server_hostname:
            raise ValueError(
                f"this session was made with {self.server_hostname}, and resuming it with "
                f"{server_hostname} would skip the check of that name"
            )
        if self._settings != VerificationSettings.of(ssl_context):
            raise ValueError(
                "the SSLContext's verification settings changed since this session was made, and "
                "resuming it would skip the new checks"
            )
        return self._ssl_session

    def __reduce__(self) -> NoReturn:
        raise TypeError("a TLSSession holds secret keys, and can't be pickled or copied")
