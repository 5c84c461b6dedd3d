"""What a connection is made of, checked before a byte moves."""

from __future__ import annotations

import ipaddress
import re
import ssl

import idna

from . import dates
from .native_session import AnySession
from .sessions import TLSSession

__all__ = ["check_arguments"]

# What no host name has, but URLs and addresses with a port do.
_NOT_IN_NAMES = re.compile(r"[\x00/:@%]")


def _ascii_name(server_hostname: str | bytes) -> str:
    """Return a host name in the ASCII form in which it goes into the handshake."""
    if isinstance(server_hostname, bytes | bytearray):
        try:
            name = server_hostname.decode("ascii")
        except UnicodeDecodeError as exc:
            raise ValueError("server_hostname: bytes must be ASCII") from exc
    elif isinstance(server_hostname, str):
        name = server_hostname
    else:
        raise TypeError(
            f"server_hostname must be a str, bytes or None, not {type(server_hostname).__name__}"
        )
    if address := _ip_address(name):
        return address
    if not name.isascii():
        # IDNA 2008, as Trio does to look the name up; the ssl module would apply IDNA 2003,
        # in which some names mean another host. The package idna comes with Trio.
        try:
            name = idna.encode(name, uts46=True).decode("ascii")
        except idna.IDNAError as exc:
            raise ValueError(
                f"server_hostname: {server_hostname!r} is not a host name: {exc}"
            ) from exc
    # The dot that ends a fully qualified name belongs to DNS: RFC 6066 section 3 keeps it out
    # of SNI, and certificates don't have it.
    name = name.removesuffix(".")
    # RFC 1035 section 2.3.4: the ssl module would raise a bare UnicodeError, after connecting.
    labels_fit = all(0 < len(label) <= 63 for label in name.split("."))
    if not labels_fit or len(name) > 253 or _NOT_IN_NAMES.search(name):
        raise ValueError(f"server_hostname: {server_hostname!r} is not a host name")
    return name


def _ip_address(name: str) -> str | None:
    """Return an IP address without its zone, which certificates don't have; None for others.

    The zone of an IPv6 address means an interface of this machine: RFC 4007 section 11.2 keeps it
    off the wire.
    """
    if ":" not in name and not name[-1:].isdigit():
        return None  # without an exception that would say so
    address, _, zone = name.partition("%")
    try:
        is_v6 = ipaddress.ip_address(address).version == 6
    except ValueError:
        return None
    return address if is_v6 or not zone else None


def check_arguments(
    ssl_context: ssl.SSLContext,
    *,
    server_side: bool,
    server_hostname: str | bytes | None,
    session: TLSSession | None,
) -> tuple[str | None, AnySession | None]:
    """Check what a connection is to be made of, and return the ASCII name and the raw session.
    A session whose lineage has ended is no error, and is not returned.

    Raises:
      ValueError: for arguments that don't go together.
      TypeError: for arguments of a wrong type.
    """
    if not isinstance(ssl_context, ssl.SSLContext):
        raise TypeError(f"ssl_context must be an ssl.SSLContext, not {type(ssl_context).__name__}")
    other_side = ssl.PROTOCOL_TLS_CLIENT if server_side else ssl.PROTOCOL_TLS_SERVER
    if ssl_context.protocol is other_side:
        raise ValueError(f"ssl_context was made for the other side, by {other_side.name}")
    name = None if server_hostname is None else _ascii_name(server_hostname)
    if server_side:
        if name is not None:
            raise ValueError("server_hostname is for clients: a server has no name to check")
        if session is not None:
            raise ValueError("session is for clients: a server resumes what it is offered")
    elif ssl_context.check_hostname and name is None:
        # wrap_bio() lets this pass before Python 3.14, and OpenSSL would then check no name at all.
        raise ValueError(
            "the SSLContext checks host names (check_hostname), so a client needs server_hostname"
        )
    if session is None:
        return name, None
    if not isinstance(session, TLSSession):
        raise TypeError(
            f"session must be a TLSSession, not {type(session).__name__}: a raw session does not "
            "say for which name it was verified"
        )
    raw_session = session.resumed_by(ssl_context, name)
    return name, None if session.has_ended(dates.now()) else raw_session
