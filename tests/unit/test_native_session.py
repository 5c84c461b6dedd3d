"""Sessions that are taken from libssl, where Python's own way to them costs memory."""

from __future__ import annotations

import gc
import ssl
import sys
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import trio

from tests.helpers import HOST, NAME, echo, serving, shake_hands
from tests.stream.test_client import ping
from trio_tlsbio import (
    TLSConnection,
    TLSConnector,
    TLSSession,
    TLSStream,
    TruncationError,
)
from trio_tlsbio._core import native_session, tickets
from trio_tlsbio._core.native_session import _COPIES, LOOKS_ARE_CHEAP, _pointer_of, current_session

needs_libssl = pytest.mark.where(
    _COPIES and LOOKS_ARE_CHEAP, "elsewhere sessions are not taken from libssl"
)

copies_sessions = pytest.mark.where(
    sys.implementation.name != "pypy",
    "PyPy does not copy a session, which ends with a connection that is freed unclosed",
)


class Looks:
    """How often Python was asked for a session."""

    def __init__(self) -> None:
        self.count = 0

    def counting_class(self) -> type[ssl.SSLObject]:
        looks = self

        class Counting(ssl.SSLObject):
            @property
            def session(self) -> Any:
                looks.count += 1
                return self._sslobj.session  # type: ignore[attr-defined]

            @session.setter
            def session(self, session: Any) -> None:
                self._sslobj.session = session  # type: ignore[attr-defined]

        return Counting


@pytest.fixture
def looks(client_context: ssl.SSLContext) -> Looks:
    """The looks of all connections with the client's context."""
    looks = Looks()
    client_context.sslobject_class = looks.counting_class()
    return looks


def connect(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    session: TLSSession | None = None,
) -> tuple[TLSConnection, list[TLSSession]]:
    """Make a connection, and return its client with the sessions that it was given."""
    client = TLSConnection(
        client_context, server_hostname=NAME, session=session, collect_sessions=True
    )
    shake_hands(client, TLSConnection(server_context, server_side=True))
    client.look_for_session()
    return client, client.new_sessions()


def is_resumed(client: TLSConnection) -> bool:
    assert client.handshake is not None
    return client.handshake.session_reused


################################################################
# From libssl
################################################################


@needs_libssl
def test_where_a_look_would_copy_python_is_not_asked(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, looks: Looks
) -> None:
    _, sessions = connect(client_context, server_context)
    assert sessions
    for session in sessions:
        assert is_resumed(connect(client_context, server_context, session)[0])
    assert looks.count == 0


@needs_libssl
def test_both_ways_see_the_same_session(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, _ = connect(client_context, server_context)
    ours, theirs = current_session(client.ssl_object), client.ssl_object.session
    assert ours is not None
    assert theirs is not None
    assert type(ours) is not type(theirs)
    for name in ("id", "has_ticket", "timeout", "ticket_lifetime_hint"):
        assert getattr(ours, name) == getattr(theirs, name)


@needs_libssl
def test_what_is_not_laid_out_as_expected_is_left_alone(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, _ = connect(client_context, server_context)
    inner: Any = client.ssl_object._sslobj  # type: ignore[attr-defined]
    other_context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)

    def pointer_of(inner: object) -> int | None:
        anything: Any = SimpleNamespace(_sslobj=inner)
        return _pointer_of(anything)

    class _SSLSocket:  # by its name alone
        __slots__ = ("context",)

    class Larger:
        __slots__ = ("a", "b", "c", "d")
        context = client_context

        def __init__(self) -> None:
            self.a = self.b = self.c = self.d = 0

    Larger.__name__ = "_SSLSocket"
    for stranger in (None, object(), SimpleNamespace(context=client_context), _SSLSocket()):
        assert pointer_of(stranger) is None
    assert pointer_of(Larger()) is None  # its context is not where the pointer should be
    assert _pointer_of(SimpleNamespace()) is None  # type: ignore[arg-type]
    pointer = pointer_of(inner)
    assert pointer
    inner.context = other_context
    assert pointer_of(inner) == pointer  # the context moves with it


def test_an_object_of_another_layout_is_asked_by_python(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    looks: Looks,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(native_session, "_pointer_of", lambda _: None)
    _, sessions = connect(client_context, server_context)
    assert looks.count > 0
    assert is_resumed(connect(client_context, server_context, sessions[0])[0])


@copies_sessions
def test_a_session_outlives_the_abrupt_end_of_its_connection(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client, sessions = connect(client_context, server_context)
    client.feed_eof()  # without a close_notify
    with pytest.raises(TruncationError):
        client.receive()
    del client
    gc.collect()
    for session in sessions:
        assert is_resumed(connect(client_context, server_context, session)[0])


@copies_sessions
def test_a_session_may_be_the_last_that_keeps_its_context(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = client_context.minimum_version
    context.maximum_version = client_context.maximum_version
    alive = weakref.ref(context)
    _, sessions = connect(context, server_context)
    del context, _
    gc.collect()
    session = sessions[0]
    assert alive() is session.ssl_context
    assert is_resumed(connect(session.ssl_context, server_context, session)[0])
    del session
    sessions.clear()
    gc.collect()
    assert alive() is None


################################################################
# Without it
################################################################


@pytest.fixture
def no_libssl(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that copies sessions, and whose libssl can't be reached."""
    monkeypatch.setattr(native_session, "_libssl", lambda: None)
    monkeypatch.setattr(tickets, "_MOST_LOOKS", 1)


@pytest.mark.usefixtures("no_libssl")
def test_one_look_for_each_connection_is_enough(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, looks: Looks
) -> None:
    session: TLSSession | None = None
    for number in range(10):
        client, sessions = connect(client_context, server_context, session)
        assert is_resumed(client) is (number > 0)
        client.receive()
        client.look_for_session()
        assert looks.count <= number + 1
        session = sessions[0] if sessions else session  # one of TLS 1.2 is used again
    assert session is not None


@pytest.mark.usefixtures("no_libssl")
def test_data_before_the_ticket_leaves_the_look_to_the_end(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, looks: Looks
) -> None:
    client, sessions = connect(client_context, server_context)
    assert looks.count == 1
    assert len(sessions) == 1
    client.look_for_session()
    assert client.new_sessions() == []
    assert looks.count == 1


@pytest.mark.usefixtures("no_libssl")
async def test_connections_that_begin_at_once_resume_after_as_many_have(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    connector = TLSConnector(ssl_context=client_context)

    async def connect_at_once(count: int) -> int:
        streams: list[TLSStream[trio.SocketStream]] = []

        async def talk() -> None:
            async with await connector.connect(HOST, port) as stream:
                streams.append(stream)
                await ping(stream)

        async with trio.open_nursery() as nursery:
            for _ in range(count):
                nursery.start_soon(talk)
        return sum(stream.session_reused for stream in streams)

    async with serving(echo, server_context) as port:
        await connect_at_once(20)
        assert await connect_at_once(20) == 20
        assert await connect_at_once(20) == 20
