"""``connect``: a client to look at TLS servers with."""

from __future__ import annotations

import argparse
import errno
import math
import os
import select
import ssl
import sys
from typing import Any

import attrs
import trio

from trio_tlsbio import HandshakeInfo, HandshakeTimeoutError, TLSError, TLSStream

from ._options import (
    Commands,
    add_command,
    add_version_options,
    existing_file,
    host_name,
    positive_seconds,
    protocol_list,
    unusable,
    usage_error,
)
from ._status import Failure, Status, reasons
from ._words import Stopwatch, aligned, ending_lines, handshake_lines, say

__all__ = ["add_parser"]

# How much is read from standard input at a time, in bytes.
_INPUT_BYTES = 64 * 1024

# How long standard input may pause once the server has ended the conversation, in seconds. A file
# or a busy pipe is still sent to its end; nobody has to press Ctrl-D for a server that has gone.
_INPUT_GRACE = 0.5


################################################################
# The command line
################################################################


def _address(text: str) -> tuple[str, int]:
    if "/" in text:
        raise argparse.ArgumentTypeError(f"{text!r}: give HOST or HOST:PORT, not a URL or path")
    if text.startswith("["):  # [::1] or [::1]:443
        host, _, rest = text[1:].partition("]")
        colon, port = rest[:1] or ":", rest[1:] or "443"
    elif text.count(":") > 1:  # a bare IPv6 address
        host, colon, port = text, ":", "443"
    else:
        host, _, port = text.partition(":")
        colon, port = ":", port if ":" in text else "443"
    if colon != ":" or not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r}: the port must be a number from 1 to 65535")
    return host_name(host), int(port)


def add_parser(commands: Commands) -> None:
    """Describe the command."""
    parser = add_command(
        commands,
        "connect",
        _connect,
        summary="connect to a server, and tell what was agreed on",
        description="Connect to a TLS server. What was agreed on goes to standard error.\n"
        "Standard input goes to the server, and only the server's data to standard output.",
        notes="At the end of standard input a close_notify ends our direction, and the server's "
        "own end is awaited.\n\n",
    )
    parser.add_argument(
        "address",
        metavar="HOST[:PORT]",
        type=_address,
        help="a name or an IP address, and a port (default: 443): [::1]:443 for IPv6",
    )
    parser.add_argument(
        "--servername",
        metavar="NAME",
        type=host_name,
        help="the name to ask for, and to find in the certificate (default: HOST)",
    )
    trust = parser.add_mutually_exclusive_group()
    trust.add_argument(
        "--cafile",
        metavar="FILE",
        type=existing_file,
        help="trust the certificates in this PEM file, and not the system's",
    )
    trust.add_argument(
        "--insecure", action="store_true", help="don't check the server's certificate at all"
    )
    parser.add_argument(
        "--cert",
        metavar="FILE",
        type=existing_file,
        help="the client certificate to present, with its chain (PEM)",
    )
    parser.add_argument(
        "--key",
        metavar="FILE",
        type=existing_file,
        help="its private key (PEM), if that is not in the same file",
    )
    parser.add_argument(
        "--alpn",
        metavar="PROTO[,PROTO]",
        type=protocol_list,
        help="the application protocols to offer, best first: h2,http/1.1",
    )
    add_version_options(parser)
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive_seconds,
        default=10.0,
        help="how long connection and handshake may take together (default: 10)",
    )
    parser.add_argument(
        "--https-compatible",
        action="store_true",
        help="neither send nor expect a close_notify, as is common in HTTP: at the end of "
        "standard input, nothing is sent",
    )


################################################################
# What it does
################################################################


def _context_for(options: argparse.Namespace) -> ssl.SSLContext:
    """Make the context that the options ask for."""
    try:
        context = ssl.create_default_context(cafile=options.cafile)
    except OSError as exc:
        unusable("--cafile", options.cafile, "certificate", exc)
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.cert is not None:
        try:
            context.load_cert_chain(options.cert, options.key)
        except OSError as exc:
            unusable("--cert", options.cert, "certificate with its private key", exc)
    elif options.key is not None:
        usage_error("--key needs --cert")
    if options.alpn:
        context.set_alpn_protocols(options.alpn)
    if options.version is not None:
        context.minimum_version = context.maximum_version = options.version
    return context


async def _connect_tcp(host: str, port: int, timeout: float) -> trio.SocketStream:
    where = f"can't connect to {host} port {port}"
    with trio.move_on_after(timeout):
        try:
            return await trio.open_tcp_stream(host, port)
        except OSError as exc:
            raise Failure(Status.NO_CONNECTION, f"{where}: {reasons(exc)}") from exc
    raise Failure(Status.NO_CONNECTION, f"{where}: no answer within {timeout:g} seconds")


async def _shake_hands(stream: TLSStream[Any], timeout: float, deadline: float) -> HandshakeInfo:
    with trio.CancelScope(deadline=deadline):
        await stream.do_handshake()
    if stream.handshake is None:
        raise HandshakeTimeoutError(
            f"the TCP connection stands, but TLS was not ready within {timeout:g} seconds"
        )
    return stream.handshake


async def _connect(options: argparse.Namespace) -> Status:
    """Connect to a server, tell what was agreed on, and pass on what goes either way."""
    context = _context_for(options)
    host, port = options.address
    if options.insecure:
        say("warning: --insecure: whoever answers is not checked, and may be anybody")
    watch = Stopwatch()
    deadline = trio.current_time() + options.timeout
    tcp = await _connect_tcp(host, port, options.timeout)
    address = tcp.socket.getpeername()[0]
    say(*aligned([("connected", f"to {address} port {port}, in {watch.lap()}")]))
    stream = TLSStream(
        tcp,
        context,
        server_hostname=options.servername or host,
        https_compatible=options.https_compatible,
    )
    try:
        info = await _shake_hands(stream, options.timeout, deadline)
        say(*aligned([("handshake", f"in {watch.lap()}")]), *handshake_lines(info))
        await _converse(stream, watch, half_close=not options.https_compatible)
    except BaseException:
        # The alert is out already; a server that fails gets no say in how long this takes.
        await trio.aclose_forcefully(stream)
        raise
    return Status.OK


async def _converse(stream: TLSStream[Any], watch: Stopwatch, *, half_close: bool) -> None:
    conversation = _Conversation(stream, half_close=half_close)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conversation.send_input)
            nursery.start_soon(conversation.receive_output)
        await stream.aclose()
    except* TLSError:
        say(*ending_lines(stream, conversation.received))
        raise
    say(*ending_lines(stream, conversation.received))
    if conversation.send_error is not None:
        say(f"note: the server did not take all of the input: {conversation.send_error}")
    say(*aligned([("closed", f"{watch.lap()} after the handshake")]))


@attrs.define(eq=False)
class _Conversation:
    """Standard input to the server, and the server's data to standard output."""

    stream: TLSStream[Any]
    half_close: bool
    received: int = 0
    send_error: TLSError | None = None
    _server_has_ended: bool = False
    _reading: trio.CancelScope = attrs.field(factory=trio.CancelScope)

    async def send_input(self) -> None:
        """Send standard input to its end, and then end our direction."""
        try:
            while data := await self._read_input():
                await self.stream.send_all(data)
            if self.half_close:
                await self.stream.send_eof()
        except TLSError as exc:
            # Why it failed is in what the server sent, if anywhere: an alert, for one.
            self.send_error = exc

    async def _read_input(self) -> bytes:
        deadline = trio.current_time() + _INPUT_GRACE if self._server_has_ended else math.inf
        with trio.CancelScope(deadline=deadline) as self._reading:
            return await trio.to_thread.run_sync(_read, abandon_on_cancel=True)
        return b""

    async def receive_output(self) -> None:
        """Write what comes from the server to standard output, until the server's end."""
        while data := await self.stream.receive_some():
            self.received += len(data)
            await trio.to_thread.run_sync(_write, data, abandon_on_cancel=True)
        self._server_has_ended = True
        self._reading.deadline = trio.current_time() + _INPUT_GRACE


# Standard input and output go by their descriptors: a thread that is left behind in a read or
# write holds no lock of Python's then, which would make the interpreter crash at its end.


def _read() -> bytes:
    """Wait for some of standard input, in a thread; ``b""`` at its end, or if it is closed."""
    if sys.stdin is None:  # the descriptor may be the socket's now
        return b""
    descriptor = sys.stdin.fileno()
    while True:
        try:
            return os.read(descriptor, _INPUT_BYTES)
        except BlockingIOError:  # a terminal that another program left in non-blocking mode
            select.select([descriptor], [], [])
        except OSError as exc:
            if exc.errno == errno.EIO:  # the terminal has gone
                return b""
            raise Failure(Status.FAILED_HERE, f"can't read standard input: {exc}") from exc


def _write(data: bytes) -> None:
    """Write all of ``data`` to standard output, in a thread."""
    if sys.stdout is None:
        return
    descriptor = sys.stdout.fileno()
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(descriptor, view) :]
        except BlockingIOError:
            select.select([], [descriptor], [])
        except BrokenPipeError:
            raise
        except OSError as exc:
            raise Failure(Status.FAILED_HERE, f"can't write standard output: {exc}") from exc
