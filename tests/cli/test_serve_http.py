"""The HTTP of ``serve --directory``, over streams in memory."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.commands import TIMEOUT
from trio_tlsbio import Drain
from trio_tlsbio.cli._http import Site, UnfinishedError

from .peers import Reader, Reply, request


@asynccontextmanager
async def http(
    folder: Path, **options: object
) -> AsyncIterator[tuple[trio.abc.HalfCloseableStream, Reader]]:
    """A client's end of a connection to a site, which must end by itself."""
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Site(folder, **options).serve, server)  # type: ignore[arg-type]
        yield client, Reader(client)
        await client.send_eof()


async def ask(folder: Path, *requests: bytes, **options: object) -> Reply:
    """Return the answer to one request, given in pieces, after which the server must end."""
    with trio.fail_after(TIMEOUT):
        async with http(folder, **options) as (client, reader):
            for part in requests:
                await client.send_all(part)
            reply = await reader.reply()
            assert await reader.has_ended()
    return reply


async def test_keep_alive(site: Path) -> None:
    async with http(site) as (client, reader):
        for _ in range(2):
            await client.send_all(request("/hello.txt"))
            reply = await reader.reply()
            assert (reply.status, reply.body) == (200, b"0123456789")
            assert reply.headers["content-length"] == "10"
            assert reply.headers["content-type"] == "text/plain"
            assert reply.headers["accept-ranges"] == "bytes"
            assert "connection" not in reply.headers
            assert "date" in reply.headers
        await client.send_all(request("/hello.txt", method="HEAD"))
        head = await reader.reply(without_body=True)
        assert head == Reply(200, {**reply.headers, "date": head.headers["date"]}, b"")
        await client.send_all(request("/empty.bin"))
        assert (await reader.reply()).body == b""


async def test_pipelining_byte_by_byte(site: Path) -> None:
    async with http(site) as (client, reader):
        for byte in request("/hello.txt") + request("/nothing") + request("/hello.txt"):
            await client.send_all(bytes([byte]))
        assert [(await reader.reply()).status for _ in range(3)] == [200, 404, 200]


async def test_client_that_wants_no_more(site: Path) -> None:
    reply = await ask(site, request("/hello.txt", "Connection: close"))
    assert (reply.status, reply.headers["connection"]) == (200, "close")


async def test_http_1_0(site: Path) -> None:
    reply = await ask(site, b"GET /hello.txt HTTP/1.0\r\n\r\n")
    assert (reply.status, reply.body) == (200, b"0123456789")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "CONNECT", "TRACE", "BREW"])
async def test_other_methods(method: str, site: Path) -> None:
    async with http(site) as (client, reader):
        await client.send_all(request("/hello.txt", method=method))
        reply = await reader.reply()
        assert (reply.status, reply.headers["allow"]) == (405, "GET, HEAD")
        await client.send_all(request("/hello.txt"))  # the connection is still good
        assert (await reader.reply()).status == 200


@pytest.mark.parametrize(
    ("head", "body"),
    [
        (("Content-Length: 5",), b"hello"),
        (("Content-Length: 5", "Expect: 100-continue"), b""),
        (("Transfer-Encoding: chunked",), b"5\r\nhello\r\n0\r\n\r\n"),
        (("Transfer-Encoding: chunked",), b"this is no chunk\r\n"),
    ],
)
async def test_body_ends_the_connection_unread(
    head: tuple[str, ...], body: bytes, site: Path
) -> None:
    for method, status in (("POST", 405), ("GET", 200), ("HEAD", 200)):
        smuggled = request("/nothing")
        async with http(site) as (client, reader):
            await client.send_all(request("/hello.txt", *head, method=method) + body + smuggled)
            reply = await reader.reply(without_body=method == "HEAD")
            assert (reply.status, reply.headers["connection"]) == (status, "close")
            assert await reader.has_ended()


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"\x16\x03\x01\x00\xa5\x01", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1, 2\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", 501),
        (b"GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"GET /" + b"a" * 20_000 + b" HTTP/1.1\r\n", 431),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: " + b"a" * 100_000, 431),
    ],
)
async def test_bad_requests(data: bytes, status: int, site: Path) -> None:
    reply = await ask(site, data)
    assert (reply.status, reply.headers["connection"]) == (status, "close")


@pytest.mark.parametrize("target", ["*", "hello.txt", "ftp://h/hello.txt", "http:///x", "/a#b"])
async def test_bad_targets(target: str, site: Path) -> None:
    async with http(site) as (client, reader):
        await client.send_all(request(target))
        assert (await reader.reply()).status == 400


async def test_end_in_the_middle_of_a_request(site: Path) -> None:
    async with http(site) as (client, reader):
        await client.send_all(b"GET / HT")
        await client.send_eof()
        assert (await reader.reply()).status == 400
        assert await reader.has_ended()


async def test_idle_connection_ends(site: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with http(site, idle_timeout=60) as (client, reader):
        await trio.sleep(59)
        await client.send_all(request("/nothing"))
        await reader.reply()
        before = trio.current_time()
        assert await reader.has_ended()
        assert trio.current_time() - before == pytest.approx(60)


async def test_slow_head_ends(site: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with http(site, head_timeout=10) as (client, reader):
        await trio.sleep(20)
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                for byte in request("/nothing", "X: " + "x" * 100):
                    await client.send_all(bytes([byte]))
                    await trio.sleep(1)

            nursery.start_soon(trickle)
            before = trio.current_time()
            assert await reader.has_ended()
            assert trio.current_time() - before == pytest.approx(10)
            nursery.cancel_scope.cancel()


async def test_client_that_does_not_read(
    site: Path, autojump_clock: trio.testing.MockClock
) -> None:
    _client, server = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_client.send_all, request("/hello.txt"))
        with pytest.raises(UnfinishedError, match="too slowly"):
            await Site(site, send_timeout=30).serve(server)
    assert trio.current_time() >= 30


async def test_end_to_a_client_that_does_not_read(
    site: Path, autojump_clock: trio.testing.MockClock
) -> None:
    client, server = trio.testing.lockstep_stream_pair()

    async def stuck() -> None:
        await trio.sleep_forever()

    server.send_stream.send_eof = stuck  # type: ignore[attr-defined]
    server.send_stream.aclose = stuck  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_eof)
        await Site(site, send_timeout=30).serve(server)
    assert trio.current_time() >= 30


async def test_drain_between_requests(site: Path) -> None:
    drain = Drain()
    async with http(site, drain=drain) as (client, reader):
        await client.send_all(request("/hello.txt"))
        assert (await reader.reply()).status == 200
        await trio.testing.wait_all_tasks_blocked()
        drain.begin()
        assert await reader.has_ended()


async def test_drain_in_the_head_of_a_request(site: Path) -> None:
    drain = Drain()
    async with http(site, drain=drain) as (client, reader):
        await client.send_all(request("/hello.txt")[:5])
        await trio.testing.wait_all_tasks_blocked()
        drain.begin()
        await client.send_all(request("/hello.txt")[5:])
        reply = await reader.reply()
        assert (reply.status, reply.headers["connection"]) == (200, "close")
        assert await reader.has_ended()


async def test_shrinking_file_is_not_ended_as_if_whole(site: Path) -> None:
    path = site / "big.bin"
    path.write_bytes(bytes(1_000_000))
    client, server = trio.testing.lockstep_stream_pair()
    reader = Reader(client)

    async def visit() -> None:
        await client.send_all(request("/big.bin"))
        await reader.receive()
        os.truncate(path, 0)
        with pytest.raises(trio.ClosedResourceError):
            await reader.reply()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(visit)
        with pytest.raises(UnfinishedError, match="has become shorter"):
            await Site(site).serve(server)
        await client.aclose()
    assert len(reader.data) < 1_000_000


async def test_growing_file_is_sent_as_promised(site: Path) -> None:
    path = site / "big.bin"
    path.write_bytes(bytes(1_000_000))
    client, server = trio.testing.lockstep_stream_pair()
    reader = Reader(client)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Site(site).serve, server)
        await client.send_all(request("/big.bin"))
        await reader.receive()
        with path.open("ab") as file:
            file.write(b"more")
        assert (await reader.reply()).body == bytes(1_000_000)
        await client.send_all(request("/hello.txt"))
        assert (await reader.reply()).body == b"0123456789"
        await client.aclose()


async def test_no_file_stays_open(site: Path) -> None:
    async with http(site) as (client, reader):
        for target, asked in (
            ("/hello.txt", ()),
            ("/hello.txt", ("If-None-Match: *",)),
            ("/hello.txt", ("Range: bytes=10-",)),
            ("/empty.bin", ()),
        ):
            await client.send_all(request(target, *asked) + request(target, method="HEAD"))
            await reader.reply()
            await reader.reply(without_body=True)
    assert not _open_files_in(site)


def _open_files_in(folder: Path) -> list[Path]:
    """Return what this process has open there, where the system tells."""
    descriptors = Path("/proc/self/fd")
    opened = [path.resolve() for path in descriptors.iterdir()] if descriptors.exists() else []
    return [path for path in opened if path.is_relative_to(folder)]
