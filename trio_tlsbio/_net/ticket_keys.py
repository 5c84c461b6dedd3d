"""Session ticket keys that several contexts share, such as those of a fleet of servers."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import ssl
import stat
from typing import Any, NoReturn, TypeAlias

import attrs

from trio_tlsbio._core.context_settings import security_level
from trio_tlsbio._core.errors import count
from trio_tlsbio._core.misuse import kind_of
from trio_tlsbio._core.native_context import certificate_names_in_der, is_reachable, set_ticket_keys
from trio_tlsbio._core.sessions import refuse_copy
from trio_tlsbio._core.trust import is_trust_known

__all__ = ["SharedTickets", "TicketKeys", "hkdf", "purpose_of"]

_Path: TypeAlias = str | os.PathLike[str]

# OpenSSL's format: a name with which each ticket begins, a key for HMAC, and one for AES-256.
_LENGTH = 16 + 32 + 32


def _check_secret(_: object, __: object, value: Any) -> None:
    if not isinstance(value, bytes):
        raise TypeError(
            f"the secret of TicketKeys must be bytes, not {kind_of(value)}: TicketKeys.generate() "
            "and TicketKeys.from_file() need none"
        )
    if len(value) != _LENGTH:
        raise ValueError(
            f"the secret of TicketKeys must have 80 bytes, not {len(value)}: pass the bytes "
            "themselves, not in hexadecimal or Base64"
        )
    if len(set(value)) == 1:
        raise ValueError("the secret of TicketKeys is one byte repeated, not random")


@attrs.frozen(eq=False)
class TicketKeys:
    """Session ticket keys, for servers that resume each other's sessions.

    A session ticket is a session that the server has encrypted and handed to the client. The keys
    are part of the :class:`ssl.SSLContext`, so a client that returns to another machine, or after a
    restart, needs a full handshake. Contexts with the same keys resume each other's sessions::

        keys = TicketKeys.from_file("/run/tickets/current.key")
        keys.install(ssl_context, purpose=b"www.example.org")

    Anyone who has the keys can decrypt recorded TLS 1.2 sessions, and can impersonate any client to
    servers with these keys. Protect them like private keys, and replace them often.

    Python has no API for this, so libssl is called through ``ctypes``. See :meth:`is_available`.

    The repr doesn't show the keys, and they can't be pickled or copied.

    Args:
      secret: 80 random bytes, if they don't come from a file.

    Raises:
      ValueError: if ``secret`` has another length, or consists of the same byte repeated.
      TypeError: if it is not :class:`bytes`.
    """

    _secret: bytes = attrs.field(repr=False, validator=_check_secret)

    @classmethod
    def is_available(cls) -> bool:
        """Return True if ticket keys can be set on this Python.

        This requires a CPython whose module ``_ssl`` is a file that is linked with a shared libssl.
        On PyPy, and on a Python with both of them built in, contexts are not accessible.
        """
        return is_reachable()

    @classmethod
    def generate(cls) -> TicketKeys:
        """Return new keys, for the contexts of one process and of processes forked from it."""
        return cls(secrets.token_bytes(_LENGTH))

    @classmethod
    def from_file(cls, path: _Path) -> TicketKeys:
        """Read keys from a file of 80 random bytes, the format of nginx's ssl_session_ticket_key.

        Symbolic links are followed. The file is checked after it has been opened, so that it can't
        be replaced in between.

        Raises:
          ValueError: if it is not a regular file of 80 bytes, or, on POSIX, if anyone but its owner
            has access to it.
          OSError: if it can't be read.
        """
        # Without O_NONBLOCK, opening a pipe would wait for its other end.
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
                f"{os.fspath(path)} has {count(status.st_size, 'byte')}, but session ticket keys "
                "are 80 random bytes (`openssl rand 80` makes them)"
            )
        return cls(secret)

    def install(self, ssl_context: ssl.SSLContext, purpose: bytes = b"") -> None:
        """Set the keys of a server's context, which encrypts its tickets with them from now on.

        The actual keys are derived from the secret and the purpose, by HKDF with SHA-256 (RFC
        5869). Contexts resume each other's sessions if both are the same.

        OpenSSL verifies no certificate when it resumes a session, and a ticket does not show which
        context has verified the client. So use the same purpose only for contexts that accept the
        same clients under the same names.

        A ticket that was encrypted with other keys leads to a full handshake, without an error.
        Open connections are not affected.

        Args:
          ssl_context: A server's context. It must issue tickets, which ``OP_NO_TICKET`` prevents.
          purpose: What the context is for: a host name, a tenant.

        Raises:
          ValueError: if the context was created for clients.
          TypeError: if ``purpose`` is not :class:`bytes`, or ``ssl_context`` is not an
            :class:`ssl.SSLContext`.
          NotImplementedError: if keys can't be set: see :meth:`is_available`.
        """
        if not isinstance(purpose, bytes):
            raise TypeError(f"a purpose must be bytes, not {type(purpose).__name__}")
        if not isinstance(ssl_context, ssl.SSLContext):
            raise TypeError(
                f"ticket keys go into an ssl.SSLContext, not into a {type(ssl_context).__name__}"
            )
        if ssl_context.protocol is ssl.PROTOCOL_TLS_CLIENT:
            raise ValueError(
                "this SSLContext was made for clients, which have no session ticket keys"
            )
        info = b"trio_tlsbio session tickets\0" + purpose
        set_ticket_keys(ssl_context, hkdf(self._secret, b"", info, _LENGTH))

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)


def _check_file(path: _Path, mode: int) -> None:
    if not stat.S_ISREG(mode):
        raise ValueError(f"{os.fspath(path)} is not a regular file")
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise ValueError(
            f"{os.fspath(path)} holds secret keys, but group or others have access to it (its "
            f"mode is {stat.S_IMODE(mode):04o}): set the mode to 0600"
        )


def hkdf(secret: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """Derive a key from a secret by HKDF with SHA-256: RFC 5869 section 2."""
    key = hmac.digest(salt or bytes(32), secret, "sha256")
    block = output = b""
    for number in range(1, -(-length // 32) + 1):
        block = hmac.digest(key, block + info + bytes([number]), "sha256")
        output += block
    return output[:length]


################################################################
# For all contexts that a server creates over time
################################################################


def purpose_of(ssl_context: ssl.SSLContext) -> bytes:
    """Return the purpose of a server's context, which separates its sessions from those of others.

    It is derived from the names in its certificates, and from the settings that decide which
    clients are accepted. So it is the same for a renewed certificate, and on every machine of a
    fleet.

    Raises:
      ValueError: if it can't be determined from the context.
    """
    names = certificate_names_in_der(ssl_context)
    if not names:
        raise ValueError(
            "the SSLContext has no certificate that shows which contexts may share its sessions: "
            "call TicketKeys.install() with a purpose of your own"
        )
    parts = [b"names", *sorted(names)]
    if ssl_context.verify_mode is not ssl.CERT_NONE:
        if not is_trust_known(ssl_context):
            raise ValueError(
                "the SSLContext asks for client certificates, and has revocation lists or other "
                "trust that can't be compared with that of other machines: call "
                "TicketKeys.install() with a purpose of your own"
            )
        # With post_handshake_auth, the handshake does not request a certificate. Its sessions must
        # not be accepted by a context that requests one in the handshake.
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
    """The keys in a file that may be replaced, and the contexts in which they are installed."""

    _path: _Path
    _keys: TicketKeys = attrs.field(init=False)
    #: Why the file can't be read now; the keys are the earlier ones then.
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
        """Install the keys in a context.

        Raises:
          ValueError: see purpose_of(); or if the context was created for clients.
        """
        self._keys.install(ssl_context, purpose_of(ssl_context))
