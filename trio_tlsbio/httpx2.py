"""The equivalent of :mod:`trio_tlsbio.httpx` for httpx2. Requires ``trio-tlsbio[httpx2]``."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from ._extras import missing_extra

try:
    import httpcore2
    import httpx2
except ModuleNotFoundError as _error:
    raise missing_extra(_error, __name__, "httpx2") from _error

from ._http import HTTPBackend, HTTPBody, HTTPTransport
from .httpcore2 import TLSBackend

__all__ = ["TLSTransport"]


class _Body(HTTPBody, httpx2.AsyncByteStream):
    library: ClassVar[ModuleType] = httpx2
    core: ClassVar[ModuleType] = httpcore2


class TLSTransport(HTTPTransport, httpx2.AsyncBaseTransport):
    """See :class:`trio_tlsbio.httpx.TLSTransport`, which only differs in the library."""

    library: ClassVar[ModuleType] = httpx2
    core: ClassVar[ModuleType] = httpcore2
    body_class: ClassVar[type[HTTPBody]] = _Body
    backend_class: ClassVar[type[HTTPBackend[Any]]] = TLSBackend
