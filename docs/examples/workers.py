"""Several worker processes on one socket, which resume each other's sessions.

SIGHUP replaces them by new ones with a new context. SIGTERM and Ctrl-C end
them.
"""

import os
import signal
import socket
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress

import trio

import trio_tlsbio

SIGNALS = {signal.SIGHUP, signal.SIGTERM, signal.SIGINT, signal.SIGCHLD}


async def answer(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
    """Tell the client which worker it talks to, each time that it says
    something.
    """
    async for _ in stream:
        await stream.send_all(b"worker %d\n" % os.getpid())


async def work(sock: socket.socket, context: ssl.SSLContext, stop: int) -> None:
    """Serve until the pipe ends. Clients that are there then have 30 seconds
    left.
    """
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    tls_listener = trio_tlsbio.TLSListener(listener, context)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(
            trio_tlsbio.serve_tls_listeners, answer, [tls_listener]
        )
        await trio.lowlevel.wait_readable(stop)
        await tls_listener.aclose()
        nursery.cancel_scope.deadline = trio.current_time() + 30
    print(f"worker {os.getpid()} has left", flush=True)


def start_workers(
    sock: socket.socket, context: ssl.SSLContext, count: int
) -> tuple[set[int], int]:
    """Fork workers, and return their ids, and a pipe: they stop when this
    process closes it, or has gone.
    """
    reader, writer = os.pipe()
    pids = set()
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os.close(writer)  # only the parent's is left
            sys.exit(trio.run(work, sock, context, reader))
        pids.add(pid)
    os.close(reader)
    return pids, writer


def ended() -> Iterator[int]:
    """Yield the ids of the processes that have ended."""
    with suppress(ChildProcessError):  # there is none at all
        while pid := os.waitpid(-1, os.WNOHANG)[0]:
            yield pid


def serve(
    sock: socket.socket,
    make_context: Callable[[], ssl.SSLContext],
    count: int = 4,
) -> None:
    """Run workers until a signal ends them, or one of them fails."""
    # Some systems would not keep it otherwise.
    signal.signal(signal.SIGCHLD, lambda *_: None)
    # They are kept for sigwait().
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    pids, stop = start_workers(sock, make_context(), count)
    while (received := signal.sigwait(SIGNALS)) not in {
        signal.SIGTERM,
        signal.SIGINT,
    }:
        if received == signal.SIGCHLD:
            if pids.intersection(ended()):
                # The others leave, as this one has gone.
                raise RuntimeError("a worker has failed")
            continue
        try:
            context = make_context()
        except OSError as exc:
            print(f"the workers stay: {exc}", flush=True)
            continue
        os.close(stop)
        pids, stop = start_workers(sock, context, count)
    os.close(stop)
    sock.close()  # so that clients who come now are refused, and don't wait
    with suppress(ChildProcessError):
        while True:
            os.wait()


def make_context() -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    return context


if __name__ == "__main__":
    serve(socket.create_server(("", 4433)), make_context)
