"""The pages in a browser: none has to be scrolled sideways, on a desktop or on a phone."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest

from tests.helpers import DOCS

pytestmark = pytest.mark.needs("chromium")


@pytest.fixture
def screenshots(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script that drives Chromium."""
    pytest.importorskip("websockets", reason="websockets is not installed")
    monkeypatch.syspath_prepend(str(DOCS))
    return importlib.import_module("screenshots_of_pages")


@pytest.mark.timeout(600)
def test_no_page_is_wider_than_its_window(site: Path, screenshots: Any) -> None:
    found = screenshots.measures(site)
    pages = {page.stem for page in site.glob("*.html")}
    assert len(pages) > 30
    assert {(measure.page, measure.client_width) for measure in found} == {
        (page, width) for page in pages for width in (1280, 400)
    }
    assert screenshots.faults(found) == []


WIDE = """<!doctype html><meta name="viewport" content="width=device-width">
<article>{}</article>"""


def test_a_wide_page_would_be_found(tmp_path: Path, screenshots: Any) -> None:
    (tmp_path / "code.html").write_text(
        WIDE.format(f'<pre style="overflow: auto">{"x" * 500}</pre>'), encoding="utf-8"
    )
    (tmp_path / "picture.html").write_text(
        WIDE.format('<img alt="" style="width: 600px; height: 10px">'), encoding="utf-8"
    )
    first, second = screenshots.faults(screenshots.measures(tmp_path))
    assert first.startswith("picture at 400 px: 6")
    assert second.startswith("code at 1280 px: the code 'xxx")
