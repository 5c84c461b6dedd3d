"""A whole fleet on one machine: HAProxy, three hosts and clients, in network
namespaces.

    sudo python fleet.py              clients visit the fleet, with shared ticket keys and without
    sudo python fleet.py --stay 600   the fleet stays for ten minutes, to try things out

It takes Linux, root, iproute2, HAProxy and trustme. The network of the machine
itself stays as it is, and at the end everything is gone. The cables:

    clients 192.0.2.100 ---- 192.0.2.1 lb 198.51.100.1 -+-- 198.51.100.11 host1
                                                        +-- 198.51.100.12 host2
                                                        +-- 198.51.100.13 host3
"""

import argparse
import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Self

import attrs
import trustme

from trio_tlsbio.ticket_keys import TicketKeys

HERE = Path(__file__).parent
HOSTS = {
    "host1": "198.51.100.11",
    "host2": "198.51.100.12",
    "host3": "198.51.100.13",
}
# What clients connect to, which is in the certificate of the first name.
ADDRESS, PORT = "192.0.2.1", 443
NAMES = ["www.fleet.example", "api.fleet.example"]
LIMIT = 20  # how long a single step may take, in seconds
STOP_LIMIT = 5  # how long a program may take to end, before it is killed


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, timeout=LIMIT)


@contextmanager
def running(
    *argv: object, log: Path, **env: str
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a program. At the end it is asked to end, and killed with its
    children if it does not.
    """
    with log.open("ab") as output:
        process = subprocess.Popen(
            [str(argument) for argument in argv],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | env,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(STOP_LIMIT)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        with suppress(ProcessLookupError):  # none is left of its children
            os.killpg(process.pid, signal.SIGKILL)


@attrs.define(eq=False)
class Fleet:
    """The namespaces, and the processes in them. Its files are in a folder."""

    folder: Path
    prefix: str = "fleet"  # of the namespaces' names
    shares_keys: bool = TicketKeys.is_available()
    config: str = (HERE / "haproxy.cfg").read_text(encoding="utf-8")
    log_level: str = "INFO"  # of the hosts
    processes: dict[str, subprocess.Popen[bytes]] = attrs.field(
        factory=dict, init=False
    )
    # Of each host.
    _starts: Counter[str] = attrs.field(factory=Counter[str], init=False)
    _stack: ExitStack = attrs.field(factory=ExitStack, init=False)

    def __enter__(self) -> Self:
        with ExitStack() as self._stack:
            self._make_network()
            self._make_files()
            self.start_hosts(*HOSTS)
            self._start_haproxy()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # The network

    def namespace(self, name: str) -> str:
        return f"{self.prefix}-{name}"

    def _make_network(self) -> None:
        for name in ("lb", "clients", *HOSTS):
            # One may be there from a run that was killed.
            delete = ["ip", "netns", "del", self.namespace(name)]
            subprocess.run(
                delete, stderr=subprocess.DEVNULL, check=False, timeout=LIMIT
            )
            ip("netns", "add", self.namespace(name))
            self._stack.callback(ip, "netns", "del", self.namespace(name))
            ip("-n", self.namespace(name), "link", "set", "lo", "up")
        self._connect("clients", "192.0.2.100/24", f"{ADDRESS}/24")
        for host, address in HOSTS.items():
            self._connect(
                host,
                f"{address} peer 198.51.100.1",
                f"198.51.100.1 peer {address}",
            )

    def _connect(self, name: str, address: str, lb_address: str) -> None:
        """Lay a cable from a namespace to that of the load balancer."""
        theirs, lb = self.namespace(name), self.namespace("lb")
        ip(
            "link",
            "add",
            "lb",
            "netns",
            theirs,
            "type",
            "veth",
            "peer",
            "name",
            name,
            "netns",
            lb,
        )
        ip("-n", theirs, "address", "add", *address.split(), "dev", "lb")
        ip("-n", lb, "address", "add", *lb_address.split(), "dev", name)
        ip("-n", theirs, "link", "set", "lb", "up")
        ip("-n", lb, "link", "set", name, "up")

    # The files

    def _make_files(self) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(self.folder / "ca.pem"))
        for name in NAMES:
            names = [name, ADDRESS] if name == NAMES[0] else [name]
            pem = authority.issue_cert(*names).private_key_and_cert_chain_pem
            pem.write_to_path(str(self.folder / f"{name}.pem"))
        (self.folder / "haproxy.cfg").write_text(self.config, encoding="utf-8")
        for host in HOSTS:
            (self.folder / host).mkdir()
        if self.shares_keys:
            self.roll_keys(*HOSTS)

    # The processes

    def _start(self, name: str, namespace: str, *argv: object) -> None:
        program = running(
            *("ip", "netns", "exec", self.namespace(namespace), *argv),
            log=self.log(name),
            FLEET=str(self.folder),  # for haproxy.cfg
        )
        self.processes[name] = self._stack.enter_context(program)

    def log(self, name: str) -> Path:
        return self.folder / f"{name}.log"

    def start_hosts(self, *hosts: str) -> None:
        """Start hosts, and wait until they listen."""
        for host in hosts:
            keys = (
                ["--ticket-keys", self.folder / host / "tickets.key"]
                if self.shares_keys
                else []
            )
            self._start(
                host,
                host,
                *(sys.executable, HERE / "host.py", host, HOSTS[host], 8443),
                *(self.folder / f"{name}.pem" for name in NAMES),
                *(
                    "--proxy",
                    "198.51.100.1",
                    "--log-level",
                    self.log_level,
                    *keys,
                ),
            )
            self._starts[host] += 1
        for host in hosts:
            self._wait_for(host, partial(self._is_ready, host))

    def _is_ready(self, host: str) -> bool:
        # Its log goes on after a restart.
        return (
            self.log(host).read_text(encoding="utf-8").count(" is ready\n")
            == self._starts[host]
        )

    def kill_host(self, host: str) -> None:
        os.killpg(self.processes[host].pid, signal.SIGKILL)

    def _start_haproxy(self) -> None:
        self._start(
            "haproxy", "lb", "haproxy", "-db", "-f", self.folder / "haproxy.cfg"
        )
        self._wait_for("haproxy", (self.folder / "haproxy.sock").exists)

    def _wait_for(self, name: str, is_so: Callable[[], bool]) -> None:
        """Wait until a program has done something, and raise if it ends
        instead.
        """
        deadline = time.monotonic() + LIMIT
        while not is_so():
            if (
                self.processes[name].poll() is not None
                or time.monotonic() > deadline
            ):
                raise RuntimeError(
                    f"{name}: {self.log(name).read_text(encoding='utf-8')}"
                )
            time.sleep(0.02)

    def tell_haproxy(self, command: str) -> str:
        """Say something to HAProxy's own socket, and return the answer."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(LIMIT)
            sock.connect(str(self.folder / "haproxy.sock"))
            sock.sendall(f"{command}\n".encode())
            with sock.makefile() as answer:
                return answer.read()

    def hosts_up(self) -> set[str]:
        """Return the hosts that HAProxy gives clients to."""
        rows = [
            row.split(",")
            for row in self.tell_haproxy("show stat").splitlines()
            if row
        ]
        name, status = rows[0].index("svname"), rows[0].index("status")
        return {
            row[name]
            for row in rows
            if row[name] in HOSTS and row[status].startswith("UP")
        }

    # What its operators do

    def begin_drain(self, host: str) -> None:
        """Let a host end, without an error for those that it serves."""
        # No new connections.
        self.tell_haproxy(f"set server hosts/{host} state drain")
        # Its checks are about to fail, which would cut off those that it still
        # serves.
        self.tell_haproxy(f"disable health hosts/{host}")
        self.processes[host].terminate()

    def drain_host(self, host: str) -> int:
        """Drain a host, and return its status when it has served its last
        client.
        """
        self.begin_drain(host)
        return self.processes[host].wait(2 * LIMIT)

    def return_host(self, host: str) -> None:
        """Start a host again, and let it have clients."""
        self.start_hosts(host)
        self.tell_haproxy(f"enable health hosts/{host}")
        self.tell_haproxy(f"set server hosts/{host} state ready")

    def roll_keys(self, *hosts: str) -> None:
        """Give hosts new keys of session tickets, each by a file of its own."""
        keys = secrets.token_bytes(80)
        for host in hosts:
            new = self.folder / host / "tickets.new"
            new.touch(mode=0o600)
            new.write_bytes(keys)
            new.replace(self.folder / host / "tickets.key")


def visit_command(fleet: Fleet) -> list[str]:
    inside = ["ip", "netns", "exec", fleet.namespace("clients")]
    clients = [sys.executable, str(HERE / "clients.py"), ADDRESS, str(PORT)]
    return [*inside, *clients, "--ca", str(fleet.folder / "ca.pem")]


def main() -> None:
    parser = argparse.ArgumentParser(description="A fleet on one machine.")
    parser.add_argument(
        "--prefix", default="fleet", help="of the namespaces' names"
    )
    parser.add_argument(
        "--stay",
        type=float,
        metavar="SECONDS",
        help="let the fleet stay so long",
    )
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        # Which takes the fleet down.
        signal.signal(number, lambda *_: sys.exit())
    with ExitStack() as stack:
        # On a Python whose ticket keys can't be set, there is only the second
        # of these.
        for shares_keys in sorted(
            {TicketKeys.is_available(), False}, reverse=True
        ):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            with Fleet(folder, options.prefix, shares_keys) as fleet:
                print(
                    "with shared ticket keys:" if shares_keys else "without:",
                    flush=True,
                )
                subprocess.run(visit_command(fleet), check=True, timeout=120)
                if options.stay:
                    print(
                        f"Its files are in {folder}. Ctrl-C takes it down. To visit it again:"
                    )
                    print(shlex.join(visit_command(fleet)), flush=True)
                    with suppress(KeyboardInterrupt):
                        time.sleep(options.stay)
                    break


if __name__ == "__main__":
    main()
