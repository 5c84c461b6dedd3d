"""Processes that answer questions over a pipe, what they need to speak TLS, and progress."""

from __future__ import annotations

import gc
import multiprocessing
import os
import signal
import ssl
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Self

HOST = "127.0.0.1"

TIMEOUT = 300.0
"""How long a process may take to answer one question, in seconds."""

Questions = Mapping[str, Callable[..., object]]


class Remote:
    """A process of its own that answers questions, and ends with a ``with`` block.

    Args:
      label: What to call it in errors.
      core: The only core that it may run on, or None for any.
      target: Runs in the process, with a pipe to answer by (see :func:`answer`) and ``arguments``.
      arguments: For ``target``. They are pickled.
      path: Where the process imports from first, if that is not where this one does.
    """

    def __init__(
        self,
        label: str,
        core: int | None,
        target: Callable[..., None],
        *arguments: object,
        path: Path | None = None,
    ) -> None:
        self.label = label
        self._pipe, theirs = multiprocessing.Pipe()
        self._process = multiprocessing.get_context("spawn").Process(
            target=_run, args=(core, target, theirs, *arguments), daemon=True
        )
        own_path = sys.path
        try:  # a process that is spawned gets the path as it is then
            sys.path = [*([] if path is None else [str(path)]), *own_path]
            self._process.start()
        finally:
            sys.path = own_path
        theirs.close()  # so that the pipe ends with the process

    def ask(self, question: str, *arguments: object) -> Any:
        """Ask for something and wait for the answer."""
        try:
            self._pipe.send((question, *arguments))
            if self._pipe.poll(TIMEOUT):
                return self._pipe.recv()
        except (EOFError, OSError):
            raise RuntimeError(f"{self.label} has ended, asked for {question!r}") from None
        raise TimeoutError(f"{self.label}: no {question!r} within {TIMEOUT:g} seconds")

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


def _run(
    core: int | None, target: Callable[..., None], pipe: Connection, *arguments: object
) -> None:
    # Ctrl-C reaches all processes of the terminal. The first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if core is not None:
        os.sched_setaffinity(0, {core})
    gc.collect()
    gc.freeze()  # what is imported is not to be looked at again and again
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


def save_certificates(folder: Path) -> None:
    """Make what :func:`make_context` loads."""
    import trustme  # only one process needs it

    ca = trustme.CA(key_type=trustme.KeyType.ECDSA)
    ca.cert_pem.write_to_path(str(folder / "ca.pem"))
    cert = ca.issue_cert(HOST, key_type=trustme.KeyType.ECDSA)
    cert.private_key_and_cert_chain_pem.write_to_path(str(folder / "server.pem"))


def make_context(folder: Path, version: ssl.TLSVersion, *, server_side: bool) -> ssl.SSLContext:
    """Return the settings of one side."""
    if server_side:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(folder / "server.pem")
    else:
        context = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    context.minimum_version = context.maximum_version = version
    return context


def progress(label: str, total: int) -> Iterator[int]:
    """Count to ``total``, and tell on stderr how far it is.

    That is a counter on a terminal, else a line at the end.
    """
    begin = time.monotonic()
    is_terminal = sys.stderr.isatty()
    for done in range(total):
        if is_terminal:
            print(f"\r\x1b[K{label}: {done} of {total}", end="", file=sys.stderr, flush=True)
        yield done
    done_line = f"{label}: {total} in {time.monotonic() - begin:.1f} s\n"
    print("\r\x1b[K" if is_terminal else done_line, end="", file=sys.stderr, flush=True)


def end_tidily() -> None:
    """Let SIGTERM and Ctrl-C end the program with all that it has started."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, _: sys.exit(128 + number))
