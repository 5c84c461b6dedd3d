"""The commands as a user runs them, and the servers that they talk to."""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from typing import Any

import attrs
import pytest
import trio
import trio.testing
import trustme

from tests.peers import running
from trio_tlsbio import TLSStream
from trio_tlsbio.cli import main

# Development mode shows what would be left open, and a warning is an error there too.
COMMAND = [sys.executable, "-X", "dev", "-W", "error", "-m", "trio_tlsbio"]
TIMEOUT = 40.0

Stream = TLSStream[trio.SocketStream]


@attrs.frozen
class Result:
    """How a command ended."""

    status: int
    stdout: bytes
    stderr: str

    def fact(self, label: str) -> str:
        """Return the value of the one ``label: value`` line on stderr."""
        return _one_fact(self.stderr, label)


def facts(text: str, label: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line.partition(":")[2].strip() for line in lines if line.startswith(label + ":")]


def _one_fact(text: str, label: str) -> str:
    (value,) = facts(text, label)
    return value


async def run(*args: str, stdin: bytes | int = b"", env: dict[str, str] | None = None) -> Result:
    """Run the command to its end. ``stdin`` is what it reads, or the descriptor to read from."""
    with trio.fail_after(TIMEOUT):
        done = await trio.run_process(
            [*COMMAND, *args],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={**os.environ, **(env or {})},
        )
    return _checked(Result(done.returncode, done.stdout, done.stderr.decode()))


async def run_here(capture: pytest.CaptureFixture[bytes], *args: str, stdin: bytes = b"") -> Result:
    """Run the command to its end in this process, which is faster. Takes ``capfdbinary``."""
    with trio.fail_after(TIMEOUT), ExitStack() as stack:
        file = stack.enter_context(tempfile.TemporaryFile())
        file.write(stdin)
        file.seek(0)
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(sys, "stdin", file)
        status = await trio.to_thread.run_sync(main, args, abandon_on_cancel=True)
    out, err = capture.readouterr()
    return _checked(Result(status, out, err.decode()))


def _checked(result: Result) -> Result:
    assert "Traceback" not in result.stderr, result.stderr
    assert "Warning" not in result.stderr, result.stderr
    return result


def refused(result: Result, status: int) -> str:
    """Check that a command failed as told, with nothing on stdout, and return its message."""
    assert result.status == status, result.stderr
    assert result.stdout == b""
    (message,) = (
        line.removeprefix("trio-tlsbio: ")
        for line in result.stderr.splitlines()
        if line.startswith("trio-tlsbio: ")
    )
    return message


################################################################
# Files
################################################################


@attrs.frozen
class Files:
    """Certificates as files, for programs."""

    ca: str
    server: str
    client: str


@pytest.fixture(scope="session")
def files(
    ca: trustme.CA, server_cert: trustme.LeafCert, tmp_path_factory: pytest.TempPathFactory
) -> Files:
    """The tests' certificates."""
    folder = tmp_path_factory.mktemp("certificates")
    ca.cert_pem.write_to_path(folder / "ca.pem")
    server_cert.private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    client_cert = ca.issue_cert("client@client.example")
    client_cert.private_key_and_cert_chain_pem.write_to_path(folder / "client.pem")
    return Files(*(str(folder / name) for name in ("ca.pem", "server.pem", "client.pem")))


################################################################
# The server's process
################################################################


@attrs.define(eq=False)
class Server:
    """A server that runs, and what it has said so far."""

    process: trio.Process
    said: str = ""

    async def until(self, text: str) -> None:
        """Wait until it has said something, and finished the line."""
        assert self.process.stderr is not None
        while text not in self.said or not self.said.endswith("\n"):
            more = await self.process.stderr.receive_some()
            assert more, self.said
            self.said += more.decode()

    def fact(self, label: str) -> str:
        """Return the value of the one ``label: value`` line."""
        return Result(0, b"", self.said).fact(label)

    @property
    def port(self) -> int:
        return int(self.fact("listening").rpartition(" ")[2])

    async def end(self, signal_number: int | None = signal.SIGTERM) -> Result:
        """Send a signal, and wait for the end. What it has said includes the statistics then."""
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        if signal_number is not None:
            self.process.send_signal(signal_number)
        self.said += b"".join([data async for data in self.process.stderr]).decode()
        stdout = b"".join([data async for data in self.process.stdout])
        status = await self.process.wait()
        assert stdout == b""
        return _checked(Result(status, stdout, self.said))


@asynccontextmanager
async def serve(*args: object, host: str = "127.0.0.1") -> AsyncIterator[Server]:
    """Run the command, on a port of the kernel's choice."""
    command = [*COMMAND, "serve", "--port", "0", "--host", host, *args]
    with trio.fail_after(TIMEOUT):
        async with running(*command, stdin=-3, stdout=-1, stderr=-1) as process:
            server = Server(process)
            await server.until("listening:")
            yield server


def document(result: Result) -> dict[str, Any]:
    """Return the one JSON document on stdout, which tells the exit status too."""
    value: dict[str, Any] = json.loads(result.stdout)
    assert value["format"] == 1
    assert value["exit_status"] == result.status
    assert set(value) == {"format", "exit_status", "target", "connections", "summary", "error"}
    return value
