"""Clients of a fleet that come back again and again, and count.

python clients.py fleet.example 443 --ca ca.pem --requests 300
"""

import argparse
import ssl
from collections import Counter
from functools import partial

import attrs
import trio

from trio_tlsbio import TLSConnector, TLSError, TLSStream


@attrs.define
class Counts:
    """What has happened to all clients together."""

    asked: int = 0
    answered: Counter[str] = attrs.field(factory=Counter[str])  # by host
    retried: int = 0
    connections: int = 0
    resumed: int = 0

    def __str__(self) -> str:
        hosts = ", ".join(
            f"{count} by {host}"
            for host, count in sorted(self.answered.items())
        )
        return (
            f"{self.asked} requests: {self.answered.total()} answered ({hosts}), "
            f"{self.retried} retried\n"
            f"{self.connections} connections: {self.resumed} resumed"
        )


async def ask(
    stream: TLSStream[trio.SocketStream], question: str
) -> str | None:
    """Return which host has answered; None if the connection ends before the
    answer.
    """
    answer = b""
    try:
        await stream.send_all(f"{question}\n".encode())
        while not answer.endswith(b"\n"):
            chunk = await stream.receive_some()
            if not chunk:
                return None
            answer += chunk
    except TLSError:
        return None
    their_question, host, _client = answer.decode().split()
    assert their_question == question
    return host


async def request(
    connector: TLSConnector,
    address: str,
    port: int,
    counts: Counts,
    *,
    requests: int,
    per_connection: int = 1,
) -> None:
    """Get answers to so many requests, over as many connections as it takes."""
    answered = 0
    async for stream in connector.reconnect(
        address, port, initial_delay=0.01, max_delay=1
    ):
        async with stream:
            counts.connections += 1
            counts.resumed += stream.session_reused
            for number in range(
                answered, min(answered + per_connection, requests)
            ):
                # Asking twice does no harm here. Where it does, the request
                # needs an id, by which the hosts recognise one that they have
                # answered.
                host = await ask(stream, f"request-{number}")
                if host is None:
                    counts.retried += 1
                    break
                counts.answered[host] += 1
                answered += 1
        if answered == requests:
            break
    counts.asked += requests


async def main() -> None:
    parser = argparse.ArgumentParser(description="Clients of a fleet.")
    parser.add_argument("address")
    parser.add_argument("port", type=int)
    parser.add_argument(
        "--ca", help="the authority to trust; by default those of the system"
    )
    parser.add_argument(
        "--requests", type=int, default=300, help="of each client"
    )
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument(
        "--per-connection", type=int, default=1, help="requests of a connection"
    )
    options = parser.parse_args()
    # One for all: it keeps the sessions.
    connector = TLSConnector(
        ssl_context=ssl.create_default_context(cafile=options.ca)
    )
    counts = Counts()
    async with trio.open_nursery() as nursery:
        for _ in range(options.clients):
            nursery.start_soon(
                partial(
                    request,
                    connector,
                    options.address,
                    options.port,
                    counts,
                    requests=options.requests,
                    per_connection=options.per_connection,
                )
            )
    print(counts)


if __name__ == "__main__":
    trio.run(main)
