"""OpenSSL on an open connection, with workarounds for the quirks of OpenSSL and Python's ssl
module.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import cache
from typing import Any, TypeAlias

import attrs

from .errors import TLSError
from .inbox import MOST_RECORDS, Inbox
from .openssl_errors import IS_PYPY, clean_up, empty_error_queue, may_be_foreign, reason_of
from .outbox import Outbox
from .record_refusals import reason_of_refusal
from .records import DATA_SHIFT, HEADER_BYTES, RECORD_BYTES, Data, byte_view, is_acceptable
from .states import Event

__all__ = ["Engine", "Failure", "Happening", "SEAL_BYTES", "call_openssl", "placeholder_context"]

SEAL_BYTES = HEADER_BYTES + 1 + 16
"""The size that encryption adds in TLS 1.3: header, content type and tag (RFC 9846 section 5.2), in
bytes.
"""

# The maximum cost of a record in TLS 1.3, where all records look alike until they are decrypted.
# One without data may be a KeyUpdate, which takes as long as 16 other records, or contain a ticket
# in every 18 bytes, each of which takes as long as two records. A request for a certificate
# requires a signature.
_KEY_UPDATE_COST = 16
_SIGNATURE_COST = 192
_TICKETS_SHIFT = 3


# The length of a Finished record without another message, in TLS 1.2 with ChaCha20 and with GCM: 16
# bytes, a tag of 16, and a nonce of 8 or none (RFC 7905 section 2, RFC 5288 section 3).
_LONE_FINISHED = ((16 + 16).to_bytes(2), (8 + 16 + 16).to_bytes(2))

# Enum lookups cost three calls; the members are bound once.
_TRANSPORT_ENDED, _CLOSE_NOTIFY_SENT = Event.TRANSPORT_ENDED, Event.CLOSE_NOTIFY_SENT
_CLOSE_NOTIFY_RECEIVED = Event.CLOSE_NOTIFY_RECEIVED


@attrs.frozen
class Failure:
    """OpenSSL, or Python code that it calls, can't continue."""

    exc: Exception
    refusal: str | None = None
    """Why OpenSSL has refused a record, in OpenSSL's terms, if that is known."""
    header: bytes = b""
    """The header of the record that was read last."""


Happening: TypeAlias = Event | Failure | TLSError


def call_openssl(
    method: Callable[..., Any], *args: object, suspect: Exception | None = None
) -> Any:
    """Call a method of an SSLObject, and repeat the call if its error may be a foreign one.

    Args:
      method: The method to call.
      *args: Its arguments.
      suspect: The error of a first call, if this is the second. It is raised if the second call
        fails too: by then OpenSSL only knows that the connection has failed before. See
        :func:`may_be_foreign`.
    """
    clean_up()
    if suspect is None:
        try:
            return method(*args)
        except ssl.SSLWantReadError:
            raise
        except Exception as exc:
            if not may_be_foreign(exc):
                raise
            suspect = exc
    try:
        return method(*args)
    except (ssl.SSLWantReadError, ssl.SSLZeroReturnError):
        raise
    except Exception as exc:
        if _is_shut_down_too_early(exc):
            raise
    raise suspect


def _is_shut_down_too_early(exc: Exception) -> bool:
    """Return True if a close_notify can't be written yet because the peer renegotiates."""
    return getattr(exc, "reason", None) == "SHUTDOWN_WHILE_IN_INIT"


@cache
def placeholder_context() -> ssl.SSLContext:
    """Return a placeholder for a server's context that is not chosen yet. It has no certificate, so
    OpenSSL refuses every client; it only gets messages that are not a ClientHello.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Without a callback that could provide certificates, OpenSSL would rule out TLS 1.3 at once.
    context.sni_callback = lambda *_: None
    return context


@attrs.define(eq=False)
class Engine:
    """Decrypts from the inbox, encrypts into the outbox, and reports events."""

    server_side: bool
    inbox: Inbox
    outbox: Outbox
    #: OpenSSL's connection. Missing until :meth:`use_context`.
    ssl_object: ssl.SSLObject = attrs.field(init=False)
    has_context: bool = False
    #: Called after records that were not data.
    on_message: Callable[[], None] | None = None
    #: Called with the bytes that OpenSSL has written while decrypting.
    on_answers: Callable[[bytes], None] | None = None
    #: True if the peer may start another handshake, as in TLS 1.2.
    may_renegotiate: bool = False
    _is_tls13: bool = False  # version() returns None after a failure
    # True if OpenSSL may hold a message that neither pending() nor the BIO shows: in TLS 1.2, a
    # message can follow the Finished in the same record.
    _may_hold_message: bool = False

    def use_context(self, ssl_context: ssl.SSLContext, server_hostname: str | None = None) -> None:
        """Create OpenSSL's connection with these settings."""
        self.ssl_object = ssl_context.wrap_bio(
            self.inbox.bio, self.outbox.bio, self.server_side, server_hostname
        )
        self.has_context = True

    def ensure_context(self) -> None:
        """Use the context of a placeholder, unless there is one."""
        if not self.has_context:
            self.use_context(placeholder_context())

    def open(self, *, is_tls13: bool, may_sign: bool) -> None:
        """Start the data phase, after the handshake.

        Args:
          is_tls13: Whether TLS 1.3 was negotiated.
          may_sign: Whether this side may be asked for a certificate, and so for a signature.
        """
        inbox = self.inbox
        if is_tls13:
            inbox.records.cost = _SIGNATURE_COST if may_sign else _KEY_UPDATE_COST
            inbox.records.shift = _TICKETS_SHIFT
        # A server has only session tickets to send then. OpenSSL has already written them, but the
        # client may not read before it has written a lot.
        self.outbox.may_wait = is_tls13 and self.server_side
        self._is_tls13 = is_tls13
        self.may_renegotiate = not is_tls13
        self._may_hold_message = (
            not is_tls13 and inbox.records.last_header[3:] not in _LONE_FINISHED
        )
        inbox.wants_data = not (self._may_hold_message or inbox.has_ended) and inbox.is_empty

    @property
    def may_have_read_ahead(self) -> bool:
        """True if there may be something to decrypt."""
        inbox = self.inbox
        return bool(
            self._may_hold_message
            or inbox.bio.pending
            or inbox.records.waiting
            or self.ssl_object.pending()
        )

    # Everything is in one loop, because each record would pay for a call.
    def decrypt(  # noqa: C901, PLR0912, PLR0915
        self, max_bytes: int | None
    ) -> tuple[bytes, Happening | None]:
        """Return the data that can be decrypted now, at most ``max_bytes``, and the event that
        ended it.

        If the event is None, the inbox shows whether more ciphertext is needed, or this call has
        reached its limit.
        """
        chunks: list[bytes] = []
        happening: Happening | None = None
        size, left = RECORD_BYTES, max_bytes
        inbox, read = self.inbox, self.ssl_object.read
        bio, records = inbox.bio, inbox.records
        records.allowance, inbox.is_behind = MOST_RECORDS, False  # as begin_share() does
        if IS_PYPY:
            empty_error_queue()
        if not bio.pending and not inbox.refill(is_acceptable):
            # Only the rest of a partially read record can be available.
            inbox.wants_data = not (
                inbox.has_ended or self._may_hold_message or self.ssl_object.pending()
            )
        while not inbox.wants_data:
            if left is not None:
                size = min(left, RECORD_BYTES)
            try:
                try:
                    chunk = read(size)  # at most one record
                except ssl.SSLWantReadError:
                    raise
                except ssl.SSLError as exc:
                    if not may_be_foreign(exc):
                        raise
                    chunk = call_openssl(read, size, suspect=exc)
            except ssl.SSLWantReadError:
                if self._goes_on_after_message():
                    continue
                if inbox.has_ended and not inbox.is_behind:
                    happening = _TRANSPORT_ENDED
                break
            except ssl.SSLZeroReturnError:
                happening = _CLOSE_NOTIFY_RECEIVED
                break
            except Exception as exc:
                happening = self.failure(exc)
                break
            if not chunk:  # after our own close_notify, this would have been an exception
                happening = _CLOSE_NOTIFY_RECEIVED
                break
            chunks.append(chunk)
            if records.waiting:
                # Refund the difference: data costs less than the maximum for a record.
                count = len(chunk)
                charged = records.cost + ((count + SEAL_BYTES) >> records.shift)
                records.allowance += charged - 1 - (count >> DATA_SHIFT)
            if left is not None:
                left -= len(chunk)
                if not left:
                    break
            if bio.pending:
                continue
            # Avoid the exception that a read without ciphertext would raise.
            if not records.waiting:
                inbox.wants_data = not inbox.has_ended
                break
            if not inbox.refill(is_acceptable):
                inbox.ask_for_more()
                break
        if self.outbox.bio.pending:
            self._collect_answers(happening)
        if chunks:
            inbox.has_decrypted = True
            records.is_single = False  # the first tickets arrive before data
        return b"".join(chunks), happening  # a single chunk is not copied

    def _goes_on_after_message(self) -> bool:
        """Handle a record that was not data. Return True if OpenSSL has got more records."""
        self._may_hold_message = False
        self._collect_answers(None)  # otherwise the BIO would grow with them, and never shrink
        if self.on_message is not None and not self.inbox.records.missing:
            self.on_message()
        if self.inbox.refill(is_acceptable):
            return True
        self.inbox.ask_for_more()
        return False

    def _collect_answers(self, happening: Happening | None) -> None:
        answers = self.outbox.collect_answers()
        if self.on_answers is not None and not isinstance(happening, Failure):
            self.on_answers(answers)

    def encrypt(self, data: Data) -> bytes | Failure:
        """Encrypt data. Return the rest that OpenSSL does not accept because the peer
        renegotiates.
        """
        if type(data) is not bytes or len(data) > RECORD_BYTES:
            data = byte_view(data)  # slices of a view are not copies
        write, outbox = self.ssl_object.write, self.outbox
        if IS_PYPY:
            empty_error_queue()
        while data:  # to OpenSSL, an empty write would mean the end
            try:
                try:
                    taken = write(data[:RECORD_BYTES])
                except ssl.SSLError as exc:
                    if not may_be_foreign(exc):
                        raise
                    taken = call_openssl(write, data[:RECORD_BYTES], suspect=exc)
            except ssl.SSLWantReadError:
                outbox.collect()
                return bytes(data)
            except Exception as exc:
                failure = self.failure(exc)
                outbox.collect()
                return failure
            data = data[taken:]
            outbox.pieces.append(outbox.bio.read())
        return b""

    def request_certificate(self) -> Happening | None:
        """Request the client's certificate (RFC 9846 section 4.7.2).

        Raises:
          ssl.SSLError: if the client can't be asked.
        """
        happening: Happening | None = None
        try:
            self.ssl_object.verify_client_post_handshake()
        finally:
            clean_up()
        try:
            call_openssl(self.ssl_object.do_handshake)  # writes the request
        except Exception as exc:
            happening = self.failure(exc)
        self.outbox.collect()
        return happening

    def close(self) -> Happening | None:
        """Write our close_notify. Return None if that is not possible yet because the peer
        renegotiates.
        """
        # SSLObject.unwrap() calls SSL_shutdown(3) twice. The first call writes our close_notify.
        # The second one looks for the peer's, and would fail permanently on data that comes before
        # it. So keep the BIO empty during the calls.
        self.inbox.put_back()
        happening: Happening | None = _CLOSE_NOTIFY_SENT
        try:
            call_openssl(self.ssl_object.unwrap)
        except ssl.SSLWantReadError:
            pass  # our close_notify is written, and the peer's has not arrived
        except Exception as exc:
            happening = None if _is_shut_down_too_early(exc) else self.failure(exc)
            clean_up()
        self.outbox.collect()
        return happening

    def failure(self, exc: Exception) -> Failure:
        """Return a description of a failure, as long as the BIOs still contain the bytes
        concerned.
        """
        clean_up()
        inbox, outbox = self.inbox, self.outbox
        header = inbox.records.last_header
        if not isinstance(exc, ssl.SSLError) or reason_of(exc) != "RECORD_LAYER_FAILURE":
            return Failure(exc, header=header)
        rest, written = inbox.bio.read(), outbox.bio.read()
        inbox.bio.write(rest)
        outbox.bio.write(written)
        refusal = reason_of_refusal(
            header,
            rest,
            written,
            is_split=inbox.records.missing > 0,
            is_tls13=self._is_tls13,
        )
        return Failure(exc, refusal, header)
