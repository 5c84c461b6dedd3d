"""Several worker processes on one socket, which resume each other's sessions."""

import os
import signal
import socket
import ssl

import trio

import trio_tlsbio


async def answer(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
    """Tell the client which worker it talks to, each time that it says something."""
    try:
        async with stream:
            with trio.fail_after(15):
                await stream.do_handshake()
            async for _ in stream:
                await stream.send_all(b"worker %d\n" % os.getpid())
    except (trio_tlsbio.TLSError, trio.TooSlowError) as exc:
        print(f"lost a client: {exc}")


async def work(sock: socket.socket, ssl_context: ssl.SSLContext, parent: int) -> None:
    """Serve until the parent process has gone, which ends the pipe."""
    listener = trio.SocketListener(trio.socket.from_stdlib_socket(sock))
    async with trio.open_nursery() as nursery:
        tls_listener = trio_tlsbio.TLSListener(listener, ssl_context)
        nursery.start_soon(trio.serve_listeners, answer, [tls_listener])
        await trio.lowlevel.wait_readable(parent)
        nursery.cancel_scope.cancel()


def serve(sock: socket.socket, ssl_context: ssl.SSLContext, workers: int = 4) -> None:
    """Run the workers, all of them until one ends.

    The context was made before they are forked: it holds the keys of the session tickets.
    """
    reader, writer = os.pipe()
    for _ in range(workers):
        if os.fork() == 0:
            os.close(writer)  # only the parent's is left
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
            trio.run(work, sock, ssl_context, reader)
            return
    os.wait()


if __name__ == "__main__":
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    serve(socket.create_server(("", 4433)), context)
