"""Renewed certificates of servers and clients, while connections work."""

from __future__ import annotations

import ssl
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
import trio
import trustme
from trio.testing import wait_all_tasks_blocked

import trio_tlsbio.anyio
from tests.helpers import HOST, LIMIT, client_context_for, echo, server_context_for, serving
from trio_tlsbio import (
    ReloadingContext,
    SessionCache,
    TLSConnector,
    TLSListener,
    TLSSession,
    TLSStream,
    open_tls_over_tcp_stream,
    reconnect,
)
from trio_tlsbio.httpx import TLSTransport

_CONNECTIONS = 50


class Volume:
    """Secrets as Kubernetes mounts them: all files change by one rename of a link."""

    def __init__(self, directory: Path, ca: trustme.CA) -> None:
        self.directory, self.ca = directory, ca
        directory.mkdir()
        self.certificate, self.key = directory / "tls.crt", directory / "tls.key"
        self.put("one")
        for file in (self.certificate, self.key):
            file.symlink_to(f"..data/{file.name}")

    @property
    def files(self) -> list[Path]:
        return [self.certificate, self.key]

    def put(self, version: str) -> None:
        content = self.directory / f"..{version}"
        content.mkdir()
        cert = self.ca.issue_cert(f"{version}.example", HOST)
        cert.cert_chain_pems[0].write_to_path(str(content / "tls.crt"))
        cert.private_key_pem.write_to_path(str(content / "tls.key"))
        link, old = self.directory / "..data_tmp", self.directory / "..data"
        before = old.readlink() if old.is_symlink() else None
        link.symlink_to(content.name)
        link.replace(old)
        if before is not None:
            for file in (self.directory / before).iterdir():
                file.unlink()

    def for_server(self) -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(self.certificate, self.key)
        self.ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def for_client(self) -> ssl.SSLContext:
        context = client_context_for(self.ca)
        context.load_cert_chain(self.certificate, self.key)
        return context


@pytest.fixture
def volume(ca: trustme.CA, tmp_path: Path) -> Volume:
    return Volume(tmp_path / "secrets", ca)


@pytest.fixture
def asking(ca: trustme.CA) -> ssl.SSLContext:
    """A server's context that asks for a certificate, and stays."""
    context = server_context_for(ca.issue_cert(HOST))
    ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


async def tell(stream: TLSStream[Any]) -> None:
    """Tell a client which certificate it has shown, and whether its session was resumed."""
    name = stream.handshake.certificate_names[0]
    await stream.send_all(f"{name} {stream.handshake.session_reused}".encode())


ONE = ["one.example False", "one.example True"]
TWO = ["two.example False", "two.example True"]


def ways_to_connect(
    current: ReloadingContext, port: int, cache: SessionCache
) -> dict[str, Callable[[], Awaitable[Any]]]:
    connector = TLSConnector(ssl_context=current, session_cache=cache)
    connectable = trio_tlsbio.anyio.TLSConnectable(
        anyio.TCPConnectable(HOST, port), hostname=HOST, ssl_context=current, session_cache=cache
    )
    again = reconnect(HOST, port, ssl_context=current, session_cache=cache, initial_delay=0)
    return {
        "connector": lambda: connector.connect(HOST, port),
        "open": lambda: open_tls_over_tcp_stream(
            HOST, port, ssl_context=current, session_cache=cache
        ),
        "reconnect": again.__anext__,
        "connectable": connectable.connect,
        "connect_tcp": lambda: trio_tlsbio.anyio.connect_tcp(
            HOST, port, ssl_context=current, session_cache=cache
        ),
    }


async def what_it_tells(stream: Any) -> str:
    async with stream:
        return b"".join([bytes(chunk) async for chunk in stream]).decode()


@pytest.mark.parametrize("way", ["connector", "open", "reconnect", "connectable", "connect_tcp"])
async def test_a_renewed_certificate_of_a_client(
    way: str, volume: Volume, asking: ssl.SSLContext
) -> None:
    current = ReloadingContext(volume.for_client, files=volume.files)
    cache = SessionCache()
    async with serving(tell, asking) as port:
        connect = ways_to_connect(current, port, cache)[way]
        assert [await what_it_tells(await connect()) for _ in range(2)] == ONE
        first = current()
        volume.put("two")
        assert [await what_it_tells(await connect()) for _ in range(2)] == TWO
        assert current() is not first


async def test_one_reads_for_all_that_connect_at_once(
    volume: Volume, asking: ssl.SSLContext
) -> None:
    made: list[ssl.SSLContext] = []

    def make_context() -> ssl.SSLContext:
        made.append(volume.for_client())
        return made[-1]

    connector = TLSConnector(ssl_context=ReloadingContext(make_context, files=volume.files))
    told: list[str] = []

    async def connect() -> None:
        told.append(await what_it_tells(await connector.connect(HOST, port)))

    async with serving(tell, asking) as port:
        volume.put("two")
        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(connect)
    assert [each.split()[0] for each in told] == ["two.example"] * 20
    assert len(made) == 2


async def test_nothing_of_an_old_context_is_kept(volume: Volume, asking: ssl.SSLContext) -> None:
    current = ReloadingContext(volume.for_client, files=volume.files)
    connector = TLSConnector(ssl_context=current)
    cache = connector.session_cache
    async with serving(echo, asking) as port:
        lasting = await connector.connect(HOST, port)
        other = await connector.connect(HOST, port)
        await other.aclose()
        old = connector.ssl_context
        assert len(cache) > 0
        volume.put("two")
        async with await connector.connect(HOST, port):
            assert connector.ssl_context is not old
            assert len(cache) == 0
            # What a connection with the old one brings is not kept either.
            await lasting.send_all(b"x")
            assert await lasting.receive_some() == b"x"
            await lasting.aclose()
            assert len(cache) == 0
        assert len(cache) > 0
        assert cache.take(old, HOST, port, now=0) is None


async def test_a_session_of_an_old_context_is_not_offered(
    volume: Volume, asking: ssl.SSLContext
) -> None:
    current = ReloadingContext(volume.for_client, files=volume.files)
    async with serving(tell, asking) as port:

        async def tells(session: TLSSession | None) -> tuple[str, TLSSession | None]:
            stream = await open_tls_over_tcp_stream(
                HOST, port, ssl_context=current, session=session
            )
            async with stream:
                data = b"".join([bytes(chunk) async for chunk in stream])
                return data.decode(), stream.session

        told, session = await tells(None)
        assert told == ONE[0]
        told, session = await tells(session)
        assert told == ONE[1]
        volume.put("two")
        assert (await tells(session))[0] == TWO[0]


async def test_httpx_gets_a_new_pool(volume: Volume, asking: ssl.SSLContext) -> None:
    current = ReloadingContext(volume.for_client, files=volume.files)
    may_end = trio.Event()
    connections = 0

    async def serve_http(stream: TLSStream[Any]) -> None:
        nonlocal connections
        connections += 1
        request = b""
        async for data in stream:
            request += data
            if not request.endswith(b"\r\n\r\n"):
                continue
            name = stream.handshake.certificate_names[0].encode()
            await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(name))
            if b"/slow" in request:
                await may_end.wait()
            await stream.send_all(name)
            request = b""

    async with serving(serve_http, asking) as port:
        transport = TLSTransport(verify=current)
        async with httpx.AsyncClient(transport=transport) as client:
            url = f"https://{HOST}:{port}"
            slow: list[str] = []

            async def ask_slowly() -> None:
                slow.append((await client.get(f"{url}/slow")).text)

            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    assert (await client.get(url)).text == "one.example"
                assert connections == 1
                nursery.start_soon(ask_slowly)
                await wait_all_tasks_blocked(0.05)
                volume.put("two")
                # Its idle connections are of no more use; the one that works goes on.
                assert (await client.get(url)).text == "two.example"
                assert connections == 2
                old = transport._pools.retired
                assert [pool.requests for pool in old] == [1]
                (pool,) = old
                may_end.set()
            assert slow == ["one.example"]
            assert pool.requests == 0
            assert pool.pool.connections == []
            assert (await client.get(url)).text == "two.example"
            assert connections == 2


async def test_a_context_for_the_other_side(volume: Volume, ca: trustme.CA) -> None:
    for_server = ReloadingContext(volume.for_server, files=volume.files)
    with pytest.raises(ValueError, match=r"by PROTOCOL_TLS_SERVER: a client .*SERVER_AUTH"):
        await TLSConnector(ssl_context=for_server).connect(HOST, 1)
    with pytest.raises(ValueError, match=r"by PROTOCOL_TLS_SERVER: a client .*SERVER_AUTH"):
        await open_tls_over_tcp_stream(HOST, 1, ssl_context=for_server)
    for_client = ReloadingContext(volume.for_client, files=volume.files)
    (listener,) = await trio.open_tcp_listeners(0, host=HOST)
    async with listener:
        with pytest.raises(ValueError, match=r"by PROTOCOL_TLS_CLIENT: a server .*CLIENT_AUTH"):
            TLSListener(listener, for_client)
    # One that changes sides keeps the old context.
    sides = iter([volume.for_client(), volume.for_server()])
    current = ReloadingContext(lambda: next(sides))
    assert not current.reload()
    assert current().protocol is ssl.PROTOCOL_TLS_CLIENT


@pytest.mark.parametrize("wrong", [1, "context", ssl.SSLContext])
def test_no_context_at_all(wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"must be an ssl\.SSLContext, or a function"):
        TLSConnector(ssl_context=wrong)
    with pytest.raises(TypeError, match=r"must be an ssl\.SSLContext, or a function"):
        trio_tlsbio.anyio.TLSConnectable(anyio.TCPConnectable(HOST, 1), ssl_context=wrong)


async def test_a_volume_changes_while_many_connections_work(volume: Volume) -> None:
    """No request fails, and each next connection has the new certificate, on both sides."""
    reloads: list[Exception | None] = []
    server = ReloadingContext(volume.for_server, files=volume.files, on_reload=reloads.append)
    client = ReloadingContext(volume.for_client, files=volume.files)
    connector = TLSConnector(ssl_context=client)
    answered = [0] * _CONNECTIONS
    done = False

    async def names() -> list[str]:
        async with await connector.connect(HOST, port) as stream:
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
            return list(stream.handshake.certificate_names)

    async def work(number: int, stream: TLSStream[Any]) -> None:
        message = bytes([number]) * 1000
        while not done:
            await stream.send_all(message)
            received = b""
            while len(received) < len(message):
                received += bytes(await stream.receive_some())
            assert received == message
            answered[number] += 1

    async with serving(echo, server) as port, AsyncExitStack() as stack:
        streams = [
            await stack.enter_async_context(await connector.connect(HOST, port))
            for _ in range(_CONNECTIONS)
        ]
        async with trio.open_nursery() as nursery:
            for number, stream in enumerate(streams):
                nursery.start_soon(work, number, stream)
            for version in ("two", "three", "four"):
                before = list(answered)
                volume.put(version)
                assert await names() == [f"{version}.example", HOST]
                while any(map(int.__ge__, before, answered)):
                    await trio.lowlevel.checkpoint()
            done = True
    assert reloads == [None] * 3


async def test_reading_does_not_hold_up_the_loop(
    volume: Volume, ca: trustme.CA, asking: ssl.SSLContext
) -> None:
    goes_on = threading.Event()
    threads: list[threading.Thread] = []

    def make_context() -> ssl.SSLContext:
        threads.append(threading.current_thread())
        if len(threads) > 1:
            assert goes_on.wait(LIMIT)
        return volume.for_server()

    reporters: list[threading.Thread] = []
    server = ReloadingContext(
        make_context,
        files=volume.files,
        on_reload=lambda _: reporters.append(threading.current_thread()),
    )
    client = TLSConnector(ssl_context=volume.for_client())
    async with serving(echo, server) as port:
        try:
            async with await client.connect(HOST, port) as stream:
                volume.put("two")
                names: list[str] = []

                async def connect() -> None:
                    async with await client.connect(HOST, port) as new:
                        names.append(new.handshake.certificate_names[0])

                async with trio.open_nursery() as nursery:
                    for _ in range(3):
                        nursery.start_soon(connect)
                    while len(threads) < 2:
                        await trio.lowlevel.checkpoint()
                    for _ in range(10):
                        await stream.send_all(b"x")
                        assert await stream.receive_some() == b"x"
                    assert names == []
                    goes_on.set()
                assert names == ["two.example"] * 3
        finally:
            goes_on.set()
    # One of the three has read for all of them.
    main = threading.main_thread()
    assert [thread is main for thread in threads] == [True, False]
    assert reporters == [main]
