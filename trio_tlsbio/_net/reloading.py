"""A context that is recreated when its certificate is renewed."""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Lock
from typing import Literal, TypeAlias

import attrs
import trio

from trio_tlsbio._core.misuse import kind_of
from trio_tlsbio._stream.decisions import is_function

from .expiry import certificate_expiry, expiry_by_files
from .reasons import why_unusable
from .ticket_keys import SharedTickets

__all__ = [
    "ContextProvider",
    "ReloadingContext",
    "ReloadingStatistics",
    "check_provider",
    "current_context",
    "next_context",
]

ContextProvider: TypeAlias = Callable[[], ssl.SSLContext]
"""Returns the context for the next connection, as a :class:`ReloadingContext` does."""

_logger = logging.getLogger("trio_tlsbio.server")

# The most connections to let pass between two attempts to create a context.
_MOST_TO_SKIP = 1024

# The most attempts to read files that change while they are being read. Reading takes milliseconds.
_MOST_LOADS = 3

_Path: TypeAlias = str | os.PathLike[str]

# Why a context is recreated: a file has changed, the last attempt failed, or reload() was called.
_Cause: TypeAlias = Literal["change", "retry", "request"]


################################################################
# Renewed certificates
################################################################


def _stamp(path: _Path) -> tuple[int, ...] | None:
    """Return a value that changes with the file, or None if there is no such file."""
    try:
        stat = os.stat(path)  # noqa: PTH116  # follows the links that ACME clients replace
    except OSError:
        return None
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns


@attrs.frozen
class ReloadingStatistics:
    """The counters of a :class:`~trio_tlsbio.ReloadingContext`."""

    reloads: int = 0
    """How often a new context was created."""

    failures: int = 0
    """How often a new context could not be created, or the ticket keys could not be read."""

    certificate_expires: float | None = None
    """When the certificate in use expires, in seconds since the epoch, even if the files have
    changed since. With several certificates, this is the first one to expire. None without a
    certificate. Where CPython's underlying objects are not accessible, as on PyPy, the date is read
    from the first of ``files`` that has a certificate, and is None without such a file.
    """


@attrs.define(eq=False)
class _Retries:
    """Decides when to retry after a failure that may be temporary."""

    # How many connections have arrived since the last attempt, and how many arrive before the next.
    _skipped: int = 0
    _to_skip: int = 1

    def are_due(self) -> bool:
        """Count another connection. Return True if it is time to retry."""
        # Retries are triggered by connections, so their number doubles each time.
        self._skipped += 1
        if self._skipped < self._to_skip:
            return False
        self._skipped = 0
        self._to_skip = min(2 * self._to_skip, _MOST_TO_SKIP)
        return True


@attrs.define(eq=False, init=False, repr=False)
class ReloadingContext:
    """An SSLContext that is recreated when its files change, or on request.

    Pass it to a server, or to a function that connects a client, in place of a context. Each
    connection checks the files, so the first handshake after a change uses the new certificate.
    Open connections keep the context that they started with. If the new context can't be created,
    the old one stays in use, the reason is logged to ``trio_tlsbio.server``, and creating it is
    retried from time to time, and when a file changes. The same applies if a file changes while the
    context is being created::

        def make_context() -> ssl.SSLContext:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain("server.pem", "server.key")
            return context

        context = ReloadingContext(make_context, files=["server.pem", "server.key"])

    This library's servers and clients call ``make_context`` in a thread, and only the connection
    that needs the new context waits for it. If you call the object yourself, it creates the context
    directly, which blocks while files are read.

    On a client, a new context starts without sessions, and sessions of the old one are not resumed.
    On a server, it has new keys for session tickets, so each client makes one full handshake after
    a reload, in which it sees the new certificate. With ``ticket_keys``, sessions survive a reload.
    They are resumed by every server that has the same file and a context for the same purpose: with
    the same names in its certificates, the same ``verify_mode`` and, if it requests client
    certificates, the same authorities and settings that decide which clients are accepted.

    Args:
      make_context: Creates the context. It is called at once, and for each reload, usually in a
        thread. A reload fails if it creates a context for clients and the first one was for
        servers, or the reverse.
      files: The files to check for changes. Without files, only :meth:`reload` creates a new
        context.
      on_reload: Called after a reload with the exception, or None. It is not called when a retry
        fails for the same reason as before. It must not raise.
      ticket_keys: A file for :meth:`.TicketKeys.from_file`, which is checked together with
        ``files``. Its keys are installed in each context. If new keys can't be read, the old ones
        stay.

    Raises:
      TypeError: if ``make_context`` is not a function, or does not return an
        :class:`ssl.SSLContext`, or if ``files`` is a single path.
      ValueError: if the file with the ticket keys is invalid, or if a context's purpose can't be
        determined: because it has no certificate, or because it requests client certificates and
        has revocation lists or other trust settings that can't be compared. In that case, call
        :meth:`.TicketKeys.install` in ``make_context`` with a purpose of your own.
      NotImplementedError: with ``ticket_keys``, where :meth:`.TicketKeys.is_available` returns
        False.
      Exception: any exception from the first call of ``make_context``.
    """

    _make_context: ContextProvider
    _files: tuple[_Path, ...]
    _on_reload: Callable[[Exception | None], object] | None
    _stamps: tuple[tuple[int, ...] | None, ...]
    _current: ssl.SSLContext
    _protocol: ssl._SSLMethod | None  # of the first context, which fixes the side
    _error: Exception | None  # from the last attempt
    _statistics: ReloadingStatistics
    _tickets: SharedTickets | None
    _retries: _Retries
    # While one task has the turn, a thread creates the context. The lock protects against direct
    # calls.
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
            raise TypeError(
                f"files must be a list of paths, not {kind_of(files)}: pass files=[path]"
            )
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
        """Return the context for the next connection. It is recreated if a file has changed."""
        if (cause := self._due()) is not None:
            self._reload(cause)
        return self._current

    async def _next(self) -> ssl.SSLContext:
        """Do the same as :meth:`__call__`, but read files in a thread."""
        # The task that gets the lock reads the files for all tasks that wait for it.
        if self._turn.locked() or self._is_stale() or any(self._errors()):
            async with self._turn:
                if (cause := self._due()) is not None:
                    await self._load_in_thread(cause)
        return self._current

    async def _load_in_thread(self, cause: _Cause) -> None:
        before = repr(self._errors())
        for _ in range(_MOST_LOADS):
            # A separate limiter, so that other work in threads can't delay a new certificate.
            await trio.to_thread.run_sync(self._load, limiter=trio.CapacityLimiter(1))
            if not self._is_stale():
                break
        self._report(before, cause)

    def _is_stale(self) -> bool:
        return self._look() != self._stamps

    def _due(self) -> _Cause | None:
        """Return why a reload is due for this connection, or None if none is. This counts the
        connection, because retries depend on their number.
        """
        if not self._files:
            return None
        if self._is_stale():
            self._retries = _Retries()
            return "change"
        return "retry" if any(self._errors()) and self._retries.are_due() else None

    def reload(self) -> bool:
        """Recreate the context, for example on SIGHUP. This never raises the exceptions of
        ``make_context``.

        It blocks while files are read. If that can take long, call it with
        :func:`trio.to_thread.run_sync`; ``on_reload`` is then called in the thread.

        Returns:
          True if the context was created and the ticket keys were read. After a failure, the old
          ones stay in use.
        """
        self._retries = _Retries()
        return self._reload("request")

    def _reload(self, cause: _Cause) -> bool:
        before = repr(self._errors())
        self._load()
        self._report(before, cause)
        return not any(self._errors())

    def _load(self) -> None:
        with self._lock:
            # Check before reading the files, so that a change while they are read is noticed.
            self._stamps = self._look()
            error: Exception | None = None
            if self._tickets is not None:
                self._tickets.read()
            try:
                context = self._make()
                expires = self._expiry_of(context)
                # Otherwise the context may combine the old certificate with the new authorities.
                if self._is_stale():
                    raise RuntimeError("the files changed while they were read")
                self._current = context
                self._statistics = attrs.evolve(self._statistics, certificate_expires=expires)
            except Exception as exc:
                error = exc
                if self._tickets is not None:
                    # ticket keys can be refused if the context was changed later
                    with suppress(ValueError):
                        self._tickets.install(self._current)
            self._error = error

    def _expiry_of(self, context: ssl.SSLContext) -> float | None:
        expires = certificate_expiry(context)
        return expiry_by_files(self._files) if expires is None else expires

    @property
    def certificate_expires(self) -> float | None:
        """When the certificate in use expires, in seconds since the epoch. See
        :attr:`.ReloadingStatistics.certificate_expires`.
        """
        return self._statistics.certificate_expires

    def statistics(self) -> ReloadingStatistics:
        """Return the current values of the counters."""
        return self._statistics

    def _errors(self) -> tuple[Exception | None, Exception | None]:
        """Return the errors of the context and of the ticket keys."""
        return self._error, None if self._tickets is None else self._tickets.error

    def _report(self, before: str, cause: _Cause) -> None:
        """Count a reload, and report its result, unless a retry has the same result as
        ``before``.
        """
        error, tickets_error = self._errors()
        self._statistics = attrs.evolve(
            self._statistics,
            reloads=self._statistics.reloads + (error is None),
            failures=self._statistics.failures + any((error, tickets_error)),
        )
        if cause == "retry" and before == repr((error, tickets_error)):
            return
        if error is not None:
            names = f" from {', '.join(map(str, self._files))}" if self._files else ""
            _logger.error(
                "can't make a new SSLContext%s, so the old one stays in use: %s",
                names,
                why_unusable(error),
            )
        if tickets_error is not None:
            why = why_unusable(tickets_error)
            _logger.error(
                "can't read the session ticket keys, so the old ones stay in use: %s", why
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
                f"make_context returned a context for {context.protocol.name}, but its first "
                f"context was for {self._protocol.name}"
            )
        if self._tickets is not None:
            self._tickets.install(context)
        return context

    def _look(self) -> tuple[tuple[int, ...] | None, ...]:
        return tuple(map(_stamp, self._files))


################################################################
# The context for the next connection
################################################################


def check_provider(ssl_context: object) -> None:
    """Raise :exc:`TypeError` if this is neither a context nor a function that can return one."""
    if not (isinstance(ssl_context, ssl.SSLContext) or is_function(ssl_context)):
        raise TypeError(
            "ssl_context must be an ssl.SSLContext, or a function that returns one, "
            f"not {kind_of(ssl_context)}: ssl.create_default_context() makes one, and for servers "
            "ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)"
        )


def current_context(ssl_context: ssl.SSLContext | ContextProvider) -> ssl.SSLContext:
    """Return the context for the next connection."""
    if isinstance(ssl_context, ssl.SSLContext):
        return ssl_context
    check_provider(ssl_context)
    return ssl_context()


async def next_context(ssl_context: ssl.SSLContext | ContextProvider) -> ssl.SSLContext:
    """Return the context for the next connection, without blocking the event loop."""
    if isinstance(ssl_context, ReloadingContext):
        return await ssl_context._next()
    return current_context(ssl_context)
