"""The handshake, from the ClientHello until both sides have verified it."""

from __future__ import annotations

import ssl

import attrs

from .engine import Engine, Happening, ask
from .errors import PeerAlertError
from .hello import HelloWatch
from .key_exchange import KeyExchangeWatch
from .openssl_errors import is_openssl_error
from .records import is_possible_in_plaintext
from .sni import context_for_name, note_requested_hostname
from .states import Event

__all__ = ["Handshake"]


@attrs.define(eq=False)
class Handshake:
    """Moves the handshake of an engine on, and reads what passes in the clear meanwhile."""

    _engine: Engine
    _ssl_context: ssl.SSLContext
    # On servers whose context looks at names, until that is done.
    _hello: HelloWatch | None
    _key_exchange: KeyExchangeWatch = attrs.field(factory=KeyExchangeWatch, init=False)

    def step(self) -> Happening | None:
        """Take one step. If nothing has happened, the inbox tells whether the next one needs more.

        The handshake is done when :attr:`Event.HANDSHAKE_DONE` has happened.
        """
        engine = self._engine
        happening: Happening | None = Event.HANDSHAKE_DONE
        if not engine.inbox.bio.pending:
            self._refill()
        try:
            # Always by this method: an sslobject_class may verify the peer in it.
            ask(engine.ssl_object.do_handshake)
        except ssl.SSLWantReadError:
            happening = self._go_on()
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
        finally:
            self._collect()
        return happening

    def group(self, cipher: str) -> str | None:
        """See :meth:`KeyExchangeWatch.group`."""
        return self._key_exchange.group(cipher)

    def _collect(self) -> None:
        """Queue what OpenSSL has written, and read it off: a server's flight has the group."""
        engine = self._engine
        flight = engine.outbox.collect()
        if flight and engine.ssl_object.server_side:
            self._key_exchange.add(flight)
            if self._hello is not None:
                self._hello.answered(flight)

    def _go_on(self) -> Happening | None:
        """Give OpenSSL more to read, or note what that takes."""
        inbox = self._engine.inbox
        if self._refill():
            return None
        if self._hello is not None and self._hello.refusal is not None:
            return self._hello.refusal.error
        inbox.ask_for_more()
        return Event.TRANSPORT_ENDED if inbox.has_ended and not inbox.is_behind else None

    def _refill(self) -> bool:
        """Give OpenSSL what it can read next, and return whether there was something."""
        if self._hello is not None and not self._hello.is_over:
            return self._refill_watched(self._hello)
        data = self._engine.inbox.refill(lambda _: False)  # it refuses by what a record begins with
        if not self._engine.ssl_object.server_side:
            self._key_exchange.add(data)
        return len(data) > 0

    def _refill_watched(self, watch: HelloWatch) -> bool:
        """Refill while a ClientHello may come: OpenSSL gets it whole, by the context for its name.

        If that were left to the sni_callback, OpenSSL would look for a session to resume before it
        has the context; and CPython prints a traceback for a name that is not ASCII.
        """
        inbox, outbox = self._engine.inbox, self._engine.outbox
        self._collect()
        is_first, may_go_on = not watch.has_hello, False
        while not (watch.is_over or may_go_on):
            record = inbox.records.take(single=True, waits_for=is_possible_in_plaintext)
            if not record:
                return False
            may_go_on = watch.add(record)
        if watch.refusal is not None:
            inbox.records.take_all()
            outbox.pieces.append(watch.refusal.alert)
            return False
        if is_first and watch.has_hello:
            self._use_context_for(watch.server_name)
        inbox.is_single = not watch.is_over
        inbox.bio.write(watch.take())
        return inbox.bio.pending > 0 or self._refill()

    def _use_context_for(self, name: str | None) -> None:
        """Begin with the context that a :func:`sni_context` has for a name."""
        engine = self._engine
        context = context_for_name(self._ssl_context, name)
        if context is not self._ssl_context:
            engine.ssl_object = context.wrap_bio(
                engine.inbox.bio, engine.outbox.bio, server_side=True
            )
        note_requested_hostname(engine.ssl_object, name)

    def _drop_finished(self, exc: BaseException) -> None:
        """Take back our Finished, if OpenSSL has written it and is content, as its version() tells,
        while Python code above it (truststore, for one) has refused the peer.
        """
        if self._engine.ssl_object.version() is not None or not is_openssl_error(exc):
            self._engine.outbox.bio.read()
