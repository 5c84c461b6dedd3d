"""TLS sessions, bound to the one use for which they are safe."""

from __future__ import annotations

import ssl
from typing import NoReturn

import attrs

from . import dates
from .certificates import verified_chain
from .context_settings import verify_flags, verify_mode
from .native_session import AnySession, current_session, session_id
from .trust import security_level

__all__ = ["MAX_LINEAGE", "SessionSource", "TLSSession", "VerificationSettings", "refuse_copy"]

# The longest time for which a client may keep one ticket (RFC 9846 section 4.7.1). A ticket that a
# resumed connection brings must not extend it: nothing was verified again. The same section
# recommends a limit, by the certificate's own and by how long a revocation may go unnoticed.
MAX_LINEAGE = 7 * 24 * 3600.0


def refuse_copy(holder: object) -> NoReturn:
    """Refuse to pickle or copy an object that holds keys, for its ``__reduce__``.

    Keys don't leave the process, and a copy would share with the original what only one may use.
    """
    name = type(holder).__name__
    raise TypeError(f"a {name} holds secret keys, and can't be pickled or copied")


@attrs.frozen
class VerificationSettings:
    """The part of an SSLContext that decides which peers it accepts.

    A connection takes them over when it is made; a context may be changed afterwards.
    """

    verify_mode: int
    verify_flags: int
    check_hostname: bool
    hostname_checks_common_name: bool
    security_level: int | None
    # Not how many certificates are trusted: OpenSSL loads those of a directory when it needs them,
    # and where more are trusted, no peer is refused that was accepted before.
    revocation_lists: int

    @classmethod
    def of(cls, ssl_context: ssl.SSLContext) -> VerificationSettings:
        """Take a snapshot of a context's settings as they are now."""
        return cls(
            verify_mode=verify_mode(ssl_context),
            verify_flags=verify_flags(ssl_context),
            check_hostname=ssl_context.check_hostname,
            hostname_checks_common_name=getattr(ssl_context, "hostname_checks_common_name", False),
            security_level=security_level(ssl_context),
            revocation_lists=ssl_context.cert_store_stats()["crl"],
        )


@attrs.frozen
class Lineage:
    """The beginning of a session and of those that came of it, and what ends them all."""

    verified_at: float
    certificate_expires: float | None


@attrs.frozen(eq=False)
class TLSSession:
    """What a later connection to the same server can resume with, skipping most of the handshake.

    OpenSSL checks neither certificate nor name again when it resumes: a session from
    ``a.example`` that is offered to ``b.example`` completes a handshake that a fresh one would
    refuse. So a session carries the name, the context and the verification settings under which
    it was made, and :class:`TLSConnection` and :class:`TLSStream` take it under those alone.

    Sessions come from connections (:attr:`TLSStream.session`, ``on_session``) and can't be made by
    hand. They hold keys: their repr shows none, and they can't be pickled.

    A session that a resumed connection brings belongs to the lineage of the one that was resumed.
    A lineage ends with the certificate that was verified at its beginning, and at the latest after
    seven days. A session past that end is not offered: the connection makes a full handshake.
    """

    server_hostname: str | None
    """The name that was checked when the session was made, in its ASCII form."""

    single_use: bool
    """Whether it should be offered only once, as a ticket of TLS 1.3."""

    _ssl_context: ssl.SSLContext = attrs.field(repr=False)
    # What the settings are read from: a context may wrap another one, as truststore's does, and
    # not hand on all that can be read from that.
    _native_context: ssl.SSLContext = attrs.field(repr=False)
    _settings: VerificationSettings = attrs.field(repr=False)
    _ssl_session: AnySession = attrs.field(repr=False)
    _lineage: Lineage = attrs.field(repr=False)

    @property
    def verified_at(self) -> float:
        """When the server was verified, in the full handshake that its lineage began with, in
        seconds since the epoch.
        """
        return self._lineage.verified_at

    @property
    def certificate_expires(self) -> float | None:
        """When the first certificate of the chain that was verified then expires, in seconds since
        the epoch. None if the context verifies none.
        """
        return self._lineage.certificate_expires

    @property
    def id(self) -> bytes:
        """What tells it from other sessions. Not secret, but it links connections."""
        return session_id(self._ssl_session)

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """The context that it was made with, and that can resume it."""
        return self._ssl_context

    @property
    def lifetime(self) -> float:
        """How long it may be resumed after it was received, in seconds, if the server plays along.

        The server's own hint, but at most the context's timeout, and seven days (RFC 9846 section
        4.7.1).
        """
        session = self._ssl_session
        lifetime = min(session.timeout, MAX_LINEAGE)
        hint = session.ticket_lifetime_hint
        # In TLS 1.3 a hint of 0 means not to keep it; before, that nothing is said (RFC 5077).
        return min(hint, lifetime) if hint or self.single_use else lifetime

    def has_ended(self, now: float, max_lineage: float = MAX_LINEAGE) -> bool:
        """Whether its lineage is over.

        Args:
          now: The time, in seconds since the epoch.
          max_lineage: How long a lineage may last, in seconds.
        """
        end = self.verified_at + max_lineage
        if self.certificate_expires is not None:
            end = min(end, self.certificate_expires)
        return now >= end

    def fits(self, ssl_context: ssl.SSLContext, server_hostname: str | None) -> bool:
        """Whether it is safe to resume for this use: whether :meth:`resumed_by` would take it."""
        try:
            self.resumed_by(ssl_context, server_hostname)
        except ValueError:
            return False
        return True

    def resumed_by(self, ssl_context: ssl.SSLContext, server_hostname: str | None) -> AnySession:
        """Return what OpenSSL resumes with; :exc:`ValueError` if this use would not be safe."""
        if self._ssl_context is not ssl_context:
            raise ValueError(
                "this session was made with another SSLContext, and can't be resumed with this "
                "one: use one SSLContext for all connections"
            )
        if self.server_hostname != server_hostname:
            raise ValueError(
                f"this session was made with {self.server_hostname}, and resuming it with "
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
    """Makes the sessions of a client's connection, bound to what its peer is verified under."""

    _ssl_context: ssl.SSLContext
    _native_context: ssl.SSLContext
    # As they were when the connection was made.
    _settings: VerificationSettings
    #: The id of the session that the client has offered, and its lineage.
    offered_id: bytes | None = None
    _offered_lineage: Lineage | None = None
    _verified_at: float = attrs.field(default=0.0, init=False)
    _lineage: Lineage | None = attrs.field(default=None, init=False)  # until it is asked for

    @classmethod
    def of(
        cls, ssl_context: ssl.SSLContext, ssl_object: ssl.SSLObject, offered: TLSSession | None
    ) -> SessionSource:
        """Return that of a new connection."""
        context = ssl_object.context
        if offered is None:
            return cls(ssl_context, context, VerificationSettings.of(context))
        # It would not fit if the context had other settings.
        return cls(ssl_context, context, offered._settings, offered.id, offered._lineage)

    def begin(self, *, is_resumed: bool) -> None:
        """Take note that the handshake is done."""
        self._verified_at = dates.now()
        self._lineage = self._offered_lineage if is_resumed else None

    def session_of(self, ssl_object: ssl.SSLObject) -> TLSSession | None:
        """Return the latest session that the server has given, if it can be resumed safely."""
        if (
            type(ssl_object).do_handshake is not ssl.SSLObject.do_handshake
            # Another context was set: what was verified is not known any more.
            or ssl_object.context is not self._native_context
        ):
            return None
        session = current_session(ssl_object)
        # TLS 1.3 has a session object from the start, but it is of use only with a ticket; in
        # TLS 1.2 the server may remember it by its id instead.
        if session is None or not (session.has_ticket or session.id):
            return None
        # RFC 9846 appendix C.4: a client should not offer a ticket of TLS 1.3 twice. The one that
        # it has offered stays in place until the server gives another one.
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
