"""Opens one connection to a server step by step, and ends it."""

from __future__ import annotations

import ssl
import time
from typing import Any

import attrs
import trio

from trio_tlsbio import (
    CertificateError,
    HandshakeTimeoutError,
    SessionCache,
    TLSError,
    TLSSession,
    TLSStream,
    TruncationError,
    start_tls,
)
from trio_tlsbio.testing import RecordedStream

from ._facts import (
    Agreement,
    Connected,
    Ending,
    Handshake,
    Refused,
    Target,
    Timeline,
    Upgraded,
)
from ._proxy import header_for
from ._reports import Report
from ._starttls import Dialogue
from ._status import Failure, Status, reasons
from ._words import Stopwatch, count

__all__ = ["Plan", "open_stream", "visit"]

# How many bytes on the wire --timeline keeps: more than any real handshake has.
_MOST_RECORDED = 256 * 1024

# If there is no conversation: how long to wait for the server's end, in seconds, and how many bytes
# of its data to discard in the meantime.
_PARTING_TIMEOUT = 3.0
_PARTING_BYTES = 1024 * 1024


async def _connect_tcp(host: str, port: int, timeout: float) -> trio.SocketStream:
    where = f"can't connect to {host} port {port}"
    with trio.move_on_after(timeout):
        try:
            return await trio.open_tcp_stream(host, port)
        except OSError as exc:
            raise Failure(Status.NO_CONNECTION, f"{where}: {reasons(exc)}") from exc
    raise Failure(Status.NO_CONNECTION, f"{where}: no answer within {count(timeout, 'second')}")


@attrs.frozen
class Plan:
    """How to connect."""

    target: Target
    context: ssl.SSLContext
    timeout: float
    https_compatible: bool
    is_recorded: bool
    proxy_header: str | None
    sessions: SessionCache

    def take_session(self) -> TLSSession | None:
        """Take a session to resume."""
        name, port = self.target.server_name, self.target.port
        return self.sessions.take(self.context, name, port, now=time.monotonic())

    def put_session(self, session: TLSSession) -> None:
        """Store a session for the next connection."""
        self.sessions.put(session, self.target.port, now=time.monotonic())


async def open_stream(plan: Plan, report: Report) -> TLSStream[Any]:
    """Connect, perform the handshake, and report each step when it is done."""
    watch = Stopwatch()
    deadline = trio.current_time() + plan.timeout
    tcp = await _connect_tcp(plan.target.host, plan.target.port, plan.timeout)
    try:
        peer = tcp.socket.getpeername()
        report(Connected(peer[0], peer[1], watch.seconds()))
        with trio.CancelScope(deadline=deadline):
            buffered = await _begin(plan, tcp)
            if plan.target.starttls is not None:
                report(Upgraded(plan.target.starttls, watch.seconds()))
            return await _shake_hands(plan, tcp, buffered, watch, report)
        raise HandshakeTimeoutError(
            "the TCP connection was established, but TLS was not ready within "
            f"{count(plan.timeout, 'second')}"
        )
    except BaseException:
        await trio.aclose_forcefully(tcp)
        raise


async def _begin(plan: Plan, tcp: trio.SocketStream) -> bytes:
    """Send the bytes that come before TLS, request TLS, and return the bytes after the answer."""
    ours, target = tcp.socket.getsockname(), plan.target
    try:
        if plan.proxy_header is not None:
            header = header_for(plan.proxy_header, ours, tcp.socket.getpeername())
            await tcp.send_all(header)
        if target.starttls is None:
            return b""
        dialogue = Dialogue.of(target.starttls, ours[0], target.server_name)
        while not dialogue.is_done:
            await tcp.send_all(dialogue.data_to_send())
            dialogue.feed(await tcp.receive_some())
        if data := dialogue.data_to_send():  # the last message, if it has no answer before TLS
            await tcp.send_all(data)
    except trio.BrokenResourceError as exc:
        raise Failure(
            Status.TRUNCATED, "the server broke the connection before TLS could begin"
        ) from exc
    return dialogue.buffered


async def _shake_hands(
    plan: Plan, tcp: trio.SocketStream, buffered: bytes, watch: Stopwatch, report: Report
) -> TLSStream[Any]:
    recorded = RecordedStream(tcp, max_bytes=_MOST_RECORDED) if plan.is_recorded else None
    try:
        transport = tcp if recorded is None else recorded
        name = plan.target.server_name
        if buffered:  # start_tls() refuses this, with an explanation
            return await start_tls(transport, plan.context, buffered=buffered, server_hostname=name)
        stream: TLSStream[Any] = TLSStream(
            transport,
            plan.context,
            server_hostname=name,
            https_compatible=plan.https_compatible,
            session=plan.take_session(),
            on_session=plan.put_session,
        )
        try:
            await stream.do_handshake()
        except CertificateError as exc:
            report(Refused.of(stream, exc, name))
            raise
        report(Handshake(watch.seconds(), Agreement.of(stream)))
        return stream
    finally:
        if recorded is not None:
            conversation = recorded.conversation
            report(Timeline(conversation.flights, conversation.bytes_not_kept))


async def _part(stream: TLSStream[Any], plan: Plan) -> Ending:
    """End a connection without a conversation, and return how it ended.

    Until the server's end, this reads its data: tickets, and the alert with which a TLS 1.3 server
    refuses a client's certificate.
    """
    received = 0
    try:
        with trio.move_on_after(min(_PARTING_TIMEOUT, plan.timeout)):
            if plan.https_compatible:
                await stream.aclose()
            else:
                await stream.send_eof()
                while received < _PARTING_BYTES and (data := await stream.receive_some()):
                    received += len(data)
    except TLSError as exc:
        is_cut = isinstance(exc, TruncationError)
        if not (is_cut or isinstance(exc.__cause__, trio.BrokenResourceError)):
            raise
    finally:
        await trio.aclose_forcefully(stream)  # the server has had enough time
    return Ending.of(stream, received)


async def visit(plan: Plan, report: Report) -> None:
    """Make a connection without a conversation."""
    stream = await open_stream(plan, report)
    report(await _part(stream, plan))
