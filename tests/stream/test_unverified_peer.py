"""A peer that `verify_peer` has not accepted gets nothing of the application, whatever happened.

Each way not to accept, on each side, with each version, in full and in resumed handshakes. And what
`verify_peer` can't do, as the documentation says.
"""

from __future__ import annotations

import ssl
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme

from tests.certificates import Certificate
from tests.helpers import LIMIT, NAME, client_context_for, server_context_for, tcp_pair
from trio_tlsbio import (
    CertificateError,
    HandshakeInfo,
    HandshakeTimeoutError,
    RefuseHandshake,
    TLSError,
    TLSSession,
    TLSStream,
    TruncationError,
)
from trio_tlsbio.testing import RecordedStream

Contexts = tuple[ssl.SSLContext, ssl.SSLContext]
Stream = TLSStream[RecordedStream]

TIMEOUT = 3


@pytest.fixture
def contexts(
    ca: trustme.CA, server_cert: trustme.LeafCert, tls_version: ssl.TLSVersion
) -> Contexts:
    """A client's and a server's, each with a certificate that the other one trusts."""
    client_context = client_context_for(ca, tls_version)
    ca.issue_cert("client@example.org").configure_cert(client_context)
    server_context = server_context_for(server_cert, tls_version)
    ca.configure_trust(server_context)
    server_context.verify_mode = ssl.CERT_REQUIRED
    return client_context, server_context


class Unforeseen(BaseException):
    """No `Exception`, as KeyboardInterrupt is none."""


@attrs.define(eq=False)
class Verifier:
    """Verifies the peer in one of the ways that are tested."""

    way: str
    seen: list[HandshakeInfo] = attrs.field(factory=list)
    sent_before: int = 0
    scope: trio.CancelScope = attrs.field(factory=trio.CancelScope)
    stream: Stream | None = None

    @property
    def bytes_on_the_wire(self) -> int:
        """How much has left on the side that verifies."""
        assert self.stream is not None
        return self.stream.transport_stream.conversation.bytes_sent

    async def verify(self, handshake: HandshakeInfo) -> None:
        self.seen.append(handshake)
        if len(self.seen) == 1:
            self.sent_before = self.bytes_on_the_wire
        match self.way if len(self.seen) == 1 else "refuses":
            case "refuses":
                raise PermissionError("not on the list")
            case "refuses in TLS's words":
                raise CertificateError("revoked yesterday", verify_code=23)
            case "refuses in a group":
                raise ExceptionGroup("a nursery's", [PermissionError("not on the list")])
            case "raises no Exception":
                raise Unforeseen
            case "is cancelled":
                self.scope.cancel()
        await trio.sleep_forever()


# What the side that verifies raises.
WAYS: dict[str, type[BaseException] | None] = {
    "refuses": TLSError,
    "refuses in TLS's words": CertificateError,
    "refuses in a group": TLSError,
    "raises no Exception": Unforeseen,
    "is cancelled": None,
    "takes too long": HandshakeTimeoutError,
}
SLOW = "takes too long"


def wrap(
    transports: tuple[trio.abc.Stream, trio.abc.Stream],
    contexts: Contexts,
    side: str,
    verifier: Verifier,
    session: TLSSession | None,
) -> tuple[Stream, Stream]:
    """Return the side that verifies, and the other one."""
    client: Stream = TLSStream(
        RecordedStream(transports[0]),
        contexts[0],
        server_hostname=NAME,
        session=session,
        handshake_timeout=TIMEOUT if side == "client" else LIMIT,
        verify_peer=verifier.verify if side == "client" else None,
    )
    server: Stream = TLSStream(
        RecordedStream(transports[1]),
        contexts[1],
        server_side=True,
        handshake_timeout=TIMEOUT if side == "server" else LIMIT,
        verify_peer=verifier.verify if side == "server" else None,
    )
    ours, theirs = (client, server) if side == "client" else (server, client)
    verifier.stream = ours
    return ours, theirs


async def session_of(contexts: Contexts) -> TLSSession:
    """Make a session, without a verification of ours."""
    async with tcp_pair() as transports:
        client = TLSStream(transports[0], contexts[0], server_hostname=NAME)
        server = TLSStream(transports[1], contexts[1], server_side=True)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.send_all, b"x")
            assert await client.receive_some() == b"x"
        assert client.session is not None
        return client.session


def their_handshake_completes(side: str, tls_version: ssl.TLSVersion, *, is_resumed: bool) -> bool:
    """Whether the peer's last message was not ours to hold back."""
    if tls_version is ssl.TLSVersion.TLSv1_3 or is_resumed:
        return side == "server"  # where the client's Finished comes last
    return side == "client"  # where the server's does


@pytest.fixture(params=["client", "server"])
def side(request: pytest.FixtureRequest) -> str:
    """Which one verifies its peer."""
    value: str = request.param
    return value


@pytest.fixture(params=[False, True], ids=["full", "resumed"])
def is_resumed(request: pytest.FixtureRequest) -> bool:
    """Whether the handshake resumes a session."""
    value: bool = request.param
    return value


@pytest.mark.parametrize("way", [way for way in WAYS if way != SLOW])
@pytest.mark.parametrize("closes_forcefully", [True, False], ids=["forcefully", "aclose"])
async def test_nothing_passes(
    contexts: Contexts,
    tls_version: ssl.TLSVersion,
    side: str,
    is_resumed: bool,
    way: str,
    closes_forcefully: bool,
) -> None:
    async with tcp_pair() as transports:
        await check(
            transports,
            contexts,
            tls_version,
            side,
            way,
            is_resumed=is_resumed,
            closes_forcefully=closes_forcefully,
        )


async def test_nothing_passes_if_it_takes_too_long(
    contexts: Contexts,
    tls_version: ssl.TLSVersion,
    side: str,
    is_resumed: bool,
    autojump_clock: trio.testing.MockClock,
) -> None:
    # Not over sockets: a clock that jumps does not wait for the kernel.
    start = trio.current_time()
    await check(
        trio.testing.memory_stream_pair(),
        contexts,
        tls_version,
        side,
        SLOW,
        is_resumed=is_resumed,
        closes_forcefully=False,
    )
    assert trio.current_time() - start == TIMEOUT


async def check(
    transports: tuple[trio.abc.Stream, trio.abc.Stream],
    contexts: Contexts,
    tls_version: ssl.TLSVersion,
    side: str,
    way: str,
    *,
    is_resumed: bool,
    closes_forcefully: bool,
) -> None:
    """Let one side verify the other, and not accept it."""
    session = await session_of(contexts) if is_resumed else None
    verifier = Verifier(way)
    got: list[bytes | bytearray] = []

    async def their_side(stream: Stream) -> None:
        # The peer sends at once, in the first moment in which it may.
        with pytest.raises(trio.BrokenResourceError):  # noqa: PT012
            await stream.send_all(b"theirs")
            while data := await stream.receive_some():
                got.append(data)
        await trio.aclose_forcefully(stream)

    async def our_side(stream: Stream) -> None:
        expected = WAYS[way]
        if expected is None:
            with verifier.scope:
                await stream.send_all(b"ours")
            assert verifier.scope.cancelled_caught
        else:
            with pytest.raises(expected):
                await stream.send_all(b"ours")
        if expected is not None and issubclass(expected, TLSError):
            with pytest.raises(expected):
                got.append(await stream.receive_some())
            with pytest.raises(expected):
                await stream.send_all(b"more of ours")
        assert stream.connection.handshake is None
        if closes_forcefully:
            await trio.aclose_forcefully(stream)
        elif expected is not None and issubclass(expected, TLSError):
            await stream.aclose()
        else:  # nothing is decided yet, so a close asks again
            with pytest.raises(TLSError, match="not on the list"):
                await stream.aclose()

    ours, theirs = wrap(transports, contexts, side, verifier, session)
    with trio.fail_after(LIMIT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(their_side, theirs)
            nursery.start_soon(our_side, ours)
    completes = their_handshake_completes(side, tls_version, is_resumed=is_resumed)
    assert (theirs.connection.handshake is not None) == completes
    assert {handshake.session_reused for handshake in verifier.seen} == {is_resumed}
    assert not got
    assert ours.bytes_committed == 0
    # Neither the last flight of a handshake, nor an alert, nor anything else.
    assert verifier.bytes_on_the_wire == verifier.sent_before


################################################################
# What it can't do
################################################################


async def test_tls13_client_has_finished_before_the_server_verifies(
    contexts: Contexts, tls_version: ssl.TLSVersion
) -> None:
    is_asked, may_refuse = trio.Event(), trio.Event()

    async def verify(handshake: HandshakeInfo) -> None:
        is_asked.set()
        await may_refuse.wait()
        raise PermissionError("not on the list")

    async with tcp_pair() as transports:
        client = TLSStream(transports[0], contexts[0], server_hostname=NAME)
        server = TLSStream(transports[1], contexts[1], server_side=True, verify_peer=verify)

        async def serve() -> None:
            with pytest.raises(TLSError, match="not on the list"):
                await server.receive_some()
            await trio.aclose_forcefully(server)

        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                if tls_version is ssl.TLSVersion.TLSv1_3:
                    await client.send_all(b"secret")  # it returns: the client is sure of it
                    await is_asked.wait()
                    assert client.bytes_committed == len(b"secret")
                    assert client.connection.handshake is not None
                else:
                    nursery.start_soon(fails_to_send, client)
                    await is_asked.wait()
                    assert client.connection.handshake is None
                    assert client.bytes_committed == 0
                may_refuse.set()
                with pytest.raises(trio.BrokenResourceError):
                    await client.receive_some()
        await trio.aclose_forcefully(client)


async def fails_to_send(stream: TLSStream[Any]) -> None:
    with pytest.raises(trio.BrokenResourceError):
        await stream.send_all(b"secret")


async def test_refused_peer_gets_no_alert(contexts: Contexts, side: str) -> None:
    async def verify(handshake: HandshakeInfo) -> None:
        raise RefuseHandshake("access_denied")

    async with tcp_pair() as transports:
        on = {"client": None, "server": None, side: verify}
        client = TLSStream(
            transports[0], contexts[0], server_hostname=NAME, verify_peer=on["client"]
        )
        server = TLSStream(transports[1], contexts[1], server_side=True, verify_peer=on["server"])
        ours, theirs = (client, server) if side == "client" else (server, client)

        async def our_side() -> None:
            with pytest.raises(TLSError, match="access_denied"):
                await ours.do_handshake()
            await ours.aclose()

        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(our_side)
                with pytest.raises(TruncationError):  # not a PeerAlertError
                    await theirs.receive_some()
                await trio.aclose_forcefully(theirs)


@pytest.mark.parametrize("how", ["CERT_REQUIRED", "CERT_NONE", "its own authority"])
async def test_self_signed_client_certificate(
    ca: trustme.CA, server_cert: trustme.LeafCert, tls_version: ssl.TLSVersion, how: str
) -> None:
    self_signed = Certificate().signed_by(None)
    client_context = client_context_for(ca, tls_version)
    self_signed.load_into(client_context)
    server_context = server_context_for(server_cert, tls_version)
    if how == "its own authority":
        self_signed.trusted_by(server_context)
    server_context.verify_mode = ssl.CERT_NONE if how == "CERT_NONE" else ssl.CERT_REQUIRED
    shown: list[tuple[bytes, ...]] = []

    async def verify(handshake: HandshakeInfo) -> None:
        shown.append(handshake.peer_certificate_chain)

    async with tcp_pair() as transports:
        client = TLSStream(transports[0], client_context, server_hostname=NAME)
        server = TLSStream(transports[1], server_context, server_side=True, verify_peer=verify)

        async def serve() -> None:
            if how == "CERT_REQUIRED":
                with pytest.raises(CertificateError, match="self-signed"):
                    await server.do_handshake()
            else:
                await server.send_all(b"x")
            await server.aclose()

        with trio.fail_after(LIMIT):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(serve)
                if how == "CERT_REQUIRED":
                    with pytest.raises(TLSError):
                        await client.receive_some()
                else:
                    assert await client.receive_some() == b"x"
                await trio.aclose_forcefully(client)
    expected: dict[str, list[tuple[bytes, ...]]] = {
        "CERT_REQUIRED": [],  # OpenSSL refuses it, and asks nobody
        "CERT_NONE": [()],  # a server asks for none
        "its own authority": [(self_signed.der,)],
    }
    assert shown == expected[how]
