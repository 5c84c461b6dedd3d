"""Where a server's contexts come from: errors there, reloads, and new certificates under load."""

from __future__ import annotations

import errno
import ssl
from pathlib import Path

import pytest
import trio
import trustme

from tests.helpers import HOST, client_context_for, echo, server_context_for
from tests.stream.serving.servers import serving
from trio_tlsbio import ReloadingContext, TLSConnector, TLSSession, TLSStream
from trio_tlsbio.ticket_keys import TicketKeys


async def test_what_a_provider_raises_propagates_and_leaks_nothing(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    contexts = iter([server_context, server_context])

    async def run() -> None:
        # It is called for the check before listening, and for the check of the listener.
        async with serving(echo, lambda: next(contexts), client_context) as server:
            tcp = await server.tcp()
            try:
                await trio.sleep_forever()
            finally:
                with trio.CancelScope(shield=True):
                    assert await tcp.receive_some() == b""
                    await tcp.aclose()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains((StopIteration, RuntimeError))


@pytest.mark.parametrize(
    "error",
    [
        *(OSError(number, "from the function") for number in (errno.EMFILE, errno.ENOMEM)),
        *(OSError(number, "from the function") for number in (errno.ENFILE, errno.ENOBUFS)),
        trio.ClosedResourceError("from the function"),
        trio.BrokenResourceError("from the function"),
    ],
    ids=repr,
)
async def test_error_of_a_provider_is_no_failure_of_accepting(
    error: Exception,
    server_context: ssl.SSLContext,
    client_context: ssl.SSLContext,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Neither are clients lost one after the other, nor does the server end in silence."""
    calls = 0

    def provider() -> ssl.SSLContext:
        nonlocal calls
        calls += 1
        if calls > 2:
            raise error
        return server_context

    async def run() -> None:
        async with serving(echo, provider, client_context) as server:
            async with await server.tcp() as tcp:
                with trio.fail_after(10):
                    assert await tcp.receive_some() == b""
            with trio.fail_after(10):
                await server.ended.wait()
            raise AssertionError("the server did not say why it ended")

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(type(error), match="from the function")
    assert calls == 3
    assert not caplog.records


async def test_client_context_of_a_provider_ends_the_server_with_words(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    contexts = iter([server_context, server_context, client_context])

    async def run() -> None:
        async with (
            serving(echo, lambda: next(contexts), client_context) as server,
            await server.tcp(),
        ):
            await trio.sleep_forever()

    with pytest.raises(ExceptionGroup) as raised:
        await run()
    assert raised.group_contains(ValueError, match="made for the other side")


async def test_client_context_of_a_reload_leaves_the_server_as_it_was(
    server_context: ssl.SSLContext, client_context: ssl.SSLContext
) -> None:
    contexts = iter([server_context, client_context])
    current = ReloadingContext(lambda: next(contexts))
    async with serving(echo, current, client_context) as server:
        assert not current.reload()
        async with await server.connect() as stream:
            await server.ask(stream)


def renew(pem: Path, ca: trustme.CA, number: int) -> None:
    certificate = ca.issue_cert(HOST, f"number{number}.example")
    new = pem.with_suffix(".new")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(new))
    new.rename(pem)


async def test_new_certificates_under_load(ca: trustme.CA, tmp_path: Path, rounds: int) -> None:
    count = 4 * rounds
    pem = tmp_path / "server.pem"

    def make_context() -> ssl.SSLContext:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(pem)
        return context

    renew(pem, ca, 0)
    outcomes: list[Exception | None] = []
    current = ReloadingContext(make_context, files=[pem], on_reload=outcomes.append)
    connector = TLSConnector(ssl_context=client_context_for(ca))
    done = False
    answered = 0
    async with serving(echo, current, connector.ssl_context) as server:
        lasting = await server.connect()

        async def visit() -> None:
            nonlocal answered
            async with await connector.connect(HOST, server.port) as stream:
                for _ in range(3):
                    await server.ask(stream)
                    answered += 1

        async def client() -> None:
            while not done:
                await visit()

        async with trio.open_nursery() as clients:
            for _ in range(4):
                clients.start_soon(client)
            for number in range(1, count + 1):
                if number % 10 == 0:
                    pem.write_bytes(b"not a certificate")
                    async with await server.connect() as stream:
                        await server.ask(stream)
                renew(pem, ca, number)
                if number % 2:
                    assert current.reload()
                async with await server.connect() as stream:
                    certificate = stream.handshake.peer_certificate
                    assert certificate is not None
                    assert ("DNS", f"number{number}.example") in certificate["subjectAltName"]
                await server.ask(lasting)
            done = True
        await lasting.aclose()
        # While contexts change, it depends on chance whether any session is resumed.
        await visit()
        await visit()
        assert server.statistics.failed == server.statistics.broken == {}
        assert server.statistics.resumed > 0
    # More where a thread was reading a bad file when the next good one came.
    assert outcomes.count(None) >= count
    assert len([error for error in outcomes if error is not None]) >= count // 10
    assert answered > count


@pytest.mark.where(TicketKeys.is_available(), "this Python does not let us at its contexts")
async def test_sessions_outlive_a_server_and_new_keys_break_nothing(
    ca: trustme.CA, tls_version: ssl.TLSVersion, tmp_path: Path
) -> None:
    keys = tmp_path / "tickets.key"
    keys.touch(mode=0o600)
    keys.write_bytes(bytes(range(80)))
    client_context = client_context_for(ca, tls_version)
    sessions: list[TLSSession] = []

    def machine() -> ReloadingContext:
        return ReloadingContext(
            lambda: server_context_for(ca.issue_cert(HOST), tls_version), ticket_keys=keys
        )

    async def is_resumed(port: int) -> bool:
        stream = TLSStream(
            await trio.open_tcp_stream(HOST, port),
            client_context,
            server_hostname=HOST,
            session=sessions[-1] if sessions else None,
            on_session=sessions.append,
        )
        async with stream:
            await stream.send_all(b"data")
            assert await stream.receive_some() == b"data"
            return stream.handshake.session_reused

    first = machine()
    async with serving(echo, first, client_context) as server:
        assert not await is_resumed(server.port)
        assert await is_resumed(server.port)
    async with serving(echo, machine(), client_context) as another:
        assert await is_resumed(another.port)
    async with serving(echo, first, client_context) as server:
        assert await is_resumed(server.port)
        keys.write_bytes(bytes(reversed(range(80))))
        assert [await is_resumed(server.port) for _ in range(3)] == [False, True, True]
        assert server.statistics.failed == server.statistics.broken == {}
