"""A server's contexts for several names."""

from __future__ import annotations

import ipaddress
import re
import ssl
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import attrs

from .openssl_errors import IS_PYPY
from .trust import trust_the_same

__all__ = [
    "context_for_name",
    "contexts_of",
    "lookup_form",
    "note_requested_hostname",
    "refused_hostname",
    "requested_hostname",
    "sni_context",
]


# What stays as the first context has it when another one takes over in the handshake: see
# SSL_set_SSL_CTX(3). Certificates, trust, ciphers and ALPN are the other one's.
_SETTINGS_THAT_STAY = (
    "verify_mode",
    "verify_flags",
    "minimum_version",
    "maximum_version",
    "options",
    "num_tickets",
    "post_handshake_auth",
)


def sni_context(
    contexts: Mapping[str, ssl.SSLContext], *, default: ssl.SSLContext | None = None
) -> ssl.SSLContext:
    """Return a server's context that leaves each client to the context for the name it asks for.

    That is the name in the ClientHello (SNI, RFC 6066 section 3). The handler finds it in
    :attr:`HandshakeInfo.server_hostname`. The returned context is ``default``, or the first of
    ``contexts``, with its ``sni_callback`` set; all of them share its keys for session tickets.

    To reload certificates of several names, call this in the function that a
    :class:`ReloadingContext` calls.

    Args:
      contexts: The context for each name. ``"*.example.org"`` stands for all names with one label
        more than ``example.org``, as in a certificate (RFC 9525 section 6.3).
      default: The context for clients that ask for another name, or for none. Without it they are
        refused with the alert ``unrecognized_name``.

    Raises:
      ValueError: for a name that no client can ask for, such as an IP address, or that is given
        twice; if there is no context, one was made for clients, or has an ``sni_callback``
        already; or if they differ in a setting that OpenSSL can't change once it knows the name,
        ``verify_mode`` for one. Also if they ask for client certificates and it is not certain
        that they let in the same clients: where their authorities differ, or can't be compared,
        as is the case for revocation lists, for trusted certificates that are no CA, and where
        no authority was loaded (those in a ``capath`` are loaded later, and not found here).
      TypeError: for a name that is no :class:`str`, or something that is no
        :class:`ssl.SSLContext`.
    """
    by_name: dict[str, ssl.SSLContext] = {}
    for name, context in contexts.items():
        key = lookup_form(name)
        if key in by_name:
            raise ValueError(f"{name!r}: there is a context for this name already")
        by_name[key] = context
    checked = by_name if default is None else {"other names": default, **by_name}
    if not checked:
        raise ValueError("sni_context() needs a context for at least one name, or a default")
    for name, context in checked.items():
        _check_kind(name, context)
    base = next(iter(checked.values()))
    for name, context in checked.items():
        _check_agreement(name, context, base)
    base.sni_callback = _ByName(by_name, default)
    return base


@attrs.frozen(eq=False, repr=False)
class _ByName:
    """The ``sni_callback`` of a :func:`sni_context`."""

    _by_name: Mapping[str, ssl.SSLContext]
    _default: ssl.SSLContext | None

    def context_for(self, name: str | None) -> ssl.SSLContext | None:
        """Return the context for what a client asks for; None if that is not served."""
        name = (name or "").lower().removesuffix(".")
        label, _, parent = name.partition(".")
        if not label or "*" in name:
            return self._default
        return self._by_name.get(name) or self._by_name.get(f"*.{parent}") or self._default

    def contexts(self) -> set[ssl.SSLContext]:
        default = set() if self._default is None else {self._default}
        return default.union(self._by_name.values())

    def __call__(self, ssl_object: Any, name: str | None, _: ssl.SSLContext) -> int | None:
        # OpenSSL tells the name here and nowhere else, so it is left on the object. A name that is
        # there already counts: in TLS 1.2 OpenSSL tells that of the session which is resumed, and
        # nothing keeps a client from asking for another one in a second ClientHello.
        name = getattr(ssl_object, "requested_hostname", name)
        note_requested_hostname(ssl_object, name)
        context = self.context_for(name)
        if context is None:
            ssl_object.refused_hostname = name or "no name"
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        ssl_object.context = context
        return None


def _check_kind(name: str, context: ssl.SSLContext) -> None:
    if not isinstance(context, ssl.SSLContext):
        raise TypeError(
            f"the context for {name} must be an ssl.SSLContext, not {type(context).__name__}"
        )
    if context.protocol is ssl.PROTOCOL_TLS_CLIENT:
        raise ValueError(f"the SSLContext for {name} was made for clients")


def _check_agreement(name: str, context: ssl.SSLContext, base: ssl.SSLContext) -> None:
    if context.sni_callback is not None:
        raise ValueError(f"the SSLContext for {name} has an sni_callback already")
    for setting in _SETTINGS_THAT_STAY:
        if getattr(context, setting) != getattr(base, setting):
            raise ValueError(
                f"the SSLContext for {name} has another {setting} than the first one, and "
                "OpenSSL would not apply it: serve that name on a port of its own"
            )
    # OpenSSL verifies no certificate when it resumes. A TLSConnection keeps the sessions of the
    # contexts apart, but others that use the returned one have all names share its ticket keys.
    if context.verify_mode is not ssl.CERT_NONE and not trust_the_same(context, base):
        raise ValueError(
            f"the SSLContext for {name} trusts other authorities than the first one, or has "
            "revocation lists or other trust that can't be compared, and a client could resume a "
            "session of one name under another: serve that name on a port of its own"
        )


# The underscore is not for hosts, but browsers and others ask for such names all the same.
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")


def lookup_form(name: str) -> str:
    """Return a name as it is looked up.

    Raises:
      ValueError: if no client can ask for it.
      TypeError: if it is no str.
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
    # No top-level domain is a number: what ends in one is meant for an address.
    if not all(map(_LABEL.fullmatch, labels)) or labels[-1].isdigit() or len(form) > 253:
        raise ValueError(f"{name!r} is not a host name that a client can ask for")
    return form


def context_for_name(ssl_context: ssl.SSLContext, name: str | None) -> ssl.SSLContext:
    """Return the context that a :func:`sni_context` has for a name; any other context itself, and
    one that refuses the name.
    """
    by_name = _by_name_of(ssl_context)
    context = by_name.context_for(name) if by_name is not None else None
    return context or ssl_context


def contexts_of(ssl_context: ssl.SSLContext) -> set[ssl.SSLContext]:
    """Return the contexts that a :func:`sni_context` leads to; of any other context, itself."""
    by_name = _by_name_of(ssl_context)
    return {ssl_context} if by_name is None else by_name.contexts()


def _by_name_of(ssl_context: ssl.SSLContext) -> _ByName | None:
    callback = ssl_context.sni_callback
    if IS_PYPY:  # which does not return what was set, but an object that holds it
        callback = getattr(callback, "callback", None)
    return callback if isinstance(callback, _ByName) else None


def note_requested_hostname(ssl_object: ssl.SSLObject, name: str | None) -> None:
    """Leave the name that a client asks for on its object, for :func:`requested_hostname`."""
    ssl_object.requested_hostname = name  # type: ignore[attr-defined]


def requested_hostname(ssl_object: ssl.SSLObject) -> str | None:
    """Return the name that a client has asked for, where the context has an ``sni_callback``."""
    return getattr(ssl_object, "requested_hostname", None)


def refused_hostname(ssl_object: ssl.SSLObject) -> str | None:
    """Return the name that a :func:`sni_context` has refused."""
    return getattr(ssl_object, "refused_hostname", None)
