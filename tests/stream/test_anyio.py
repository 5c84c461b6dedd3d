"""The adapter for anyio: programs go on as they were, and what anyio can't do works."""

from __future__ import annotations

import asyncio
import copy
import gc
import inspect
import pickle
import ssl
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import anyio.abc
import anyio.lowlevel
import anyio.streams.tls
import attrs
import pytest
import trio
import trustme
from anyio.abc import SocketAttribute
from anyio.streams.stapled import StapledByteStream, StapledObjectStream

import trio_tlsbio
import trio_tlsbio.anyio
from tests.helpers import DOCS, HOST, LIMIT, NAME, counts_references, server_context_for
from trio_tlsbio import SessionCache, contexts_by_name
from trio_tlsbio.anyio import (
    CertificateError,
    TLSAttribute,
    TLSConnectable,
    TLSError,
    TLSListener,
    TLSStream,
    as_connectable,
    connect_tcp,
)
from trio_tlsbio.anyio._stream import trio_stream_for

PROGRAM = DOCS / "examples" / "anyio_program.py"


@asynccontextmanager
async def serving(handler: Any, context: Any, kind: Any = TLSListener) -> AsyncIterator[int]:
    """Serve on loopback by anyio; the value is the port."""
    with trio.fail_after(LIMIT):
        listener = await anyio.create_tcp_listener(local_host=HOST)
        port = listener.extra(SocketAttribute.local_port)
        async with kind(listener, context) as tls_listener, anyio.create_task_group() as tasks:
            tasks.start_soon(tls_listener.serve, handler)
            yield port
            tasks.cancel_scope.cancel()


async def echo(stream: Any) -> None:
    """Send everything back, and end when the client does."""
    async with stream:
        async for data in stream:
            await stream.send(data)


async def echo_until_eof(stream: TLSStream) -> None:
    async with stream:
        data = b"".join([part async for part in stream])
        await stream.send(data)
        await stream.send_eof()


################################################################
# A program of a user's kind
################################################################


@pytest.mark.parametrize("kind", ["ours", "anyio's"])
async def test_a_program_unchanged_but_for_one_import(
    kind: str, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    source = await trio.Path(PROGRAM).read_text(encoding="utf-8")
    module = "from trio_tlsbio.anyio import TLS"
    assert source.count(module) == 1
    if kind != "ours":
        source = source.replace(module, "from anyio.streams.tls import TLS")
    namespace: dict[str, Any] = {"__name__": "program"}
    exec(compile(source, PROGRAM, "exec"), namespace)
    with trio.fail_after(LIMIT):
        notes = await namespace["main"](server_context, client_context)
    assert notes == [b"the first note", b"somebody was here", b"the last note"]


async def test_a_listener_chooses_by_the_client_hello(
    ca: trustme.CA,
    client_context: ssl.SSLContext,
    tls_version: ssl.TLSVersion,
    caplog: pytest.LogCaptureFixture,
) -> None:
    contexts = {
        name: server_context_for(ca.issue_cert(name), tls_version)
        for name in ("a.example", "b.example")
    }
    async with serving(echo, contexts_by_name(contexts)) as port:
        for name in (*contexts, "c.example"):
            tcp = await anyio.connect_tcp(HOST, port)
            if name in contexts:
                async with await TLSStream.wrap(
                    tcp, hostname=name, ssl_context=client_context
                ) as stream:
                    await stream.send(name.encode())
                    assert await stream.receive() == name.encode()
            else:
                with pytest.raises(TLSError, match="unrecognized_name"):
                    await TLSStream.wrap(tcp, hostname=name, ssl_context=client_context)
    (message,) = [record.getMessage() for record in caplog.records]
    assert "c.example, which is not served here" in message


@pytest.mark.parametrize("kind", [TLSListener, anyio.streams.tls.TLSListener])
async def test_with_anyio_at_the_other_end(
    kind: Any, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    other = anyio.streams.tls.TLSStream if kind is TLSListener else TLSStream
    data = bytes(range(256)) * 4096
    async with serving(echo, server_context, kind) as port:
        tcp = await anyio.connect_tcp(HOST, port)
        async with await other.wrap(tcp, hostname=HOST, ssl_context=client_context) as stream:
            received = b""
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(stream.send, data)
                while len(received) < len(data):
                    received += await stream.receive()
    assert received == data


################################################################
# What anyio's own can't do
################################################################


async def test_half_close(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async with serving(echo_until_eof, server_context) as port:
        stream = await connect_tcp(HOST, port, ssl_context=client_context)
        async with stream:
            await stream.send(b"hello")
            await stream.send_eof()
            assert b"".join([part async for part in stream]) == b"hello"
            with pytest.raises(anyio.EndOfStream):
                await stream.receive()
            with pytest.raises(anyio.ClosedResourceError):
                await stream.send(b"more")


@pytest.mark.parametrize("layers", [1, 2])
async def test_a_cancelled_send_leaves_the_stream_usable(
    layers: int, client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    data = bytes(range(256)) * 100_000
    begin = anyio.Event()
    received: list[bytes] = []

    async def handle(stream: TLSStream) -> None:
        if layers == 2:
            stream = await TLSStream.wrap(stream, server_side=True, ssl_context=server_context)
        async with stream:
            await begin.wait()
            received.extend([part async for part in stream])
            await stream.send(b"thank you")

    async with serving(handle, server_context) as port:
        stream = await connect_tcp(HOST, port, ssl_context=client_context)
        if layers == 2:
            stream = await TLSStream.wrap(stream, hostname=HOST, ssl_context=client_context)
        async with stream:
            with anyio.move_on_after(0.05) as scope:
                await stream.send(data)
            assert scope.cancelled_caught
            sent = stream.trio_stream.bytes_committed
            assert 0 < sent < len(data)
            begin.set()
            await stream.send(data[sent:])
            await stream.send_eof()
            assert await stream.receive() == b"thank you"
    assert b"".join(received) == data


async def test_connections_resume(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    cache = SessionCache()
    async with serving(echo, server_context) as port:
        connectable = TLSConnectable(
            anyio.TCPConnectable(HOST, port), hostname=HOST, ssl_context=client_context
        )
        connect = partial(
            connect_tcp, HOST, port, tls=True, ssl_context=client_context, session_cache=cache
        )
        for make in (connectable.connect, connect):
            for number in range(3):
                async with await make() as stream:
                    await stream.send(b"hello")
                    assert await stream.receive() == b"hello"
                    assert stream.trio_stream.session_reused is (number > 0)
    assert cache.statistics().hits == connectable.session_cache.statistics().hits == 2


async def test_unwrap(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async def handle(stream: TLSStream) -> None:
        transport, trailing = await stream.unwrap()
        async with transport:
            data = trailing or await transport.receive()
            await transport.send(data.upper())

    async with serving(handle, server_context) as port:
        stream = await connect_tcp(HOST, port, ssl_context=client_context)
        transport, trailing = await stream.unwrap()
        await stream.aclose()  # which has nothing to close any more
        assert isinstance(transport, anyio.abc.SocketStream)
        assert trailing == b""
        async with transport:
            await transport.send(b"in plaintext")
            assert await transport.receive() == b"IN PLAINTEXT"
    assert transport.extra(SocketAttribute.raw_socket).fileno() == -1


################################################################
# The functions that connect
################################################################


@pytest.mark.parametrize(
    ("options", "is_tls"),
    [
        ({}, False),
        ({"tls": False}, False),
        ({"tls": False, "tls_hostname": ""}, False),
        ({"tls_standard_compatible": False}, False),
        ({"local_host": HOST, "happy_eyeballs_delay": 1.0}, False),
        ({"tls": True}, True),
        ({"tls_hostname": NAME}, True),
        ({"ssl_context": None, "tls_hostname": NAME, "tls": False}, True),
        ({"ssl_context": ...}, True),
        ({"ssl_context": ..., "tls": False, "local_host": HOST}, True),
    ],
)
async def test_tls_is_spoken_where_anyio_would_speak_it(
    options: dict[str, Any],
    is_tls: bool,
    client_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if options.get("ssl_context") is ...:
        options = {**options, "ssl_context": client_context}
    wrapped: list[type] = []

    async def wrap(stream: anyio.abc.SocketStream, **_: Any) -> anyio.abc.SocketStream:
        wrapped.append(type(stream))
        return stream

    connect: Any
    with trio.fail_after(LIMIT):
        async with await anyio.create_tcp_listener(local_host=HOST) as listener:
            port = listener.extra(SocketAttribute.local_port)
            for kind, connect in (
                (anyio.streams.tls.TLSStream, anyio.connect_tcp),
                (TLSStream, connect_tcp),
            ):
                monkeypatch.setattr(kind, "wrap", wrap)
                async with await connect(HOST, port, **options) as stream:
                    assert isinstance(stream, anyio.abc.SocketStream)
    assert wrapped == ([type(stream)] * 2 if is_tls else [])


async def test_plain_tcp_goes_through() -> None:
    async def greet(stream: anyio.abc.SocketStream) -> None:
        async with stream:
            await stream.send(b"hello")

    with trio.fail_after(LIMIT):
        async with (
            await anyio.create_tcp_listener(local_host=HOST) as listener,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(listener.serve, greet)
            port = listener.extra(SocketAttribute.local_port)
            async with await connect_tcp(HOST, port) as stream:
                assert await stream.receive() == b"hello"
            tasks.cancel_scope.cancel()


def test_the_parameters_are_those_of_anyio() -> None:
    theirs: Any
    for theirs, ours in ((anyio.connect_tcp, connect_tcp), (anyio.as_connectable, as_connectable)):
        of_theirs, of_ours = (dict(inspect.signature(f).parameters) for f in (theirs, ours))
        if "local_port" not in of_theirs:  # in older versions of anyio
            of_ours.pop("local_port", None)
        del of_ours["session_cache"]
        assert list(of_ours) == list(of_theirs)
        for name, parameter in of_theirs.items():
            assert of_ours[name].kind is parameter.kind
            assert of_ours[name].default == parameter.default


async def test_wrong_arguments_make_no_connection(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def connect(*_: Any, **__: Any) -> None:
        raise AssertionError("it has connected")

    monkeypatch.setattr(anyio, "connect_tcp", connect)
    monkeypatch.setattr(anyio.TCPConnectable, "connect", connect)
    ssl_context: Any
    for ssl_context, words in (
        (server_context, "made for the other side|check_hostname"),
        (client_context, "check_hostname"),
    ):
        connectable = TLSConnectable(anyio.TCPConnectable(HOST, 1), ssl_context=ssl_context)
        if ssl_context is client_context:
            with pytest.raises(ValueError, match=words):
                await connectable.connect()
    for ssl_context in ("no context", 1):
        with pytest.raises(TypeError, match=r"must be an ssl\.SSLContext, or a function"):
            await connect_tcp(HOST, 1, ssl_context=ssl_context)
        with pytest.raises(TypeError, match=r"must be an ssl\.SSLContext, or a function"):
            TLSConnectable(anyio.TCPConnectable(HOST, 1), ssl_context=ssl_context)
    cache: Any = SessionCache()
    with pytest.raises(ValueError, match="the ssl_context they were made with"):
        await connect_tcp(HOST, 1, tls=True, session_cache=cache)
    with pytest.raises(ValueError, match="the ssl_context they were made with"):
        await connect_tcp(HOST, 1, session_cache=cache)


async def test_wrong_arguments_of_servers(server_context: ssl.SSLContext) -> None:
    ours, theirs = memory_pair()
    async with ours:
        with (
            trio.fail_after(LIMIT),
            pytest.raises(ValueError, match="session_cache is for clients"),
        ):
            await TLSStream.wrap(
                theirs, server_side=True, ssl_context=server_context, session_cache=SessionCache()
            )
    listener: Any = None
    with pytest.raises(ValueError, match="handshake_timeout must be positive"):
        TLSListener(listener, server_context, handshake_timeout=0)
    with pytest.raises(TypeError, match="ssl_context must be"):
        TLSListener(listener, "no context")  # type: ignore[arg-type]


async def test_as_connectable(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, tmp_path: Path
) -> None:
    """Where anyio gives its own TLSConnectable, this gives ours."""
    path = tmp_path / "socket"
    for remote in (("localhost", 443), str(path), bytes(path), path, anyio.UNIXConnectable(path)):
        assert as_connectable(remote) == anyio.as_connectable(remote)
        assert as_connectable(remote, ssl_context=client_context) == anyio.as_connectable(remote)
        for name in (None, NAME):
            options: Any = {"tls": True, "ssl_context": client_context, "tls_hostname": name}
            options["tls_standard_compatible"] = name is None
            ours: Any = as_connectable(remote, **options)
            theirs: Any = anyio.as_connectable(remote, **options)
            if theirs is remote:
                assert ours is remote
                continue
            assert type(ours) is TLSConnectable
            for attribute in ("connectable", "hostname", "ssl_context", "standard_compatible"):
                assert getattr(ours, attribute) == getattr(theirs, attribute)
    with pytest.raises(TypeError, match="to a connectable"):
        as_connectable(1, tls=True)  # type: ignore[arg-type]
    cache = SessionCache()
    async with serving(echo, server_context) as port:
        connectable = as_connectable(
            (HOST, port), tls=True, ssl_context=client_context, session_cache=cache
        )
        for number in range(2):
            stream: Any = await connectable.connect()
            async with stream:
                await stream.send(b"hello")
                assert await stream.receive() == b"hello"
                assert stream.trio_stream.session_reused is (number > 0)
    assert cache.statistics().hits == 1


################################################################
# Other transports, attributes, errors
################################################################


def memory_pair() -> tuple[StapledObjectStream[bytes], StapledObjectStream[bytes]]:
    to_server, from_client = anyio.create_memory_object_stream[bytes](10)
    to_client, from_server = anyio.create_memory_object_stream[bytes](10)
    return StapledObjectStream(to_server, from_server), StapledObjectStream(to_client, from_client)


async def test_any_stream_of_anyio(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    ours, theirs = memory_pair()

    async def serve() -> None:
        await echo_until_eof(
            await TLSStream.wrap(theirs, server_side=True, ssl_context=server_context)
        )

    with trio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(serve)
            stream = await TLSStream.wrap(ours, hostname=NAME, ssl_context=client_context)
            async with stream:
                await stream.send(b"hello")
                await stream.send_eof()
                assert b"".join([part async for part in stream]) == b"hello"
            assert not stream.trio_stream.is_cancel_safe


@attrs.define(eq=False)
class Mutters(anyio.abc.ObjectStream[bytes]):
    """A stream of objects that puts empty ones around each that it receives."""

    stream: StapledObjectStream[bytes]
    sent: list[bytes] = attrs.Factory(list)
    arrived: list[bytes] = attrs.Factory(list)

    async def send(self, item: bytes) -> None:
        self.sent.append(item)
        await self.stream.send(item)

    async def receive(self) -> bytes:
        if not self.arrived:
            self.arrived += [b"", await self.stream.receive(), b"", b""]
        return self.arrived.pop(0)

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def aclose(self) -> None:
        await self.stream.aclose()


@pytest.mark.parametrize("standard_compatible", [True, False])
async def test_an_empty_item_is_no_end(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, standard_compatible: bool
) -> None:
    ours, theirs = (Mutters(stream) for stream in memory_pair())
    with trio.fail_after(LIMIT):
        async with anyio.create_task_group() as tasks:

            @tasks.start_soon
            async def serve() -> None:
                stream = await TLSStream.wrap(theirs, server_side=True, ssl_context=server_context)
                await echo_until_eof(stream)

            stream = await TLSStream.wrap(
                ours,
                hostname=NAME,
                ssl_context=client_context,
                standard_compatible=standard_compatible,
            )
            async with stream:
                await stream.send(b"")
                await stream.send(b"hello")
                await stream.send(b"")
                await stream.send_eof()
                assert b"".join([part async for part in stream]) == b"hello"
                await stream.trio_stream.transport_stream.send_all(b"")
    for end in (ours, theirs):
        assert end.sent
        assert b"" not in end.sent


async def test_a_flood_of_empty_items_can_be_cancelled(client_context: ssl.SSLContext) -> None:
    class Flood(Mutters):
        async def receive(self) -> bytes:
            return b""

    ours, theirs = memory_pair()
    async with theirs:
        with trio.move_on_after(0.01) as scope:
            await TLSStream.wrap(Flood(ours), hostname=NAME, ssl_context=client_context)
    assert scope.cancelled_caught


async def test_an_item_may_be_longer_than_what_was_asked_for() -> None:
    ours, theirs = memory_pair()
    stream = trio_stream_for(ours)
    await theirs.send(b"hello")
    await theirs.send(b"")
    await theirs.send_eof()
    assert await stream.receive_some(4) == b"hell"
    assert await stream.receive_some(4) == b"o"
    assert await stream.receive_some(4) == b""
    with pytest.raises(ValueError, match="max_bytes"):
        await stream.receive_some(0)
    await ours.aclose()
    await theirs.aclose()


async def test_an_oserror_of_the_transport_is_an_error_of_tls(
    client_context: ssl.SSLContext,
) -> None:
    class Fails(Mutters):
        async def receive(self) -> bytes:
            raise ConnectionResetError(104, "reset")

    ours, theirs = memory_pair()
    with pytest.raises(TLSError, match="reset"):
        await TLSStream.wrap(Fails(ours), hostname=NAME, ssl_context=client_context)
    await theirs.aclose()


async def test_a_buffer_over_a_socket_is_not_gone_around(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """A stream that passes on the attributes of a socket need not be one."""
    async with serving(echo_until_eof, server_context) as port:
        tcp = await anyio.connect_tcp(HOST, port)
        stapled = StapledByteStream(tcp, tcp)
        assert stapled.extra(SocketAttribute.raw_socket) is not None
        stream = await TLSStream.wrap(stapled, hostname=HOST, ssl_context=client_context)
        assert not isinstance(stream.trio_stream.transport_stream, trio.SocketStream)
        async with stream:
            await stream.send(b"hello")
            await stream.send_eof()
            assert b"".join([part async for part in stream]) == b"hello"


async def test_attributes(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, tls_version: ssl.TLSVersion
) -> None:
    """Each attribute of anyio's is there, and says the same as anyio's own stream."""
    context = client_context
    context.set_alpn_protocols(["one", "two"])
    server_context.set_alpn_protocols(["two"])
    async with serving(echo, server_context) as port:
        found = []
        for kind in (TLSStream, anyio.streams.tls.TLSStream):
            tcp = await anyio.connect_tcp(HOST, port)
            async with await kind.wrap(tcp, hostname=HOST, ssl_context=context) as stream:
                attributes = dict(stream.extra_attributes)
                found.append({key: get() for key, get in attributes.items()})
                assert stream.extra(TLSAttribute.alpn_protocol) == "two"
                assert stream.extra(SocketAttribute.remote_port) == port
        ours, theirs = found
        assert ours.keys() == theirs.keys()
        same = set(ours) - {TLSAttribute.ssl_object, TLSAttribute.channel_binding_tls_unique}
        for key in same - {SocketAttribute.raw_socket, SocketAttribute.local_port}:
            if key is not SocketAttribute.local_address:
                assert ours[key] == theirs[key]


async def test_a_refused_certificate(
    server_context: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(echo, server_context) as port:
        for error in (
            ssl.SSLCertVerificationError,
            ssl.SSLError,
            anyio.BrokenResourceError,
            TLSError,
        ):
            with pytest.raises(error) as caught:
                await connect_tcp(HOST, port, tls=True)
            assert isinstance(caught.value, CertificateError)
            assert isinstance(caught.value.__cause__, trio_tlsbio.CertificateError)
            assert isinstance(caught.value.__cause__.__cause__, ssl.SSLCertVerificationError)
            assert "certificate" in str(caught.value)
            assert str(caught.value) == str(caught.value.__cause__)
            assert caught.value.reason == "CERTIFICATE_VERIFY_FAILED"
        while caplog.text.count("unknown_ca") < 4:
            await anyio.lowlevel.checkpoint()


async def test_clients_that_misbehave_end_their_own_connections(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with serving(echo, server_context) as port:
        async with await anyio.connect_tcp(HOST, port) as tcp:
            await tcp.send(b"GET / HTTP/1.1\r\n\r\n")
            assert [part async for part in tcp] == []
        stream = await connect_tcp(HOST, port, ssl_context=client_context)
        await stream.transport_stream.aclose()  # it vanishes
        async with await connect_tcp(HOST, port, ssl_context=client_context) as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
        while "without a close_notify" not in caplog.text:
            await anyio.lowlevel.checkpoint()
    assert "an HTTP request" in caplog.text


async def test_what_a_handler_raises_itself_ends_the_server(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    async def handle(stream: TLSStream) -> None:
        raise KeyError("mine")

    with pytest.RaisesGroup(KeyError, flatten_subgroups=True):
        async with serving(handle, server_context) as port:
            stream = await connect_tcp(HOST, port, ssl_context=client_context)
            async with stream:
                assert [data async for data in stream] == []
                await anyio.sleep_forever()


@pytest.mark.parametrize("how", ["mine", "again", "group"])
async def test_whose_failure_it_is(
    how: str,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a handler makes of an error of its stream is its own; the error itself is not."""

    async def handle(stream: TLSStream) -> None:
        async with stream:
            try:
                if how == "group":
                    async with anyio.create_task_group() as tasks:
                        tasks.start_soon(stream.receive)
                await stream.receive()
            except TLSError as exc:
                if how == "mine":
                    raise RuntimeError("mine") from exc.__cause__
                raise exc from None

    async def vanish(port: int) -> None:
        stream = await connect_tcp(HOST, port, ssl_context=client_context)
        await stream.transport_stream.aclose()

    if how == "mine":
        with pytest.RaisesGroup(
            pytest.RaisesExc(RuntimeError, match="mine"), flatten_subgroups=True
        ):
            async with serving(handle, server_context) as port:
                await vanish(port)
                await anyio.sleep_forever()
        return
    async with serving(handle, server_context) as port:
        await vanish(port)
        while "connection ended: the connection ended without" not in caplog.text:
            await anyio.lowlevel.checkpoint()
        await vanish(port)


async def test_a_handler_of_handshake_errors_can_ask_who_it_was(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    told: list[Any] = []

    class Listener(TLSListener):
        @staticmethod
        async def handle_handshake_error(exc: BaseException, stream: Any) -> None:
            told.append((exc, stream.extra(SocketAttribute.remote_address)))

    async with serving(echo, server_context, Listener) as port:
        async with await anyio.connect_tcp(HOST, port) as tcp:
            address = tcp.extra(SocketAttribute.local_address)
            await tcp.send(b"GET / HTTP/1.1\r\n\r\n")
            assert [part async for part in tcp] == []  # it is closed afterwards
        async with await connect_tcp(HOST, port, ssl_context=client_context) as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"
    ((exc, told_address),) = told
    assert isinstance(exc, TLSError)
    assert told_address == address


async def test_a_handler_of_handshake_errors_may_close_the_stream(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    """As anyio's own does."""

    class Listener(TLSListener):
        handle_handshake_error = staticmethod(anyio.streams.tls.TLSListener.handle_handshake_error)

    async with serving(echo, server_context, Listener) as port:
        async with await anyio.connect_tcp(HOST, port) as tcp:
            with suppress(anyio.BrokenResourceError):
                await tcp.send(b"GET / HTTP/1.1\r\n\r\n")
                assert [part async for part in tcp] == []
        async with await connect_tcp(HOST, port, ssl_context=client_context) as stream:
            await stream.send(b"hello")
            assert await stream.receive() == b"hello"


@counts_references
async def test_what_is_no_exception_is_raised_again_and_then_freed() -> None:
    class Leave(BaseException):
        pass

    references: list[weakref.ref[Leave]] = []

    async def handle(stream: Any) -> None:
        exc = Leave()
        references.append(weakref.ref(exc))
        try:
            await TLSListener.handle_handshake_error(exc, stream)
        finally:
            del exc

    ours, theirs = memory_pair()
    gc.disable()
    try:
        async with ours, theirs:
            with suppress(Leave):
                await handle(ours)
        assert references[0]() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("peer_leaves", [True, False])
async def test_closing_neither_waits_for_the_peer_nor_fails_by_it(
    peer_leaves: bool,
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    autojump_clock: trio.testing.MockClock,
) -> None:
    """As the documentation says, unlike anyio's own."""
    ours, theirs = memory_pair()
    async with theirs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(
                partial(TLSStream.wrap, theirs, server_side=True, ssl_context=server_context)
            )
            stream = await TLSStream.wrap(ours, hostname=NAME, ssl_context=client_context)
        if peer_leaves:
            await theirs.aclose()
        start = trio.current_time()
        await stream.aclose()
        assert trio.current_time() - start <= 5


async def test_errors_are_what_programs_expect(server_context: ssl.SSLContext) -> None:
    async with serving(echo, server_context) as port:
        with pytest.raises(ssl.SSLCertVerificationError) as caught:
            await connect_tcp(HOST, port, tls=True)
    error = caught.value
    original: Any = error.__cause__.__cause__ if error.__cause__ else None
    for name in ("errno", "library", "reason", "verify_code", "verify_message"):
        assert getattr(error, name) == getattr(original, name), name
    assert error.strerror == str(error) == str(error.__cause__)
    for again in (copy.copy(error), pickle.loads(pickle.dumps(error))):
        assert type(again) is CertificateError
        assert str(again) == str(error)


async def test_sessions_need_a_context_that_stays() -> None:
    ours, theirs = memory_pair()
    async with theirs:
        with pytest.raises(ValueError, match="the ssl_context they were made with"):
            await TLSStream.wrap(ours, hostname=NAME, session_cache=SessionCache())
    connectable = TLSConnectable(anyio.TCPConnectable(HOST, 1), ssl_context=None)
    assert isinstance(connectable.ssl_context, ssl.SSLContext)


async def test_a_silent_client(
    server_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
    autojump_clock: trio.testing.MockClock,
) -> None:
    ours, theirs = memory_pair()

    class OneClient(anyio.abc.Listener[Any]):
        async def serve(self, handler: Any, task_group: Any = None) -> None:
            await handler(theirs)

        async def aclose(self) -> None: ...

    await TLSListener(OneClient(), server_context).serve(echo)
    assert "no handshake within 30 seconds" in caplog.text
    await ours.aclose()
    ours, theirs = memory_pair()
    async with ours:
        with pytest.raises(TimeoutError, match="no handshake within 5 seconds"):
            await TLSStream.wrap(
                theirs, server_side=True, ssl_context=server_context, handshake_timeout=5
            )


@pytest.mark.parametrize("standard_compatible", [True, False])
async def test_truncation(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, standard_compatible: bool
) -> None:
    async def handle(stream: TLSStream) -> None:
        async with stream:
            await stream.send(b"hello")
            await stream.transport_stream.send_eof()
            await anyio.sleep_forever()

    async with serving(handle, server_context) as port:
        stream = await connect_tcp(
            HOST, port, ssl_context=client_context, tls_standard_compatible=standard_compatible
        )
        async with stream:
            assert await stream.receive() == b"hello"
            error = TLSError if standard_compatible else anyio.EndOfStream
            for _ in range(2):
                with pytest.raises(error):
                    await stream.receive()


async def test_misuse(client_context: ssl.SSLContext, server_context: ssl.SSLContext) -> None:
    async with serving(echo, server_context) as port:
        stream = await connect_tcp(HOST, port, ssl_context=client_context)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream.receive)
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(anyio.BusyResourceError):
                await stream.receive()
            tasks.cancel_scope.cancel()
        for wrong in (0, -1):
            with pytest.raises(ValueError, match=r"^max_bytes must be a positive integer$"):
                await stream.receive(wrong)
        for type_error in (None, 1.5):
            with pytest.raises(TypeError):
                await stream.receive(type_error)  # type: ignore[arg-type]
        await stream.aclose()
        await stream.aclose()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.receive()
        with pytest.raises(anyio.ClosedResourceError):
            await stream.send(b"")
        # Older versions of anyio call their own closed streams broken.
        with pytest.raises((anyio.ClosedResourceError, anyio.BrokenResourceError)):
            await stream.transport_stream.receive()
        tcp = await anyio.connect_tcp(HOST, port)
        with pytest.raises(ValueError, match="server_hostname"):
            await TLSStream.wrap(tcp, server_side=False, ssl_context=client_context)
        assert tcp.extra(SocketAttribute.raw_socket).fileno() == -1


def test_asyncio_is_refused() -> None:
    async def main() -> None:
        ours, theirs = memory_pair()
        async with theirs:
            await TLSStream.wrap(ours, hostname=NAME)

    with pytest.raises(RuntimeError, match="backend='trio'"):
        asyncio.run(main())


async def test_unix_sockets(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext, tmp_path: Path
) -> None:
    path = tmp_path / "socket"
    with trio.fail_after(LIMIT):
        listener = await anyio.create_unix_listener(path)
        connectable = TLSConnectable(
            anyio.UNIXConnectable(path), hostname=NAME, ssl_context=client_context
        )
        async with (
            TLSListener(listener, server_context) as server,
            anyio.create_task_group() as tasks,
        ):
            tasks.start_soon(server.serve, echo)
            for number in range(2):
                async with await connectable.connect() as stream:
                    await stream.send(b"hello")
                    assert await stream.receive() == b"hello"
                    assert stream.trio_stream.is_cancel_safe
                    assert stream.trio_stream.session_reused is (number > 0)
            tasks.cancel_scope.cancel()


def test_what_it_offers() -> None:
    """All classes of anyio's module are there."""
    theirs = anyio.streams.tls
    names = {name for name in vars(theirs) if name.startswith("TLS")}
    assert names == {"TLSAttribute", "TLSConnectable", "TLSListener", "TLSStream"}
    assert names < set(trio_tlsbio.anyio.__all__)


async def test_another_ca(ca: trustme.CA, server_context: ssl.SSLContext) -> None:
    """The default context for clients is the system's, which does not know this CA."""
    async with serving(echo, server_context) as port:
        tcp = await anyio.connect_tcp(HOST, port)
        with pytest.raises(CertificateError):
            await TLSStream.wrap(tcp, hostname=HOST)


async def test_what_is_no_handler_is_explained(server_context: ssl.SSLContext) -> None:
    listener = TLSListener(await anyio.create_tcp_listener(local_host=HOST), server_context)
    async with listener:
        with pytest.raises(TypeError, match="expecting an async function as its handler"):
            await listener.serve(None)  # type: ignore[arg-type]
