"""The equivalent of :mod:`trio_tlsbio.httpcore` for httpcore2. Requires ``trio-tlsbio[httpx2]``."""

from __future__ import annotations

from types import ModuleType
from typing import Any, ClassVar

from ._extras import missing_extra

try:
    import httpcore2
except ModuleNotFoundError as _error:
    raise missing_extra(_error, __name__, "httpx2") from _error

from ._http import HTTPBackend, HTTPStream

__all__ = ["TLSBackend"]


class _Stream(HTTPStream, httpcore2.AsyncNetworkStream):
    library: ClassVar[ModuleType] = httpcore2


class TLSBackend(HTTPBackend[_Stream], httpcore2.AsyncNetworkBackend):
    """See :class:`trio_tlsbio.httpcore.TLSBackend`, which only differs in the library."""

    stream_class: ClassVar[type[Any]] = _Stream
