"""TLS for anyio's Trio backend: the classes of :mod:`anyio.streams.tls`, with the same names.

This requires ``trio-tlsbio[anyio]``.
"""

from trio_tlsbio._extras import missing_extra
from trio_tlsbio._public import publish

try:
    from anyio.streams.tls import TLSAttribute
except ModuleNotFoundError as _error:
    raise missing_extra(_error, __name__, "anyio") from _error

from ._connecting import TLSConnectable, as_connectable, connect_tcp
from ._errors import CertificateError, HandshakeTimeoutError, TLSError
from ._listener import TLSListener
from ._stream import TLSStream

__all__ = [
    "CertificateError",
    "HandshakeTimeoutError",
    "TLSAttribute",
    "TLSConnectable",
    "TLSError",
    "TLSListener",
    "TLSStream",
    "as_connectable",
    "connect_tcp",
]

publish(__name__)
