"""Loads a client's certificate and private key from files, asking for a password on the
terminal.
"""

from __future__ import annotations

import getpass
import os
import signal
import ssl
import sys
import threading
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

from trio_tlsbio import load_identity
from trio_tlsbio._net.identity import ENCRYPTED_KEY

from ._options import usage_error

__all__ = ["load_files"]


def load_files(context: ssl.SSLContext, cert: str, key: str | None) -> None:
    """Load the files of ``--cert`` and ``--key`` into a context, or report what is wrong
    with them.
    """
    certificate_pem = _read("--cert", cert)
    key_pem = certificate_pem if key is None else _read("--key", key)
    key_option = f"--cert {cert}" if key is None else f"--key {key}"
    has_certificate, has_key = (
        b"CERTIFICATE-----" in certificate_pem,
        b"PRIVATE KEY-----" in key_pem,
    )
    if key is None and not (has_certificate and has_key):
        usage_error(f"--cert {cert}: no certificate with its private key in PEM form was found")
    if not has_certificate:
        usage_error(f"--cert {cert}: no certificate in PEM form was found")
    if not has_key:
        usage_error(f"--key {key}: no private key in PEM form was found")
    try:
        # Not in a callback, which Ctrl-C could not interrupt on PyPy.
        password = _ask_for_password(key_option) if ENCRYPTED_KEY.search(key_pem) else None
        load_identity(context, certificate_pem, key_pem, password)
    except ValueError as exc:
        words = str(exc)
        if key is not None and "another certificate" in words:
            usage_error(f"{key_option}: the private key does not belong to --cert {cert}")
        usage_error(f"{key_option if 'key' in words else f'--cert {cert}'}: {words}")


def _read(option: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as exc:
        usage_error(f"{option} {path}: {exc.strerror}")


def _ask_for_password(option: str) -> str:
    if not _has_terminal():
        usage_error(
            f"{option}: the private key is encrypted, and there is no terminal to ask for its "
            "password"
        )
    with _interruptible():
        try:
            return getpass.getpass(f"password for {option}: ")
        except EOFError:
            usage_error(f"{option}: the private key is encrypted, and no password was given")


def _has_terminal() -> bool:
    """Return True if :func:`getpass.getpass` would find a terminal. Without one, it would read
    standard input.
    """
    if sys.platform == "win32":
        return sys.stdin is not None and sys.stdin.isatty()
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY))
    except OSError:
        return False
    return True


@contextmanager
def _interruptible() -> Generator[None]:
    """Let Ctrl-C interrupt blocking calls. Trio's own handler would wait for the next
    checkpoint.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
