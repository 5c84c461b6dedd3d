"""Settings of an SSLContext that are read for every connection."""

from __future__ import annotations

import _ssl
import ssl
from collections.abc import Callable

__all__ = ["protocol", "security_level", "verify_flags", "verify_mode"]

# These return plain integers. The properties of ssl.SSLContext create enum members, which takes
# twenty times as long: for all of them together, one percent of a handshake.
protocol: Callable[[ssl.SSLContext], int] = vars(_ssl._SSLContext)["protocol"].__get__
verify_mode: Callable[[ssl.SSLContext], int] = vars(_ssl._SSLContext)["verify_mode"].__get__
verify_flags: Callable[[ssl.SSLContext], int] = vars(_ssl._SSLContext)["verify_flags"].__get__


def security_level(context: ssl.SSLContext) -> int | None:
    """Return :attr:`ssl.SSLContext.security_level`, or None on PyPy, which can't report it.

    So on PyPy a session can remain valid although the level was raised after its creation.
    """
    return getattr(context, "security_level", None)
