"""A context that is made anew when its certificate is renewed."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock
from typing import TypeAlias

import attrs
import trio

from trio_tlsbio._core.misuse import kind_of

from .expiry import certificate_expiry, expiry_by_files
from .reasons import why_unusable
from .ticket_keys import SharedTickets

__all__ = [
    "ContextProvider",
    "ReloadingContext",
    "ReloadingStatistics",
    "current_context",
    "next_context",
]

ContextProvider: TypeAlias = Callable[[], ssl.SSLContext]
"""Returns the context for the next connection, as a :class:`ReloadingContext` does."""

_logger = logging.getLogger("trio_tlsbio.server")

# How many connections may come, at most, before it is tried again to make a context.
_MOST_TO_SKIP = 1024

# How often files are read in a row that change while they are read. Reading takes milliseconds.
_MOST_LOADS = 3

_Path: TypeAlias = str | os.PathLike[str]


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


@attrs.frozen
class ReloadingStatistics:
    """How a :class:`~trio_tlsbio.ReloadingContext` has done so far."""

    reloads: int = 0
    """Contexts that were made anew."""

    failures: int = 0
    """Times that one could not be made, or the ticket keys not be read."""

    certificate_expires: float | None = None
    """When the certificate that is in use expires, in seconds since the epoch, whatever is in the
    files by now. The first one to expire, if there are several. None without a certificate. Where
    CPython's underlying objects can't be read, as on PyPy, it is read from the first of ``files``
    that has one; it is None without files."""


@attrs.define(eq=False)
class _Retries:
    """When to try again what may have failed for a passing reason."""

    # How many connections have come since the last try, and come before the next one.
    _skipped: int = 0
    _to_skip: int = 1

    def are_due(self) -> bool:
        """Whether it is time, now that one more connection has come."""
        # Clients are what brings us here, so each time twice as many of them go by.
        self._skipped += 1
        if self._skipped < self._to_skip:
            return False
        self._skipped = 0
        self._to_skip = min(2 * self._to_skip, _MOST_TO_SKIP)
        return True


@attrs.define(eq=False, init=False, repr=False)
class ReloadingContext:
    """An SSLContext that is made anew when its files change, or when it is asked to.

    Pass it to a server, or to what connects a client, in place of a context. Each connection looks
    at the files, so the first handshake after a change uses the new certificate. Connections that
    are open go on with the one they began with. If the new context can't be made, the old one
    stays, the log ``trio_tlsbio.server`` says why, and it is tried again now and then, and when a
    file changes. So it is if a file changes while the context is made::

        def make_context() -> ssl.SSLContext:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain("server.pem", "server.key")
            return context

        context = ReloadingContext(make_context, files=["server.pem", "server.key"])

    Servers and clients of this library have ``make_context`` called in a thread then, and only the
    connection that needs the new context waits for it. If you call the object yourself, that makes
    the context at once, which blocks while files are read.

    On a client, a new context begins without sessions, and those of the old one are not resumed. On
    a server, it has new keys for session tickets: each client makes one full handshake after a
    reload, and so sees the new certificate. With ``ticket_keys`` sessions outlive a reload, and are
    resumed by every server that has the same file and a context for the same: the names in its
    certificates, ``verify_mode`` and, where it asks for client certificates, the authorities and
    settings that decide which clients it lets in.

    Args:
      make_context: Makes the context. It is called at once, and for each reload, mostly in a
        thread. A reload whose context is for the other side than the first one fails.
      files: What to look at for changes. Without them, only :meth:`reload` makes a new context.
      on_reload: Called after a reload with what went wrong, or None. Not when trying again fails
        for the same reason. It must not raise.
      ticket_keys: A file for :meth:`.TicketKeys.from_file`, which is looked at along with
        ``files``. Each context gets its keys. If new keys can't be read, the old ones stay.

    Raises:
      TypeError: if ``make_context`` is no function, or does not return an
        :class:`ssl.SSLContext`; and if ``files`` is a single path.
      ValueError: if the file with the ticket keys is refused, or if it can't be known which other
        contexts are for the same as one that gets them: it has no certificate, or asks for client
        certificates and has revocation lists or other trust that can't be compared. Then call
        :meth:`.TicketKeys.install` in ``make_context`` with a purpose of your own.
      NotImplementedError: with ``ticket_keys``, where :meth:`.TicketKeys.is_available` is false.
      Exception: whatever the first call of ``make_context`` raises.
    """

    _make_context: ContextProvider
    _files: tuple[_Path, ...]
    _on_reload: Callable[[Exception | None], object] | None
    _stamps: tuple[tuple[int, ...] | None, ...]
    _current: ssl.SSLContext
    _protocol: ssl._SSLMethod | None  # of the first context, which decides on the side
    _error: Exception | None  # of the last try
    _statistics: ReloadingStatistics
    _tickets: SharedTickets | None
    _retries: _Retries
    # A thread makes a context while one task has the turn; the lock is for calls from elsewhere.
    _turn: trio.Lock
    _lock: Lock

    def __init__(
        self,
        make_context: ContextProvider,
        *,
        files: Iterable[_Path] = (),
        on_reload: Callable[[Exception | None], object] | None = None,
        ticket_keys: _Path | None = None,
    ) -> None:
        if not callable(make_context):
            raise TypeError(
                "make_context must be a function that returns an ssl.SSLContext, not "
                f"{kind_of(make_context)}"
            )
        if isinstance(files, str | bytes | os.PathLike):
            raise TypeError(f"files must be a list of paths, not {kind_of(files)}: files=[path]")
        self._make_context = make_context
        self._protocol = None
        self._files = tuple(files)
        if ticket_keys is not None:
            self._files += (ticket_keys,)
        self._on_reload = on_reload
        self._turn, self._lock = trio.Lock(), Lock()
        self._stamps = self._look()
        self._tickets = None if ticket_keys is None else SharedTickets(ticket_keys)
        self._current = self._make()
        expires = self._expiry_of(self._current)
        self._statistics = ReloadingStatistics(certificate_expires=expires)
        self._protocol = self._current.protocol
        self._error = None
        self._retries = _Retries()

    def __repr__(self) -> str:
        return f"<ReloadingContext of {', '.join(map(str, self._files)) or 'no files'}>"

    def __call__(self) -> ssl.SSLContext:
        """Return the context for the next connection, made anew if a file has changed."""
        if (is_news := self._due()) is not None:
            self._reload(is_news=is_news)
        return self._current

    async def _next(self) -> ssl.SSLContext:
        """Do the same, but read files in a thread."""
        # Whoever gets the turn reads for all that wait for it.
        if self._turn.locked() or self._is_stale() or any(self._errors()):
            async with self._turn:
                if (is_news := self._due()) is not None:
                    await self._load_in_thread(is_news=is_news)
        return self._current

    async def _load_in_thread(self, *, is_news: bool) -> None:
        before = repr(self._errors())
        for _ in range(_MOST_LOADS):
            # Other work of the program's threads must not hold up a certificate.
            await trio.to_thread.run_sync(self._load, limiter=trio.CapacityLimiter(1))
            if not self._is_stale():
                break
        self._report(before, is_news=is_news)

    def _is_stale(self) -> bool:
        return self._look() != self._stamps

    def _due(self) -> bool | None:
        """Return whether there is news to reload for; None if no reload is due."""
        if not self._files:
            return None
        if self._is_stale():
            self._retries = _Retries()
            return True
        return False if any(self._errors()) and self._retries.are_due() else None

    def reload(self) -> bool:
        """Make the context anew, on SIGHUP for example. Never raises what ``make_context`` does.

        This blocks while files are read. Call it by :func:`trio.to_thread.run_sync` where that may
        take long; then ``on_reload`` is called in the thread.

        Returns:
          Whether it could be made, and ticket keys be read. What could not stays as it was.
        """
        self._retries = _Retries()
        return self._reload(is_news=True)

    def _reload(self, *, is_news: bool) -> bool:
        before = repr(self._errors())
        self._load()
        self._report(before, is_news=is_news)
        return not any(self._errors())

    def _load(self) -> None:
        with self._lock:
            # Before the files are read: one that changes meanwhile will be noticed.
            self._stamps = self._look()
            error: Exception | None = None
            if self._tickets is not None:
                self._tickets.read()
            try:
                context = self._make()
                expires = self._expiry_of(context)
                # It may be made of the certificate from before and the authorities from after.
                if self._is_stale():
                    raise RuntimeError("the files changed while they were read")
                self._current = context
                self._statistics = attrs.evolve(self._statistics, certificate_expires=expires)
            except Exception as exc:
                error = exc
                if self._tickets is not None:
                    with suppress(ValueError):  # it was changed after it was made
                        self._tickets.install(self._current)
            self._error = error

    def _expiry_of(self, context: ssl.SSLContext) -> float | None:
        expires = certificate_expiry(context)
        return expiry_by_files(self._files) if expires is None else expires

    @property
    def certificate_expires(self) -> float | None:
        """When the certificate that is in use expires, in seconds since the epoch. See
        :attr:`.ReloadingStatistics.certificate_expires`.
        """
        return self._statistics.certificate_expires

    def statistics(self) -> ReloadingStatistics:
        """Return how it has done so far."""
        return self._statistics

    def _errors(self) -> tuple[Exception | None, Exception | None]:
        """Return what is wrong with the context, and with the ticket keys."""
        return self._error, None if self._tickets is None else self._tickets.error

    def _report(self, before: str, *, is_news: bool) -> None:
        """Count a reload, and say what has become of it, unless ``before`` says the same."""
        error, tickets_error = self._errors()
        self._statistics = attrs.evolve(
            self._statistics,
            reloads=self._statistics.reloads + (error is None),
            failures=self._statistics.failures + any((error, tickets_error)),
        )
        if not is_news and before == repr((error, tickets_error)):
            return
        if error is not None:
            names = f" from {', '.join(map(str, self._files))}" if self._files else ""
            _logger.error(
                "the SSLContext can't be made anew%s, and the old one stays: %s",
                names,
                why_unusable(error),
            )
        if tickets_error is not None:
            why = why_unusable(tickets_error)
            _logger.error(
                "the keys of session tickets can't be read, and the old ones stay: %s", why
            )
        if self._on_reload is not None:
            self._on_reload(error or tickets_error)

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
        if self._tickets is not None:
            self._tickets.install(context)
        return context

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(map(_stamp, self._files))


################################################################
# The context for the next connection
################################################################


def current_context(ssl_context: ssl.SSLContext | ContextProvider) -> ssl.SSLContext:
    """Return the context for the next connection."""
    if isinstance(ssl_context, ssl.SSLContext):
        return ssl_context
    provider: object = ssl_context
    if isinstance(provider, type) or not callable(provider):
        raise TypeError(
            "ssl_context must be an ssl.SSLContext, or a function that returns one, "
            f"not {kind_of(provider)}: ssl.create_default_context() makes one, and for servers "
            "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
        )
    return ssl_context()


async def next_context(ssl_context: ssl.SSLContext | ContextProvider) -> ssl.SSLContext:
    """Return the context for the next connection, without holding up the event loop."""
    if isinstance(ssl_context, ReloadingContext):
        return await ssl_context._next()
    return current_context(ssl_context)
