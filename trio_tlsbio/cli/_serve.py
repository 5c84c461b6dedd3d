"""``serve``: a server that echoes data, or shows the result of the handshake, until a signal ends
it.
"""

from __future__ import annotations

import argparse
import signal
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import NoReturn, TypeAlias

import attrs
import trio

from trio_tlsbio import (
    Drain,
    ReloadingContext,
    TLSListener,
    TLSStream,
    TrustedProxies,
    open_tls_over_tcp_listeners,
    serve_tls_listeners,
)
from trio_tlsbio._net.default_context import make_default_context
from trio_tlsbio.monitoring import ServerMonitor

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
from ._server_log import report, report_event, report_reload, report_statistics, shown_log
from ._status import Failure, Status, reasons
from ._throw_away import Equip, throw_away_certificates, throw_away_names
from ._words import count
from ._www import Www

__all__ = ["add_parser"]

_Handler: TypeAlias = Callable[[TLSStream[trio.SocketStream]], Awaitable[object]]

# How long a client of the echo may be idle, and how long it may take to read, in seconds.
_IDLE_TIMEOUT = 300.0
_SEND_TIMEOUT = 60.0

# How long the keys of session tickets are used, in seconds: RFC 9325 section 3.4.
_TICKET_KEYS_LAST = 24 * 60 * 60.0

_RELOAD: signal.Signals | None = getattr(signal, "SIGHUP", None)
_SIGNALS = [signal.SIGINT, signal.SIGTERM, *([_RELOAD] if _RELOAD is not None else [])]


################################################################
# The command line
################################################################


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) < 65536):
        raise argparse.ArgumentTypeError(f"{text!r}: the port must be a number from 0 to 65535")
    return int(text)


def _limit(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return int(text)


def _proxies(text: str) -> TrustedProxies:
    try:
        return TrustedProxies(text.split(","))
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from exc


def add_parser(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "serve",
        _serve,
        summary="echo each client's data, or show it the result of the handshake",
        description="Run a TLS server, and report events on standard error. The server echoes "
        "each client's data;\n"
        "with --www, it answers any HTTP request with a page that shows the result of the "
        "handshake.",
        notes="On SIGHUP, the server reads the certificate files again. SIGTERM or Ctrl-C ends "
        "the server: it\n"
        "stops listening, closes idle connections at once, and lets the others finish.\n"
        "A second signal ends it at once.\n\n",
    )
    parser.add_argument(
        "--host",
        type=host_name,
        default="127.0.0.1",
        help="the address or host name to listen on; 0.0.0.0 or :: for all addresses (default: "
        "127.0.0.1)",
    )
    parser.add_argument(
        "--port",
        type=_port,
        default=4433,
        help="the port to listen on; 0 lets the system choose (default: 4433)",
    )
    parser.add_argument(
        "--www",
        action="store_true",
        help="answer any HTTP request with a page about the connection, then close it",
    )
    parser.add_argument(
        "--cert",
        metavar="FILE",
        type=existing_file,
        help="the server's certificate, with its chain (PEM); by default, a temporary one",
    )
    parser.add_argument(
        "--key",
        metavar="FILE",
        type=existing_file,
        help="its private key (PEM), if it is in another file",
    )
    parser.add_argument(
        "--client-ca",
        metavar="FILE",
        type=existing_file,
        help="ask clients for a certificate from an issuer in this PEM file",
    )
    parser.add_argument(
        "--client-cert",
        choices=["optional", "required"],
        help="whether clients need a certificate (default: required)",
    )
    parser.add_argument(
        "--alpn",
        metavar="PROTO[,PROTO]",
        type=protocol_list,
        help="the application protocols to accept, best first (default: http/1.1 with --www)",
    )
    parser.add_argument(
        "--strict-alpn",
        action="store_true",
        help="refuse clients that offer only other application protocols",
    )
    add_version_options(parser)
    parser.add_argument(
        "--proxy-protocol",
        metavar="NETWORK[,NETWORK]",
        type=_proxies,
        help="accept only connections from proxies in these networks, which report the clients' "
        "addresses with the PROXY protocol",
    )
    parser.add_argument(
        "--handshake-timeout",
        metavar="SECONDS",
        type=positive_seconds,
        default=15.0,
        help="how long a handshake may take (default: 15)",
    )
    parser.add_argument(
        "--max-connections",
        metavar="N",
        type=_limit,
        help="how many connections may be open at once; more clients have to wait",
    )
    parser.add_argument(
        "--drain-timeout",
        metavar="SECONDS",
        type=positive_seconds,
        default=10.0,
        help="how long connections may take to finish when the server ends (default: 10)",
    )


################################################################
# Certificates
################################################################


def _load(options: argparse.Namespace, context: ssl.SSLContext) -> None:
    def no_password() -> NoReturn:
        # OpenSSL would prompt on the terminal, which would block a reload.
        usage_error(f"--cert {options.cert}: the private key is encrypted")

    try:
        context.load_cert_chain(options.cert, options.key, password=no_password)
    except OSError as exc:
        unusable("--cert", options.cert, "certificate with its private key", exc)


def _make_context(options: argparse.Namespace, equip: Equip) -> ssl.SSLContext:
    context = make_default_context(ssl.Purpose.CLIENT_AUTH)
    equip(context)
    if options.client_ca is not None:
        try:
            context.load_verify_locations(options.client_ca)
        except OSError as exc:
            unusable("--client-ca", options.client_ca, "certificate", exc)
        is_optional = options.client_cert == "optional"
        context.verify_mode = ssl.CERT_OPTIONAL if is_optional else ssl.CERT_REQUIRED
    if alpn := options.alpn or (["http/1.1"] if options.www else []):
        context.set_alpn_protocols(alpn)
    if options.version is not None:
        context.minimum_version = context.maximum_version = options.version
    return context


def _report_how_to_try(options: argparse.Namespace, ca_file: Path, port: int) -> None:
    name = options.host
    with suppress(ValueError):
        if ip_address(name).is_unspecified:
            name = "localhost"
    where = f"[{name}]:{port}" if ":" in name else f"{name}:{port}"
    client = " --cert FILE" if options.client_ca is not None else ""
    if options.www:
        proxy = " --haproxy-protocol" if options.proxy_protocol is not None else ""
        line = f"curl --cacert {ca_file}{client}{proxy} https://{where}/"
    else:
        proxy = " --proxy-header v2" if options.proxy_protocol is not None else ""
        line = f"python -m trio_tlsbio connect {where} --cafile {ca_file}{client}{proxy}"
    report(
        ("certificate", f"throw-away, for {', '.join(throw_away_names(options.host))}"),
        ("its issuer", f"{ca_file}"),
        ("try it with", line),
    )


################################################################
# Serving
################################################################


async def _echo(drain: Drain, stream: TLSStream[trio.SocketStream]) -> None:
    """Echo the client's data, and end when the client ends."""
    while True:
        data: bytes | bytearray = b""
        with trio.move_on_after(_IDLE_TIMEOUT):
            data = await drain.receive_some(stream)
        # If this is cut off, the client can see that data is missing.
        with trio.fail_after(_SEND_TIMEOUT):
            if not data:
                await stream.send_eof()
                return
            await stream.send_all(data)


async def _listen(
    options: argparse.Namespace, context: ReloadingContext
) -> list[TLSListener[trio.SocketStream]]:
    try:
        return await open_tls_over_tcp_listeners(
            options.port,
            context,
            host=options.host,
            https_compatible=options.www,
            handshake_timeout=options.handshake_timeout,
            proxy_protocol=options.proxy_protocol,
            strict_alpn=options.strict_alpn,
        )
    except OSError as exc:
        where = f"{options.host} port {options.port}"
        raise Failure(Status.FAILED_HERE, f"can't listen on {where}: {reasons(exc)}") from exc


def _address_of(listener: TLSListener[trio.SocketStream]) -> tuple[str, int]:
    assert isinstance(listener.transport_listener, trio.SocketListener)
    host, port, *_ = listener.transport_listener.socket.getsockname()
    return host, port


def _ignore(_stream: TLSStream[trio.SocketStream], _exc: Exception) -> None:
    """Ignore an exception: the monitor reports it."""


async def _renew_ticket_keys(context: ReloadingContext) -> None:
    while True:
        await trio.sleep(_TICKET_KEYS_LAST)
        context.reload()  # a new context has new keys


@attrs.frozen
class _Server:
    """A server that is controlled by signals."""

    _listeners: list[TLSListener[trio.SocketStream]]
    _context: ReloadingContext
    _drain: Drain
    _drain_timeout: float
    _monitor: ServerMonitor = attrs.field(factory=partial(ServerMonitor, report_event), init=False)

    async def run(
        self, handler: _Handler, max_connections: int | None, signals: AsyncIterator[int]
    ) -> None:
        """Serve until a signal ends the server."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._obey, signals, nursery)
                nursery.start_soon(_renew_ticket_keys, self._context)
                await serve_tls_listeners(
                    handler,
                    self._listeners,
                    max_connections=max_connections,
                    on_error=_ignore,
                    monitor=self._monitor,
                    drain=self._drain,
                )
                nursery.cancel_scope.cancel()
        finally:
            report_statistics(self._monitor.statistics())

    async def _obey(self, signals: AsyncIterator[int], nursery: trio.Nursery) -> None:
        async for number in signals:
            if number == _RELOAD:
                self._context.reload()
            elif self._drain.has_begun:
                raise Failure(Status.INTERRUPTED, "a second signal")  # cancels the rest
            else:
                active = count(self._monitor.statistics().active, "connection")
                limit = count(self._drain_timeout, "second")
                report(("draining", f"{active} open, for at most {limit}"))
                nursery.start_soon(self._drain.end, self._drain_timeout)


async def _serve(options: argparse.Namespace) -> Status:
    if options.cert is None and options.key is not None:
        usage_error("--key needs --cert")
    if options.client_ca is None and options.client_cert is not None:
        usage_error("--client-cert needs --client-ca")
    if options.strict_alpn and not (options.alpn or options.www):
        usage_error("--strict-alpn needs --alpn")
    drain = Drain()
    handler: _Handler = Www(drain).serve if options.www else partial(_echo, drain)
    with ExitStack() as stack:
        signals = stack.enter_context(trio.open_signal_receiver(*_SIGNALS))
        stack.enter_context(shown_log())
        equip: Equip = partial(_load, options)
        ca_file: Path | None = None
        if options.cert is None:
            equip, ca_file = stack.enter_context(throw_away_certificates(options.host))
        files = (options.cert, options.key, options.client_ca)
        context = ReloadingContext(
            partial(_make_context, options, equip),
            files=[file for file in files if file is not None],
            on_reload=report_reload,
        )
        listeners = await _listen(options, context)
        addresses = [_address_of(listener) for listener in listeners]
        if ca_file is not None:
            _report_how_to_try(options, ca_file, addresses[0][1])
        report(*(("listening", f"{host} port {port}") for host, port in addresses))
        server = _Server(listeners, context, drain, options.drain_timeout)
        await server.run(handler, options.max_connections, signals)
    return Status.OK
