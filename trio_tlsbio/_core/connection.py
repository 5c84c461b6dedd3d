"""The pure core: ciphertext in, plaintext out, and the other way round. No I/O, clock or tasks."""

from __future__ import annotations

import operator
import ssl
import sys
from contextlib import suppress
from functools import partial
from typing import NoReturn

import attrs
import trio

from .arguments import check_arguments
from .certificates import presented_names
from .error_queue import IS_PYPY, clean_up, empty_error_queue, is_openssl_error, may_be_foreign
from .errors import PeerAlertError, PostHandshakeAuthError, TLSError, caused_by, truncated
from .explain import explain
from .handshake_info import HandshakeInfo
from .hello import HelloWatch
from .key_exchange import KeyExchangeWatch
from .native_session import LOOKS_ARE_CHEAP, current_session, resume, session_id
from .records import (
    APPLICATION_DATA,
    DATA_SHIFT,
    HEADER_BYTES,
    RECORD_BYTES,
    Data,
    Records,
    byte_view,
    is_acceptable,
    is_possible_in_plaintext,
    record_bounds,
)
from .refusals import reason_of_refusal
from .sessions import TLSSession, VerificationSettings, refuse_copy
from .sni import context_for_name, note_requested_hostname, refused_hostname
from .states import Event, Side, State, advance

__all__ = ["SLICE_BYTES", "TLSConnection"]

# To look up an enum's member takes as long as three calls do, so it is done once.
_HANDSHAKE, _OPEN, _CLOSED, _FAILED = State.HANDSHAKE, State.OPEN, State.CLOSED, State.FAILED

# Upper bound on session lookups of a connection: a server can send tickets forever. One yields the
# ticket that the next connection needs.
_MOST_LOOKS = 16 if LOOKS_ARE_CHEAP else 1

# How many records one call decrypts at most: those of a flood are tiny, thousands fit into what is
# read at once, and each takes some three microseconds. In TLS 1.3 one without data may be a
# KeyUpdate, which takes as long as 16 others, or hold a ticket in every 18 bytes, which takes as
# long as two. A request for a certificate takes a signature. What a record is shows once it is
# decrypted.
_MOST_RECORDS = 1536
_KEY_UPDATE_COST = 16
_SIGNATURE_COST = 192
_TICKETS_SHIFT = 3

# How much may arrive while the peer renegotiates and data is held for that, or while a client's
# certificate is awaited, in bytes.
_MOST_LOOK_AHEAD = 1024 * 1024

# What encryption adds to a message of TLS 1.3: header, content type, tag (RFC 9846 section 5.2).
_SEAL_BYTES = HEADER_BYTES + 1 + 16

# An encrypted KeyUpdate (RFC 9846 section 4.7.3).
_KEY_UPDATE_BYTES = 5 + _SEAL_BYTES

SLICE_BYTES = 16 * RECORD_BYTES
"""How much goes to a transport at a time, in bytes."""


@attrs.define(eq=False, init=False, repr=False)
class TLSConnection:
    """One TLS connection as a pure state object: bytes go in, bytes come out, nothing waits.

    What the transport received goes into :meth:`feed`, its end into :meth:`feed_eof`; what
    :meth:`data_to_send` returns goes out. Between them :meth:`receive` and :meth:`send` deal in
    plaintext. Any of them moves the handshake on; after each call, look for data to send::

        connection = TLSConnection(ssl_context, server_hostname="example.org")
        while not connection.do_handshake():
            sock.sendall(connection.data_to_send())
            connection.feed(sock.recv(65536))  # feed_eof() if it is empty

    Args:
      ssl_context: Makes the :class:`ssl.SSLObject`; its ``sslobject_class`` is honoured.
      server_side: Whether this end is the server.
      server_hostname: The name of the server, for SNI and for the check of its certificate.
        Internationalised names are encoded by IDNA 2008. Clients only, where it is needed if
        ``ssl_context.check_hostname`` is set.
      session: The session of an earlier connection to resume. Clients only.
      collect_sessions: Keep every session that the server gives for :meth:`new_sessions`. This
        takes a little time for each, and is not needed for :attr:`session`, the latest one.

    Raises:
      ValueError: for arguments that don't go together, before a byte is made.

    An error of the connection is raised as a :exc:`TLSError` by every call that needs what no
    longer works, each time. What OpenSSL left to tell the peer about it, an alert, is then in
    :meth:`data_to_send`.
    """

    #: The ciphertext that waits to be sent, in pieces. Look at it, and say with :meth:`mark_sent`
    #: how much of it was sent, or take it all with :meth:`data_to_send`.
    unsent: list[bytes | memoryview]
    #: Plaintext, and None for a close_notify, that waits for a handshake to be done.
    held: list[bytes | None]
    #: True if :meth:`receive` and :meth:`do_handshake` need more ciphertext to get on.
    wants_data: bool
    #: True if the last call has done its share of what was fed: the next one goes on with the rest.
    is_behind: bool
    #: Whether any plaintext of the peer has arrived.
    data_received: bool
    _ssl_object: ssl.SSLObject
    _incoming: ssl.MemoryBIO
    _outgoing: ssl.MemoryBIO  # empty between two calls
    _answered: int  # see bytes_answered
    _fed: Records  # what has not gone into the incoming BIO yet
    _hello_watch: HelloWatch | None  # on servers whose context looks at names, until that is done
    _key_exchange_watch: KeyExchangeWatch | None  # until the handshake is done
    _eof_fed: bool
    _may_renegotiate: bool
    _plaintext: bytearray  # what came out of OpenSSL before it was asked for
    _trailing: bytearray
    _send_state: State
    _receive_state: State
    _sources: frozenset[object]  # of its errors: see claim()
    _send_error: TLSError | None
    _receive_error: TLSError | None
    _handshake: HandshakeInfo | None
    _awaits_certificate: bool  # of a client that was asked for it
    # Whether OpenSSL may hold a message that neither pending() nor the BIO shows: in TLS 1.2 one
    # may follow the Finished in the same record.
    _may_hold_message: bool
    # What sessions of this connection are bound to, as it was when the connection was made.
    _ssl_context: ssl.SSLContext
    _native_context: ssl.SSLContext
    _settings: VerificationSettings | None
    # Collecting sessions: those that wait to be taken, the ids of all, and how often to look for
    # one. OpenSSL only tells of the latest, so after the handshake it gets single records.
    _collects: bool
    _new_sessions: list[TLSSession]
    _offered_id: bytes | None  # of the session to resume
    _known_ids: set[bytes]
    _knows_no_other: bool  # than the one that was offered
    _looks_left: int
    _by_record: bool
    _may_be_ticket: bool

    def __init__(
        self,
        ssl_context: ssl.SSLContext,
        *,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: TLSSession | None = None,
        collect_sessions: bool = False,
    ) -> None:
        name, raw_session = check_arguments(
            ssl_context, server_side=server_side, server_hostname=server_hostname, session=session
        )
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._ssl_object = ssl_context.wrap_bio(
            self._incoming,
            self._outgoing,
            server_side=server_side,
            server_hostname=name,
            session=raw_session if isinstance(raw_session, ssl.SSLSession) else None,
        )
        if raw_session is not None and not isinstance(raw_session, ssl.SSLSession):
            resume(self._ssl_object, raw_session)
        self.unsent = []
        self._answered = 0
        self.held = []
        self.wants_data = self.is_behind = False
        self.data_received = False
        self._fed = Records()
        watches_hello = server_side and ssl_context.sni_callback is not None
        self._hello_watch = HelloWatch() if watches_hello else None
        self._key_exchange_watch = KeyExchangeWatch()
        self._eof_fed = False
        self._may_renegotiate = False
        self._plaintext = bytearray()
        self._trailing = bytearray()
        self._send_state = _HANDSHAKE
        self._receive_state = _HANDSHAKE
        self._sources = frozenset({object()})
        self._send_error = None
        self._receive_error = None
        self._handshake = None
        self._awaits_certificate = False
        self._may_hold_message = False
        self._ssl_context = ssl_context
        self._native_context = self._ssl_object.context
        if session is not None:
            self._settings = session._settings  # which the context has, or it would not fit
        else:
            self._settings = None if server_side else VerificationSettings.of(self._native_context)
        self._collects = collect_sessions and not server_side
        self._new_sessions = []
        self._offered_id = None if session is None else session.id
        self._known_ids = set() if self._offered_id is None else {self._offered_id}
        self._knows_no_other = True
        self._looks_left = _MOST_LOOKS
        self._by_record = watches_hello  # so that each record passes through _refill()
        self._may_be_ticket = False
        if not server_side:
            try:
                self.do_handshake()  # makes the ClientHello
            except TLSError as exc:
                raise ValueError(f"nothing can be offered with this ssl_context: {exc}") from exc

    def __repr__(self) -> str:
        side = "server" if self._ssl_object.server_side else "client"
        return (
            f"<TLSConnection {side}: sending {self._send_state.value}, "
            f"receiving {self._receive_state.value}>"
        )

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)

    ################################################################
    # What it knows
    ################################################################

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The :class:`ssl.SSLObject` beneath, for all that has no name here.

        Use it to look; its ``read``, ``write`` and ``unwrap`` would act behind this object's back.
        """
        return self._ssl_object

    @property
    def send_state(self) -> State:
        """What our direction can do."""
        return self._send_state

    @property
    def receive_state(self) -> State:
        """What the peer's direction can do, once the plaintext that is ready was received."""
        return self._receive_state

    @property
    def error(self) -> TLSError | None:
        """The failure that ended either direction; None if there is none, or the end is clean."""
        return self._receive_error or self._send_error

    @property
    def handshake(self) -> HandshakeInfo | None:
        """What the handshake agreed on; None until it is done."""
        return self._handshake

    @property
    def session(self) -> TLSSession | None:
        """What a later connection to the same server can resume with, once there is one.

        Servers send it after the handshake in TLS 1.3, so it is there after something was
        received. None on servers, on a connection that failed (RFC 5246 section 7.2.2), and if an
        ``sslobject_class`` has a ``do_handshake`` of its own, as truststore's does: it may verify
        the peer there, and a resumed handshake has no certificates to verify.
        """
        if (
            self._settings is None
            or self._handshake is None
            or type(self._ssl_object).do_handshake is not ssl.SSLObject.do_handshake
            or _FAILED in (self._send_state, self._receive_state)
            # Another context was set: what was verified is not known any more.
            or self._ssl_object.context is not self._native_context
        ):
            return None
        session = current_session(self._ssl_object)
        # TLS 1.3 has a session object from the start, but it is of use only with a ticket; in
        # TLS 1.2 the server may remember it by its id instead.
        if session is None or not (session.has_ticket or session.id):
            return None
        # RFC 9846 appendix C.4: a client should not offer a ticket of TLS 1.3 twice. The one that
        # it has offered stays in place until the server gives another one.
        single_use = self._handshake.version == "TLSv1.3"
        if single_use and session_id(session) == self._offered_id:
            return None
        return TLSSession(
            self._ssl_object.server_hostname,
            single_use,
            self._ssl_context,
            self._native_context,
            self._settings,
            session,
        )

    def new_sessions(self) -> list[TLSSession]:
        """Take the sessions that the server has given since the last call.

        A TLS 1.3 server usually gives two tickets after the handshake, so there are some after
        :meth:`receive`. Empty without ``collect_sessions``.
        """
        sessions, self._new_sessions = self._new_sessions, []
        return sessions

    def look_for_session(self) -> None:
        """Look once more for a session, if there was none yet; to be called at the end.

        OpenSSL does not tell when one comes along with data, and looking takes a tenth of a
        millisecond.
        """
        if self._collects and self._knows_no_other:
            self._collect_session()

    def _collect_session(self) -> None:
        if not self._looks_left:
            return
        self._looks_left -= 1
        session = self.session
        if session is not None and session.id not in self._known_ids:
            self._known_ids.add(session.id)
            self._knows_no_other = False
            self._new_sessions.append(session)

    @property
    def trailing_data(self) -> bytes:
        """What came after the peer's close_notify. It is not TLS, and belongs to what follows.

        Empty until :meth:`receive` returned ``b""``.
        """
        return bytes(self._trailing)

    ################################################################
    # The peer's direction
    ################################################################

    def feed(self, data: Data) -> None:
        """Take ciphertext that came from the peer.

        Never raises for what the peer sent: :meth:`receive` and :meth:`do_handshake` do. A peer can
        make us answer without end: see :attr:`bytes_answered`.

        Raises:
          ValueError: after :meth:`feed_eof`.
        """
        if self._eof_fed:
            raise ValueError("feed() after feed_eof(): the transport ended already")
        if self._receive_state is _CLOSED:
            self._trailing += bytes(data)
        elif self._receive_state is not _FAILED:  # else nobody will ask for it
            self.wants_data = False
            if self._key_exchange_watch is not None and not self._ssl_object.server_side:
                self._key_exchange_watch.add(data)
            fed, size = self._fed, len(data)
            if (
                type(data) is bytes
                and size > HEADER_BYTES
                and data[0] == APPLICATION_DATA
                and size == HEADER_BYTES + (data[3] << 8 | data[4])
                and not (fed.waiting or fed.missing or self._by_record or self._incoming.pending)
            ):
                # A single record of data, with nothing before it that waits or has not been read:
                # the usual case, in which a queue would only take time.
                self._incoming.write(data)
            else:
                fed.feed(data)

    def feed_eof(self) -> None:
        """Take note that the transport ended.

        Without a close_notify before it, :meth:`receive` raises :exc:`TruncationError`.
        """
        self._eof_fed = True
        self.wants_data = False

    def _refill(self) -> bool:
        """Give OpenSSL, which has used up all it had, what it can decrypt of what was fed; False if
        that is nothing, or if the call has decrypted enough. So the BIO never holds more than a few
        records.
        """
        if self._hello_watch is not None:
            return self._refill_watched(self._hello_watch)
        if self._may_be_ticket:
            self._may_be_ticket = False
            self._collect_session()
        waits_for = is_acceptable if self._receive_state is _OPEN else _wait_for_no_rest
        data = self._fed.take(single=self._by_record, waits_for=waits_for)
        if not data:
            return False
        self._incoming.write(data)
        if self._by_record:
            self._may_be_ticket = True  # unless it turns out to hold data
            self._by_record = self._looks_left > 0
        return True

    def _refill_watched(self, watch: HelloWatch) -> bool:
        """Refill while a ClientHello may come: OpenSSL gets it whole, by the context for its name.

        If that were left to the sni_callback, OpenSSL would look for a session to resume before it
        has the context; and CPython prints a traceback for a name that is not ASCII.
        """
        if self._outgoing.pending:
            self._collect()
            watch.answered(self.unsent[-1])
        is_first, may_go_on = not watch.has_hello, False
        while not (watch.is_over or may_go_on) and (
            record := self._fed.take(single=True, waits_for=is_possible_in_plaintext)
        ):
            may_go_on = watch.add(record)
        if watch.refusal is not None:
            self._hello_watch = None
            self._fed.take_all()
            self.unsent.append(watch.refusal.alert)
            self._happened(Event.FAILURE, watch.refusal.error)
            return False
        if is_first and watch.has_hello:
            self._use_context_for(watch.server_name)
        if watch.is_over:
            self._hello_watch, self._by_record = None, False
        if not (watch.is_over or may_go_on):
            return False
        self._incoming.write(watch.take())
        return self._incoming.pending > 0 or self._refill()

    def _use_context_for(self, name: str | None) -> None:
        """Begin with the context that a :func:`sni_context` has for a name."""
        context = context_for_name(self._ssl_context, name)
        if context is not self._ssl_context:
            self._ssl_object = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        note_requested_hostname(self._ssl_object, name)

    def receive(self, max_bytes: int | None = None) -> bytes | None:
        """Return plaintext that the peer sent: what there is, or up to ``max_bytes``.

        One call decrypts a bounded number of records, so that no peer can hold up the caller with
        thousands of tiny ones.

        Returns:
          None if there is none: more ciphertext has to be fed first if :attr:`wants_data`, else
          the call has done its share, and the next one goes on. ``b""``, each time, once the peer
          has ended its direction with a close_notify.

        Raises:
          TLSError: if the handshake or a record failed, after what came before it was returned.
          TruncationError: if the transport ended without a close_notify.
          ValueError: if ``max_bytes`` is not positive.
        """
        if max_bytes is not None:
            max_bytes = operator.index(max_bytes)
            if max_bytes < 1:
                raise ValueError("max_bytes must be >= 1")
        if self.wants_data:
            return None
        # What follows the handshake may have failed already: data that came before are returned.
        if self._receive_state is _HANDSHAKE and not self._shake_hands_to_the_end():
            return None
        if self._plaintext:
            data = bytes(self._plaintext[:max_bytes])
            del self._plaintext[: len(data)]
        else:
            data = self._decrypt(max_bytes)
            if self.held and not self.is_behind:
                self._encrypt_held()  # what was decrypted may have ended a renegotiation
        if data:
            return data
        if self._receive_state is _OPEN:
            return None
        if self._receive_state is _CLOSED:
            return b""
        assert self._receive_error is not None
        raise self._receive_error.again()

    @property
    def bytes_to_receive(self) -> int:
        """How many bytes of plaintext :meth:`look_ahead` has put aside for :meth:`receive`."""
        return len(self._plaintext)

    def look_ahead(self) -> bool:
        """Decrypt what was fed already, for :meth:`receive` to return later, and return whether
        that was all of it: like :meth:`receive` this does a bounded share.

        Never raises. An alert in it is known from now on, and every call that can't succeed any
        more raises it.
        """
        self._plaintext += self._decrypt(None)
        self.wants_data = self.wants_data and not self._plaintext
        return not self.is_behind

    def drop_received(self) -> None:
        """Throw away the ciphertext that was fed and not decrypted, for good."""
        self._incoming.read()
        self._fed.take_all()
        self.is_behind = False

    # One loop, since each record would pay for a call.
    def _decrypt(self, max_bytes: int | None) -> bytes:  # noqa: C901
        """Return what can be decrypted now. What ends the direction is left in its state."""
        chunks: list[bytes] = []
        left = sys.maxsize if max_bytes is None else max_bytes
        incoming, fed, read = self._incoming, self._fed, self._ssl_object.read
        suspect: TLSError | None = None
        fed.allowance, self.is_behind = _MOST_RECORDS, False
        if IS_PYPY:
            empty_error_queue()  # as clean_up() does, without a call for each message
        if self._receive_state is _OPEN and not incoming.pending and not self._refill():
            # Only the rest of a record that was read in part can be there.
            self.wants_data = not (
                self._eof_fed or self._may_hold_message or self._ssl_object.pending()
            )
        while self._receive_state is _OPEN and not self.wants_data:
            try:
                # One call returns one record at most.
                chunk = read(min(left, RECORD_BYTES))
            except Exception as exc:
                if suspect is None and may_be_foreign(exc):
                    suspect = self._explained(exc)
                    continue
                if self._goes_on_after(exc, suspect):
                    suspect = None
                    continue
                break
            if not chunk:  # their close_notify; had we sent ours, it would have been an exception
                self._end_cleanly()
                break
            self._by_record = self._may_be_ticket = False  # the first tickets come before data
            self.data_received = True
            chunks.append(chunk)
            size = len(chunk)
            left -= size
            if fed.waiting:
                # Data costs less than what the record could have been.
                fed.allowance += fed.cost - 1 + ((size + _SEAL_BYTES) >> fed.shift)
                fed.allowance -= size >> DATA_SHIFT
            if not left:
                break
            if not incoming.pending and not (fed.waiting and self._refill()):
                # Without the exception that would say so.
                self.is_behind = fed.waiting > 0 and fed.is_spent
                self.wants_data = not (self.is_behind or self._eof_fed)
                break
        if self._outgoing.pending:
            self._collect_answers()
        return chunks[0] if len(chunks) == 1 else b"".join(chunks)

    def _goes_on_after(self, exc: Exception, suspect: TLSError | None) -> bool:
        """Whether to read again. What ends the direction is left in its state.

        ``suspect`` is the error that OpenSSL had before, if it was asked again: see
        :func:`may_be_foreign`.
        """
        if isinstance(exc, ssl.SSLWantReadError):
            self._may_hold_message = False
            self._collect_answers()  # or the BIO would grow with all of them, and stay so
            if self._refill():
                return True
            self.is_behind = self._fed.is_spent and self._unread
            if self.is_behind:
                return False
            if self._eof_fed:
                self._end_truncated(
                    "the connection ended without a close_notify: what was received may not be all"
                )
            else:
                self.wants_data = True
            if self._collects and not (self._by_record or self._eof_fed):
                self._collect_session()  # a record came that was no data
        elif isinstance(exc, ssl.SSLZeroReturnError):
            self._end_cleanly()
        else:
            self._fail(exc, suspect)
        return False

    def _end_cleanly(self) -> None:
        self._trailing += self._incoming.read() + self._fed.take_all()
        self._happened(Event.CLOSE_NOTIFY_RECEIVED)

    ################################################################
    # The handshake
    ################################################################

    def do_handshake(self) -> bool:
        """Move the handshake on, and return whether it is done.

        Until it is, send what :meth:`data_to_send` returns, feed what comes back (not needed
        unless :attr:`wants_data`), call again.
        While the peer renegotiates (TLS 1.2), it is not done for as long as something that was
        given to :meth:`send` is held: see :attr:`held`.

        Raises:
          TLSError: if it failed: see there for the reason.
          TruncationError: if the transport ended before it was done.
        """
        if not self._shake_hands_to_the_end():
            return False
        self.check_send()
        if self.held:
            # Decrypting first: in a renegotiation OpenSSL accepts data between the handshake's
            # messages when it reads, but fails for good on it when it writes.
            if self.look_ahead():
                self._encrypt_held()
                if self.held:
                    self._check_renegotiation()
            self.check_send()
        return not self.held

    def _check_renegotiation(self) -> None:
        """End a renegotiation that can't be completed any more, or that takes too much."""
        error: TLSError
        if self._receive_state is not _OPEN:
            error = truncated("the peer ended the connection while it renegotiated")
        elif self.bytes_to_receive > _MOST_LOOK_AHEAD:
            error = TLSError("the peer sends data without end where it should renegotiate")
        else:
            return
        self.held.clear()
        self._happened(Event.FAILURE, error)

    def _shake_hands_to_the_end(self) -> bool:
        """Take the steps of the handshake that can be taken now. False if it is not done then."""
        self._fed.allowance, self.is_behind = _MOST_RECORDS, False
        while self._send_state is _HANDSHAKE:
            if self.wants_data or self.is_behind:
                return False
            self._shake_hands()
        return True

    def _shake_hands(self, suspect: TLSError | None = None) -> None:
        """Take one step of the handshake; :attr:`wants_data` is set if the next one needs more.

        See :meth:`_goes_on_after` for ``suspect``.
        """
        if not self._incoming.pending:
            self._refill()
        clean_up()
        try:
            # Always by this method: an sslobject_class may verify the peer in it.
            self._ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            self._go_on_with_handshake()
        except ssl.SSLZeroReturnError:
            # A close_notify in the handshake comes from anybody: nothing is verified yet.
            message = "the peer gave up the handshake (alert close_notify)"
            self._happened(Event.FAILURE, PeerAlertError(message, alert="close_notify"))
        except Exception as exc:
            self._drop_finished(exc)
            if suspect is None and may_be_foreign(exc):
                self._shake_hands(self._explained(exc))
            else:
                self._fail(exc, suspect)
        except BaseException as exc:
            self._drop_finished(exc)
            raise
        else:
            self._complete_handshake()
        finally:
            flight = self._collect()
            if self._key_exchange_watch is not None and self._ssl_object.server_side:
                self._key_exchange_watch.add(flight)

    def _go_on_with_handshake(self) -> None:
        """Give OpenSSL more to read, or note what that takes."""
        if self._refill() or self._send_state is _FAILED:  # a ClientHello may be refused
            return
        self.is_behind = self._fed.is_spent and self._unread
        if self._eof_fed and not self.is_behind:
            self._end_truncated("the peer closed the connection during the handshake")
        else:
            self.wants_data = not self.is_behind

    def _complete_handshake(self) -> None:
        watch, self._key_exchange_watch = self._key_exchange_watch, None
        assert watch is not None
        self._handshake = HandshakeInfo.of(self._ssl_object, watch.group)
        self._may_renegotiate = self._handshake.version != "TLSv1.3"
        if not self._may_renegotiate:
            may_sign = not self._ssl_object.server_side and self._native_context.post_handshake_auth
            self._fed.cost = _SIGNATURE_COST if may_sign else _KEY_UPDATE_COST
            self._fed.shift = _TICKETS_SHIFT
        self._happened(Event.HANDSHAKE_DONE)
        self._may_hold_message = self._may_renegotiate
        self.wants_data = not (self._unread or self._eof_fed or self._may_hold_message)
        if self._collects:
            self._begin_collecting()
        self._encrypt_held()

    def _drop_finished(self, exc: BaseException) -> None:
        """Take back our Finished, if OpenSSL has written it and is content, as its version() tells,
        while Python code above it (truststore, for one) has refused the peer.
        """
        if self._ssl_object.version() is not None or not is_openssl_error(exc):
            self._outgoing.read()

    def _begin_collecting(self) -> None:
        if self._ssl_object.version() == "TLSv1.3":
            # OpenSSL stands between two records now. What it has not read is cut by records too.
            self._by_record = True
            if self._incoming.pending:
                self._fed.put_back(self._incoming.read())
        else:
            # In TLS 1.2 the ticket is a part of the handshake, and there is none after it. One
            # that was resumed may be renewed.
            self._collect_session()
            self._looks_left = 0

    ################################################################
    # A client's certificate after the handshake
    ################################################################

    def verify_client_post_handshake(self) -> None:
        """Ask the client for its certificate now (TLS 1.3, RFC 9846 section 4.7.2). Servers only.

        The answer comes with what is received: see :meth:`client_has_answered`. It takes a client
        that has offered this, and a context on this side with ``post_handshake_auth`` set, a
        ``verify_mode`` other than ``CERT_NONE``, and tickets. With ``CERT_REQUIRED`` a client that
        has no certificate fails the connection. Nothing is asked while an answer is awaited.

        Raises:
          PostHandshakeAuthError: if the client can't be asked. The connection goes on working.
          TLSError: if the connection failed.
          ValueError: if this side can't ask.
          trio.ClosedResourceError: after :meth:`send_close_notify`.
          trio.NeedHandshakeError: before the handshake is done.
        """
        self.check_send()
        if self._awaits_certificate:
            return
        if not self._ssl_object.server_side:
            raise ValueError("verify_client_post_handshake() is for servers")
        if self._handshake is None:
            raise trio.NeedHandshakeError("a certificate on request takes a handshake that is done")
        if self._send_state is _CLOSED:
            raise trio.ClosedResourceError(
                "can't ask for a certificate after send_eof() or send_close_notify()"
            )
        context = self._ssl_context  # its settings count, whatever an sni_callback has chosen
        if not context.post_handshake_auth or context.verify_mode is ssl.CERT_NONE:
            raise ValueError(
                "asking for a certificate after the handshake needs an SSLContext with "
                "post_handshake_auth set, and verify_mode CERT_OPTIONAL or CERT_REQUIRED"
            )
        if not context.num_tickets:
            # An answer is recognised by the tickets that follow it.
            raise ValueError(
                "asking for a certificate after the handshake needs an SSLContext with num_tickets "
                "above 0"
            )
        try:
            self._ssl_object.verify_client_post_handshake()
        except ssl.SSLError as exc:
            clean_up()
            error = PostHandshakeAuthError(
                "this client can't be asked for a certificate after the handshake: it does not "
                f"offer that, or speaks {self._handshake.version}",
                reason=exc.reason,
            )
            raise self.claim(error) from exc
        self._awaits_certificate = True
        try:
            self._ssl_object.do_handshake()  # writes the request
        except Exception as exc:
            self._fail(exc)
        self._collect()
        self.check_send()

    def client_has_answered(self) -> bool:
        """Decrypt what was fed for :meth:`receive` to return later, and return whether the client
        has answered :meth:`verify_client_post_handshake`.

        Once it has, :attr:`handshake` tells the certificate.

        Raises:
          PostHandshakeAuthError: if the client has ended its direction, or sends more than 1 MiB of
            data first, which is to be received then. The connection goes on working.
          TLSError: if the certificate was refused, or the connection failed otherwise.
          TruncationError: if the transport ended first.
        """
        self.look_ahead()
        if not self._awaits_certificate:
            return True
        if self._receive_error is not None:
            raise self._receive_error.again()
        if self._receive_state is _CLOSED:
            message = "the client ended its direction and did not answer with a certificate"
            raise self.claim(PostHandshakeAuthError(message))
        if self.bytes_to_receive > _MOST_LOOK_AHEAD:
            message = "the client sends data where it should answer with a certificate"
            raise self.claim(PostHandshakeAuthError(message))
        return False

    def _look_for_certificate(self, answers: bytes) -> None:
        """Look whether what OpenSSL wrote while it decrypted shows that a certificate has come.

        A server sends new tickets after each answer, an empty one too (see the state machine in
        OpenSSL's statem_srvr.c), and nothing else that is longer than a KeyUpdate.
        """
        is_answered = any(end - start > _KEY_UPDATE_BYTES for start, end in record_bounds(answers))
        if is_answered and self._receive_state is not _FAILED:
            self._awaits_certificate = False
            assert self._handshake is not None
            group = self._handshake.group
            self._handshake = HandshakeInfo.of(self._ssl_object, lambda _: group)

    ################################################################
    # Our direction
    ################################################################

    def send(self, data: Data) -> None:
        """Encrypt plaintext for the peer. Before the handshake is done it is held until then.

        Raises:
          trio.ClosedResourceError: after :meth:`send_close_notify`.
          TLSError: if the connection failed.
        """
        is_known = True  # whether the peer renegotiates: see do_handshake()
        if self._may_renegotiate and (
            self._unread or self._may_hold_message or self._ssl_object.pending()
        ):
            is_known = self.look_ahead()
        if self._send_state is not _OPEN or self.held or not is_known:
            self._hold(data, goes_on=is_known)
            return
        is_short = isinstance(data, bytes) and len(data) <= RECORD_BYTES
        # A slice of a view is no copy.
        left = data if is_short else byte_view(data)
        suspect: TLSError | None = None
        if IS_PYPY:
            empty_error_queue()
        while left:  # an empty write would mean the end to OpenSSL
            try:
                left = left[self._ssl_object.write(left[:RECORD_BYTES]) :]
            except ssl.SSLWantReadError:  # the peer renegotiates
                self.held.append(bytes(left))  # alone: what is held already is sent before
                left = b""
            except Exception as exc:
                if suspect is None and may_be_foreign(exc):
                    suspect = self._explained(exc)
                    continue
                self._fail(exc, suspect)
                left = b""
            if self._outgoing.pending:  # as _collect() does, without a call for each record
                self.unsent.append(self._outgoing.read())
        if self._send_error is not None:
            raise self._send_error.again()

    def _hold(self, data: Data, *, goes_on: bool) -> None:
        if self._send_state is _CLOSED or self._holds_close:
            raise trio.ClosedResourceError(
                "can't send data after send_eof() or send_close_notify()"
            )
        self.check_send()
        if data:
            self.held.append(bytes(data))
        if goes_on:  # else this call has done its share
            self.do_handshake()
        self.check_send()

    def send_close_notify(self) -> None:
        """End our direction: no more :meth:`send`, while :meth:`receive` goes on working.

        Before the handshake is done the close_notify is held until then. Calling it again does
        nothing. See RFC 9846 section 6.1; it works in TLS 1.2 as well.

        Raises:
          TLSError: if the connection failed.
        """
        if self._send_state is _CLOSED:
            return
        if not self._holds_close:
            self.held.append(None)
        if self._send_state is _OPEN:
            self._encrypt_held()
        else:
            self.do_handshake()
        self.check_send()

    @property
    def _unread(self) -> bool:
        return self._fed.waiting + self._incoming.pending > 0

    @property
    def _holds_close(self) -> bool:
        return bool(self.held) and self.held[-1] is None

    def _encrypt_held(self) -> None:
        held, self.held = self.held, []
        while held and not self.held and self._send_state is _OPEN:
            data = held.pop(0)
            if data is None:
                self._close()
            else:
                # Puts into the new list what OpenSSL does not take. Who needs it hears of errors.
                with suppress(TLSError):
                    self.send(data)
        self.held += held

    def _close(self) -> None:
        """Write our close_notify, unless what was fed already shows a failure: then the peer gets
        the alert.
        """
        fed, wanted_data = self._fed, self.wants_data
        fed.put_back(self._incoming.read())
        # A HelloRequest must not start a handshake now: it is looked at afterwards, when OpenSSL
        # ignores it.
        later = fed.take_from_handshake() if self._may_renegotiate else b""
        self.look_ahead()
        if self._send_state is _OPEN:
            # SSLObject.unwrap() calls SSL_shutdown(3) twice. The first call writes our
            # close_notify; the second looks for the peer's, and would fail for good with data of
            # the peer before it. So the BIO is empty meanwhile.
            fed.put_back(self._incoming.read())
            self._shut_down()
        if later:
            fed.feed(later)
            self.wants_data = wanted_data and self._send_state is _OPEN

    def _shut_down(self, suspect: TLSError | None = None) -> None:
        clean_up()
        try:
            self._ssl_object.unwrap()
        except ssl.SSLWantReadError:
            pass  # ours is written, and theirs has not come
        except Exception as exc:
            if getattr(exc, "reason", None) == "SHUTDOWN_WHILE_IN_INIT":
                self.held.append(None)  # the peer renegotiates
                clean_up()
            elif suspect is None and may_be_foreign(exc):
                self._shut_down(self._explained(exc))
            else:
                self._fail(exc, suspect)
            return
        finally:
            self._collect()
        self._happened(Event.CLOSE_NOTIFY_SENT)

    ################################################################
    # Ciphertext to send
    ################################################################

    def _collect(self) -> bytes:
        """Queue what OpenSSL wrote to be sent, and return it."""
        data = self._outgoing.read()
        # Nothing follows our close_notify, RFC 9846 section 6.1. OpenSSL would still answer a
        # KeyUpdate, or a request for a certificate.
        if data and self._send_state is not _CLOSED:
            self.unsent.append(data)
        return data

    def _collect_answers(self) -> None:
        """Queue what OpenSSL wrote while it decrypted."""
        answers = self._collect()
        if self._awaits_certificate:
            self._look_for_certificate(answers)
        if self._send_state is not _CLOSED:
            self._answered += len(answers)

    @property
    def bytes_to_send(self) -> int:
        """How many bytes of ciphertext wait to be sent."""
        return sum(map(len, self.unsent))

    @property
    def bytes_answered(self) -> int:
        """How many bytes the peer has made us write since nothing waited to be sent.

        It does by each KeyUpdate that requests one of ours (RFC 9846 section 4.7.3), for example.
        A peer that never reads could fill the memory with our answers: don't feed more while a lot
        of them waits.
        """
        return self._answered

    def data_to_send(self) -> bytes:
        """Take the ciphertext to put on the wire: all of it, ``b""`` if there is none."""
        data = b"".join(self.unsent)
        self.mark_sent(len(data))
        return data

    def mark_sent(self, count: int) -> None:
        """Drop the first ``count`` bytes of :attr:`unsent`: they are sent.

        Raises:
          ValueError: if ``count`` is negative or more than that.
        """
        unsent = self.unsent
        if len(unsent) == 1 and len(unsent[0]) == count:  # as it mostly is
            unsent.clear()
            self._answered = 0
            return
        left, pieces = count, 0
        while pieces < len(unsent) and len(unsent[pieces]) <= left:
            left -= len(unsent[pieces])
            pieces += 1
        if left < 0 or (left and pieces == len(unsent)):
            raise ValueError(f"count must be from 0 to {sum(map(len, unsent))}, not {count}")
        if left:
            unsent[pieces] = memoryview(unsent[pieces])[left:]
        del unsent[:pieces]
        if not unsent:
            self._answered = 0

    ################################################################
    # States and errors
    ################################################################

    def claim(self, error: TLSError) -> TLSError:
        """Mark an error as one of this connection, and return it."""
        error._sources = self._sources
        return error

    def run_inside(self, outer: TLSConnection) -> None:
        """Count errors of this connection as errors of ``outer`` too, whose peer causes them."""
        self._sources |= outer._sources

    def adopt(self, error: TLSError) -> None:
        """Count errors of this connection as errors of those that ``error`` is of, too: they carry
        this one.
        """
        self._sources |= error._sources

    def is_source_of(self, exc: BaseException) -> bool:
        """Whether an exception is an error of this connection, and not of another one.

        An error of a connection that runs inside this one, TLS in TLS, counts too.
        """
        return isinstance(exc, TLSError) and not self._sources.isdisjoint(exc._sources)

    def _happened(self, event: Event, error: TLSError | None = None) -> None:
        """Move both directions on, and keep the error for those that it ends."""
        if error is not None:
            self.claim(error)
        state = advance(Side.SEND, self._send_state, event)
        if state is not self._send_state:
            self._send_state, self._send_error = state, error
        state = advance(Side.RECEIVE, self._receive_state, event)
        if state is not self._receive_state:
            self._receive_state, self._receive_error = state, error
            self.wants_data = False

    def _end_truncated(self, message: str) -> None:
        self._happened(Event.TRANSPORT_ENDED, truncated(message))

    def _explained(self, exc: Exception) -> TLSError:
        """Return what an exception of OpenSSL, or of Python code above it, means."""
        clean_up()
        if isinstance(exc, ssl.SSLError):
            return explain(
                exc,
                names=partial(presented_names, self._ssl_object),
                server_hostname=self._ssl_object.server_hostname,
                refused_hostname=refused_hostname(self._ssl_object),
                agrees_by_psk=self._handshake is None and self._has_psk_cipher(),
                refusal=self._reason_of_refusal,
            )
        error = TLSError(f"the connection was refused: {type(exc).__name__}: {exc}")
        return caused_by(error, exc)

    def _has_psk_cipher(self) -> bool:
        """Whether the cipher is one of TLS 1.2 for pre-shared keys; those of TLS 1.3 don't say."""
        cipher = self._ssl_object.cipher()
        return cipher is not None and "PSK" in cipher[0]

    def _reason_of_refusal(self) -> str | None:
        """Look into what OpenSSL was given, and has written, for why it has refused a record."""
        rest, written = self._incoming.read(), self._outgoing.read()
        self._incoming.write(rest)
        self._outgoing.write(written)
        return reason_of_refusal(
            self._fed.last_header,
            rest,
            written,
            is_split=self._fed.missing > 0,
            is_tls13=self._ssl_object.version() == "TLSv1.3",
        )

    def _fail(self, exc: Exception, suspect: TLSError | None = None) -> None:
        """Remember the first error: OpenSSL reports only consequences of it from then on, and
        after a fatal alert even what looks like a clean end.
        """
        clean_up()
        self._happened(Event.FAILURE, suspect or self._explained(exc))

    def abort(self, error: TLSError) -> None:
        """End both directions for a reason that lies outside of TLS, a timeout for example.

        From now on every call raises ``error``, unless the connection failed before.
        """
        self._happened(Event.FAILURE, error)

    def check_send(self) -> None:
        """Raise what keeps data from being sent: a failure, or an end before the handshake."""
        if self._send_error is not None:
            raise self._send_error.again()


def _wait_for_no_rest(_: bytes) -> bool:
    """Give OpenSSL the beginning of any record: in the handshake it knows what it refuses."""
    return False
