"""A TLS connection without I/O: ciphertext in, plaintext out, and vice versa."""

from __future__ import annotations

import operator
import ssl
from contextlib import suppress
from typing import NoReturn

import attrs
import trio

from .arguments import Arguments, check_context
from .client_certificate import CertificateRequest, ask_for_certificate, check_may_answer
from .client_hello import ClientHello
from .engine import Engine, Failure, Happening
from .errors import RefuseHandshake, TLSError, truncated
from .explain import error_of, error_of_end
from .handshake import Handshake
from .handshake_info import HandshakeInfo
from .hello import HelloWatch
from .inbox import Inbox
from .misuse import max_bytes_error
from .native_session import resume
from .outbox import Outbox
from .records import Data, byte_view
from .sessions import SessionSource, TLSSession, refuse_copy
from .states import Event, Lifecycle, State
from .tickets import TicketWatch

__all__ = ["TLSConnection", "connection_of"]

# Enum lookups cost three calls; the members are bound once.
_HANDSHAKE, _OPEN, _CLOSED = State.HANDSHAKE, State.OPEN, State.CLOSED
_HANDSHAKE_DONE, _CLOSE_NOTIFY_SENT = Event.HANDSHAKE_DONE, Event.CLOSE_NOTIFY_SENT
_TRANSPORT_ENDED = Event.TRANSPORT_ENDED

# The most plaintext, in bytes, that is decrypted ahead during a renegotiation for which data is
# held back, or while waiting for a client's certificate. It is kept in memory, and more than a peer
# usually has on the way when it is asked.
_MOST_LOOK_AHEAD = 1024 * 1024


@attrs.define(eq=False, init=False, repr=False)
class TLSConnection:
    """One TLS connection as a state machine without I/O: bytes go in and come out, and no call
    waits.

    Pass the data received from the transport to :meth:`feed`, and report its end with
    :meth:`feed_eof`. Send what :meth:`data_to_send` returns. :meth:`receive` and :meth:`send`
    handle the plaintext. All of these also advance the handshake; after each call, check for data
    to send::

        connection = TLSConnection(ssl_context, server_hostname="example.org")
        while not connection.do_handshake():
            sock.sendall(connection.data_to_send())
            connection.feed(sock.recv(65536))  # feed_eof() if it is empty

    Args:
      ssl_context: Creates the :class:`ssl.SSLObject`, of its ``sslobject_class``. None on a server
        that chooses the context based on the ClientHello: see :attr:`wants_context`.
      server_side: Whether this end is the server.
      server_hostname: The name of the server, for SNI and for the check of its certificate.
        Internationalised names are encoded with IDNA 2008. Clients only; required if
        ``ssl_context.check_hostname`` is set.
      session: The session of an earlier connection to resume. Clients only. A session whose lineage
        has ended is not offered.
      verifies_peer: Whether to wait for :meth:`accept_peer` after OpenSSL has accepted the peer.
        Until then no data passes, and our last message of the handshake is held back.
      strict_alpn: Whether a server refuses a client that offers application protocols (ALPN), but
        none that the context supports. See :class:`TLSStream`.
      collect_sessions: Whether to keep every session that the server sends for
        :meth:`new_sessions`. This takes a little time per session, and is not needed for
        :attr:`session`, the latest one.

    Raises:
      ValueError: if the arguments are not valid together, before a byte is produced.

    If the connection fails, every call that can no longer succeed raises a :exc:`TLSError`. The
    alert that OpenSSL produced for the peer, if any, is then in :meth:`data_to_send`.
    """

    # For the driver, which moves the bytes without a method call each time.
    inbox: Inbox
    outbox: Outbox
    lifecycle: Lifecycle
    _engine: Engine
    _ssl_context: ssl.SSLContext | None  # None on servers that choose it
    _handshake: Handshake | None  # None once it is done, or has failed
    _info: HandshakeInfo | None  # None unless it is done
    _sessions: SessionSource | None  # on clients
    _tickets: TicketWatch | None  # if sessions are collected
    _request: CertificateRequest | None  # the latest

    def __init__(
        self,
        ssl_context: ssl.SSLContext | None,
        *,
        server_side: bool = False,
        server_hostname: str | bytes | None = None,
        session: TLSSession | None = None,
        collect_sessions: bool = False,
        verifies_peer: bool = False,
        strict_alpn: bool = False,
    ) -> None:
        arguments = Arguments.parse(
            ssl_context, server_side=server_side, server_hostname=server_hostname, session=session
        )
        self._make(arguments, collect_sessions, verifies_peer, strict_alpn)

    def _make(
        self, arguments: Arguments, collect_sessions: bool, verifies_peer: bool, strict_alpn: bool
    ) -> None:
        ssl_context, server_side = arguments.ssl_context, arguments.server_side
        self.inbox = inbox = Inbox()
        self.outbox, self.lifecycle = Outbox(), Lifecycle()
        self._ssl_context = ssl_context
        self._engine = engine = Engine(server_side, inbox, self.outbox)
        if ssl_context is not None:
            engine.use_context(ssl_context, arguments.server_hostname)
        self._info = self._sessions = self._tickets = self._request = None
        hello = None
        if server_side:
            inbox.wants_data = True  # the client begins
            if ssl_context is None or ssl_context.sni_callback is not None:
                hello = HelloWatch()  # the context depends on the ClientHello
                inbox.records.is_single = True  # inspect each of its records
        self._handshake = Handshake(engine, ssl_context, verifies_peer, hello, strict_alpn)
        if not server_side:
            if strict_alpn:
                raise ValueError(
                    "strict_alpn is for servers: on a client, check handshake.alpn_protocol"
                )
            self._begin(arguments, collect_sessions)

    def _begin(self, arguments: Arguments, collect_sessions: bool) -> None:
        """Produce the ClientHello."""
        assert arguments.ssl_context is not None  # only servers can choose it later
        ssl_object = self._engine.ssl_object
        if arguments.session and (session := arguments.native_session()):
            resume(ssl_object, session)
        self._sessions = SessionSource.of(arguments.ssl_context, ssl_object, arguments.session)
        if collect_sessions:
            self._tickets = TicketWatch(self._sessions, self.inbox, ssl_object)
        try:
            self.do_handshake()
        except TLSError as exc:
            raise ValueError(f"nothing can be offered with this ssl_context: {exc}") from exc

    def __repr__(self) -> str:
        side = "server" if self._engine.server_side else "client"
        return (
            f"<TLSConnection {side}: sending {self.send_state.value}, "
            f"receiving {self.receive_state.value}>"
        )

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)

    ################################################################
    # Properties of the connection
    ################################################################

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The underlying :class:`ssl.SSLObject`, for anything that this class doesn't offer.

        Only use it for queries: this class would not notice calls of its ``read``, ``write`` or
        ``unwrap``. On a server that has not chosen its context yet, it is that of a placeholder.
        """
        self._engine.ensure_context()
        return self._engine.ssl_object

    @property
    def send_state(self) -> State:
        """The state of our direction."""
        return self.lifecycle.send

    @property
    def receive_state(self) -> State:
        """The state of the peer's direction, once the plaintext that is available has been
        received.
        """
        return self.lifecycle.receive

    @property
    def error(self) -> TLSError | None:
        """The failure that ended either direction, or None if there is none, or if the end is
        clean.
        """
        return self.lifecycle.error

    @property
    def handshake(self) -> HandshakeInfo | None:
        """The result of the handshake, or None until it is done.

        A loop that feeds the connection can check this after each call. :attr:`TLSStream.handshake`
        raises an exception instead of returning None.
        """
        if self._request is not None and self._request.answered is not None:
            return self._request.answered
        return self._info

    @property
    def session(self) -> TLSSession | None:
        """A session with which a later connection to the same server can resume, or None.

        A TLS 1.3 server sends it after the handshake, so it is available once some data was
        received. It is None on servers, on a connection that failed (RFC 5246 section 7.2.2), and
        if an ``sslobject_class`` has its own ``do_handshake``, as truststore's has: that may verify
        the peer, and a resumed handshake has no certificates to verify.
        """
        if self._sessions is None or self._info is None or self.lifecycle.has_failed:
            return None
        return self._sessions.session_of(self._engine.ssl_object)

    def new_sessions(self) -> list[TLSSession]:
        """Return the sessions that the server has sent since the last call.

        A TLS 1.3 server usually sends two tickets after the handshake, so they are available after
        :meth:`receive`. The list is always empty without ``collect_sessions``.
        """
        return [] if self._tickets is None else self._tickets.take()

    def look_for_session(self) -> None:
        """Check for a session once more if there was none so far. Call this at the end of a
        connection.

        OpenSSL does not report a session that arrives together with data, and a check takes a tenth
        of a millisecond.
        """
        if self._tickets is not None and self._info is not None and not self.lifecycle.has_failed:
            self._tickets.check_at_the_end()

    @property
    def trailing_data(self) -> bytes:
        """The bytes that were received after the peer's close_notify. They are not part of TLS.

        Empty until :meth:`receive` has returned ``b""``.
        """
        return bytes(self.inbox.trailing or b"")

    ################################################################
    # The peer's direction
    ################################################################

    @property
    def wants_data(self) -> bool:
        """True if :meth:`receive` and :meth:`do_handshake` need more ciphertext to make
        progress.
        """
        return self.inbox.wants_data

    @property
    def is_behind(self) -> bool:
        """True if the last call has stopped at its limit: the next call continues with the rest of
        the fed data.
        """
        return self.inbox.is_behind

    def feed(self, data: Data) -> None:
        """Add ciphertext received from the peer.

        This never raises an error about the data: :meth:`receive` and :meth:`do_handshake` do. A
        peer can make the connection produce answers forever: see :attr:`bytes_answered`.

        Raises:
          ValueError: after :meth:`feed_eof`.
        """
        self.inbox.feed(data)

    def feed_eof(self) -> None:
        """Note that the transport has ended.

        Unless a close_notify came before, :meth:`receive` raises :exc:`TruncationError`.
        """
        self.inbox.feed_eof()

    def receive(self, max_bytes: int | None = None) -> bytes | None:
        """Return plaintext from the peer: everything that is available, or up to ``max_bytes``
        bytes.

        One call decrypts a limited number of records, so that a peer can't block the caller with
        thousands of tiny records.

        Returns:
          The data, or None if there is none. In that case feed more ciphertext if
          :attr:`wants_data`; otherwise this call has reached its limit, and the next one continues.
          Once the peer has ended its direction with a close_notify, every call returns ``b""``.

        Raises:
          TLSError: if the handshake or a record failed, after all earlier data was returned.
          TruncationError: if the transport ended without a close_notify.
          ValueError: if ``max_bytes`` is not positive.
        """
        if max_bytes is not None and (max_bytes := operator.index(max_bytes)) < 1:
            raise max_bytes_error(max_bytes)
        # A message after the handshake may have failed already: return earlier data first.
        if self._handshake is not None and not self._shake_hands():
            return None
        data, plaintext = b"", self.inbox.plaintext
        if plaintext:
            data = bytes(plaintext[:max_bytes])
            del plaintext[: len(data)]
        elif self.lifecycle.receive is _OPEN:
            data, happening = self._engine.decrypt(max_bytes)
            if happening is not None:
                self._note(happening)
            if self.outbox.held and not self.inbox.is_behind:
                self._encrypt_held()  # the decrypted records may have ended a renegotiation
        if data:
            return data
        self.lifecycle.check_receive()
        return None if self.lifecycle.receive is _OPEN else b""

    def look_ahead(self) -> bool:
        """Decrypt data that was already fed, for :meth:`receive` to return later. Return True if
        that was all of it: like :meth:`receive`, one call decrypts a limited amount.

        This never raises. If the data contains an alert, every call that can no longer succeed
        raises it from now on.
        """
        inbox = self.inbox
        if self.lifecycle.receive is _OPEN:
            data, happening = self._engine.decrypt(None)
            inbox.plaintext += data
            if happening is not None:
                self._note(happening)
            inbox.wants_data = inbox.wants_data and not inbox.plaintext
        return not inbox.is_behind

    ################################################################
    # The handshake
    ################################################################

    def do_handshake(self) -> bool:
        """Advance the handshake. Return True if it is done.

        Until then, send what :meth:`data_to_send` returns, feed the answer if :attr:`wants_data`,
        and call this again. During a renegotiation (TLS 1.2), this returns False as long as data
        passed to :meth:`send` is held back.

        Raises:
          TLSError: if the handshake failed.
          TruncationError: if the transport ended before it was done.
        """
        if not self._shake_hands():
            return False
        self.lifecycle.check_send()
        if self.outbox.held:
            # Decrypt first: in a renegotiation, OpenSSL accepts data between the handshake messages
            # when it reads, but fails permanently on them when it writes.
            if self.look_ahead():
                self._encrypt_held()
                if self.outbox.held:
                    self._check_renegotiation()
            self.lifecycle.check_send()
        return not self.outbox.held

    def _check_renegotiation(self) -> None:
        """Abort a renegotiation that can't be completed any more, or that takes too much data."""
        error: TLSError
        if self.lifecycle.receive is not _OPEN:
            error = truncated("the peer ended the connection while it renegotiated")
        elif len(self.inbox.plaintext) > _MOST_LOOK_AHEAD:
            error = TLSError("the peer keeps sending data instead of renegotiating")
        else:
            return
        self.outbox.held.clear()
        self._note(error)

    def _shake_hands(self) -> bool:
        """Perform the handshake steps that are possible now. Return True if it is done."""
        inbox = self.inbox
        if self._handshake is not None and not inbox.wants_data:
            inbox.begin_share()
        while (handshake := self._handshake) is not None:
            if inbox.wants_data or inbox.is_behind:
                return False
            if handshake.wants_context or handshake.unverified is not None:
                return False  # the caller has to decide first
            if (happening := handshake.step()) is _HANDSHAKE_DONE:
                self._open(handshake)
            elif happening is not None:
                self._note(happening)
        return True

    @property
    def client_hello(self) -> ClientHello | None:
        """The first message from the client. On servers, until the handshake is done; afterwards it
        is in :attr:`handshake`.
        """
        return None if self._handshake is None else self._handshake.client_hello

    @property
    def wants_context(self) -> bool:
        """True if a server without a context needs one now, to answer :attr:`client_hello`.

        Call :meth:`use_context` or :meth:`refuse_handshake`, and then :meth:`do_handshake` again.
        """
        return self._handshake is not None and self._handshake.wants_context

    def use_context(self, ssl_context: ssl.SSLContext) -> None:
        """Continue the handshake with this context. Call this if :attr:`wants_context`.

        Raises:
          ValueError: if no context is needed now, or the context was created for clients.
          TypeError: if it is not an :class:`ssl.SSLContext`.
        """
        check_context(ssl_context, server_side=True)
        self._paused(self.wants_context).use_context(ssl_context)

    def refuse_handshake(self, refusal: RefuseHandshake) -> None:
        """Refuse the client. Call this if :attr:`wants_context`. Every later call raises the error.

        Raises:
          ValueError: if no context is needed now.
        """
        self._paused(self.wants_context).refuse(refusal)
        self._note(refusal.error())

    @property
    def unverified(self) -> HandshakeInfo | None:
        """The result of the handshake if the peer has to be verified now, or else None. Requires
        ``verifies_peer``.

        Call :meth:`accept_peer` or :meth:`abort`, and then :meth:`do_handshake` again.
        """
        return None if self._handshake is None else self._handshake.unverified

    def accept_peer(self) -> None:
        """Complete the handshake with the peer that is :attr:`unverified`.

        Raises:
          ValueError: if there is none.
        """
        handshake = self._paused(self.unverified is not None)
        handshake.accept_peer()
        self._open(handshake)

    def _paused(self, is_wanted: bool) -> Handshake:
        """Return the handshake, which must be paused for the decision that the caller passes on."""
        if self._handshake is None or not is_wanted:
            raise ValueError("the handshake does not wait for this decision")
        return self._handshake

    def _open(self, handshake: Handshake) -> None:
        """Start the data phase: the handshake is done."""
        self.lifecycle.happened(_HANDSHAKE_DONE)
        engine, info = self._engine, handshake.result
        assert info is not None
        self._handshake, self._info = None, info
        engine.open(
            is_tls13=info.version == "TLSv1.3",
            may_sign=self._sessions is not None and engine.ssl_object.context.post_handshake_auth,
        )
        if self._sessions is not None:
            self._sessions.note_handshake(is_resumed=info.session_reused)
        if self._tickets is not None:
            self._tickets.start()
            engine.on_message = self._tickets.check_ticket
        if self.outbox.held:
            self._encrypt_held()

    ################################################################
    # Requesting a client's certificate after the handshake
    ################################################################

    def verify_client_post_handshake(self) -> None:
        """Request the client's certificate now (TLS 1.3, RFC 9846 section 4.7.2). Servers only.

        The answer is among the data that is received: see :meth:`client_has_answered`. This
        requires a client that supports it, and a context on this side with ``post_handshake_auth``
        set, a ``verify_mode`` other than ``CERT_NONE``, and tickets. With ``CERT_REQUIRED``, the
        connection fails if the client has no certificate. This does nothing while an earlier
        request is unanswered.

        Raises:
          PostHandshakeAuthError: if the client can't be asked. The connection stays usable.
          TLSError: if the connection failed.
          ValueError: if this side can't ask.
          trio.ClosedResourceError: after :meth:`send_close_notify`.
          trio.NeedHandshakeError: before the handshake is done.
        """
        self.lifecycle.check_send()
        if self._awaits_certificate:
            return
        if self.lifecycle.send is _CLOSED:
            raise trio.ClosedResourceError(
                "can't ask for a certificate after send_eof() or send_close_notify()"
            )
        engine, handshake = self._engine, self.handshake
        # The settings of this context apply, even if an sni_callback has chosen another one.
        context = self._ssl_context or self.ssl_object.context
        happening = ask_for_certificate(engine, context, handshake, self.lifecycle.origin)
        assert handshake is not None
        self._request = CertificateRequest(engine.ssl_object, handshake)
        engine.on_answers = self._request.check_answer
        if happening is not None:
            self._note(happening)
        self.lifecycle.check_send()

    def client_has_answered(self) -> bool:
        """Decrypt fed data for :meth:`receive` to return later. Return True if the client has
        answered :meth:`verify_client_post_handshake`.

        After that, :attr:`handshake` contains the certificate.

        Raises:
          PostHandshakeAuthError: if the client has ended its direction, or first sends more than 1
            MiB of data, which should be received then. The connection stays usable.
          TLSError: if the certificate was refused, or the connection failed otherwise.
          TruncationError: if the transport ended first.
        """
        self.look_ahead()
        if not self._awaits_certificate:
            return True
        check_may_answer(self.lifecycle, len(self.inbox.plaintext), _MOST_LOOK_AHEAD)
        return False

    @property
    def _awaits_certificate(self) -> bool:
        return self._request is not None and self._request.answered is None

    ################################################################
    # Our direction
    ################################################################

    def send(self, data: Data) -> None:
        """Encrypt plaintext for the peer. Before the handshake is done, it is held back until then.

        Raises:
          trio.ClosedResourceError: after :meth:`send_close_notify`.
          TLSError: if the connection failed.
        """
        engine = self._engine
        if engine.may_renegotiate and engine.may_have_read_ahead and not self.look_ahead():
            # It is not known yet whether the peer renegotiates: see do_handshake().
            self._hold(data)
        elif self.lifecycle.send is not _OPEN or self.outbox.held:
            self._hold(data)
            self.do_handshake()
            self.lifecycle.check_send()
        elif left := engine.encrypt(data):
            self._note_left(left)

    def _note_left(self, left: bytes | Failure) -> None:
        """Hold back data that was not encrypted because the peer renegotiates, or raise the
        failure.
        """
        if isinstance(left, Failure):
            self._note(left)
            self.lifecycle.check_send()
        else:
            self.outbox.held.append(left)

    def _hold(self, data: Data) -> None:
        self.lifecycle.check_not_closed(is_closing=self.outbox.holds_close)
        self.lifecycle.check_send()
        if view := byte_view(data):
            self.outbox.held.append(bytes(view))

    def send_close_notify(self) -> None:
        """End our direction: :meth:`send` is no longer possible, while :meth:`receive` still is.

        Before the handshake is done, the close_notify is held back until then. Calling this again
        does nothing. See RFC 9846 section 6.1; this works in TLS 1.2 as well.

        Raises:
          TLSError: if the connection failed.
        """
        if self.lifecycle.send is _CLOSED:
            return
        if not self.outbox.holds_close:
            self.outbox.held.append(None)
        if self.lifecycle.send is _OPEN:
            self._encrypt_held()
        else:
            self.do_handshake()
        self.lifecycle.check_send()

    def _encrypt_held(self) -> None:
        held, self.outbox.held = self.outbox.held, []
        while held and not self.outbox.held and self.lifecycle.send is _OPEN:
            data = held.pop(0)
            if data is None:
                self._close()
            else:
                # Data that OpenSSL does not accept goes into the new list. Errors are recorded.
                with suppress(TLSError):
                    self.send(data)
        self.outbox.held += held

    def _close(self) -> None:
        """Write our close_notify, unless the fed data contains a failure, in which case the peer
        gets an alert.
        """
        inbox, wanted_data = self.inbox, self.inbox.wants_data
        inbox.put_back()
        # A HelloRequest must not start a handshake now. It is processed afterwards, when OpenSSL
        # ignores it.
        later = inbox.records.take_from_handshake() if self._engine.may_renegotiate else b""
        self.look_ahead()
        if self.lifecycle.send is _OPEN:
            if (happening := self._engine.close()) is not None:
                self._note(happening)
            else:
                self.outbox.held.append(None)
        if later:
            inbox.give_back(later)
            inbox.wants_data = wanted_data and self.lifecycle.send is _OPEN

    ################################################################
    # Ciphertext to send
    ################################################################

    @property
    def unsent(self) -> list[bytes | memoryview]:
        """The ciphertext to send, in pieces. Inspect it, and report with :meth:`mark_sent` how much
        of it was sent, or take all of it with :meth:`data_to_send`.
        """
        return self.outbox.pieces

    @property
    def bytes_to_send(self) -> int:
        """How many bytes of ciphertext are pending."""
        return self.outbox.size

    @property
    def bytes_answered(self) -> int:
        """Ciphertext bytes produced in reply to the peer since the send queue was last empty.

        For example, each KeyUpdate that requests one of ours (RFC 9846 section 4.7.3) adds some. A
        peer that never reads could fill the memory with our answers: don't feed more data while
        many bytes are pending.
        """
        return self.outbox.bytes_answered

    def data_to_send(self) -> bytes:
        """Take all ciphertext to send, or ``b""`` if there is none."""
        return self.outbox.take()

    def mark_sent(self, count: int) -> None:
        """Remove the first ``count`` bytes of :attr:`unsent`, because they were sent.

        Raises:
          ValueError: if ``count`` is negative, or exceeds the number of pending bytes.
        """
        self.outbox.mark_sent(count)

    ################################################################
    # States and errors
    ################################################################

    def abort(self, error: TLSError) -> None:
        """End both directions for a reason outside of TLS, a timeout for example.

        From now on every call raises ``error``, unless the connection failed before.
        """
        self._note(error)

    def _note(self, happening: Happening) -> None:
        """Advance the states, except at the end of the handshake: see :meth:`_open`.

        After its first error, OpenSSL only reports consequences of that error, and after a fatal
        alert even an apparently clean end. So the first error is kept.
        """
        lifecycle = self.lifecycle
        receive_state = lifecycle.receive
        is_open = receive_state is not _HANDSHAKE
        if isinstance(happening, Failure):
            speaks_tls = self._handshake is None or self._handshake.has_answered
            ssl_object = self._engine.ssl_object
            happening = error_of(happening, ssl_object, speaks_tls=speaks_tls, is_open=is_open)
        if isinstance(happening, TLSError):
            lifecycle.happened(Event.FAILURE, happening)
        elif happening is _TRANSPORT_ENDED:
            lifecycle.happened(happening, error_of_end(is_open=is_open))
        else:
            lifecycle.happened(happening)
        if happening is _CLOSE_NOTIFY_SENT:
            self.outbox.seal()
        if lifecycle.receive is not receive_state and lifecycle.receive is not _OPEN:
            self.inbox.close(keeps_trailing=lifecycle.receive is _CLOSED)
        if lifecycle.send is not _HANDSHAKE:
            self._handshake = None  # it has failed, if it wasn't done before


def connection_of(
    arguments: Arguments, collects: bool, verifies: bool, strict_alpn: bool
) -> TLSConnection:
    """Create a connection from validated arguments. See :class:`TLSConnection`."""
    connection = TLSConnection.__new__(TLSConnection)
    connection._make(arguments, collects, verifies, strict_alpn)
    return connection
