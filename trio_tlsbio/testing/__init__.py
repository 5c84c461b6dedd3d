"""Tools for testing code that uses TLS: certificates, connected pairs, faults, recordings.

Certificates are issued with trustme, which the extra ``trio-tlsbio[testing]`` installs. The other
tools don't need it.
"""

from __future__ import annotations

import operator
import os
import ssl
from collections.abc import Generator, Iterable
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import trio

from trio_tlsbio._core.arguments import alpn_names
from trio_tlsbio._core.connection import TLSConnection
from trio_tlsbio._core.errors import PeerAlertError, TLSError
from trio_tlsbio._core.misuse import kind_of
from trio_tlsbio._extras import missing_extra
from trio_tlsbio._public import publish
from trio_tlsbio._stream.stream import TLSStream

from ._faults import Corrupt, Cut, Fault, FaultyLine, FaultyStream, Insert, Reset, Split, Stall
from ._memory import MemoryListener
from ._recording import (
    Conversation,
    Direction,
    Flight,
    Passage,
    RecordedStream,
    WireRecord,
    flights_of,
    records_of,
)

if TYPE_CHECKING:
    import trustme

__all__ = [
    "CertificateAuthority",
    "Conversation",
    "Corrupt",
    "Cut",
    "Direction",
    "Fault",
    "FaultyLine",
    "FaultyStream",
    "Flight",
    "Insert",
    "IssuedCertificate",
    "MemoryListener",
    "Passage",
    "RecordedStream",
    "Reset",
    "Split",
    "Stall",
    "WireRecord",
    "do_handshakes",
    "exchange",
    "flights_of",
    "records_of",
    "tls_connection_pair",
    "tls_stream_pair",
    "transfer",
]

T_Client = TypeVar("T_Client", bound=trio.abc.Stream)
T_Server = TypeVar("T_Server", bound=trio.abc.Stream)

# The default names of a server.
_LOCAL_NAMES = ("localhost", "127.0.0.1", "::1")

################################################################
# Certificates
################################################################


def _new_ca() -> trustme.CA:
    try:
        import trustme  # noqa: PLC0415  # an extra
    except ModuleNotFoundError as exc:
        raise missing_extra(exc, "trio_tlsbio.testing", "testing") from exc
    return trustme.CA(organization_name="trio-tlsbio tests", organization_unit_name="throw-away CA")


@attrs.frozen(eq=False, repr=False)
class IssuedCertificate:
    """A certificate with its private key, from :meth:`CertificateAuthority.issue`."""

    names: tuple[str, ...]
    """The names for which it was issued."""

    _leaf: trustme.LeafCert

    def __repr__(self) -> str:
        return f"<IssuedCertificate for {', '.join(self.names)}>"

    @property
    def certificate_pem(self) -> bytes:
        """The certificate, followed by those between it and the authority's, in PEM form."""
        return b"".join(pem.bytes() for pem in self._leaf.cert_chain_pems)

    @property
    def private_key_pem(self) -> bytes:
        """The private key in PEM form, unencrypted."""
        return self._leaf.private_key_pem.bytes()

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the key and the certificate into one file, for other programs. This blocks.

        The file can be used with :meth:`ssl.SSLContext.load_cert_chain`, ``openssl s_server -cert``
        and ``curl --cert``. If the file is new, only its owner can read it.
        """
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(descriptor, "wb") as file:  # noqa: PTH123  # a descriptor
            file.write(self.private_key_pem + self.certificate_pem)

    def load_into(self, context: ssl.SSLContext) -> None:
        """Make a context present this certificate."""
        self._leaf.configure_cert(context)


@attrs.define(eq=False, init=False, repr=False)
class CertificateAuthority:
    """A throw-away certificate authority, and contexts that trust only this authority.

    Its key is only in memory. Creating one takes some milliseconds, so share one between all
    tests::

        authority = CertificateAuthority()
        client_context = authority.client_context()
        server_context = authority.server_context("server.example")

    Raises:
      ImportError: if trustme is missing. The extra ``trio-tlsbio[testing]`` installs it.
    """

    _ca: trustme.CA

    def __init__(self) -> None:
        self._ca = _new_ca()

    def __repr__(self) -> str:
        return "<CertificateAuthority>"

    @property
    def certificate_pem(self) -> bytes:
        """The authority's own certificate, in PEM form."""
        return self._ca.cert_pem.bytes()

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the authority's own certificate into a file, for other programs. This blocks.

        The file can be used with ``openssl -CAfile``, ``curl --cacert``, and the environment
        variables ``SSL_CERT_FILE`` and ``REQUESTS_CA_BUNDLE``.
        """
        with open(path, "wb") as file:  # noqa: PTH123  # as in IssuedCertificate.write()
            file.write(self.certificate_pem)

    def issue(
        self,
        *names: str,
        common_name: str | None = None,
        not_before: datetime | None = None,
        not_after: datetime | None = None,
    ) -> IssuedCertificate:
        """Issue a certificate for a server or a client.

        Args:
          names: The names to certify: host names, ``"*.example.org"``, IP addresses and networks,
            or email addresses.
          common_name: The subject's common name, by which some servers identify a client.
          not_before: The start of its validity.
          not_after: The end of its validity. Use a time in the past for an expired certificate.

        Raises:
          ValueError: if there is no name at all.
        """
        if not names and common_name is None:
            raise ValueError("issue() needs a name or a common_name")
        leaf = self._ca.issue_cert(
            *names, common_name=common_name, not_before=not_before, not_after=not_after
        )
        return IssuedCertificate(names or (str(common_name),), leaf)

    def client_context(
        self,
        *,
        certificate: IssuedCertificate | None = None,
        minimum_version: ssl.TLSVersion | None = None,
        maximum_version: ssl.TLSVersion | None = None,
        alpn_protocols: Iterable[str] = (),
    ) -> ssl.SSLContext:
        """Create a client's context: that of :func:`ssl.create_default_context`, but trusting only
        this authority.

        Args:
          certificate: The certificate to present to servers that request one.
          minimum_version: The oldest TLS version to use; by default OpenSSL's choice.
          maximum_version: The newest TLS version to use.
          alpn_protocols: The protocols to offer with ALPN (RFC 7301), in order of preference.
        """
        return self._context(
            ssl.Purpose.SERVER_AUTH, certificate, minimum_version, maximum_version, alpn_protocols
        )

    def server_context(
        self,
        *names: str,
        certificate: IssuedCertificate | None = None,
        client_certificates: ssl.VerifyMode = ssl.CERT_NONE,
        minimum_version: ssl.TLSVersion | None = None,
        maximum_version: ssl.TLSVersion | None = None,
        alpn_protocols: Iterable[str] = (),
    ) -> ssl.SSLContext:
        """Create a server's context.

        Args:
          names: The names for a new certificate; by default those of this machine, ``"localhost"``,
            ``"127.0.0.1"`` and ``"::1"``.
          certificate: The server's certificate, in place of a new one.
          client_certificates: Whether clients must present a certificate from this authority
            (``ssl.CERT_REQUIRED``), or may do so (``ssl.CERT_OPTIONAL``).
          minimum_version: The oldest TLS version to use; by default OpenSSL's choice.
          maximum_version: The newest TLS version to use.
          alpn_protocols: The protocols to accept with ALPN (RFC 7301), in order of preference.

        Raises:
          ValueError: if both names and a certificate are given.
          TypeError: if a name is not a :class:`str`.
        """
        for name in names:
            if not isinstance(name, str):
                raise TypeError(
                    f'a name must be a str, such as "localhost", not {kind_of(name)}: '
                    "pass a certificate from issue() as certificate=..."
                )
        if certificate is None:
            certificate = self.issue(*(names or _LOCAL_NAMES))
        elif names:
            raise ValueError("give names for a new certificate, or a certificate, not both")
        context = self._context(
            ssl.Purpose.CLIENT_AUTH, certificate, minimum_version, maximum_version, alpn_protocols
        )
        context.verify_mode = client_certificates
        return context

    def _context(
        self,
        purpose: ssl.Purpose,
        certificate: IssuedCertificate | None,
        minimum_version: ssl.TLSVersion | None,
        maximum_version: ssl.TLSVersion | None,
        alpn_protocols: Iterable[str],
    ) -> ssl.SSLContext:
        if not isinstance(certificate, IssuedCertificate | None):
            raise TypeError(
                f"certificate must be an IssuedCertificate, not {kind_of(certificate)}: "
                'authority.issue("localhost") makes one'
            )
        # With cadata, the system's authorities are not loaded.
        context = ssl.create_default_context(purpose, cadata=self.certificate_pem.decode())
        if certificate is not None:
            certificate.load_into(context)
        if minimum_version is not None:
            context.minimum_version = minimum_version
        if maximum_version is not None:
            context.maximum_version = maximum_version
        if protocols := alpn_names(alpn_protocols):
            context.set_alpn_protocols(protocols)
        return context


################################################################
# Two connections without I/O
################################################################


def tls_connection_pair(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    *,
    server_hostname: str | None = "localhost",
) -> tuple[TLSConnection, TLSConnection]:
    """Create a client and a server for each other. The handshake is not done: see :func:`exchange`.

    Returns:
      The client and the server.
    """
    return (
        TLSConnection(client_context, server_hostname=server_hostname),
        TLSConnection(server_context, server_side=True),
    )


def transfer(source: TLSConnection, target: TLSConnection, chunk_bytes: int | None = None) -> int:
    """Transfer the pending ciphertext of one connection to another one, in this direction only.

    This only feeds the ciphertext: call :meth:`~trio_tlsbio.TLSConnection.do_handshake` or
    :meth:`~trio_tlsbio.TLSConnection.receive` to see its effect.

    Args:
      source: The connection to take it from.
      target: The connection to feed it to.
      chunk_bytes: How many bytes to feed at a time; by default all of them.

    Returns:
      How many bytes were transferred.

    Raises:
      ValueError: if ``chunk_bytes`` is not positive. Nothing is taken then.
    """
    chunk_bytes = _checked(chunk_bytes)
    data = source.data_to_send()
    for chunk in _chunks(data, chunk_bytes):
        target.feed(chunk)
    return len(data)


def _checked(chunk_bytes: int | None) -> int | None:
    if chunk_bytes is not None and operator.index(chunk_bytes) < 1:
        raise ValueError("chunk_bytes must be >= 1")
    return chunk_bytes


def _chunks(data: bytes, chunk_bytes: int | None) -> Generator[bytes, None, None]:
    step = chunk_bytes or len(data) or 1
    for start in range(0, len(data), step):
        yield data[start : start + step]


def exchange(
    client: TLSConnection, server: TLSConnection, chunk_bytes: int | None = None
) -> tuple[int, int]:
    """Transfer ciphertext both ways between two connections, until neither has any more to send.

    This completes the handshake, if it is not done, and delivers the session tickets. This doesn't
    receive plaintext or the end of a direction: do that afterwards. If TLS fails, the other side
    gets the alert. This doesn't raise the error; the connections do when they are next used.

    Args:
      client: One of the connections.
      server: The other one.
      chunk_bytes: How many bytes to feed at a time; by default all of them.

    Returns:
      How many bytes the client has sent, and how many the server.

    Raises:
      ValueError: if ``chunk_bytes`` is not positive. Nothing is transferred then.
    """
    chunk_bytes = _checked(chunk_bytes)
    by_client = by_server = 0
    while True:
        moved = (
            _carry(client, server, chunk_bytes),
            _carry(server, client, chunk_bytes),
        )
        if not any(moved):
            return by_client, by_server
        by_client += moved[0]
        by_server += moved[1]


def _carry(source: TLSConnection, target: TLSConnection, chunk_bytes: int | None) -> int:
    _move_on(source)
    data = source.data_to_send()
    for chunk in _chunks(data, chunk_bytes):
        target.feed(chunk)
        _move_on(target)
    return len(data)


def _move_on(connection: TLSConnection) -> None:
    with suppress(TLSError):  # the connection raises the error again whenever it is used
        connection.do_handshake()
    connection.look_ahead()


################################################################
# Two streams
################################################################


def tls_stream_pair(
    transports: tuple[T_Client, T_Server],
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    *,
    server_hostname: str | None = "localhost",
    **options: Any,
) -> tuple[TLSStream[T_Client], TLSStream[T_Server]]:
    """Put TLS over both ends of a transport. The handshake is not done: see :func:`do_handshakes`.

    Trio provides transports in memory: :func:`trio.testing.memory_stream_pair` accepts all data at
    once, while with :func:`trio.testing.lockstep_stream_pair` each send waits until the other side
    has received the data::

        client, server = tls_stream_pair(memory_stream_pair(), client_context, server_context)

    Args:
      transports: The client's end and the server's.
      client_context: The client's settings.
      server_context: The server's settings.
      server_hostname: The name that the client requests and verifies.
      options: Further arguments for both :class:`~trio_tlsbio.TLSStream` objects.

    Returns:
      The client and the server.

    Raises:
      TypeError: if ``transports`` is a single stream.
    """
    if not isinstance(transports, Iterable):
        raise TypeError(
            f"transports must be both ends of a transport, not one {kind_of(transports)}: "
            "pass what memory_stream_pair() returns"
        )
    client, server = transports
    return (
        TLSStream(client, client_context, server_hostname=server_hostname, **options),
        TLSStream(server, server_context, server_side=True, **options),
    )


async def do_handshakes(client: TLSStream[Any], server: TLSStream[Any]) -> None:
    """Complete the handshake of two streams that are connected with each other.

    If this is cancelled, the streams are in the same state as after a cancelled
    :meth:`~trio_tlsbio.TLSStream.do_handshake`.

    Raises:
      trio_tlsbio.TLSError: if the handshake failed. If it failed on both sides, this is the
        original error, rather than the alert that reports it. A stream that failed is closed, so
        that the other one does not wait for it.
    """
    errors: list[TLSError] = []

    async def run(stream: TLSStream[Any]) -> None:
        try:
            await stream.do_handshake()
        except TLSError as exc:
            errors.append(exc)
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run, client)
        nursery.start_soon(run, server)
    if errors:
        try:
            raise min(errors, key=lambda error: isinstance(error, PeerAlertError))
        finally:
            errors.clear()  # otherwise its traceback would keep it alive in a cycle


publish(__name__)
