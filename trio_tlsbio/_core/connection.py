"""A TLS connection as a pure object: ciphertext in, plaintext out, and the other way round."""

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
from .handshake import Handshake, context_to_come
from .handshake_info import HandshakeInfo
from .hello import HelloWatch
from .inbox import Inbox
from .native_session import resume
from .outbox import Outbox
from .records import Data, byte_view
from .sessions import SessionSource, TLSSession, refuse_copy
from .states import Event, Lifecycle, State
from .tickets import TicketWatch

__all__ = ["TLSConnection", "connection_of"]

# Enum lookups cost three calls; the members are bound once.
_HANDSHAKE, _OPEN, _CLOSED = State.HANDSHAKE, State.OPEN, State.CLOSED

# How much may arrive while the peer renegotiates and data is held for that, or while a client's
# certificate is awaited, in bytes.
_MOST_LOOK_AHEAD = 1024 * 1024


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
      ssl_context: Makes the :class:`ssl.SSLObject`; its ``sslobject_class`` is honoured. None on a
        server whose context is chosen by what the client says: see :attr:`wants_context`.
      server_side: Whether this end is the server.
      server_hostname: The name of the server, for SNI and for the check of its certificate.
        Internationalised names are encoded by IDNA 2008. Clients only, where it is needed if
        ``ssl_context.check_hostname`` is set.
      session: The session of an earlier connection to resume. Clients only. One whose lineage has
        ended is not offered.
      verifies_peer: Whether to wait for :meth:`accept_peer` when OpenSSL has accepted the peer.
        Until then no data passes, and our last message of the handshake is held back.
      strict_alpn: Whether a server refuses a client that offers application protocols (ALPN), but
        none of those that the context has. See :class:`TLSStream`.
      collect_sessions: Keep every session that the server gives for :meth:`new_sessions`. This
        takes a little time for each, and is not needed for :attr:`session`, the latest one.

    Raises:
      ValueError: for arguments that don't go together, before a byte is made.

    An error of the connection is raised as a :exc:`TLSError` by every call that needs what no
    longer works, each time. What OpenSSL left to tell the peer about it, an alert, is then in
    :meth:`data_to_send`.
    """

    # For the driver, which moves the bytes without a call for each.
    inbox: Inbox
    outbox: Outbox
    lifecycle: Lifecycle
    _engine: Engine
    _ssl_context: ssl.SSLContext | None  # None on servers that choose it
    _handshake: Handshake | None  # until it is done
    _info: HandshakeInfo | None
    _plaintext: bytearray  # what was decrypted before it was asked for
    _sessions: SessionSource | None  # on clients
    _tickets: TicketWatch | None  # where sessions are collected
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
        first_context = context_to_come() if ssl_context is None else ssl_context
        self.inbox, self.outbox, self.lifecycle = Inbox(), Outbox(), Lifecycle()
        ssl_object = first_context.wrap_bio(
            self.inbox.bio, self.outbox.bio, server_side, arguments.server_hostname
        )
        if (session := arguments.native_session()) is not None:
            resume(ssl_object, session)
        self._ssl_context, self._engine = ssl_context, Engine(ssl_object, self.inbox, self.outbox)
        looks_at_hello = server_side and Handshake.looks_at_hello(ssl_context)
        self.inbox.is_single = looks_at_hello  # so that each record of a ClientHello passes by
        hello = HelloWatch() if looks_at_hello else None
        self._handshake = Handshake(self._engine, ssl_context, verifies_peer, hello, strict_alpn)
        self._info, self._plaintext = None, bytearray()
        self._sessions = self._tickets = self._request = None
        if not server_side:
            self._sessions = SessionSource.of(first_context, ssl_object, arguments.session)
            if collect_sessions:
                self._tickets = TicketWatch(self._sessions, self.inbox, ssl_object)
            try:
                self.do_handshake()  # makes the ClientHello
            except TLSError as exc:
                raise ValueError(f"nothing can be offered with this ssl_context: {exc}") from exc

    def __repr__(self) -> str:
        side = "server" if self._engine.ssl_object.server_side else "client"
        return (
            f"<TLSConnection {side}: sending {self.send_state.value}, "
            f"receiving {self.receive_state.value}>"
        )

    def __reduce__(self) -> NoReturn:
        refuse_copy(self)

    ################################################################
    # What it knows
    ################################################################

    @property
    def ssl_object(self) -> ssl.SSLObject:
        """The underlying :class:`ssl.SSLObject`, for all that has no name here.

        Use it to look; its ``read``, ``write`` and ``unwrap`` would act behind this object's back.
        """
        return self._engine.ssl_object

    @property
    def send_state(self) -> State:
        """What our direction can do."""
        return self.lifecycle.send

    @property
    def receive_state(self) -> State:
        """What the peer's direction can do, once the plaintext that is ready was received."""
        return self.lifecycle.receive

    @property
    def error(self) -> TLSError | None:
        """The failure that ended either direction; None if there is none, or the end is clean."""
        return self.lifecycle.error

    @property
    def handshake(self) -> HandshakeInfo | None:
        """What the handshake agreed on; None until it is done.

        So a loop that feeds the connection can look at it. :attr:`TLSStream.handshake`, which a
        handler uses when the handshake is done, raises an exception instead.
        """
        if self._request is not None and self._request.answered is not None:
            return self._request.answered
        return self._info

    @property
    def session(self) -> TLSSession | None:
        """What a later connection to the same server can resume with, once there is one.

        Servers send it after the handshake in TLS 1.3, so it is there after something was
        received. None on servers, on a connection that failed (RFC 5246 section 7.2.2), and if an
        ``sslobject_class`` has a ``do_handshake`` of its own, as truststore's does: it may verify
        the peer there, and a resumed handshake has no certificates to verify.
        """
        if self._sessions is None or self._info is None or self.lifecycle.has_failed:
            return None
        return self._sessions.session_of(self._engine.ssl_object)

    def new_sessions(self) -> list[TLSSession]:
        """Take the sessions that the server has given since the last call.

        A TLS 1.3 server usually gives two tickets after the handshake, so there are some after
        :meth:`receive`. Empty without ``collect_sessions``.
        """
        return [] if self._tickets is None else self._tickets.take()

    def look_for_session(self) -> None:
        """Look once more for a session, if there was none yet; to be called at the end.

        OpenSSL does not report one that comes along with data, and looking takes a tenth of a
        millisecond.
        """
        if self._tickets is not None and self._info is not None and not self.lifecycle.has_failed:
            self._tickets.look_at_the_end()

    @property
    def trailing_data(self) -> bytes:
        """What came after the peer's close_notify. It is not TLS, and belongs to what follows.

        Empty until :meth:`receive` returned ``b""``.
        """
        return bytes(self.inbox.trailing or b"")

    ################################################################
    # The peer's direction
    ################################################################

    @property
    def wants_data(self) -> bool:
        """True if :meth:`receive` and :meth:`do_handshake` need more ciphertext to get on."""
        return self.inbox.wants_data

    @property
    def is_behind(self) -> bool:
        """True if the last call has done its share of what was fed: the next one goes on with the
        rest.
        """
        return self.inbox.is_behind

    @property
    def data_received(self) -> bool:
        """Whether any plaintext of the peer has arrived."""
        return self._engine.has_decrypted

    def feed(self, data: Data) -> None:
        """Take ciphertext that came from the peer.

        Never raises for what the peer sent: :meth:`receive` and :meth:`do_handshake` do. A peer can
        make us answer without end: see :attr:`bytes_answered`.

        Raises:
          ValueError: after :meth:`feed_eof`.
        """
        self.inbox.feed(data)

    def feed_eof(self) -> None:
        """Take note that the transport ended.

        Without a close_notify before it, :meth:`receive` raises :exc:`TruncationError`.
        """
        self.inbox.feed_eof()

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
                raise ValueError(
                    f"max_bytes must be >= 1, not {max_bytes}: leave it out to receive all"
                )
        # What follows the handshake may have failed already: data that came before are returned.
        if self._handshake is not None and not self._shake_hands():
            return None
        lifecycle, data = self.lifecycle, b""
        if self._plaintext:
            data = bytes(self._plaintext[:max_bytes])
            del self._plaintext[: len(data)]
        elif lifecycle.receive is _OPEN:
            data, happening = self._engine.decrypt(max_bytes)
            if happening is not None:
                self._note(happening)
            if self.outbox.held and not self.inbox.is_behind:
                self._encrypt_held()  # what was decrypted may have ended a renegotiation
        if data:
            return data
        lifecycle.check_receive()
        return None if lifecycle.receive is _OPEN else b""

    def look_ahead(self) -> bool:
        """Decrypt what was fed already, for :meth:`receive` to return later, and return whether
        that was all of it: like :meth:`receive` this does a bounded share.

        Never raises. An alert in it is known from now on, and every call that can't succeed any
        more raises it.
        """
        if self.lifecycle.receive is _OPEN:
            data, happening = self._engine.decrypt(None)
            self._plaintext += data
            if happening is not None:
                self._note(happening)
            self.inbox.wants_data = self.inbox.wants_data and not self._plaintext
        return not self.inbox.is_behind

    @property
    def bytes_to_receive(self) -> int:
        """How many bytes of plaintext :meth:`look_ahead` has put aside for :meth:`receive`."""
        return len(self._plaintext)

    ################################################################
    # The handshake
    ################################################################

    def do_handshake(self) -> bool:
        """Move the handshake on, and return whether it is done.

        Until it is, send what :meth:`data_to_send` returns, feed what comes back (not needed
        unless :attr:`wants_data`), call again.
        While the peer renegotiates (TLS 1.2), it is not done for as long as something that was
        given to :meth:`send` is held for that.

        Raises:
          TLSError: if it failed: see there for the reason.
          TruncationError: if the transport ended before it was done.
        """
        if not self._shake_hands():
            return False
        self.lifecycle.check_send()
        if self.outbox.held:
            # Decrypting first: in a renegotiation OpenSSL accepts data between the handshake's
            # messages when it reads, but fails for good on it when it writes.
            if self.look_ahead():
                self._encrypt_held()
                if self.outbox.held:
                    self._check_renegotiation()
            self.lifecycle.check_send()
        return not self.outbox.held

    def _check_renegotiation(self) -> None:
        """End a renegotiation that can't be completed any more, or that takes too much."""
        error: TLSError
        if self.lifecycle.receive is not _OPEN:
            error = truncated("the peer ended the connection while it renegotiated")
        elif len(self._plaintext) > _MOST_LOOK_AHEAD:
            error = TLSError("the peer sends data without end where it should renegotiate")
        else:
            return
        self.outbox.held.clear()
        self._note(error)

    def _shake_hands(self) -> bool:
        """Take the steps of the handshake that can be taken now. False if it is not done then."""
        if self._handshake is not None:
            self.inbox.begin_share()
        while self._handshake is not None:
            if self.inbox.wants_data or self.inbox.is_behind or self._handshake.is_paused:
                return False
            if (happening := self._handshake.step()) is not None:
                self._note(happening)
        return True

    @property
    def client_hello(self) -> ClientHello | None:
        """What the client has said first. On servers, until the handshake is done; afterwards it is
        in :attr:`handshake`.
        """
        return None if self._handshake is None else self._handshake.client_hello

    @property
    def wants_context(self) -> bool:
        """True if a server that was made without a context needs one, for :attr:`client_hello`.

        Call :meth:`use_context`, or :meth:`refuse_handshake`, and :meth:`do_handshake` again.
        """
        return self._handshake is not None and self._handshake.wants_context

    def use_context(self, ssl_context: ssl.SSLContext) -> None:
        """Go on with the handshake, with these settings. To be called where :attr:`wants_context`.

        Raises:
          ValueError: if no context is wanted, or for one that was made for clients.
          TypeError: if it is no :class:`ssl.SSLContext`.
        """
        check_context(ssl_context, server_side=True)
        self._paused(self.wants_context).use_context(ssl_context)

    def refuse_handshake(self, refusal: RefuseHandshake) -> None:
        """Refuse the client, where :attr:`wants_context`. Every call raises this from now on.

        Raises:
          ValueError: if no context is wanted.
        """
        self._paused(self.wants_context).refuse(refusal)
        self._note(refusal.error())

    @property
    def unverified(self) -> HandshakeInfo | None:
        """What was agreed on with a peer that is to be verified now, if ``verifies_peer`` is set.

        Call :meth:`accept_peer`, or :meth:`abort`, and :meth:`do_handshake` again.
        """
        return None if self._handshake is None else self._handshake.unverified

    def accept_peer(self) -> None:
        """Complete the handshake with the peer that is :attr:`unverified`.

        Raises:
          ValueError: if there is none.
        """
        self._note(self._paused(self.unverified is not None).accept_peer())

    def _paused(self, is_wanted: bool) -> Handshake:
        """Return the handshake, which waits for the decision that is told now."""
        if self._handshake is None or not is_wanted:
            raise ValueError("the handshake does not wait for this decision")
        return self._handshake

    def _begin(self, handshake: Handshake) -> None:
        """Begin with data: the handshake is done."""
        info = self._info = handshake.info()
        self._engine.open(
            is_tls13=info.version == "TLSv1.3",
            may_sign=self._sessions is not None and self.ssl_object.context.post_handshake_auth,
        )
        if self._sessions is not None:
            self._sessions.begin(is_resumed=info.session_reused)
        if self._tickets is not None:
            self._tickets.begin()
            self._engine.on_message = self._tickets.look
        self._encrypt_held()

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
        self.lifecycle.check_send()
        if self._awaits_certificate:
            return
        if self.lifecycle.send is _CLOSED:
            raise trio.ClosedResourceError(
                "can't ask for a certificate after send_eof() or send_close_notify()"
            )
        engine, handshake = self._engine, self.handshake
        # Its settings count, whatever an sni_callback has chosen.
        context = self._ssl_context or engine.ssl_object.context
        happening = ask_for_certificate(engine, context, handshake, self.lifecycle.origin)
        assert handshake is not None
        self._request = CertificateRequest(engine.ssl_object, handshake)
        engine.on_answers = self._request.look
        if happening is not None:
            self._note(happening)
        self.lifecycle.check_send()

    def client_has_answered(self) -> bool:
        """Decrypt what was fed for :meth:`receive` to return later, and return whether the client
        has answered :meth:`verify_client_post_handshake`.

        Once it has, :attr:`handshake` has the certificate.

        Raises:
          PostHandshakeAuthError: if the client has ended its direction, or sends more than 1 MiB of
            data first, which is to be received then. The connection goes on working.
          TLSError: if the certificate was refused, or the connection failed otherwise.
          TruncationError: if the transport ended first.
        """
        self.look_ahead()
        if not self._awaits_certificate:
            return True
        check_may_answer(self.lifecycle, len(self._plaintext), _MOST_LOOK_AHEAD)
        return False

    @property
    def _awaits_certificate(self) -> bool:
        return self._request is not None and self._request.answered is None

    ################################################################
    # Our direction
    ################################################################

    def send(self, data: Data) -> None:
        """Encrypt plaintext for the peer. Before the handshake is done it is held until then.

        Raises:
          trio.ClosedResourceError: after :meth:`send_close_notify`.
          TLSError: if the connection failed.
        """
        engine = self._engine
        if engine.may_renegotiate and engine.may_have_read_ahead and not self.look_ahead():
            # Whether the peer renegotiates is not known yet: see do_handshake().
            self._hold(data)
        elif self.lifecycle.send is not _OPEN or self.outbox.held:
            self._hold(data)
            self.do_handshake()
            self.lifecycle.check_send()
        elif left := engine.encrypt(data):
            self._note_left(left)

    def _note_left(self, left: bytes | Failure) -> None:
        """Keep what was not encrypted because the peer renegotiates, or raise the failure."""
        if isinstance(left, Failure):
            self._note(left)
            self.lifecycle.check_send()
        else:
            self.outbox.held.append(left)

    def _hold(self, data: Data) -> None:
        if self.lifecycle.send is _CLOSED or self.outbox.holds_close:
            raise trio.ClosedResourceError(
                "can't send data after send_eof() or send_close_notify()"
            )
        self.lifecycle.check_send()
        if view := byte_view(data):
            self.outbox.held.append(bytes(view))

    def send_close_notify(self) -> None:
        """End our direction: no more :meth:`send`, while :meth:`receive` goes on working.

        Before the handshake is done the close_notify is held until then. Calling it again does
        nothing. See RFC 9846 section 6.1; it works in TLS 1.2 as well.

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
                # Puts into the new list what OpenSSL does not take. Errors are recorded.
                with suppress(TLSError):
                    self.send(data)
        self.outbox.held += held

    def _close(self) -> None:
        """Write our close_notify, unless what was fed already shows a failure: then the peer gets
        the alert.
        """
        inbox, wanted_data = self.inbox, self.inbox.wants_data
        inbox.put_back()
        # A HelloRequest must not start a handshake now: it is looked at afterwards, when OpenSSL
        # ignores it.
        later = inbox.records.take_from_handshake() if self._engine.may_renegotiate else b""
        self.look_ahead()
        if self.lifecycle.send is _OPEN:
            if (happening := self._engine.close()) is not None:
                self._note(happening)
            else:
                self.outbox.held.append(None)
        if later:
            inbox.records.feed(later)
            inbox.wants_data = wanted_data and self.lifecycle.send is _OPEN

    ################################################################
    # Ciphertext to send
    ################################################################

    @property
    def unsent(self) -> list[bytes | memoryview]:
        """The ciphertext that is waiting to be sent, in pieces. Look at it, and say with
        :meth:`mark_sent` how much of it was sent, or take it all with :meth:`data_to_send`.
        """
        return self.outbox.pieces

    @property
    def bytes_to_send(self) -> int:
        """How many bytes of ciphertext are waiting to be sent."""
        return self.outbox.size

    @property
    def bytes_answered(self) -> int:
        """Ciphertext bytes produced in reply to the peer since nothing was waiting to be sent.

        Each KeyUpdate that requests one of ours (RFC 9846 section 4.7.3) adds some, for example.
        A peer that never reads could fill the memory with our answers: don't feed more while a lot
        of them is pending.
        """
        return self.outbox.bytes_answered

    def data_to_send(self) -> bytes:
        """Take the ciphertext to put on the wire: all of it, ``b""`` if there is none."""
        return self.outbox.take()

    def mark_sent(self, count: int) -> None:
        """Drop the first ``count`` bytes of :attr:`unsent`: they are sent.

        Raises:
          ValueError: if ``count`` is negative or more than that.
        """
        self.outbox.mark_sent(count)

    ################################################################
    # States and errors
    ################################################################

    def abort(self, error: TLSError) -> None:
        """End both directions for a reason that lies outside of TLS, a timeout for example.

        From now on every call raises ``error``, unless the connection failed before.
        """
        self._note(error)

    def _note(self, happening: Happening) -> None:
        """Move the states on. OpenSSL reports only consequences of its first error from then on,
        and after a fatal alert even what looks like a clean end, so that error is kept.
        """
        lifecycle, inbox, handshake = self.lifecycle, self.inbox, self._handshake
        receive_state, is_open = lifecycle.receive, self._info is not None
        if isinstance(happening, Failure):
            ssl_object, begun = self._engine.ssl_object, handshake is None or handshake.has_answered
            happening = error_of(happening, ssl_object, has_begun=begun, is_open=is_open)
        if isinstance(happening, TLSError):
            lifecycle.happened(Event.FAILURE, happening)
        elif happening is Event.TRANSPORT_ENDED:
            lifecycle.happened(happening, error_of_end(is_open=is_open))
        else:
            lifecycle.happened(happening)
        if happening is Event.CLOSE_NOTIFY_SENT:
            self.outbox.seal()
        if lifecycle.receive is not receive_state and lifecycle.receive is not _OPEN:
            inbox.close(keeps_trailing=lifecycle.receive is _CLOSED)
        if lifecycle.send is not _HANDSHAKE and handshake is not None:
            self._handshake = None
            if happening is Event.HANDSHAKE_DONE:
                self._begin(handshake)


def connection_of(
    arguments: Arguments, collects: bool, verifies: bool, strict_alpn: bool
) -> TLSConnection:
    """Make a connection of arguments that were checked before. See :class:`TLSConnection`."""
    connection = TLSConnection.__new__(TLSConnection)
    connection._make(arguments, collects, verifies, strict_alpn)
    return connection
