"""Loads a certificate and its private key into a context from memory."""

from __future__ import annotations

import functools
import os
import re
import ssl
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeAlias

from trio_tlsbio._core.arguments import check_is_context
from trio_tlsbio._core.context_settings import security_level
from trio_tlsbio._core.misuse import kind_of
from trio_tlsbio._core.openssl_errors import clean_up

from .reasons import why_unusable

__all__ = ["ENCRYPTED_KEY", "load_identity"]

_Password: TypeAlias = str | bytes | bytearray
_PEM: TypeAlias = str | bytes

_CERTIFICATE = re.compile(rb"-----BEGIN (?:X509 |TRUSTED )?CERTIFICATE-----")
_KEY = re.compile(rb"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY-----")
ENCRYPTED_KEY = re.compile(
    rb"-----BEGIN ENCRYPTED PRIVATE KEY-----|^Proc-Type: 4,ENCRYPTED", re.MULTILINE
)


def load_identity(
    ssl_context: ssl.SSLContext,
    certificate: _PEM,
    key: _PEM,
    password: _Password | Callable[[], _Password] | None = None,
) -> None:
    """Load a certificate and its private key, like :meth:`ssl.SSLContext.load_cert_chain`, but from
    memory: from a secret manager or an environment variable, for example.

    Nothing is left on disk. On Linux, nothing is written to disk at all. On other systems, OpenSSL
    reads from files in a directory that only this user can access. The files are removed before
    this returns or raises.

    If this raises, the context is unchanged, except on PyPy if an issuer's certificate is too weak.
    OpenSSL never prompts for a password on the terminal.

    Args:
      ssl_context: Any context, for servers or clients.
      certificate: The certificate in PEM form, followed by those of issuers to send, if any.
      key: The private key in PEM form. If it is in the same text as the certificate, pass this text
        twice.
      password: The password of an encrypted key, or a function that returns it. The function is
        only called if needed.

    Raises:
      ValueError: if the certificate or the key can't be used: they don't belong together, the
        password is missing or wrong, or one of them is not in PEM form, is damaged, or is too weak
        for the context. The message does not contain them.
      TypeError: if one of them is neither :class:`str` nor :class:`bytes`.
      OSError: if there is no space for a file.
    """
    check_is_context(ssl_context)
    certificate_pem = _in_bytes("certificate", certificate)
    key_pem = _in_bytes("private key", key)
    _check_form("certificate", certificate_pem, _CERTIFICATE)
    _check_form("private key", key_pem, _KEY)
    ask = _refuse_to_ask if password is None else _asking_once(password)
    # A failed load can leave a part in the context, so try it with another one first.
    trial = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    trial.set_ciphers(f"DEFAULT@SECLEVEL={security_level(ssl_context) or 0}")
    with _file_of(certificate_pem) as certificate_path, _file_of(key_pem) as key_path:
        for context in trial, ssl_context:
            try:
                context.load_cert_chain(certificate_path, key_path, ask)
            except ssl.SSLError as exc:
                message = _what_is_wrong(exc, certificate_pem, key_pem)
                clean_up()
                raise ValueError(message) from exc


################################################################
# Checking the arguments
################################################################


def _in_bytes(what: str, value: _PEM) -> bytes:
    if isinstance(value, str):
        return value.encode()
    if not isinstance(value, bytes):
        raise TypeError(
            f"the {what} must be str or bytes in PEM form, not {kind_of(value)}: to load files, "
            "call load_cert_chain()"
        )
    return value


def _check_form(what: str, pem: bytes, header: re.Pattern[bytes]) -> None:
    if header.search(pem):
        return
    if pem.startswith(b"\x30"):  # a SEQUENCE
        raise ValueError(f"the {what} seems to be in DER form: it has to be in PEM form")
    if b"-----BEGIN" not in pem and len(pem) < 1000:
        raise ValueError(
            f"the {what} is not in PEM form: if it is the path of a file, call load_cert_chain()"
        )
    raise ValueError(
        f"there is no {what} in PEM form where it should be: the certificate comes first, then the "
        "key"
    )


def _refuse_to_ask() -> _Password:
    raise ValueError("the private key is encrypted: give its password")


def _asking_once(password: _Password | Callable[[], _Password]) -> Callable[[], _Password]:
    return functools.cache(password) if callable(password) else lambda: password


################################################################
# A path to the contents
################################################################


@contextmanager
def _file_of(content: bytes) -> Iterator[str]:
    """Return a path for OpenSSL: Python offers no way to load PEM from memory."""
    with ExitStack() as stack:
        path = _path_in_memory(content, stack) if hasattr(os, "memfd_create") else None
        yield path or _path_on_disk(content, stack)


def _path_in_memory(content: bytes, stack: ExitStack) -> str | None:
    """Return the path of a file in memory, or None if the system has no such paths."""
    try:
        descriptor = os.memfd_create("identity")
    except OSError:  # a sandbox may refuse the call
        return None
    stack.callback(os.close, descriptor)
    with open(descriptor, "wb", closefd=False) as file:
        file.write(content)
    path = f"/proc/self/fd/{descriptor}"
    # The path doesn't work in a chroot without /proc, or after the process has changed its user.
    return path if os.access(path, os.R_OK) else None


def _path_on_disk(content: bytes, stack: ExitStack) -> str:
    # The directory's mode is 0700.
    directory = stack.enter_context(tempfile.TemporaryDirectory(prefix="trio-tlsbio-"))
    path = Path(directory, "identity.pem")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    with open(os.open(path, flags, 0o600), "wb") as file:  # noqa: PTH123  # a descriptor
        file.write(content)
    return str(path)


################################################################
# Explaining a failure
################################################################


def _what_is_wrong(exc: ssl.SSLError, certificate: bytes, key: bytes) -> str:
    if getattr(exc, "reason", None) is not None:
        return why_unusable(exc)
    # "PEM lib" doesn't show which of them.
    text = certificate.decode("ascii", "replace").replace("\ufffd", "?")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=text)
    except ssl.SSLError:
        return "a certificate is damaged, or not whole"
    if ENCRYPTED_KEY.search(key):
        return "the private key can't be decrypted: the password is wrong, or the key is damaged"
    return "the private key is damaged, or of a kind that OpenSSL does not know"
