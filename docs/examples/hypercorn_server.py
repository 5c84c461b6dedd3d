"""Hypercorn's Trio worker, served over TLS listeners of trio_tlsbio."""

import ssl
from typing import Any

import trio
from hypercorn.config import Config
from hypercorn.trio.lifespan import Lifespan
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState, LifespanState
from hypercorn.utils import wrap_app

import trio_tlsbio

Listeners = list[trio_tlsbio.TLSListener[trio.SocketStream]]


async def serve(
    app: Any,
    config: Config,
    listeners: Listeners,
    *,
    task_status: trio.TaskStatus[Listeners] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run an ASGI or WSGI app until the listeners are closed and the last connection has ended."""
    wrapped_app = wrap_app(app, config.wsgi_max_body_size, mode=None)
    state: LifespanState = {}
    lifespan = Lifespan(wrapped_app, config, state)
    context = WorkerContext(None)

    async def handle(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
        connection: Any = stream  # it does what hypercorn wants of a trio.SSLStream
        await TCPServer(wrapped_app, config, context, ConnectionState(state.copy()), connection)

    async with trio.open_nursery() as nursery:
        await nursery.start(lifespan.handle_lifespan)
        await lifespan.wait_for_startup()
        await trio_tlsbio.serve_tls_listeners(handle, listeners, task_status=task_status)
        await lifespan.wait_for_shutdown()
        nursery.cancel_scope.cancel()


async def main(app: Any, port: int) -> None:
    ssl_context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    ssl_context.load_cert_chain("server.pem", "server.key")
    ssl_context.set_alpn_protocols(["h2", "http/1.1"])
    listeners = await trio_tlsbio.open_tls_over_tcp_listeners(
        port, ssl_context, https_compatible=True
    )
    await serve(app, Config(), listeners)
