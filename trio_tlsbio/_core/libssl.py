"""Loads the OpenSSL library with which Python's module ``_ssl`` is linked, through ctypes."""

from __future__ import annotations

import _ssl
import ctypes
from collections.abc import Iterable
from typing import TypeAlias

__all__ = ["POINTER", "Prototype", "certificate_in_der", "load"]

POINTER = ctypes.c_void_p

Prototype: TypeAlias = tuple[str, type | None, list[type]]
"""The name of a function, the type of its result, and those of its arguments."""

_CERTIFICATE_IN_DER: Prototype = ("i2d_X509", ctypes.c_int, [POINTER, POINTER])


def load(prototypes: Iterable[Prototype]) -> ctypes.PyDLL | None:
    """Return the libssl that the module ssl uses, for these functions and
    :func:`certificate_in_der`, or None if it is not accessible.
    """
    try:
        # CDLL would release the GIL during each call, and so let other threads run.
        libssl = ctypes.PyDLL(_ssl.__file__)
        for name, result, arguments in (*prototypes, _CERTIFICATE_IN_DER):
            function = getattr(libssl, name)
            function.restype, function.argtypes = result, arguments
    except (AttributeError, OSError):  # the module is built in, or libssl is linked statically
        return None
    return libssl


def certificate_in_der(libssl: ctypes.PyDLL, certificate: int) -> bytes:
    """Return a certificate in DER form.

    Args:
      libssl: The library, from :func:`load`.
      certificate: The address of the X509 structure.
    """
    buffer = ctypes.create_string_buffer(libssl.i2d_X509(certificate, None))
    libssl.i2d_X509(certificate, ctypes.byref(POINTER(ctypes.addressof(buffer))))
    return buffer.raw
