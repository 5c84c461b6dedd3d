"""TLS for Trio that is sans-IO at heart."""

from ._connection import TLSConnection
from ._errors import (
    CertificateError,
    HandshakeTimeoutError,
    PeerAlertError,
    TLSError,
    TruncationError,
)
from ._info import HandshakeInfo
from ._sessions import TLSSession
from ._stream import TLSStream
