"""``demo`` as a user runs it."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import trio

from tests.commands import COMMAND, TIMEOUT, facts, run


async def test_demo_tells_its_story() -> None:
    result = await run("demo")
    assert result.status == 0
    assert result.stderr == ""
    text = result.stdout.decode()
    assert facts(text, "version") == ["TLSv1.3", "TLSv1.3"]
    assert all(cipher.startswith("TLS_") for cipher in facts(text, "cipher"))
    assert facts(text, "ALPN") == ["demo", "demo"]
    assert facts(text, "session") == ["new", "resumed"]
    assert facts(text, "certificate") == ["O=trio-tlsbio demo, OU=server"] * 2
    assert facts(text, "issued by") == ["O=trio-tlsbio demo, OU=throw-away CA"] * 2
    assert all(valid.endswith(" UTC, 6 days left") for valid in facts(text, "valid"))
    assert facts(text, "name matched") == ["*.demo.example, for www.demo.example"] * 2
    assert facts(text, "sent") == ["262,158 bytes, then our close_notify"] * 2
    assert facts(text, "received") == ["262,158 bytes, then the server's close_notify"] * 2
    steps = [line for line in text.splitlines() if " ms  " in line]
    assert len(steps) == 14
    assert text.isascii()


async def test_demo_without_trustme(tmp_path: Path) -> None:
    (tmp_path / "trustme.py").write_text("raise ImportError('not here')\n")
    result = await run("demo", env={"PYTHONPATH": str(tmp_path)})
    assert result.status == 7
    assert "pip install '.[demo]'" in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
async def test_demo_to_a_full_disk() -> None:
    with trio.fail_after(TIMEOUT):
        done = await trio.run_process(
            ["/bin/sh", "-c", 'exec "$@" >/dev/full', "sh", *COMMAND, "demo"],
            capture_stderr=True,
            check=False,
        )
    assert done.returncode == 8
    assert done.stderr.decode() == f"trio-tlsbio: [Errno 28] {os.strerror(errno.ENOSPC)}\n"
