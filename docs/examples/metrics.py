"""What a server does, in numbers: a file in the text format that Prometheus
reads.
"""

import ssl
from collections import Counter
from pathlib import Path

import trio

import trio_tlsbio
from trio_tlsbio.monitoring import (
    HandshakeCompleted,
    ServerEvent,
    ServerMonitor,
)


class Metrics:
    """What the monitor counts, and one count of its own: the handshakes of each
    TLS version.
    """

    def __init__(self) -> None:
        self.monitor = ServerMonitor(on_event=self.on_event)
        self.versions = Counter[str]()

    def on_event(self, event: ServerEvent) -> None:
        match event:
            case HandshakeCompleted(handshake=handshake):
                self.versions[handshake.version] += 1

    def text(self) -> str:
        now = self.monitor.statistics()
        lines = [
            f"tls_connections_total {now.accepted}",
            f"tls_connections_active {now.active}",
            f"tls_handshakes_resumed_total {now.resumed}",
            f"tls_handshake_seconds_sum {now.handshake_seconds}",
            f"tls_handshake_seconds_count {now.established}",
        ]
        for name, label, counts in (
            ("tls_handshakes_total", "version", self.versions),
            ("tls_handshakes_failed_total", "error_type", now.failed),
            ("tls_connections_broken_total", "error_type", now.broken),
        ):
            lines += [
                f'{name}{{{label}="{key}"}} {count}'
                for key, count in counts.items()
            ]
        return "\n".join(lines) + "\n"

    def write(self, path: Path) -> None:
        new = path.with_suffix(".new")
        new.write_text(self.text(), encoding="utf-8")
        new.replace(path)  # so nobody reads half of it


async def echo(stream: trio_tlsbio.TLSStream[trio.SocketStream]) -> None:
    async for chunk in stream:
        await stream.send_all(chunk)


async def write_often(metrics: Metrics, path: Path) -> None:
    while True:
        metrics.write(path)
        await trio.sleep(15)


async def serve(
    listeners: list[trio_tlsbio.TLSListener[trio.SocketStream]],
    metrics: Metrics,
    path: Path,
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(write_often, metrics, path)
        await trio_tlsbio.serve_tls_listeners(
            echo, listeners, monitor=metrics.monitor
        )
        nursery.cancel_scope.cancel()


async def main() -> None:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain("server.pem", "server.key")
    listeners = await trio_tlsbio.open_tls_over_tcp_listeners(4433, context)
    await serve(listeners, Metrics(), Path("tls-server.prom"))


if __name__ == "__main__":
    trio.run(main)
