"""``connect``: a client for inspecting TLS servers."""

from __future__ import annotations

import argparse
import os
import ssl
import stat
import sys

import trio

from trio_tlsbio import SessionCache, TLSError
from trio_tlsbio._net.default_context import make_default_context

from ._converse import Conversation
from ._facts import Closed, Ending, Problem, Remark, Summary, Target
from ._identity import load_files
from ._json import document
from ._options import (
    Commands,
    add_command,
    add_version_options,
    address,
    duration,
    existing_file,
    host_name,
    positive_number,
    positive_seconds,
    protocol_list,
    unusable,
    usage_error,
)
from ._proxy import VERSIONS
from ._reports import ChainFile, Lifetime, Log, Report, report_to
from ._starttls import PORTS
from ._status import Status, leaves, status_of, what_counts
from ._views import view_for
from ._visit import Plan, open_stream, visit
from ._words import Stopwatch, say

__all__ = ["add_parser"]


################################################################
# The command line
################################################################


def add_parser(commands: Commands) -> None:
    """Add the command to the command line."""
    parser = add_command(
        commands,
        "connect",
        _connect,
        summary="connect to a server, and show the result of the handshake",
        description="Connect to a TLS server. Information about the connection is written to "
        "standard error.\n"
        "Standard input is sent to the server, and the server's data is written to standard "
        "output.\n"
        "With --json or --reconnect, no data is sent, and the server's data is discarded.",
        notes="At the end of standard input, the command sends a close_notify and waits for the "
        "server to\n"
        "end too.\n\n",
    )
    parser.add_argument(
        "address",
        metavar="HOST[:PORT]",
        type=address,
        help="a name or an IP address, and a port (default: 443, or that of --starttls): "
        "[::1]:443 for IPv6; https://HOST[:PORT] means the same",
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
        help="trust the certificates in this PEM file instead of the system's",
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
        help="its private key (PEM), if it is in another file",
    )
    parser.add_argument(
        "--alpn",
        metavar="PROTO[,PROTO]",
        type=protocol_list,
        help="the application protocols to offer, best first: h2,http/1.1",
    )
    add_version_options(parser)
    parser.add_argument(
        "--starttls",
        metavar="PROTOCOL",
        choices=tuple(PORTS),
        help=f"first ask for TLS in plaintext, with one of these protocols: {', '.join(PORTS)}",
    )
    parser.add_argument(
        "--proxy-header",
        choices=VERSIONS,
        help="begin with a header of the PROXY protocol, with this connection's own addresses: for "
        "servers that are otherwise reached through a load balancer",
    )
    parser.add_argument(
        "--timeline",
        action="store_true",
        help="show the records of the handshake, with their times and sizes",
    )
    parser.add_argument(
        "--reconnect",
        metavar="N",
        type=positive_number,
        help="make N connections, one after the other, resume the session, and print how "
        "long each took; nothing is sent, and data from the server is discarded",
    )
    parser.add_argument(
        "--json",
        action="store_true",
        help="write the result, or the reason for a failure, as a single JSON document to standard "
        "output; standard input is not read, and the server's data is discarded",
    )
    parser.add_argument(
        "--save-chain",
        metavar="FILE",
        help="write the certificates that the server presents to FILE (PEM), its own first, even "
        "if they are refused",
    )
    parser.add_argument(
        "--expires-within",
        metavar="TIME",
        type=duration,
        help="exit with status 9 if the certificate, or one of its issuers, expires within TIME, "
        "such as 14d, 12h or 30m",
    )
    parser.add_argument(
        "--keylog",
        metavar="FILE",
        help="append the keys of each connection to FILE (SSLKEYLOGFILE format), which allows "
        "anyone who has it to decrypt recorded traffic",
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=positive_seconds,
        default=10.0,
        help="the time limit for connection, STARTTLS and handshake together (default: 10)",
    )
    parser.add_argument(
        "--https-compatible",
        action="store_true",
        help="neither send nor expect a close_notify, as is common in HTTP: at the end of "
        "standard input, nothing is sent",
    )


################################################################
# Applying the options
################################################################


def _context_for(options: argparse.Namespace) -> ssl.SSLContext:
    """Create the context from the options."""
    try:
        context = make_default_context(cafile=options.cafile)
    except OSError as exc:
        unusable("--cafile", options.cafile, "certificate", exc)
    if options.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.cert is not None:
        load_files(context, options.cert, options.key)
    elif options.key is not None:
        usage_error("--key needs --cert")
    if options.alpn:
        context.set_alpn_protocols(options.alpn)
    if options.version is not None:
        context.minimum_version = context.maximum_version = options.version
    if options.keylog is not None:
        context.keylog_filename = _private_file("--keylog", options.keylog)
    return context


def _private_file(option: str, path: str) -> str:
    """Create a file that only its owner can access, if it is missing. Refuse one that others can
    access.
    """
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    except OSError as exc:
        usage_error(f"{option} {path}: {exc.strerror}")
    try:
        mode = os.fstat(descriptor).st_mode
    finally:
        os.close(descriptor)
    if sys.platform != "win32" and stat.S_ISREG(mode) and mode & 0o077:
        usage_error(f"{option} {path}: others can read this file: run chmod 600 on it first")
    return path


def _warnings(options: argparse.Namespace) -> list[str]:
    warnings: list[str] = []
    if options.insecure:
        warnings.append("--insecure: the server is not verified, and may be an impostor")
    if options.keylog is not None:
        warnings.append(
            f"--keylog: with {options.keylog}, the traffic of this connection can be read"
        )
    return warnings


################################################################
# The command
################################################################


def _target(options: argparse.Namespace) -> Target:
    host, port = options.address
    return Target(
        host=host,
        port=port or PORTS.get(options.starttls, 443),
        server_name=options.servername or host,
        starttls=options.starttls,
    )


def _plan(options: argparse.Namespace, target: Target) -> Plan:
    return Plan(
        target=target,
        context=_context_for(options),
        timeout=options.timeout,
        https_compatible=options.https_compatible,
        is_recorded=options.timeline,
        proxy_header=options.proxy_header,
        sessions=SessionCache(),
    )


async def _connect(options: argparse.Namespace) -> Status:
    """Connect to a server, and report the result."""
    target = _target(options)
    if options.json:
        return await _document(options, target)
    view, lifetime = view_for(), Lifetime(options.expires_within)
    report = report_to(view.show, ChainFile(options.save_chain).write, lifetime.note)
    plan = _plan(options, target)
    for words in _warnings(options):
        view.show(Remark("warning", words))
    if options.reconnect is not None:
        log = Log()
        for number in range(1, options.reconnect + 1):
            # Only the first connection is shown in full; each of them gets a row.
            further = report if number == 1 else lifetime.note
            await visit(plan, report_to(log.add, further))
            view.show_visit(number, log.visits[-1])
        view.show_summary(Summary.of(log.visits))
    else:
        await _converse(plan, report)
    lifetime.check()
    return Status.OK


async def _document(options: argparse.Namespace, target: Target) -> Status:
    """Write all results at the end, including errors, as one document."""
    log, problem, status = Log(), None, Status.OK
    lifetime = Lifetime(options.expires_within)
    report = report_to(log.add, ChainFile(options.save_chain).write, lifetime.note)
    try:
        plan = _plan(options, target)
        for words in _warnings(options):
            say(f"warning: {words}")
        for _ in range(options.reconnect or 1):
            await visit(plan, report)
        lifetime.check()
    except BaseException as exc:
        error = what_counts(exc)
        failure = status_of(error)
        if failure in (None, Status.INTERRUPTED, Status.OUTPUT_CLOSED):
            raise
        status = failure
        problem = Problem.of(error, status)
    summary = Summary.of(log.visits) if options.reconnect and problem is None else None
    print(document(target, log.visits, summary, problem))
    return status


async def _converse(plan: Plan, report: Report) -> None:
    """Pass data between the server and standard input and output."""
    stream = await open_stream(plan, report)
    watch = Stopwatch()
    conversation = Conversation(stream, half_close=not plan.https_compatible)
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(conversation.send_input)
            nursery.start_soon(conversation.receive_output)
        await stream.aclose()
    except BaseException as exc:
        # On PyPy, an "except*" replaces the KeyboardInterrupt in a group with an AssertionError.
        if any(isinstance(leaf, TLSError) for leaf in leaves(exc)):
            report(Ending.of(stream, conversation.received))
        # The alert was already sent, and a server that failed must not delay the end.
        await trio.aclose_forcefully(stream)
        raise
    report(Ending.of(stream, conversation.received))
    if conversation.send_error is not None:
        words = f"the server did not take all of the input: {conversation.send_error}"
        report(Remark("note", words))
    report(Closed(watch.seconds()))
