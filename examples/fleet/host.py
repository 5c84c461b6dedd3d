"""One host of a fleet: worker processes that share a socket, certificates and
ticket keys.

    python host.py host1 0.0.0.0 8443 --proxy 198.51.100.1 --ticket-keys tickets.key www.example.pem

SIGTERM drains it: idle clients are let go, and the others have 30 seconds left.
"""

import argparse
import logging
import os
import signal
import socket
import ssl
import sys
from contextlib import suppress
from functools import partial
from pathlib import Path

import trio

from trio_tlsbio import (
    Drain,
    ReloadingContext,
    TLSListener,
    TLSStream,
    TrustedProxies,
    contexts_by_name,
    serve_tls_listeners,
)

# In seconds: shorter than HAProxy's, which would cut the connection.
IDLE_TIMEOUT = 300
DRAIN_TIMEOUT = 30

logger = logging.getLogger("host")


def make_context(pem: Path) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(pem)
    return context


async def answer(
    name: str, drain: Drain, stream: TLSStream[trio.SocketStream]
) -> None:
    """Answer each line with the line, this host's name, and the client's
    address.
    """
    assert isinstance(stream.client_address, tuple)
    client = "{}:{}".format(*stream.client_address)
    logger.info(
        "%s has connected, %s",
        client,
        "resumed" if stream.session_reused else "anew",
    )
    rest = b""
    while True:
        # Between two lines the client is idle. Once a line has begun, its rest
        # is awaited.
        receive = (
            stream.receive_some if rest else partial(drain.receive_some, stream)
        )
        chunk = b""
        with trio.move_on_after(IDLE_TIMEOUT):
            chunk = bytes(await receive())
        if not chunk:
            return
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            await stream.send_all(line + f" {name} {client}\n".encode())


async def work(
    name: str, listener: TLSListener[trio.SocketStream], stop: int
) -> None:
    """Serve until the pipe ends."""
    drain = Drain()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            serve_tls_listeners, partial(answer, name, drain), [listener]
        )
        await trio.lowlevel.wait_readable(stop)
        await listener.aclose()
        drain.begin()
        nursery.cancel_scope.deadline = trio.current_time() + DRAIN_TIMEOUT


def make_listener(
    sock: socket.socket, pems: list[Path], ticket_keys: Path | None, proxy: str
) -> TLSListener[trio.SocketStream]:
    """Listen for several names, each with a certificate of its own."""
    contexts = {
        pem.stem: ReloadingContext(
            partial(make_context, pem), files=[pem], ticket_keys=ticket_keys
        )
        for pem in pems
    }
    return TLSListener(
        trio.SocketListener(trio.socket.from_stdlib_socket(sock)),
        contexts_by_name(contexts, default=contexts[pems[0].stem]),
        proxy_protocol=TrustedProxies([proxy]),
    )


def serve(options: argparse.Namespace) -> bool:
    """Run workers until a signal ends them, or one of them ends. Return whether
    one did.
    """
    signals = {signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}
    # Some systems would not keep it otherwise.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # They are kept for sigwait().
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    sock = socket.create_server((options.address, options.port), backlog=1024)
    # Made before the workers, so that all have the same keys of session
    # tickets. With a file of keys they also do after a reload, and so do all
    # other hosts that have the file.
    listener = make_listener(
        sock, options.pem, options.ticket_keys, options.proxy
    )
    stop, writer = os.pipe()
    for _ in range(options.workers):
        if os.fork() == 0:
            # So that the pipe ends when the parent closes it, or dies.
            os.close(writer)
            trio.run(work, options.name, listener, stop)
            sys.exit()
    logger.info("%s is ready", options.name)
    has_failed = False
    while not has_failed and signal.sigwait(signals) == signal.SIGCHLD:
        # (0, 0): one was only stopped.
        has_failed = os.waitpid(-1, os.WNOHANG) != (0, 0)
    os.close(writer)
    sock.close()  # so that clients who come now are refused, and don't wait
    with suppress(ChildProcessError):
        while True:
            os.wait()
    return has_failed


def main() -> None:
    parser = argparse.ArgumentParser(description="One host of a fleet.")
    parser.add_argument("name", help="what it calls itself in its answers")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument(
        "pem",
        type=Path,
        nargs="+",
        help="NAME.pem: certificate and key of a name",
    )
    parser.add_argument(
        "--proxy", required=True, help="the address that HAProxy connects from"
    )
    parser.add_argument(
        "--ticket-keys",
        type=Path,
        help="80 random bytes, the same on all hosts",
    )
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--log-level", default="INFO")
    options = parser.parse_args()
    logging.basicConfig(
        level=options.log_level,
        format="%(process)d %(levelname)s %(name)s: %(message)s",
    )
    sys.exit(serve(options))


if __name__ == "__main__":
    main()
