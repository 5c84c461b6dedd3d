"""The arguments of a connection, validated before any bytes are exchanged."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Iterable
from functools import lru_cache

import attrs
import idna

from . import dates
from .context_settings import protocol
from .misuse import kind_of
from .native_session import AnySession
from .sessions import TLSSession

__all__ = ["Arguments", "alpn_names", "check_context", "check_is_context"]

_CLIENT, _SERVER = ssl.PROTOCOL_TLS_CLIENT, ssl.PROTOCOL_TLS_SERVER

# RFC 7301 section 3.1: the maximum of each name, and of all names with their length bytes, in
# bytes.
_MOST_NAME_BYTES = 255
_MOST_NAMES_BYTES = 65535

# Characters that host names never contain, but URLs, addresses with a port and the names in
# certificates do.
_NOT_IN_NAMES = re.compile(r"[\x00-\x20\x7f/:@%?#*\[\]\\]")


def _ascii_name(server_hostname: str | bytes) -> str:
    """Return a host name in the ASCII form that the handshake uses."""
    if isinstance(server_hostname, bytes | bytearray):
        try:
            server_hostname = server_hostname.decode("ascii")
        except UnicodeDecodeError as exc:
            raise ValueError(
                "server_hostname: bytes must be ASCII: pass other names as str"
            ) from exc
    elif not isinstance(server_hostname, str):
        raise TypeError(
            f"server_hostname must be a str, bytes or None, not {kind_of(server_hostname)}: pass "
            "only the name"
        )
    return _ascii_form(server_hostname)


@lru_cache(maxsize=256)  # a client usually connects to the same servers
def _ascii_form(name: str) -> str:
    server_hostname = name
    if address := _ip_address(name):
        return address
    if not name.isascii():
        # IDNA 2008, which Trio also uses for lookups. The ssl module would use IDNA 2003, in which
        # some names refer to another host. Trio depends on the package idna.
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as exc:
            raise ValueError(
                f"server_hostname: {server_hostname!r} is not a host name: {exc}"
            ) from exc
    # The trailing dot of a fully qualified name belongs to DNS: RFC 6066 section 3 excludes it from
    # SNI, and certificates don't have it.
    name = name.removesuffix(".")
    # RFC 1035 section 2.3.4. Otherwise the ssl module would raise a bare UnicodeError, after
    # connecting.
    labels_fit = all(0 < len(label) <= 63 for label in name.split("."))
    if not labels_fit or len(name) > 253 or _NOT_IN_NAMES.search(name):
        advice = _advice_for(server_hostname)
        raise ValueError(f"server_hostname: {server_hostname!r} is not a host name: {advice}")
    return name


def _advice_for(name: str) -> str:
    """Return a hint on what to pass instead of an invalid host name."""
    if not name:
        return "give the name in the server's certificate"
    if "://" in name:
        return "give the name in the URL alone, as in 'www.example.org'"
    if "*" in name:
        return "only certificates have wildcards: give the name of one server"
    if "[" in name or ":" in name:
        return "give it without a port or brackets"
    return "give a name such as 'www.example.org', or an IP address"


def _ip_address(name: str) -> str | None:
    """Return an IP address without its zone, which certificates don't have, or None for other
    names.

    The zone of an IPv6 address refers to an interface of this machine: RFC 4007 section 11.2
    forbids sending it.
    """
    if ":" not in name and not name[-1:].isdigit():
        return None  # avoid the cost of an exception
    address, _, zone = name.partition("%")
    try:
        is_v6 = ipaddress.ip_address(address).version == 6
    except ValueError:
        return None
    return address if is_v6 or not zone else None


@attrs.frozen(eq=False)
class Arguments:
    """The arguments of a connection, validated. Created by :meth:`parse`.

    For clients, this does not include whether ``session`` fits the context, because its settings
    can change until the connection is created: see :meth:`native_session`.
    """

    ssl_context: ssl.SSLContext | None
    """None on a server that chooses the context based on the ClientHello."""

    server_side: bool = False

    server_hostname: str | None = None
    """The name in the ASCII form that the handshake uses. None on servers."""

    session: TLSSession | None = None

    @classmethod
    def parse(
        cls,
        ssl_context: ssl.SSLContext | None,
        *,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: TLSSession | None = None,
    ) -> Arguments:
        """Validate the arguments of a connection.

        Raises:
          ValueError: if the arguments are not valid together.
          TypeError: if an argument has the wrong type.
        """
        if ssl_context is None:
            if not server_side:
                raise TypeError(
                    "ssl_context must be an ssl.SSLContext: only servers choose it later"
                )
        else:
            check_context(ssl_context, server_side=server_side)
        name = None if server_hostname is None else _ascii_name(server_hostname)
        if server_side:
            if name is not None:
                raise ValueError("server_hostname is for clients: a server has no name to check")
            if session is not None:
                raise ValueError(
                    "session is for clients: a server resumes the sessions that clients offer"
                )
        elif ssl_context.check_hostname and name is None:  # type: ignore[union-attr]  # see above
            # Before Python 3.14, wrap_bio() accepts this, and OpenSSL would check no name at all.
            raise ValueError(
                "the SSLContext checks host names (check_hostname), so a client needs "
                "server_hostname"
            )
        if session is not None and not isinstance(session, TLSSession):
            raise TypeError(
                f"session must be a TLSSession, not {kind_of(session)}: TLSStream.session is one, "
                "and records the verified name"
            )
        return cls(ssl_context, server_side, name, session)

    @classmethod
    def of_server(cls, ssl_context: ssl.SSLContext) -> Arguments:
        """Validate the arguments of a server's connections: only its context."""
        check_context(ssl_context, server_side=True)
        return cls(ssl_context, server_side=True)

    def native_session(self) -> AnySession | None:
        """Return the object with which OpenSSL resumes ``session``, for the current settings of the
        context. Return None without a session, or if its lineage has ended, which is not an error.

        Raises:
          ValueError: if this use of the session is not safe.
        """
        if self.session is None:
            return None
        assert self.ssl_context is not None
        session = self.session.resumed_by(self.ssl_context, self.server_hostname)
        return None if self.session.has_ended(dates.now()) else session


def check_context(ssl_context: ssl.SSLContext, *, server_side: bool) -> None:
    """Check a context for one side.

    Raises:
      ValueError: if it was created for the other side.
      TypeError: if it is not a context.
    """
    other_side = _CLIENT if server_side else _SERVER
    if not isinstance(ssl_context, ssl.SSLContext) or protocol(ssl_context) == other_side:
        raise _wrong_context_error(ssl_context, other_side)


def check_is_context(ssl_context: object) -> None:
    """Raise :exc:`TypeError` if this is not an :class:`ssl.SSLContext`, for either side."""
    if not isinstance(ssl_context, ssl.SSLContext):
        raise _wrong_context_error(ssl_context, _SERVER)


def _wrong_context_error(ssl_context: object, other_side: ssl._SSLMethod) -> Exception:
    """Return the exception to raise for an invalid context."""
    is_client = other_side == _SERVER
    purpose = "SERVER_AUTH" if is_client else "CLIENT_AUTH"
    if isinstance(ssl_context, ssl.SSLContext):
        taker = "client needs" if is_client else "server needs"
        return ValueError(
            f"ssl_context was made for the other side, by {other_side.name}: a {taker} "
            f"ssl.create_default_context(ssl.Purpose.{purpose})"
        )
    return TypeError(
        f"ssl_context must be an ssl.SSLContext, not {kind_of(ssl_context)}: "
        f"ssl.create_default_context(ssl.Purpose.{purpose}) makes one"
    )


def alpn_names(alpn_protocols: Iterable[str] | None) -> tuple[str, ...] | None:
    """Return the names of protocols to offer, as an immutable tuple.

    An empty list is not an error: as in :meth:`ssl.SSLContext.set_alpn_protocols`, it means to
    offer nothing, and is not sent.

    Raises:
      TypeError: if this is not a list of ``str``; a single ``str`` is not accepted either.
      ValueError: if a name can't be encoded for ALPN.
    """
    if alpn_protocols is None:
        return None
    if isinstance(alpn_protocols, str | bytes | bytearray) or not isinstance(
        alpn_protocols, Iterable
    ):
        raise TypeError(
            f'alpn_protocols must be a list of str, such as ["h2"], not {kind_of(alpn_protocols)}'
        )
    names = tuple(alpn_protocols)
    for name in names:
        if not isinstance(name, str):
            raise TypeError(
                f'alpn_protocols must be a list of str, such as ["h2"], not of {kind_of(name)}'
            )
        if not (name.isascii() and 0 < len(name) <= _MOST_NAME_BYTES):
            raise ValueError(
                f"alpn_protocols: each name must be 1 to 255 ASCII characters, not {name!a}"
            )
    if sum(len(name) + 1 for name in names) > _MOST_NAMES_BYTES:
        raise ValueError("alpn_protocols: all names together are longer than 65535 bytes")
    return names
