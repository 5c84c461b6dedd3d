"""The contexts that the library makes; those of a server made anew, and chosen by name."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeAlias

import attrs

__all__ = [
    "ContextProvider",
    "ReloadingContext",
    "make_default_context",
    "refused_hostname",
    "requested_hostname",
    "sni_context",
]

ContextProvider: TypeAlias = Callable[[], ssl.SSLContext]
"""Returns the context for the next connection, as a :class:`ReloadingContext` does."""

_logger = logging.getLogger("trio_tlsbio.server")

# How many connections may come, at most, before it is tried again to make a context.
_MOST_TO_SKIP = 1024

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
        cipher for cipher in ciphers if cipher["aead"] and cipher["kea"] in ("kx-ecdhe", "kx-any")
    ]
    if kept != ciphers:
        context.set_ciphers(":".join(cipher["name"] for cipher in kept))


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
        which blocks.
      files: What to look at for changes. Without them, only :meth:`reload` makes a new context.
      on_reload: Called after a reload with what went wrong, or None. Not when trying again fails
        for the same reason. It must not raise.

    Raises:
      Exception: whatever the first call of ``make_context`` raises.
    """

    _make_context: ContextProvider
    _files: tuple[_Path, ...]
    _on_reload: Callable[[Exception | None], object] | None
    _stamps: tuple[tuple[int, ...] | None, ...]
    _current: ssl.SSLContext
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
        self._files = tuple(files)
        self._on_reload = on_reload
        self._stamps = self._look()
        self._current = self._make()
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
      ValueError: if there is no context, or one has an ``sni_callback`` already, or if they differ
        in a setting that OpenSSL can't change once it knows the name, ``verify_mode`` for one. Also
        if they ask for client certificates and trust different authorities, or have revocation
        lists: a session of one name could be resumed under another. (Authorities in a ``capath``
        can't be compared.)
    """
    for name in contexts:
        if not name.isascii():
            raise ValueError(f"{name!r}: give the name in its ASCII form, which begins with xn--")
    by_name = {_lookup_form(name): context for name, context in contexts.items()}
    checked = by_name if default is None else {"other names": default, **by_name}
    if not checked:
        raise ValueError("sni_context() needs a context for at least one name, or a default")
    base = next(iter(checked.values()))
    for name, context in checked.items():
        _check_agreement(name, context, base)

    def choose(ssl_object: Any, name: str | None, _: ssl.SSLContext) -> int | None:
        # OpenSSL tells the name here and nowhere else, so it is left on the object.
        context = default
        if name is not None:
            ssl_object.requested_hostname = name
            name = _lookup_form(name)
            context = by_name.get(name) or by_name.get("*." + name.partition(".")[2]) or default
        if context is None:
            ssl_object.refused_hostname = name or "no name"
            return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME
        ssl_object.context = context
        return None

    base.sni_callback = choose
    return base


def _check_agreement(name: str, context: ssl.SSLContext, base: ssl.SSLContext) -> None:
    if context.sni_callback is not None:
        raise ValueError(f"the SSLContext for {name} has an sni_callback already")
    for setting in _SETTINGS_THAT_STAY:
        if getattr(context, setting) != getattr(base, setting):
            raise ValueError(
                f"the SSLContext for {name} has another {setting} than the first one, and "
                "OpenSSL would not apply it: serve that name on a port of its own"
            )
    # OpenSSL verifies no certificate when it resumes, and all names share the keys for tickets.
    if context.verify_mode is not ssl.CERT_NONE and not _trust_the_same(context, base):
        raise ValueError(
            f"the SSLContext for {name} trusts other authorities than the first one, or has "
            "revocation lists, and a client could resume a session of one name under another: "
            "serve that name on a port of its own"
        )


def _trust_the_same(one: ssl.SSLContext, other: ssl.SSLContext) -> bool:
    if one is other:
        return True
    # Revocation lists can't be read out of a context, only counted.
    if one.cert_store_stats()["crl"] or other.cert_store_stats()["crl"]:
        return False
    return sorted(one.get_ca_certs(binary_form=True)) == sorted(
        other.get_ca_certs(binary_form=True)
    )


def _lookup_form(name: str) -> str:
    return name.lower().removesuffix(".")


def requested_hostname(ssl_object: ssl.SSLObject) -> str | None:
    """Return the name that the client of a :func:`sni_context` has asked for."""
    return getattr(ssl_object, "requested_hostname", None)


def refused_hostname(ssl_object: ssl.SSLObject) -> str | None:
    """Return the name that a :func:`sni_context` has refused."""
    return getattr(ssl_object, "refused_hostname", None)
