"""Look at the built pages in Chromium: what is wider than its window, and screenshots.

Run ``python docs/screenshots_of_pages.py SITE [DIRECTORY]`` with what Sphinx has built as SITE. It
fails if a page has to be scrolled sideways, on a desktop or on a phone, or if code does on a
desktop. With DIRECTORY it makes screenshots of some pages there, light and dark. It needs Chromium
and, from the extra ``test``, websockets.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import attrs
from websockets.sync.client import ClientConnection, connect

DESKTOP, PHONE = 1280, 400  # CSS pixels
HEIGHT = 900
TIMEOUT = 30.0  # seconds, for each answer

SHOWN = ("index", "tutorial", "servers", "performance", "errors", "api")

OPTIONS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run"),
    *("--disable-background-networking", "--disable-extensions", "--remote-debugging-port=0"),
)

# Fonts change widths, so they have to be there first.
MEASURE = """
document.fonts.ready.then(() => {
    const root = document.documentElement;
    const wide = [...document.querySelectorAll("pre")].filter(
        (pre) => pre.scrollWidth > pre.clientWidth
    );
    const right = (element) => element.getBoundingClientRect().right;
    const outside = [...document.querySelectorAll("article *")].filter(
        (element) => right(element) > root.clientWidth + 0.5
            && !element.closest("pre, .table-wrapper")  // these scroll within themselves
    );
    return JSON.stringify({
        scroll_width: root.scrollWidth,
        client_width: root.clientWidth,
        wide_code: wide.map((pre) => pre.textContent.trim().split("\\n")[0]),
        outside: outside.slice(0, 3).map((element) => element.outerHTML.slice(0, 100)),
    });
})
"""


@attrs.frozen
class Measure:
    """How wide a page is in a window."""

    page: str
    width: int
    """The window's."""
    scroll_width: int
    client_width: int
    wide_code: list[str]
    """The first lines of the blocks of code that have to be scrolled."""
    outside: list[str]
    """What reaches beyond the window, for those who have to mend it."""


@attrs.define
class Browser:
    """A tab of Chromium, by the DevTools protocol."""

    websocket: ClientConnection
    _numbers: Iterator[int] = attrs.field(factory=lambda: itertools.count(1), init=False)

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        """Call a method, and return its result."""
        number = next(self._numbers)
        self.websocket.send(json.dumps({"id": number, "method": method, "params": params}))
        while (answer := self._receive()).get("id") != number:
            pass
        if "error" in answer:
            raise RuntimeError(f"{method}: {answer['error']}")
        result: dict[str, Any] = answer["result"]
        return result

    def _receive(self) -> dict[str, Any]:
        message: dict[str, Any] = json.loads(self.websocket.recv(TIMEOUT))
        return message

    def open(self, page: Path, width: int, scheme: str = "light") -> None:
        """Load a page into a window of a width."""
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=HEIGHT,
            deviceScaleFactor=1,
            mobile=False,
        )
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", features=features)
        self.call("Page.navigate", url=page.resolve().as_uri())
        while self._receive().get("method") != "Page.loadEventFired":
            pass

    def measure(self, page: Path, width: int) -> Measure:
        """Measure a page."""
        self.open(page, width)
        answer = self.call(
            "Runtime.evaluate", expression=MEASURE, awaitPromise=True, returnByValue=True
        )
        return Measure(page.stem, width, **json.loads(answer["result"]["value"]))

    def screenshot(self, page: Path, width: int, scheme: str) -> bytes:
        """Return a PNG of the upper part of a page."""
        self.open(page, width, scheme)
        height = 3 * HEIGHT
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )
        answer = self.call("Page.captureScreenshot", format="png")
        return base64.b64decode(answer["data"])


@contextmanager
def browser(program: str = "chromium") -> Iterator[Browser]:
    """Run Chromium, and yield a tab of it."""
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as data:
        command = [program, *OPTIONS, f"--user-data-dir={data}", "about:blank"]
        with subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                # The file has the port, and the path of the browser, not of a tab.
                port, path = _wait_for(Path(data) / "DevToolsActivePort", process).split("\n")
                with connect(f"ws://127.0.0.1:{port}{path}", max_size=None) as websocket:
                    targets = Browser(websocket).call("Target.getTargets")["targetInfos"]
                (tab,) = (target for target in targets if target["type"] == "page")
                address = f"ws://127.0.0.1:{port}/devtools/page/{tab['targetId']}"
                with connect(address, max_size=None) as websocket:
                    result = Browser(websocket)
                    result.call("Page.enable")
                    yield result
            finally:
                process.terminate()


def _wait_for(path: Path, process: subprocess.Popen[bytes]) -> str:
    """Return what Chromium writes into a file when it is ready."""
    deadline = time.monotonic() + TIMEOUT
    while time.monotonic() < deadline and process.poll() is None:
        if path.exists() and "\n" in (text := path.read_text(encoding="utf-8")):
            return text
        time.sleep(0.05)
    raise RuntimeError("Chromium does not start")


def measures(site: Path, program: str = "chromium") -> list[Measure]:
    """Measure all pages of a site in both widths."""
    with browser(program) as tab:
        return [
            tab.measure(page, width)
            for page in sorted(site.glob("*.html"))
            for width in (DESKTOP, PHONE)
        ]


def faults(found: list[Measure]) -> list[str]:
    """Return what has to be scrolled sideways, and should not."""
    wide = [
        f"{measure.page} at {measure.width} px: {measure.scroll_width} > {measure.client_width}, "
        f"for {measure.outside}"
        for measure in found
        if measure.scroll_width > measure.client_width or measure.outside
    ]
    code = [
        f"{measure.page} at {measure.width} px: the code {line!r}"
        for measure in found
        if measure.width == DESKTOP
        for line in measure.wide_code
    ]
    return wide + code


def main() -> None:
    """Read the command line, measure, and make screenshots."""
    parser = argparse.ArgumentParser(description="Look at the built pages in Chromium.")
    parser.add_argument("site", type=Path, help="the directory that Sphinx has built")
    parser.add_argument("directory", nargs="?", type=Path, help="where to put screenshots")
    parser.add_argument("--program", default="chromium", help="(default: chromium)")
    options = parser.parse_args()
    found = measures(options.site, options.program)
    print(f"{len(found)} measures of {len({measure.page for measure in found})} pages")
    if options.directory is not None:
        options.directory.mkdir(parents=True, exist_ok=True)
        with browser(options.program) as tab:
            for name, width, scheme in itertools.product(
                SHOWN, (DESKTOP, PHONE), ("light", "dark")
            ):
                picture = tab.screenshot(options.site / f"{name}.html", width, scheme)
                (options.directory / f"{name}-{width}-{scheme}.png").write_bytes(picture)
    sys.exit("\n".join(faults(found)) or None)


if __name__ == "__main__":
    main()
