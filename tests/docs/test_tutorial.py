"""The tutorial, from its first line to its last."""

from __future__ import annotations

import doctest
import itertools
import re
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.docblocks import BLOCKS, rst_blocks
from tests.helpers import DOCS
from tests.programs import free_port

TUTORIAL = list(rst_blocks(DOCS / "tutorial.rst"))


def normal(text: str) -> str:
    """Replace what is different each time: ports, and delays."""
    text = re.sub(r"(127\.0\.0\.1|\[::1\]):\d+", "HOST:PORT", text)
    text = re.sub(r"localhost:\d+", "localhost:PORT", text)
    return re.sub(r"\d\.\d s\b", "N s", text)


def check_output(shown: str, real: str) -> None:
    checker = doctest.OutputChecker()
    shown, real = normal(shown), normal(real)
    assert checker.check_output(shown, real, doctest.ELLIPSIS), f"{real}\n--- is not ---\n{shown}"


def shown_for(command: str, number: int = 0) -> str:
    """Return the output that the tutorial shows for a command."""
    found = [
        block.text.partition("\n")[2]
        for block in TUTORIAL
        if block.text.startswith(f"$ {command}\n")
    ]
    return found[number]


class Program:
    """One of the tutorial's programs while it runs."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.output = ""

    async def read_until(self, pattern: str) -> None:
        """Read what it says until a pattern is there."""
        assert self.process.stdout is not None
        while not re.search(pattern, self.output):
            chunk = await self.process.stdout.receive_some()
            assert chunk, self.output
            self.output += chunk.decode()

    async def interrupt(self) -> None:
        """Press Ctrl-C, and read the rest."""
        assert self.process.stdout is not None
        self.process.send_signal(signal.SIGINT)
        async for chunk in self.process.stdout:
            self.output += chunk.decode()
        await self.process.wait()


@pytest.fixture
def tutorial(tmp_path: Path) -> Path:
    """The directory of the tutorial, on a port of its own."""
    port = free_port()
    directory = tmp_path / "hello-tls"
    directory.mkdir()
    (directory / "port").write_text(str(port))
    return directory


def save(directory: Path, name: str, number: int = 0) -> None:
    """Save a program as the tutorial says: the first, or a later one of that name."""
    programs = [block for block in TUTORIAL if block.source and f"`{name}`" in block.before]
    text = programs[number].text
    port = (directory / "port").read_text()
    assert text.count("4433") == 1
    # A reader waits for a second each time; here it has to be more than reconnect()'s delay.
    text = text.replace("4433", port).replace("trio.sleep(1)", "trio.sleep(0.3)")
    (directory / name).write_text(text, encoding="utf-8")


@asynccontextmanager
async def program(directory: Path, name: str) -> AsyncIterator[Program]:
    """Run a program, both of its outputs in one."""
    async with trio.open_nursery() as nursery:
        process = await nursery.start(
            partial(
                trio.run_process,
                [sys.executable, "-u", name],
                cwd=directory,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                check=False,
            )
        )
        yield Program(process)
        nursery.cancel_scope.cancel()


async def run(directory: Path, *args: str) -> str:
    """Run a program to its end, and return all that it says."""
    done = await trio.run_process(
        [sys.executable, *args],
        cwd=directory,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
        check=False,
    )
    return done.stdout.decode()


@pytest.mark.skipif(sys.platform == "win32", reason="this system has no SIGINT for processes")
async def test_tutorial(tutorial: Path) -> None:
    with trio.fail_after(90):
        check_output(shown_for("python -m trustme"), await run(tutorial, "-m", "trustme"))
        save(tutorial, "server.py")
        async with program(tutorial, "server.py") as server:
            await server.read_until("listening\n")
            check_output(shown_for("python server.py"), server.output)
            save(tutorial, "client.py")
            real = await run(tutorial, "client.py")
            # OpenSSL's own error, its cause, comes first in a traceback.
            _, _, real = real.rpartition("direct cause of the following exception:\n\n")
            check_output(shown_for("python client.py"), real)
            await server.read_until("unknown_ca\\)\n")
            (log,) = (block for block in TUTORIAL if block.text.startswith("connection from"))
            check_output("listening\n" + log.text, server.output)
            save(tutorial, "client.py", 1)
            check_output(shown_for("python client.py", 1), await run(tutorial, "client.py"))
            save(tutorial, "often.py")
            check_output(shown_for("python often.py"), await run(tutorial, "often.py"))

            save(tutorial, "forever.py")
            async with program(tutorial, "forever.py") as client:
                await client.read_until("(b'HELLO'\n){2}")
                await server.interrupt()
                await client.read_until("(trying again.*\n){2}")
                async with program(tutorial, "server.py") as server:
                    await server.read_until("listening\n")
                    await client.read_until("connected(.*\n)*connected.*\nb'HELLO'\n")
                    await client.interrupt()
                    await server.interrupt()
    # Ctrl-C prints this, as the page says.
    assert client.output.endswith("\nKeyboardInterrupt\n")
    assert "Exception Group Traceback" in server.output
    assert "| KeyboardInterrupt\n" in server.output
    # How often it says hello, and tries again, is a matter of time.
    real = client.output.partition("Traceback")[0].rpartition("\n")[0]
    assert without_repetitions(real) == without_repetitions(shown_for("python forever.py"))


def without_repetitions(text: str) -> list[str]:
    return [line for line, _ in itertools.groupby(normal(text).splitlines())]


async def test_the_programs_of_the_readme_run_as_they_stand(tmp_path: Path) -> None:
    port = free_port()
    programs = [
        block for block in BLOCKS if (block.page, block.language) == ("README.md", "python")
    ]
    for name, block in zip(["server.py", "client.py"], programs, strict=True):
        assert block.text.count("4433") == 1
        text = block.text.replace("4433", str(port))
        (tmp_path / name).write_text(text, encoding="utf-8")
    with trio.fail_after(30):
        await run(tmp_path, "-m", "trustme")
        async with program(tmp_path, "server.py"):
            await wait_open(port)
            assert await run(tmp_path, "client.py") == "b'hello\\n'\n"


async def wait_open(port: int) -> None:
    while True:
        try:
            stream = await trio.open_tcp_stream("localhost", port)
        except OSError:
            await trio.sleep(0.05)
        else:
            return await stream.aclose()
