"""The handshake, from the ClientHello until both sides have verified it."""

from __future__ import annotations

import ssl
from functools import cache

import attrs

from .ages import refusal_of_session
from .client_hello import MAX_HELLO_BYTES, ClientHello
from .engine import Engine, Happening, ask
from .errors import PeerAlertError, RefuseHandshake, TLSError, printable
from .handshake_info import HandshakeInfo
from .hello import HelloWatch, hello_in, plaintext_alert
from .iana import Alert
from .key_exchange import MOST_FLIGHT_BYTES
from .openssl_errors import is_openssl_error
from .records import Data, is_possible_in_plaintext
from .states import Event

__all__ = ["Handshake", "context_to_come"]


@cache
def context_to_come() -> ssl.SSLContext:
    """Return what stands for a server's context that is not chosen yet. It has no certificate, so
    OpenSSL refuses every client; it is asked only about what is no ClientHello.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    # Without one, OpenSSL would rule out TLS 1.3 at once if this could not bring some.
    context.sni_callback = lambda *_: None
    return context


@attrs.define(eq=False)
class Handshake:
    """Moves the handshake of an engine on, and reads what passes in the clear meanwhile.

    It pauses where somebody else has to decide: for a server's context, and for a verification of
    the peer that is not OpenSSL's.
    """

    _engine: Engine
    _ssl_context: ssl.SSLContext | None  # None to pause until it is chosen
    _verifies: bool
    # Holds the ClientHello back until it is whole, where it decides about the context.
    _hello: HelloWatch | None
    # Whether to refuse a client whose application protocols are all unknown here.
    _strict_alpn: bool
    # What the server has sent: its key exchange is in the first of it.
    _server_records: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    #: Whether it pauses until :meth:`use_context`.
    wants_context: bool = attrs.field(default=False, init=False)
    #: What was agreed on with a peer that is to be verified; None while there is none.
    unverified: HandshakeInfo | None = attrs.field(default=None, init=False)
    _accepted: HandshakeInfo | None = attrs.field(default=None, init=False)  # what that was
    # What has come in on a server before its first answer, if that is not held back.
    _first_records: bytearray = attrs.field(factory=bytearray, init=False, repr=False)
    #: Whether a server has answered, so that what came first was a ClientHello.
    has_answered: bool = attrs.field(default=False, init=False)
    _last_flight: bytes = attrs.field(default=b"", init=False, repr=False)  # held back until then

    def __attrs_post_init__(self) -> None:
        if self._strict_alpn and not self._engine.ssl_object.server_side:
            raise ValueError("strict_alpn is for servers: a client finds the protocol in handshake")

    @staticmethod
    def looks_at_hello(ssl_context: ssl.SSLContext | None) -> bool:
        """Whether a server's context depends on what the client says."""
        return ssl_context is None or ssl_context.sni_callback is not None

    @property
    def is_paused(self) -> bool:
        """Whether no step can be taken before somebody else has decided."""
        return self.wants_context or self.unverified is not None

    @property
    def client_hello(self) -> ClientHello | None:
        """What the client has said first; None if nothing yet, and on clients."""
        return hello_in(self._first_records) if self._hello is None else self._hello.hello

    def step(self) -> Happening | None:
        """Take one step. If nothing has happened, the inbox tells whether the next one needs more.

        The handshake is done when :attr:`Event.HANDSHAKE_DONE` has happened.
        """
        engine = self._engine
        happening: Happening | None = None
        if not engine.inbox.bio.pending:
            self._refill()
            if self.wants_context:
                return None
        try:
            # Always by this method: an sslobject_class may verify the peer in it.
            ask(engine.ssl_object.do_handshake)
        except ssl.SSLWantReadError:
            happening = self._refusal(is_done=False) or self._go_on()
        except ssl.SSLZeroReturnError:
            # A close_notify in the handshake comes from anybody: nothing is verified yet.
            message = "the peer gave up the handshake (alert close_notify)"
            happening = PeerAlertError(message, alert="close_notify")
        except Exception as exc:
            self._drop_finished(exc)
            happening = engine.failure(exc)
        except BaseException as exc:
            self._drop_finished(exc)
            raise
        else:
            happening = self._refusal(is_done=True) or self._end()
        finally:
            self._collect()
        return happening

    def _refusal(self, *, is_done: bool) -> Happening | None:
        """Refuse a client that OpenSSL accepts, if a rule of ours is against it."""
        engine = self._engine
        if not engine.ssl_object.server_side:
            return None
        refusal = refusal_of_session(engine.ssl_object, engine.outbox, is_done=is_done)
        return refusal if is_done else refusal or self._refuse_protocols()

    def _end(self) -> Happening | None:
        if not self._verifies:
            return Event.HANDSHAKE_DONE
        # In TLS 1.3 a client's Finished, with its certificate, is in it, or a server's tickets; in
        # TLS 1.2 the Finished of whoever sends it last.
        self._last_flight = self._engine.outbox.bio.read()
        self.unverified = self.info()
        return None

    def info(self) -> HandshakeInfo:
        """Return what was agreed on, once OpenSSL is done."""
        if self._accepted is not None:
            return self._accepted
        watch = self._hello
        hello = (bytes(self._first_records) or None) if watch is None else watch.hello
        return HandshakeInfo.of(self._engine.ssl_object, self._server_records, hello)

    def _note_records(self, data: Data) -> None:
        if len(self._server_records) < MOST_FLIGHT_BYTES:
            self._server_records += data

    def accept_peer(self) -> Event:
        """Let the last flight go, and return what has happened."""
        self._engine.outbox.bio.write(self._last_flight)
        self._collect()
        self._accepted, self.unverified = self.unverified, None
        return Event.HANDSHAKE_DONE

    def use_context(self, ssl_context: ssl.SSLContext) -> None:
        """Go on with a context, if the handshake has paused for it."""
        self.wants_context = False
        engine = self._engine
        engine.ssl_object = ssl_context.wrap_bio(
            engine.inbox.bio, engine.outbox.bio, server_side=True
        )

    def refuse(self, refusal: RefuseHandshake) -> None:
        """Write the alert in the clear, where the handshake has paused for a context."""
        alert = Alert[refusal.alert.upper()]
        self._engine.outbox.pieces.append(plaintext_alert(alert))

    def _collect(self) -> None:
        """Queue what OpenSSL has written, and read it off: a server's flight has the group."""
        engine = self._engine
        if not engine.outbox.bio.pending:
            return
        flight = engine.outbox.collect()
        if engine.ssl_object.server_side:
            self.has_answered = True
            self._note_records(flight)
            if self._hello is not None:
                self._hello.answered(flight)

    def _refuse_protocols(self) -> TLSError | None:
        """Refuse a client that offers application protocols, if OpenSSL goes on without one.

        CPython has OpenSSL do that, and RFC 7301 section 3.2 this. Nothing is encrypted for the
        client yet, so an alert in the clear can take the place of OpenSSL's answer.
        """
        engine = self._engine
        if not self._strict_alpn or not engine.outbox.bio.pending:
            return None
        hello = self.client_hello
        if engine.ssl_object.selected_alpn_protocol() or hello is None or not hello.alpn_protocols:
            return None
        engine.outbox.bio.read()
        engine.outbox.pieces.append(plaintext_alert(Alert.NO_APPLICATION_PROTOCOL))
        offered = [name.decode("ascii", "backslashreplace") for name in hello.alpn_protocols[:5]]
        offered += ["..."] * (len(hello.alpn_protocols) > len(offered))
        return TLSError(
            "the peer offers no application protocol (ALPN) that is served here, but "
            f"{printable(', '.join(offered))}",
            reason="NO_APPLICATION_PROTOCOL",
        )

    def _go_on(self) -> Happening | None:
        """Give OpenSSL more to read, or note what that takes."""
        inbox = self._engine.inbox
        if self._refill() or self.wants_context:
            return None
        if self._hello is not None and self._hello.refusal is not None:
            return self._hello.refusal.error
        inbox.ask_for_more()
        return Event.TRANSPORT_ENDED if inbox.has_ended and not inbox.is_behind else None

    def _refill(self) -> bool:
        """Give OpenSSL what it can read next, and return whether there was something."""
        if self._hello is not None and not self._hello.is_over:
            return self._refill_watched(self._hello)
        if not self._engine.inbox.records.waiting:
            return False
        data = self._engine.inbox.refill(lambda _: False)  # it refuses by what a record begins with
        if not self._engine.ssl_object.server_side:
            self._note_records(data)
        elif not self.has_answered and len(self._first_records) <= MAX_HELLO_BYTES:
            self._first_records += data
        return len(data) > 0

    def _refill_watched(self, watch: HelloWatch) -> bool:
        """Refill while a ClientHello may come: OpenSSL gets it whole, once there is a context.

        If that were left to an sni_callback, OpenSSL would look for a session to resume before it
        has the context; and CPython prints a traceback for a name that is not ASCII.
        """
        inbox, outbox = self._engine.inbox, self._engine.outbox
        self._collect()
        is_first = not watch.has_hello
        while not (watch.is_over or watch.is_ready):
            record = inbox.records.take(single=True, waits_for=is_possible_in_plaintext)
            if not record:
                return False
            watch.add(record)
        if watch.refusal is not None:
            inbox.records.take_all()
            outbox.pieces.append(watch.refusal.alert)
            return False
        if is_first and self._ssl_context is None and watch.hello is not None:
            self.wants_context = True
            return False
        inbox.is_single = not watch.is_over
        inbox.bio.write(watch.take())
        return inbox.bio.pending > 0 or self._refill()

    def _drop_finished(self, exc: BaseException) -> None:
        """Take back our Finished, if OpenSSL has written it and is content, as its version() tells,
        while Python code above it (truststore, for one) has refused the peer.
        """
        if self._engine.ssl_object.version() is not None or not is_openssl_error(exc):
            self._engine.outbox.bio.read()
