"""``demo``: two example connections, on this machine only."""

from __future__ import annotations

import argparse
import os
import ssl
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import attrs
import trio

from trio_tlsbio import TLSSession, TLSStream, serve_tls_over_tcp
from trio_tlsbio.core import State

from ._facts import Agreement, Ending
from ._options import Commands, add_command
from ._status import Failure, Status
from ._throw_away import throw_away_ca
from ._words import (
    Stopwatch,
    aligned,
    count,
    ending_facts,
    handshake_lines,
    in_ms,
    show,
    versions,
)

__all__ = ["add_parser"]

_DEMO_NAME = "www.demo.example"
_DEMO_ALPN = "demo"
_DEMO_TIMEOUT = 20.0


def add_parser(commands: Commands) -> None:
    """Add the command to the command line."""
    add_command(
        commands,
        "demo",
        _demo,
        summary="make two connections on this machine, and show each step",
        description="Start a server with a throw-away CA on the loopback interface, connect to "
        "it twice,\nand print what happens: handshake, half-close, the ends of both directions, "
        "and\na resumed session.",
    )


def _demo_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Create a server's and a client's context, with a CA that is only trusted by this client."""
    owner = "trio-tlsbio demo"
    ca = throw_away_ca(owner, why="the demo makes its certificates with")
    certificate = ca.issue_cert(
        "*.demo.example",
        organization_name=owner,
        organization_unit_name="server",
        not_after=datetime.now(UTC) + timedelta(days=7),
    )
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(server)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    ca.configure_trust(client)
    for context in (server, client):
        context.set_alpn_protocols([_DEMO_ALPN])
    return server, client


def _expect(condition: bool, message: str) -> None:
    if not condition:
        raise Failure(Status.FAILED_HERE, f"the demo failed: {message}")


@attrs.define
class _Story:
    """Prints each step of the demo, with the time that it took."""

    _watch: Stopwatch = attrs.field(factory=Stopwatch)

    def title(self, text: str) -> None:
        show("", text)

    def step(self, text: str) -> float:
        """Print a step, and return how long it took, in seconds."""
        seconds = self._watch.seconds()
        show(f"{in_ms(seconds):>10}  {text}")
        return seconds

    def details(self, lines: Iterable[str]) -> None:
        show(*(f"{'':12}  {line}" for line in lines))
        self._watch.lap()  # printing is not part of the next step


async def _serve_demo(stream: TLSStream[Any]) -> None:
    """Echo the greeting. Once the client has ended its direction, echo everything, and end ours
    too.
    """
    await stream.send_all(await stream.receive_some())
    everything = b"".join([chunk async for chunk in stream])
    await stream.send_all(everything)
    await stream.send_eof()


async def _demo_connection(
    story: _Story, port: int, context: ssl.SSLContext, session: TLSSession | None
) -> TLSSession:
    """Run one connection, and return the session to resume."""
    # Like open_tls_over_tcp_stream(), but by address: the demo's name is not in the DNS.
    tcp = await trio.open_tcp_stream("127.0.0.1", port)
    story.step("TCP connection made")
    async with TLSStream(tcp, context, server_hostname=_DEMO_NAME, session=session) as stream:
        await stream.do_handshake()
        story.step("handshake done")
        story.details(handshake_lines(Agreement.of(stream)))

        greeting = b"Hello, server!"
        await stream.send_all(greeting)
        echo = b""
        while len(echo) < len(greeting):
            echo += await stream.receive_some()
        story.step(f"{count(len(greeting), 'byte')} sent, and their echo received")

        data = os.urandom(256 * 1024)
        await stream.send_all(data)
        await stream.send_eof()
        story.step(f"{count(len(data), 'byte')} sent, then our close_notify: half-closed")

        rest = b"".join([chunk async for chunk in stream])
        story.step(f"{count(len(rest), 'byte')} received, then the server's close_notify")
        _expect((echo, rest) == (greeting, data), "what came back is not what was sent")
    story.step("closed")
    story.details(aligned(ending_facts(Ending.of(stream, len(echo) + len(rest)))))
    _expect(stream.connection.send_state is State.CLOSED, "our close_notify was not sent")
    _expect(stream.connection.receive_state is State.CLOSED, "no close_notify came")
    _expect(stream.session_reused is (session is not None), "the session")
    if stream.session is None:
        raise Failure(Status.FAILED_HERE, "the demo failed: the server sent no session")
    return stream.session


async def _demo(_options: argparse.Namespace) -> Status:
    """Show two connections to a server in this process."""
    with trio.move_on_after(_DEMO_TIMEOUT):
        show(f"TLS on this machine alone: {versions()}")
        story = _Story()
        story.title("Getting ready")
        server_context, client_context = _demo_contexts()
        story.step("throw-away CA made, and a certificate for *.demo.example")
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tls_over_tcp, _serve_demo, 0, server_context, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            port = listener.transport_listener.socket.getsockname()[1]
            story.step(f"server listening on 127.0.0.1 port {port}")

            story.title("First connection: nothing is known of the server")
            session = await _demo_connection(story, port, client_context, None)
            story.title("Second connection: with the session of the first")
            await _demo_connection(story, port, client_context, session)
            nursery.cancel_scope.cancel()
        show("", "The second connection resumed the session of the first. All went well.")
        return Status.OK
    raise Failure(Status.FAILED_HERE, f"the demo took more than {_DEMO_TIMEOUT:g} seconds")
