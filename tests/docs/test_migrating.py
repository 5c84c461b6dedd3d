"""docs/migrating.rst: what it says of Trio and of us, where that can be asked."""

from __future__ import annotations

import inspect
import re
import ssl
import sys
from typing import Any

import pytest
import trio
import trio.testing
import trustme

import trio_tlsbio
from tests.docblocks import Block, runs
from tests.helpers import DOCS, server_context_for
from trio_tlsbio import TLSStream

PAGE = (DOCS / "migrating.rst").read_text(encoding="utf-8")

NAMES = re.findall(r"\* - `trio\.(\w+)`\n     - (?::\w+:)?`(\w+)(?:\(\))?`\n", PAGE)


def test_the_names_of_the_page() -> None:
    assert len(NAMES) == 5
    assert trio_tlsbio.NeedHandshakeError is trio.NeedHandshakeError


@pytest.mark.parametrize(("theirs", "ours"), NAMES)
def test_parameters_keep_their_names_and_order(theirs: str, ours: str) -> None:
    before = inspect.signature(getattr(trio, theirs)).parameters
    after = inspect.signature(getattr(trio_tlsbio, ours)).parameters
    assert [name for name in after if name in before] == list(before)
    for name, parameter in before.items():
        assert after[name].kind is parameter.kind, name
        assert after[name].default == parameter.default, name


def test_what_trio_forwards_is_spelled_out() -> None:
    # Trio keeps these names on the class.
    forwarded: Any = trio.SSLStream._forwarded
    public = {name for name in dir(trio.SSLStream) if not name.startswith("_")}
    wanted = public | {name for name in forwarded if hasattr(ssl.SSLObject, name)}
    assert len(wanted) >= 20
    assert {name for name in wanted if not hasattr(TLSStream, name)} == set()
    assert not hasattr(TLSStream, "__getattr__")


def test_classes() -> None:
    with pytest.raises(TypeError, match="subclassing"):
        type("Sub", (trio.SSLStream,), {})
    assert issubclass(type("Sub", (TLSStream,), {}), TLSStream)
    assert not issubclass(TLSStream, trio.SSLStream)
    assert issubclass(TLSStream, trio.abc.HalfCloseableStream)
    assert not issubclass(trio.SSLStream, trio.abc.HalfCloseableStream)
    assert issubclass(trio_tlsbio.TLSError, trio.BrokenResourceError)


async def test_arguments(client_context: ssl.SSLContext) -> None:
    ours, _ = trio.testing.memory_stream_pair()
    stream = TLSStream(ours, client_context, server_hostname="a.example")
    unchecked: Any = stream
    with pytest.raises(AttributeError):
        unchecked.transport_stream = ours
    with pytest.raises(AttributeError):
        unchecked.session = None
    with pytest.raises(AttributeError):
        unchecked.unknown = 1
    with pytest.raises(ValueError, match="max_bytes"):
        await stream.receive_some(0)
    # Few checks: no name has to be given, unless Python itself requires it.
    name = "a.example" if sys.version_info >= (3, 14) else None
    theirs: Any = trio.SSLStream(ours, client_context, server_hostname=name)
    theirs.transport_stream = ours


@runs("migrating.rst", "stream = await trio.open_ssl_over_tcp_stream(")
async def test_before(
    block: Block, ca: trustme.CA, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check(block, ca, tmp_path, monkeypatch)


@runs("migrating.rst", "stream = await trio_tlsbio.open_tls_over_tcp_stream(")
async def test_after(
    block: Block, ca: trustme.CA, tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    await check(block, ca, tmp_path, monkeypatch)


async def check(block: Block, ca: trustme.CA, tmp_path: Any, monkeypatch: Any) -> None:
    """Run a block against a server, which it finds at the name and port in the page."""
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    open_tcp_stream = trio.open_tcp_stream

    async def echo(stream: TLSStream[trio.SocketStream]) -> None:
        async for chunk in stream:
            await stream.send_all(chunk)

    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            listeners = await trio_tlsbio.open_tls_over_tcp_listeners(
                0, server_context_for(ca.issue_cert("echo.example")), host="127.0.0.1"
            )
            nursery.start_soon(trio_tlsbio.serve_tls_listeners, echo, listeners)
            listener: Any = listeners[0].transport_listener
            port = listener.socket.getsockname()[1]

            async def open_here(host: str, asked: int, **_: Any) -> trio.SocketStream:
                assert (host, asked) == ("echo.example", 4433)
                return await open_tcp_stream("127.0.0.1", port)

            monkeypatch.setattr(trio, "open_tcp_stream", open_here)
            names = await block.run(trio=trio, trio_tlsbio=trio_tlsbio)
            async with names["stream"] as stream:
                await stream.send_all(b"hello")
                assert await stream.receive_some() == b"hello"
            nursery.cancel_scope.cancel()
