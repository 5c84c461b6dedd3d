"""Keys of session tickets that several contexts share: those of a fleet of servers."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import ssl
import stat
from typing import Any, NoReturn, TypeAlias

import attrs

from trio_tlsbio._core.misuse import kind_of
from trio_tlsbio._core.native_context import certificate_names_in_der, is_reachable, set_ticket_keys
from trio_tlsbio._core.sessions import refuse_copy
from trio_tlsbio._core.trust import is_trust_known, security_level

__all__ = ["SharedTickets", "TicketKeys", "hkdf", "purpose_of"]

_Path: TypeAlias = str | os.PathLike[str]

# As OpenSSL has them: a name, which each ticket begins with, a key for HMAC, and one for AES-256.
_LENGTH = 16 + 32 + 32


def _check_secret(_: object, __: object, value: Any) -> None:
    if not isinstance(value, bytes):
        raise TypeError(
            f"the secret of TicketKeys must be bytes, not {kind_of(value)}: TicketKeys.generate() "
            "and TicketKeys.from_file() need none"
        )
    if len(value) != _LENGTH:
        raise ValueError(
            f"the secret of TicketKeys has 80 bytes, not {len(value)}: give it as it is, without "
            "hexadecimal or Base64"
        )
    if len(set(value)) == 1:
        raise ValueError("the secret of TicketKeys is one byte over and over, not random")


@attrs.frozen(eq=False)
class TicketKeys:
    """Keys of session tickets, for servers that resume each other's sessions.

    A session ticket is a session that the server has encrypted and left to the client. Its keys
    live in the :class:`ssl.SSLContext`, so a client that comes back to another machine, or after a
    restart, makes a full handshake. Contexts that have the same keys resume each other's sessions::

        keys = TicketKeys.from_file("/run/tickets/current.key")
        keys.install(ssl_context, purpose=b"www.example.org")

    Who has the keys can decrypt the sessions that were recorded with TLS 1.2, and can pose as any
    client to servers with these keys. Keep them as you keep private keys, and replace them often.

    Python has no API for this; libssl is called through ``ctypes``. See :meth:`is_available`.

    The repr shows nothing of the keys, and they can't be pickled or copied.

    Args:
      secret: 80 random bytes, where they come from something other than a file.

    Raises:
      ValueError: if ``secret`` has another length, or is one byte over and over.
      TypeError: if it is not :class:`bytes`.
    """

    _secret: bytes = attrs.field(repr=False, validator=_check_secret)

    @classmethod
    def is_available(cls) -> bool:
        """Whether ticket keys can be set on this Python.

        It takes a CPython whose module ``_ssl`` is a file that is linked with a shared libssl.
        PyPy, and a Python that has all of it built in, let nobody at their contexts.
        """
        return is_reachable()

    @classmethod
    def generate(cls) -> TicketKeys:
        """Return new keys, for the contexts of one process and those forked from it."""
        return cls(secrets.token_bytes(_LENGTH))

    @classmethod
    def from_file(cls, path: _Path) -> TicketKeys:
        """Read keys from a file of 80 random bytes, the format of nginx's ssl_session_ticket_key.

        Symbolic links are followed. What is checked is the same open file that is read.

        Raises:
          ValueError: if it is no regular file of 80 bytes, or, on POSIX, if anyone but its owner
            can read or write it.
          OSError: if it can't be read.
        """
        # Opening a pipe would wait for its other end.
        flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
        descriptor = os.open(path, flags)
        try:
            status = os.fstat(descriptor)
            _check_file(path, status.st_mode)
            secret = os.read(descriptor, _LENGTH + 1)
        finally:
            os.close(descriptor)
        if len(secret) != _LENGTH:
            raise ValueError(
                f"{os.fspath(path)} has {status.st_size} bytes, and keys of session tickets are "
                "80 random bytes, as `openssl rand 80` writes"
            )
        return cls(secret)

    def install(self, ssl_context: ssl.SSLContext, purpose: bytes = b"") -> None:
        """Set the keys of a server's context: from now on it encrypts its tickets with these.

        The keys in use are derived from the secret and the purpose, by HKDF with SHA-256 (RFC
        5869). Contexts resume each other's sessions if both are the same.

        OpenSSL verifies no certificate when it resumes, and can't tell from a ticket which context
        has verified the client. So give the same purpose to contexts that let in the same clients
        under the same names, and to no others.

        A ticket that was encrypted with other keys leads to a full handshake, without an error.
        Connections that are open don't notice.

        Args:
          ssl_context: A server's. It must make tickets, which ``OP_NO_TICKET`` prevents.
          purpose: What the context is for: a host name, a tenant.

        Raises:
          ValueError: for a context that was made for clients.
          TypeError: if ``purpose`` is not :class:`bytes`, or ``ssl_context`` is no
            :class:`ssl.SSLContext`.
          NotImplementedError: where keys can't be set: see :meth:`is_available`.
        """
        if not isinstance(purpose, bytes):
            raise TypeError(f"a purpose must be bytes, not {type(purpose).__name__}")
        if not isinstance(ssl_context, ssl.SSLContext):
            raise TypeError(
                f"ticket keys go into an ssl.SSLContext, not into a {type(ssl_context).__name__}"
            )
        if ssl_context.protocol is ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError(
                "this SSLContext was made for clients, which have no keys of session tickets"
            )
        info = b"trio_tlsbio session tickets\0" + purpose
        set_ticket_keys(ssl_context, hkdf(self._secret, b"", info, _LENGTH))

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)


def _check_file(path: _Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError(f"{os.fspath(path)} is no regular file")
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(
            f"{os.fspath(path)} holds secret keys, but group or others have access to it (its "
            f"mode is {stat.S_IMODE(mode):04o}): set the mode to 0600"
        )


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """Derive a key from a secret, by HKDF with SHA-256: RFC 5869 section 2."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    block = output = b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        output += block
    return output[:length]


################################################################
# For all contexts that a server makes in turn
################################################################


def purpose_of(ssl_context: ssl.SSLContext) -> bytes:
    """Return what a server's context is for, to keep its sessions apart from those of others.

    That is the names in its certificates, and whom it lets in. So it is the same for a renewed
    certificate, and on every machine of a fleet.

    Raises:
      ValueError: if that can't be read from the context.
    """
    names = certificate_names_in_der(ssl_context)
    if not names:
        raise ValueError(
            "the SSLContext has no certificate, so it can't be known which other contexts are for "
            "the same: call TicketKeys.install() with a purpose of your own"
        )
    parts = [b"names", *sorted(names)]
    if ssl_context.verify_mode is not ssl.CERT_NONE:
        if not is_trust_known(ssl_context):
            raise ValueError(
                "the SSLContext asks for client certificates, and has revocation lists or other "
                "trust that can't be compared with that of other machines: call "
                "TicketKeys.install() with a purpose of your own"
            )
        # With post_handshake_auth the handshake asks for no certificate: its sessions must not
        # pass for those of one that does.
        settings = (
            int(ssl_context.verify_mode),
            int(ssl_context.verify_flags),
            security_level(ssl_context),
            ssl_context.post_handshake_auth,
        )
        parts += [b"settings", repr(settings).encode()]
        parts += [b"authorities", *sorted(ssl_context.get_ca_certs(binary_form=True))]
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(4) + part)
    return b"context\0" + digest.digest()


@attrs.define(eq=False)
class SharedTickets:
    """The keys in a file that may be replaced, and the contexts that get them."""

    _path: _Path
    _keys: TicketKeys = attrs.field(init=False)
    #: What is wrong with the file now; the keys are those from before.
    error: Exception | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._keys = TicketKeys.from_file(self._path)

    def read(self) -> None:
        """Read the keys again. If that fails, the old ones stay."""
        self.error = None
        try:
            self._keys = TicketKeys.from_file(self._path)
        except (OSError, ValueError) as exc:
            self.error = exc

    def install(self, ssl_context: ssl.SSLContext) -> None:
        """Give the keys to a context.

        Raises:
          ValueError: see purpose_of(); or for a context that was made for clients.
        """
        self._keys.install(ssl_context, purpose_of(ssl_context))
