"""A server, its clients, and certificates that last seconds and are renewed all the time."""

from __future__ import annotations

import gc
import os
import re
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import trio
import trustme

from tests.certificates import CLIENT, SERVER, Certificate, Issued
from tests.helpers import HOST, VERSIONS, client_context_for, echo, port_of
from trio_tlsbio import ReloadingContext, SessionCache, TLSConnector, serve_tls_over_tcp
from trio_tlsbio.monitoring import ServerMonitor
from trio_tlsbio.ticket_keys import TicketKeys

# In seconds. A certificate is replaced long before it ends, and a lineage ends in between.
_LIFETIME = 20.0
_RENEWALS = {"server": 0.5, "client": 4.0}
_LINEAGE = 2.0

_SAMPLES = 20
# What a run may grow by after its first quarter, when caches are full.
_MOST_GROWTH = 1.15
_MOST_DESCRIPTORS = 16


@attrs.frozen
class Sample:
    """What the process takes at a moment."""

    connections: int
    seconds: float
    memory: int
    """The resident set, in bytes."""
    descriptors: int
    threads: int
    sessions: int
    """Those in the clients' caches."""


@attrs.frozen
class _Identity:
    """The files of one side: they change by one rename of a link."""

    directory: Path
    issuer: Issued
    description: Certificate

    @property
    def files(self) -> list[Path]:
        return [self.directory / "current" / name for name in ("tls.crt", "tls.key")]

    def renew(self) -> None:
        certificate = attrs.evolve(self.description, key=Certificate().key)
        issued = certificate.signed_by(self.issuer)
        link = self.directory / "current"
        old = link.resolve() if link.exists() else None
        content = self.directory / str(time.monotonic_ns())
        content.mkdir(parents=True)
        (content / "tls.crt").write_bytes(issued.pem)
        (content / "tls.key").write_bytes(issued.key_pem)
        new = self.directory / "new"
        new.symlink_to(content.name)
        new.replace(link)
        if old is not None:
            for file in old.iterdir():
                file.unlink()
            old.rmdir()

    def load_into(self, context: ssl.SSLContext) -> ssl.SSLContext:
        certificate, key = self.files
        context.load_cert_chain(certificate, key)
        return context


@attrs.define(eq=False)
class Load:
    """So many connections, each of which makes three requests."""

    _directory: Path
    _connections: int
    _at_once: int
    _show: Callable[[Sample], object] = attrs.field(kw_only=True, default=lambda _: None)
    _ca: trustme.CA = attrs.field(factory=trustme.CA, init=False)
    _begun: int = attrs.field(default=0, init=False)
    _counts: Counter[str] = attrs.field(factory=Counter, init=False)
    _errors: list[str] = attrs.field(factory=list, init=False)
    _samples: list[Sample] = attrs.field(factory=list, init=False)
    _connectors: list[TLSConnector] = attrs.field(factory=list, init=False)
    _reloading: dict[str, ReloadingContext] = attrs.field(factory=dict, init=False)
    _monitor: ServerMonitor = attrs.field(factory=ServerMonitor, init=False)
    _begin: float = attrs.field(factory=time.monotonic, init=False)

    async def run(self, seconds: float) -> None:
        issuer, day = Issued.of(self._ca), 24 * 3600
        days = (-1, _LIFETIME / day)
        server = _Identity(
            self._directory / "server",
            issuer,
            Certificate(names=[HOST], days=days, purposes=[SERVER]),
        )
        client = _Identity(
            self._directory / "client",
            issuer,
            Certificate(names=["client.example"], days=days, purposes=[CLIENT]),
        )
        for identity in (server, client):
            identity.renew()
        self._reloading["server"] = ReloadingContext(
            partial(self._server_context, server), files=server.files, **self._ticket_keys()
        )
        for name, version in VERSIONS.items():
            self._reloading[name] = current = ReloadingContext(
                partial(self._client_context, client, version), files=client.files
            )
            cache = SessionCache(max_lineage=_LINEAGE)
            self._connectors.append(TLSConnector(ssl_context=current, session_cache=cache))
        with trio.move_on_after(seconds):
            async with trio.open_nursery() as nursery:
                for identity in (server, client):
                    nursery.start_soon(self._renew_often, identity)
                serve = partial(serve_tls_over_tcp, echo, 0, host=HOST, monitor=self._monitor)
                port = port_of(
                    await nursery.start(partial(serve, ssl_context=self._reloading["server"]))
                )
                async with trio.open_nursery() as clients:
                    for number in range(self._at_once):
                        connector = self._connectors[number % len(self._connectors)]
                        clients.start_soon(self._client, connector, port)
                nursery.cancel_scope.cancel()
        self._sample()

    def _server_context(self, identity: _Identity) -> ssl.SSLContext:
        context = identity.load_into(ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))
        self._ca.configure_trust(context)
        context.verify_mode = ssl.CERT_REQUIRED
        return context

    def _client_context(self, identity: _Identity, version: ssl.TLSVersion) -> ssl.SSLContext:
        return identity.load_into(client_context_for(self._ca, version))

    def _ticket_keys(self) -> dict[str, Any]:
        """Without them each renewal of the server's certificate would end all lineages."""
        if not TicketKeys.is_available():
            return {}
        path = self._directory / "tickets.key"
        path.touch(mode=0o600)
        path.write_bytes(os.urandom(80))
        return {"ticket_keys": path}

    async def _renew_often(self, identity: _Identity) -> None:
        while True:
            await trio.sleep(_RENEWALS[identity.directory.name])
            identity.renew()
            self._counts["renewals"] += 1

    async def _client(self, connector: TLSConnector, port: int) -> None:
        while self._begun < self._connections:
            self._begun += 1
            if self._begun % max(1, self._connections // _SAMPLES) == 0:
                self._sample()
            try:
                async with await connector.connect(HOST, port) as stream:
                    for size in (1, 1000, 20_000):
                        await stream.send_all(bytes(size))
                        while size:
                            data = await stream.receive_some()
                            assert data, "the server has closed the connection"
                            size -= len(data)
                        self._counts["requests"] += 1
                    self._counts["resumed"] += stream.handshake.session_reused
            except Exception as exc:
                self._errors.append(f"{type(exc).__name__}: {exc}")
            self._counts["connections"] += 1

    def _sample(self) -> None:
        gc.collect()
        status = Path("/proc/self/status").read_text(encoding="ascii")
        resident = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert resident is not None
        sample = Sample(
            self._counts["connections"],
            time.monotonic() - self._begin,
            int(resident[1]) * 1024,
            len(list(Path("/proc/self/fd").iterdir())),
            threading.active_count(),
            sum(len(connector.session_cache) for connector in self._connectors),
        )
        self._samples.append(sample)
        self._show(sample)

    def counts(self) -> Counter[str]:
        """All counters: the clients', the server's, the caches' and those of the contexts."""
        counts = Counter(self._counts)
        counts["errors"] = len(self._errors)
        statistics = self._monitor.statistics()
        for name in ("accepted", "active", "established", "resumed", "cancelled"):
            counts[f"server.{name}"] = getattr(statistics, name)
        for kind in ("failed", "broken"):
            for name, count in getattr(statistics, kind).items():
                counts[f"server.{kind}.{name}"] = count
        for connector in self._connectors:
            of_cache = attrs.asdict(connector.session_cache.statistics())
            counts.update({f"cache.{name}": count for name, count in of_cache.items()})
        for name, current in self._reloading.items():
            counts[f"context.{name}.reloads"] = current.statistics().reloads
            counts[f"context.{name}.failures"] = current.statistics().failures
        return counts

    def problems(self) -> list[str]:
        """What is wrong: requests that failed, and whatever grows without end."""
        problems = [f"{count} x {error}" for error, count in Counter(self._errors).items()]
        samples = self._samples
        settled = samples[len(samples) // 4 :]
        if len(samples) > _SAMPLES // 2:
            growth = settled[-1].memory / settled[0].memory
            if growth > _MOST_GROWTH:
                problems.append(f"memory has grown by {growth - 1:.0%} since the first quarter")
        # At the end no connection is open: only listeners and the loop's own were there before.
        if samples[-1].descriptors > _MOST_DESCRIPTORS:
            problems.append(f"{samples[-1].descriptors} descriptors are open at the end")
        statistics = self._monitor.statistics()
        if statistics.active or statistics.failed or statistics.broken:
            problems.append(f"the server: {statistics}")
        return problems
