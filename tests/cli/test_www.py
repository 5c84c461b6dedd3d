"""``serve --www``: one page about the connection for any HTTP request, over streams in memory."""

from __future__ import annotations

import re
import ssl
import textwrap
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from html.parser import HTMLParser
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme

from tests.commands import TIMEOUT, facts
from tests.helpers import DOCS, NAME, client_context_for, server_context_for
from trio_tlsbio import Drain, TLSSession, TLSStream
from trio_tlsbio.cli._www import Www
from trio_tlsbio.core import State

TO_READ = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8"}
CURL = {"accept": "*/*"}
MOST = 16 * 1024


def request(headers: Mapping[str, str] = CURL, method: str = "GET", size: int = 0) -> bytes:
    """Write a request, with a head of at least ``size`` bytes."""
    lines = [f"{method} /path HTTP/1.1", "Host: h", *(f"{k}: {v}" for k, v in headers.items())]
    head = "".join(line + "\r\n" for line in lines)
    filler = size - len(head) - 2 - len("x: \r\n")
    return (head + (f"x: {'x' * filler}\r\n" if size else "") + "\r\n").encode()


@attrs.frozen
class Reply:
    """All that came until the end."""

    status: int
    headers: Mapping[str, str]
    body: str

    @classmethod
    def of(cls, data: bytes) -> Reply:
        head, _, body = data.partition(b"\r\n\r\n")
        first, *lines = head.decode("ascii").split("\r\n")
        version, status, _phrase = first.split(" ", 2)
        assert version == "HTTP/1.1"
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        assert len(headers) == len(lines)
        assert headers["connection"] == "close"
        assert int(headers["content-length"]) == len(body), "more than one answer, or less"
        return cls(int(status), headers, body.decode())


Client = TLSStream[Any]


@asynccontextmanager
async def www(
    client_context: ssl.SSLContext,
    server_context: ssl.SSLContext,
    *,
    session: TLSSession | None = None,
    **options: Any,
) -> AsyncIterator[Client]:
    """A client of a server that must end by itself."""
    transport, other = trio.testing.memory_stream_pair()
    client = TLSStream(transport, client_context, server_hostname=NAME, session=session)
    server = TLSStream(other, server_context, server_side=True, https_compatible=True)

    async def serve() -> None:
        await Www(**options).serve(server)
        await server.aclose()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(serve)
        yield client
        await client.aclose()


async def everything(client: Client) -> bytes:
    """Receive until the server's close_notify."""
    data = b"".join([part async for part in client])
    assert client.connection.receive_state is State.CLOSED
    return data


async def ask(client: Client, *parts: bytes) -> Reply:
    for part in parts:
        await client.send_all(part)
    return Reply.of(await everything(client))


@pytest.fixture
def contexts(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A client's, and a server's that has ALPN."""
    for context in (client_context, server_context):
        context.set_alpn_protocols(["http/1.1"])
    return client_context, server_context


Contexts = tuple[ssl.SSLContext, ssl.SSLContext]


################################################################
# The page
################################################################


async def test_page_for_terminals(contexts: Contexts) -> None:
    async with www(*contexts) as client:
        reply = await ask(client, request())
        info = client.handshake
    assert reply.status == 200
    assert reply.headers["content-type"] == "text/plain; charset=utf-8"
    assert reply.headers["cache-control"] == "no-store"
    assert facts(reply.body, "version") == [info.version]
    assert facts(reply.body, "cipher") == [f"{info.cipher}, {info.cipher_bits} bits"]
    kind = "post-quantum" if info.is_post_quantum else "not post-quantum"
    assert facts(reply.body, "key exchange") == [f"{info.group}, {kind}"]
    assert facts(reply.body, "ALPN") == ["http/1.1"]
    assert facts(reply.body, "session") == ["new"]
    assert facts(reply.body, "certificate") == ["not asked for"]
    assert reply.body.splitlines()[0] == f"{info.version}, a new session, {kind}"
    assert "/path" not in reply.body


class Page(HTMLParser):
    """What is in a page: its words, by the tag around them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.words: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.append(tag)
        self.words.setdefault(tag, []).append("")

    def handle_data(self, data: str) -> None:
        if self.tags:
            self.words[self.tags[-1]][-1] += data

    def handle_endtag(self, tag: str) -> None:
        self.tags.append("")
        self.words[""] = [""]

    @property
    def table(self) -> dict[str, str]:
        return dict(zip(self.words["dt"], self.words["dd"], strict=True))


@pytest.mark.parametrize("name", ["Accept", "ACCEPT"])
async def test_page_for_browsers(name: str, contexts: Contexts) -> None:
    async with www(*contexts) as client:
        reply = await ask(client, request({"accept-language": "de", name: TO_READ["accept"]}))
        info = client.handshake
    assert reply.headers["content-type"] == "text/html; charset=utf-8"
    assert reply.headers["content-security-policy"].startswith("default-src 'none';")
    page = Page(reply.body)
    assert page.table["version"] == info.version
    assert page.table["ALPN"] == "http/1.1"
    assert page.table["certificate"] == "not asked for"
    assert page.words["title"] == page.words["h1"]
    assert not {"script", "img", "link", "a"} & set(page.tags)


@pytest.mark.parametrize("target", ["/text/html", "/?accept:text/html"])
async def test_only_the_accept_header_asks_for_html(target: str, contexts: Contexts) -> None:
    data = f"GET {target} HTTP/1.1\r\nx-accept: text/html\r\n\r\naccept: text/html\r\n".encode()
    async with www(*contexts) as client:
        reply = await ask(client, data)
    assert reply.headers["content-type"].startswith("text/plain")


async def test_resumed_session(contexts: Contexts) -> None:
    async with www(*contexts) as client:
        await ask(client, request())
        session = client.session
    async with www(*contexts, session=session) as client:
        reply = await ask(client, request())
    assert facts(reply.body, "session") == ["resumed"]
    assert ", resumed, " in reply.body.splitlines()[0]


async def test_client_certificate(
    ca: trustme.CA, tls_version: ssl.TLSVersion, contexts: Contexts
) -> None:
    _, server_context = contexts
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_OPTIONAL
    async with www(*contexts) as client:
        reply = await ask(client, request())
    assert facts(reply.body, "certificate") == ["none"]

    evil = "<script>alert('\x1b[2J&amp;\n')</script>"
    equipped = client_context_for(ca, tls_version)
    ca.issue_cert("me@client.example", organization_name=evil).configure_cert(equipped)
    shown = r"\<script\>alert('\x1b[2J&amp\;\n')\</script\>"
    async with www(equipped, server_context) as client:
        text = (await ask(client, request())).body
    assert shown in facts(text, "certificate")[0]
    assert facts(text, "name matched") == []
    assert "\x1b" not in text
    async with www(equipped, server_context) as client:
        html = (await ask(client, request(TO_READ))).body
    page = Page(html)
    assert shown in page.table["certificate"]
    assert "script" not in page.tags
    assert "\x1b" not in html


def alike(text: str) -> list[str]:
    """Leave out whether the group is post-quantum, which depends on OpenSSL."""
    text = re.sub(r"(key exchange: +).*", r"\1...", text)
    return text.replace(", not post-quantum", ", post-quantum").splitlines()


async def test_the_docs_show_the_page_as_it_is(ca: trustme.CA) -> None:
    page = (DOCS / "servers.rst").read_text(encoding="utf-8").partition(".. _serve:")[2]
    (shown,) = re.findall(r"^\.\. code-block:: text\n\n((?:    .*\n|\n)+)", page, re.MULTILINE)
    contexts = client_context_for(ca), server_context_for(ca.issue_cert(NAME))
    for context in contexts:
        context.set_alpn_protocols(["http/1.1"])
    async with www(*contexts) as client:
        reply = await ask(client, request())
    assert alike(reply.body) == alike(textwrap.dedent(shown).strip("\n"))


################################################################
# Requests
################################################################

SMUGGLED = request(method="BREW")


REQUESTS = {
    "two": request() + SMUGGLED,
    "two lengths": request({"content-length": "5", "transfer-encoding": "chunked"})
    + b"0\r\n\r\n"
    + SMUGGLED,
    "a body": request({"content-length": f"{len(SMUGGLED)}"}, "POST") + SMUGGLED,
    "keep-alive": request({"connection": "keep-alive"}),
    "expect": request({"expect": "100-continue", "content-length": "5"}, "PUT"),
    "CONNECT": request(method="CONNECT"),
    "HTTP/0.9": b"GET /\n\n",
    "LF": b"GET / HTTP/1.0\nHost: h\n\r\n",
    "nonsense": b"\xff\x00 nonsense\r\n\r\n",
    "longest": request(size=MOST),
    "longest, and more": request(size=MOST) + bytes(100_000),
}


@pytest.mark.parametrize("data", REQUESTS.values(), ids=REQUESTS.keys())
async def test_one_answer_and_the_end_whatever_is_asked(data: bytes, contexts: Contexts) -> None:
    async with www(*contexts) as client:
        assert (await ask(client, data)).status == 200
    async with www(*contexts) as client:
        first, rest = data[:-1], data[-1:]
        assert (await ask(client, first, rest)).status == 200


async def test_byte_by_byte(contexts: Contexts) -> None:
    async with www(*contexts) as client:
        reply = await ask(client, *(bytes([byte]) for byte in request(TO_READ)))
    assert reply.status == 200
    assert reply.headers["content-type"].startswith("text/html")


@pytest.mark.parametrize("data", [request(size=MOST + 1), b"x" * 100_000], ids=["whole", "endless"])
async def test_head_that_is_too_long(data: bytes, contexts: Contexts) -> None:
    async with www(*contexts) as client:
        reply = await ask(client, data)
    assert reply.status == 431


@pytest.mark.parametrize("data", [b"", b"GET / HTTP/1.1\r\n"])
async def test_end_before_the_head_does(data: bytes, contexts: Contexts) -> None:
    async with www(*contexts) as client:
        await client.send_all(data)
        await client.send_eof()
        assert await everything(client) == b""


async def test_slow_head_ends(contexts: Contexts, autojump_clock: trio.testing.MockClock) -> None:
    async with www(*contexts, head_timeout=10) as client:
        await client.do_handshake()
        begin = trio.current_time()
        async with trio.open_nursery() as nursery:

            async def trickle() -> None:
                for byte in request():
                    await client.send_all(bytes([byte]))
                    await trio.sleep(1)

            nursery.start_soon(trickle)
            assert await everything(client) == b""
            nursery.cancel_scope.cancel()
        assert trio.current_time() - begin == pytest.approx(10)


async def test_client_that_does_not_read(
    contexts: Contexts, autojump_clock: trio.testing.MockClock
) -> None:
    client_context, server_context = contexts
    transport, other = trio.testing.lockstep_stream_pair()
    client = TLSStream(transport, client_context, server_hostname=NAME)
    server = TLSStream(other, server_context, server_side=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(server.do_handshake)
        await client.do_handshake()
    begin = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send_all, request())
        with pytest.raises(trio.TooSlowError):
            await Www(send_timeout=30).serve(server)
        assert trio.current_time() - begin == pytest.approx(30)
    await trio.aclose_forcefully(server)
    await trio.aclose_forcefully(client)


async def test_drain_before_a_request(
    contexts: Contexts, autojump_clock: trio.testing.MockClock
) -> None:
    drain = Drain()
    with trio.fail_after(TIMEOUT):
        async with www(*contexts, drain=drain, head_timeout=2 * TIMEOUT) as client:
            await client.do_handshake()
            await trio.testing.wait_all_tasks_blocked()
            drain.begin()
            assert await everything(client) == b""


async def test_drain_in_the_head_of_a_request(contexts: Contexts) -> None:
    drain = Drain()
    async with www(*contexts, drain=drain) as client:
        await client.send_all(request()[:5])
        await trio.testing.wait_all_tasks_blocked()
        drain.begin()
        reply = await ask(client, request()[5:])
    assert reply.status == 200
