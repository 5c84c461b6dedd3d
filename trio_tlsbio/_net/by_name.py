"""Chooses a server's context by the name that the client requests."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Awaitable, Mapping
from contextlib import suppress

import attrs

from trio_tlsbio._core.client_hello import ClientHello
from trio_tlsbio._core.errors import RefuseHandshake, printable
from trio_tlsbio._core.misuse import kind_of
from trio_tlsbio._stream.decisions import ChooseContext, is_function

from .expiry import certificate_expiry
from .reloading import ContextProvider, ReloadingContext, current_context, next_context

__all__ = ["contexts_by_name"]


def contexts_by_name(
    contexts: Mapping[str, ssl.SSLContext | ContextProvider],
    *,
    default: ssl.SSLContext | ContextProvider | None = None,
) -> ChooseContext:
    """Return a function that chooses a server's context by the name that the client requests.

    Pass it as ``ssl_context`` to :func:`serve_tls_over_tcp`, a :class:`TLSListener`, or a server's
    :class:`TLSStream`. The name is the one in the ClientHello (SNI, RFC 6066 section 3); the
    handler finds it in :attr:`HandshakeInfo.server_hostname`.

    The chosen context provides everything: certificates, versions, the check of client
    certificates, application protocols. Each context has its own keys for session tickets, so a
    session for one name can't be resumed under another. So don't use one context for two names that
    accept different clients.

    Args:
      contexts: The context for each name, or a function without parameters that returns it, such as
        a :class:`ReloadingContext`. ``"*.example.org"`` matches all names with one label more than
        ``example.org``, as in a certificate (RFC 9525 section 6.3); an exact name takes precedence.
      default: The context for clients that request another name, or none. Without a default they
        are refused with the alert ``unrecognized_name``.

    Raises:
      ValueError: if a name is given twice, or no client can request it (an IP address, for
        example); if there is no context, or one was created for clients.
      TypeError: if a name is not a :class:`str`, or a value is not an :class:`ssl.SSLContext` and
        does not return one.
    """
    if not hasattr(contexts, "items"):
        raise TypeError(
            f"contexts_by_name() takes a dict of names and their contexts, not {kind_of(contexts)}"
        )
    by_name: dict[str, ssl.SSLContext | ContextProvider] = {}
    for name, context in contexts.items():
        key = _lookup_form(name)
        if key in by_name:
            raise ValueError(
                f"{name!r}: there is already a context for this name: case and a trailing dot "
                "don't matter"
            )
        by_name[key] = _checked(name, context)
    if default is not None:
        _checked("other names", default)
    elif not by_name:
        raise ValueError("contexts_by_name() needs a context for at least one name, or a default")
    return _ByName(by_name, default)


def _checked(
    name: str, context: ssl.SSLContext | ContextProvider
) -> ssl.SSLContext | ContextProvider:
    if not (isinstance(context, ssl.SSLContext) or is_function(context)):
        raise TypeError(
            f"the context for {name} must be an ssl.SSLContext, or a function that returns one, "
            f"not {kind_of(context)}"
        )
    current = current_context(context)
    if not isinstance(current, ssl.SSLContext):
        raise TypeError(
            f"the context for {name} must be an ssl.SSLContext, not {kind_of(current)}: does the "
            "function return it?"
        )
    if current.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(
            f"the SSLContext for {name} was made for clients: a server needs "
            "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
        )
    return context


@attrs.frozen(eq=False, repr=False)
class _ByName:
    """Chooses among contexts."""

    _by_name: Mapping[str, ssl.SSLContext | ContextProvider]
    _default: ssl.SSLContext | ContextProvider | None

    @property
    def certificate_expires(self) -> float | None:
        """When the first of all certificates expires, in seconds since the epoch."""
        contexts = [*self._by_name.values(), self._default]
        expiries = [certificate_expiry(context) for context in contexts]
        return min((each for each in expiries if each is not None), default=None)

    def __call__(self, hello: ClientHello) -> ssl.SSLContext | Awaitable[ssl.SSLContext]:
        name = hello.server_name or ""
        parent = name.partition(".")[2]
        context = self._by_name.get(name) or self._by_name.get(f"*.{parent}") or self._default
        if context is None:
            raise RefuseHandshake("unrecognized_name", _not_served(hello.requested_name))
        is_reloading = isinstance(context, ReloadingContext)
        return next_context(context) if is_reloading else current_context(context)


def _not_served(name: bytes | None) -> str:
    """Return a message that a name, which can be any bytes, is not served."""
    asked = printable(name.decode("ascii", "backslashreplace")) if name else "no name"
    return f"the peer asked for {asked}, which is not served here"


# Host names have no underscore, but browsers and others request such names anyway.
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")


def _lookup_form(name: str) -> str:
    """Return the normalised form of a name, for the lookup.

    Raises:
      ValueError: if no client can request it.
      TypeError: if it is not a str.
    """
    if not isinstance(name, str):
        raise TypeError(f"the name of a context must be a str, not {type(name).__name__}")
    if not name.isascii():
        raise ValueError(f"{name!r}: give the name in its ASCII form, which begins with xn--")
    form = name.lower().removesuffix(".")
    host = form.removeprefix("*.")
    is_address = False
    if "*" in host:
        raise ValueError(
            f"{name!r}: a wildcard stands for the whole first label, as in '*.example.org'"
        )
    with suppress(ValueError):
        ipaddress.ip_address(host.strip("[]"))
        is_address = True
    if is_address:
        raise ValueError(
            f"{name!r}: clients don't ask for an IP address (RFC 6066 section 3): use default"
        )
    labels = host.split(".")
    # No top-level domain is a number, so a name that ends in one is meant as an address.
    if not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit() or len(form) > 253:
        raise ValueError(
            f"{name!r} is not a host name that a client can ask for: give the name alone, as in "
            "'www.example.org'"
        )
    return form
