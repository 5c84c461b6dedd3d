"""The contexts that the library makes; those of a server made anew, and chosen by name."""

from __future__ import annotations

import ipaddress
import logging
import os
import re
import ssl
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, TypeAlias

import attrs

__all__ = [
    "IS_PYPY",
    "ContextProvider",
    "ReloadingContext",
    "make_default_context",
    "refused_hostname",
    "requested_hostname",
    "security_level",
    "sni_context",
]

ContextProvider: TypeAlias = Callable[[], ssl.SSLContext]
"""Returns the context for the next connection, as a :class:`ReloadingContext` does."""

_logger = logging.getLogger("trio_tlsbio.server")

# How many connections may come, at most, before it is tried again to make a context.
_MOST_TO_SKIP = 1024

IS_PYPY = sys.implementation.name == "pypy"

_Path: TypeAlias = str | os.PathLike[str]

################################################################
# Where the caller gives none
################################################################

# ssl.OP_LEGACY_SERVER_CONNECT, which Python has had since 3.12. OpenSSL before 3.0 sets it.
_OP_LEGACY_SERVER_CONNECT = 0x4


def make_default_context(
    purpose: ssl.Purpose = ssl.Purpose.SERVER_AUTH, *, cafile: str | None = None
) -> ssl.SSLContext:
    """Make a context as :func:`ssl.create_default_context` does, and hold it to RFC 9325.

    It only takes away: what Python, OpenSSL or the system's policy refuses stays refused.

    Args:
      purpose: Whom the context authenticates.
      cafile: The authorities to trust, in place of the system's.

    Raises:
      OSError: if ``cafile`` can't be used.
    """
    context = ssl.create_default_context(purpose, cafile=cafile)
    # Section 3.1.1. Some builds of Python set no minimum.
    context.minimum_version = max(context.minimum_version, ssl.TLSVersion.TLSv1_2)
    _keep_recommended_ciphers(context)
    context.options &= ~_OP_LEGACY_SERVER_CONNECT  # section 3.5
    context.hostname_checks_common_name = False  # section 7.1; RFC 9525 section 2
    if purpose is ssl.Purpose.CLIENT_AUTH:
        # A client could make the server work for as long as the connection lasts.
        context.options |= ssl.OP_NO_RENEGOTIATION
    return context


def _keep_recommended_ciphers(context: ssl.SSLContext) -> None:
    """Leave the TLS 1.2 cipher suites with forward secrecy and AEAD: RFC 9325 sections 4.1, 4.2."""
    ciphers = context.get_ciphers()
    # TLS 1.3 has no others, and does not name a key exchange.
    kept = [
        cipher
        for cipher in ciphers
        if cipher["aead"] and _key_exchange(cipher) in ("kx-ecdhe", "kx-any")
    ]
    if kept != ciphers:
        context.set_ciphers(":".join(cipher["name"] for cipher in kept))


def _key_exchange(cipher: Mapping[str, Any]) -> str:
    """Return OpenSSL's name for how a cipher suite agrees on a key."""
    if isinstance(cipher["kea"], str):
        return cipher["kea"]
    # PyPy has only a pointer there.
    match = re.search(r" Kx=(\S+)", cipher["description"])
    short = match[1] if match else ""
    return {"ECDH": "kx-ecdhe", "any": "kx-any"}.get(short, short)


################################################################
# Renewed certificates
################################################################


def _stamp(path: _Path) -> tuple[int, ...] | None:
    """Return what tells one state of a file from another; None if there is no such file."""
    try:
        stat = os.stat(path)  # noqa: PTH116  # it follows the links that ACME clients swap
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


def _why(exc: Exception) -> str:
    """Say in plain words why files can't be used."""
    reason = getattr(exc, "reason", None)
    if reason == "KEY_VALUES_MISMATCH":
        return "the private key belongs to another certificate"
    if reason in {"EE_KEY_TOO_SMALL", "CA_KEY_TOO_SMALL"}:
        return "the certificate's key, or that of an issuer, is too weak for this security level"
    if reason == "CA_MD_TOO_WEAK":
        return "the certificate, or that of an issuer, is signed with too weak a hash"
    if reason in {"NO_START_LINE", "NOT_ENOUGH_DATA"} or "PEM lib" in str(exc):
        return f"a file holds no certificate, or no private key, in PEM form ({exc})"
    if isinstance(exc, OSError) and exc.errno and exc.strerror == "Error":  # PyPy's own words
        return f"[Errno {exc.errno}] {os.strerror(exc.errno)}"
    return str(exc) or type(exc).__name__


@attrs.define(eq=False, init=False, repr=False)
class ReloadingContext:
    """An SSLContext that is made anew when its files change, or when it is asked to.

    Pass it to a server in place of a context. For each connection the server calls it, which looks
    at the files, so the first handshake after a change uses the new certificate. Connections that
    are open go on with the one they began with. If the new context can't be made, the old one
    stays, the log ``trio_tlsbio.server`` says why, and it is tried again now and then::

        def make_context() -> ssl.SSLContext:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain("server.pem", "server.key")
            return context

        context = ReloadingContext(make_context, files=["server.pem", "server.key"])

    A new context has new keys for session tickets: each client makes one full handshake after a
    reload, and so sees the new certificate.

    Args:
      make_context: Makes the context. It is called at once, and for each reload; it may read files,
        which blocks. A reload whose context is for the other side than the first one fails.
      files: What to look at for changes. Without them, only :meth:`reload` makes a new context.
      on_reload: Called after a reload with what went wrong, or None. Not when trying again fails
        for the same reason. It must not raise.

    Raises:
      TypeError: if ``make_context`` does not return an :class:`ssl.SSLContext`.
      Exception: whatever the first call of ``make_context`` raises.
    """

    _make_context: ContextProvider
    _files: tuple[_Path, ...]
    _on_reload: Callable[[Exception | None], object] | None
    _stamps: tuple[tuple[int, ...] | None, ...]
    _current: ssl.SSLContext
    _protocol: ssl._SSLMethod | None  # of the first context, which decides on the side
    _error: Exception | None  # of the last try
    # How many connections have come since, and come before the next try.
    _skipped: int
    _to_skip: int

    def __init__(
        self,
        make_context: ContextProvider,
        *,
        files: Iterable[_Path] = (),
        on_reload: Callable[[Exception | None], object] | None = None,
    ) -> None:
        self._make_context = make_context
        self._protocol = None
        self._files = tuple(files)
        self._on_reload = on_reload
        self._stamps = self._look()
        self._current = self._make()
        self._protocol = self._current.protocol
        self._error = None
        self._skipped, self._to_skip = 0, 1

    def __repr__(self) -> str:
        return f"<ReloadingContext of {', '.join(map(str, self._files)) or 'no files'}>"

    def __call__(self) -> ssl.SSLContext:
        """Return the context for the next connection, made anew if a file has changed."""
        if self._files:
            if self._look() != self._stamps:
                self._reload(is_news=True)
            elif self._error is not None:
                self._try_again()
        return self._current

    def _try_again(self) -> None:
        # It may have failed for a passing reason. But each try blocks, and clients are what brings
        # us here, so each time twice as many of them go by before the next one.
        self._skipped += 1
        if self._skipped >= self._to_skip:
            self._skipped = 0
            self._to_skip = min(2 * self._to_skip, _MOST_TO_SKIP)
            self._reload(is_news=False)

    def reload(self) -> bool:
        """Make the context anew, on SIGHUP for example. Never raises what ``make_context`` does.

        Returns:
          Whether it could be made. If not, the old one stays.
        """
        return self._reload(is_news=True)

    def _reload(self, *, is_news: bool) -> bool:
        if is_news:
            self._skipped, self._to_skip = 0, 1
        # Before the files are read: one that changes meanwhile will be noticed.
        self._stamps = self._look()
        before, self._error = self._error, None
        try:
            self._current = self._make()
        except Exception as exc:
            self._error = exc
        if is_news or repr(before) != repr(self._error):
            self._report()
        return self._error is None

    def _report(self) -> None:
        if self._error is not None:
            names = f" from {', '.join(map(str, self._files))}" if self._files else ""
            why = _why(self._error)
            _logger.error(
                "the SSLContext can't be made anew%s, and the old one stays: %s", names, why
            )
        if self._on_reload is not None:
            self._on_reload(self._error)

    def _make(self) -> ssl.SSLContext:
        context: object = self._make_context()
        if not isinstance(context, ssl.SSLContext):
            raise TypeError(
                f"make_context must return an ssl.SSLContext, not {type(context).__name__}"
            )
        if self._protocol is not None and context.protocol is not self._protocol:
            raise ValueError(
                f"make_context must stay with {self._protocol.name}, by which it made the first "
                f"context: {context.protocol.name} may be for the other side"
            )
        return context

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(map(_stamp, self._files))


################################################################
# Several names
################################################################

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
        key = _lookup_form(name)
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
    if context.verify_mode is not ssl.CERT_NONE and not _trust_the_same(context, base):
        raise ValueError(
            f"the SSLContext for {name} trusts other authorities than the first one, or has "
            "revocation lists or other trust that can't be compared, and a client could resume a "
            "session of one name under another: serve that name on a port of its own"
        )


def security_level(context: ssl.SSLContext) -> int | None:
    """Return :attr:`ssl.SSLContext.security_level`; None on PyPy, which can't report it.

    There a session may outlive a level that was raised after it was made.
    """
    return getattr(context, "security_level", None)


def _trust_the_same(one: ssl.SSLContext, other: ssl.SSLContext) -> bool:
    """Whether it is certain that two contexts let in the same clients."""
    return one is other or (
        _is_trust_known(one)
        and _is_trust_known(other)
        and security_level(one) == security_level(other) is not None
        and sorted(one.get_ca_certs(binary_form=True))
        == sorted(other.get_ca_certs(binary_form=True))
    )


def _is_trust_known(context: ssl.SSLContext) -> bool:
    """Whether get_ca_certs() returns all that a context trusts."""
    # It leaves out certificates that are no CA, pinned ones for example. Revocation lists can't be
    # read out of a context, only counted. Where there is nothing, it may be in a capath, which
    # OpenSSL looks into when it needs to.
    stats = context.cert_store_stats()
    return 0 < stats["x509"] == stats["x509_ca"] and not stats["crl"]


# The underscore is not for hosts, but browsers and others ask for such names all the same.
_LABEL = re.compile(r"[a-z0-9_-]{1,63}")


def _lookup_form(name: str) -> str:
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
    callback = ssl_context.sni_callback
    if IS_PYPY:  # which does not return what was set, but an object that holds it
        callback = getattr(callback, "callback", None)
    context = callback.context_for(name) if isinstance(callback, _ByName) else None
    return context or ssl_context


def note_requested_hostname(ssl_object: ssl.SSLObject, name: str | None) -> None:
    """Leave the name that a client asks for on its object, for :func:`requested_hostname`."""
    ssl_object.requested_hostname = name  # type: ignore[attr-defined]


def requested_hostname(ssl_object: ssl.SSLObject) -> str | None:
    """Return the name that a client has asked for, where the context has an ``sni_callback``."""
    return getattr(ssl_object, "requested_hostname", None)


def refused_hostname(ssl_object: ssl.SSLObject) -> str | None:
    """Return the name that a :func:`sni_context` has refused."""
    return getattr(ssl_object, "refused_hostname", None)
