"""Hypercorn's Trio worker, served over TLS listeners of trio_tlsbio."""

import signal
import ssl
from functools import partial
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import wrap_app

import trio_tlsbio
from trio_tlsbio.asgi import tls_extension

Stream = trio_tlsbio.TLSStream[trio.SocketStream]
Listeners = list[trio_tlsbio.TLSListener[trio.SocketStream]]


class Connection(TCPServer):
    """A connection that also ends if it is idle while the server drains.

    Hypercorn's own event for that, ``terminated``, would cut off HTTP/2
    answers that are completed during the drain.
    """

    def __init__(self, drain: trio_tlsbio.Drain, *args: Any) -> None:
        super().__init__(*args)
        self.drain = drain

    async def _idle_timeout(self) -> None:
        with trio.move_on_after(self.config.keep_alive_timeout):
            await self.drain.wait_should_end(self.stream)
            # HTTP/2 may still be sending the end of the last answer.
            await trio.sleep(0.1)
        # An idle client may not notice the end: wait only a second for it to
        # close too.
        with trio.move_on_after(1, shield=True):
            await self._initiate_server_close()


class WithTLS:
    """Adds what is known about one connection to the app's scope:
    ``scope["extensions"]["tls"]`` identifies the client.
    """

    def __init__(self, app: Any, stream: Stream) -> None:
        self.app = app
        self.tls = tls_extension(stream.handshake)

    async def __call__(self, scope: Any, *args: Any) -> None:
        scope.setdefault("extensions", {})["tls"] = self.tls
        await self.app(scope, *args)


async def serve(
    app: Any,
    config: Config,
    listeners: Listeners,
    *,
    drain: trio_tlsbio.Drain | None = None,
    task_status: trio.TaskStatus[Listeners] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run an ASGI or WSGI app until ``drain.end()`` has ended it, with its
    lifespan.
    """
    drain = trio_tlsbio.Drain() if drain is None else drain
    wrapped_app = wrap_app(app, config.wsgi_max_body_size, mode=None)
    state: LifespanState = {}
    lifespan = Lifespan(wrapped_app, config, state)
    context = WorkerContext(None)

    async def handle(stream: Stream) -> None:
        # It has every method of trio.SSLStream that Hypercorn uses.
        connection: Any = stream
        with_tls: Any = WithTLS(wrapped_app, stream)
        await Connection(
            drain,
            with_tls,
            config,
            context,
            ConnectionState(state.copy()),
            connection,
        )

    async with trio.open_nursery() as nursery:
        await nursery.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        task_status.started(listeners)
        await trio_tlsbio.serve_tls_listeners(handle, listeners, drain=drain)
        await lifespan.wait_for_shutdown()
        nursery.cancel_scope.cancel()


async def main(app: Any, port: int) -> None:
    ssl_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ssl_context.load_cert_chain("server.pem", "server.key")
    ssl_context.set_alpn_protocols(["h2", "http/1.1"])
    listeners = await trio_tlsbio.open_tls_over_tcp_listeners(port, ssl_context)
    config, drain = Config(), trio_tlsbio.Drain()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(serve, app, config, listeners, drain=drain))
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            await anext(signals)
        # Requests that are in progress have some seconds left.
        await drain.end(config.graceful_timeout)
