"""A short run of the load; the long one is run by ``python -m tests.slow.load``."""

from __future__ import annotations

import math
import sys
from pathlib import Path

import pytest
import trio

from .run import Load

pytestmark = pytest.mark.skipif(
    sys.platform != "linux", reason="memory and descriptors are measured as Linux tells them"
)


def test_certificates_are_renewed_and_sessions_age_under_load(tmp_path: Path) -> None:
    load = Load(tmp_path, 300, 20)
    trio.run(load.run, math.inf)
    counts = load.counts()
    assert counts["requests"] == 3 * 300
    assert counts["errors"] == 0
    assert counts["server.established"] == counts["server.accepted"] == 300
    assert 0 < counts["resumed"] == counts["server.resumed"]
    assert not [problem for problem in load.problems() if "descriptors" not in problem]
