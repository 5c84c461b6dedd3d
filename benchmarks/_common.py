"""What the benchmarks share: cases, processes that answer questions over a pipe, progress, figures.

A benchmark starts a :class:`ServerProcess` for each implementation, which serves on a port of its
own and tells how much CPU time and memory it has used. What else needs a process is a
:class:`Remote`. All of them end with the block that they are started in.
"""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import socket
import ssl
import statistics
import sys
import threading
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import psutil
import trio
import trustme

HOST = NAME = "127.0.0.1"

TIMEOUT = 120.0
"""How long a process may take to answer one question, in seconds."""


################################################################
# Cases and implementations
################################################################


@dataclass(frozen=True)
class Case:
    """One kind of connection."""

    version: ssl.TLSVersion
    key: trustme.KeyType = trustme.KeyType.ECDSA
    client_certificate: bool = False

    @property
    def protocol(self) -> str:
        """The version, for people."""
        return {"TLSv1_2": "TLS 1.2", "TLSv1_3": "TLS 1.3"}[self.version.name]

    def __str__(self) -> str:
        who = "client certificate" if self.client_certificate else "server only"
        return f"{self.protocol}, {self.key.name}, {who}"

    def save_certificates(self, folder: Path) -> None:
        """Make what :meth:`context` loads."""
        ca = trustme.CA(key_type=self.key)
        ca.cert_pem.write_to_path(str(folder / "ca.pem"))
        for side, names in (("server", [NAME]), ("client", ["client@bench.example"])):
            cert = ca.issue_cert(*names, key_type=self.key)
            cert.private_key_and_cert_chain_pem.write_to_path(str(folder / f"{side}.pem"))

    def context(self, folder: Path, *, server_side: bool) -> ssl.SSLContext:
        """Return the settings of one side."""
        purpose = ssl.Purpose.CLIENT_AUTH if server_side else ssl.Purpose.SERVER_AUTH
        context = ssl.create_default_context(purpose, cafile=str(folder / "ca.pem"))
        context.minimum_version = context.maximum_version = self.version
        if server_side:
            context.load_cert_chain(folder / "server.pem")
            if self.client_certificate:
                context.verify_mode = ssl.CERT_REQUIRED
        elif self.client_certificate:
            context.load_cert_chain(folder / "client.pem")
        return context


class Implementation(ABC):
    """What is set beside others. See ``_servers.py`` for those that there are.

    It has a server part, which echoes what it receives. A benchmark adds a client part in a
    subclass, where that is measured too.
    """

    name: ClassVar[str]
    is_encrypted: ClassVar[bool] = True

    @staticmethod
    @abstractmethod
    def serve(context: ssl.SSLContext, listener: socket.socket) -> None:
        """Serve until the process ends. ``listener`` does not block."""


################################################################
# Processes
################################################################

Questions = Mapping[str, Callable[..., object]]


class Remote:
    """A process of its own that answers questions, and ends with a ``with`` block.

    Args:
      label: What to call it in errors.
      target: Runs in the process, with a pipe to answer by (see :func:`answer`) and ``arguments``.
      arguments: For ``target``. They are pickled.
      timeout: How long one answer may take, in seconds.
    """

    def __init__(
        self,
        label: str,
        target: Callable[..., None],
        *arguments: object,
        timeout: float = TIMEOUT,
    ) -> None:
        self.label = label
        self.timeout = timeout
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_run, args=(target, theirs, *arguments), daemon=True
        )
        self._process.start()
        theirs.close()  # so that the pipe ends with the process

    def ask(self, question: str, *arguments: object) -> Any:
        """Ask for something and wait for the answer."""
        try:
            self._pipe.send((question, *arguments))
            has_answered = self._pipe.poll(self.timeout)
            if has_answered:
                return self._pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError(f"{self.label} has ended, asked for {question!r}") from None
        raise TimeoutError(f"{self.label}: no {question!r} within {self.timeout:g} seconds")

    def begin_to_stop(self) -> None:
        """Tell the process to end, unless it has, and do not wait for that."""
        self._process.terminate()

    def stop(self) -> None:
        """End the process, unless it has ended."""
        self.begin_to_stop()
        self._process.join(10)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        self._pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        exc_traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _run(target: Callable[..., None], pipe: Connection, *arguments: object) -> None:
    # Ctrl-C reaches all processes of the terminal. The first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    target(pipe, *arguments)


def answer(pipe: Connection, questions: Questions) -> None:
    """Answer questions until nobody asks any more, then end the process."""
    while True:
        try:
            question, *arguments = pipe.recv()
        except (EOFError, OSError):
            os._exit(0)  # from any thread, whatever the others do
        try:
            pipe.send(questions[question](*arguments))
        except Exception:
            traceback.print_exc()
            os._exit(1)


class ServerProcess(Remote):
    """The server part of an implementation."""

    def __init__(
        self,
        implementation: type[Implementation],
        case: Case,
        folder: Path,
        *,
        timeout: float = TIMEOUT,
    ) -> None:
        label = f"the server of {implementation.name}"
        super().__init__(label, _serve, implementation, case, folder, timeout=timeout)
        try:
            self.port: int = self.ask("port")
        except BaseException:
            self.stop()
            raise

    def cpu_seconds(self) -> float:
        """Tell how much CPU time it has used so far."""
        seconds: float = self.ask("CPU time")
        return seconds

    def memory_bytes(self) -> int:
        """Tell how much memory it has for itself, without what nothing refers to any more."""
        size: int = self.ask("memory")
        return size


def _serve(
    pipe: Connection, implementation: type[Implementation], case: Case, folder: Path
) -> None:
    context = case.context(folder, server_side=True)
    listener = socket.create_server((HOST, 0), backlog=1024)
    port = listener.getsockname()[1]
    questions: Questions = {
        "port": lambda: port,
        "CPU time": time.process_time,
        "memory": _settled_memory,
    }
    threading.Thread(target=answer, args=(pipe, questions), daemon=True).start()
    listener.setblocking(False)
    implementation.serve(context, listener)


def _settled_memory() -> int:
    """Wait until the process is at rest, and return its private memory in bytes (USS)."""
    process = psutil.Process()
    size = -1
    while True:
        gc.collect()
        before, size = size, process.memory_full_info().uss
        if size == before:
            return size
        time.sleep(0.2)


################################################################
# Progress and figures
################################################################


def progress(label: str, total: int, size: int = 1) -> Iterator[range]:
    """Divide ``total`` things into parts, and tell on stderr how far it is.

    That is a counter on a terminal, else a line at the begin and one at the end.
    """
    begin = time.monotonic()
    is_terminal = sys.stderr.isatty()
    if not is_terminal:
        print(f"{label}: {total} ...", file=sys.stderr, flush=True)
    for start in range(0, total, size):
        if is_terminal:
            print(f"\r\x1b[K{label}: {start} of {total}", end="", file=sys.stderr, flush=True)
        yield range(start, min(start + size, total))
    done = f"{label}: {total} in {time.monotonic() - begin:.1f} s\n"
    print("\r\x1b[K" if is_terminal else done, end="", file=sys.stderr, flush=True)


def spread(values: Sequence[float], digits: int = 0) -> str:
    """Return the median of the rounds, with the lowest and the highest, as text."""
    low, median, high = min(values), statistics.median(values), max(values)
    return f"{median:7.{digits}f}  ({low:.{digits}f} to {high:.{digits}f})"


def versions() -> str:
    """Tell what it ran with."""
    return f"{ssl.OPENSSL_VERSION}, Python {sys.version.split()[0]}, Trio {trio.__version__}"


def end_tidily() -> None:
    """Let SIGTERM end the program as Ctrl-C does, with all that it has started."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
