"""How much memory a connection keeps, and how large sends go, as the system sees it.

OpenSSL's buffers are invisible to Python, so the resident set size of a fresh process is looked at.
"""

from __future__ import annotations

import json
import ssl
import subprocess
import sys
from pathlib import Path

import pytest

from tests.helpers import NAME, ROOT, VERSIONS, shake_hands
from trio_tlsbio import TLSConnection
from trio_tlsbio._core.native_session import LOOKS_ARE_CHEAP
from trio_tlsbio._core.openssl_errors import IS_PYPY

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="memory is measured as Linux tells it"
)

measures_process = pytest.mark.where(
    not IS_PYPY, "PyPy takes many megabytes before its garbage collector and JIT have settled"
)

KIB = 1024
MIB = 1024 * KIB

COMMON = """
import gc, json, re, ssl, sys
from pathlib import Path
import trio, trustme
from trio_tlsbio import TLSConnection, TLSStream
from tests.helpers import (
    NAME, both_handshakes, client_context_for, server_context_for, shake_hands, tcp_pair,
    wrap_pair,
)
from trio_tlsbio.testing import transfer

ca = trustme.CA()
contexts = client_context_for(ca), server_context_for(ca.issue_cert(NAME))

def status(name):
    gc.collect()
    text = Path("/proc/self/status").read_text()
    return int(re.search(name + r":\\s+(\\d+) kB", text)[1]) * 1024

def forget_peak():
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")  # see proc(5)
"""

# What PAIRS connections keep after 256 KiB in each direction, beside what they had before. Some
# pairs go first, so that what the program itself grows by is there already.
KEPT_BY_CORES = (
    COMMON
    + """
PAIRS = int(sys.argv[1])
data = bytes(256 * 1024)

def exchange(client, server):
    for sender, receiver in ((client, server), (server, client)):
        sender.send(data)
        transfer(sender, receiver)
        received = 0
        while part := receiver.receive():
            received += len(part)
        assert received == len(data)

def make(count):
    pairs = []
    for _ in range(count):
        pair = (
            TLSConnection(contexts[0], server_hostname=NAME),
            TLSConnection(contexts[1], server_side=True),
        )
        shake_hands(*pair)
        pairs.append(pair)
    return pairs

for pair in make(20):
    exchange(*pair)
start = status("VmRSS")
pairs = make(PAIRS)
before = status("VmRSS")
for pair in pairs:
    exchange(*pair)
after = status("VmRSS")
print(json.dumps({"idle": (before - start) / PAIRS / 2, "kept": (after - before) / PAIRS / 2}))
"""
)

KEPT_BY_STREAMS = (
    COMMON
    + """
from contextlib import AsyncExitStack

PAIRS = int(sys.argv[1])
data = bytes(256 * 1024)

async def receive(stream):
    received = 0
    while received < len(data):
        received += len(await stream.receive_some())

async def exchange(client, server):
    for sender, receiver in ((client, server), (server, client)):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(sender.send_all, data)
            nursery.start_soon(receive, receiver)

async def make(stack, count):
    pairs = []
    for _ in range(count):
        transports = await stack.enter_async_context(tcp_pair())
        pairs.append(wrap_pair(*transports, *contexts))
        await both_handshakes(*pairs[-1])
    return pairs

async def main():
    async with AsyncExitStack() as stack:
        for pair in await make(stack, 20):
            await exchange(*pair)
        start = status("VmRSS")
        pairs = await make(stack, PAIRS)
        before = status("VmRSS")
        for pair in pairs:
            await exchange(*pair)
        after = status("VmRSS")
    print(json.dumps({"idle": (before - start) / PAIRS / 2, "kept": (after - before) / PAIRS / 2}))

trio.run(main)
"""
)

LARGE_SEND = (
    COMMON
    + """
COUNT = int(sys.argv[1])

async def main():
    data = b"x" * COUNT  # resident, unlike zeros
    async with tcp_pair() as transports:
        client, server = wrap_pair(*transports, *contexts)
        await both_handshakes(client, server)
        received, gaps = 0, []

        async def receive():
            nonlocal received
            while received < COUNT:
                received += len(await server.receive_some())

        async def tick():
            last = trio.current_time()
            while True:
                await trio.lowlevel.checkpoint()
                now = trio.current_time()
                gaps.append(now - last)
                last = now

        async with trio.open_nursery() as watch:
            watch.start_soon(tick)
            forget_peak()
            before = status("VmRSS")
            start = trio.current_time()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(receive)
                nursery.start_soon(client.send_all, data)
            seconds = trio.current_time() - start
            peak = status("VmHWM")
            watch.cancel_scope.cancel()
    print(json.dumps(
        {"growth": peak - before, "gap": max(gaps), "ticks": len(gaps), "seconds": seconds}
    ))

trio.run(main)
"""
)

# What connections of a client that resumes leave behind, beside the first ones.
CONNECTOR = (
    COMMON
    + """
from functools import partial
from trio_tlsbio import TLSConnector, serve_tls_over_tcp

COUNT, VERSION = int(sys.argv[1]), ssl.TLSVersion(int(sys.argv[2]))
WARM_UP = 200
for context in contexts:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.maximum_version = context.minimum_version = VERSION
contexts[0].check_hostname = False

async def echo(stream):
    async for data in stream:
        await stream.send_all(data)

async def main():
    connector, resumed = TLSConnector(ssl_context=contexts[0]), 0
    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(
            partial(serve_tls_over_tcp, echo, 0, contexts[1], host="127.0.0.1")
        )
        port = listener.transport_listener.socket.getsockname()[1]
        for number in range(WARM_UP + COUNT):
            if number == WARM_UP:
                before = status("VmRSS")
            async with await connector.connect("127.0.0.1", port) as stream:
                await stream.send_all(b"ping")
                assert await stream.receive_some() == b"ping"
                resumed += stream.session_reused
        after = status("VmRSS")
        nursery.cancel_scope.cancel()
    print(json.dumps({"growth": after - before, "resumed": resumed}))

trio.run(main)
"""
)

# What data leaves behind on a server that awaits a certificate which does not come.
AWAITS_A_CERTIFICATE = (
    COMMON
    + """
for context in contexts:
    context.post_handshake_auth = True
ca.configure_trust(contexts[1])
contexts[1].verify_mode = ssl.CERT_OPTIONAL
client = TLSConnection(contexts[0], server_hostname=NAME)
server = TLSConnection(contexts[1], server_side=True)
shake_hands(client, server)
server.verify_client_post_handshake()
server.data_to_send()  # is lost
received = 0

def send(count):
    global received
    for _ in range(count):
        client.send(b"x")
        server.feed(client.data_to_send())
        received += len(server.receive())

send(200)
before = status("VmRSS")
send(20_000)
print(json.dumps({"growth": status("VmRSS") - before, "received": received}))
"""
)

# What sessions that were taken and dropped leave behind, of connections in two threads.
SESSIONS = (
    COMMON
    + """
import threading

COUNT = int(sys.argv[1])
for context in contexts:
    context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_2

def look(count):
    client = TLSConnection(contexts[0], server_hostname=NAME)
    shake_hands(client, TLSConnection(contexts[1], server_side=True))
    ids, kept = set(), []
    for number in range(count):
        session = client.session
        ids.add(session.id)
        if number % 1000 == 0:
            kept.append(session)
    assert len(ids) == 1
    del client
    gc.collect()
    for session in kept:  # which outlive the connection
        again = TLSConnection(contexts[0], server_hostname=NAME, session=session)
        shake_hands(again, TLSConnection(contexts[1], server_side=True))
        assert again.handshake.session_reused
    done.append(count)

def run_two(count):
    threads = [threading.Thread(target=look, args=(count,)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

done = []
run_two(COUNT // 10)
before = status("VmRSS")
run_two(COUNT)
print(json.dumps({"growth": status("VmRSS") - before, "done": len(done)}))
"""
)


def run(program: str, *args: object) -> dict[str, float]:
    """Run a program in a process of its own, and return the figures that it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program, *map(str, args)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    figures: dict[str, float] = json.loads(done.stdout)
    return figures


@measures_process
@pytest.mark.parametrize("program", [KEPT_BY_CORES, KEPT_BY_STREAMS], ids=["cores", "streams"])
def test_a_connection_keeps_little_after_256_kib_each_way(program: str) -> None:
    figures = run(program, 150)
    print(
        f"a connection has {figures['idle'] / KIB:.0f} KiB after the handshake, and keeps "
        f"{figures['kept'] / KIB:.0f} KiB more after 256 KiB each way"
    )
    assert figures["kept"] < 64 * KIB


@measures_process
def test_one_send_of_200_mib_needs_little_memory_and_lets_others_run() -> None:
    figures = run(LARGE_SEND, 200 * MIB)
    print(
        f"200 MiB in {figures['seconds']:.2f} s: the peak grew by {figures['growth'] / MIB:.1f} "
        f"MiB; another task ran {figures['ticks']:.0f} times, and waited for at most "
        f"{figures['gap'] * 1000:.1f} ms"
    )
    assert figures["growth"] < 8 * MIB
    # A measure of fairness that does not depend on the machine's speed.
    assert figures["ticks"] > 200 * MIB / (256 * KIB)


def test_what_goes_into_openssl_at_once_is_bounded(
    client_context: ssl.SSLContext, server_context: ssl.SSLContext
) -> None:
    client = TLSConnection(client_context, server_hostname=NAME)
    server = TLSConnection(server_context, server_side=True)
    shake_hands(client, server)
    client.send(bytes(10 * MIB))
    # A part is no less than what was in the BIO at once.
    assert client.bytes_to_send > 10 * MIB
    assert max(map(len, client.unsent)) < 32 * KIB
    server.feed(client.data_to_send())
    received = 0
    while part_received := server.receive(100_000):
        received += len(part_received)
    assert received == 10 * MIB


@measures_process
@pytest.mark.parametrize("version", list(VERSIONS))
def test_connections_that_resume_leave_nothing_behind(version: str, stride: int) -> None:
    count = 2000 if stride == 1 else 600
    figures = run(CONNECTOR, count, VERSIONS[version].value)
    print(f"{version}: {figures['growth'] / KIB:.0f} KiB more after {count:,} connections")
    assert figures["resumed"] == count + 199
    assert figures["growth"] < max(count, 1000) * KIB


@measures_process
def test_data_where_a_certificate_is_awaited_leaves_nothing_behind() -> None:
    figures = run(AWAITS_A_CERTIFICATE)
    print(f"{figures['growth'] / KIB:.0f} KiB more after 20,000 bytes")
    assert figures["received"] == 20_200
    assert figures["growth"] < 512 * KIB


@measures_process
@pytest.mark.where(LOOKS_ARE_CHEAP, "other Pythons copy a session at each look")
def test_sessions_that_are_dropped_leave_nothing_behind() -> None:
    figures = run(SESSIONS, 10_000)
    print(f"{figures['growth'] / KIB:.0f} KiB more after 20,000 sessions in two threads")
    assert figures["done"] == 4
    assert figures["growth"] < 2 * MIB
