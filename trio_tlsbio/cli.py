"""The command line: a demonstration, and a client to look at TLS servers with.

Everything here goes through the public API, so it is an example as well.
"""

from __future__ import annotations

import argparse
import enum
import errno
import hashlib
import math
import os
import select
import socket
import ssl
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from functools import partial
from importlib import metadata
from ipaddress import ip_address
from pathlib import Path
from typing import Any, NoReturn, cast

import attrs
import trio

from . import (
    CertificateError,
    HandshakeInfo,
    HandshakeTimeoutError,
    PeerAlertError,
    State,
    TLSConnection,
    TLSError,
    TLSSession,
    TLSStream,
    TruncationError,
    serve_tls_over_tcp,
)

__all__ = ["Status", "main"]

_PROG = "trio-tlsbio"

# How much is read from standard input at a time, in bytes.
_INPUT_BYTES = 64 * 1024

# How long standard input may pause once the server has ended the conversation, in seconds. A file
# or a busy pipe is still sent to its end; nobody has to press Ctrl-D for a server that has gone.
_INPUT_GRACE = 0.5


################################################################
# How it ends
################################################################


class Status(enum.IntEnum):
    """The exit statuses."""

    OK = 0
    NO_CONNECTION = 1
    USAGE = 2
    CERTIFICATE_REFUSED = 3
    TLS_FAILED = 4
    HANDSHAKE_TIMEOUT = 5
    TRUNCATED = 6
    TRUSTME_MISSING = 7
    FAILED_HERE = 8
    INTERRUPTED = 130
    OUTPUT_CLOSED = 141


_MEANINGS = {
    Status.OK: "all went well",
    Status.NO_CONNECTION: "no TCP connection: refused, name not found, timeout",
    Status.USAGE: "the command line makes no sense",
    Status.CERTIFICATE_REFUSED: "the server's certificate was refused",
    Status.TLS_FAILED: "TLS failed otherwise: an alert, not TLS at all, a broken protocol",
    Status.HANDSHAKE_TIMEOUT: "the handshake took too long",
    Status.TRUNCATED: "the connection broke off, without a close_notify",
    Status.TRUSTME_MISSING: "the demo needs trustme, which is not installed",
    Status.FAILED_HERE: "failed on this side: standard input or output, or the demo itself",
    Status.INTERRUPTED: "interrupted by Ctrl-C",
    Status.OUTPUT_CLOSED: "nobody reads standard output any more",
}


@attrs.frozen
class _Failure(Exception):  # noqa: N818  # it is how a command ends, with its status
    """What ends a command, other than what the library raises."""

    status: Status
    message: str

    def __str__(self) -> str:
        return self.message


def _status_of(exc: BaseException) -> Status | None:
    """Return the status that an exception ends with; None if it must be a bug."""
    status: Status | None = None
    match exc:
        case _Failure():
            status = exc.status
        case CertificateError():
            status = Status.CERTIFICATE_REFUSED
        case HandshakeTimeoutError():
            status = Status.HANDSHAKE_TIMEOUT
        case TruncationError():
            status = Status.TRUNCATED
        case TLSError(__cause__=trio.BrokenResourceError()):  # reset: no close_notify either
            status = Status.TRUNCATED
        case TLSError():
            status = Status.TLS_FAILED
        case KeyboardInterrupt():
            status = Status.INTERRUPTED
        case BrokenPipeError():
            status = Status.OUTPUT_CLOSED
        case OSError():
            status = Status.FAILED_HERE
        case _:
            pass
    return status


def _hint_for(exc: BaseException) -> str | None:
    """Return which option may help against an error."""
    match exc:
        case CertificateError(verify_code=62 | 64):  # it is for another name, or address
            return "--servername NAME asks for another name, and checks that one"
        case CertificateError(verify_code=18 | 19 | 20 | 21):  # its issuer is not trusted
            return "--cafile FILE trusts the issuers in FILE, --insecure checks nothing"
        case PeerAlertError(alert="certificate_required" | "handshake_failure"):
            return "--cert FILE and --key FILE present a client certificate"
        case PeerAlertError(alert="no_application_protocol"):
            return "--alpn PROTO offers another protocol"
        case _:
            return None


def _leaves(exc: BaseException) -> Iterator[BaseException]:
    if isinstance(exc, BaseExceptionGroup):
        for inner in cast("BaseExceptionGroup[BaseException]", exc).exceptions:
            yield from _leaves(inner)
    else:
        yield exc


def _what_counts(exc: BaseException) -> BaseException:
    """Take the exception that tells most out of the groups that nurseries make."""
    leaves = list(_leaves(exc))
    for leaf in leaves:
        if isinstance(leaf, KeyboardInterrupt) or _status_of(leaf) is None:
            return leaf
    return leaves[0]


################################################################
# Words
################################################################


def _printable(text: str) -> str:
    # What a certificate says comes from strangers, and must not steer the terminal.
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _say(*lines: str) -> None:
    """Write lines to stderr, which may be closed."""
    if sys.stderr is not None:
        for line in lines:
            print(_printable(line), file=sys.stderr)


def _show(*lines: str) -> None:
    """Write lines to stdout: the demo's story."""
    for line in lines:
        print(_printable(line))


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _aligned(facts: Iterable[tuple[str, str]]) -> list[str]:
    return [f"{label + ':':<14} {value}" for label, value in facts]


_SHORT = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
}


def _distinguished_name(name: Sequence[Sequence[tuple[str, str]]]) -> str:
    parts = (f"{_SHORT.get(kind, kind)}={value}" for rdn in name for kind, value in rdn)
    return ", ".join(parts) or "(empty)"


def _moment(text: str) -> datetime:
    return datetime.fromtimestamp(ssl.cert_time_to_seconds(text), UTC)


def _validity(start: str, end: str) -> str:
    try:
        left = (_moment(end) - datetime.now(UTC)).days
        start, end = f"{_moment(start):%Y-%m-%d %H:%M}", f"{_moment(end):%Y-%m-%d %H:%M}"
    except ValueError:  # times that OpenSSL prints in another way
        return f"{start} to {end}"
    return f"{start} to {end} UTC, {_count(left, 'day')} left"


def _matched(name: str | None, wanted: str | None) -> str:
    if name is None:
        return "none"
    with suppress(ValueError):
        name = str(ip_address(name))  # OpenSSL writes all the zeros of ::1
    return name if name == wanted else f"{name}, for {wanted}"


def _certificate_facts(info: HandshakeInfo) -> Iterator[tuple[str, str]]:
    certificate = info.peer_certificate
    if certificate:
        yield "certificate", _distinguished_name(certificate["subject"])
        yield "issued by", _distinguished_name(certificate["issuer"])
        yield "valid", _validity(certificate["notBefore"], certificate["notAfter"])
        yield "name matched", _matched(info.matched_name, info.server_hostname)
    elif info.peer_certificate_chain:
        # The ssl module decodes only what was verified.
        yield "certificate", "not verified"
        yield "SHA-256", hashlib.sha256(info.peer_certificate_chain[0]).hexdigest()
    else:
        yield "certificate", "none"


def handshake_lines(info: HandshakeInfo) -> list[str]:
    """Tell what a handshake agreed on, as aligned ``label: value`` lines."""
    return _aligned(
        [
            ("version", info.version),
            ("cipher", f"{info.cipher}, {info.cipher_bits} bits"),
            ("ALPN", info.alpn_protocol or "none"),
            ("session", "resumed" if info.session_reused else "new"),
            *_certificate_facts(info),
        ]
    )


def _our_end(connection: TLSConnection) -> str:
    if connection.send_state is not State.CLOSED:
        return "no close_notify"
    return "a close_notify that did not get out" if connection.bytes_to_send else "our close_notify"


def _their_end(connection: TLSConnection) -> str:
    match connection.receive_state:
        case State.CLOSED:
            return "the server's close_notify"
        case State.TRUNCATED:
            return "the end of the connection, without a close_notify"
        case State.FAILED:
            return "a fatal error"
        case _:
            return "no close_notify"


def _ending_lines(stream: TLSStream[Any], received: int) -> list[str]:
    """Tell how much went each way, and how each direction ended."""
    sent = _count(stream.bytes_committed, "byte")
    return _aligned(
        [
            ("sent", f"{sent}, then {_our_end(stream.connection)}"),
            ("received", f"{_count(received, 'byte')}, then {_their_end(stream.connection)}"),
        ]
    )


@attrs.define
class _Stopwatch:
    """Tells how long each step took."""

    _last: float = attrs.field(factory=trio.current_time)

    def lap(self) -> str:
        """Return the time since the last lap, in words."""
        before, self._last = self._last, trio.current_time()
        return _ms(self._last - before)


################################################################
# connect: the command
################################################################


def _usage_error(message: str) -> NoReturn:
    raise _Failure(Status.USAGE, message)


def _unusable(option: str, path: str, expected: str, exc: OSError) -> NoReturn:
    """Say what is wrong with a file, which OpenSSL tells in the words of a programmer."""
    if not isinstance(exc, ssl.SSLError):
        why = exc.strerror or str(exc)
    elif exc.reason == "KEY_VALUES_MISMATCH":
        why = "the private key belongs to another certificate"
    else:
        why = f"no {expected} in PEM form was found"
    _usage_error(f"{option} {path}: {why}")


def _context_for(options: argparse.Namespace) -> ssl.SSLContext:
    """Make the context that the options ask for."""
    try:
        context = ssl.create_default_context(cafile=options.cafile)
    except OSError as exc:
        _unusable("--cafile", options.cafile, "certificate", exc)
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.cert is not None:
        try:
            context.load_cert_chain(options.cert, options.key)
        except OSError as exc:
            _unusable("--cert", options.cert, "certificate with its private key", exc)
    elif options.key is not None:
        _usage_error("--key needs --cert")
    if options.alpn:
        context.set_alpn_protocols(options.alpn)
    if options.version is not None:
        context.minimum_version = context.maximum_version = options.version
    return context


def _why_not_connected(exc: OSError) -> str:
    """Say why, once for all addresses that were tried."""
    reasons = [
        # Trio puts the address before the system's words; the resolver has words of its own.
        os.strerror(leaf.errno)
        if leaf.errno is not None and not isinstance(leaf, socket.gaierror)
        else leaf.strerror or str(leaf)
        for leaf in _leaves(exc.__cause__ or exc)
        if isinstance(leaf, OSError)
    ]
    return "; ".join(dict.fromkeys(reasons))


async def _connect_tcp(host: str, port: int, timeout: float) -> trio.SocketStream:
    where = f"can't connect to {host} port {port}"
    with trio.move_on_after(timeout):
        try:
            return await trio.open_tcp_stream(host, port)
        except OSError as exc:
            raise _Failure(Status.NO_CONNECTION, f"{where}: {_why_not_connected(exc)}") from exc
    raise _Failure(Status.NO_CONNECTION, f"{where}: no answer within {timeout:g} seconds")


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
        _say("warning: --insecure: whoever answers is not checked, and may be anybody")
    watch = _Stopwatch()
    deadline = trio.current_time() + options.timeout
    tcp = await _connect_tcp(host, port, options.timeout)
    address = tcp.socket.getpeername()[0]
    _say(*_aligned([("connected", f"to {address} port {port}, in {watch.lap()}")]))
    stream = TLSStream(
        tcp,
        context,
        server_hostname=options.servername or host,
        https_compatible=options.https_compatible,
    )
    try:
        info = await _shake_hands(stream, options.timeout, deadline)
        _say(*_aligned([("handshake", f"in {watch.lap()}")]), *handshake_lines(info))
        await _converse(stream, watch, half_close=not options.https_compatible)
    except BaseException:
        # The alert is out already; a server that fails gets no say in how long this takes.
        await trio.aclose_forcefully(stream)
        raise
    return Status.OK


async def _converse(stream: TLSStream[Any], watch: _Stopwatch, *, half_close: bool) -> None:
    conversation = _Conversation(stream, half_close=half_close)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conversation.send_input)
            nursery.start_soon(conversation.receive_output)
        await stream.aclose()
    except* TLSError:
        _say(*_ending_lines(stream, conversation.received))
        raise
    _say(*_ending_lines(stream, conversation.received))
    if conversation.send_error is not None:
        _say(f"note: the server did not take all of the input: {conversation.send_error}")
    _say(*_aligned([("closed", f"{watch.lap()} after the handshake")]))


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
            raise _Failure(Status.FAILED_HERE, f"can't read standard input: {exc}") from exc


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
            raise _Failure(Status.FAILED_HERE, f"can't write standard output: {exc}") from exc


################################################################
# demo: the command
################################################################

_DEMO_NAME = "www.demo.example"
_DEMO_ALPN = "demo"
_DEMO_TIMEOUT = 20.0


def _demo_contexts() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Make a server's and a client's context, with a CA that nobody else trusts."""
    try:
        import trustme  # noqa: PLC0415  # an extra
    except ImportError as exc:
        raise _Failure(
            Status.TRUSTME_MISSING,
            "the demo makes its certificates with trustme: pip install 'trio-tlsbio[demo]'",
        ) from exc
    ca = trustme.CA(organization_name="trio-tlsbio demo", organization_unit_name="throw-away CA")
    certificate = ca.issue_cert(
        "*.demo.example",
        organization_name="trio-tlsbio demo",
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
        raise _Failure(Status.FAILED_HERE, f"the demo went wrong: {message}")


@attrs.define
class _Story:
    """Prints each step of the demo, with the time that it took."""

    _watch: _Stopwatch = attrs.field(factory=_Stopwatch)

    def title(self, text: str) -> None:
        _show("", text)

    def step(self, text: str) -> None:
        _show(f"{self._watch.lap():>10}  {text}")

    def details(self, lines: Iterable[str]) -> None:
        _show(*(f"{'':12}  {line}" for line in lines))
        self._watch.lap()  # telling is not part of the next step


async def _serve_demo(stream: TLSStream[Any]) -> None:
    """Greet back; once the client has ended its direction, send all that it sent, and end too."""
    await stream.send_all(await stream.receive_some())
    everything = b"".join([chunk async for chunk in stream])
    await stream.send_all(everything)
    await stream.send_eof()


async def _demo_connection(
    story: _Story, port: int, context: ssl.SSLContext, session: TLSSession | None
) -> TLSSession:
    """Go through the life of one connection, and return the session to resume."""
    # What open_tls_over_tcp_stream() does, but by address: the demo's name is in no DNS.
    tcp = await trio.open_tcp_stream("127.0.0.1", port)
    story.step("TCP connection made")
    async with TLSStream(tcp, context, server_hostname=_DEMO_NAME, session=session) as stream:
        await stream.do_handshake()
        story.step("handshake done")
        assert stream.handshake is not None
        story.details(handshake_lines(stream.handshake))

        greeting = b"Hello, server!"
        await stream.send_all(greeting)
        echo = b""
        while len(echo) < len(greeting):
            echo += await stream.receive_some()
        story.step(f"{_count(len(greeting), 'byte')} sent, and their echo received")

        data = os.urandom(256 * 1024)
        await stream.send_all(data)
        await stream.send_eof()
        story.step(f"{_count(len(data), 'byte')} sent, then our close_notify: half-closed")

        rest = b"".join([chunk async for chunk in stream])
        story.step(f"{_count(len(rest), 'byte')} received, then the server's close_notify")
        _expect((echo, rest) == (greeting, data), "what came back is not what was sent")
    story.step("closed")
    story.details(_ending_lines(stream, len(echo) + len(rest)))
    _expect(stream.connection.send_state is State.CLOSED, "our close_notify was not sent")
    _expect(stream.connection.receive_state is State.CLOSED, "no close_notify came")
    _expect(stream.handshake.session_reused is (session is not None), "the session")
    if stream.session is None:
        raise _Failure(Status.FAILED_HERE, "the demo went wrong: the server sent no session")
    return stream.session


async def _demo(_options: argparse.Namespace) -> Status:
    """Tell the story of two connections to a server of our own."""
    with trio.move_on_after(_DEMO_TIMEOUT):
        _show(f"TLS on this machine alone: {_versions()}")
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
        _show("", "The second connection resumed the session of the first. All went well.")
        return Status.OK
    raise _Failure(Status.FAILED_HERE, f"the demo took more than {_DEMO_TIMEOUT:g} seconds")


################################################################
# The command line
################################################################


def _version() -> str:
    try:
        return metadata.version("trio-tlsbio")
    except metadata.PackageNotFoundError:  # run from a bare source tree
        return "(unknown version)"


def _versions() -> str:
    openssl = " ".join(ssl.OPENSSL_VERSION.split()[:2])
    return f"trio-tlsbio {_version()}, Trio {trio.__version__}, {openssl}"


def _host_name(text: str) -> str:
    """Check a name as the library will."""
    try:
        TLSConnection(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), server_hostname=text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(f"{text!r} is not a host name or IP address") from exc
    return text


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
    return _host_name(host), int(port)


def _file(text: str) -> str:
    try:
        Path(text).stat()
    except OSError as exc:
        raise argparse.ArgumentTypeError(f"{text}: {exc.strerror}") from exc
    return text


def _protocols(text: str) -> list[str]:
    protocols = text.split(",")
    if not all(protocol.isascii() and 0 < len(protocol) < 256 for protocol in protocols):
        raise argparse.ArgumentTypeError(f"{text!r} is not a list such as h2,http/1.1")
    return protocols


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds above 0")
    return seconds


def _parser() -> argparse.ArgumentParser:
    """Describe the command line. Each command's function is in ``run``."""
    statuses = "\n".join(f"  {status:>3}  {words}" for status, words in _MEANINGS.items())
    epilog = f"exit status:\n{statuses}"
    formatter = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog=_PROG,
        description="TLS for Trio, from the command line.",
        epilog=epilog,
        formatter_class=formatter,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=_versions())
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    demo = commands.add_parser(
        "demo",
        help="show the life of two connections, on this machine alone",
        description="Start a server with a throw-away CA on the loopback interface, connect to "
        "it twice,\nand tell what happens: handshake, half-close, the ends of both directions, "
        "and\na resumed session.",
        epilog=epilog,
        formatter_class=formatter,
        allow_abbrev=False,
    )
    demo.set_defaults(run=_demo)

    connect = commands.add_parser(
        "connect",
        help="connect to a server, and tell what was agreed on",
        description="Connect to a TLS server. What was agreed on goes to standard error.\n"
        "Standard input goes to the server, and only the server's data to standard output.",
        epilog="At the end of standard input a close_notify ends our direction, and the server's "
        f"own end is awaited.\n\n{epilog}",
        formatter_class=formatter,
        allow_abbrev=False,
    )
    connect.add_argument(
        "address",
        metavar="HOST[:PORT]",
        type=_address,
        help="a name or an IP address, and a port (default: 443): [::1]:443 for IPv6",
    )
    connect.add_argument(
        "--servername",
        metavar="NAME",
        type=_host_name,
        help="the name to ask for, and to find in the certificate (default: HOST)",
    )
    trust = connect.add_mutually_exclusive_group()
    trust.add_argument(
        "--cafile",
        metavar="FILE",
        type=_file,
        help="trust the certificates in this PEM file, and not the system's",
    )
    trust.add_argument(
        "--insecure", action="store_true", help="don't check the server's certificate at all"
    )
    connect.add_argument(
        "--cert",
        metavar="FILE",
        type=_file,
        help="the client certificate to present, with its chain (PEM)",
    )
    connect.add_argument(
        "--key",
        metavar="FILE",
        type=_file,
        help="its private key (PEM), if that is not in the same file",
    )
    connect.add_argument(
        "--alpn",
        metavar="PROTO[,PROTO]",
        type=_protocols,
        help="the application protocols to offer, best first: h2,http/1.1",
    )
    version = connect.add_mutually_exclusive_group()
    version.add_argument(
        "--tls12",
        dest="version",
        action="store_const",
        const=ssl.TLSVersion.TLSv1_2,
        help="speak TLS 1.2 only",
    )
    version.add_argument(
        "--tls13",
        dest="version",
        action="store_const",
        const=ssl.TLSVersion.TLSv1_3,
        help="speak TLS 1.3 only",
    )
    connect.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_seconds,
        default=10.0,
        help="how long connection and handshake may take together (default: 10)",
    )
    connect.add_argument(
        "--https-compatible",
        action="store_true",
        help="neither send nor expect a close_notify, as is common in HTTP: at the end of "
        "standard input, nothing is sent",
    )
    connect.set_defaults(run=_connect)
    return parser


def _run(command: Callable[[], Any]) -> Status:
    """Run a command, and turn what it raises into a line on stderr and a status."""
    try:
        status: Status = trio.run(
            command,
            # Else Ctrl-C may strike in the middle of anything, Trio's own functions included.
            restrict_keyboard_interrupt_to_checkpoints=True,
        )
        if sys.stdout is not None:
            sys.stdout.flush()  # so that what goes wrong there is seen here
        return status
    except BaseException as exc:
        error = _what_counts(exc)
        failure = _status_of(error)
        if failure is None:
            raise
    if failure not in (Status.INTERRUPTED, Status.OUTPUT_CLOSED):
        with suppress(OSError):
            _say(f"{_PROG}: {error}")
            if hint := _hint_for(error):
                _say(f"{'hint':>{len(_PROG)}}: {hint}")
    return failure


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line ``argv`` (by default the process's own), and return its exit status.

    As with argparse everywhere, a command line that makes no sense is a :exc:`SystemExit`.
    """
    options = _parser().parse_args(argv)
    status = _run(partial(options.run, options))
    if status in (Status.OUTPUT_CLOSED, Status.FAILED_HERE) and sys.stdout is not None:
        # What is buffered would be written at the interpreter's end, and might fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return int(status)
