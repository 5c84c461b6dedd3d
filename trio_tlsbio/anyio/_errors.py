"""The exceptions. Each is both an anyio exception and an :mod:`ssl` exception."""

from __future__ import annotations

import ssl
from collections.abc import Generator
from contextlib import contextmanager

import anyio
import trio

import trio_tlsbio

__all__ = ["CertificateError", "HandshakeTimeoutError", "TLSError", "as_anyio_errors"]


class TLSError(anyio.BrokenResourceError, ssl.SSLError):
    """TLS, the peer or the transport failed.

    This is both an :exc:`anyio.BrokenResourceError` and an :exc:`ssl.SSLError`, of which anyio
    itself raises one or the other. ``str()`` explains what went wrong.
    """

    error: trio_tlsbio.TLSError
    """The original error, which is also the cause."""

    def __init__(self, error: trio_tlsbio.TLSError) -> None:
        source = error.__cause__
        number = source.errno if isinstance(source, ssl.SSLError) else None
        ssl.SSLError.__init__(self, number or ssl.SSL_ERROR_SSL, str(error))
        self.error = error
        self.library: str = getattr(source, "library", None) or ""
        self.reason: str = error.reason or ""

    def __reduce__(self) -> tuple[type[TLSError], tuple[trio_tlsbio.TLSError]]:
        """Rebuild the exception from the original error, for a copy or pickle."""
        return type(self), (self.error,)


class CertificateError(TLSError, ssl.SSLCertVerificationError):
    """This side refused the peer's certificate."""

    def __init__(self, error: trio_tlsbio.TLSError) -> None:
        super().__init__(error)
        self.verify_code: int = getattr(error.__cause__, "verify_code", 0)
        self.verify_message: str = getattr(error.__cause__, "verify_message", str(error))


class HandshakeTimeoutError(TLSError, TimeoutError):
    """The handshake took longer than ``handshake_timeout``."""


def _same_kind(error: trio_tlsbio.TLSError) -> TLSError:
    match error:
        case trio_tlsbio.CertificateError():
            return CertificateError(error)
        case trio_tlsbio.HandshakeTimeoutError():
            return HandshakeTimeoutError(error)
        case _:
            return TLSError(error)


@contextmanager
def as_anyio_errors() -> Generator[None, None, None]:
    """Raise anyio's exceptions in place of Trio's and this library's."""
    try:
        yield
    except trio_tlsbio.TLSError as exc:
        raise _same_kind(exc) from exc
    except trio.ClosedResourceError as exc:
        raise anyio.ClosedResourceError(*exc.args) from exc
    except trio.BusyResourceError as exc:
        raise anyio.BusyResourceError("using") from exc
