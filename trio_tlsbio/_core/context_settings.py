"""Settings of an SSLContext that every connection looks at."""

from __future__ import annotations

import _ssl
import ssl
from collections.abc import Callable

__all__ = ["protocol", "verify_flags", "verify_mode"]

# As plain integers. The properties of ssl.SSLContext make members of enumerations of them, which
# takes twenty times as long: all of them together would be one percent of a handshake.
protocol: Callable[[ssl.SSLContext], int] = vars(_ssl._SSLContext)["protocol"].__get__
verify_mode: Callable[[ssl.SSLContext], int] = vars(_ssl._SSLContext)["verify_mode"].__get__
verify_flags: Callable[[ssl.SSLContext], int] = vars(_ssl._SSLContext)["verify_flags"].__get__
