"""A fleet behind HAProxy: examples/fleet, whose hosts are killed, drained and given new keys."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import attrs
import pytest
import trio

from tests.helpers import DOCS, LIMIT, ROOT, VERSIONS
from trio_tlsbio import TLSConnector, TLSStream, TruncationError
from trio_tlsbio.ticket_keys import TicketKeys

FOLDER = ROOT / "examples" / "fleet"
Stream: TypeAlias = TLSStream[trio.SocketStream]


def program(name: str) -> ModuleType:
    """Import one of the programs of the example."""
    spec = importlib.util.spec_from_file_location(f"fleet_example_{name}", FOLDER / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where attrs looks for what annotations name
    spec.loader.exec_module(module)
    return module


def missing() -> str | None:
    """Return what this machine lacks to run a fleet."""
    if sys.platform != "linux":
        return "network namespaces take Linux"
    for name, package in (("ip", "iproute2"), ("haproxy", "haproxy")):
        if shutil.which(name) is None:
            return f"the program {name} is not installed (Debian's package {package})"
    if os.geteuid() != 0:
        return "network namespaces take root"
    name = f"probe{os.getpid()}"
    for command in (
        f"ip netns add {name}",
        f"ip link add one netns {name} type veth peer name other netns {name}",
        f"ip netns exec {name} true",
    ):
        result = subprocess.run(command.split(), capture_output=True, text=True, check=False)
        if result.returncode != 0:
            subprocess.run(["ip", "netns", "del", name], stderr=subprocess.DEVNULL, check=False)
            return f"`{command}` does not work here: {result.stderr.strip()}"
    subprocess.run(["ip", "netns", "del", name], check=True)
    return None


@pytest.fixture(scope="module", autouse=True)
def has_namespaces() -> None:
    if (reason := missing()) is not None:
        pytest.skip(reason)


needs_ticket_keys = pytest.mark.where(
    TicketKeys.is_available(), "ticket keys can't be set on this Python"
)

fleet_py, clients_py = program("fleet"), program("clients")
ADDRESS, PORT, HOSTS = fleet_py.ADDRESS, fleet_py.PORT, list(fleet_py.HOSTS)
WWW, API = fleet_py.NAMES


################################################################
# A fleet, and sockets in its clients' namespace
################################################################


@contextmanager
def inside(namespace: str) -> Iterator[None]:
    """Let this thread be in a network namespace. Nothing may be awaited meanwhile."""
    libc = ctypes.CDLL(None, use_errno=True)
    own = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    other = os.open(f"/run/netns/{namespace}", os.O_RDONLY)

    def enter(descriptor: int) -> None:
        if libc.setns(descriptor, 0x4000_0000) != 0:  # CLONE_NEWNET
            raise OSError(ctypes.get_errno(), "setns")

    try:
        enter(other)
        try:
            yield
        finally:
            enter(own)
    finally:
        os.close(own)
        os.close(other)


@attrs.frozen
class ClientSockets(trio.abc.SocketFactory):
    """Makes Trio's sockets in a namespace. A socket stays in the one that it was made in."""

    namespace: str

    def socket(self, family: int = -1, type: int = -1, proto: int = -1) -> Any:  # noqa: A002
        with inside(self.namespace):
            return trio.socket.from_stdlib_socket(socket.socket(family, type, proto))


@contextmanager
def running(folder: Path, **options: Any) -> Iterator[Any]:
    """Run a fleet, of which nothing may be left at the end."""
    fleet = fleet_py.Fleet(folder, f"fleet{os.getpid()}", **options)
    with fleet:
        yield fleet
    assert all(process.poll() is not None for process in fleet.processes.values())
    assert fleet.prefix not in subprocess.check_output(["ip", "netns"], text=True)


def reach(fleet: Any) -> None:
    """Let this run of Trio be one of the fleet's clients."""
    trio.socket.set_custom_socket_factory(ClientSockets(fleet.namespace("clients")))


def connector_for(fleet: Any, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> TLSConnector:
    context = ssl.create_default_context(cafile=str(fleet.folder / "ca.pem"))
    context.minimum_version = context.maximum_version = version
    return TLSConnector(ssl_context=context)


async def ask(stream: Stream, question: str) -> tuple[str, str]:
    """Return which host has answered, and what it takes for our address."""
    await stream.send_all(f"{question}\n".encode())
    return await hear(stream, question)


async def hear(stream: Stream, question: str) -> tuple[str, str]:
    answer = b""
    while not answer.endswith(b"\n"):
        chunk = await stream.receive_some()
        assert chunk, f"the stream ended after {answer!r}"
        answer += chunk
    their_question, host, client = answer.decode().split()
    assert their_question == question
    return host, client


async def visit(connector: TLSConnector) -> tuple[str, bool]:
    """Connect, and return to which host, and whether it has resumed a session."""
    async with await connector.connect(ADDRESS, PORT) as stream:
        host, _ = await ask(stream, "hello")
        return host, stream.session_reused


async def visit_often(connector: TLSConnector, times: int) -> tuple[list[str], list[bool]]:
    visits = [await visit(connector) for _ in range(times)]
    return [host for host, _ in visits], [is_resumed for _, is_resumed in visits]


async def until(is_so: Callable[[], bool]) -> None:
    with trio.fail_after(LIMIT):
        while not is_so():  # noqa: ASYNC110  # other programs set no event
            await trio.sleep(0.005)


def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def lines_of(fleet: Any, *levels: str) -> list[str]:
    """Return what all hosts have logged, at some levels or at all."""
    lines = [line for host in HOSTS for line in text_of(fleet.log(host)).splitlines()]
    return [line for line in lines if not levels or line.split()[1] in levels]


def complaints(fleet: Any) -> list[str]:
    """Return the lines of the hosts that an operator would look at, tracebacks included."""
    return [line for line in lines_of(fleet) if line.split()[1] not in {"DEBUG", "INFO"}]


def workers_of(process: subprocess.Popen[bytes]) -> list[int]:
    children = text_of(Path(f"/proc/{process.pid}/task/{process.pid}/children"))
    return [int(pid) for pid in children.split()]


################################################################
# Sessions
################################################################


@needs_ticket_keys
async def test_all_hosts_and_workers_resume_each_others_sessions(
    tmp_path: Path, tls_version: ssl.TLSVersion
) -> None:
    with running(tmp_path) as fleet:
        reach(fleet)
        connector = connector_for(fleet, tls_version)
        workers = [workers_of(fleet.processes[host]) for host in HOSTS]
        assert [len(pids) for pids in workers] == [2, 2, 2]
        hosts, resumed = [], []
        for stopped in range(2):
            # So that it is the other worker of each host that has these visits.
            for pids in workers:
                os.kill(pids[stopped], signal.SIGSTOP)
            try:
                part = await visit_often(connector, 150)
            finally:
                for pids in workers:
                    os.kill(pids[stopped], signal.SIGCONT)
            hosts += part[0]
            resumed += part[1]
        assert {host: hosts.count(host) for host in HOSTS} == dict.fromkeys(HOSTS, 100)
        assert resumed == [False] + 299 * [True]
        log = "\n".join(lines_of(fleet, "INFO"))
        for pids in workers:
            for pid in pids:
                assert len(re.findall(rf"^{pid} .* connected", log, re.MULTILINE)) == 50
        assert complaints(fleet) == []


async def test_without_shared_keys_sessions_are_good_at_one_host_alone(tmp_path: Path) -> None:
    with running(tmp_path, shares_keys=False) as fleet:
        reach(fleet)
        hosts, resumed = await visit_often(connector_for(fleet), 300)
        assert all(one != next_one for one, next_one in pairwise(hosts))
        assert resumed == 300 * [False]
        assert complaints(fleet) == []


async def test_without_shared_keys_balancing_by_the_source_resumes(tmp_path: Path) -> None:
    config = text_of(FOLDER / "haproxy.cfg")
    assert "balance roundrobin" in config
    config = config.replace("balance roundrobin", "balance source\n    hash-type consistent")
    with running(tmp_path, shares_keys=False, config=config) as fleet:
        reach(fleet)
        hosts, resumed = await visit_often(connector_for(fleet), 300)
        assert len(set(hosts)) == 1
        assert resumed == [False] + 299 * [True]
        assert complaints(fleet) == []


@needs_ticket_keys
async def test_keys_are_rolled_over_the_fleet(tmp_path: Path, tls_version: ssl.TLSVersion) -> None:
    with running(tmp_path) as fleet:
        reach(fleet)
        connector = connector_for(fleet, tls_version)
        # One host after the other, slower than anybody should. What has old keys and what has new
        # ones is two fleets: going from one to the other is what costs a full handshake.
        keys = dict.fromkeys(HOSTS, "old")
        visits = await visit_with(keys, connector, 6)
        for host in HOSTS:
            fleet.roll_keys(host)
            keys[host] = "new" if host == HOSTS[0] else f"new at {host}"
            visits += await visit_with(keys, connector, 6)
        assert [is_resumed for _, is_resumed in visits[1:]] == [
            one == next_one for (one, _), (next_one, _) in pairwise(visits)
        ]
        # All at once: one full handshake for each client.
        fleet.roll_keys(*HOSTS)
        _, resumed = await visit_often(connector, 30)
        assert resumed == [False] + 29 * [True]
        assert complaints(fleet) == []


async def visit_with(
    keys: dict[str, str], connector: TLSConnector, times: int
) -> list[tuple[str, bool]]:
    """Return which keys each visited host had, and whether it has resumed a session."""
    hosts, resumed = await visit_often(connector, times)
    return [(keys[host], is_resumed) for host, is_resumed in zip(hosts, resumed, strict=True)]


@needs_ticket_keys
@pytest.mark.parametrize("version", VERSIONS.values(), ids=VERSIONS)
def test_a_ticket_of_one_name_is_nothing_at_another(
    version: ssl.TLSVersion, tmp_path: Path
) -> None:
    """Both have the same file of keys. The module ssl's client offers whatever it is given."""
    with running(tmp_path) as fleet:
        context = ssl.create_default_context(cafile=str(fleet.folder / "ca.pem"))
        context.minimum_version = context.maximum_version = version
        ask = partial(ask_by_ssl, fleet, context)
        for name, other in ((WWW, API), (API, WWW)):
            for _ in range(len(HOSTS)):  # at each host
                session, is_resumed = ask(name)
                assert not is_resumed
                _, is_resumed = ask(other, session)
                assert not is_resumed
                session, _ = ask(name)
                _, is_resumed = ask(name, session)
                assert is_resumed
        assert complaints(fleet) == []


def ask_by_ssl(
    fleet: Any, context: ssl.SSLContext, name: str, session: ssl.SSLSession | None = None
) -> tuple[ssl.SSLSession | None, bool | None]:
    """Ask by the module ssl alone; return the session, and whether one was resumed."""
    with inside(fleet.namespace("clients")):
        sock = socket.socket()
    sock.settimeout(LIMIT)
    sock.connect((ADDRESS, PORT))
    with context.wrap_socket(sock, server_hostname=name, session=session) as tls:
        tls.sendall(b"hello\n")
        assert tls.recv(100).startswith(b"hello ")
        found, is_resumed = tls.session, tls.session_reused
        tls.unwrap().close()
    return found, is_resumed


################################################################
# Hosts that end, one way or another
################################################################


@needs_ticket_keys
async def test_every_request_is_answered_while_hosts_are_lost(tmp_path: Path) -> None:
    """One is killed, one is drained and returns, one falls silent and returns."""
    clients, requests = 12, 100
    first, second, third = HOSTS
    with running(tmp_path) as fleet:
        reach(fleet)
        connector, counts = connector_for(fleet), clients_py.Counts()
        ask = partial(clients_py.request, connector, ADDRESS, PORT, counts)
        retried = {}

        async def answered_while(what: str, happens: Callable[[], object]) -> None:
            """Let all clients ask, and something happen meanwhile."""
            before, answered = counts.retried, counts.answered.total()
            with trio.fail_after(2 * LIMIT):
                async with trio.open_nursery() as nursery:
                    for _ in range(clients):
                        nursery.start_soon(partial(ask, requests=requests, per_connection=10))
                    await until(lambda: counts.answered.total() >= answered + 200)
                    assert counts.answered.total() < answered + clients * requests / 2
                    happens()
            assert counts.answered.total() == answered + clients * requests
            retried[what] = counts.retried - before

        async def hosts_that_answer() -> set[str]:
            before = counts.answered.copy()
            await ask(requests=20)
            return set(counts.answered - before)

        await answered_while("killed", partial(fleet.kill_host, first))
        assert await hosts_that_answer() == {second, third}
        await answered_while("drained", partial(fleet.begin_drain, second))
        assert await trio.to_thread.run_sync(fleet.processes[second].wait) == 0
        assert await hosts_that_answer() == {third}
        await trio.to_thread.run_sync(fleet.return_host, second)
        assert await hosts_that_answer() == {second, third}
        # Its packets are lost: nobody is told that it has gone.
        link = partial(fleet_py.ip, "-n", fleet.namespace("lb"), "link", "set", third)
        await answered_while("silent", partial(link, "down"))
        assert await hosts_that_answer() == {second}
        link("up")
        await until(lambda: third in fleet.hosts_up())
        assert await hosts_that_answer() == {second, third}

        print(f"\n{counts}\nretried, by what had happened: {retried}")
        assert counts.asked == counts.answered.total()
        assert sum(retried.values()) >= 1
        # Each of them makes a full handshake at first, and maybe once more with each loss: a
        # handshake that fails takes the sessions of the cache along.
        assert counts.connections - counts.resumed <= 4 * clients


async def test_who_is_served_outlives_a_drain(tmp_path: Path) -> None:
    with running(tmp_path, shares_keys=False, log_level="DEBUG") as fleet:
        reach(fleet)
        connector = connector_for(fleet)
        busy = await connector.connect(ADDRESS, PORT)
        host, _ = await ask(busy, "hello")
        await busy.send_all(b"it takes ")
        await visit(connector)
        await visit(connector)
        idle = await connector.connect(ADDRESS, PORT)
        assert (await ask(idle, "hello"))[0] == host
        fleet.begin_drain(host)
        assert await idle.receive_some() == b""  # with a close_notify
        await idle.aclose()
        hosts, _ = await visit_often(connector, 20)
        assert host not in hosts
        # By the time that another host has had so many, it would not have passed its own.
        checks = checks_of(fleet, hosts[0])
        await until(lambda: checks_of(fleet, hosts[0]) >= checks + 4)
        await busy.send_all(b"a-while\n")
        answer = await busy.receive_some()
        assert answer.startswith(f"it takes a-while {host} ".encode())
        assert await busy.receive_some() == b""
        await busy.aclose()
        assert await trio.to_thread.run_sync(fleet.processes[host].wait) == 0
        assert complaints(fleet) == []
        await trio.to_thread.run_sync(fleet.return_host, host)
        assert host in (await visit_often(connector, 3))[0]


################################################################
# What HAProxy reports and does
################################################################


async def test_the_hosts_log_the_clients_own_addresses(tmp_path: Path) -> None:
    addresses = ["192.0.2.100", "192.0.2.101", "2001:db8::100"]
    config = text_of(FOLDER / "haproxy.cfg")
    config = config.replace("bind 192.0.2.1:443\n", "bind 192.0.2.1:443\n    bind [::]:443\n")
    with running(tmp_path, config=config, shares_keys=False) as fleet:
        reach(fleet)
        ip = partial(fleet_py.ip, "-n")
        ip(fleet.namespace("clients"), "address", "add", "192.0.2.101/24", "dev", "lb")
        for name, device, address in (("clients", "lb", "::100"), ("lb", "clients", "::1")):
            address = f"2001:db8{address}/64"
            ip(fleet.namespace(name), "address", "add", address, "dev", device, "nodad")
        connector = connector_for(fleet)
        seen = []
        for number in range(9):
            address = addresses[number // len(HOSTS)]
            target = "2001:db8::1" if ":" in address else ADDRESS
            tcp = await trio.open_tcp_stream(target, PORT, local_address=address)
            name = tcp.socket.getsockname()
            async with await connector.wrap(tcp, WWW, PORT) as stream:
                host, client = await ask(stream, "hello")
            assert client == f"{name[0]}:{name[1]}"
            assert f" {client} has connected" in text_of(fleet.log(host))
            seen.append((host, address))
        assert set(seen) == {(host, address) for host in HOSTS for address in addresses}


def checks_of(fleet: Any, host: str) -> int:
    """Return how many health checks a host has logged."""
    return len(re.findall(r"DEBUG trio_tlsbio\.server", text_of(fleet.log(host))))


def has_segments(fleet: Any, host: str, count: int) -> bool:
    """Whether a host has got so many TCP segments. A check takes at least two."""
    with inside(fleet.namespace(host)):
        text = text_of(Path("/proc/thread-self/net/snmp"))
    names, values = (line.split() for line in text.splitlines() if line.startswith("Tcp: "))
    return int(values[names.index("InSegs")]) >= count


@pytest.mark.parametrize(
    ("options", "is_logged"),
    [
        ("send-proxy-v2 check", True),
        ("send-proxy-v2 check check-send-proxy port 8443", True),
        # HAProxy takes it back before the host has accepted it.
        ("send-proxy-v2 check port 8443", False),
        ("send-proxy-v2 check check-ssl verify none", True),
    ],
    ids=["with PROXY", "with PROXY, asked for", "plain TCP", "TLS"],
)
async def test_health_checks_make_no_noise(options: str, is_logged: bool, tmp_path: Path) -> None:
    config = text_of(FOLDER / "haproxy.cfg")
    assert "send-proxy-v2 check inter 500ms" in config
    config = config.replace("send-proxy-v2 check inter 500ms", f"{options} inter 100ms")
    with running(tmp_path, config=config, shares_keys=False, log_level="DEBUG") as fleet:
        reach(fleet)
        for host in HOSTS:
            await until(partial(has_segments, fleet, host, 40))
            assert (checks_of(fleet, host) > 0) is is_logged
        assert fleet.hosts_up() == set(HOSTS)
        await visit(connector_for(fleet))
        assert complaints(fleet) == []


@pytest.mark.parametrize("side", ["client", "server"])
async def test_haproxys_timeouts_cut_the_connection(side: str, tmp_path: Path) -> None:
    config = text_of(FOLDER / "haproxy.cfg")
    assert f"timeout {side} 10m" in config
    config = config.replace(f"timeout {side} 10m", f"timeout {side} 200ms")
    with running(tmp_path, config=config, shares_keys=False) as fleet:
        reach(fleet)
        async with await connector_for(fleet).connect(ADDRESS, PORT) as stream:
            _, client = await ask(stream, "hello")
            with pytest.raises(TruncationError):
                await stream.receive_some()
        # After the server's silence, the client's own close_notify still passes.
        if side == "client":
            await until(lambda: complaints(fleet) != [])
            (line,) = complaints(fleet)
            assert f"WARNING trio_tlsbio.server: connection from {client}: " in line


async def test_others_than_the_proxy_are_refused(tmp_path: Path) -> None:
    """A host's own port has nothing for its neighbours."""
    with running(tmp_path, shares_keys=False) as fleet:
        host = HOSTS[0]
        with inside(fleet.namespace(host)):
            sock = socket.create_connection((fleet_py.HOSTS[host], 8443))
        tcp = trio.SocketStream(trio.socket.from_stdlib_socket(sock))
        async with tcp:
            assert await tcp.receive_some() == b""
        await until(lambda: "not one of the trusted proxies" in text_of(fleet.log(host)))


################################################################
# The example as it stands
################################################################


@needs_ticket_keys
def test_the_programs_figures() -> None:
    prefix = f"shown{os.getpid()}"
    argv = [sys.executable, str(FOLDER / "fleet.py"), "--prefix", prefix]
    result = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    assert result.returncode == 0, result.stderr
    with_keys, without = result.stdout.split("without:\n")
    for part, resumed in ((with_keys, 299), (without, 0)):
        assert "300 requests: 300 answered (100 by host1, 100 by host2, 100 by host3), 0" in part
        assert f"300 connections: {resumed} resumed" in part
    assert result.stderr == ""
    assert prefix not in subprocess.check_output(["ip", "netns"], text=True)


def test_the_program_is_taken_down_by_a_signal() -> None:
    prefix = f"shown{os.getpid()}"
    argv = [sys.executable, str(FOLDER / "fleet.py"), "--prefix", prefix, "--stay", "60"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert any("Ctrl-C takes it down" in line for line in process.stdout)
        assert prefix in subprocess.check_output(["ip", "netns"], text=True)
        process.terminate()
        process.communicate(timeout=LIMIT)
    assert prefix not in subprocess.check_output(["ip", "netns"], text=True)


def test_the_page_shows_what_the_example_tells_haproxy(tmp_path: Path) -> None:
    """Draining and returning a host, by the same commands in the same order."""
    page = text_of(DOCS / "fleets.rst")
    shown = re.findall(r'^ +echo "([^"]+)" \| socat stdio', page, re.MULTILINE)
    told = []
    with running(tmp_path, shares_keys=False) as fleet:
        tell = fleet_py.Fleet.tell_haproxy

        def note(self: Any, command: str) -> Any:
            told.append(command)
            answer = tell(self, command)
            assert answer.strip() == ""  # it knows the command
            return answer

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(fleet_py.Fleet, "tell_haproxy", note)
            assert fleet.drain_host("host2") == 0
            fleet.return_host("host2")
    assert told == shown
