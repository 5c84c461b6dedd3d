"""Performs the handshake, from the ClientHello until both sides are verified."""

from __future__ import annotations

import ssl

import attrs

from .client_hello import MAX_HELLO_BYTES, ClientHello
from .engine import Engine, Happening
from .errors import PeerAlertError, RefuseHandshake, TLSError, printable
from .handshake_info import HandshakeInfo
from .hello import HelloWatch, hello_in, plaintext_alert
from .iana import Alert
from .key_exchange import MOST_FLIGHT_BYTES
from .openssl_errors import IS_PYPY, empty_error_queue, is_openssl_error, may_be_foreign
from .records import is_possible_in_plaintext
from .stale_sessions import refusal_of_session
from .states import Event

__all__ = ["Handshake"]

# Enum lookups cost three calls; the members are bound once.
_HANDSHAKE_DONE, _TRANSPORT_ENDED = Event.HANDSHAKE_DONE, Event.TRANSPORT_ENDED


def _never(_: bytes) -> bool:
    """Return False: OpenSSL gets each record as it arrives."""
    return False


@attrs.define(eq=False)
class Handshake:
    """Performs the handshake of an engine, and reads the messages that are in plaintext.

    It pauses for decisions of the caller: for the choice of a server's context, and for a
    verification of the peer in addition to OpenSSL's.
    """

    _engine: Engine
    _ssl_context: ssl.SSLContext | None  # None to pause until it is chosen
    _verifies: bool
    # Holds the ClientHello back until it is complete, if the context depends on it.
    _hello: HelloWatch | None
    # True to refuse a client if none of its application protocols is supported.
    _strict_alpn: bool
    # The records with which the server has answered. They contain its key exchange.
    _server_records: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    #: True if the handshake is paused until :meth:`use_context`.
    wants_context: bool = False
    #: The result, once the handshake is done.
    result: HandshakeInfo | None = None
    #: The result, if the handshake is paused until :meth:`accept_peer`.
    unverified: HandshakeInfo | None = None
    # The records that a server received before its first answer, if they are not held back.
    _first_records: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    #: True if a server has answered, which shows that the first message was a ClientHello.
    has_answered: bool = False
    # held back until the peer is accepted
    _last_flight: bytes = attrs.field(default=b"", repr=False)

    @property
    def client_hello(self) -> ClientHello | None:
        """The first message from the client. None if it has not arrived yet, and on clients."""
        return hello_in(self._first_records) if self._hello is None else self._hello.hello

    def step(self, suspect: Exception | None = None) -> Happening | None:
        """Perform one step. If it returns None, the inbox shows whether the next step needs more
        data.

        The handshake is done when this returns :attr:`Event.HANDSHAKE_DONE`.

        Args:
          suspect: The error of the last step, if it may be a foreign one. Then OpenSSL is only
            called again: see :func:`may_be_foreign`.
        """
        engine = self._engine
        if suspect is None and not engine.inbox.bio.pending:
            self._refill()
            if self.wants_context:
                return None
            if not engine.has_context:  # there is nothing to read yet
                return self._go_on()
        if IS_PYPY:
            empty_error_queue()
        try:
            # Always use this method: an sslobject_class may verify the peer in it.
            engine.ssl_object.do_handshake()
        except ssl.SSLWantReadError:
            happening = self._go_on()
        except Exception as exc:
            happening = self._failure(exc, suspect)
        except BaseException as exc:
            self._drop_finished(exc)
            raise
        else:
            happening = self._end()
        finally:
            if engine.outbox.bio.pending:
                self._collect()
        return happening

    def _go_on(self) -> Happening | None:
        """Give OpenSSL more data, or note that it needs more."""
        engine = self._engine
        inbox = engine.inbox
        if engine.outbox.bio.pending:
            if engine.server_side and (refusal := self._refusal()) is not None:
                return refusal
            flight = self._collect()  # before more is read: a retry request changes the rules
            if engine.server_side:
                self._server_records += flight
        if self._refill() or self.wants_context:
            return None
        if self._hello is not None and self._hello.refusal is not None:
            return self._hello.refusal.error
        inbox.ask_for_more()
        return _TRANSPORT_ENDED if inbox.has_ended and not inbox.is_behind else None

    def _failure(self, exc: Exception, suspect: Exception | None) -> Happening | None:
        """Return why the handshake has failed, unless another step shows that it has not."""
        if suspect is None and may_be_foreign(exc):
            return self.step(exc)
        if isinstance(exc, ssl.SSLZeroReturnError):
            # A close_notify in the handshake can come from an attacker: nothing is verified yet.
            message = "the peer gave up the handshake (alert close_notify)"
            return PeerAlertError(message, alert="close_notify")
        self._drop_finished(exc)
        return self._engine.failure(suspect or exc)

    def _end(self) -> Happening | None:
        """Complete the handshake, or pause it until the peer is verified."""
        engine, watch = self._engine, self._hello
        if self._verifies:
            # In TLS 1.3 this contains a client's Finished and its certificate, or a server's
            # tickets. In TLS 1.2 it contains the Finished of the side that sends it last. It is
            # held back first, because an sslobject_class can raise anything in what follows.
            self._last_flight += engine.outbox.bio.read()
        hello = (bytes(self._first_records) or None) if watch is None else watch.hello
        result = HandshakeInfo.of(engine.ssl_object, self._server_records, hello)
        if engine.server_side and result.session_reused:
            refusal = refusal_of_session(engine.ssl_object, engine.outbox, is_done=True)
            if refusal is not None:
                return refusal
        if self._verifies:
            self.unverified = result
            return None
        self.result = result
        return _HANDSHAKE_DONE

    def _refusal(self) -> Happening | None:
        """Refuse a client that OpenSSL answers, if it violates one of a server's own rules."""
        engine = self._engine
        refusal: Happening | None = None
        if engine.ssl_object.session_reused:
            refusal = refusal_of_session(engine.ssl_object, engine.outbox, is_done=False)
        if self._strict_alpn and refusal is None:
            refusal = self._refuse_protocols()
        return refusal

    def accept_peer(self) -> None:
        """Release the last flight."""
        self._engine.outbox.bio.write(self._last_flight)
        self._collect()
        self.result, self.unverified = self.unverified, None

    def use_context(self, ssl_context: ssl.SSLContext) -> None:
        """Continue with a context, if the handshake has paused for it."""
        assert self._hello is not None
        self._engine.use_context(ssl_context)  # an sslobject_class can raise anything
        self.wants_context = False
        self._engine.inbox.bio.write(self._hello.take())

    def refuse(self, refusal: RefuseHandshake) -> None:
        """Write the alert in plaintext, if the handshake has paused for a context."""
        alert = Alert[refusal.alert.upper()]
        self._engine.outbox.put(plaintext_alert(alert))

    def _collect(self) -> bytes:
        """Queue the data that OpenSSL has written, and return it."""
        engine = self._engine
        flight = engine.outbox.collect()
        if engine.server_side:
            self.has_answered = True
            if self._hello is not None and not self._hello.is_over:
                self._hello.answered(flight)
                engine.inbox.records.is_single = not self._hello.is_over
        return flight

    def _refuse_protocols(self) -> TLSError | None:
        """Refuse a client that offers application protocols, if OpenSSL continues without one.

        CPython makes OpenSSL continue, while RFC 7301 section 3.2 requires a refusal. Nothing is
        encrypted for the client yet, so an alert in plaintext can replace OpenSSL's answer.
        """
        engine = self._engine
        hello = self.client_hello
        if engine.ssl_object.selected_alpn_protocol() or hello is None or not hello.alpn_protocols:
            return None
        engine.outbox.bio.read()
        engine.outbox.put(plaintext_alert(Alert.NO_APPLICATION_PROTOCOL))
        offered = [name.decode("ascii", "backslashreplace") for name in hello.alpn_protocols[:5]]
        offered += ["..."] * (len(hello.alpn_protocols) > len(offered))
        return TLSError(
            "the peer offers no application protocol (ALPN) that is served here, but "
            f"{printable(', '.join(offered))}",
            reason="NO_APPLICATION_PROTOCOL",
        )

    def _refill(self) -> bool:
        """Give OpenSSL the data that it can read next. Return True if there was some."""
        if self._hello is not None and not self._hello.is_over:
            return self._refill_watched(self._hello)
        if not self._engine.inbox.records.waiting:
            return False
        data = self._engine.inbox.refill(_never)  # it refuses records by their first bytes
        if not self._engine.server_side:
            if len(self._server_records) < MOST_FLIGHT_BYTES:
                self._server_records += data
        elif not self.has_answered and len(self._first_records) <= MAX_HELLO_BYTES:
            self._first_records += data
        return len(data) > 0

    def _refill_watched(self, watch: HelloWatch) -> bool:
        """Refill while a ClientHello may arrive, which takes single records. OpenSSL gets it
        complete, once there is a context.

        With an sni_callback instead, OpenSSL would look for a session to resume before it has the
        context, and CPython would print a traceback for a name that is not ASCII.
        """
        inbox = self._engine.inbox
        is_first = not watch.has_hello
        while not (watch.is_over or watch.is_ready):
            record = inbox.records.take(is_possible_in_plaintext)
            if not record:
                return False
            watch.add(record)
        if watch.refusal is not None:
            inbox.records.take_all()
            self._engine.outbox.put(watch.refusal.alert)
            return False
        if is_first and self._ssl_context is None:
            if watch.hello is not None:
                self.wants_context = True
                return False
            self._engine.ensure_context()  # with which OpenSSL refuses these records
        inbox.records.is_single = not watch.is_over
        inbox.bio.write(watch.take())
        return inbox.bio.pending > 0 or self._refill()

    def _drop_finished(self, exc: BaseException) -> None:
        """Discard our Finished if Python code on top of OpenSSL (truststore, for example) has
        refused the peer. In that case OpenSSL itself is satisfied, as version() shows, and has
        written it.
        """
        if self._engine.ssl_object.version() is not None or not is_openssl_error(exc):
            self._engine.outbox.bio.read()
