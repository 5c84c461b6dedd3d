"""docs/cli.rst shows what the commands do."""

from __future__ import annotations

import json
import re
import ssl
import sys
import textwrap
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

from tests.commands import TIMEOUT, document, run, run_here
from tests.helpers import DOCS, server_context_for
from trio_tlsbio import TLSStream
from trio_tlsbio.cli._status import MEANINGS

from .peers import Chain, echo, tls_server

PAGE = DOCS / "cli.rst"


def keys_of(value: object, path: str = "") -> set[str]:
    """Return the paths to all keys of a JSON document."""
    if isinstance(value, dict):
        return set().union(*(keys_of(item, f"{path}.{key}") for key, item in value.items()))
    if isinstance(value, list) and value:
        return set().union(*(keys_of(item, path + "[]") for item in value))
    return {path.removesuffix("[]")}


async def test_page_shows_the_json_as_it_is(
    server: Chain, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run = partial(run_here, capfdbinary)
    page = PAGE.read_text(encoding="utf-8")
    whole, error = map(
        json.loads, re.findall(r"^\.\. code-block:: json\n\n((?:    .*\n|\n)+)", page, re.MULTILINE)
    )
    async with tls_server(echo, server_context_for(server.cert)) as port:
        connect = ("connect", f"localhost:{port}", "--cafile", server.ca, "--json", "--timeline")
        value = document(await run(*connect))
        several = document(await run(*connect, "--reconnect", "2"))
        failed = document(await run(*connect, "--servername", "other.example"))
    assert keys_of(value) == keys_of(whole)
    assert failed["error"].keys() == error.keys()
    assert failed["error"]["hint"] == error["hint"]
    for key in several["summary"]:
        assert f"`{key}`" in page


def alike(text: str) -> list[str]:
    """Leave out what is another one each time: times, ports, sizes, and the group."""
    text = re.sub(r"(key exchange: +).*", r"\1...", text)
    return [re.sub(r"\s*\d[\d.,]*", " 0", line) for line in text.splitlines()]


def without_hash(text: str) -> str:
    return re.sub("[0-9a-f]{64}", "...", text)


async def test_page_shows_the_output_as_it_is(
    tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    run = partial(run_here, capfdbinary)
    page = PAGE.read_text(encoding="utf-8")
    shown, refusal, timeline = (
        textwrap.dedent(text)
        for text in re.findall(
            r"^\.\. code-block:: (?:console|text)\n\n((?:    .*\n|\n)+)", page, re.MULTILINE
        )
    )
    ca = trustme.CA(organization_name="Example Trust", organization_unit_name="Root")
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    cert = ca.issue_cert(
        *("localhost", "www.example.org"),
        organization_name="Example",
        organization_unit_name="web",
        not_after=datetime.now(UTC) + timedelta(days=90),
    )

    async def answer(stream: TLSStream[trio.SocketStream]) -> None:
        line = await stream.receive_some()
        await stream.send_all(line.strip()[::-1] + b"\n")

    async with tls_server(answer, server_context_for(cert, ssl.TLSVersion.TLSv1_3)) as port:
        connect = f"connect localhost:{port} --cafile {tmp_path / 'ca.pem'}".split()
        result = await run(*connect, "--timeline", stdin=b"hello\n")
    cert = ca.issue_cert(
        *("localhost", "www.example.org"),
        organization_name="Example",
        organization_unit_name="web",
        not_after=datetime.now(UTC) - timedelta(days=2.5),
    )
    async with tls_server(answer, server_context_for(cert)) as port:
        connect = f"connect localhost:{port} --cafile {tmp_path / 'ca.pem'}".split()
        refused = await run(*connect)
    # The page breaks the last line, which is long.
    lines, _, message = refusal.strip("\n").partition("trio-tlsbio: ")
    refusal = f"{lines}trio-tlsbio: {' '.join(message.split())}"
    assert alike(without_hash(refused.stderr)) == alike(without_hash(refusal))
    lines, _, output = (result.stderr).partition("sent:")
    facts, _, on_the_wire = lines.partition("timeline:")
    assert alike("timeline:" + on_the_wire) == alike(timeline.strip("\n"))
    command, *expected = shown.strip("\n").splitlines()
    assert command == "$ echo hello | trio-tlsbio connect localhost:4433 --cafile ca.pem"
    assert alike(facts + result.stdout.decode() + "sent:" + output) == alike("\n".join(expected))


async def test_page_has_every_option_and_exit_status() -> None:
    page = PAGE.read_text(encoding="utf-8")
    help_text = (await run("connect", "--help", env={"COLUMNS": "80"})).stdout.decode()
    for option in set(re.findall(r"--[a-z0-9-]+", help_text)):
        assert re.search(rf"`{option}\b", page), option
    table = re.findall(r"^(\d+) +(\S.*)$", page, re.MULTILINE)
    assert [(int(status), words) for status, words in table] == [
        (int(status), words) for status, words in MEANINGS.items()
    ]


async def test_screenshots(tmp_path: Path) -> None:
    pytest.importorskip("pty", reason="this system has no pseudo-terminals")
    pytest.importorskip("rich", reason="rich is not installed")
    with trio.fail_after(3 * TIMEOUT):
        await trio.run_process(
            [sys.executable, str(PAGE.parent / "screenshots.py"), str(tmp_path)],
            capture_stdout=True,
        )
    words = {
        "connect": ["(ClientHello)", "▶", "close_notify"],
        "reconnect": ["4 resumed"],
        "demo": ["All went well."],
    }
    for name, expected in words.items():
        svg = (tmp_path / f"{name}.svg").read_text(encoding="utf-8")
        text = re.sub("<[^>]*>", "", svg).replace("&#160;", " ")
        assert all(item in text for item in expected), name
        assert "url(http" not in svg  # a picture loads nothing
        assert (PAGE.parent / "images" / f"{name}.svg").exists()
        assert f"images/{name}.svg" in PAGE.read_text(encoding="utf-8")
