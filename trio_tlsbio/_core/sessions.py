"""TLS sessions, bound to the one use for which they are safe."""

from __future__ import annotations

import ssl
from typing import NamedTuple, NoReturn

import attrs

from . import dates
from .certificates import verified_chain
from .context_settings import security_level, verify_flags, verify_mode
from .native_session import AnySession, current_session, session_id

__all__ = ["MAX_LINEAGE", "SessionSource", "TLSSession", "VerificationSettings", "refuse_copy"]

# The longest time for which a client may keep one ticket (RFC 9846 section 4.7.1). A ticket from a
# resumed connection must not extend it, because nothing was verified again. The same section
# recommends a limit based on the certificate's lifetime, and on how long a revocation may go
# unnoticed.
MAX_LINEAGE = 7 * 24 * 3600.0


def refuse_copy(holder: object) -> NoReturn:
    """Refuse to pickle or copy an object that contains keys. For use in its ``__reduce__``.

    Keys must not leave the process, and a copy would share state that only one object may use.
    """
    name = type(holder).__name__
    raise TypeError(f"a {name} holds secret keys, and can't be pickled or copied")


class VerificationSettings(NamedTuple):
    """The settings of an SSLContext that determine which peers it accepts.

    A connection uses the settings at the time it is created; the context may be changed afterwards.
    """

    verify_mode: int
    verify_flags: int
    check_hostname: bool
    hostname_checks_common_name: bool
    security_level: int | None
    # The number of trusted certificates is not included: OpenSSL loads those of a directory on
    # demand, and additional ones don't lead to the refusal of a peer that was accepted before.
    revocation_lists: int

    @classmethod
    def of(cls, ssl_context: ssl.SSLContext) -> VerificationSettings:
        """Take a snapshot of a context's current settings."""
        return cls(
            verify_mode(ssl_context),
            verify_flags(ssl_context),
            ssl_context.check_hostname,
            getattr(ssl_context, "hostname_checks_common_name", False),
            security_level(ssl_context),
            ssl_context.cert_store_stats()["crl"],
        )


@attrs.frozen
class Lineage:
    """What a session and its successors have in common: when they were verified, and when they
    expire.
    """

    verified_at: float
    certificate_expires: float | None


@attrs.frozen(eq=False)
class TLSSession:
    """A session that a later connection to the same server can resume, to skip most of the
    handshake.

    OpenSSL checks neither the certificate nor the name again when it resumes: a session from
    ``a.example`` that is offered to ``b.example`` completes a handshake that a new connection would
    refuse. So a session includes the name, the context and the verification settings of its
    connection, and :class:`TLSConnection` and :class:`TLSStream` only accept it with the same ones.

    Sessions come from connections (:attr:`TLSStream.session`, ``on_session``) and can't be created
    directly. They contain keys: their repr shows none, and they can't be pickled.

    A session from a resumed connection belongs to the lineage of the session that was resumed. A
    lineage ends when the certificate that was verified at its start expires, and after seven days
    at the latest. After that its sessions are not offered: the connection performs a full
    handshake.
    """

    server_hostname: str | None
    """The name that was checked when the session was created, in its ASCII form."""

    single_use: bool
    """Whether the session should be offered only once, as a TLS 1.3 ticket. A
    :class:`SessionCache` ensures this; if you store sessions yourself, nothing else does.
    """

    _ssl_context: ssl.SSLContext = attrs.field(repr=False)
    # The settings are read from this context: a context may wrap another one, as truststore's does,
    # and not expose all of its settings.
    _native_context: ssl.SSLContext = attrs.field(repr=False)
    _settings: VerificationSettings = attrs.field(repr=False)
    _ssl_session: AnySession = attrs.field(repr=False)
    _lineage: Lineage = attrs.field(repr=False)

    @property
    def verified_at(self) -> float:
        """When the server was verified, in the full handshake that started the lineage, in seconds
        since the epoch.
        """
        return self._lineage.verified_at

    @property
    def certificate_expires(self) -> float | None:
        """When the first certificate of the chain that was verified then expires, in seconds since
        the epoch. None if the context verifies no certificates.
        """
        return self._lineage.certificate_expires

    @property
    def id(self) -> bytes:
        """Identifies the session. It is not secret, but makes connections linkable."""
        return session_id(self._ssl_session)

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The context with which the session was created, and can be resumed."""
        return self._ssl_context

    @property
    def lifetime(self) -> float:
        """How long the session can be resumed after it was received, in seconds, if the server
        agrees.

        This is the server's hint, but at most the context's timeout, and seven days (RFC 9846
        section 4.7.1).
        """
        session = self._ssl_session
        lifetime = min(session.timeout, MAX_LINEAGE)
        hint = session.ticket_lifetime_hint
        # In TLS 1.3 a hint of 0 means not to keep the session; in TLS 1.2 it is unspecified (RFC
        # 5077).
        return min(hint, lifetime) if hint or self.single_use else lifetime

    def has_ended(self, now: float, max_lineage: float = MAX_LINEAGE) -> bool:
        """Return True if the session's lineage has ended.

        Args:
          now: The time, in seconds since the epoch.
          max_lineage: How long a lineage may last, in seconds.
        """
        end = self.verified_at + max_lineage
        if self.certificate_expires is not None:
            end = min(end, self.certificate_expires)
        return now >= end

    def fits(self, ssl_context: ssl.SSLContext, server_hostname: str | None) -> bool:
        """Return True if the session is safe for this use: if :meth:`resumed_by` would
        not raise.
        """
        try:
            self.resumed_by(ssl_context, server_hostname)
        except ValueError:
            return False
        return True

    def resumed_by(self, ssl_context: ssl.SSLContext, server_hostname: str | None) -> AnySession:
        """Return the object with which OpenSSL resumes. Raise :exc:`ValueError` if this use is not
        safe.
        """
        if self._ssl_context is not ssl_context:
            raise ValueError(
                "this session was made with another SSLContext, and can't be resumed with this "
                "one: use one SSLContext for all connections"
            )
        if self.server_hostname != server_hostname:
            raise ValueError(
                f"this session is for {self.server_hostname}, and resuming it for "
                f"{server_hostname} would skip the check of that name: connect without it"
            )
        if self._settings != VerificationSettings.of(self._native_context):
            raise ValueError(
                "the SSLContext's verification settings changed since this session was made, and "
                "resuming it would skip the new checks: connect without it"
            )
        return self._ssl_session

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)


@attrs.define(eq=False)
class SessionSource:
    """Creates the sessions of a client's connection, bound to the conditions of its
    verification.
    """

    _ssl_context: ssl.SSLContext
    _native_context: ssl.SSLContext
    # The settings at the time when the connection was created.
    _settings: VerificationSettings
    #: The id of the session that the client has offered, and below, its lineage.
    offered_id: bytes | None = None
    _offered_lineage: Lineage | None = None
    _verified_at: float = 0.0
    _lineage: Lineage | None = None  # created on demand

    @classmethod
    def of(
        cls, ssl_context: ssl.SSLContext, ssl_object: ssl.SSLObject, offered: TLSSession | None
    ) -> SessionSource:
        """Return the session source of a new connection."""
        context = ssl_object.context
        if offered is None:
            return cls(ssl_context, context, VerificationSettings.of(context))
        # Otherwise the session would not be valid for the context.
        return cls(ssl_context, context, offered._settings, offered.id, offered._lineage)

    def note_handshake(self, *, is_resumed: bool) -> None:
        """Note that the handshake is done."""
        self._verified_at = dates.now()
        self._lineage = self._offered_lineage if is_resumed else None

    def session_of(self, ssl_object: ssl.SSLObject) -> TLSSession | None:
        """Return the latest session from the server, if it can be resumed safely."""
        if (
            type(ssl_object).do_handshake is not ssl.SSLObject.do_handshake
            # Another context was set, so it is unknown what was verified.
            or ssl_object.context is not self._native_context
        ):
            return None
        session = current_session(ssl_object)
        # TLS 1.3 has a session object from the start, but it is only usable with a ticket. In TLS
        # 1.2 the server may remember the session by its id instead.
        if session is None or not (session.has_ticket or session.id):
            return None
        # RFC 9846 appendix C.4: a client should not offer a TLS 1.3 ticket twice. The offered one
        # remains in place until the server sends a new one.
        single_use = ssl_object.version() == "TLSv1.3"
        if single_use and session_id(session) == self.offered_id:
            return None
        return TLSSession(
            ssl_object.server_hostname,
            single_use,
            self._ssl_context,
            self._native_context,
            self._settings,
            session,
            self._lineage_of(ssl_object),
        )

    def _lineage_of(self, ssl_object: ssl.SSLObject) -> Lineage:
        if self._lineage is None:
            expires = None
            if self._settings.verify_mode != ssl.CERT_NONE:
                expires = min(map(dates.expiry_of, verified_chain(ssl_object)), default=None)
            self._lineage = Lineage(self._verified_at, expires)
        return self._lineage
