"""Make the pictures of docs/cli.rst: the command line in a terminal, as it is.

Run ``python docs/screenshots.py [DIRECTORY]``, by default into docs/images. It needs the extras
``demo`` and ``rich``, and a system with pseudo-terminals; all happens on the loopback interface.
"""

from __future__ import annotations

import argparse
import io
import os
import pty
import re
import ssl
import subprocess
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import trio
import trustme
from rich.console import Console
from rich.terminal_theme import MONOKAI
from rich.text import Text

from trio_tlsbio import TLSStream, serve_tls_over_tcp

COLUMNS = 100
TIMEOUT = 60.0  # seconds, for each command


async def shown_by(*args: str, cwd: str) -> str:
    """Run the command line in a pseudo-terminal, and return what that shows."""
    ours, theirs = pty.openpty()
    shown = bytearray()

    def read() -> None:
        try:
            while data := os.read(ours, 65536):
                shown.extend(data)
        except OSError:  # nobody has the other side any more
            pass

    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
    environment |= {"TERM": "xterm-256color", "COLORTERM": "truecolor", "COLUMNS": str(COLUMNS)}
    with trio.fail_after(TIMEOUT):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.to_thread.run_sync, read)
            try:
                await trio.run_process(
                    [sys.executable, "-m", "trio_tlsbio", *args],
                    stdin=subprocess.DEVNULL,
                    stdout=theirs,
                    stderr=theirs,
                    env=environment,
                    cwd=cwd,
                )
            finally:
                os.close(theirs)
    os.close(ours)
    return shown.decode().replace("\r\n", "\n")


def picture(command: str, output: str) -> str:
    """Draw a terminal in which a command was run."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "green"), (command, "bold")))
    console.print(Text.from_ansi(output))
    svg = console.export_svg(title="trio-tlsbio", theme=MONOKAI)
    # It loads no fonts from the net: any monospaced one will do.
    return re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)


async def listen_only(stream: TLSStream[trio.SocketStream]) -> None:
    """Say nothing, and end when the client does."""
    async for _ in stream:
        pass


async def make_pictures(directory: Path) -> None:
    """Make all of them."""
    ca = trustme.CA(organization_name="Example Trust", organization_unit_name="Root")
    certificate = ca.create_child_ca().issue_cert(
        "localhost",
        "www.example.org",
        organization_name="Example",
        not_after=datetime.now(UTC) + timedelta(days=90),
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    certificate.configure_cert(context)
    with tempfile.TemporaryDirectory() as folder:
        ca.cert_pem.write_to_path(os.path.join(folder, "ca.pem"))  # noqa: PTH118
        async with trio.open_nursery() as nursery:
            serve = partial(serve_tls_over_tcp, listen_only, 0, context, host="127.0.0.1")
            (listener,) = await nursery.start(serve)
            port = listener.transport_listener.socket.getsockname()[1]
            connect = f"connect localhost:{port} --cafile ca.pem"
            for name, command in [
                ("connect", f"{connect} --timeline"),
                ("reconnect", f"{connect} --reconnect 5"),
                ("demo", "demo"),
            ]:
                output = await shown_by(*command.split(), cwd=folder)
                svg = picture(f"trio-tlsbio {command}", output)
                path = trio.Path(directory, f"{name}.svg")
                await path.write_text(svg, encoding="utf-8")
                print(path)
            nursery.cancel_scope.cancel()


def main() -> None:
    """Read the command line, and make the pictures."""
    parser = argparse.ArgumentParser(description="Make the pictures of docs/cli.rst.")
    parser.add_argument(
        "directory",
        nargs="?",
        type=Path,
        default=Path(__file__).parent / "images",
        help="where to put them (default: docs/images)",
    )
    trio.run(make_pictures, parser.parse_args().directory)


if __name__ == "__main__":
    main()
